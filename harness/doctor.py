"""`lengthwise doctor`: what this machine offers, what runs for each operation and why, and whether it is right."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import import_module, metadata

import torch

from harness.exposure import exposure
from harness.finding import Finding
from models.kernels import choose
from models.kernels.samples import SAMPLES, differences

OPTIONAL = {
    "triton": ("triton", "triton:jit"),
    "mamba-ssm": ("mamba-ssm", "mamba_ssm.ops.selective_scan_interface:selective_scan_fn"),
    "flash-attn 2": ("flash-attn", "flash_attn:flash_attn_func"),
    "flash-attn 4": ("flash-attn-4", "flash_attn.cute:flash_attn_func"),
    "fla-core": ("fla-core", "fla.ops.gated_delta_rule:chunk_gated_delta_rule"),
}
"""What may be installed -> its distribution, and the symbol that has to be there: names of packages overlap."""

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2}
"""Largest difference from the float32 reference, relative to the largest number of the tensor. Products of float32 may
take the tensor cores' shorter factors; bf16 has eight bits."""


def examine(everything: bool = False) -> Iterator[Finding]:
    """Look at this machine, line by line; `everything`: also at implementations that work and were not chosen, of which
    some try out many variants of themselves first, for minutes."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    yield Finding("device", f"{name} ({device.type}), torch {torch.__version__}, Python {platform.python_version()}")
    for package, (distribution, symbol) in OPTIONAL.items():
        yield Finding(package, _availability(distribution, symbol))
    yield from exposure()
    for operation in choose.REFERENCES:
        chosen = choose.choice(operation, device.type)
        yield Finding(operation, f"{chosen.name}: {chosen.why}")
        if operation in SAMPLES:
            yield from _compared(operation, device, None if everything else chosen.name)


def _availability(distribution: str, symbol: str) -> str:
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
    module, name = symbol.split(":")
    try:
        getattr(import_module(module), name)
    except Exception as error:  # a package that does not fit this machine may fail in any way at all
        return f"{version}, but {symbol} cannot be had: {type(error).__name__}: {error}".splitlines()[0]
    return f"{version}, has {symbol}"


def _compared(operation: str, device: torch.device, only: str | None) -> Iterator[Finding]:
    """Every implementation for this device that works, or only one of them, against the reference."""
    reference = choose.load(choose.REFERENCES[operation])
    for candidate in choose.CANDIDATES.get(operation, ()):
        if candidate.device != device.type or only not in (None, candidate.name):
            continue
        if choose.works(candidate) is not None:
            continue
        function = choose.load(candidate.path)
        for dtype, allowed in TOLERANCE.items():
            worst, where = 0.0, ""
            try:
                for about, difference in differences(function, reference, operation, device, dtype):
                    if not difference <= worst:
                        worst, where = difference, about
            except Exception as error:
                yield Finding(f"  {candidate.name}", f"{dtype}: {type(error).__name__}: {str(error)[:200]}", wrong=True)
                continue
            verdict = f"{str(dtype)[6:]}: within {worst:.1e} of the reference ({where}), allowed {allowed:.0e}"
            yield Finding(f"  {candidate.name}", verdict, wrong=not worst <= allowed)

"""How the benchmarks measure: warm-up apart, the median of repeats, against peaks measured in the same minutes."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Timing:
    """Seconds of the repeated runs; `warm_up` is the first one, compilation and all."""

    runs: tuple[float, ...]
    warm_up: float

    @property
    def seconds(self) -> float:
        return statistics.median(self.runs)


@dataclass(frozen=True)
class Peaks:
    """What this machine reaches at best: a large bf16 matrix product, and a large copy (read and write counted)."""

    flops: float
    bytes: float


def timed(run: Callable[[], Any], device: torch.device, repeats: int = 5, warm_ups: int = 1) -> Timing:
    """Time `run` on the device: by CUDA events on a GPU, with the device idle before and after."""
    began = time.perf_counter()
    for _ in range(warm_ups):
        run()
        synchronise(device)
    warm_up = (time.perf_counter() - began) / max(1, warm_ups)
    return Timing(tuple(_once(run, device) for _ in range(repeats)), warm_up)


def _once(run: Callable[[], Any], device: torch.device) -> float:
    if device.type != "cuda":
        began = time.perf_counter()
        run()
        return time.perf_counter() - began
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    synchronise(device)
    start.record()
    run()
    stop.record()
    synchronise(device)
    return float(start.elapsed_time(stop)) / 1000


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peaks(device: torch.device) -> Peaks:
    """Measured, not from a data sheet."""
    side, count = (8192, 1 << 30) if device.type == "cuda" else (512, 1 << 24)
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.zeros(count, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    product = timed(lambda: a @ b, device, repeats=7, warm_ups=3)
    copy = timed(lambda: target.copy_(source), device, repeats=7, warm_ups=3)
    return Peaks(2 * side**3 / product.seconds, 2 * count / copy.seconds)


def peak_memory(run: Callable[[], Any], device: torch.device) -> tuple[int | None, int | None]:
    """Most bytes allocated while `run` runs, and by how much that exceeds what was allocated before; None on a CPU."""
    if device.type != "cuda":
        run()
        return None, None
    synchronise(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    synchronise(device)
    most = torch.cuda.max_memory_allocated(device)
    return most, most - before


def least_traffic(model: torch.nn.Module, itemsize: int) -> float:
    """Bytes a token's linear maps read and write, in and out once each: what a forward must move at least."""
    return itemsize * sum(
        float(part.in_features + part.out_features) for part in model.modules() if isinstance(part, torch.nn.Linear)
    )


def machine(device: torch.device) -> dict[str, Any]:
    """Where a figure was measured, and with what."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {platform.machine()}"
    packages = {name: _version(name) for name in ("torch", "triton", "mamba-ssm", "flash-attn", "fla-core")}
    return {
        "device": name,
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        **{name: version for name, version in packages.items() if version},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    """Print a table whose first column is left aligned."""
    cells = [list(head), *[[_shown(value) for value in line] for line in lines]]
    widths = [max(len(line[at]) for line in cells) for at in range(len(head))]
    for line in cells:
        print("  ".join([line[0].ljust(widths[0]), *[v.rjust(w) for v, w in zip(line[1:], widths[1:], strict=True)]]))


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return (
        f"{value:,.4g}"
        if isinstance(value, float) and abs(value) < 1000
        else (f"{value:,.0f}" if isinstance(value, int | float) else str(value))
    )


def finish(result: dict[str, Any]) -> None:
    """The last line of stdout."""
    print(json.dumps(result, default=_plain), flush=True)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else vars(value)

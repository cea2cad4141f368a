"""`lengthwise bench forward`: the parallel forward alone, decisions included, at several shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from harness.bench.timing import Peaks, least_traffic, machine, peak_memory, peaks, table, timed
from harness.bench.vendor import vendor_forward, vendor_model
from harness.decide import autocast
from harness.errors import UserError
from harness.memory import evaluation_bytes
from harness.train import default_device
from models.build import build

VOCABULARY = 24
"""As addition's with its pointer memory, about."""


def bench_forward(
    architectures: Sequence[str], size: str, shapes: Sequence[str], precision: str, repeats: int
) -> dict[str, Any]:
    """Tokens per second of every architecture at every shape."""
    device = default_device()
    best = peaks(device)
    results = []
    for architecture in architectures:
        try:
            model: Any = build(architecture, size, VOCABULARY, seed=0).to(device).eval()
        except ValueError as error:
            raise UserError(str(error)) from error
        vendor = vendor_model(architecture, model.options, VOCABULARY, device)
        for rows, width in map(_shape, shapes):
            tokens = torch.randint(VOCABULARY, (rows, width), device=device)
            runs = {"ours": forward_of(model, tokens, precision)}
            if vendor is not None:
                runs["mamba-ssm"] = vendor_forward(vendor, tokens)
            for who, run in runs.items():
                results.append(_measured(architecture, model, who, run, tokens, precision, repeats, best))
                print(results[-1], flush=True)
        del model, vendor
    _show(results, best)
    return {"bench": "forward", "machine": machine(device), "peaks": best, "precision": precision, "results": results}


def forward_of(model: Any, tokens: Tensor, precision: str) -> Callable[[], Any]:
    """A forward from the initial state to decisions, the new state included."""

    @torch.inference_mode()
    def run() -> Any:
        with autocast(tokens.device, precision):
            features, state = model.append(tokens, model.initial_state(len(tokens)))
            return model.decide(features), state

    return run


def _measured(
    architecture: str,
    model: Any,
    who: str,
    run: Callable[[], Any],
    tokens: Tensor,
    precision: str,
    repeats: int,
    best: Peaks,
) -> dict[str, Any]:
    result: dict[str, Any] = {"architecture": architecture, "shape": "x".join(map(str, tokens.shape)), "by": who}
    try:
        with torch.inference_mode():
            timing = timed(run, tokens.device, repeats)
            most, extra = peak_memory(run, tokens.device)
    except Exception as error:  # a baseline that cannot do a shape must not lose the other results
        return {**result, "error": f"{type(error).__name__}: {str(error)[:200]}"}
    rate = tokens.numel() / timing.seconds
    flops = rate * model.cost(tokens.shape[1] // 2).flops
    traffic = rate * least_traffic(model, 2 if precision == "bf16" else 4)
    return {
        **result,
        "seconds": timing.seconds,
        "warm_up_seconds": timing.warm_up,
        "tokens_per_second": rate,
        "tflops": flops / 1e12,
        "share_of_peak_flops": flops / best.flops,
        "least_tbytes_per_second": traffic / 1e12,
        "share_of_peak_bytes": traffic / best.bytes,
        "peak_bytes": most,
        "peak_bytes_by_formula": evaluation_bytes(model, len(tokens), tokens.numel(), tokens.shape[1], precision),
        "peak_bytes_above_weights": extra,
        "kernels": model.kernels() if who == "ours" else None,
    }


def _show(results: Sequence[dict[str, Any]], best: Peaks) -> None:
    print(f"peaks: {best.flops / 1e12:.0f} TFLOP/s bf16 matrix product, {best.bytes / 1e12:.2f} TB/s copy")
    head = (
        "architecture",
        "shape",
        "by",
        "ms",
        "tok/s",
        "TFLOP/s",
        "of peak",
        "TB/s at least",
        "GB at most",
        "by formula",
    )
    lines = [
        (r["architecture"], r["shape"], r["by"], r["error"], *[None] * 6)
        if "error" in r
        else (
            *(r["architecture"], r["shape"], r["by"], 1000 * r["seconds"], r["tokens_per_second"], r["tflops"]),
            *(f"{r['share_of_peak_flops']:.0%}", r["least_tbytes_per_second"]),
            None if r["peak_bytes"] is None else r["peak_bytes"] / 1e9,
            r["peak_bytes_by_formula"] / 1e9,
        )
        for r in results
    ]
    table(head, lines)


def _shape(text: str) -> tuple[int, int]:
    try:
        rows, width = (int(number) for number in text.split("x"))
    except ValueError:
        raise UserError(f"--shapes {text!r}: give rows x tokens, as in 8x32768") from None
    return rows, width

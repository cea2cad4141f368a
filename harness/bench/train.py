"""`lengthwise bench train`: our training and the plain loop, the same problems, one after the other on this device."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import torch

from harness.bench.baseline import baseline, plain_step
from harness.bench.timing import Peaks, machine, peaks, synchronise, table
from harness.config import Cell
from harness.step import stepper
from harness.stream import steps as stream_of
from harness.train import (
    Progress,
    default_device,
    make_optimiser,
    new_model,
    next_batch,
    prepared,
    scenario_of,
    source_of,
)

NEEDED = {"mamba1": 2.5, "mamba2": 2.0, "transformer": 1.3, "sliding": 1.3, "lstm": 1.3, "gru": 1.3}
"""Ratio of real tokens per second, ours to the plain loop's, below which our training has missed its aim."""
WARM_UP = 64
"""Steps of ours before the clock runs: kernels compile, and each frequent shape gets its graph."""


def bench_train(
    architectures: Sequence[str],
    size: str,
    task: str,
    max_length: int,
    batch: int,
    steps: int,
    repeats: int,
    precision: str,
    workers: int | None,
    warm_up: int = WARM_UP,
) -> dict[str, Any]:
    """Both loops over the problems of the same `repeats` x `steps` steps of the training stream."""
    device = default_device()
    peak = peaks(device)
    results: dict[str, Any] = {}
    for architecture in architectures:
        recipe = {"max_length": max_length, "batch": batch}
        named = {"task": task, "architecture": architecture, "size": size, "precision": precision}
        cell = Cell.model_validate({**named, "train": recipe})
        windows = [warm_up + steps * number for number in range(repeats)]
        try:
            plain = _plain(cell, windows, steps, device)
        except (ImportError, ValueError) as error:  # a package that is not installed, or no baseline known
            plain = {"missing": f"{type(error).__name__}: {error}".splitlines()[0]}
        ours = _ours(cell, windows, steps, device, workers, peak)
        ratio = ours["real_per_second"] / plain["real_per_second"] if "real_per_second" in plain else None
        results[architecture] = {"ours": ours, "plain": plain, "ratio": ratio, "needed": NEEDED.get(architecture)}
        _print(architecture, results[architecture])
    print()
    _table(results)
    print(f"\npeaks here: {peak.flops / 1e12:.0f} TFLOP/s (bf16 matrix product), {peak.bytes / 1e12:.2f} TB/s (copy)")
    return {"bench": "train", "machine": machine(device), "peaks": vars(peak), "results": results}


def _plain(cell: Cell, windows: Sequence[int], steps: int, device: torch.device) -> dict[str, Any]:
    _free(device)
    torch.manual_seed(0)
    model = baseline(cell.architecture, cell.size, len(scenario_of(cell).vocabulary)).to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    with closing(stream_of(source_of(cell), windows[0])) as stream:
        first = list(islice(stream_of(source_of(cell)), 3))
        began = time.perf_counter()
        for rows in first:
            plain_step(model, optimiser, rows, device, cell.precision)
        synchronise(device)
        warm_up = time.perf_counter() - began
        seconds, real, processed, data = [], 0, 0, 0.0
        for _ in windows:
            synchronise(device)
            began = time.perf_counter()
            for _ in range(steps):
                asked = time.perf_counter()
                rows = next(stream)
                data += time.perf_counter() - asked
                plain_step(model, optimiser, rows, device, cell.precision)
                real += sum(map(len, rows))
                processed += len(rows) * (max(map(len, rows)) - 1)
            synchronise(device)
            seconds.append(time.perf_counter() - began)
    count = steps * len(windows)
    figures = _figures(seconds, steps, real / count, processed / count, warm_up, device)
    return {**figures, "encode_ms": 1000 * data / count, "parameters": sum(p.numel() for p in model.parameters())}


def _ours(
    cell: Cell, windows: Sequence[int], steps: int, device: torch.device, workers: int | None, peak: Peaks
) -> dict[str, Any]:
    _free(device)
    torch.manual_seed(0)
    model = new_model(cell, scenario_of(cell)).train()
    taken = stepper(model, make_optimiser(model, cell.train), cell)
    progress = Progress()
    seconds, real, processed = [], 0, 0
    with closing(prepared(cell, taken, 0, workers)) as batches:
        began = time.perf_counter()
        for _ in range(windows[0]):
            taken.step(next(batches), 1e-4)
        taken.check()
        warm_up = time.perf_counter() - began
        for _ in windows:
            began = time.perf_counter()
            for _ in range(steps):
                batch = next_batch(batches, taken, progress)
                taken.step(batch, 1e-4)
                progress.step += 1
                real += batch.real
                processed += batch.real + batch.padding
            taken.check()
            seconds.append(time.perf_counter() - began)
    count = steps * len(windows)
    figures = _figures(seconds, steps, real / count, processed / count, warm_up, device)
    flops = 3 * model.cost(real // count // cell.train.batch // 2).flops * figures["real_per_second"]
    graphs = len(getattr(taken, "graphs", ()))
    taken.close()
    return {
        **figures,
        "waited": progress.waited / sum(seconds),
        "flops_per_second": flops,
        "of_peak": flops / peak.flops,
        "graphs": graphs,
        "kernels": model.kernels(),
        "parameters": model.parameter_count(),
    }


def _figures(
    seconds: Sequence[float], steps: int, real: float, processed: float, warm_up: float, device: torch.device
) -> dict[str, Any]:
    """real, processed: tokens of a step. seconds: of each window of `steps` steps, of which the median counts."""
    each = statistics.median(seconds) / steps
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {
        "ms_per_step": 1000 * each,
        "windows_ms": [1000 * window / steps for window in seconds],
        "real_per_second": real / each,
        "processed_per_second": processed / each,
        "real_share": real / processed,
        "warm_up_seconds": warm_up,
        "peak_bytes": memory,
    }


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _print(architecture: str, result: dict[str, Any]) -> None:
    plain, ratio = result["plain"], result["ratio"]
    said = f"{ratio:.2f} times the plain loop" if ratio else f"no baseline ({plain.get('missing')})"
    print(f"{architecture}: {result['ours']['real_per_second']:,.0f} real tokens/s, {said}", flush=True)


def _table(results: dict[str, Any]) -> None:
    lines = []
    for name, result in results.items():
        ours, plain = result["ours"], result["plain"]
        lines.append(
            [
                name,
                ours["ms_per_step"],
                ours["real_per_second"] / 1000,
                ours["processed_per_second"] / 1000,
                f"{ours['real_share']:.1%}",
                f"{ours['waited']:.1%}",
                ours["flops_per_second"] / 1e12,
                f"{ours['of_peak']:.1%}",
                plain.get("ms_per_step"),
                plain.get("encode_ms"),
                plain.get("real_per_second", 0) / 1000 or None,
                plain.get("processed_per_second", 0) / 1000 or None,
                result["ratio"],
                result["needed"],
            ]
        )
    head = ["", "ms/step", "real k/s", "processed k/s", "real", "waited", "TFLOP/s", "of peak"]
    table([*head, "plain ms/step", "of it data", "real k/s", "processed k/s", "ratio", "needed"], lines)

"""`lengthwise bench pack`: small cells trained one after another on a GPU, and several at a time, each in a process.

Processes that share a GPU take turns on it, unless they share it through NVIDIA's Multi-Process Service (MPS), which
runs their kernels side by side; where its daemon can be started, it is one of the ways that are measured.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from harness.bench.timing import machine, table
from harness.config import Cell, Train
from harness.errors import UserError
from harness.memory import take_gpu
from harness.mps import exported, service
from harness.train import DATA_WORKERS, default_device, train


def bench_pack(architectures: Sequence[str], size: str, cells: int, steps: int, batch: int) -> dict[str, Any]:
    """Cells per hour of every way, and its gain over one cell after another."""
    results: list[dict[str, Any]] = []
    for architecture in architectures:
        recipe = Train(steps=steps, batch=batch, max_length=5, validation=16)
        drawn = [
            Cell(architecture=architecture, size=size, precision="bf16", train=recipe, seed=seed)
            for seed in range(cells)
        ]
        alone = _seconds([drawn], share=1.0, workers=_helpers(1), environment={})
        ways: dict[str, float] = {"one after another": alone}
        split = [[cell] for cell in drawn]
        ways[f"{cells} processes"] = _seconds(split, 1 / cells, _helpers(cells), {})
        try:
            with service() as environment:
                ways[f"{cells} processes, MPS"] = _seconds(split, 1 / cells, _helpers(cells), environment)
        except (RuntimeError, UserError) as error:  # a machine that does not let MPS in must not lose the other ways
            print(error, flush=True)
        for way, seconds in ways.items():
            rate = 3600 * cells / seconds
            results.append(
                {"architecture": architecture, "way": way, "seconds": seconds, "cells_per_hour": rate}
                | {"gain": alone / seconds}
            )
            print(results[-1], flush=True)
    head = ("architecture", "way", "s", "cells/h", "gain")
    table(head, [tuple(result.values()) for result in results])
    about = {"size": size, "cells": cells, "steps": steps, "batch": batch}
    return {"bench": "pack", "machine": machine(default_device()), **about, "results": results}


def _helpers(processes: int) -> int:
    """Processes that make data for each, as many as there are cores for."""
    return max(1, min(DATA_WORKERS, len(os.sched_getaffinity(0)) // processes - 1))


def _seconds(groups: Sequence[Sequence[Cell]], share: float, workers: int, environment: Mapping[str, str]) -> float:
    """From the start of training, all workers being warm (they live on in a grid, too), to the last one's end."""
    context = multiprocessing.get_context("spawn")
    ready, go = context.Barrier(len(groups) + 1), context.Barrier(len(groups) + 1)
    started = [context.Process(target=_work, args=(group, share, workers, ready, go)) for group in groups]
    with exported(environment):
        for process in started:
            process.start()
    while ready.n_waiting < len(started):
        if any(process.exitcode is not None for process in started):
            for process in started:
                process.kill()
            raise RuntimeError("a process failed before it could begin")
        time.sleep(0.01)
    ready.wait()
    began = time.perf_counter()
    go.wait(timeout=60)
    for process in started:
        process.join()
    failed = [process.exitcode for process in started if process.exitcode]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(started)} processes failed, the first with status {failed[0]}")
    return time.perf_counter() - began


def _work(cells: Sequence[Cell], share: float, workers: int, ready: Any, go: Any) -> None:
    if torch.cuda.is_available():
        take_gpu(share)
    short = cells[0].train.model_copy(update={"steps": 30})
    train(cells[0].model_copy(update={"train": short}), workers=workers)
    ready.wait()
    go.wait()
    for cell in cells:
        train(cell, workers=workers)

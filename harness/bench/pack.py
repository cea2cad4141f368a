"""`lengthwise bench pack`: small cells trained one after another on a GPU, and several at a time, each in a process.

Processes that share a GPU take turns on it, unless they share it through NVIDIA's Multi-Process Service (MPS), which
runs their kernels side by side; where its daemon can be started, it is one of the ways that are measured.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from harness.bench.timing import machine, table
from harness.config import Cell, Train
from harness.memory import take_gpu
from harness.train import DATA_WORKERS, default_device, train

CONTROL = "nvidia-cuda-mps-control"


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
        with mps() as environment:
            if environment is None:
                print("MPS: its daemon cannot be started here", flush=True)
            else:
                try:
                    ways[f"{cells} processes, MPS"] = _seconds(split, 1 / cells, _helpers(cells), environment)
                except RuntimeError as error:  # a machine that does not let MPS in must not lose the other ways
                    print(f"MPS: {error}", flush=True)
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
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    started = [context.Process(target=_work, args=(group, share, workers, ready, go)) for group in groups]
    for process in started:
        process.start()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
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


@contextmanager
def mps() -> Iterator[dict[str, str] | None]:
    """A daemon of the Multi-Process Service of our own: the environment that leads to it, None where there is none."""
    if not torch.cuda.is_available() or shutil.which(CONTROL) is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        environment = {"CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log"}
        for path in environment.values():
            os.mkdir(path)
        # Of the GPUs that a daemon sees its clients count from 0.
        clients = {**environment, "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(torch.cuda.device_count())))}
        begun = subprocess.run([CONTROL, "-d"], env={**os.environ, **environment}, capture_output=True, text=True)
        if begun.returncode:
            print(f"MPS: {(begun.stderr or begun.stdout).strip()}", flush=True)
            yield None
            return
        try:
            yield clients
        finally:
            subprocess.run([CONTROL], input="quit\n", env={**os.environ, **environment}, text=True, timeout=60)

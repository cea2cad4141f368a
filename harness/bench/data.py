"""`lengthwise bench data`: how fast training trajectories are made, by one process and by several."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from harness.bench.timing import machine, table
from harness.stream import Source, steps
from tasks import TASKS
from tasks.scenario import Scenario

TRAINED = {"addition": 5, "hanoi": 8, "hanoi_recursive": 7}
"""Longest training problems of the paper; 10 for all other tasks."""
NEEDED = 1e6
"""Tokens per second with at most four workers that training on a GPU asks for."""


def bench_data(tasks: Sequence[str], workers: Sequence[int], seconds: float, batch: int) -> dict[str, Any]:
    """Tokens/s of every task and form: of CPU time in this process, and of wall time with so many workers."""
    import torch

    results: dict[str, Any] = {}
    for name in tasks or list(TASKS):
        for form in Scenario(name, "interactive").task.forms:
            source = Source(name, "interactive", TRAINED.get(name, 10), 0, batch, form=form)
            rates = {count: _by_workers(source, count, seconds) for count in workers}
            results[f"{name} {form}"] = {"max_length": source.max_length, **_here(source, seconds), "workers": rates}
            core = results[f"{name} {form}"]["per_core"]
            print(f"{name} {form}: {core:,.0f} tokens per second of one core", flush=True)
    print()
    lines = []
    for name, result in results.items():
        thousands = [rate / 1000 for rate in (result["per_core"], *result["workers"].values())]
        lines.append([name, result["max_length"], result["tokens_per_problem"], *thousands])
    table(["", "length", "tokens each", "k/s a core", *[f"{count} workers k/s" for count in workers]], lines)
    reached = {name: 4 * result["per_core"] >= NEEDED for name, result in results.items()}
    device = machine(torch.device("cpu"))
    return {"bench": "data", "machine": device, "results": results, "four_cores_reach_1M": reached}


def _here(source: Source, seconds: float) -> dict[str, Any]:
    """Drawing problems included, in its share: a whole block is drawn before its first step."""
    with closing(steps(source)) as stream:
        began = time.process_time()
        first = next(stream)
        drawing = time.process_time() - began
        began, tokens, problems = time.process_time(), 0, 0
        for _ in range(source.per_block - 1):  # the next one would draw another block
            rows = next(stream)
            tokens += sum(map(len, rows))
            problems += len(rows)
            if time.process_time() - began > seconds:
                break
        encoding = time.process_time() - began
    alone = encoding / problems  # of one problem
    drawn = max(0.0, drawing - alone * len(first)) / (source.per_block * source.size)
    each = tokens / problems
    return {"per_core": each / (alone + drawn), "tokens_per_problem": each, "drawing_share": drawn / (alone + drawn)}


def _by_workers(source: Source, count: int, seconds: float) -> float:
    """From the first step on, so that starting processes is left out."""
    with closing(steps(source, 0, count)) as stream:
        for _ in range(count):
            next(stream)
        began, tokens = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            tokens += sum(map(len, next(stream)))
        return tokens / (time.perf_counter() - began)

"""What carrying a grid costs beside its cells: many short cells through the real driver, and Ray Tune beside it.

A cell sleeps instead of training, then leaves what a cell leaves: weights' summary, curve, rows, its attempt in the
ledger, its runs in MLflow. The ideal is the sleep alone, on as many logical CPUs as there are workers; everything over
it counts, Ray's start included.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.bench.nap import Nap
from harness.bench.timing import table
from harness.driver import run_grid
from harness.errors import UserError
from harness.grid import Grid, Resolved, parse
from harness.store import Store
from harness.tracking import Tracker

GRID = """
name: overhead
base: {{architecture: gru, train: {{max_length: 1, steps: 1, batch: 1}}}}
axes: {{seed: [{seeds}]}}
evaluate: {{lengths: [1, 2], problems: 8}}
run: {{workers: {workers}, gpus: 0, renew_after: 1000000}}
"""
MEGABYTE = 2**20


@dataclass
class Watched(Tracker):
    """MLflow's tracker, which also notes the driver's memory, and that of its mirror's process, as cells end."""

    memory: list[int] = field(default_factory=list)

    def __init__(self, store: Store) -> None:
        super().__init__(None, store)
        self.memory = []

    def ended(self, cell: Resolved, outcome: str) -> None:
        super().ended(cell, outcome)
        process = self.mirror.process if self.mirror else None
        self.memory.append(_resident(os.getpid()) + (_resident(process.pid) if process else 0))


def _resident(process: int) -> int:
    """Bytes of a process in memory, none of one that is gone."""
    with suppress(FileNotFoundError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def ours(cells: int, seconds: float, workers: int) -> dict[str, Any]:
    """Seconds from before Ray's start to the last cell, and to the last word in MLflow; memory as cells end."""
    import ray

    grid = grid_of(cells, workers)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"{folder}/store").open(create=True)
        tracker = Watched(store)
        began, moment = time.perf_counter(), time.time()
        ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        started = time.perf_counter() - began
        try:
            outcome = run_grid(grid, store, tracker=tracker, console=Console(file=io.StringIO()), carry=Nap(seconds))
            carried = time.perf_counter() - began
        finally:
            ray.shutdown()
        tracker.finish_grid(grid, store)
        tracker.close()
        total = time.perf_counter() - began
        if outcome.done != cells or sum(len(list(store.rows(cell.id))) for cell in grid.cells) != 16 * cells:
            raise UserError(f"bench overhead: {cells - outcome.done} cells are missing: {outcome.failed}")
        early = tracker.memory[min(cells // 10, len(tracker.memory) - 1)]
        return {
            "cells": cells,
            "ideal": cells * seconds / workers,
            "seconds": carried,
            "ray": started,
            "begun": _begun(store, workers) - moment,
            "with_mlflow": total,
            "mlflow_complete": tracker.complete,
            "growth_mb": (tracker.memory[-1] - early) / MEGABYTE,
        }


def _begun(store: Store, workers: int) -> float:
    """When as many cells had begun as there are workers, in seconds since 1970."""
    times = sorted(datetime.fromisoformat(attempt["started"]).timestamp() for attempt in store.attempts())
    return times[min(workers, len(times)) - 1]


def grid_of(cells: int, workers: int) -> Grid:
    seeds = ", ".join(map(str, range(cells)))
    return parse(GRID.format(seeds=seeds, workers=workers), "bench overhead")


def tune(cells: int, seconds: float, workers: int) -> float:
    """Seconds Ray Tune takes for as many trials that sleep and report once, its start included."""
    import ray
    from ray import tune as tuner

    def nap(config: dict[str, Any]) -> None:
        time.sleep(seconds)
        tuner.report({"exact": 1.0})

    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        try:
            space = {"seed": tuner.grid_search(list(range(cells)))}
            told = tuner.RunConfig(storage_path=folder, verbose=0)
            results = tuner.Tuner(tuner.with_resources(nap, {"cpu": 1}), param_space=space, run_config=told).fit()
            if results.num_errors:
                raise UserError(f"bench overhead: {results.num_errors} trials of Ray Tune failed")
        finally:
            ray.shutdown()
        return time.perf_counter() - began


def bench_overhead(cells: int, seconds: float, workers: int, sample: int) -> dict[str, Any]:
    """The whole grid; then a sample of it, and the same sample with Ray Tune."""
    whole = ours(cells, seconds, workers)
    result: dict[str, Any] = {"workers": workers, "cell_seconds": seconds, "whole": whole}
    lines = [_line("whole", whole)]
    if sample:
        small, theirs = ours(sample, seconds, workers), tune(sample, seconds, workers)
        result.update(sample=small, tune=theirs, times=theirs / small["seconds"])
        beside = {"cells": sample, "ideal": small["ideal"], "seconds": theirs}
        lines += [_line("sample", small), _line("sample, Ray Tune", beside)]
    head = (
        "",
        "cells",
        "ideal s",
        "took s",
        "over",
        "Ray's start",
        "begun: cells = workers",
        "with MLflow s",
        "grew MB",
    )
    table(head, lines)
    return result


def _line(name: str, of: dict[str, Any]) -> tuple[Any, ...]:
    over = f"{of['seconds'] / of['ideal'] - 1:+.1%}"
    known = (f"{of[key]:.1f}" if key in of else "-" for key in ("ray", "begun", "with_mlflow", "growth_mb"))
    return name, of["cells"], of["ideal"], of["seconds"], over, *known

"""What a grid of very many cells takes to plan, to look at, and to run again when it is finished."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness.bench.simulate import TEXT, simulate
from harness.bench.timing import table
from harness.errors import UserError
from harness.finished import finish, stands
from harness.grid import parse
from harness.store import Store

KINDS = 40
"""Cells of the simulated grid that differ in more than seeds."""


def bench_grid(cells: int, points: int, folder: Path | None) -> dict[str, Any]:
    """Seconds, and seconds of CPU, of `plan`, `status` and `run` of a finished grid, each in a process of its own.

    The store is simulated: rows, curves and attempts as training would have left them. folder: where it is kept, with
    its grid file; one that is there already is taken as it is. Raises UserError when a command fails.
    """
    with tempfile.TemporaryDirectory() as passing:
        place = folder or Path(passing)
        file, store = place / "grid.yaml", Store(str(place / "store"))
        if not file.exists():
            place.mkdir(parents=True, exist_ok=True)
            text = _text(cells, points)
            simulate(parse(text, "bench grid"), store.open(create=True), failed_every=None, records=3)
            file.write_text(text)
        _note_finished(file, store)
        lines = {name: _measured(name, file, store) for name in ("plan", "status", "run")}
        lines["plan, nothing done"] = _measured("plan", file, Store(f"{passing}/empty"))
    table(("", "took s", "CPU s"), [(name, *of.values()) for name, of in lines.items()])
    return {"cells": cells, "points": points, **lines}


def _note_finished(file: Path, store: Store) -> None:
    """What a run leaves that found nothing left to do; but for the page of its report, which is not measured here.

    With uncommitted changes to the code no run takes a report for up to date, and none of this would be measured.
    """
    grid = parse(file.read_text(), str(file))
    store.write(f"grids/{grid.file.name}/report.html", b"a report")
    finish(grid, store, None)
    if not stands(grid, store, None):
        raise UserError("bench grid: the code has uncommitted changes, so another run would make the report anew")


def _text(cells: int, points: int) -> str:
    seeds = -(-cells // KINDS)
    lengths = [5 * 2**at for at in range(points)]
    return (
        TEXT.replace("seed: [0, 1, 2, 3, 4]", f"seed: {list(range(seeds))}")
        .replace("lengths: [5, 10, 20, 40, 80, 160, 240, 320, 480, 640]", f"lengths: {lengths}")
        .replace("problems: 500", "problems: 2")
    )


def _measured(command: str, file: Path, store: Store) -> dict[str, float]:
    whole = [sys.executable, "-m", "harness", command, str(file), "--store", store.url]
    whole += ["--no-mlflow"] if command == "run" else []
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(whole, capture_output=True, text=True)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise UserError(f"bench grid: {command} failed: {done.stderr.strip()}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": took, "cpu_seconds": cpu}

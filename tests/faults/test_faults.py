"""What clusters do to jobs, a fault at a time: then no row is lost, none doubled, all equal the undisturbed run.

Several raylets on this machine; each fault strikes once, at a named phase of the work, in the process it is about. More
rounds, as the table in docs/reliability.md has them (the file gets a line of JSON a fault):

    LENGTHWISE_FAULTS=20 LENGTHWISE_FAULTS_FILE=faults.jsonl python -m pytest tests/faults/test_faults.py -k kill
"""

import datetime
import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from rich.console import Console

from harness import work, worker
from harness.driver import run_grid
from harness.grid import parse
from harness.store import Store
from harness.work import run_cell

GRID = """
name: faults
base: {architecture: gru, train: {max_length: 2, steps: 40, batch: 16, validation: 8}}
axes: {setting: [interactive, direct], seed: [0]}
evaluate: {lengths: [1, 2, 4], problems: 8, rollout_max: 2}
run: {workers: 1, gpus: 0, checkpoint_seconds: 0.0001}
"""
TIMINGS = {"seconds", "attempt"}
MEMORY = 100 * 2**20
ROUNDS = int(os.environ.get("LENGTHWISE_FAULTS", "1"))
RECORD = os.environ.get("LENGTHWISE_FAULTS_FILE")


class Struck(Exception):
    """What a fault raises that does not kill."""


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def lose_the_node():
    os.kill(os.getppid(), signal.SIGKILL)  # a worker's parent is its raylet
    time.sleep(600)


def no_memory():
    raise torch.OutOfMemoryError("CUDA out of memory (simulated)")


def refuse():
    raise OSError(30, "Read-only file system")


class Strike:
    """The work of a cell with a fault at a phase, once in all: a file says that it has struck."""

    def __init__(self, phase, fault, mark):
        self.phase, self.fault, self.mark = phase, fault, str(mark)

    def __call__(self, cell, evaluate, run, store, attempt, report, stop):
        def once():
            try:
                with open(self.mark, "x") as file:
                    file.write(str(time.time()))
            except FileExistsError:
                return
            self.fault()

        def reported(event):
            report(event)
            if event["phase"] == self.phase or (self.phase == "evaluator" and event.get("points_done") == 1):
                once()

        with self._writes(store, once):
            run_cell(cell, evaluate, run, store, attempt, reported, stop)

    @contextmanager
    def _writes(self, store, once):
        """Strike half way through a file, or before one is put in its place."""
        whole, put = store._temporary, store.create

        def temporary(name, data):
            if self.phase in ("mid checkpoint", "mid row") and self._is_it(name):
                path = f"{store.path(name)}.torn.tmp"
                os.makedirs(os.path.dirname(path), exist_ok=True)
                Path(path).write_bytes(data[: len(data) // 2])
                once()
                os.unlink(path)
            return whole(name, data)

        def create(name, data):
            if self.phase == "before publication" and name.endswith("published.json"):
                once()
            if self.phase == "row refused" and "/rows/" in name:
                once()
            return put(name, data)

        store._temporary, store.create = temporary, create
        try:
            yield
        finally:
            store._temporary, store.create = whole, put

    def _is_it(self, name):
        return name.endswith("training.pt") if self.phase == "mid checkpoint" else "/rows/" in name


def the_grid(**run):
    grid = parse(GRID, "faults")
    return grid if not run else parse(GRID, "faults", [f"run.{name}={value}" for name, value in run.items()])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The rows of the grid, made without Ray."""
    store = Store(str(tmp_path_factory.mktemp("undisturbed") / "store")).open(create=True)
    for cell in the_grid().cells:
        run_cell(cell, the_grid().evaluate(cell), the_grid().run(cell), store, "undisturbed")
    return rows_of(store)


@pytest.fixture(scope="module")
def nodes():
    """A head without CPUs, and a node."""
    from ray.cluster_utils import Cluster

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": MEMORY})
    cluster.add_node(num_cpus=2, object_store_memory=MEMORY)
    ray.init(cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store")).open(create=True)


def rows_of(store):
    """(cell, length, problem) -> the row, timings apart. Fails when one is there twice."""
    found, count = {}, 0
    for cell in the_grid().cells:
        for extent in store.extents(cell.id):
            for row in store.read_table(f"cells/{cell.id}/rows/{extent.file}", work_rows()):
                count += 1
                key = row["cell"], row["length"], row["stress"], row["index"]
                found[key] = {name: value for name, value in row.items() if name not in TIMINGS}
    assert len(found) == count, f"{count - len(found)} rows are doubled"
    return found


def work_rows():
    from harness.schema import ROWS

    return ROWS


def carry_on(store, carry, tracker=None, **run):
    return run_grid(the_grid(**run), store, console=Console(file=io.StringIO()), carry=carry, tracker=tracker)


def survived(fault, store, undisturbed, mark=None, exactly=True):
    """No row lost, none doubled, all the same; and a line for the record.

    Not `exactly`: what was trained with smaller pieces of its batches has weights that differ by rounding.
    """
    rows = rows_of(store)
    assert rows.keys() == undisturbed.keys(), f"{len(undisturbed.keys() - rows.keys())} rows are lost"
    if exactly:
        assert rows == undisturbed
    else:
        assert all(rows[key]["problem"] == undisturbed[key]["problem"] for key in rows)
    recovery = None
    if mark is not None:
        struck = float(mark.read_text())
        later = [datetime.datetime.fromisoformat(one["started"]).timestamp() for one in store.attempts()]
        recovery = min((at - struck for at in later if at > struck), default=None)
    if RECORD:
        with open(RECORD, "a") as file:
            file.write(json.dumps({"fault": fault, "lost": 0, "doubled": 0, "recovery": recovery}) + "\n")


KILLS = {
    "kill the trainer in the middle of a step": ("training", die),
    "kill in the middle of a checkpoint": ("mid checkpoint", die),
    "kill between checkpoint and publication": ("before publication", die),
    "kill the evaluator": ("evaluator", die),
    "kill in the middle of a row file": ("mid row", die),
    "kill a node": ("training", lose_the_node),
}
OTHERS = {
    "out of GPU memory": ("training", no_memory),
    "the store refuses a write": ("row refused", refuse),
}


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize("times", range(ROUNDS))
@pytest.mark.parametrize("fault", [*KILLS, *OTHERS])
def test_struck_once_all_rows_are_there(fault, times, nodes, store, undisturbed, tmp_path):
    phase, what = {**KILLS, **OTHERS}[fault]
    mark = tmp_path / "struck"
    if fault == "kill a node":
        nodes.add_node(num_cpus=2, object_store_memory=MEMORY)
    outcome = carry_on(store, Strike(phase, what, mark))
    assert mark.exists(), "the fault did not come"
    assert (outcome.done, outcome.failed) == (2, {})
    expected = "lost" if fault in KILLS else "failed"
    assert sorted(attempt["outcome"] for attempt in store.attempts()) == sorted(["done", "done", expected])
    survived(fault, store, undisturbed, mark, exactly=what is not no_memory)


DRIVER = """
import sys
sys.path.insert(0, {root!r})
import ray
from harness.driver import run_grid
from harness.grid import parse
from harness.store import Store
ray.init({address!r}, log_to_driver=False)
print("started", flush=True)
outcome = run_grid(parse({grid!r}, "faults"), Store({store!r}))
sys.exit(130 if outcome.stopped else 1 if outcome.failed else 0)
"""


def another_driver(nodes, store):
    """A driver in a process of its own, on the same cluster."""
    grid = GRID.replace("steps: 40", "steps: 40")
    root = str(Path(worker.__file__).parents[1])
    script = DRIVER.format(root=root, address=nodes.address, grid=grid, store=store.root)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def until(condition, process, seconds=180):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read().decode()
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize("times", range(ROUNDS))
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM], ids=["kill the driver", "SIGTERM with grace"])
def test_the_driver_is_ended_and_the_next_goes_on(sent, times, nodes, store, undisturbed, tmp_path):
    mark = tmp_path / "struck"
    process = another_driver(nodes, store)
    until(lambda: list(Path(store.root).glob("cells/*/training.pt")), process)
    process.send_signal(sent)
    mark.write_text(str(time.time()))
    status = process.wait(60)
    assert status == (-signal.SIGKILL if sent == signal.SIGKILL else 130)
    outcome = carry_on(store, run_cell)
    assert outcome.done == 2
    # On a slow machine the first cell may just have ended by itself.
    assert store.attempts()[0]["outcome"] in ("lost" if sent == signal.SIGKILL else "stopped", "done")
    survived("kill the driver" if sent == signal.SIGKILL else "SIGTERM with grace", store, undisturbed, mark)


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize("times", range(ROUNDS))
def test_two_drivers_on_one_grid_at_once(times, nodes, store, undisturbed):
    process = another_driver(nodes, store)
    until(lambda: store.attempts(), process)
    outcome = carry_on(store, run_cell)
    assert outcome.done == 2
    assert process.wait(180) == 0, process.stdout.read().decode()
    survived("two drivers at once", store, undisturbed)


class Skewed:
    """Work on a node whose clock is a day behind."""

    def __call__(self, cell, evaluate, run, store, attempt, report, stop):
        begun = store.read_json(f"ledger/{attempt}.start.json")
        behind = datetime.datetime.fromisoformat(begun["started"]) - datetime.timedelta(days=1)
        store.write(f"ledger/{attempt}.start.json", json.dumps({**begun, "started": behind.isoformat()}).encode())
        if len(store.attempts({cell.id})) == 1:
            raise Struck("the first attempt fails")
        run_cell(cell, evaluate, run, store, attempt, report, stop)


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize("times", range(ROUNDS))
def test_a_clock_a_day_behind(times, nodes, store, undisturbed):
    outcome = carry_on(store, Skewed(), attempts=2)
    assert outcome.done == 2
    for cell in the_grid().cells:
        assert [attempt["outcome"] for attempt in store.attempts({cell.id})] == ["failed", "done"]
    survived("clock skew", store, undisturbed)


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize("times", range(ROUNDS))
def test_rays_object_store_is_full(times, nodes, store, undisturbed):
    held = [ray.put(np.ones(10 * 2**20, np.uint8)) for _ in range(9)]
    outcome = carry_on(store, run_cell)
    assert outcome.done == 2
    assert len(held) == 9
    survived("object-store pressure", store, undisturbed)


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize("times", range(ROUNDS))
def test_a_full_disk_fails_cells_and_costs_no_row(times, nodes, undisturbed, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        store = Store(str(disk / "store")).open(create=True)
        outcome = carry_on(store, run_cell, attempts=1)
        assert len(outcome.failed) == 2
        assert all("No space left" in reason for reason in outcome.failed.values()), outcome.failed
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert carry_on(store, run_cell).done == 2
        survived("full disk", store, undisturbed)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


# what needs no Ray -------------------------------------------------------------------------------------------------


def stop_after(steps):
    """Says stop once so many training records have come."""
    seen = []
    return (lambda event: seen.append(event)), (lambda: len(seen) >= steps)


@pytest.mark.parametrize("times", range(ROUNDS))
def test_a_torn_checkpoint_is_not_gone_on_from(times, store, undisturbed):
    grid = the_grid()
    for cell in grid.cells:
        report, stop = stop_after(1)
        with pytest.raises(work.Stopped):
            run_cell(cell, grid.evaluate(cell), grid.run(cell), store, "first", report, stop)
        whole = store.read(f"cells/{cell.id}/training.pt")
        Path(store.path(f"cells/{cell.id}/training.pt")).write_bytes(whole[: len(whole) // 2])
        run_cell(cell, grid.evaluate(cell), grid.run(cell), store, "second")
    survived("torn checkpoint", store, undisturbed)


@pytest.mark.parametrize("times", range(ROUNDS))
def test_what_a_dead_process_left_behind_is_in_nobodys_way(times, store, undisturbed):
    """Half-written temporary files, and attempts nobody ended: there are no locks that could go stale."""
    grid = the_grid()
    for cell in grid.cells:
        for name in ("training.pt", "published.json", "rows/x.parquet"):
            path = Path(store.path(f"cells/{cell.id}/{name}.0123abcd.tmp"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"half")
        store.begin_attempt(f"29990101T000000-{cell.id}", {"cell": cell.id, "started": "2999-01-01T00:00:00+00:00"})
        run_cell(cell, grid.evaluate(cell), grid.run(cell), store, "next")
    survived("stale leftovers", store, undisturbed)


@pytest.mark.parametrize("times", range(ROUNDS))
def test_a_torn_row_file_is_said_and_made_anew(times, store, undisturbed):
    grid = the_grid()
    for cell in grid.cells:
        run_cell(cell, grid.evaluate(cell), grid.run(cell), store, "first")
    cell = grid.cells[0]
    torn = Path(store.path(f"cells/{cell.id}/rows/{store.extents(cell.id)[0].file}"))
    torn.write_bytes(torn.read_bytes()[:100])
    with pytest.raises(work.UserError, match=f"{torn.name} is not a whole Parquet file .* move it away"):
        rows_of(store)
    torn.unlink()
    run_cell(cell, grid.evaluate(cell), grid.run(cell), store, "second")
    survived("torn row file", store, undisturbed)

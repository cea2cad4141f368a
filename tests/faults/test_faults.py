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
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from harness import driver, work, worker
from harness.driver import run_grid
from harness.grid import parse
from harness.plan import print_status
from harness.step import PlainStepper
from harness.store import Store
from harness.work import run_cell

STEPS = 20
GRID = f"""
name: faults
base: {{architecture: gru, train: {{max_length: 2, steps: {STEPS}, batch: 4, validation: 4}}}}
axes: {{setting: [interactive, direct], seed: [0]}}
evaluate: {{lengths: [1, 2, 4], problems: 8, rollout_max: 2}}
run: {{workers: 1, gpus: 0, checkpoint_seconds: 0.0001}}
"""
MEMORY = 100 * 2**20
PATIENCE = 120


class Struck(Exception):
    """What a fault raises that does not kill."""


# Each is told how its process would hear that it is to stop.


def die(stop):
    os.kill(os.getpid(), signal.SIGKILL)


def lose_the_node(stop):
    os.kill(os.getppid(), signal.SIGKILL)  # a worker's parent is its raylet
    die(stop)


def fall_silent(stop):
    os.kill(os.getppid(), signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)


def no_memory(stop):
    raise torch.OutOfMemoryError("CUDA out of memory (simulated)")


def refuse(stop):
    raise OSError(30, "Read-only file system")


def wait_to_be_stopped(stop):
    patiently(stop)


def patiently(condition, process=None):
    """Wait until it holds; not for ever, nor for a process that has ended."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process is None or process.poll() is None, process.stdout.read().decode()
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


class Strike:
    """The work of a cell with a fault at a phase, once in all: the file `struck` says when it came, and to whom.

    A byte for every training step goes to the file `steps`.
    """

    def __init__(self, phase, fault, folder):
        self.phase, self.fault, self.struck, self.steps = phase, fault, folder / "struck", folder / "steps"

    @property
    def when(self):
        """Seconds since the epoch."""
        return float(self.struck.read_text().split()[0])

    @property
    def whom(self):
        """The worker and its raylet."""
        return [int(pid) for pid in self.struck.read_text().split()[1:]]

    def __call__(self, cell, evaluate, run, store, attempt, report, stop):
        def once():
            try:
                with open(self.struck, "x") as file:
                    file.write(f"{time.time()} {os.getpid()} {os.getppid()}")
            except FileExistsError:
                return
            self.fault(stop)

        def reported(event):
            report(event)
            if self.phase == "evaluator" and event.get("points_done") == 1:
                once()

        with self._steps(once), self._writes(store, once):
            run_cell(cell, evaluate, run, store, attempt, reported, stop)

    @contextmanager
    def _steps(self, once):
        """Strike when a step has its gradients, and the weights are still the old ones."""
        reduce, taken = PlainStepper.reduce, []

        def reduced(stepper, total):
            taken.append(1)
            with open(self.steps, "ab") as file:
                file.write(b".")
            if self.phase == "mid step" and len(taken) == STEPS // 2:
                once()
            reduce(stepper, total)

        PlainStepper.reduce = reduced
        try:
            yield
        finally:
            PlainStepper.reduce = reduce

    @contextmanager
    def _writes(self, store, once):
        """Strike half way through a file (not the first), or before one is put in its place."""
        whole, put, seen = store._temporary, store.create, []

        def temporary(name, data):
            if self._is_it(name):
                seen.append(name)
            if len(seen) == 2 and self._is_it(name):
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
        return {"mid checkpoint": name.endswith("training.pt"), "mid row": "/rows/" in name}.get(self.phase, False)


def the_grid(**run):
    return parse(GRID, "faults", [f"run.{name}={value}" for name, value in run.items()])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A store with the grid, made without Ray."""
    store = Store(str(tmp_path_factory.mktemp("undisturbed") / "store")).open(create=True)
    for cell in the_grid().cells:
        run_cell(cell, the_grid().evaluate(cell), the_grid().run(cell), store, "undisturbed")
    return store


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


def carry_on(store, carry, **run):
    return run_grid(the_grid(**run), store, console=Console(file=io.StringIO()), carry=carry)


def outcomes(store):
    return sorted(attempt["outcome"] for attempt in store.attempts())


KILLS = {
    "kill the trainer in the middle of a step": ("mid step", die),
    "kill in the middle of a checkpoint": ("mid checkpoint", die),
    "kill between checkpoint and publication": ("before publication", die),
    "kill the evaluator": ("evaluator", die),
    "kill in the middle of a row file": ("mid row", die),
    "kill a node": ("mid step", lose_the_node),
}
FAULTS = {
    **KILLS,
    "out of GPU memory": ("mid step", no_memory),
    "the store refuses a write": ("row refused", refuse),
}
IN_CI = {
    "kill the trainer in the middle of a step",
    "kill in the middle of a checkpoint",
    "kill the evaluator",
    "kill a node",
    "out of GPU memory",
}


@pytest.mark.ray
@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, marks=pytest.mark.slow if fault in IN_CI else pytest.mark.long) for fault in FAULTS],
)
def test_struck_once_all_rows_are_there(fault, nodes, store, undisturbed, witness, tmp_path):
    witness.fault, (phase, what) = fault, FAULTS[fault]
    if fault == "kill a node":
        nodes.add_node(num_cpus=2, object_store_memory=MEMORY)
    strike = Strike(phase, what, tmp_path)
    outcome = carry_on(store, strike)
    assert strike.struck.exists(), "the fault did not come"
    assert (outcome.done, outcome.failed) == (2, {})
    assert outcomes(store) == sorted(["done", "done", "lost" if fault in KILLS else "failed"])
    assert strike.steps.stat().st_size <= 2 * STEPS + 1, "more than a step was taken again"
    witness.recover(store, strike.when)
    witness.compare(the_grid(), store, undisturbed, exactly=what is not no_memory)


@pytest.mark.ray
@pytest.mark.long
def test_a_node_falls_silent_and_comes_back(nodes, store, undisturbed, witness, tmp_path):
    """No connection breaks, as when a machine is cut off. Others do its work; then its worker goes on where it was."""
    import psutil

    witness.fault = "a node falls silent, and comes back"
    nodes.add_node(num_cpus=2, object_store_memory=MEMORY)
    strike = Strike("mid step", fall_silent, tmp_path)
    assert carry_on(store, strike).done == 2
    assert outcomes(store) == ["done", "done", "lost"]
    witness.recover(store, strike.when)
    its_worker, its_raylet = map(psutil.Process, strike.whom)
    its_worker.resume()
    patiently(lambda: outcomes(store) == ["done", "done", "done"])
    its_worker.kill()
    its_raylet.kill()
    witness.compare(the_grid(), store, undisturbed)


DRIVER = """
import sys
from pathlib import Path

sys.path[:0] = [{root!r}, {here!r}]
import ray
import test_faults
from test_faults import *

ray.cloudpickle.register_pickle_by_value(test_faults)
ray.init({address!r}, log_to_driver=False)
outcome = run_grid(the_grid(**{run!r}), Store({store!r}), carry={carry})
sys.exit(130 if outcome.stopped else 1 if outcome.failed else 0)
"""


def another_driver(nodes, store, carry, **run):
    """A driver in a process of its own, on the same cluster. `carry`: as it is written in Python."""
    root, here = Path(worker.__file__).parents[1], Path(__file__).parent
    named = {"root": str(root), "here": str(here), "address": nodes.address, "store": store.root}
    script = DRIVER.format(**named, carry=carry, run=run)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.ray
@pytest.mark.slow
def test_kill_the_driver(nodes, store, undisturbed, witness, tmp_path):
    witness.fault = "kill the driver"
    process = another_driver(nodes, store, f"Strike('mid step', wait_to_be_stopped, Path({str(tmp_path)!r}))")
    patiently((tmp_path / "struck").exists, process)
    process.kill()
    killed = time.time()
    assert process.wait(PATIENCE) == -signal.SIGKILL
    assert carry_on(store, Strike("", None, tmp_path)).done == 2
    assert outcomes(store) == ["done", "done", "lost"]
    assert (tmp_path / "steps").stat().st_size <= 2 * STEPS + 1, "more than a step was taken again"
    witness.recover(store, killed)
    witness.compare(the_grid(), store, undisturbed)


@pytest.mark.ray
@pytest.mark.slow
def test_sigterm_with_grace(nodes, store, undisturbed, witness, tmp_path):
    """What was trained is in a checkpoint, though none was due."""
    witness.fault = "SIGTERM with grace"
    carry = f"Strike('mid step', wait_to_be_stopped, Path({str(tmp_path)!r}))"
    process = another_driver(nodes, store, carry, checkpoint_seconds=3600)
    patiently((tmp_path / "struck").exists, process)
    assert not list(Path(store.root).glob("cells/*/training.pt"))
    process.terminate()
    sent = time.time()
    assert process.wait(PATIENCE) == 130, process.stdout.read().decode()
    assert len(list(Path(store.root).glob("cells/*/training.pt"))) == 1
    assert carry_on(store, Strike("", None, tmp_path)).done == 2
    assert outcomes(store) == ["done", "done", "stopped"]
    assert (tmp_path / "steps").stat().st_size == 2 * STEPS
    witness.recover(store, sent)
    witness.compare(the_grid(), store, undisturbed)


def at_once(cell, evaluate, run, store, attempt, report, stop):
    """The work of a cell, begun when somebody else has begun it, too."""
    patiently(lambda: len(store.attempts({cell.id})) == 2)
    run_cell(cell, evaluate, run, store, attempt, report, stop)


@pytest.mark.ray
@pytest.mark.slow
def test_two_drivers_on_one_grid_at_once(nodes, store, undisturbed, witness):
    """Both work on every cell at the same time."""
    witness.fault = "two drivers at once"
    process = another_driver(nodes, store, "at_once")
    patiently(store.attempts, process)
    assert carry_on(store, at_once).done == 2
    assert process.wait(PATIENCE) == 0, process.stdout.read().decode()
    assert outcomes(store) == ["done"] * 4
    witness.compare(the_grid(), store, undisturbed)


class Yesterday(datetime.datetime):
    """A clock that is a day behind."""

    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.now(tz) - datetime.timedelta(days=1)


def fail_yesterday(cell, evaluate, run, store, attempt, report, stop):
    """A cell that fails on a node whose clock is a day behind."""
    begun = store.read_json(f"ledger/{attempt}.start.json")
    started = datetime.datetime.fromisoformat(begun["started"]) - datetime.timedelta(days=1)
    store.write(f"ledger/{attempt}.start.json", json.dumps({**begun, "started": started.isoformat()}).encode())
    raise Struck("the first attempt fails")


@pytest.mark.ray
@pytest.mark.long
def test_clocks_a_day_behind(nodes, store, undisturbed, witness, monkeypatch, capsys):
    """First those of the nodes, then the next driver's, whose attempts seem to come before those that failed."""
    witness.fault = "clock skew"
    assert len(carry_on(store, fail_yesterday, attempts=1).failed) == 2
    with monkeypatch.context() as patch:
        patch.setattr(driver, "datetime", Yesterday)
        patch.setattr(worker, "datetime", Yesterday)
        assert carry_on(store, run_cell).done == 2
    assert [attempt["outcome"] for attempt in store.attempts()] == ["done", "done", "failed", "failed"]
    capsys.readouterr()
    print_status(the_grid(), store)
    assert capsys.readouterr().out.endswith("2 done\n")
    assert carry_on(store, refuse).done == 2  # nothing is left to do
    witness.compare(the_grid(), store, undisturbed)


class Holder:
    """Fills nine tenths of the object store of its node."""

    def fill(self):
        self.held = [ray.put(np.ones(MEMORY // 10, np.uint8)) for _ in range(9)]


@pytest.mark.ray
@pytest.mark.long
def test_rays_object_stores_are_full(nodes, store, undisturbed, witness):
    witness.fault = "object-store pressure"
    alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in alive]
    holders = [ray.remote(num_cpus=0)(Holder).options(scheduling_strategy=place).remote() for place in places]
    ray.get([holder.fill.remote() for holder in holders])
    assert carry_on(store, run_cell).done == 2
    witness.compare(the_grid(), store, undisturbed)
    for holder in holders:
        ray.kill(holder)


@pytest.mark.ray
@pytest.mark.long
def test_a_full_disk_fails_cells_and_costs_no_row(nodes, undisturbed, witness, tmp_path):
    witness.fault = "full disk"
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
        enlarged = time.time()
        assert carry_on(store, run_cell).done == 2
        witness.recover(store, enlarged)
        witness.compare(the_grid(), store, undisturbed)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


# what needs no Ray -------------------------------------------------------------------------------------------------


def stop_after(steps):
    """Says stop once so many training records have come."""
    seen = []
    return (lambda event: seen.append(event)), (lambda: len(seen) >= steps)


def test_a_torn_checkpoint_is_not_gone_on_from(store, undisturbed, witness):
    witness.fault, grid = "torn checkpoint", the_grid()
    for cell in grid.cells:
        report, stop = stop_after(1)
        with pytest.raises(work.Stopped):
            run_cell(cell, grid.evaluate(cell), grid.run(cell), store, "first", report, stop)
        whole = store.read(f"cells/{cell.id}/training.pt")
        Path(store.path(f"cells/{cell.id}/training.pt")).write_bytes(whole[: len(whole) // 2])
        run_cell(cell, grid.evaluate(cell), grid.run(cell), store, "second")
    witness.compare(the_grid(), store, undisturbed)


def test_what_a_dead_process_left_behind_is_in_nobodys_way(store, undisturbed, witness):
    """Half-written temporary files, and attempts nobody ended: there are no locks that could go stale."""
    witness.fault, grid = "stale leftovers", the_grid()
    for cell in grid.cells:
        for name in ("training.pt", "published.json", "rows/x.parquet"):
            path = Path(store.path(f"cells/{cell.id}/{name}.0123abcd.tmp"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"half")
        store.begin_attempt(f"29990101T000000-{cell.id}", {"cell": cell.id, "started": "2999-01-01T00:00:00+00:00"})
        run_cell(cell, grid.evaluate(cell), grid.run(cell), store, "next")
    witness.compare(the_grid(), store, undisturbed)


def test_a_torn_row_file_is_said_and_made_anew(store, undisturbed, witness):
    witness.fault, grid = "torn row file", the_grid()
    for cell in grid.cells:
        run_cell(cell, grid.evaluate(cell), grid.run(cell), store, "first")
    cell = grid.cells[0]
    torn = Path(store.path(f"cells/{cell.id}/rows/{store.extents(cell.id)[0].file}"))
    torn.write_bytes(torn.read_bytes()[:100])
    with pytest.raises(work.UserError, match=f"{torn.name} is not a whole Parquet file .* move it away"):
        list(store.rows(cell.id))
    torn.unlink()
    run_cell(cell, grid.evaluate(cell), grid.run(cell), store, "second")
    witness.compare(the_grid(), store, undisturbed)

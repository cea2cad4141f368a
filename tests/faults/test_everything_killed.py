"""SIGKILL of everything at once, as when a machine goes down, then the same command again: the same rows."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray  # noqa: F401  (its bundled psutil is put on the path)

from harness.grid import load
from harness.store import Store

GRID = """
name: faults
base: {architecture: gru, train: {max_length: 2, steps: 60, batch: 32, validation: 8}}
axes: {setting: [interactive, direct], seed: [0, 1]}
evaluate: {lengths: [1, 2, 4, 8], problems: 8, rollout_max: 2}
run: {workers: 2, checkpoint_seconds: 0.05}
"""
TIMINGS = {"seconds", "attempt"}


STARTED = []


def start(grid, store):
    command = [sys.executable, "-m", "harness", "run", str(grid), "--store", str(store)]
    STARTED.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    return STARTED[-1]


@pytest.fixture(autouse=True)
def nothing_stays_behind():
    yield
    while STARTED:
        driver = STARTED.pop()
        if driver.poll() is None:
            kill_everything(driver)


def kill_everything(driver):
    """SIGKILL the driver and all that it started."""
    import psutil

    family = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
    for process in family:
        process.suspend()
    for process in family:
        process.send_signal(signal.SIGKILL)
    driver.wait()


def half_written(store, what):
    """Files that are being written."""
    return [path for path in Path(store).glob(f"cells/*/{what}.tmp")]


def wait_for(condition, driver, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert driver.poll() is None, f"the run ended ({driver.returncode}) before it could be killed"
        assert time.monotonic() < end, "nothing to kill came up"
        time.sleep(0.001)


def kill_while_writing(grid, store, what):
    """Kill until the kill has demonstrably come in the middle of a write: a temporary file stays behind."""
    for _ in range(20):
        before = set(half_written(store, what))
        driver = start(grid, store)
        wait_for(lambda seen=before: set(half_written(store, what)) - seen, driver)
        kill_everything(driver)
        if set(half_written(store, what)) - before:
            return
    raise AssertionError("no kill came in the middle of a write")


def rows_of(store, grid):
    opened = Store(str(store)).open()
    found = {
        (row["cell"], row["length"], row["stress"], row["index"]): {k: v for k, v in row.items() if k not in TIMINGS}
        for cell in load(str(grid)).cells
        for row in opened.rows(cell.id)
    }
    assert len(found) == sum(1 for cell in load(str(grid)).cells for _ in opened.rows(cell.id))
    return found


@pytest.mark.slow
@pytest.mark.ray
def test_killed_at_named_phases_the_rows_are_the_same(tmp_path):
    grid = tmp_path / "faults.yaml"
    grid.write_text(GRID)
    undisturbed, store = tmp_path / "undisturbed", tmp_path / "store"
    assert start(grid, undisturbed).wait(timeout=300) == 0

    driver = start(grid, store)
    wait_for(lambda: list(store.glob("cells/*/training.pt")), driver)  # in the middle of training
    kill_everything(driver)
    kill_while_writing(grid, store, "training.pt.*")
    kill_while_writing(grid, store, "rows/*")
    assert start(grid, store).wait(timeout=300) == 0
    assert rows_of(store, grid) == rows_of(undisturbed, grid)
    assert len(rows_of(store, grid)) == 4 * (7 + 8 + 8 + 8)


@pytest.mark.slow
@pytest.mark.ray
def test_killed_at_random_moments_the_rows_are_the_same(tmp_path):
    grid = tmp_path / "faults.yaml"
    grid.write_text(GRID)
    undisturbed, store = tmp_path / "undisturbed", tmp_path / "store"
    began = time.monotonic()
    assert start(grid, undisturbed).wait(timeout=300) == 0
    whole = time.monotonic() - began
    seed = random.randrange(10**6)
    print(f"random moments from seed {seed}")
    moments = random.Random(seed)
    for _ in range(2):
        driver = start(grid, store)
        time.sleep(moments.uniform(0.2, 0.5) * whole)
        assert driver.poll() is None, "it ended before it could be killed"
        kill_everything(driver)
    assert start(grid, store).wait(timeout=300) == 0
    assert rows_of(store, grid) == rows_of(undisturbed, grid)

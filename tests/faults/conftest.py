"""Faults that strike again and again, and a line of JSON for each: see docs/reliability.md."""

import datetime
import json
import os
import time
from dataclasses import asdict, dataclass

import pytest

from harness.schema import ROWS

TIMINGS = {"seconds", "attempt"}
ROUNDS = int(os.environ.get("LENGTHWISE_FAULTS", "1"))
RECORD = os.environ.get("LENGTHWISE_FAULTS_FILE")


def pytest_generate_tests(metafunc):
    if "times" in metafunc.fixturenames:
        metafunc.parametrize("times", range(ROUNDS))


@dataclass
class Witness:
    """What became of the rows after a fault. Who is never asked has seen no survivor."""

    fault: str
    survived: bool = False
    lost: int | None = None
    doubled: int | None = None
    recovery: float | None = None
    """Seconds from the fault to the begin of the next attempt, where there is one."""
    seconds: float = 0.0
    """Of the whole test, without what tests share."""

    def recover(self, store, struck):
        """Note how long after the fault (seconds since the epoch) the next attempt began."""
        began = [datetime.datetime.fromisoformat(attempt["started"]).timestamp() for attempt in store.attempts()]
        self.recovery = min(at - struck for at in began if at > struck)

    def compare(self, grid, store, undisturbed, exactly=True):
        """No row may be lost, none doubled, all must be those of the undisturbed store; not `exactly`: its problems."""
        (rows, self.doubled), (wanted, _) = rows_of(grid, store), rows_of(grid, undisturbed)
        self.lost = len(wanted.keys() - rows.keys())
        assert (self.lost, self.doubled) == (0, 0)
        assert rows.keys() == wanted.keys()
        if exactly:
            assert rows == wanted
        else:
            assert all(rows[key]["problem"] == wanted[key]["problem"] for key in rows)
        self.survived = True


def rows_of(grid, store):
    """(cell, length, stress set, problem) -> the row, timings apart; and how many are there twice."""
    found, count = {}, 0
    for cell in grid.cells:
        for extent in store.extents(cell.id):
            for row in store.read_table(f"cells/{cell.id}/rows/{extent.file}", ROWS):
                count += 1
                key = row["cell"], row["length"], row["stress"], row["index"]
                found[key] = {name: value for name, value in row.items() if name not in TIMINGS}
    return found, count - len(found)


@pytest.fixture
def witness(times, request):
    found, began = Witness(request.node.name), time.monotonic()
    yield found
    found.seconds = time.monotonic() - began
    if RECORD:
        with open(RECORD, "a") as file:
            file.write(json.dumps(asdict(found)) + "\n")

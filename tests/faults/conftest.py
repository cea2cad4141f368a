"""Faults that strike again and again, and a line of JSON for each: see docs/reliability.md."""

import json
import os
import time
from dataclasses import asdict, dataclass

import pytest

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

    def compare(self, rows, doubled, undisturbed, exactly=True):
        """None may be lost, none doubled, all must be those of the undisturbed run; not `exactly`: its problems."""
        self.lost, self.doubled = len(undisturbed.keys() - rows.keys()), doubled
        assert (self.lost, self.doubled) == (0, 0)
        assert rows.keys() == undisturbed.keys()
        if exactly:
            assert rows == undisturbed
        else:
            assert all(rows[key]["problem"] == undisturbed[key]["problem"] for key in rows)
        self.survived = True


@pytest.fixture
def witness(times, request):
    found, began = Witness(request.node.name), time.monotonic()
    yield found
    found.seconds = time.monotonic() - began
    if RECORD:
        with open(RECORD, "a") as file:
            file.write(json.dumps(asdict(found)) + "\n")

"""The report's intervals and tests against simulated seeds whose truth is known: docs/statistics.md, in small."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest

from harness.bench import statistics as simulated
from harness.cli import app

INTERVALS = ("point", "seeds", "fresh seed")


@pytest.mark.parametrize(("kind", "share"), product(simulated.KINDS, (0.5, 0.995, 0.9999)))
def test_intervals_hold(kind, share):
    for seeds, problems in ((2, 32), (10, 100)):
        found = simulated.coverage(kind, seeds, problems, share, 300, 1)
        assert min(found[f"{name} covers"] for name in INTERVALS) >= 0.92, found


def test_wilsons_interval_does_not_hold_near_one():
    found = simulated.coverage("alike", 2, 32, 0.995, 2000, 0)
    assert found["wilson covers"] == pytest.approx(0.995**32, abs=0.02)
    assert found["point covers"] >= 0.95


@pytest.mark.parametrize("rest", [0.0, 0.3, 1.0])
def test_intervals_of_partly_known_answers_hold(rest):
    assert simulated.answers(0.5, rest, 500, 2000, 0)["covers"] >= 0.94


def test_the_experiments_are_what_they_say():
    chance = np.random.default_rng(0)
    accuracy, right, solving = simulated._experiments("beta, shared problems", (4000, 3, 40), 0.9, chance)
    assert accuracy.mean() == pytest.approx(0.9, abs=0.01)
    assert accuracy.var() == pytest.approx(0.9 * 0.1 * simulated.CORRELATION, rel=0.1)
    assert right.mean(axis=(0, 2)) == pytest.approx([0.9] * 3, abs=0.01)
    assert np.mean(right.mean(axis=2) >= 0.95) == pytest.approx(solving.mean(), abs=0.02)


@pytest.mark.slow
def test_every_interval_holds_and_every_test_keeps_its_level(capsys):
    """The whole of it, a minute or two."""
    app(["bench", "statistics"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert min(found["least_coverage"].values()) >= 0.94
    for line in found["retrained"]:
        if line["solving before"] == line["after"]:
            assert line["alarms"] <= 0.05
        if line["runs a side"] < 5:
            assert (line["alarms"], line["undecidable"]) == (0, 1)
    for line in found["checkpoints"]:
        if line["before"] == line["after"]:
            assert line["alarms"] <= 0.05
    [fall] = [line for line in found["checkpoints"] if (line["before"], line["after"]) == (0.98, 0.88)]
    assert fall["first found"] >= 0.9


def test_the_command_prints_json_last(capsys, monkeypatch):
    monkeypatch.setattr(simulated, "SEEDS", (2,))
    monkeypatch.setattr(simulated, "KINDS", ("alike",))
    app(["bench", "statistics", "--replications", "5"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert len(found["coverage"]) == 8
    assert {"coverage", "answers", "retrained", "checkpoints"} <= found.keys()

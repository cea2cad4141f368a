"""Hazards against trajectories counted by hand, and against errors planted at a known rate."""

import random

import polars as pl
import pytest

from harness.schema import CELLS, ROWS
from reports.data import frame
from reports.survival import first_errors, hazard, judged, longest_trained, octaves


def table(*problems):
    """(tokens, divergence or None, steps, divergence_step or None) of one cell at length 4."""
    columns = ("tokens", "divergence", "steps", "divergence_step")
    lines = [dict(zip(columns, problem), exact=problem[1] is None) for problem in problems]
    return pl.DataFrame(
        [{"cell": "a", "length": 4, "max_length": 4, **line} for line in lines],
        schema_overrides={name: pl.Int64 for name in columns},
    )


def counts(found):
    return {
        (line["first"], line["last"]): (line["errors"], line["risked"], line["problems"]) for line in found.to_dicts()
    }


def test_bins_are_octaves():
    assert octaves(0) == ()
    assert octaves(9) == ((1, 1), (2, 3), (4, 7), (8, 15))


def test_errors_and_places_at_risk_are_those_counted_by_hand():
    # Five tokens without an error; an error at the third token of ten; one at the very first of five.
    problems = table((5, None, 2, None), (10, 2, 4, 2), (5, 0, 3, 1))
    assert counts(hazard(problems, "token")) == {(1, 1): (1, 3, 3), (2, 3): (1, 4, 2), (4, 7): (0, 2, 1)}
    assert counts(hazard(problems, "step")) == {(1, 1): (1, 3, 3), (2, 3): (1, 2, 2)}
    tenths = counts(hazard(problems, "tenth"))
    assert [tenths[place, place][0] for place in range(1, 11)] == [0, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert [tenths[place, place][1] for place in range(1, 11)] == [3, 3, 2, 1, 1, 1, 1, 1, 1, 1]


def test_rows_without_steps_say_nothing_of_steps():
    old = table((5, None, None, None), (10, 2, None, 2))
    assert hazard(old, "step").is_empty()
    assert hazard(old, "token")["errors"].sum() == 1
    assert hazard(old.clear(), "token").is_empty()


def test_a_constant_hazard_is_found_everywhere_and_inside_its_interval():
    chance, rate = random.Random(0), 0.01
    problems = []
    for _ in range(4000):
        at = next((place for place in range(200) if chance.random() < rate), None)
        problems.append((200, at, None, None))
    found = hazard(table(*problems), "token").filter(pl.col("risked") > 1000)
    assert found.height == 8
    inside = (found["low"] <= rate) & (rate <= found["high"])
    assert inside.sum() >= 7
    assert found["rate"].to_list() == pytest.approx([rate] * 8, rel=0.35)
    assert found.filter(pl.col("last") > 64)["rate"].to_list() == pytest.approx([rate] * 2, rel=0.1)


def test_only_fit_cells_on_random_problems_with_an_oracle_count():
    cells = frame(CELLS, [{"cell": name, "max_length": 4} for name in "ab"]).with_columns(unfit=pl.col("cell") == "b")
    known = {"length": 4, "stress": "random", "exact": True, "tokens": 9}
    rows = [{"cell": "a", **known}, {"cell": "b", **known}, {"cell": "a", **known, "stress": "zeros"}]
    rows += [{"cell": "a", **known, "exact": None}, {"cell": "a", **known, "exact": False, "divergence": 3}]
    assert judged(frame(ROWS, rows), cells)["exact"].to_list() == [True, False]


def test_first_errors_are_told_by_their_quartiles():
    problems = table((100, 10, 1, 1), (100, 20, 1, 1), (100, 30, 1, 1), (120, None, 1, None))
    [line] = first_errors(problems).to_dicts()
    assert (line["n"], line["failed"], line["tokens"]) == (4, 3, 105)
    assert (line["low"], line["middle"], line["high"]) == (15, 20, 25)
    assert longest_trained(problems, "tokens") == 120
    assert longest_trained(problems.with_columns(length=5), "tokens") is None
    assert first_errors(table((5, None, 1, None))).is_empty()

"""Verdicts on the paper's claims."""

from __future__ import annotations

import dataclasses

import polars as pl
import pytest

from harness.bench.simulate import simulate
from harness.collect import report_data
from harness.grid import parse
from harness.store import Store
from reports.reported import Claim
from reports.results import _beside, _lengths, _verdict, runs
from reports.statistics import clopper_pearson
from reports.view import View

GRID = """
name: simulated
base: {task: multiplication, setting: interactive, architecture: mamba1, train: {max_length: 10}}
axes: {seed: [0, 1, 2]}
evaluate: {lengths: [5, 1000], problems: 20}
"""


def point(k, of):
    low, high = clopper_pearson(k, of)
    return {"low": float(low), "high": float(high)}


@pytest.mark.parametrize(
    ("share", "k", "verdict"),
    [
        (1.0, 100, "reproduced"),
        (1.0, 99, "not reproduced"),
        (0.49, 45, "reproduced"),
        (0.49, 80, "exceeded"),
        (0.49, 20, "not reproduced"),
        (None, 20, "no number to compare"),
    ],
)
def test_a_claim_is_held_against_the_interval_of_our_best_run(share, k, verdict):
    claim = Claim("n × 1", "mamba1", "multiplication", 10, 1000, share)
    assert _verdict(claim, point(k, 100)) == verdict


def test_lengths_of_a_table_are_spread_out_and_end_with_the_longest():
    assert _lengths([1, 3, 5, 6, 7, 8, 10, 15, 20, 50, 100, 200, 500, 1000], 5) == [5, 10, 20, 50, 100, 200, 500, 1000]
    assert _lengths([1, 2, 3], 3) == [1, 2, 3]
    assert _lengths([4, 8], 3) == [4, 8]


def test_a_failed_run_counts_as_one_that_is_right_in_none(tmp_path):
    grid, store = parse(GRID, "simulated.yaml"), Store(str(tmp_path)).open(create=True)
    simulate(grid, store, failed_every=3)
    view = View(report_data(grid, store))
    assert "of 3 [" in runs(view)
    assert "of 2 [" not in runs(view)
    assert "foretell" not in runs(view)
    [[_, best, _, each, _]] = _beside(view, Claim("random", "mamba1", "multiplication", 10, 1000, 1.0))
    assert "best of 3" in best
    assert each.count(",") == 2
    assert each.endswith("failed")


def test_the_margin_of_training_stands_beside_what_is_right_beyond(tmp_path):
    grid, store = parse(GRID, "simulated.yaml"), Store(str(tmp_path)).open(create=True)
    simulate(grid, store)
    data = report_data(grid, store)
    cells = data.cells["cell"].to_list()
    # The surer, the less is right.
    sure = pl.col("cell").replace_strict(cells, range(len(cells)), return_dtype=pl.Float64)
    right = pl.col("index") >= 5 * sure
    rows = data.rows.with_columns(margin=sure + pl.col("length") / 1000, exact=right)
    table = runs(View(dataclasses.replace(data, rows=rows)))
    assert all(f"| {at}.0 |" in table for at in range(3))
    assert "Spearman's correlation within architectures -1.00, p = 0.33 (3 runs)." in table


def test_right_answers_stand_apart_where_all_were_played_to_their_end(tmp_path):
    grid, store = parse(GRID, "simulated.yaml"), Store(str(tmp_path)).open(create=True)
    simulate(grid, store)
    data = report_data(grid, store)

    def table(answers):
        return runs(View(dataclasses.replace(data, rows=data.rows.with_columns(answer_right=answers))))

    assert "| right answers | seed | 5 | 1,000 |" in table(pl.lit(True))
    assert table(pl.lit(True)).count("20/20") == 3 + 6  # all exact at 5, none at 1,000
    assert "right answers" not in table(pl.col("exact"))  # no more than the exact trajectories
    assert "right answers" not in table(pl.when(pl.col("exact")).then(True))  # of the others it is not known

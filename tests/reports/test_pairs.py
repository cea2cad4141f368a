"""Architectures compared by their runs, from rows to the page."""

from __future__ import annotations

import json

import pytest

from harness.schema import ATTEMPTS, CELLS, CURVES, ROWS
from reports import latex, significance
from reports.comparisons import comparisons, decided
from reports.data import ReportData, frame
from reports.runs import contrast, counted
from reports.summary import summary
from reports.verdict import furthest
from reports.view import View
from tests.reports.test_page import Page

LENGTHS = (4, 8, 16)


def study(reaches, **more):
    """A view of cells named by architecture: every architecture has runs that solve everything up to their reach."""
    cells, rows = [], []
    for architecture, own in reaches.items():
        for seed, reach in enumerate(own):
            name = f"{architecture}-{seed}"
            status = "failed" if reach is None else "done"
            cell = {"cell": name, "task": "addition", "setting": "direct", "architecture": architecture, "seed": seed}
            cells.append(cell | {"max_length": 4, "status": status, "fit": True} | more.get(name, {}))
            for length in LENGTHS if reach is not None else ():
                row = {"cell": name, "length": length, "stress": "random", "exact": length <= reach}
                rows += [row | {"index": index} for index in range(3)]
    return View(ReportData({}, frame(CELLS, cells), frame(ROWS, rows), frame(CURVES, []), frame(ATTEMPTS, [])))


def test_runs_decide_which_architecture_reaches_further():
    view = study({"gru": [0, 4, 8, 4, 8], "mamba1": [16] * 5, "lstm": [4, 8, 4, 8, 8]})
    [pairs] = view.pairs.values()
    assert [(pair.first[0], pair.second[0], pair.decision.outcome) for pair in pairs] == [
        ("mamba1", "lstm", "more"),
        ("mamba1", "gru", "more"),
        ("lstm", "gru", "no difference"),
    ]
    assert pairs[0].decision.family == 3
    assert pairs[0].decision.p == pytest.approx(3 * 2 / 252)
    text = comparisons(view)
    assert "no difference shown; a difference of" in text
    assert "mamba1 further than lstm (p 0.024)" in decided(view)


def test_where_the_runs_are_too_many_to_count_every_division_the_page_says_so(monkeypatch):
    reaches = {"gru": [0, 4, 8, 4, 8], "mamba1": [16] * 5, "lstm": [4, 8, 4, 8, 8]}
    assert "normal approximation" not in comparisons(study(reaches))
    monkeypatch.setattr(significance, "_rank_sums", lambda *_: None)
    assert "Of 3 comparisons the runs are too many for that: normal approximation" in comparisons(study(reaches))


def test_with_three_runs_a_side_the_report_says_that_nothing_can_be_decided():
    view = study({"gru": [4] * 3, "mamba1": [16] * 3})
    text = comparisons(view)
    assert "1 comparison undecidable with 3 runs a side: smallest p 0.10" in text
    assert "<table" not in text
    assert "1 of 1 comparison undecidable with 3 runs a side (smallest p 0.10)" in decided(view)
    view = study({"gru": [4] * 3, "mamba1": [16] * 3, "lstm": [8] * 2})
    assert "3 of 3 comparisons undecidable with 2 to 3 runs a side (smallest p 0.10)" in decided(view)
    text = comparisons(view)
    assert "1 comparison undecidable with 3 runs a side: smallest p 0.10" in text
    assert "2 comparisons undecidable with 2 and 3 runs: smallest p 0.20" in text
    assert "<table" not in text


def test_failed_runs_reach_nothing_unfit_waiting_and_replicated_ones_do_not_count():
    more = {
        "gru-1": {"fit": False},
        "gru-2": {"status": "waiting"},
        "gru-3": {"seed": 0, "replicate": 1},
    }
    [[pair]] = study({"gru": [8, 16, 16, 16, None], "lstm": [4, 4]}, **more).pairs.values()
    assert (pair.first[0], pair.second[0]) == ("lstm", "gru")
    assert (pair.contrast.first, pair.contrast.second) == ([4, 4], [0, 8])


def test_a_replicate_is_no_seed_and_a_failed_run_is_one_wherever_seeds_are_counted():
    again = {"gru-1": {"seed": 0, "replicate": 1}}
    view = study({"gru": [8, 16, None], "lstm": [4, 4, 4]}, **again)
    best = furthest(view, view.facets[0])
    assert (best.low, best.holders, best.seeds) == (8, [("gru", 1, 2)], 5)
    text = Page(summary(view)).text
    assert "4 → 8 (100%) 3/3 [29–100%], best of 2 seeds" in text
    table = latex.tables(view)
    assert r"gru & 8, failed \\" in table
    assert r"gru & $4 \to 8$ (100\%) [2] \\" in table
    [[pair]] = view.pairs.values()
    assert (pair.second[0], pair.contrast.second) == ("gru", [0, 8])


def test_a_replicate_does_not_stand_in_for_a_seed_that_does_not_count():
    again = {"gru-0": {"fit": False}, "gru-1": {"seed": 0, "replicate": 1}}
    view = study({"gru": [8, 16, 4]}, **again)
    assert counted(view.cells)["cell"].to_list() == ["gru-2"]


def test_a_comparison_is_about_two_architectures_and_the_filters_know():
    view = study({"gru": [0, 4, 8, 4, 8], "mamba1": [16] * 5})
    assert '<tr data-architecture="mamba1" data-against="gru">' in comparisons(view)


def test_reaches_are_compared_at_the_lengths_both_were_tested_at():
    found = contrast([{4: 1.0, 8: 1.0, 16: 1.0}], [{4: 1.0, 8: 1.0}, {}])
    assert (found.first, found.second, found.longest) == ([8], [0, 8], 8)
    assert contrast([{4: 1.0}], [{8: 1.0}]) is None
    assert contrast([{4: 1.0}], []) is None


def test_earlier_states_of_a_run_are_no_runs_of_their_own():
    states = [json.dumps({"train": {"stop_after": steps}}) for steps in (None, 50)]
    more = {f"gru-{at}": {"config": states[at % 2], "seed": at // 2} for at in range(10)}
    view = study({"gru": [4, 8] * 5}, **more)
    assert view.pairs == {}
    best = furthest(view, view.facets[0])
    assert (best.low, best.holders) == (4, [("gru", 5, 5)])


def test_one_architecture_alone_is_compared_with_nothing():
    view = study({"gru": [4, 8]})
    assert comparisons(view) is None
    assert decided(view) is None

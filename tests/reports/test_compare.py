"""Two grids compared: what is matched, what changed, what moved."""

from __future__ import annotations

import json

import polars as pl
import pytest

from harness.schema import ATTEMPTS, CELLS, CURVES, ROWS
from reports.compare import compare
from reports.compare_page import render
from reports.data import ReportData, frame

LENGTHS = (4, 8, 16)


def side(curves, weights="w", problems=20, evaluate=None, **config):
    """Data of a grid: (architecture, seed) -> how many of the problems are right at each length."""
    cells, rows = [], []
    for (architecture, seed), right in curves.items():
        name = f"{architecture}-{seed}"
        text = json.dumps({"task": "addition", "architecture": architecture, "seed": seed, "train": config})
        cell = {"cell": name, "task": "addition", "setting": "direct", "architecture": architecture, "seed": seed}
        cell |= {"max_length": 4, "status": "done", "fit": True, "checkpoint": f"{weights}{name}", "config": text}
        cells.append(cell)
        for length, k in zip(LENGTHS, right):
            row = {"cell": name, "length": length, "stress": "random"}
            rows += [
                row | {"index": index, "problem": f"{length}/{index}", "exact": index < k} for index in range(problems)
            ]
    asked = {"problems": problems, "lengths": list(LENGTHS)} | (evaluate or {})
    tables = (frame(CELLS, cells), frame(ROWS, rows), frame(CURVES, []), frame(ATTEMPTS, []))
    return ReportData({"evaluate": asked}, *tables)


def seeds(architecture, *curves):
    return {(architecture, seed): curve for seed, curve in enumerate(curves)}


def test_the_same_weights_are_paired_by_problem():
    before = side({("gru", 0): (20, 20, 18), ("lstm", 0): (20, 20, 20)})
    after = side({("gru", 0): (20, 20, 2), ("lstm", 0): (20, 20, 20)}, evaluate={"precision": "bf16"})
    [found] = compare([("a", before), ("b", after)])
    assert found.mode == "checkpoints"
    moved = [point for point in found.points if point.outcome != "no difference"]
    assert [(point.name, point.length, point.right, point.lost, point.won) for point in moved] == [
        ("gru", 16, (18, 2), 16, 0)
    ]
    assert moved[0].adjusted == pytest.approx(2 * 0.5**16)  # the points where nothing changed are not corrected for
    assert found.moved("less") == ["gru, seed 0, length 16"]
    assert found.moved("more") == []
    assert ("evaluate.precision", "–", "bf16") in [(one.key, one.before, one.after) for one in found.changes]
    assert "would be found with a power of 80%" in found.points[0].said
    [back] = compare([("b", after), ("a", before)])
    assert (back.moved("less"), back.moved("more")) == ([], ["gru, seed 0, length 16"])


def test_other_weights_are_compared_by_runs():
    good, bad = (20, 20, 20), (20, 3, 0)
    before = side(seeds("gru", *[good] * 6) | seeds("lstm", *[good] * 6), steps=100)
    after = side(seeds("gru", *[bad] * 6) | seeds("lstm", *[good] * 5, bad), weights="v", steps=200)
    [found] = compare([("a", before), ("b", after)])
    assert found.mode == "retrained"
    assert {line.name: line.decision.outcome for line in found.retrained} == {"gru": "less", "lstm": "no difference"}
    assert found.moved("less") == ["gru"]
    assert found.verdict == "worse: gru"
    assert [(one.key, one.before, one.after) for one in found.changes] == [("train.steps", "100", "200")]
    assert [(shift.name, shift.length) for shift in found.shifts if shift.apart] == [("gru", 16)]
    [asked] = compare([("a", before), ("b", after)], "checkpoints")
    assert asked.moved("less") == [f"gru, seed {seed}, length {length}" for seed in range(6) for length in (8, 16)] + [
        "lstm, seed 5, length 8",
        "lstm, seed 5, length 16",
    ]


def test_fewer_than_five_runs_a_side_are_undecidable():
    before, after = side(seeds("gru", *[(20, 20, 20)] * 3)), side(seeds("gru", *[(0, 0, 0)] * 3), weights="v")
    [found] = compare([("a", before), ("b", after)])
    assert found.verdict == "undecidable: gru"
    assert found.moved("less") == []


def test_many_groups_that_nothing_can_be_said_of_are_counted():
    before, after = (side({(name, 0): (20, 20, 20) for name in "abcde"}, weights=weights) for weights in "wv")
    [found] = compare([("a", before), ("b", after)])
    assert found.verdict == "undecidable: all 5 groups"


def test_a_cell_without_weights_on_either_side_does_not_make_them_other_weights():
    data = side({("gru", 0): (20, 20, 20), ("lstm", 0): (20, 20, 20)})
    failed = pl.when(pl.col("architecture") == "gru").then("checkpoint").alias("checkpoint")
    one = ReportData(data.grid, data.cells.with_columns(failed), data.rows, data.curves, data.attempts)
    modes = [compare([("a", before), ("b", after)])[0].mode for before, after in ((one, one), (data, one))]
    assert modes == ["checkpoints", "retrained"]


def test_runs_that_do_not_learn_any_more_are_worse():
    before, after = side(seeds("gru", *[(20, 20, 20)] * 5)), side(seeds("gru", *[(0, 0, 0)] * 5), weights="v")
    after = ReportData(after.grid, after.cells.with_columns(fit=False), after.rows, after.curves, after.attempts)
    [found] = compare([("a", before), ("b", after)])
    assert found.moved("less") == ["gru"]


def test_each_of_several_grids_is_compared_with_the_first():
    good, bad = (20, 20, 20), (20, 3, 0)
    grids = [side(seeds("gru", *[curve] * 5), weights=str(at)) for at, curve in enumerate((good, good, bad))]
    second, third = compare(list(zip("abc", grids)))
    assert (second.verdict, third.verdict) == ("nothing moved beyond chance", "worse: gru")
    page = render([second, third])
    assert "b and c against a" in page
    assert page.count('class="plot"') == 3


def test_the_page_says_what_each_point_could_have_shown_and_folds_many_that_did_not_move():
    before = side({("gru", 0): (20, 20, 18), ("lstm", 0): (20, 20, 20)})
    page = render(compare([("a", before), ("b", before)]))
    assert "<details open><summary>6 points without a difference shown" in page
    assert ">Nothing moved beyond chance.<" in page
    assert 'data-label="Smallest fall found (power 80%)">' in page
    [found] = compare([("a", before), ("b", before)])
    assert f">{100 * found.points[0].detectable:.0f} points<" in page
    many = side(seeds("gru", *[(20, 20, 20)] * 11))
    page = render(compare([("a", many), ("b", many)]))
    assert "<details><summary>33 points without a difference shown" in page


def test_the_contents_and_the_filters_know_the_parts_of_the_page():
    good, bad = (20, 20, 20), (20, 3, 0)
    grids = [side(seeds("gru", *[curve] * 5), weights=str(at)) for at, curve in enumerate((good, good, bad))]
    page = render(compare(list(zip("abc", grids))))
    assert all(f'<section id="{name}">' in page for name in ("curves", "tests-1", "tests-2"))
    assert '<div data-task="addition" data-setting="direct"><h3>' in page


def test_one_architecture_may_be_compared_with_another():
    before, after = side(seeds("gru", *[(20, 20, 20)] * 5)), side(seeds("mamba1", *[(20, 0, 0)] * 5))
    [found] = compare([("a", before), ("b", after)])
    assert ("architecture", "gru", "mamba1") in [(one.key, one.before, one.after) for one in found.changes]
    assert len(found.moved("less")) == 1


def test_what_stands_in_one_grid_only_is_said_and_nothing_in_common_is_an_error():
    before = side({("gru", 0): (20, 20, 20), ("lstm", 0): (20, 20, 20)})
    [found] = compare([("a", before), ("b", side({("gru", 0): (20, 20, 20)}))])
    assert found.alone == ["lstm (only in a)"]
    assert [group.name for group in found.groups] == ["gru"]
    with pytest.raises(ValueError, match=r"a and b have no cells in common: gru \(only in a\); "):
        compare([("a", before), ("b", side({("mamba1", 0): (20, 20, 20)}))])


def test_problems_that_differ_cannot_be_paired():
    before, after = (side({("gru", 0): (20, 20, 20)}) for _ in range(2))
    other = after.rows.with_columns(problem="x" + after.rows["problem"])
    after = ReportData(after.grid, after.cells, other, after.curves, after.attempts)
    [found] = compare([("a", before), ("b", after)])
    with pytest.raises(ValueError, match="length 4: the problems are not the same"):
        _ = found.points


def test_points_are_cut_to_the_problems_both_have():
    before, after = side({("gru", 0): (20, 20, 20)}), side({("gru", 0): (10, 10, 10)}, problems=10)
    [found] = compare([("a", before), ("b", after)])
    assert [(point.problems, point.right) for point in found.points] == [(10, (10, 10))] * 3

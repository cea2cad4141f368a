from __future__ import annotations

import json
import random

import polars as pl
import pytest

from harness.schema import CELLS, FAILURES, ROWS
from reports import statistics
from reports.aggregate import describe, points, solved_by, summarise_cells
from reports.data import frame
from reports.expectation import means_over_seeds


def cell(name, **more):
    base = {"cell": name, "task": "addition", "setting": "direct", "architecture": "gru", "seed": 0, "max_length": 4}
    return base | {"status": "done", "fit": True} | more


def rows_of(name, length, outcomes, stress="random"):
    """One row per outcome; an outcome is exact, or (exact, answer_right)."""
    pairs = [outcome if isinstance(outcome, tuple) else (outcome, outcome or None) for outcome in outcomes]
    return [
        {"cell": name, "length": length, "stress": stress, "index": index, "exact": exact, "answer_right": answer}
        for index, (exact, answer) in enumerate(pairs)
    ]


def approx(bounds):
    return pytest.approx([float(bound) for bound in bounds])


def test_frame_is_typed_fills_nulls_and_refuses_the_unknown():
    table = frame(ROWS, [{"cell": "a", "seconds": 1}, {"length": 3}])
    assert table.columns == list(ROWS)
    assert table.schema["seconds"] == pl.Float64
    assert table.schema["exact"] == pl.Boolean
    assert table["cell"].to_list() == ["a", None]
    assert table["exact"].null_count() == 2
    assert frame(ROWS, []).schema == table.schema
    with pytest.raises(ValueError, match="unknown columns lenght"):
        frame(ROWS, [{"lenght": 3}])
    with pytest.raises(ValueError, match="type"):
        frame(ROWS, [{"length": "three"}])


def random_rows(chance):
    """Rows with nulls of every kind, in which every (cell, length, stress) has its own size."""
    rows = []
    for name in ("a", "b", "stranger"):
        for length in (1, 2, 8):
            for stress in ("random", "zeros"):
                oracle = chance.random() < 0.7
                for index in range(chance.randrange(1, 40)):
                    exact = chance.choice([True, False]) if oracle else None
                    answer = chance.choice([True, False, None])
                    row = {"cell": name, "length": length, "stress": stress, "index": index, "exact": exact}
                    row |= {"answer_right": answer, "failure": chance.choice([None, *FAILURES])}
                    row |= {"token_accuracy": chance.choice([None, chance.random()]), "tokens": chance.randrange(99)}
                    row |= {"seconds": chance.random(), "near_tie": chance.choice([True, False, None])}
                    row |= {"replay_equal": chance.choice([True, False, None])}
                    rows.append(row)
    chance.shuffle(rows)
    return rows


def known(rows, name):
    return [row[name] for row in rows if row[name] is not None]


def plain_answer(own):
    """The share of right answers, diverged problems weighed by those that were rolled out; None when unknown."""
    diverged = [row for row in own if row["exact"] is False]
    settled, rolled = (
        known([row for row in own if row["exact"] is not False], "answer_right"),
        known(diverged, "answer_right"),
    )
    if not settled + rolled or (diverged and not rolled):
        return None
    share = sum(rolled) / len(rolled) if rolled else 0.0
    return (sum(settled) + len(diverged) * share) / (len(settled) + len(diverged))


@pytest.mark.parametrize("seed", range(5))
def test_points_equal_a_plain_recomputation(seed):
    rows = random_rows(random.Random(seed))
    table = points(frame(ROWS, rows), frame(CELLS, [cell("a"), cell("b", fit=False)]))
    assert set(table["cell"]) == {"a", "b"}
    assert table.height == 12
    for line in table.iter_rows(named=True):
        own = [row for row in rows if all(row[key] == line[key] for key in ("cell", "length", "stress"))]
        exacts, answers = known(own, "exact"), known(own, "answer_right")
        assert (line["n"], line["exact_k"], line["exact_n"]) == (len(own), sum(exacts), len(exacts))
        assert (line["answer_k"], line["answer_n"]) == (sum(answers), len(answers))
        assert line["exact"] == (sum(exacts) / len(exacts) if exacts else None)
        assert line["answer"] == pytest.approx(plain_answer(own))
        assert line["measure"] == ("exact" if exacts else "answer")
        assert line["accuracy"] == line[line["measure"]]
        if exacts:
            assert [line["low"], line["high"]] == approx(statistics.interval(sum(exacts), len(exacts)))
        tokens = known(own, "token_accuracy")
        assert line["token_accuracy"] == (pytest.approx(sum(tokens) / len(tokens)) if tokens else None)
        assert line["tokens"] == pytest.approx(sum(row["tokens"] for row in own) / len(own))
        assert line["seconds"] == pytest.approx(sum(row["seconds"] for row in own))
        assert line["near_ties"] == sum(known(own, "near_tie"))
        replays = known(own, "replay_equal")
        assert (line["replayed"], line["replayed_equal"]) == (len(replays), sum(replays))
        contradicted = [row for row in own if row["replay_equal"] is False and not row["near_tie"]]
        assert line["contradicted"] == len(contradicted)
        for failure in FAILURES:
            assert line[f"failure_{failure}"] == known(own, "failure").count(failure)
        assert line["unfit"] == (line["cell"] == "b")


def test_answers_weigh_the_rolled_out_for_all_that_diverged():
    outcomes = [(True, True)] * 4 + [(False, True), (False, False)] + [(False, None)] * 2
    line = points(frame(ROWS, rows_of("a", 8, outcomes)), frame(CELLS, [cell("a")])).row(0, named=True)
    assert (line["answer_k"], line["answer_n"]) == (5, 6)
    assert line["answer"] == pytest.approx((4 + 4 * 0.5) / 8)
    assert line["answer_low"] < 6 / 8 < line["answer_high"]
    none = points(frame(ROWS, rows_of("a", 8, [True, False])), frame(CELLS, [cell("a")])).row(0, named=True)
    assert none["answer"] is None
    assert none["answer_high"] == 1


def test_a_problem_that_stands_twice_is_an_error():
    rows = rows_of("a", 8, [True, False]) + rows_of("a", 8, [True])
    with pytest.raises(ValueError, match="length 8: a problem stands twice"):
        points(frame(ROWS, rows), frame(CELLS, [cell("a")]))


def test_summary_of_cells_gives_reach_on_random_problems_only():
    rows = [
        *rows_of("a", 4, [True] * 20),
        *rows_of("a", 8, [True] * 19 + [False]),
        *rows_of("a", 16, [True] * 18 + [False] * 2),
        *rows_of("a", 4, [False] * 20, stress="zeros"),
        *rows_of("b", 4, [True] * 5),
    ]
    cells = frame(CELLS, [cell("a"), cell("b", seed=1), cell("c", seed=2, status="waiting", fit=None)])
    summary = summarise_cells(points(frame(ROWS, rows), cells), cells)
    lines = {line["cell"]: line for line in summary.iter_rows(named=True)}
    assert (lines["a"]["reach_low"], lines["a"]["reach_high"], lines["a"]["longest"]) == (8, 16, 16)
    assert (lines["a"]["paper_length"], lines["a"]["paper_accuracy"]) == (16, 0.9)
    assert lines["a"]["problems"] == 80
    assert (lines["b"]["reach_low"], lines["b"]["reach_high"]) == (4, None)
    assert lines["c"]["reach_low"] is None
    assert lines["c"]["tested"] is None


def test_seeds_that_solve_a_length_count_failed_runs_and_leave_out_unfit_and_waiting_ones():
    cells = [cell(name, seed=seed) for seed, name in enumerate("abcd")]
    cells += [cell("failed", seed=4, status="failed", fit=None), cell("failed later", seed=5, status="failed")]
    cells += [cell("unfit", seed=6, fit=False), cell("waiting", seed=7, status="waiting", fit=None)]
    cells += [cell("other", architecture="lstm")]
    rows = [row for name in "abc" for row in rows_of(name, 8, [True] * 20)]
    rows += rows_of("d", 8, [True] * 10 + [False] * 10) + rows_of("unfit", 8, [False] * 20)
    rows += rows_of("failed later", 8, [True] * 20) + rows_of("other", 8, [True] * 20)
    cells, rows = frame(CELLS, cells), frame(ROWS, rows)
    solved = solved_by(points(rows, cells), cells, rows)
    line = solved.filter(pl.col("architecture") == "gru").row(0, named=True)
    assert (line["solved"], line["seeds"]) == (4, 6)
    assert [line["low"], line["high"]] == approx(statistics.clopper_pearson(4, 6))
    assert line["mean"] == pytest.approx((4 * 1 + 0.5) / 5)
    halves = [[True] * 10 + [False] * 10, [False] * 20]  # the fourth seed, and the one that failed
    [mean] = means_over_seeds([[[True] * 20] * 4 + halves])
    assert (line["expected"], line["expected_low"]) == pytest.approx((mean.mean, mean.low), abs=0.01)
    assert solved.filter(pl.col("architecture") == "lstm").row(0, named=True)["seeds"] == 1


def test_a_replicate_is_no_further_seed_and_only_common_problems_count():
    cells = frame(CELLS, [cell("a"), cell("again", replicate=1), cell("b", seed=1)])
    rows = frame(ROWS, rows_of("a", 8, [True] * 4) + rows_of("again", 8, [False] * 4) + rows_of("b", 8, [True, False]))
    line = solved_by(points(rows, cells), cells, rows).row(0, named=True)
    assert (line["solved"], line["seeds"]) == (1, 2)
    assert line["expected"] == pytest.approx(3 / 4)


def test_recipes_split_groups_and_seeds_do_not():
    def config(seed, steps):
        return json.dumps({"seed": seed, "data_seed": seed, "task": "addition", "train": {"steps": steps, "batch": 8}})

    cells = [cell("a", seed=0, config=config(0, 100)), cell("b", seed=1, config=config(1, 100))]
    assert describe(frame(CELLS, cells))["recipe"].to_list() == ["", ""]
    cells += [cell("c", config=config(0, 200)), cell("d", architecture="lstm", config=config(0, 300))]
    recipes = describe(frame(CELLS, cells))["recipe"].to_list()
    assert recipes == ["train.steps=100", "train.steps=100", "train.steps=200", ""]
    ended = json.dumps({"task": "addition", "train": {"stop_after": None}})
    stopped = json.dumps({"task": "addition", "train": {"stop_after": 50}})
    cells = frame(CELLS, [cell("a", config=ended), cell("b", config=stopped)])
    assert describe(cells)["recipe"].to_list() == ["", "train.stop_after=50"]


def test_fit_is_judged_by_validation_where_it_is_not_stated():
    cells = [
        cell("a", fit=None, validation_exact=0.94),
        cell("b", fit=None, validation_exact=0.95),
        cell("c", fit=None),
    ]
    assert describe(frame(CELLS, cells))["unfit"].to_list() == [True, False, False]


def test_no_rows_and_no_cells():
    nothing = points(frame(ROWS, []), frame(CELLS, []))
    assert nothing.height == 0
    assert "accuracy" in nothing.columns
    waiting = frame(CELLS, [cell("a", status="waiting")])
    assert summarise_cells(points(frame(ROWS, []), waiting), waiting)["reach_low"].to_list() == [None]
    assert solved_by(nothing, frame(CELLS, []), frame(ROWS, [])).height == 0

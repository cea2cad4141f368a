"""Theorem 2.2 through the product's own path: `lookup` trained on the runs of Turing machines, and what it lacks."""

import io
import random

import pytest
import torch

from harness.batches import split
from harness.config import Cell, Evaluate
from harness.errors import Stopped
from harness.evaluate import Point, evaluate
from harness.train import new_model, scenario_of, train
from harness.work import content_hash, dump
from tasks.problems import problems, training_stream
from tasks.turing import MACHINES

NAMES = sorted(path.stem for path in MACHINES.glob("*.yaml"))
LONGEST = 4
"""Symbols of the longest training problem. Every pair of every machine comes up in problems this short."""


def cell_of(task, **train):
    recipe = {"max_length": LONGEST, "steps": 16, "batch": 32, "validation": 16, **train}
    return Cell(task=task, architecture="lookup", train=recipe)


def rows_of(model, scenario, length, count, stress="random", **settings):
    settings = Evaluate(lengths=[length], problems=count, **settings)
    [(_, rows)] = evaluate(model, scenario, [Point(length, stress, 0, count)], settings, {})
    return rows


@pytest.mark.parametrize("name", NAMES)
def test_exact_far_beyond_its_training_lengths(name):
    trained = train(cell_of(name))
    assert trained.validation_exact == 1.0
    scenario = scenario_of(cell_of(name))
    for length, stress in ((10, "random"), (40, "random"), (24, next(iter(scenario.task.stress), "jittered"))):
        for row in rows_of(trained.model, scenario, length, 3, stress):
            assert row["exact"]
            assert row["answer_right"]
            assert row["replay_equal"] in (True, None)
            assert row["pairs_unseen"] == 0 < row["pairs"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_exact_at_100_times_its_training_length(name):
    model, scenario = train(cell_of(name)).model, scenario_of(cell_of(name))
    for stress in ("random", *scenario.task.stress):
        [row] = rows_of(model, scenario, 100 * LONGEST, 1, stress)
        assert row["exact"]
        assert row["answer_right"]
        assert row["pairs_unseen"] == 0
        print(name, stress, row["tokens"])


def answers_or_ends(rows, scenario, length, count):
    """Every problem that needs a pair never read ends there, with no wrong token before; all others are exact."""
    drawn = {problem.key: problem for problem in problems(scenario.task, "evaluation", length, count)}
    for row in rows:
        assert row["exact"] == (row["pairs_unseen"] == 0)
        if not row["exact"]:
            assert (row["got"], row["failure"], row["ending"]) == ("[EOS]", "stopped_early", "finished")
            assert row["answer_right"] is False
            answer = drawn[row["problem"]].answer
            assert tuple(row["output"].split()) == answer[: len(row["output"].split())] != answer


@pytest.mark.parametrize("name", NAMES)
def test_withheld_problems_end_in_silence_and_not_in_a_wrong_answer(name):
    """Only a few problems are read: whatever pairs they do not hold are withheld."""
    cell, missed = cell_of(name), 0
    scenario = scenario_of(cell)
    drawn = training_stream(scenario.task, LONGEST, 0, 0)
    for seed in range(4):
        model = new_model(cell, scenario)
        batch = split([scenario.encoded(problem) for problem in random.Random(seed).sample(drawn, 1 + seed)])
        for part in batch.parts:
            model.read(part.tokens, part.own, part.lengths)
        rows = rows_of(model, scenario, 7, 8, rollout_max=8, replay=1.0)
        answers_or_ends(rows, scenario, 7, 8)
        assert all(row["replay_equal"] for row in rows)
        missed += sum(not row["exact"] for row in rows)
    assert missed


@pytest.mark.parametrize("name", NAMES)
def test_every_single_pair_withheld_ends_in_silence(name):
    """Each (state, symbol) is taken out of the table in turn, those that every problem needs included."""
    model = train(cell_of(name)).model
    scenario, names = scenario_of(cell_of(name)), scenario_of(cell_of(name)).vocabulary
    read = names.ids["[READ]"]
    whole, needed = model.table.clone(), 0
    for state in range(len(names)):
        for symbol in range(len(names)):
            if not model.knows(state, read, symbol):
                continue
            if model.says[model.table[model.table[1 + state, read], symbol]] == names.ids["[EOS]"]:
                continue  # the end of the answer, where silence is right
            model.table[whole[1 + state, read], symbol] = 0
            rows = rows_of(model, scenario, 5, 6, rollout_max=6, replay=0.0)
            answers_or_ends(rows, scenario, 5, 6)
            assert all(row["pairs_unseen"] <= 1 for row in rows)
            needed += any(not row["exact"] for row in rows)
            model.table.data.copy_(whole)
    assert needed >= len(scenario.task.machine.table) / 2


def test_verified_rows_equal_live_rows():
    cell = cell_of("sort", max_length=2, steps=1, batch=8)
    scenario, model = scenario_of(cell), train(cell).model
    verified, lived = (rows_of(model, scenario, 4, 30, mode=mode, rollout_max=30) for mode in ("verify", "live"))
    assert 0 < sum(row["exact"] for row in verified) < 30
    columns = ("exact", "answer_right", "divergence", "expected", "got", "failure", "ending", "output", "pairs_unseen")
    for one, other in zip(verified, lived, strict=True):
        assert [one[name] for name in columns] == [other[name] for name in columns]


def test_reading_resumes_to_the_bit():
    whole = train(cell_of("copy", steps=6, batch=2))
    saved, calls = [], iter(range(100))
    with pytest.raises(Stopped):
        train(cell_of("copy", steps=6, batch=2), save=saved.append, stop=lambda: next(calls) == 2)
    checkpoint = torch.load(io.BytesIO(dump(saved[0])), weights_only=True)
    assert content_hash(checkpoint["model"]) != content_hash(whole.model.state_dict())
    resumed = train(cell_of("copy", steps=6, batch=2), resume=checkpoint)
    assert content_hash(resumed.model.state_dict()) == content_hash(whole.model.state_dict())


def test_the_curve_shows_what_is_still_unread():
    losses = [record["loss"] for record in train(cell_of("copy", steps=20, batch=4)).progress.curve]
    assert losses[-1] < 1e-3 < losses[0] or losses[0] < 1e-3


@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_pairs_are_counted_whatever_the_chunks(chunk):
    scenario = scenario_of(cell_of("increment"))
    [row] = rows_of(train(cell_of("increment", steps=1, batch=1)).model, scenario, 6, 1, chunk=chunk)
    trajectory = scenario.record(problems(scenario.task, "evaluation", 6, 1)[0])
    tokens = trajectory.tokens
    pairs = {(tokens[at - 1], tokens[at + 1]) for at, token in enumerate(tokens) if token == "[READ]"}
    assert row["pairs"] == len(pairs) > row["pairs_unseen"] > 0


def test_without_a_tool_it_learns_nothing_that_carries_over():
    cell = Cell(
        task="increment", setting="cot", architecture="lookup", train={"max_length": 3, "steps": 4, "batch": 32}
    )
    assert not any(row["exact"] for row in rows_of(train(cell).model, scenario_of(cell), 8, 4))

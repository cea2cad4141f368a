"""Verify-then-continue and pure live rollouts tell the same story, for every architecture."""

import types

import pytest
import torch

from harness.config import Cell, Evaluate
from harness.decide import NEAR_TIE
from harness.evaluate import (
    ANSWER,
    RESULT,
    Point,
    agree,
    cheaper,
    evaluate,
    live,
    trajectory_flops,
    verify_then_continue,
)
from harness.rollout import from_question, step_seconds
from harness.schema import ENDINGS, FAILURES, ROWS
from harness.step import PlainStepper
from harness.stream import Source, steps
from harness.train import make_optimiser, new_model, scenario_of
from harness.verify import Verified, verify
from models import ARCHITECTURES
from models.build import build, resolve
from tasks.problems import problems

COUNT = 40


def half_trained(architecture, rate=3e-3):
    """A model trained until 20-80% of the problems diverge, most of them past the first decisions."""
    torch.set_num_threads(1)
    cell = Cell(
        architecture=architecture,
        train={"max_length": 2, "batch": 32, "learning_rate": rate, "weight_decay": 0.0},
    )
    scenario = scenario_of(cell)
    torch.manual_seed(0)
    model = new_model(cell, scenario)
    taken = PlainStepper(model, make_optimiser(model, cell.train), cell)
    drawn = problems(scenario.task, "evaluation", 2, COUNT)
    for step, rows in enumerate(steps(Source("addition", "interactive", 2, 0, 32)), start=1):
        model.train()
        taken.step(taken.batch(rows), rate * min(1.0, step / 50))
        if step % 20 == 0:
            model.eval()
            results = verify(model, scenario, drawn, chunk=64)
            if 0.2 <= sum(result.divergence is not None for result in results) / COUNT <= 0.8:
                return model, scenario
        assert step < 3000, "it never got half way"
    raise AssertionError


def rows_of(model, scenario, length, **settings):
    settings = Evaluate(lengths=[length], problems=COUNT, **settings)
    [(_, rows)] = evaluate(model, scenario, [Point(length, "random", 0, COUNT)], settings, {})
    return rows


def assert_same(verified, lived):
    """The near-tie rule, fixed beforehand: a row counts unless its least margin is below the float32 threshold."""
    compared = rolled = 0
    for one, other in zip(verified, lived, strict=True):
        assert one["problem"] == other["problem"]
        if one["near_tie"] or other["near_tie"]:
            continue
        compared += 1
        for name in (
            *RESULT,
            "divergence_phase",
            "context",
            "tokens",
            "own_tokens",
            "steps",
            "tool_calls",
            "longest_walk",
        ):
            assert one[name] == other[name], (name, one[name], other[name])
        assert one["margin"] == pytest.approx(other["margin"], abs=NEAR_TIE["float32"])
        margins = [row["rollout_margin"] for row in (one, other) if row["rollout_margin"] is not None]
        if min(margins, default=1.0) >= NEAR_TIE["float32"]:
            rolled += not one["exact"]
            for name in (*ANSWER, "rollout_margin"):
                expected = pytest.approx(other[name], abs=1e-3) if name == "rollout_margin" else other[name]
                assert one[name] == expected, name
    return compared, rolled


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if resolve(name).learns == "gradients"])
def test_verified_rows_equal_live_rows(architecture):
    model, scenario = half_trained(architecture)
    for chunk, batch in ((16, 40), (1024, 7)):
        verified = rows_of(model, scenario, 2, rollout_max=COUNT, chunk=chunk, batch=batch)
        lived = rows_of(model, scenario, 2, mode="live")
        diverged = [row for row in verified if not row["exact"]]
        assert 0.2 * COUNT <= len(diverged) <= 0.8 * COUNT
        assert any(10 < row["divergence"] < row["tokens"] - 10 for row in diverged)
        compared, rolled = assert_same(verified, lived)
        assert compared >= 0.8 * COUNT
        assert rolled >= 1
        replayed = [row["replay_equal"] for row in verified if row["replay_equal"] is not None and not row["near_tie"]]
        assert replayed
        assert all(replayed)


@pytest.fixture(scope="module")
def gru():
    return half_trained("gru")


def test_verified_rows_equal_live_rows_gru(gru):
    verified = rows_of(*gru, 2, rollout_max=COUNT, chunk=16)
    lived = rows_of(*gru, 2, mode="live")
    compared, rolled = assert_same(verified, lived)
    assert compared >= 0.8 * COUNT
    assert rolled >= 1


def test_flops_of_a_trajectory_sum_those_of_its_tokens():
    for architecture, tolerance in (("gru", 1e-9), ("transformer", 0.01), ("sliding", 0.05)):
        model = build(architecture, "tiny", 20, {}, device="meta")
        for tokens in (9, 200, 1500):
            whole = sum(model.cost(before).flops for before in range(tokens))
            assert trajectory_flops(model, tokens) == pytest.approx(whole, rel=tolerance)


def test_rows_have_the_schema_and_sane_values(gru):
    rows = rows_of(*gru, 2, rollout_max=5)
    filled_by_caller = {"cell", "checkpoint", "evaluation", "attempt", "device", "kernels"}
    for index, row in enumerate(rows):
        assert set(row) | filled_by_caller == set(ROWS)
        assert row["index"] == index
        assert row["failure"] is None if row["exact"] else row["failure"] in FAILURES
        assert row["ending"] in (*ENDINGS, None)
        assert 0 <= row["token_accuracy"] <= 1
        assert (row["token_accuracy"] == 1) == row["exact"]
        assert row["seconds"] > 0
        assert row["state_bytes"] > 0
        if not row["exact"]:
            assert row["context"]
            assert row["expected"] != row["got"]
            assert row["divergence_step"] >= 1
            assert row["margin"] > 0


def test_rows_do_not_depend_on_what_else_is_evaluated(gru):
    model, scenario = gru
    settings = Evaluate(lengths=[2, 3], problems=20)
    alone = rows_of(model, scenario, 3, rollout_max=4, batch=20)[:20]
    points = [Point(2, "random", 0, 20), Point(3, "random", 0, 20)]
    both = dict(evaluate(model, scenario, points, settings.model_copy(update={"rollout_max": 4, "batch": 20}), {}))
    ignored = {"seconds", "replay_equal"}  # a share of the point's problems is replayed
    assert [{k: v for k, v in row.items() if k not in ignored} for row in both[points[1]]] == [
        {k: v for k, v in row.items() if k not in ignored} for row in alone
    ]


def test_long_problems_are_not_continued_where_rollouts_are_bounded(gru):
    tokens = sorted(row["tokens"] for row in rows_of(*gru, 2, rollout_max=0) if not row["exact"])
    most = (tokens[0] + tokens[-1]) // 2
    diverged = [row for row in rows_of(*gru, 2, rollout_max=COUNT, rollout_max_tokens=most) if not row["exact"]]
    assert {row["tokens"] <= most for row in diverged} == {False, True}
    for row in diverged:
        assert (row["answer_right"] is not None) == (row["rollout_tokens"] is not None) == (row["tokens"] <= most)


def test_problems_added_later_are_the_next_ones(gru):
    model, scenario = gru
    settings = Evaluate(lengths=[3], problems=COUNT)
    [(_, later)] = evaluate(model, scenario, [Point(3, "random", 30, 40)], settings, {})
    whole = rows_of(model, scenario, 3)
    assert [(row["index"], row["problem"], row["exact"], row["divergence"]) for row in later] == [
        (row["index"], row["problem"], row["exact"], row["divergence"]) for row in whole[30:]
    ]


def test_the_standing_check_notices_a_decoder_that_disagrees(gru):
    model, scenario = gru
    rows = rows_of(model, scenario, 2, rollout_max=COUNT)
    diverged = next(row for row in rows if not row["exact"])
    assert agree(diverged, dict(diverged))
    assert not agree(diverged, {**diverged, "divergence": diverged["divergence"] + 1})
    assert not agree({**diverged, "rollout_margin": 1.0}, {**diverged, "rollout_margin": 1.0, "output": "9 9"})
    assert agree({**diverged, "rollout_margin": 1e-5}, {**diverged, "rollout_margin": 1.0, "output": "9 9"})


def test_a_broken_step_makes_the_standing_check_fail(gru):
    model, scenario = gru

    class Broken(torch.nn.Module):
        learns = "gradients"

        def __init__(self):
            super().__init__()
            self.inner = model
            self.forward, self.initial_state, self.cost = model.forward, model.initial_state, model.cost

        def step(self, tokens, state):
            logits, state = model.step(tokens, state)
            return -logits, state

    rows = rows_of(Broken(), scenario, 2, replay=1.0)
    assert False in [row["replay_equal"] for row in rows]


class Elsewhere:
    """A model that says it is on a GPU."""

    records = True

    def parameters(self):
        yield types.SimpleNamespace(device=torch.device("cuda"))


@pytest.mark.parametrize(
    ("verifying", "places", "room", "asked"),
    [
        # Seconds a problem, where problems of the pilot diverge (of 100 tokens), and what follows the pilot.
        # A step takes 0.1 s with up to 8 rows and 0.2 s with more; the longest rollout is taken to be 125 tokens.
        (0.5, [], 16, [("verify", 32, 16)]),  # none
        (0.5, [99], 16, [("step", 40), ("step", 5), ("verify", 32, 16)]),  # late: 20 + 26 x 0.1 s against 125 x 0.2 s
        (0.5, [1] * 8, 16, [("step", 40), ("step", 16), ("live", 40)]),  # early, all: 20 + 124 x 0.2 s
        (0.5, [1] * 8, 1, [("step", 40), ("step", 1), ("live", 40)]),  # early, one to continue: 20 + 124 x 0.1 s
        (0.3, [1] * 8, 1, [("step", 40), ("step", 1), ("verify", 32, 1)]),  # the same: 12 + 124 x 0.1 s
        (0.09, [1] * 8, 16, [("step", 40), ("verify", 32, 16)]),  # 3.6 s is no more than a fifth of 100 x 0.2 s
        (0.02, [1] * 8, 16, [("verify", 32, 16)]),  # 0.8 s: not worth a question
    ],
)
def test_auto_goes_live_where_that_takes_less_time(gru, monkeypatch, verifying, places, room, asked):
    _, scenario = gru
    drawn = problems(scenario.task, "evaluation", 2, COUNT)
    calls, clock, diverging = [], [0.0], list(places)

    def verified(model, scenario, batch, *, keep, **_):
        clock[0] += verifying * len(batch)
        return [Verified(tokens=100, divergence=diverging.pop(0) if diverging else None) for _ in batch]

    def continued(model, scenario, batch, settings, room, helpers, known):
        calls.append(("verify", len(batch) - len(known), room))

    def stepped(model, scenario, starts, precision):
        calls.append(("step", len(starts)))
        return 0.1 if len(starts) <= 8 else 0.2

    monkeypatch.setattr("harness.evaluate.verify", verified)
    monkeypatch.setattr("harness.evaluate.verify_then_continue", continued)
    monkeypatch.setattr("harness.evaluate.step_seconds", stepped)
    monkeypatch.setattr("harness.evaluate.live", lambda model, scenario, batch, *_: calls.append(("live", len(batch))))
    monkeypatch.setattr("harness.evaluate.time", types.SimpleNamespace(perf_counter=lambda: clock[0]))
    cheaper(Elsewhere(), scenario, drawn, Evaluate(lengths=[2], mode="auto", budget=1.5), room)
    assert calls == asked


def test_what_was_verified_before_is_continued_with_the_rest(gru):
    model, scenario = gru
    drawn, settings = problems(scenario.task, "evaluation", 4, 12), Evaluate(lengths=[4])
    known = verify(model, scenario, drawn[:6], chunk=settings.chunk, keep=6)
    room = sum(one.divergence is not None for one in known) + 1
    rows = verify_then_continue(model, scenario, drawn, settings, room, None, known)
    others = verify_then_continue(model, scenario, drawn, settings, room)
    assert 1 < room < sum(not row["exact"] for row in rows)
    assert sum(row["rollout_tokens"] is not None for row in rows) == room
    assert all(agree(one, other) for one, other in zip(rows, others, strict=True))


def test_auto_verifies_on_a_cpu_and_where_there_are_few(gru, monkeypatch):
    model, scenario = gru
    assert {row["mode"] for row in rows_of(model, scenario, 2, mode="auto", rollout_max=COUNT)} == {"verify"}
    calls = []
    monkeypatch.setattr("harness.evaluate.verify_then_continue", lambda *arguments: calls.append(arguments[2]))
    drawn = problems(scenario.task, "evaluation", 2, 7)
    cheaper(Elsewhere(), scenario, drawn, Evaluate(lengths=[2], mode="auto"), 5)
    assert calls == [drawn]


def test_a_step_of_rollouts_takes_some_time_and_moves_none_of_them(gru):
    model, scenario = gru
    starts = [from_question(scenario, problem, 100) for problem in problems(scenario.task, "evaluation", 2, 3)]
    assert 0 < step_seconds(model, scenario, starts, "float32") < 60
    assert all(start.environment.made == 0 for start in starts)


def test_live_mode_has_no_token_accuracy(gru):
    model, scenario = gru
    drawn = problems(scenario.task, "evaluation", 3, 4)
    rows = live(model, scenario, drawn, Evaluate(lengths=[3]))
    assert all(row["token_accuracy"] is None and row["mode"] == "live" for row in rows)


def test_stop_ends_between_batches(gru):
    model, scenario = gru
    settings = Evaluate(lengths=[2, 3], problems=8)
    calls = iter([False, True, True])
    points = [Point(2, "random", 0, 8), Point(3, "random", 0, 8)]
    done = list(evaluate(model, scenario, points, settings, {}, stop=lambda: next(calls)))
    assert [point.length for point, _ in done] == [2]


def test_a_rollout_that_resumes_far_behind_is_brought_there_in_pieces(gru, monkeypatch):
    model, scenario = gru
    whole = rows_of(model, scenario, 3, rollout_max=COUNT)
    monkeypatch.setattr("harness.rollout.LAUNCH", 100)
    pieces = rows_of(model, scenario, 3, rollout_max=COUNT)
    assert_same(whole, pieces)


@pytest.mark.parametrize("mode", ["verify", "live"])
def test_helpers_change_no_row(gru, mode):
    model, scenario = gru
    points, settings = [Point(3, "random", 0, COUNT)], Evaluate(lengths=[3], problems=COUNT, rollout_max=3, mode=mode)
    [(_, alone)] = evaluate(model, scenario, points, settings, {})
    [(_, helped)] = evaluate(model, scenario, points, settings, {}, workers=2)
    assert str([{**row, "seconds": 0} for row in alone]) == str([{**row, "seconds": 0} for row in helped])
    assert any(row["rollout_tokens"] for row in alone)
    assert any(row["context"] for row in alone)

"""Rounds of trajectories: the same tokens however they are cut, and whoever makes them."""

import pickle

import numpy as np
import pytest

from harness.ahead import Helpers
from harness.check import scenarios
from harness.pieces import rounds
from tasks import TASKS
from tasks.addition import Addition
from tasks.problems import problems
from tasks.scenario import Scenario

SCENARIO = Scenario("addition", "interactive")
PROBLEMS = [Addition.problem("9" * size, "1") for size in (1, 40, 3, 17, 40)]


def collected(**options):
    """Tokens of each problem as the rounds give them, and the rounds."""
    made = list(rounds(SCENARIO, PROBLEMS, **options))
    tokens = [[] for _ in PROBLEMS]
    own = [[] for _ in PROBLEMS]
    for one in made:
        for at, row in enumerate(one.rows):
            tokens[row] += one.tokens[at, : one.lengths[at]].tolist()
            own[row] += one.own[at, : one.lengths[at]].tolist()
            assert not one.own[at, one.lengths[at] :].any()
    return tokens, own, made


@pytest.mark.parametrize("options", [{"size": 7}, {"size": 64, "launch": 500}, {"size": 50, "multiple": 16}])
def test_rounds_hold_the_trajectories_however_they_are_cut(options):
    tokens, own, made = collected(**options)
    for at, problem in enumerate(PROBLEMS):
        oracle = SCENARIO.encoded(problem)
        assert tokens[at] == oracle.ids.tolist()
        assert own[at] == oracle.own.tolist()
        last = next(one for one in reversed(made) if at in one.rows)
        place = last.rows.index(at)
        assert (last.calls[place], last.walks[place], last.steps[place]) == (
            oracle.calls,
            oracle.longest_walk,
            oracle.steps[-1],
        )
    assert all(one.tokens.shape[1] % options.get("multiple", 1) == 0 for one in made)


def test_rows_that_have_ended_are_left_out_and_the_rest_take_longer_pieces():
    _, _, made = collected(size=64, launch=640)
    shapes = [(one.rows, one.kept, one.tokens.shape[1] // 64) for one in made]
    assert shapes == [
        ([0, 1, 2, 3, 4], None, 2),
        ([1, 2, 3, 4], [1, 2, 3, 4], 2),
        ([1, 3, 4], [0, 2, 3], 3),
        ([1, 3, 4], None, 3),
        ([1, 4], [0, 2], 5),
        ([1, 4], None, 2),
    ]


def test_helpers_make_the_same_rounds():
    with Helpers(2) as helpers:
        for options in ({"size": 7}, {"size": 64, "launch": 500}):
            here, there = rounds(SCENARIO, PROBLEMS, **options), rounds(SCENARIO, PROBLEMS, helpers=helpers, **options)
            for one, other in zip(here, there, strict=True):
                assert np.array_equal(one.tokens, other.tokens)
                assert np.array_equal(one.own, other.own)
                assert (one.rows, one.kept, one.lengths) == (other.rows, other.kept, other.lengths)
                assert (one.calls, one.walks, one.steps) == (other.calls, other.walks, other.steps)


class Failing(Addition):
    def solve(self, problem, agent):
        raise ValueError(f"no way to solve {problem.length} digits")


def test_an_error_of_a_solver_comes_through_the_helpers():
    with Helpers(1) as helpers, pytest.raises(ValueError, match="no way to solve 1 digits"):
        list(rounds(Scenario(Failing, "interactive"), PROBLEMS, 8, helpers=helpers))


def test_everything_shipped_can_be_sent_to_helpers():
    for name in TASKS:
        setting = "direct" if name == "retrieval" else "interactive"
        for scenario in scenarios(Scenario(name, setting).task):
            [problem] = problems(scenario.task, "evaluation", 2, 1)
            there = pickle.loads(pickle.dumps(scenario))
            assert there.encoded(problem).ids.tolist() == scenario.encoded(problem).ids.tolist()

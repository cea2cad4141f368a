"""The checker alone catches every change of an answer; the exact match locates every change of a trajectory."""

import random
from collections import Counter

import pytest

from harness.check import mutated
from harness.config import Evaluate
from harness.evaluate import Point, evaluate
from harness.oracle import Misspelling
from tasks import TASKS
from tasks.addition import Addition
from tasks.problems import problems
from tasks.scenario import Scenario

LENGTHS = (1, 2, 3, 6)
CHANGES = 1_000


# Many repairs of a code base are right: what is wrong with one is tested in tests/tasks/test_code_fix.py.
@pytest.mark.parametrize("name", [name for name in TASKS if name != "code_fix"])
def test_the_checker_alone_catches_every_change_of_an_answer(name):
    """Single changes make no other right answer of any of our tasks: where several are right, they differ in more."""
    task, rng = Scenario(name, "interactive").task, random.Random(name)
    points = [(length, kind) for length in LENGTHS for kind in ("random", *task.stress)]
    drawn = [problem for length, kind in points for problem in problems(task, "evaluation", length, 8, kind)]
    assert all(task.check(problem, problem.answer) for problem in drawn)
    passed = []
    for at in range(CHANGES):
        problem = drawn[at % len(drawn)]
        changed = mutated(rng, task, problem.answer)
        if task.check(problem, changed):
            passed.append((problem.prompt, changed))
    assert passed == []


def test_changes_are_of_every_kind_and_never_none():
    rng, answer = random.Random(0), list("123")
    changed = [mutated(rng, Addition(), answer) for _ in range(2_000)]
    sizes = Counter(len(tokens) for tokens in changed)
    assert answer not in changed
    assert {0, 1, 2, 3, 4, 5} <= set(sizes)
    assert ["1", "1", "2", "3"] in changed
    assert ["2", "1", "3"] in changed
    assert ["1", "2"] in changed
    assert {token for tokens in changed for token in tokens} == set(Addition.tokens)


def scenarios():
    for name in TASKS:
        task = Scenario(name, "interactive").task
        for setting in task.settings:
            for form in task.forms if setting == "interactive" else task.forms[:1]:
                yield Scenario(name, setting, form=form)


def located(scenario, length, changes):
    """Positions of changed tokens, all of which the evaluation must have found where they are."""
    positions, seed = [], 0
    drawn = {problem.key: problem for problem in problems(scenario.task, "evaluation", length, 64)}
    settings = Evaluate(lengths=(length,), problems=64, rollout_max=0, replay=0)
    while len(positions) < changes:
        model = Misspelling(scenario, error_rate=1.0, error_seed=seed)
        [(_, rows)] = evaluate(model, scenario, [Point(length, "random", 0, 64)], settings, {})
        for row in rows:
            error = model.planted(drawn[row["problem"]])
            found = (row["divergence"], row["got"])
            assert found == (error.position, scenario.vocabulary.tokens[error.token])
            assert not row["exact"]
            assert row["token_accuracy"] == pytest.approx(1 - 1 / row["own_tokens"])
            positions.append(error.position)
        seed += 1
    return positions


@pytest.mark.parametrize("scenario", scenarios(), ids=lambda s: f"{s.task.name}-{s.setting}-{s.form}")
def test_every_change_of_a_single_token_is_located(scenario):
    assert len(set(located(scenario, 2, 64))) > 1


@pytest.mark.slow
@pytest.mark.parametrize("scenario", scenarios(), ids=lambda s: f"{s.task.name}-{s.setting}-{s.form}")
def test_a_thousand_changes_of_single_tokens_are_located(scenario):
    located(scenario, 3, CHANGES)

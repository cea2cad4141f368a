"""`lengthwise check` passes what is right, and names what is not."""

from types import MappingProxyType

import pytest

from harness.check import check
from tasks import TASKS
from tasks.addition import Addition
from tasks.base import Problem
from tasks.hanoi import Hanoi


def wrong(task, lengths=(1, 2, 4), count=4):
    return {finding.promise: finding.wrong for finding in check(task, lengths, count) if finding.wrong is not None}


@pytest.mark.parametrize("name", ["addition", "multiplication", "logical_graph", "palindrome", "hanoi_recursive"])
def test_shipped_tasks_keep_their_promises(name):
    assert name in TASKS
    assert wrong(name) == {}


class LenientChecker(Addition):
    def check(self, problem, output):
        return True


class WrongSolver(Addition):
    def solve(self, problem, agent):
        agent.answer()
        agent.output("9", "9", "9", "9", "9", "9")


class WrongLength(Addition):
    def trajectory_length(self, problem, form="faithful"):
        return super().trajectory_length(problem, form) + 1


class WrongParse(Addition):
    def parse(self, prompt):
        problem = super().parse(prompt)
        return Problem(problem.prompt, problem.answer, problem.length + 1)


class HiddenRandomness(Addition):
    calls = 0

    def sample(self, rng, length):
        HiddenRandomness.calls += 1
        rng.seed(HiddenRandomness.calls)
        return super().sample(rng, length)


class UnknownToken(Addition):
    tokens = tuple(token for token in Addition.tokens if token != "c1")


class Unsendable(Hanoi):
    tool_options = MappingProxyType(
        {**Hanoi.tool_options, "solver": {"answer": lambda prompt: Hanoi().parse(prompt).answer}}
    )


@pytest.mark.parametrize(
    ("task", "promise"),
    [
        (Unsendable, "single_turn, tool solver, form faithful: it can be sent to helper processes"),
        (LenientChecker, "checker"),
        (WrongSolver, "interactive, tool pointer, form faithful: the oracle"),
        (WrongLength, "as long as stated"),
        (WrongParse, "prompts parse"),
        (HiddenRandomness, "the same seed"),
        (UnknownToken, "interactive, tool pointer, form faithful: the oracle"),
    ],
)
def test_broken_tasks_are_named(task, promise):
    assert any(promise in found for found in wrong(task))


class AnyOrder(Addition):
    """Several answers are right: the digits in any order."""

    several_answers = True

    def check(self, problem, output):
        return sorted(output) == sorted(problem.answer)


class AnyOrderUnsaid(AnyOrder):
    several_answers = False


def test_a_task_may_have_several_right_answers_if_it_says_so():
    said, unsaid = (
        next(finding for finding in check(task, (2, 4), 8) if "checker" in finding.promise)
        for task in (AnyOrder, AnyOrderUnsaid)
    )
    assert said.wrong is None
    assert "passes as the answer of" in unsaid.wrong


def test_a_space_too_small_for_a_split_is_no_broken_promise():
    """None of the 27 inputs of three symbols falls to the evaluation, which then takes them all."""
    findings = check("sort", (1, 2, 3), 4)
    assert next(finding for finding in findings if "share no problem" in finding.promise).wrong is None

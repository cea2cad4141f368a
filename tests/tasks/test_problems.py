import random
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tasks.addition import Addition
from tasks.agent import Agent
from tasks.base import Problem, Task
from tasks.problems import BLOCK, jitter, problems, split, training_stream, validation_problems

ADDITION = Addition()
KINDS = ["random", "jittered", "carries", "unequal", "zeros"]


def keys(found: Sequence[Problem]) -> list[str]:
    return [problem.key for problem in found]


class Labelled(Task):
    """`sizes[length]` problems that differ in a label, for spaces of any size."""

    revision = 1
    tokens = ("a",)
    settings = {"direct": ("none",)}
    prompt_end = "a"
    sizes: dict[int, int] = {1: 1, 2: 19, 3: 20, 4: 5_000}
    knows = True

    def sample(self, rng: random.Random, length: int) -> Problem:
        return Problem((f"{length}.{rng.randrange(self.sizes[length])}",), ("a",), length)

    def parse(self, prompt: Sequence[str]) -> Problem:
        raise NotImplementedError

    def solve(self, problem: Problem, agent: Agent) -> None:
        raise NotImplementedError

    def check(self, problem: Problem, output: Sequence[str]) -> bool:
        raise NotImplementedError

    def count(self, length: int) -> int | None:
        return self.sizes[length] if self.knows else None


def test_split_has_the_stated_shares_and_depends_on_content_alone() -> None:
    rng = random.Random(0)
    found = [split(ADDITION.sample(rng, 6)) for _ in range(10_000)]
    assert found.count("training") == pytest.approx(8_000, abs=200)
    assert found.count("validation") == pytest.approx(1_000, abs=150)
    assert found.count("evaluation") == pytest.approx(1_000, abs=150)
    problem = ADDITION.problem("58", "7")
    assert split(problem) == split(Problem(problem.prompt, (), 99)) == split(ADDITION.parse(problem.prompt))


def test_key_is_a_hash_of_the_prompt_that_keeps_tokens_apart() -> None:
    assert ADDITION.problem("58", "7").key == "1561a6c2c251bbc93d73c5217c6b1cc3"
    assert Problem(("ab", "c"), (), 1).key != Problem(("a", "bc"), (), 1).key


@pytest.mark.parametrize("which", KINDS)
@pytest.mark.parametrize("length", [2, 3, 30])
def test_lists_are_distinct_prefix_stable_and_of_their_purpose(which: str, length: int) -> None:
    for purpose in ("validation", "evaluation"):
        found = problems(ADDITION, purpose, length, 40, which)
        assert len(set(keys(found))) == len(found) > 0
        assert {split(problem) for problem in found} == {purpose}
        assert keys(problems(ADDITION, purpose, length, 7, which)) == keys(found)[:7]


def test_training_never_sees_validation_or_evaluation_problems() -> None:
    seen = {key for block in range(3) for key in keys(training_stream(ADDITION, 2, data_seed=5, block=block))}
    held_out = [
        *validation_problems(ADDITION, 2, 500),
        *(p for purpose in ("validation", "evaluation") for n in (1, 2) for p in problems(ADDITION, purpose, n, 500)),
        *(p for which in KINDS for n in (1, 2) for p in problems(ADDITION, "evaluation", n, 50, which)),
    ]
    assert len(seen) > 3_000
    assert len(set(keys(held_out))) > 800
    assert seen.isdisjoint(keys(held_out))
    validation = keys(validation_problems(ADDITION, 2, 500))
    assert set(validation).isdisjoint(keys(problems(ADDITION, "evaluation", 2, 500)))


def test_nines_plus_one_is_always_in_the_carries_and_never_in_training() -> None:
    for length in (2, 3, 17, 1_000):
        nines = ADDITION.problem("9" * length, "1")
        assert split(nines) == "evaluation"
        assert nines in problems(ADDITION, "evaluation", length, 16, "carries")


def test_training_stream_is_resumable_at_any_block() -> None:
    first = training_stream(ADDITION, 3, data_seed=0, block=1)
    assert len(first) == BLOCK
    training_stream(ADDITION, 3, data_seed=0, block=0)
    assert training_stream(ADDITION, 3, data_seed=0, block=1) == first
    others = [(3, 0, 2), (3, 1, 0), (3, 1, 1), (4, 0, 1)]
    for other in others:
        assert keys(training_stream(ADDITION, *other))[:50] != keys(first)[:50]


def test_validation_problems_have_the_lengths_of_training() -> None:
    found = validation_problems(ADDITION, 4, 400)
    assert {problem.length for problem in found} == {1, 2, 3, 4}
    assert {split(problem) for problem in found} == {"validation"}
    assert keys(validation_problems(ADDITION, 4, 100)) == keys(found)[:100]
    assert len(set(keys(found))) == 400


def test_evaluation_problems_do_not_depend_on_process_or_what_ran_before() -> None:
    program = (
        "from tasks.addition import Addition\nfrom tasks.problems import problems\n"
        "print(*(p.key for p in problems(Addition(), 'evaluation', 5, 4)))"
    )
    random.seed(1)
    here = keys(problems(ADDITION, "evaluation", 5, 4))
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert there.stdout.split() == here
    assert here[0] == "f354f9d754b04624756b2f2e1c4f09c1"


def test_a_new_revision_has_new_problems() -> None:
    class Revised(Addition):
        revision = 2
        name = "addition"  # type: ignore[assignment]

    old, new = (keys(problems(task, "evaluation", 9, 20)) for task in (ADDITION, Revised()))
    assert set(old).isdisjoint(new)


def test_jittered_lengths() -> None:
    assert jitter(1_000) == range(997, 1_004)
    assert jitter(50) == range(49, 52)
    assert jitter(1) == range(1, 3)
    assert {problem.length for problem in problems(ADDITION, "evaluation", 40, 60, "jittered")} == {39, 40, 41}


def test_spaces_smaller_than_asked_give_all_they_have() -> None:
    everything = {ADDITION.problem(str(a), str(b)).key: (a, b) for a in range(10) for b in range(10)}
    for purpose in ("validation", "evaluation"):
        expected = {key for key, (a, b) in everything.items() if split(ADDITION.problem(str(a), str(b))) == purpose}
        assert set(keys(problems(ADDITION, purpose, 1, 1_000))) == expected


@pytest.mark.parametrize("knows", [True, False])
def test_a_single_problem_serves_every_purpose(knows: bool) -> None:
    task = Labelled()
    task.knows = knows  # type: ignore[misc]
    for purpose in ("validation", "evaluation"):
        assert [problem.prompt for problem in problems(task, purpose, 1, 5)] == [("1.0",)]
    assert len(training_stream(task, 1, 0, 0)) == BLOCK


def test_lengths_with_few_problems_are_exempt_from_the_split_and_others_are_not() -> None:
    task = Labelled()
    assert len(problems(task, "evaluation", 2, 100)) == 19
    assert {split(problem) for problem in problems(task, "validation", 2, 100)} > {"training"}
    held_out = {p.key for p in problems(task, "evaluation", 3, 100)}
    assert 0 < len(held_out) < 20
    assert held_out.isdisjoint(keys(problems(task, "validation", 3, 100)))
    trained = keys(training_stream(task, 3, 0, 0))
    assert held_out.isdisjoint(trained)
    assert len(set(trained)) > 19


def test_unknown_sizes_end_too() -> None:
    task = Labelled()
    task.knows = False  # type: ignore[misc]
    known = Labelled()
    assert set(keys(problems(task, "evaluation", 3, 100))) == set(keys(problems(known, "evaluation", 3, 100)))
    found, everything = (set(keys(problems(which, "evaluation", 4, 5_000))) for which in (task, known))
    assert found <= everything
    assert len(found) > 0.9 * len(everything) > 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("training", 3, 5), "unknown purpose of a problem list 'training'"),
        (("evaluation", 3, 5, "carry"), "unknown kind of addition problems 'carry', did you mean 'carries'?"),
        (("evaluation", 0, 5), "length must be at least 1"),
        (("evaluation", 3, -1), "count at least 0"),
    ],
)
def test_bad_requests_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError) as error:
        problems(ADDITION, *arguments)
    assert message in str(error.value)

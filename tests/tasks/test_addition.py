import doctest
import random

import pytest

import tasks.addition
from tasks.addition import Addition
from tasks.base import Problem, Role
from tasks.digits import is_sum
from tasks.scenario import Scenario

ADDITION = Addition()
INTERACTIVE = Scenario(ADDITION, "interactive")

GOLDEN = """
<^> <5> <8> <+> <7> <=> r1 <^> R1 r1 <5> R1 r1 <8> R1 r1 <+> L1 r2 <^> R2 r2 <5> R2 r2 <8> R2 r2 <+> R2 r2 <7> R2 r2
<=> L2 r1 <8> r2 <7> L1 L2 5 c1 r1 <5> r2 <+> L1 6 c0 r1 <^> r2 <+> [ANS] r2 <+> R2 r2 <7> R2 r2 <=> R2 r2 <5> R2 r2
<c1> R2 r2 <6> R2 r2 <c0> R2 r2 <[ANS]> L2 L2 r2 <6> 6 L2 r2 <c1> L2 r2 <5> 5 L2 r2 <=> [EOS]
"""


def marked(problem: Problem) -> list[str]:
    trajectory = INTERACTIVE.record(problem)
    given = (Role.QUESTION, Role.OBSERVATION)
    return [f"<{t}>" if role in given else t for t, role in zip(trajectory.tokens, trajectory.roles)]


def solved(problem: Problem) -> tuple[str, ...]:
    trajectory = INTERACTIVE.record(problem)
    return tuple(t for t, role in zip(trajectory.tokens, trajectory.roles) if role is Role.OUTPUT)


def sampled(size: int, longest: int) -> list[Problem]:
    """Random and stress problems of all lengths up to `longest`, and pairs of unequal lengths."""
    rng = random.Random(7)
    samplers = [ADDITION.sample, ADDITION.sample_training, *ADDITION.stress.values()]
    lengths = [1, 2, 3, *(rng.randint(1, longest) for _ in range(size))]
    return [sampler(rng, length) for length in lengths for sampler in samplers]


def test_doctest() -> None:
    result = doctest.testmod(tasks.addition)
    assert result.attempted > 3
    assert result.failed == 0


def test_golden_trace() -> None:
    golden = GOLDEN.split()
    assert len(golden) == 95
    assert marked(ADDITION.problem("58", "7")) == golden


def test_last_carry_is_a_digit_of_its_own() -> None:
    text = " ".join(marked(ADDITION.problem("9", "1")))
    assert "<9> r2 <1> L1 L2 0 c1 r1 <^> r2 <+> 1 c0 [ANS] r2" in text
    assert text.endswith("<[ANS]> L2 L2 r2 <1> 1 L2 r2 <c1> L2 r2 <0> 0 L2 r2 <=> [EOS]")


def test_published_sizes_are_those_with_a_last_carry() -> None:
    for digits, tokens in ((5, 223), (1_000, 35_048)):
        carrying, quiet = (ADDITION.problem(digit * digits, digit * digits) for digit in "54")
        assert len(INTERACTIVE.encoded(carrying)) == tokens
        assert len(INTERACTIVE.encoded(quiet)) == tokens - 15


def test_trajectory_length_is_the_recorded_one() -> None:
    for problem in sampled(30, 60):
        assert ADDITION.trajectory_length(problem) == len(INTERACTIVE.encoded(problem))


def test_solver_finds_the_sum_of_the_integers() -> None:
    for problem in sampled(40, 200):
        first, second = "".join(problem.prompt[1:-1]).split("+")
        expected = tuple(str(int(first) + int(second)))
        assert solved(problem) == expected == problem.answer
        assert ADDITION.check(problem, expected)


@pytest.mark.parametrize("wrong", ["66", "065", "6", "", "6 5 0", "6 c0", "6 x", "65", "6 ٥", "6 -5"])
def test_check_refuses_all_but_the_digits_of_the_sum(wrong: str) -> None:
    problem = ADDITION.problem("58", "7")
    assert not ADDITION.check(problem, wrong.split() if " " in wrong or len(wrong) < 2 else [*wrong, "0"])
    assert ADDITION.check(problem, ["6", "5"])
    assert not ADDITION.check(problem, ["65"])


def test_zero_has_one_digit() -> None:
    assert ADDITION.problem("0", "0").answer == ("0",)
    assert ADDITION.check(ADDITION.problem("0", "0"), ["0"])
    assert not ADDITION.check(ADDITION.problem("0", "0"), ["0", "0"])


@pytest.mark.parametrize("digits", [999, 1_000, 1_001, 4_300, 4_301, 10_000])
def test_any_number_of_digits(digits: int) -> None:
    nines = ADDITION.problem("9" * digits, "1")
    assert nines.answer == ("1", *"0" * digits)
    assert ADDITION.check(nines, nines.answer)
    assert not ADDITION.check(nines, ("1", *"0" * (digits - 1), "1"))
    problem = ADDITION.sample(random.Random(digits), digits)
    assert len(problem.prompt) == 2 * digits + 3
    assert ADDITION.check(problem, problem.answer)


def test_samples_have_exactly_the_length_asked_for() -> None:
    rng = random.Random(0)
    for length in (1, 2, 3, 10, 1_000, 1_001, 2_000):
        problem = ADDITION.sample(rng, length)
        operands = "".join(problem.prompt[1:-1]).split("+")
        assert [len(operand) for operand in operands] == [length] * 2
        assert problem.length == length
        assert length == 1 or all(operand[0] != "0" for operand in operands)


def test_training_lengths_of_the_operands_are_independent_and_uniform() -> None:
    rng = random.Random(0)
    pairs = [tuple(map(len, "".join(ADDITION.sample_training(rng, 3).prompt[1:-1]).split("+"))) for _ in range(3_600)]
    counts = [pairs.count((first, second)) for first in (1, 2, 3) for second in (1, 2, 3)]
    assert all(320 < count < 480 for count in counts)


def test_every_number_of_a_length_can_be_sampled() -> None:
    rng = random.Random(0)
    firsts = {"".join(ADDITION.sample(rng, 1).prompt[1:2]) for _ in range(300)}
    assert firsts == set("0123456789")
    firsts = {"".join(ADDITION.sample(rng, 2).prompt[1:3]) for _ in range(2_000)}
    assert firsts == {str(number) for number in range(10, 100)}


def test_count() -> None:
    assert [ADDITION.count(length) for length in (1, 2, 3)] == [100, 8_100, 810_000]


def operands(problem: Problem) -> list[str]:
    return "".join(problem.prompt[1:-1]).split("+")


def test_stress_carries_run_through_every_digit() -> None:
    rng = random.Random(0)
    problems = [ADDITION.stress["carries"](rng, 6) for _ in range(200)]
    for problem in problems:
        first, second = operands(problem)
        trajectory = INTERACTIVE.record(problem)
        carries = [t for t, role in zip(trajectory.tokens, trajectory.roles) if t[0] == "c" and role is Role.THOUGHT]
        assert carries == ["c1"] * 6 + ["c0"]
        assert len(first) == 6
        assert len(second) in (1, 6)
    nines = ADDITION.problem("999999", "1")
    assert nines in problems
    assert nines.reserved
    assert not any(problem.reserved for problem in problems if problem != nines)


def test_sums_are_told_from_wrong_ones_at_any_length() -> None:
    rng = random.Random(0)
    for _ in range(300):
        first, second = (rng.randrange(10 ** rng.choice([1, 3, 999, 1000, 1001, 2500])) for _ in range(2))
        for wrong in (0, 1, 10**999, 10**1000, -(10**1000)):
            if first + second + wrong >= 0:
                assert is_sum(str(first + second + wrong), str(first), str(second)) == (wrong == 0)


def test_stress_unequal_operands() -> None:
    rng = random.Random(0)
    lengths = {tuple(map(len, operands(ADDITION.stress["unequal"](rng, 4)))) for _ in range(300)}
    assert lengths == {(4, 1), (4, 2), (4, 3), (1, 4), (2, 4), (3, 4)}
    assert ADDITION.stress["unequal"](rng, 1).length == 1


def test_stress_zeros() -> None:
    rng = random.Random(0)
    problems = [ADDITION.stress["zeros"](rng, 40) for _ in range(200)]
    digits = [digit for problem in problems for operand in operands(problem) for digit in operand]
    assert digits.count("0") > 0.8 * len(digits)
    assert {problem.length for problem in problems} == {40}
    zero_first = [operands(problem)[0] == "0" for problem in problems]
    zero_second = [operands(problem)[1] == "0" for problem in problems]
    assert any(zero_first)
    assert any(zero_second)


def test_parse_is_the_inverse_of_the_prompt() -> None:
    for problem in [*sampled(10, 30), ADDITION.problem("999", "1")]:
        assert ADDITION.parse(problem.prompt) == problem


@pytest.mark.parametrize(
    "prompt", ["", "^ =", "^ 5 + =", "^ 5 7 =", "5 + 7 =", "^ 5 + 0 7 =", "^ 5 + 7 = =", "^ 58 + 7 ="]
)
def test_parse_refuses_what_is_no_prompt(prompt: str) -> None:
    with pytest.raises(ValueError, match="is not a prompt like"):
        ADDITION.parse(prompt.split())

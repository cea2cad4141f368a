import doctest
import random
from itertools import product

import pytest

import tasks.multiplication
from tasks.base import Problem, Role
from tasks.multiplication import Multiplication
from tasks.problems import split
from tasks.scenario import Scenario
from tasks.trajectory import Trajectory

FORMS = Multiplication.forms
every_form = pytest.mark.parametrize("form", FORMS)
GIVEN = (Role.QUESTION, Role.OBSERVATION)

GOLDEN = {
    "faithful": """
<^> <4> <7> <*> <2> <5> <=> r1 <^> R1 r1 <4> R1 r1 <7> R1 r1 <*> L1 r2 <^> R2 r2 <4> R2 r2 <7> R2 r2 <*> R2 r2 <2> R2
r2 <5> R2 r2 <=> L2 r2 <5> r1 <7> L1 5 c3 r1 <4> L1 3 c2 r1 <^> 2 c0 L2 r2 <2> + 0 r1 <^> R1 r1 <4> R1 r1 <7> R1 r1
<*> L1 r1 <7> L1 4 c1 r1 <4> L1 9 c0 r1 <^> L2 r2 <*> = r1 <^> R1 r1 <4> R1 r1 <7> R1 r1 <*> R1 r1 <2> R1 r1 <5> R1
r1 <=> R1 r2 <*> R2 r2 <2> R2 r2 <5> R2 r2 <=> R2 r2 <5> R2 r2 <c3> R2 r2 <3> R2 r2 <c2> R2 r2 <2> R2 r2 <c0> R2 r2
<+> R2 r1 <5> r2 <0> R1 R2 5 c0 r1 <c3> R1 r1 <3> r2 <4> R1 R2 7 c0 r1 <c2> R1 r1 <2> r2 <c1> R2 r2 <9> R1 R2 1 c1 r1
<c0> R1 r1 <+> r2 <c0> R2 r2 <=> 1 c0 [ANS] r1 <+> R1 r1 <0> R1 r1 <4> R1 r1 <c1> R1 r1 <9> R1 r1 <c0> R1 r1 <=> R1 r1
<5> R1 r1 <c0> R1 r1 <7> R1 r1 <c0> R1 r1 <1> R1 r1 <c1> R1 r1 <1> R1 r1 <c0> R1 r1 <[ANS]> L1 L1 r1 <1> 1 L1 r1 <c1>
L1 r1 <1> 1 L1 r1 <c0> L1 r1 <7> 7 L1 r1 <c0> L1 r1 <5> 5 L1 r1 <=> [EOS]
""",
    "localised": """
<^> <4> <7> <*> <2> <5> <=> r2 <^> R2 r2 <4> R2 r2 <7> R2 r2 <*> R2 r2 <2> R2 r2 <5> R2 r2 <=> L2 r1 <^> R1 r1 <4> R1
r1 <7> R1 r1 <*> L1 r2 <5> r1 <7> L1 5 c3 r2 <5> r1 <4> L1 3 c2 r2 <5> r1 <^> 2 c0 L2 r2 <2> + R2 r2 <5> 0 c0 R1 R2 r2
<=> L2 r1 <4> L1 L2 r1 <^> R1 r1 <4> R1 r1 <7> R1 r1 <*> L1 r2 <2> r1 <7> L1 4 c1 r2 <2> r1 <4> L1 9 c0 r2 <2> r1 <^>
L2 r2 <*> = R1 R2 r1 <4> R1 R2 r1 <7> R1 R2 r1 <*> R1 R2 r1 <2> R1 R2 r1 <5> R1 R2 r1 <=> R1 R2 r2 <c2> R2 r2 <2> R2 r2
<c0> R2 r2 <+> R2 r1 <5> r2 <0> R1 R1 R2 R2 5 c0 r1 <3> r2 <4> R1 R1 R2 R2 7 c0 r1 <2> r2 <9> R1 R1 R2 R2 1 c1 r1 <+>
r2 <=> 1 c0 [ANS] r1 <+> R1 r1 <0> R1 r1 <c0> R1 r1 <4> R1 r1 <c1> R1 r1 <9> R1 r1 <c0> R1 r1 <=> R1 r1 <5> R1 r1 <c0>
R1 r1 <7> R1 r1 <c0> R1 r1 <1> R1 r1 <c1> R1 r1 <1> R1 r1 <c0> R1 r1 <[ANS]> L1 L1 r1 <1> 1 L1 r1 <c1> L1 r1 <1> 1 L1 r1
<c0> L1 r1 <7> 7 L1 r1 <c0> L1 r1 <5> 5 L1 r1 <=> [EOS]
""",
}


class One(Multiplication):
    second_digits = 1


class Three(Multiplication):
    second_digits = 3


class Four(Multiplication):
    second_digits = 4


MULTIPLICATION = Multiplication()
every_class = pytest.mark.parametrize("task", [One(), MULTIPLICATION, Three(), Four()], ids=lambda t: t.second_digits)


def recorded(task: Multiplication, form: str, problem: Problem) -> Trajectory:
    return Scenario(task, "interactive", form=form).record(problem)


def marked(problem: Problem, form: str) -> str:
    trajectory = recorded(MULTIPLICATION, form, problem)
    return " ".join(f"<{t}>" if role in GIVEN else t for t, role in zip(trajectory.tokens, trajectory.roles))


def sampled(task: Multiplication, size: int, longest: int) -> list[Problem]:
    """Random and stress problems of all kinds, of lengths up to `longest`."""
    rng = random.Random(7)
    samplers = [task.sample, task.sample_training, *task.stress.values()]
    lengths = [1, 2, 3, *(rng.randint(1, longest) for _ in range(size))]
    return [sampler(rng, length) for length in lengths for sampler in samplers]


def factors(problem: Problem) -> tuple[str, str]:
    first, second = "".join(problem.prompt[1:-1]).split("*")
    return first, second


def test_doctest() -> None:
    result = doctest.testmod(tasks.multiplication)
    assert result.attempted > 3
    assert result.failed == 0


@every_form
def test_golden_trace(form: str) -> None:
    assert marked(MULTIPLICATION.problem("47", "25"), form) == " ".join(GOLDEN[form].split())


@every_form
def test_a_single_partial_product_is_summed_too(form: str) -> None:
    text = marked(MULTIPLICATION.problem("8", "9"), form)
    wanted = {
        "faithful": "= r1 <^> R1 r1 <8> R1 r1 <*> R1 r1 <9> R1 r1 <=> R1 "
        "r1 <2> R1 2 c0 r1 <c7> R1 r1 <7> R1 7 c0 r1 <c0> R1 r1 <=> [ANS]",
        "localised": "= R1 R2 r1 <8> R1 R2 r1 <*> R1 R2 r1 <9> R1 R2 r1 <=> R1 R2 r2 <7> R2 r2 <c0> R2 r2 <=> "
        "r1 <2> r2 <=> R1 R1 2 c0 r1 <7> r2 <=> R1 R1 7 c0 r1 <=> r2 <=> [ANS]",
    }
    assert wanted[form] in text


@every_form
def test_leading_zeros_are_not_copied(form: str) -> None:
    text = marked(MULTIPLICATION.problem("305", "0"), form)
    assert text.endswith("<[ANS]> L1 L1 r1 <0> L1 r1 <c0> L1 r1 <0> L1 r1 <c0> L1 r1 <0> L1 r1 <=> 0 [EOS]")
    text = marked(MULTIPLICATION.problem("50", "20"), form)
    assert text.endswith(
        "r1 <1> 1 L1 r1 <c0> L1 r1 <0> 0 L1 r1 <c0> L1 r1 <0> 0 L1 r1 <c0> L1 r1 <0> 0 L1 r1 <=> [EOS]"
    )


@every_class
@every_form
def test_solver_finds_the_product_of_the_integers_in_the_stated_number_of_tokens(
    task: Multiplication, form: str
) -> None:
    for problem in sampled(task, 25, 60):
        first, second = factors(problem)
        trajectory = recorded(task, form, problem)
        output = tuple(t for t, role in zip(trajectory.tokens, trajectory.roles) if role is Role.OUTPUT)
        assert output == tuple(str(int(first) * int(second))) == problem.answer
        assert task.check(problem, output)
        assert task.trajectory_length(problem, form) == len(trajectory.tokens)


@every_form
def test_all_small_products(form: str) -> None:
    for first, second in product([*range(13), 99, 100, 101, 109], [*range(21), 90, 91, 99]):
        problem = MULTIPLICATION.problem(str(first), str(second))
        trajectory = recorded(MULTIPLICATION, form, problem)
        output = [t for t, role in zip(trajectory.tokens, trajectory.roles) if role is Role.OUTPUT]
        assert "".join(output) == str(first * second)
        assert MULTIPLICATION.trajectory_length(problem, form) == len(trajectory.tokens)


def test_the_published_lengths_are_linear() -> None:
    nines = {digits: MULTIPLICATION.problem("9" * 1_000, "9" * digits) for digits in (1, 2)}
    tokens = {
        (digits, form): MULTIPLICATION.trajectory_length(nines[digits], form) for digits in nines for form in FORMS
    }
    assert tokens == {
        (1, "faithful"): 36_075,
        (1, "localised"): 42_084,
        (2, "faithful"): 62_158,
        (2, "localised"): 60_161,
    }
    for (digits, form), length in tokens.items():
        assert len(Scenario(MULTIPLICATION, "interactive", form=form).encoded(nines[digits])) == length


def conflict(task: Multiplication, form: str, window: int, problems: list[Problem]) -> str | None:
    """A context of `window` tokens after which the solver makes different tokens; None if there is none."""
    follows: dict[tuple[str, ...], str] = {}
    for problem in problems:
        trajectory = recorded(task, form, problem)
        for i, (token, role) in enumerate(zip(trajectory.tokens, trajectory.roles)):
            context = trajectory.tokens[max(0, i - window) : i]
            if role not in GIVEN and follows.setdefault(tuple(context), token) != token:
                return f"{' '.join(context)} -> {follows[tuple(context)]} or {token}"
    return None


@pytest.mark.parametrize(("task", "window"), [(One(), 9), (MULTIPLICATION, 9), (Four(), 17)])
def test_localised_tokens_follow_from_the_last_few(task: Multiplication, window: int) -> None:
    assert conflict(task, "localised", window, sampled(task, 120, 12)) is None
    assert conflict(task, "localised", window, sampled(task, 5, 100)) is None


def test_faithful_tokens_depend_on_what_is_far_away() -> None:
    """The step that ends a long walk of pointer 1 on `*` depends on what the walk is for."""
    problems = [MULTIPLICATION.problem("1" * 40, second) for second in ("1", "11")]
    assert conflict(MULTIPLICATION, "faithful", 60, problems) is not None
    assert conflict(MULTIPLICATION, "localised", 9, problems) is None


@pytest.mark.parametrize("form", FORMS)
def test_carries_stay_in_the_vocabulary(form: str) -> None:
    class Ten(Multiplication):
        second_digits = 10

    task = Ten()
    trajectory = recorded(task, form, task.problem("9" * 12, "9" * 10))
    output = [t for t, role in zip(trajectory.tokens, trajectory.roles) if role is Role.OUTPUT]
    assert int("".join(output)) == (10**12 - 1) * (10**10 - 1)
    carries = {token for token in trajectory.tokens if token[0] == "c"}
    assert {"c0", "c8", "c9"} <= carries <= set(task.tokens)


@pytest.mark.parametrize("digits", [0, 11])
def test_impossible_second_digits_are_refused(digits: int) -> None:
    with pytest.raises(ValueError, match=rf"second_digits = {digits}, must be 1\.\.10"):
        type("Wrong", (Multiplication,), {"second_digits": digits})


def test_longer_second_factors_are_refused() -> None:
    for ask in (lambda: MULTIPLICATION.problem("5", "123"), lambda: MULTIPLICATION.parse([*"^5*123="])):
        with pytest.raises(ValueError, match="second factor of 3 digits, at most 2"):
            ask()
    assert Three().problem("5", "123").answer == ("6", "1", "5")


def test_pointers_fit_the_second_factor() -> None:
    pointers = [Scenario(task, "interactive").tool_options["pointers"] for task in (One(), MULTIPLICATION, Four())]
    assert pointers == [2, 2, 4]


@pytest.mark.parametrize("wrong", ["8 5", "0 8 4", "8", "", "8 4 0", "4 8", "8 c0", "8 x", "84", "8 ٤", "- 8 4"])
def test_check_refuses_all_but_the_digits_of_the_product(wrong: str) -> None:
    problem = MULTIPLICATION.problem("7", "12")
    assert not MULTIPLICATION.check(problem, wrong.split())
    assert MULTIPLICATION.check(problem, ["8", "4"])


def test_check_catches_every_random_mutation() -> None:
    rng = random.Random(0)
    for _ in range(1_000):
        problem = MULTIPLICATION.sample(rng, rng.randint(1, 30))
        output = list(problem.answer)
        at = rng.randrange(len(output) + 1)
        replaced = [rng.choice(MULTIPLICATION.tokens) for _ in range(rng.randint(0, 2))]
        mutated = [*output[:at], *replaced, *output[at + rng.randint(0, 2) :]]
        assert MULTIPLICATION.check(problem, mutated) is (mutated == output)


@pytest.mark.parametrize("digits", [999, 1_000, 1_001, 4_300, 4_301, 10_000])
def test_any_number_of_digits(digits: int) -> None:
    nines = MULTIPLICATION.problem("9" * digits, "99")
    assert nines.answer == ("9", "8", *"9" * (digits - 2), "0", "1")
    assert MULTIPLICATION.check(nines, nines.answer)
    assert not MULTIPLICATION.check(nines, ("9", "8", *"9" * (digits - 2), "0", "2"))
    problem = MULTIPLICATION.sample(random.Random(digits), digits)
    assert MULTIPLICATION.check(problem, problem.answer)
    assert MULTIPLICATION.parse(problem.prompt) == problem


def test_samples_have_exactly_the_length_asked_for_and_both_widths_equally_often() -> None:
    rng = random.Random(0)
    for length in (1, 2, 10, 1_000, 1_001):
        problem = MULTIPLICATION.sample(rng, length)
        assert len(factors(problem)[0]) == length == problem.length
    widths = [len(factors(MULTIPLICATION.sample(rng, 3))[1]) for _ in range(2_000)]
    assert 900 < widths.count(1) < 1_100
    assert set(widths) == {1, 2}


def test_training_lengths_are_independent_and_uniform() -> None:
    rng = random.Random(0)
    pairs = [tuple(map(len, factors(MULTIPLICATION.sample_training(rng, 3)))) for _ in range(2_400)]
    counts = [pairs.count((first, second)) for first in (1, 2, 3) for second in (1, 2)]
    assert sum(counts) == 2_400
    assert all(320 < count < 480 for count in counts)


@every_class
def test_widths_of_the_second_factor_can_be_asked_for(task: Multiplication) -> None:
    rng = random.Random(0)
    assert [name for name in task.stress if name[0] == "x"] == [f"x{k}" for k in range(1, task.second_digits + 1)]
    for k in range(1, task.second_digits + 1):
        found = [factors(task.stress[f"x{k}"](rng, 4)) for _ in range(50)]
        assert {(len(first), len(second)) for first, second in found} == {(4, k)}


def test_count_is_that_of_all_samples() -> None:
    rng = random.Random(0)
    found = {MULTIPLICATION.sample(rng, 1).prompt for _ in range(20_000)}
    assert len(found) == MULTIPLICATION.count(1) == 1_000
    assert [MULTIPLICATION.count(length) for length in (2, 3)] == [9_000, 90_000]
    assert One().count(2) == 900


def test_stress_carries_run_through_every_digit() -> None:
    rng = random.Random(0)
    found = [MULTIPLICATION.stress["carries"](rng, 6) for _ in range(100)]
    for problem in found:
        trajectory = recorded(MULTIPLICATION, "faithful", problem)
        phases = [trajectory.phases[step] for step in trajectory.steps]
        thoughts = [
            token
            for token, role, phase in zip(trajectory.tokens, trajectory.roles, phases)
            if phase == "multiply" and role is Role.THOUGHT and token[0] == "c"
        ]
        sweeps = len(factors(problem)[1])
        assert [int(token[1:]) >= 3 for token in thoughts] == [*[True] * 6, False] * sweeps
    nines = {problem for problem in found if set("".join(factors(problem))) == {"9"}}
    assert {factors(problem)[1] for problem in nines} == {"9", "99"}
    assert all(problem.reserved and split(problem) == "evaluation" for problem in nines)
    assert not any(problem.reserved for problem in found if problem not in nines)


def test_stress_zeros() -> None:
    rng = random.Random(0)
    found = [factors(MULTIPLICATION.stress["zeros"](rng, 40)) for _ in range(200)]
    digits = "".join(first for first, _ in found)
    assert digits.count("0") > 0.8 * len(digits)
    assert {len(first) for first, _ in found} == {40}
    seconds = [second for _, second in found]
    assert 30 < seconds.count("0") < 75
    assert sum(second[1:] == "0" for second in seconds) > 30


def test_parse_is_the_inverse_of_the_prompt() -> None:
    for problem in sampled(MULTIPLICATION, 10, 30):
        assert MULTIPLICATION.parse(problem.prompt) == problem


@pytest.mark.parametrize(
    "prompt", ["", "^ =", "^ 5 * =", "^ 5 7 =", "5 * 7 =", "^ 5 + 7 =", "^ 5 * 0 7 =", "^ 5 * 7 = =", "^ 58 * 7 ="]
)
def test_parse_refuses_what_is_no_prompt(prompt: str) -> None:
    with pytest.raises(ValueError, match="is not a prompt like"):
        MULTIPLICATION.parse(prompt.split())


def test_single_turn_asks_the_calculator_once() -> None:
    trajectory = Scenario(MULTIPLICATION, "single_turn").record(MULTIPLICATION.problem("58", "7"))
    assert " ".join(trajectory.tokens[6:]) == "[CALL] 5 8 * 7 [RUN] 4 0 6 [END] [ANS] 4 0 6 [EOS]"

"""Multi-digit addition, by long addition with two pointers (Malach et al., arXiv 2510.14826, section 4)."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from tasks.agent import Agent
from tasks.base import ANSWER, Problem, Sampler, Task
from tasks.digits import (
    add,
    calculate,
    is_number,
    is_sum,
    numbers_bits,
    random_digits,
    random_number,
    seek,
    share,
    sparse_number,
    walk,
)
from tools.calculator import DIGITS

_CARRIES = ("c0", "c1")
_PROMPT = re.compile(r"\^(0|[1-9][0-9]*)\+(0|[1-9][0-9]*)=")
_VALUES = {digit: int(digit) for digit in DIGITS}
_NINES_COMPLEMENT = str.maketrans("0123456789", "9876543210")


class Addition(Task):
    """Sum of two nonnegative integers; the length is the number of digits of the longer one.

    `58 + 7` worked by hand, in the setting interactive. `L1 R1 r1` are left, right and read of pointer 1; the question
    and what the tool answers stand in angle brackets:

    >>> from tasks.scenario import Scenario
    >>> trajectory = Scenario("addition", "interactive").record(Addition().problem("58", "7"))
    >>> lines = {}
    >>> for token, role, step in zip(trajectory.tokens, trajectory.roles, trajectory.steps):
    ...     given = role.name in ("QUESTION", "OBSERVATION")
    ...     lines.setdefault(step, []).append(f"<{token}>" if given else token)
    >>> for step, line in lines.items():
    ...     print(f"{trajectory.phases[step]:8}", *line)
    question <^> <5> <8> <+> <7> <=>
    walk     r1 <^> R1 r1 <5> R1 r1 <8> R1 r1 <+> L1
    walk     r2 <^> R2 r2 <5> R2 r2 <8> R2 r2 <+> R2 r2 <7> R2 r2 <=> L2
    add      r1 <8> r2 <7> L1 L2 5 c1
    add      r1 <5> r2 <+> L1 6 c0
    add      r1 <^> r2 <+> [ANS]
    return   r2 <+> R2 r2 <7> R2 r2 <=> R2 r2 <5> R2 r2 <c1> R2 r2 <6> R2 r2 <c0> R2 r2 <[ANS]> L2 L2
    copy     r2 <6> 6 L2
    copy     r2 <c1> L2 r2 <5> 5 L2
    copy     r2 <=> [EOS]

    The sum stands in the memory least significant digit first, each digit before its carry. A last carry is a digit
    of its own: `r1 <^> r2 <+> 1 c0 [ANS]`.
    """

    revision: ClassVar[int] = 1
    tokens: ClassVar[tuple[str, ...]] = ("^", *DIGITS, "+", "=", *_CARRIES)
    prompt_end: ClassVar[str] = "="
    settings: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "interactive": ("pointer",),
        "single_turn": ("calculator",),
        "cot": ("none",),
        "direct": ("none",),
        "direct_reversed": ("none",),
    }
    tool_options: ClassVar[Mapping[str, Mapping[str, object]]] = {"pointer": {"pointers": 2}}

    @property
    def stress(self) -> Mapping[str, Sampler]:
        return {"carries": _carries, "unequal": _unequal, "zeros": _zeros}

    @staticmethod
    def problem(first: str, second: str) -> Problem:
        """`first + second`, given as decimal digits."""
        return _problem(first, second)

    def sample(self, rng: random.Random, length: int) -> Problem:
        """Both operands have exactly `length` digits."""
        return _problem(random_number(rng, length), random_number(rng, length))

    def sample_training(self, rng: random.Random, max_length: int) -> Problem:
        """The lengths of the operands are independent."""
        return _problem(random_number(rng, rng.randint(1, max_length)), random_number(rng, rng.randint(1, max_length)))

    def parse(self, prompt: Sequence[str]) -> Problem:
        match = _PROMPT.fullmatch("".join(prompt))
        problem = _problem(*match.groups()) if match else None
        if problem is None or problem.prompt != tuple(prompt):
            raise ValueError(f"addition: {' '.join(prompt)[:80]!r} is not a prompt like '^ 5 8 + 7 ='")
        return problem

    def solve(self, problem: Problem, agent: Agent) -> None:
        walk(agent, "1", "+")
        walk(agent, "2", "=")
        _add(agent)
        agent.step("return")
        seek(agent, "2", ANSWER)
        agent.command("L2", "L2")
        _copy(agent)

    def call(self, problem: Problem, agent: Agent) -> None:
        calculate(problem, agent)

    def check(self, problem: Problem, output: Sequence[str]) -> bool:
        first, second = "".join(problem.prompt[1:-1]).split("+")
        given = "".join(output)
        if set(output) - set(DIGITS) or not is_number(given) or len(given) > problem.length + 1:
            return False
        return is_sum(given, first, second)

    def count(self, length: int) -> int:
        operands = 10 if length == 1 else 9 * 10 ** (length - 1)
        return operands**2

    def chance(self, length: int) -> float:
        """The likeliest sum comes about once for every first operand."""
        return 1 / (10 if length == 1 else 9 * 10 ** (length - 1))

    def covered(self, bits: float, length: int) -> float:
        """Whatever the first operand is, only one second one gives a certain sum."""
        return share(bits, numbers_bits(length))

    def trajectory_length(self, problem: Problem, form: str = "faithful") -> int:
        """27 and 8 tokens for each digit of the longer and the shorter operand, 33, and 15 for a last carry."""
        longer = problem.length
        shorter = len(problem.prompt) - 3 - longer
        return 27 * longer + 8 * shorter + 33 + 15 * (len(problem.answer) - longer)


def _add(agent: Agent) -> None:
    """Add digit by digit from the right; a pointer stops at a non-digit, and two stopped pointers end it."""
    carry = 0
    while True:
        agent.step("add")
        (first,), (second,) = agent.command("r1"), agent.command("r2")
        if first not in _VALUES and second not in _VALUES:
            break
        carry, digit = divmod(carry + _VALUES.get(first, 0) + _VALUES.get(second, 0), 10)
        if first in _VALUES:
            agent.command("L1")
        if second in _VALUES:
            agent.command("L2")
        agent.think(DIGITS[digit], _CARRIES[carry])
    if carry:
        agent.think("1", "c0")
    agent.answer()


def _copy(agent: Agent) -> None:
    """Copy the digits of the sum backwards, skipping the carries, until the question is reached."""
    while True:
        agent.step("copy")
        (cell,) = agent.command("r2")
        if cell in _CARRIES:
            agent.command("L2")
            (cell,) = agent.command("r2")
        if cell == "=":
            break
        agent.output(cell)
        agent.command("L2")


def _problem(first: str, second: str) -> Problem:
    all_nines_and_one = second == "1" and len(first) > 1 and set(first) == {"9"}
    length = max(len(first), len(second))
    return Problem(("^", *first, "+", *second, "="), tuple(add(first, second)), length, reserved=all_nines_and_one)


def _carries(rng: random.Random, length: int) -> Problem:
    """A carry that starts at the last digit and runs through all of them; one draw in eight is 99..9 + 1."""
    if rng.random() < 1 / 8:
        return _problem("9" * length, "1")
    head = "" if length == 1 else rng.choice("12345678") + random_digits(rng, length - 2)
    last = rng.randint(1, 9)
    return _problem(head + str(last), head.translate(_NINES_COMPLEMENT) + str(rng.randint(10 - last, 9)))


def _unequal(rng: random.Random, length: int) -> Problem:
    """One operand has `length` digits, the other fewer, in either order; at length 1 both have one."""
    operands = [random_number(rng, length), random_number(rng, rng.randint(1, max(1, length - 1)))]
    rng.shuffle(operands)
    return _problem(*operands)


def _zeros(rng: random.Random, length: int) -> Problem:
    """Operands that are nearly all zeros; one draw in four adds 0 itself."""
    second = "0" if rng.random() < 1 / 4 else sparse_number(rng, length)
    operands = [sparse_number(rng, length), second]
    rng.shuffle(operands)
    return _problem(*operands)

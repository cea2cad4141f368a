"""What the arithmetic tasks share: numbers of any length as decimal text, and pointers walking over them."""

from __future__ import annotations

import random
from math import log2

from tasks.agent import Agent
from tasks.base import Problem
from tools.calculator import CALL, RUN

LIMB = 1_000
"""Digits handled at a time: whole numbers take quadratic time to convert, and past 4,300 digits Python refuses."""


def walk(agent: Agent, pointer: str, target: str) -> None:
    """Walk a pointer right to `target` and one step back, onto a least significant digit."""
    agent.step("walk")
    seek(agent, pointer, target)
    agent.command("L" + pointer)


def seek(agent: Agent, pointer: str, target: str) -> None:
    command, read, right = agent.command, "r" + pointer, "R" + pointer
    while command(read) != (target,):
        command(right)


def calculate(problem: Problem, agent: Agent) -> None:
    """Solve by one call of the calculator: the operands copied out as its arguments, its result as the output."""
    agent.step("call")
    result = agent.command(CALL, *problem.prompt[1:-1], RUN)[:-1]
    agent.step("copy")
    agent.answer()
    agent.output(*result)


def add(first: str, second: str) -> str:
    """The sum in limbs of 1,000 digits: linear in the length, where converting whole integers is quadratic."""
    width = -(-max(len(first), len(second)) // LIMB) * LIMB
    first, second = first.zfill(width), second.zfill(width)
    limbs, carry = [], 0
    for start in range(width - LIMB, -1, -LIMB):
        stop = start + LIMB
        carry, limb = divmod(int(first[start:stop]) + int(second[start:stop]) + carry, 10**LIMB)
        limbs.append(str(limb).zfill(LIMB))
    return (str(carry) + "".join(reversed(limbs))).lstrip("0") or "0"


def is_sum(total: str, first: str, second: str) -> bool:
    """Whether total = first + second, limb by limb from the right: linear in the length."""
    width = -(-max(len(total), len(first), len(second)) // LIMB) * LIMB
    total, first, second = (number.zfill(width) for number in (total, first, second))
    carry = 0
    for stop in range(width, 0, -LIMB):
        left = int(first[stop - LIMB : stop]) + int(second[stop - LIMB : stop]) + carry - int(total[stop - LIMB : stop])
        carry, rest = divmod(left, 10**LIMB)
        if rest:
            return False
    return carry == 0


def multiply(first: str, second: int) -> str:
    """The product with a small factor in limbs of 1,000 digits: linear in the length."""
    width = -(-len(first) // LIMB) * LIMB
    first = first.zfill(width)
    limbs, carry = [], 0
    for stop in range(width, 0, -LIMB):
        carry, limb = divmod(int(first[stop - LIMB : stop]) * second + carry, 10**LIMB)
        limbs.append(str(limb).zfill(LIMB))
    return (str(carry) + "".join(reversed(limbs))).lstrip("0") or "0"


def numbers_bits(length: int) -> float:
    """Binary logarithm of how many numbers of `length` digits `random_number` draws from."""
    return log2(10) if length == 1 else log2(9) + (length - 1) * log2(10)


def share(bits: float, outcomes_bits: float) -> float:
    """2**bits outcomes of 2**outcomes_bits equally likely ones, as a share."""
    return 2.0 ** min(0.0, bits - outcomes_bits)


def is_number(digits: str) -> bool:
    return digits.isascii() and digits.isdecimal() and (digits == "0" or digits[0] != "0")


def random_digits(rng: random.Random, count: int) -> str:
    """Uniformly random digits, drawn 1,000 at a time."""
    limbs = (min(LIMB, count - start) for start in range(0, count, LIMB))
    return "".join(str(rng.randrange(10**size)).zfill(size) for size in limbs)


def random_number(rng: random.Random, length: int) -> str:
    """A uniformly random number of exactly `length` digits; 0 has one."""
    return random_digits(rng, 1) if length == 1 else rng.choice("123456789") + random_digits(rng, length - 1)


def sparse_number(rng: random.Random, length: int) -> str:
    tail = (rng.choice("123456789") if rng.random() < 1 / 10 else "0" for _ in range(length - 1))
    return rng.choice("123456789") + "".join(tail)

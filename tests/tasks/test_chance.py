"""What the best blind answer gets: closed forms against enumeration and sampling."""

import random
from collections import Counter
from itertools import product

import pytest

from tasks.addition import Addition
from tasks.hanoi import Hanoi
from tasks.logical_graph import LogicalGraph
from tasks.multiplication import Multiplication
from tasks.scenario import Scenario


@pytest.mark.parametrize("length", [1, 2])
def test_addition(length: int) -> None:
    numbers = range(10 ** (length - 1) if length > 1 else 0, 10**length)
    sums = Counter(a + b for a, b in product(numbers, numbers))
    assert Addition().chance(length) == pytest.approx(max(sums.values()) / sums.total())


@pytest.mark.parametrize("length", [1, 2, 3])
def test_multiplication(length: int) -> None:
    first = range(10 ** (length - 1) if length > 1 else 0, 10**length)
    shares: Counter[int] = Counter()
    for numbers in (range(10), range(10, 100)):
        for a, b in product(first, numbers):
            shares[a * b] += 1 / (2 * len(first) * len(numbers))
    assert Multiplication().chance(length) == pytest.approx(max(shares.values()))


def test_long_numbers_are_not_guessed() -> None:
    assert Addition().chance(1_000) == 0.0
    assert Hanoi().chance(2) == pytest.approx(1 / 4950)


@pytest.mark.parametrize("length", [1, 4, 10])
def test_logical_graph(length: int) -> None:
    rng = random.Random(0)
    values = Counter(LogicalGraph().sample(rng, length).answer for _ in range(2_000))
    assert LogicalGraph().chance(length) == 0.5 == pytest.approx(values["True",] / 2_000, abs=0.04)


def test_turing_machines_are_sampled_where_the_answer_is_one_symbol() -> None:
    palindrome = Scenario("palindrome", "direct").task
    assert palindrome.chance(1) == 1.0
    assert 0.5 < palindrome.chance(20) < 0.8
    assert palindrome.chance(20) == palindrome.chance(20)
    assert Scenario("increment", "direct").task.chance(5) is None

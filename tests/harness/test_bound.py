"""The bound of Theorem 2.1: the numbers the paper sizes give, checked by whole numbers, and where there is none."""

from collections import Counter
from itertools import product

import pytest

from harness.bound import bound
from models.build import build
from tasks.scenario import Scenario


class Bits:
    """A model of so many bits of state."""

    def __init__(self, bits):
        self.bits = bits

    def cost(self, length):
        return type("Cost", (), {"state_bytes": self.bits / 8})()


def paper(architecture, task="addition", setting="direct"):
    scenario = Scenario(task, setting)
    return bound(scenario, build(architecture, "paper", len(scenario.vocabulary), device="meta"))


def test_the_papers_gru_fails_at_tens_of_thousands_of_digits():
    bits = 4 * 1536 * 4 * 8
    length, why = paper("gru")
    assert why is None
    assert 10_000 < length < 100_000
    # 2**bits answers of 9 * 10**(n - 1) sums of one and the same first operand, against 95%
    assert 20 * 2**bits < 19 * 9 * 10 ** (length - 1)
    assert 20 * 2**bits >= 19 * 9 * 10 ** (length - 2)


def test_the_papers_mamba_fails_at_millions_of_digits():
    for setting in ("direct", "direct_reversed", "cot", "single_turn"):
        length, _ = paper("mamba1", setting=setting)
        assert 5_000_000 < length < 10_000_000
    assert paper("mamba1", "multiplication")[0] == pytest.approx(length, rel=1e-6)


@pytest.mark.parametrize(
    ("architecture", "task", "setting", "why"),
    [
        ("mamba1", "addition", "interactive", "none: interactive tool"),
        ("transformer", "addition", "direct", "none: state grows"),
        ("hybrid", "addition", "direct", "none: state grows"),
        ("gru", "logical_graph", "direct", "none: too few answers"),
        ("gru", "hanoi", "direct", "none: too few answers"),
        ("gru", "palindrome", "direct", "none: too few answers"),
        ("gru", "sort", "direct", "not known: answers not counted"),
    ],
)
def test_where_there_is_none_it_says_why(architecture, task, setting, why):
    assert paper(architecture, task, setting) == (None, why)


@pytest.mark.parametrize("architecture", ["sliding", "rmt", "lookup"])
def test_windows_segments_and_tables_are_fixed_states(architecture):
    assert paper(architecture)[0] is not None


def test_machines_that_give_every_input_its_own_answer():
    assert bound(Scenario("increment", "direct"), Bits(100)) == (102, None)  # 2**(n - 1) inputs; 2**100 / 2**101 < 95%
    assert bound(Scenario("copy", "direct"), Bits(100)) == (101, None)


@pytest.mark.parametrize("task", ["addition", "multiplication"])
@pytest.mark.parametrize("bits", [0, 2, 4, 6])
def test_the_share_is_never_less_than_the_likeliest_answers_have(task, bits):
    """Against a count of all problems of two digits (one and two for the second factor)."""
    scenario = Scenario(task, "direct")
    answers: Counter = Counter()
    for first, second in product(range(10, 100), range(100)):
        if task == "addition":
            answers[first + second] += second >= 10
        else:
            answers[first * second] += 10 if second < 10 else 1  # each number of digits as likely as the other
    total = sum(answers.values())
    likeliest = sum(count for _, count in answers.most_common(2**bits)) / total
    assert likeliest <= scenario.task.covered(bits, 2) + 0.01

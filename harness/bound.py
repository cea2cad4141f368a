"""The bound of Theorem 2.1 (Malach et al., arXiv 2510.14826) as a number: where b bits of state must fail."""

from __future__ import annotations

from typing import Any

from tasks.scenario import Scenario

SOLVED = 0.95
"""Share of right answers at which a length counts as solved, as in reports."""
LONGEST = 10**12
"""Lengths beyond are not looked at."""
_LATE = (10**6, 10**7)
"""Lengths between which a state that grows has grown."""


def bound(scenario: Scenario, model: Any) -> tuple[int | None, str | None]:
    """The smallest length that the model cannot solve, or None and why there is none.

    Without tools, or with one call of a tool, everything a model outputs after it has seen the question (and the
    tool's answer) follows from its state. A state of b bits has at most 2**b values, so at most 2**b different answers
    can ever be given; at best these are the likeliest ones. Where the 2**b likeliest answers are those of less than
    95% of a length's problems (`Task.covered` bounds that share), no weights whatever solve the length; nor any longer
    one. b: 8 x the bytes of the state, all of them counted as memory. It bounds what is possible from above: a model
    may, and will, fail long before.
    """
    if scenario.setting == "interactive":
        return None, "none: interactive tool"
    sizes = [model.cost(length).state_bytes for length in _LATE]
    if sizes[0] != sizes[1]:
        return None, "none: state grows"
    bits = 8.0 * sizes[0]
    if scenario.task.covered(bits, 1) is None:
        return None, "not known: answers not counted"
    if _solvable(scenario, bits, LONGEST):
        return None, "none: too few answers"
    possible, failing = 0, 1
    while _solvable(scenario, bits, failing):
        possible, failing = failing, 2 * failing
    while failing - possible > 1:
        middle = (possible + failing) // 2
        possible, failing = (middle, failing) if _solvable(scenario, bits, middle) else (possible, middle)
    return failing, None


def _solvable(scenario: Scenario, bits: float, length: int) -> bool:
    share = scenario.task.covered(bits, length)
    return share is None or share >= SOLVED

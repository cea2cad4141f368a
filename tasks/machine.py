"""Turing machines: transition tables, how they run, and what they compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tasks.words import Words
from tools.base import END
from tools.tape import OFFSETS

CHECKERS: Mapping[str, Callable[[str], str]] = {
    "increment": lambda word: format(int(word, 2) + 1, "b"),
    "palindrome": lambda word: "T" if word == word[::-1] else "F",
    "balanced": lambda word: "T" if _balanced(word) else "F",
    "strokes": lambda word: format(word.count("|"), "b"),
    "twice": lambda word: f"{word}#{word}",
    "sorted": lambda word: "".join(sorted(word)),
}
"""What a machine computes, in plain Python: input -> answer."""

INJECTIVE = frozenset({"increment", "twice"})
"""Checkers that give different inputs different answers."""


class Transition(NamedTuple):
    """What a machine does with a symbol in a state, in the tokens of the tape."""

    write: str
    move: str
    state: str


class Table(dict[tuple[str, str], Transition]):
    """(state, symbol) -> transition; asking for a pair that never happens raises a ValueError."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        """File and line of the table."""
        self.never: dict[tuple[str, str], str] = {}
        """File and line of the pairs that never happen."""

    def __missing__(self, pair: tuple[str, str]) -> Transition:
        where = self.never.get(pair, self.where)
        raise ValueError(f"{where}: state {pair[0]!r} meets {pair[1]!r}, which its table says never happens")


@dataclass(frozen=True, eq=False)
class Machine:
    """A deterministic machine with one tape, whose blank symbol is `[END]`."""

    about: str
    revision: int
    alphabet: tuple[str, ...]
    """Symbols of its tape, the blank left out."""

    start: str
    halt: frozenset[str]
    answer: str
    """`word`: from the head rightwards to the first blank; `symbol`: the one under the head."""

    checker: str | None
    inputs: Words
    stress: Mapping[str, Words]
    table: Table

    @property
    def states(self) -> tuple[str, ...]:
        """All states, the start first, halting ones last."""
        return tuple(dict.fromkeys((self.start, *(state for state, _ in self.table), *sorted(self.halt))))

    def run(self, word: Sequence[str], most_steps: int | None = None) -> tuple[int, tuple[str, ...]]:
        """Number of steps and answer, on a tape of its own.

        Raises:
            ValueError: a pair met that never happens, or `most_steps` done without halting.
        """
        tape, head, steps = dict(enumerate(word)), 0, 0
        state, table, halt = self.start, self.table, self.halt
        while state not in halt:
            if steps == most_steps:
                raise ValueError(f"{table.where}: does not halt in {steps:,} steps on the input {''.join(word)!r}")
            tape[head], move, state = table[state, tape.get(head, END)]
            head += OFFSETS[move]
            steps += 1
        if self.answer == "symbol":
            return steps, (tape.get(head, END),)
        found = []
        while (symbol := tape.get(head, END)) != END:
            found.append(symbol)
            head += 1
        return steps, tuple(found)

    def result(self, word: Sequence[str]) -> tuple[str, ...]:
        """The right answer: by the checker, or, where there is none, by running the table."""
        if self.checker is None:
            return self.run(word)[1]
        return tuple(CHECKERS[self.checker]("".join(word)))


def _balanced(word: str) -> bool:
    depth = 0
    for symbol in word:
        depth += 1 if symbol == "(" else -1
        if depth < 0:
            return False
    return depth == 0

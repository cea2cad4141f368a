"""A Turing machine's tape (the tool of Theorem 2.2, Malach et al., arXiv 2510.14826)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tools.base import ASK, END, Kind, Mode, Snapshot, Tool

READ, WRITE, LEFT, RIGHT = "[READ]", "[WRITE]", "[LEFT]", "[RIGHT]"
OFFSETS = {LEFT: -1, RIGHT: 1}
_COMMANDS = frozenset((READ, WRITE, LEFT, RIGHT))


class Tape(Tool):
    """The question on a tape with one head: `[READ]`, `[WRITE] s`, `[LEFT]`, `[RIGHT]`; thoughts leave no trace on it.

    The head starts on the first token of the question. A cell that was never written reads `[END]`: the paper has EOS
    there, which here ends trajectories. Where the paper is silent: the tape is endless to both sides, and
    `[WRITE] [END]` empties a cell. A command in the place of the symbol is malformed and has no effect.

    The longest walk is the longest run of moves in one direction, whatever is written or thought on the way.
    """

    revision: ClassVar[int] = 1

    def __init__(self) -> None:
        self.start(())

    def vocabulary(self) -> tuple[str, ...]:
        return (READ, WRITE, LEFT, RIGHT, END)

    def start(self, prompt: Sequence[str]) -> None:
        self.cells = {cell: token for cell, token in enumerate(prompt) if token != END}
        """Written cell -> its token; the first one of the question is cell 0."""
        self.head = 0
        self.writing = False
        """The next token is the symbol of a `[WRITE]`."""
        self._direction = self._walk = 0
        self.calls = self.longest_walk = 0

    def classify(self, token: str) -> Kind | None:
        return "command" if self.writing or token in _COMMANDS else None

    def allows(self, token: str) -> bool:
        return not (self.writing and token in _COMMANDS)

    def feed(self, token: str) -> tuple[str, ...]:
        if self.writing:
            self._write(token)
        elif token == READ:
            self.calls += 1
            return (self.cells.get(self.head, END),)
        elif token == WRITE:
            self.writing = True
        elif token in OFFSETS:
            self._move(OFFSETS[token])
        return ()

    def _write(self, symbol: str) -> None:
        self.writing = False
        if symbol in _COMMANDS:
            return
        self.calls += 1
        if symbol == END:
            self.cells.pop(self.head, None)
        else:
            self.cells[self.head] = symbol

    def _move(self, offset: int) -> None:
        self.calls += 1
        self.head += offset
        self._walk = self._walk + 1 if offset == self._direction else 1
        self._direction = offset
        if self._walk > self.longest_walk:
            self.longest_walk = self._walk

    def modes(self) -> tuple[Mode, ...]:
        return Mode({READ: ASK, WRITE: 1}, otherwise=0), Mode(otherwise=0)

    def mode(self) -> int:
        return int(self.writing)

    def snapshot(self) -> Snapshot:
        """The cells from the first to the last that is written or under the head."""
        reached = {self.head, *self.cells}
        first, last = min(reached), max(reached)
        cells = tuple(self.cells.get(cell, END) for cell in range(first, last + 1))
        return Snapshot(cells, {"1": self.head - first})

"""A Turing machine's tape (the tool of Theorem 2.2, Malach et al., arXiv 2510.14826)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tools.base import END, Kind, Snapshot, Tool

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
        self._cells = {cell: token for cell, token in enumerate(prompt) if token != END}
        self._head = 0
        self._writing = False
        self._direction = self._walk = 0
        self.calls = self.longest_walk = 0

    def classify(self, token: str) -> Kind | None:
        return "command" if self._writing or token in _COMMANDS else None

    def allows(self, token: str) -> bool:
        return not (self._writing and token in _COMMANDS)

    def feed(self, token: str) -> tuple[str, ...]:
        if self._writing:
            self._write(token)
        elif token == READ:
            self.calls += 1
            return (self._cells.get(self._head, END),)
        elif token == WRITE:
            self._writing = True
        elif token in OFFSETS:
            self._move(OFFSETS[token])
        return ()

    def _write(self, symbol: str) -> None:
        self._writing = False
        if symbol in _COMMANDS:
            return
        self.calls += 1
        if symbol == END:
            self._cells.pop(self._head, None)
        else:
            self._cells[self._head] = symbol

    def _move(self, offset: int) -> None:
        self.calls += 1
        self._head += offset
        self._walk = self._walk + 1 if offset == self._direction else 1
        self._direction = offset
        if self._walk > self.longest_walk:
            self.longest_walk = self._walk

    def snapshot(self) -> Snapshot:
        """The cells from the first to the last that is written or under the head."""
        reached = {self._head, *self._cells}
        first, last = min(reached), max(reached)
        cells = tuple(self._cells.get(cell, END) for cell in range(first, last + 1))
        return Snapshot(cells, {"1": self._head - first})

"""Pointer memory: the context as a tape with several reading heads (Malach et al., arXiv 2510.14826, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import ClassVar

from tools.base import ASK, END, Kind, Mode, Snapshot, Tool

LEFT, READ, RIGHT = -1, 0, 1
_LETTERS = {LEFT: "L", RIGHT: "R", READ: "r"}
_PAST_THE_END = (END,)


@lru_cache
def pointer_commands(pointers: int) -> Mapping[str, tuple[int, int]]:
    """Command token -> (LEFT, RIGHT or READ; pointer from 0): `L1 R1 r1 L2 ...`.

    Raises:
        ValueError: fewer than one pointer.
    """
    if pointers < 1:
        raise ValueError(f"tool pointer: pointers = {pointers}, must be at least 1")
    return {f"{letter}{p + 1}": (move, p) for p in range(pointers) for move, letter in _LETTERS.items()}


class PointerMemory(Tool):
    """The question, then every thought and output; commands and observations leave no trace in it.

    All pointers start at cell 0. Left of cell 0 stays there; right stops one past the last cell, where a read gives
    `[END]`. With a `capacity` (cells), an append to a full memory is dropped and `overflowed` says so.
    """

    revision: ClassVar[int] = 1

    def __init__(self, pointers: int = 2, capacity: int | None = None) -> None:
        self._commands = pointer_commands(pointers)
        if capacity is not None and capacity < 1:
            raise ValueError(f"tool pointer: capacity = {capacity}, must be at least 1, or none for no limit")
        self.pointers, self.capacity = pointers, capacity
        self.start(())

    def vocabulary(self) -> tuple[str, ...]:
        return (*self._commands, END)

    def start(self, prompt: Sequence[str]) -> None:
        self._memory = list(prompt[: self.capacity])
        self._positions = [0] * self.pointers
        self._walking: str | None = None
        self._walk = 0
        self.calls = self.longest_walk = 0
        self.overflowed = len(self._memory) < len(prompt)

    def classify(self, token: str) -> Kind | None:
        return "command" if token in self._commands else None

    def feed(self, token: str) -> tuple[str, ...]:
        command = self._commands.get(token)
        if command is None:
            self._append(token)
            return ()
        self.calls += 1
        move, pointer = command
        position = self._positions[pointer]
        if move == READ:
            return (self._memory[position],) if position < len(self._memory) else _PAST_THE_END
        if move == RIGHT:
            if position < len(self._memory):
                self._positions[pointer] = position + 1
        elif position:
            self._positions[pointer] = position - 1
        if token == self._walking:
            self._walk += 1
        else:
            self._walking, self._walk = token, 1
        if self._walk > self.longest_walk:
            self.longest_walk = self._walk
        return ()

    def _append(self, token: str) -> None:
        self._walking = None
        if self.capacity is None or len(self._memory) < self.capacity:
            self._memory.append(token)
        else:
            self.overflowed = True

    def modes(self) -> tuple[Mode, ...]:
        return (Mode({token: ASK for token, (move, _) in self._commands.items() if move == READ}, otherwise=0),)

    def snapshot(self) -> Snapshot:
        return Snapshot(tuple(self._memory), {str(p + 1): cell for p, cell in enumerate(self._positions)})

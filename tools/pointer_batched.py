"""Pointer memories of a whole batch as tensors on a device: the twin of `tools.pointer.PointerMemory`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from tools.base import END
from tools.pointer import RIGHT, pointer_commands

_STATE = ("memory", "length", "positions", "calls", "longest_walk", "overflowed", "_walking", "_walk")


class BatchedPointerMemory:
    """One pointer memory a row, all of the same capacity; tokens are ids of a vocabulary (token -> id).

    All tensors are allocated once and written in place, and nothing waits for the device, so that `feed` can be
    captured in a CUDA graph. State, all int64 but `overflowed`: `memory` [B, capacity], `length` [B] (cells in use),
    `positions` [B, pointers], `calls` [B], `longest_walk` [B], `overflowed` [B] (bool).

    Raises:
        ValueError: a command of one of the pointers, or `[END]`, is not in the vocabulary, or a size is below 1.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        batch: int,
        capacity: int,
        pointers: int = 2,
        device: str | torch.device = "cpu",
    ) -> None:
        commands = pointer_commands(pointers)
        missing = [token for token in (*commands, END) if token not in vocabulary]
        if missing:
            raise ValueError(f"tool pointer: the vocabulary lacks {' '.join(missing)}")
        if batch < 1 or capacity < 1:
            raise ValueError(f"tool pointer: batch = {batch}, capacity = {capacity}, must both be at least 1")
        self.batch, self.capacity, self._end = batch, capacity, vocabulary[END]
        self._is_command = torch.zeros(max(vocabulary.values()) + 1, dtype=torch.bool)
        self._move, self._pointer = (torch.zeros_like(self._is_command, dtype=torch.int64) for _ in range(2))
        for token, (move, pointer) in commands.items():
            number = vocabulary[token]
            self._is_command[number], self._move[number], self._pointer[number] = True, move, pointer
        self._is_command, self._move, self._pointer = (
            table.to(device) for table in (self._is_command, self._move, self._pointer)
        )
        self.memory = torch.zeros(batch, capacity, dtype=torch.int64, device=device)
        self.positions = torch.zeros(batch, pointers, dtype=torch.int64, device=device)
        self.length, self.calls, self.longest_walk, self._walking, self._walk = (
            torch.zeros(batch, dtype=torch.int64, device=device) for _ in range(5)
        )
        self.overflowed = torch.zeros(batch, dtype=torch.bool, device=device)

    def start(self, prompts: Tensor, lengths: Tensor) -> None:
        """Reset every row, with its question in memory: `prompts` [B, T] padded on the right, `lengths` [B].

        Raises:
            ValueError: `prompts` has another number of rows.
        """
        if len(prompts) != self.batch:
            raise ValueError(f"tool pointer: prompts for {len(prompts)} rows, the batch has {self.batch}")
        for name in _STATE:
            getattr(self, name).zero_()
        width = min(prompts.shape[1], self.capacity)
        self.memory[:, :width] = prompts[:, :width]
        self.length.copy_(lengths.clamp(max=self.capacity))
        self.overflowed.copy_(lengths > self.capacity)

    def feed(self, tokens: Tensor, active: Tensor) -> Tensor:
        """Feed one token to each active row: `tokens` [B], `active` [B] (bool) -> observations [B], -1 for none.

        Rows that are not active keep their state; their tokens may be any ids of the vocabulary.
        """
        command = active & self._is_command[tokens]
        pointer, move = self._pointer[tokens][:, None], self._move[tokens]
        position = self.positions.gather(1, pointer)[:, 0]
        cell = self.memory.gather(1, position.clamp(max=self.capacity - 1)[:, None])[:, 0]
        seen = torch.where(position < self.length, cell, self._end)
        observation = torch.where(command & (move == 0), seen, -1)
        moved = torch.minimum((position + move).clamp(min=0), self.length)
        self.positions.scatter_(1, pointer, torch.where(command, moved, position)[:, None])
        self.calls += command
        self._count_walks(command & (move != 0), active & ~command, 2 * pointer[:, 0] + (move == RIGHT))
        self._append(tokens, active & ~command)
        return observation

    def _count_walks(self, moves: Tensor, breaks: Tensor, direction: Tensor) -> None:
        """A walk goes on through reads and ends with a move in another direction or an ordinary token; all [B]."""
        walk = torch.where(self._walking == direction, self._walk + 1, 1)
        self._walk.copy_(torch.where(moves, walk, self._walk.masked_fill(breaks, 0)))
        self._walking.copy_(torch.where(moves, direction, self._walking))
        self.longest_walk.copy_(torch.maximum(self._walk, self.longest_walk))

    def _append(self, tokens: Tensor, appends: Tensor) -> None:
        fits = appends & (self.length < self.capacity)
        at = self.length.clamp(max=self.capacity - 1)[:, None]
        self.memory.scatter_(1, at, torch.where(fits, tokens, self.memory.gather(1, at)[:, 0])[:, None])
        self.length += fits
        self.overflowed |= appends & ~fits

    def clone(self) -> Self:
        """An independent copy."""
        return self._with({name: getattr(self, name).clone() for name in _STATE})

    def take(self, rows: Tensor) -> Self:
        """A copy of some rows, in the order of the indices `rows` [R]."""
        return self._with({name: getattr(self, name).index_select(0, rows) for name in _STATE})

    def put(self, rows: Tensor, other: BatchedPointerMemory) -> None:
        """Overwrite the rows with indices `rows` [R] by the R rows of `other`, of the same capacity and pointers."""
        for name in _STATE:
            getattr(self, name).index_copy_(0, rows, getattr(other, name))

    def _with(self, state: Mapping[str, Tensor]) -> Self:
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, **state, batch=len(state["length"]))
        return copy

"""Pointer memories of a whole batch as tensors on a device: the twin of `tools.pointer.PointerMemory`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tools.base import END
from tools.batched import NOTHING, fastest
from tools.pointer import PointerMemory, pointer_commands

ORDINARY = -1
"""The code of a token that is no command. Of a command: three times the pointer, and 0, 1, 2 for left, read, right."""


class BatchedPointerMemory:
    """One pointer memory a row, all of the same capacity; tokens are ids of a vocabulary (token -> id).

    Its state is what replies depend on: `memory` int32 [B, capacity], `length` int32 [B] (cells in use) and `positions`
    int32 [B, pointers]. Calls and walks are counted by the tool on the host. See `tools.batched.BatchedTool`.

    Raises:
        ValueError: a command of one of the pointers, or `[END]`, is not in the vocabulary, or a size is below 1.
    """

    alone = True

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
        self.batch, self.capacity, self.pointers = batch, capacity, pointers
        self.vocabulary, self.end = vocabulary, vocabulary[END]
        codes = torch.full((max(vocabulary.values()) + 1,), ORDINARY, dtype=torch.int32)
        for token, (move, pointer) in commands.items():
            codes[vocabulary[token]] = 3 * pointer + move + 1
        self.codes = codes.to(device)
        self.memory = torch.zeros(batch, capacity, dtype=torch.int32, device=device)
        self.length = torch.zeros(batch, dtype=torch.int32, device=device)
        self.positions = torch.zeros(batch, pointers, dtype=torch.int32, device=device)
        self._feed = fastest("tools.triton_tools:feed_pointers", feed, device)

    def load(self, rows: Tensor, tools: Sequence[PointerMemory]) -> None:
        snapshots = [tool.snapshot() for tool in tools]
        width = max(1, *(len(one.memory) for one in snapshots))
        memory = torch.zeros(len(tools), width, dtype=torch.int32)
        for row, one in enumerate(snapshots):
            memory[row, : len(one.memory)] = torch.tensor([self.vocabulary[token] for token in one.memory])
        device = self.memory.device
        self.memory[rows, :width] = memory.to(device)
        self.length[rows] = torch.tensor([len(one.memory) for one in snapshots], dtype=torch.int32).to(device)
        places = [list(one.pointers.values()) for one in snapshots]
        self.positions[rows] = torch.tensor(places, dtype=torch.int32).to(device)

    def feed(self, tokens: Tensor, active: Tensor, said: Tensor) -> None:
        self._feed(self, tokens, active, said)

    def answered(self, rows: Tensor, tools: Sequence[PointerMemory]) -> None:
        raise AssertionError("it never asks")

    def state(self, rows: Tensor) -> tuple[Tensor, ...]:
        """See `tools.batched.BatchedTool`. As long as the length stays, so do the cells."""
        return self.length[rows], self.positions[rows]


def feed(twin: BatchedPointerMemory, tokens: Tensor, active: Tensor, said: Tensor) -> None:
    """`BatchedPointerMemory.feed` in plain PyTorch."""
    code = twin.codes[tokens]
    command = active & (code >= 0)
    pointer, move = code.clamp(min=0)[:, None].long() // 3, code % 3 - 1
    position = twin.positions.gather(1, pointer)[:, 0]
    cell = twin.memory.gather(1, position.clamp(max=twin.capacity - 1)[:, None].long())[:, 0]
    seen = torch.where(position < twin.length, cell, twin.end)
    said.copy_(torch.where(active, torch.where(command & (move == 0), seen, NOTHING), said))
    moved = torch.minimum((position + move).clamp(min=0), twin.length)
    twin.positions.scatter_(1, pointer, torch.where(command, moved, position)[:, None])
    fits = active & ~command & (twin.length < twin.capacity)
    at = twin.length.clamp(max=twin.capacity - 1)[:, None].long()
    twin.memory.scatter_(1, at, torch.where(fits, tokens.int(), twin.memory.gather(1, at)[:, 0])[:, None])
    twin.length += fits

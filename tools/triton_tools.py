# mypy: disable-error-code="no-untyped-def"
"""The tools of a batch in one Triton kernel a step: command decoded, pointer moved, cell read, token appended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from tools.pointer_batched import BatchedPointerMemory
    from tools.tape_batched import BatchedTape

ROWS = 32
"""Rows of a program, one a lane of its warp."""


def feed_pointers(twin: BatchedPointerMemory, tokens: Tensor, active: Tensor, said: Tensor) -> None:
    """`BatchedPointerMemory.feed`."""
    _pointers[(triton.cdiv(twin.batch, ROWS),)](
        tokens, active.view(torch.uint8), said, twin.codes, twin.memory, twin.length, twin.positions,
        twin.batch, twin.capacity, twin.pointers, twin.end, ROWS=ROWS, num_warps=1,
    )  # fmt: skip


def feed_tapes(twin: BatchedTape, tokens: Tensor, active: Tensor, said: Tensor) -> None:
    """`BatchedTape.feed`."""
    _tapes[(triton.cdiv(twin.batch, ROWS),)](
        tokens, active.view(torch.uint8), said, twin.codes, twin.cells, twin.head, twin.writing.view(torch.uint8),
        twin.batch, twin.cells.shape[1], ROWS=ROWS, num_warps=1,
    )  # fmt: skip


@triton.jit
def _pointers(
    tokens, active, said, codes, memory, length, positions, batch, capacity, pointers, end, ROWS: tl.constexpr
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < batch
    acts = there & (tl.load(active + row, mask=there, other=0) != 0)
    token = tl.load(tokens + row, mask=acts, other=0)
    code = tl.load(codes + token, mask=acts, other=-1)
    used = tl.load(length + row, mask=acts, other=0)
    command = acts & (code >= 0)
    move = code % 3 - 1
    pointer = positions + row * pointers + code // 3
    position = tl.load(pointer, mask=command, other=0)
    reads = command & (move == 0)
    cells = memory + row.to(tl.int64) * capacity
    cell = tl.load(cells + position, mask=reads & (position < used), other=0)
    reply = tl.where(reads, tl.where(position < used, cell, end), -1)
    tl.store(said + row, reply.to(tl.int64), mask=acts)
    moved = tl.minimum(tl.maximum(position + move, 0), used)
    tl.store(pointer, moved, mask=command & (move != 0))
    appends = acts & (code < 0) & (used < capacity)
    tl.store(cells + used, token.to(tl.int32), mask=appends)
    tl.store(length + row, used + 1, mask=appends)


@triton.jit
def _tapes(tokens, active, said, codes, cells, head, writing, batch, width, ROWS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < batch
    acts = there & (tl.load(active + row, mask=there, other=0) != 0)
    token = tl.load(tokens + row, mask=acts, other=0)
    code = tl.load(codes + token, mask=acts, other=0)
    at = tl.load(head + row, mask=acts, other=0)
    writes = acts & (tl.load(writing + row, mask=acts, other=0) != 0)
    reads = acts & (tl.load(writing + row, mask=acts, other=1) == 0) & (code == 4)
    moves = acts & (tl.load(writing + row, mask=acts, other=1) == 0) & (code >= 1) & (code < 4)
    place = cells + row.to(tl.int64) * width + at
    cell = tl.load(place, mask=reads, other=0)
    tl.store(said + row, tl.where(reads, cell, -1).to(tl.int64), mask=acts)
    tl.store(place, token.to(tl.int32), mask=writes & (code == 0))
    tl.store(head + row, tl.minimum(tl.maximum(at + code - 2, 0), width - 1), mask=moves)
    begins = tl.where(writes, 0, tl.where(code == 5, 1, 0))
    tl.store(writing + row, begins.to(tl.uint8), mask=acts)

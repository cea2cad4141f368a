# mypy: disable-error-code="no-untyped-def"
"""`ssd_step` in Triton: the state is read and written once, in place."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 4096
"""Entries of the state of one program."""


def ssd_step(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, live: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As the reference; updates the state, which must be contiguous, in place, of live rows only."""
    batch, heads, size, entries = state.shape
    wide = triton.next_power_of_2(entries)
    rows = max(1, min(ELEMENTS // wide, triton.next_power_of_2(size)))
    y = torch.empty(batch, heads, size, dtype=torch.float32, device=x.device)
    _step[(batch * heads, triton.cdiv(size, rows))](
        x.contiguous(), delta.contiguous(), A, B.contiguous(), C.contiguous(), state,
        None if live is None else live.view(torch.uint8), y, heads, size,
        ENTRIES=entries, WIDE=wide, ROWS=rows, num_warps=4,
    )  # fmt: skip
    return y, state


@triton.jit
def _step(
    x, delta, A, B, C, state, live, y, heads, size, ENTRIES: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr
):
    pair = tl.program_id(0)
    row, head = pair // heads, pair % heads
    p, n = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDE)
    here, there = p < size, n < ENTRIES
    place = state + pair.to(tl.int64) * size * ENTRIES + p[:, None] * ENTRIES + n[None, :]
    h = tl.load(place, mask=here[:, None] & there[None, :], other=0.0)
    length = tl.load(delta + pair).to(tl.float32)
    decay = tl.exp(length * tl.load(A + head).to(tl.float32))
    added = tl.load(B + row * ENTRIES + n, mask=there, other=0.0).to(tl.float32)
    seen = tl.load(C + row * ENTRIES + n, mask=there, other=0.0).to(tl.float32)
    value = tl.load(x + pair * size + p, mask=here, other=0.0).to(tl.float32)
    h = h * decay + (value * length)[:, None] * added[None, :]
    tl.store(y + pair * size + p, tl.sum(h * seen[None, :], 1), mask=here)
    moves = n < ENTRIES
    if live is not None:
        moves = n < tl.where(tl.load(live + row) != 0, ENTRIES, 0)
    tl.store(place, h, mask=here[:, None] & moves[None, :])

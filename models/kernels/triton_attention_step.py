# mypy: disable-error-code="no-untyped-def,assignment"
"""`attention_step` in Triton: every row reads as much of the caches as it has written, and no mask is made.

A program goes through some of the entries of one row and head. Few rows and heads are cut into several such parts,
which a second kernel joins (Dao et al. 2023, "Flash-Decoding"); how many depends on the shapes alone.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 16
"""Entries of a cache that are looked at at once."""
WARPS = 2
"""Of a program."""
PROGRAMS = 2048
"""Programs that fill a GPU; with fewer, each row and head is cut into parts."""
MOST_PARTS = 128


def attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: Tensor,
    keys: Tensor,
    values: Tensor,
    window: int | None = None,
    slopes: Tensor | None = None,
    tables: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """As the reference, in float32 whatever autocast says; the caches must be contiguous."""
    batch, heads, size = q.shape
    groups, capacity = heads // keys.shape[1], keys.shape[2]
    most = max(1, min(MOST_PARTS, PROGRAMS // (batch * heads), triton.cdiv(capacity, BLOCK)))
    parts = 1 << (most.bit_length() - 1)  # a power of two: each number of parts is a kernel of its own to compile
    cos, sin = tables if tables is not None else (None, None)
    q, k, v = (x if x.stride(1) == size and x.stride(2) == 1 else x.contiguous() for x in (q, k, v))
    mixed = torch.empty(batch, heads, size, dtype=q.dtype, device=q.device)
    partial = torch.empty(batch * heads, parts, size + 2, device=q.device) if parts > 1 else mixed
    wide = triton.next_power_of_2(size)
    _attend[(batch * heads, parts)](
        q, k, v, q.stride(0), k.stride(0), v.stride(0), position, keys, values, slopes,
        cos, sin, 0 if cos is None or len(cos) == 1 else cos.stride(0), mixed, partial, capacity,
        size**-0.5, HEADS=heads, GROUPS=groups, SIZE=size, WIDE=wide, HALF=0 if cos is None else cos.shape[-1],
        ROLLS=window is not None, PARTS=parts, BLOCK=BLOCK, num_warps=WARPS,
    )  # fmt: skip
    if parts > 1:
        _join[(batch * heads,)](
            partial, mixed, SIZE=size, WIDE=wide, PARTS=parts, PARTS2=triton.next_power_of_2(parts), num_warps=2
        )
    return mixed, (keys, values)


@triton.jit
def _turned(x, c, cos, sin, SIZE: tl.constexpr, HALF: tl.constexpr):
    """A head's entries in float32, the first 2 HALF rotated; see `rotate`."""
    own = tl.load(x + c, mask=c < SIZE, other=0.0).to(tl.float32)
    if HALF > 0:
        turns, low = c < 2 * HALF, c < HALF
        other = tl.load(x + tl.where(low, c + HALF, c - HALF), mask=turns, other=0.0).to(tl.float32)
        pair = tl.where(low, c, c - HALF)
        along = tl.load(cos + pair, mask=turns, other=1.0)
        across = tl.load(sin + pair, mask=turns, other=0.0)
        own = own * along + tl.where(low, -other, other) * across
    return own


@triton.jit
def _attend(
    q, k, v, q_row, k_row, v_row, position, keys, values, slopes, cos, sin, angles, mixed, partial, capacity, scale,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, SIZE: tl.constexpr, WIDE: tl.constexpr, HALF: tl.constexpr,
    ROLLS: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    pair, part = tl.program_id(0), tl.program_id(1)
    row, head = pair // HEADS, pair % HEADS
    source, shared = row * (HEADS // GROUPS) + head // GROUPS, head // GROUPS
    if HALF > 0:
        cos += row * angles
        sin += row * angles
    c, b = tl.arange(0, WIDE), tl.arange(0, BLOCK)
    at = tl.load(position + row)
    slot = at
    if ROLLS:
        slot = at % capacity
    count = tl.minimum(at + 1, capacity).to(tl.int32)
    query = _turned(q + row * q_row + head * SIZE, c, cos, sin, SIZE, HALF) * scale
    key = _turned(k + row * k_row + shared * SIZE, c, cos, sin, SIZE, HALF)
    value = tl.load(v + row * v_row + shared * SIZE + c, mask=c < SIZE, other=0.0).to(tl.float32)
    base = source.to(tl.int64) * capacity * SIZE
    if (part == 0) & (head % GROUPS == 0):
        tl.store(keys + base + slot * SIZE + c, key, mask=c < SIZE)
        tl.store(values + base + slot * SIZE + c, value, mask=c < SIZE)
    slope = 0.0
    if slopes is not None:
        slope = tl.load(slopes + head)
    # The new token is in registers; its entry, which may not be written yet, is left out. It belongs to part 0.
    first = part == 0
    most = tl.where(first, tl.sum(query * key, 0), -float("inf"))
    total = tl.where(first, 1.0, 0.0)
    sum = tl.where(first, value, 0.0)
    span = tl.cdiv(tl.cdiv(count, PARTS), BLOCK) * BLOCK
    for start in range(part * span, tl.minimum(count, (part + 1) * span), BLOCK):
        entry = start + b
        there = (entry < count) & (entry != slot)
        place = base + entry[:, None] * SIZE + c[None, :]
        mask = there[:, None] & (c < SIZE)[None, :]
        these = tl.load(keys + place, mask=mask, other=0.0)
        those = tl.load(values + place, mask=mask, other=0.0)
        score = tl.sum(these * query[None, :], 1)
        if slopes is not None:
            distance = at - entry
            if ROLLS:
                distance = (slot - entry + capacity) % capacity
            score -= slope * distance.to(tl.float32)
        score = tl.where(there, score, -float("inf"))
        higher = tl.maximum(most, tl.max(score, 0))
        safe = tl.where(higher == -float("inf"), 0.0, higher)
        old, weight = tl.exp(most - safe), tl.exp(score - safe)
        total = total * old + tl.sum(weight, 0)
        sum = sum * old + tl.sum(weight[:, None] * those, 0)
        most = higher
    if PARTS == 1:
        tl.store(mixed + pair * SIZE + c, sum / total, mask=c < SIZE)
    else:
        into = partial + (pair * PARTS + part) * (SIZE + 2)
        tl.store(into + c, sum, mask=c < SIZE)
        tl.store(into + SIZE, most)
        tl.store(into + SIZE + 1, total)


@triton.jit
def _join(partial, mixed, SIZE: tl.constexpr, WIDE: tl.constexpr, PARTS: tl.constexpr, PARTS2: tl.constexpr):
    pair = tl.program_id(0)
    c, p = tl.arange(0, WIDE), tl.arange(0, PARTS2)
    row = partial + (pair * PARTS + p) * (SIZE + 2)
    most = tl.load(row + SIZE, mask=p < PARTS, other=-float("inf"))
    total = tl.load(row + SIZE + 1, mask=p < PARTS, other=0.0)
    weight = tl.exp(most - tl.max(most, 0))
    sums = tl.load(row[:, None] + c[None, :], mask=(p < PARTS)[:, None] & (c < SIZE)[None, :], other=0.0)
    whole = tl.sum(sums * weight[:, None], 0) / tl.sum(total * weight, 0)
    tl.store(mixed + pair * SIZE + c, whole, mask=c < SIZE)

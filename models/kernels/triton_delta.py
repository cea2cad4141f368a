# mypy: disable-error-code="no-untyped-def"
"""The gated delta rule and RWKV-7's recurrence in Triton, forward only: where gradients are wanted the reference runs.

Two kernels: one for the inside of all chunks at once, one that carries the states and adds what they contribute. What
stands in for a chunk is the same for both rules: y of its own tokens, `reader` [Q, K] to be applied to the state before
it, and `transition` [K, K] and `added` [K, V], which make the state after it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels import gated_delta as delta_reference
from models.kernels import wkv7 as wkv7_reference
from models.kernels.triton_parts import dot

CHUNK = 32
VALUES = 32
"""Values of a head that one program of the carry is for."""
LARGEST = 64
"""Keys of a head: their square has to fit in registers. Longer ones go to the reference."""


def gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    beta: Tensor,
    state: Tensor | None = None,
    chunk: int | None = None,
    offsets: Tensor | None = None,
    longest: int = 0,
) -> tuple[Tensor, Tensor]:
    """As the reference."""
    if _left_to_reference(q, k, v, decay, beta, state):
        return delta_reference.gated_delta(q, k, v, decay, beta, state, chunk, offsets, longest)
    return _run(_delta_inside, (q, k, v, decay, beta), v, state, offsets)


def wkv7(
    r: Tensor,
    decay: Tensor,
    k: Tensor,
    v: Tensor,
    removed: Tensor,
    rate: Tensor,
    state: Tensor | None = None,
    chunk: int | None = None,
    offsets: Tensor | None = None,
    longest: int = 0,
) -> tuple[Tensor, Tensor]:
    """As the reference."""
    if _left_to_reference(r, decay, k, v, removed, rate, state):
        return wkv7_reference.wkv7(r, decay, k, v, removed, rate, state, chunk, offsets, longest)
    return _run(_wkv7_inside, (r, k, v, decay, removed, rate), v, state, offsets)


def _left_to_reference(*inputs: Tensor | None) -> bool:
    given = [x for x in inputs if x is not None]
    trained = torch.is_grad_enabled() and any(x.requires_grad for x in given)
    return trained or given[0].shape[-1] > LARGEST or any(x.dtype != torch.float32 for x in given)


def _run(
    inside: triton.JITFunction, inputs: tuple[Tensor, ...], v: Tensor, state: Tensor | None, offsets: Tensor | None
) -> tuple[Tensor, Tensor]:
    inputs = tuple(x.contiguous() for x in inputs)
    batch, length, heads, keys = inputs[0].shape
    values = v.shape[-1]
    begin, end, first, count = _table(batch, length, offsets, v.device)
    chunks, sequences = len(begin), len(first)
    y, reader = v.new_empty(v.shape), v.new_empty(inputs[0].shape)
    transition, added = v.new_empty(chunks, heads, keys, keys), v.new_empty(chunks, heads, keys, values)
    last = v.new_empty(sequences, heads, keys, values)
    columns, block = max(16, triton.next_power_of_2(keys)), min(64, max(16, triton.next_power_of_2(values)))
    inside[(chunks, heads)](
        *inputs, y, reader, transition, added, begin, end, heads, keys, values,
        Q=CHUNK, COLUMNS=columns, BLOCK=block, BLOCKS=triton.cdiv(values, block), num_warps=4,
    )  # fmt: skip
    _carry[(sequences, heads, triton.cdiv(values, VALUES))](
        y, reader, transition, added, last if state is None else state.contiguous(), last, begin, end, first, count,
        heads, keys, values, HAS_STATE=state is not None, Q=CHUNK, COLUMNS=columns, BLOCK=VALUES, num_warps=4,
    )  # fmt: skip
    return y, last


def _table(
    batch: int, length: int, offsets: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each chunk, where it begins and where its sequence ends, in tokens of all rows end to end; of each sequence,
    its first chunk and how many it has. int64."""
    if offsets is None:
        bounds = torch.arange(batch + 1, device=device) * length
        total = batch * triton.cdiv(length, CHUNK)
    else:
        bounds, total = offsets.long(), length // CHUNK + len(offsets) - 1
    count = (bounds.diff() + CHUNK - 1) // CHUNK
    after = count.cumsum(0)
    numbers = torch.arange(total, device=device)
    owner = torch.searchsorted(after, numbers, right=True).clamp(max=len(count) - 1)
    begin = bounds[owner] + (numbers - (after - count)[owner]) * CHUNK
    return begin, bounds[owner + 1], after - count, count


@triton.jit
def _delta_inside(
    q, k, v, decay, beta, y, reader, transition, added, begin, end, heads, keys, values,
    Q: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    chunk, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    step, column = tl.arange(0, Q), tl.arange(0, COLUMNS)
    token = tl.load(begin + chunk) + step
    real = token < tl.load(end + chunk)
    place = token * heads + head
    at, inside = place[:, None] * keys + column[None, :], real[:, None] & (column < keys)[None, :]
    query, key = tl.load(q + at, mask=inside, other=0.0), tl.load(k + at, mask=inside, other=0.0)
    rate = tl.load(beta + place, mask=real, other=0.0)[:, None]
    paces = tl.load(decay + place, mask=real, other=0.0).to(tl.float64)
    exact, whole = tl.cumsum(paces, 0), tl.sum(paces, 0)
    earlier = step[:, None] >= step[None, :]
    between = tl.where(earlier, tl.exp(tl.where(earlier, exact[:, None] - exact[None, :], 0.0).to(tl.float32)), 0.0)
    so_far, to_end = tl.exp(exact.to(tl.float32))[:, None], tl.exp((whole - exact).to(tl.float32))[:, None]
    square = tl.zeros((Q, Q), dtype=tl.float32)
    wide = tl.zeros((Q, COLUMNS), dtype=tl.float32)
    lower = tl.where(step[:, None] > step[None, :], rate * between * dot(key, tl.trans(key), square), 0.0)
    inverse = _unit_inverse(lower, step, Q)
    scores = between * dot(query, tl.trans(key), square)
    fading = tl.trans(to_end * key)
    written = dot(inverse, rate * so_far * key, wide)
    tl.store(reader + at, so_far * query - dot(scores, written, wide), mask=inside)
    lost = dot(fading, written, tl.zeros((COLUMNS, COLUMNS), dtype=tl.float32))
    kept = tl.where(column[:, None] == column[None, :], tl.exp(whole.to(tl.float32)), 0.0) - lost
    row = (chunk * heads + head) * keys + column
    known = (column < keys)[:, None]
    tl.store(transition + row[:, None] * keys + column[None, :], kept, mask=known & (column < keys)[None, :])
    for number in tl.static_range(BLOCKS):
        value = number * BLOCK + tl.arange(0, BLOCK)
        at, inside = place[:, None] * values + value[None, :], real[:, None] & (value < values)[None, :]
        given = tl.load(v + at, mask=inside, other=0.0)
        written = dot(inverse, rate * given, tl.zeros((Q, BLOCK), dtype=tl.float32))
        tl.store(y + at, dot(scores, written, tl.zeros((Q, BLOCK), dtype=tl.float32)), mask=inside)
        new = dot(fading, written, tl.zeros((COLUMNS, BLOCK), dtype=tl.float32))
        tl.store(added + row[:, None] * values + value[None, :], new, mask=known & (value < values)[None, :])


@triton.jit
def _wkv7_inside(
    r, k, v, decay, removed, rate, y, reader, transition, added, begin, end, heads, keys, values,
    Q: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    chunk, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    step, column = tl.arange(0, Q), tl.arange(0, COLUMNS)
    token = tl.load(begin + chunk) + step
    real = token < tl.load(end + chunk)
    place = token * heads + head
    at, inside = place[:, None] * keys + column[None, :], real[:, None] & (column < keys)[None, :]
    paces = tl.load(decay + at, mask=inside, other=0.0).to(tl.float64)
    exact, whole = tl.cumsum(paces, 0), tl.sum(paces, 0)
    undo, to_end = tl.exp((-exact).to(tl.float32)), tl.exp((whole[None, :] - exact).to(tl.float32))
    key, gone = tl.load(k + at, mask=inside, other=0.0), tl.load(removed + at, mask=inside, other=0.0)
    taken = tl.load(rate + at, mask=inside, other=0.0) * gone
    asking = tl.load(r + at, mask=inside, other=0.0) * tl.exp(exact.to(tl.float32))
    gone = gone * tl.exp((exact - paces).to(tl.float32))
    square = tl.zeros((Q, Q), dtype=tl.float32)
    wide = tl.zeros((Q, COLUMNS), dtype=tl.float32)
    before, earlier = step[:, None] > step[None, :], step[:, None] >= step[None, :]
    undone = tl.trans(undo * taken)
    inverse = _unit_inverse(tl.where(before, dot(gone, undone, square), 0.0), step, Q)
    asks_taken = tl.where(earlier, dot(asking, undone, square), 0.0)
    undone = tl.trans(undo * key)
    gone_key = tl.where(before, dot(gone, undone, square), 0.0)
    asks_key = tl.where(earlier, dot(asking, undone, square), 0.0)
    found = dot(inverse, gone, wide)
    tl.store(reader + at, asking - dot(asks_taken, found, wide), mask=inside)
    key, taken = tl.trans(to_end * key), tl.trans(to_end * taken)
    lost = dot(taken, found, tl.zeros((COLUMNS, COLUMNS), dtype=tl.float32))
    kept = tl.where(column[:, None] == column[None, :], tl.exp(whole.to(tl.float32))[:, None], 0.0) - lost
    row = (chunk * heads + head) * keys + column
    known = (column < keys)[:, None]
    tl.store(transition + row[:, None] * keys + column[None, :], kept, mask=known & (column < keys)[None, :])
    for number in tl.static_range(BLOCKS):
        value = number * BLOCK + tl.arange(0, BLOCK)
        narrow = tl.zeros((Q, BLOCK), dtype=tl.float32)
        at, inside = place[:, None] * values + value[None, :], real[:, None] & (value < values)[None, :]
        given = tl.load(v + at, mask=inside, other=0.0)
        found = dot(inverse, dot(gone_key, given, narrow), narrow)
        tl.store(y + at, dot(asks_key, given, narrow) - dot(asks_taken, found, narrow), mask=inside)
        high = tl.zeros((COLUMNS, BLOCK), dtype=tl.float32)
        new = dot(key, given, high) - dot(taken, found, high)
        tl.store(added + row[:, None] * values + value[None, :], new, mask=known & (value < values)[None, :])


@triton.jit
def _unit_inverse(lower, step, Q: tl.constexpr):
    """(I + lower)^-1, row by row."""
    inverse = -lower
    for number in range(1, Q):
        here = step[:, None] == number
        row = tl.sum(tl.where(here, inverse, 0.0), 0)
        row += tl.sum(row[:, None] * inverse, 0)
        inverse = tl.where(here, row[None, :], inverse)
    return inverse + tl.where(step[:, None] == step[None, :], 1.0, 0.0)


@triton.jit
def _carry(
    y, reader, transition, added, state, last, begin, end, first, count, heads, keys, values,
    HAS_STATE: tl.constexpr, Q: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sequence, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    step, column = tl.arange(0, Q), tl.arange(0, COLUMNS)
    value = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    known, wanted = column < keys, value < values
    here = ((sequence * heads + head) * keys + column)[:, None] * values + value[None, :]
    memory = tl.zeros((COLUMNS, BLOCK), dtype=tl.float32)
    if HAS_STATE:
        memory = tl.load(state + here, mask=known[:, None] & wanted[None, :], other=0.0)
    start = tl.load(first + sequence)
    for chunk in range(start, start + tl.load(count + sequence)):
        token = tl.load(begin + chunk) + step
        real = token < tl.load(end + chunk)
        place = token * heads + head
        reading = tl.load(
            reader + place[:, None] * keys + column[None, :], mask=real[:, None] & known[None, :], other=0.0
        )
        at = y + place[:, None] * values + value[None, :]
        own = tl.load(at, mask=real[:, None] & wanted[None, :], other=0.0)
        tl.store(at, dot(reading, memory, own), mask=real[:, None] & wanted[None, :])
        row = (chunk * heads + head) * keys + column
        kept = tl.load(
            transition + row[:, None] * keys + column[None, :], mask=known[:, None] & known[None, :], other=0.0
        )
        new = tl.load(added + row[:, None] * values + value[None, :], mask=known[:, None] & wanted[None, :], other=0.0)
        memory = dot(kept, memory, new)
    tl.store(last + here, memory, mask=known[:, None] & wanted[None, :])

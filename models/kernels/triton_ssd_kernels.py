# mypy: disable-error-code="no-untyped-def"
"""The Triton kernels of Mamba-2's SSD, forward and backward; `models.kernels.triton_ssd` launches them.

A sequence is cut into chunks, a chunk into tiles of `TILE` tokens. With s the running sum of delta A since the chunk's
start, L_ij = exp(s_i - s_j) and G = C B^T,

    y_i = sum_(j <= i in the chunk) G_ij L_ij delta_j x_j + exp(s_i) C_i S + D x_i,      S: the state before the chunk.

G is shared by the heads and made once. If every sequence fits in one chunk there are no states at all. All programs are
independent but for the short pass that carries states from chunk to chunk, and nothing is summed by atomics, so that
results do not depend on the order in which programs run. Sums, decays and states are float32; factors of matrix
products are rounded to the inputs' type (a float32 product keeps its digits: see `triton_parts.dot`). Differences of
running sums cancel, so sums are made in float64 and kept as two float32 numbers.

`span` is the number of tiles of a chunk; that a chunk is a multiple of a tile lets loads of its rows be wide.

Tokens are rows: sequence k is rows offsets[k] to offsets[k + 1] (PACKED), else rows k * width to (k + 1) * width.
Per-head sequences of numbers are [heads, rows], states [sequences, chunks, heads, P, N].
"""

from __future__ import annotations

import triton
import triton.language as tl

from models.kernels.triton_parts import dot

TILE = 64


@triton.jit
def sequence(offsets, k, width, PACKED: tl.constexpr):
    """First row and number of tokens of a sequence."""
    if PACKED:
        begin = tl.load(offsets + k)
        return begin.to(tl.int64), tl.load(offsets + k + 1) - begin
    else:
        return k.to(tl.int64) * width, width


@triton.jit
def _sums(high, low, at, mask):
    """The two parts of running sums; exp of what lies beyond a sequence is 0."""
    return tl.load(high + at, mask=mask, other=-float("inf")), tl.load(low + at, mask=mask, other=0.0)


@triton.jit
def _within(high_i, low_i, high_j, low_j, seen):
    """exp(s_i - s_j) where `seen`, else 0."""
    between = (high_i - high_j) + (low_i - low_j)
    return tl.exp(tl.where(seen, between, -float("inf")))


@triton.jit(do_not_specialize=["width", "total", "span"])
def steps_forward(
    raw, bias, A, lengths, offsets, steps, high, low, raw_stride, width, total, heads, span,
    PACKED: tl.constexpr, HAS_LENGTHS: tl.constexpr, SOFTPLUS: tl.constexpr, HEADS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Step sizes and running sums, of a chunk and some heads: softplus(raw + bias), or raw; 0 past a row's length."""
    blocks = tl.cdiv(heads, HEADS)
    c, k = tl.program_id(0) // blocks, tl.program_id(1)
    begin, size = sequence(offsets, k, width, PACKED)
    chunk = span * TILE
    total = total.to(tl.int64)
    h = tl.program_id(0) % blocks * HEADS + tl.arange(0, HEADS)
    a = tl.load(A + h, mask=h < heads, other=0.0).to(tl.float64)
    sum = tl.zeros((HEADS,), dtype=tl.float64)
    for start in range(c * chunk, min((c + 1) * chunk, size), TILE):
        place = start + tl.arange(0, TILE)
        rows = begin + place
        valid = (place < size)[:, None] & (h < heads)[None, :]
        delta = tl.load(raw + rows[:, None] * raw_stride + h[None, :], mask=valid, other=0.0).to(tl.float32)
        if SOFTPLUS:
            delta = (delta + tl.load(bias + h, mask=h < heads, other=0.0)[None, :]).to(tl.float64)
            delta = tl.where(delta > 30, delta, tl.log(1 + tl.exp(delta))).to(tl.float32)
        if HAS_LENGTHS:
            delta = tl.where((place < tl.load(lengths + k))[:, None], delta, 0.0)
        exponents = tl.where(valid, delta.to(tl.float64) * a[None, :], 0.0)
        running = tl.cumsum(exponents, 0) + sum[None, :]
        sum += tl.sum(exponents, 0)
        at = h[None, :] * total + rows[:, None]
        first = running.to(tl.float32)
        tl.store(steps + at, delta, mask=valid)
        tl.store(high + at, first, mask=valid)
        tl.store(low + at, (running - first.to(tl.float64)).to(tl.float32), mask=valid)


@triton.jit(do_not_specialize=["width", "span"])
def products(
    B, C, G, offsets, b_stride, c_stride, width, span, states,
    PACKED: tl.constexpr, N: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """G [rows, chunk] = C_i B_j for the tiles j <= i of each chunk."""
    start, k = tl.program_id(0) * TILE, tl.program_id(1)
    begin, size = sequence(offsets, k, width, PACKED)
    chunk = span * TILE
    if start >= size:
        return
    t, n = tl.arange(0, TILE), tl.arange(0, N)
    rows = begin + start + t
    valid = start + t < size
    c = tl.load(C + rows[:, None] * c_stride + n[None, :], mask=valid[:, None] & (n < states)[None, :], other=0.0)
    first = start // chunk * chunk
    for other in range(first, start + TILE, TILE):
        b = tl.load(
            B + (begin + other + t)[None, :] * b_stride + n[:, None],
            mask=(other + t < size)[None, :] & (n < states)[:, None],
            other=0.0,
        )
        g = dot(c, b, tl.zeros((TILE, TILE), dtype=tl.float32))
        tl.store(G + rows[:, None] * chunk + (other - first + t)[None, :], g, mask=valid[:, None])


@triton.jit(do_not_specialize=["width", "total", "span", "chunks"])
def chunk_states(
    x, B, steps, high, low, out, offsets, x_stride, b_stride, width, total, heads, span, chunks, size_p, size_n,
    PACKED: tl.constexpr, BACKWARD: tl.constexpr, P: tl.constexpr, N: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """What a chunk adds to the state: sum_j exp(s_end - s_j) delta_j x_j B_j. BACKWARD: sum_i exp(s_i) x_i B_i."""
    h, c, k = tl.program_id(0) % heads, tl.program_id(0) // heads, tl.program_id(1)
    begin, size = sequence(offsets, k, width, PACKED)
    chunk = span * TILE
    total = total.to(tl.int64)
    start, end = c * chunk, min((c + 1) * chunk, size)
    if start >= end:
        return
    t, p, n = tl.arange(0, TILE), tl.arange(0, P), tl.arange(0, N)
    per_head = h * total + begin
    end_high, end_low = tl.load(high + per_head + end - 1), tl.load(low + per_head + end - 1)
    sum = tl.zeros((P, N), dtype=tl.float32)
    for at in range(start, end, TILE):
        place = at + t
        valid = place < end
        s_high, s_low = _sums(high, low, per_head + place, valid)
        if BACKWARD:
            weight = tl.exp(s_high + s_low)
        else:
            delta = tl.load(steps + per_head + place, mask=valid, other=0.0)
            weight = _within(end_high, end_low, s_high, s_low, valid) * delta
        x_t = tl.load(
            x + (begin + place)[None, :] * x_stride + (h * size_p + p)[:, None],
            mask=valid[None, :] & (p < size_p)[:, None],
            other=0.0,
        )
        b = tl.load(
            B + (begin + place)[:, None] * b_stride + n[None, :], mask=valid[:, None] & (n < size_n)[None, :], other=0.0
        )
        sum = dot((x_t * weight[None, :]).to(b.dtype), b, sum)
    at = ((k * chunks + c) * heads + h).to(tl.int64) * size_p * size_n + p[:, None] * size_n + n[None, :]
    tl.store(out + at, sum, mask=(p < size_p)[:, None] & (n < size_n)[None, :])


@triton.jit(do_not_specialize=["width", "total", "chunk", "chunks"])
def carry(
    states, before, after, high, low, starts, inner, offsets, width, total, heads, chunk, chunks, elements,
    PACKED: tl.constexpr, REVERSE: tl.constexpr, HAS_BEFORE: tl.constexpr, HAS_AFTER: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Turn what chunks add to the state into the states before them, in place, and the last state.

    REVERSE: what chunks add to the gradient of the state before them into the gradients of those after them, and with
    `starts`, the states before, `inner` [sequences, chunks, heads, blocks] = exp(s_end) <gradient after, state before>.
    """
    h, block, k = tl.program_id(0) % heads, tl.program_id(0) // heads, tl.program_id(1)
    begin, size = sequence(offsets, k, width, PACKED)
    total = total.to(tl.int64)
    e = block * BLOCK + tl.arange(0, BLOCK)
    inside = e < elements
    outer = (k * heads + h).to(tl.int64) * elements + e
    state = tl.zeros((BLOCK,), dtype=tl.float32)
    if HAS_BEFORE:
        state = tl.load(before + outer, mask=inside, other=0.0)
    count = tl.cdiv(size, chunk)
    for step in range(0, count):
        c = count - 1 - step if REVERSE else step
        end = h * total + begin + min((c + 1) * chunk, size) - 1
        kept = tl.exp(tl.load(high + end) + tl.load(low + end))
        index = ((k * chunks + c) * heads + h).to(tl.int64)
        at = index * elements + e
        added = tl.load(states + at, mask=inside, other=0.0)
        tl.store(states + at, state, mask=inside)
        if REVERSE:
            start = tl.load(starts + at, mask=inside, other=0.0)
            tl.store(inner + index * tl.cdiv(elements, BLOCK) + block, kept * tl.sum(state * start))
        state = state * kept + added
    if HAS_AFTER:
        tl.store(after + outer, state, mask=inside)


@triton.jit(do_not_specialize=["width", "total", "span", "chunks"])
def outputs(
    x, C, G, D, steps, high, low, starts, y, offsets,
    x_stride, c_stride, y_stride, width, total, heads, span, chunks, size_p, size_n,
    PACKED: tl.constexpr, HAS_D: tl.constexpr, HAS_STATES: tl.constexpr,
    P: tl.constexpr, N: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """y of one tile and head."""
    h, start, k = tl.program_id(0) % heads, tl.program_id(0) // heads * TILE, tl.program_id(1)
    begin, size = sequence(offsets, k, width, PACKED)
    chunk = span * TILE
    total = total.to(tl.int64)
    if start >= size:
        return
    t, p = tl.arange(0, TILE), tl.arange(0, P)
    per_head, channel = h * total + begin, h * size_p + p
    valid, first = start + t < size, start // chunk * chunk
    rows = begin + start + t
    s_high, s_low = _sums(high, low, per_head + start + t, valid)
    sum = tl.zeros((TILE, P), dtype=tl.float32)
    if HAS_STATES:
        n = tl.arange(0, N)
        c = tl.load(C + rows[:, None] * c_stride + n[None, :], mask=valid[:, None] & (n < size_n)[None, :], other=0.0)
        at = ((k * chunks + start // chunk) * heads + h).to(tl.int64) * size_p * size_n
        state = tl.load(
            starts + at + p[None, :] * size_n + n[:, None],
            mask=(p < size_p)[None, :] & (n < size_n)[:, None],
            other=0.0,
        )
        sum = dot(c, state.to(c.dtype), sum) * tl.exp(s_high + s_low)[:, None]
    for other in range(first, start, TILE):
        g = tl.load(G + rows[:, None] * chunk + (other - first + t)[None, :], mask=valid[:, None], other=0.0)
        there_at = per_head + other + t
        last = per_head + other + TILE - 1
        # Between two tiles L is a product: exponents of both factors are negative.
        ref_high, ref_low = tl.load(high + last), tl.load(low + last)
        left = tl.exp((s_high - ref_high) + (s_low - ref_low))
        right = tl.exp((ref_high - tl.load(high + there_at)) + (ref_low - tl.load(low + there_at)))
        right *= tl.load(steps + there_at)
        there = tl.load(
            x + (begin + other + t)[:, None] * x_stride + channel[None, :], mask=(p < size_p)[None, :], other=0.0
        )
        sum = dot((g * left[:, None] * right[None, :]).to(there.dtype), there, sum)
    g = tl.load(G + rows[:, None] * chunk + (start - first + t)[None, :], mask=valid[:, None], other=0.0)
    seen = (t[:, None] >= t[None, :]) & valid[:, None]
    delta = tl.load(steps + per_head + start + t, mask=valid, other=0.0)
    weights = g * _within(s_high[:, None], s_low[:, None], s_high[None, :], s_low[None, :], seen) * delta[None, :]
    mask = valid[:, None] & (p < size_p)[None, :]
    here = tl.load(x + rows[:, None] * x_stride + channel[None, :], mask=mask, other=0.0)
    sum = dot(weights.to(here.dtype), here, sum)
    if HAS_D:
        sum += tl.load(D + h) * here.to(tl.float32)
    tl.store(y + rows[:, None] * y_stride + channel[None, :], sum.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["width", "total", "span", "chunks"])
def x_backward(
    dy, B, G, D, steps, high, low, ends, dx, offsets,
    dy_stride, b_stride, dx_stride, width, total, heads, span, chunks, size_p, size_n,
    PACKED: tl.constexpr, HAS_D: tl.constexpr, HAS_STATES: tl.constexpr,
    P: tl.constexpr, N: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """dx of one tile and head; ends: gradients of the states after the chunks."""
    h, start, k = tl.program_id(0) % heads, tl.program_id(0) // heads * TILE, tl.program_id(1)
    begin, size = sequence(offsets, k, width, PACKED)
    chunk = span * TILE
    total = total.to(tl.int64)
    if start >= size:
        return
    t, p = tl.arange(0, TILE), tl.arange(0, P)
    per_head, channel = h * total + begin, h * size_p + p
    valid, first = start + t < size, start // chunk * chunk
    end = min(first + chunk, size)
    rows = begin + start + t
    s_high, s_low = _sums(high, low, per_head + start + t, valid)
    delta = tl.load(steps + per_head + start + t, mask=valid, other=0.0)
    mask = valid[:, None] & (p < size_p)[None, :]
    sum = tl.zeros((TILE, P), dtype=tl.float32)
    if HAS_STATES:
        n = tl.arange(0, N)
        b = tl.load(B + rows[:, None] * b_stride + n[None, :], mask=valid[:, None] & (n < size_n)[None, :], other=0.0)
        at = ((k * chunks + start // chunk) * heads + h).to(tl.int64) * size_p * size_n
        gradient = tl.load(
            ends + at + p[None, :] * size_n + n[:, None], mask=(p < size_p)[None, :] & (n < size_n)[:, None], other=0.0
        )
        last = per_head + end - 1
        decay = _within(tl.load(high + last), tl.load(low + last), s_high, s_low, valid)
        sum = dot(b, gradient.to(b.dtype), sum) * decay[:, None]
    here = tl.load(dy + rows[:, None] * dy_stride + channel[None, :], mask=mask, other=0.0)
    g = tl.load(G + rows[:, None] * chunk + (start - first + t)[None, :], mask=valid[:, None], other=0.0)
    seen = (t[:, None] >= t[None, :]) & valid[:, None]
    weights = g * _within(s_high[:, None], s_low[:, None], s_high[None, :], s_low[None, :], seen)
    sum = dot(tl.trans(weights.to(here.dtype)), here, sum)
    if start + TILE < end:  # this tile is full, and its last token lies between it and the later ones
        last = per_head + start + TILE - 1
        ref_high, ref_low = tl.load(high + last), tl.load(low + last)
        right = tl.exp((ref_high - s_high) + (ref_low - s_low))
        for other in range(start + TILE, end, TILE):
            o_valid, o_rows = other + t < end, begin + other + t
            o_high, o_low = _sums(high, low, per_head + other + t, o_valid)
            left = tl.exp((o_high - ref_high) + (o_low - ref_low))
            g = tl.load(G + o_rows[:, None] * chunk + (start - first + t)[None, :], mask=o_valid[:, None], other=0.0)
            there = tl.load(
                dy + o_rows[:, None] * dy_stride + channel[None, :],
                mask=o_valid[:, None] & (p < size_p)[None, :],
                other=0.0,
            )
            sum = dot(tl.trans((g * left[:, None] * right[None, :]).to(there.dtype)), there, sum)
    sum *= delta[:, None]
    if HAS_D:
        sum += tl.load(D + h) * here.to(tl.float32)
    tl.store(dx + rows[:, None] * dx_stride + channel[None, :], sum.to(dx.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["width", "total", "span"])
def pairs_backward(
    x, dy, G, steps, high, low, dG, row_sums, column_sums, diagonal, offsets,
    x_stride, dy_stride, width, total, heads, span, size_p,
    PACKED: tl.constexpr, SPLIT: tl.constexpr, P: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """For a pair of tiles j <= i and a part of the heads: with W_ij = dy_i x_j and E = W L,

    dG [SPLIT, rows, chunk]: sum over heads of E_ij delta_j; row_sums, column_sums [tiles of a chunk, heads, rows]:
    sum_j E_ij G_ij delta_j and sum_i E_ij G_ij, both without i = j; diagonal [heads, rows]: W_ii.
    """
    part, k = tl.program_id(0) % SPLIT, tl.program_id(1)
    pair = tl.program_id(0) // SPLIT
    column, start = pair % span, pair // span * TILE
    begin, size = sequence(offsets, k, width, PACKED)
    chunk = span * TILE
    total = total.to(tl.int64)
    first = start // chunk * chunk
    other = first + column * TILE
    if (start >= size) | (other > start):
        return
    row = (start - first) // TILE
    t, p = tl.arange(0, TILE), tl.arange(0, P)
    valid, o_valid = start + t < size, other + t < size
    rows, o_rows = begin + start + t, begin + other + t
    at = rows[:, None] * chunk + (other - first + t)[None, :]
    g = tl.load(G + at, mask=valid[:, None], other=0.0)
    seen = (start + t[:, None] >= other + t[None, :]) & valid[:, None]
    apart = start + t[:, None] != other + t[None, :]
    dg = tl.zeros((TILE, TILE), dtype=tl.float32)
    per_part = tl.cdiv(heads, SPLIT)
    for h in range(part * per_part, min((part + 1) * per_part, heads)):
        channel = h * size_p + p
        here = tl.load(
            dy + rows[:, None] * dy_stride + channel[None, :], mask=valid[:, None] & (p < size_p)[None, :], other=0.0
        )
        there = tl.load(
            x + o_rows[None, :] * x_stride + channel[:, None], mask=o_valid[None, :] & (p < size_p)[:, None], other=0.0
        )
        w = dot(here, there, tl.zeros((TILE, TILE), dtype=tl.float32))
        per_head = h * total
        s_high, s_low = _sums(high, low, per_head + rows, valid)
        delta = tl.load(steps + per_head + o_rows, mask=o_valid, other=0.0)
        o_high, o_low = _sums(high, low, per_head + o_rows, o_valid)
        e = w * _within(s_high[:, None], s_low[:, None], o_high[None, :], o_low[None, :], seen)
        dg += e * delta[None, :]
        eg = tl.where(apart, e * g, 0.0)
        row_sum, column_sum = tl.sum(eg * delta[None, :], 1), tl.sum(eg, 0)
        if start == other:
            tl.store(diagonal + per_head + rows, tl.sum(tl.where(apart, 0.0, w), 1), mask=valid)
        tl.store(row_sums + (column * heads + h) * total + rows, row_sum, mask=valid)
        tl.store(column_sums + (row * heads + h) * total + o_rows, column_sum, mask=o_valid)
    tl.store(dG + part * total * chunk + at, dg, mask=valid[:, None])


@triton.jit(do_not_specialize=["width", "total", "span"])
def products_backward(
    B, C, dG, dB_states, dC_states, dB, dC, offsets,
    b_stride, c_stride, db_stride, dc_stride, width, total, span, size_n,
    PACKED: tl.constexpr, SPLIT: tl.constexpr, HAS_STATES: tl.constexpr, N: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """dB_j = sum_i dG_ij C_i and dC_i = sum_j dG_ij B_j of one tile, and what came through the states."""
    start, k = tl.program_id(0) * TILE, tl.program_id(1)
    begin, size = sequence(offsets, k, width, PACKED)
    chunk = span * TILE
    total = total.to(tl.int64)
    if start >= size:
        return
    first = start // chunk * chunk
    t, n = tl.arange(0, TILE), tl.arange(0, N)
    rows, valid, inside = begin + start + t, start + t < size, n < size_n
    db = tl.zeros((TILE, N), dtype=tl.float32)
    dc = tl.zeros((TILE, N), dtype=tl.float32)
    mask = valid[:, None] & inside[None, :]
    if HAS_STATES:
        db += tl.load(dB_states + rows[:, None] * size_n + n[None, :], mask=mask, other=0.0)
        dc += tl.load(dC_states + rows[:, None] * size_n + n[None, :], mask=mask, other=0.0)
    for other in range(first, start + TILE, TILE):
        o_valid = other + t < size
        o_rows = begin + other + t
        dg = tl.zeros((TILE, TILE), dtype=tl.float32)
        for part in range(0, SPLIT):
            at = dG + part * total * chunk
            dg += tl.load(at + rows[:, None] * chunk + (other - first + t)[None, :], mask=valid[:, None], other=0.0)
        b = tl.load(B + o_rows[:, None] * b_stride + n[None, :], mask=o_valid[:, None] & inside[None, :], other=0.0)
        dc = dot(dg.to(b.dtype), b, dc)
    for other in range(start, min(first + chunk, size), TILE):
        o_valid = other + t < size
        o_rows = begin + other + t
        dg = tl.zeros((TILE, TILE), dtype=tl.float32)
        for part in range(0, SPLIT):
            at = dG + part * total * chunk
            dg += tl.load(at + o_rows[None, :] * chunk + (start - first + t)[:, None], mask=o_valid[None, :], other=0.0)
        c = tl.load(C + o_rows[:, None] * c_stride + n[None, :], mask=o_valid[:, None] & inside[None, :], other=0.0)
        db = dot(dg.to(c.dtype), c, db)
    tl.store(dB + rows[:, None] * db_stride + n[None, :], db.to(dB.dtype.element_ty), mask=mask)
    tl.store(dC + rows[:, None] * dc_stride + n[None, :], dc.to(dC.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["width", "total", "span", "chunks"])
def states_backward(
    x, dy, B, C, steps, high, low, starts, ends, dB, dC, row_sums, column_sums, offsets,
    x_stride, dy_stride, b_stride, c_stride, width, total, heads, span, chunks, size_p, size_n,
    PACKED: tl.constexpr, P: tl.constexpr, N: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """What reaches B, C and the running sums of one tile through the states before (starts) and after (ends) its chunk.

    dB, dC: float32 [rows, N]; row_sums, column_sums [heads, rows]: exp(s_i) dy_i S C_i, exp(s_end - s_j) x_j dS B_j.
    """
    start, k = tl.program_id(0) * TILE, tl.program_id(1)
    begin, size = sequence(offsets, k, width, PACKED)
    chunk = span * TILE
    total = total.to(tl.int64)
    if start >= size:
        return
    first = start // chunk * chunk
    end = min(first + chunk, size)
    t, p, n = tl.arange(0, TILE), tl.arange(0, P), tl.arange(0, N)
    rows, valid = begin + start + t, start + t < size
    mask = valid[:, None] & (n < size_n)[None, :]
    b = tl.load(B + rows[:, None] * b_stride + n[None, :], mask=mask, other=0.0)
    c = tl.load(C + rows[:, None] * c_stride + n[None, :], mask=mask, other=0.0)
    db = tl.zeros((TILE, N), dtype=tl.float32)
    dc = tl.zeros((TILE, N), dtype=tl.float32)
    for h in range(0, heads):
        per_head = h * total
        s_high, s_low = _sums(high, low, per_head + rows, valid)
        last = per_head + begin + end - 1
        decay = _within(tl.load(high + last), tl.load(low + last), s_high, s_low, valid)
        at = ((k * chunks + start // chunk) * heads + h).to(tl.int64) * size_p * size_n
        at = at + p[:, None] * size_n + n[None, :]
        state_mask = (p < size_p)[:, None] & (n < size_n)[None, :]
        channel = h * size_p + p
        of_head = valid[:, None] & (p < size_p)[None, :]
        dy_here = tl.load(dy + rows[:, None] * dy_stride + channel[None, :], mask=of_head, other=0.0)
        before = tl.load(starts + at, mask=state_mask, other=0.0).to(dy_here.dtype)
        part = dot(dy_here, before, tl.zeros((TILE, N), dtype=tl.float32)) * tl.exp(s_high + s_low)[:, None]
        tl.store(row_sums + per_head + rows, tl.sum(part * c, 1), mask=valid)
        dc += part
        x_here = tl.load(x + rows[:, None] * x_stride + channel[None, :], mask=of_head, other=0.0)
        after = tl.load(ends + at, mask=state_mask, other=0.0).to(x_here.dtype)
        part = dot(x_here, after, tl.zeros((TILE, N), dtype=tl.float32)) * decay[:, None]
        tl.store(column_sums + per_head + rows, tl.sum(part * b, 1), mask=valid)
        db += part * tl.load(steps + per_head + rows, mask=valid, other=0.0)[:, None]
    tl.store(dB + rows[:, None] * size_n + n[None, :], db, mask=mask)
    tl.store(dC + rows[:, None] * size_n + n[None, :], dc, mask=mask)


@triton.jit(do_not_specialize=["width", "total", "span", "chunks"])
def steps_backward(
    raw, bias, A, lengths, G, steps, row_sums, column_sums, diagonal, state_rows, state_columns, inner,
    draw, sums, offsets, raw_stride, draw_stride, width, total, heads, span, chunks, blocks,
    PACKED: tl.constexpr, HAS_LENGTHS: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_STATES: tl.constexpr,
    HEADS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Gradients of the step sizes of a chunk and some heads, and sums [sequences, chunks, 3, heads] for A, bias and D.

    The gradient of the exponent delta_k A is the sum over the pairs i >= k > j: pairs within the chunk as a sum from
    the end of row sums less column sums; pairs with the state before as a sum from the end; pairs with the state after
    as a sum from the start; and what goes from state to state.
    """
    head_blocks = tl.cdiv(heads, HEADS)
    c, k = tl.program_id(0) // head_blocks, tl.program_id(1)
    begin, size = sequence(offsets, k, width, PACKED)
    chunk = span * TILE
    total = total.to(tl.int64)
    h, t = tl.program_id(0) % head_blocks * HEADS + tl.arange(0, HEADS), tl.arange(0, TILE)
    inside = h < heads
    of_head = h * total
    a = tl.load(A + h, mask=inside, other=0.0)
    first, end = c * chunk, min((c + 1) * chunk, size)
    through = tl.zeros((HEADS,), dtype=tl.float64)  # what pairs over both ends, and pairs with the state after, give
    if HAS_STATES:
        for block in range(0, blocks):
            at = ((k * chunks + c).to(tl.int64) * heads + h) * blocks + block
            through += tl.load(inner + at, mask=inside & (h * 0 + first < end), other=0.0).to(tl.float64)
        for start in range(first, end, TILE):
            at = of_head[None, :] + (begin + start + t)[:, None]
            valid = (start + t < end)[:, None] & inside[None, :]
            column = tl.load(state_columns + at, mask=valid, other=0.0) * tl.load(steps + at, mask=valid, other=0.0)
            through += tl.sum(column.to(tl.float64), 0)
    dA = tl.zeros((HEADS,), dtype=tl.float32)
    dbias = tl.zeros((HEADS,), dtype=tl.float32)
    dD = tl.zeros((HEADS,), dtype=tl.float32)
    tiles = tl.cdiv(max(end - first, 0), TILE)
    for back in range(0, tiles):
        tile = tiles - 1 - back
        place = first + tile * TILE + t
        rows = begin + place
        valid = (place < end)[:, None] & inside[None, :]
        at = of_head[None, :] + rows[:, None]
        delta = tl.load(steps + at, mask=valid, other=0.0)
        row = tl.zeros((TILE, HEADS), dtype=tl.float32)
        column = tl.zeros((TILE, HEADS), dtype=tl.float32)
        for other in range(0, tile + 1):
            row += tl.load(row_sums + other * heads * total + at, mask=valid, other=0.0)
        for other in range(tile, tiles):
            column += tl.load(column_sums + other * heads * total + at, mask=valid, other=0.0)
        w = tl.load(diagonal + at, mask=valid, other=0.0)
        g = tl.load(G + rows * chunk + tile * TILE + t, mask=place < end, other=0.0)
        direct = column + w * g[:, None]
        gains = row.to(tl.float64) - (column * delta).to(tl.float64)
        if HAS_STATES:
            to_end = tl.load(state_columns + at, mask=valid, other=0.0)
            direct += to_end
            gains += tl.load(state_rows + at, mask=valid, other=0.0).to(tl.float64) - (to_end * delta).to(tl.float64)
        # From the end on: a sum over this tile and the later ones, this token included for rows, and for columns too,
        # since a column's pairs lie behind it.
        here = tl.sum(gains, 0)
        exponent = through[None, :] + here[None, :] - tl.cumsum(gains, 0) + gains
        through += here
        exponent = exponent.to(tl.float32)
        ddelta = exponent * a[None, :] + direct
        if HAS_LENGTHS:
            ddelta = tl.where((place < tl.load(lengths + k))[:, None], ddelta, 0.0)
        if SOFTPLUS:
            value = tl.load(raw + rows[:, None] * raw_stride + h[None, :], mask=valid, other=0.0).to(tl.float32)
            value += tl.load(bias + h, mask=inside, other=0.0)[None, :]
            ddelta = ddelta / (1 + tl.exp(-value))
        ddelta = tl.where(valid, ddelta, 0.0)
        tl.store(draw + rows[:, None] * draw_stride + h[None, :], ddelta.to(draw.dtype.element_ty), mask=valid)
        dA += tl.sum(exponent * delta, 0)
        dbias += tl.sum(ddelta, 0)
        dD += tl.sum(w, 0)
    at = (k * chunks + c).to(tl.int64) * 3 * heads + h
    tl.store(sums + at, dA, mask=inside)
    tl.store(sums + at + heads, dbias, mask=inside)
    tl.store(sums + at + 2 * heads, dD, mask=inside)

# mypy: disable-error-code="no-untyped-def"
"""Triton kernels around the SSD of a Mamba-2 mixer: convolution with SiLU before it, gate and RMSNorm after it.

Rows and sequences are as in `models.kernels.triton_ssd_kernels`. Everything is computed in float32, kept in the inputs'
type. Distances of rows of a projection's output are given in units of UNIT elements: loads can be wide where those are
known to be multiples of 8. A convolution has four taps (`models.kernels.mamba2.fits`).
"""

from __future__ import annotations

import triton
import triton.language as tl

from models.kernels.triton_ssd_kernels import sequence


@triton.jit
def _tap(x, state, k, place, rows, c, size, x_stride, channels, mask, HAS_STATE: tl.constexpr):
    """Inputs at `place`, those of the state (3 of them) before 0, zeros elsewhere."""
    value = tl.load(x + rows * x_stride + c, mask=mask & (place >= 0) & (place < size), other=0.0).to(tl.float32)
    if HAS_STATE:
        at = (k * 3 + 3 + place).to(tl.int64) * channels + c
        value += tl.load(state + at, mask=mask & (place < 0) & (place >= -3), other=0.0)
    return value


@triton.jit(do_not_specialize=["width"])
def conv_forward(
    x, weight, bias, state, y, offsets, x_stride, y_stride, width, channels,
    PACKED: tl.constexpr, HAS_STATE: tl.constexpr, UNIT: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y = silu(bias + sum over the taps of weight x) of one tile of tokens and block of channels."""
    blocks = tl.cdiv(channels, BLOCK)
    block, start, k = tl.program_id(0) % blocks, tl.program_id(0) // blocks * TILE, tl.program_id(1)
    begin, size = sequence(offsets, k, width, PACKED)
    if start >= size:
        return
    place, c = (start + tl.arange(0, TILE))[:, None], block * BLOCK + tl.arange(0, BLOCK)
    inside = c < channels
    sum = tl.zeros((TILE, BLOCK), dtype=tl.float32) + tl.load(bias + c, mask=inside, other=0.0)[None, :]
    for tap in tl.static_range(4):
        there = place - 3 + tap
        value = _tap(
            x, state, k, there, begin + there, c[None, :], size, x_stride * UNIT, channels, inside[None, :], HAS_STATE
        )
        sum += tl.load(weight + c * 4 + tap, mask=inside, other=0.0)[None, :] * value
    sum = sum / (1 + tl.exp(-sum))
    mask = (place < size) & inside[None, :]
    tl.store(y + (begin + place) * y_stride + c[None, :], sum.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["width"])
def conv_state(
    x, state, after, lengths, x_stride, width, channels,
    HAS_STATE: tl.constexpr, HAS_LENGTHS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The last three inputs of a sequence, those of the state before included: float32 [sequences, 3, channels]."""
    c, k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1)
    begin, size = k.to(tl.int64) * width, width
    if HAS_LENGTHS:
        size = tl.load(lengths + k).to(tl.int32)
    for tap in tl.static_range(3):
        place = size - 3 + tap + c * 0
        value = _tap(x, state, k, place, begin + place, c, size, x_stride, channels, c < channels, HAS_STATE)
        tl.store(after + (k * 3 + tap).to(tl.int64) * channels + c, value, mask=c < channels)


@triton.jit(do_not_specialize=["width"])
def silu_backward(
    x, dy, weight, bias, sums, offsets, x_stride, dy_stride, width, channels, tiles,
    PACKED: tl.constexpr, UNIT: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dy becomes the gradient before the SiLU; sums [sequences, tiles, 5, channels]: those of the taps and the bias."""
    blocks = tl.cdiv(channels, BLOCK)
    block, tile, k = tl.program_id(0) % blocks, tl.program_id(0) // blocks, tl.program_id(1)
    begin, size = sequence(offsets, k, width, PACKED)
    c = block * BLOCK + tl.arange(0, BLOCK)
    inside = c < channels
    at = sums + (k * tiles + tile).to(tl.int64) * 5 * channels + c
    start = tile * TILE
    if start >= size:
        for tap in tl.static_range(5):
            tl.store(at + tap * channels, tl.zeros((BLOCK,), dtype=tl.float32), mask=inside)
        return
    place = (start + tl.arange(0, TILE))[:, None]
    own = (place < size) & inside[None, :]
    value = tl.zeros((TILE, BLOCK), dtype=tl.float32) + tl.load(bias + c, mask=inside, other=0.0)[None, :]
    for tap in tl.static_range(4):
        there = place - 3 + tap
        mask = (there >= 0) & own
        x_there = tl.load(x + (begin + there) * (x_stride * UNIT) + c[None, :], mask=mask, other=0.0).to(tl.float32)
        value += tl.load(weight + c * 4 + tap, mask=inside, other=0.0)[None, :] * x_there
    gate = 1 / (1 + tl.exp(-value))
    dy_at = dy + (begin + place) * dy_stride + c[None, :]
    g = tl.load(dy_at, mask=own, other=0.0).to(tl.float32) * gate * (1 + value * (1 - gate))
    tl.store(dy_at, g.to(dy.dtype.element_ty), mask=own)
    for tap in tl.static_range(4):
        there = place - 3 + tap
        mask = (there >= 0) & own
        x_there = tl.load(x + (begin + there) * (x_stride * UNIT) + c[None, :], mask=mask, other=0.0).to(tl.float32)
        tl.store(at + tap * channels, tl.sum(g * x_there, 0), mask=inside)
    tl.store(at + 4 * channels, tl.sum(g, 0), mask=inside)


@triton.jit(do_not_specialize=["width"])
def conv_backward(
    g, weight, dx, offsets, g_stride, dx_stride, width, channels,
    PACKED: tl.constexpr, UNIT: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dx from the gradient before the SiLU: the convolution, backward in time."""
    blocks = tl.cdiv(channels, BLOCK)
    block, start, k = tl.program_id(0) % blocks, tl.program_id(0) // blocks * TILE, tl.program_id(1)
    begin, size = sequence(offsets, k, width, PACKED)
    if start >= size:
        return
    place, c = (start + tl.arange(0, TILE))[:, None], block * BLOCK + tl.arange(0, BLOCK)
    inside = c < channels
    sum = tl.zeros((TILE, BLOCK), dtype=tl.float32)
    for tap in tl.static_range(4):
        later = place + 3 - tap
        mask = (later < size) & inside[None, :]
        value = tl.load(g + (begin + later) * g_stride + c[None, :], mask=mask, other=0.0).to(tl.float32)
        sum += tl.load(weight + c * 4 + tap, mask=inside, other=0.0)[None, :] * value
    mask = (place < size) & inside[None, :]
    tl.store(dx + (begin + place) * (dx_stride * UNIT) + c[None, :], sum.to(dx.dtype.element_ty), mask=mask)


@triton.jit
def norm_forward(
    y, gate, weight, out, y_stride, gate_stride, out_stride, size, eps, UNIT: tl.constexpr, BLOCK: tl.constexpr
):
    """out = g / rms(g) weight with g = y silu(gate), of one row."""
    row, c = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = c < size
    value = tl.load(y + row * y_stride + c, mask=inside, other=0.0).to(tl.float32)
    z = tl.load(gate + row * (gate_stride * UNIT) + c, mask=inside, other=0.0).to(tl.float32)
    g = value * z / (1 + tl.exp(-z))
    scale = 1 / tl.sqrt(tl.sum(g * g) / size + eps)
    w = tl.load(weight + c, mask=inside, other=0.0)
    tl.store(out + row * out_stride + c, (g * scale * w).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def norm_backward(
    y, gate, weight, dout, dy, dgate, sums,
    y_stride, gate_stride, dout_stride, dy_stride, dgate_stride, rows, size, eps,
    UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of the rows of one program, every so many; sums [programs, size]: its part of the weight's."""
    c = tl.arange(0, BLOCK)
    inside = c < size
    w = tl.load(weight + c, mask=inside, other=0.0)
    dw = tl.zeros((BLOCK,), dtype=tl.float32)
    for at in range(tl.program_id(0), rows, tl.num_programs(0)):
        row = tl.cast(at, tl.int64)
        value = tl.load(y + row * y_stride + c, mask=inside, other=0.0).to(tl.float32)
        z = tl.load(gate + row * (gate_stride * UNIT) + c, mask=inside, other=0.0).to(tl.float32)
        d = tl.load(dout + row * dout_stride + c, mask=inside, other=0.0).to(tl.float32)
        open = 1 / (1 + tl.exp(-z))
        g = value * z * open
        scale = 1 / tl.sqrt(tl.sum(g * g) / size + eps)
        dw += d * g * scale
        d = d * w
        dg = scale * (d - g * (scale * scale * tl.sum(d * g) / size))
        tl.store(dy + row * dy_stride + c, (dg * z * open).to(dy.dtype.element_ty), mask=inside)
        dz = dg * value * open * (1 + z * (1 - open))
        tl.store(dgate + row * (dgate_stride * UNIT) + c, dz.to(dgate.dtype.element_ty), mask=inside)
    tl.store(sums + tl.program_id(0) * size + c, dw, mask=inside)

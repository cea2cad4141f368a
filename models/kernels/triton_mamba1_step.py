# mypy: disable-error-code="no-untyped-def,assignment"
"""One token of a whole Mamba-1 in Triton: four kernels a block, states updated in place.

What a block does between its matrix products is done inside them: the norm scales the rows of the first one's result
(its weight lies in the matrix), convolution and SiLU follow it in registers, the product for steps, B and C is summed
in parts by the kernel that reads and writes the scan's state, and the last product adds to the residual stream and
leaves the sums of squares that the next norm needs. No sum depends on the order in which programs run, nor a row's
results on what other rows hold.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.triton_parts import dot

LOG2E = 1.4426950408889634


class Layer(NamedTuple):
    """A block's weights as the kernels read them; matrices in the type of the products, the rest float32."""

    enter: Tensor
    """[2 inner, D], the norm's weight in it."""
    taps: Tensor
    """[inner, taps]."""
    conv_bias: Tensor
    select: Tensor
    """[rank + 2 N, inner]."""
    steps: Tensor
    """[inner, rank]."""
    steps_bias: Tensor
    A: Tensor
    """[inner, N], to be multiplied with steps and raised to the power of 2."""
    D: Tensor
    leave: Tensor
    """[D, inner]."""


@dataclass(frozen=True)
class Blocks:
    """How the kernels cut their work. A single row is multiplied without tensor cores, all of a column at a time."""

    enter: tuple[int, int, int, int, int]
    """Rows, columns and depth of a tile (of one row: all of the depth), warps, stages."""
    select: tuple[int, int, int, int]
    """Rows and depth of a tile, warps, and the parts in which the product is summed."""
    scan: tuple[int, int, int]
    """Rows and channels of a tile, warps."""
    leave: tuple[int, int, int, int, int]
    """As of `enter`."""
    early: bool = False
    """Kernels are launched while the one before still runs, and fetch their weights meanwhile (programmatic dependent
    launch, Hopper and later)."""


def mamba1_step(model: Any, rows: int, dtype: torch.dtype) -> Mamba1Step | None:
    """What decodes so many rows of a `models.mamba1.Mamba1`; None where the tiles cannot cover its widths.

    It has made a step when it is given out, so that kernels are compiled and what fails has failed.
    """
    if model.options.d_model % 16 or model.blocks[0].mixer.inner % 16:
        return None
    step = Mamba1Step(model, dtype, rows)
    tokens, live = torch.zeros(rows, dtype=torch.int64, device=model.device), torch.ones(rows, device=model.device) > 0
    step(tokens, model.initial_state(rows), live, torch.zeros(rows, model.vocabulary, device=model.device))
    return step


def blocks(rows: int, d_model: int, inner: int) -> Blocks:
    """Tiles for so many rows: the fastest of those tried for 1 row and 256 rows of the size `paper` on an H200."""
    if rows == 1:
        return Blocks(
            enter=(1, _divisor(inner, min(8, _columns(d_model))), d_model, 4, 1),
            select=(
                1,
                inner,
                8,
                next(parts for parts in range(1, inner) if inner % parts == 0 and inner // parts <= 256),
            ),
            scan=(1, _divisor(inner, 8), 2),
            leave=(1, _divisor(d_model, min(4, _columns(inner))), inner, 4, 1),
            early=True,
        )
    if rows <= 16:
        return Blocks(
            enter=(16, _divisor(inner, 64), _divisor(d_model, 64), 4, 5),
            select=(16, _divisor(inner, 64), 4, _parts(inner, _divisor(inner, 64), 6)),
            scan=(16, _divisor(inner, 32), 4),
            leave=(16, _divisor(d_model, 16), _divisor(inner, 512), 4, 5),
            early=True,
        )
    tall, deep = 32 if rows <= 64 else 64, _divisor(inner, 128)
    return Blocks(
        enter=(tall, _divisor(inner, 64), _divisor(d_model, 64), 4, 4),
        select=(16, deep, 4, _parts(inner, deep, 6 if rows <= 64 else 2)),
        scan=(16, _divisor(inner, 8), 2),
        leave=(tall, _divisor(d_model, 32), deep, 4, 4),
    )


def _columns(depth: int) -> int:
    """How many columns of weights so deep the registers of a program hold."""
    return max(1, 8192 // int(triton.next_power_of_2(depth)))


def _parts(size: int, depth: int, most: int) -> int:
    """The most parts up to `most` that `size` can be cut into, each of whole tiles of `depth`."""
    return next(parts for parts in range(most, 0, -1) if size % (parts * depth) == 0)


def _divisor(size: int, most: int) -> int:
    """The largest power of two up to `most` that divides `size`."""
    return min(most, size & -size)


class Mamba1Step:
    """All of a Mamba-1's step for a fixed number of rows.

    model: a `models.mamba1.Mamba1`; dtype: the type matrix products are taken in.
    """

    def __init__(self, model: Any, dtype: torch.dtype, rows: int, tiles: Blocks | None = None) -> None:
        device, options, mixer = model.device, model.options, model.blocks[0].mixer
        self.rows, self.d_model, self.inner, self.N, self.rank = (
            rows, options.d_model, mixer.inner, mixer.d_state, mixer.rank,
        )  # fmt: skip
        self.eps = model.norm.eps
        self.layers = [_layer(block, dtype) for block in model.blocks]
        self.embedding = model.embedding.weight.float()
        self.head = (model.logits.weight * model.norm.weight).to(dtype)
        self.tiles = tiles or blocks(rows, self.d_model, self.inner)
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < (9, 0):
            self.tiles = replace(self.tiles, early=False)
        self.width = self.rank + 2 * self.N

        def buffer(*shape: int, kind: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=kind, device=device)

        self.residual, self.low = buffer(rows, self.d_model), buffer(rows, self.d_model, kind=dtype)
        self.squares = buffer(self.d_model // self.tiles.leave[1], rows)
        self.x, self.gate, self.y = (buffer(rows, self.inner, kind=dtype) for _ in range(3))
        self.selected = buffer(self.tiles.select[3], rows, self.width)

    def __call__(self, tokens: Tensor, state: Any, live: Tensor, scores: Tensor) -> Any:
        """See `models.decoding.Decoding`."""
        tiles, rows, parts, size, inner = self.tiles, self.rows, len(self.squares), self.d_model, self.inner
        residual, low, squares, selected = self.residual, self.low, self.squares, self.selected
        x, gate, y, live = self.x, self.gate, self.y, live.view(torch.uint8)
        early = {"EARLY": tiles.early, **({"launch_pdl": True} if tiles.early else {})}
        tall, wide = tiles.leave[:2]
        _embed[(triton.cdiv(rows, tall), parts)](
            tokens, self.embedding, state.position, live, residual, low, squares, rows, size,
            ROWS=tall, COLUMNS=wide, **early,
        )  # fmt: skip
        for layer, memory in zip(self.layers, state.layers, strict=True):
            high, broad, thick, warps, stages = tiles.enter
            _enter[(triton.cdiv(rows, high), 2 * inner // broad)](
                low, layer.enter, squares, self.eps, layer.taps, layer.conv_bias, memory.conv, x, gate, live,
                rows, inner, SIZE=size, PARTS=parts, PARTS2=triton.next_power_of_2(parts), TAPS=layer.taps.shape[1],
                ROWS=high, COLUMNS=broad, DEPTH=triton.next_power_of_2(thick),
                num_warps=warps, num_stages=stages, **early,
            )  # fmt: skip
            high, thick, warps, splits = tiles.select
            _select[(triton.cdiv(rows, high), splits)](
                x, layer.select, selected, rows, self.width, INNER=inner, SPAN=inner // splits,
                ROWS=high, COLUMNS=max(16, triton.next_power_of_2(self.width)),
                DEPTH=triton.next_power_of_2(inner // splits) if high == 1 else thick,
                num_warps=warps, num_stages=3, **early,
            )  # fmt: skip
            high, broad, warps = tiles.scan
            _scan[(triton.cdiv(rows, high), inner // broad)](
                x, gate, selected, layer.steps, layer.steps_bias, layer.A, layer.D, memory.ssm, y, live,
                rows, inner, RANK=self.rank, RANKS=max(16, triton.next_power_of_2(self.rank)), N=self.N,
                NS=triton.next_power_of_2(self.N), SPLITS=splits, ROWS=high, CHANNELS=broad,
                num_warps=warps, **early,
            )  # fmt: skip
            tall, wide, depth, warps, stages = tiles.leave
            _leave[(triton.cdiv(rows, tall), parts)](
                y, layer.leave, residual, low, squares, rows, size, INNER=inner, ROWS=tall, COLUMNS=wide,
                DEPTH=triton.next_power_of_2(depth),
                num_warps=warps, num_stages=stages, **early,
            )  # fmt: skip
        vocabulary = len(self.head)
        columns = min(64, max(16, triton.next_power_of_2(vocabulary)))
        _head[(triton.cdiv(rows, 16), triton.cdiv(vocabulary, columns))](
            low, self.head, squares, self.eps, scores, live, rows, vocabulary, SIZE=size, PARTS=parts,
            PARTS2=triton.next_power_of_2(parts), ROWS=16, COLUMNS=columns, DEPTH=_divisor(size, 128),
            num_warps=4, num_stages=3, **early,
        )  # fmt: skip
        return state


def _layer(block: Any, dtype: torch.dtype) -> Layer:
    mixer = block.mixer

    def matrix(weight: Tensor) -> Tensor:
        return weight.to(dtype).contiguous()

    return Layer(
        matrix(mixer.in_proj.weight * block.norm.weight),
        mixer.conv.weight.float().contiguous(),
        mixer.conv.bias.float().contiguous(),
        matrix(mixer.x_proj.weight),
        matrix(mixer.dt_proj.weight),
        mixer.dt_proj.bias.float().contiguous(),
        (-LOG2E * torch.exp(mixer.A_log.float())).contiguous(),
        mixer.D.float().contiguous(),
        matrix(mixer.out_proj.weight),
    )


@triton.jit
def _fetch(weight, c, known, start, STRIDE: tl.constexpr, SPAN: tl.constexpr, EARLY: tl.constexpr):
    """Have weight[c, start:start + SPAN] on its way to the L2 cache."""
    if EARLY:
        BYTES: tl.constexpr = SPAN * weight.dtype.element_ty.primitive_bitwidth // 8
        tl.inline_asm_elementwise(
            "cp.async.bulk.prefetch.L2.global [$1], $2; mov.u32 $0, 0;", "=r,l,r",
            [weight + tl.where(known, c, 0) * STRIDE + start, tl.full(c.shape, BYTES, tl.int32)],
            dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip


@triton.jit
def _begun(EARLY: tl.constexpr):
    """Wait for the kernel before, and let the next one be launched, which will wait for this one."""
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def _embed(
    tokens, table, position, live, residual, low, squares, rows, size,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    _begun(EARLY)
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    keep = r < rows
    token = tl.load(tokens + r, mask=keep, other=0)
    value = tl.load(table + token[:, None] * size + c[None, :], mask=keep[:, None], other=0.0)
    _handed_on(value, residual, low, squares, r, c, keep, rows, size)
    moves = (r < tl.where(tl.program_id(1) == 0, rows, 0)) & (tl.load(live + r, mask=keep, other=0) != 0)
    tl.store(position + r, tl.load(position + r, mask=moves, other=0) + 1, mask=moves)


@triton.jit
def _handed_on(value, residual, low, squares, r, c, keep, rows, size):
    """The residual stream, once more in the type of the products, and the sums of squares over these columns."""
    place = r[:, None] * size + c[None, :]
    tl.store(residual + place, value, mask=keep[:, None])
    tl.store(low + place, value, mask=keep[:, None])
    tl.store(squares + tl.program_id(1) * rows + r, tl.sum(value * value, 1), mask=keep)


@triton.jit
def _scale(squares, eps, r, keep, rows, SIZE: tl.constexpr, PARTS: tl.constexpr, PARTS2: tl.constexpr):
    """1 / root mean square of each row, from the parts of its sum of squares."""
    p = tl.arange(0, PARTS2)
    parts = tl.load(squares + p[:, None] * rows + r[None, :], mask=(p < PARTS)[:, None] & keep[None, :], other=0.0)
    return 1 / tl.sqrt(tl.sum(parts, 0) / SIZE + eps)


@triton.jit
def _column(weight, c, known, start, STRIDE: tl.constexpr, SPAN: tl.constexpr, DEPTH: tl.constexpr):
    """weight[c, start:start + SPAN], for a single row: [COLUMNS, DEPTH]."""
    k = tl.arange(0, DEPTH)
    place = weight + c[:, None] * STRIDE + (start + k)[None, :]
    return tl.load(place, mask=known[:, None] & (k < SPAN)[None, :], other=0.0)


@triton.jit
def _product(
    a, weight, column, sum, r, c, keep, known, start,
    STRIDE: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """sum + a[r, start:start + SPAN] @ weight[c, start:start + SPAN].T, both of STRIDE entries a row."""
    k = tl.arange(0, DEPTH)
    if ROWS == 1:
        x = tl.load(a + start + k, mask=k < SPAN, other=0.0)
        sum += tl.sum(column.to(tl.float32) * x.to(tl.float32)[None, :], 1)[None, :]
    else:
        for at in range(start, start + SPAN, DEPTH):
            x = tl.load(a + r[:, None] * STRIDE + (at + k)[None, :], mask=keep[:, None], other=0.0)
            w = tl.load(weight + c[None, :] * STRIDE + (at + k)[:, None], mask=known[None, :], other=0.0)
            sum = dot(x, w, sum)
    return sum


@triton.jit
def _enter(
    low, weight, squares, eps, taps, bias, conv, x, gate, live, rows, inner,
    SIZE: tl.constexpr, PARTS: tl.constexpr, PARTS2: tl.constexpr, TAPS: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    keep, known = r < rows, c < 2 * inner
    column = 0.0
    if ROWS == 1:
        column = _column(weight, c, known, 0, SIZE, SIZE, DEPTH)
    else:
        _fetch(weight, c, known, 0, SIZE, SIZE, EARLY)
    _begun(EARLY)
    sum = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    sum = _product(low, weight, column, sum, r, c, keep, known, 0, SIZE, SIZE, ROWS, DEPTH)
    sum *= _scale(squares, eps, r, keep, rows, SIZE, PARTS, PARTS2)[:, None]
    if tl.program_id(1) * COLUMNS < inner:
        moves = keep & (tl.load(live + r, mask=keep, other=0) != 0)
        value = tl.load(bias + c)[None, :] + sum * tl.load(taps + c * TAPS + TAPS - 1)[None, :]
        place = r[:, None] * ((TAPS - 1) * inner) + c[None, :]
        for tap in tl.static_range(TAPS - 1):
            before = tl.load(conv + place + tap * inner, mask=keep[:, None], other=0.0)
            value += before * tl.load(taps + c * TAPS + tap)[None, :]
            if tap > 0:
                tl.store(conv + place + (tap - 1) * inner, before, mask=moves[:, None])
        if TAPS > 1:
            tl.store(conv + place + (TAPS - 2) * inner, sum, mask=moves[:, None])
        value = value / (1 + tl.exp(-value))
        tl.store(x + r[:, None] * inner + c[None, :], value, mask=keep[:, None])
    else:
        tl.store(gate + r[:, None] * inner + (c - inner)[None, :], sum, mask=keep[:, None])


@triton.jit
def _select(
    x, weight, selected, rows, width,
    INNER: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """The part of the product that comes from SPAN channels."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c, start = tl.arange(0, COLUMNS), tl.program_id(1) * SPAN
    keep, known = r < rows, c < width
    column = 0.0
    if ROWS == 1:
        column = _column(weight, c, known, start, INNER, SPAN, DEPTH)
    else:
        _fetch(weight, c, known, start, INNER, SPAN, EARLY)
    _begun(EARLY)
    sum = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    sum = _product(x, weight, column, sum, r, c, keep, known, start, INNER, SPAN, ROWS, DEPTH)
    place = (tl.program_id(1) * rows + r)[:, None] * width + c[None, :]
    tl.store(selected + place, sum, mask=keep[:, None] & known[None, :])


@triton.jit
def _scan(
    x, gate, selected, steps, bias, A, D, state, y, live, rows, inner,
    RANK: tl.constexpr, RANKS: tl.constexpr, N: tl.constexpr, NS: tl.constexpr, SPLITS: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    n, k = tl.arange(0, NS), tl.arange(0, RANKS)
    keep = r < rows
    some = keep[:, None] & (n < N)[None, :]
    held = (c[None, :, None] + r[:, None, None] * inner) * N + n[None, None, :]
    h = tl.load(state + held, mask=some[:, None, :], other=0.0)  # first: everything else is found meanwhile
    decay = tl.load(A + c[:, None] * N + n[None, :], mask=(n < N)[None, :], other=0.0)
    w = tl.load(steps + c[None, :] * RANK + k[:, None], mask=(k < RANK)[:, None], other=0.0)
    least, skip = tl.load(bias + c)[None, :], tl.load(D + c)[None, :]
    _begun(EARLY)
    low = tl.zeros((ROWS, RANKS), dtype=tl.float32)
    B = tl.zeros((ROWS, NS), dtype=tl.float32)
    C = tl.zeros((ROWS, NS), dtype=tl.float32)
    for part in tl.static_range(SPLITS):
        row = selected + (part * rows + r)[:, None] * (RANK + 2 * N)
        low += tl.load(row + k[None, :], mask=keep[:, None] & (k < RANK)[None, :], other=0.0)
        B += tl.load(row + RANK + n[None, :], mask=some, other=0.0)
        C += tl.load(row + RANK + N + n[None, :], mask=some, other=0.0)
    low = low.to(w.dtype)
    if ROWS == 1:
        delta = tl.sum(tl.trans(low).to(tl.float32) * w.to(tl.float32), 0)[None, :]
    else:
        delta = dot(low, w, tl.zeros((ROWS, CHANNELS), dtype=tl.float32))
    delta += least
    delta = tl.where(delta > 20, delta, tl.log(1 + tl.exp(tl.minimum(delta, 20.0))))
    place = r[:, None] * inner + c[None, :]
    u = tl.load(x + place, mask=keep[:, None], other=0.0).to(tl.float32)
    g = tl.load(gate + place, mask=keep[:, None], other=0.0).to(tl.float32)
    h = h * tl.exp2(delta[:, :, None] * decay[None, :, :]) + (delta * u)[:, :, None] * B[:, None, :]
    moves = some[:, None, :] & (tl.load(live + r, mask=keep, other=0) != 0)[:, None, None]
    tl.store(state + held, h, mask=moves)
    value = tl.sum(h * C[:, None, :], 2) + skip * u
    tl.store(y + place, value * g / (1 + tl.exp(-g)), mask=keep[:, None])


@triton.jit
def _leave(
    y, weight, residual, low, squares, rows, size,
    INNER: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    keep, known = r < rows, c < size
    column = 0.0
    if ROWS == 1:
        column = _column(weight, c, known, 0, INNER, INNER, DEPTH)
    else:
        _fetch(weight, c, known, 0, INNER, INNER, EARLY)
    sum = tl.load(residual + r[:, None] * size + c[None, :], mask=keep[:, None], other=0.0)
    _begun(EARLY)
    sum = _product(y, weight, column, sum, r, c, keep, known, 0, INNER, INNER, ROWS, DEPTH)
    _handed_on(sum, residual, low, squares, r, c, keep, rows, size)


@triton.jit
def _head(
    low, weight, squares, eps, scores, live, rows, vocabulary,
    SIZE: tl.constexpr, PARTS: tl.constexpr, PARTS2: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    keep, known = r < rows, c < vocabulary
    _begun(EARLY)
    sum = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    sum = _product(low, weight, 0.0, sum, r, c, keep, known, 0, SIZE, SIZE, ROWS, DEPTH)
    sum *= _scale(squares, eps, r, keep, rows, SIZE, PARTS, PARTS2)[:, None]
    moves = keep & (tl.load(live + r, mask=keep, other=0) != 0)
    tl.store(scores + r[:, None] * vocabulary + c[None, :], sum, mask=moves[:, None] & known[None, :])

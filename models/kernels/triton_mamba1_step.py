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
    """Tiles of the kernels: rows x columns x depth, and how many parts the middle product is summed in."""

    enter: tuple[int, int, int]
    select: tuple[int, int]
    splits: int
    scan: tuple[int, int]
    leave: tuple[int, int, int]
    warps: int = 4
    scan_warps: int = 4
    stages: int = 4
    early: tuple[int, int, int, int] | None = None
    """Kernels are launched while the one before still runs and fetch what does not depend on it (programmatic dependent
    launch, Hopper and later): whether enter, select, scan and leave let the next one begin with them (1), after their
    products (2) or when they end (0). None: one after another."""


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
    """Tiles for so many rows: the fastest of those tried for 1 row and 256 rows of the size `paper` on an H100."""
    few = rows <= 16
    tall, deep = 16 if few else 32 if rows <= 64 else 64, _divisor(inner, 128)
    return Blocks(
        enter=(tall, _divisor(inner, 16 if few else 64), _divisor(d_model, 128 if few else 64)),
        select=(16, deep),
        splits=next(parts for parts in ((6, 4, 3, 2, 1) if rows <= 64 else (2, 1)) if inner % (parts * deep) == 0),
        scan=(16, _divisor(inner, 16)),
        leave=(min(tall, 32), _divisor(d_model, 16 if few else 32), deep),
        early=(1, 1, 1, 1) if few else None,
    )


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
            self.tiles = replace(self.tiles, early=None)
        self.width = self.rank + 2 * self.N

        def buffer(*shape: int, kind: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=kind, device=device)

        self.residual, self.low = buffer(rows, self.d_model), buffer(rows, self.d_model, kind=dtype)
        self.squares = buffer(self.d_model // self.tiles.leave[1], rows)
        self.x, self.gate, self.y = (buffer(rows, self.inner, kind=dtype) for _ in range(3))
        self.selected = buffer(self.tiles.splits, rows, self.width)

    def __call__(self, tokens: Tensor, state: Any, live: Tensor, scores: Tensor) -> Any:
        """See `models.decoding.Decoding`."""
        tiles, rows, parts, size, inner = self.tiles, self.rows, len(self.squares), self.d_model, self.inner
        residual, low, squares, selected = self.residual, self.low, self.squares, self.selected
        x, gate, y, live = self.x, self.gate, self.y, live.view(torch.uint8)
        pdl = {"EARLY": tiles.early is not None, **({"launch_pdl": True} if tiles.early else {})}
        entered, chosen, scanned, left = tiles.early or (0, 0, 0, 0)
        tall, wide, depth = tiles.leave
        _embed[(triton.cdiv(rows, tall), parts)](
            tokens, self.embedding, state.position, live, residual, low, squares, rows, size,
            ROWS=tall, COLUMNS=wide, LETS=1, **pdl,
        )  # fmt: skip
        for layer, memory in zip(self.layers, state.layers, strict=True):
            high, broad, thick = tiles.enter
            _enter[(triton.cdiv(rows, high), 2 * inner // broad)](
                low, layer.enter, squares, self.eps, layer.taps, layer.conv_bias, memory.conv, x, gate, live,
                rows, inner, SIZE=size, PARTS=parts, PARTS2=triton.next_power_of_2(parts), TAPS=layer.taps.shape[1],
                ROWS=high, COLUMNS=broad, DEPTH=thick, LETS=entered,
                num_warps=tiles.warps, num_stages=tiles.stages, **pdl,
            )  # fmt: skip
            _select[(triton.cdiv(rows, tiles.select[0]), tiles.splits)](
                x, layer.select, selected, rows, self.width, INNER=inner, SPAN=inner // tiles.splits,
                ROWS=tiles.select[0], COLUMNS=max(16, triton.next_power_of_2(self.width)), DEPTH=tiles.select[1],
                LETS=chosen, num_warps=tiles.warps, num_stages=3, **pdl,
            )  # fmt: skip
            _scan[(triton.cdiv(rows, tiles.scan[0]), inner // tiles.scan[1])](
                x, gate, selected, layer.steps, layer.steps_bias, layer.A, layer.D, memory.ssm, y, live,
                rows, inner, RANK=self.rank, RANKS=max(16, triton.next_power_of_2(self.rank)), N=self.N,
                NS=triton.next_power_of_2(self.N), SPLITS=tiles.splits, ROWS=tiles.scan[0], CHANNELS=tiles.scan[1],
                LETS=scanned, num_warps=tiles.scan_warps, **pdl,
            )  # fmt: skip
            _leave[(triton.cdiv(rows, tall), parts)](
                y, layer.leave, residual, low, squares, rows, size, INNER=inner,
                ROWS=tall, COLUMNS=wide, DEPTH=depth, LETS=left, num_warps=tiles.warps, num_stages=tiles.stages, **pdl,
            )  # fmt: skip
        vocabulary = len(self.head)
        columns = min(64, max(16, triton.next_power_of_2(vocabulary)))
        _head[(triton.cdiv(rows, 16), triton.cdiv(vocabulary, columns))](
            low, self.head, squares, self.eps, scores, live, rows, vocabulary, SIZE=size, PARTS=parts,
            PARTS2=triton.next_power_of_2(parts), ROWS=16, COLUMNS=columns, DEPTH=_divisor(size, 128),
            LETS=1, num_warps=4, num_stages=3, **pdl,
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
def _fetch(weight, c, start, keep, STRIDE: tl.constexpr, SPAN: tl.constexpr, EARLY: tl.constexpr):
    """Have SPAN entries from `start` on of these columns of weights on their way to the L2 cache."""
    if EARLY:
        BYTES: tl.constexpr = SPAN * weight.dtype.element_ty.primitive_bitwidth // 8
        tl.inline_asm_elementwise(
            "cp.async.bulk.prefetch.L2.global [$1], $2; mov.u32 $0, 0;", "=r,l,r",
            [weight + tl.where(keep, c, 0) * STRIDE + start, tl.full(c.shape, BYTES, tl.int32)],
            dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip


@triton.jit
def _waits(EARLY: tl.constexpr, LETS: tl.constexpr):
    """Wait for the kernel before."""
    if EARLY:
        tl.extra.cuda.gdc_wait()
        if LETS == 1:
            tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def _lets(EARLY: tl.constexpr, LETS: tl.constexpr):
    """Let the next kernel be launched, which will wait for this one."""
    if EARLY and LETS == 2:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def _embed(
    tokens, table, position, live, residual, low, squares, rows, size,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, EARLY: tl.constexpr, LETS: tl.constexpr,
):  # fmt: skip
    _waits(EARLY, LETS)
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
def _product(
    a, weight, sum, r, c, keep, known, start,
    STRIDE: tl.constexpr, SPAN: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """sum + a[r, start:start + SPAN] @ weight[c, start:start + SPAN].T, both of STRIDE entries a row."""
    k = start + tl.arange(0, DEPTH)
    for at in range(0, SPAN, DEPTH):
        x = tl.load(a + r[:, None] * STRIDE + (at + k)[None, :], mask=keep[:, None], other=0.0)
        w = tl.load(weight + c[None, :] * STRIDE + (at + k)[:, None], mask=known[None, :], other=0.0)
        sum = dot(x, w, sum)
    return sum


@triton.jit
def _enter(
    low, weight, squares, eps, taps, bias, conv, x, gate, live, rows, inner,
    SIZE: tl.constexpr, PARTS: tl.constexpr, PARTS2: tl.constexpr, TAPS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, EARLY: tl.constexpr, LETS: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    keep, known = r < rows, c < 2 * inner
    _fetch(weight, c, 0, known, SIZE, SIZE, EARLY)
    _waits(EARLY, LETS)
    sum = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    sum = _product(low, weight, sum, r, c, keep, known, 0, SIZE, SIZE, DEPTH)
    _lets(EARLY, LETS)
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
    EARLY: tl.constexpr, LETS: tl.constexpr,
):  # fmt: skip
    """The part of the product that comes from SPAN channels."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c, start = tl.arange(0, COLUMNS), tl.program_id(1) * SPAN
    keep, known = r < rows, c < width
    _fetch(weight, c, start, known, INNER, SPAN, EARLY)
    _waits(EARLY, LETS)
    sum = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    sum = _product(x, weight, sum, r, c, keep, known, start, INNER, SPAN, DEPTH)
    _lets(EARLY, LETS)
    place = (tl.program_id(1) * rows + r)[:, None] * width + c[None, :]
    tl.store(selected + place, sum, mask=keep[:, None] & known[None, :])


@triton.jit
def _scan(
    x, gate, selected, steps, bias, A, D, state, y, live, rows, inner,
    RANK: tl.constexpr, RANKS: tl.constexpr, N: tl.constexpr, NS: tl.constexpr, SPLITS: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, EARLY: tl.constexpr, LETS: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    n, k = tl.arange(0, NS), tl.arange(0, RANKS)
    keep = r < rows
    held = (c[None, :, None] + r[:, None, None] * inner) * N + n[None, None, :]
    there = keep[:, None, None] & (n < N)[None, None, :]
    h = tl.load(state + held, mask=there, other=0.0)  # first: everything else is found while it is under way
    decay = tl.load(A + c[:, None] * N + n[None, :], mask=(n < N)[None, :], other=0.0)
    w = tl.load(steps + c[None, :] * RANK + k[:, None], mask=(k < RANK)[:, None], other=0.0)
    _waits(EARLY, LETS)
    low = tl.zeros((ROWS, RANKS), dtype=tl.float32)
    B = tl.zeros((ROWS, NS), dtype=tl.float32)
    C = tl.zeros((ROWS, NS), dtype=tl.float32)
    for part in tl.static_range(SPLITS):
        row = selected + (part * rows + r)[:, None] * (RANK + 2 * N)
        low += tl.load(row + k[None, :], mask=keep[:, None] & (k < RANK)[None, :], other=0.0)
        some = keep[:, None] & (n < N)[None, :]
        B += tl.load(row + RANK + n[None, :], mask=some, other=0.0)
        C += tl.load(row + RANK + N + n[None, :], mask=some, other=0.0)
    delta = dot(low.to(w.dtype), w, tl.zeros((ROWS, CHANNELS), dtype=tl.float32)) + tl.load(bias + c)[None, :]
    delta = tl.where(delta > 20, delta, tl.log(1 + tl.exp(tl.minimum(delta, 20.0))))
    place = r[:, None] * inner + c[None, :]
    u = tl.load(x + place, mask=keep[:, None], other=0.0).to(tl.float32)
    g = tl.load(gate + place, mask=keep[:, None], other=0.0).to(tl.float32)
    _lets(EARLY, LETS)
    h = h * tl.exp2(delta[:, :, None] * decay[None, :, :]) + (delta * u)[:, :, None] * B[:, None, :]
    moves = there & (tl.load(live + r, mask=keep, other=0) != 0)[:, None, None]
    tl.store(state + held, h, mask=moves)
    value = tl.sum(h * C[:, None, :], 2) + tl.load(D + c)[None, :] * u
    tl.store(y + place, value * g / (1 + tl.exp(-g)), mask=keep[:, None])


@triton.jit
def _leave(
    y, weight, residual, low, squares, rows, size,
    INNER: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, EARLY: tl.constexpr,
    LETS: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    keep, known = r < rows, c < size
    _fetch(weight, c, 0, known, INNER, INNER, EARLY)
    sum = tl.load(residual + r[:, None] * size + c[None, :], mask=keep[:, None], other=0.0)
    _waits(EARLY, LETS)
    sum = _product(y, weight, sum, r, c, keep, known, 0, INNER, INNER, DEPTH)
    _lets(EARLY, LETS)
    _handed_on(sum, residual, low, squares, r, c, keep, rows, size)


@triton.jit
def _head(
    low, weight, squares, eps, scores, live, rows, vocabulary,
    SIZE: tl.constexpr, PARTS: tl.constexpr, PARTS2: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, EARLY: tl.constexpr, LETS: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    keep, known = r < rows, c < vocabulary
    _waits(EARLY, LETS)
    sum = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    sum = _product(low, weight, sum, r, c, keep, known, 0, SIZE, SIZE, DEPTH)
    sum *= _scale(squares, eps, r, keep, rows, SIZE, PARTS, PARTS2)[:, None]
    moves = keep & (tl.load(live + r, mask=keep, other=0) != 0)
    tl.store(scores + r[:, None] * vocabulary + c[None, :], sum, mask=moves[:, None] & known[None, :])

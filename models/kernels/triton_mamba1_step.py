# mypy: disable-error-code="no-untyped-def,assignment"
"""One token of a whole Mamba-1 in Triton: four kernels a block, states updated in place.

What a block does between its matrix products is done inside them: the norm scales the rows of the first one's result
(its weight lies in the matrix); convolution and SiLU come before the product for steps, B and C, which is summed in
parts by the kernel that reads and writes the scan's state; and the last product adds to the residual stream and leaves
the sums of squares that the next norm needs. No sum depends on the order in which programs run, nor a row's results on
what other rows hold.

Each kernel loads what no kernel of the same step writes, weights and states, before it waits for the one before; with
`early` launches that happens while the one before still runs. Rows may be split into lanes that run side by side.
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
LANES = 2
"""Lanes of a batch of at least LANE_ROWS rows a lane."""
LANE_ROWS = 64


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
    select: int
    """Depth; its rows are 16, its columns all."""
    splits: int
    """Parts that product is summed in, each of its own channels."""
    steps: int
    """Channels; its rows are 16."""
    scan: tuple[int, int]
    """Rows x channels; rows 16 at least, unless `apart`."""
    leave: tuple[int, int, int]
    warps: int = 4
    scan_warps: int = 4
    stages: int = 4
    apart: bool = True
    """The lengths of the scan's steps are found by a kernel of their own; with few rows the scan finds them itself."""
    early: bool = False
    """Kernels are launched while the one before still runs (programmatic dependent launch, Hopper and later)."""


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
    """Tiles for so many rows a lane."""
    few = rows <= 16
    tall, wide = (16, 16) if few else (32, 64) if rows <= 64 else (64, 64)
    deep = _divisor(inner, 128)
    return Blocks(
        enter=(tall, _divisor(2 * inner, wide), _divisor(d_model, 128 if few else 64)),
        select=min(64, deep),
        splits=next(parts for parts in (6, 4, 3, 2, 1) if inner % (parts * deep) == 0),
        steps=_divisor(inner, 64),
        scan=(16, _divisor(inner, 16)),
        leave=(min(tall, 32), _divisor(d_model, 16 if few else 32), deep),
        apart=not few,
        early=few,
    )


def _divisor(size: int, most: int) -> int:
    """The largest power of two up to `most` that divides `size`."""
    return min(most, size & -size)


class Mamba1Step:
    """All of a Mamba-1's step for a fixed number of rows.

    model: a `models.mamba1.Mamba1`; dtype: the type matrix products are taken in.
    """

    def __init__(
        self, model: Any, dtype: torch.dtype, rows: int, lanes: int | None = None, tiles: Blocks | None = None
    ) -> None:
        device, options, mixer = model.device, model.options, model.blocks[0].mixer
        self.rows, self.d_model, self.inner, self.N, self.rank = (
            rows, options.d_model, mixer.inner, mixer.d_state, mixer.rank,
        )  # fmt: skip
        self.eps = model.norm.eps
        self.layers = [_layer(block, dtype) for block in model.blocks]
        self.embedding = model.embedding.weight.float()
        self.head = (model.logits.weight * model.norm.weight).to(dtype)
        if lanes is None:
            lanes = LANES if device.type == "cuda" and rows >= LANES * LANE_ROWS else 1
        self.parts = [slice(rows * at // lanes, rows * (at + 1) // lanes) for at in range(lanes)]
        self.streams = [torch.cuda.Stream(device) for _ in range(lanes)] if lanes > 1 else []
        self.tiles = tiles or blocks(self.parts[0].stop, self.d_model, self.inner)
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < (9, 0):
            self.tiles = replace(self.tiles, early=False)
        self.width = self.rank + 2 * self.N

        def buffer(*shape: int, kind: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=kind, device=device)

        self.residual, self.low = buffer(rows, self.d_model), buffer(rows, self.d_model, kind=dtype)
        self.squares = [buffer(self.d_model // self.tiles.leave[1], part.stop - part.start) for part in self.parts]
        self.entered = buffer(rows, 2 * self.inner, kind=dtype)
        self.x, self.y = (buffer(rows, self.inner, kind=dtype) for _ in range(2))
        self.delta, self.mixed = buffer(rows, self.inner), buffer(rows, 2 * self.N)
        self.selected = [buffer(self.tiles.splits, part.stop - part.start, self.width) for part in self.parts]

    def __call__(self, tokens: Tensor, state: Any, live: Tensor, scores: Tensor) -> Any:
        """See `models.decoding.Decoding`."""
        if not self.streams:
            self._lane(0, tokens, state, live, scores)
            return state
        here = torch.cuda.current_stream(tokens.device)
        for at, stream in enumerate(self.streams):
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                self._lane(at, tokens, state, live, scores)
        for stream in self.streams:
            here.wait_stream(stream)
        return state

    def _lane(self, at: int, tokens: Tensor, state: Any, live: Tensor, scores: Tensor) -> None:
        part, squares, selected, tiles = self.parts[at], self.squares[at], self.selected[at], self.tiles
        rows, parts = part.stop - part.start, len(squares)
        residual, low, entered, x, y = (t[part] for t in (self.residual, self.low, self.entered, self.x, self.y))
        delta, mixed = self.delta[part], self.mixed[part]
        live, size, inner = live[part].view(torch.uint8), self.d_model, self.inner
        early = {"EARLY": tiles.early, **({"launch_pdl": True} if tiles.early else {})}
        tall, wide, depth = tiles.leave
        _embed[(triton.cdiv(rows, tall), parts)](
            tokens[part], self.embedding, state.position[part], live, residual, low, squares, rows, size,
            ROWS=tall, COLUMNS=wide, **early,
        )  # fmt: skip
        for layer, memory in zip(self.layers, state.layers, strict=True):
            high, broad, thick = tiles.enter
            _enter[(triton.cdiv(rows, high), 2 * inner // broad)](
                low, layer.enter, squares, self.eps, entered, rows, 2 * inner, SIZE=size, PARTS=parts,
                PARTS2=triton.next_power_of_2(parts), ROWS=high, COLUMNS=broad, DEPTH=thick,
                num_warps=tiles.warps, num_stages=tiles.stages, **early,
            )  # fmt: skip
            _select[(triton.cdiv(rows, 16), tiles.splits)](
                entered, layer.select, layer.taps, layer.conv_bias, memory.conv[part], x, selected, live,
                rows, self.width, inner, SPAN=inner // tiles.splits, TAPS=layer.taps.shape[1],
                ROWS=16, COLUMNS=max(16, triton.next_power_of_2(self.width)), DEPTH=tiles.select,
                num_warps=4, num_stages=2, **early,
            )  # fmt: skip
            sizes = {
                "RANK": self.rank, "RANKS": max(16, triton.next_power_of_2(self.rank)), "N": self.N,
                "NS": triton.next_power_of_2(self.N), "SPLITS": tiles.splits, **early,
            }  # fmt: skip
            if tiles.apart:
                _steps[(triton.cdiv(rows, 16), inner // tiles.steps)](
                    selected, layer.steps, layer.steps_bias, delta, mixed, rows, inner,
                    ROWS=16, CHANNELS=tiles.steps, num_warps=4, **sizes,
                )  # fmt: skip
            _scan[(triton.cdiv(rows, tiles.scan[0]), inner // tiles.scan[1])](
                x, entered, selected, layer.steps, layer.steps_bias, delta, mixed, layer.A, layer.D,
                memory.ssm[part], y, live, rows, inner, ROWS=tiles.scan[0], CHANNELS=tiles.scan[1],
                APART=tiles.apart, num_warps=tiles.scan_warps, **sizes,
            )  # fmt: skip
            _leave[(triton.cdiv(rows, tall), parts)](
                y, layer.leave, residual, low, squares, rows, size, INNER=inner,
                ROWS=tall, COLUMNS=wide, DEPTH=depth, num_warps=tiles.warps, num_stages=tiles.stages, **early,
            )  # fmt: skip
        vocabulary = len(self.head)
        columns = min(64, max(16, triton.next_power_of_2(vocabulary)))
        _head[(triton.cdiv(rows, 16), triton.cdiv(vocabulary, columns))](
            low, self.head, squares, self.eps, scores[part], live, rows, vocabulary, SIZE=size, PARTS=parts,
            PARTS2=triton.next_power_of_2(parts), ROWS=16, COLUMNS=columns, DEPTH=_divisor(size, 128),
            num_warps=4, num_stages=3, **early,
        )  # fmt: skip


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
def _next(EARLY: tl.constexpr):
    """Let the next kernel be launched: it loads what this one does not write, and waits for its end."""
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def _wait(EARLY: tl.constexpr):
    """What comes after this reads what the kernel before has written."""
    if EARLY:
        tl.extra.cuda.gdc_wait()


@triton.jit
def _fetch(weight, first, SIZE: tl.constexpr, COLUMNS: tl.constexpr, EARLY: tl.constexpr):
    """Bring these rows of a matrix, SIZE numbers each, into the cache that all programs share."""
    if EARLY:
        piece = tl.arange(0, 8 * COLUMNS)
        bytes: tl.constexpr = SIZE * weight.dtype.element_ty.primitive_bitwidth // 64
        if bytes % 16 == 0:
            place = weight + (first + piece // 8) * SIZE + (piece % 8) * (SIZE // 8)
            tl.inline_asm_elementwise(
                "cp.async.bulk.prefetch.L2.global [$1], $2; mov.u32 $0, 0;", "=r,l,r",
                [place, tl.full((8 * COLUMNS,), bytes, tl.int32)], dtype=tl.int32, is_pure=False, pack=1,
            )  # fmt: skip


@triton.jit
def _embed(
    tokens, table, position, live, residual, low, squares, rows, size,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    _next(EARLY)
    _wait(EARLY)
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
def _enter(
    low, weight, squares, eps, entered, rows, width,
    SIZE: tl.constexpr, PARTS: tl.constexpr, PARTS2: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    _next(EARLY)
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    k = tl.arange(0, DEPTH)
    keep = r < rows
    _fetch(weight, tl.program_id(1) * COLUMNS, SIZE, COLUMNS, EARLY)
    _wait(EARLY)
    scale = _scale(squares, eps, r, keep, rows, SIZE, PARTS, PARTS2)
    sum = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for at in range(0, SIZE, DEPTH):
        a = tl.load(low + r[:, None] * SIZE + (at + k)[None, :], mask=keep[:, None], other=0.0)
        w = tl.load(weight + c[None, :] * SIZE + (at + k)[:, None])
        sum = dot(a, w, sum)
    tl.store(entered + r[:, None] * width + c[None, :], sum * scale[:, None], mask=keep[:, None])


@triton.jit
def _select(
    entered, weight, taps, bias, conv, x, selected, live, rows, width, inner,
    SPAN: tl.constexpr, TAPS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Convolution and SiLU of SPAN channels, and their part of the product for steps, B and C."""
    _next(EARLY)
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns, k = tl.arange(0, COLUMNS), tl.arange(0, DEPTH)
    keep = r < rows
    moves = keep & (tl.load(live + r, mask=keep, other=0) != 0)
    sum = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    _wait(EARLY)
    for at in range(0, SPAN, DEPTH):
        c = tl.program_id(1) * SPAN + at + k
        w = tl.load(weight + columns[None, :] * inner + c[:, None], mask=(columns < width)[None, :], other=0.0)
        new = tl.load(entered + r[:, None] * (2 * inner) + c[None, :], mask=keep[:, None], other=0.0).to(tl.float32)
        value = tl.load(bias + c)[None, :] + new * tl.load(taps + c * TAPS + TAPS - 1)[None, :]
        place = conv + r[:, None] * ((TAPS - 1) * inner) + c[None, :]
        for tap in tl.static_range(TAPS - 1):
            before = tl.load(place + tap * inner, mask=keep[:, None], other=0.0)
            value += before * tl.load(taps + c * TAPS + tap)[None, :]
            if tap > 0:
                tl.store(place + (tap - 1) * inner, before, mask=moves[:, None])
        if TAPS > 1:
            tl.store(place + (TAPS - 2) * inner, new, mask=moves[:, None])
        value = (value / (1 + tl.exp(-value))).to(w.dtype)
        tl.store(x + r[:, None] * inner + c[None, :], value, mask=keep[:, None])
        sum = dot(value, w, sum)
    place = (tl.program_id(1) * rows + r)[:, None] * width + columns[None, :]
    tl.store(selected + place, sum, mask=keep[:, None] & (columns < width)[None, :])


@triton.jit
def _summed(selected, r, c, here, rows, width, SPLITS: tl.constexpr):
    """Columns `c` of the product, summed over its parts."""
    value = tl.load(selected + r[:, None] * width + c[None, :], mask=here, other=0.0)
    for part in tl.static_range(1, SPLITS):
        value += tl.load(selected + (part * rows + r)[:, None] * width + c[None, :], mask=here, other=0.0)
    return value


@triton.jit
def _lengths(selected, w, shift, r, keep, rows, RANK: tl.constexpr, RANKS: tl.constexpr, N, SPLITS: tl.constexpr):
    """Lengths of the steps of some rows and channels: softplus(low w + shift)."""
    k = tl.arange(0, RANKS)
    low = _summed(selected, r, k, keep[:, None] & (k < RANK)[None, :], rows, RANK + 2 * N, SPLITS)
    delta = dot(low.to(w.dtype), w, tl.zeros((low.shape[0], w.shape[1]), dtype=tl.float32)) + shift[None, :]
    return tl.where(delta > 20, delta, tl.log(1 + tl.exp(tl.minimum(delta, 20.0))))


@triton.jit
def _steps(
    selected, steps, bias, delta, mixed, rows, inner,
    RANK: tl.constexpr, RANKS: tl.constexpr, N: tl.constexpr, NS: tl.constexpr, SPLITS: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """What many programs of the scan would find again and again: lengths of the steps, and B and C."""
    _next(EARLY)
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    k, n = tl.arange(0, RANKS), tl.arange(0, 2 * NS)
    keep = r < rows
    w = tl.load(steps + c[None, :] * RANK + k[:, None], mask=(k < RANK)[:, None], other=0.0)
    shift = tl.load(bias + c)
    _wait(EARLY)
    value = _lengths(selected, w, shift, r, keep, rows, RANK, RANKS, N, SPLITS)
    tl.store(delta + r[:, None] * inner + c[None, :], value, mask=keep[:, None])
    if tl.program_id(1) == 0:
        here = keep[:, None] & (n < 2 * N)[None, :]
        both = _summed(selected, r, RANK + n, here, rows, RANK + 2 * N, SPLITS)
        tl.store(mixed + r[:, None] * (2 * N) + n[None, :], both, mask=here)


@triton.jit
def _scan(
    x, entered, selected, steps, bias, delta, mixed, A, D, state, y, live, rows, inner,
    RANK: tl.constexpr, RANKS: tl.constexpr, N: tl.constexpr, NS: tl.constexpr, SPLITS: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, APART: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """APART: lengths of the steps, B and C have been found by `_steps`."""
    _next(EARLY)
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    n = tl.arange(0, NS)
    keep = r < rows
    held = (c[None, :, None] + r[:, None, None] * inner) * N + n[None, None, :]
    there = keep[:, None, None] & (n < N)[None, None, :]
    h = tl.load(state + held, mask=there, other=0.0)
    decay = tl.load(A + c[:, None] * N + n[None, :], mask=(n < N)[None, :], other=0.0)
    skip = tl.load(D + c)
    moves = there & (tl.load(live + r, mask=keep, other=0) != 0)[:, None, None]
    place, some = r[:, None] * inner + c[None, :], keep[:, None] & (n < N)[None, :]
    if APART:
        _wait(EARLY)
        length = tl.load(delta + place, mask=keep[:, None], other=0.0)
        B = tl.load(mixed + r[:, None] * (2 * N) + n[None, :], mask=some, other=0.0)
        C = tl.load(mixed + r[:, None] * (2 * N) + N + n[None, :], mask=some, other=0.0)
    else:
        k = tl.arange(0, RANKS)
        w = tl.load(steps + c[None, :] * RANK + k[:, None], mask=(k < RANK)[:, None], other=0.0)
        shift = tl.load(bias + c)
        _wait(EARLY)
        length = _lengths(selected, w, shift, r, keep, rows, RANK, RANKS, N, SPLITS)
        B = _summed(selected, r, RANK + n, some, rows, RANK + 2 * N, SPLITS)
        C = _summed(selected, r, RANK + N + n, some, rows, RANK + 2 * N, SPLITS)
    u = tl.load(x + place, mask=keep[:, None], other=0.0).to(tl.float32)
    g = tl.load(entered + r[:, None] * (2 * inner) + inner + c[None, :], mask=keep[:, None], other=0.0).to(tl.float32)
    h = h * tl.exp2(length[:, :, None] * decay[None, :, :]) + (length * u)[:, :, None] * B[:, None, :]
    tl.store(state + held, h, mask=moves)
    value = tl.sum(h * C[:, None, :], 2) + skip[None, :] * u
    tl.store(y + place, value * g / (1 + tl.exp(-g)), mask=keep[:, None])


@triton.jit
def _leave(
    y, weight, residual, low, squares, rows, size,
    INNER: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    _next(EARLY)
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    k = tl.arange(0, DEPTH)
    keep = r < rows
    _fetch(weight, tl.program_id(1) * COLUMNS, INNER, COLUMNS, EARLY)
    _wait(EARLY)
    sum = tl.load(residual + r[:, None] * size + c[None, :], mask=keep[:, None], other=0.0)
    for at in range(0, INNER, DEPTH):
        a = tl.load(y + r[:, None] * INNER + (at + k)[None, :], mask=keep[:, None], other=0.0)
        w = tl.load(weight + c[None, :] * INNER + (at + k)[:, None])
        sum = dot(a, w, sum)
    _handed_on(sum, residual, low, squares, r, c, keep, rows, size)


@triton.jit
def _head(
    low, weight, squares, eps, scores, live, rows, vocabulary,
    SIZE: tl.constexpr, PARTS: tl.constexpr, PARTS2: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    _next(EARLY)
    _wait(EARLY)
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    k = tl.arange(0, DEPTH)
    keep = r < rows
    sum = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for at in range(0, SIZE, DEPTH):
        a = tl.load(low + r[:, None] * SIZE + (at + k)[None, :], mask=keep[:, None], other=0.0)
        w = tl.load(weight + c[None, :] * SIZE + (at + k)[:, None], mask=(c < vocabulary)[None, :], other=0.0)
        sum = dot(a, w, sum)
    sum *= _scale(squares, eps, r, keep, rows, SIZE, PARTS, PARTS2)[:, None]
    moves = keep & (tl.load(live + r, mask=keep, other=0) != 0)
    tl.store(scores + r[:, None] * vocabulary + c[None, :], sum, mask=moves[:, None] & (c < vocabulary)[None, :])

"""The SSD of Mamba-2 by our Triton kernels: the operation `ssd`, and its two halves for whoever fuses more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from models.kernels import ssd as reference
from models.kernels import triton_ssd_kernels as kernels
from models.kernels.mamba2 import LARGEST
from models.kernels.triton_ssd_kernels import TILE

CHUNK = 256
"""Tokens of a chunk of long sequences: at fewer the states cost more memory traffic than everything else."""
WHOLE = 512
"""Sequences up to this length are one chunk, and need no states."""
SPLIT = 1
"""Programs that share the heads of one pair of tiles in the backward pass."""
OPTIONS: dict[str, dict[str, int]] = {
    "outputs": {"num_warps": 4, "num_stages": 2},
    "x_backward": {"num_warps": 4, "num_stages": 2},
    "pairs_backward": {"num_warps": 4, "num_stages": 3},
    "products": {"num_warps": 4},
    "products_backward": {"num_warps": 8},
    "chunk_states": {"num_warps": 4},
    "states_backward": {"num_warps": 8},
    "steps": {"num_warps": 4},
}
"""Launch options of the kernels, chosen by measurement on an H200 at the paper's size."""
HEADS = 8
"""Heads of a program that makes step sizes."""
BLOCK = 256
"""Elements of a state one program carries from chunk to chunk."""


def ssd(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor | None = None,
    chunk: int | None = None,
    offsets: Tensor | None = None,
    longest: int = 0,
) -> tuple[Tensor, Tensor]:
    """As the reference, for x, B and C of one type, float32 or bf16; delta, A and states are float32.

    Differentiable once. Sequences from `offsets` start at zero states. bf16 factors are multiplied on tensor cores, in
    which a state is rounded where a token reads it, never where it is carried.
    """
    batch, width, _, size_p = x.shape
    if max(size_p, B.shape[-1]) > LARGEST or x.dtype == torch.float64:
        return reference.ssd(x, delta, A, B, C, state, chunk, offsets=offsets, longest=longest)
    layout = Layout.of(batch, width, None, offsets, longest, chunk)
    y, last = _SSD.apply(x, delta, A, B, C, state, layout)
    return y, last


@dataclass(frozen=True)
class Layout:
    """How rows make up sequences, and sequences chunks."""

    sequences: int
    width: int
    """Tokens of each sequence, without offsets."""
    rows: int
    chunk: int
    chunks: int
    """Chunks of the longest sequence."""
    lengths: Tensor | None
    """int64 [sequences]: tokens that count; what follows has step size 0."""
    offsets: Tensor | None

    @staticmethod
    def of(
        batch: int, width: int, lengths: Tensor | None, offsets: Tensor | None, longest: int, chunk: int | None = None
    ) -> Layout:
        if offsets is not None:
            batch, rows = len(offsets) - 1, width
        else:
            rows, longest = batch * width, width
        if chunk is None:
            chunk = longest if longest <= WHOLE else CHUNK
        chunk = max(1, -(-chunk // TILE)) * TILE
        return Layout(batch, width, rows, chunk, max(1, -(-longest // chunk)), lengths, offsets)

    @property
    def tiles(self) -> int:
        """Tiles of the longest sequence, whole chunks assumed."""
        return self.chunks * (self.chunk // TILE)

    def arguments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """lengths and offsets, something else in place of what is None."""
        return like if self.lengths is None else self.lengths, like if self.offsets is None else self.offsets


@dataclass
class Made:
    """What the forward pass leaves for the backward pass."""

    steps: Tensor
    high: Tensor
    low: Tensor
    """float32 [heads, rows]: step sizes and the two parts of their running sums times A."""
    G: Tensor
    """float32 [rows, chunk]."""
    starts: Tensor | None
    """float32 [sequences, chunks, heads, P, N]: the states before the chunks; None where outputs need none."""


def forward(
    x: Tensor, raw: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, bias: Tensor | None,
    state: Tensor | None, layout: Layout, size_p: int, y: Tensor, keep_last: bool,
) -> tuple[Tensor | None, Made]:  # fmt: skip
    """Rows in, rows out: x, y [rows, heads P]; raw [rows, heads]; B, C [rows, N]; A, D, bias: float32 [heads].

    Rows may be parts of larger ones. With a bias, step sizes are softplus(raw + bias), else raw. Writes y, which
    includes D x. Returns the last states if they are to be kept.
    """
    heads, size_n = A.numel(), B.shape[1]
    S, width, rows, span, chunks = layout.sequences, layout.width, layout.rows, layout.chunk // TILE, layout.chunks
    lengths, offsets = layout.arguments(A)
    packed = layout.offsets is not None
    P, N, blocks = _block(size_p), _block(size_n), triton.cdiv(heads, HEADS)
    steps, high, low = torch.empty(3, heads, rows, device=x.device)
    kernels.steps_forward[(chunks * blocks, S)](
        raw, A if bias is None else bias, A, lengths, offsets, steps, high, low,
        raw.stride(0), width, rows, heads, span,
        PACKED=packed, HAS_LENGTHS=layout.lengths is not None, SOFTPLUS=bias is not None, HEADS=HEADS, TILE=TILE,
        **_options("steps", x),
    )  # fmt: skip
    G = torch.empty(rows, layout.chunk, device=x.device)
    kernels.products[(layout.tiles, S)](
        B, C, G, offsets, B.stride(0), C.stride(0), width, span, size_n,
        PACKED=packed, N=N, TILE=TILE, **_options("products", x),
    )  # fmt: skip
    starts = last = None
    if chunks > 1 or state is not None or keep_last:
        starts = torch.empty(S, chunks, heads, size_p, size_n, device=x.device)
        last = torch.empty(S, heads, size_p, size_n, device=x.device) if keep_last else None
        kernels.chunk_states[(chunks * heads, S)](
            x, B, steps, high, low, starts, offsets, x.stride(0), B.stride(0),
            width, rows, heads, span, chunks, size_p, size_n, PACKED=packed, BACKWARD=False, P=P, N=N, TILE=TILE,
            **_options("chunk_states", x),
        )  # fmt: skip
        _carry(starts, state, last, high, low, None, None, layout, False)
    if chunks == 1 and state is None:
        starts = None
    kernels.outputs[(layout.tiles * heads, S)](
        x, C, G, A if D is None else D, steps, high, low, steps if starts is None else starts, y, offsets,
        x.stride(0), C.stride(0), y.stride(0), width, rows, heads, span, chunks, size_p, size_n,
        PACKED=packed, HAS_D=D is not None, HAS_STATES=starts is not None, P=P, N=N, TILE=TILE,
        **_options("outputs", x),
    )  # fmt: skip
    return last, Made(steps, high, low, G, starts)


def backward(
    x: Tensor, raw: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, bias: Tensor | None,
    made: Made, layout: Layout, size_p: int,
    dy: Tensor, dlast: Tensor | None, dx: Tensor, draw: Tensor, dB: Tensor, dC: Tensor, want_state: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Writes dx, draw, dB and dC. Returns the gradients of A, bias and D [3, heads], and that of the first state."""
    heads, size_n = A.numel(), B.shape[1]
    S, width, rows, span, chunks = layout.sequences, layout.width, layout.rows, layout.chunk // TILE, layout.chunks
    lengths, offsets = layout.arguments(A)
    packed = layout.offsets is not None
    P, N, blocks = _block(size_p), _block(size_n), triton.cdiv(heads, HEADS)
    steps, high, low, G, starts = made.steps, made.high, made.low, made.G, made.starts
    sizes = (width, rows, heads, span, chunks, size_p, size_n)
    first = ends = dB_states = dC_states = state_rows = state_columns = inner = None
    if starts is None and (dlast is not None or want_state):
        starts = torch.zeros(S, chunks, heads, size_p, size_n, device=x.device)
    if starts is not None:
        ends = torch.empty_like(starts)
        kernels.chunk_states[(chunks * heads, S)](
            dy, C, steps, high, low, ends, offsets, dy.stride(0), C.stride(0), *sizes,
            PACKED=packed, BACKWARD=True, P=P, N=N, TILE=TILE,
            **_options("chunk_states", x),
        )  # fmt: skip
        first = torch.empty(S, heads, size_p, size_n, device=x.device) if want_state else None
        inner = torch.empty(S, chunks, heads, -(-size_p * size_n // BLOCK), device=x.device)
        _carry(ends, dlast, first, high, low, starts, inner, layout, True)
        dB_states, dC_states = torch.empty(2, rows, size_n, device=x.device)
        state_rows, state_columns = torch.empty(2, heads, rows, device=x.device)
        kernels.states_backward[(layout.tiles, S)](
            x, dy, B, C, steps, high, low, starts, ends, dB_states, dC_states, state_rows, state_columns, offsets,
            x.stride(0), dy.stride(0), B.stride(0), C.stride(0), *sizes, PACKED=packed, P=P, N=N, TILE=TILE,
            **_options("states_backward", x),
        )  # fmt: skip
    states = starts is not None
    kernels.x_backward[(layout.tiles * heads, S)](
        dy, B, G, A if D is None else D, steps, high, low, _or(ends, steps), dx, offsets,
        dy.stride(0), B.stride(0), dx.stride(0), *sizes,
        PACKED=packed, HAS_D=D is not None, HAS_STATES=states, P=P, N=N, TILE=TILE,
        **_options("x_backward", x),
    )  # fmt: skip
    split = min(SPLIT, heads)
    dG = torch.empty(split, rows, layout.chunk, device=x.device)
    row_sums, column_sums = torch.empty(2, span, heads, rows, device=x.device)
    diagonal = torch.empty(heads, rows, device=x.device)
    kernels.pairs_backward[(layout.tiles * span * split, S)](
        x, dy, G, steps, high, low, dG, row_sums, column_sums, diagonal, offsets, x.stride(0), dy.stride(0),
        width, rows, heads, span, size_p, PACKED=packed, SPLIT=split, P=P, TILE=TILE,
        **_options("pairs_backward", x),
    )  # fmt: skip
    kernels.products_backward[(layout.tiles, S)](
        B, C, dG, _or(dB_states, steps), _or(dC_states, steps), dB, dC, offsets,
        B.stride(0), C.stride(0), dB.stride(0), dC.stride(0), width, rows, span, size_n,
        PACKED=packed, SPLIT=split, HAS_STATES=states, N=N, TILE=TILE,
        **_options("products_backward", x),
    )  # fmt: skip
    sums = torch.empty(S * chunks, 3, heads, device=x.device)
    kernels.steps_backward[(chunks * blocks, S)](
        raw, A if bias is None else bias, A, lengths, G, steps, row_sums, column_sums, diagonal,
        _or(state_rows, steps), _or(state_columns, steps), _or(inner, steps), draw, sums, offsets,
        raw.stride(0), draw.stride(0), width, rows, heads, span, chunks, 1 if inner is None else inner.shape[-1],
        PACKED=packed, HAS_LENGTHS=layout.lengths is not None, SOFTPLUS=bias is not None, HAS_STATES=states,
        HEADS=HEADS, TILE=TILE,
        **_options("steps", x),
    )  # fmt: skip
    return sums.sum(0), first


def _carry(
    states: Tensor, before: Tensor | None, after: Tensor | None, high: Tensor, low: Tensor,
    starts: Tensor | None, inner: Tensor | None, layout: Layout, reverse: bool,
) -> None:  # fmt: skip
    S, chunks, heads = states.shape[:3]
    elements = states.shape[3] * states.shape[4]
    _, offsets = layout.arguments(high)
    kernels.carry[(heads * triton.cdiv(elements, BLOCK), S)](
        states, _or(before, states), _or(after, states), high, low, _or(starts, states), _or(inner, states), offsets,
        layout.width, layout.rows, heads, layout.chunk, chunks, elements,
        PACKED=layout.offsets is not None, REVERSE=reverse, HAS_BEFORE=before is not None, HAS_AFTER=after is not None,
        BLOCK=BLOCK, num_warps=2,
    )  # fmt: skip


class _SSD(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None, layout: Layout
    ) -> tuple[Tensor, Tensor]:
        size_p = x.shape[3]
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        inputs = [_rows(tensor, 2) for tensor in (x, delta, B, C)]
        state = None if state is None else state.contiguous()
        last, made = forward(
            inputs[0], inputs[1], A, inputs[2], inputs[3], None, None, state, layout, size_p, _rows(y, 2), True
        )
        ctx.layout, ctx.size_p, ctx.has_state = layout, size_p, state is not None
        ctx.save_for_backward(x, delta, A, B, C, made.steps, made.high, made.low, made.G, made.starts)
        assert last is not None
        return y, last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        x, delta, A, B, C, *rest = ctx.saved_tensors
        gradients = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (x, delta, B, C)]
        dx, ddelta, dB, dC = (_rows(tensor, 2) for tensor in gradients)
        sums, dstate = backward(
            _rows(x, 2), _rows(delta, 2), A, _rows(B, 2), _rows(C, 2), None, None, Made(*rest), ctx.layout, ctx.size_p,
            _rows(dy, 2), dlast.contiguous(), dx, ddelta, dB, dC, ctx.has_state,
        )  # fmt: skip
        return gradients[0], gradients[1], sums[0], gradients[2], gradients[3], dstate, None


def _rows(tensor: Tensor, leading: int) -> Tensor:
    """[batch, T, ..] as [rows, ..flat], a view where the tensor is that already but for the distance of its rows."""
    tail = tensor.shape[leading:].numel()
    flat = tensor.flatten(leading) if tensor.ndim > leading + 1 else tensor
    row = flat.stride(1)
    if flat.stride(2) != 1 or (flat.shape[0] > 1 and flat.stride(0) != row * flat.shape[1]):
        return flat.reshape(-1, tail).contiguous()
    return flat.as_strided((flat.shape[0] * flat.shape[1], tail), (row, 1))


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A kernel's argument is never None; one that is not looked at may be anything."""
    return other if tensor is None else tensor


def _options(kernel: str, x: Tensor) -> dict[str, int]:
    """Tiles of float32 fit in shared memory once only."""
    return OPTIONS[kernel] | ({"num_stages": 1} if x.dtype == torch.float32 else {})


def _block(size: int) -> int:
    """The power of 2 a kernel works in; tensor cores want 16 at least."""
    return max(16, triton.next_power_of_2(size))

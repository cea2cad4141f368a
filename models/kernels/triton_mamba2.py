"""All of a Mamba-2 mixer between its two projections, by our Triton kernels, with one backward pass."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from models.kernels import mamba2 as reference
from models.kernels import triton_mamba2_kernels as kernels
from models.kernels import triton_ssd
from models.kernels.mamba2 import TAPS
from models.kernels.triton_ssd import Layout, Made

CONV_TILE, CONV_BLOCK = 32, 128
"""Tokens and channels of a program of the convolution."""
TAPS_TILE = 64
"""Tokens of a program that sums gradients of the taps: it leaves a row of sums."""
NORM_WARPS, NORM_PROGRAMS = 4, 1024
"""Most programs of the backward pass of gate and norm: each leaves a row of sums."""


def mamba2(
    projected: Tensor,
    weights: reference.Weights,
    state: reference.Memory | None = None,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    longest: int = 0,
) -> tuple[Tensor, reference.Memory | None]:
    """As the reference; in bf16 where `projected` is, with float32 sums, decays and states.

    The mixer's shape must fit (`fits`). Differentiable with offsets; without them gradients may flow through states,
    and a call that needs any goes to the reference: it is made of differentiable operations.
    """
    needs = torch.is_grad_enabled() and (projected.requires_grad or weights.norm.requires_grad)
    if (needs and offsets is None) or projected.dtype == torch.float64:
        return reference.mamba2(projected, weights, state, lengths, offsets, longest)
    batch, width, _ = projected.shape
    layout = Layout.of(batch, width, lengths, offsets, longest)
    if needs:
        return _Packed.apply(projected, *weights.tensors(), weights.eps, layout), None
    out, memory, _ = _forward(projected.contiguous(), weights, state, layout, keep=offsets is None)
    return out, memory


def _forward(
    projected: Tensor, weights: reference.Weights, state: reference.Memory | None, layout: Layout, keep: bool
) -> tuple[Tensor, reference.Memory | None, list[Any]]:
    inner, channels, S = weights.inner, weights.inner + 2 * weights.d_state, layout.sequences
    gate, x, raw = projected.flatten(0, 1).split([inner, channels, weights.heads], dim=1)
    lengths, offsets = layout.arguments(weights.D)
    packed = layout.offsets is not None
    before, unit = None if state is None else state[0].contiguous(), _unit(x)
    convolved = torch.empty(layout.rows, channels, dtype=x.dtype, device=x.device)
    longest = layout.chunk * layout.chunks if packed else layout.width
    kernels.conv_forward[(triton.cdiv(longest, CONV_TILE) * triton.cdiv(channels, CONV_BLOCK), S)](
        x, weights.conv_weight, weights.conv_bias, x if before is None else before, convolved, offsets,
        x.stride(0) // unit, convolved.stride(0), layout.width, channels,
        PACKED=packed, HAS_STATE=before is not None, UNIT=unit, TILE=CONV_TILE, BLOCK=CONV_BLOCK,
    )  # fmt: skip
    u, B, C = convolved.split([inner, weights.d_state, weights.d_state], dim=1)
    A = -torch.exp(weights.A_log)
    y = torch.empty(layout.rows, inner, dtype=x.dtype, device=x.device)
    last, made = triton_ssd.forward(
        u, raw, A, B, C, weights.D, weights.dt_bias, None if state is None else state[1].contiguous(), layout,
        weights.head_size, y, keep,
    )  # fmt: skip
    out = torch.empty(*projected.shape[:2], inner, dtype=x.dtype, device=x.device)
    kernels.norm_forward[(layout.rows,)](
        y, gate, weights.norm, out, y.stride(0), gate.stride(0) // unit, inner, inner, weights.eps,
        UNIT=unit, BLOCK=triton.next_power_of_2(inner), num_warps=4,
    )  # fmt: skip
    memory = None
    if keep:
        assert last is not None
        conv = torch.empty(S, TAPS - 1, channels, device=x.device)
        kernels.conv_state[(triton.cdiv(channels, CONV_BLOCK), S)](
            x, x if before is None else before, conv, lengths, x.stride(0), layout.width, channels,
            HAS_STATE=before is not None, HAS_LENGTHS=layout.lengths is not None, BLOCK=CONV_BLOCK,
        )  # fmt: skip
        memory = (conv, last)
    return out, memory, [A, convolved, y, made]


class _Packed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, projected: Tensor, *rest: Any) -> Tensor:
        weights, layout = reference.Weights(*rest[:-1]), rest[-1]
        projected = projected.contiguous()
        out, _, (A, convolved, y, made) = _forward(projected, weights, None, layout, keep=False)
        made_tensors = (made.steps, made.high, made.low, made.G, made.starts)
        ctx.save_for_backward(projected, *weights.tensors(), A, convolved, y, *made_tensors)
        ctx.layout, ctx.eps = layout, weights.eps
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        projected, *rest = ctx.saved_tensors
        weights = reference.Weights(*rest[:6], ctx.eps)  # type: ignore[call-arg]
        layout = ctx.layout
        A, convolved, y, *made = rest[6:]
        inner, heads, d_state = weights.inner, weights.heads, weights.d_state
        channels, rows = inner + 2 * d_state, layout.rows
        gate, x, raw = projected.flatten(0, 1).split([inner, channels, heads], dim=1)
        dprojected = torch.empty_like(projected)
        dgate, dx, draw = dprojected.flatten(0, 1).split([inner, channels, heads], dim=1)
        dout = dout.flatten(0, 1)
        dout = dout if dout.stride(1) == 1 else dout.contiguous()
        dy, unit = torch.empty_like(y), _unit(x)
        programs = min(rows, NORM_PROGRAMS)
        dnorm = torch.empty(programs, inner, device=x.device)
        kernels.norm_backward[(programs,)](
            y, gate, weights.norm, dout, dy, dgate, dnorm,
            y.stride(0), gate.stride(0) // unit, dout.stride(0), dy.stride(0), dgate.stride(0) // unit,
            rows, inner, weights.eps, UNIT=unit, BLOCK=triton.next_power_of_2(inner), num_warps=NORM_WARPS,
        )  # fmt: skip
        u, B, C = convolved.split([inner, d_state, d_state], dim=1)
        dconvolved = torch.empty_like(convolved)
        du, dB, dC = dconvolved.split([inner, d_state, d_state], dim=1)
        sums, _ = triton_ssd.backward(
            u, raw, A, B, C, weights.D, weights.dt_bias, Made(*made), layout, weights.head_size,
            dy, None, du, draw, dB, dC, False,
        )  # fmt: skip
        tiles, blocks = triton.cdiv(layout.chunk * layout.chunks, TAPS_TILE), triton.cdiv(channels, CONV_BLOCK)
        taps = torch.empty(layout.sequences * tiles, TAPS + 1, channels, device=x.device)
        kernels.silu_backward[(tiles * blocks, layout.sequences)](
            x, dconvolved, weights.conv_weight, weights.conv_bias, taps, layout.offsets,
            x.stride(0) // unit, dconvolved.stride(0), layout.width, channels, tiles,
            PACKED=True, UNIT=unit, TILE=TAPS_TILE, BLOCK=CONV_BLOCK, num_warps=8,
        )  # fmt: skip
        tiles = triton.cdiv(layout.chunk * layout.chunks, CONV_TILE)
        kernels.conv_backward[(tiles * blocks, layout.sequences)](
            dconvolved, weights.conv_weight, dx, layout.offsets, dconvolved.stride(0), dx.stride(0) // unit,
            layout.width, channels, PACKED=True, UNIT=unit, TILE=CONV_TILE, BLOCK=CONV_BLOCK,
        )  # fmt: skip
        taps = taps.sum(0)
        dA_log, dbias, dD = sums[0] * A, sums[1], sums[2]
        return dprojected, taps[:TAPS].T, taps[TAPS], dbias, dA_log, dD, dnorm.sum(0), None, None


def _unit(projected: Tensor) -> int:
    """Elements of which the distance of rows is a multiple: 8 if possible, as many as one load can take."""
    return 8 if projected.stride(0) % 8 == 0 else 1

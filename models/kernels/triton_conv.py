# mypy: disable-error-code="no-untyped-def"
"""Causal depthwise convolution with SiLU in Triton, forward and backward, over padded or packed rows.

One program makes a tile of tokens and channels of one sequence. Sums over tokens, for the gradients of weight and bias,
are written as one partial sum per program and added up afterwards, always in the same order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.triton_parts import bounds, flat

TOKENS, CHANNELS = 64, 64
"""The tile of one program."""


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor | None,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    longest: int = 0,
    activate: bool = False,
) -> tuple[Tensor, Tensor]:
    """As the reference; the result has x's type, sums are float32."""
    y = _Conv.apply(x, weight, bias, state, offsets, longest, activate)
    return y, x if offsets is not None else _after(x, weight.shape[1] - 1, state, lengths)


def _after(x: Tensor, before: int, state: Tensor | None, lengths: Tensor | None) -> Tensor:
    """The last inputs of each row, float32 [B, taps - 1, C], reaching back into the state where a row has too few."""
    batch, width, channels = x.shape
    if lengths is None and width >= before:
        # A copy, in float32 too: a view would keep all of x alive for as long as the state.
        return x[:, width - before :].to(torch.float32, copy=True)
    ends = torch.full((batch,), width, device=x.device) if lengths is None else lengths
    at = (ends[:, None] + torch.arange(-before, 0, device=x.device))[..., None].expand(-1, -1, channels)
    recent = x.gather(1, at.clamp(min=0)).float() if width else x.new_zeros(at.shape, dtype=torch.float32)
    if state is None:
        return recent.masked_fill(at < 0, 0)
    return torch.where(at < 0, state.gather(1, (at + before).clamp(max=before - 1)), recent)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        state: Tensor | None,
        offsets: Tensor | None,
        longest: int,
        activate: bool,
    ) -> Tensor:
        x, weight, bias = flat(x), weight.contiguous(), bias.contiguous()
        state = None if state is None else state.contiguous()
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        sequences, width = (x.shape[0], x.shape[1]) if offsets is None else (len(offsets) - 1, longest)
        grid = (triton.cdiv(width, TOKENS), triton.cdiv(x.shape[2], CHANNELS), sequences)
        if y.numel():
            _forward[grid](
                x, weight, bias, state, y, offsets, width, x.stride(1), x.shape[2],
                TAPS=weight.shape[1], ACTIVATE=activate, TOKENS=TOKENS, CHANNELS=CHANNELS, num_warps=4,
            )  # fmt: skip
        ctx.save_for_backward(x, weight, bias, state, offsets)
        ctx.sizes = grid, width, activate
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, state, offsets = ctx.saved_tensors
        (_, columns, sequences), width, activate = ctx.sizes
        taps, channels = weight.shape[1], x.shape[2]
        # With a state before, tiles begin with its inputs, so that their gradients are made like any other's.
        early = taps - 1 if state is not None else 0
        grid = (triton.cdiv(width + early, TOKENS), columns, sequences)
        grad = flat(grad)
        grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        grad_state = None if state is None else torch.empty_like(state)
        # Packed sequences shorter than the longest leave some partial sums unwritten.
        sums = torch.zeros(sequences * grid[0], taps + 1, channels, device=x.device)
        if grad.numel():
            _backward[grid](
                x, weight, bias, state, grad, grad_x, grad_state, sums, offsets, width,
                x.stride(1), grad.stride(1), channels,
                EARLY=early, TAPS=taps, ACTIVATE=activate, TOKENS=TOKENS, CHANNELS=CHANNELS, num_warps=4,
            )  # fmt: skip
        total = sums.sum(0)
        return grad_x, total[:taps].T.to(weight.dtype), total[taps].to(bias.dtype), grad_state, None, None, None


@triton.jit
def _inputs(x, state, sequence, start, length, t, stride, c, channels, TAPS: tl.constexpr):
    """float32 inputs at times t [tokens, 1] of a sequence; before its first token those of the state, or zeros."""
    value = tl.load(x + (start + t) * stride + c, mask=(t >= 0) & (t < length) & (c < channels), other=0.0)
    value = value.to(tl.float32)
    if state is not None:
        at = (sequence.to(tl.int64) * (TAPS - 1) + t + TAPS - 1) * channels + c
        value += tl.load(state + at, mask=(t < 0) & (t >= 1 - TAPS) & (c < channels), other=0.0)
    return value


@triton.jit
def _sums(x, weight, bias, state, sequence, start, length, t, stride, c, channels, TAPS: tl.constexpr):
    """The convolution at times t, before its activation."""
    result = tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)
    for tap in tl.static_range(TAPS):
        w = tl.load(weight + c * TAPS + tap, mask=c < channels, other=0.0).to(tl.float32)
        result = result + w * _inputs(
            x, state, sequence, start, length, t + tap - (TAPS - 1), stride, c, channels, TAPS
        )
    return result


@triton.jit(do_not_specialize=["width"])
def _forward(
    x, weight, bias, state, y, offsets, width, stride, channels,
    TAPS: tl.constexpr, ACTIVATE: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(2)
    start, length = bounds(sequence, offsets, None, width)
    if tl.program_id(0) * TOKENS < length:
        t = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS))[:, None].to(tl.int64)
        c = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
        result = _sums(x, weight, bias, state, sequence, start, length, t, stride, c, channels, TAPS)
        if ACTIVATE:
            result = result * tl.sigmoid(result)
        tl.store(y + (start + t) * channels + c, result, mask=(t < length) & (c < channels))


@triton.jit(do_not_specialize=["width"])
def _backward(
    x, weight, bias, state, grad, grad_x, grad_state, sums, offsets, width, stride, grad_stride, channels,
    EARLY: tl.constexpr, TAPS: tl.constexpr, ACTIVATE: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(2)
    start, length = bounds(sequence, offsets, None, width)
    if tl.program_id(0) * TOKENS < length + EARLY:
        t = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS))[:, None].to(tl.int64) - EARLY
        c = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
        into = tl.zeros((TOKENS, CHANNELS), dtype=tl.float32)
        partial = sums + (sequence.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * (TAPS + 1) * channels + c
        for later in tl.static_range(TAPS):  # the input at t takes part in the sum at t + later
            to = t + later
            mask = (to >= 0) & (to < length) & (c < channels)
            g = tl.load(grad + (start + to) * grad_stride + c, mask=mask, other=0.0).to(tl.float32)
            if ACTIVATE:
                total = _sums(x, weight, bias, state, sequence, start, length, to, stride, c, channels, TAPS)
                s = tl.sigmoid(total)
                g = g * s * (1 + total * (1 - s))
            w = tl.load(weight + c * TAPS + TAPS - 1 - later, mask=c < channels, other=0.0).to(tl.float32)
            into += w * g
            here = _inputs(x, state, sequence, start, length, t, stride, c, channels, TAPS)
            tl.store(partial + (TAPS - 1 - later) * channels, tl.sum(g * here, 0)[None, :], mask=c < channels)
            if later == 0:
                tl.store(partial + TAPS * channels, tl.sum(g, 0)[None, :], mask=c < channels)
        tl.store(grad_x + (start + t) * channels + c, into, mask=(t >= 0) & (t < length) & (c < channels))
        if grad_state is not None:
            at = (sequence.to(tl.int64) * (TAPS - 1) + t + TAPS - 1) * channels + c
            tl.store(grad_state + at, into, mask=(t < 0) & (t >= 1 - TAPS) & (c < channels))

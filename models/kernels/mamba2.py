"""All of a Mamba-2 mixer between its two projections: convolution, step sizes, SSD, gate and norm."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, silu, softplus

from models.kernels.choose import causal_conv, ssd, ssd_step

TAPS = 4
"""Taps of a convolution the kernels do."""
LARGEST = 128
"""The largest head size and N the kernels do: larger states do not fit in registers."""

Memory = tuple[Tensor, Tensor]
"""float32 [B, taps - 1, inner + 2 N], the last inputs of the convolution; float32 [B, heads, head size, N]."""


@dataclass(frozen=True)
class Weights:
    """The mixer's parameters but for the projections, float32."""

    conv_weight: Tensor
    """[inner + 2 N, taps]"""
    conv_bias: Tensor
    dt_bias: Tensor
    """[heads], as A_log and D"""
    A_log: Tensor
    D: Tensor
    norm: Tensor
    """[inner]"""
    eps: float

    def tensors(self) -> tuple[Tensor, ...]:
        return self.conv_weight, self.conv_bias, self.dt_bias, self.A_log, self.D, self.norm

    @property
    def inner(self) -> int:
        return len(self.norm)

    @property
    def heads(self) -> int:
        return len(self.D)

    @property
    def head_size(self) -> int:
        return self.inner // self.heads

    @property
    def d_state(self) -> int:
        return (len(self.conv_bias) - self.inner) // 2


def fits(taps: int, head_size: int, d_state: int) -> bool:
    """Whether there are kernels for a mixer's shape."""
    return taps == TAPS and max(head_size, d_state) <= LARGEST


def mamba2(
    projected: Tensor,
    weights: Weights,
    state: Memory | None = None,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    longest: int = 0,
) -> tuple[Tensor, Memory | None]:
    """projected: [B, T, inner + (inner + 2 N) + heads], the gate, what is convolved (x, B, C), and the step sizes.

    state: None for the initial one; lengths: int64 [B], how many tokens of each row enter the new state (None: all).
    With offsets, int32 [S + 1], the one row is S sequences (see `models.kernels.packing`), and no state comes out.
    Returns [B, T, inner] and the new state.
    """
    gate, x, delta = _split(projected, weights)
    taps, bias = weights.conv_weight, weights.conv_bias
    before, seen = (None, None) if state is None else state
    x, conv = causal_conv(x, taps, bias, before, lengths, offsets, longest, activate=True)
    x, B, C, delta, A = _prepare(x, delta, weights)
    if lengths is not None:
        delta = delta.masked_fill(torch.arange(x.shape[1], device=x.device)[:, None] >= lengths[:, None, None], 0)
    # The SSD is matrix products, which autocast would round to bf16 together with the state they carry.
    with torch.autocast(x.device.type, enabled=False):
        y, ssm = ssd(x, delta, A, B, C, seen, offsets=offsets, longest=longest)
    return _finish(y, x, gate, weights), None if offsets is not None else (conv, ssm)


def mamba2_step(
    projected: Tensor, weights: Weights, state: Memory, live: Tensor | None = None
) -> tuple[Tensor, Memory]:
    """One token of `mamba2`: projected: [B, ..]; live: see `ssd_step`; returns [B, inner] and the new state."""
    gate, x, delta = _split(projected, weights)
    x, conv = causal_conv(x[:, None], weights.conv_weight, weights.conv_bias, state[0], activate=True)
    x, B, C, delta, A = _prepare(x[:, 0], delta, weights)
    with torch.autocast(x.device.type, enabled=False):
        y, ssm = ssd_step(x, delta, A, B, C, state[1], live)
    return _finish(y, x, gate, weights), (conv, ssm)


def _split(projected: Tensor, weights: Weights) -> tuple[Tensor, ...]:
    inner = weights.inner
    return projected.split([inner, inner + 2 * weights.d_state, weights.heads], dim=-1)


def _prepare(x: Tensor, delta: Tensor, weights: Weights) -> tuple[Tensor, ...]:
    """x [.., heads, head size], B, C, step sizes and A, from what was convolved."""
    x, B, C = x.float().split([weights.inner, weights.d_state, weights.d_state], dim=-1)
    delta = softplus(delta.float() + weights.dt_bias)
    return x.unflatten(-1, (weights.heads, weights.head_size)), B, C, delta, -torch.exp(weights.A_log.float())


def _finish(y: Tensor, x: Tensor, gate: Tensor, weights: Weights) -> Tensor:
    y = (y + weights.D[:, None] * x).flatten(-2)
    return rms_norm(y * silu(gate), (weights.inner,), weights.norm, weights.eps)

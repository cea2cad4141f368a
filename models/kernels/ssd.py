"""State-space duality of Mamba-2 (Dao & Gu 2024, listing 1) with an initial state and any length, in plain PyTorch."""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from models.kernels.packing import flattened, padded


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
    """h_t = exp(delta_t A) h_(t-1) + delta_t x_t B_t, y_t = C_t h_t, where A is one number per head.

    x: [batch, T, heads, P]; delta: [batch, T, heads]; A: [heads]; B, C: [batch, T, N], shared by the heads; state:
    [batch, heads, P, N], None for zeros. A token with delta 0 leaves the state as it is. Tokens of a chunk are related
    to each other by a matrix, between chunks a state is carried; by default a chunk has sqrt(P N) tokens, for which
    matrices and states together are smallest. Returns y [batch, T, heads, P] and the last state. With offsets, int32
    [S + 1], the one row is S sequences (see `models.kernels.packing`) from zero states, and the last states are theirs.
    """
    if offsets is not None:
        inputs = [padded(tensor, offsets, longest) for tensor in (x, delta, B, C)]
        y, last = ssd(inputs[0], inputs[1], A, inputs[2], inputs[3], None, chunk)
        return flattened(y, offsets, x.shape[1]), last
    batch, length, heads, size = x.shape
    chunk = min(chunk or isqrt(size * B.shape[2]), length)
    if state is None:
        state = x.new_zeros(batch, heads, size, B.shape[2])
    x, delta, B, C = (_cut(tensor, chunk) for tensor in (x * delta[..., None], delta, B, C))
    # Differences of running sums cancel; in float64 they are exact to float32's rounding.
    decay = (delta * A).double().cumsum(2).transpose(2, 3)  # [batch, chunks, heads, chunk]
    weights = _Weights.apply(C @ B.transpose(2, 3), decay)
    x = x.transpose(2, 3)  # [batch, chunks, heads, chunk, P]
    within = weights @ x
    to_end = (decay[..., -1:] - decay).exp().to(x.dtype)
    added = (x * to_end[..., None]).transpose(3, 4) @ B.unsqueeze(2)  # [batch, chunks, heads, P, N]
    starts, state = _carry(added, decay[..., -1].exp().to(x.dtype), state)
    carried = (C.unsqueeze(2) @ starts.transpose(3, 4)) * decay.exp().to(x.dtype)[..., None]
    y = (within + carried).transpose(2, 3).reshape(batch, -1, heads, size)
    return y[:, :length], state


def ssd_step(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, live: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One token of `ssd`: x: [batch, heads, P]; delta: [batch, heads]; B, C: [batch, N].

    What updates the state in place does so only in the rows of `live` (bool [batch]; None: all).
    """
    decay = torch.exp(delta * A)[:, :, None, None]
    state = torch.addcmul((x * delta[..., None])[..., None] * B[:, None, None, :], decay, state)
    return torch.einsum("bhpn,bn->bhp", state, C), state


class _Weights(torch.autograd.Function):
    """scores_ij exp(decay_i - decay_j) for i >= j, else 0, for each head.

    scores: [batch, chunks, Q, Q]; decay: float64 [batch, chunks, heads, Q]. Written by hand because autograd would keep
    and pass through several tensors of the result's size, some of them in float64.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, decay: Tensor) -> Tensor:
        between = (decay[..., :, None] - decay[..., None, :]).to(scores.dtype)
        later = torch.ones(between.shape[-2:], dtype=torch.bool, device=decay.device).triu(1)
        between = between.masked_fill_(later, -torch.inf).exp_()
        ctx.save_for_backward(scores, between)
        return scores.unsqueeze(2) * between

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        scores, between = ctx.saved_tensors
        through = grad * between
        grad_scores = through.sum(2)
        through.mul_(scores.unsqueeze(2))
        return grad_scores, (through.sum(-1) - through.sum(-2)).double()


def _cut(tensor: Tensor, chunk: int) -> Tensor:
    """[batch, T, ..] -> [batch, chunks, chunk, ..], padded with zeros at the end: tokens with delta 0."""
    missing = -tensor.shape[1] % chunk
    if missing:
        tensor = pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, missing))
    return tensor.reshape(tensor.shape[0], -1, chunk, *tensor.shape[2:])


def _carry(added: Tensor, decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The state before each chunk, [batch, chunks, heads, P, N], and the one after the last."""
    starts = []
    for step, kept in zip(added.unbind(1), decay.unbind(1), strict=True):
        starts.append(state)
        state = state * kept[..., None, None] + step
    return torch.stack(starts, dim=1), state

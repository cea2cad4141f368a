"""Selective scan of Mamba-1 (Gu & Dao 2023, algorithm 2) with an initial state, in plain PyTorch.

Autograd through a loop over time would record several small operations per token. Here the loop is one fused
multiply-add per token, everything else is done for a chunk of tokens at once, and the backward pass is written by hand:
it keeps one state per chunk and computes the others again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from models.kernels.packing import flattened, padded

CHUNK_ELEMENTS = 1 << 19
"""Elements of the states of one chunk, all rows together: small enough to stay in a CPU's cache."""


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor | None = None,
    offsets: Tensor | None = None,
    longest: int = 0,
) -> tuple[Tensor, Tensor]:
    """h_t = exp(delta_t A) h_(t-1) + delta_t u_t B_t, y_t = C_t h_t, for each row and channel.

    u, delta: [batch, T, channels]; A: [channels, N]; B, C: [batch, T, N]; state: [batch, channels, N], None for zeros.
    Computes in u's type (float32, or float64). A token with delta 0 leaves the state as it is. Returns y [batch, T,
    channels] and the last state; both are differentiable once, with respect to all arguments. With offsets, int32
    [S + 1], the one row is S sequences (see `models.kernels.packing`) from zero states, and the last states are theirs.
    """
    if offsets is not None:
        inputs = [padded(tensor, offsets, longest) for tensor in (u, delta, B, C)]
        y, last = selective_scan(inputs[0], inputs[1], A, inputs[2], inputs[3])
        return flattened(y, offsets, u.shape[1]), last
    if state is None:
        state = u.new_zeros(u.shape[0], u.shape[2], A.shape[1])
    # Time first and channels last, so that the operations of one token run over contiguous memory.
    inputs = [tensor.transpose(0, 1).contiguous() for tensor in (u, delta, B, C)]
    y, last = _SelectiveScan.apply(*inputs, A.T.contiguous(), state.transpose(1, 2).contiguous())
    return y.transpose(0, 1), last.transpose(1, 2)


def gated_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    state: Tensor | None = None,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    longest: int = 0,
) -> tuple[Tensor, Tensor]:
    """(`selective_scan` with steps softplus(delta + bias) + D u) silu(gate): all of Mamba-1 that is not a product.

    delta, gate: [batch, T, channels], before their activations; D, bias: [channels]; lengths: int64 [batch], tokens of
    each row that enter the state (None: all). What is None is left out. Computes in float32 (float64 for such u) and
    returns y, unspecified but finite past a row's length, and the last state. Otherwise as `selective_scan`.
    """
    wide = torch.promote_types(u.dtype, torch.float32)
    steps = softplus(delta.to(wide) if bias is None else delta.to(wide) + bias)
    if lengths is not None:
        past = torch.arange(u.shape[1], device=u.device) >= lengths[:, None]
        steps = steps.masked_fill(past[..., None], 0)
    y, last = selective_scan(u.to(wide), steps, A, B.to(wide), C.to(wide), state, offsets, longest)
    y = y if D is None else y + D * u
    return y if gate is None else y * silu(gate), last


def selective_step(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token of `selective_scan`: u, delta: [batch, channels]; B, C: [batch, N]."""
    decay = torch.exp(delta[:, :, None] * A)
    state = torch.addcmul((delta * u)[:, :, None] * B[:, None, :], decay, state)
    return torch.bmm(state, C[:, :, None]).squeeze(2), state


def no_fused_step(model: Any, rows: int, dtype: torch.dtype) -> None:
    """Stands for what fuses all of a Mamba-1's step: here its own operations run one by one."""


class _SelectiveScan(torch.autograd.Function):
    """u, delta: [T, b, D]; B, C: [T, b, N]; A: [N, D]; state: [b, N, D]."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, delta: Tensor, B: Tensor, C: Tensor, A: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        y, starts = torch.empty_like(u), []
        for at in _chunks(u, A):
            starts.append(state)
            _, states = _states(u[at], delta[at], B[at], A, state)
            y[at] = torch.matmul(C[at].unsqueeze(2), states[1:]).squeeze(2)
            state = states[-1].clone()
        ctx.save_for_backward(u, delta, B, C, A, *starts)
        return y, state

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_state: Tensor) -> tuple[Tensor, ...]:
        u, delta, B, C, A, *starts = ctx.saved_tensors
        grad_u, grad_delta = torch.empty_like(u), torch.empty_like(u)
        grad_B, grad_C, grad_A = torch.empty_like(B), torch.empty_like(C), torch.zeros_like(A)
        for at, start in reversed(list(zip(_chunks(u, A), starts, strict=True))):
            decay, states = _states(u[at], delta[at], B[at], A, start)
            grad_C[at] = torch.matmul(states[1:], grad_y[at].unsqueeze(3)).squeeze(3)
            # grad[t] is the gradient with respect to the state after token t.
            grad = C[at].unsqueeze(3) * grad_y[at].unsqueeze(2)
            grad[-1] += grad_state
            for t in range(len(grad) - 1, 0, -1):
                grad[t - 1].addcmul_(decay[t], grad[t])
            grad_state = decay[0] * grad[0]
            into = torch.matmul(B[at].unsqueeze(2), grad).squeeze(2)
            grad_u[at] = into * delta[at]
            grad_B[at] = torch.matmul(grad, (delta[at] * u[at]).unsqueeze(3)).squeeze(3)
            exponent = grad.mul_(decay).mul_(states[:-1])
            grad_A += (exponent * delta[at].unsqueeze(2)).sum((0, 1))
            grad_delta[at] = (exponent * A).sum(2) + into * u[at]
        return grad_u, grad_delta, grad_B, grad_C, grad_A, grad_state


def _chunks(u: Tensor, A: Tensor) -> list[slice]:
    size = max(1, CHUNK_ELEMENTS // max(1, u.shape[1] * A.numel()))
    return [slice(start, start + size) for start in range(0, len(u), size)]


def _states(u: Tensor, delta: Tensor, B: Tensor, A: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Decays [T, b, N, D] and states [T + 1, b, N, D] of one chunk, the start first."""
    decay = torch.exp_(delta.unsqueeze(2) * A)
    states = start.new_empty(len(u) + 1, *start.shape)
    states[0] = start
    torch.mul(B.unsqueeze(3), (delta * u).unsqueeze(2), out=states[1:])
    for t in range(len(u)):
        states[t + 1].addcmul_(decay[t], states[t])
    return decay, states

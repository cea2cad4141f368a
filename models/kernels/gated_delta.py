"""Gated delta rule (Yang et al. 2024, section 3) with an initial state and any length, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from models.kernels.chunks import Chunks, solve

CHUNK = {False: 32, True: 64}
"""Tokens of a chunk on a CPU, and on a GPU."""


def gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    beta: Tensor,
    state: Tensor | None = None,
    chunk: int | None = None,
    offsets: Tensor | None = None,
    longest: int = 0,
) -> tuple[Tensor, Tensor]:
    """S_t = a_t (1 - b_t k_t k_t') S_(t-1) + b_t k_t v_t', y_t = S_t' q_t, with a_t = exp(decay_t): what the state says
    about k_t is replaced by v_t, to the extent b_t.

    q, k: [batch, T, heads, K], k of length 1; v: [batch, T, heads, V]; decay (at most 0), beta: [batch, T, heads];
    state: [batch, heads, K, V], None for zeros. A token with decay 0 and beta 0 leaves the state as it is. Within a
    chunk the new values of its tokens solve a triangular system (section 3.3); between chunks a state is carried.
    Returns y [batch, T, heads, V] and the last state. With offsets, int32 [S + 1], the one row is S sequences (see
    `models.kernels.packing`) from zero states, and no last state of use is returned.
    """
    chunks = Chunks(q.shape[1], chunk or CHUNK[q.device.type == "cuda"], offsets, longest)
    q, k, v, decay, beta = (chunks.cut(x) for x in (q, k, v, decay, beta))
    # Differences of running sums cancel; in float64 they are exact to float32's rounding.
    decay = decay.double().cumsum(-1)
    between = (decay[..., :, None] - decay[..., None, :]).to(q.dtype)
    between = between.masked_fill(torch.ones_like(between[0, 0, 0], dtype=torch.bool).triu(1), -torch.inf).exp()
    so_far, to_end = decay.exp().to(q.dtype)[..., None], (decay[..., -1:] - decay).exp().to(q.dtype)[..., None]
    scores, overlaps = (torch.cat([q, k], -2) @ k.transpose(-1, -2)).chunk(2, -2)
    # What the tokens write: `new` on their own, less `old` applied to the state before the chunk.
    size = v.shape[-1]
    beta = beta[..., None]
    written = solve(beta * between * overlaps, beta * torch.cat([v, so_far * k], -1))
    new, old = (between * scores @ written).split([size, k.shape[-1]], -1)
    added, lost = ((to_end * k).transpose(-1, -2) @ written).split([size, k.shape[-1]], -1)
    transition = so_far[..., -1:, :] * torch.eye(k.shape[-1], dtype=k.dtype, device=k.device) - lost
    starts, state = chunks.carry(transition, added, state)
    return chunks.join(new + (so_far * q - old) @ starts), state


def gated_delta_step(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token of `gated_delta`: q, k: [batch, heads, K]; v: [batch, heads, V]; decay, beta: [batch, heads]."""
    state = state * decay.exp()[..., None, None]
    new = (v - (k.unsqueeze(-2) @ state).squeeze(-2)) * beta[..., None]
    state = torch.addcmul(state, k.unsqueeze(-1), new.unsqueeze(-2))
    return (q.unsqueeze(-2) @ state).squeeze(-2), state

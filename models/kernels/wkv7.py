"""The recurrence of RWKV-7 (Peng et al. 2025, section 4) with an initial state and any length, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from models.kernels.chunks import Chunks, solve

STRONGEST = -0.6065306597126334
"""-exp(-1/2), the strongest decay of RWKV-7: over a chunk it stays far from the ends of float32."""
CHUNK = {False: 32, True: 64}
"""Tokens of a chunk on a CPU, and on a GPU."""


def wkv7(
    r: Tensor,
    decay: Tensor,
    k: Tensor,
    v: Tensor,
    removed: Tensor,
    rate: Tensor,
    state: Tensor | None = None,
    chunk: int | None = None,
    offsets: Tensor | None = None,
    longest: int = 0,
) -> tuple[Tensor, Tensor]:
    """S_t = (diag(exp(decay_t)) - (rate_t removed_t) removed_t') S_(t-1) + k_t v_t', y_t = S_t' r_t: every entry of a
    key decays at a pace of its own, and of what the state says about `removed_t` the share `rate_t` is taken away.

    r, k, removed (of length 1), rate (0 to 1), decay (STRONGEST to 0): [batch, T, heads, K]; v: [batch, T, heads, V];
    state: [batch, heads, K, V], None for zeros. A token with decay, rate and k of 0 leaves the state as it is. Tokens
    of a chunk (at most 64, so that no power of the decay overflows) are related by matrices and a triangular system,
    between chunks a state is carried. Returns y [batch, T, heads, V] and the last state. With offsets, int32 [S + 1],
    the one row is S sequences (see `models.kernels.packing`) from zero states; no last state of use is returned.
    """
    chunks = Chunks(r.shape[1], chunk or CHUNK[r.device.type == "cuda"], offsets, longest)
    r, decay, k, v, removed, rate = (chunks.cut(x) for x in (r, decay, k, v, removed, rate))
    exact = decay.double().cumsum(-2)  # in float32 the running sums would lose digits that their powers show
    so_far, to_end = exact.to(r.dtype).exp(), (exact[..., -1:, :] - exact).to(r.dtype).exp()
    undo, before = (-exact).to(r.dtype).exp(), (exact - decay).to(r.dtype).exp()
    taken = rate * removed
    # The state is read by r after its own token, and by `removed` before it.
    r, removed = r * so_far, removed * before
    scores = torch.cat([r, removed], -2) @ torch.cat([undo * k, undo * taken], -2).transpose(-1, -2)
    (r_k, r_taken), (removed_k, removed_taken) = (part.chunk(2, -1) for part in scores.chunk(2, -2))
    # What `removed` finds: on the tokens' own account, and (V columns further) as a function of the state before.
    found = solve(removed_taken, torch.cat([removed_k.tril(-1) @ v, removed], -1))
    new, old = (r_taken.tril() @ found).split([v.shape[-1], k.shape[-1]], -1)
    lost, faded = ((to_end * taken).transpose(-1, -2) @ found).split([v.shape[-1], k.shape[-1]], -1)
    added = (to_end * k).transpose(-1, -2) @ v - lost
    transition = so_far[..., -1, :, None] * torch.eye(k.shape[-1], dtype=k.dtype, device=k.device) - faded
    starts, state = chunks.carry(transition, added, state)
    return chunks.join(r_k.tril() @ v - new + (r - old) @ starts), state


def wkv7_step(
    r: Tensor, decay: Tensor, k: Tensor, v: Tensor, removed: Tensor, rate: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token of `wkv7`: r, decay, k, removed, rate: [batch, heads, K]; v: [batch, heads, V]."""
    found = removed.unsqueeze(-2) @ state
    state = torch.addcmul(k.unsqueeze(-1) * v.unsqueeze(-2), decay.exp().unsqueeze(-1), state)
    state = torch.addcmul(state, (rate * removed).unsqueeze(-1), found, value=-1)
    return (r.unsqueeze(-2) @ state).squeeze(-2), state

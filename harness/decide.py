"""Greedy decisions, and how far they were from falling otherwise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NEAR_TIE = {"float32": 1e-3, "bf16": 0.25}
"""Margin (difference of the two best logits) below which another order of the same arithmetic may decide otherwise.
Such a decision is a near tie: the verification's parallel forward settles it where there is one, and rows say so."""


def decide(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The greedy token and its margin over the second best.

    logits: [..., V]; returns int64 [...] and float32 [...].
    """
    best, index = logits.float().topk(2, dim=-1)
    return index[..., 0], best[..., 0] - best[..., 1]


def sampling(temperature: float, top_k: int | None = None) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Tokens drawn from the softmax of logits / temperature, as a `Select` of the decoder (the Gumbel trick).

    top_k: only so many of the likeliest are drawn from, and all that are as likely as the last of them; None: all.

    The noise is a hash of the row's seed, the number of tokens made, and the token, so that a draw depends on nothing
    else: not on the batch, nor on the device's generator.
    """

    def select(logits: Tensor, seeds: Tensor, made: Tensor) -> Tensor:
        tokens = torch.arange(logits.shape[-1], device=logits.device)
        mixed = seeds[:, None] * 0x1F83D9ABFB41BD6B + made[:, None] * 0x3C6EF372FE94F82B + tokens * 0x2545F4914F6CDD1D
        for factor in (0x3F58476D1CE4E5B9, 0x14D049BB133111EB):
            mixed = (mixed ^ ((mixed >> 30) & 0x3FFFFFFFF)) * factor
        bits = ((mixed >> 39) ^ (mixed >> 15)) & 0xFFFFFF
        uniform = (bits.float() + 0.5) / (1 << 24)
        logits = logits.float()
        if top_k is not None and top_k < logits.shape[-1]:
            logits = logits.masked_fill(logits < logits.topk(top_k, dim=-1).values[..., -1:], -torch.inf)
        return logits / temperature - torch.log(-torch.log(uniform))

    return select


def dtype_of(precision: str) -> torch.dtype:
    """The type of matrix products."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Matrix products in bf16 when asked for; weights and states stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")

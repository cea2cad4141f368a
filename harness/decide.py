"""Greedy decisions, and how far they were from falling otherwise."""

from __future__ import annotations

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


def dtype_of(precision: str) -> torch.dtype:
    """The type of matrix products."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Matrix products in bf16 when asked for; weights and states stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")

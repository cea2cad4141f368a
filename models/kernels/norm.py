"""Root-mean-square norm at a fork: the residual stream goes on, its norm enters a branch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import rms_norm


def forked_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """x itself, and x / sqrt(mean(x^2) + eps) * weight over the last dimension.

    x: [..., D]; weight: [D]; dtype: the type a kernel gives the norm in, for what reads it next. As one operation, in
    order that a kernel's backward pass adds the gradients of both in the same pass over memory.
    """
    return x, rms_norm(x, weight.shape, weight, eps)

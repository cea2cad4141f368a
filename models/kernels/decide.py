"""The greedy token and its margin, from features: what verification needs of the logits, without keeping them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

ROWS = 1 << 16
"""Tokens whose float32 logits exist at once."""


def decide(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The best logit's index and its distance from the second best, for each token.

    features: [..., D]; weight: [V, D] and bias: [V], the head of a vocabulary of at least 2. Factors are taken in the
    type autocast would give them, products are summed in float32 and not rounded again. Returns int64 [...] and float32
    [...]; of equal best logits any one is chosen, at margin 0.
    """
    flat, weight = features.flatten(0, -2), weight.to(product_type(features))
    indices, margins = [], []
    for rows in flat.split(ROWS):
        with torch.autocast(features.device.type, enabled=False):
            logits = linear(rows.to(weight.dtype).float(), weight.float(), None if bias is None else bias.float())
        best, index = logits.topk(2, dim=-1)
        indices.append(index[:, 0])
        margins.append(best[:, 0] - best[:, 1])
    shape = features.shape[:-1]
    return torch.cat(indices).reshape(shape), torch.cat(margins).reshape(shape)


def product_type(tensor: Tensor) -> torch.dtype:
    """The type in which a matrix product of `tensor` is taken: autocast's where it is on."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype

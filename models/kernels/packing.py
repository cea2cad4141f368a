"""Sequences laid end to end in one row, and the same sequences padded side by side.

References work on padded sequences; kernels of a GPU read the packed row through its `offsets` and pad nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor


def places(offsets: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """The sequence of each token and its place within it, both int64 [N].

    offsets: int32 [S + 1], ascending from 0 to N = `total`.
    """
    tokens = torch.arange(total, device=offsets.device)
    sequence = torch.searchsorted(offsets[1:].long(), tokens, right=True)
    return sequence, tokens - offsets[sequence]


def padded(row: Tensor, offsets: Tensor, longest: int) -> Tensor:
    """[1, N, ..] -> [S, longest, ..], zeros beyond each sequence's end. No sequence is longer than `longest`."""
    sequence, place = places(offsets, row.shape[1])
    result = row.new_zeros(len(offsets) - 1, longest, *row.shape[2:])
    return result.index_put((sequence, place), row[0])


def flattened(sequences: Tensor, offsets: Tensor, total: int) -> Tensor:
    """[S, T, ..] -> [1, N, ..], the inverse of `padded`."""
    return sequences[places(offsets, total)][None]

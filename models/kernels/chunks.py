"""What recurrences with a matrix for a state share: cutting into chunks, solving within one, carrying between them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from models.kernels.packing import places

INVERTED = {"cuda"}
"""Kinds of devices on which a triangular system is solved by inverting its matrix in matrix products."""


class Chunks:
    """How a call's tokens are cut into chunks of the same size, the last of each sequence filled up with zeros.

    With offsets, int32 [S + 1], the one row is S sequences (see `models.kernels.packing`) of at most `longest` tokens,
    each in chunks of its own; how many there are is not known on the host, at most length // size + S.
    """

    def __init__(self, length: int, size: int, offsets: Tensor | None = None, longest: int = 0) -> None:
        self.length, self.size = length, min(size, length if offsets is None else longest)
        self.slots: Tensor | None = None
        if offsets is None:
            return
        sequence, place = places(offsets, length)
        counts = (offsets.diff().long() + self.size - 1) // self.size
        ends = counts.cumsum(0)
        first = ends - counts
        self.total, most = length // self.size + len(counts), -(-longest // self.size)
        # int64 [N]: where each token lies when all chunks are laid end to end.
        self.slots = (first[sequence] + place // self.size) * self.size + place % self.size
        # int64 [S, most]: the chunks of each sequence; beyond its last, some other one, whose result nobody reads.
        numbers = torch.arange(max(self.total, most), device=offsets.device)
        self.chunks = (first[:, None] + numbers[:most]).clamp(max=self.total - 1)
        # int64 [total]: the seat of each chunk in that table; of chunks that hold nothing, any.
        owner = torch.searchsorted(ends, numbers[: self.total], right=True).clamp(max=len(counts) - 1)
        self.seats = owner * most + (numbers[: self.total] - first[owner]).clamp(max=most - 1)

    def cut(self, x: Tensor) -> Tensor:
        """[batch, T, heads, ..] -> [batch, chunks, heads, size, ..]."""
        if self.slots is not None:
            row = x.new_zeros(self.total * self.size, *x.shape[2:]).index_copy(0, self.slots, x[0])[None]
        else:
            row = pad(x, (0, 0) * (x.ndim - 2) + (0, -self.length % self.size))
        return row.unflatten(1, (-1, self.size)).transpose(2, 3)

    def join(self, y: Tensor) -> Tensor:
        """The inverse of `cut`."""
        row = y.transpose(2, 3).flatten(1, 2)
        return row[:, : self.length] if self.slots is None else row.index_select(1, self.slots)

    def carry(self, transition: Tensor, added: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """S_(c+1) = transition_c S_c + added_c over the chunks of each sequence and head.

        transition: [batch, chunks, heads, K, K]; added: [batch, chunks, heads, K, V]; state: [batch, heads, K, V], the
        first S; None, as always with offsets: zeros. Returns the S before each chunk, [batch, chunks, heads, K, V],
        and the one after the last (with offsets, nothing of use).
        """
        if self.slots is None:
            state = torch.zeros_like(added[:, 0]) if state is None else state
            return _Carry.apply(transition, added, state)
        shape = self.chunks.shape
        steps = (part[0].index_select(0, self.chunks.flatten()).unflatten(0, shape) for part in (transition, added))
        starts, last = _Carry.apply(*steps, added.new_zeros(shape[0], *added.shape[2:]))
        return starts.flatten(0, 1).index_select(0, self.seats)[None], last


def solve(lower: Tensor, right: Tensor) -> Tensor:
    """x of (I + lower) x = right.

    lower: [.., n, n], of which only what lies below the diagonal is read; right: [.., n, m].
    """
    return _Solve.apply(lower, right)


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, lower: Tensor, right: Tensor) -> Tensor:
        ctx.inverted = lower.device.type in INVERTED
        if ctx.inverted:
            lower = _unit_inverse(lower)
            solved = lower @ right
        else:
            solved = torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)
        ctx.save_for_backward(lower, solved)
        return solved

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        lower, solved = ctx.saved_tensors
        turned = lower.transpose(-1, -2)
        if ctx.inverted:
            grad = turned @ grad
        else:
            grad = torch.linalg.solve_triangular(turned, grad, upper=True, unitriangular=True)
        return (grad @ solved.transpose(-1, -2)).neg_().tril_(-1), grad


def _unit_inverse(lower: Tensor) -> Tensor:
    """(I + lower)^-1: the inverses of two triangles on the diagonal give that of the triangle they are part of, from
    single entries up. As exact as substitution, in a few matrix products. (The series of powers of `lower` is in
    matrix products too, but its terms grow like binomials where keys repeat.)"""
    size = lower.shape[-1]
    whole = 1 << (size - 1).bit_length()
    if whole > size:
        lower = pad(lower, (0, whole - size, 0, whole - size))
    inverse = lower.new_ones(*lower.shape[:-2], whole, 1, 1)
    half = 1
    while half < whole:
        # What ties the second half of each block of 2 * half rows to its first half.
        tied = lower.unflatten(-1, (-1, 2 * half)).unflatten(-3, (-1, 2 * half)).diagonal(dim1=-4, dim2=-2)
        tied = tied.movedim(-1, -3)[..., half:, :half]
        first, second = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        below = -(second @ tied @ first) if half > 1 else -tied
        inverse = torch.cat([pad(first, (0, half)), torch.cat([below, second], -1)], -2)
        half *= 2
    return inverse[..., 0, :size, :size]


class _Carry(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, transition: Tensor, added: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        starts = torch.empty_like(added)
        for chunk in range(added.shape[1]):
            starts[:, chunk] = state
            state = added[:, chunk] + transition[:, chunk] @ state
        ctx.save_for_backward(transition, starts)
        return starts, state

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_starts: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        transition, starts = ctx.saved_tensors
        after = torch.empty_like(starts)  # the gradient of the state after each chunk, which is that of `added`
        for chunk in reversed(range(starts.shape[1])):
            after[:, chunk] = grad
            grad = grad_starts[:, chunk] + transition[:, chunk].transpose(-1, -2) @ grad
        return after @ starts.transpose(-1, -2), after, grad

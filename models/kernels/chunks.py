"""What recurrences with a matrix for a state share: cutting into chunks, solving within one, carrying between them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad


def cut(tensor: Tensor, chunk: int) -> Tensor:
    """[batch, T, heads, ..] -> [batch, chunks, heads, chunk, ..], padded with zeros at the end."""
    missing = -tensor.shape[1] % chunk
    if missing:
        tensor = pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, missing))
    return tensor.unflatten(1, (-1, chunk)).transpose(2, 3)


def joined(tensor: Tensor, length: int) -> Tensor:
    """The inverse of `cut`: [batch, chunks, heads, chunk, ..] -> [batch, length, heads, ..]."""
    return tensor.transpose(2, 3).flatten(1, 2)[:, :length]


def solve(lower: Tensor, right: Tensor) -> Tensor:
    """x of (I + lower) x = right.

    lower: [.., n, n], of which only what lies below the diagonal is read; right: [.., n, m].
    """
    return _Solve.apply(lower, right)


def carry(transition: Tensor, added: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """S_(c+1) = transition_c S_c + added_c over the chunks of each head.

    transition: [batch, chunks, heads, K, K]; added: [batch, chunks, heads, K, V]; state: [batch, heads, K, V], the
    first S. Returns the S before each chunk, [batch, chunks, heads, K, V], and the one after the last.
    """
    return _Carry.apply(transition, added, state)


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, lower: Tensor, right: Tensor) -> Tensor:
        solved = torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)
        ctx.save_for_backward(lower, solved)
        return solved

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        lower, solved = ctx.saved_tensors
        grad = torch.linalg.solve_triangular(lower.transpose(-1, -2), grad, upper=True, unitriangular=True)
        return (grad @ solved.transpose(-1, -2)).neg_().tril_(-1), grad


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

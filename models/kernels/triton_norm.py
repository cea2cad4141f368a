# mypy: disable-error-code="no-untyped-def"
"""Root-mean-square norm at a fork in Triton: one pass over memory forward, one backward.

A program goes through some rows; the gradient of the weight is a partial sum per program, added up afterwards.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 16
"""Rows a program of the backward pass goes through."""


def forked_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """As the reference; the norm is computed in float32 and given in `dtype` (None: x's)."""
    return _Norm.apply(x, weight, eps, dtype or x.dtype)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        x, weight = x.contiguous(), weight.contiguous()
        normed = torch.empty(x.shape, dtype=dtype, device=x.device)
        size = x.shape[-1]
        rows = x.numel() // size
        scale = torch.empty(rows, device=x.device)
        if rows:
            _forward[(rows,)](x, weight, normed, scale, size, eps, SIZE=triton.next_power_of_2(size), num_warps=4)
        ctx.save_for_backward(x, weight, scale)
        ctx.set_materialize_grads(False)
        return x.view_as(x), normed

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, passed: Tensor | None, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        if grad is None:
            return passed, None, None, None
        passed = None if passed is None else passed.contiguous()
        into, size = torch.empty_like(x), x.shape[-1]
        programs = triton.cdiv(len(scale), ROWS)
        sums = torch.empty(programs, size, device=x.device)
        if programs:
            _backward[(programs,)](
                x, weight, scale, passed, grad.contiguous(), into, sums, len(scale), size,
                ROWS=ROWS, SIZE=triton.next_power_of_2(size), num_warps=4,
            )  # fmt: skip
        return into, sums.sum(0).to(weight.dtype), None, None


@triton.jit
def _forward(x, weight, normed, scale, size, eps, SIZE: tl.constexpr):
    row, c = tl.program_id(0).to(tl.int64), tl.arange(0, SIZE)
    value = tl.load(x + row * size + c, mask=c < size, other=0.0).to(tl.float32)
    s = 1 / tl.sqrt(tl.sum(value * value, 0) / size + eps)
    w = tl.load(weight + c, mask=c < size, other=0.0).to(tl.float32)
    tl.store(normed + row * size + c, value * s * w, mask=c < size)
    tl.store(scale + row, s)


@triton.jit(do_not_specialize=["count"])
def _backward(x, weight, scale, passed, grad, into, sums, count, size, ROWS: tl.constexpr, SIZE: tl.constexpr):
    c = tl.arange(0, SIZE)
    w = tl.load(weight + c, mask=c < size, other=0.0).to(tl.float32)
    total = tl.zeros((SIZE,), dtype=tl.float32)
    for number in range(ROWS):
        row = tl.program_id(0).to(tl.int64) * ROWS + number
        mask = c < tl.where(row < count, size, 0)
        value = tl.load(x + row * size + c, mask=mask, other=0.0).to(tl.float32)
        g = tl.load(grad + row * size + c, mask=mask, other=0.0).to(tl.float32)
        s = tl.load(scale + tl.minimum(row, count - 1))
        unit = value * s
        total += g * unit
        g = g * w
        result = s * (g - unit * (tl.sum(g * unit, 0) / size))
        if passed is not None:
            result += tl.load(passed + row * size + c, mask=mask, other=0.0).to(tl.float32)
        tl.store(into + row * size + c, result, mask=mask)
    tl.store(sums + tl.program_id(0).to(tl.int64) * size + c, total, mask=c < size)

# mypy: disable-error-code="no-untyped-def"
"""What our Triton kernels share. Importable only where Triton is."""

from __future__ import annotations

import os

import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") == "1")
"""Kernels run on the CPU, in Triton's interpreter, which multiplies no bf16: see `dot`."""


@triton.jit
def dot(a, b, sum):
    """sum + a @ b, summed in float32. float32 factors keep (nearly) all their digits, bf16 ones use tensor cores."""
    if INTERPRETED:  # Products of bf16 numbers are exact in float32, so that only the order of the sum differs.
        return tl.dot(a.to(tl.float32), b.to(tl.float32), sum, input_precision="ieee")
    elif a.dtype == tl.float32:
        return tl.dot(a, b, sum, input_precision="tf32x3")
    else:
        return tl.dot(a, b, sum)


def flat(x: Tensor) -> Tensor:
    """x, [B, T, ..], with token t of row b (b T + t) x.stride(1) elements in, and its last entries side by side."""
    even = x.stride(-1) == 1 and (x.shape[0] == 1 or x.stride(0) == x.shape[1] * x.stride(1))
    return x if even else x.contiguous()


@triton.jit
def bounds(sequence, offsets, lengths, width):
    """A sequence's first token in a `flat` tensor (int64), and how many count: packed rows, or rows of `width`."""
    if offsets is not None:
        start = tl.load(offsets + sequence).to(tl.int64)
        length = (tl.load(offsets + sequence + 1) - start).to(tl.int32)
    else:
        start = sequence.to(tl.int64) * width
        if lengths is not None:  # noqa: SIM108
            length = tl.load(lengths + sequence).to(tl.int32)
        else:
            length = width
    return start, length

# mypy: disable-error-code="no-untyped-def"
"""What our Triton kernels share. Importable only where Triton is."""

from __future__ import annotations

import os

import triton
import triton.language as tl

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

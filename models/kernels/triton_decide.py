# mypy: disable-error-code="no-untyped-def"
"""`decide` in one Triton kernel: logits live in registers only."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels import decide as reference
from models.kernels.decide import product_type
from models.kernels.triton_parts import dot

ROWS = 64
"""Tokens of a program."""
DEPTH = {2: 64, 4: 32}
"""Entries of D it multiplies at once, by the bytes of a weight: what is on its way has to fit into shared memory."""
VOCABULARY = 256
"""The largest vocabulary whose logits fit in registers; a larger one goes to the reference."""


def decide(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As the reference; of equal best logits the first is chosen."""
    if len(weight) > VOCABULARY:
        return reference.decide(features, weight, bias)
    flat, weight = features.flatten(0, -2), weight.to(product_type(features)).contiguous()
    flat = flat if flat.stride(1) == 1 else flat.contiguous()
    count, size = flat.shape
    index = torch.empty(count, dtype=torch.int64, device=flat.device)
    margin = torch.empty(count, dtype=torch.float32, device=flat.device)
    if count:
        columns = max(16, triton.next_power_of_2(len(weight)))
        _decide[(triton.cdiv(count, ROWS),)](
            flat, weight, weight if bias is None else bias, index, margin, count, len(weight), size, flat.stride(0),
            HAS_BIAS=bias is not None, ROWS=ROWS, COLUMNS=columns, DEPTH=DEPTH[weight.element_size()],
            num_warps=4 if columns <= 128 else 8,
        )  # fmt: skip
    return index.reshape(features.shape[:-1]), margin.reshape(features.shape[:-1])


@triton.jit
def _decide(
    features, weight, bias, index, margin, count, vocabulary, size, stride,
    HAS_BIAS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns, depth = tl.arange(0, COLUMNS), tl.arange(0, DEPTH)
    logits = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, size, DEPTH):
        at = start + depth
        x = tl.load(
            features + rows[:, None] * stride + at[None, :],
            mask=(rows < count)[:, None] & (at < size)[None, :],
            other=0.0,
        ).to(weight.dtype.element_ty)
        w = tl.load(
            weight + columns[None, :] * size + at[:, None],
            mask=(columns < vocabulary)[None, :] & (at < size)[:, None],
            other=0.0,
        )
        logits = dot(x, w, logits)
    if HAS_BIAS:
        logits += tl.load(bias + columns, mask=columns < vocabulary, other=0.0).to(tl.float32)[None, :]
    logits = tl.where((columns < vocabulary)[None, :], logits, -float("inf"))
    best = tl.max(logits, axis=1)
    # The first of the best: an argmax whose ties are settled.
    first = tl.min(tl.where(logits == best[:, None], columns[None, :], COLUMNS), axis=1)
    second = tl.max(tl.where(columns[None, :] == first[:, None], -float("inf"), logits), axis=1)
    tl.store(index + rows, first.to(tl.int64), mask=rows < count)
    tl.store(margin + rows, best - second, mask=rows < count)

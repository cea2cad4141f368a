"""fla-core's kernels behind our operations. They round their factors to bf16 whatever the precision of the cell, and
compile for minutes on their first call: taken only when demanded."""

from __future__ import annotations

from importlib.metadata import version

import torch
from fla.ops.gated_delta_rule import chunk_gated_delta_rule
from fla.ops.rwkv7 import chunk_rwkv7
from torch import Tensor

from models.kernels.packing import flattened, padded
from models.kernels.wkv7 import STRONGEST

NEEDED = (3, 7, 1)
"""Of Triton, for gradients of the gated delta rule on Hopper: some versions before compute wrong ones."""


def gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    beta: Tensor,
    state: Tensor | None = None,
    chunk: int | None = None,
    offsets: Tensor | None = None,
    longest: int = 0,
) -> tuple[Tensor, Tensor]:
    """As the reference."""
    if q.is_cuda and torch.cuda.get_device_capability(q.device)[0] == 9:
        installed = version("triton")
        if tuple(int(part) for part in installed.split("+")[0].split(".")[:3]) < NEEDED:
            raise RuntimeError(f"fla-core's gated delta rule needs triton >= 3.7.1 on Hopper, here is {installed}")
    length = q.shape[1]
    if offsets is not None:
        # Not by fla's own offsets, which it copies to the host: a CUDA graph cannot.
        q, k, v, decay, beta = (padded(x, offsets, longest) for x in (q, k, v, decay, beta))
    y, last = chunk_gated_delta_rule(
        q=q.bfloat16(),
        k=k.bfloat16(),
        v=v.bfloat16(),
        g=decay.float(),
        beta=beta.float(),
        scale=1.0,
        initial_state=state,
        output_final_state=True,
    )
    return (y if offsets is None else flattened(y, offsets, length)).float(), last


def wkv7(
    r: Tensor,
    decay: Tensor,
    k: Tensor,
    v: Tensor,
    removed: Tensor,
    rate: Tensor,
    state: Tensor | None = None,
    chunk: int | None = None,
    offsets: Tensor | None = None,
    longest: int = 0,
) -> tuple[Tensor, Tensor]:
    """As the reference."""
    length = r.shape[1]
    if offsets is not None:
        r, decay, k, v, removed, rate = (padded(x, offsets, longest) for x in (r, decay, k, v, removed, rate))
    y, last = chunk_rwkv7(
        r=r.bfloat16(),
        w=decay.bfloat16(),
        k=k.bfloat16(),
        v=v.bfloat16(),
        a=-removed.bfloat16(),
        b=(rate * removed).bfloat16(),
        scale=1.0,
        initial_state=state,
        output_final_state=True,
        safe_gate=True,
        lower_bound=STRONGEST,
        chunk_size=64,
    )
    return (y if offsets is None else flattened(y, offsets, length)).float(), last

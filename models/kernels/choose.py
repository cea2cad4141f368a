"""The one place that decides, and says, which implementation of each operation runs. Models import operations here."""

from __future__ import annotations

from importlib.util import find_spec

from torch import Tensor

from models.kernels import decide as decide_torch
from models.kernels.attention import attention, packed_attention
from models.kernels.causal_conv import causal_conv
from models.kernels.selective_scan import selective_scan, selective_step
from models.kernels.ssd import ssd, ssd_step

CHOSEN = {
    "attention": "torch",
    "causal_conv": "torch",
    "rnn": "torch",
    "selective_scan": "torch",
    "ssd": "torch",
}
"""Operation -> implementation. `torch` is plain PyTorch, fused attention and cuDNN included where PyTorch has them."""

TRITON = find_spec("triton") is not None


def decide(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """See `models.kernels.decide`."""
    if TRITON and features.is_cuda:
        from models.kernels import triton_decide

        return triton_decide.decide(features, weight, bias)
    return decide_torch.decide(features, weight, bias)


__all__ = [
    "CHOSEN",
    "attention",
    "causal_conv",
    "decide",
    "packed_attention",
    "selective_scan",
    "selective_step",
    "ssd",
    "ssd_step",
]

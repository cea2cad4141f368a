"""The one place that decides, and says, which implementation of each operation runs. Models import operations here."""

from __future__ import annotations

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

__all__ = [
    "CHOSEN",
    "attention",
    "causal_conv",
    "packed_attention",
    "selective_scan",
    "selective_step",
    "ssd",
    "ssd_step",
]

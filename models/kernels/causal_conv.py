"""Causal depthwise convolution with a carried state."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

from models.kernels.packing import flattened, padded


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor | None,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    longest: int = 0,
    activate: bool = False,
) -> tuple[Tensor, Tensor]:
    """Each channel is convolved with its own filter over its last K inputs, those in the state included.

    x: [B, T, C]; weight: [C, K]; bias: [C]; state: float32 [B, K-1, C], the inputs before x (None: zeros); lengths:
    int64 [B], how many inputs of each row enter the new state (None: all). Returns [B, T, C], after SiLU if `activate`,
    float32 here and of x's type from a kernel, and the new state. With offsets, int32 [S + 1], the one row is S
    sequences (see `models.kernels.packing`), without states before; those returned mean nothing.
    """
    if offsets is not None:
        y, after = causal_conv(padded(x, offsets, longest), weight, bias, None, activate=activate)
        return flattened(y, offsets, x.shape[1]), after
    before, width = weight.shape[1] - 1, x.shape[1]
    if state is None:
        state = torch.zeros(x.shape[0], before, x.shape[2], device=x.device)
    inputs = torch.cat([state, x.to(state.dtype)], dim=1)
    # As a sum of shifted copies: PyTorch's depthwise conv1d trains at half this speed on a CPU.
    y = torch.addcmul(bias, inputs[:, :width], weight[:, 0])
    for tap in range(1, before + 1):
        y = torch.addcmul(y, inputs[:, tap : tap + width], weight[:, tap])
    if activate:
        y = silu(y)
    if lengths is None:
        return y, inputs[:, width:].contiguous()
    last = lengths[:, None] + torch.arange(before, device=x.device)
    return y, inputs.gather(1, last[:, :, None].expand(-1, -1, x.shape[2]))

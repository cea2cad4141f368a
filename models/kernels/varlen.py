"""Fused attention over packed sequences: flash-attn where it is installed, else the kernel that PyTorch brings.

Each function is `models.kernels.attention.packed_attention` for the GPU: nothing is padded. What the fused kernels do
not know, float32 and ALiBi, goes to that reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models.kernels.attention import packed_attention

HALF = (torch.bfloat16, torch.float16)
LARGEST_HEAD = 256

Fused = Callable[[Tensor, Tensor, Tensor, Tensor, int, int | None], Tensor]
"""q, k, v: [N, heads, size], half precision, equally many heads; offsets; longest; window -> [N, heads, size]."""


def torch_varlen(
    q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, window: int | None = None, slopes: Any = None
) -> Tensor:
    """Through `torch.nn.attention.varlen`."""
    return _attention(_torch_varlen, q, k, v, offsets, longest, window, slopes)


def flash2(
    q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, window: int | None = None, slopes: Any = None
) -> Tensor:
    """Through flash-attn 2."""
    return _attention(_flash2, q, k, v, offsets, longest, window, slopes)


def flash4(
    q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, window: int | None = None, slopes: Any = None
) -> Tensor:
    """Through flash-attn 4, whose backward needs Hopper or later."""
    return _attention(_flash4, q, k, v, offsets, longest, window, slopes)


def _attention(
    fused: Fused, q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, window: int | None, slopes: Any
) -> Tensor:
    kind = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else q.dtype
    if slopes is not None or kind not in HALF or q.shape[3] > LARGEST_HEAD or q.shape[3] % 8:
        return packed_attention(q, k, v, offsets, longest, window, slopes)
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    q, k, v = (tensor[0].transpose(0, 1).to(kind) for tensor in (q, k, v))
    return fused(q, k, v, offsets, longest, window).transpose(0, 1)[None]


def _torch_varlen(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, window: int | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    reach = (-1 if window is None or window >= longest else window - 1, 0)
    out: Any = varlen_attn(q, k, v, offsets, offsets, longest, longest, window_size=reach)
    return out


def _flash2(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, window: int | None) -> Tensor:
    from flash_attn import flash_attn_varlen_func

    reach = (-1 if window is None else window - 1, 0)
    exact = torch.are_deterministic_algorithms_enabled()
    return flash_attn_varlen_func(
        q, k, v, offsets, offsets, longest, longest, causal=True, window_size=reach, deterministic=exact
    )


def _flash4(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, window: int | None) -> Tensor:
    from flash_attn.cute import flash_attn_varlen_func

    reach = (None, None) if window is None else (window - 1, 0)
    exact = torch.are_deterministic_algorithms_enabled()
    out, _ = flash_attn_varlen_func(
        q, k, v, cu_seqlens_q=offsets, cu_seqlens_k=offsets, causal=True, window_size=reach, deterministic=exact
    )
    return out

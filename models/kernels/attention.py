"""Causal attention over keys that carry their positions, in blocks of queries, through PyTorch's fused attention."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_cudnn_attention
from torch.nn.functional import scaled_dot_product_attention

from models.kernels.packing import flattened, padded

BLOCK_ELEMENTS = 1 << 24
"""Elements of the mask of one block of queries: bounds memory, whatever the length."""
LARGE = 1 << 26
"""Queries times earlier keys from which those are worth calls of their own, whose shapes cost cuDNN 40 ms each once."""


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_positions: Tensor,
    key_positions: Tensor,
    ahead: int,
    window: int | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """Each query sees the keys at its own position and before, at most `window` of them.

    q: [B, heads, T, size]; k, v: [B, key heads, S, size], each key head serving heads / key heads queries;
    query_positions: int64 [B or 1, T]; key_positions: int64 [B or 1, S], negative for a key that does not exist; the
    key of query t lies at index `ahead` + t or before, and those of its window at most `window` further left. slopes:
    [heads], subtract slope times distance from the scores (ALiBi, Press et al. 2022). Returns [B, heads, T, size].
    Without a window, and where all rows are equally far ([1, T], [1, S]), key i is taken to be at position i.
    """
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    plain = slopes is None and ahead == 0 and k.shape[2] == q.shape[2] and (window is None or window >= q.shape[2])
    if plain:
        return scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1)
    if window is None and slopes is None and len(query_positions) == len(key_positions) == 1 and q.is_cuda:
        return _without_mask(q, k[:, :, : ahead + q.shape[2]], v[:, :, : ahead + q.shape[2]])
    parts = []
    size = _block(query_positions.shape[0] * (1 if slopes is None else len(slopes)), k.shape[2], window)
    for start in range(0, q.shape[2], size):
        stop = min(start + size, q.shape[2])
        first = 0 if window is None else max(0, ahead + start - window + 1)
        keys = slice(first, ahead + stop)
        distance = query_positions[:, start:stop, None] - key_positions[:, None, keys]
        mask = _mask(distance, key_positions[:, None, keys], window, slopes, q.dtype)
        parts.append(scaled_dot_product_attention(q[:, :, start:stop], k[:, :, keys], v[:, :, keys], attn_mask=mask))
    return torch.cat(parts, dim=2)


def _without_mask(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The last query sees all keys, each one before it one key less; PyTorch's kernels know that without a mask."""
    from torch.nn.attention.bias import causal_lower_right  # brings the compiler, two seconds' worth of imports

    if torch.is_autocast_enabled(q.device.type):
        q, k, v = (tensor.to(torch.get_autocast_dtype(q.device.type)) for tensor in (q, k, v))
    if q.shape[2] == 1:
        return scaled_dot_product_attention(q, k, v)
    before = k.shape[2] - q.shape[2]
    large = before * q.shape[2] >= LARGE
    if large and can_use_cudnn_attention(SDPAParams(q, k, v, None, 0.0, False, False)):
        return _in_two(q, k, v, before)
    return scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(q.shape[2], k.shape[2]))


def _in_two(q: Tensor, k: Tensor, v: Tensor, before: int) -> Tensor:
    """The keys before the first query, which all queries see, and those from there on, each by cuDNN, whose kernels are
    the fastest on Hopper and know a causal mask from the first key on only; then mixed by what each sums to."""
    parts = [
        torch.ops.aten._scaled_dot_product_cudnn_attention(q, k[:, :, keys], v[:, :, keys], None, True, 0.0, causal)[:2]
        for keys, causal in ((slice(before), False), (slice(before, None), True))
    ]
    (earlier, earlier_sum), (own, own_sum) = parts
    more = (earlier_sum - own_sum).view(*own.shape[:3], 1)
    # Either share to its own precision: in bf16 one minus the other's would be nothing.
    return torch.addcmul(own * torch.sigmoid(-more).to(own), earlier, torch.sigmoid(more).to(own))


def attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: Tensor,
    keys: Tensor,
    values: Tensor,
    window: int | None = None,
    slopes: Tensor | None = None,
    tables: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One token of every row, each at its own position, enters the caches and sees what they hold.

    q: [B, heads, size]; k, v: [B, key heads, size]; position: int64 [B]; keys, values: float32 [B, key heads, capacity,
    size], written in place: at the position, or with a window, which is then the capacity, at the position modulo it.
    tables: q and k are rotated by these first (see `rotate`).
    Returns [B, heads, size], and the caches.
    """
    if tables is not None:
        q, k = (rotate(x[:, :, None], tables)[:, :, 0] for x in (q, k))
    rows = torch.arange(len(k), device=k.device)
    slot = position if window is None else position % window
    keys[rows, :, slot], values[rows, :, slot] = k.to(keys), v.to(values)
    seen = position[:, None]
    if window is None:
        there, ahead = torch.arange(keys.shape[2], device=q.device)[None], int(position.max())
    else:
        there, ahead = held(position, window), window - 1
    mixed = attention(q[:, :, None], keys, values, seen, there, ahead, window, slopes)
    return mixed[:, :, 0], (keys, values)


def rotate(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the first entries of each head, as many as the tables are for, in halves as GPT-NeoX does.

    x: [B, heads, T, size]; tables: cosines and sines, float32 [B or 1, 1, T, entries / 2].
    """
    cos, sin = tables
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def held(last: Tensor, window: int) -> Tensor:
    """The position at each entry of a rolling cache whose last token is at `last` (int64 [B]); negative where there is
    none: int64 [B, window]."""
    entries = torch.arange(window, device=last.device)
    return last[:, None] - (last[:, None] - entries) % window


def packed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tensor,
    longest: int,
    window: int | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """`attention` of each sequence of a packed row (see `models.kernels.packing`) to itself.

    q: [1, heads, N, size]; k, v: [1, key heads, N, size]. Returns [1, heads, N, size].
    """
    total, seen = q.shape[2], torch.arange(longest, device=q.device)[None]
    q, k, v = (padded(tensor.transpose(1, 2), offsets, longest).transpose(1, 2) for tensor in (q, k, v))
    mixed = attention(q, k, v, seen, seen, 0, window, slopes)
    return flattened(mixed.transpose(1, 2), offsets, total).transpose(1, 2)


def _mask(
    distance: Tensor, key_positions: Tensor, window: int | None, slopes: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """bool [B or 1, 1, queries, keys], or with slopes what to add to the scores, [B or 1, heads, queries, keys]."""
    visible = (distance >= 0) & (key_positions >= 0)
    if window is not None:
        visible &= distance < window
    if slopes is None:
        return visible[:, None]
    bias = -slopes[:, None, None] * distance[:, None]
    return bias.masked_fill_(~visible[:, None], -torch.inf).to(dtype)


def _block(rows: int, keys: int, window: int | None) -> int:
    """Queries per block: as many as the bound allows, but for a window not so many that most keys are masked."""
    size = max(16, BLOCK_ELEMENTS // (rows * keys))
    return size if window is None else min(size, max(64, window))

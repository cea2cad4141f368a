"""Attention whose cache is a value: growing with the sequence, or rolling over a window."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from models.backbone import Block, Span, matrices
from models.kernels.attention import held, rotate
from models.kernels.choose import attention, attention_step, choice, packed_attention
from models.positions import Positions, alibi_slopes, rotary_tables


@dataclass
class Cache:
    """Keys (positions already applied) and values, [B, key heads, capacity, size]; float32, unless reserved otherwise.

    Without a window, entry i is position i; entries beyond a row's length mean nothing. With one, the capacity is the
    window and position p lies at p modulo the window.
    """

    keys: Tensor
    values: Tensor


class Attention(Block):
    """Causal multi-head attention, with grouped queries where `kv_heads` < `heads`, over everything or a window.

    rotary: share of each head's entries that are rotated; depth: blocks of the model, for the initialisation.
    """

    operations = ("attention", "attention_step", "packed_attention")

    def __init__(
        self,
        d_model: int,
        heads: int,
        depth: int,
        *,
        positions: Positions,
        random_range: int,
        window: int | None = None,
        kv_heads: int | None = None,
        rotary: float = 1.0,
        bias: bool = False,
    ) -> None:
        super().__init__()
        kv_heads = kv_heads or heads
        if d_model % heads:
            raise ValueError(f"heads: {heads} does not divide d_model = {d_model}")
        if heads % kv_heads:
            raise ValueError(f"kv_heads: {kv_heads} does not divide heads = {heads}")
        self.heads, self.kv_heads, self.size, self.window = heads, kv_heads, d_model // heads, window
        self.rotated = int(self.size * rotary) // 2 * 2 if positions in ("rotary", "randomised") else 0
        self.random_range = random_range if positions == "randomised" else None
        slopes = alibi_slopes(heads) if positions == "alibi" else None
        self.register_buffer("slopes", slopes, persistent=False)
        self.slopes: Tensor | None
        self.project = nn.Linear(d_model, (heads + 2 * kv_heads) * self.size, bias=bias)
        self.out = nn.Linear(d_model, d_model, bias=bias)
        small_init(self.project)
        output_init(self.out, depth)

    def initial_state(self, batch: int, device: torch.device) -> Cache:
        shape = (batch, self.kv_heads, self.window or 0, self.size)
        return Cache(torch.zeros(shape, device=device), torch.zeros(shape, device=device))

    def reserve(self, state: Cache, length: int, dtype: torch.dtype | None) -> Cache:
        if self.window is not None:
            return state
        return Cache(*(_resized(entries, length).to(dtype or entries.dtype) for entries in (state.keys, state.values)))

    def forward(self, x: Tensor, state: Cache | None, span: Span) -> tuple[Tensor, Cache | None]:
        q, k, v = self._projected(x)
        tables = self._tables(span) if self.rotated else None
        steps = state is not None and span.offsets is None and span.in_place
        if tables is not None and not steps:
            q, k = rotate(q, tables), rotate(k, tables)
        seen = span.positions
        if span.offsets is not None:
            mixed = packed_attention(q, k, v, span.offsets, span.longest, self.window, self.slopes)
        elif state is None:
            mixed = attention(q, k, v, seen, seen, 0, self.window, self.slopes)
            state = Cache(_kept(k), _kept(v)) if self.window is None else self._rolled(k, v, 0, span)
        elif span.in_place:
            state = state if self.window else self._with_room(state, span)
            q, k, v = q[:, :, 0], k[:, :, 0], v[:, :, 0]
            mixed = attention_step(q, k, v, span.start, state.keys, state.values, self.window, self.slopes, tables)[0]
            mixed = mixed[:, :, None]
        elif self.window is None:
            state = extended(state, k, v, span)
            keys = torch.arange(state.keys.shape[2], device=x.device)[None]
            mixed = attention(q, state.keys, state.values, seen, keys, span.furthest, None, self.slopes)
        else:
            k, v = self._unrolled(state.keys, k, span), self._unrolled(state.values, v, span)
            there = torch.arange(-self.window, span.width, device=x.device) + seen[:, :1]
            mixed = attention(q, k, v, seen, there, self.window, self.window, self.slopes)
            state = self._rolled(k, v, self.window, span)
        return self.out(mixed.transpose(1, 2).flatten(2)), state

    @property
    def records(self) -> bool:
        return choice("attention_step", self.out.weight.device.type).name != "torch"

    def prepare(self, span: Span) -> None:
        if self.rotated:
            self._tables(span)

    def flops(self, length: int) -> float:
        keys = length + 1 if self.window is None else min(length + 1, self.window)
        return 2 * matrices(self) + 4 * keys * self.heads * self.size

    def state_bytes(self, length: int) -> int:
        return 4 * 2 * (self.window or length) * self.kv_heads * self.size

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = self.project(x).unflatten(2, (-1, self.size)).transpose(1, 2)
        q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        return q, k, v

    def _tables(self, span: Span) -> tuple[Tensor, Tensor]:
        key = ("rotary", self.rotated, self.random_range)
        return span.share(key, lambda: rotary_tables(span, self.rotated, self.random_range))

    def _with_room(self, cache: Cache, span: Span) -> Cache:
        """The cache with room for a token more; while a step is recorded there has to be some."""
        if span.start.is_cuda and torch.cuda.is_current_stream_capturing():
            return cache
        return grown(cache, span.furthest + 1)

    def _unrolled(self, rolling: Tensor, new: Tensor, span: Span) -> Tensor:
        """Cached entries in the order of their positions, then the new ones: [B, key heads, window + T, size]."""
        assert self.window is not None
        entries = (span.start[:, None] + torch.arange(self.window, device=new.device)) % self.window
        return torch.cat([_picked(rolling, entries), new.to(rolling)], dim=2)

    def _rolled(self, k: Tensor, v: Tensor, before: int, span: Span) -> Cache:
        """The rolling cache after a call, from entries that start `before` positions before the call's."""
        assert self.window is not None
        index = (held(span.start + span.counts - 1, self.window) - span.start[:, None] + before).clamp(min=0)
        return Cache(_picked(k.float(), index), _picked(v.float(), index))


def extended(cache: Cache, k: Tensor, v: Tensor, span: Span) -> Cache:
    """A growing cache with the new entries at their positions; a copy unless the call may modify it.

    Padding tokens are written too: they lie beyond their row's length, where the next tokens will go.
    """
    larger = grown(cache, span.furthest + span.width)
    cache = Cache(cache.keys.clone(), cache.values.clone()) if larger is cache and not span.appends else larger
    if span.even is not None:
        cache.keys[:, :, span.even : span.even + span.width] = k
        cache.values[:, :, span.even : span.even + span.width] = v
        return cache
    rows = torch.arange(len(k), device=k.device)[:, None]
    cache.keys[rows, :, span.positions] = k.transpose(1, 2).to(cache.keys)
    cache.values[rows, :, span.positions] = v.transpose(1, 2).to(cache.values)
    return cache


def grown(cache: Cache, needed: int) -> Cache:
    """The cache itself where it has room for `needed` positions, else a larger copy."""
    capacity = cache.keys.shape[2]
    if needed <= capacity:
        return cache
    room = max(needed, 2 * capacity)
    return Cache(_resized(cache.keys, room), _resized(cache.values, room))


def small_init(linear: nn.Linear) -> None:
    """Normal with deviation sqrt(2 / 5d) (Nguyen & Salazar 2019, as in GPT-NeoX), biases zero."""
    nn.init.normal_(linear.weight, std=math.sqrt(2 / (5 * linear.in_features)))
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def output_init(linear: nn.Linear, depth: int) -> None:
    """Normal with deviation 2 / (depth sqrt(d)), d the model's width (Wang & Komatsuzaki 2021, as in GPT-NeoX)."""
    nn.init.normal_(linear.weight, std=2 / (depth * math.sqrt(linear.out_features)))
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def _resized(entries: Tensor, capacity: int) -> Tensor:
    """Entries with another capacity: a copy."""
    kept = entries[:, :, :capacity]
    return pad(kept, (0, 0, 0, capacity - kept.shape[2])) if kept.shape[2] < capacity else kept.clone()


def _kept(entries: Tensor) -> Tensor:
    """In float32, and not a view that would keep the whole projection in memory."""
    return entries.float().contiguous()


def _picked(entries: Tensor, index: Tensor) -> Tensor:
    """entries[b, :, index[b, i]] for each row: [B, heads, S, size], int64 [B, I] -> [B, heads, I, size]."""
    return entries.gather(2, index[:, None, :, None].expand(-1, entries.shape[1], -1, entries.shape[3]))

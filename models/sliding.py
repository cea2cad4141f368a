"""Sliding-window Transformer in the style of Mistral (Jiang et al. 2023): RMSNorm, SwiGLU, rotary, a rolling cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from models.attention import Attention, output_init, small_init
from models.backbone import Backbone, Block, Span, matrices
from models.base import Options
from models.positions import Positions

NORM_EPS = 1e-5


@dataclass(frozen=True)
class SlidingOptions(Options):
    d_model: int
    """Width of the residual stream."""
    layers: int
    heads: int
    kv_heads: int
    """Heads of keys and values; fewer than `heads` is grouped-query attention."""
    mlp: int
    """Hidden width of the gated MLP."""
    window: int
    """Tokens a layer sees, the current one included."""
    positions: Positions = "rotary"
    """Position encoding. rotary: on whole heads; randomised: that, on random positions."""
    random_range: int = 2048
    """randomised: the largest range training draws positions from."""


class GatedBlock(Block):
    """x + attention(norm(x)), then x + SwiGLU(norm(x)), as Mistral. (`attention` may be any mixer.)"""

    def __init__(self, attention: Block, width: int, mlp: int, depth: int) -> None:
        super().__init__()
        self.norm, self.mlp_norm = nn.RMSNorm(width, eps=NORM_EPS), nn.RMSNorm(width, eps=NORM_EPS)
        self.attention = attention
        self.operations, self.steady = attention.operations, attention.steady
        self.fuses = isinstance(attention, Attention)
        self.gate_up, self.down = nn.Linear(width, 2 * mlp, bias=False), nn.Linear(mlp, width, bias=False)
        small_init(self.gate_up)
        output_init(self.down, depth)

    @property
    def records(self) -> bool:
        return self.attention.records

    def initial_state(self, batch: int, device: torch.device) -> Any:
        return self.attention.initial_state(batch, device)

    def reserve(self, state: Any, length: int, dtype: torch.dtype | None) -> Any:
        return self.attention.reserve(state, length, dtype)

    def prepare(self, span: Span) -> None:
        self.attention.prepare(span)

    def forward(self, x: Tensor, state: Any, span: Span) -> tuple[Tensor, Any]:
        mixed, state = self.attention(self.norm(x), state, span)
        x = x + mixed
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(silu(gate) * up), state

    def flops(self, length: int) -> float:
        return self.attention.flops(length) + 2 * (matrices(self.gate_up) + matrices(self.down))

    def state_bytes(self, length: int) -> int:
        return self.attention.state_bytes(length)


class SlidingTransformer(Backbone):
    """Sliding-window Transformer, Mistral style; its cache is as large as the window."""

    sizes = {
        "tiny": SlidingOptions(d_model=96, layers=3, heads=4, kv_heads=4, mlp=128, window=64),
        "small": SlidingOptions(d_model=256, layers=8, heads=4, kv_heads=4, mlp=512, window=512),
        "paper": SlidingOptions(d_model=768, layers=8, heads=8, kv_heads=8, mlp=1536, window=512),
    }

    def __init__(self, vocabulary: int, options: SlidingOptions) -> None:
        blocks = [self._block(options) for _ in range(options.layers)]
        std = (2 / (5 * options.d_model)) ** 0.5
        norm = nn.RMSNorm(options.d_model, eps=NORM_EPS)
        super().__init__(vocabulary, options, blocks, norm, std, tied=False)

    @staticmethod
    def _block(options: SlidingOptions) -> GatedBlock:
        attention = Attention(
            options.d_model,
            options.heads,
            options.layers,
            positions=options.positions,
            random_range=options.random_range,
            window=options.window,
            kv_heads=options.kv_heads,
        )
        return GatedBlock(attention, options.d_model, options.mlp, options.layers)

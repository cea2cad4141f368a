"""Full-attention Transformer: the GPT-NeoX block as in Pythia (Biderman et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from models.attention import Attention, Cache, output_init, small_init
from models.backbone import Backbone, Block, Span, matrices
from models.base import Options
from models.positions import Positions


@dataclass(frozen=True)
class TransformerOptions(Options):
    d_model: int
    """Width of the residual stream."""
    layers: int
    heads: int
    mlp: int
    """Hidden width of the MLP."""
    positions: Positions = "rotary"
    """Position encoding. rotary: on a quarter of each head, as Pythia; randomised: that, on random positions."""
    random_range: int = 2048
    """randomised: the largest range training draws positions from."""


class ParallelBlock(Block):
    """x + attention(norm(x)) + mlp(other norm(x)), as GPT-NeoX; the attention over everything, or a window."""

    fuses = True

    def __init__(self, options: TransformerOptions, window: int | None = None) -> None:
        super().__init__()
        width = options.d_model
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(
            width,
            options.heads,
            options.layers,
            positions=options.positions,
            random_range=options.random_range,
            window=window,
            rotary=0.25,
            bias=True,
        )
        self.operations = self.attention.operations
        self.up, self.down = nn.Linear(width, options.mlp), nn.Linear(options.mlp, width)
        small_init(self.up)
        output_init(self.down, options.layers)

    @property
    def records(self) -> bool:
        return self.attention.records

    def initial_state(self, batch: int, device: torch.device) -> Cache:
        return self.attention.initial_state(batch, device)

    def reserve(self, state: Any, length: int, dtype: torch.dtype | None) -> Any:
        return self.attention.reserve(state, length, dtype)

    def prepare(self, span: Span) -> None:
        self.attention.prepare(span)

    def forward(self, x: Tensor, state: Any, span: Span) -> tuple[Tensor, Any]:
        mixed, state = self.attention(self.norm(x), state, span)
        return x + mixed + self.down(gelu(self.up(self.mlp_norm(x)))), state

    def flops(self, length: int) -> float:
        return self.attention.flops(length) + 2 * (matrices(self.up) + matrices(self.down))

    def state_bytes(self, length: int) -> int:
        return self.attention.state_bytes(length)


class Transformer(Backbone):
    """Full-attention Transformer, Pythia's GPT-NeoX block; its cache grows with the sequence."""

    sizes = {
        "tiny": TransformerOptions(d_model=96, layers=3, heads=4, mlp=192),
        "small": TransformerOptions(d_model=256, layers=10, heads=4, mlp=512),
        "paper": TransformerOptions(d_model=768, layers=24, heads=8, mlp=1536),
    }

    def __init__(self, vocabulary: int, options: TransformerOptions) -> None:
        blocks = [ParallelBlock(options) for _ in range(options.layers)]
        std = (2 / (5 * options.d_model)) ** 0.5
        super().__init__(vocabulary, options, blocks, nn.LayerNorm(options.d_model), std, tied=False)

"""Hybrids: a pattern of mixers, repeated over the layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from models.attention import Attention
from models.backbone import Backbone, Block, Residual
from models.base import Options
from models.mamba1 import NORM_EPS, Mamba1Mixer
from models.mamba2 import Mamba2Mixer
from models.positions import Positions
from models.sliding import GatedBlock

Mixer = Literal["mamba1", "mamba2", "attention", "sliding"]


@dataclass(frozen=True)
class HybridOptions(Options):
    d_model: int
    """Width of the residual stream."""
    layers: int
    heads: int
    """Heads of attention and sliding layers."""
    mlp: int
    """Hidden width of the gated MLP that follows attention and sliding layers."""
    window: int
    """Tokens a sliding layer sees, the current one included."""
    pattern: tuple[Mixer, ...] = ("mamba2", "mamba2", "attention", "mamba2")
    """The mixer of each layer, repeated until there are enough."""
    d_state: int = 128
    """State entries per inner channel of the Mamba layers."""
    head_size: int = 64
    """Inner channels that share a decay in mamba2 layers."""
    positions: Positions = "rotary"
    """Position encoding of attention and sliding layers."""
    random_range: int = 2048
    """positions randomised: the largest range training draws positions from."""


def _mamba1(options: HybridOptions) -> Block:
    mixer = Mamba1Mixer(options.d_model, options.layers, options.d_state)
    return Residual(nn.RMSNorm(options.d_model, eps=NORM_EPS), mixer)


def _mamba2(options: HybridOptions) -> Block:
    mixer = Mamba2Mixer(options.d_model, options.layers, options.d_state, options.head_size)
    return Residual(nn.RMSNorm(options.d_model, eps=NORM_EPS), mixer)


def _attention(options: HybridOptions, window: int | None = None) -> Block:
    attention = Attention(
        options.d_model,
        options.heads,
        options.layers,
        positions=options.positions,
        random_range=options.random_range,
        window=window,
    )
    return GatedBlock(attention, options.d_model, options.mlp, options.layers)


def _sliding(options: HybridOptions) -> Block:
    return _attention(options, options.window)


MIXERS: dict[Mixer, Callable[[HybridOptions], Block]] = {
    "mamba1": _mamba1,
    "mamba2": _mamba2,
    "attention": _attention,
    "sliding": _sliding,
}


class Hybrid(Backbone):
    """Mamba and attention layers in a pattern; a state of fixed size plus a cache per full-attention layer."""

    revision = 2  # as Mamba-1's
    sizes = {
        "tiny": HybridOptions(d_model=64, layers=4, heads=4, mlp=128, window=64, d_state=32, head_size=32),
        "small": HybridOptions(d_model=256, layers=10, heads=4, mlp=640, window=512),
        # The paper states no size for its hybrid: 16 Mamba-2 and 5 attention layers come closest to its Mamba's 90.6M.
        "paper": HybridOptions(d_model=768, layers=21, heads=8, mlp=1536, window=512),
    }

    def __init__(self, vocabulary: int, options: HybridOptions) -> None:
        names = [options.pattern[layer % len(options.pattern)] for layer in range(options.layers)]
        blocks = [MIXERS[name](options) for name in names]
        norm = nn.RMSNorm(options.d_model, eps=NORM_EPS)
        super().__init__(vocabulary, options, blocks, norm, 0.02, tied=True)

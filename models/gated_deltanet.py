"""Gated DeltaNet (Yang, Kautz & Hatamizadeh 2024): a linear attention whose writes replace what they overwrite."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu, softplus

from models.backbone import Backbone, Block, Span, matrices
from models.base import Options
from models.kernels.choose import gated_delta, gated_delta_step
from models.mamba1 import NORM_EPS, CausalConv, inverse_softplus_steps, no_weight_decay, stopped
from models.sliding import GatedBlock

INIT_STD = 0.02
"""Of all matrices and of the embedding."""


@dataclass(frozen=True)
class GatedDeltaNetOptions(Options):
    d_model: int
    """Width of the residual stream."""
    layers: int
    heads: int
    head_size: int
    """Channels of a head's queries and keys. The original chooses heads * head_size = 3/4 d_model."""
    mlp: int
    """Hidden width of the gated MLP."""
    expand: int = 2
    """Channels of a head's values per channel of its keys."""
    d_conv: int = 4
    """Taps of the convolution over queries, keys and values."""


@dataclass
class DeltaState:
    conv: Tensor
    """float32 [B, taps - 1, convolved channels]: the last inputs of the convolution."""
    memory: Tensor
    """float32 [B, heads, head_size, expand * head_size]: from keys to values."""


class GatedDeltaMixer(Block):
    """in_proj, causal convolution over q, k and v, gated delta rule, gated norm of each head, out_proj."""

    operations = ("causal_conv", "gated_delta")
    steady = True

    def __init__(self, d_model: int, heads: int, head_size: int, expand: int, d_conv: int) -> None:
        super().__init__()
        self.heads, self.head_size, self.value_size, self.d_conv = heads, head_size, expand * head_size, d_conv
        self.keys, self.values = heads * self.head_size, heads * self.value_size
        self.convolved = 2 * self.keys + self.values
        self.in_proj = nn.Linear(d_model, self.convolved + self.values + 2 * heads, bias=False)
        self.conv = CausalConv(self.convolved, d_conv, bias=False)
        self.dt_bias = nn.Parameter(inverse_softplus_steps(heads))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(0, 16).clamp_(min=1e-3).log())
        self.norm = nn.Parameter(torch.ones(self.value_size))
        self.out_proj = nn.Linear(self.values, d_model, bias=False)
        no_weight_decay(self.A_log, self.dt_bias)

    def initial_state(self, batch: int, device: torch.device) -> DeltaState:
        conv = torch.zeros(batch, self.d_conv - 1, self.convolved, device=device)
        return DeltaState(conv, torch.zeros(batch, self.heads, self.head_size, self.value_size, device=device))

    def forward(self, x: Tensor, state: DeltaState | None, span: Span) -> tuple[Tensor, DeltaState | None]:
        x, gate, delta, beta = self.in_proj(x).split([self.convolved, self.values, self.heads, self.heads], dim=-1)
        x, conv = self.conv(x, None if state is None else state.conv, span)
        q, k, v = x.float().split([self.keys, self.keys, self.values], dim=-1)
        q, k = (unit(part.unflatten(2, (self.heads, self.head_size))) for part in (q, k))
        q, v = q * self.head_size**-0.5, v.unflatten(2, (self.heads, self.value_size))
        decay = -torch.exp(self.A_log.float()) * softplus(delta.float() + self.dt_bias)
        decay, beta = stopped(decay, span), stopped(torch.sigmoid(beta.float()), span)
        before = None if state is None else state.memory
        # The delta rule is matrix products, which autocast would round to bf16 together with the state they carry.
        with torch.autocast(x.device.type, enabled=False):
            if span.in_place and before is not None:
                y, memory = gated_delta_step(q[:, 0], k[:, 0], v[:, 0], decay[:, 0], beta[:, 0], before)
                y = y[:, None]
            else:
                y, memory = gated_delta(q, k, v, decay, beta, before, offsets=span.offsets, longest=span.longest)
        y = rms_norm(y, (self.value_size,), self.norm, NORM_EPS).flatten(2) * silu(gate)
        return self.out_proj(y), DeltaState(conv, memory) if span.offsets is None else None

    def flops(self, length: int) -> float:
        rule = 7 * self.heads * self.head_size * self.value_size
        return 2 * matrices(self) + 2 * self.d_conv * self.convolved + rule + 10 * self.keys + 10 * self.values

    def state_bytes(self, length: int) -> int:
        return 4 * ((self.d_conv - 1) * self.convolved + self.heads * self.head_size * self.value_size)


class GatedDeltaNet(Backbone):
    """Gated DeltaNet, a linear attention with the gated delta rule; its state has a fixed size."""

    sizes = {
        "tiny": GatedDeltaNetOptions(d_model=96, layers=2, heads=2, head_size=32, mlp=96),
        "small": GatedDeltaNetOptions(d_model=256, layers=8, heads=4, head_size=48, mlp=320),
        # The original's mixer, its MLP narrower (the original's 2048 would make 198M parameters of 24 layers): 114M.
        "paper": GatedDeltaNetOptions(d_model=768, layers=24, heads=9, head_size=64, mlp=512),
    }

    def __init__(self, vocabulary: int, options: GatedDeltaNetOptions) -> None:
        width, depth = options.d_model, options.layers
        shape = (options.heads, options.head_size, options.expand, options.d_conv)
        blocks = [GatedBlock(GatedDeltaMixer(width, *shape), width, options.mlp, depth) for _ in range(depth)]
        for block in blocks:
            for part in block.modules():
                if isinstance(part, nn.Linear):
                    nn.init.normal_(part.weight, std=INIT_STD)
        super().__init__(vocabulary, options, blocks, nn.RMSNorm(width, eps=NORM_EPS), INIT_STD, tied=False)


def unit(x: Tensor) -> Tensor:
    """Vectors of length 1 along the last dimension; those near 0 stay near 0."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)

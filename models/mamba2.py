"""Mamba-2 (Dao & Gu 2024): blocks of a state-space model with one decay per head, initialised as the original."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.backbone import Backbone, Block, Residual, Span, matrices
from models.base import Options
from models.kernels import mamba2 as reference
from models.kernels.choose import PARTS, mamba2
from models.kernels.mamba2 import Weights, fits, mamba2_step
from models.mamba1 import (
    NORM_EPS,
    CausalConv,
    MambaState,
    inverse_softplus_steps,
    no_weight_decay,
    scale_output,
)


@dataclass(frozen=True)
class Mamba2Options(Options):
    d_model: int
    """Width of the residual stream."""
    layers: int
    d_state: int = 128
    """State entries per inner channel."""
    head_size: int = 64
    """Inner channels that share a decay."""
    expand: int = 2
    """Inner channels per channel of the residual stream."""
    d_conv: int = 4
    """Taps of the convolution over x, B and C."""


FUSED = ("mamba2", "ssd_step")
"""Operations of a mixer; of one whose shape fits no kernel, the parts of this."""


class Mamba2Mixer(Block):
    """in_proj, causal convolution over x, B and C, SSD, gated norm, out_proj; B and C are shared by all heads."""

    steady = True

    def __init__(
        self, d_model: int, depth: int, d_state: int = 128, head_size: int = 64, expand: int = 2, d_conv: int = 4
    ) -> None:
        super().__init__()
        self.inner, self.d_state, self.head_size, self.d_conv = expand * d_model, d_state, head_size, d_conv
        if self.inner % head_size:
            raise ValueError(f"head_size: {head_size} does not divide expand * d_model = {self.inner}")
        self.heads, self.convolved = self.inner // head_size, self.inner + 2 * d_state
        self.in_proj = nn.Linear(d_model, self.inner + self.convolved + self.heads, bias=False)
        self.conv = CausalConv(self.convolved, d_conv)
        self.dt_bias = nn.Parameter(inverse_softplus_steps(self.heads))
        self.A_log = nn.Parameter(torch.empty(self.heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = nn.Parameter(torch.ones(self.inner))
        self.out_proj = nn.Linear(self.inner, d_model, bias=False)
        scale_output(self.out_proj, depth)
        self.operations = FUSED if fits(d_conv, head_size, d_state) else (*PARTS["mamba2"], "ssd_step")
        no_weight_decay(self.A_log, self.D, self.dt_bias)

    def initial_state(self, batch: int, device: torch.device) -> MambaState:
        conv = torch.zeros(batch, self.d_conv - 1, self.convolved, device=device)
        return MambaState(conv, torch.zeros(batch, self.heads, self.head_size, self.d_state, device=device))

    def forward(self, x: Tensor, state: MambaState | None, span: Span) -> tuple[Tensor, MambaState | None]:
        projected, conv = self.in_proj(x), self.conv
        weights = Weights(conv.weight, conv.bias, self.dt_bias, self.A_log, self.D, self.norm, NORM_EPS)
        before = None if state is None else (state.conv, state.ssm)
        if span.in_place and before is not None:
            y, last = mamba2_step(projected[:, 0], weights, before, span.live)
            return self.out_proj(y[:, None]), MambaState(*last)
        # What does not fit the fused operation is made of its parts.
        run = mamba2 if self.operations == FUSED else reference.mamba2
        y, after = run(projected, weights, before, span.lengths, span.offsets, span.longest)
        return self.out_proj(y), None if after is None else MambaState(*after)

    def flops(self, length: int) -> float:
        scan = 5 * self.inner * self.d_state
        return 2 * matrices(self) + 2 * self.d_conv * self.convolved + scan + 10 * self.inner

    def state_bytes(self, length: int) -> int:
        return 4 * ((self.d_conv - 1) * self.convolved + self.inner * self.d_state)


class Mamba2(Backbone):
    """Mamba-2, a state-space model in matrix form; its state has a fixed size."""

    sizes = {
        "tiny": Mamba2Options(d_model=96, layers=2, d_state=16, head_size=32),
        "small": Mamba2Options(d_model=256, layers=12),
        "paper": Mamba2Options(d_model=768, layers=24),
    }

    def __init__(self, vocabulary: int, options: Mamba2Options) -> None:
        width, depth = options.d_model, options.layers
        shape = (options.d_state, options.head_size, options.expand, options.d_conv)
        blocks = [Residual(nn.RMSNorm(width, eps=NORM_EPS), Mamba2Mixer(width, depth, *shape)) for _ in range(depth)]
        super().__init__(vocabulary, options, blocks, nn.RMSNorm(width, eps=NORM_EPS), 0.02, tied=True)

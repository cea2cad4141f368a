"""Mamba-1 (Gu & Dao 2023): blocks of a selective state-space model, initialised as the original."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu, softplus

from models.backbone import Backbone, Block, Residual, Span, matrices
from models.base import Options
from models.kernels.choose import causal_conv, choice, gated_scan, selective_step

NORM_EPS = 1e-5


@dataclass(frozen=True)
class Mamba1Options(Options):
    d_model: int
    """Width of the residual stream."""
    layers: int
    d_state: int = 16
    """State entries per inner channel."""
    expand: int = 2
    """Inner channels per channel of the residual stream."""
    d_conv: int = 4
    """Taps of the convolution before the scan."""


@dataclass
class MambaState:
    """State of one Mamba mixer, of either kind."""

    conv: Tensor
    """float32 [B, taps - 1, convolved channels]: the last inputs of the convolution."""
    ssm: Tensor
    """float32 [B, channels, d_state] (Mamba-2: [B, heads, head size, d_state])."""


class CausalConv(nn.Module):
    """Depthwise convolution over the last `taps` tokens, then SiLU; initialised as PyTorch's Conv1d."""

    def __init__(self, channels: int, taps: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, taps).uniform_(-(taps**-0.5), taps**-0.5))
        if bias:
            self.bias = nn.Parameter(torch.empty(channels).uniform_(-(taps**-0.5), taps**-0.5))
        else:
            self.register_buffer("bias", torch.zeros(channels), persistent=False)

    def forward(self, x: Tensor, state: Tensor | None, span: Span) -> tuple[Tensor, Tensor]:
        return causal_conv(x, self.weight, self.bias, state, span.lengths, span.offsets, span.longest, activate=True)


class Mamba1Mixer(Block):
    """in_proj, causal convolution, selective scan, gate, out_proj. depth: blocks of the model, for out_proj's scale."""

    operations = ("causal_conv", "selective_scan")
    steady = True

    def __init__(self, d_model: int, depth: int, d_state: int = 16, expand: int = 2, d_conv: int = 4) -> None:
        super().__init__()
        self.inner, self.d_state, self.d_conv = expand * d_model, d_state, d_conv
        self.rank = math.ceil(d_model / 16)
        self.in_proj = nn.Linear(d_model, 2 * self.inner, bias=False)
        self.conv = CausalConv(self.inner, d_conv)
        self.x_proj = nn.Linear(self.inner, self.rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.rank, self.inner)
        self.A_log = nn.Parameter(torch.ones(self.inner, 1) * torch.arange(1.0, d_state + 1).log())
        self.D = nn.Parameter(torch.ones(self.inner))
        self.out_proj = nn.Linear(self.inner, d_model, bias=False)
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        self.dt_proj.bias.data = inverse_softplus_steps(self.inner)
        scale_output(self.out_proj, depth)
        no_weight_decay(self.A_log, self.D)

    def initial_state(self, batch: int, device: torch.device) -> MambaState:
        conv = torch.zeros(batch, self.d_conv - 1, self.inner, device=device)
        return MambaState(conv, torch.zeros(batch, self.inner, self.d_state, device=device))

    def forward(self, x: Tensor, state: MambaState | None, span: Span) -> tuple[Tensor, MambaState | None]:
        x, gate = self.in_proj(x).chunk(2, dim=-1)
        x, conv = self.conv(x, None if state is None else state.conv, span)
        low, B, C = self.x_proj(x).split([self.rank, self.d_state, self.d_state], dim=-1)
        # The bias is far larger than what it is added to: in bf16 it would round the steps to a hundredth.
        delta, bias = linear(low, self.dt_proj.weight), self.dt_proj.bias
        A = -torch.exp(self.A_log.float())
        if span.in_place and state is not None:
            steps = softplus(delta[:, 0].float() + bias)
            y, ssm = selective_step(x[:, 0].float(), steps, A, B[:, 0].float(), C[:, 0].float(), state.ssm)
            y = ((y + self.D * x[:, 0]) * silu(gate[:, 0]))[:, None]
        else:
            before = None if state is None else state.ssm
            y, ssm = gated_scan(x, delta, A, B, C, self.D, bias, gate, before, span.lengths, span.offsets, span.longest)
        return self.out_proj(y), mamba_state(conv, ssm, span)

    def flops(self, length: int) -> float:
        scan = 7 * self.inner * self.d_state
        return 2 * matrices(self) + 2 * self.d_conv * self.inner + scan + 6 * self.inner

    def state_bytes(self, length: int) -> int:
        return 4 * self.inner * (self.d_conv - 1 + self.d_state)


class Mamba1(Backbone):
    """Mamba-1, a selective state-space model; its state has a fixed size."""

    revision = 2  # the bias of the steps is added in float32
    sizes = {
        "tiny": Mamba1Options(d_model=64, layers=2, d_state=8),
        "small": Mamba1Options(d_model=256, layers=12),
        "paper": Mamba1Options(d_model=768, layers=24),
    }

    def __init__(self, vocabulary: int, options: Mamba1Options) -> None:
        width, depth = options.d_model, options.layers
        blocks = [
            Residual(
                nn.RMSNorm(width, eps=NORM_EPS),
                Mamba1Mixer(width, depth, options.d_state, options.expand, options.d_conv),
            )
            for _ in range(depth)
        ]
        super().__init__(vocabulary, options, blocks, nn.RMSNorm(width, eps=NORM_EPS), 0.02, tied=True)
        self.operations += ("mamba1_step",)

    def decoding(self, rows: int, dtype: torch.dtype) -> Any | None:
        return choice("mamba1_step", self.device.type).function(self, rows, dtype)


def mamba_state(conv: Tensor, ssm: Tensor, span: Span) -> MambaState | None:
    """The state after a call; of a packed row nobody wants one."""
    return MambaState(conv, ssm) if span.offsets is None else None


def stopped(delta: Tensor, span: Span) -> Tensor:
    """Step sizes [B, T, ..] with 0 for padding, at which a state stands still."""
    return delta if span.padding is None else delta.masked_fill(span.padding[..., None], 0)


def inverse_softplus_steps(count: int, least: float = 1e-3, most: float = 0.1) -> Tensor:
    """Biases whose softplus is log-uniform between `least` and `most`: the initial step sizes."""
    steps = torch.exp(torch.rand(count) * (math.log(most) - math.log(least)) + math.log(least))
    return steps + torch.log(-torch.expm1(-steps))


def scale_output(linear: nn.Linear, depth: int) -> None:
    """PyTorch's default initialisation divided by sqrt(depth), so that the residual stream keeps its scale."""
    nn.init.kaiming_uniform_(linear.weight, a=math.sqrt(5))
    linear.weight.data /= math.sqrt(depth)


def no_weight_decay(*parameters: Tensor) -> None:
    """Mark parameters an optimiser should not decay."""
    for parameter in parameters:
        parameter._no_weight_decay = True  # type: ignore[attr-defined]

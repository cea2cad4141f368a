"""RWKV-7 "Goose" (Peng et al. 2025, section 4), initialised as its authors' training code does."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, normalize, pad, relu

from models.backbone import Backbone, Block, Span, matrices
from models.base import Options
from models.kernels.choose import wkv7, wkv7_step
from models.kernels.wkv7 import STRONGEST
from models.mamba1 import no_weight_decay, stopped

NORM_EPS = 1e-5


@dataclass(frozen=True)
class Rwkv7Options(Options):
    d_model: int
    """Width of the residual stream, and channels of all heads together."""
    layers: int
    mlp: int
    """Hidden width of the channel mix. The original's is 4 * d_model."""
    head_size: int = 64
    """Channels of a head's keys and values."""


@dataclass
class Rwkv7State:
    mixed: Tensor
    """float32 [B, D]: the last input of the time mix."""
    memory: Tensor
    """float32 [B, heads, head_size, head_size]: from keys to values."""
    fed: Tensor
    """float32 [B, D]: the last input of the channel mix."""


class LowRank(nn.Module):
    """down, a function, up; plus a bias for each channel unless `bias` is None. Starts as its bias."""

    def __init__(self, width: int, rank: int, bias: Tensor | None, between: nn.Module | None = None) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width, bias=False)
        self.between = nn.Identity() if between is None else between
        nn.init.zeros_(self.down.weight)
        nn.init.orthogonal_(self.up.weight, gain=0.1 * max(1.0, math.sqrt(rank / width)))
        self.bias = None if bias is None else nn.Parameter(bias)
        no_weight_decay(self.down.weight, self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(self.between(self.down(x)))
        return y if self.bias is None else y + self.bias


class TimeMix(Block):
    """Mixes of each token with the one before it make receptance, key, value, decay, rate and gate; wkv7; output.

    Layer 0 hands its values to all others, which mix them into their own.
    """

    operations = ("wkv7",)
    steady = True

    def __init__(self, d_model: int, head_size: int, layer: int, depth: int) -> None:
        super().__init__()
        if d_model % head_size:
            raise ValueError(f"head_size: {head_size} does not divide d_model = {d_model}")
        self.width, self.head_size, self.heads, self.first = d_model, head_size, d_model // head_size, layer == 0
        channel = torch.arange(d_model, dtype=torch.float32)
        falling, rising = 1 - layer / depth, layer / max(1, depth - 1)
        # How much of the token before enters receptance, decay, key, value, rate and gate.
        powers = torch.tensor([0.2, 0.9, 0.7, 0.7, 0.9, 0.2])[:, None] * falling
        self.shift = nn.Parameter(1 - (channel / d_model) ** powers)
        self.receptance, self.key, self.value, self.output = (nn.Linear(d_model, d_model, bias=False) for _ in range(4))
        for linear, gain in ((self.receptance, 1.0), (self.key, 0.1), (self.value, 1.0)):
            nn.init.orthogonal_(linear.weight, gain=gain)
        nn.init.zeros_(self.output.weight)
        line = channel / max(1, d_model - 1) - 0.5
        bend = 2 * (channel % head_size) / max(1, head_size - 1) - 1
        bend = bend * bend.abs()
        narrow, gate_rank = _rank(1.8 * d_model**0.5), _rank(0.6 * d_model**0.8)
        pace = -5.5 + 6 * (line + 0.5) ** (1 + rising**0.3) + 2.5 * bend
        self.decay = LowRank(d_model, narrow, pace, nn.Tanh())
        self.rate = LowRank(d_model, narrow, -0.19 + 0.3 * bend + 0.4 * line)
        self.gate = LowRank(d_model, gate_rank, None, nn.Sigmoid())
        self.residual = None if self.first else LowRank(d_model, _rank(1.3 * d_model**0.5), 0.73 - 0.4 * line)
        self.removal = nn.Parameter(0.71 - 0.1 * line)
        self.replacement = nn.Parameter(torch.full((d_model,), 1.02))
        self.bonus = nn.Parameter(torch.full((self.heads, head_size), -0.04))
        self.norm = nn.Parameter(torch.full((d_model,), ((layer + 1) / depth) ** 0.7))
        self.norm_bias = nn.Parameter(torch.zeros(d_model))
        no_weight_decay(self.shift, self.bonus)

    def initial_state(self, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
        memory = torch.zeros(batch, self.heads, self.head_size, self.head_size, device=device)
        return torch.zeros(batch, self.width, device=device), memory

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None, span: Span
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        before, memory = (None, None) if state is None else state
        difference, last = _difference(x, before, span)
        mixes = (torch.addcmul(x, difference, share) for share in self.shift.unbind(0))
        for_receptance, for_decay, for_key, for_value, for_rate, for_gate = mixes
        r, k, v = self.receptance(for_receptance).float(), self.key(for_key).float(), self.value(for_value).float()
        first = span.share("values of layer 0", lambda: v)
        if self.residual is not None:
            v = torch.lerp(v, first, torch.sigmoid(self.residual(for_value).float()))
        decay = stopped(STRONGEST * torch.sigmoid(self.decay(for_decay).float()), span)
        rate = stopped(torch.sigmoid(self.rate(for_rate).float()), span)
        removed = normalize(self._split(k * self.removal), dim=-1)
        k = stopped(k * (1 + (rate - 1) * self.replacement), span)
        r, decay, k, v, rate = (self._split(part) for part in (r, decay, k, v, rate))
        # The recurrence is matrix products, which autocast would round to bf16 together with the state they carry.
        with torch.autocast(x.device.type, enabled=False):
            if span.in_place and memory is not None:
                token = (r[:, 0], decay[:, 0], k[:, 0], v[:, 0], removed[:, 0], rate[:, 0])
                y, memory = wkv7_step(*token, memory)
                y = y[:, None]
            else:
                y, memory = wkv7(r, decay, k, v, removed, rate, memory, offsets=span.offsets, longest=span.longest)
        y = layer_norm(y, (self.head_size,), eps=NORM_EPS * self.head_size).flatten(2) * self.norm + self.norm_bias
        y = y + ((r * k * self.bonus).sum(-1, keepdim=True) * v).flatten(2)
        y = self.output(y * self.gate(for_gate))
        return y, None if last is None else (last, memory)

    def flops(self, length: int) -> float:
        return 2 * matrices(self) + 9 * self.width * self.head_size + 60 * self.width

    def state_bytes(self, length: int) -> int:
        return 4 * self.width * (1 + self.head_size)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.head_size))


class ChannelMix(nn.Module):
    """A squared ReLU between two matrices, over a mix of each token with the one before it."""

    def __init__(self, d_model: int, mlp: int, layer: int, depth: int) -> None:
        super().__init__()
        channel = torch.arange(d_model, dtype=torch.float32)
        self.shift = nn.Parameter(1 - (channel / d_model) ** (1 - layer / depth) ** 4)
        self.key, self.value = nn.Linear(d_model, mlp, bias=False), nn.Linear(mlp, d_model, bias=False)
        nn.init.orthogonal_(self.key.weight)
        nn.init.zeros_(self.value.weight)

    def forward(self, x: Tensor, before: Tensor | None, span: Span) -> tuple[Tensor, Tensor | None]:
        difference, last = _difference(x, before, span)
        return self.value(relu(self.key(torch.addcmul(x, difference, self.shift))).square()), last


class Rwkv7Block(Block):
    """x + time mix(norm(x)), then x + channel mix(norm(x)); the first block also normalises what it is given."""

    def __init__(self, options: Rwkv7Options, layer: int) -> None:
        super().__init__()
        width, depth = options.d_model, options.layers
        self.entry = nn.LayerNorm(width, eps=NORM_EPS) if layer == 0 else nn.Identity()
        self.time_norm, self.channel_norm = nn.LayerNorm(width, eps=NORM_EPS), nn.LayerNorm(width, eps=NORM_EPS)
        self.time = TimeMix(width, options.head_size, layer, depth)
        self.channel = ChannelMix(width, options.mlp, layer, depth)
        self.operations, self.steady, self.width = self.time.operations, self.time.steady, width

    def initial_state(self, batch: int, device: torch.device) -> Rwkv7State:
        mixed, memory = self.time.initial_state(batch, device)
        return Rwkv7State(mixed, memory, torch.zeros_like(mixed))

    def forward(self, x: Tensor, state: Rwkv7State | None, span: Span) -> tuple[Tensor, Rwkv7State | None]:
        x = self.entry(x)
        mixed, after = self.time(self.time_norm(x), None if state is None else (state.mixed, state.memory), span)
        x = x + mixed
        fed, last = self.channel(self.channel_norm(x), None if state is None else state.fed, span)
        return x + fed, None if after is None or last is None else Rwkv7State(after[0], after[1], last)

    def flops(self, length: int) -> float:
        return self.time.flops(length) + 2 * matrices(self.channel) + 20 * self.width

    def state_bytes(self, length: int) -> int:
        return self.time.state_bytes(length) + 4 * self.width


class Rwkv7(Backbone):
    """RWKV-7, whose memory decays and is rewritten entry by entry; its state has a fixed size.

    The original also doubles the learning rate of the decay's bias, which no recipe here does.
    """

    sizes = {
        "tiny": Rwkv7Options(d_model=64, layers=2, mlp=128, head_size=32),
        "small": Rwkv7Options(d_model=256, layers=8, mlp=640),
        # The original's channel mix of 4 * 768 would make 181M parameters of 24 layers; this one 124M.
        "paper": Rwkv7Options(d_model=768, layers=24, mlp=1536),
    }

    def __init__(self, vocabulary: int, options: Rwkv7Options) -> None:
        blocks = [Rwkv7Block(options, layer) for layer in range(options.layers)]
        super().__init__(vocabulary, options, blocks, nn.LayerNorm(options.d_model, eps=NORM_EPS), 1.0, tied=False)
        nn.init.uniform_(self.embedding.weight, -1e-4, 1e-4)
        nn.init.orthogonal_(self.logits.weight, gain=0.5 * max(1.0, math.sqrt(vocabulary / options.d_model)))


def _rank(suggested: float) -> int:
    """The nearest multiple of 32, at least 32."""
    return max(32, round(suggested / 32) * 32)


def _difference(x: Tensor, before: Tensor | None, span: Span) -> tuple[Tensor, Tensor | None]:
    """The token before each, less the token itself, [B, T, D]; and the last real token of each row, float32 [B, D].

    before: [B, D], the token before the first (None: zeros).
    """
    if span.offsets is not None:
        return pad(x[:, :-1], (0, 0, 1, 0)).masked_fill(span.places[:, None] == 0, 0) - x, None
    start = x.new_zeros(x.shape[0], 1, x.shape[2]) if before is None else before[:, None]
    row = torch.cat([start, x], dim=1)
    if span.lengths is None:
        return row[:, :-1] - x, row[:, -1].float().clone()
    return row[:, :-1] - x, row[torch.arange(len(x), device=x.device), span.lengths].float()

"""The plain loop that our training is measured against: what one writes with PyTorch and mamba-ssm and no harness.

The problems of a step are encoded in Python, padded to the longest, moved to the GPU, and go through forward, loss,
backward, clipping and fused AdamW in bf16 autocast, one kernel launch at a time. Layers and sizes are those of our
`paper` presets; nothing of a state is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention, silu

from harness.batches import IGNORED
from models.build import resolve
from models.positions import ROTARY_BASE


class Attention(nn.Module):
    """Causal attention through PyTorch's fused kernel, `rotated` entries of each head rotated."""

    def __init__(self, width: int, heads: int, rotated: int, bias: bool) -> None:
        super().__init__()
        self.heads, self.rotated = heads, rotated
        self.project, self.out = nn.Linear(width, 3 * width, bias=bias), nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        cos, sin = self.tables(x.shape[1], x.device)
        q, k = (self.rotate(t, cos, sin).to(v.dtype) for t in (q, k))
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def tables(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        if getattr(self, "cached", (0,))[0] < length:
            inverse = ROTARY_BASE ** (-torch.arange(0, self.rotated, 2, device=device) / self.rotated)
            angles = torch.arange(length, device=device)[:, None] * inverse
            self.cached = (length, angles.cos(), angles.sin())
        return self.cached[1][:length], self.cached[2][:length]

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = self.rotated // 2
        first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


class NeoXBlock(nn.Module):
    def __init__(self, options: Any) -> None:
        super().__init__()
        width = options.d_model
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, options.heads, width // options.heads // 4 // 2 * 2, bias=True)
        self.up, self.down = nn.Linear(width, options.mlp), nn.Linear(options.mlp, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(self.norm(x)) + self.down(gelu(self.up(self.mlp_norm(x))))


class MistralBlock(nn.Module):
    """Its window is longer than any trajectory here, so causal attention is the same."""

    def __init__(self, options: Any) -> None:
        super().__init__()
        width = options.d_model
        self.norm, self.mlp_norm = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.attention = Attention(width, options.heads, width // options.heads, bias=False)
        self.gate_up = nn.Linear(width, 2 * options.mlp, bias=False)
        self.down = nn.Linear(options.mlp, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(silu(gate) * up)


class Transformer(nn.Module):
    def __init__(self, vocabulary: int, options: Any, block: type[nn.Module], norm: type[nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, options.d_model)
        self.blocks = nn.Sequential(*(block(options) for _ in range(options.layers)))
        self.norm, self.head = norm(options.d_model), nn.Linear(options.d_model, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embedding(tokens))))


class Recurrent(nn.Module):
    """cuDNN."""

    def __init__(self, vocabulary: int, options: Any, kind: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, options.d_model)
        self.rnn = kind(options.d_model, options.d_model, options.layers, batch_first=True)
        self.head = nn.Linear(options.d_model, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(tokens))[0])


class MambaSsm(nn.Module):
    """mamba-ssm's language model with its own fused norms; needs the package.

    Without causal-conv1d, Mamba-2's one-kernel path is not there: its convolution is PyTorch's, its scan still its own.
    """

    def __init__(self, vocabulary: int, options: Any, layer: str) -> None:
        super().__init__()
        from mamba_ssm.models.config_mamba import MambaConfig
        from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

        settings: dict[str, Any] = {"layer": layer}
        if layer == "Mamba2" and find_spec("causal_conv1d") is None:
            settings["use_mem_eff_path"] = False
        config = MambaConfig(
            d_model=options.d_model,
            n_layer=options.layers,
            vocab_size=vocabulary,
            ssm_cfg=settings,
            rms_norm=True,
            residual_in_fp32=True,
            fused_add_norm=True,
            pad_vocab_size_multiple=1,
        )
        self.model = MambaLMHeadModel(config)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens).logits


def baseline(architecture: str, size: str, vocabulary: int) -> nn.Module:
    """The model of the plain loop. Raises ValueError for an architecture that has none."""
    options = resolve(architecture).sizes[size]
    makers: dict[str, Any] = {
        "transformer": lambda: Transformer(vocabulary, options, NeoXBlock, nn.LayerNorm),
        "sliding": lambda: Transformer(vocabulary, options, MistralBlock, nn.RMSNorm),
        "lstm": lambda: Recurrent(vocabulary, options, nn.LSTM),
        "gru": lambda: Recurrent(vocabulary, options, nn.GRU),
        "mamba1": lambda: MambaSsm(vocabulary, options, "Mamba1"),
        "mamba2": lambda: MambaSsm(vocabulary, options, "Mamba2"),
    }
    if architecture not in makers:
        raise ValueError(f"bench: no baseline for {architecture!r}; allowed: {', '.join(makers)}")
    return makers[architecture]()


def plain_step(
    model: nn.Module, optimiser: torch.optim.Optimizer, rows: Sequence[Any], device: torch.device, precision: str
) -> Tensor:
    """One turn of the plain loop; the loss."""
    tokens, targets = (tensor.to(device) for tensor in pad(rows))
    optimiser.zero_grad(set_to_none=True)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        logits = model(tokens)
        loss = cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return loss.detach()


def pad(rows: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Inputs and targets, int64 [B, longest - 1], as one writes it: in Python, row by row."""
    longest = max(len(row) for row in rows)
    tokens = torch.zeros(len(rows), longest - 1, dtype=torch.int64)
    targets = torch.full_like(tokens, IGNORED)
    for at, row in enumerate(rows):
        ids, own = torch.from_numpy(row.ids.astype("int64")), torch.from_numpy(row.own)
        tokens[at, : len(row) - 1] = ids[:-1]
        targets[at, : len(row) - 1] = torch.where(own[1:], ids[1:], IGNORED)
    return tokens, targets

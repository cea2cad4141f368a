"""LSTM (Hochreiter & Schmidhuber 1997) and GRU (Cho et al. 2014): stacked as in cuDNN, linear head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from models.base import Cost, Options, SequenceModel
from models.kernels.choose import decide

# Products of float32 are of float32: cuDNN would otherwise take the tensor cores' shorter factors for its recurrences,
# and one token at a time would differ from many at once in the fourth digit.
torch.backends.cudnn.allow_tf32 = False

LONGEST = 1 << 15
"""Tokens cuDNN is given at once: it refuses some longer sequences."""


@dataclass(frozen=True)
class RecurrentOptions(Options):
    d_model: int
    """Units of each layer, and width of the embedding."""
    layers: int


class Recurrent(SequenceModel):
    """What LSTM and GRU share. A state is a tuple of parts (GRU: h; LSTM: h, c), each a list over layers of [B, D]."""

    operations = ("rnn",)
    steady = True
    interleaves = True
    kind: ClassVar[type[nn.GRU] | type[nn.LSTM]]
    parts: ClassVar[int]
    """Tensors of state per layer."""

    def __init__(self, vocabulary: int, options: RecurrentOptions) -> None:
        super().__init__(vocabulary, options)
        self.embedding = nn.Embedding(vocabulary, options.d_model)
        self.rnn = self.kind(options.d_model, options.d_model, options.layers, batch_first=True)
        self.logits = nn.Linear(options.d_model, vocabulary)

    def initial_state(self, batch: int, device: torch.device | str | None = None) -> Any:
        shape, device = (batch, self.options.d_model), self.device if device is None else device
        layers = range(self.options.layers)
        return tuple([torch.zeros(shape, device=device) for _ in layers] for _ in range(self.parts))

    def hidden(self, tokens: Tensor, state: Any = None, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
        if tokens.shape[1] <= LONGEST:
            return self._hidden(tokens, state, lengths)
        parts = []
        for at in range(0, tokens.shape[1], LONGEST):
            piece = tokens[:, at : at + LONGEST]
            left = None if lengths is None else (lengths - at).clamp(0, piece.shape[1])
            features, state = self._hidden(piece, state, left)
            parts.append(features)
        return torch.cat(parts, dim=1), state

    def _hidden(self, tokens: Tensor, state: Any, lengths: Tensor | None) -> tuple[Tensor, Any]:
        before = None if state is None else self._stacked(state)
        x = self.embedding(tokens)
        if lengths is None or bool((lengths == tokens.shape[1]).all()):
            features, after = self._run(x, before)
            return features, self._unstacked(after)
        # A packed sequence has at least one token: rows of none run over one, and keep their old state.
        packed = pack_padded_sequence(x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        features, after = self._run(packed, before)
        padded, _ = pad_packed_sequence(features, batch_first=True, total_length=tokens.shape[1])
        old = self.initial_state(len(tokens), tokens.device) if state is None else state
        return padded, self._kept(old, self._unstacked(after), lengths == 0)

    def interleaved(self, tokens: Tensor, sizes: Tensor) -> Tensor:
        return self._run(PackedSequence(self.embedding(tokens), sizes), None)[0].data

    def head(self, features: Tensor) -> Tensor:
        return self.logits(features)

    def decide(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return decide(features, self.logits.weight, self.logits.bias)

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        x = self.embedding(tokens)
        after: list[tuple[Tensor, ...]] = []
        for layer, before in enumerate(zip(*state, strict=True)):
            memory = self._cell(x, before, self.rnn.all_weights[layer])
            after.append(memory)
            x = memory[0]
        return self.head(x), tuple(list(part) for part in zip(*after, strict=True))

    def cost(self, length: int) -> Cost:
        weights = sum(weight.numel() for name, weight in self.rnn.named_parameters() if name.startswith("weight"))
        flops = 2 * (weights + self.logits.weight.numel())
        state_bytes = 4 * self.parts * self.options.layers * self.options.d_model
        return Cost(self.parameter_count(), flops, state_bytes)

    def _run(self, x: Tensor | PackedSequence, before: Any) -> Any:
        if self.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return self.rnn(x, before)
        # PyTorch has bf16 recurrences for some processors only: on a CPU they stay in float32.
        with torch.autocast("cpu", enabled=False):
            return self.rnn(x, before)

    def _cell(self, x: Tensor, before: tuple[Tensor, ...], weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def _stacked(self, state: Any) -> Any:
        stacked = tuple(torch.stack(part) for part in state)
        return stacked if self.parts > 1 else stacked[0]

    def _unstacked(self, after: Any) -> Any:
        parts = after if self.parts > 1 else (after,)
        return tuple([layer.float() for layer in part.unbind(0)] for part in parts)

    @staticmethod
    def _kept(old: Any, new: Any, rows: Tensor) -> Any:
        return tuple(
            [torch.where(rows[:, None], before, after) for before, after in zip(*parts, strict=True)]
            for parts in zip(old, new, strict=True)
        )


class LSTM(Recurrent):
    """LSTM, stacked; its state has a fixed size."""

    kind, parts = nn.LSTM, 2
    sizes = {
        "tiny": RecurrentOptions(d_model=160, layers=1),
        "small": RecurrentOptions(d_model=568, layers=2),
        "paper": RecurrentOptions(d_model=1536, layers=4),
    }

    def _cell(self, x: Tensor, before: tuple[Tensor, ...], weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return torch.lstm_cell(x, before, *weights)


class GRU(Recurrent):
    """GRU, stacked; its state has a fixed size."""

    kind, parts = nn.GRU, 1
    sizes = {
        "tiny": RecurrentOptions(d_model=192, layers=1),
        "small": RecurrentOptions(d_model=656, layers=2),
        "paper": RecurrentOptions(d_model=1536, layers=4),
    }

    def _cell(self, x: Tensor, before: tuple[Tensor, ...], weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (torch.gru_cell(x, before[0], *weights),)

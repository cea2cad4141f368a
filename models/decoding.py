"""One token at a time, of many rows at once, for as long as one likes: what decoding asks of a model.

The weights are brought into the type of the matrix products once, the state is updated in place, and a row that waits
keeps its own. Nothing is allocated or waited for on the way, so that a GPU can replay the step from a CUDA graph.
"""

from __future__ import annotations

import copy
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from models.backbone import Backbone
from models.base import SequenceModel
from models.state import State, kept


class Decoding(Protocol):
    """A model made ready for single tokens."""

    def __call__(self, tokens: Tensor, state: State, live: Tensor, scores: Tensor) -> State:
        """One token per row.

        tokens: int64 [B]; live: bool [B], rows that take theirs, while the others stay as they are; scores: float32
        [B, V], where the logits of the live rows are written. Returns the new state, on a GPU always `state` itself.
        """
        ...


def decoding(model: Any, rows: int, dtype: torch.dtype) -> Decoding:
    """The fastest way there is to decode so many rows with a model, matrix products taken in `dtype`."""
    if isinstance(model, SequenceModel):
        fused: Decoding | None = model.decoding(rows, dtype)
        if fused is not None:
            return fused
    return Stepping(model, dtype)


class Stepping:
    """Any model, by its own `step`."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        device = next(model.parameters()).device
        self.model = lowered(model, dtype) if device.type == "cuda" and dtype != torch.float32 else model
        self.device, self.dtype = device, dtype

    def step(self, tokens: Tensor, state: State, live: Tensor) -> tuple[Tensor, State]:
        if isinstance(self.model, Backbone):
            return self.model.step(tokens, state, live)
        return self.model.step(tokens, state)

    def __call__(self, tokens: Tensor, state: State, live: Tensor, scores: Tensor) -> State:
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            logits, after = self.step(tokens, state, live)
        torch.where(live[:, None], logits.float(), scores, out=scores)
        return kept(state, after, live)


def lowered(model: Any, dtype: torch.dtype) -> Any:
    """A copy whose matrices have the type autocast would give them at every use: so they are read at half the cost."""
    model = copy.deepcopy(model)
    for part in model.modules():
        if isinstance(part, nn.Linear):
            part.weight = nn.Parameter(part.weight.detach().to(dtype), requires_grad=False)
        elif isinstance(part, nn.RNNBase):
            for name, weight in list(part.named_parameters()):
                setattr(part, name, nn.Parameter(weight.detach().to(dtype), requires_grad=False))
    return model

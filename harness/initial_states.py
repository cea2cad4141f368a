"""From which states training sequences start, and how far gradients go back: interventions for length generalisation.

Recurrent models fail past their training lengths where their state comes to places it never was in training. Starting
some sequences elsewhere than from the empty state shows them more of those places (Buitrago Ruiz & Gu 2025): from the
last state of another sequence (state passing), or from noise of the same magnitude (fitted noise). Truncated
back-propagation through time cuts the gradient, not the state, between pieces of a sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.batches import IGNORED, Part
from harness.config import Train
from harness.decide import autocast
from harness.errors import UserError
from models.state import State, leaves, mapped, put, take

KEPT = 16
"""Last states of a step that sequences of the next may start from."""
FAR = 1 << 20
"""Tokens after which a state of fixed size must be as large as before the first."""


class InitialStates:
    """The states sequences start from during training.

    Raises UserError where `train.initial_states` asks for others than the empty one of a model whose state grows with
    the sequence, or of one that learns by reading.
    """

    def __init__(self, model: Any, recipe: Train, precision: str) -> None:
        self.model, self.shares, self.truncate, self.precision = (
            model,
            recipe.initial_states,
            recipe.truncate,
            precision,
        )
        self.kept: State | None = None
        self.coming: list[State] = []
        if self and model.learns == "reading":
            raise UserError(f"train: {type(model).__name__} learns by reading, without initial_states or truncate")
        if self.shares and model.cost(0).state_bytes != model.cost(FAR).state_bytes:
            raise UserError(
                f"train.initial_states: the state of {type(model).__name__} grows with the sequence; allowed are "
                "architectures whose state has one size"
            )

    def __bool__(self) -> bool:
        return bool(self.shares) or self.truncate is not None

    def losses(self, part: Part, device: torch.device) -> Iterator[Tensor]:
        """Summed cross-entropy, in nats, of the model's own tokens of a part, piece by piece.

        The gradient of one has to be taken before the next is asked for.
        """
        tokens, own, lengths = part.tokens.to(device), part.own.to(device), (part.lengths - 1).to(device)
        targets = tokens.masked_fill(~own, IGNORED)[:, 1:]
        width, state = tokens.shape[1] - 1, self._drawn(len(tokens))
        size = self.truncate or width
        for at in range(0, width, size):
            piece = tokens[:, at : min(at + size, width)]
            with autocast(device, self.precision):
                counts = (lengths - at).clamp(0, piece.shape[1])
                features, state = self.model.hidden(piece, state, counts)
                logits = self.model.head(features).flatten(0, 1).float()
                wanted = targets[:, at : at + size].flatten()
                loss = cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum")
            yield loss
            state = mapped(Tensor.detach, state)
        if self.shares:
            self.coming.append(take(state, torch.randperm(len(tokens))[:KEPT]))

    def turn(self) -> None:
        """A step is done: its last states are those the next may start from."""
        if self.coming:
            together = mapped(lambda *parts: torch.cat(parts), *self.coming)
            count = sum(len(next(leaves(state))) for state in self.coming)
            self.kept = take(together, torch.randperm(count)[:KEPT])
            self.coming.clear()

    def saved(self) -> list[Tensor]:
        """What a training checkpoint has to hold."""
        return [] if self.kept is None else list(leaves(self.kept))

    def restore(self, saved: list[Tensor]) -> None:
        """The inverse of `saved`."""
        if saved:
            empty, tensors = self.model.initial_state(len(saved[0])), iter(saved)
            self.kept = mapped(lambda tensor: next(tensors).to(tensor.device), empty)

    def _drawn(self, rows: int) -> State:
        state = self.model.initial_state(rows)
        if self.kept is None:
            return state
        drawn, passed = torch.rand(rows), self.shares.get("passed", 0.0)
        noisy = passed + self.shares.get("noise", 0.0)
        count = len(next(leaves(self.kept)))
        for chosen, source in ((drawn < passed, self.kept), ((drawn >= passed) & (drawn < noisy), None)):
            index = chosen.nonzero()[:, 0]
            if len(index):
                source = mapped(_noise, self.kept) if source is None else source
                state = put(state, index, take(source, torch.randint(count, (len(index),))))
        return state


def _noise(tensor: Tensor) -> Tensor:
    """As large as the tensor's entries are in the root mean square; counts stay 0."""
    if not tensor.is_floating_point():
        return torch.zeros_like(tensor)
    return torch.randn(tensor.shape).to(tensor) * tensor.square().mean().sqrt()

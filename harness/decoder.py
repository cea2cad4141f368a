"""Decoding token by token: a batch of rows under way, greedy tokens out for tokens in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.decide import decide
from models.state import clone, leaves, take

WORTH = 64
"""Steps from which on recording a CUDA graph pays."""


class Decoder:
    """Rows and their state. On a GPU a model whose steps are all alike (`steady`) takes them in a CUDA graph: launched
    one by one, the operations of a step take ten times as long to launch as to run.

    steps: about how many are to come. Use it in inference mode, all of it in one autocast context.
    """

    def __init__(self, model: Any, state: Any, rows: int, device: torch.device, steps: int) -> None:
        self.model, self.device, self.steps = model, device, steps
        self._state, self._rows = state, rows
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda" and steps >= WORTH and getattr(model, "steady", False):
            self._record()

    def step(self, tokens: Sequence[int]) -> tuple[list[int], list[float]]:
        """Feed each row a token; each row's greedy next one, and its margin."""
        if self._graph is None:
            best, margins, self._state = self._decided(torch.tensor(tokens, device=self.device), self._state)
            return best.tolist(), margins.tolist()
        self._tokens.copy_(torch.tensor(tokens))
        self._graph.replay()
        best, spread = self._found.tolist()
        return [int(token) for token in best], spread

    def taken(self, rows: Sequence[int], steps: int) -> Decoder:
        """Some of its rows, in this order, `steps` more to come."""
        state = take(self._state, torch.tensor(rows, device=self.device))
        return Decoder(self.model, state, len(rows), self.device, steps)

    def _decided(self, tokens: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
        logits, state = self.model.step(tokens, state)
        return *decide(logits), state

    def _record(self) -> None:
        """One step that reads its tokens and state from fixed places and leaves the new state there."""
        self._state = clone(self._state)
        self._tokens = torch.zeros(self._rows, dtype=torch.int64, device=self.device)
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(2):
                self._decided(self._tokens, clone(self._state))
        torch.cuda.current_stream(self.device).wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            best, margins, after = self._decided(self._tokens, self._state)
            self._found = torch.stack([best.double(), margins.double()])
            for place, new in zip(leaves(self._state), leaves(after), strict=True):
                if new is not place:
                    place.copy_(new)

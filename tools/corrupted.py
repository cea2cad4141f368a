"""A tool whose replies are not always what it said: the control that asks whether a model heeds what it reads."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from tools.base import Kind, Mode, Snapshot, Tool


class Corrupted(Tool):
    """A tool in which every token of a reply is replaced, with probability `rate`, by another one of `tokens`.

    Memory and pointers stay as they are: the model is misled, the tool is not. The same `seed` and the same commands
    give the same replacements.
    """

    revision: ClassVar[int] = 1

    def __init__(self, tool: Tool, rate: float, seed: str, tokens: Sequence[str]) -> None:
        self.tool, self.rate, self.seed = tool, rate, seed
        self.tokens = tuple(tokens)
        self.start(())

    def vocabulary(self) -> tuple[str, ...]:
        return self.tool.vocabulary()

    def start(self, prompt: Sequence[str]) -> None:
        self.tool.start(prompt)
        self._rng = random.Random(self.seed)
        self._position = len(prompt)
        self.replaced = 0
        """Reply tokens replaced so far."""
        self.first: int | None = None
        """Position in the trajectory of the first of them."""
        self.calls = self.longest_walk = 0

    def classify(self, token: str) -> Kind | None:
        return self.tool.classify(token)

    def allows(self, token: str) -> bool:
        return self.tool.allows(token)

    def feed(self, token: str) -> tuple[str, ...]:
        reply = self.tool.feed(token)
        self.calls, self.longest_walk = self.tool.calls, self.tool.longest_walk
        self._position += 1
        return tuple([self._heard(said) for said in reply])

    def _heard(self, said: str) -> str:
        position, self._position = self._position, self._position + 1
        if self._rng.random() >= self.rate:
            return said
        self.replaced += 1
        self.first = position if self.first is None else self.first
        return self._rng.choice([token for token in self.tokens if token != said])

    @property
    def over(self) -> bool:  # type: ignore[override]
        return self.tool.over

    def result(self) -> tuple[str, ...] | None:
        return self.tool.result()

    def modes(self) -> tuple[Mode, ...]:
        return self.tool.modes()

    def mode(self) -> int:
        return self.tool.mode()

    def ends_reply(self, token: str) -> bool:
        return self.tool.ends_reply(token)

    def snapshot(self) -> Snapshot:
        return self.tool.snapshot()

"""A solver that can be asked once: the single-turn tool of tasks that are not arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from tools.base import ASK, END, Kind, Mode, Snapshot, Tool
from tools.calculator import ERROR

SOLVE = "[SOLVE]"

Answer = Callable[[Sequence[str]], Sequence[str]]
"""Question -> its answer."""


def _nothing(prompt: Sequence[str]) -> Sequence[str]:
    return ()


class Solver(Tool):
    """`[SOLVE]` is answered with the answer to the whole question and `[END]`, once per problem.

    What there is to do is to keep the answer in mind and copy it. A second call is answered `[ERR] [END]`. The task
    says how questions are answered (`answer`); without it the answer is empty.
    """

    revision: ClassVar[int] = 1

    def __init__(self, answer: Answer = _nothing) -> None:
        if not callable(answer):
            raise ValueError(f"solver: answer = {answer!r}, must be a function; tasks give it")
        self._answer = answer
        self.start(())

    def vocabulary(self) -> tuple[str, ...]:
        return (SOLVE, ERROR, END)

    def start(self, prompt: Sequence[str]) -> None:
        self._prompt = tuple(prompt)
        self._used = False
        self.calls = 0

    def classify(self, token: str) -> Kind | None:
        return "command" if token == SOLVE else None

    def allows(self, token: str) -> bool:
        return token != SOLVE or not self._used

    def feed(self, token: str) -> tuple[str, ...]:
        if token != SOLVE:
            return ()
        self.calls += 1
        if self._used:
            return (ERROR, END)
        self._used = True
        return (*self._answer(self._prompt), END)

    def modes(self) -> tuple[Mode, ...]:
        return (Mode({SOLVE: ASK}, otherwise=0),)

    def ends_reply(self, token: str) -> bool:
        return token == END

    def snapshot(self) -> Snapshot:
        """The question, as its memory."""
        return Snapshot(self._prompt, {})

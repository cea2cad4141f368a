"""No tool at all, and a tool whose replies the model has to imagine (chain of thought)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tools.base import Kind, Mode, Snapshot, Tool

SILENT = (Mode(otherwise=0),)
"""The modes of a tool that never answers."""


class NoTool(Tool):
    """Answers nothing: every token is an ordinary one."""

    revision: ClassVar[int] = 1

    def vocabulary(self) -> tuple[str, ...]:
        return ()

    def start(self, prompt: Sequence[str]) -> None:
        pass

    def classify(self, token: str) -> Kind | None:
        return None

    def feed(self, token: str) -> tuple[str, ...]:
        return ()

    def modes(self) -> tuple[Mode, ...]:
        return SILENT

    def snapshot(self) -> Snapshot:
        return Snapshot((), {})


class Imagined(Tool):
    """No tool, but the grammar of one: the model writes the commands and then the observations too (setting `cot`).

    The wrapped tool runs along, so that calls and walks are counted and viewers see its memory; what it would have
    answered is dropped. A command inside a reply is malformed and cuts the reply off.
    """

    revision: ClassVar[int] = 1

    def __init__(self, tool: Tool) -> None:
        self.tool = tool
        self._replying = False

    def vocabulary(self) -> tuple[str, ...]:
        return self.tool.vocabulary()

    def start(self, prompt: Sequence[str]) -> None:
        self.tool.start(prompt)
        self._replying = False
        self.calls = self.longest_walk = 0

    def classify(self, token: str) -> Kind | None:
        kind = self.tool.classify(token)
        return "observation" if self._replying and kind is None else kind

    def allows(self, token: str) -> bool:
        if self._replying:
            return self.tool.classify(token) is None
        return self.tool.allows(token)

    def feed(self, token: str) -> tuple[str, ...]:
        if self.classify(token) == "observation":
            self._replying = not self.tool.ends_reply(token)
            return ()
        self._replying = bool(self.tool.feed(token))
        self.calls, self.longest_walk = self.tool.calls, self.tool.longest_walk
        return ()

    def modes(self) -> tuple[Mode, ...]:
        return SILENT

    def ends_reply(self, token: str) -> bool:
        return self.tool.ends_reply(token)

    def snapshot(self) -> Snapshot:
        return self.tool.snapshot()

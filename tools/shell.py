"""A shell: commands in text, run in a sandbox; what they print comes back as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import ClassVar

from tools.base import ASK, Kind, Mode, Snapshot, Tool
from tools.sandbox import Backend, Bubblewrap, Container, Files, Isolated, Limits, Local, Ran
from tools.text import BYTES, Tokenizer, read, spelled, tokenizer
from tools.virtual_shell import VirtualShell

OPEN, CLOSE = "```bash\n", "\n```\n"
"""Around a command. CLOSE ends a turn of the model, whatever stands before it."""
ACTION = re.compile(r"```bash[ \t]*\n(.*?)\n```\n\Z", re.DOTALL)

BACKENDS = ("bubblewrap", "docker", "podman", "apptainer", "virtual", "local")

Folder = Callable[[Sequence[str]], Mapping[str, str]]
"""Question -> the files there are at first."""


def observation(ran: Ran, most: int = 10_000) -> str:
    """What a model is shown of a command, in the format of mini-swe-agent.

    Of an output of `most` characters or more only the first and the last `most` / 2 are shown.
    """
    text = ran.text
    head = f"<returncode>{ran.status}</returncode>\n"
    if len(text) < most:
        return f"{head}<output>\n{text}</output>\n"
    left_out = len(text) - most // 2 * 2
    return (
        f"{head}<warning>\nThe output of your last command was too long.\n</warning>\n"
        f"<output_head>\n{text[: most // 2]}\n</output_head>\n<elided_chars>\n{left_out} characters elided\n"
        f"</elided_chars>\n<output_tail>\n{text[len(text) - most // 2 :]}\n</output_tail>\n"
    )


def malformed(actions: int) -> str:
    """What a model is told that did not give one command, as mini-swe-agent words it."""
    return f"Please always provide EXACTLY ONE action in triple backticks, found {actions} actions.\n"


def _nothing(prompt: Sequence[str]) -> Mapping[str, str]:
    return {}


class Shell(Tool):
    """Commands in fences of ```bash, each run by `bash -c` in one folder; the reply is exit status and output.

    A turn is text up to a line of three backticks. It should hold one command; a turn without one, or of more than
    `turn_tokens` tokens (None: any number), is told so. Every command is a new shell: what lasts is the files. After
    `turns` turns nothing is answered and the trajectory ends. The output of a trajectory is the files it leaves.
    """

    revision: ClassVar[int] = 1

    def __init__(
        self,
        backend: str = "bubblewrap",
        tokens: str = BYTES,
        files: Folder = _nothing,
        turns: int = 10_000,
        turn_tokens: int | None = None,
        output_chars: int = 10_000,
        seconds: float = 10.0,
        memory_mb: int = 512,
        image: str = "python:3.12-slim",
        unsafe_local: bool = False,
    ) -> None:
        """tokens: the tokenizer (`tools.text.tokenizer`); output_chars: see `observation`; image: of containers."""
        if not callable(files):
            raise ValueError(f"shell: files = {files!r}, must be a function; tasks give it")
        whole = {
            "turns": turns,
            "turn_tokens": 2 if turn_tokens is None else turn_tokens,
            "memory_mb": memory_mb,
            "output_chars": output_chars,
        }
        for name, value in whole.items():
            if not isinstance(value, int) or value < 2:
                raise ValueError(f"shell: {name} = {value!r}, must be a whole number of at least 2")
        if not isinstance(seconds, int | float) or not 0 < seconds <= 3600:
            raise ValueError(f"shell: seconds = {seconds!r}, must be more than 0 and at most 3600")
        limits = Limits(seconds=seconds, memory=memory_mb << 20)
        self.backend = make_backend(backend, limits, image, unsafe_local)
        self.tokenizer: Tokenizer = tokenizer(tokens)
        self._files, self._turns, self._turn_tokens, self._most = files, turns, turn_tokens, output_chars
        self.start(())

    def vocabulary(self) -> tuple[str, ...]:
        return self.tokenizer.tokens

    def encode(self, text: str) -> tuple[str, ...]:
        """A text as tokens of the vocabulary."""
        return self.tokenizer.encode(text)

    def start(self, prompt: Sequence[str]) -> None:
        self._prompt = tuple(prompt)
        self._held: Files | None = None
        self._text = ""
        self._length = 0
        self.calls = 0
        self.over = False

    @property
    def files(self) -> Files:
        """The files as they stand."""
        if self._held is None:
            made = self._files(self._prompt)
            self._held = {name: text.encode() for name, text in sorted(made.items())}
        return self._held

    def classify(self, token: str) -> Kind | None:
        if self.over:
            return None
        return "command" if _OPEN in self._text or self._completes(token) else None

    def allows(self, token: str) -> bool:
        return not (self._completes(token) and _OPEN not in self._text)

    def feed(self, token: str) -> tuple[str, ...]:
        if self.over:
            return ()
        completes = self._completes(token)
        self._text += token
        self._length += 1
        if not completes:
            return ()
        text, self._text, self._length = read([self._text]), "", 0
        self.calls += 1
        self.over = self.calls >= self._turns
        found = ACTION.search(text)
        if found is None:
            return self.encode(malformed(0))
        ran = self.backend.run(self.files, found[1])
        self._held = ran.files
        return self.encode(observation(ran, self._most))

    def _completes(self, token: str) -> bool:
        """Whether the turn ends with this token."""
        ending = self._text[-len(_CLOSE) :] + token
        return ending.endswith(_CLOSE) or (self._turn_tokens is not None and self._length + 1 >= self._turn_tokens)

    def modes(self) -> tuple[Mode, ...]:
        """How much of CLOSE the text ends with. With a budget of tokens any token may end a turn."""
        return super().modes() if self._turn_tokens is not None else _modes(self.vocabulary())

    def mode(self) -> int:
        return 0 if self._turn_tokens is not None else _begun(self._text)

    def result(self) -> tuple[str, ...]:
        """The files, one after another, each as a string with its name in the first line."""
        return tuple(
            f"{name}\n{content.decode('utf-8', 'backslashreplace')}" for name, content in sorted(self.files.items())
        )

    def snapshot(self) -> Snapshot:
        """The names of the files, as its memory."""
        return Snapshot(tuple(self.files), {})


_OPEN, _CLOSE = spelled(OPEN), spelled(CLOSE)


def _begun(text: str) -> int:
    """Characters of CLOSE that a text ends with, all of it left out."""
    return next(size for size in range(len(_CLOSE) - 1, -1, -1) if text.endswith(_CLOSE[:size]))


@lru_cache(8)
def _modes(tokens: tuple[str, ...]) -> tuple[Mode, ...]:
    made = []
    for begun in range(len(_CLOSE)):
        before = _CLOSE[:begun]
        after = {token: ASK if (before + token).endswith(_CLOSE) else _begun(before + token) for token in tokens}
        made.append(Mode({token: mode for token, mode in after.items() if mode}, otherwise=0))
    return tuple(made)


def make_backend(name: str, limits: Limits, image: str = "", unsafe_local: bool = False) -> Backend:
    """Where commands run; nothing is started yet.

    Raises:
        ValueError: unknown, or `local` without leave.
    """
    if name == "virtual":
        return VirtualShell()
    if name == "bubblewrap":
        return Bubblewrap(limits)
    if name in ("docker", "podman", "apptainer"):
        return Container(limits, name, image)
    if name == "local":
        if unsafe_local is not True:
            raise ValueError("shell: backend local runs commands without a sandbox; it needs unsafe_local: true")
        return Local(limits)
    raise ValueError(f"shell: unknown backend {name!r}; allowed: {', '.join(BACKENDS)}")


__all__ = ["BACKENDS", "CLOSE", "OPEN", "Isolated", "Shell", "make_backend", "malformed", "observation"]

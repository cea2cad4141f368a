"""What a tool is: a token machine that answers commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

Kind = Literal["command", "observation"]

END = "[END]"
"""Closes a reply of unknown length, and is what a pointer reads past the last cell."""


@dataclass(frozen=True)
class Snapshot:
    """What a viewer shows of a tool: the cells of its memory, and the cell each pointer stands on."""

    memory: tuple[str, ...]
    pointers: dict[str, int]


ASK = -1
"""Instead of a mode: the tool may answer, and has to be asked."""


@dataclass(frozen=True)
class Mode:
    """What a tool does with the next token, as far as it can be said beforehand: the mode that follows, or ASK."""

    after: Mapping[str, int] = field(default_factory=dict)
    otherwise: int = ASK
    """For all other tokens."""


class Tool(Protocol):
    """A token machine: every token made by the model is fed to it, and some complete a command, which it answers.

    Subclass it to inherit the defaults for single-token commands and one-token replies. Question and observation
    tokens are never fed. The end-of-trajectory token is not fed either.
    """

    revision: ClassVar[int]
    """Raise it with every change of behaviour: it is part of the identity of every result obtained with the tool."""

    calls: int = 0
    """Commands completed since `start`."""

    over: bool = False
    """Nothing more will be answered: the trajectory ends here, within a budget of the tool's own."""

    longest_walk: int = 0
    """Longest run of moves of one pointer or head in one direction, as the tool counts it; 0 without pointers."""

    def vocabulary(self) -> tuple[str, ...]:
        """The tokens the tool adds to a task's: its commands, and whatever else its replies hold."""
        ...

    def start(self, prompt: Sequence[str]) -> None:
        """Forget everything, and begin a problem with the question in memory."""
        ...

    def classify(self, token: str) -> Kind | None:
        """What `token` would be if it were fed now; None for an ordinary token (a thought or an output).

        Only `Imagined` tools answer "observation": the others make their observations themselves.
        """
        ...

    def allows(self, token: str) -> bool:
        """False if `token` cannot begin a command here or continue the one begun: feeding it is a malformed command."""
        return True

    def feed(self, token: str) -> tuple[str, ...]:
        """Take one token; the observation, empty unless the token completes a command that is answered."""
        ...

    def modes(self) -> tuple[Mode, ...]:
        """A finite automaton that says which tokens may be answered, so that a row of a batch need not wait for the
        tool at the others. Where it says nothing follows, feeding the token must give an empty observation."""
        return (Mode(),)

    def mode(self) -> int:
        """The number of the mode the tool is in."""
        return 0

    def ends_reply(self, token: str) -> bool:
        """Whether `token` is the last one of a reply; lets `Imagined` follow replies that the model writes itself."""
        return True

    def result(self) -> tuple[str, ...] | None:
        """The output, where that is what the tool holds in the end; None: it is what was written after `[ANS]`."""
        return None

    def snapshot(self) -> Snapshot:
        """A copy of the visible state."""
        ...

"""Search memory: everything written so far, found by what it holds (Malach et al., arXiv 2510.14826)."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import ClassVar

from tools.base import ASK, END, Kind, Mode, Snapshot, Tool

COMMAND, FIND, VALUE, RUN = "[COMMAND]", "find", "[VALUE]", "[RUN]"
OBSERVATION, MORE, ERROR = "[OBSERVATION]", "[MORE]", "[ERR]"
NEWLINE = "[NL]"

_HEAD = (COMMAND, FIND, VALUE)
_COMMANDS = frozenset((*_HEAD, RUN))
_REPLIES = frozenset((OBSERVATION, MORE, ERROR, END))
_UNSEARCHABLE = _COMMANDS | _REPLIES | {NEWLINE}

_LONGEST = 8
"""Longest n-gram that is indexed: bounds the index, whatever patterns a model asks for."""

_LEAST_LIMIT = 3
"""Tokens of a reply cut short to nothing: `[OBSERVATION] [MORE] [END]`."""

Gram = tuple[str, ...]


class SearchMemory(Tool):
    """`[COMMAND] find [VALUE] x .. [RUN]` is answered by every line of the memory that holds `x ..` in a row.

    The memory is the question and then every thought and output, as lines: `[NL]` ends a line, and so does the end of
    the question. Commands and observations leave no trace in it, nor do the tokens that only replies hold, should a
    model write them itself. The line still being written is searched too.

    The reply is `[OBSERVATION]`, the lines in order of position with `[NL]` between them, and `[END]`. With a `limit`
    (tokens of a reply, at least 3) a longer one is cut to the first lines that fit, and closed by `[MORE] [END]`. The
    first token that cannot continue a command is answered `[OBSERVATION] [ERR] [END]` at once, and ends the command.

    Closed lines are indexed by the n-grams they hold, for each pattern length n when it is first asked for, so that a
    search costs what its reply does, however long the memory is.

    Raises:
        ValueError: a limit below 3.
    """

    revision: ClassVar[int] = 1

    def __init__(self, limit: int | None = None) -> None:
        if limit is not None and limit < _LEAST_LIMIT:
            raise ValueError(f"tool search: limit = {limit}, must be at least {_LEAST_LIMIT}, or none for no limit")
        self.limit = limit
        self.start(())

    def vocabulary(self) -> tuple[str, ...]:
        return (*_HEAD, RUN, OBSERVATION, NEWLINE, MORE, ERROR, END)

    def start(self, prompt: Sequence[str]) -> None:
        self._lines: list[Gram] = []
        self._open: list[str] = []
        self._tables: dict[int, _Table] = {}
        self._command: list[str] = []
        self.calls = 0
        for token in prompt:
            self._append(token)
        self._append(NEWLINE)

    def classify(self, token: str) -> Kind | None:
        return "command" if self._command or token in _COMMANDS else None

    def allows(self, token: str) -> bool:
        given = len(self._command)
        if not given:
            return token == COMMAND or token not in _COMMANDS
        if given < len(_HEAD):
            return token == _HEAD[given]
        return token not in _UNSEARCHABLE or (token == RUN and given > len(_HEAD))

    def feed(self, token: str) -> tuple[str, ...]:
        if not self._command and token not in _COMMANDS:
            self._append(token)
            return ()
        if not self.allows(token):
            return self._answer((OBSERVATION, ERROR, END))
        if token == RUN:
            return self._answer(self._found(tuple(self._command[len(_HEAD) :])))
        self._command.append(token)
        return ()

    def _append(self, token: str) -> None:
        if token == NEWLINE:
            if self._open:
                self._lines.append(tuple(self._open))
            self._open = []
        elif token not in _REPLIES:
            self._open.append(token)

    def _answer(self, reply: tuple[str, ...]) -> tuple[str, ...]:
        self._command = []
        self.calls += 1
        return reply

    def _found(self, pattern: Gram) -> tuple[str, ...]:
        lines = list(self._holding(pattern))
        kept = lines if self.limit is None else _fitting(lines, self.limit)
        body = [token for line in kept for token in (*line, NEWLINE)][:-1]
        return (OBSERVATION, *body, END) if len(kept) == len(lines) else (OBSERVATION, *body, MORE, END)

    def _holding(self, pattern: Gram) -> Iterator[Gram]:
        """The lines that hold the pattern, the open one last."""
        size = min(len(pattern), _LONGEST)
        if size not in self._tables:
            self._tables[size] = _Table(size)
        table = self._tables[size]
        table.read(self._lines)
        for number in table.numbers(pattern[:size]):
            if size == len(pattern) or pattern in _grams(self._lines[number], len(pattern)):
                yield self._lines[number]
        if pattern in _grams(self._open, len(pattern)):
            yield tuple(self._open)

    def modes(self) -> tuple[Mode, ...]:
        """No command; after each token of a command's head; in its pattern."""
        pattern = Mode(dict.fromkeys(_UNSEARCHABLE, ASK), otherwise=len(_HEAD) + 1)
        head = (Mode({token: given}) for given, token in enumerate(_HEAD[1:], start=2))
        return Mode({**dict.fromkeys(_COMMANDS, ASK), COMMAND: 1}, otherwise=0), *head, pattern, pattern

    def mode(self) -> int:
        return min(len(self._command), len(_HEAD) + 1)

    def ends_reply(self, token: str) -> bool:
        return token == END

    def snapshot(self) -> Snapshot:
        """The lines one after another, each closed one with `[NL]` after it."""
        closed = (token for line in self._lines for token in (*line, NEWLINE))
        return Snapshot((*closed, *self._open), {})


class _Table:
    """Inverted index: the numbers of the lines that hold each n-gram, for one n."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._numbers: defaultdict[Gram, list[int]] = defaultdict(list)
        self._read = 0

    def read(self, lines: Sequence[Gram]) -> None:
        """Index the lines added since the last time."""
        for number in range(self._read, len(lines)):
            for gram in set(_grams(lines[number], self._size)):
                self._numbers[gram].append(number)
        self._read = len(lines)

    def numbers(self, gram: Gram) -> Sequence[int]:
        """Ascending."""
        return self._numbers.get(gram, ())


def _grams(line: Sequence[str], size: int) -> Iterator[Gram]:
    return zip(*(line[start:] for start in range(size)), strict=False)


def _fitting(lines: list[Gram], limit: int) -> list[Gram]:
    """All lines if their reply has at most `limit` tokens, else the first ones that leave room for `[MORE]`."""
    sizes = list(accumulate(len(line) + 1 for line in lines))
    if not sizes or sizes[-1] + 1 <= limit:
        return lines
    return lines[: bisect_right(sizes, limit - 2)]

"""A calculator that can be asked once: the single-turn tool of arithmetic tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tools.base import ASK, END, Kind, Mode, Snapshot, Tool

CALL, RUN, ERROR = "[CALL]", "[RUN]", "[ERR]"
DIGITS = tuple("0123456789")
OPERATORS = ("+", "*")

_FEW = 2_000
"""Digits that Python converts at once: below its limit of 4,300, and about where halving starts to pay."""


def to_int(digits: str) -> int:
    """Decimal digits of any number -> integer, by halving, past the 4,300 digits that `int` accepts."""
    if len(digits) <= _FEW:
        return int(digits)
    low = len(digits) // 2
    return to_int(digits[:-low]) * 10**low + to_int(digits[-low:])


def to_digits(value: int) -> str:
    """Nonnegative integer of any size -> decimal digits, by halving, past the 4,300 digits that `str` gives."""
    return _padded(value, value.bit_length() * 30103 // 100_000 + 1).lstrip("0") or "0"


def _padded(value: int, width: int) -> str:
    if width <= _FEW:
        return str(value).zfill(width)
    low = width // 2
    head, tail = divmod(value, 10**low)
    return _padded(head, width - low) + _padded(tail, low)


class Calculator(Tool):
    """`[CALL] 5 8 + 7 [RUN]` is answered `6 5 [END]`: two nonnegative integers and one `+` or `*`, once per problem.

    The first token that cannot continue the expression, and any second call, is answered `[ERR] [END]` at once.
    """

    revision: ClassVar[int] = 1

    def __init__(self) -> None:
        self.start(())

    def vocabulary(self) -> tuple[str, ...]:
        return (CALL, RUN, ERROR, END, *DIGITS)

    def start(self, prompt: Sequence[str]) -> None:
        self._open = self._used = False
        self._operator: str | None = None
        self._operands: list[list[str]] = [[]]
        self.calls = 0

    def classify(self, token: str) -> Kind | None:
        return "command" if self._open or token in (CALL, RUN) else None

    def allows(self, token: str) -> bool:
        if not self._open:
            return token != RUN and not (token == CALL and self._used)
        if token in DIGITS:
            return True
        if token == RUN:
            return self._operator is not None and bool(self._operands[-1])
        return token in OPERATORS and self._operator is None and bool(self._operands[-1])

    def feed(self, token: str) -> tuple[str, ...]:
        if not self.allows(token):
            return self._reply((ERROR, END))
        if token == CALL:
            self._open = self._used = True
        elif not self._open:
            return ()
        elif token == RUN:
            return self._reply((*self._result(), END))
        elif token in OPERATORS:
            self._operator = token
            self._operands.append([])
        else:
            self._operands[-1].append(token)
        return ()

    def _reply(self, observation: tuple[str, ...]) -> tuple[str, ...]:
        self._open, self._used = False, True
        self.calls += 1
        return observation

    def _result(self) -> str:
        first, second = (to_int("".join(operand)) for operand in self._operands)
        return to_digits(first + second if self._operator == "+" else first * second)

    def modes(self) -> tuple[Mode, ...]:
        """Nothing typed yet; the call used up; before and in the first operand; before and in the second."""
        first, second = dict.fromkeys(DIGITS, 3), dict.fromkeys(DIGITS, 5)
        return (
            Mode({CALL: 2, RUN: ASK}, otherwise=0),
            Mode({CALL: ASK, RUN: ASK}, otherwise=1),
            Mode(first),
            Mode({**first, **dict.fromkeys(OPERATORS, 4)}),
            Mode(second),
            Mode(second),
        )

    def mode(self) -> int:
        if not self._open:
            return int(self._used)
        return (2 if self._operator is None else 4) + bool(self._operands[-1])

    def ends_reply(self, token: str) -> bool:
        return token == END

    def snapshot(self) -> Snapshot:
        """The expression typed so far, as its memory."""
        operator = () if self._operator is None else (self._operator,)
        first, *rest = self._operands
        return Snapshot((*first, *operator, *(token for operand in rest for token in operand)), {})

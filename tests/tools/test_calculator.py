import random

import pytest

from tools.base import Snapshot
from tools.calculator import Calculator, to_digits, to_int

ERROR = ("[ERR]", "[END]")


def replies(tokens: str) -> list[tuple[str, ...]]:
    tool = Calculator()
    tool.start(["^"])
    return [reply for reply in map(tool.feed, tokens.split()) if reply]


@pytest.mark.parametrize(
    ("expression", "result"),
    [("5 8 + 7", "65"), ("9 9 * 1 2", "1188"), ("0 + 0", "0"), ("0 * 5 5", "0"), ("0 0 7 + 1", "8")],
)
def test_results(expression: str, result: str) -> None:
    assert replies(f"[CALL] {expression} [RUN]") == [(*result, "[END]")]


@pytest.mark.parametrize(
    "tokens",
    [
        "[CALL] [RUN]",
        "[CALL] +",
        "[CALL] 5 [RUN]",
        "[CALL] 5 + [RUN]",
        "[CALL] 5 + 6 *",
        "[CALL] 5 c1",
        "[CALL] [CALL]",
    ],
)
def test_the_first_malformed_token_is_answered_with_an_error_at_once(tokens: str) -> None:
    *head, last = tokens.split()
    tool = Calculator()
    assert all(tool.allows(token) and tool.feed(token) == () for token in head)
    assert not tool.allows(last)
    assert tool.feed(last) == ERROR
    assert tool.classify("5") is None, "the call is closed"


def test_second_call_and_stray_run_are_errors() -> None:
    assert replies("[CALL] 1 + 2 [RUN] [CALL]") == [("3", "[END]"), ERROR]
    assert replies("[RUN] [CALL]") == [ERROR, ERROR]


def test_tokens_of_an_open_call_are_commands_and_others_ordinary() -> None:
    tool = Calculator()
    assert tool.classify("5") is None
    assert tool.classify("[CALL]") == "command"
    tool.feed("[CALL]")
    assert [tool.classify(token) for token in ("5", "+", "[ANS]")] == ["command"] * 3
    tool.feed("5")
    assert tool.snapshot() == Snapshot(("5",), {})


def test_calls_count_answered_ones() -> None:
    tool = Calculator()
    for token in ["[CALL]", "1", "+", "2", "[RUN]", "7", "[CALL]"]:
        tool.feed(token)
    assert tool.calls == 2


@pytest.mark.parametrize("digits", [1, 2, 1_999, 2_000, 2_001, 4_300, 4_301, 9_973])
def test_conversions_agree_with_arithmetic_at_every_size(digits: int) -> None:
    text = "7" * digits
    value = 7 * (10**digits - 1) // 9
    assert to_int(text) == value
    assert to_digits(value) == text
    assert to_digits(10**digits) == "1" + "0" * digits


def test_conversions_are_inverse_on_random_numbers() -> None:
    rng = random.Random(0)
    for bits in (1, 10, 13_000, 40_000):
        value = rng.getrandbits(bits)
        assert to_int(to_digits(value)) == value


def test_products_past_the_limit_of_python_conversions() -> None:
    nines = " ".join("9" * 3_000)
    (reply,) = replies(f"[CALL] {nines} * {nines} [RUN]")
    assert "".join(reply[:-1]) == "9" * 2_999 + "8" + "0" * 2_999 + "1"

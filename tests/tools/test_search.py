import random

import pytest

from tools.base import Snapshot
from tools.none import Imagined
from tools.search import SearchMemory

ERROR = ("[OBSERVATION]", "[ERR]", "[END]")


def started(prompt: str, limit: int | None = None) -> SearchMemory:
    tool = SearchMemory(limit)
    tool.start(prompt.split())
    return tool


def fed(tool: SearchMemory, tokens: str) -> list[str]:
    """All replies, each as text."""
    return [" ".join(reply) for reply in map(tool.feed, tokens.split()) if reply]


def found(tool: SearchMemory, pattern: str) -> str:
    (reply,) = fed(tool, f"[COMMAND] find [VALUE] {pattern} [RUN]")
    return reply.removeprefix("[OBSERVATION] ").removesuffix("[END]").strip()


def test_lines_of_question_thoughts_and_outputs_are_found_in_order_of_position() -> None:
    tool = started("a b [NL] b c [NL] d a")
    fed(tool, "x a [NL] [ANS] a y")
    assert found(tool, "a") == "a b [NL] d a [NL] x a [NL] [ANS] a y"
    assert found(tool, "c") == "b c"
    assert found(tool, "q") == ""


def test_the_end_of_the_question_ends_its_last_line() -> None:
    tool = started("a b")
    fed(tool, "c")
    assert found(tool, "b") == "a b"
    assert found(tool, "b c") == ""


def test_patterns_match_in_a_row_within_one_line() -> None:
    tool = started("a b c [NL] c a [NL] b c a b [NL] a c b")
    assert found(tool, "a b") == "a b c [NL] b c a b"
    assert found(tool, "b c") == "a b c [NL] b c a b"
    assert found(tool, "a b c") == "a b c"
    assert found(tool, "c c") == ""


def test_the_line_being_written_is_searched_too_and_only_once_when_closed() -> None:
    tool = started("p")
    fed(tool, "a b")
    assert found(tool, "a b") == "a b"
    fed(tool, "c")
    assert found(tool, "a b") == "a b c"
    fed(tool, "[NL] d")
    assert found(tool, "a b") == "a b c"


def test_commands_observations_and_tokens_of_replies_leave_no_trace() -> None:
    tool = started("p [NL] a")
    found(tool, "a")
    fed(tool, "x [OBSERVATION] [END] [MORE] [ERR] a [COMMAND] a y [NL]")
    assert tool.snapshot() == Snapshot(("p", "[NL]", "a", "[NL]", "x", "a", "y", "[NL]"), {})
    assert found(tool, "a") == "a [NL] x a y"


@pytest.mark.parametrize("limit", [None, 3, 9, 30])
def test_replies_are_those_of_a_plain_scan(limit: int | None) -> None:
    rng = random.Random(0)
    tool = started("a b a b", limit)
    text = [["a", "b", "a", "b"], []]
    for _ in range(400):
        for token in rng.choices(["a", "b", "c", "[NL]"], [4, 4, 1, 1], k=rng.randint(0, 6)):
            tool.feed(token)
            text.append([]) if token == "[NL]" else text[-1].append(token)
        pattern = " ".join(rng.choices("ab", k=rng.randint(1, 11)))
        lines = [" ".join(line) for line in text if f" {pattern} " in f" {' '.join(line)} "]
        assert found(tool, pattern) == cut(lines, limit)


def cut(lines: list[str], limit: int | None) -> str:
    """The longest beginning of the lines that fits, tokens of the frame included."""
    whole = " [NL] ".join(lines)
    if limit is None or len(whole.split()) + 2 <= limit:
        return whole
    shortened = [" [NL] ".join(lines[:count]) + " [MORE]" for count in range(len(lines))]
    return [body for body in shortened if len(body.split()) + 2 <= limit][-1].strip()


def test_a_reply_at_its_limit_is_whole_and_one_token_past_it_is_cut() -> None:
    lines = "a 1 [NL] a 2 [NL] a 3"
    assert found(started(lines, 10), "a") == lines
    assert found(started(lines, 9), "a") == "a 1 [NL] a 2 [MORE]"
    assert found(started(lines, 7), "a") == "a 1 [MORE]"
    assert found(started(lines, 3), "a") == "[MORE]"
    assert found(started(lines, 3), "q") == ""


def test_a_limit_that_no_reply_can_keep_is_refused() -> None:
    with pytest.raises(ValueError, match="tool search: limit = 2, must be at least 3"):
        SearchMemory(2)


@pytest.mark.parametrize(
    "tokens",
    [
        "find",
        "[VALUE]",
        "[RUN]",
        "[COMMAND] a",
        "[COMMAND] [VALUE]",
        "[COMMAND] find a",
        "[COMMAND] find [RUN]",
        "[COMMAND] find [VALUE] [RUN]",
        "[COMMAND] find [VALUE] a [COMMAND]",
        "[COMMAND] find [VALUE] a find",
        "[COMMAND] find [VALUE] a [NL]",
        "[COMMAND] find [VALUE] [END]",
    ],
)
def test_the_first_malformed_token_is_answered_with_an_error_at_once(tokens: str) -> None:
    *head, last = tokens.split()
    tool = started("a")
    assert all(tool.allows(token) and tool.feed(token) == () for token in head)
    assert not tool.allows(last)
    assert tool.classify(last) == "command"
    assert tool.feed(last) == ERROR
    assert tool.classify("a") is None, "the command is closed"
    assert tool.calls == 1
    assert found(tool, "a") == "a"


def test_imagined_replies_last_until_their_end() -> None:
    tool = Imagined(SearchMemory())
    tool.start(["a"])
    for token in ("[COMMAND]", "find", "[VALUE]", "a", "[RUN]"):
        assert tool.classify(token) == "command"
        tool.feed(token)
    for token in ("[OBSERVATION]", "a", "[NL]", "b", "[MORE]", "[END]"):
        assert tool.classify(token) == "observation"
        tool.feed(token)
    assert tool.classify("b") is None
    assert tool.calls == 1
    assert tool.snapshot().memory == ("a", "[NL]")

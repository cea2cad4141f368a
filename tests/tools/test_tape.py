"""The tape, rule by rule."""

import pytest

from tools.base import Snapshot
from tools.none import Imagined
from tools.tape import Tape


def started(prompt: str) -> Tape:
    tool = Tape()
    tool.start(prompt.split())
    return tool


def fed(tool: Tape, tokens: str) -> list[str]:
    """What is answered to commands written short: `r` read, `w` write, `<` and `>` move."""
    short = {"r": "[READ]", "w": "[WRITE]", "<": "[LEFT]", ">": "[RIGHT]"}
    return [seen for token in tokens.split() for seen in tool.feed(short.get(token, token))]


def test_the_head_starts_on_the_first_token_and_reads_before_it_moves() -> None:
    assert fed(started("1 0 1"), "r > r > r < r") == ["1", "0", "1", "0"]


def test_cells_never_written_read_end_on_both_sides_however_far() -> None:
    tool = started("1")
    assert fed(tool, "> r > r < < r < r < r") == ["[END]", "[END]", "1", "[END]", "[END]"]


def test_writes_replace_and_extend_to_both_sides() -> None:
    tool = started("1 0")
    assert fed(tool, "w a r < w b r > r > > w c r < < r") == ["a", "b", "a", "c", "a"]
    assert tool.snapshot() == Snapshot(("b", "a", "0", "c"), {"1": 1})


def test_the_closing_end_of_a_question_is_an_empty_cell() -> None:
    tool = started("1 [END]")
    assert tool.snapshot() == Snapshot(("1",), {"1": 0})
    assert fed(tool, "> r") == ["[END]"]


def test_writing_end_empties_a_cell_full_or_empty() -> None:
    tool = started("1 0 1")
    assert fed(tool, "> w [END] r w [END] r") == ["[END]", "[END]"]
    assert tool.snapshot() == Snapshot(("1", "[END]", "1"), {"1": 1})


def test_snapshot_reaches_to_the_head() -> None:
    tool = started("1")
    fed(tool, "< <")
    assert tool.snapshot() == Snapshot(("[END]", "[END]", "1"), {"1": 0})
    assert started("").snapshot() == Snapshot(("[END]",), {"1": 0})


def test_thoughts_and_outputs_leave_no_trace() -> None:
    tool = started("1")
    assert fed(tool, "carry [ANS] 7 r > r") == ["1", "[END]"]
    assert tool.classify("carry") is None


def test_whatever_follows_write_is_part_of_the_command() -> None:
    tool = started("1")
    assert tool.classify("0") is None
    tool.feed("[WRITE]")
    assert tool.classify("0") == "command"
    assert tool.allows("0")
    tool.feed("0")
    assert tool.classify("0") is None


@pytest.mark.parametrize("command", ["[READ]", "[WRITE]", "[LEFT]", "[RIGHT]"])
def test_a_command_in_place_of_the_symbol_is_malformed_and_has_no_effect(command: str) -> None:
    tool = started("1 0")
    assert tool.allows(command)
    tool.feed("[WRITE]")
    assert not tool.allows(command)
    assert tool.feed(command) == ()
    assert tool.calls == 0
    assert fed(tool, "r") == ["1"]


def test_calls_count_completed_commands() -> None:
    tool = started("1")
    fed(tool, "r w")
    assert tool.calls == 1
    fed(tool, "0 > x <")
    assert tool.calls == 4


@pytest.mark.parametrize(
    ("tokens", "walk"),
    [("r w 1", 0), ("> > >", 3), ("> r w 1 q > x >", 3), ("> > < > > >", 3), ("< < < < >", 4)],
)
def test_longest_walk_is_a_run_of_moves_in_one_direction(tokens: str, walk: int) -> None:
    tool = started("1 0")
    fed(tool, tokens)
    assert tool.longest_walk == walk


def test_imagined_reads_are_followed_by_an_observation_of_the_model() -> None:
    tool = Imagined(Tape())
    tool.start(["1"])
    seen = []
    for token in ("[READ]", "[END]", "[WRITE]", "0", "[RIGHT]", "carry"):
        seen.append(tool.classify(token))
        assert tool.feed(token) == ()
    assert seen == ["command", "observation", "command", "command", "command", None]

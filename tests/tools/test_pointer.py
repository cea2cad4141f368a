"""The pointer memory, rule by rule; the batched twin is held to it in test_pointer_batched.py."""

import pytest

from tools.base import Snapshot
from tools.pointer import PointerMemory


def started(prompt: str, **options: int) -> PointerMemory:
    tool = PointerMemory(**options)
    tool.start(prompt.split())
    return tool


def fed(tool: PointerMemory, tokens: str) -> list[str]:
    return [seen for token in tokens.split() for seen in tool.feed(token)]


def test_pointers_start_at_the_first_cell_and_read_before_they_move() -> None:
    tool = started("^ 5 =")
    assert fed(tool, "r1 r2 R1 r1 r2 R1 r1") == ["^", "^", "5", "^", "="]


def test_moves_stop_at_both_ends() -> None:
    tool = started("^ 5")
    assert fed(tool, "L1 L1 r1 R1 r1") == ["^", "5"]
    assert fed(tool, "R1 r1 R1 R1 r1 L1 r1") == ["[END]", "[END]", "5"]


def test_thoughts_are_appended_but_commands_and_observations_are_not() -> None:
    tool = started("^ 5")
    fed(tool, "r1 R1 7 r1 [ANS] L2")
    assert tool.snapshot() == Snapshot(("^", "5", "7", "[ANS]"), {"1": 1, "2": 0})


def test_a_pointer_past_the_end_stands_on_the_next_cell_written() -> None:
    tool = started("^")
    assert fed(tool, "R1 r1 8 r1") == ["[END]", "8"]


def test_full_memory_drops_what_is_appended_and_says_so() -> None:
    tool = started("^ 5", capacity=3)
    fed(tool, "6")
    assert not tool.overflowed
    fed(tool, "7")
    assert tool.overflowed
    assert tool.snapshot().memory == ("^", "5", "6")
    assert fed(tool, "R1 R1 R1 R1 r1") == ["[END]"]


def test_question_longer_than_the_capacity_is_cut_and_said_so() -> None:
    tool = started("^ 5 6", capacity=2)
    assert tool.overflowed
    assert tool.snapshot().memory == ("^", "5")


@pytest.mark.parametrize(
    ("tokens", "walk"),
    [
        ("r1 r2", 0),
        ("R1 r1 R1 r2 R1", 3),
        ("R1 R1 L1 R1", 2),
        ("R1 R2 R1 R2", 1),
        ("R1 5 R1", 1),
        ("L1 L1 L1 R1", 3),
    ],
)
def test_longest_walk_is_one_pointer_in_one_direction_with_only_reads_between(tokens: str, walk: int) -> None:
    tool = started("^ 5")
    fed(tool, tokens)
    assert tool.longest_walk == walk


def test_calls_count_commands_only() -> None:
    tool = started("^ 5")
    fed(tool, "r1 5 R1 c0 L2")
    assert tool.calls == 3


def test_any_number_of_pointers_each_with_its_commands() -> None:
    tool = started("^ 5 =", pointers=12)
    assert fed(tool, "R12 r12 r11") == ["5", "^"]
    assert tool.vocabulary()[:4] == ("L1", "R1", "r1", "L2")
    assert len(tool.vocabulary()) == 37
    assert tool.classify("R12") == "command"
    assert tool.classify("R13") is None


@pytest.mark.parametrize("options", [{"pointers": 0}, {"capacity": 0}])
def test_sizes_below_one_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        PointerMemory(**options)

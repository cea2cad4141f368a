import io
import re

import pytest
from rich.console import Console

from harness.trace import notation, trace
from tasks.addition import Addition
from tasks.scenario import Scenario

ADDITION = Addition()


def printed(setting: str, first: str, second: str, terminal: bool = False, width: int = 80) -> str:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=width, color_system="truecolor" if terminal else None)
    trace(Scenario(ADDITION, setting), ADDITION.problem(first, second), console)
    return output.getvalue()


def test_notation_brackets_questions_and_observations() -> None:
    text = notation(Scenario(ADDITION, "interactive").record(ADDITION.problem("58", "7")))
    assert text.startswith("<^> <5> <8> <+> <7> <=> r1 <^> R1 r1 <5> R1 r1 <8> R1 r1 <+> L1 r2")
    assert text.endswith("L2 L2 r2 <6> 6 L2 r2 <c1> L2 r2 <5> 5 L2 r2 <=> [EOS]")
    assert len(text.split()) == 95


def test_plain_text_shows_tokens_memory_and_pointers_of_each_step() -> None:
    text = printed("interactive", "58", "7")
    assert "\x1b" not in text
    expected = """
   0 question <^> <5> <8> <+> <7> <=>
              memory  ^¹·² 5 8 + 7 =

   1 walk     r1 <^> R1 r1 <5> R1 r1 <8> R1 r1 <+> L1
              memory  ^² 5 8¹ + 7 =

   2 walk     r2 <^> R2 r2 <5> R2 r2 <8> R2 r2 <+> R2 r2 <7> R2 r2 <=> L2
              memory  ^ 5 8¹ + 7² =

   3 add      r1 <8> r2 <7> L1 L2 5 c1
              memory  ^ 5¹ 8 +² 7 = 5 c1

   4 add      r1 <5> r2 <+> L1 6 c0
              memory  ^¹ 5 8 +² 7 = 5 c1 6 c0

   5 add      r1 <^> r2 <+> [ANS]
              memory  ^¹ 5 8 +² 7 = 5 c1 6 c0 [ANS]
"""
    assert expected in text
    assert "addition, setting interactive, tool pointer: 95 tokens, 61 of them the model's own" in text
    assert text.endswith("9 copy     r2 <=> [EOS]\n\nanswer 6 5\n")


def test_a_terminal_gets_colours_that_its_legend_explains() -> None:
    text = printed("interactive", "58", "7", terminal=True, width=200)
    for role, token in (("command", "R1"), ("thought", "c1"), ("observation", "<8>"), ("output", "6")):
        colour = re.search(rf"(\x1b\[[0-9;]*m){role}\x1b", text)
        assert colour, role
        assert f"{colour[1]}{token}\x1b" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert plain == printed("interactive", "58", "7")


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("single_turn", "1 call     [CALL] 5 8 + 7 [RUN] <6> <5> <[END]>"),
        ("cot", "3 add      r1 <8> r2 <7> L1 L2 5 c1"),
        ("direct_reversed", "1 answer   [ANS] 5 6 [EOS]"),
    ],
)
def test_every_setting(setting: str, line: str) -> None:
    assert line in printed(setting, "58", "7")


def test_tools_without_memory_show_none() -> None:
    assert "memory" not in printed("direct", "58", "7")


def test_long_problems_show_the_surroundings_of_the_pointers() -> None:
    text = printed("interactive", "1" * 50, "2" * 50)
    assert max(map(len, text.splitlines())) < 330
    walk = next(line for line in text.splitlines() if line.startswith("   1 walk"))
    assert walk.endswith("r1 <1> R1 r1 <+> L1")
    assert "… 84 more …" in walk
    assert len(walk.split()) == 2 + 72 + 4
    assert re.search(r"\n {14}memory  … 1 1 1 1¹ 1 \+ 2 … 2 2 2 2² 2 = 3 c0\n", text)

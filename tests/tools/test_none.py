from tools.calculator import Calculator
from tools.none import Imagined, NoTool
from tools.pointer import PointerMemory


def kinds(tool: Imagined | NoTool, tokens: str) -> list[str | None]:
    found = []
    for token in tokens.split():
        found.append(tool.classify(token))
        assert tool.feed(token) == ()
    return found


def test_no_tool_takes_every_token_as_ordinary() -> None:
    assert kinds(NoTool(), "r1 [CALL] 5 [ANS]") == [None] * 4


def test_imagined_reads_are_followed_by_one_observation_of_any_content() -> None:
    tool = Imagined(PointerMemory())
    tool.start(["^", "5"])
    expected = ["command", "observation", "command", None, "command", "observation", None]
    assert kinds(tool, "r1 9 R1 7 r2 [ANS] [ANS]") == expected
    assert tool.snapshot().memory == ("^", "5", "7", "[ANS]"), "imagined observations are not remembered"
    assert tool.calls == 3


def test_a_command_cuts_an_imagined_reply_off_and_is_malformed() -> None:
    tool = Imagined(PointerMemory())
    tool.start(["^", "5"])
    tool.feed("r1")
    assert tool.allows("5")
    assert not tool.allows("R1")
    assert kinds(tool, "R1 5") == ["command", None]


def test_imagined_replies_of_unknown_length_end_with_their_mark() -> None:
    tool = Imagined(Calculator())
    tool.start(["^"])
    expected = ["command"] * 5 + ["observation"] * 3 + [None]
    assert kinds(tool, "[CALL] 5 + 7 [RUN] 9 9 [END] [ANS]") == expected
    assert not tool.allows("[CALL]"), "the calls of the wrapped tool are counted"


def test_start_forgets_a_reply_under_way() -> None:
    tool = Imagined(PointerMemory())
    tool.start(["^"])
    tool.feed("R1")
    tool.feed("r1")
    tool.start(["^"])
    assert tool.classify("5") is None
    assert (tool.calls, tool.longest_walk) == (0, 0)

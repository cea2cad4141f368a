"""The shell as a token machine: turns, commands, observations, budgets."""

import random

import pytest

from tools.base import ASK
from tools.sandbox import Ran
from tools.shell import CLOSE, OPEN, Shell, malformed, observation
from tools.text import read

FILES = {"a.py": "print(1)\n"}


def shell(**options):
    made = Shell(**{"backend": "virtual", "files": lambda prompt: FILES, **options})
    made.start(("q",))
    return made


def say(tool, text):
    """The observations that a text gets, and the kinds of its tokens."""
    replies, kinds = [], []
    for token in tool.encode(text):
        kinds.append(tool.classify(token))
        replies.append(read(tool.feed(token)))
    return [reply for reply in replies if reply], kinds


@pytest.mark.parametrize("tokens", ["bytes", "code"])
def test_a_command_is_run_when_its_fence_closes(tokens):
    tool = shell(tokens=tokens)
    replies, kinds = say(tool, f"Let me see.\n\n{OPEN}cat a.py{CLOSE}")
    assert replies == ["<returncode>0</returncode>\n<output>\nprint(1)\n</output>\n"]
    assert kinds[0] is None
    assert kinds[-1] == "command"
    assert kinds == sorted(kinds, key=lambda kind: kind is not None), "first thoughts, then the command"
    assert tool.calls == 1


def test_what_lasts_between_commands_is_the_files():
    tool = shell()
    say(tool, f"{OPEN}echo x > b\ncd /work{CLOSE}")
    assert say(tool, f"{OPEN}cat b; rm a.py{CLOSE}")[0] == ["<returncode>0</returncode>\n<output>\nx\n</output>\n"]
    assert tool.result() == ("b\nx\n",)
    tool.start(("q",))
    assert tool.result() == ("a.py\nprint(1)\n",)


@pytest.mark.parametrize("text", ["Nothing here.\n```\n", "```\nls\n```\n", "```python\nls\n```\n", "\n```\n"])
def test_a_turn_without_one_command_is_told_so(text):
    tool = shell()
    replies, _ = say(tool, text)
    assert replies == ["Please always provide EXACTLY ONE action in triple backticks, found 0 actions.\n"]
    assert tool.files == {"a.py": b"print(1)\n"}
    assert say(tool, f"{OPEN}ls{CLOSE}")[0][0].startswith("<returncode>0"), "the next turn is a fresh one"


def test_only_the_token_that_ends_a_turn_without_a_command_is_malformed():
    tool = shell()
    text = tool.encode("hm\n```")
    for token in text:
        assert tool.allows(token)
        tool.feed(token)
    assert not tool.allows("Ċ")
    assert tool.classify("Ċ") == "command", "it is answered"
    tool.start(())
    for token in tool.encode(f"{OPEN}ls{CLOSE}"):
        assert tool.allows(token)
        tool.feed(token)


def test_a_turn_has_a_budget_of_tokens():
    tool = shell(turn_tokens=20)
    replies, kinds = say(tool, "x" * 50)
    assert replies == [malformed(0)] * 2
    assert [at for at, kind in enumerate(kinds) if kind] == [19, 39]


def test_a_trajectory_has_a_budget_of_turns():
    tool = shell(turns=2)
    for _ in range(2):
        assert not tool.over
        say(tool, f"{OPEN}ls{CLOSE}")
    assert tool.over
    assert say(tool, f"{OPEN}ls{CLOSE}") == ([], [None] * len(f"{OPEN}ls{CLOSE}"))
    assert tool.calls == 2


def test_long_output_loses_its_middle():
    ran = Ran(b"a" * 30 + b"b" * 40 + b"c" * 30, 0, {})
    shown = observation(ran, 20)
    assert "a" * 10 + "\n" in shown
    assert "\n" + "c" * 10 in shown
    assert "b" not in shown.replace("</", "").replace("bytes", "").split("<output_head>")[1].split("<elided")[0]
    assert "80 characters elided" in shown
    assert observation(ran, 101).count("b" * 40) == 1


def test_terminal_escapes_do_not_reach_the_model():
    assert "\\x1b[2J" in observation(Ran(b"\x1b[2J\n", 0, {}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "local"}, "needs unsafe_local: true"),
        ({"backend": "local", "unsafe_local": 1}, "needs unsafe_local: true"),
        ({"backend": "chroot"}, "allowed: bubblewrap, docker, podman, apptainer, virtual, local"),
        ({"turns": 1}, "at least 2"),
        ({"seconds": 0}, "more than 0"),
        ({"files": "x"}, "must be a function"),
    ],
)
def test_bad_options_give_one_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        shell(**options)
    assert "\n" not in str(error.value)


def test_without_a_sandbox_only_where_that_is_said():
    tool = shell(backend="local", unsafe_local=True)
    assert "1\n</output>" in say(tool, f"{OPEN}python3 a.py{CLOSE}")[0][0]


@pytest.mark.parametrize("options", [{"tokens": "bytes"}, {"tokens": "code"}, {"tokens": "code", "turn_tokens": 30}])
def test_modes_say_which_tokens_may_be_answered(options):
    """A row of a batch on a device waits for the tool where they say so, and only there a turn may end."""
    tool, rng = shell(**options), random.Random(0)
    modes, mode = tool.modes(), tool.mode()
    likely = [*tool.encode(f"{OPEN}ls{CLOSE}"), "Ċ", "`", "`"] * 3 + ["```"] * ("```" in tool.vocabulary()) * 5
    answered = asked = 0
    for _ in range(20_000):
        token = rng.choice(likely)
        following = modes[mode].after.get(token, modes[mode].otherwise)
        reply = tool.feed(token)
        assert not reply or following == ASK
        answered, asked = answered + bool(reply), asked + (following == ASK)
        mode = tool.mode() if following == ASK else following
        assert mode == tool.mode()
    assert answered > 50
    assert asked == answered or options.get("turn_tokens")

"""What every tool promises, run over all registered ones and their imagined forms."""

import random
from collections.abc import Callable
from importlib import import_module

import pytest

from tools import TOOLS
from tools.base import Tool
from tools.none import Imagined

PROMPT = ("^", "4", "2", "+", "7", "=")


def load(path: str) -> type[Tool]:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


REAL = {name: load(path) for name, path in TOOLS.items()}
MAKERS: dict[str, Callable[[], Tool]] = {
    **REAL,
    **{f"imagined {name}": lambda cls=cls: Imagined(cls()) for name, cls in REAL.items()},
}
every_tool = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def random_tokens(tool: Tool, rng: random.Random, size: int) -> list[str]:
    return rng.choices([*tool.vocabulary(), *PROMPT, "[ANS]"], k=size)


def run(tool: Tool, tokens: list[str]) -> list[object]:
    """Everything that can be seen while the tokens are fed."""
    tool.start(PROMPT)
    seen: list[object] = []
    for token in tokens:
        seen += [tool.classify(token), tool.allows(token), tool.feed(token)]
        seen += [tool.snapshot(), tool.calls, tool.longest_walk]
    return seen


@every_tool
@pytest.mark.parametrize("seed", range(5))
def test_start_resets_everything_and_runs_repeat(make: Callable[[], Tool], seed: int) -> None:
    rng = random.Random(seed)
    used, fresh = make(), make()
    tokens = random_tokens(used, rng, 60)
    run(used, random_tokens(used, rng, 60))
    assert run(used, tokens) == run(fresh, tokens)


@every_tool
def test_asking_changes_nothing(make: Callable[[], Tool]) -> None:
    rng = random.Random(1)
    asked, silent = make(), make()
    tokens = random_tokens(asked, rng, 80)
    asked.start(PROMPT)
    silent.start(PROMPT)
    for token in tokens:
        for other in random_tokens(asked, rng, 5):
            asked.classify(other), asked.allows(other), asked.ends_reply(other), asked.snapshot(), asked.vocabulary()
        assert asked.feed(token) == silent.feed(token)


@every_tool
def test_snapshot_is_a_copy(make: Callable[[], Tool]) -> None:
    tool = make()
    tool.start(PROMPT)
    before, again = tool.snapshot(), tool.snapshot()
    before.pointers.clear()
    assert tool.snapshot() == again
    run(tool, random_tokens(tool, random.Random(2), 60))
    tool.start(PROMPT)
    assert tool.snapshot() == again


@every_tool
@pytest.mark.parametrize("seed", range(5))
def test_replies_follow_commands_count_as_calls_and_hold_known_tokens(make: Callable[[], Tool], seed: int) -> None:
    tool = make()
    tokens = random_tokens(tool, random.Random(seed), 80)
    known = {*tool.vocabulary(), *tokens, *PROMPT}
    tool.start(PROMPT)
    for token in tokens:
        kind, calls = tool.classify(token), tool.calls
        reply = tool.feed(token)
        assert not reply or (kind == "command" and tool.calls == calls + 1)
        assert tool.calls - calls in ((0, 1) if kind == "command" else (0,))
        assert set(reply) <= known
        assert [tool.ends_reply(part) for part in reply] == [False] * (len(reply) - 1) + [True] * bool(reply)


@every_tool
def test_real_tools_make_their_observations_themselves(make: Callable[[], Tool]) -> None:
    tool = make()
    tool.start(PROMPT)
    for token in random_tokens(tool, random.Random(3), 80):
        kind, reply = tool.classify(token), tool.feed(token)
        assert reply == () if isinstance(tool, Imagined) else kind != "observation"


@every_tool
def test_vocabulary_has_no_repeats_and_a_revision_stands_beside_it(make: Callable[[], Tool]) -> None:
    tool = make()
    assert len(set(tool.vocabulary())) == len(tool.vocabulary())
    assert tool.revision >= 1

"""The examples of the two guides, executed."""

import doctest
import importlib
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.grid import load
from tasks.base import Role
from tasks.problems import problems
from tasks.scenario import Scenario

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", re.DOTALL)


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files of both guides, importable."""
    for guide in ("add-a-task.md", "add-a-tool.md"):
        for name, text in BLOCK.findall((DOCS / guide).read_text()):
            (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for module in ("reverse", "stack"):
        sys.modules.pop(module, None)


def test_the_task_is_short_and_its_doctest_holds(examples: Path) -> None:
    assert len((examples / "reverse.py").read_text().splitlines()) < 80
    result = doctest.testmod(importlib.import_module("reverse"))
    assert result.attempted > 3
    assert result.failed == 0


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("reverse:Reverse", ["interactive", "cot", "direct", "direct_reversed"]),
        ("stack:Unstack", ["interactive", "cot"]),
    ],
)
def test_examples_are_right_in_every_setting(examples: Path, task: str, settings: list[str]) -> None:
    for setting in settings:
        scenario = Scenario(task, setting)
        assert list(scenario.task.settings) == settings
        for length in (1, 3, 40):
            for problem in problems(scenario.task, "evaluation", length, 5):
                recorded = scenario.record(problem)
                environment = scenario.environment(problem)
                roles = [environment.act(t)[0] for t, own in zip(recorded.tokens, recorded.own) if own]
                assert roles == [role for role, own in zip(recorded.roles, recorded.own) if own]
                assert scenario.right(problem, environment.output)
                assert not scenario.right(problem, environment.output[:-1])
                assert scenario.task.parse(problem.prompt) == problem


def test_the_stack_keeps_what_is_pushed_and_refuses_a_command_as_argument(examples: Path) -> None:
    scenario = Scenario("stack:Unstack", "interactive", "stack:Stack")
    environment = scenario.environment(scenario.task.sample(random.Random(0), 2))
    assert [environment.act(token)[0] for token in ("[PUSH]", "c")] == [Role.COMMAND] * 2
    assert environment.act("[POP]")[1] == ("c",)
    environment.act("[PUSH]")
    assert not environment.allows("[POP]")
    assert environment.act("[POP]")[1] == ()
    assert environment.act("[POP]")[1] == ("=",)


@pytest.mark.parametrize(("grid", "cells"), [("reverse.yaml", 4), ("stack.yaml", 2)])
def test_grids_name_the_examples_by_import_path(examples: Path, grid: str, cells: int) -> None:
    assert len(load(str(examples / grid)).cells) == cells


def test_a_tool_that_the_task_does_not_admit_is_refused(examples: Path) -> None:
    with pytest.raises(ValueError, match=r"impossible pairing.*allowed there: pointer"):
        Scenario("reverse:Reverse", "interactive", "stack:Stack")

"""Failed problems beside the oracle, token by token, with what their tools held: what the report's viewer shows.

A row keeps what the model did after it diverged; everything else is made again, from the problem and the real tool.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from harness.divergence import TRACE
from harness.grid import Grid
from tasks.agent import Environment
from tasks.base import Problem, Role
from tasks.mixture import bind
from tasks.problems import problems
from tasks.scenario import Scenario

if TYPE_CHECKING:
    import polars as pl

    from reports.data import Failure, Known, Track

MOST = 24
"""Failed problems that are shown."""
BEFORE, AFTER = 1_000, TRACE
"""Tokens around the divergence that are shown."""
BUDGET = 1_000_000
"""Tokens that are made again for all of them together, a few seconds of work; what needs more is told without them."""
CHUNK = 4_096

GROUP = ("task", "form", "setting", "tool", "architecture")
KEY = ("cell", "length", "stress", "index")
_GIVEN = (Role.QUESTION, Role.OBSERVATION)

Steps = dict[int, tuple[int, str]]
"""Position where a solver step begins -> its number and name."""


def failures(grid: Grid, rows: Iterable[dict[str, Any]]) -> list[Failure]:
    """Failed problems, given as whole rows, beside the oracle as far as the budget goes."""
    from reports.data import Failure

    resolved = {cell.id: cell for cell in grid.cells}
    left, found = BUDGET, []
    for row in rows:
        rollout, failure = row.pop("rollout"), Failure(row)
        if row["divergence"] is not None and row["divergence"] + AFTER <= left:
            config, corrupt = resolved[row["cell"]].config, row["corrupt"] or 0.0
            options = (config.form, config.tool_options, config.train.mixture)
            scenario = bind(config.task, config.setting, config.tool, *options)
            problem = problem_of(scenario, row)
            if problem is not None:
                left -= row["divergence"] + AFTER
                failure = beside(scenario, problem, row, json.loads(rollout) if rollout else None, corrupt)
        found.append(failure)
    return found


def chosen(cells: pl.DataFrame, rows: pl.DataFrame) -> list[dict[str, Any]]:
    """KEY of a few failed random problems: of every architecture in its setting the first of the shortest length
    where one failed, then of the next such length, and so on, taking turns. Unfit runs are left out."""
    import polars as pl

    who = cells.lazy().filter(pl.col("fit").fill_null(True)).select("cell", "seed", *GROUP)
    failed = rows.lazy().filter(
        pl.col("stress") == "random",
        (pl.col("exact") == False) | pl.col("failure").is_not_null(),  # noqa: E712
    )
    first = (
        failed.select(KEY)
        .join(who, on="cell")
        .sort("length", "index", "seed", "cell")
        .unique(subset=[*GROUP, "length"], keep="first", maintain_order=True)
        .with_columns(turn=pl.int_range(pl.len()).over(GROUP))
        .sort("turn", "length", *GROUP)
        .head(MOST)
        .select(KEY)
    )
    return first.collect().to_dicts()


def problem_of(scenario: Scenario, row: dict[str, Any]) -> Problem | None:
    """The problem that a row is about; None where this version draws another one."""
    drawn = problems(scenario.task, "evaluation", row["length"], row["index"] + 1, row["stress"])[row["index"] :]
    return drawn[0] if drawn and drawn[0].key == row["problem"] else None


def beside(
    scenario: Scenario, problem: Problem, row: dict[str, Any], rollout: Sequence[str] | None, corrupt: float = 0.0
) -> Failure:
    """Oracle and model around the divergence. `rollout`: the tokens from there on as far as they were kept; None: the
    problem was not rolled out, and only the wrong token is known."""
    from reports.data import Failure

    at = row["divergence"]
    start, stop = max(0, at - BEFORE), at + AFTER
    tokens, steps = solved(scenario, problem, stop)
    done = [*tokens[:at], *([row["got"]] if rollout is None else rollout)]
    known: Known = "wrong token" if rollout is None else "whole" if len(rollout) < TRACE else "part"
    return Failure(
        row,
        start=start,
        steps=[(max(0, position - start), *step) for position, step in _from(steps, start).items()],
        oracle=track(scenario.environment(problem), problem.prompt, tokens, start),
        model=track(scenario.environment(problem, corrupt), problem.prompt, done[:stop], start),
        known=known,
    )


def solved(scenario: Scenario, problem: Problem, stop: int) -> tuple[list[str], Steps]:
    """The first `stop` tokens of the oracle's trajectory, and its solver steps."""
    tokens: list[str] = []
    steps: Steps = {}
    last = -1
    for piece in scenario.stream(problem, CHUNK):
        for offset, step in enumerate(piece.steps):
            if step != last:
                steps[len(tokens) + offset], last = (step, piece.phases[step]), step
        tokens += piece.tokens
        if len(tokens) >= stop:
            break
    return tokens[:stop], {position: step for position, step in steps.items() if position < stop}


def _from(steps: Steps, start: int) -> Steps:
    """The steps that have tokens at `start` or later."""
    first = max(position for position in steps if position <= start)
    return {position: step for position, step in steps.items() if position >= first}


def track(environment: Environment, prompt: Sequence[str], tokens: Sequence[str], start: int) -> Track:
    """What happens in a fresh environment when `tokens`, prompt included, are acted; told from `start` on."""
    from reports.data import Track

    asked = ((token, Role.QUESTION) for token in prompt)
    happening = chain(asked, follow(environment, tokens[len(prompt) :]))
    told = Track()
    shown = None
    for offset, (token, role) in enumerate(happening, start=-start):
        if offset < 0:
            continue
        now = environment.tool.snapshot() if shown is None or role not in _GIVEN else shown
        told.tokens.append(token)
        told.roles.append(role.name.lower())
        if shown is None:
            told.memory.extend(now.memory)
            told.pointers.update(now.pointers)
        elif now is not shown:
            if now.memory != shown.memory:
                told.edits.append((offset, *edit(shown.memory, now.memory)))
            if now.pointers != shown.pointers:
                told.moves.append((offset, dict(now.pointers.items() - shown.pointers.items())))
        shown = now
    return told


def follow(environment: Environment, tokens: Iterable[str]) -> Iterator[tuple[str, Role]]:
    """Act the tokens that continue a trajectory: each with its role, observations as the tool gives them now."""
    said: deque[str] = deque()
    for token in tokens:
        if said:
            yield said.popleft(), Role.OBSERVATION
        else:
            role, observation = environment.act(token)
            said.extend(observation)
            yield token, role


def edit(old: tuple[str, ...], new: tuple[str, ...]) -> tuple[int, int, list[str]]:
    """The shortest replacement that makes `new` of `old`: from which cell on, how many cells go, and what comes."""
    if new[: len(old)] == old:
        return len(old), 0, list(new[len(old) :])
    both = min(len(old), len(new))
    at = next((place for place in range(both) if old[place] != new[place]), both)
    tail = next((back for back in range(both - at) if old[-1 - back] != new[-1 - back]), both - at)
    return at, len(old) - at - tail, list(new[at : len(new) - tail])

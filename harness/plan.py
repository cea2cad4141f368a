"""What a grid would take, and where it stands, as text."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.collect import status_of
from harness.config import Cell
from harness.grid import Grid, Resolved
from harness.search import Choice, chosen, unasked, undecided
from harness.store import Store
from harness.train import scenario_of
from harness.work import Gap, Missing, missing

SAMPLE = 16
"""Problems whose trajectories are recorded to estimate the tokens of a length."""


@dataclass(frozen=True)
class Estimate:
    """What remains to be done for one cell."""

    cell: Resolved
    todo: Missing
    points: int
    parameters: int
    train_tokens: float
    train_flops: float
    evaluate_tokens: float
    evaluate_flops: float


def estimate(cell: Resolved, grid: Grid, store: Store | None) -> Estimate:
    """Parameters, tokens and FLOPs of what a cell still needs.

    A training token is taken for three forward ones (the backward pass costs two); evaluation for one forward over the
    oracle's tokens, without rollouts, of which nobody knows how many there will be.
    """
    config, evaluate = cell.config, grid.evaluate(cell)
    lengths = [(length, stress) for length in evaluate.lengths for stress in ("random", *evaluate.stress)]
    fresh = Missing(True, [Gap(length, stress, 0, evaluate.problems) for length, stress in lengths])
    todo = missing(cell, evaluate, store) if store else fresh
    vocabulary = len(scenario_of(config).vocabulary)
    model = _on_paper(config.architecture, config.size, vocabulary, json.dumps(config.model))
    tokens = training_tokens(config)
    seen = tokens * config.train.batch * config.train.last if todo.training else 0.0
    each = [((gap.stop - gap.start), point_tokens(config, gap.length)) for gap in todo.points]
    return Estimate(
        cell,
        todo,
        len(lengths),
        _parameters(model),
        seen,
        3 * seen * _flops(model, int(tokens / 2)),
        sum(count * size for count, size in each),
        sum(count * size * _flops(model, int(size / 2)) for count, size in each),
    )


@cache
def _on_paper(architecture: str, size: str, vocabulary: int, options: str) -> Any:
    """The model without its weights, which takes a tenth of a second to build."""
    from models.build import build

    return build(architecture, size, vocabulary, json.loads(options), device="meta")


@cache
def _parameters(model: Any) -> int:
    return int(model.cost(1).parameters)


@cache
def _flops(model: Any, length: int) -> float:
    return float(model.cost(length).flops)


def training_tokens(config: Cell) -> float:
    """Mean tokens of a training trajectory, from a few of them."""
    fields = {"task", "form", "setting", "tool", "tool_options"}
    recipe = config.train.model_dump(include={"max_length", "mixture", "stress"})
    return _training_tokens(json.dumps({**config.model_dump(include=fields), "train": recipe}))


def point_tokens(config: Cell, length: int) -> float:
    """Mean tokens of the oracle's trajectories at a length, from a few of them."""
    options = json.dumps(config.tool_options)
    return _point_tokens(config.task, config.setting, config.tool or "", config.form, options, length)


@cache
def _training_tokens(trained_on: str) -> float:
    config = Cell.model_validate_json(trained_on)
    sample = scenario_of(config).training_block(config.train.max_length, 0, 0, config.train.stress)[:SAMPLE]
    return sum(len(whose.encoded(problem).ids) for whose, problem in sample) / len(sample)


@cache
def _point_tokens(task: str, setting: str, tool: str, form: str, options: str, length: int) -> float:
    from tasks.problems import problems
    from tasks.scenario import Scenario

    scenario = Scenario(task, setting, tool, form, json.loads(options))
    sizes = [
        sum(len(piece.ids) for piece in scenario.stream_encoded(problem, 65536))
        for problem in problems(scenario.task, "evaluation", length, 2)
    ]
    return sum(sizes) / len(sizes)


def print_plan(grid: Grid, store: Store | None) -> None:
    """Print what every cell still needs, and the sum; a search for recipes that is not over stands before it.

    Cells whose recipe is still open are shown with the one in the grid file.
    """
    searches = undecided(grid, store)
    still_open = {cell.id for choice in searches for cell in choice.cells}
    cells = [*chosen(grid, store).cells, *(cell for cell in grid.cells if cell.id in still_open)]
    tried = [_sum_of_trials(choice, grid, store) for choice in searches]
    estimates = [estimate(cell, grid, store) for cell in cells]
    table = _table("cell", "id", "to do")
    for column in ("parameters", "train tokens", "FLOPs", "evaluate tokens", "FLOPs"):
        table.add_column(column, justify="right")
    for choice, (left, parameters, seen, work) in zip(searches, tried):
        todo = f"train {left} of {sum(map(len, choice.trials))} trials"
        table.add_row(f"search: {choice.name}", choice.id, todo, short(parameters), short(seen), short(work), "0", "0")
    for item in estimates:
        numbers = (item.parameters, item.train_tokens, item.train_flops, item.evaluate_tokens, item.evaluate_flops)
        points = f"{len(item.todo.points)}/{item.points} points"
        todo = f"train, {points}" if item.todo.training else points if item.todo else "done"
        table.add_row(item.cell.name, item.cell.id, todo, *map(short, numbers))
    _print(table)
    if searches:
        left, _, seen, work = (sum(numbers) for numbers in zip(*tried))
        print(
            f"search: {left} trials to train: {short(seen)} tokens, {short(work)} FLOPs; "
            f"until it has chosen, {len(still_open)} cells are shown with the recipe of the grid file"
        )
    todo_points = sum(len(item.todo.points) for item in estimates)
    training = sum(item.todo.training for item in estimates)
    tokens = sum(item.train_tokens + item.evaluate_tokens for item in estimates)
    flops = sum(item.train_flops + item.evaluate_flops for item in estimates)
    total = sum(item.points for item in estimates)
    print(
        f"{training} of {len(estimates)} cells to train, {todo_points} of {total} points to evaluate: "
        f"{short(tokens)} tokens, {short(flops)} FLOPs (rollouts of diverged problems come on top)"
    )


def _sum_of_trials(choice: Choice, grid: Grid, store: Store | None) -> tuple[int, int, float, float]:
    """Trials still to train, parameters of one, training tokens and FLOPs of all of them."""
    nothing = replace(grid, file=grid.file.model_copy(update={"evaluate": unasked(grid)}), own={})
    items = [estimate(trial, nothing, store) for own in choice.trials for trial in own]
    left = sum(item.todo.training for item in items)
    return left, items[0].parameters, sum(item.train_tokens for item in items), sum(item.train_flops for item in items)


def print_status(grid: Grid, store: Store) -> None:
    """Print where every cell stands, and every search for its recipe."""
    for choice in undecided(grid, store):
        trials = [trial for own in choice.trials for trial in own]
        trained = sum(store.published(trial.id) is not None for trial in trials)
        print(
            f"search: {choice.name}: {trained} of {len(trials)} trials trained, {len(choice.cells)} cells wait for it"
        )
    grid = chosen(grid, store)
    attempts = store.attempts({cell.id for cell in grid.cells})
    table = _table("cell", "id", "status", "points", "attempts", "reason")
    counts: Counter[str] = Counter()
    for cell in grid.cells:
        evaluate = grid.evaluate(cell)
        total = len(evaluate.lengths) * (1 + len(evaluate.stress))
        todo = missing(cell, evaluate, store)
        status, reason = status_of(cell, todo, attempts)
        counts[status] += 1
        done = total - len(todo.points)
        tries = sum(attempt["cell"] == cell.id for attempt in attempts)
        table.add_row(cell.name, cell.id, status, f"{done}/{total}", str(tries), reason or "")
    _print(table)
    print(", ".join(f"{count} {status}" for status, count in counts.items()))


def short(number: float) -> str:
    """Three digits and a suffix: 232k, 40.5T."""
    for factor, suffix in ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g}{suffix}"
    return f"{number:.0f}"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _print(table: Table) -> None:
    # A table squeezed into a narrow terminal is unreadable: rather let its lines wrap.
    Console(width=Console(width=10_000).measure(table).maximum).print(table, soft_wrap=True)

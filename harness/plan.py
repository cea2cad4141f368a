"""What a grid would take, and where it stands, as text."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from harness.collect import status_of
from harness.config import Cell
from harness.grid import Grid, Resolved
from harness.search import Choice, chosen, standing, unasked, undecided
from harness.store import Held, Store, by_cell
from harness.throughput import SAMPLE as THROUGHPUT_SAMPLE
from harness.throughput import Hours, Throughput
from harness.train import scenario_of
from harness.work import Missing, lacking, missing

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
    todo = lacking(evaluate, store.held(cell.id) if store else Held(None, []))
    kind = kind_of(config.model_dump_json(exclude={"seed", "data_seed", "replicate"}))
    seen = kind.tokens * config.train.batch * config.train.last if todo.training else 0.0
    each = [((gap.stop - gap.start), *kind.point(gap.length)) for gap in todo.points]
    return Estimate(
        cell,
        todo,
        len(evaluate.lengths) * (1 + len(evaluate.stress)),
        kind.parameters,
        seen,
        3 * seen * kind.flops,
        sum(count * tokens for count, tokens, _ in each),
        sum(count * tokens * flops for count, tokens, flops in each),
    )


@dataclass(frozen=True)
class Kind:
    """What cells that differ in nothing but seeds have in common."""

    config: Cell
    model: Any
    """On the meta device."""
    parameters: int
    tokens: float
    """Of a training trajectory, on average."""
    flops: float
    """Of a forward token, half way through one."""

    @cache  # noqa: B019  (kinds are kept as long as the process, by `kind_of`)
    def point(self, length: int) -> tuple[float, float]:
        """Tokens of a trajectory of a length, and FLOPs of one half way through it."""
        tokens = point_tokens(self.config, length)
        return tokens, _flops(self.model, int(tokens / 2))

    def __hash__(self) -> int:
        return id(self)


@cache
def kind_of(text: str) -> Kind:
    """The kind of a cell's configuration without its seeds, as JSON."""
    config = Cell.model_validate_json(text)
    vocabulary = len(scenario_of(config).vocabulary)
    model = _on_paper(config.architecture, config.size, vocabulary, json.dumps(config.model))
    tokens = training_tokens(config)
    return Kind(config, model, int(model.cost(1).parameters), tokens, _flops(model, int(tokens / 2)))


@cache
def _on_paper(architecture: str, size: str, vocabulary: int, options: str) -> Any:
    """The model without its weights, which takes a tenth of a second to build."""
    from models.build import build

    return build(architecture, size, vocabulary, json.loads(options), device="meta")


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
    recipe = config.train
    sample = scenario_of(config).training_block(recipe.max_length, 0, 0, recipe.stress, SAMPLE)
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


@dataclass(frozen=True)
class Work:
    """What remains of a grid, a search for recipes included."""

    trials: list[tuple[Choice, list[Estimate]]]
    """Of every choice that is open."""
    cells: list[Estimate]
    """Those whose recipe is still open come last, with the one in the grid file."""
    open: int
    """How many of them that are."""
    grid: Grid
    """With the recipes that are chosen; it says on what each cell is evaluated, and how it is run."""


def remaining(grid: Grid, store: Store | None) -> Work:
    searches = undecided(grid, store)
    still_open = {cell.id for choice in searches for cell in choice.cells}
    settled = chosen(grid, store)
    cells = [*settled.cells, *(cell for cell in grid.cells if cell.id in still_open)]
    unevaluated = replace(grid, file=grid.file.model_copy(update={"evaluate": unasked(grid)}), own={})
    trials = [(choice, _trials(choice, unevaluated, store)) for choice in searches]
    return Work(trials, [estimate(cell, settled, store) for cell in cells], len(still_open), settled)


def _trials(choice: Choice, grid: Grid, store: Store | None) -> list[Estimate]:
    """What the trials of a choice still need: of those that one in so many recipes will come to, the dearest ones."""
    now, estimates = standing(choice, store), []
    left, begun = len(now.alive), 0
    for at, rung in enumerate(choice.rungs[now.rung :]):
        candidates = [[_from(estimate(trial, grid, store), begun) for trial in rung[index]] for index in now.alive]
        if at:
            left = math.ceil(left / choice.factor)
            candidates.sort(key=lambda own: -sum(item.train_flops for item in own))
        if at and left == 1:
            break  # who alone is left has won
        estimates += [item for own in candidates[:left] for item in own]
        begun = rung[0][0].config.train.last
    return estimates


def _from(item: Estimate, begun: int) -> Estimate:
    """The same where training goes on after so many steps."""
    share = max(0.0, 1 - begun / item.cell.config.train.last)
    return replace(item, train_tokens=item.train_tokens * share, train_flops=item.train_flops * share)


def hours(work: Work, store: Store | None) -> Hours:
    """How long it would take."""
    items = [(item, work.grid.run(choice.cells[0]).gpus) for choice, own in work.trials for item in own]
    items += [(item, work.grid.run(item.cell).gpus) for item in work.cells]
    left = any(item.todo for item, _ in items)
    prefer = [item.cell.id for item in work.cells[:THROUGHPUT_SAMPLE]]
    return Throughput(store if left else None, prefer).hours(items)


def print_plan(grid: Grid, store: Store | None) -> Hours:
    """Print what every cell still needs, the sum, and the hours, which are returned.

    A search for recipes that is not over stands before the cells; those whose recipe is still open are shown with the
    one in the grid file.
    """
    work = remaining(grid, store)
    estimates = work.cells
    lines = []
    for choice, items in work.trials:
        left, seen, flops = _summed(items)
        told = map(short, (items[0].parameters, seen, flops, 0, 0))
        lines.append((f"search: {choice.name}", choice.id, f"train {left} of {len(items)} trials", *told))
    for item in estimates:
        numbers = (item.parameters, item.train_tokens, item.train_flops, item.evaluate_tokens, item.evaluate_flops)
        points = f"{len(item.todo.points)}/{item.points} points"
        todo = f"train, {points}" if item.todo.training else points if item.todo else "done"
        lines.append((item.cell.name, item.cell.id, todo, *map(short, numbers)))
    columns = ("parameters", "train tokens", "FLOPs", "evaluate tokens", "FLOPs")
    _print(("cell", "id", "to do", *columns), lines, right=columns)
    if work.trials:
        left, seen, flops = _summed([item for _, items in work.trials for item in items])
        print(
            f"search: {left} trials to train: {short(seen)} tokens, {short(flops)} FLOPs; "
            f"until it has chosen, {work.open} cells are shown with the recipe of the grid file"
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
    needed = hours(work, store)
    print(f"takes {needed}")
    return needed


def _summed(items: Sequence[Estimate]) -> tuple[int, float, float]:
    """Cells still to train, training tokens and FLOPs of all of them."""
    left = sum(item.todo.training for item in items)
    return left, sum(item.train_tokens for item in items), sum(item.train_flops for item in items)


def print_status(grid: Grid, store: Store) -> None:
    """Print where every cell stands, and every search for its recipe."""
    for choice in undecided(grid, store):
        now = standing(choice, store)
        trials = now.trials(choice)
        trained = sum(store.published(trial.id) is not None for trial in trials)
        halved = f" to step {max(trial.config.train.last for trial in trials)}" if len(choice.rungs) > 1 else ""
        print(
            f"search: {choice.name}: {trained} of {len(trials)} trials trained{halved}, "
            f"{len(choice.cells)} cells wait for it"
        )
    grid = chosen(grid, store)
    attempts = by_cell(store.attempts({cell.id for cell in grid.cells}))
    lines, counts = [], Counter[str]()
    for cell in grid.cells:
        evaluate = grid.evaluate(cell)
        total = len(evaluate.lengths) * (1 + len(evaluate.stress))
        todo = missing(cell, evaluate, store)
        own = attempts.get(cell.id, [])
        status, reason = status_of(todo, own)
        counts[status] += 1
        done = total - len(todo.points)
        lines.append((cell.name, cell.id, status, f"{done}/{total}", str(len(own)), reason or ""))
    _print(("cell", "id", "status", "points", "attempts", "reason"), lines)
    print(", ".join(f"{count} {status}" for status, count in counts.items()))


def short(number: float) -> str:
    """Three digits and a suffix: 232k, 40.5T."""
    for factor, suffix in ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g}{suffix}"
    return f"{number:.0f}"


def _print(head: Sequence[str], lines: Sequence[Sequence[str]], right: Collection[str] = ()) -> None:
    """Print a table, a line a row however narrow the terminal; `right`: the columns of numbers."""
    widths = [max(map(len, column)) for column in zip(head, *lines)]
    for line in (head, *lines):
        cells = (
            text.rjust(width) if name in right else text.ljust(width) for text, width, name in zip(line, widths, head)
        )
        print("  ".join(cells).rstrip())

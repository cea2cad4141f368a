"""The search for a recipe: equal trials for every architecture, a winner by a rule fixed beforehand, fresh seeds after.

A trial is an ordinary cell that is trained and validated but never evaluated. The cells of a grid that differ in their
seeds alone share a choice: its candidates are the product of the search's axes, each tried with the search's own seeds.
When all trials of a choice have ended, the winner is written into the store, once and for all; the grid's cells then
take its values and are trained from their own seeds. Nothing of a problem longer than those of training is looked at.

With successive halving (Jamieson and Talwalkar 2016) a candidate's trials are several cells, each of which stops later
on the same schedule and goes on from where the one before stopped; only the best by the rule get so far.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.config import Evaluate, Search
from harness.errors import UserError
from harness.grid import Grid, Resolved, digest, matches, merge, named, nested, resolve, unstopped, wanted_values
from harness.store import Store

RULE = (
    "the most exact trajectories on validation problems at training lengths (mean over the search's seeds, a failed "
    "trial counts as none), then the least loss on them, then the fewest training FLOPs"
)
REVISION = 1
"""Raised when the rule would choose another winner from the same trials."""
_SEEDS = {"seed": 0, "data_seed": 0, "replicate": 0}


@dataclass(frozen=True)
class Choice:
    """One recipe to be found."""

    id: str
    """Hash of its trials and of how they are judged."""
    name: str
    cells: list[Resolved]
    """The cells it is for, their recipe still that of the grid file."""
    candidates: list[dict[str, Any]]
    """Field -> value."""
    rungs: list[list[list[Resolved]]]
    """From one comparison to the next, of each candidate one trial for each seed of the search. Without halving one."""
    factor: int
    """One candidate in so many goes on from one rung to the next."""

    @property
    def trials(self) -> list[list[Resolved]]:
        """Those of each candidate that are trained to the end, if it comes so far."""
        return self.rungs[-1]


def choices(grid: Grid) -> list[Choice]:
    """What a grid has to choose, in the order of its cells."""
    search = grid.file.search
    return [] if search is None else [_choice(cells, search, _where(grid)) for cells in _groups(grid, search)]


def check(grid: Grid) -> None:
    """Raise UserError for a search that cannot be."""
    search, where = grid.file.search, _where(grid)
    if search is None:
        return
    for cell in [cell for cells in _groups(grid, search) for cell in cells]:
        if {cell.config.seed, cell.config.data_seed} & set(search.seeds):
            raise UserError(f"{where}.seeds: {cell.config.seed} is a seed of the grid; winners need fresh ones")
        last = cell.config.train.last
        if search.halving is not None and not search.halving.stops(last):
            raise UserError(
                f"{where}.halving.min_steps: {search.halving.min_steps} is not before the last of {last} steps"
            )
    for candidate in _candidates(search):
        _with(grid.cells[0], candidate, where)


def _where(grid: Grid) -> str:
    return f"grid {grid.file.name}: search"


def _candidates(search: Search) -> list[dict[str, Any]]:
    return [dict(zip(search.axes, values)) for values in itertools.product(*search.axes.values())]


def _groups(grid: Grid, search: Search) -> list[list[Resolved]]:
    """The cells to search for, those together that differ in seeds alone (or in what is searched)."""
    wanted, same = wanted_values(search.where, f"{_where(grid)}.where"), nested(_candidates(search)[0])
    groups: dict[str, list[Resolved]] = {}
    for cell in grid.cells:
        config = cell.config.model_dump()
        if matches(config, wanted, _where(grid)):
            groups.setdefault(json.dumps(merge(merge(config, _SEEDS), same), sort_keys=True), []).append(cell)
    return list(groups.values())


def _choice(cells: list[Resolved], search: Search, where: str) -> Choice:
    candidates, halving = _candidates(search), search.halving
    trials = [
        [_with(cells[0], candidate, where, {"seed": seed, "data_seed": seed, "replicate": 0}) for seed in search.seeds]
        for candidate in candidates
    ]
    stops = [] if halving is None else halving.stops(trials[0][0].config.train.last)
    early = [[[_with(trial, {"train.stop_after": stop}, where) for trial in own] for own in trials] for stop in stops]
    ids = [[trial.id for trial in own] for own in trials]
    judged = [REVISION, cells[0].config.train.validation, *([halving.model_dump()] if halving is not None else [])]
    factor = 1 if halving is None else halving.factor
    name = cells[0].name.rpartition(" ")[0]
    return Choice(digest([ids, judged]), name, cells, candidates, [*early, trials], factor)


def _with(cell: Resolved, candidate: Mapping[str, Any], where: str, more: Mapping[str, Any] = {}) -> Resolved:
    return resolve(merge(merge(cell.config.model_dump(), nested(candidate)), more), where)


def trials(grid: Grid, store: Store | None) -> Grid:
    """The trials of what is not chosen yet, those up to the next comparison, as a grid evaluated on nothing."""
    open_ones = [(choice, standing(choice, store)) for choice in undecided(grid, store)]
    waited_for = [(choice, now.trials(choice)) for choice, now in open_ones]
    cells = [trial for _, own in waited_for for trial in own]
    runs = {trial.id: grid.run(choice.cells[0]) for choice, own in waited_for for trial in own}
    file = grid.file.model_copy(update={"evaluate": unasked(grid)})
    return Grid(file, grid.text, named(cells), own_runs=runs)


def unasked(grid: Grid) -> Evaluate:
    """The grid's evaluation without a single point."""
    return grid.file.evaluate.model_copy(update={"lengths": (), "stress": ()})


def undecided(grid: Grid, store: Store | None) -> list[Choice]:
    """The choices that are still open."""
    return [choice for choice in choices(grid) if store is None or decided(choice, store) is None]


def settle(grid: Grid, store: Store) -> None:
    """Choose what can be chosen: where every trial has been trained, or has failed for good."""
    for choice in undecided(grid, store):
        if (record := _judged(choice, store)) is None:
            continue
        for trial in [trial for own in choice.trials for trial in own if len(choice.rungs) > 1]:
            store.delete(f"cells/{unstopped(trial).id}/training.pt")  # nobody goes on with it
        store.create(_file(choice), json.dumps(record, indent=1).encode())


def decided(choice: Choice, store: Store) -> dict[str, Any] | None:
    """What was chosen and among what; None while it is open."""
    return store.read_json(_file(choice), frozenset({"winner", "tried"}))


def chosen(grid: Grid, store: Store | None) -> Grid:
    """The grid with the winners' values in its cells; cells whose recipe is still open are left out."""
    if grid.file.search is None:
        return grid
    settled: dict[str, Resolved | None] = {}
    own, own_runs = dict(grid.own), dict(grid.own_runs)
    for choice in choices(grid):
        record = decided(choice, store) if store is not None else None
        for cell in choice.cells:
            winner = None if record is None else _with(cell, record["winner"], f"grid {grid.file.name}")
            settled[cell.id] = winner
            if winner is not None and cell.id in own:
                own[winner.id] = own[cell.id]
            if winner is not None and cell.id in own_runs:
                own_runs[winner.id] = own_runs[cell.id]
    cells = [settled.get(cell.id, cell) for cell in grid.cells]
    kept = named(list({cell.id: cell for cell in cells if cell is not None}.values()))
    return replace(grid, cells=kept, own=own, own_runs=own_runs)


def decisions(grid: Grid, store: Store) -> list[str]:
    """The files of a store in which the grid's choices are, as far as they have been made."""
    return [_file(choice) for choice in choices(grid) if decided(choice, store) is not None]


def account(grid: Grid, store: Store) -> list[dict[str, Any]]:
    """Of every choice: its name, and the record of what was chosen (None while it is open)."""
    return [{"name": choice.name, "record": decided(choice, store)} for choice in choices(grid)]


def _file(choice: Choice) -> str:
    return f"searches/{choice.id}.json"


def _judged(choice: Choice, store: Store) -> dict[str, Any] | None:
    """The record of a choice; None while a trial is neither trained nor failed for good."""
    now = standing(choice, store)
    if now.open:
        return None
    tried = []
    for index, candidate in enumerate(choice.candidates):
        own = [rung[index] for rung in choice.rungs[: now.reached[index] + 1]]
        told = {"recipe": candidate, "trials": [trial.id for trial in own[-1]], **now.merits[index]}
        if len(choice.rungs) > 1:
            told |= {"steps": own[-1][0].config.train.last, "before": [trial.id for one in own[:-1] for trial in one]}
        tried.append(told)
    [winner] = now.alive
    return {"name": choice.name, "rule": RULE, "winner": choice.candidates[winner], "tried": tried}


@dataclass(frozen=True)
class Standing:
    """How far a choice has come: a function of what is published and what has failed, and of nothing else."""

    open: bool
    """Whether trials are still to come."""
    rung: int
    """The one whose trials are waited for, or the last that was looked at."""
    alive: list[int]
    """Candidates that are in it; where all is over, the winner."""
    reached: list[int]
    """The last rung of each candidate."""
    merits: list[dict[str, Any]]
    """Of each candidate, at the last rung that is complete."""

    def trials(self, choice: Choice) -> list[Resolved]:
        """Those that are waited for."""
        return [trial for index in self.alive for trial in choice.rungs[self.rung][index]]


def standing(choice: Choice, store: Store | None) -> Standing:
    """How far a choice has come."""
    alive, reached = list(range(len(choice.candidates))), [0] * len(choice.candidates)
    merits: list[dict[str, Any]] = [{} for _ in choice.candidates]
    if store is None:
        return Standing(True, 0, alive, reached, merits)
    attempts = store.attempts({trial.id for rung in choice.rungs for own in rung for trial in own})
    last = {attempt["cell"]: attempt["outcome"] for attempt in attempts}
    for at, rung in enumerate(choice.rungs):
        for index in alive:
            reached[index] = at
        published = {index: [store.published(trial.id) for trial in rung[index]] for index in alive}
        for index, known in published.items():
            if any(one is None and last.get(trial.id) != "failed" for one, trial in zip(known, rung[index])):
                return Standing(True, at, alive, reached, merits)
            merits[index] = _merits(known)
        left = 1 if at == len(choice.rungs) - 1 else math.ceil(len(alive) / choice.factor)
        alive = sorted(sorted(alive, key=lambda index: _rank(merits[index]))[:left])
        if left == 1:
            break
    return Standing(False, at, alive, reached, merits)


def _merits(published: list[dict[str, Any] | None]) -> dict[str, Any]:
    """By what a candidate is judged. Losses and FLOPs are null where a trial failed."""
    trained = [known for known in published if known is not None]
    losses = [known.get("validation_loss") for known in trained]
    known_losses = [loss for loss in losses if loss is not None]
    complete = len(known_losses) == len(published)
    return {
        "exact": sum(known["validation_exact"] for known in trained) / len(published),
        "loss": sum(known_losses) / len(published) if complete else None,
        "flops": max((3 * known["train_tokens"] * known["flops_per_token"] for known in trained), default=None),
        "failed": len(published) - len(trained),
    }


def _rank(merits: Mapping[str, Any]) -> tuple[float, float, float]:
    """RULE as a key: the least is the best."""
    loss, flops = (math.inf if merits[name] is None else merits[name] for name in ("loss", "flops"))
    return -merits["exact"], loss, flops

"""Two grids set against each other: what changed between them, which points moved, and whether by more than chance.

*checkpoints*: the same weights (or the very runs) evaluated twice, paired problem by problem: exact McNemar.
*retrained*: the same things trained again: exact permutation of runs over how far they reach. All tests of a comparison
of two grids are corrected together (Holm), so that a pair of which nothing changed raises an alarm in 5% of the cases
at most.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import Any, Literal

import polars as pl

from reports import aggregate, runs
from reports.aggregate import FACET, RANDOM
from reports.data import ReportData
from reports.significance import (
    LEVEL,
    POWER,
    Decision,
    Outcome,
    corrected,
    decide,
    detectable_drop,
    mcnemar,
    mcnemar_floor,
)
from reports.view import View
from reports.wording import listed

Mode = Literal["checkpoints", "retrained"]
Key = tuple[Any, ...]
_WHO = (*FACET, "architecture", "recipe")


@dataclass(frozen=True)
class Side:
    """One grid of a comparison."""

    label: str
    view: View


@dataclass(frozen=True)
class Change:
    """A setting that is not the same in both grids."""

    key: str
    before: str
    after: str


@dataclass(frozen=True)
class Group:
    """The runs that stand for the same thing in both grids."""

    name: str
    before: pl.DataFrame
    after: pl.DataFrame


@dataclass(frozen=True)
class Retrained:
    """A group's runs before and after. The decision is about the runs after: `more` when they reach further."""

    name: str
    sizes: tuple[int, int]
    contrast: runs.Contrast | None
    """The runs after, set against those before; None when one side has none."""
    decision: Decision | None

    @property
    def medians(self) -> tuple[float, float]:
        """Of the reaches before and after."""
        return (median(self.contrast.second), median(self.contrast.first)) if self.contrast else (0, 0)


@dataclass(frozen=True)
class Point:
    """One checkpoint at one length, before and after, on the same problems."""

    name: str
    seed: int | None
    replicate: int | None
    length: int
    stress: str
    problems: int
    right: tuple[int, int]
    lost: int
    """Problems right before and wrong after."""
    won: int
    p: float
    adjusted: float | None
    """After Holm's correction; None where too few problems changed to be significant."""
    detectable: float | None
    """Smallest fall that would have been found; None where none would."""

    @property
    def title(self) -> str:
        seed = f"seed {self.seed}" + (f", replicate {self.replicate}" if self.replicate else "")
        return f"{self.name}, {seed}, length {self.length:,}" + ("" if self.stress == RANDOM else f" ({self.stress})")

    @property
    def said(self) -> str:
        """What the test decides, with what it could have found where it finds nothing."""
        if self.outcome != "no difference":
            return {"more": "better", "less": "worse"}.get(self.outcome, "")
        found = "no fall" if self.detectable is None else f"a fall of {100 * self.detectable:.0f} points"
        return f"no difference shown; {found} would be found with a power of {POWER:.0%}"

    @property
    def outcome(self) -> Outcome:
        """Whether more or fewer problems are right after."""
        if self.adjusted is None or self.adjusted > LEVEL:
            return "no difference"
        return "more" if self.won > self.lost else "less"


@dataclass(frozen=True)
class Shift:
    """A group's accuracy on random problems of one length, before and after: descriptive, not a test."""

    name: str
    length: int
    solved: tuple[str, str]
    mean: tuple[float, float]
    apart: bool
    """The 95% intervals of a fresh seed do not overlap."""


@dataclass(frozen=True)
class Comparison:
    """Of one grid (after) with another (before)."""

    before: Side
    after: Side
    asked: Mode | None = None

    @cached_property
    def changes(self) -> list[Change]:
        return list(_changes(self.before.view, self.after.view))

    @cached_property
    def groups(self) -> list[Group]:
        return [group for group in self._matched if group.before.height and group.after.height]

    @cached_property
    def alone(self) -> list[str]:
        """What stands in one grid only."""
        return [
            f"{group.name} (only in {(self.before if group.before.height else self.after).label})"
            for group in self._matched
            if not (group.before.height and group.after.height)
        ]

    @cached_property
    def _matched(self) -> list[Group]:
        before, after = self.before.view.cells, self.after.view.cells
        names = [name for name in _WHO if max(before[name].n_unique(), after[name].n_unique()) > 1]
        if not names:
            who = dict.fromkeys(str(cell["architecture"]) for cell in (*before.to_dicts()[:1], *after.to_dicts()[:1]))
            return [Group(" → ".join(who), before, after)]
        keys = pl.concat([before.select(names), after.select(names)]).unique(maintain_order=True)
        return [_group(dict(zip(names, key)), before, after) for key in keys.iter_rows()]

    @cached_property
    def mode(self) -> Mode:
        """As asked, else `checkpoints` when every cell found in both grids has the same weights in both, or none."""
        if self.asked:
            return self.asked
        pairs = [pair for group in self.groups for pair in _cells(group)]
        weights = [(one["checkpoint"], other["checkpoint"]) for _, one, other in pairs]
        same = [before == after for before, after in weights if before or after]
        return "checkpoints" if same and all(same) else "retrained"

    @cached_property
    def retrained(self) -> list[Retrained]:
        """Every group, tested and corrected together; empty in the other mode. Unfit runs count with what they reach:
        a change after which models no longer learn made them worse."""
        if self.mode != "retrained":
            return []
        views = (self.after.view, self.before.view)
        counted = [[runs.counted(cells, unfit=True) for cells in (group.after, group.before)] for group in self.groups]
        found = [
            runs.contrast(*(runs.curves(cells, view.random) for cells, view in zip(pair, views))) for pair in counted
        ]
        decisions = iter(decide([contrast.test for contrast in found if contrast]))
        return [
            Retrained(group.name, (old.height, new.height), contrast, next(decisions) if contrast else None)
            for group, (new, old), contrast in zip(self.groups, counted, found)
        ]

    @cached_property
    def points(self) -> list[Point]:
        """Every point of every checkpoint that both grids have, tested and corrected together; empty in the other mode.

        Raises ValueError when the problems are not the same.
        """
        if self.mode != "checkpoints":
            return []
        paired = [line for group in self.groups for line in _paired(group, self.before.view, self.after.view)]
        lost, won = [line["lost"] for line in paired], [line["won"] for line in paired]
        ps = mcnemar(lost, won).tolist()
        floors = mcnemar_floor([a + b for a, b in zip(lost, won)]).tolist()
        adjusted, family = corrected(ps, floors)
        level = LEVEL / max(1, family)
        return [
            Point(
                **{**line, "right": tuple(line["right"])},
                p=p,
                adjusted=after,
                detectable=detectable_drop(line["problems"], line["right"][0] / line["problems"], level),
            )
            for line, p, after in zip(paired, ps, adjusted)
        ]

    @cached_property
    def shifts(self) -> list[Shift]:
        return [shift for group in self.groups for shift in _shifts(group, self.before.view, self.after.view)]

    def moved(self, outcome: Outcome) -> list[str]:
        """What has `more` or `less` after than before, beyond chance."""
        points = [point.title for point in self.points if point.outcome == outcome]
        return points + [one.name for one in self.retrained if one.decision and one.decision.outcome == outcome]

    @property
    def undecidable(self) -> list[str]:
        return [one.name for one in self.retrained if one.decision is None or one.decision.outcome == "undecidable"]

    @property
    def verdict(self) -> str:
        """One line: what got worse and what better, beyond chance, and what cannot be decided."""
        worse, better, open_ones = self.moved("less"), self.moved("more"), self.undecidable
        parts = [f"worse: {listed(worse, 12)}"] if worse else []
        parts += [f"better: {listed(better, 12)}"] if better else []
        if len(open_ones) < len(self.retrained) or self.points:
            parts = parts or ["nothing moved beyond chance"]
        if len(open_ones) == len(self.retrained) > 4:
            parts += [f"undecidable: all {len(open_ones)} groups"]
        elif open_ones:
            parts += [f"undecidable: {listed(open_ones, 12)}"]
        return "; ".join(parts)


def compare(sides: list[tuple[str, ReportData]], mode: Mode | None = None) -> list[Comparison]:
    """The first grid against each of the others, on the problems and with the runs they have in common.

    Raises ValueError when two grids have no cell that stands for the same thing.
    """
    (label, data), *others = sides
    found = []
    for name, other in others:
        before, after = _same_problems(data, other)
        comparison = Comparison(Side(label, View(before)), Side(name, View(after)), mode)
        if not comparison.groups:
            raise ValueError(f"{label} and {name} have no cells in common: {'; '.join(comparison.alone)}")
        found.append(comparison)
    return found


def _same_problems(*sides: ReportData) -> list[ReportData]:
    """Each point cut to as many problems as the other grid asks for: a length is solved at equal n."""
    asked = [(data.grid.get("evaluate") or {}).get("problems") for data in sides]
    known = [count for count in asked if count]
    return [replace(data, rows=data.rows.filter(pl.col("index") < min(known))) if known else data for data in sides]


def _group(values: dict[str, Any], before: pl.DataFrame, after: pl.DataFrame) -> Group:
    same = [pl.col(name) == value for name, value in values.items()]
    texts = [f"trained ≤ {value}" if name == "max_length" else str(value) for name, value in values.items() if value]
    return Group(" · ".join(texts), before.filter(same), after.filter(same))


def _cells(group: Group) -> Iterator[tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]]:
    """Cells of the same seed and replicate, before and after."""
    after = {(cell["seed"], cell["replicate"] or 0): cell for cell in group.after.to_dicts()}
    for cell in group.before.to_dicts():
        key = (cell["seed"], cell["replicate"] or 0)
        if key in after:
            yield key, cell, after[key]


def _paired(group: Group, before: View, after: View) -> Iterator[dict[str, Any]]:
    for (seed, replicate), one, other in _cells(group):
        joined = _right(before, one["cell"]).join(_right(after, other["cell"]), on=["length", "stress", "index"])
        changed = joined.filter(pl.col("problem") != pl.col("problem_right"))
        if changed.height:
            length = changed["length"][0]
            raise ValueError(
                f"{group.name}, length {length}: the problems are not the same, so they cannot be paired; "
                "compare as retrained"
            )
        was, now = pl.col("right"), pl.col("right_right")
        counts = joined.group_by("length", "stress").agg(
            pl.len().alias("problems"),
            was.sum().alias("before"),
            now.sum().alias("after"),
            (was & ~now).sum().alias("lost"),
            (~was & now).sum().alias("won"),
        )
        for line in counts.sort(pl.col("stress") != RANDOM, "stress", "length").to_dicts():
            right = (line.pop("before"), line.pop("after"))
            yield {"name": group.name, "seed": seed, "replicate": replicate, "right": right, **line}


def _right(view: View, cell: str) -> pl.DataFrame:
    right = pl.coalesce("exact", "answer_right").alias("right")
    own = view.data.rows.filter(pl.col("cell") == cell)
    return own.select("length", "stress", "index", "problem", right).drop_nulls("right")


def _shifts(group: Group, before: View, after: View) -> Iterator[Shift]:
    old, new = (_by_length(cells, view) for cells, view in ((group.before, before), (group.after, after)))
    for length in sorted(old.keys() & new.keys()):
        lines = (old[length], new[length])
        apart = (
            lines[0]["expected_low"] > lines[1]["expected_high"] or lines[1]["expected_low"] > lines[0]["expected_high"]
        )
        solved = tuple(f"{line['solved']} of {line['seeds']}" for line in lines)
        yield Shift(group.name, length, (solved[0], solved[1]), (lines[0]["expected"], lines[1]["expected"]), apart)


def _by_length(cells: pl.DataFrame, view: View) -> dict[int, dict[str, Any]]:
    """Lines of `aggregate.solved_by` of the group, where it is one group of seeds."""
    kind = cells.select(aggregate.GROUP).unique()
    if kind.height != 1:
        return {}
    own = view.solved.filter(*(pl.col(name) == value for name, value in kind.row(0, named=True).items()))
    return {line["length"]: line for line in own.drop_nulls("expected").to_dicts()}


def _changes(before: View, after: View) -> Iterator[Change]:
    """Configuration, evaluation, and what the runs were made with."""
    sides = [{**_settings(view), **_made_with(view)} for view in (before, after)]
    for key in sorted(sides[0].keys() | sides[1].keys()):
        old, new = (side.get(key, set()) for side in sides)
        if old != new:
            yield Change(key, _listed(old), _listed(new))


def _settings(view: View) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for text in view.cells["config"].drop_nulls():
        for key, value in aggregate.flat(json.loads(text)).items():
            found.setdefault(key, set()).add(_text(value))
    for key, value in (view.data.grid.get("evaluate") or {}).items():
        found[f"evaluate.{key}"] = {_text(value)}
    return found


def _made_with(view: View) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for column in ("train_device", "train_kernels"):
        found[column.replace("_", " ")] = set(view.cells[column].drop_nulls())
    for column in ("device", "kernels"):
        found[f"evaluation {column}"] = set(view.data.rows[column].drop_nulls().unique())
    for text in view.cells["versions"].drop_nulls().unique():
        for part in text.split():
            name, _, version = part.partition("=")
            found.setdefault(f"version of {name}", set()).add(version)
    found["seeds"] = {_text(seed) for seed in view.cells["seed"].drop_nulls().unique().sort()}
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _listed(values: set[str], most: int = 8) -> str:
    def order(text: str) -> tuple[int, float, str]:
        try:
            return (0, float(text), text)
        except ValueError:
            return (1, 0.0, text)

    texts = sorted(values, key=order)
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more if texts else "–"

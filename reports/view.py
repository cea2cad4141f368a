"""Everything the page shows, aggregated once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from reports import aggregate, style
from reports.data import ReportData
from reports.pairs import Pair, pairs

MOST_RUNS = 1_000
"""Runs that a page draws and lists one by one, at most; what is said of seeds together counts them all."""


@dataclass(frozen=True)
class Facet:
    """One panel: what is held fixed, and what to call it."""

    key: tuple[Any, ...]
    """Values of `aggregate.FACET`."""
    title: str
    detail: str

    def of(self, table: pl.DataFrame) -> pl.DataFrame:
        """The lines of a table that belong to the panel."""
        return table.filter(*(pl.col(name) == value for name, value in zip(aggregate.FACET, self.key)))

    @property
    def values(self) -> dict[str, Any]:
        """What is held fixed, by name."""
        return dict(zip(aggregate.FACET, self.key))

    def __getitem__(self, name: str) -> Any:
        return self.key[aggregate.FACET.index(name)]


def facets(cells: pl.DataFrame) -> list[Facet]:
    """The panels of described cells, titled by setting (and task, where tasks differ) and what else differs."""
    keys = list(cells.select(aggregate.FACET).unique(maintain_order=True).iter_rows())
    varying = {name for place, name in enumerate(aggregate.FACET) if len({key[place] for key in keys}) > 1}
    return [_facet(dict(zip(aggregate.FACET, key)), varying) for key in sorted(keys, key=_order)]


def _facet(values: dict[str, Any], varying: set[str]) -> Facet:
    title = [values["setting"] or "no setting"]
    if "task" in varying:
        title.insert(0, values["task"])
    detail = [f"tool {values['tool'] or 'none'}"]
    detail += [values[name] for name in ("form", "size") if name in varying and values[name]]
    if "max_length" in varying and values["max_length"]:
        detail.append(f"trained ≤ {values['max_length']:,}")
    return Facet(tuple(values.values()), " · ".join(title), " · ".join(detail))


def _order(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """Tasks by name, then the settings from the most to the least help."""
    settings = ("interactive", "single_turn", "cot", "direct", "direct_reversed")
    values = dict(zip(aggregate.FACET, key))
    place = settings.index(values["setting"]) if values["setting"] in settings else len(settings)
    return (values["task"], place, *key)


@dataclass(frozen=True)
class View:
    """The aggregated tables of one report."""

    data: ReportData

    @cached_property
    def points(self) -> pl.DataFrame:
        return aggregate.points(self.data.rows, self.data.cells)

    @cached_property
    def random(self) -> pl.DataFrame:
        """The points on random problems."""
        return self.points.filter(pl.col("stress") == aggregate.RANDOM)

    @cached_property
    def cells(self) -> pl.DataFrame:
        return aggregate.summarise_cells(self.points, self.data.cells)

    @cached_property
    def solved(self) -> pl.DataFrame:
        return aggregate.solved_by(self.points, self.data.cells, self.data.rows)

    @cached_property
    def pairs(self) -> dict[tuple[Any, ...], list[Pair]]:
        """Values of `aggregate.FACET` -> the architectures of that panel, compared two at a time."""
        return pairs(self.cells, self.random)

    @cached_property
    def looks(self) -> dict[str, style.Style]:
        return style.styles(self.cells["architecture"])

    @cached_property
    def facets(self) -> list[Facet]:
        return facets(self.cells)

    @cached_property
    def single(self) -> pl.DataFrame:
        """`cells`, or of very many MOST_RUNS: the first seed of every architecture and recipe, then the second, ..."""
        if self.cells.height <= MOST_RUNS:
            return self.cells
        ordered = self.cells.with_row_index("place").sort("seed", "replicate", "place")
        turns = ordered.with_columns(turn=pl.int_range(pl.len()).over(aggregate.GROUP))
        kept = turns.sort("turn", "place").head(MOST_RUNS).sort("place")
        return kept.drop("place", "turn")

    def singles(self, table: pl.DataFrame) -> pl.DataFrame:
        """The lines of a table that are about the runs of `single`."""
        if self.single.height == self.cells.height:
            return table
        return table.join(self.single.select("cell"), on="cell", how="semi", maintain_order="left")

    @property
    def failed(self) -> pl.DataFrame:
        return self.cells.filter(pl.col("status") == "failed")

    @property
    def unfit(self) -> pl.DataFrame:
        return self.cells.filter("unfit")

    @property
    def waiting(self) -> pl.DataFrame:
        return self.cells.filter(~pl.col("status").is_in(["done", "failed"]))

    def lengths(self, facet: Facet) -> list[int]:
        """Lengths tested on random problems, ascending."""
        return sorted(facet.of(self.random)["length"].unique().to_list())


def key_lengths(tested: Sequence[int], trained: int, most: int = 4) -> list[int]:
    """A few lengths to summarise at: the longest in the training range, the longest tested, and some between."""
    inside = [length for length in tested if length <= trained]
    beyond = [length for length in tested if length > trained]
    room = most - bool(inside)
    if len(beyond) > room:
        beyond = [beyond[round((place + 1) * len(beyond) / room) - 1] for place in range(room)]
    return inside[-1:] + beyond

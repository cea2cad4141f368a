"""The runs of one group of seeds, and two groups set against each other by how far their runs reach."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from reports import statistics
from reports.aggregate import first_replicate
from reports.significance import Permutation, permutation_test

Curve = dict[int, float]
"""Length -> accuracy, on random problems."""


EARLIER = pl.col("recipe").str.contains(r"train\.stop_after=[0-9]")
"""A late checkpoint is an earlier state of a run, not a run of its own."""


def counted(cells: pl.DataFrame, unfit: bool = False) -> pl.DataFrame:
    """The cells that claims about seeds rest on: those that are done or failed, of each seed its first replicate.

    Unfit ones only on demand: they did not learn their training lengths, so they say nothing of longer ones. A later
    replicate never stands in for a first one that does not count.
    """
    return cells.filter(first_replicate() & pl.col("status").is_in(["done", "failed"]) & (~pl.col("unfit") | unfit))


def curves(cells: pl.DataFrame, random: pl.DataFrame) -> list[Curve]:
    """A curve for every one of the cells; an empty one for those that failed."""
    done = cells.filter(pl.col("status") == "done")["cell"].to_list()
    curves: dict[str, Curve] = {cell: {} for cell in cells["cell"]}
    known = random.filter(pl.col("accuracy").is_not_null() & pl.col("cell").is_in(done))
    for cell, length, accuracy in known.select("cell", "length", "accuracy").iter_rows():
        curves[cell][length] = accuracy
    return list(curves.values())


@dataclass(frozen=True)
class Contrast:
    """Two groups of runs and the exact test of their reaches."""

    first: list[int]
    """Reach of every run of the first group at the lengths tested in both, ascending."""
    second: list[int]
    longest: int
    """The longest of those lengths: a reach of it may be longer."""
    test: Permutation


def contrast(first: Iterable[Curve], second: Iterable[Curve]) -> Contrast | None:
    """None when a group has no run or no length was tested in both. A run without a result reaches nothing."""
    groups = [list(first), list(second)]
    tested = [set(curve) for curves in groups for curve in curves if curve]
    lengths = sorted(set.intersection(*tested)) if tested else []
    if not lengths or not all(groups):
        return None
    reaches = [sorted(_reach(curve, lengths) for curve in curves) for curves in groups]
    return Contrast(reaches[0], reaches[1], lengths[-1], permutation_test(reaches[0], reaches[1]))


def _reach(curve: Curve, lengths: list[int]) -> int:
    found = statistics.reach(lengths, [curve.get(length) for length in lengths])
    return found.low if found else 0

"""`lengthwise compare`: grids read from their stores, and the result as text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.collect import tables
from harness.errors import UserError
from harness.grid import Grid, load, parse
from harness.search import chosen
from harness.store import Store
from reports.compare import Comparison, Mode, Point, Retrained, compare
from reports.pairs import probability, said
from reports.wording import NONE, listed, median_reach, percent


@dataclass(frozen=True)
class Compared:
    """The first grid against each of the others, and where the page about it belongs."""

    comparisons: list[Comparison]
    store: Store
    file: str

    def write(self, out: Path | None) -> str:
        """Write the page to `out`, or into the store of the last grid; returns where it is."""
        from reports.compare_page import render

        return self.store.deliver(self.file, render(self.comparisons).encode(), out)


def compare_grids(references: list[str], store: str, mode: Mode | None) -> Compared:
    """Read the grids and test them. Raises UserError for what cannot be read or compared."""
    if len(references) < 2:
        raise UserError("compare: name two grids or more; the others are compared with the first")
    found = [_read(reference, store) for reference in references]
    names = [grid.file.name for grid, _ in found]
    labels = names if len(set(names)) == len(names) else references
    # The hash of a problem says whether two rows are of the same one.
    sides = [(label, tables(*one, further=["problem"])) for label, one in zip(labels, found)]
    try:
        result = compare(sides, mode)
        for comparison in result:
            _ = comparison.points  # they refuse problems that are not the same
    except ValueError as error:
        raise UserError(f"compare: {error}") from error
    return Compared(result, found[-1][1], f"grids/{names[-1]}/compared-with-{names[0]}.html")


def _read(reference: str, store: str) -> tuple[Grid, Store]:
    """GRID in the store given, or STORE:GRID; as it was run there, else a grid file or a shipped grid."""
    head, colon, tail = reference.rpartition(":")
    if colon and tail and not tail.startswith("//") and not Path(reference).is_file():
        store, reference = head, tail
    opened = Store(store).open()
    stored = f"grids/{reference}/grid.yaml"
    if not Path(reference).is_file() and opened.exists(stored):
        grid = parse(opened.read(stored).decode(), f"{opened.url}/{stored}")
    else:
        grid = load(reference)
    return chosen(grid, opened), opened


def show(comparison: Comparison, console: Console) -> None:
    """Print what changed, the tests, and what they come to."""
    before, after = comparison.before.label, comparison.after.label
    console.print(f"{after} against {before} ({comparison.mode})", markup=False)
    for change in comparison.changes:
        console.print(f"  {change.key}: {change.before} → {change.after}", markup=False, soft_wrap=True)
    for name in comparison.alone:
        console.print(f"  {name}", markup=False, soft_wrap=True)
    console.print(_points(comparison.points) if comparison.mode == "checkpoints" else _runs(comparison.retrained))
    shifted = [f"{shift.name} at {shift.length:,}" for shift in comparison.shifts if shift.apart]
    if shifted:
        text = f"accuracies whose intervals do not overlap (descriptive): {listed(shifted, 12)}"
        console.print(text, markup=False, soft_wrap=True)
    console.print(comparison.verdict, markup=False, soft_wrap=True)


def _runs(lines: list[Retrained]) -> Table:
    table = _table("group", "runs", "median reach", "p", "corrected", "")
    for line in lines:
        if line.contrast is None or line.decision is None:
            table.add_row(line.name, _arrow(*line.sizes), NONE, NONE, NONE, "undecidable: no run to compare")
            continue
        contrast, decision = line.contrast, line.decision
        reaches = (median_reach(one, contrast.longest) for one in line.medians)
        corrected = NONE if decision.p is None else probability(decision.p)
        text = said(decision, line.sizes)
        table.add_row(line.name, _arrow(*line.sizes), _arrow(*reaches), probability(contrast.test.p), corrected, text)
    return table


def _points(points: list[Point]) -> Table:
    table = _table("cell", "length", "problems", "right", "lost, won", "p", "corrected", "")
    for point in points:
        seed = f"{point.name} seed={point.seed}" + (f" replicate={point.replicate}" if point.replicate else "")
        length = f"{point.length:,}" + ("" if point.stress == "random" else f" {point.stress}")
        shares = (percent(right / point.problems, 1) for right in point.right)
        table.add_row(
            seed,
            length,
            f"{point.problems:,}",
            _arrow(*shares),
            f"{point.lost:,}, {point.won:,}",
            probability(point.p),
            NONE if point.adjusted is None else probability(point.adjusted),
            point.said,
        )
    return table


def _arrow(before: object, after: object) -> str:
    return f"{before} → {after}"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table

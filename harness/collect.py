"""From a store to the tables a report is made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

from harness.beside import failures
from harness.config import Evaluate
from harness.grid import Grid, Resolved, evaluation_id
from harness.robustness import flips
from harness.schema import ATTEMPTS, CELLS, CURVES, FLIPS, ROWS, Table
from harness.search import account
from harness.store import Extent, Store
from harness.work import missing

if TYPE_CHECKING:
    import polars as pl
    import pyarrow

    from reports.data import ReportData

READERS = 8
"""Cells whose files are read at the same time: a store may be far away."""
EXAMPLES = 4
"""Failed problems of a row file whose long texts a report gets."""
TEXTS = ("problem", "question", "context", "output", "rollout")
"""What is too long to be kept of a million rows."""


def report_data(grid: Grid, store: Store, shortened: Sequence[str] = TEXTS) -> ReportData:
    """Everything the store knows of a grid's cells, at the lengths and with the settings the grid asks for.

    Rows have their long texts (`shortened`) with the first failed problems of each point only, and null elsewhere.
    """
    from reports.data import ReportData, frame

    attempts = store.attempts({cell.id for cell in grid.cells})
    about = {
        "name": grid.file.name,
        "title": grid.file.title,
        "description": grid.file.description,
        "text": grid.text,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "evaluate": grid.file.evaluate.model_dump(),
        "search": account(grid, store),
    }
    with ThreadPoolExecutor(READERS) as readers:

        def of_each(read: Callable[[Resolved], Any]) -> list[Any]:
            return list(readers.map(read, grid.cells))

        cells = frame(CELLS, of_each(lambda cell: describe(cell, grid.evaluate(cell), store, attempts)))
        rows = _below(ROWS, of_each(lambda cell: row_table(cell, grid.evaluate(cell), store, shortened)))
        return ReportData(
            grid=about,
            cells=cells,
            rows=rows,
            curves=_below(CURVES, of_each(lambda cell: curve_table(cell, store))),
            attempts=frame(ATTEMPTS, attempts),
            flips=frame(
                FLIPS, list(chain.from_iterable(of_each(lambda cell: flips(cell, grid.evaluate(cell), store))))
            ),
            failures=failures(grid, cells, rows),
        )


def _below(kind: Table, tables: list[pl.DataFrame | None]) -> pl.DataFrame:
    """Tables one below the other, with exactly the columns of `kind`; one that was not known then is null."""
    import polars as pl

    from reports.data import frame

    known = [frame(kind, []), *(table for table in tables if table is not None)]
    return pl.concat(known, how="diagonal", rechunk=False).select(list(kind))  # a copy would double the memory


def _asked_for(cell: Resolved, evaluate: Evaluate, store: Store) -> list[Extent]:
    """The cell's row files that answer the grid's question: its weights, settings, lengths and problems."""
    published = store.published(cell.id)
    if published is None:
        return []
    sets, evaluation, checkpoint = {"random", *evaluate.stress}, evaluation_id(evaluate), published["checkpoint"][:16]
    return [
        extent
        for extent in store.extents(cell.id)
        if (extent.checkpoint, extent.evaluation) == (checkpoint, evaluation)
        and extent.length in evaluate.lengths
        and extent.stress in sets
        and extent.start < evaluate.problems
    ]


def rows_of(cell: Resolved, evaluate: Evaluate, store: Store) -> list[dict[str, Any]]:
    """The cell's rows that answer the grid's question, with everything they hold."""
    return [row for row in store.rows(cell.id, _asked_for(cell, evaluate, store)) if row["index"] < evaluate.problems]


def row_table(
    cell: Resolved, evaluate: Evaluate, store: Store, shortened: Sequence[str] = TEXTS
) -> pl.DataFrame | None:
    """The same rows as a table, the long texts with the first failures of each file only."""
    import polars as pl
    import pyarrow

    extents = _asked_for(cell, evaluate, store)
    if not extents:
        return None
    files = (f"cells/{cell.id}/rows/{extent.file}" for extent in extents)
    whole = pyarrow.concat_tables(
        [_shortened(store.arrow(file, ROWS), shortened) for file in files], promote_options="default"
    )
    rows = pl.DataFrame(whole)
    # Mostly there is nothing to do, and for a million rows every copy counts.
    if len({(extent.length, extent.stress) for extent in extents}) < len(extents):
        rows = rows.unique(["length", "stress", "index"], keep="first", maintain_order=True)
    if (rows["index"] >= evaluate.problems).any():
        rows = rows.filter(pl.col("index") < evaluate.problems)
    return rows


def _shortened(rows: pyarrow.Table, texts: Sequence[str]) -> pyarrow.Table:
    """The rows of a file with the long texts of the first failed problems only. In Arrow, since Polars would keep the
    memory of all of them alive; by `take`, since `if_else` would, too."""
    import numpy
    import pyarrow

    failed = rows["failure"].is_valid().to_numpy()
    places = pyarrow.array(numpy.arange(len(failed)), mask=~(failed & (numpy.cumsum(failed) <= EXAMPLES)))
    for name in texts:
        if name in rows.column_names:
            place = rows.column_names.index(name)
            rows = rows.set_column(place, rows.field(place), rows[name].take(places))
    return rows


def curve_table(cell: Resolved, store: Store) -> pl.DataFrame | None:
    """The training curve of the cell's published weights."""
    import polars as pl

    file = store.curve_file(cell.id)
    return None if file is None else pl.DataFrame(store.arrow(file, CURVES))


def describe(cell: Resolved, evaluate: Evaluate, store: Store, attempts: list[dict[str, Any]]) -> dict[str, Any]:
    """One line of the table of cells."""
    config, published = cell.config, store.published(cell.id)
    known = {name: (published or {}).get(name) for name in CELLS if name in (published or {})}
    status, reason = status_of(cell, evaluate, store, attempts)
    return {
        **known,
        "cell": cell.id,
        "name": cell.name,
        **{field: getattr(config, field) for field in ("task", "form", "setting", "tool", "architecture", "size")},
        "seed": config.seed,
        "replicate": config.replicate,
        "max_length": config.train.max_length,
        "config": json.dumps(config.model_dump()),
        "status": status,
        "reason": reason,
    }


def status_of(
    cell: Resolved, evaluate: Evaluate, store: Store, attempts: list[dict[str, Any]]
) -> tuple[str, str | None]:
    """Where a cell stands, and for a failed one why (its last attempt's reason)."""
    todo = missing(cell, evaluate, store)
    if not todo:
        return "done", None
    last = [attempt for attempt in attempts if attempt["cell"] == cell.id][-1:]
    outcome = last[0]["outcome"] if last else "none"
    if outcome in ("failed", "lost"):
        return "failed", last[0].get("reason")
    if outcome == "running":
        return ("training" if todo.training else "evaluating"), None
    return "waiting", None

"""From a store to the tables a report is made of."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from harness.beside import chosen, failures
from harness.config import Evaluate
from harness.grid import Grid, Resolved, evaluation_id
from harness.robustness import flips
from harness.schema import ATTEMPTS, CELLS, CURVES, FLIPS, ROWS, Table
from harness.search import account
from harness.store import Extent, Held, Store, arrow_schema, by_cell, curve_file
from harness.work import Missing, lacking

if TYPE_CHECKING:
    import polars as pl
    import pyarrow

    from reports.data import ReportData

READERS = 8
"""Cells whose files are read at the same time: a store may be far away."""
BLOCK = 64
"""Cells whose rows become one piece of a table: a piece a cell would take longer than reading it."""


def report_data(grid: Grid, store: Store) -> ReportData:
    """Everything the store knows of a grid's cells, at the lengths and with the settings the grid asks for; of the
    rows the columns COUNTED, and of a few failed problems everything."""
    data = tables(grid, store)
    cells = {cell.id: cell for cell in grid.cells}

    def whole(of: dict[str, Any]) -> dict[str, Any]:
        cell = cells[of["cell"]]
        return whole_row(cell, grid.evaluate(cell), store, of)

    return replace(data, failures=failures(grid, map(whole, chosen(data.cells, data.rows))))


def tables(grid: Grid, store: Store, further: Collection[str] = ()) -> ReportData:
    """The same without failed problems. `further`: columns of the rows beside COUNTED."""
    import polars as pl

    from reports.data import COUNTED, ReportData, frame

    attempts = store.attempts({cell.id for cell in grid.cells})
    own = by_cell(attempts)
    columns = [name for name in ROWS if name in COUNTED or name in further]
    about = {
        "name": grid.file.name,
        "title": grid.file.title,
        "description": grid.file.description,
        "text": grid.text,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "evaluate": grid.file.evaluate.model_dump(),
        "search": account(grid, store),
    }

    def read(cell: Resolved) -> tuple[Any, ...]:
        evaluate, held = grid.evaluate(cell), store.held(cell.id)
        return (
            describe(cell, evaluate, held, own.get(cell.id, [])),
            row_table(cell, evaluate, store, held, columns),
            curve_table(cell, store, held),
            flips(cell, evaluate, store, held),
        )

    cells: list[dict[str, Any]] = []
    flipped: list[dict[str, Any]] = []
    rows, curves = [_below(ROWS, [], columns)], [_below(CURVES, [], CURVES)]
    with ThreadPoolExecutor(READERS) as readers:
        found = readers.map(read, grid.cells)
        while block := list(islice(found, BLOCK)):
            described, tables_of_rows, tables_of_curves, flips_found = zip(*block)
            cells += described
            rows.append(_below(ROWS, tables_of_rows, columns))
            curves.append(_below(CURVES, tables_of_curves, CURVES))
            flipped += chain.from_iterable(flips_found)
    return ReportData(
        grid=about,
        cells=frame(CELLS, cells),
        rows=pl.concat(rows, rechunk=False),  # a copy would double the memory
        curves=pl.concat(curves, rechunk=False),
        attempts=frame(ATTEMPTS, attempts),
        flips=frame(FLIPS, flipped),
    )


def _below(kind: Table, tables: Iterable[pyarrow.Table | None], columns: Iterable[str]) -> pl.DataFrame:
    """Tables one below the other, with exactly these columns of `kind`; one that was not known then is null."""
    import polars as pl
    import pyarrow

    from reports.data import frame

    schema = arrow_schema({name: kind[name] for name in columns})
    known = [frame(kind, []).select(schema.names).to_arrow().cast(schema)]
    known += [table for table in tables if table is not None]
    return pl.DataFrame(pyarrow.concat_tables(known, promote_options="default").combine_chunks())


def _asked_for(evaluate: Evaluate, held: Held) -> list[Extent]:
    """The cell's row files that answer the grid's question: its weights, settings, lengths and problems."""
    if held.published is None:
        return []
    sets, evaluation, checkpoint = {"random", *evaluate.stress}, evaluation_id(evaluate), held.published["checkpoint"]
    return [
        extent
        for extent in held.extents
        if (extent.checkpoint, extent.evaluation) == (checkpoint[:16], evaluation)
        and extent.length in evaluate.lengths
        and extent.stress in sets
        and extent.start < evaluate.problems
    ]


def rows_of(cell: Resolved, evaluate: Evaluate, store: Store) -> list[dict[str, Any]]:
    """The cell's rows that answer the grid's question, with everything they hold."""
    extents = _asked_for(evaluate, store.held(cell.id))
    return [row for row in store.rows(cell.id, extents) if row["index"] < evaluate.problems]


def row_table(
    cell: Resolved, evaluate: Evaluate, store: Store, held: Held, columns: Collection[str]
) -> pyarrow.Table | None:
    """Columns of the same rows as a table: texts take most of the time to read."""
    import polars as pl
    import pyarrow

    extents = _asked_for(evaluate, held)
    if not extents:
        return None
    files = (f"cells/{cell.id}/rows/{extent.file}" for extent in extents)
    whole = pyarrow.concat_tables([store.arrow(file, ROWS, columns) for file in files], promote_options="default")
    # Mostly there is nothing more to do, and for a million rows every copy counts.
    once = len({(extent.length, extent.stress) for extent in extents}) == len(extents)
    if once and all(extent.stop <= evaluate.problems for extent in extents):
        return whole
    rows = pl.DataFrame(whole).unique(["length", "stress", "index"], keep="first", maintain_order=True)
    return rows.filter(pl.col("index") < evaluate.problems).to_arrow().cast(whole.schema)


def whole_row(cell: Resolved, evaluate: Evaluate, store: Store, of: Mapping[str, Any]) -> dict[str, Any]:
    """One of the same rows, with everything it holds: that of the `length`, `stress` and `index` of `of`."""
    import polars as pl

    index = of["index"]
    extent = next(
        extent
        for extent in _asked_for(evaluate, store.held(cell.id))
        if (extent.length, extent.stress) == (of["length"], of["stress"]) and extent.start <= index < extent.stop
    )
    rows = pl.DataFrame(store.arrow(f"cells/{cell.id}/rows/{extent.file}", ROWS))
    return dict.fromkeys(ROWS) | rows.row(by_predicate=pl.col("index") == index, named=True)


def curve_table(cell: Resolved, store: Store, held: Held) -> pyarrow.Table | None:
    """The training curve of the cell's published weights."""
    if held.published is None:
        return None
    return store.arrow(curve_file(cell.id, held.published["checkpoint"]), CURVES)


def describe(cell: Resolved, evaluate: Evaluate, held: Held, attempts: list[dict[str, Any]]) -> dict[str, Any]:
    """One line of the table of cells."""
    config, published = cell.config, held.published or {}
    known = {name: published[name] for name in CELLS if name in published}
    status, reason = status_of(lacking(evaluate, held), attempts)
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


def status_of(todo: Missing, attempts: list[dict[str, Any]]) -> tuple[str, str | None]:
    """Where a cell of these attempts stands, and for a failed one why (its last attempt's reason)."""
    if not todo:
        return "done", None
    last = attempts[-1:]
    outcome = last[0]["outcome"] if last else "none"
    if outcome in ("failed", "lost"):
        return "failed", last[0].get("reason")
    if outcome == "running":
        return ("training" if todo.training else "evaluating"), None
    return "waiting", None

"""From a store to the tables a report is made of."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from harness.config import Evaluate
from harness.grid import Grid, Resolved, evaluation_id
from harness.schema import ATTEMPTS, CELLS, CURVES, ROWS
from harness.search import account
from harness.store import Store
from harness.work import missing

if TYPE_CHECKING:
    from reports.data import ReportData


def report_data(grid: Grid, store: Store) -> ReportData:
    """Everything the store knows of a grid's cells, at the lengths and with the settings the grid asks for."""
    from reports.data import ReportData, frame

    attempts = store.attempts({cell.id for cell in grid.cells})
    rows = [row for cell in grid.cells for row in rows_of(cell, grid.evaluate(cell), store)]
    about = {
        "name": grid.file.name,
        "title": grid.file.title,
        "description": grid.file.description,
        "text": grid.text,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "evaluate": grid.file.evaluate.model_dump(),
        "search": account(grid, store),
    }
    return ReportData(
        grid=about,
        cells=frame(CELLS, [describe(cell, grid.evaluate(cell), store, attempts) for cell in grid.cells]),
        rows=frame(ROWS, rows),
        curves=frame(CURVES, [record for cell in grid.cells for record in store.curve(cell.id)]),
        attempts=frame(ATTEMPTS, attempts),
    )


def rows_of(cell: Resolved, evaluate: Evaluate, store: Store) -> list[dict[str, Any]]:
    """The cell's rows that answer the grid's question: its weights, evaluation settings, lengths and problems."""
    published = store.published(cell.id)
    if published is None:
        return []
    asked, evaluation = {"random", *evaluate.stress}, evaluation_id(evaluate)
    return [
        row
        for row in store.rows(cell.id)
        if row["checkpoint"] == published["checkpoint"]
        and row["evaluation"] == evaluation
        and row["length"] in evaluate.lengths
        and row["stress"] in asked
        and row["index"] < evaluate.problems
    ]


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

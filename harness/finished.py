"""Whether anything has changed since a grid was finished: if not, its report and its MLflow runs stand as they are."""

from __future__ import annotations

import json

from harness.errors import redacted
from harness.grid import Grid, digest
from harness.store import Store
from harness.work import versions


def fingerprint(grid: Grid, store: Store) -> str | None:
    """Hash of all that a report is made of: grid, code, weights, row files, attempts; None with uncommitted code."""
    code = versions()
    if "+changes" in code:
        return None
    cells = []
    for cell in grid.cells:
        held = store.held(cell.id)
        rows = [extent.file for extent in held.extents]
        cells.append([cell.id, cell.name, (held.published or {}).get("checkpoint"), rows])
    return digest([code, grid.text, cells, store.names("ledger")])


def finish(grid: Grid, store: Store, mlflow: str | None) -> None:
    """Note that report and MLflow runs (at `mlflow`) say all there is to say."""
    record = {"fingerprint": fingerprint(grid, store), "mlflow": mlflow and redacted(mlflow)}
    store.write(_file(grid), json.dumps(record).encode())


def stands(grid: Grid, store: Store, mlflow: str | None) -> bool:
    """Whether the grid was finished, with its runs at `mlflow` unless that is None, and nothing has changed since."""
    noted = store.read_json(_file(grid))
    if noted is None or noted.get("fingerprint") is None:
        return False
    if mlflow is not None and redacted(mlflow) != noted.get("mlflow"):
        return False
    return bool(noted["fingerprint"] == fingerprint(grid, store))


def _file(grid: Grid) -> str:
    return f"grids/{grid.file.name}/finished.json"

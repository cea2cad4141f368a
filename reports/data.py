"""What a report is made from: the grid and four typed tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl

from harness.schema import ATTEMPTS, CELLS, CURVES, FLIPS, Table

_TYPES = {"string": pl.String, "int64": pl.Int64, "double": pl.Float64, "bool": pl.Boolean}

COUNTED = (
    *("cell", "length", "stress", "index", "exact", "answer_right", "token_accuracy", "divergence", "divergence_step"),
    *("failure", "near_tie", "replay_equal", "chance", "corrupt", "tokens", "own_tokens", "steps", "tool_calls"),
    *("longest_walk", "work", "pairs", "pairs_unseen", "rollout_tokens", "seconds", "peak_bytes", "state_bytes"),
    *("flops", "device", "kernels", "precision", "mode", "margin"),
)
"""Columns of ROWS that a report counts; the others it shows, of a few failed problems."""

Known = Literal["whole", "part", "wrong token"]


@dataclass
class Track:
    """What one side did from a token of a trajectory on, and what its tool held. Offsets count from that token."""

    tokens: list[str] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    """One per token: question, thought, command, observation, output or end."""
    memory: list[str] = field(default_factory=list)
    """The cells of the tool's memory once the first token had been taken."""
    pointers: dict[str, int] = field(default_factory=dict)
    """Name of a pointer -> the cell it then stood on."""
    edits: list[tuple[int, int, int, list[str]]] = field(default_factory=list)
    """What later tokens changed: offset of the token, the cell from which on, how many cells went, what came."""
    moves: list[tuple[int, dict[str, int]]] = field(default_factory=list)
    """Pointers that later tokens moved: offset of the token, where they then stood."""


@dataclass(frozen=True)
class Failure:
    """A failed problem, and where it could be replayed, oracle and model side by side from position `start` on."""

    row: dict[str, Any]
    """Its columns of ROWS."""
    start: int = 0
    steps: list[tuple[int, int, str]] = field(default_factory=list)
    """Where the oracle's solver steps begin: offset, number, name. The first may have begun before `start`."""
    oracle: Track | None = None
    model: Track | None = None
    known: Known = "wrong token"
    """What is known of the model's tokens from the divergence on."""


@dataclass(frozen=True)
class ReportData:
    """One grid and everything known of its cells. Any table may be empty, any value null.

    Rows hold one evaluation of one checkpoint per cell, a problem of a point once, and of ROWS at least COUNTED.
    """

    grid: dict[str, Any]
    """name, title, description, text (the grid file), when (UTC, ISO 8601), evaluate (its evaluation settings),
    search (its choices of recipes, as `harness.search.account` gives them); every key may be missing."""
    cells: pl.DataFrame
    rows: pl.DataFrame
    curves: pl.DataFrame
    attempts: pl.DataFrame
    flips: pl.DataFrame = field(default_factory=lambda: frame(FLIPS, []))
    """The same problems judged by the same weights in another way."""
    failures: list[Failure] = field(default_factory=list)
    """A few failed problems to look at, those to show first coming first."""

    def __post_init__(self) -> None:
        for name, table in (
            ("cells", CELLS),
            ("rows", COUNTED),
            ("curves", CURVES),
            ("attempts", ATTEMPTS),
            ("flips", FLIPS),
        ):
            if missing := set(table) - set(getattr(self, name).columns):
                raise ValueError(f"{name}: the columns {', '.join(sorted(missing))} are missing; build it with `frame`")


def frame(table: Table, records: list[dict[str, Any]]) -> pl.DataFrame:
    """Records as a data frame with exactly the columns of `table`; a column a record leaves out is null there.

    Raises ValueError when a record has a column the table does not know or a value of another type.
    """
    unknown = sorted({key for record in records for key in record} - table.keys())
    if unknown:
        raise ValueError(f"unknown columns {', '.join(unknown)}; allowed: {', '.join(table)}")
    schema = {name: _TYPES[kind] for name, (kind, _) in table.items()}
    columns = {name: [record.get(name) for record in records] for name in table}
    try:
        return pl.DataFrame(columns, schema=schema)
    except (TypeError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"a value does not have its column's type: {' '.join(str(error).split())}") from error

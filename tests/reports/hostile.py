"""Report data whose every text wants to become a script of the page."""

from __future__ import annotations

import json
from dataclasses import replace

import polars as pl

from harness.schema import ATTEMPTS, CELLS, FLIPS, ROWS, Table
from reports.data import Failure, ReportData, Track

EVIL = (
    """'"></script></title></textarea></style><script>window.pwned=1</script><img src=x onerror=window.pwned=1>"""
    """<svg onload=window.pwned=1><a href="javascript:window.pwned=1">a</a>&lt;b&gt;{{7*7}}<!--"""
)
"""Ends whatever it may stand in, then runs a script in each of the ways there are."""
_KEPT = {"cell", "status", "failure", "stress", "config", "train_tokens_by_task"}
"""Columns whose values mean something to the report; they are made evil without losing that."""


def _evil(table: pl.DataFrame, schema: Table) -> pl.DataFrame:
    """Every text of a table made evil; those that tell lines apart still do."""
    kept = [name for name in _KEPT & schema.keys() if name in ("cell", "stress")]
    texts = [name for name, (kind, _) in schema.items() if kind == "string" and name not in _KEPT]
    identity = {"task", "setting", "tool", "architecture", "name", "form", "size"} & set(texts)
    return table.with_columns(
        *(pl.lit(EVIL).alias(name) for name in texts if name not in identity),
        *(pl.concat_str(pl.col(name), pl.lit(EVIL)).alias(name) for name in sorted(identity)),
        *(
            pl.when(pl.col(name) == "random").then(pl.col(name)).otherwise(pl.col(name) + pl.lit(EVIL)).alias(name)
            for name in kept
        ),
    )


def _evil_failure(failure: Failure) -> Failure:
    told = {name: value + EVIL for name, value in failure.row.items() if isinstance(value, str)}
    return replace(
        failure,
        row=failure.row | told,
        steps=[(at, number, name + EVIL) for at, number, name in failure.steps],
        oracle=failure.oracle and _evil_track(failure.oracle),
        model=failure.model and _evil_track(failure.model),
    )


def _evil_track(track: Track) -> Track:
    return Track(
        [token + EVIL for token in track.tokens],
        track.roles,
        [cell + EVIL for cell in track.memory],
        {name + EVIL: at for name, at in track.pointers.items()},
        [(at, start, gone, [cell + EVIL for cell in came]) for at, start, gone, came in track.edits],
        [(at, {name + EVIL: to for name, to in moved.items()}) for at, moved in track.moves],
    )


def hostile(data: ReportData) -> ReportData:
    """Data with hostile text in every column and every key of the grid."""
    cells = _evil(data.cells, CELLS)
    config = json.dumps({"train": {EVIL: EVIL}})
    odd = pl.when(pl.col("seed") == 0).then(pl.lit(config)).otherwise(pl.lit("{}"))
    recipe = {EVIL: 0.001}
    tried = [{"recipe": recipe, "trials": [EVIL], "exact": 1.0, "loss": 0.1, "flops": 1.0, "failed": 0}]
    record = {"name": EVIL, "rule": EVIL, "winner": recipe, "tried": tried}
    return ReportData(
        grid={
            **{name: EVIL for name in ("name", "title", "description", "text", "when")},
            "evaluate": {EVIL: EVIL, "stress": [EVIL]},
            "search": [{"name": EVIL, "record": record}, {"name": EVIL, "record": None}],
        },
        cells=cells.with_columns(
            odd.alias("config"),
            pl.lit(json.dumps({EVIL: 1, "addition": 2})).alias("train_tokens_by_task"),
            pl.when(pl.col("status") == "waiting").then(pl.lit(EVIL)).otherwise("status").alias("status"),
        ),
        rows=_evil(data.rows, ROWS).with_columns(
            pl.when(pl.col("index") == 1).then(pl.col("failure") + pl.lit(EVIL)).otherwise("failure").alias("failure")
        ),
        curves=data.curves.with_columns(pl.col("cell") + pl.lit(EVIL)),
        attempts=_evil(data.attempts, ATTEMPTS),
        flips=_evil(data.flips, FLIPS),
        failures=[_evil_failure(failure) for failure in data.failures],
    )

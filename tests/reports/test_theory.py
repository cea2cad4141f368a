"""Theorems as numbers in the table of costs: the bound of a fixed state, and the pairs a table never read."""

from dataclasses import replace

import polars as pl

from reports.costs import cost
from reports.view import View


def shown(data, **columns):
    cells = data.cells.with_columns(**{name: value for name, value in columns.items() if name in data.cells.columns})
    rows = data.rows.with_columns(**{name: value for name, value in columns.items() if name in data.rows.columns})
    return str(cost(View(replace(data, cells=cells, rows=rows))))


def test_the_bound_or_why_there_is_none(demo):
    assert "59,185" in shown(demo(problems=4), bound=pl.lit(59_185, dtype=pl.Int64))
    assert "none: state grows" in shown(demo(problems=4), no_bound=pl.lit("none: state grows"))
    assert "none: state grows" not in shown(demo(problems=4))


def test_pairs_never_read_stand_in_the_table_by_length(demo):
    text = shown(demo(problems=4), pairs=pl.lit(12, dtype=pl.Int64), pairs_unseen=pl.lit(3, dtype=pl.Int64))
    assert "3 of 12" in text
    assert "never read" in text
    assert "never read" not in shown(demo(problems=4))

"""The aggregated tables inside the page, to be saved as CSV: what the figures were drawn from, without the store."""

from __future__ import annotations

import polars as pl
import polars.selectors as cs

from reports.markup import Markup, element, packed
from reports.points import points
from reports.view import View


def downloads(view: View) -> Markup | None:
    """A link per table that has lines. They are `data:` links, packed; download.js unpacks what is saved."""
    found = {name: (table, said) for name, (table, said) in tables(view).items() if table.height}
    items = [element("li", _link(name, table), f" {said}") for name, (table, said) in found.items()]
    return element("ul", items, class_="note") if items else None


def tables(view: View) -> dict[str, tuple[pl.DataFrame, str]]:
    """File name -> table and what it holds."""
    cells = view.cells.drop("problems", "near_ties", "replayed", "replayed_equal", "rollout_tokens")
    return {
        "points.csv": (points(view), "a line per run, length and problem set: counts, shares, intervals, reach, costs"),
        "cells.csv": (cells, "a line per run: configuration, budget, reach, versions, why it failed"),
        "seeds.csv": (
            view.solved,
            "a line per architecture and length: how many seeds solve it, and what to expect of another",
        ),
        "flips.csv": (view.data.flips, "verdicts that flip when the same weights are judged in another way"),
    }


def _link(name: str, table: pl.DataFrame) -> Markup:
    text = table.with_columns(cs.float().round_sig_figs(6)).write_csv()
    return element("a", name, href=f"data:application/gzip;base64,{packed(text)}", download=f"{name}.gz")

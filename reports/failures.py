"""How problems fail: the class of their first error, by length."""

from __future__ import annotations

import polars as pl

from harness.schema import FAILURES
from reports import aggregate, figures
from reports.markup import Markup, element
from reports.parts import by_architecture, figure, note, panels, part, section
from reports.view import View

_COLUMNS = [f"failure_{name}" for name in FAILURES]


def failures(view: View) -> Markup | None:
    """Stacked bars for every architecture that fits and fails somewhere, pooled over its seeds."""
    fit = view.random.filter(~pl.col("unfit") & (pl.sum_horizontal(_COLUMNS).sum().over(aggregate.GROUP) > 0))
    if fit.is_empty():
        return None
    pooled = fit.group_by(*aggregate.GROUP, "length").agg(pl.col("n", *_COLUMNS).sum())
    parts: list[Markup] = []
    for facet in view.facets:
        drawn = [
            figure(name, _detail(recipe, own), figures.failures(own), {**facet.values, "architecture": name})
            for name, recipe, own in by_architecture(facet.of(pooled))
        ]
        if drawn:
            parts.append(part(facet, panels(drawn, "panels small")))
    text = "Share of the problems of every length by the class of their first error, seeds pooled, unfit runs left out."
    return section("failures", "How problems fail", note(text), _legend(pooled), *parts)


def _detail(recipe: str, own: pl.DataFrame) -> str:
    """The recipe, where they differ, and how many problems a bar is a share of."""
    least, *_, most = 2 * sorted(own["n"])
    counts = f"n = {least:,}" if least == most else f"n = {least:,} to {most:,}"
    return f"{recipe} · {counts}" if recipe else counts


def _legend(pooled: pl.DataFrame) -> Markup:
    seen = [name for name in FAILURES if pooled[f"failure_{name}"].sum()]
    keys = [
        element("span", element("i", style=f"background:{figures.FAILURE_COLOURS[name]}"), name.replace("_", " "))
        for name in seen
    ]
    return element("p", keys, class_="legend")

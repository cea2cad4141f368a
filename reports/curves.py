"""Accuracy against length: the random problems, then every stress set."""

from __future__ import annotations

import polars as pl

from reports import aggregate, figures
from reports.markup import Markup, element
from reports.parts import figure, note, panels, section
from reports.view import View

_TITLES = {"exact": "Whole trajectory exact", "answer": "Answer right"}


def curves(view: View) -> Markup:
    """Exact trajectories, then right answers, against length on random problems."""
    if view.random.is_empty():
        return section("curves", "Accuracy against length", note("No point has been evaluated yet."))
    parts: list[Markup] = []
    for measure, title in _TITLES.items():
        if drawn := _panels(view, view.random, measure):
            parts += [element("h3", title), panels(drawn)]
    text = (
        "One line per seed; the grey band is the training range. Markers stand slightly beside their length so that "
        "they do not hide each other; hover for counts and 95% intervals. Where only some of the diverged problems "
        "were rolled out, the share of right answers weighs those for all that diverged. A dotted grey line is chance: "
        "what the best answer given blindly would get."
    )
    return section("curves", "Accuracy against length", note(text), *parts)


def stress(view: View) -> Markup | None:
    """The same curves on every other set of problems."""
    points = view.points.filter(pl.col("stress") != aggregate.RANDOM)
    if points.is_empty():
        return None
    parts: list[Markup] = []
    for (name,), own in points.sort("stress").group_by("stress", maintain_order=True):
        measure = "exact" if own["exact"].count() else "answer"
        parts += [
            element("h3", str(name), element("small", _TITLES[measure].lower())),
            panels(_panels(view, own, measure)),
        ]
    text = "Problems chosen to be hard in one way, at the same lengths. No summary on this page counts them."
    return section("stress", "Stress sets", note(text), *parts)


def _panels(view: View, points: pl.DataFrame, measure: str) -> list[Markup]:
    return [
        figure(facet.title, facet.detail, figures.curves(own, measure, view.looks), facet.values)
        for facet in view.facets
        if (own := facet.of(points))[measure].count()
    ]

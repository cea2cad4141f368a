"""Accuracy against length: the random problems, then every stress set."""

from __future__ import annotations

import re

import polars as pl

from reports import aggregate, figures
from reports.markup import Markup, element
from reports.parts import figure, note, panels, section, single_runs
from reports.view import View

_TITLES = {"exact": "Whole trajectory exact", "answer": "Answer right"}


def curves(view: View) -> Markup:
    """Exact trajectories, then right answers, against length on random problems."""
    if view.random.is_empty():
        return section("curves", "Accuracy against length", note("No point has been evaluated yet."))
    parts: list[Markup] = []
    for measure, title in _TITLES.items():
        if drawn := _panels(view, view.singles(view.random), measure):
            parts += [element("h3", title), panels(drawn)]
    text = (
        "One line per seed; the grey band is the training range. Markers stand slightly beside their length so that "
        "they do not hide each other; hover for counts and 95% intervals. Where only some of the diverged problems "
        "were rolled out, the share of right answers weighs those for all that diverged. A dotted grey line is chance: "
        "what the best answer given blindly would get."
    )
    return section("curves", "Accuracy against length", note(text), single_runs(view), *parts)


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
            panels(_panels(view, view.singles(own), measure)),
        ]
    text = "Problems chosen to be hard in one way, at the same lengths. No summary on this page counts them."
    return section("stress", "Stress sets", note(text), *parts)


def _panels(view: View, points: pl.DataFrame, measure: str) -> list[Markup]:
    """A panel per facet; where an architecture has several recipes there, one per recipe, so that lines can be told
    apart."""
    drawn = []
    for facet in view.facets:
        own = facet.of(points)
        several = own.select(pl.col("recipe").n_unique().over("architecture")).max().item()
        recipes: list[str | None] = [None]
        if (several or 0) > 1:
            recipes = [*sorted(own["recipe"].unique().to_list(), key=_numbers)]
        for recipe in recipes:
            lines = own if recipe is None else own.filter(pl.col("recipe") == recipe)
            if lines[measure].count():
                detail = facet.detail if not recipe else f"{facet.detail} · {recipe}"
                drawn.append(figure(facet.title, detail, figures.curves(lines, measure, view.looks), facet.values))
    return drawn


def _numbers(recipe: str) -> list[tuple[float, str]]:
    """Sort key of a recipe: numbers by their size, so that 250 steps stand before 1000."""
    return [(float(part), "") if part[:1].isdigit() else (0.0, part) for part in re.split(r"(\d+(?:\.\d+)?)", recipe)]

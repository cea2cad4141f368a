"""What the sections of the page are put together from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import plotly.graph_objects as go
import polars as pl

from reports import style
from reports.legend import swatch
from reports.markup import Markup, element
from reports.view import Facet, View


def section(name: str, title: str, *children: object) -> Markup:
    return element("section", element("h2", title), *children, id=name)


def note(*text: object) -> Markup:
    """Small print: how to read what follows."""
    return element("p", *text, class_="note")


def heading(facet: Facet) -> Markup:
    return element("h3", facet.title, element("small", facet.detail))


def figure(title: str, detail: str | None, plot: go.Figure) -> Markup:
    """One panel: a caption, a place to draw, and the figure's JSON, which the page's script draws.

    The JSON cannot end its script element: `<` is written as an escape.
    """
    specification = Markup(str(plot.to_json()).replace("<", "\\u003c"))
    caption = element("figcaption", element("b", title), element("small", detail) if detail else None)
    label = f"{title}, {detail}" if detail else title
    height = f"height:{plot.layout.height}px"
    place = element("div", class_="plot", role="img", aria_label=label, style=height)
    return element("figure", caption, place, element("script", specification, type="application/json"))


def panels(figures: Sequence[Markup], class_: str = "panels") -> Markup:
    """Small multiples side by side, as many as the page is wide enough for."""
    return element("div", *figures, class_=class_)


def architecture(view: View, name: str, recipe: str) -> Markup:
    """Swatch, name and, where recipes differ, the recipe."""
    shown = element("small", recipe) if recipe else None
    return element("span", swatch(view.looks[name]), element("span", name or "unnamed", shown), class_="who")


def by_architecture(table: pl.DataFrame) -> Iterator[tuple[str, str, pl.DataFrame]]:
    """Architecture, recipe and their lines, in the order of the legend."""

    def order(group: tuple[tuple[Any, ...], pl.DataFrame]) -> tuple[Any, ...]:
        (name, recipe), _ = group
        return (style.order(name), recipe)

    for (name, recipe), own in sorted(table.group_by("architecture", "recipe"), key=order):
        yield str(name), str(recipe), own

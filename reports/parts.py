"""What the sections of the page are put together from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from reports import graph as go
from reports import style
from reports.legend import swatch
from reports.marks import marks
from reports.markup import Markup, element, packed
from reports.view import Facet, View


def section(name: str, title: str, *children: object) -> Markup:
    return element("section", element("h2", title), *children, id=name)


def note(*text: object) -> Markup:
    """Small print: how to read what follows."""
    return element("p", *text, class_="note")


def single_runs(view: View) -> Markup | None:
    """What a section says that shows runs one by one, where they are too many for that."""
    if view.single.height == view.cells.height:
        return None
    text = (
        f"Of {view.cells.height:,} runs {view.single.height:,} are shown one by one, of every architecture and recipe "
        "the first seeds; what is said of seeds together counts all of them. Every run stands in "
    )
    link = element("a", "points.csv and cells.csv", href="#run")
    return note(text, link, " and in what `lengthwise report --format csv` writes.")


def heading(facet: Facet) -> Markup:
    return element("h3", facet.title, element("small", facet.detail), **marks(facet.values))


def part(facet: Facet, *children: object) -> Markup:
    """What a section says of one panel, under its heading; filters of task and setting hide it as a whole."""
    return element("div", heading(facet), *children, **marks(facet.values))


def figure(title: str, detail: str | None, plot: go.Figure, about: Mapping[str, Any] | None = None) -> Markup:
    """One panel: a caption, a place to draw, the figure's JSON (packed; the page's script draws it), and its numbers,
    which the script writes when they are opened: the alternative for who cannot see the figure.

    `about`: whom all of it is about (`Facet.values`, with the architecture where it is of one), for the filters; what
    single traces are about stands in their `meta` (`reports.marks.about`).
    """
    caption = element("figcaption", element("b", title), element("small", detail) if detail else None)
    label = f"{title}, {detail}" if detail else title
    height = f"height:{plot.layout['height']}px"
    place = element("div", class_="plot", role="img", aria_label=f"{label}; numbers below", style=height)
    specification = element("script", packed(plot.to_json()), type="application/gzip")
    numbers = element("details", element("summary", "Numbers"), element("div", tabindex="0"), class_="numbers-of")
    return element("figure", caption, place, specification, numbers, **marks(about or {}))


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

"""Figures as HTML: a caption, a place to draw and the figure's JSON, which the page's script draws."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from reports.markup import Markup, element


def figure(title: str, detail: str | None, plot: go.Figure) -> Markup:
    """One panel. The JSON cannot end its script element: `<` is written as an escape."""
    specification = Markup(str(plot.to_json()).replace("<", "\\u003c"))
    caption = element("figcaption", element("b", title), element("small", detail) if detail else None)
    place = element(
        "div", class_="plot", role="img", aria_label=f"{title}, {detail}", style=f"height:{plot.layout.height}px"
    )
    return element("figure", caption, place, element("script", specification, type="application/json"))


def panels(figures: Sequence[Markup], class_: str = "panels") -> Markup:
    """Small multiples side by side, as many as the page is wide enough for."""
    return element("div", *figures, class_=class_)

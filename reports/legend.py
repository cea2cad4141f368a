"""The one legend of the page: inline SVG swatches that match Plotly's dashes and markers."""

from __future__ import annotations

import math

from reports import style
from reports.markup import Markup, element

_DASHES = {
    "solid": None,
    "dash": "6 4",
    "dot": "2 3",
    "dashdot": "6 3 2 3",
    "longdash": "10 4",
    "longdashdot": "9 3 2 3",
}


def _polygon(corners: int, turn: float = 0.0, inner: float = 1.0) -> str:
    """Corners of a regular polygon around (15, 7), the first one on top; with `inner`, every other one lies inside."""
    points = []
    for corner in range(corners):
        radius = 5.0 * (inner if corner % 2 else 1.0)
        angle = 2 * math.pi * (corner / corners + turn) - math.pi / 2
        points.append(f"{15 + radius * math.cos(angle):.1f},{7 + radius * math.sin(angle):.1f}")
    return " ".join(points)


_SHAPES = {
    "circle": _polygon(24),
    "square": _polygon(4, 1 / 8),
    "diamond": _polygon(4),
    "triangle-up": _polygon(3),
    "triangle-down": _polygon(3, 1 / 2),
    "pentagon": _polygon(5),
    "star": _polygon(10, 0, 0.45),
    "hexagon": _polygon(6),
    "cross": "13.4,2 16.6,2 16.6,5.4 20,5.4 20,8.6 16.6,8.6 16.6,12 13.4,12 13.4,8.6 10,8.6 10,5.4 13.4,5.4",
    "x": "11,4.6 12.6,3 15,5.4 17.4,3 19,4.6 16.6,7 19,9.4 17.4,11 15,8.6 12.6,11 11,9.4 13.4,7",
    "hourglass": "10.5,2.5 19.5,2.5 10.5,11.5 19.5,11.5",
}


def swatch(look: style.Style, hollow: bool = False) -> Markup:
    """Line and marker of an architecture, 30 x 14 pixels."""
    colour = "currentColor" if look.colour == style.INK else look.colour
    dash = _DASHES.get(look.dash, look.dash.replace("px", "").replace(",", " "))
    line = element("line", x1=0, y1=7, x2=30, y2=7, stroke=colour, stroke_width=1.6, stroke_dasharray=dash)
    marker = element("polygon", points=_SHAPES[look.marker], fill="none" if hollow else colour, stroke=colour)
    return element("svg", line, marker, class_="swatch", width=30, height=14, viewBox="0 0 30 14", aria_hidden="true")


def legend(looks: dict[str, style.Style], unfit: bool) -> Markup:
    """A button per architecture that hides or shows it in every figure and table."""
    buttons = [
        element(
            "button",
            swatch(looks[name]),
            name or "unnamed",
            type="button",
            data_filter="architecture",
            value=name,
            aria_pressed="true",
        )
        for name in sorted(looks, key=style.order)
    ]
    if unfit:
        look = style.Style(style.UNFIT, "dot", "circle")
        buttons.append(element("span", swatch(look, hollow=True), "unfit", class_="key"))
    return element("div", buttons, class_="legend", role="group", aria_label="Architectures")

"""Small charts of one number against another, for the sections that are not about accuracy against length."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reports import figures, style, wording
from reports import graph as go
from reports.marks import about

HEIGHT = 220
_PREFIX = {-3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P", 6: "E", 7: "Z"}
"""Of the units of measure, by the power of 1,000."""


@dataclass(frozen=True)
class Quantity:
    """A column, what to call it, and how to write it."""

    column: str
    title: str
    say: Callable[[float | None], str]
    unit: str = ""

    def axis(self, values: Sequence[float], log: bool = True, named: bool = True) -> dict[str, Any]:
        """An axis for these values. A log one has ticks that cannot collide, and is linear after all, from 0 on, where
        the values lie within a factor of 2. `named`: with its title."""
        decades = math.log10(max(values) / min(values)) if log and values else 0.0
        scale: dict[str, Any] = {"nticks": 6, "rangemode": "tozero" if log else "normal"}
        if decades >= 1.5:
            scale = {"type": "log", "dtick": math.ceil(decades / 5)}
        elif decades > math.log10(2):
            powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
            ticks = [(digit, power) for power in powers for digit in (1, 2, 5)]
            texts = [f"{digit * 10 ** (power % 3)}{_PREFIX[power // 3]}{self.unit}" for digit, power in ticks]
            values = [digit * 10.0**power for digit, power in ticks]
            scale = {"type": "log", "tickvals": values, "ticktext": texts}
        title = {"text": self.title if named else "", "standoff": 6}
        return figures.axis(**scale, tickformat="~s", ticksuffix=self.unit, title=title)


TOKENS = Quantity("tokens", "tokens of a problem", wording.short)
FLOPS = Quantity("flops", "FLOPs of a problem", wording.short)
SECONDS = Quantity("seconds", "seconds of a problem", wording.duration, "s")
PEAK = Quantity("peak_bytes", "peak memory", wording.size, "B")
STATE = Quantity("state_bytes", "state of a sequence", wording.size, "B")
TRAIN_TOKENS = Quantity("train_tokens", "training tokens", wording.short)
TRAIN_STEPS = Quantity("train_steps", "training steps", wording.whole)


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    who: dict[str, Any]
    """Whose it is: architecture and unfit for its look, what the filters act on for its `meta`."""
    name: str
    x: Sequence[float]
    y: Sequence[float]
    said: Sequence[str]
    """What to show on hovering, a text a point; it is escaped here."""
    open_ended: Sequence[bool] = ()
    """Of every point whether the truth may lie above it: drawn as a triangle."""


def chart(
    series: Sequence[Series], looks: dict[str, style.Style], across: dict[str, Any], up: dict[str, Any]
) -> go.Figure:
    """Lines with markers; `across` and `up` are axes as `figures.axis` makes them."""
    figure = go.Figure()
    for one in sorted(series, key=lambda one: not one.who["unfit"]):
        look = figures.run_look(one.who["architecture"], one.who["unfit"], looks)
        head = f"<b>{one.name}</b><br>" + ("UNFIT: does not fit its training lengths<br>" if one.who["unfit"] else "")
        if any(one.open_ended):
            shape = look["marker"]["symbol"]
            look["marker"]["symbol"] = ["triangle-up" if above else shape for above in one.open_ended]
            look["marker"]["size"] = [10 if above else 7 for above in one.open_ended]
        figure.add_trace(
            go.Scatter(
                x=[_short(value) for value in one.x],
                y=[_short(value) for value in one.y],
                mode="lines+markers",
                name=one.name,
                meta=about(one.who),
                hovertext=[head + figures.escape(text) for text in one.said],
                hoverinfo="text",
                cliponaxis=False,
                **look,
            )
        )
    return figures.layout(figure, HEIGHT, xaxis=across, yaxis=up, hovermode="closest")


def _short(value: float) -> float:
    """Four digits: more cannot be seen, and would be most of the page."""
    return float(f"{value:.4g}")


def share_axis(title: str) -> dict[str, Any]:
    """Percent from 0 to 100, room for the markers at both ends."""
    ticks = figures.percent_axis([0, 50, 100], [-5, 106])
    return {**ticks, "title": {"text": title, "standoff": 6}}


def reach_axis(lengths: Sequence[int]) -> dict[str, Any]:
    """The tested lengths on a log axis, and below them a place for a reach of 0 (`reach_floor`)."""
    ticks = figures.length_axis(lengths, 0)
    floor = reach_floor(lengths)
    low, high = ticks["range"]
    values, texts = [floor, *ticks["tickvals"]], ["none", *ticks["ticktext"]]
    span = {"range": [low - 0.25 * max(high - low, 0.3), high + 0.04], "tickvals": values, "ticktext": texts}
    return {**ticks, **span, "title": {"text": "reach", "standoff": 6}}


def reach_floor(lengths: Sequence[int]) -> float:
    """Where a reach of 0 is drawn on a log axis."""
    return float(min(lengths) / (max(lengths) / min(lengths)) ** 0.2) if lengths else 1.0

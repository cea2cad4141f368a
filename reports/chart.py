"""Small charts of one number against another, for the sections that are not about accuracy against length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reports import figures, style, wording
from reports import graph as go
from reports.marks import about

HEIGHT = 220


@dataclass(frozen=True)
class Quantity:
    """A column, what to call it, and how to write it."""

    column: str
    title: str
    say: Callable[[float | None], str]
    unit: str = ""

    def axis(self, log: bool = True) -> dict[str, Any]:
        kind = {"type": "log"} if log else {"rangemode": "tozero"}
        label = {"text": self.title, "standoff": 6}
        return figures.axis(**kind, tickformat="~s", ticksuffix=self.unit, nticks=6, title=label)


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
                x=list(one.x),
                y=list(one.y),
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

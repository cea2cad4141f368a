"""Where errors come: hazard of the first error by token, by solver step and along the trajectory, and its position."""

from __future__ import annotations

import math
from typing import Any

import polars as pl

from reports import aggregate, figures, style, survival, wording
from reports import graph as go
from reports.marks import about
from reports.markup import Markup
from reports.parts import figure, note, panels, part, section, single_runs
from reports.view import View

HEIGHT = 260
_TITLES = {
    "token": ("Hazard by token", "per token"),
    "step": ("Hazard by solver step", "per step"),
    "tenth": ("Hazard by tenth", "beyond training"),
}


def hazards(view: View) -> Markup | None:
    """Four figures for every panel where a run that fits its training lengths failed on a random problem."""
    problems = view.singles(survival.judged(view.data.rows, view.cells))
    wrong = problems.filter(~pl.col("exact"))["cell"].unique()
    beyond = problems.filter(pl.col("length") > pl.col("max_length"))
    tables = {place: survival.hazard(beyond if place == "tenth" else problems, place) for place in _TITLES}
    first = survival.first_errors(problems)
    parts: list[Markup] = []
    for facet in view.facets:
        cells = facet.of(view.cells).filter(pl.col("cell").is_in(wrong.implode()))
        own = problems.join(facet.of(view.cells).select("cell"), on="cell", how="semi")
        drawn = [
            figure(*_TITLES[place], plot)
            for place, table in tables.items()
            if (plot := _hazard(_of(table, cells), place, own, view.looks)) is not None
        ]
        if (plot := _positions(_of(first, cells), own, view.looks)) is not None:
            drawn.append(figure("Position of the first error", "quartiles", plot))
        if drawn:
            parts.append(part(facet, panels(drawn, "panels four")))
    if not parts:
        return None
    text = (
        "Hazard: how often the first error comes at a place, among the problems that came so far without one. Flat: it "
        "errs at random; rising: the model wears out; a jump where the grey band ends: it fails beyond what it was "
        "trained on. A line per run that failed somewhere, unfit runs left out; bars are 95% intervals about this "
        "checkpoint, a hollow triangle is the upper bound where no error was seen. The position of the first error is "
        "in multiples of the longest trajectory of the training lengths; the dotted line is the trajectory's end."
    )
    return section("hazards", "Where errors come", note(text), single_runs(view), *parts)


def _of(table: pl.DataFrame, cells: pl.DataFrame) -> pl.DataFrame:
    """The lines of the given cells, with who they are."""
    who = cells.select("cell", *aggregate.GROUP, "seed", "replicate", "unfit")
    return table.join(who, on="cell", how="inner", maintain_order="left")


def _hazard(table: pl.DataFrame, place: str, problems: pl.DataFrame, looks: dict[str, style.Style]) -> go.Figure | None:
    """Rate against the place, a line per run; log axes but for tenths of the trajectory."""
    if not table["errors"].sum():
        return None
    plot = go.Figure()
    for (_cell,), own in table.group_by("cell", maintain_order=True):
        lines = own.to_dicts()
        seen = [line for line in lines if line["errors"]]
        look = figures.run_look(lines[0]["architecture"], False, looks)
        same: dict[str, Any] = {
            "name": figures.run_name(lines[0]),
            "meta": about(lines[0]),
            "hoverinfo": "text",
        }
        plot.add_trace(
            go.Scatter(
                x=[_middle(line, place) for line in seen],
                y=[line["rate"] for line in seen],
                error_y={
                    "array": [line["high"] - line["rate"] for line in seen],
                    "arrayminus": [line["rate"] - line["low"] for line in seen],
                    "thickness": 0.8,
                    "width": 0,
                },
                mode="lines+markers",
                hovertext=[_told(line, place) for line in seen],
                **same,
                **look,
            )
        )
        none = [line for line in lines if not line["errors"]]
        if none:
            marker = {**look["marker"], "symbol": "triangle-down-open", "size": 6, "line": {"width": 1}}
            plot.add_trace(
                go.Scatter(
                    x=[_middle(line, place) for line in none],
                    y=[line["high"] for line in none],
                    mode="markers",
                    marker=marker,
                    opacity=0.55,
                    hovertext=[_told(line, place) for line in none],
                    **same,
                )
            )
    rate = figures.power_axis()
    if place == "tenth":
        ticks = list(range(0, 101, 20))
        axis = figures.axis(range=[0, 100], tickvals=ticks, ticktext=[f"{tick}%" for tick in ticks])
        axis["title"] = {"text": "share of the trajectory", "standoff": 6}
        return figures.layout(plot, HEIGHT, xaxis=axis, yaxis=rate, hovermode="closest")
    trained = survival.longest_trained(problems, "tokens" if place == "token" else "steps")
    if trained:
        figures.shade(plot, trained)
    most = max(table["last"].to_list())
    axis = figures.power_axis(range=[-0.05, math.log10(most) + 0.05])
    axis["title"] = {"text": "token" if place == "token" else "solver step", "standoff": 6}
    return figures.layout(plot, HEIGHT, xaxis=axis, yaxis=rate, hovermode="closest")


def _middle(line: dict[str, Any], place: str) -> float:
    return 10 * line["first"] - 5 if place == "tenth" else math.sqrt(line["first"] * line["last"])


def _told(line: dict[str, Any], place: str) -> str:
    span = f"{line['first']:,}" if line["first"] == line["last"] else f"{line['first']:,} to {line['last']:,}"
    where = {"token": f"tokens {span}", "step": f"solver steps {span}", "tenth": f"tenth {span} of the trajectory"}
    unit = {"token": "tokens", "step": "steps", "tenth": "tenths"}[place]
    return "<br>".join(
        [
            f"<b>{figures.run_name(line)}</b>",
            where[place],
            f"{wording.plural(line['errors'], 'error')} in {line['risked']:,} {unit} at risk",
            f"hazard {line['rate']:.3g} [{line['low']:.2g}, {line['high']:.2g}]",
            f"{wording.plural(line['problems'], 'problem')} came so far without an error",
        ]
    )


def _positions(table: pl.DataFrame, problems: pl.DataFrame, looks: dict[str, style.Style]) -> go.Figure | None:
    """Position of the first error against length, in multiples of the longest trajectory trained on."""
    trained = survival.longest_trained(problems, "tokens")
    if table.is_empty() or not trained:
        return None
    lengths = sorted(problems["length"].unique().to_list())
    plot = go.Figure()
    ends = problems.group_by("length").agg(pl.col("tokens").mean()).sort("length")
    plot.add_trace(
        go.Scatter(
            x=ends["length"].to_list(),
            y=[tokens / trained for tokens in ends["tokens"]],
            mode="lines",
            name="end of the trajectory",
            line={"color": style.UNFIT, "width": 1, "dash": "dot"},
            hovertext=[f"<b>end of the trajectory</b><br>{wording.whole(tokens)} tokens" for tokens in ends["tokens"]],
            hoverinfo="text",
        )
    )
    for (_cell,), own in table.group_by("cell", maintain_order=True):
        lines = own.to_dicts()
        middles = [max(line["middle"], 1) / trained for line in lines]
        plot.add_trace(
            go.Scatter(
                x=[line["length"] for line in lines],
                y=middles,
                error_y={
                    "array": [line["high"] / trained - middle for line, middle in zip(lines, middles)],
                    "arrayminus": [middle - max(line["low"], 1) / trained for line, middle in zip(lines, middles)],
                    "thickness": 0.8,
                    "width": 0,
                },
                mode="lines+markers",
                name=figures.run_name(lines[0]),
                meta=about(lines[0]),
                hovertext=[_said(line, trained) for line in lines],
                hoverinfo="text",
                **figures.run_look(lines[0]["architecture"], False, looks),
            )
        )
    figures.shade(plot, max(problems["max_length"], default=0))
    plot.add_shape(type="line", xref="x domain", x0=0, x1=1, y0=1, y1=1, line={"color": style.UNFIT, "width": 1})
    ticks = [digit * 10.0**power for power in range(-4, 7) for digit in (1, 2, 5)]  # Plotly's own run into each other
    title = {"text": "× longest trained on", "standoff": 6}
    axis = figures.axis(type="log", tickformat=",~g", tickvals=ticks, title=title)
    return figures.layout(
        plot, HEIGHT, xaxis=figures.length_axis(lengths, max(problems["max_length"])), yaxis=axis, hovermode="closest"
    )


def _said(line: dict[str, Any], trained: int) -> str:
    quartiles = [f"{wording.whole(line[name])} (× {line[name] / trained:.2g})" for name in ("low", "middle", "high")]
    return "<br>".join(
        [
            f"<b>{figures.run_name(line)}</b>",
            f"length {line['length']:,}: {line['failed']} of {line['n']:,} problems failed",
            f"first error after {quartiles[1]} tokens, median",
            f"quartiles {quartiles[0]} and {quartiles[2]}",
            f"a trajectory has {wording.whole(line['tokens'])} tokens",
        ]
    )

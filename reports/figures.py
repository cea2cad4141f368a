"""Plotly figures, one per panel; the page lays panels out side by side and draws one legend for all.

Backgrounds are transparent and the texts take their colour from the page's style sheet, so that a figure fits light,
dark and print. SVG traces only: pages with several WebGL figures go blank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from harness.schema import FAILURES
from reports import graph as go
from reports import style, wording
from reports.marks import about

HEIGHT = 300
_GREY = "#808790"
_GRID = "rgba(128,135,144,0.22)"
_LABEL = "#252a33"
_SHADE = "rgba(128,135,144,0.14)"
_VISIBLE = 0.005
"""Chance below which its line would lie on the axis."""
_FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"

FAILURE_COLOURS = dict(zip(FAILURES, ("#0072b2", "#56b4e9", "#e69f00", "#cc79a7", "#d55e00", "#009e73")))


def axis(**more: Any) -> dict[str, Any]:
    line = {"gridcolor": _GRID, "linecolor": _GREY, "zeroline": False, "ticks": "outside", "ticklen": 4}
    return {**line, "tickcolor": _GREY, "title": {"standoff": 8}, "automargin": True, "fixedrange": False, **more}


def power_axis(**more: Any) -> dict[str, Any]:
    """A log axis labelled 10⁻², 10⁻¹, 1, 10; Plotly sets such labels larger than it is told."""
    return axis(type="log", exponentformat="power", dtick=1, tickfont={"size": 10}, **more)


def layout(figure: go.Figure, height: int, **more: Any) -> go.Figure:
    figure.update_layout(
        height=height,
        margin={"l": 44, "r": 12, "t": 12, "b": 40},
        font={"family": _FONT, "size": 12, "color": _GREY},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        showlegend=False,
        hoverlabel={
            "align": "left",
            "bgcolor": _LABEL,
            "bordercolor": _LABEL,
            "font": {"family": _FONT, "size": 12, "color": "#fff"},
        },
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": _GREY, "activecolor": _GREY},
        dragmode="zoom",
        **more,
    )
    return figure


def _ticks(lengths: Sequence[int], most: int = 7) -> list[int]:
    """The tested lengths to label: the longest, and below it those that stand far enough apart on a log axis."""
    descending = sorted(set(lengths), reverse=True)
    gap = math.log(descending[0] / descending[-1]) / most if descending else 0.0
    chosen: list[int] = []
    for length in descending:
        if not chosen or math.log(chosen[-1] / length) >= gap * 0.98:
            chosen.append(length)
    return chosen[::-1]


def length_axis(lengths: Sequence[int], trained: int) -> dict[str, Any]:
    """Log axis over the tested lengths and the training range, labelled at tested lengths."""
    low, high = min([*lengths, trained or lengths[0]]), max([*lengths, trained])
    margin = max(0.04 * math.log10(high / low), 0.03)
    ticks = _ticks(lengths)
    return axis(
        type="log",
        range=[math.log10(low) - margin, math.log10(high) + margin],
        tickvals=ticks,
        ticktext=[f"{tick:,}" for tick in ticks],
        title={"text": "length", "standoff": 6},
    )


def percent_axis(ticks: list[int], limits: list[float]) -> dict[str, Any]:
    return axis(range=limits, tickvals=ticks, ticktext=[f"{tick}%" for tick in ticks])


def shade(figure: go.Figure, trained: int) -> None:
    """Shade the lengths that were trained on."""
    if trained:
        figure.add_shape(
            **{"type": "rect", "x0": 1e-3, "x1": trained, "y0": 0, "y1": 1, "yref": "paper", "layer": "below"},
            line={"width": 0},
            fillcolor=_SHADE,
        )
        # Not the shape's own label: where the band is narrow, that would be cut off at the axis.
        figure.add_annotation(
            **{"x": 0, "xref": "x domain", "xanchor": "left", "y": 0, "yref": "y domain", "yanchor": "bottom"},
            text=f"trained ≤ {trained:,}",
            showarrow=False,
            font={"size": 10, "color": _GREY},
        )


def longest_trained(table: pl.DataFrame) -> int:
    """Longest training length of a panel; 0 when it is not known."""
    return max(table["max_length"], default=0)


def run_name(line: dict[str, Any]) -> str:
    """How a cell is called in a figure where task, setting and tool are given."""
    parts = [line["architecture"] or "unnamed", line["recipe"], f"seed {line['seed']}"]
    if line.get("replicate"):
        parts.append(f"replicate {line['replicate']}")
    return " · ".join(escape(part) for part in parts if part)


def escape(text: object) -> str:
    """Text for a Plotly hover or label, which understand a few HTML tags."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def run_look(architecture: str, unfit: bool, looks: dict[str, style.Style]) -> dict[str, Any]:
    """Line and marker of a run; one that does not fit its training lengths is grey, dotted and hollow."""
    look = looks[architecture]
    colour, marker = (style.UNFIT, f"{look.marker}-open") if unfit else (look.colour, look.marker)
    return {
        "line": {"color": colour, "width": 1.4, "dash": "dot" if unfit else look.dash},
        "marker": {"color": colour, "symbol": marker, "size": 7, "line": {"width": 1 if unfit else 0, "color": colour}},
        "opacity": 0.75 if unfit else 0.95,
    }


def _shifts(architectures: Iterable[str], lengths: Sequence[int]) -> dict[str, float]:
    """Factors that set the architectures' markers side by side, so that none hides another."""
    names = sorted(set(architectures), key=style.order)
    step = min(0.006 * math.log(max(lengths) / min(lengths)), 0.03) if lengths else 0.0
    return {name: math.exp(step * (place - (len(names) - 1) / 2)) for place, name in enumerate(names)}


def _hover(line: dict[str, Any]) -> str:
    text = [f"<b>{run_name(line)}</b>"]
    if line["unfit"]:
        text.append("UNFIT: does not fit its training lengths")
    text.append(f"length {line['length']:,}, {line['n']:,} problems")
    if line["exact_n"]:
        share, bounds = wording.percent(line["exact"], 1), wording.span(line["exact_low"], line["exact_high"])
        text.append(f"exact {line['exact_k']}/{line['exact_n']} = {share} [{bounds}]")
    if line["answer_n"]:
        share, bounds = wording.percent(line["answer"], 1), wording.span(line["answer_low"], line["answer_high"])
        text.append(f"answer right {share} [{bounds}], {line['answer_k']} of {line['answer_n']} known")
    if line["token_accuracy"] is not None:
        text.append(f"token accuracy {wording.percent(line['token_accuracy'], 3)}")
    if line["tokens"] is not None:
        text.append(f"{wording.whole(line['tokens'])} tokens a problem")
    return "<br>".join(text)


def curves(points: pl.DataFrame, measure: str, looks: dict[str, style.Style]) -> go.Figure:
    """Accuracy against length of one panel: a line per seed. `measure` is a column of shares, exact or answer."""
    known = points.filter(pl.col(measure).is_not_null()).sort("unfit", "length", descending=[True, False])
    lengths = sorted(points["length"].unique().to_list())
    trained = longest_trained(points)
    shifts = _shifts(points["architecture"].unique(), lengths)
    figure = go.Figure()
    for (_cell,), own in known.group_by("cell", maintain_order=True):
        lines = own.sort("length").to_dicts()
        first = lines[0]
        figure.add_trace(
            go.Scatter(
                x=[line["length"] * shifts[first["architecture"]] for line in lines],
                y=[100 * line[measure] for line in lines],
                mode="lines+markers",
                name=run_name(first),
                meta=about(first),
                hovertext=[_hover(line) for line in lines],
                hoverinfo="text",
                cliponaxis=False,
                **run_look(first["architecture"], first["unfit"], looks),
            )
        )
    if measure == "answer":
        _chance_line(figure, points)
    shade(figure, trained)
    share = percent_axis([0, 25, 50, 75, 100], [-3, 104])
    return layout(figure, HEIGHT, xaxis=length_axis(lengths, trained), yaxis=share, hovermode="closest")


def _chance_line(figure: go.Figure, points: pl.DataFrame) -> None:
    """What the best blind answer would get, where that can be told from 0."""
    known = points.filter(pl.col("chance").is_not_null()).group_by("length").agg(pl.col("chance").mean()).sort("length")
    shares = known["chance"].to_list()
    if max(shares, default=0.0) < _VISIBLE:
        return
    figure.add_trace(
        go.Scatter(
            x=known["length"].to_list(),
            y=[100 * share for share in shares],
            mode="lines",
            name="chance",
            line={"color": _GREY, "width": 1, "dash": "dot"},
            hovertext=[f"<b>best blind answer</b><br>right {wording.percent(share, 1)}" for share in shares],
            hoverinfo="text",
        )
    )


def reaches(summary: pl.DataFrame, looks: dict[str, style.Style], lengths: Sequence[int]) -> go.Figure:
    """Reach of every seed of one panel: a marker at the last solved length, a bar to the first that is not."""
    fit = summary.filter(~pl.col("unfit") & pl.col("reach_low").is_not_null())
    names = sorted(summary["architecture"].unique(), key=style.order)
    trained = longest_trained(summary)
    floor = 0.7 * min([*lengths, trained or lengths[0]])
    figure = go.Figure()
    for name in names:
        runs = fit.filter(pl.col("architecture") == name).sort("seed", "replicate").to_dicts()
        for place, run in enumerate(runs):
            row = names.index(name) + 0.5 * ((place + 0.5) / len(runs) - 0.5)
            figure.add_trace(_reach(run, row, floor, looks[name]))
    shade(figure, trained)
    rows = axis(tickvals=list(range(len(names))), ticktext=[escape(name) for name in names], showgrid=False)
    rows |= {"range": [len(names) - 0.05, -0.6], "ticks": ""}
    across = length_axis(lengths, trained)
    across["range"] = [math.log10(floor) - 0.03, across["range"][1] + 0.04]
    return layout(figure, 70 + 27 * len(names), xaxis=across, yaxis=rows, hovermode="closest")


def _reach(run: dict[str, Any], row: float, floor: float, look: style.Style) -> go.Trace:
    low, high = run["reach_low"] or floor, run["reach_high"]
    said = f"≥ {run['longest']:,}, the longest tested" if high is None else f"at least {run['reach_low']}, under {high}"
    return go.Scatter(
        x=[low, high or low],
        y=[row, row],
        mode="lines+markers",
        name=run_name(run),
        meta=about(run),
        line={"color": look.colour, "width": 1.2},
        marker={
            "color": look.colour,
            "symbol": ["triangle-right" if high is None else look.marker, "line-ns-open"],
            "size": [11 if high is None else 8, 0 if high is None else 7],
            "line": {"width": [0, 1.4], "color": look.colour},
            "opacity": 1,
        },
        hovertext=f"<b>{run_name(run)}</b><br>reach {said}",
        hoverinfo="text",
        cliponaxis=False,
    )


def losses(curve: pl.DataFrame, looks: dict[str, style.Style]) -> go.Figure:
    """Training loss of one panel against the real tokens seen, log y. `curve` is CURVES joined with who the cell is."""
    figure = go.Figure()
    for (_cell,), own in curve.group_by("cell", maintain_order=True):
        own = own.sort("step")
        first = own.row(0, named=True)
        look = run_look(first["architecture"], first["unfit"], looks)
        figure.add_trace(
            go.Scatter(
                x=own["tokens"].to_list(),
                y=own["loss"].round_sig_figs(3).to_list(),
                mode="lines",
                name=run_name(first),
                meta=about(first),
                line={**look["line"], "width": 1.2},
                opacity=look["opacity"],
                customdata=own["step"].to_list(),
                hovertemplate=f"<b>{run_name(first)}</b><br>step %{{customdata:,}}, %{{x:.3s}} tokens"
                "<br>loss %{y:.2e}<extra></extra>",
            )
        )
    loss = power_axis(title={"text": "nats per token", "standoff": 6})
    tokens = axis(title={"text": "training tokens", "standoff": 6}, tickformat="~s", nticks=6)
    return layout(figure, 260, xaxis=tokens, yaxis=loss, hovermode="closest")


def failures(shares: pl.DataFrame) -> go.Figure:
    """Stacked bars, one per length, of the share of problems that failed in each class. Needs `length`, `n` and
    `failure_CLASS` of one group of seeds, pooled over them."""
    shares = shares.sort("length")
    names = [f"{length:,}" for length in shares["length"]]
    figure = go.Figure()
    for failure in FAILURES:
        counts, totals = shares[f"failure_{failure}"].to_list(), shares["n"].to_list()
        if any(counts):
            figure.add_trace(
                go.Bar(
                    x=names,
                    y=[100 * count / total for count, total in zip(counts, totals)],
                    name=failure,
                    marker={"color": FAILURE_COLOURS[failure], "line": {"width": 0}},
                    customdata=list(zip(counts, totals)),
                    hovertemplate=f"{failure.replace('_', ' ')}<br>length %{{x}}<br>"
                    "%{customdata[0]} of %{customdata[1]} problems<extra></extra>",
                )
            )
    share = percent_axis([0, 50, 100], [0, 100])
    lengths = axis(type="category", categoryorder="array", categoryarray=names, ticks="", tickangle=0, nticks=8)
    return layout(figure, 150, xaxis=lengths, yaxis=share, barmode="stack", bargap=0.15)

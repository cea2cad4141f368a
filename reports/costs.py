"""What it cost: the table, every kind of cost against length, and accuracy against cost."""

from __future__ import annotations

from typing import Any

import polars as pl

from reports import figures, wording
from reports.chart import (
    FLOPS,
    PEAK,
    SECONDS,
    STATE,
    TOKENS,
    Quantity,
    Series,
    chart,
    reach_axis,
    reach_floor,
    share_axis,
)
from reports.marks import marks
from reports.markup import Markup, element, folded, fragment, table
from reports.parts import architecture, by_architecture, figure, note, panels, part, section, single_runs
from reports.view import Facet, View

_COLUMNS = {
    "parameters": ("Parameters", wording.short),
    "flops_per_token": ("FLOPs/token", wording.short),
    "state_bytes": ("State", wording.size),
    "train_tokens": ("Train tokens", wording.short),
    "train_flops": ("Train FLOPs", wording.short),
    "train_seconds": ("Train time", wording.duration),
    "evaluation_seconds": ("Eval time", wording.duration),
}
_WORK = {
    "tokens": "Tokens",
    "own_tokens": "of them the model's own",
    "tool_calls": "Tool calls",
    "longest_walk": "Longest walk",
}
_AGAINST_LENGTH = (TOKENS, FLOPS, SECONDS, PEAK, STATE)
_AGAINST_ACCURACY = (FLOPS, SECONDS)


def cost(view: View) -> Markup | None:
    parts = [made for facet in view.facets if (made := _facet(view, facet))]
    if not parts:
        return None
    text = (
        "Means over seeds. FLOPs of one token's forward pass and state bytes of one sequence, both after 1,000 tokens; "
        "training FLOPs: three forward passes of every training token. Evaluation seconds are wall-clock, shared "
        "evenly among the problems of a batch; FLOPs of a problem are one forward pass of its trajectory, without "
        "rollouts; peak memory is the device's, and is not known on a CPU. Must fail from: the smallest length whose "
        "likeliest answers, one for each value that the state can have, are those of less than 95% of the problems "
        "(Theorem 2.1 of Malach et al.), so that no weights solve it; models fail long before."
    )
    return section("cost", "Cost", note(text), single_runs(view), *parts)


def _facet(view: View, facet: Facet) -> Markup | None:
    inside = [
        _table(view, facet),
        _against_length(view, facet),
        _against_accuracy(view, facet),
        _by_length(view, facet),
    ]
    return part(facet, *inside) if any(inside) else None


def _table(view: View, facet: Facet) -> Markup | None:
    flops = 3 * pl.col("train_tokens") * pl.col("flops_per_token")
    cells = facet.of(view.cells).with_columns(flops.alias("train_flops"))
    cells = cells.filter(pl.any_horizontal(pl.col(list(_COLUMNS)).is_not_null()))
    if cells.is_empty():
        return None
    body, who = [], []
    for name, recipe, own in by_architecture(cells):
        means = own.select(pl.col(list(_COLUMNS)).mean()).row(0, named=True)
        shown = [say(means[column]) for column, (_, say) in _COLUMNS.items()]
        body.append([architecture(view, name, recipe), *shown, _bound(own)])
        who.append(marks(_pooled(own)))
    head = ["Architecture", *[title for title, _ in _COLUMNS.values()], "Must fail from"]
    return table(head, body, "numbers", who)


def _pooled(own: pl.DataFrame) -> dict[str, Any]:
    """Whom a line over seeds is about; unfit where none of them fits."""
    first = own.row(0, named=True)
    return {**first, "seed": None, "unfit": bool(own["unfit"].all())}


def _bound(own: pl.DataFrame) -> str:
    """The bound of Theorem 2.1, or why there is none."""
    known = own.filter(pl.col("bound").is_not_null() | pl.col("no_bound").is_not_null())
    if known.is_empty():
        return wording.NONE
    length, why = known.select("bound", "no_bound").row(0)
    return wording.whole(length) if length is not None else str(why)


def _costed(view: View, facet: Facet) -> pl.DataFrame:
    """The panel's points with `seconds` and `flops` of one problem.

    Rows from before `flops` was kept: as many as after 1,000 tokens, where the state does not grow (is as large).
    """
    known = view.cells.select("cell", "flops_per_token", pl.col("state_bytes").alias("state_after_1000"))
    old = pl.when(pl.col("state_bytes") == pl.col("state_after_1000")).then(
        pl.col("tokens") * pl.col("flops_per_token")
    )
    return (
        facet.of(view.random)
        .join(known, on="cell", how="left")
        .with_columns((pl.col("seconds") / pl.col("n")).alias("seconds"), pl.coalesce("flops", old).alias("flops"))
        .sort("length")
    )


def _against_length(view: View, facet: Facet) -> Markup | None:
    """A small chart per kind of cost that is known, a line per architecture: the mean over its seeds."""
    points, drawn = _costed(view, facet), []
    for quantity in _AGAINST_LENGTH:
        known = points.filter(pl.col(quantity.column) > 0)
        if known["length"].n_unique() > 1:
            series = [_mean(name, recipe, own, quantity) for name, recipe, own in by_architecture(known)]
            across = figures.length_axis(sorted(known["length"].unique()), facet["max_length"])
            plot = chart(series, view.looks, across, quantity.axis(known[quantity.column].to_list(), named=False))
            drawn.append(figure(quantity.title[:1].upper() + quantity.title[1:], None, plot, facet.values))
    return fragment(element("h4", "Against length"), panels(drawn, "panels small")) if drawn else None


def _mean(name: str, recipe: str, own: pl.DataFrame, quantity: Quantity) -> Series:
    means = own.group_by("length").agg(pl.col(quantity.column).mean(), pl.len().alias("seeds")).sort("length")
    said = [
        f"length {length:,}: {quantity.say(value)}, mean of {wording.plural(seeds, 'seed')}"
        for length, value, seeds in means.iter_rows()
    ]
    label = figures.escape(f"{name} {recipe}".strip())
    return Series(_pooled(own), label, means["length"].to_list(), means[quantity.column].to_list(), said)


def _against_accuracy(view: View, facet: Facet) -> Markup | None:
    """Accuracy against what a problem costs, a line per seed through its lengths: who is right for how much."""
    points, drawn = view.singles(_costed(view, facet)).filter(pl.col("accuracy").is_not_null()), []
    for quantity in _AGAINST_ACCURACY:
        known = points.filter(pl.col(quantity.column) > 0)
        if known.is_empty():
            continue
        series = []
        for _, own in known.group_by("cell", maintain_order=True):
            lines = own.to_dicts()
            said = [
                f"length {line['length']:,}: {line['k']} of {line['of']} right, {quantity.say(line[quantity.column])}"
                for line in lines
            ]
            across, up = [line[quantity.column] for line in lines], [100 * line["accuracy"] for line in lines]
            series.append(Series(lines[0], figures.run_name(lines[0]), across, up, said))
        plot = chart(series, view.looks, quantity.axis(known[quantity.column].to_list()), share_axis("right"))
        drawn.append(figure(f"Right against {quantity.title}", None, plot, facet.values))
    if (state := _against_state(view, facet)) is not None:
        drawn.append(state)
    text = (
        "A line per seed through its lengths, the longest at its right end: further left at the same height is "
        "cheaper. Reach stands against the state at the longest tested length, a marker per seed that fits; a triangle "
        "may lie higher."
    )
    return fragment(element("h4", "Accuracy against cost"), note(text), panels(drawn)) if drawn else None


def _against_state(view: View, facet: Facet) -> Markup | None:
    """Reach of every seed that fits against the bytes of its state at the longest length tested."""
    points, lengths = facet.of(view.random), view.lengths(facet)
    longest = points.filter(pl.col("length") == max(lengths, default=0)).select(
        "cell", pl.col("state_bytes").alias("held")
    )
    fit = facet.of(view.single).filter(~pl.col("unfit") & pl.col("reach_low").is_not_null())
    runs = fit.join(longest, on="cell").filter(pl.col("held") > 0).to_dicts()
    if not runs:
        return None
    series = [_reach(run, lengths) for run in runs]
    plot = chart(series, view.looks, STATE.axis([run["held"] for run in runs]), reach_axis(lengths))
    return figure("Reach against state of a sequence", None, plot, facet.values)


def _reach(run: dict[str, Any], lengths: list[int]) -> Series:
    said = f"reach {wording.reach(run['reach_low'], run['reach_high'], run['longest'])}, {wording.size(run['held'])}"
    up = [run["reach_low"] or reach_floor(lengths)]
    return Series(run, figures.run_name(run), [run["held"]], up, [said], [run["reach_high"] is None])


def _unread(own: pl.DataFrame, lengths: list[int]) -> list[str]:
    """For each length the most pairs that one problem lacks, and the most that one needs."""
    most = own.group_by("length").agg(pl.col("pairs_unseen").max(), pl.col("pairs").max())
    found = {length: f"{unseen} of {needed}" for length, unseen, needed in most.iter_rows() if needed is not None}
    return [found.get(length, wording.NONE) for length in lengths]


def _by_length(view: View, facet: Facet) -> Markup | None:
    """Work in a problem, and seconds each architecture spends on one, at every length."""
    points, lengths = facet.of(view.random), view.lengths(facet)
    if not lengths:
        return None
    means = pl.col("tokens", "own_tokens", "tool_calls").mean()
    work = points.group_by("length").agg(means, pl.col("longest_walk").max()).sort("length")
    body: list[list[object]] = [[title, *map(wording.whole, work[name])] for name, title in _WORK.items()]
    who: list[dict[str, object] | None] = [None] * len(body)
    for name, recipe, own in by_architecture(points):
        spent = own.group_by("length").agg(pl.col("seconds").sum() / pl.col("n").sum())
        seconds = dict(spent.iter_rows())
        times = [wording.duration(seconds.get(length)) for length in lengths]
        body.append([architecture(view, name, recipe), *times])
        who.append(marks(_pooled(own)))
        if own["pairs"].is_not_null().any():
            body.append([f"(state, symbol) pairs {name} never read, of those needed", *_unread(own, lengths)])
            who.append(marks(_pooled(own)))
    head = ["A problem of length", *[f"{length:,}" for length in lengths]]
    return folded("Work in a problem and seconds to evaluate it, by length", table(head, body, "numbers", who))

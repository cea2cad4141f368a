"""What it cost: training loss, the cost table, and the work of a problem by length."""

from __future__ import annotations

import polars as pl

from reports import aggregate, figures, wording
from reports.marks import marks
from reports.markup import Markup, folded, table
from reports.parts import architecture, by_architecture, figure, note, panels, part, section
from reports.view import Facet, View

_CURVE_POINTS = 60_000
"""Points of all training curves together; longer ones are thinned."""

_COLUMNS = {
    "parameters": ("Parameters", wording.short),
    "flops_per_token": ("FLOPs/token", wording.short),
    "state_bytes": ("State", wording.size),
    "train_steps": ("Steps", wording.whole),
    "train_tokens": ("Train tokens", wording.short),
    "train_seconds": ("Train time", wording.duration),
    "padding": ("Padding", lambda share: wording.percent(share, 1)),
    "evaluation_seconds": ("Eval time", wording.duration),
}

_WORK = {
    "tokens": "Tokens",
    "own_tokens": "of them the model's own",
    "tool_calls": "Tool calls",
    "longest_walk": "Longest walk",
}


def training(view: View) -> Markup | None:
    """Training loss of every run, failed ones included."""
    identity = view.cells.select("cell", *aggregate.GROUP, "seed", "replicate", "unfit")
    curve = view.data.curves.filter(pl.col("loss").is_finite()).join(identity, on="cell", how="inner")
    if curve.is_empty():
        return None
    each = max(50, min(400, _CURVE_POINTS // curve["cell"].n_unique()))
    thin = curve.sort("cell", "step").filter(_every(each))
    drawn = [
        figure(facet.title, facet.detail, figures.losses(own, view.looks), facet.values)
        for facet in view.facets
        if not (own := facet.of(thin)).is_empty()
    ]
    text = "Mean cross-entropy on the model's own tokens; one line per seed."
    return section("training", "Training loss", note(text), panels(drawn))


def _every(most: int) -> pl.Expr:
    """Keep about `most` lines of each cell, the last one always."""
    place, count = pl.int_range(pl.len()).over("cell"), pl.len().over("cell")
    return ((place % pl.max_horizontal(count // most, 1)) == 0) | (place == count - 1)


def cost(view: View) -> Markup | None:
    parts = [part for facet in view.facets if (part := _table(view, facet))]
    if not parts:
        return None
    text = (
        "Means over seeds. FLOPs of one token's forward pass and state bytes of one sequence, both after 1,000 tokens. "
        "Evaluation seconds are wall-clock, shared evenly among the problems of a batch. Must fail from: the smallest "
        "length whose likeliest answers, one for each value that the state can have, are those of less than 95% of the "
        "problems (Theorem 2.1 of Malach et al.), so that no weights solve it; models fail long before."
    )
    return section("cost", "Cost", note(text), *parts)


def _table(view: View, facet: Facet) -> Markup | None:
    cells = facet.of(view.cells).filter(pl.any_horizontal(pl.col(list(_COLUMNS)).is_not_null()))
    if cells.is_empty():
        return None
    body, whose = [], []
    for name, recipe, own in by_architecture(cells):
        whose.append(marks({"architecture": name}))
        means = own.select(pl.col(list(_COLUMNS)).mean()).row(0, named=True)
        shown = [say(means[column]) for column, (_, say) in _COLUMNS.items()]
        body.append([architecture(view, name, recipe), *shown, _bound(own)])
    head = ["Architecture", *[title for title, _ in _COLUMNS.values()], "Must fail from"]
    return part(facet, table(head, body, "numbers", whose), _by_length(view, facet))


def _bound(own: pl.DataFrame) -> str:
    """The bound of Theorem 2.1, or why there is none."""
    known = own.filter(pl.col("bound").is_not_null() | pl.col("no_bound").is_not_null())
    if known.is_empty():
        return wording.NONE
    length, why = known.select("bound", "no_bound").row(0)
    return wording.whole(length) if length is not None else str(why)


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
    whose: list[dict[str, object] | None] = [None] * len(body)
    for name, recipe, own in by_architecture(points):
        spent = own.group_by("length").agg(pl.col("seconds").sum() / pl.col("n").sum())
        seconds = dict(spent.iter_rows())
        times = [wording.duration(seconds.get(length)) for length in lengths]
        body.append([architecture(view, name, recipe), *times])
        whose.append(marks({"architecture": name}))
        if own["pairs"].is_not_null().any():
            body.append([f"(state, symbol) pairs {name} never read, of those needed", *_unread(own, lengths)])
            whose.append(marks({"architecture": name}))
    head = ["A problem of length", *[f"{length:,}" for length in lengths]]
    return folded("Work in a problem and seconds to evaluate it, by length", table(head, body, "numbers", whose))

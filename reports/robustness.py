"""How much the verdicts depend on how they were reached: another precision, other chunks, step by step."""

from __future__ import annotations

from typing import Any

import polars as pl

from reports import statistics, wording
from reports.marks import marks
from reports.markup import Markup, element, fragment, table
from reports.parts import architecture, by_architecture, note, part, section
from reports.view import Facet, View

_HEAD = [
    "Architecture",
    "Judged again",
    "Verdicts",
    "Flipped",
    "Share",
    "Exact, then not",
    "Not, then exact",
    "Near ties",
]
REPLAY = "step by step instead of a scan"


def robustness(view: View) -> Markup | None:
    """The share of verdicts that flip between evaluations of the same weights; None where nothing was judged twice."""
    judged, replayed = _flips(view), _replays(view)
    parts = [_table(view, facet, own) for facet in view.facets if not (own := facet.of(judged)).is_empty()]
    if replayed.height:
        title = element("h3", "The standing check", element("small", "all settings and recipes together"))
        parts.append(fragment(title, _pooled(view, replayed)))
    if not parts:
        return None
    text = (
        "A verdict says of one problem whether the whole trajectory is exact. Here the same weights judged the same "
        "problems again, all lengths and problem sets together; the share has a 95% interval over problems. A flip is "
        "a near tie where the two best tokens were so close that another order of the same arithmetic may decide "
        "otherwise. More ways to judge: run the grid with "
    )
    ways = ("--set evaluate.precision=bf16", "evaluate.mode=live", "evaluate.chunk=64")
    first, second, third = (element("code", way) for way in ways)
    told = note(text, first, ", ", second, " or ", third, " on the same store, then make this report again.")
    return section("robustness", "Do verdicts hold when judged again?", told, *parts)


def _flips(view: View) -> pl.DataFrame:
    """A line per cell and other evaluation: n, lost, gained, tied; with who the cell is."""
    counts = view.data.flips.group_by("cell", "differs").agg(pl.col("n", "lost", "gained", "tied").sum())
    return _of_cells(view, counts)


def _replays(view: View) -> pl.DataFrame:
    """The standing check as the same table. Only whether the results agree is known of a replay, not which way."""
    replayed = view.points.group_by("cell").agg(
        pl.col("replayed").sum().alias("n"),
        (pl.col("replayed") - pl.col("replayed_equal")).sum().alias("flipped"),
        pl.col("contradicted").sum(),
    )
    counts = replayed.filter(pl.col("n") > 0).select(
        "cell",
        pl.lit(REPLAY).alias("differs"),
        "n",
        pl.col("flipped").alias("lost"),
        pl.lit(None, dtype=pl.Int64).alias("gained"),
        (pl.col("flipped") - pl.col("contradicted")).alias("tied"),
    )
    return _of_cells(view, counts)


def _of_cells(view: View, counts: pl.DataFrame) -> pl.DataFrame:
    return view.cells.join(counts, on="cell", how="inner").sort("differs")


def _table(view: View, facet: Facet, judged: pl.DataFrame) -> Markup:
    body, who = [], []
    for name, recipe, own in by_architecture(judged):
        for (differs,), same in own.group_by("differs", maintain_order=True):
            body.append([architecture(view, name, recipe), str(differs), *_counts(same, str(differs))])
            who.append(marks({**same.row(0, named=True), "seed": None}))
    return part(facet, table(_HEAD, body, "numbers", who))


def _pooled(view: View, replayed: pl.DataFrame) -> Markup:
    """A line per architecture."""
    body, who = [], []
    for name, _, own in by_architecture(replayed.with_columns(pl.lit("").alias("recipe"))):
        body.append([architecture(view, name, ""), REPLAY, *_counts(own, REPLAY)])
        who.append(marks({"architecture": name}))
    return table(_HEAD, body, "numbers", who)


def _counts(same: pl.DataFrame, differs: str) -> list[object]:
    n, lost, gained, tied = (int(same[name].sum()) for name in ("n", "lost", "gained", "tied"))
    flipped = lost + gained
    low, high = (float(bound) for bound in statistics.interval(flipped, n))
    share = element(
        "span",
        wording.percent(flipped / n, 2),
        element("small", f"{wording.percent(low, 1)}–{wording.percent(high, 1)}"),
    )
    ways: list[Any] = [wording.NONE] * 2 if differs == REPLAY else [wording.whole(lost), wording.whole(gained)]
    return [
        wording.whole(n),
        wording.whole(flipped),
        share,
        *ways,
        f"{tied:,} of {flipped:,}" if flipped else wording.NONE,
    ]

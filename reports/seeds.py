"""How much the result depends on what should not matter: seeds, replicates, the step at which training stopped."""

from __future__ import annotations

from typing import Any

import polars as pl

from reports import figures, wording
from reports.chart import TRAIN_STEPS, Series, chart, share_axis
from reports.families import budgets, checkpoints, repeats
from reports.marks import marks
from reports.markup import Markup, element, fragment, table
from reports.parts import architecture, by_architecture, figure, note, panels, part, section
from reports.training import reaches
from reports.view import Facet, View, key_lengths


def seeds(view: View) -> Markup | None:
    """Spread over seeds and replicates, and over the steps of training; None without anything to compare."""
    parts = [_spread(view), _checkpoints(view), _steps(view)]
    if not any(parts):
        return None
    return section("seeds", "Seeds, replicates and late checkpoints", *parts)


# Seeds and replicates -------------------------------------------------------------------------------------------------


def _spread(view: View) -> Markup | None:
    parts = [made for facet in view.facets if (made := _table(view, facet))]
    text = (
        "Lowest – median – highest over the runs that fit, each a fresh seed; one number where all agree. "
        "Replicates are the same seed run again: "
        "what they differ by is no property of the architecture, only of arithmetic that does not repeat."
    )
    return fragment(note(text), *parts) if parts else None


def _table(view: View, facet: Facet) -> Markup | None:
    """A line per architecture and recipe with at least two tested runs."""
    shown = key_lengths(view.lengths(facet), facet["max_length"])
    points, body, who = facet.of(view.random), [], []
    for name, recipe, own in by_architecture(facet.of(view.cells)):
        fit = own.filter(~pl.col("unfit") & (pl.col("tested") > 0))
        if fit.height < 2:
            continue
        fit = repeats(fit)
        seeds = fit.filter(pl.col("replicate").eq_missing(pl.col("replicate").min().over("repeats")))
        known = points.filter(pl.col("cell").is_in(seeds["cell"].to_list()))
        spreads = [_range(known.filter(pl.col("length") == length)["accuracy"].to_list()) for length in shown]
        counted = f"{seeds.height} of {own['seed'].n_unique()}"
        body.append(
            [architecture(view, name, recipe), counted, _reach_range(seeds), *spreads, _replicates(fit, points)]
        )
        who.append(marks({**own.row(0, named=True), "seed": None}))
    head = ["Architecture", "Seeds that fit", "Reach", *[f"Right at {length:,}" for length in shown], "Replicates"]
    return part(facet, table(head, body, "numbers", who)) if body else None


def _range(shares: list[float | None]) -> str:
    known = sorted(share for share in shares if share is not None)
    if not known:
        return wording.NONE
    middle = (known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2
    return _spelled([wording.percent(share) for share in (known[0], middle, known[-1])], len(known))


def _spelled(three: list[str], runs: int) -> str:
    """Lowest, median and highest; of two runs no median, of equal ones one."""
    shown = three if runs > 2 else [three[0], three[-1]]
    return " – ".join(shown) if len(set(shown)) > 1 else shown[0]


def _reach_range(runs: pl.DataFrame) -> str:
    """Of an even number of runs the lower median: a reach is a tested length."""
    ordered = runs.sort(pl.col("reach_low"), pl.col("reach_high").fill_null(2**62)).to_dicts()
    picked = (ordered[0], ordered[(len(ordered) - 1) // 2], ordered[-1])
    texts = [wording.reach(run["reach_low"], run["reach_high"], run["longest"]) for run in picked]
    return _spelled(texts, len(ordered))


def _replicates(fit: pl.DataFrame, points: pl.DataFrame) -> Markup | str:
    """How many runs repeat a seed, whether their weights are the same, and the most they differ by at any length."""
    repeated = fit.filter(pl.len().over("repeats") > 1)
    if repeated.is_empty():
        return wording.NONE
    runs = wording.plural(repeated.height, "run")
    sets = repeated.group_by("repeats").agg(pl.col("checkpoint").n_unique().alias("weights"), "cell")
    if sets["weights"].max() == 1:
        return fragment(f"{runs}: the same weights", element("small", wording.plural(sets.height, "seed")))
    apart = [
        points.filter(pl.col("cell").is_in(cells)).group_by("length").agg(_width("accuracy"))["accuracy"].max()
        for cells in sets["cell"].to_list()
    ]
    most = max((float(one) for one in apart if isinstance(one, float)), default=None)
    points_apart = wording.NONE if most is None else f"{100 * most:.1f} points"
    return fragment(f"{runs} differ by up to {points_apart}", element("small", "at one length"))


def _width(column: str) -> pl.Expr:
    return pl.col(column).max() - pl.col(column).min()


# The step at which training stopped -----------------------------------------------------------------------------------


def _checkpoints(view: View) -> Markup | None:
    """Reach at late checkpoints of one schedule: is the end of training a lucky moment?"""
    late = checkpoints(view.single.filter(pl.col("reach_low").is_not_null()))
    drawn = [
        figure(facet.title, facet.detail, reaches(own, TRAIN_STEPS, view, facet), facet.values)
        for facet in view.facets
        if not (own := facet.of(late)).is_empty()
    ]
    text = (
        "Reach at late checkpoints (train.stop_after) of the same schedule, a line per seed: where it jumps up and "
        "down, the step at which training ended decided."
    )
    return fragment(element("h3", "Reach across late checkpoints"), note(text), panels(drawn)) if drawn else None


def _steps(view: View) -> Markup | None:
    """Accuracy at long lengths against training steps: late checkpoints where there are any, else budgets."""
    tested = view.single.filter(pl.col("tested") > 0)
    late = checkpoints(tested)
    several = late if late.height else budgets(tested)
    drawn = [made for facet in view.facets for made in _at_lengths(view, facet, facet.of(several))]
    how = "checkpoints of one schedule" if late.height else "schedules of several lengths"
    text = f"Accuracy at lengths beyond training against training steps ({how}), a line per seed."
    return fragment(element("h3", "Accuracy against training steps"), note(text), panels(drawn)) if drawn else None


def _at_lengths(view: View, facet: Facet, families: pl.DataFrame) -> list[Markup]:
    """A chart per key length beyond those of training."""
    if families.is_empty():
        return []
    lengths = [
        length for length in key_lengths(view.lengths(facet), facet["max_length"]) if length > facet["max_length"]
    ]
    known = families.select("cell", "family", "label", "train_steps").join(
        facet.of(view.random).filter(pl.col("accuracy").is_not_null()), on="cell", how="inner"
    )
    drawn = []
    for length in lengths:
        series = [_line(own) for _, own in known.filter(pl.col("length") == length).group_by("family")]
        plot = chart(series, view.looks, TRAIN_STEPS.axis([], log=False), share_axis("right"))
        drawn.append(figure(f"{facet.title}, length {length:,}", facet.detail, plot, facet.values))
    return drawn


def _line(own: pl.DataFrame) -> Series:
    lines: list[dict[str, Any]] = own.sort("train_steps").to_dicts()
    who = {**lines[0], "recipe": lines[0]["label"], "unfit": all(line["unfit"] for line in lines)}
    said = [
        f"step {line['train_steps']:,}: {line['k']} of {line['of']} right{', unfit' * line['unfit']}" for line in lines
    ]
    steps, shares = [line["train_steps"] for line in lines], [100 * line["accuracy"] for line in lines]
    return Series(who, figures.run_name(who), steps, shares, said)

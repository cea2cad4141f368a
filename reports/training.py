"""How the models were trained: the loss, the budgets side by side, and what more training buys."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from reports import aggregate, figures, wording
from reports import graph as go
from reports.chart import TRAIN_STEPS, TRAIN_TOKENS, Quantity, Series, chart, reach_axis, reach_floor
from reports.families import budgets
from reports.marks import marks
from reports.markup import Markup, element, fragment, table
from reports.parts import architecture, by_architecture, figure, note, panels, section, single_runs
from reports.view import Facet, View

_CURVE_POINTS = 60_000
"""Points of all training curves together; longer ones are thinned."""
_RECIPE = ("steps", "batch", "learning_rate", "weight_decay")
_HEAD = [
    *("Architecture", "Steps", "Batch", "Learning rate", "Weight decay", "Tokens", "Tokens/s", "Padding"),
    *("Validation exact", "Validation loss"),
]


def training(view: View) -> Markup | None:
    """Loss of every run, failed ones included, the budgets, and reach against them where there are several."""
    parts = [_losses(view), _budgets(view), _efficiency(view)]
    if not any(parts):
        return None
    text = (
        "Mean cross-entropy (in nats, as is the validation loss) on the model's own tokens against the real tokens "
        "seen (padding left out), a line per seed; hover for steps. Budgets are equal where the tokens are: "
        "look at them before comparing architectures."
    )
    return section("training", "Training", note(text), single_runs(view), *parts)


def _losses(view: View) -> Markup | None:
    identity = view.cells.select("cell", *aggregate.GROUP, "seed", "replicate", "unfit")
    curve = view.singles(view.data.curves).filter(pl.col("loss").is_finite()).join(identity, on="cell", how="inner")
    if curve.is_empty():
        return None
    each = max(50, min(400, _CURVE_POINTS // curve["cell"].n_unique()))
    thin = curve.sort("cell", "step").filter(_every(each))
    drawn = [
        figure(facet.title, facet.detail, figures.losses(own, view.looks), facet.values)
        for facet in view.facets
        if not (own := facet.of(thin)).is_empty()
    ]
    return panels(drawn)


def _every(most: int) -> pl.Expr:
    """Keep about `most` lines of each cell, the last one always."""
    place, count = pl.int_range(pl.len()).over("cell"), pl.len().over("cell")
    return ((place % pl.max_horizontal(count // most, 1)) == 0) | (place == count - 1)


def _budgets(view: View) -> Markup | None:
    """A line per architecture and recipe of every panel: what it was given, means over its seeds."""
    trained = view.cells.filter(pl.col("train_tokens").is_not_null())
    body: list[list[object]] = []
    who, several = [], len(view.facets) > 1
    for facet in view.facets:
        for name, recipe, own in by_architecture(facet.of(trained)):
            where = [f"{facet.title} · {facet.detail}"] if several else []
            body.append([architecture(view, name, recipe), *where, *_given(own)])
            who.append(marks({**own.row(0, named=True), "seed": None}))
    head = [_HEAD[0], *(["Where"] if several else []), *_HEAD[1:]]
    return fragment(element("h3", "Budgets"), table(head, body, "numbers", who)) if body else None


def _given(own: pl.DataFrame) -> list[str]:
    config = json.loads(own["config"][0] or "{}").get("train") or {}
    recipe: dict[str, Any] = {name: config.get(name) for name in _RECIPE}
    mean = own.select(
        pl.col("train_steps", "train_tokens", "padding", "validation_exact", "validation_loss").mean(),
        (pl.col("train_tokens") / pl.col("train_seconds")).mean().alias("speed"),
    ).row(0, named=True)
    loss = wording.NONE if mean["validation_loss"] is None else f"{mean['validation_loss']:.2g}"
    plain = [wording.NONE if value is None else f"{value:g}" for value in list(recipe.values())[1:]]
    return [
        wording.whole(mean["train_steps"]),
        *plain,
        wording.short(mean["train_tokens"]),
        wording.short(mean["speed"]),
        wording.percent(mean["padding"], 1),
        wording.percent(mean["validation_exact"], 1),
        loss,
    ]


def _efficiency(view: View) -> Markup | None:
    """Reach against training tokens and steps, a line per seed through the budgets it was trained with."""
    several = budgets(view.single.filter(pl.col("reach_low").is_not_null()))
    drawn = [
        figure(f"{facet.title}, {quantity.title}", facet.detail, reaches(own, quantity, view, facet), facet.values)
        for facet in view.facets
        if not (own := facet.of(several)).is_empty()
        for quantity in (TRAIN_TOKENS, TRAIN_STEPS)
    ]
    text = (
        "Reach of a seed against how long it was trained, each budget a schedule of its own. A triangle: the longest "
        "tested length is solved, the reach may lie above. A line is grey where none of its runs fits."
    )
    return fragment(element("h3", "What more training buys"), note(text), panels(drawn)) if drawn else None


def reaches(families: pl.DataFrame, quantity: Quantity, view: View, facet: Facet) -> go.Figure:
    """Reach of one panel's families against training tokens (log) or steps."""
    column, lengths, series = quantity.column, view.lengths(facet), []
    for _, own in families.group_by("family", maintain_order=True):
        lines = own.sort("train_steps").to_dicts()
        said = [
            f"{quantity.say(line[column])} {quantity.title}: reach "
            f"{wording.reach(line['reach_low'], line['reach_high'], line['longest'])}{', unfit' * line['unfit']}"
            for line in lines
        ]
        up = [line["reach_low"] or reach_floor(lengths) for line in lines]
        above = [line["reach_high"] is None for line in lines]
        who = {**lines[0], "recipe": lines[0]["label"], "unfit": all(line["unfit"] for line in lines)}
        series.append(Series(who, figures.run_name(who), [line[column] for line in lines], up, said, above))
    return chart(
        series, view.looks, quantity.axis(families[column].to_list(), log=quantity is TRAIN_TOKENS), reach_axis(lengths)
    )

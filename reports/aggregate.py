"""Rows -> points -> cells -> groups of seeds, in Polars.

A point is one cell at one length on one set of problems. Unfit cells (validation exact match below 95%) keep their
points, but no summary over seeds counts them: they say nothing about extrapolation.
"""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from harness.schema import FAILURES
from reports import statistics
from reports.expectation import means_over_seeds

RANDOM = "random"
"""The problem set that summaries are about; the others are stress sets."""
FACET = ("task", "form", "setting", "tool", "size", "max_length")
"""What is held fixed within one figure."""
GROUP = (*FACET, "architecture", "recipe")
"""What is held fixed over seeds."""
_IDENTITY = ("name", *GROUP, "seed", "replicate", "status", "unfit")
_SEEDS = ("seed", "data_seed", "replicate")
FIT = 0.95


def describe(cells: pl.DataFrame) -> pl.DataFrame:
    """CELLS plus `recipe` (what its configuration has that others of its kind do not) and `unfit`.

    Missing texts become "", a missing max_length 0, so that cells can be grouped by them.
    """
    texts = [name for name in GROUP if name not in ("recipe", "max_length")]
    fit = pl.coalesce("fit", pl.col("validation_exact") >= FIT)
    return cells.with_columns(
        pl.col(*texts, "status").fill_null(""),
        pl.col("max_length").fill_null(0),
        pl.Series("recipe", _recipes(cells), dtype=pl.String),
        (~fit).fill_null(False).alias("unfit"),
    )


def _recipes(cells: pl.DataFrame) -> list[str]:
    """For every cell the configured values, seeds and nulls aside, that differ among the cells of the same kind."""
    configs = [flat(json.loads(text)) if text else {} for text in cells["config"]]
    kind = [name for name in GROUP if name != "recipe"]
    members: dict[tuple[Any, ...], list[int]] = {}
    for index, key in enumerate(cells.select(kind).iter_rows()):
        members.setdefault(key, []).append(index)
    labels = [""] * len(configs)
    for indices in members.values():
        keys = sorted({key for index in indices for key in configs[index]})
        varying = [key for key in keys if len({repr(configs[index].get(key)) for index in indices}) > 1]
        for index in indices:
            told = {key: configs[index].get(key) for key in varying}
            labels[index] = " ".join(f"{key}={value}" for key, value in told.items() if value is not None)
    return labels


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration with dotted keys, seeds left out."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            values |= flat(value, f"{prefix}{key}.")
        elif prefix or key not in _SEEDS:
            values[prefix + key] = value
    return values


def points(rows: pl.DataFrame, cells: pl.DataFrame) -> pl.DataFrame:
    """One line per (cell, length, stress), with who the cell is; rows of other cells are left out.

    Counts: `n` problems; `exact_k` of `exact_n`; `answer_k` of `answer_n` problems whose answer is known. Shares:
    `exact` with its interval; `answer`, which weighs the diverged problems that were rolled out for all that
    diverged (null when some diverged and none was rolled out), with bounds from `statistics.partly_known`. `k`, `of`,
    `accuracy`, `low`, `high` are those of the exact trajectory, or of the answer where the task has no oracle
    (`measure` says which). `contradicted` counts live replays with another result and no near tie to explain it.
    `failure_CLASS` counts failed problems. Sorted by cell, length and stress.

    Raises ValueError when a problem of a point stands twice (rows of several evaluations).
    """
    grouped = rows.group_by("cell", "length", "stress").agg(*_counts(), *_costs())
    if grouped.height and grouped["duplicates"].any():
        cell, length = grouped.filter("duplicates").select("cell", "length").row(0)
        raise ValueError(f"cell {cell}, length {length}: a problem stands twice; pass the rows of one evaluation")
    identity = describe(cells).select("cell", *_IDENTITY)
    joined = grouped.drop("duplicates").join(identity, on="cell", how="inner").sort("cell", "length", "stress")
    return _headline(_answers(_exacts(joined)))


def _counts() -> list[pl.Expr]:
    exact, answer, diverged = pl.col("exact"), pl.col("answer_right"), ~pl.col("exact")
    return [
        pl.len().cast(pl.Int64).alias("n"),
        (pl.col("index").drop_nulls().n_unique() < pl.col("index").count()).alias("duplicates"),
        exact.sum().cast(pl.Int64).alias("exact_k"),
        exact.count().cast(pl.Int64).alias("exact_n"),
        answer.sum().cast(pl.Int64).alias("answer_k"),
        answer.count().cast(pl.Int64).alias("answer_n"),
        diverged.sum().cast(pl.Int64).alias("diverged"),
        (diverged & answer.is_not_null()).sum().cast(pl.Int64).alias("rolled_n"),
        (diverged & answer).sum().cast(pl.Int64).alias("rolled_k"),
        pl.col("near_tie").sum().cast(pl.Int64).alias("near_ties"),
        pl.col("replay_equal").sum().cast(pl.Int64).alias("replayed_equal"),
        pl.col("replay_equal").count().cast(pl.Int64).alias("replayed"),
        (~pl.col("replay_equal") & ~pl.col("near_tie").fill_null(False)).sum().cast(pl.Int64).alias("contradicted"),
        *((pl.col("failure") == name).sum().cast(pl.Int64).alias(f"failure_{name}") for name in FAILURES),
    ]


def _costs() -> list[pl.Expr]:
    return [
        pl.col("token_accuracy").mean(),
        pl.col("tokens").mean(),
        pl.col("flops").mean(),
        pl.col("own_tokens").mean(),
        pl.col("tool_calls").mean(),
        pl.col("longest_walk").max(),
        pl.col("work").mean(),
        pl.col("chance").mean(),
        pl.col("pairs", "pairs_unseen").max(),
        pl.col("seconds").sum(),
        pl.col("rollout_tokens").sum(),
        pl.col("state_bytes").max(),
        pl.col("peak_bytes").max(),
    ]


def _bounds(table: pl.DataFrame, name: str, bounds: statistics.Interval, known: pl.Expr) -> pl.DataFrame:
    low, high = (pl.Series(bound, dtype=pl.Float64) for bound in bounds)
    return table.with_columns(
        pl.when(known).then(low).alias(f"{name}_low"),
        pl.when(known).then(high).alias(f"{name}_high"),
    )


def _share(k: str | pl.Expr, n: str | pl.Expr) -> pl.Expr:
    k, n = (pl.col(value) if isinstance(value, str) else value for value in (k, n))
    return pl.when(n > 0).then(k / n)


def _exacts(table: pl.DataFrame) -> pl.DataFrame:
    bounds = statistics.interval(table["exact_k"].to_numpy(), table["exact_n"].to_numpy())
    return _bounds(
        table.with_columns(_share("exact_k", "exact_n").alias("exact")), "exact", bounds, pl.col("exact_n") > 0
    )


def _answers(table: pl.DataFrame) -> pl.DataFrame:
    """The share of right answers: settled problems as they are, the diverged ones by those that were rolled out."""
    settled_k, settled_n = pl.col("answer_k") - pl.col("rolled_k"), pl.col("answer_n") - pl.col("rolled_n")
    known = pl.col("answer_n") > 0
    table = table.with_columns(
        (settled_n + pl.col("diverged")).alias("_total"), settled_k.alias("_k"), settled_n.alias("_n")
    )
    of_diverged = pl.when(pl.col("diverged") == 0).then(0.0).otherwise(_share("rolled_k", "rolled_n"))
    estimate = pl.when(known).then((pl.col("_k") + pl.col("diverged") * of_diverged) / pl.col("_total"))
    columns = (table[name].to_numpy() for name in ("_k", "_n", "rolled_k", "rolled_n", "_total"))
    bounds = statistics.partly_known(*columns)
    return _bounds(table.with_columns(estimate.alias("answer")), "answer", bounds, known).drop("_total", "_k", "_n")


def _headline(table: pl.DataFrame) -> pl.DataFrame:
    oracle = pl.col("exact_n") > 0

    def either(exact: str, answer: str) -> pl.Expr:
        return pl.when(oracle).then(pl.col(exact)).otherwise(pl.col(answer))

    return table.with_columns(
        pl.when(oracle).then(pl.lit("exact")).otherwise(pl.lit("answer")).alias("measure"),
        either("exact_k", "answer_k").alias("k"),
        either("exact_n", "answer_n").alias("of"),
        either("exact", "answer").alias("accuracy"),
        either("exact_low", "answer_low").alias("low"),
        either("exact_high", "answer_high").alias("high"),
    )


def summarise_cells(table: pl.DataFrame, cells: pl.DataFrame) -> pl.DataFrame:
    """CELLS as described, one line per cell, with what its points on random problems say.

    `tested` lengths; `reach_low` and `reach_high` as in `statistics.Reach` (both null: not tested; only reach_high
    null: censored at `longest`); `paper_length` and `paper_accuracy`; `problems`, `near_ties`, `replayed`,
    `replayed_equal`, `rollout_tokens`, `evaluation_seconds` over all its points, stress sets included.
    """
    lines = []
    random = table.filter(pl.col("stress") == RANDOM).sort("length")
    for (cell,), own in random.group_by("cell", maintain_order=True):
        lengths, accuracies = own["length"].to_list(), own["accuracy"].to_list()
        reach, paper = statistics.reach(lengths, accuracies), statistics.paper_reach(lengths, accuracies)
        lines.append(
            {
                "cell": cell,
                "tested": len(lengths),
                "longest": max(lengths),
                "reach_low": reach.low if reach else None,
                "reach_high": reach.high if reach else None,
                "paper_length": paper[0] if paper else None,
                "paper_accuracy": paper[1] if paper else None,
            }
        )
    kinds = {"cell": pl.String, "paper_accuracy": pl.Float64}
    names = ("cell", "tested", "longest", "reach_low", "reach_high", "paper_length", "paper_accuracy")
    reached = pl.DataFrame(lines, schema={name: kinds.get(name, pl.Int64) for name in names})
    totals = table.group_by("cell").agg(
        pl.col("n").sum().alias("problems"),
        pl.col("near_ties", "replayed", "replayed_equal", "rollout_tokens").sum(),
        pl.col("seconds").sum().alias("evaluation_seconds"),
    )
    described = describe(cells)
    return described.join(reached, on="cell", how="left").join(totals, on="cell", how="left")


def solved_by(table: pl.DataFrame, cells: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """One line per (group of seeds, length) on random problems: how many seeds solve the length.

    `solved` of `seeds` with its Clopper-Pearson interval `low`, `high`; `mean` over seeds, and `expected` of a fresh
    seed with `expected_low`, `expected_high` (`reports.expectation`). A failed cell without this point counts as a
    seed that solves nothing there; unfit cells, those still waiting and further replicates of a seed are not counted.
    """
    described = describe(cells).filter(~pl.col("unfit") & first_replicate())
    failed = described.group_by(*GROUP).agg((pl.col("status") == "failed").sum().cast(pl.Int64).alias("failed"))
    random = table.filter((pl.col("stress") == RANDOM) & pl.col("accuracy").is_not_null())
    tested = (
        random.join(described.select("cell"), on="cell", how="semi")
        .group_by(*GROUP, "length")
        .agg(
            pl.len().cast(pl.Int64).alias("seeds"),
            (pl.col("accuracy") >= statistics.SOLVED).sum().cast(pl.Int64).alias("solved"),
            (pl.col("status") == "failed").sum().cast(pl.Int64).alias("present"),
            pl.col("accuracy").mean().alias("mean"),
        )
    )
    joined = (
        tested.join(failed, on=GROUP, how="left")
        .join(_outcomes(rows, described), on=[*GROUP, "length"], how="left")
        .with_columns(pl.col("seeds") + pl.col("failed") - pl.col("present"))
    )
    low, high = statistics.clopper_pearson(joined["solved"].to_numpy(), joined["seeds"].to_numpy())
    means = means_over_seeds([_matrix(*line) for line in joined.select("index", "right", "seeds").iter_rows()])
    return (
        joined.with_columns(
            pl.Series("low", low, dtype=pl.Float64),
            pl.Series("high", high, dtype=pl.Float64),
            pl.Series("expected", [mean.mean if mean else None for mean in means], dtype=pl.Float64),
            pl.Series("expected_low", [mean.low if mean else None for mean in means], dtype=pl.Float64),
            pl.Series("expected_high", [mean.high if mean else None for mean in means], dtype=pl.Float64),
        )
        .drop("failed", "present", "index", "right")
        .sort(*GROUP, "length")
    )


def first_replicate() -> pl.Expr:
    """Whether a described cell is the first replicate of its seed: the others are no further seeds."""
    replicate = pl.col("replicate").fill_null(0)
    return replicate == replicate.min().over(*GROUP, "seed")


def _outcomes(rows: pl.DataFrame, described: pl.DataFrame) -> pl.DataFrame:
    """For every (group of seeds, length) on random problems, a list per seed of problems and whether each was right."""
    right = pl.coalesce("exact", "answer_right").alias("right")
    known = rows.filter(pl.col("stress") == RANDOM).select("cell", "length", "index", right).drop_nulls()
    points = known.sort("index").group_by("cell", "length", maintain_order=True).agg("index", "right")
    of_groups = points.join(described.select("cell", *GROUP), on="cell", how="inner").sort("cell")
    return of_groups.group_by(*GROUP, "length", maintain_order=True).agg("index", "right")


def _matrix(index: list[list[int]] | None, right: list[list[bool]] | None, seeds: int) -> list[list[bool]]:
    """Outcomes of shape (seeds, problems) on the problems every seed has; False for seeds that have none, since their
    runs failed."""
    if index is None or right is None:
        return []
    if any(own != index[0] for own in index):
        common = sorted(set(index[0]).intersection(*index))
        looked_up = [dict(zip(own, line)) for own, line in zip(index, right)]
        right = [[line[place] for place in common] for line in looked_up]
    return [*right, *[[False] * len(right[0])] * (seeds - len(right))]

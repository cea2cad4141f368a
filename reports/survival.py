"""When errors come: the hazard of the first error along a trajectory, and where it falls."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from reports import aggregate, statistics

Bin = tuple[int, int]
"""First and last place, both counted from 1."""

TENTHS: tuple[Bin, ...] = tuple((place, place) for place in range(1, 11))
_TENTH = (10 * (pl.col("divergence") + 1) / pl.col("tokens")).ceil().cast(pl.Int64)

PLACES = {
    "token": (pl.col("divergence") + 1, pl.col("tokens")),
    "step": (pl.col("divergence_step"), pl.col("steps")),
    "tenth": (_TENTH, pl.lit(10)),
}
"""What a place is -> place of the first error (null: none) and number of places in the trajectory, both from 1."""


def octaves(most: int) -> tuple[Bin, ...]:
    """Bins 1, 2-3, 4-7, 8-15 and so on, up to the one that holds `most`."""
    return tuple((1 << bit, (2 << bit) - 1) for bit in range(most.bit_length()))


def judged(rows: pl.DataFrame | pl.LazyFrame, cells: pl.DataFrame) -> pl.DataFrame:
    """Random problems of fit cells that were compared with the oracle: what the tables below need of them."""
    columns = ("cell", "length", "exact", "divergence", "divergence_step", "tokens", "steps")
    fit = cells.lazy().filter(~pl.col("unfit")).select("cell", "max_length")
    known = pl.col("exact").is_not_null() & (pl.col("exact") | pl.col("divergence").is_not_null())
    random = rows.lazy().filter((pl.col("stress") == aggregate.RANDOM) & known & pl.col("tokens").is_not_null())
    return random.select(columns).join(fit, on="cell").collect()


def hazard(problems: pl.DataFrame, place: str) -> pl.DataFrame:
    """One line per cell and bin of places: `errors` among `risked` places at risk, and the `problems` that came so far.

    A problem is at risk at every place up to its first error or its end. `rate` = errors / risked is the discrete
    hazard, taken as constant within a bin (Kalbfleisch and Prentice, The Statistical Analysis of Failure Time Data,
    2nd ed., section 2.4): its likelihood is that of `errors` in `risked` independent trials, hence the binomial
    interval `low`, `high` (`statistics.interval`), which is about this checkpoint. Columns: cell, first, last (of the
    bin), errors, risked, problems, rate, low, high; sorted.
    """
    error, end = PLACES[place]
    places = problems.select("cell", pl.when(~pl.col("exact")).then(error).alias("error"), end.alias("end"))
    places = places.drop_nulls("end").select("cell", "error", pl.coalesce("error", "end").alias("last"))
    table = _counted(places, TENTHS if place == "tenth" else octaves(places["last"].max() or 0))  # type: ignore[arg-type]
    low, high = statistics.interval(table["errors"].to_numpy(), table["risked"].to_numpy())
    bounds = {"low": pl.Series(low, dtype=pl.Float64), "high": pl.Series(high, dtype=pl.Float64)}
    return table.with_columns(rate=pl.col("errors") / pl.col("risked"), **bounds).sort("cell", "first")


def _counted(places: pl.DataFrame, bins: Sequence[Bin]) -> pl.DataFrame:
    """Counts of every cell and bin. The problems are gone through once: counted by the bin of their last place, from
    which follows what they are in every bin."""
    edges = [first for first, _ in bins] + [last + 1 for _, last in bins[-1:]]
    ended = pl.Series(edges, dtype=pl.Int64).search_sorted(places["last"], side="right")
    by_end = (
        places.with_columns(ended=ended.cast(pl.Int64) - 1)
        .group_by("cell", "ended")
        .agg(n=pl.len().cast(pl.Int64), errors=pl.col("error").count().cast(pl.Int64), total=pl.col("last").sum())
    )
    bounds = pl.DataFrame(bins, schema={"first": pl.Int64, "last": pl.Int64}, orient="row")
    bounds = bounds.with_columns(bin=pl.int_range(pl.len()))
    inside, before = pl.col("ended") == pl.col("bin"), pl.col("first") - 1
    risked = (
        pl.when(inside).then(pl.col("total") - pl.col("n") * before).otherwise(pl.col("n") * (pl.col("last") - before))
    )
    return (
        by_end.join(bounds, how="cross")
        .filter(pl.col("ended") >= pl.col("bin"))
        .group_by("cell", "first", "last")
        .agg(errors=pl.col("errors").filter(inside).sum(), risked=risked.sum(), problems=pl.col("n").sum())
    )


def first_errors(problems: pl.DataFrame) -> pl.DataFrame:
    """One line per cell and length where problems failed: quartiles `low`, `middle`, `high` of the tokens before the
    first error, the `failed` of `n` problems, and the mean `tokens` of the trajectories. Sorted."""
    wrong = pl.col("divergence").filter(~pl.col("exact"))
    quartiles = {"low": 0.25, "middle": 0.5, "high": 0.75}
    table = problems.group_by("cell", "length").agg(
        pl.len().cast(pl.Int64).alias("n"),
        (~pl.col("exact")).sum().cast(pl.Int64).alias("failed"),
        pl.col("tokens").mean(),
        *(wrong.quantile(share, "linear").alias(name) for name, share in quartiles.items()),
    )
    return table.filter(pl.col("failed") > 0).sort("cell", "length")


def longest_trained(problems: pl.DataFrame, column: str) -> int | None:
    """The most tokens, or solver steps, of a tested trajectory of a length that was trained on; None without one."""
    most = problems.filter(pl.col("length") <= pl.col("max_length"))[column].max()
    return None if most is None else int(most)  # type: ignore[arg-type]

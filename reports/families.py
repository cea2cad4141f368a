"""Cells that differ in nothing but how long they were trained, or in nothing at all."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from reports import aggregate

_IDENTITY = (*(name for name in aggregate.GROUP if name != "recipe"), "seed", "replicate")


def checkpoints(cells: pl.DataFrame) -> pl.DataFrame:
    """Late checkpoints: one schedule, stopped at several steps."""
    return _families(cells, ("stop_after",))


def budgets(cells: pl.DataFrame) -> pl.DataFrame:
    """Budgets: schedules of several lengths, each run to its end."""
    ended = [(_config(text).get("train") or {}).get("stop_after") is None for text in cells["config"]]
    return _families(cells.filter(pl.Series(ended, dtype=pl.Boolean)), ("steps",))


def repeats(cells: pl.DataFrame) -> pl.DataFrame:
    """Cells plus `repeats`, the same for replicates: runs of one configuration with one seed."""
    keys = [
        json.dumps({**_config(text), "replicate": 0, "cell": None if text else cell}, sort_keys=True)
        for text, cell in cells.select("config", "cell").iter_rows()
    ]
    return cells.with_columns(pl.Series("repeats", keys, dtype=pl.String))


def _families(cells: pl.DataFrame, fields: tuple[str, ...]) -> pl.DataFrame:
    """Described cells plus `family`, the same for cells whose configurations agree but for these fields of `train`,
    and `label`, what else their recipe says. A family is one seed; only those trained for several numbers of steps
    are kept."""
    who = cells.select(*_IDENTITY, "config", "cell").iter_rows()
    keys = [json.dumps([line[:-2], _without(_config(line[-2]), fields) if line[-2] else line[-1]]) for line in who]
    labels = [_label(recipe, fields) for recipe in cells["recipe"]]
    named = cells.with_columns(pl.Series("family", keys, dtype=pl.String), pl.Series("label", labels, dtype=pl.String))
    return named.filter(pl.col("train_steps").drop_nulls().n_unique().over("family") > 1).sort("train_steps")


def _config(text: str | None) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(text) if text else {}
    return config


def _without(config: dict[str, Any], fields: tuple[str, ...]) -> str:
    train = {name: value for name, value in (config.get("train") or {}).items() if name not in fields}
    return json.dumps({**config, "train": train}, sort_keys=True)


def _label(recipe: str, fields: tuple[str, ...]) -> str:
    """A recipe without what it says of these fields."""
    names = tuple(f"train.{field}=" for field in fields)
    return " ".join(word for word in recipe.split(" ") if not word.startswith(names))

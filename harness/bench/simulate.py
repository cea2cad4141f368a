"""Stores that look as if a grid had been run, with results drawn from a known truth: nothing is trained.

The accuracy of a cell at a length is 1 / (1 + (length / half)^4); where its half lies depends on setting, architecture
and seed, and one seed in five is lucky or unlucky by a large factor, as seeds are.
"""

from __future__ import annotations

import json
import math
import zlib

import numpy as np
import polars as pl
from numpy.typing import NDArray

from harness.errors import UserError
from harness.grid import Grid, Resolved, evaluation_id
from harness.schema import CURVES, FAILURES, ROWS
from harness.store import Extent, Store, arrow_schema, curve_file, encoded

TEXT = """
name: simulated
title: Simulated results
description: Drawn from a known truth; nothing was trained.
base: {size: tiny, train: {max_length: 5, steps: 1000}}
axes:
  task: [addition, multiplication]
  setting: [interactive, cot, single_turn, direct]
  architecture: [mamba1, mamba2, transformer, gru, hybrid]
  seed: [0, 1, 2, 3, 4]
evaluate: {lengths: [5, 10, 20, 40, 80, 160, 240, 320, 480, 640], problems: 500}
"""
"""200 cells at 10 lengths: a million rows."""
_HALVES = {"interactive": 400.0, "cot": 20.0, "single_turn": 60.0, "direct": 8.0}
_FACTORS = {"mamba1": 1.0, "mamba2": 0.6, "transformer": 0.03, "gru": 1.6, "hybrid": 0.2}


def accuracy(cell: Resolved, length: int) -> float:
    """The truth: the probability that the cell solves a problem of the length."""
    return float(1 / (1 + (length / _half(cell)) ** 4))


def _half(cell: Resolved) -> float:
    config = cell.config
    chance = _generator(cell, "half")
    lucky = 10.0 ** chance.choice([-1, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    usual = _HALVES[config.setting] * _FACTORS.get(config.architecture, 0.5)
    return max(usual * lucky * math.exp(chance.normal(0, 0.2)), 6.0)


def _generator(cell: Resolved, purpose: str) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(cell.id.encode()), zlib.crc32(purpose.encode())])


def simulate(grid: Grid, store: Store, failed_every: int | None = 50, records: int = 250) -> None:
    """Write what a run of the grid would have left: weights' summaries, curves, rows and attempts; no weights.

    One cell in `failed_every` has failed; curves have at most so many `records`. Raises UserError for a grid of
    settings whose truth is not stated here.
    """
    if unknown := {cell.config.setting for cell in grid.cells} - _HALVES.keys():
        raise UserError(f"grid {grid.file.name}: no truth is stated for the settings {', '.join(sorted(unknown))}")
    for place, cell in enumerate(grid.cells):
        failed = failed_every is not None and place % failed_every == failed_every - 1
        _attempt(cell, failed, store)
        if not failed:
            _publish(cell, store, records)
            for length in grid.evaluate(cell).lengths:
                _point(cell, grid, length, store)


def _checkpoint(cell: Resolved) -> str:
    return (cell.id * 2)[:32]


def _attempt(cell: Resolved, failed: bool, store: Store) -> None:
    begun = {"cell": cell.id, "started": "2026-01-15T10:31:00+00:00", "host": "simulated", "device": "cpu"}
    store.begin_attempt(f"{cell.id}-1", begun)
    reason = "Diverged: the loss is nan at step 212" if failed else None
    outcome = {"outcome": "failed" if failed else "done", "reason": reason, "traceback": reason}
    store.end_attempt(f"{cell.id}-1", {"ended": "2026-01-15T10:33:00+00:00", **outcome})


def _publish(cell: Resolved, store: Store, records: int) -> None:
    chance = _generator(cell, "training")
    checkpoint, steps = _checkpoint(cell), cell.config.train.steps
    parameters = int(chance.integers(180_000, 420_000))
    summary = {
        "checkpoint": checkpoint,
        "parameters": parameters,
        "flops_per_token": 2.1 * parameters,
        "state_bytes": int(chance.integers(1_000, 300_000)),
        "no_bound": "an interactive tool is no part of the state",
        "train_steps": steps,
        "train_tokens": 9_000 * steps,
        "train_seconds": float(chance.uniform(25, 90)),
        "padding": float(chance.uniform(0.01, 0.06)),
        "validation_exact": 1.0,
        "validation_loss": 1e-4,
        "validation_problems": 128,
        "fit": True,
        "train_device": "simulated",
        "train_kernels": "scan=reference attention=sdpa",
        "versions": "lengthwise=0 torch=0 python=0",
    }
    step = np.unique(np.linspace(1, steps, records).astype(int))
    curve = pl.DataFrame(
        {
            "cell": pl.repeat(cell.id, len(step), eager=True),
            "step": step,
            "tokens": 9_000 * step,
            "loss": (2.4 * np.exp(-6 * step / steps) + 3e-4) * np.exp(chance.normal(0, 0.15, len(step))),
            "learning_rate": 1e-3 * (1 - step / steps),
            "gradient_norm": chance.exponential(1.0, len(step)),
            "seconds": 0.05 * step,
        }
    )
    store.create(f"cells/{cell.id}/cell.json", json.dumps({"config": cell.config.model_dump()}).encode())
    store.create(curve_file(cell.id, checkpoint), _parquet(CURVES, curve))
    store.create(f"cells/{cell.id}/published.json", json.dumps(summary).encode())


def _point(cell: Resolved, grid: Grid, length: int, store: Store) -> None:
    evaluate = grid.evaluate(cell)
    chance = _generator(cell, f"length {length}")
    count, evaluation = evaluate.problems, evaluation_id(evaluate)
    exact = chance.random(count) < accuracy(cell, length)
    rolled = ~exact & (np.cumsum(~exact) <= evaluate.rollout_max)
    right = chance.random(count) < 0.25
    tokens = 35 * length + chance.integers(0, 48, count)
    at = (chance.random(count) * tokens).astype(int)
    known = {
        "cell": cell.id,
        "checkpoint": _checkpoint(cell),
        "evaluation": evaluation,
        "attempt": f"{cell.id}-1",
        "length": length,
        "stress": "random",
        "problem_length": length,
        "mode": "verify",
        "corrupt": 0.0,
        "tool_calls": 12 * length,
        "longest_walk": length,
        "state_bytes": 70_000,
        "device": "simulated",
        "kernels": "scan=reference attention=sdpa",
        "precision": "float32",
    }

    def where(mask: NDArray[np.bool_], values: pl.Series) -> pl.Series:
        """Null where the mask is false."""
        return pl.select(pl.when(pl.lit(pl.Series(mask))).then(pl.lit(values))).to_series()

    def any_of(names: list[str]) -> pl.Series:
        return pl.Series(np.array(names)[chance.integers(0, len(names), count)])

    everything = np.ones(count, bool)
    rows = pl.DataFrame(
        {
            "index": np.arange(count),
            "problem": _digits(chance, count, 16),
            "question": _digits(chance, count, min(4 * length, 2_000)),
            "exact": exact,
            "answer_right": where(exact | rolled, pl.Series(exact | right)),
            "token_accuracy": np.where(exact, 1.0, chance.uniform(0.7, 0.999, count)),
            "divergence": where(~exact, pl.Series(at)),
            "divergence_step": where(~exact, pl.Series(at // 12)),
            "divergence_phase": where(~exact, any_of(["walk to =", "add", "copy sum"])),
            "divergence_role": where(~exact, any_of(["command", "thought", "output"])),
            "expected": where(~exact, any_of(["L1", "R2", "7", "c0"])),
            "got": where(~exact, any_of(["r1", "[ANS]", "3", "c1"])),
            "context": where(~exact, _digits(chance, count, 60)),
            "failure": where(~exact, any_of(list(FAILURES))),
            "ending": where(rolled, any_of(["finished", "past_budget"])),
            "output": where(rolled, _digits(chance, count, min(2 * length, 2_000))),
            "margin": chance.exponential(3.0, count),
            "rollout_margin": where(rolled, pl.Series(chance.exponential(1.0, count))),
            "near_tie": chance.random(count) < 0.001,
            "replay_equal": where(chance.random(count) < evaluate.replay, pl.Series(everything)),
            "tokens": tokens,
            "own_tokens": tokens // 2,
            "rollout_tokens": where(rolled, pl.Series(tokens)),
            "seconds": 0.0004 * tokens,
        }
    ).with_columns(pl.lit(value).alias(name) for name, value in known.items())
    extent = Extent(_checkpoint(cell)[:16], evaluation, length, "random", 0, count)
    store.create(f"cells/{cell.id}/rows/{extent.file}", _parquet(ROWS, rows))


def _digits(chance: np.random.Generator, count: int, characters: int) -> pl.Series:
    """Texts as long as real ones, and as hard to compress: random digits between spaces."""
    letters = chance.integers(ord("0"), ord("9") + 1, (count, characters), dtype=np.uint8)
    letters[:, 1::2] = ord(" ")
    return pl.Series(letters.view(f"S{characters}").ravel().astype(str))


def _parquet(kind: dict[str, tuple[str, str]], table: pl.DataFrame) -> bytes:
    """A Parquet file with exactly the columns of `kind`, null where the table has none."""
    missing = [pl.lit(None).alias(name) for name in kind if name not in table.columns]
    return encoded(table.with_columns(missing).select(list(kind)).to_arrow().cast(arrow_schema(kind)))

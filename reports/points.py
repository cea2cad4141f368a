"""The aggregated points as one flat table, for other programs: what `lengthwise report --format csv,parquet` writes."""

from __future__ import annotations

import io

import polars as pl

from harness.schema import FAILURES
from reports.view import View

COLUMNS: dict[str, str] = {
    # which cell
    "cell": "id of the cell",
    "name": "its readable name: the values of the axes",
    "task": "task",
    "form": "trajectory form",
    "setting": "what the model may do",
    "tool": "tool",
    "architecture": "architecture",
    "size": "size preset",
    "recipe": "what its configuration has that other cells of its kind do not",
    "seed": "seed of the initialisation",
    "replicate": "number of the repetition with the same seed",
    "max_length": "longest training length",
    "status": "done, failed, waiting, training or evaluating",
    "unfit": "true: under 95% exact on validation problems at training lengths; claims leave it out",
    "checkpoint": "hash of the weights",
    # which point
    "length": "length of the problems; empty for a cell that has no point",
    "stress": "set of problems: random, jittered or a stress set",
    "problems": "problems evaluated",
    # result
    "measure": "what k, n, accuracy, low and high count: exact trajectories, or answers for a task without an oracle",
    "k": "problems that are right",
    "n": "problems whose result is known",
    "accuracy": "k / n; for answers as `answer` below",
    "low": "lower end of the 95% interval of accuracy",
    "high": "upper end",
    "exact_k": "exact trajectories",
    "exact_n": "problems with an oracle",
    "exact": "exact_k / exact_n",
    "exact_low": "lower end of its 95% interval (Wilson; Clopper-Pearson at 0 and n)",
    "exact_high": "upper end",
    "answer_k": "right answers",
    "answer_n": "problems whose answer is known: exact ones, and diverged ones played to their end",
    "answer": "share of right answers, where those played to their end stand for all that diverged",
    "answer_low": "lower end of its interval (95% or more)",
    "answer_high": "upper end",
    "token_accuracy": "mean share of the model's own tokens that are right under teacher forcing",
    "chance": "probability that the best blind answer is right",
    "near_ties": "problems in which another decoder may decide otherwise",
    "replayed": "problems replayed live as a check",
    "replayed_equal": "of those, with the same result",
    **{f"failure_{name}": f"failed problems of the class {name.replace('_', ' ')}" for name in FAILURES},
    # reach of the cell, the same on each of its lines
    "reach_low": "reach on random problems: last length of the unbroken run of solved lengths; 0: not one",
    "reach_high": "first tested length that is not solved; empty: all are, up to `longest`",
    "longest": "longest tested length of random problems",
    # cost of the point
    "tokens": "mean tokens of a trajectory",
    "own_tokens": "mean tokens of it that the model makes",
    "tool_calls": "mean commands in it",
    "longest_walk": "longest walk of a pointer in one direction",
    "work": "mean nodes of a graph that have to be visited",
    "seconds": "seconds to evaluate the point, all problems together",
    "rollout_tokens": "tokens decoded live, all problems together",
    "state_bytes": "largest state of one sequence at the end of a trajectory",
    "peak_bytes": "peak memory of the device; empty on a CPU",
    # cost of the cell, the same on each of its lines
    "parameters": "trainable parameters",
    "flops_per_token": "FLOPs of the next token after 1,000 tokens",
    "train_steps": "optimiser steps",
    "train_tokens": "tokens seen in training, padding left out",
    "train_seconds": "seconds of training",
    "validation_exact": "share of exact trajectories on validation problems at training lengths",
    "validation_problems": "its denominator",
}
"""Column -> meaning. Shares are in 0..1; an empty value is not known or does not apply."""

_CELL = (
    *("cell", "name", "task", "form", "setting", "tool", "architecture", "size", "recipe", "seed", "replicate"),
    *("max_length", "status", "unfit", "checkpoint", "reach_low", "reach_high", "longest", "parameters"),
    *("flops_per_token", "train_steps", "train_tokens", "train_seconds", "validation_exact", "validation_problems"),
)


def points(view: View) -> pl.DataFrame:
    """One line per (cell, length, stress) with COLUMNS; a cell without a point has one line with its length null."""
    counted = view.points.rename({"n": "problems", "of": "n"})
    counted = counted.select("cell", *(name for name in COLUMNS if name not in _CELL))
    joined = view.cells.select(_CELL).join(counted, on="cell", how="left", maintain_order="left_right")
    return joined.select(list(COLUMNS))


def csv(view: View) -> bytes:
    """`points` with a line of names; null is empty, an empty text is a pair of quotes."""
    return points(view).write_csv().encode()


def parquet(view: View) -> bytes:
    buffer = io.BytesIO()
    points(view).write_parquet(buffer)
    return buffer.getvalue()

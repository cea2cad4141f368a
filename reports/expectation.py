"""What a few seeds say of the architecture and recipe they were drawn from: the accuracy to expect of a fresh one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reports.statistics import CONFIDENCE, Interval

DRAWS = 2000


@dataclass(frozen=True)
class Mean:
    """A mean over seeds with its 95% interval."""

    mean: float
    low: float
    high: float


def means_over_seeds(outcomes: Sequence[ArrayLike]) -> list[Mean | None]:
    """For every group of seeds the mean accuracy of fresh seeds on fresh problems, from its outcomes 0 or 1 of shape
    (seeds, problems); None for a group without a seed or a problem."""
    groups = [np.asarray(group, dtype=np.float32) for group in outcomes]
    means: list[Mean | None] = [None] * len(groups)
    for shape in {group.shape for group in groups if group.size}:
        places = [place for place, group in enumerate(groups) if group.shape == shape]
        alike = np.stack([groups[place] for place in places])
        bounds = zip(alike.mean(axis=(1, 2), dtype=np.float64), *crossed_bootstrap(alike))
        for place, (mean, low, high) in zip(places, bounds):
            means[place] = Mean(float(mean), float(low), float(high))
    return means


def crossed_bootstrap(right: ArrayLike) -> Interval:
    """95% intervals of mean accuracies, from outcomes 0 or 1 of shape (groups, seeds, problems).

    Seeds and problems are reweighed independently of each other (crossed: every seed meets the same problems), with
    weights from flat Dirichlet distributions (the Bayesian bootstrap, Rubin 1981). One unseen seed and one unseen
    problem take part in it, wrong for the lower bound and right for the upper one (Gaffke, 2005). Without them
    seeds that all succeed would leave no doubt; with them, k of S seeds that are all right or all wrong get the
    bounds of Clopper and Pearson, but for the problems. The weights are drawn once, from a fixed seed.
    """
    outcomes = np.asarray(right, dtype=np.float32)
    groups, seeds, problems = outcomes.shape
    weights = _weights(seeds, problems)
    flat = outcomes.reshape(groups, seeds * problems)
    tail = (1 - CONFIDENCE) / 2
    low = np.quantile(flat @ weights, tail, axis=1)
    high = 1 - np.quantile((1 - flat) @ weights, tail, axis=1)
    return low.astype(np.float64), high.astype(np.float64)


@lru_cache(maxsize=2)
def _weights(seeds: int, problems: int) -> NDArray[np.float32]:
    """Weights (seeds * problems, DRAWS) of the seen outcomes; what they lack of 1 goes to the unseen."""
    chance = np.random.default_rng(0)
    of_seeds = chance.dirichlet(np.ones(seeds + 1), DRAWS)[:, :seeds]
    of_problems = chance.dirichlet(np.ones(problems + 1), DRAWS)[:, :problems]
    crossed = of_seeds[:, :, None] * of_problems[:, None, :]
    return np.ascontiguousarray(crossed.reshape(DRAWS, -1).T, dtype=np.float32)

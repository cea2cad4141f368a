"""Intervals and reach of one checkpoint, as pure functions. Shares and confidences are in 0..1.

Problems are the unit of claims about one checkpoint, seeds that of claims about an architecture:
`reports.expectation` says what to expect of a fresh seed, `reports.significance` which differences are more than
chance. docs/statistics.md gives the coverage of every interval, by simulation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
Interval = tuple[Floats, Floats]

CONFIDENCE = 0.95
SOLVED = 0.95
"""A length counts as solved when at least this share of its problems is right."""
PAPER_FLOOR = 0.05
"""Malach et al. (arXiv 2510.14826) report the last length with at least this accuracy."""
_LEAST = 1e-9
"""A parameter of a beta distribution must be positive, also where its quantile is not looked at."""


def clopper_pearson(k: ArrayLike, n: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Exact binomial interval of a share (Clopper and Pearson, 1934). Without trials it is (0, 1).

    It covers at least as often as it says, also near 0 and 1, where Wilson's interval does not: at a share of 0.995
    Wilson's covers 85% of the time with 32 problems. `k` may be a sum of shares. Raises ValueError unless 0 <= k <= n.
    """
    k, n = np.broadcast_arrays(np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64))
    if np.any(k < 0) or np.any(k > n):
        raise ValueError(f"k successes in n trials need 0 <= k <= n, not k={k!r}, n={n!r}")
    tail = (1 - confidence) / 2
    low = np.where(k > 0, stats.beta.ppf(tail, np.maximum(k, _LEAST), n - k + 1), 0.0)
    high = np.where(k < n, stats.beta.ppf(1 - tail, k + 1, np.maximum(n - k, _LEAST)), 1.0)
    return low, high


interval = clopper_pearson
"""The interval of every share on the page."""


def partly_known(known: ArrayLike, known_n: ArrayLike, k: ArrayLike, n: ArrayLike, total: ArrayLike) -> Interval:
    """Bounds of a share over `total` problems: `known` of `known_n` are settled right, and of the others only a random
    `n` were looked at, of which `k` were right.

    Counting k + known of n + known_n would overstate the share, since the settled ones are the easy ones. Of all
    problems known + (total - known_n) * b are right, where b, the share of right ones among the others, lies between
    bounds of its own; each step gets half the error (Bonferroni), so the result covers at 95% or more. When every
    problem was looked at, the bounds are those of `interval`.
    """
    known, known_n, k, n, total = (np.asarray(value, dtype=np.float64) for value in (known, known_n, k, n, total))
    both = 1 - (1 - CONFIDENCE) / 2
    unsettled = np.maximum(total - known_n, 0.0)
    least, most = (known + unsettled * bound for bound in clopper_pearson(k, n, both))
    whole = clopper_pearson(known + k, known_n + n)
    complete = known_n + n >= total
    counted = np.maximum(total, known_n)
    low = np.where(complete, whole[0], clopper_pearson(np.minimum(least, counted), counted, both)[0])
    high = np.where(complete, whole[1], clopper_pearson(np.minimum(most, counted), counted, both)[1])
    return low, high


@dataclass(frozen=True)
class Reach:
    """How far the unbroken run of solved lengths goes: from `low` up to, but not including, `high`."""

    low: int
    """The last length of the run; 0 when the shortest tested length is not solved."""
    high: int | None
    """The first tested length that is not solved; None when there is none (censored at the longest tested)."""


def reach(lengths: Sequence[int], accuracies: Sequence[float | None], threshold: float = SOLVED) -> Reach | None:
    """Reach of one seed, censored to the tested lengths; None when nothing was tested.

    A length without accuracy (None) counts as not tested. Raises ValueError when a length stands twice.
    """
    tested = sorted((length, value) for length, value in zip(lengths, accuracies, strict=True) if value is not None)
    if len({length for length, _ in tested}) < len(tested):
        raise ValueError(f"a length stands twice among {[length for length, _ in tested]}")
    low = 0
    for length, value in tested:
        if value < threshold:
            return Reach(low, length)
        low = length
    return Reach(low, None) if tested else None


def paper_reach(lengths: Sequence[int], accuracies: Sequence[float | None]) -> tuple[int, float] | None:
    """Last length with an accuracy of at least 5%, and that accuracy: the paper's measure, blind to gaps before it."""
    passed = [(m, p) for m, p in zip(lengths, accuracies, strict=True) if p is not None and p >= PAPER_FLOOR]
    return max(passed, default=None)


def paper_cell(trained: int, lengths: Sequence[int], accuracies: Sequence[float | None]) -> str:
    """`n → m (p%)` as in the paper's tables: trained up to n, accuracy p at the last length m with p >= 5%."""
    best = paper_reach(lengths, accuracies)
    return f"{trained:,} → none" if best is None else f"{trained:,} → {best[0]:,} ({100 * best[1]:.0f}%)"

"""Intervals and summaries, as pure functions. Shares and confidences are in 0..1.

Problems are the unit of claims about one checkpoint (Wilson, Clopper-Pearson), seeds the unit of claims about an
architecture (k of S seeds, beta-binomial mean).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

Floats = NDArray[np.float64]
Interval = tuple[Floats, Floats]

CONFIDENCE = 0.95
SOLVED = 0.95
"""A length counts as solved when at least this share of its problems is right."""
PAPER_FLOOR = 0.05
"""Malach et al. (arXiv 2510.14826) report the last length with at least this accuracy."""


def _counts(k: ArrayLike, n: ArrayLike) -> Interval:
    successes, trials = np.broadcast_arrays(np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64))
    if np.any(successes < 0) or np.any(successes > trials):
        raise ValueError(f"k successes in n trials need 0 <= k <= n, not k={k!r}, n={n!r}")
    return successes, trials


def wilson(k: ArrayLike, n: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Score interval of a share (Wilson, 1927). Without trials it is (0, 1). Raises ValueError unless 0 <= k <= n."""
    k, n = _counts(k, n)
    z2 = stats.norm.ppf((1 + confidence) / 2) ** 2
    centre = (k + z2 / 2) / (n + z2)
    half = np.sqrt(z2) / (n + z2) * np.sqrt(k * (n - k) / np.maximum(n, 1) + z2 / 4)
    return np.clip(centre - half, 0.0, 1.0), np.clip(centre + half, 0.0, 1.0)


def clopper_pearson(k: ArrayLike, n: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Exact binomial interval of a share (Clopper and Pearson, 1934). Without trials it is (0, 1).

    Raises ValueError unless 0 <= k <= n.
    """
    k, n = _counts(k, n)
    tail = (1 - confidence) / 2
    low = np.where(k > 0, stats.beta.ppf(tail, np.maximum(k, 1), n - k + 1), 0.0)
    high = np.where(k < n, stats.beta.ppf(1 - tail, k + 1, np.maximum(n - k, 1)), 1.0)
    return low, high


def interval(k: ArrayLike, n: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """The interval of a point: Wilson, but Clopper-Pearson at 0/n and n/n, where Wilson's covers too little."""
    k, n = _counts(k, n)
    edge = (k == 0) | (k == n)
    exact, score = clopper_pearson(k, n, confidence), wilson(k, n, confidence)
    return np.where(edge, exact[0], score[0]), np.where(edge, exact[1], score[1])


def partly_known(known: ArrayLike, known_n: ArrayLike, k: ArrayLike, n: ArrayLike, total: ArrayLike) -> Interval:
    """Bounds of a share over `total` problems: `known` of `known_n` are settled right, and of the others only a random
    `n` were looked at, of which `k` were right.

    Counting k + known of n + known_n would overstate the share, since the settled ones are the easy ones. The share is
    w * a + (1 - w) * b with both parts unknown; each gets an interval at half the error (Bonferroni), so the bounds
    hold together at 95% or more. When every problem was looked at they are those of `interval`.
    """
    known, known_n, k, n, total = (np.asarray(value, dtype=np.float64) for value in (known, known_n, k, n, total))
    both = 1 - (1 - CONFIDENCE) / 2
    settled, sampled = interval(known, known_n, both), interval(k, n, both)
    weight = known_n / np.maximum(total, 1)
    whole = interval(known + k, known_n + n)
    complete = known_n + n >= total
    bounds = (weight * a + (1 - weight) * b for a, b in zip(settled, sampled))
    low, high = (np.where(complete, exact, bound) for exact, bound in zip(whole, bounds))
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
    return f"{trained} → none" if best is None else f"{trained} → {best[0]} ({100 * best[1]:.0f}%)"


@dataclass(frozen=True)
class Mean:
    """A mean over seeds with its 95% interval."""

    mean: float
    low: float
    high: float


_MEANS = np.linspace(0.0, 1.0, 202)[1:-1]
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(40)
_CORRELATIONS = (_NODES + 1) / 2


@lru_cache(maxsize=4096)
def _log_likelihood(k: int, n: int) -> Floats:
    """log P(k of n) of the beta-binomial, over the grid of means (rows) and correlations (columns)."""
    strength = 1 / _CORRELATIONS - 1
    a, b = _MEANS[:, None] * strength, (1 - _MEANS[:, None]) * strength
    return np.asarray(special.betaln(k + a, n - k + b) - special.betaln(a, b), dtype=np.float64)


def beta_binomial_mean(k: Sequence[int], n: Sequence[int]) -> Mean | None:
    """Accuracy to expect of a fresh seed, given k of n problems right for each seed; None without seeds.

    Each seed has its own accuracy from a beta distribution with mean m and intra-class correlation r (how much seeds
    differ: 0 not at all, 1 each is all right or all wrong), both uniform on 0..1 beforehand. Returned are the
    posterior mean of m and its central 95% interval, integrated numerically: with one or two seeds it stays wide,
    however many problems each has. Raises ValueError unless 0 <= k <= n for every seed.
    """
    _counts(list(k), list(n))
    if not k:
        return None
    likelihood = np.sum([_log_likelihood(int(right), int(of)) for right, of in zip(k, n, strict=True)], axis=0)
    posterior = np.exp(likelihood - likelihood.max()) @ _WEIGHTS
    posterior /= posterior.sum()
    below = np.cumsum(posterior)
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(_MEANS[np.searchsorted(below, share)]) for share in (tail, 1 - tail))
    return Mean(float(posterior @ _MEANS), low, high)

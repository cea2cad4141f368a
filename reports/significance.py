"""Which differences are more than chance: exact tests, Holm's correction, and what could have been found at all.

Claims about architectures and recipes rest on runs (`permutation_test` over the reach of every seed), claims about two
checkpoints on problems (`mcnemar`). A test is left out of a family when no outcome of it could be significant, which
its sizes and ties alone decide, whatever its outcome: it can raise no false alarm and costs the others nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from math import comb
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from reports.statistics import Floats

LEVEL = 0.05
"""Chance of a false alarm in a whole family of tests."""
POWER = 0.8
"""How likely a detectable difference is to be found."""
DIVISIONS = 2_000_000
"""Ways that are followed at once to count the divisions of runs into two groups, at most."""
LEAST_RUNS = 5
"""With fewer runs on a side nothing is decided: even 4 against 4 need every run of one side ahead of every other."""
SHUFFLES = 20_000

Outcome = Literal["more", "less", "no difference", "undecidable"]


@dataclass(frozen=True)
class Permutation:
    """A two-sided rank test of two groups of runs."""

    sizes: tuple[int, int]
    p: float
    floor: float
    """Smallest p that any division of these very values into groups of these sizes gives."""
    ahead: float
    """Chance that a run of the first group has more than one of the second, ties counted half."""
    exact: bool
    """All divisions were counted; else they are so many that p is that of the normal approximation."""


def smallest_p(first: int, second: int) -> float:
    """The smallest p of a two-sided permutation test of so many runs: 3 against 3 0.10, 5 against 5 0.008."""
    return min(1.0, 2 / comb(first + second, first))


def permutation_test(first: Sequence[float], second: Sequence[float]) -> Permutation:
    """Two-sided permutation test of the rank sum (Wilcoxon), ties at their mean rank.

    All divisions are counted, value by value (Streitberg and Röhmel, 1986, whose shift algorithm takes the runs one by
    one), so p is exact: twice the smaller tail, at most 1. Only of some hundred runs with many different values this
    would take too long; p is then that of the normal approximation with ties. A censored value counts as tied with its
    like: of two reaches beyond the longest tested length nobody knows the larger. Raises ValueError for an empty group.
    """
    sizes = (len(first), len(second))
    if not all(sizes):
        raise ValueError(f"both groups need runs, not {sizes[0]} and {sizes[1]}")
    doubled = np.rint(2 * stats.rankdata([*first, *second])).astype(int)
    ranks, counts = np.unique(doubled, return_counts=True)
    observed = int(doubled[: sizes[0]].sum())
    counted = _rank_sums(tuple(ranks.tolist()), tuple(counts.tolist()), sizes[0])
    if counted is None:
        p = float(stats.mannwhitneyu(first, second, method="asymptotic").pvalue)
    else:
        sums, chances = counted
        p = min(1.0, 2 * min(float(chances[sums <= observed].sum()), float(chances[sums >= observed].sum())))
    rank_sum = observed / 2 - sizes[0] * (sizes[0] + 1) / 2
    floor = min(1.0, 2 * min(_farthest(counts, sizes[0]), _farthest(counts[::-1], sizes[0])))
    return Permutation(sizes, p, floor, rank_sum / (sizes[0] * sizes[1]), counted is not None)


def _farthest(counts: NDArray[np.int64], size: int) -> float:
    """Probability that the `size` runs are the first of all; `counts` of ties, from that end on."""
    left = size
    for tied in counts.tolist():
        if left <= tied:
            return comb(tied, left) / comb(int(counts.sum()), size)
        left -= tied
    raise AssertionError("a group larger than all runs")


@lru_cache(maxsize=4096)
def _rank_sums(ranks: tuple[int, ...], counts: tuple[int, ...], size: int) -> tuple[NDArray[np.int64], Floats] | None:
    """Every sum of `size` ranks, `counts` of each being there, and its probability, all choices equally likely.

    None where more than DIVISIONS ways would have to be followed at once.
    """
    chosen, sums, ways, left = np.zeros(1, np.int64), np.zeros(1, np.int64), np.ones(1), sum(counts)
    share = size / left
    for rank, tied in zip(ranks, counts):
        left -= tied
        least, most = np.maximum(0, size - chosen - left), np.minimum(tied, size - chosen)
        several = most - least + 1
        if several.sum() > DIVISIONS:
            return None
        begun = np.repeat(np.arange(len(chosen)), several)
        more = np.arange(len(begun)) - np.repeat(np.cumsum(several) - several - least, several)
        chosen, sums, ways = _merged(
            chosen[begun] + more, sums[begun] + rank * more, ways[begun] * _choices(tied, share)[more]
        )
    return sums, ways / ways.sum()


def _merged(
    chosen: NDArray[np.int64], sums: NDArray[np.int64], ways: Floats
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """The same with every number of runs and every sum once."""
    width = int(sums.max()) + 1
    keys = chosen * width + sums
    if keys.max() < 8 * len(keys):
        dense: Floats = np.bincount(keys, ways).astype(np.float64)
        found = np.flatnonzero(dense).astype(np.int64)
        return found // width, found % width, dense[found]
    found, where = np.unique(keys, return_inverse=True)  # there would be more to look through than there is
    return found // width, found % width, np.bincount(where, ways).astype(np.float64)


@cache
def _choices(tied: int, share: float) -> Floats:
    """In how many ways 0, 1, .. of them can be chosen, as the probability where each is chosen with that share.

    With the share of the whole choice, what is needed is never too small for a number, of however many runs.
    """
    chances: Floats = stats.binom.pmf(np.arange(tied + 1), tied, share)
    return chances


def rank_correlation(groups: Sequence[tuple[Sequence[float], Sequence[float]]]) -> tuple[float, float] | None:
    """Spearman's correlation within groups, and its two-sided p from shuffles within them (Monte Carlo, same seed).

    groups: pairs of equally long sequences. Values are ranked within their group, so that what sets groups apart says
    nothing. None where in no group both vary.
    """
    ranked = [tuple(stats.rankdata(values) - (len(values) + 1) / 2 for values in group) for group in groups]
    scale = np.sqrt(np.prod([sum(float(group[side] @ group[side]) for group in ranked) for side in (0, 1)]))
    if not any(x.any() and y.any() for x, y in ranked):
        return None
    observed = sum(float(x @ y) for x, y in ranked)
    rng, drawn = np.random.default_rng(0), np.zeros(SHUFFLES)
    for x, y in ranked:
        drawn += rng.permuted(np.tile(y, (SHUFFLES, 1)), axis=1) @ x
    as_far = int((np.abs(drawn) >= abs(observed) - 1e-9).sum())
    return observed / float(scale), (1 + as_far) / (1 + SHUFFLES)


def mcnemar(lost: ArrayLike, won: ArrayLike) -> Floats:
    """Exact two-sided p of McNemar's test: `lost` problems only the first solved, `won` only the second."""
    lost, won = np.asarray(lost), np.asarray(won)
    return np.asarray(np.minimum(1.0, 2 * stats.binom.cdf(np.minimum(lost, won), lost + won, 0.5)), dtype=np.float64)


def mcnemar_floor(discordant: ArrayLike) -> Floats:
    """The smallest p with so many problems that one checkpoint solved and the other did not."""
    return np.asarray(np.minimum(1.0, 2 * 0.5 ** np.asarray(discordant, dtype=np.float64)))


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p (Holm, 1979): those at most LEVEL are significant, and all of them hold together at that level."""
    adjusted, highest = [0.0] * len(ps), 0.0
    for place, index in enumerate(sorted(range(len(ps)), key=lambda index: ps[index])):
        highest = max(highest, min(1.0, (len(ps) - place) * ps[index]))
        adjusted[index] = highest
    return adjusted


@dataclass(frozen=True)
class Decision:
    """What a test says after correction for its family."""

    outcome: Outcome
    """Whether the first has more or less than the second."""
    p: float | None
    """After Holm's correction; None where the test could not have been significant."""
    family: int
    """For how many tests the correction is made, at most."""
    reachable: float
    """Smallest p that runs of these numbers could have reached, after correction."""
    detectable: float | None
    """Difference of shares that would have been found with POWER; None where none would."""


def corrected(ps: Sequence[float], floors: Sequence[float]) -> tuple[list[float | None], int]:
    """Holm's adjusted p of a family, and for how many tests it is made; None for a test that is not one of them.

    It has room for as few tests as could be significant after correction for so many, judged by the smallest p that
    each can have (`floors`; Tarone, 1990).
    """
    family, counted = 0, list(range(len(ps)))
    while len(counted) > family:
        family += 1
        counted = [index for index, floor in enumerate(floors) if floor <= LEVEL / family]
    adjusted: list[float | None] = [None] * len(ps)
    for index, p in zip(counted, holm([ps[index] for index in counted])):
        adjusted[index] = p
    return adjusted, family


def decide(tests: Sequence[Permutation]) -> list[Decision]:
    """A family of tests, corrected together."""
    floors = [test.floor if min(test.sizes) >= LEAST_RUNS else 1.0 for test in tests]
    adjusted, family = corrected([test.p for test in tests], floors)
    return [_decision(test, p, max(1, family)) for test, p in zip(tests, adjusted)]


def _decision(test: Permutation, p: float | None, family: int) -> Decision:
    reachable = min(1.0, family * smallest_p(*test.sizes))
    outcome: Outcome = "no difference"
    if p is not None and p <= LEVEL:
        outcome = "more" if test.ahead > 0.5 else "less"
    elif min(test.sizes) < LEAST_RUNS or reachable > LEVEL:
        outcome = "undecidable"
    return Decision(outcome, p, family, reachable, detectable_share(*test.sizes, LEVEL / family))


@lru_cache(maxsize=1024)
def detectable_share(first: int, second: int, level: float = LEVEL) -> float | None:
    """Smallest difference between two architectures' shares of seeds that reach a length which the permutation test
    finds with POWER, whatever the smaller share is; None when it would miss even none against all.

    To the percent, exactly: for runs that reach or do not, the test is Fisher's.
    """
    a, b = np.arange(first + 1)[:, None], np.arange(second + 1)[None, :]
    law = stats.hypergeom(first + second, a + b, first)
    rejected = 2 * np.minimum(law.cdf(a), law.sf(a - 1)) <= level
    shares = np.linspace(0, 1, 101)[:, None]
    found = stats.binom.pmf(a.T, first, shares) @ rejected @ stats.binom.pmf(b, second, shares).T
    power = [min(found.diagonal(gap).min(), found.diagonal(-gap).min()) for gap in range(101)]
    enough = [gap for gap in range(101) if min(power[gap:]) >= POWER]
    return enough[0] / 100 if enough else None


@lru_cache(maxsize=4096)
def detectable_drop(problems: int, share: float, level: float = LEVEL) -> float | None:
    """Smallest fall of a checkpoint's accuracy from `share` which McNemar's test finds with POWER; None when it would
    miss even a fall to 0.

    To the percent, for errors independent of each other; errors on the same problems make smaller falls visible.
    """
    count = np.arange(problems + 1)
    most = stats.binom.ppf(level / 2, count, 0.5)  # the largest number of the rarer kind that may still be significant
    most -= 2 * stats.binom.cdf(most, count, 0.5) > level
    for drop in np.arange(0.01, share + 1e-9, 0.01):
        lost, won = share * (1 - share + drop), (1 - share) * (share - drop)
        discordant = stats.binom.pmf(count, problems, lost + won)
        either = lost / (lost + won)
        found = stats.binom.cdf(most, count, 1 - either) + stats.binom.cdf(most, count, either)
        if float(discordant @ found) >= POWER:
            return round(float(drop), 2)
    return None

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from reports.statistics import (
    Reach,
    beta_binomial_mean,
    clopper_pearson,
    interval,
    paper_cell,
    paper_reach,
    partly_known,
    reach,
    wilson,
)

COUNTS = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(COUNTS)
def test_wilson_and_clopper_pearson_agree_with_scipy(counts):
    k, n = counts
    test = stats.binomtest(k, n)
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        theirs = test.proportion_ci(0.95, method=method)
        assert np.allclose(ours(k, n), (theirs.low, theirs.high), atol=1e-12)


def test_textbook_values():
    # Newcombe (1998), Statistics in Medicine 17, table I: 81/263 and 15/148, methods 3 (score) and 5 (exact).
    assert np.allclose(wilson(81, 263), (0.2553, 0.3662), atol=5e-5)
    assert np.allclose(wilson(15, 148), (0.0624, 0.1605), atol=5e-5)
    assert np.allclose(clopper_pearson(81, 263), (0.2527, 0.3676), atol=5e-5)
    # Three of three seeds say at least 29%; none of n at most 1 - 0.025 ** (1 / n).
    assert clopper_pearson(3, 3)[0] == pytest.approx(0.2924, abs=5e-5)
    assert clopper_pearson(0, 20)[1] == pytest.approx(1 - 0.025 ** (1 / 20))


@given(COUNTS)
def test_a_point_takes_the_exact_interval_at_the_edges_only(counts):
    k, n = counts
    expected = clopper_pearson(k, n) if k in (0, n) else wilson(k, n)
    low, high = interval(k, n)
    assert (low, high) == expected
    assert 0 <= low <= k / n <= high <= 1


def test_intervals_of_arrays_of_no_trials_and_of_nonsense():
    low, high = interval([0, 5, 10, 0], [10, 10, 10, 0])
    assert low.shape == high.shape == (4,)
    assert (low[3], high[3]) == (0, 1)
    assert low[1] == interval(5, 10)[0]
    for bad in (interval, wilson, clopper_pearson):
        for k, n in ((3, 2), (-1, 2)):
            with pytest.raises(ValueError, match="0 <= k <= n"):
                bad(k, n)


def test_bounds_of_a_partly_known_share_cover_it():
    # 64 problems: 32 exact, 32 diverged of which 16 were rolled out and 4 were right: about 32 + 8 of 64.
    low, high = partly_known(32, 32, 4, 16, 64)
    assert low < (32 + 8) / 64 < high
    # Of the unseen 16 at worst none, at best all are right; the settled half is not perfectly known either.
    assert low < (32 + 4) / 64
    assert np.allclose(partly_known(32, 32, 8, 32, 64), interval(40, 64))
    assert np.allclose(partly_known(32, 32, 0, 0, 64)[1], 1.0)


def test_coverage_of_partly_known_shares():
    chance = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        settled = chance.random(64) < 0.6
        diverged = int((~settled).sum())
        seen = min(16, diverged)
        right = chance.binomial(seen, 0.3)
        low, high = partly_known(settled.sum(), settled.sum(), right, seen, 64)
        covered += low <= 0.6 + 0.4 * 0.3 <= high
    assert covered / 400 >= 0.95


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([1, 1, 1, 1], Reach(32, None)),
        ([1, 0.95, 0.94, 1], Reach(8, 16)),
        ([0.9, 1, 1, 1], Reach(0, 4)),
        ([1, 0.1, 1, 1], Reach(4, 8)),
        ([1, None, 1, 0.5], Reach(16, 32)),
        ([1, 1, None, None], Reach(8, None)),
        ([None] * 4, None),
    ],
)
def test_reach_is_the_unbroken_run_and_censored(accuracies, expected):
    assert reach([4, 8, 16, 32], accuracies) == expected
    assert reach([32, 16, 8, 4], accuracies[::-1]) == expected


def test_reach_without_lengths_or_with_one_twice():
    assert reach([], []) is None
    with pytest.raises(ValueError, match="stands twice"):
        reach([4, 4], [1.0, 1.0])


def test_the_papers_measure_skips_gaps_and_stops_at_five_percent():
    lengths = [10, 20, 50, 100]
    assert paper_cell(10, lengths, [1, 0.0, 0.05, 0.04]) == "10 → 50 (5%)"
    assert paper_cell(10, lengths, [1, 1, None, 0.994]) == "10 → 100 (99%)"
    assert paper_cell(10, lengths, [0.04] * 4) == "10 → none"
    assert paper_reach(lengths, [1, 0.5, 0.2, 0.0]) == (50, 0.2)
    assert paper_reach([], []) is None


def test_beta_binomial_mean_of_one_seed_against_direct_integration():
    def likelihood(correlation: float, mean: float) -> float:
        strength = 1 / correlation - 1
        return float(stats.betabinom.pmf(7, 10, mean * strength, (1 - mean) * strength))

    limits = (0.001, 0.999, 0.001, 0.999)
    evidence = integrate.dblquad(likelihood, *limits, epsabs=1e-5)[0]
    moment = integrate.dblquad(lambda r, m: m * likelihood(r, m), *limits, epsabs=1e-5)[0]
    assert beta_binomial_mean([7], [10]).mean == pytest.approx(moment / evidence, abs=2e-3)


def test_beta_binomial_mean_knows_that_seeds_are_few():
    same, split = beta_binomial_mean([64, 64], [64, 64]), beta_binomial_mean([64, 0], [64, 64])
    assert same.low < 0.6 < 0.8 < same.mean < 1
    assert split.mean == pytest.approx(0.5, abs=1e-6)
    assert split.high - split.low > 0.6
    many = beta_binomial_mean([58] * 20, [64] * 20)
    assert many.mean == pytest.approx(58 / 64, abs=0.01)
    assert many.high - many.low < 0.05
    assert beta_binomial_mean([], []) is None
    with pytest.raises(ValueError, match="0 <= k <= n"):
        beta_binomial_mean([5], [4])

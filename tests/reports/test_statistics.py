from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reports.statistics import (
    Reach,
    clopper_pearson,
    interval,
    paper_cell,
    paper_reach,
    partly_known,
    reach,
)

COUNTS = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@settings(deadline=None)
@given(COUNTS)
def test_clopper_pearson_agrees_with_scipy(counts):
    k, n = counts
    theirs = stats.binomtest(k, n).proportion_ci(0.95, method="exact")
    low, high = clopper_pearson(k, n)
    assert np.allclose((low, high), (theirs.low, theirs.high), atol=1e-12)
    assert 0 <= low <= k / n <= high <= 1


def test_textbook_values():
    # Newcombe (1998), Statistics in Medicine 17, table I: 81/263 and 15/148, method 5 (exact).
    assert np.allclose(clopper_pearson(81, 263), (0.2527, 0.3676), atol=5e-5)
    # Three of three seeds say at least 29%; none of n at most 1 - 0.025 ** (1 / n).
    assert clopper_pearson(3, 3)[0] == pytest.approx(0.2924, abs=5e-5)
    assert clopper_pearson(0, 20)[1] == pytest.approx(1 - 0.025 ** (1 / 20))


def test_a_sum_of_shares_lies_between_its_neighbours():
    bounds = np.array([clopper_pearson(k, 20) for k in (0, 0.5, 1, 9, 9.5, 10, 19, 19.5, 20)])
    assert (np.diff(bounds, axis=0) > 0).all()


def test_intervals_of_arrays_of_no_trials_and_of_nonsense():
    low, high = interval([0, 5, 10, 0], [10, 10, 10, 0])
    assert low.shape == high.shape == (4,)
    assert (low[3], high[3]) == (0, 1)
    assert low[1] == interval(5, 10)[0]
    for k, n in ((3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="0 <= k <= n"):
            clopper_pearson(k, n)


def test_bounds_of_a_partly_known_share_cover_it():
    # 64 problems: 32 exact, 32 diverged of which 16 were rolled out and 4 were right: about 32 + 8 of 64.
    low, high = partly_known(32, 32, 4, 16, 64)
    assert low < (32 + 8) / 64 < high
    # Of the unseen 16 at worst none, at best all are right; the settled half is not perfectly known either.
    assert low < (32 + 4) / 64
    assert np.allclose(partly_known(32, 32, 8, 32, 64), interval(40, 64))
    assert np.allclose(partly_known(32, 32, 0, 0, 64)[1], 1.0)


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

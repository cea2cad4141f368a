from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reports import significance
from reports.significance import (
    corrected,
    decide,
    detectable_drop,
    detectable_share,
    holm,
    mcnemar,
    mcnemar_floor,
    permutation_test,
    rank_correlation,
    smallest_p,
)

FEW = st.lists(st.integers(0, 4), min_size=1, max_size=5)


def mean_difference(a, b, axis):
    return np.mean(a, axis=axis) - np.mean(b, axis=axis)


@settings(max_examples=60, deadline=None)
@given(FEW, FEW)
def test_the_permutation_test_is_scipys_on_ranks(first, second):
    ours = permutation_test(first, second)
    ranks = stats.rankdata([*first, *second])
    groups = (ranks[: len(first)], ranks[len(first) :])
    if min(ours.sizes) > 1:
        theirs = stats.permutation_test(groups, mean_difference, vectorized=True, n_resamples=np.inf)
        assert ours.p == pytest.approx(min(1.0, theirs.pvalue))
    wins = [(a > b) + 0.5 * (a == b) for a in first for b in second]
    assert ours.ahead == pytest.approx(np.mean(wins))
    assert smallest_p(*ours.sizes) <= ours.floor + 1e-12 <= ours.p + 2e-12


def test_what_a_permutation_test_can_reach():
    assert smallest_p(3, 3) == pytest.approx(0.1)
    assert smallest_p(5, 5) == pytest.approx(2 / 252)
    apart = permutation_test([8, 16, 32], [1, 2, 4])
    assert (apart.p, apart.floor, apart.ahead) == (pytest.approx(0.1), pytest.approx(0.1), 1.0)
    tied = permutation_test([64] * 5, [64] * 5)
    assert (tied.p, tied.floor, tied.ahead) == (1.0, 1.0, 0.5)
    large = permutation_test(list(range(20)), list(range(20, 40)))
    assert large.p == pytest.approx(2 / comb(40, 20))
    with pytest.raises(ValueError, match="both groups need runs, not 0 and 2"):
        permutation_test([], [1, 2])


def test_a_rank_correlation_within_one_group_is_spearmans():
    x, y = [3.0, 1, 2, 5, 4, 4], [30.0, 2, 9, 8, 40, 1]
    wanted = stats.permutation_test((x,), lambda x: stats.spearmanr(x, y).statistic, permutation_type="pairings")
    rho, p = rank_correlation([(x, y)])
    assert rho == pytest.approx(stats.spearmanr(x, y).statistic)
    assert p == pytest.approx(wanted.pvalue, abs=0.02)


def test_what_sets_groups_apart_is_no_correlation_within_them():
    low, high = ([1.0, 2, 3, 4, 5], [5.0, 4, 3, 2, 1]), ([11.0, 12, 13, 14, 15], [15.0, 14, 13, 12, 11])
    rho, p = rank_correlation([low, high])
    assert (rho, p < 0.001) == (pytest.approx(-1), True)
    assert rank_correlation([([1.0, 2], [3.0, 3]), ([1.0], [2.0]), ([], [])]) is None


def test_hundreds_of_runs_that_differ_little_are_still_counted_exactly():
    """Fisher's test, where runs reach a length or do not: the normal approximation would say 0.025."""
    some = permutation_test([1] * 5 + [0] * 245, [0] * 250)
    assert some.exact
    assert some.p == pytest.approx(stats.fisher_exact([[5, 245], [0, 250]]).pvalue)
    assert some.floor == pytest.approx(some.p)
    three = permutation_test([2] * 100 + [1] * 400 + [0] * 500, [2] * 120 + [1] * 400 + [0] * 480)
    assert three.exact
    assert three.p == pytest.approx(
        stats.mannwhitneyu([2] * 100 + [1] * 400 + [0] * 500, [2] * 120 + [1] * 400 + [0] * 480).pvalue, rel=0.01
    )


def test_few_runs_are_held_against_thousands():
    found = permutation_test([1] * 5, [1] * 1000 + [0] * 2000)
    wanted = stats.fisher_exact([[5, 0], [1000, 2000]], alternative="greater").pvalue
    assert found.p == pytest.approx(2 * wanted)


def test_hundreds_of_runs_that_differ_much_are_approximated(monkeypatch):
    chance = np.random.default_rng(0)
    first, second = chance.integers(0, 12, 90).tolist(), (chance.integers(0, 12, 90) + 1).tolist()
    rough = permutation_test(first, second)
    assert not rough.exact
    assert rough.floor == pytest.approx(0, abs=1e-30)
    monkeypatch.setattr(significance, "DIVISIONS", 10**8)
    significance._rank_sums.cache_clear()
    exact = permutation_test(first, second)
    assert exact.exact
    assert 1e-4 < exact.p < 0.2
    assert rough.p == pytest.approx(exact.p, rel=0.05)


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_is_a_sign_test_of_what_changed(lost, won):
    expected = stats.binomtest(lost, lost + won, 0.5).pvalue if lost + won else 1.0
    assert float(mcnemar(lost, won)) == pytest.approx(expected)
    assert float(mcnemar_floor(lost + won)) == pytest.approx(float(mcnemar(0, lost + won)))


def test_holm_on_a_worked_example():
    # Holm (1979): each p times the number of hypotheses not yet rejected, never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_tests_that_cannot_be_significant_cost_the_others_nothing():
    adjusted, family = corrected([0.02, 1.0, 0.04], [0.001, 1.0, 0.001])
    assert family == 2
    assert adjusted == [pytest.approx(0.04), None, pytest.approx(0.04)]


def test_a_family_has_room_for_the_tests_that_can_be_significant_after_its_correction():
    # Five at 0.008 are few enough for 0.05 / 5; nine at 0.008 are not, and none of them is worth a test.
    assert corrected([0.008] * 5 + [0.03] * 4, [0.008] * 5 + [0.03] * 4) == ([pytest.approx(0.04)] * 5 + [None] * 4, 5)
    assert corrected([0.008] * 9, [0.008] * 9) == ([None] * 9, 7)
    assert corrected([], []) == ([], 0)


def test_families_of_discrete_tests_keep_the_level():
    chance = np.random.default_rng(0)
    discordant = chance.integers(0, 16, (4000, 10))
    lost = chance.binomial(discordant, 0.5)
    p, floor = mcnemar(lost, discordant - lost), mcnemar_floor(discordant)
    families = [corrected(*family)[0] for family in zip(p.tolist(), floor.tolist())]
    assert np.mean([any(p is not None and p <= 0.05 for p in family) for family in families]) <= 0.05


def test_decisions():
    apart, tied = permutation_test([9] * 5, [1] * 5), permutation_test([9] * 5, [9] * 5)
    few = permutation_test([9] * 4, [1] * 4)
    first, second, third = decide([apart, tied, few])
    assert (first.outcome, first.p, first.family) == ("more", pytest.approx(2 / 252), 1)
    assert (second.outcome, second.p) == ("no difference", None)
    assert (third.outcome, third.p, third.reachable) == ("undecidable", None, pytest.approx(2 / 70))
    assert decide([permutation_test([1] * 5, [9] * 5)])[0].outcome == "less"
    # Seven comparisons of five runs a side: 7 x 0.0079 > 0.05.
    assert {one.outcome for one in decide([apart] * 7)} == {"undecidable"}
    assert {one.outcome for one in decide([apart] * 6)} == {"more"}


def least_power(runs, gap, level):
    """Over where the smaller share lies, by the test itself on every outcome."""
    every = range(runs + 1)
    groups = [[1] * reaching + [0] * (runs - reaching) for reaching in every]
    rejected = np.array([[permutation_test(groups[i], groups[j]).p <= level for j in every] for i in every])
    starts = np.arange(0, 1.0001 - gap, 0.01)[:, None]
    lower, upper = (stats.binom.pmf(np.arange(runs + 1), runs, share) for share in (starts, starts + gap))
    return float(((lower @ rejected) * upper).sum(axis=1).min())


@pytest.mark.parametrize(("runs", "level"), [(5, 0.05), (10, 0.05), (10, 0.005)])
def test_the_detectable_share_is_found_with_80_percent_wherever_it_lies(runs, level):
    gap = detectable_share(runs, runs, level)
    assert least_power(runs, gap, level) >= 0.8 - 1e-9
    assert least_power(runs, gap - 0.01, level) < 0.8


def test_nothing_is_detectable_where_nothing_can_be_significant():
    assert detectable_share(3, 3) is None
    assert detectable_share(5, 5, 0.005) is None
    assert detectable_drop(4, 1.0) is None


def test_the_detectable_drop_is_found_with_80_percent():
    chance = np.random.default_rng(0)
    level = 0.005
    drop = detectable_drop(200, 0.98, level)
    for fall, enough in ((drop, True), (drop - 0.02, False)):
        one, other = chance.random((4000, 200)) < 0.98, chance.random((4000, 200)) < 0.98 - fall
        p = mcnemar((one & ~other).sum(axis=1), (~one & other).sum(axis=1))
        assert (np.mean(p <= level) >= 0.78) == enough
    assert drop < 0.10

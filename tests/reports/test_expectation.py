from __future__ import annotations

import numpy as np
import pytest

from reports.expectation import crossed_bootstrap, means_over_seeds
from reports.statistics import clopper_pearson


@pytest.mark.parametrize(("right", "seeds"), [(3, 3), (0, 2), (4, 5), (9, 10)])
def test_seeds_that_are_all_or_nothing_get_the_bounds_of_clopper_and_pearson(right, seeds):
    outcomes = np.zeros((1, seeds, 400))
    outcomes[:, :right] = 1
    low, high = crossed_bootstrap(outcomes)
    assert low[0] == pytest.approx(clopper_pearson(right, seeds)[0], abs=0.02)
    assert high[0] == pytest.approx(clopper_pearson(right, seeds)[1], abs=0.02)


def test_seeds_without_a_failure_do_not_exclude_certainty():
    assert crossed_bootstrap(np.ones((1, 10, 32)))[1][0] == 1
    assert crossed_bootstrap(np.zeros((1, 10, 32)))[0][0] == 0


def test_more_seeds_narrow_it_and_more_problems_hardly():
    def width(seeds, problems):
        outcomes = np.tile(np.arange(problems) % 4 > 0, (1, seeds, 1))
        low, high = crossed_bootstrap(outcomes)
        return float(high[0] - low[0])

    assert width(20, 64) < 0.7 * width(5, 64)
    assert width(3, 256) > 0.9 * width(3, 64)


def test_problems_that_are_hard_for_every_seed_leave_doubt_however_many_seeds_there_are():
    shared = np.tile(np.arange(32) % 2 == 0, (1, 60, 1))
    low, high = crossed_bootstrap(shared)
    assert high[0] - low[0] > 0.25


def test_means_of_groups_of_every_shape():
    means = means_over_seeds([[[True, False], [True, True]], [], [[False, False]], [[True, True], [True, True]]])
    assert means[1] is None
    assert [mean.mean for mean in means if mean] == [0.75, 0.0, 1.0]
    low, high = crossed_bootstrap([[[1, 0], [1, 1]]])
    assert (means[0].low, means[0].high) == (low[0], high[0])
    assert all(mean.low <= mean.mean <= mean.high for mean in means if mean)

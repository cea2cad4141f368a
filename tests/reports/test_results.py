"""Verdicts on the paper's claims."""

from __future__ import annotations

import pytest

from reports.reported import Claim
from reports.results import _lengths, _verdict
from reports.statistics import clopper_pearson


def point(k, of):
    low, high = clopper_pearson(k, of)
    return {"low": float(low), "high": float(high)}


@pytest.mark.parametrize(
    ("share", "k", "verdict"),
    [
        (1.0, 100, "reproduced"),
        (1.0, 99, "not reproduced"),
        (0.49, 45, "reproduced"),
        (0.49, 80, "exceeded"),
        (0.49, 20, "not reproduced"),
        (None, 20, "no number to compare"),
    ],
)
def test_a_claim_is_held_against_the_interval_of_our_best_run(share, k, verdict):
    claim = Claim("n × 1", "mamba1", "multiplication", 10, 1000, share)
    assert _verdict(claim, point(k, 100)) == verdict


def test_lengths_of_a_table_are_spread_out_and_end_with_the_longest():
    assert _lengths([1, 3, 5, 6, 7, 8, 10, 15, 20, 50, 100, 200, 500, 1000], 5) == [5, 10, 20, 50, 100, 200, 500, 1000]
    assert _lengths([1, 2, 3], 3) == [3]
    assert _lengths([4, 8], 3) == [4, 8]

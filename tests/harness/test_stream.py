"""The training stream: the same rows wherever it is entered, whoever makes them."""

import subprocess
import sys
from dataclasses import replace
from itertools import islice

import pytest

from harness.stream import Source, steps
from tasks.problems import BLOCK

SOURCE = Source("addition", "interactive", 2, 3, 1024)


def content(rows):
    return [(row.ids.tolist(), row.own.tolist(), row.task) for row in rows]


@pytest.fixture(scope="module")
def whole():
    return [content(rows) for rows in islice(steps(SOURCE), SOURCE.per_block + 2)]


def test_it_can_be_entered_anywhere(whole):
    for start in (1, SOURCE.per_block, SOURCE.per_block + 1):
        assert content(next(steps(SOURCE, start))) == whole[start]


@pytest.mark.parametrize(("start", "workers"), [(0, 1), (3, 2)])
def test_helper_processes_change_nothing(whole, start, workers):
    stream = steps(SOURCE, start, workers)
    made = [content(rows) for rows in islice(stream, 3)]
    stream.close()
    assert made == whole[start : start + 3]


def test_form_setting_and_mixture_reach_the_helpers():
    source = Source("multiplication", "cot", 2, 0, 1024, form="localised", mixture={"addition": 0.5})
    stream = steps(source, 0, 1)
    assert content(next(stream)) == content(next(steps(source)))
    stream.close()


def test_stress_sets_take_their_share_of_the_problems():
    source = Source("logical_graph", "interactive", 10, 0, 256, form="localised", stress={"deep": 0.5})
    rows, plain = (next(steps(item)) for item in (source, replace(source, stress={})))
    tokens, fewer = (sum(map(len, part)) / len(part) for part in (rows, plain))
    assert tokens > 1.2 * fewer
    stream = steps(source, 0, 1)
    assert content(next(stream)) == content(rows)
    stream.close()
    with pytest.raises(ValueError, match="unknown stress set of logical_graph 'depp', did you mean 'deep'"):
        next(steps(replace(source, stress={"depp": 1})))


def test_what_goes_wrong_over_there_is_raised_here():
    stream = steps(Source("addition", "interactive", 2, 0, 64, form="sideways"), 0, 1)
    with pytest.raises(ValueError, match="form 'sideways'"):
        next(stream)


def test_a_step_larger_than_a_block_is_refused():
    with pytest.raises(ValueError, match="at most 4096"):
        Source("addition", "interactive", 2, 0, BLOCK + 1)


def test_helpers_do_not_import_torch():
    code = "import sys, harness.stream, tasks.scenario; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

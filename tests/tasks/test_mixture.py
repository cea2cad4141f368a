"""Training problems from several tasks in one vocabulary."""

from collections import Counter

import numpy as np
import pytest

from tasks.mixture import Mixture, bind
from tasks.problems import BLOCK, split, training_stream
from tasks.scenario import Scenario


def mixed(shares, task="multiplication", **options):
    return bind(task, "interactive", mixture=shares, **options)


def test_problems_come_from_every_task_by_its_share_and_from_its_own_stream():
    scenario = mixed({"addition": 0.25})
    block = scenario.training_block(5, 3, 2)
    assert block == scenario.training_block(5, 3, 2) != scenario.training_block(5, 3, 1)
    counts = Counter(whose.task.name for whose, _ in block)
    assert len(block) == BLOCK
    assert counts["addition"] == pytest.approx(0.25 * BLOCK, rel=0.1)
    streams = {name: training_stream(Scenario(name, "direct").task, 5, 3, 2) for name in counts}
    assert all(problem == streams[whose.task.name][place] for place, (whose, problem) in enumerate(block))
    assert {split(problem) for _, problem in block if problem.length > 1} == {"training"}


def test_the_vocabulary_is_the_union_and_begins_with_that_of_the_task_itself():
    scenario, alone = mixed({"palindrome": 0.1, "addition": 0.1}), Scenario("multiplication", "interactive")
    tokens = scenario.vocabulary.tokens
    assert tokens[: len(alone.vocabulary)] == alone.vocabulary.tokens
    assert {"[WRITE]", "[END]", "c1"} <= set(tokens)
    assert tokens == mixed({"addition": 0.1, "palindrome": 0.1}).vocabulary.tokens
    for whose, problem in scenario.training_block(4, 0, 0)[:200]:
        assert scenario.vocabulary.decode(whose.encoded(problem).ids) == whose.record(problem).tokens


def test_evaluation_is_on_the_task_itself_with_the_same_tokens_as_alone():
    scenario, alone = mixed({"addition": 0.5}), Scenario("multiplication", "interactive")
    _, problem = next(pair for pair in scenario.training_block(4, 0, 0) if pair[0] is scenario)
    assert scenario.record(problem) == alone.record(problem)
    assert np.array_equal(scenario.encoded(problem).ids, alone.encoded(problem).ids)


def test_the_form_is_kept_where_another_task_has_it():
    scenario = mixed({"addition": 0.1}, form="localised")
    assert {whose.form for whose, _ in scenario.training_block(3, 0, 0)} == {"faithful", "localised"}


def test_revisions_of_all_tasks_and_tools_count():
    revisions = mixed({"addition": 0.1, "palindrome": 0.1}).revisions
    assert revisions["mixture"]["palindrome"] == Scenario("palindrome", "interactive").revisions
    assert revisions["task"] == Scenario("multiplication", "interactive").revisions["task"]


def test_without_shares_there_is_no_mixture():
    assert not isinstance(mixed({"addition": 0.0}), Mixture)
    assert mixed({}).revisions == Scenario("multiplication", "interactive").revisions


@pytest.mark.parametrize(
    ("task", "shares", "message"),
    [
        ("multiplication", {"addition": 0.6, "palindrome": 0.4}, "sum to less than 1"),
        ("multiplication", {"addition": -0.1}, "above 0"),
        ("multiplication", {"adition": 0.1}, "did you mean 'addition'?"),
        ("multiplication", {"tasks.multiplication:Multiplication": 0.1}, "multiplication is the task itself"),
        ("hanoi", {"hanoi_recursive": 0.1}, "could be one of hanoi"),
        ("palindrome", {"copy": 0.1}, "could be one of"),
    ],
)
def test_impossible_mixtures_are_refused_in_one_line(task, shares, message):
    with pytest.raises(ValueError) as error:
        mixed(shares, task)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_every_task_of_a_mixture_must_admit_the_setting():
    with pytest.raises(ValueError, match="unknown palindrome setting 'single_turn'"):
        bind("addition", "single_turn", mixture={"palindrome": 0.1})

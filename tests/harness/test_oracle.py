"""The scripted model through the whole evaluation path: exact without errors, and every planted error found."""

import pytest

from harness.config import Evaluate
from harness.evaluate import Point, evaluate
from harness.grid import evaluation_id
from harness.oracle import KINDS, ScriptedModel
from tasks import TASKS
from tasks.addition import Addition
from tasks.base import Role
from tasks.problems import problems
from tasks.scenario import Scenario

SETTINGS = list(Addition.settings)


def rows_of(model, scenario, length, count, **settings):
    settings = Evaluate(lengths=[length], problems=count, **settings)
    [(_, rows)] = evaluate(model, scenario, [Point(length, "random", 0, count)], settings, {})
    return rows


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(("length", "count"), [(1, 7), (5, 20), (50, 8), (1000, 2)])
def test_the_oracle_is_exact_at_every_length(setting, length, count):
    scenario = Scenario("addition", setting)
    rows = rows_of(ScriptedModel(scenario), scenario, length, count)
    assert len(rows) == count
    assert all(row["exact"] and row["answer_right"] and row["token_accuracy"] == 1.0 for row in rows)
    assert all(row["failure"] is None and not row["near_tie"] for row in rows)
    replayed = [row["replay_equal"] for row in rows if row["replay_equal"] is not None]
    assert all(replayed)
    assert replayed or rows[0]["tokens"] > 3000


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("mode", ["verify", "live"])
def test_every_planted_error_is_found(setting, mode):
    scenario = Scenario("addition", setting)
    model = ScriptedModel(scenario, error_rate=0.5, error_seed=7)
    rows = rows_of(model, scenario, 6, 40, mode=mode, rollout_max=40, chunk=17)
    planted = {problem.key: model.planted(problem) for problem in problems(scenario.task, "evaluation", 6, 40)}
    found = 0
    for row in rows:
        error = planted[row["problem"]]
        if error is None:
            assert row["exact"]
            continue
        found += 1
        assert not row["exact"]
        assert (row["divergence"], row["failure"]) == (error.position, error.failure)
        assert row["got"] == scenario.vocabulary.tokens[error.token] != row["expected"]
        if mode == "verify":
            assert row["token_accuracy"] == pytest.approx(1 - 1 / row["own_tokens"])
    assert found > 5


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_an_error_rate_of_one_percent_is_found_exactly(setting):
    scenario = Scenario("addition", setting)
    model = ScriptedModel(scenario, error_rate=0.01, error_seed=1)
    rows = rows_of(model, scenario, 20, 1000)
    errors = {problem.key: model.planted(problem) for problem in problems(scenario.task, "evaluation", 20, 1000)}
    expected = {key: (error.position, error.failure) for key, error in errors.items() if error is not None}
    assert {row["problem"]: (row["divergence"], row["failure"]) for row in rows if not row["exact"]} == expected
    assert 2 <= len(expected) <= 25


def test_all_kinds_of_errors_get_planted_where_they_can_be():
    seen = {}
    for setting in SETTINGS:
        scenario = Scenario("addition", setting)
        model = ScriptedModel(scenario, error_rate=1.0)
        drawn = problems(scenario.task, "evaluation", 5, 60)
        seen[setting] = {model.planted(problem).failure for problem in drawn}
    assert set(KINDS) == set.union(*seen.values())
    assert seen["single_turn"] == set(KINDS)
    assert seen["direct"] == {"wrong_thought", "wrong_output", "past_budget", "stopped_early"}


def test_a_model_that_never_stops_runs_into_its_budget():
    scenario = Scenario("addition", "interactive")
    model = ScriptedModel(scenario, error_rate=1.0)
    rows = rows_of(model, scenario, 4, 40, rollout_max=40, budget=1.5)
    endless = [row for row in rows if row["failure"] == "past_budget"]
    assert endless
    for row in endless:
        assert row["ending"] == "past_budget"
        assert not row["answer_right"]
        assert row["divergence"] + row["rollout_tokens"] == -(-row["tokens"] * 3 // 2) + 16


def test_rollouts_are_bounded_and_take_the_first_diverged_problems():
    scenario = Scenario("addition", "interactive")
    rows = rows_of(ScriptedModel(scenario, error_rate=0.6), scenario, 4, 30, rollout_max=5, batch=8)
    diverged = [row for row in rows if not row["exact"]]
    assert len(diverged) > 8
    assert [row["rollout_tokens"] is not None for row in diverged] == [True] * 5 + [False] * (len(diverged) - 5)
    assert all(row["answer_right"] is None for row in diverged[5:])


def scenarios(settings):
    """Every task in these settings, with every form."""
    for name in TASKS:
        task = Scenario(name, "interactive").task
        for setting in settings:
            for form in task.forms if setting in task.settings else ():
                yield Scenario(name, setting, form=form)


@pytest.mark.parametrize(
    "scenario", scenarios(("interactive", "single_turn", "cot")), ids=lambda s: f"{s.task.name}-{s.setting}-{s.form}"
)
def test_every_task_through_the_evaluation_path(scenario):
    for length in (1, 5):
        rows = rows_of(ScriptedModel(scenario), scenario, length, 4, rollout_max=4)
        assert rows
        assert all(row["exact"] and row["answer_right"] for row in rows)
    model = ScriptedModel(scenario, error_rate=1.0)
    planted = {problem.key: model.planted(problem) for problem in problems(scenario.task, "evaluation", 5, 6)}
    for row in rows_of(model, scenario, 5, 6, rollout_max=6):
        error = planted[row["problem"]]
        assert (row["divergence"], row["failure"]) == (error.position, error.failure)


LARGEST = {"hanoi": 12, "hanoi_recursive": 12, "code_fix": 64}
"""Where that is not 1,000: the longest problems of the paper."""
LENGTHS = (1, 2, 3, 5, 10, 30, 100, 300, 1000)
MUCH = {"copy", "sort"}
"""Runs of 12 and 4 million tokens at 1,000 symbols: looked at in one setting."""


def largest():
    """Every task with every tool it admits, in every setting and form."""
    for name in TASKS:
        task = Scenario(name, "interactive").task
        for setting, tools in task.settings.items():
            for tool in tools if setting == "interactive" or name not in MUCH else ():
                for form in task.forms if setting in ("interactive", "cot") else task.forms[:1]:
                    yield Scenario(name, setting, tool, form)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", largest(), ids=lambda s: f"{s.task.name}-{s.setting}-{s.tool_name}-{s.form}")
def test_the_oracle_is_exact_from_length_1_to_the_longest_problems_of_the_paper(scenario):
    most = LARGEST.get(scenario.task.name, 1000)
    for length in sorted({min(length, most) for length in LENGTHS}):
        [row] = rows_of(ScriptedModel(scenario), scenario, length, 1)
        assert row["exact"]
        assert row["answer_right"]
        assert row["token_accuracy"] == 1.0
    stated = scenario.task.trajectory_length(problems(scenario.task, "evaluation", most, 1)[0], scenario.form)
    if scenario.setting == "interactive":  # how many rounds a repair takes depends on the code base
        assert stated == (None if scenario.task.name == "code_fix" else row["tokens"])
    print(f"{scenario.task.name} {scenario.setting} {scenario.form} {most}: {row['tokens']:,} tokens")


def test_corrupted_observations_are_counted_and_a_model_that_ignores_them_stays_exact():
    scenario = Scenario("addition", "interactive")
    settings = {"mode": "live", "budget": 1.5}
    [honest] = rows_of(ScriptedModel(scenario), scenario, 6, 1, **settings)
    [row] = rows_of(ScriptedModel(scenario), scenario, 6, 1, corrupt=1.0, **settings)
    assert (honest["corrupt"], honest["corrupted"], honest["corrupted_at"]) == (0.0, None, None)
    oracle = scenario.encoded(problems(scenario.task, "evaluation", 6, 1)[0])
    observed = [at for at, role in enumerate(oracle.roles) if role == Role.OBSERVATION]
    assert (row["corrupt"], row["corrupted"], row["corrupted_at"]) == (1.0, len(observed), observed[0])
    assert row["exact"]
    assert row["answer_right"]
    assert row["rollout_tokens"] == honest["rollout_tokens"]


def test_an_error_is_found_where_it_is_in_spite_of_corrupted_observations():
    scenario = Scenario("addition", "interactive")
    model = ScriptedModel(scenario, error_rate=1.0)
    drawn = {problem.key: model.planted(problem) for problem in problems(scenario.task, "evaluation", 6, 20)}
    for row in rows_of(model, scenario, 6, 20, mode="live", corrupt=0.5):
        error = drawn[row["problem"]]
        assert (row["divergence"], row["failure"]) == (error.position, error.failure)


def test_corrupted_observations_need_live_rollouts_and_have_results_of_their_own():
    with pytest.raises(ValueError, match="needs mode: live"):
        Evaluate(lengths=[1], corrupt=0.01)
    live, control = (Evaluate(lengths=[1], mode="live", corrupt=rate) for rate in (0.0, 0.01))
    assert evaluation_id(live) != evaluation_id(control)


def test_rows_carry_work_and_chance():
    scenario = Scenario("logical_graph", "interactive", form="localised")
    drawn = {problem.key: problem for problem in problems(scenario.task, "evaluation", 9, 5)}
    for row in rows_of(ScriptedModel(scenario), scenario, 9, 5):
        assert row["work"] == scenario.task.nodes_visited(drawn[row["problem"]])
        assert row["chance"] == 0.5
    [row] = rows_of(ScriptedModel(Scenario("addition", "direct")), Scenario("addition", "direct"), 3, 1)
    assert (row["work"], row["chance"]) == (None, pytest.approx(1 / 900))

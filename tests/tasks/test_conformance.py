"""What every registered task promises, in every setting it admits."""

import random

import pytest

from tasks import TASKS
from tasks.base import SETTINGS, Task
from tasks.problems import problems
from tasks.resolve import resolve
from tasks.scenario import Scenario


def task_of(name: str) -> Task:
    return resolve("task", name, TASKS)()


SCENARIOS = [
    Scenario(name, setting, tool, form)
    for name in TASKS
    for task in [task_of(name)]
    for setting, tools in task.settings.items()
    for tool in tools
    for form in task.forms
]
every_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: f"{s.task.name}-{s.setting}-{s.form}")
every_task = pytest.mark.parametrize("name", TASKS)
LENGTHS = (1, 2, 3, 7, 20)
LONGEST = {"hanoi": 7, "hanoi_recursive": 7}
"""Of tasks whose trajectories grow so fast that the last of LENGTHS is out of reach."""


def lengths(name: str) -> list[int]:
    return [length for length in LENGTHS if length <= LONGEST.get(name, LENGTHS[-1])]


@every_task
def test_prompts_parse_and_end_with_their_mark(name: str) -> None:
    task, rng = task_of(name), random.Random(0)
    for length in lengths(name):
        for sampler in (task.sample, task.sample_training, *task.stress.values()):
            problem = sampler(rng, length)
            assert task.parse(problem.prompt) == problem
            assert problem.prompt.index(task.prompt_end) == len(problem.prompt) - 1
            assert problem.length <= length
        assert task.sample(rng, length).length == length


@every_task
def test_the_generator_is_the_only_randomness(name: str) -> None:
    task = task_of(name)
    for sampler in (task.sample, task.sample_training, *task.stress.values()):
        first, again = ([sampler(random.Random(seed), 9) for seed in range(20)] for _ in range(2))
        assert first == again
        assert len(set(first)) > 1


@every_task
def test_settings_are_known_ones_and_chain_of_thought_has_something_to_imagine(name: str) -> None:
    settings = task_of(name).settings
    assert set(settings) <= set(SETTINGS)
    assert "cot" not in settings or "interactive" in settings


@every_scenario
def test_the_oracle_is_right_in_every_kind_of_problem(scenario: Scenario) -> None:
    for length in lengths(scenario.task.name):
        for which in ("random", *scenario.task.stress):
            for problem in problems(scenario.task, "evaluation", length, 3, which):
                trajectory, environment = scenario.record(problem), scenario.environment(problem)
                for token, own in zip(trajectory.tokens, trajectory.own):
                    if own:
                        environment.act(token)
                output = environment.outcome
                assert scenario.right(problem, output)
                assert tuple(output) == scenario.answer_tokens(problem)
                assert not scenario.right(problem, output[:-1])
                assert trajectory.tokens[-1] == "[EOS]"
                if scenario.setting in ("interactive", "cot"):
                    assert scenario.task.trajectory_length(problem, scenario.form) in (None, len(trajectory.tokens))

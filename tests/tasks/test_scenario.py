import gc
import random
import sys
import tracemalloc
import types
from collections.abc import Iterator
from itertools import chain

import numpy as np
import pytest
from greenlet import getcurrent, greenlet

from tasks.addition import Addition
from tasks.agent import Agent
from tasks.base import Problem, Role
from tasks.scenario import Scenario
from tasks.trajectory import Encoded, Trajectory
from tools.none import Imagined
from tools.pointer import PointerMemory

ADDITION = Addition()
PROBLEM = ADDITION.problem("58", "7")
SETTINGS = list(ADDITION.settings)
PROBLEMS = [PROBLEM, ADDITION.problem("0", "0"), ADDITION.problem("99", "1"), ADDITION.sample(random.Random(0), 12)]


def written(trajectory: Trajectory) -> str:
    given = (Role.QUESTION, Role.OBSERVATION)
    return " ".join(f"<{t}>" if role in given else t for t, role in zip(trajectory.tokens, trajectory.roles))


@pytest.mark.parametrize(
    ("setting", "tail"),
    [
        ("direct", "[ANS] 6 5 [EOS]"),
        ("direct_reversed", "[ANS] 5 6 [EOS]"),
        ("single_turn", "[CALL] 5 8 + 7 [RUN] <6> <5> <[END]> [ANS] 6 5 [EOS]"),
    ],
)
def test_settings_rendered_from_one_problem(setting: str, tail: str) -> None:
    assert written(Scenario("addition", setting).record(PROBLEM)) == f"<^> <5> <8> <+> <7> <=> {tail}"


def test_chain_of_thought_is_the_interactive_trajectory_with_observations_of_its_own() -> None:
    interactive, imagined = (Scenario("addition", s).record(PROBLEM) for s in ("interactive", "cot"))
    assert imagined.tokens == interactive.tokens
    assert imagined.roles == interactive.roles
    assert imagined.own == [role is not Role.QUESTION for role in imagined.roles]
    assert interactive.own == [role not in (Role.QUESTION, Role.OBSERVATION) for role in interactive.roles]


def test_roles_and_steps() -> None:
    trajectory = Scenario("addition", "interactive").record(PROBLEM)
    by_name = {role.name: sum(found is role for found in trajectory.roles) for role in Role}
    assert by_name == {"QUESTION": 6, "THOUGHT": 5, "COMMAND": 53, "OBSERVATION": 28, "OUTPUT": 2, "END": 1}
    assert [trajectory.phases[step] for step in sorted(trajectory.phases)] == (
        ["question", "walk", "walk", "add", "add", "add", "return", "copy", "copy", "copy"]
    )
    assert [trajectory.steps.count(step) for step in range(10)] == [6, 12, 18, 8, 7, 5, 25, 4, 7, 3]
    assert trajectory.steps == sorted(trajectory.steps)
    assert trajectory.calls == 53
    assert trajectory.longest_walk == 7


def test_memory_after_the_solver_ran() -> None:
    tool = PointerMemory(pointers=2)
    agent = Agent(PROBLEM.prompt, tool, lambda piece: None)
    ADDITION.solve(PROBLEM, agent)
    assert " ".join(tool.snapshot().memory) == "^ 5 8 + 7 = 5 c1 6 c0 [ANS] 6 5"
    assert tool.snapshot().pointers == {"1": 0, "2": 5}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: "".join(problem.prompt))
def test_replaying_own_tokens_gives_the_recorded_roles_and_observations(setting: str, problem: Problem) -> None:
    scenario = Scenario("addition", setting)
    recorded = scenario.record(problem)
    environment = scenario.environment(problem)
    tokens, roles = list(problem.prompt), [Role.QUESTION] * len(problem.prompt)
    for token, own in zip(recorded.tokens, recorded.own):
        if own:
            assert environment.allows(token)
            role, observation = environment.act(token)
            tokens += [token, *observation]
            roles += [role, *[Role.OBSERVATION] * len(observation)]
    assert tokens == recorded.tokens
    assert roles == recorded.roles
    assert environment.done
    assert tuple(environment.output) == scenario.answer_tokens(problem)
    assert scenario.right(problem, environment.output)
    assert environment.made == sum(recorded.own)
    assert environment.made + environment.observed + len(problem.prompt) == len(tokens)
    assert (environment.tool.calls, environment.tool.longest_walk) == (recorded.calls, recorded.longest_walk)


@pytest.mark.parametrize("setting", SETTINGS)
def test_right_reads_the_output_as_the_setting_writes_it(setting: str) -> None:
    scenario = Scenario("addition", setting)
    reverse = setting == "direct_reversed"
    assert scenario.right(PROBLEM, ["5", "6"]) is reverse
    assert scenario.right(PROBLEM, ["6", "5"]) is not reverse


def test_chain_of_thought_acts_in_an_imagined_tool_and_is_recorded_with_the_real_one() -> None:
    scenario = Scenario("addition", "cot")
    assert isinstance(scenario.environment(PROBLEM).tool, Imagined)
    assert isinstance(scenario.make_tool(), PointerMemory)
    assert scenario.tool_name == "none"


# --- arrays and streams


def joined(pieces: Iterator[Trajectory]) -> Trajectory:
    parts = list(pieces)
    lists = [list(chain.from_iterable(getattr(p, name) for p in parts)) for name in ("tokens", "roles", "own", "steps")]
    phases = {step: name for part in parts for step, name in part.phases.items()}
    return Trajectory(*lists, phases, parts[-1].calls, parts[-1].longest_walk)  # type: ignore[arg-type]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 5_000])
def test_stream_is_the_record_in_pieces(setting: str, chunk: int) -> None:
    scenario = Scenario("addition", setting)
    for problem in PROBLEMS:
        recorded = scenario.record(problem)
        pieces = list(scenario.stream(problem, chunk))
        assert [len(piece.tokens) for piece in pieces[:-1]] == [chunk] * (len(pieces) - 1)
        assert 0 < len(pieces[-1].tokens) <= chunk
        assert joined(iter(pieces)) == recorded


def same(encoded: Encoded, trajectory: Trajectory, scenario: Scenario) -> None:
    assert scenario.vocabulary.decode(encoded.ids) == trajectory.tokens
    assert encoded.roles.tolist() == trajectory.roles
    assert encoded.own.tolist() == trajectory.own
    assert encoded.steps.tolist() == trajectory.steps
    assert [array.dtype for array in (encoded.ids, encoded.roles, encoded.own, encoded.steps)] == [
        np.uint16,
        np.uint8,
        np.bool_,
        np.int32,
    ]
    found = (encoded.phases, encoded.calls, encoded.longest_walk)
    assert found == (trajectory.phases, trajectory.calls, trajectory.longest_walk)


@pytest.mark.parametrize("setting", SETTINGS)
def test_arrays_hold_the_same(setting: str) -> None:
    scenario = Scenario("addition", setting)
    for problem in PROBLEMS:
        same(scenario.encoded(problem), scenario.record(problem), scenario)
        for piece, expected in zip(scenario.stream_encoded(problem, 16), scenario.stream(problem, 16), strict=True):
            same(piece, expected, scenario)


class Unlimited(Addition):
    """Thinks without end, so that only a stream that runs the solver on demand returns."""

    def solve(self, problem: Problem, agent: Agent) -> None:
        while True:
            agent.think("0")


def test_solver_runs_only_as_far_as_pieces_are_taken_and_two_streams_do_not_mix() -> None:
    first, second = (Scenario(Unlimited, "interactive").stream(PROBLEM, 4) for _ in range(2))
    assert [next(first).tokens for _ in range(3)][-1] == ["0"] * 4
    assert next(second).tokens == ["^", "5", "8", "+"]
    assert next(first).tokens == ["0"] * 4


def test_pieces_come_to_whichever_coroutine_takes_them() -> None:
    stream = Scenario("addition", "interactive").stream(PROBLEM, 4)
    main = getcurrent()
    taken = greenlet(lambda: main.switch(next(stream).tokens))
    assert taken.switch() == ["^", "5", "8", "+"]
    assert next(stream).tokens == ["7", "=", "r1", "^"]


def test_dropping_a_stream_ends_its_solver() -> None:
    ended = []

    class Noticing(Addition):
        def solve(self, problem: Problem, agent: Agent) -> None:
            try:
                super().solve(problem, agent)
            finally:
                ended.append(True)

    stream = Scenario(Noticing, "interactive").stream(PROBLEM, 10)
    next(stream)
    assert not ended
    del stream
    gc.collect()
    assert ended == [True]


def test_an_error_of_the_solver_reaches_whoever_takes_the_pieces() -> None:
    class Failing(Addition):
        def solve(self, problem: Problem, agent: Agent) -> None:
            agent.command("r1")
            raise ArithmeticError("lost the carry")

    stream = Scenario(Failing, "interactive").stream(PROBLEM, 6)
    next(stream)
    with pytest.raises(ArithmeticError, match="lost the carry"):
        next(stream)


class Reading(Addition):
    """Reads 60,000 times and remembers nothing."""

    def solve(self, problem: Problem, agent: Agent) -> None:
        for _ in range(60_000):
            agent.step("read")
            agent.command("r1")


def peak_bytes(pieces: Iterator[Trajectory]) -> int:
    tracemalloc.start()
    try:
        for _ in pieces:
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_of_a_stream_is_bounded_by_the_chunk() -> None:
    scenario = Scenario(Reading, "interactive")
    assert peak_bytes(scenario.stream(PROBLEM, 512)) < 300_000
    assert peak_bytes(scenario.stream(PROBLEM, 200_000)) > 3_000_000


def test_chunks_below_one_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="chunk = 0"):
        Scenario("addition", "direct").stream(PROBLEM, 0)


# --- names and pairings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("adition", "direct"), "unknown task 'adition', did you mean 'addition'?"),
        (("addition", "interactiv"), "unknown addition setting 'interactiv', did you mean 'interactive'?"),
        (("addition", "interactive", "pointr"), "unknown tool 'pointr', did you mean 'pointer'?"),
        (("addition", "interactive", "calculator"), "impossible pairing: tool 'calculator' with setting 'interactive'"),
        (("addition", "direct", "pointer"), "allowed there: none"),
        (("addition", "direct", PointerMemory), "impossible pairing: tool 'pointer'"),
        (("addition", "direct", "none", "localized"), "unknown addition trajectory form 'localized'"),
        (("addition", "interactive", "pointer", "faithful", {"pointer": 2}), "did you mean 'pointers'?"),
        (("addition", "direct", "none", "faithful", {"args": 2}), "unknown none tool option 'args' (allowed: nothing)"),
        (("addition", "interactive", "pointer", "faithful", {"pointers": 0}), "must be at least 1"),
        (("nowhere.at_all:Task", "direct"), "cannot be imported"),
        (("tasks.addition:Subtraction", "direct"), "cannot be imported"),
        (("tasks.addition:random", "direct"), "must be a class"),
        (("tools.pointer:PointerMemory", "direct"), "not a subclass of tasks.base.Task"),
    ],
)
def test_impossible_scenarios_say_in_one_line_what_is_allowed(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError) as error:
        Scenario(*arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_names_classes_instances_and_import_paths_mean_the_same() -> None:
    expected = Scenario("addition", "interactive").record(PROBLEM)
    for task in (Addition, ADDITION, "tasks.addition:Addition"):
        for tool in (None, "pointer", PointerMemory):
            scenario = Scenario(task, "interactive", tool)
            assert scenario.record(PROBLEM) == expected
            assert (scenario.task.name, scenario.tool_name) == ("addition", "pointer")


def test_tool_options_go_on_top_of_the_tasks() -> None:
    scenario = Scenario("addition", "interactive", tool_options={"pointers": 3})
    assert scenario.tool_options == {"pointers": 3}
    assert "r3" in scenario.vocabulary.ids
    assert "r3" not in Scenario("addition", "interactive").vocabulary.ids


def test_other_forms_have_solvers_of_their_own() -> None:
    class Shortcut(Addition):
        forms = ("faithful", "brief")

        def solve_brief(self, problem: Problem, agent: Agent) -> None:
            agent.answer()
            agent.output(*problem.answer)

    assert len(Scenario(Shortcut, "interactive", form="brief").record(PROBLEM).tokens) == 10
    assert len(Scenario(Shortcut, "interactive").record(PROBLEM).tokens) == 95


@pytest.mark.parametrize("setting", SETTINGS)
def test_vocabulary_holds_every_token_and_starts_with_the_special_ones(setting: str) -> None:
    scenario = Scenario("addition", setting)
    tokens = scenario.vocabulary.tokens
    assert tokens[:4] == ("[PAD]", "[EOS]", "[ANS]", "^")
    assert tokens == Scenario("addition", setting).vocabulary.tokens
    assert set(scenario.record(PROBLEM).tokens) <= set(tokens)
    assert ("r1" in tokens) == (setting in ("interactive", "cot"))
    assert ("[CALL]" in tokens) == (setting == "single_turn")


class NewerPointers(PointerMemory):
    revision = 7


def test_revisions_are_those_of_the_task_and_of_the_tool_recorded_with() -> None:
    class Revised(Addition):
        revision = 5
        settings = {"interactive": (f"{__name__}:NewerPointers",), "cot": ("none",), "direct": ("none",)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, __name__, sys.modules.get(__name__) or types.SimpleNamespace(**globals()))
        revisions = {setting: Scenario(Revised, setting).revisions for setting in Revised.settings}
    assert revisions == {
        "interactive": {"task": 5, "tool": 7},
        "cot": {"task": 5, "tool": 7},
        "direct": {"task": 5, "tool": 1},
    }

"""Failed problems beside the oracle: the tokens of a live rollout, and the memory of the tool, at every token."""

import json

import pytest

from harness import beside as module
from harness.beside import beside, chosen, edit, problem_of
from harness.config import Evaluate
from harness.divergence import TRACED
from harness.evaluate import Point, evaluate
from harness.oracle import ScriptedModel
from harness.rollout import from_question, roll_out
from harness.schema import CELLS, ROWS
from reports.data import frame
from tasks.base import Role
from tasks.problems import problems
from tasks.scenario import Scenario

COUNT = 12
KINDS = [
    ("addition", "interactive", 4),
    ("addition", "cot", 3),
    ("addition", "single_turn", 5),
    ("addition", "direct", 5),
    ("logical_graph", "interactive", 4),
    ("increment", "interactive", 4),
]


def evaluated(scenario, length, **settings):
    """The scripted model, and its rows of problems half of which fail."""
    model = ScriptedModel(scenario, error_rate=0.7, error_seed=3)
    settings = Evaluate(lengths=[length], problems=COUNT, replay=0.0, **settings)
    [(_, rows)] = evaluate(model, scenario, [Point(length, "random", 0, COUNT)], settings, {"cell": "a"})
    return model, rows


def states(track):
    """Memory and pointers after every token, from what the track says of changes."""
    memory, pointers = list(track.memory), dict(track.pointers)
    edits, moves = {edit[0]: edit[1:] for edit in track.edits}, dict(track.moves)
    for offset in range(len(track.tokens)):
        if offset in edits:
            at, removed, put = edits[offset]
            memory[at : at + removed] = put
        pointers |= moves.get(offset, {})
        yield tuple(memory), dict(pointers)


def lived(scenario, problem, tokens, corrupt=0.0):
    """Role, memory and pointers after every token, from a fresh environment that is told which are observations."""
    environment = scenario.environment(problem, corrupt)
    expected, left = [], 0
    for position, token in enumerate(tokens):
        if position < len(problem.prompt):
            role = Role.QUESTION
        elif left:
            role, left = Role.OBSERVATION, left - 1
        else:
            role, observation = environment.act(token)
            left = len(observation)
        snapshot = environment.tool.snapshot()
        expected.append((role.name.lower(), snapshot.memory, snapshot.pointers))
    return expected


def assert_told(track, start, tokens, expected):
    assert track.tokens == tokens[start:]
    told = [(role, *state) for role, state in zip(track.roles, states(track), strict=True)]
    assert told == expected[start:]


@pytest.mark.parametrize("before", [6, 1000])
@pytest.mark.parametrize(("task", "setting", "length"), KINDS)
def test_both_sides_are_told_token_by_token_with_the_tools_memory(task, setting, length, before, monkeypatch):
    monkeypatch.setattr(module, "BEFORE", before)
    scenario = Scenario(task, setting)
    model, rows = evaluated(scenario, length)
    failed = [row for row in rows if row["rollout"]]
    assert len(failed) == TRACED
    for row in failed:
        problem = problem_of(scenario, row)
        failure = beside(scenario, problem, row, json.loads(row["rollout"]))
        start = max(0, row["divergence"] - before)
        assert (failure.start, failure.known) == (start, "whole")
        oracle = scenario.record(problem)
        assert_told(failure.oracle, start, oracle.tokens, lived(scenario, problem, oracle.tokens))
        limit = len(problem.prompt) + row["rollout_tokens"] + row["divergence"]
        [rollout] = roll_out(model, scenario, [from_question(scenario, problem, limit)])
        tokens = [*problem.prompt, *scenario.vocabulary.decode(rollout.ids)][
            : row["divergence"] + row["rollout_tokens"]
        ]
        assert_told(failure.model, start, tokens, lived(scenario, problem, tokens))
        at = row["divergence"] - start
        assert (failure.oracle.tokens[at], failure.model.tokens[at]) == (row["expected"], row["got"])
        for offset, step, name in failure.steps[1:]:
            assert (oracle.steps[start + offset], oracle.phases[step]) == (step, name)
            assert oracle.steps[start + offset - 1] != step


def test_corrupted_observations_are_shown_as_the_model_saw_them():
    scenario = Scenario("addition", "interactive")
    _, rows = evaluated(scenario, 4, mode="live", corrupt=0.3)
    row = next(row for row in rows if row["rollout"])
    problem = problem_of(scenario, row)
    failure = beside(scenario, problem, row, json.loads(row["rollout"]), corrupt=0.3)
    at = row["divergence"]
    assert failure.model.tokens[at:] == json.loads(row["rollout"])
    assert failure.model.tokens[:at] != failure.oracle.tokens[:at]
    assert_told(failure.model, 0, failure.model.tokens, lived(scenario, problem, failure.model.tokens, corrupt=0.3))


def test_of_a_problem_that_was_not_rolled_out_the_wrong_token_is_known(monkeypatch):
    scenario = Scenario("addition", "interactive")
    _, rows = evaluated(scenario, 4, rollout_max=0)
    row = next(row for row in rows if not row["exact"])
    assert row["rollout"] is None
    failure = beside(scenario, problem_of(scenario, row), row, None)
    assert failure.known == "wrong token"
    assert failure.model.tokens == [*failure.oracle.tokens[: row["divergence"]], row["got"]]


def test_a_rollout_is_kept_up_to_a_limit_and_of_the_first_problems(monkeypatch):
    monkeypatch.setattr("harness.evaluate.TRACE", 5)
    monkeypatch.setattr(module, "TRACE", 5)
    scenario = Scenario("addition", "interactive")
    _, rows = evaluated(scenario, 4)
    diverged = [row for row in rows if not row["exact"]]
    assert [row["rollout"] is not None for row in diverged] == [place < TRACED for place in range(len(diverged))]
    long = next(row for row in diverged if row["rollout_tokens"] > 5)
    assert len(json.loads(long["rollout"])) == 5
    assert beside(scenario, problem_of(scenario, long), long, json.loads(long["rollout"])).known == "part"


def test_verified_and_live_rows_keep_the_same_rollout():
    scenario = Scenario("addition", "interactive")
    kept = [[row["rollout"] for row in evaluated(scenario, 4, mode=mode)[1]] for mode in ("verify", "live")]
    assert kept[0] == kept[1]
    assert any(kept[0])


def test_another_problem_than_the_rows_is_not_shown():
    scenario = Scenario("addition", "interactive")
    drawn = problems(scenario.task, "evaluation", 4, 3)
    row = {"length": 4, "stress": "random", "index": 2, "problem": drawn[2].key}
    assert problem_of(scenario, row) == drawn[2]
    assert problem_of(scenario, {**row, "problem": drawn[1].key}) is None
    assert problem_of(scenario, {**row, "length": 1, "index": 500}) is None


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("abc", "abcd", (3, 0, "d")),
        ("abc", "axc", (1, 1, "x")),
        ("abc", "xabc", (0, 0, "x")),
        ("abc", "ab", (2, 1, "")),
        ("aaa", "aa", (2, 1, "")),
        ("", "ab", (0, 0, "ab")),
        ("abc", "", (0, 3, "")),
        ("abab", "ab", (2, 2, "")),
    ],
)
def test_an_edit_makes_the_new_memory_of_the_old(old, new, expected):
    at, removed, put = edit(tuple(old), tuple(new))
    assert (at, removed, "".join(put)) == expected
    cells = list(old)
    cells[at : at + removed] = put
    assert "".join(cells) == new


def test_architectures_and_lengths_take_turns_and_unfit_runs_are_left_out():
    def cell(name, architecture, seed, fit=True):
        same = {"task": "addition", "form": "faithful", "setting": "interactive", "tool": "pointer", "seed": seed}
        return {"cell": name, "architecture": architecture, "fit": fit, **same}

    def row(cell, length, index, exact=False, stress="random"):
        return {"cell": cell, "length": length, "stress": stress, "index": index, "exact": exact, "got": "x"}

    cells = [cell("g0", "gru", 0), cell("g1", "gru", 1), cell("l0", "lstm", 0), cell("bad", "mamba1", 0, fit=False)]
    rows = [row("g0", 9, 0), row("g0", 9, 1), row("g1", 5, 3), row("g0", 5, 4), row("g0", 2, 0, exact=True)]
    rows += [row("l0", 3, 7), row("bad", 1, 0), row("g0", 1, 0, stress="carries")]
    told = chosen(frame(CELLS, cells), frame(ROWS, rows))
    assert [(row["cell"], row["length"], row["index"]) for row in told] == [("l0", 3, 7), ("g1", 5, 3), ("g0", 9, 0)]
    many = [cell(f"c{place}", f"a{place}", 0) for place in range(40)]
    assert len(chosen(frame(CELLS, many), frame(ROWS, [row(one["cell"], 4, 0) for one in many]))) == module.MOST


def test_the_budget_bounds_what_is_made_again(monkeypatch):
    from harness.config import GridFile
    from harness.grid import Grid, resolve

    resolved = resolve({"architecture": "gru"})
    scenario = Scenario("addition", "interactive")
    _, rows = evaluated(scenario, 4)
    others = [dict(row, cell=resolved.id) for row in evaluated(scenario, 6)[1]]
    failed = [next(row for row in own if not row["exact"]) for own in (rows, others)]
    rows = [dict(row, cell=resolved.id) for row in failed]
    file = GridFile.model_validate({"name": "g", "axes": {"architecture": ["gru"]}, "evaluate": {"lengths": [4, 6]}})
    grid = Grid(file, "", [resolved])
    found = module.failures(grid, map(dict, rows))
    assert [failure.row["length"] for failure in found] == [4, 6]
    assert all(failure.oracle and failure.model for failure in found)
    assert all("rollout" not in failure.row for failure in found)
    monkeypatch.setattr(module, "BUDGET", found[0].row["divergence"] + module.AFTER)
    assert [failure.model is not None for failure in module.failures(grid, map(dict, rows))] == [True, False]
    changed = [dict(row, problem="another") for row in rows]
    assert [failure.model for failure in module.failures(grid, changed)] == [None, None]

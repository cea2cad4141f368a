"""Replies that were tampered with: how often, where, and that nothing else changes."""

from contextlib import suppress

import pytest

from tasks.agent import Agent
from tasks.scenario import Scenario
from tasks.trajectory import Piece
from tools.corrupted import Corrupted
from tools.pointer import PointerMemory

PROMPT = tuple("^58+7=")
DIGITS = tuple("0123456789")


def corrupted(rate: float, seed: str = "x") -> Corrupted:
    tool = Corrupted(PointerMemory(), rate, seed, DIGITS)
    tool.start(PROMPT)
    return tool


def readings(tool: Corrupted, times: int) -> list[str]:
    return [token for _ in range(times) for token in tool.feed("r1")]


def test_every_reply_token_is_replaced_by_another_one_with_the_given_probability() -> None:
    tool = corrupted(0.2)
    tool.feed("R1")
    heard = readings(tool, 2_000)
    wrong = [token for token in heard if token != "5"]
    assert set(wrong) == set(DIGITS) - {"5"}
    assert len(wrong) == tool.replaced == pytest.approx(400, rel=0.15)


def test_the_place_of_the_first_replacement_is_that_in_the_trajectory() -> None:
    tool = corrupted(0.2)
    heard = readings(tool, 50)
    assert tool.first == len(PROMPT) + 2 * next(at for at, token in enumerate(heard) if token != "^") + 1


def test_seeds_decide_and_start_begins_anew() -> None:
    tool = corrupted(0.5)
    first = readings(tool, 30)
    tool.start(PROMPT)
    assert (tool.replaced, tool.first) == (0, None)
    assert readings(tool, 30) == first
    assert readings(corrupted(0.5, "y"), 30) != first


def test_memory_pointers_and_counts_are_those_of_the_tool_itself() -> None:
    tool, honest = corrupted(1.0), PointerMemory()
    honest.start(PROMPT)
    for token in ("R1", "R1", "r1", "7", "c0", "L1", "r1"):
        assert tool.classify(token) == honest.classify(token)
        tool.feed(token)
        honest.feed(token)
    assert tool.snapshot() == honest.snapshot()
    assert (tool.calls, tool.longest_walk) == (honest.calls, honest.longest_walk)
    assert tool.vocabulary() == honest.vocabulary()


def test_a_solver_that_believes_what_it_reads_is_misled() -> None:
    scenario = Scenario("multiplication", "interactive")
    problem = scenario.task.problem("58", "7")
    tool = Corrupted(scenario.make_tool(), 0.0, "", ())
    agent = Agent(problem.prompt, tool, lambda piece: None)
    scenario.task.solve(problem, agent)
    assert agent.environment.output == ["4", "0", "6"]
    outputs = set()
    for seed in "abcdefgh":
        agent = Agent(problem.prompt, Corrupted(scenario.make_tool(), 0.02, seed, DIGITS), lost, chunk=1_000)
        with suppress(RuntimeError):
            scenario.task.solve(problem, agent)
        outputs.add(tuple(agent.environment.output))
    assert len(outputs) > 1


def lost(piece: Piece) -> None:
    raise RuntimeError("the solver has walked past what it looks for")

import numpy as np
import pytest

from tasks.agent import Agent, Environment
from tasks.base import Role
from tasks.trajectory import Piece
from tools.calculator import Calculator
from tools.none import Imagined, NoTool
from tools.pointer import PointerMemory

PROMPT = ("^", "5", "=")


def roles(environment: Environment, tokens: str) -> list[Role]:
    return [environment.act(token)[0] for token in tokens.split()]


def test_the_answer_mark_ends_the_thoughts_and_commands_stay_commands() -> None:
    environment = Environment(PROMPT, PointerMemory())
    expected = [Role.THOUGHT, Role.COMMAND, Role.THOUGHT, Role.OUTPUT, Role.COMMAND, Role.OUTPUT, Role.END]
    assert roles(environment, "7 r1 [ANS] 5 r2 [ANS] [EOS]") == expected
    assert environment.output == ["5", "[ANS]"]
    assert environment.tool.snapshot().memory == (*PROMPT, "7", "[ANS]", "5", "[ANS]")


def test_an_imagined_answer_mark_is_an_observation_and_ends_nothing() -> None:
    environment = Environment(PROMPT, Imagined(PointerMemory()))
    assert roles(environment, "r1 [ANS] 5") == [Role.COMMAND, Role.OBSERVATION, Role.THOUGHT]
    assert not environment.answering
    assert (environment.made, environment.observed) == (3, 0)


def test_observations_are_given_and_counted() -> None:
    environment = Environment(PROMPT, PointerMemory())
    assert environment.act("r1") == (Role.COMMAND, ("^",))
    assert environment.act("R1") == (Role.COMMAND, ())
    assert (environment.made, environment.observed) == (2, 1)


def test_the_end_ends_even_inside_a_command() -> None:
    environment = Environment(PROMPT, Calculator())
    assert roles(environment, "[CALL] 5 [ANS]") == [Role.COMMAND] * 3
    environment = Environment(PROMPT, Calculator())
    assert roles(environment, "[CALL] 5 [EOS]")[-1] is Role.END
    assert environment.done


def test_nothing_can_be_done_after_the_end() -> None:
    environment = Environment(PROMPT, NoTool())
    environment.act("[EOS]")
    with pytest.raises(RuntimeError, match="has ended"):
        environment.act("5")


def test_a_new_environment_resets_its_tool() -> None:
    tool = PointerMemory()
    Environment(PROMPT, tool).act("R1")
    Environment(PROMPT[:1], tool)
    assert tool.snapshot().memory == ("^",)
    assert tool.calls == 0


@pytest.mark.parametrize(
    ("method", "token", "message"),
    [
        ("think", "r1", "as a thought, which here is a command"),
        ("output", "5", "as a output, which here is a thought"),
        ("command", "5", "which the tool takes for a thought"),
    ],
)
def test_solvers_that_mistake_a_role_are_told(method: str, token: str, message: str) -> None:
    agent = Agent(PROMPT, PointerMemory(), lambda piece: None)
    with pytest.raises(RuntimeError, match=message):
        getattr(agent, method)(token)


def test_pieces_keep_their_steps_through_cuts_and_steps_without_tokens() -> None:
    pieces: list[Piece] = []
    agent = Agent(PROMPT, PointerMemory(), pieces.append, chunk=2)
    agent.step("nothing")
    agent.step("two")
    agent.think("a", "b")
    agent.step("long")
    agent.command("r1", "r1")
    agent.finish()
    parts = [piece.as_trajectory(np.ones(6, dtype=bool)) for piece in pieces]
    assert [part.tokens for part in parts] == [["^", "5"], ["=", "a"], ["b", "r1"], ["^", "r1"], ["^", "[EOS]"]]
    assert [part.steps for part in parts] == [[0, 0], [0, 2], [2, 3], [3, 3], [3, 3]]
    assert [part.phases for part in parts][1:3] == [{0: "question", 2: "two"}, {2: "two", 3: "long"}]

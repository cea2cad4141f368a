"""Where a model left the oracle: what is said of that place. No torch: helper processes import this."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from harness.ahead import Helpers
from tasks.agent import Environment
from tasks.base import EOS, PAD, Problem, Role
from tasks.scenario import Scenario
from tasks.trajectory import Encoded

CONTEXT = 24
"""Tokens before the divergence that a row shows."""
TRACED, TRACE = 2, 2_000
"""Of so many diverged problems of a point the rollout is kept, and so many tokens of it from the divergence on."""
CHUNK = 4096

Place = tuple[Problem, int, int]
"""A problem, the position of the first wrong token, and the id of what the model chose there."""
Described = tuple[dict[str, Any], Environment]
"""Columns of the row, and the environment as it stands at the divergence."""


def described(scenario: Scenario, places: Sequence[Place], helpers: Helpers | None = None) -> list[Described]:
    """What there is to say of each place, in their order. With helpers, each of them looks at a share of the places."""
    return (helpers or Helpers(0)).spread(_all, scenario, places)


def describe(scenario: Scenario, problem: Problem, at: int, got: int) -> Described:
    """The oracle is followed up to the divergence only, and nothing of it is kept."""
    environment, names = scenario.environment(problem), scenario.vocabulary
    before: list[int] = []
    seen = 0
    for piece in scenario.stream_encoded(problem, CHUNK):
        upto = min(len(piece), at - seen)
        _act(environment, scenario, piece, upto)
        before = [*before, *piece.ids[max(0, upto - CONTEXT) : upto].tolist()][-CONTEXT:]
        if upto < len(piece):
            break
        seen += len(piece)
    step, role = int(piece.steps[upto]), Role(int(piece.roles[upto]))
    expected, chosen = names.tokens[piece.ids[upto]], names.tokens[got]
    columns = {
        "divergence": at,
        "divergence_step": step,
        "divergence_phase": piece.phases[step],
        "divergence_role": role.name.lower(),
        "expected": expected,
        "got": chosen,
        "context": " ".join(names.decode(before)),
        "failure": failure_class(environment, expected, role, chosen),
    }
    return columns, environment


def replay(scenario: Scenario, problem: Problem, oracle: Encoded, upto: int) -> Environment:
    """The environment after the first `upto` tokens of the oracle's trajectory."""
    environment = scenario.environment(problem)
    _act(environment, scenario, oracle, upto)
    return environment


def failure_class(environment: Environment, expected: str, expected_role: Role, got: str) -> str:
    """Why a problem failed, decided at its first divergence (see `harness.schema.FAILURES`)."""
    if got == EOS:
        return "stopped_early"
    if expected == EOS:
        return "past_budget"
    if got == PAD or not environment.allows(got):
        return "malformed_command"
    if expected_role == Role.COMMAND:
        return "wrong_command"
    return "wrong_output" if expected_role == Role.OUTPUT else "wrong_thought"


def told(scenario: Scenario, places: Sequence[Place]) -> Iterator[dict[str, Any]]:
    """The columns alone of each place."""
    return (columns for columns, _ in _all(scenario, places))


def _all(scenario: Scenario, places: Sequence[Place]) -> Iterator[Described]:
    for problem, at, got in places:
        yield describe(scenario, problem, at, got)


def _act(environment: Environment, scenario: Scenario, piece: Encoded, upto: int) -> None:
    for token in scenario.vocabulary.decode(piece.ids[:upto][piece.own[:upto]]):
        environment.act(token)

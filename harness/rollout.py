"""Live rollouts: the model acts in the environment, token by token, through the same tool as the solver."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from harness.decide import autocast, decide
from models.state import put, take
from tasks.agent import Environment
from tasks.base import EOS, PAD, Problem, Role
from tasks.scenario import Scenario


@dataclass
class Start:
    """Where a rollout begins: an environment, and what brings a model to the same place."""

    environment: Environment
    """Has seen all of the trajectory so far."""
    tokens: list[int]
    """Goes through the model first, from `state`."""
    state: Any | None
    """State of one row; None: the initial state."""
    position: int
    """Length of the trajectory so far."""
    limit: int
    """The rollout ends when its trajectory has so many tokens."""
    commit: int | None = None
    """The first token, where it is decided already."""


@dataclass
class Rollout:
    """What happened: the tokens after the start, observations included, and the margin of each own one (else NaN)."""

    ids: list[int] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    ending: str = "past_budget"
    output: list[str] = field(default_factory=list)
    calls: int = 0
    longest_walk: int = 0


def from_question(scenario: Scenario, problem: Problem, limit: int) -> Start:
    """A rollout from the question on."""
    ids = scenario.vocabulary.encode(problem.prompt).tolist()
    return Start(scenario.environment(problem), ids, None, len(ids), limit)


@torch.inference_mode()
def roll_out(model: Any, scenario: Scenario, starts: Sequence[Start], precision: str = "float32") -> list[Rollout]:
    """Greedy rollouts of all `starts` in one batch; results in their order."""
    if not starts:
        return []
    device = next(model.parameters()).device
    seats = [_Seat(scenario, start) for start in starts]
    with autocast(device, precision):
        state, logits = _begin(model, starts, device)
        best, margins = decide(logits)
        active = list(range(len(seats)))
        while True:
            chosen, spread = best.tolist(), margins.tolist()
            tokens = [seats[row].advance(chosen[at], spread[at]) for at, row in enumerate(active)]
            going = [at for at, row in enumerate(active) if not seats[row].over]
            if not going:
                return [seat.rollout for seat in seats]
            # Copying states costs about as much as some steps: leave finished rows in until half are done.
            if len(going) <= len(active) // 2:
                state = take(state, torch.tensor(going, device=device))
                active, tokens = [active[at] for at in going], [tokens[at] for at in going]
            logits, state = model.step(torch.tensor(tokens, device=device), state)
            best, margins = decide(logits)


def _begin(model: Any, starts: Sequence[Start], device: torch.device) -> tuple[Any, torch.Tensor]:
    """Bring the model to the starts: states of the batch, and the logits after each row's tokens."""
    state = model.initial_state(len(starts), device)
    for row, start in enumerate(starts):
        if start.state is not None:
            state = put(state, torch.tensor([row], device=device), start.state)
    lengths = torch.tensor([len(start.tokens) for start in starts], device=device)
    padded = torch.zeros(len(starts), max(1, int(lengths.max())), dtype=torch.int64, device=device)
    for row, start in enumerate(starts):
        padded[row, : len(start.tokens)] = torch.tensor(start.tokens, dtype=torch.int64)
    logits, state = model(padded, state, lengths)
    return state, logits[torch.arange(len(starts), device=device), (lengths - 1).clamp(min=0)]


class _Seat:
    """One row of the batch: its environment, and the tokens that wait to be fed."""

    def __init__(self, scenario: Scenario, start: Start) -> None:
        self.names = scenario.vocabulary
        self.environment = start.environment
        self.commit = start.commit
        self.room = start.limit - start.position
        self.pending: deque[int] = deque()
        self.rollout = Rollout()
        self.over = False

    def advance(self, chosen: int, margin: float) -> int:
        """The token to feed next: one of an observation, else the model's choice, which acts on the environment."""
        if self.over:
            return 0
        if self.pending:
            token, margin = self.pending.popleft(), float("nan")
        else:
            token = chosen if self.commit is None else self.commit
            margin = margin if self.commit is None else float("nan")
            self.commit = None
            _, observation = self.environment.act(self.names.tokens[token])
            self.pending.extend(self.names.encode(observation).tolist())
        self.rollout.ids.append(token)
        self.rollout.margins.append(margin)
        if self.environment.done or len(self.rollout.ids) >= self.room:
            self._finish()
        return token

    def _finish(self) -> None:
        self.over = True
        self.rollout.ending = "finished" if self.environment.done else "past_budget"
        self.rollout.output = list(self.environment.output)
        self.rollout.calls = self.environment.tool.calls
        self.rollout.longest_walk = self.environment.tool.longest_walk


def first_difference(oracle: np.ndarray, ids: Sequence[int], start: int) -> int | None:
    """Position in the trajectory where a rollout that began at `start` leaves the oracle; None when it never does."""
    made = np.asarray(ids)
    size = min(len(made), len(oracle) - start)
    different = np.flatnonzero(made[:size] != oracle[start : start + size])
    if len(different):
        return start + int(different[0])
    return start + size if start + size < len(oracle) else None


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

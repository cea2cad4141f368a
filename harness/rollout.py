"""Live rollouts: the model acts in the environment, token by token, through the same tool as the solver."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from harness.decide import autocast, decide
from harness.decoder import Decoder
from harness.memory import rows_that_fit
from models.base import SequenceModel
from models.state import put
from tasks.agent import Environment
from tasks.base import Problem
from tasks.scenario import Scenario
from tasks.trajectory import Encoded

LAUNCH = 1 << 17
"""Tokens, all rows together, that go through the model at once while it is brought to the starts."""


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


def from_question(scenario: Scenario, problem: Problem, limit: int, corrupt: float = 0.0) -> Start:
    """A rollout from the question on; `corrupt`: see `Scenario.environment`."""
    ids = scenario.vocabulary.encode(problem.prompt).tolist()
    return Start(scenario.environment(problem, corrupt), ids, None, len(ids), limit)


@torch.inference_mode()
def roll_out(model: Any, scenario: Scenario, starts: Sequence[Start], precision: str = "float32") -> list[Rollout]:
    """Greedy rollouts of all `starts` in one batch; results in their order."""
    if not starts:
        return []
    rows = rows_that_fit(model, max(start.limit for start in starts))
    groups = [starts[at : at + rows] for at in range(0, len(starts), rows)]
    return [rollout for group in groups for rollout in _roll_out(model, scenario, group, precision)]


def _roll_out(model: Any, scenario: Scenario, starts: Sequence[Start], precision: str) -> list[Rollout]:
    device = next(model.parameters()).device
    seats = [_Seat(scenario, start) for start in starts]
    with autocast(device, precision):
        state, logits = _begin(model, starts, device)
        best, margins = decide(logits)
        chosen, spread = best.tolist(), margins.tolist()
        decoder = Decoder(model, state, len(seats), device, max(seat.room for seat in seats))
        active = list(range(len(seats)))
        while True:
            tokens = [seats[row].advance(chosen[at], spread[at]) for at, row in enumerate(active)]
            going = [at for at, row in enumerate(active) if not seats[row].over]
            if not going:
                return [seat.rollout for seat in seats]
            # Copying states costs about as much as some steps: leave finished rows in until half are done.
            if len(going) <= len(active) // 2:
                active, tokens = [active[at] for at in going], [tokens[at] for at in going]
                decoder = decoder.taken(going, max(seats[row].left for row in active))
            chosen, spread = decoder.step(tokens)


def _begin(model: Any, starts: Sequence[Start], device: torch.device) -> tuple[Any, torch.Tensor]:
    """Bring the model to the starts: states of the batch, and the logits after each row's tokens."""
    rows = torch.arange(len(starts), device=device)
    state = model.initial_state(len(starts), device)
    if isinstance(model, SequenceModel):
        state = model.reserve(state, max(start.limit for start in starts))
    for row, start in enumerate(starts):
        if start.state is not None:
            state = put(state, rows[row : row + 1], start.state)
    lengths = torch.tensor([len(start.tokens) for start in starts], device=device)
    width = max(1, *(len(start.tokens) for start in starts))
    padded = torch.zeros(len(starts), width, dtype=torch.int64)
    for row, start in enumerate(starts):
        padded[row, : len(start.tokens)] = torch.tensor(start.tokens, dtype=torch.int64)
    padded = padded.to(device)
    last = None
    for at in range(0, width, max(1, LAUNCH // len(starts))):
        piece = padded[:, at : at + max(1, LAUNCH // len(starts))]
        part, end = (lengths - at).clamp(0, piece.shape[1]), lengths - 1 - at
        place = end.clamp(0, piece.shape[1] - 1)
        if isinstance(model, SequenceModel):
            features, state = model.append(piece, state, part)
            here = model.head(features[rows, place])
        else:
            logits, state = model(piece, state, part)
            here = logits[rows, place]
        last = here if last is None else torch.where((end >= 0)[:, None], here, last)
    assert last is not None
    return state, last


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

    @property
    def left(self) -> int:
        """Tokens it may still take."""
        return 0 if self.over else self.room - len(self.rollout.ids)

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
        ended = self.environment.done or (self.environment.cut and not self.pending)
        if ended or len(self.rollout.ids) >= self.room:
            self._finish()
        return token

    def _finish(self) -> None:
        self.over = True
        self.rollout.ending = "finished" if self.environment.done else "past_budget"
        self.rollout.output = list(self.environment.outcome)
        self.rollout.calls = self.environment.tool.calls
        self.rollout.longest_walk = self.environment.tool.longest_walk


def first_difference(oracle: Encoded, ids: Sequence[int], start: int) -> int | None:
    """Position in the trajectory where a rollout that began at `start` leaves the oracle; None when it never does.

    Only the model's own tokens are compared: up to their first difference, observations differ by corruption alone.
    """
    made = np.asarray(ids)
    size = min(len(made), len(oracle) - start)
    here = slice(start, start + size)
    different = np.flatnonzero((made[:size] != oracle.ids[here]) & oracle.own[here])
    if len(different):
        return start + int(different[0])
    return start + size if start + size < len(oracle) else None

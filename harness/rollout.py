"""Live rollouts: the model acts in the environment, token by token, through the same tool as the solver.

The tokens are made on the model's device, many rows at once (see `harness.decoder`); what they did is followed here, in
each row's own environment, which answers where the device cannot and counts what rows of results tell.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from harness.decide import autocast
from harness.decoder import Decoder, Select, Window
from harness.memory import rows_that_fit
from models.base import SequenceModel
from models.state import fill
from tasks.agent import Environment
from tasks.base import EOS, Problem
from tasks.scenario import Scenario
from tasks.trajectory import Encoded
from tools.batched import batched

LAUNCH = 1 << 17
"""Tokens, all rows together, that go through the model at once while it is brought to the starts."""
ROWS = 256
"""Rows that decode side by side at most."""


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
    seed: int = 0
    """Of its choices, where they are drawn."""


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
def roll_out(
    model: Any,
    scenario: Scenario,
    starts: Sequence[Start],
    precision: str = "float32",
    select: Select | None = None,
    rows: int | None = None,
) -> list[Rollout]:
    """Rollouts of all `starts`, results in their order; greedy ones unless `select` chooses (see `Decoder`).

    rows: how many go side by side; None: as many as fit, up to ROWS, on a GPU a power of two. The rest take the places
    of those that end. What is in the other places changes no result.
    """
    if not starts:
        return []
    return _Rollouts(model, scenario, starts, precision, select, rows).run()


@torch.inference_mode()
def step_seconds(model: Any, scenario: Scenario, starts: Sequence[Start], precision: str) -> float:
    """Seconds of a step of these greedy rollouts side by side, at their beginning: of a window after the first one."""
    rollouts = _Rollouts(model, scenario, starts, precision, None, None)
    rollouts.refill()
    rollouts.decoder.run().wait()
    began = time.perf_counter()
    rollouts.decoder.run().wait()
    return (time.perf_counter() - began) / rollouts.decoder.steps


class _Rollouts:
    def __init__(
        self,
        model: Any,
        scenario: Scenario,
        starts: Sequence[Start],
        precision: str,
        select: Select | None,
        rows: int | None,
    ) -> None:
        self.model, self.precision = model, precision
        self.device = next(model.parameters()).device
        names, length = scenario.vocabulary, max(start.limit for start in starts)
        count = _places(model, len(starts), length, self.device) if rows is None else rows
        tool = batched(starts[0].environment.tool, names.ids, count, length, self.device)
        self.decoder = Decoder(model, tool, count, length, len(names), names.ids[EOS], precision, select)
        self.seats = [_Seat(scenario, start) for start in starts]
        self.waiting = deque(seat for seat in self.seats if not seat.over)
        self.places: list[_Seat | None] = [None] * count

    def run(self) -> list[Rollout]:
        pending: deque[tuple[list[_Seat | None], Window]] = deque()
        self.refill()
        while any(self.places) or pending:
            if any(self.places):
                pending.append((list(self.places), self.decoder.run()))
            # On a GPU the window before is looked at while this one runs.
            if len(pending) > (self.device.type == "cuda") or not any(self.places):
                self._look(*pending.popleft())
        return [seat.rollout for seat in self.seats]

    def _look(self, seats: Sequence[_Seat | None], window: Window) -> None:
        """Follow what the rows did; answer those that ask, and let others take the places of those that ended."""
        window.wait()
        asking, circling, stopped = [], [], []
        made, margins, returned = window.made.tolist(), window.margins.tolist(), window.returned.tolist()
        for row, (seat, count, asks) in enumerate(zip(seats, window.count.tolist(), window.asks.tolist())):
            if seat is None or seat.over:
                continue
            ids = made[row][:count]
            seat.follow(ids, margins[row][:count])
            if returned[row] and not seat.over:
                seat.repeat(ids, margins[row][:count])
                stopped.append(row)
            again, seat.last = bool(ids) and ids == seat.last, ids
            if seat.over:
                self.places[row] = None
            elif asks and count:  # else it was answered when it was seen to ask
                asking.append((row, seat))
            elif again:
                circling.append(row)
        if asking:
            self.decoder.answer(
                [row for row, _ in asking],
                [list(seat.expected) for _, seat in asking],
                [seat.environment.tool for _, seat in asking],
                [seat.environment.cut for _, seat in asking],
            )
        if stopped:
            self.decoder.stop(stopped)
        if circling and self.decoder.repeats:
            self.decoder.mark(circling)
        self.refill()

    def refill(self) -> None:
        free = [row for row, seat in enumerate(self.places) if seat is None][: len(self.waiting)]
        if not free:
            return
        seats = [self.waiting.popleft() for _ in free]
        starts = [seat.start for seat in seats]
        with autocast(self.device, self.precision):
            state, logits = _begin(self.model, starts, self.device)
        self.decoder.put(
            free,
            state,
            logits,
            [start.commit for start in starts],
            [seat.room for seat in seats],
            [start.environment.tool for start in starts],
            [start.seed for start in starts],
        )
        for row, seat in zip(free, seats):
            self.places[row], seat.start.state = seat, None


def _places(model: Any, count: int, length: int, device: torch.device) -> int:
    """Rows that go side by side."""
    most = min(count, ROWS, rows_that_fit(model, length))
    if device.type != "cuda":
        return most
    up = 1 << (most - 1).bit_length()
    return up if up <= rows_that_fit(model, length) else up // 2


def _begin(model: Any, starts: Sequence[Start], device: torch.device) -> tuple[Any, torch.Tensor]:
    """Bring the model to the starts: states of the batch, and the logits after each row's tokens."""
    rows = torch.arange(len(starts), device=device)
    state = model.initial_state(len(starts), device)
    if isinstance(model, SequenceModel):
        state = model.reserve(state, max(start.position for start in starts))
    for row, start in enumerate(starts):
        if start.state is not None:
            state = fill(state, rows[row : row + 1], start.state)
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
    """One rollout, followed: its environment, and the tokens of a reply that have yet to be fed."""

    def __init__(self, scenario: Scenario, start: Start) -> None:
        self.names, self.start, self.environment = scenario.vocabulary, start, start.environment
        self.room = start.limit - start.position
        self.expected: deque[int] = deque()
        self.rollout = Rollout()
        self.over = False
        self.decided = start.commit is not None
        self.last: Sequence[int] = ()
        """Tokens of the last window."""

    def follow(self, ids: Sequence[int], margins: Sequence[float]) -> None:
        """Take the next tokens: those of replies as the tool gave them, the others act on the environment."""
        act, tokens, expected = self.environment.act, self.names.tokens, self.expected
        for token in ids:
            if expected:
                assert token == expected.popleft(), "the tool on the device answered otherwise than the one here"
            else:
                _, observation = act(tokens[token])
                if observation:
                    expected.extend(self.names.encode(observation).tolist())
        self.rollout.ids += ids
        self.rollout.margins += margins
        if self.decided and ids:
            self.rollout.margins[0], self.decided = float("nan"), False
        ended = self.environment.done or (self.environment.cut and not self.expected)
        if ended or len(self.rollout.ids) >= self.room:
            self._finish()

    def repeat(self, ids: Sequence[int], margins: Sequence[float]) -> None:
        """All that is left of a rollout whose last tokens come again and again: written down, not decoded."""
        left = self.room - len(self.rollout.ids)
        times = -(-left // len(ids))
        self.follow((list(ids) * times)[:left], (list(margins) * times)[:left])

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

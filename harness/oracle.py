"""The scripted model: replays the solver through the model interface, with errors planted on purpose.

It answers like any architecture (`initial_state`, `forward`, `step`), so the whole evaluation path can be checked with
it: without errors it must score 100% at every length, and with a planted error rate the evaluation must find exactly
the planted errors, at their positions, with their classes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.divergence import replay
from tasks.base import EOS, Problem, Role
from tasks.scenario import Scenario
from tasks.trajectory import Encoded

MARGIN = 10.0
KINDS = ("wrong_command", "wrong_thought", "wrong_output", "malformed_command", "past_budget", "stopped_early")


@dataclass(frozen=True)
class Planted:
    """One wrong decision: `token` at `position`, where the oracle has another."""

    position: int
    token: int
    failure: str


@dataclass
class ScriptedState:
    """Per row: the question so far, which known problem it is (-1: not yet), and how many tokens were seen."""

    question: Tensor
    """int32 [B, capacity]; the capacity grows with the question."""
    problem: Tensor
    """int64 [B]."""
    position: Tensor
    """int64 [B]."""


class ScriptedModel(nn.Module):
    """Knows the solver. `error_rate`: share of problems in which one error is planted, drawn from `error_seed`."""

    revision = 1
    learns = "gradients"

    def __init__(self, scenario: Scenario, error_rate: float = 0.0, error_seed: int = 0) -> None:
        super().__init__()
        self.scenario = scenario
        self.error_rate, self.error_seed = error_rate, error_seed
        self.device_marker = nn.Parameter(torch.zeros(1))
        self._known: dict[str, int] = {}
        self._scripts: list[Tensor] = []
        self._end = scenario.vocabulary.ids[scenario.task.prompt_end]

    def kernels(self) -> dict[str, str]:
        return {"model": "scripted"}

    def cost(self, length: int) -> Any:
        from models.base import Cost

        return Cost(parameters=0, flops=0.0, state_bytes=4 * length + 16)

    def initial_state(self, batch: int, device: Any = None) -> ScriptedState:
        return ScriptedState(
            torch.zeros(batch, 0, dtype=torch.int32), torch.full((batch,), -1), torch.zeros(batch, dtype=torch.int64)
        )

    def forward(
        self, tokens: Tensor, state: ScriptedState | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, ScriptedState]:
        """tokens: int64 [B, T]; logits: [B, T, V], MARGIN at the scripted next token, else 0."""
        batch, width = tokens.shape
        old = self.initial_state(batch) if state is None else state
        unread = old.position[old.problem < 0]
        room = int(unread.max()) + width if len(unread) else 0
        question = nn.functional.pad(old.question, (0, max(0, room - old.question.shape[1])))
        new = ScriptedState(question.clone(), old.problem.clone(), old.position.clone())
        following = torch.zeros(batch, width, dtype=torch.int64)
        for row in range(batch):
            size = width if lengths is None else int(lengths[row])
            self._read(tokens[row, :size], following[row, :size], new, row)
        logits = torch.zeros(batch, width, len(self.scenario.vocabulary))
        return logits.scatter_(2, following[..., None], MARGIN), new

    def step(self, tokens: Tensor, state: ScriptedState) -> tuple[Tensor, ScriptedState]:
        logits, state = self.forward(tokens[:, None], state)
        return logits[:, 0], state

    def _read(self, tokens: Tensor, following: Tensor, state: ScriptedState, row: int) -> None:
        at, seen = 0, int(state.position[row])
        while at < len(tokens) and state.problem[row] < 0:
            state.question[row, seen] = tokens[at]
            at, seen = at + 1, seen + 1
            if tokens[at - 1] == self._end:
                state.problem[row] = self._recognise(state.question[row, :seen])
                following[at - 1] = self._scripts[int(state.problem[row])][seen]
        if state.problem[row] >= 0:
            script = self._scripts[int(state.problem[row])]
            wanted = torch.arange(seen + 1, seen + 1 + len(tokens) - at).clamp(max=len(script) - 1)
            following[at:] = script[wanted]
            seen += len(tokens) - at
        state.position[row] = seen

    def _recognise(self, question: Tensor) -> int:
        names = self.scenario.vocabulary.decode(question.tolist())
        problem = self.scenario.task.parse(names)
        if problem.key not in self._known:
            oracle = self.scenario.encoded(problem)
            script = torch.from_numpy(oracle.ids.astype("int64"))
            planted = self.planted(problem, oracle)
            if planted is not None:
                script[planted.position] = planted.token
            # Beyond the end the last token is repeated: the end mark, or, planted, a model that never stops.
            self._known[problem.key] = len(self._scripts)
            self._scripts.append(script)
        return self._known[problem.key]

    def planted(self, problem: Problem, oracle: Encoded | None = None) -> Planted | None:
        """The error planted in this problem, if any; a function of the problem and the error seed alone."""
        rng = random.Random(f"{self.error_seed} {problem.key}")
        if rng.random() >= self.error_rate:
            return None
        oracle = self.scenario.encoded(problem) if oracle is None else oracle
        for kind in rng.sample(KINDS, len(KINDS)):
            if (found := self._plant(kind, problem, oracle, rng)) is not None:
                return found
        raise AssertionError("every trajectory has an end that can be missed")

    def _plant(self, kind: str, problem: Problem, oracle: Encoded, rng: random.Random) -> Planted | None:
        """A place and a token for an error of this kind; None where the trajectory has no place for it."""
        roles: dict[str, list[Role]] = {
            "wrong_command": [Role.COMMAND],
            "malformed_command": [Role.COMMAND],
            "wrong_thought": [Role.THOUGHT, Role.OBSERVATION],
            "wrong_output": [Role.OUTPUT],
            "past_budget": [Role.END],
            "stopped_early": [role for role in Role if role != Role.END],
        }
        places = [at for at in range(len(oracle.ids)) if oracle.own[at] and oracle.roles[at] in roles[kind]]
        rng.shuffle(places)
        for at in places[:20]:
            tokens = self._fitting(kind, problem, oracle, at)
            if tokens:
                return Planted(at, rng.choice(tokens), kind)
        return None

    def _fitting(self, kind: str, problem: Problem, oracle: Encoded, at: int) -> list[int]:
        """Tokens that make an error of this kind at this place."""
        names = self.scenario.vocabulary
        if kind == "stopped_early":
            return [names.ids[EOS]]
        environment = replay(self.scenario, problem, oracle, at)
        others = [token for token in range(1, len(names)) if token not in (oracle.ids[at], names.ids[EOS])]
        malformed = kind == "malformed_command"
        if kind == "past_budget":
            return others
        return [token for token in others if environment.allows(names.tokens[token]) != malformed]


class Misspelling(ScriptedModel):
    """Errs anywhere: one of its tokens, whichever, is any other token of the vocabulary."""

    def planted(self, problem: Problem, oracle: Encoded | None = None) -> Planted | None:
        rng = random.Random(f"{self.error_seed} {problem.key}")
        if rng.random() >= self.error_rate:
            return None
        oracle = self.scenario.encoded(problem) if oracle is None else oracle
        position = rng.choice([at for at, own in enumerate(oracle.own) if own])
        token = rng.choice([token for token in range(len(self.scenario.vocabulary)) if token != oracle.ids[position]])
        return Planted(position, token, "any")

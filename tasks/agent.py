"""Where solvers and models act: the environment both share, and the handle that records a solver."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from tasks.base import ANSWER, EOS, Role
from tasks.trajectory import Piece
from tools.base import Tool
from tools.solver import SOLVE

_THOUGHT, _COMMAND, _OBSERVATION, _OUTPUT = Role.THOUGHT, Role.COMMAND, Role.OBSERVATION, Role.OUTPUT
_OBSERVED = bytes([Role.OBSERVATION])
_NOTHING: tuple[str, ...] = ()


class Environment:
    """One problem and its tool, seen by whoever acts, solver or model alike.

    `[ANS]` ends the thoughts (it is itself one): from then on every token that is not a command is output.
    """

    def __init__(self, prompt: Sequence[str], tool: Tool) -> None:
        self.tool = tool
        self.answering = False
        self.done = False
        self.cut = False
        """The tool has come to the end of its own budget: nothing follows."""
        self.output: list[str] = []
        self.made = 0
        """Tokens acted so far."""
        self.observed = 0
        """Observation tokens that the tool gave so far."""
        tool.start(prompt)
        self._classify, self._feed = tool.classify, tool.feed

    @property
    def outcome(self) -> list[str]:
        """The output so far: what was written after `[ANS]`, or what the tool holds."""
        result = self.tool.result()
        return self.output if result is None else list(result)

    def allows(self, token: str) -> bool:
        """False if acting `token` now would be a malformed command."""
        return self.tool.allows(token)

    def act(self, token: str) -> tuple[Role, tuple[str, ...]]:
        """Take one token made by the solver or the model: its role, and the observation that follows it.

        Raises:
            RuntimeError: the trajectory has ended.
        """
        if self.done:
            raise RuntimeError(f"{token!r} after {EOS}: the trajectory has ended")
        self.made += 1
        if token == EOS:
            self.done = True
            return Role.END, _NOTHING
        kind = self._classify(token)
        observation = self._feed(token)
        self.cut = self.tool.over
        if kind is None:
            return self._ordinary(token), _NOTHING
        if kind == "observation":
            return _OBSERVATION, _NOTHING
        self.observed += len(observation)
        return _COMMAND, observation

    def _ordinary(self, token: str) -> Role:
        if self.answering:
            self.output.append(token)
            return _OUTPUT
        self.answering = token == ANSWER
        return _THOUGHT


class Agent:
    """The handle through which a solver acts; it records what happens, in pieces of `chunk` tokens if one is given.

    Pieces go to `emit` as soon as they are full, and nothing but the current one is kept.
    """

    def __init__(
        self, prompt: Sequence[str], tool: Tool, emit: Callable[[Piece], object], chunk: int | None = None
    ) -> None:
        self.environment = Environment(prompt, tool)
        self._act = self.environment.act
        self._tool, self._emit = tool, emit
        self._chunk = sys.maxsize if chunk is None else chunk
        self._tokens = list(prompt)
        self._roles = bytearray([Role.QUESTION]) * len(prompt)
        self._step = 0
        self._begins = {0: 0}
        self._phases = {0: "question"}
        self._cut()

    def step(self, name: str) -> None:
        """Begin the next solver step; the tokens that follow belong to it."""
        self._step += 1
        self._begins[self._step] = len(self._tokens)
        self._phases[self._step] = name

    def think(self, *tokens: str) -> None:
        """Make thoughts."""
        for token in tokens:
            self._make(token, _THOUGHT)

    def output(self, *tokens: str) -> None:
        """Make output, after `answer`."""
        for token in tokens:
            self._make(token, _OUTPUT)

    def answer(self) -> None:
        """End the thoughts: make `[ANS]`."""
        self._make(ANSWER, _THOUGHT)

    def command(self, *tokens: str) -> tuple[str, ...]:
        """Issue the tokens of commands; the observation of the last one."""
        observation = _NOTHING
        for token in tokens:
            role, observation = self._act(token)
            if role is not _COMMAND:
                raise RuntimeError(f"the solver commands {token!r}, which the tool takes for a {role.name.lower()}")
            self._tokens.append(token)
            self._roles.append(_COMMAND)
            if observation:
                self._tokens += observation
                self._roles += _OBSERVED * len(observation)
        if len(self._tokens) >= self._chunk:
            self._cut()
        return observation

    def say(self, *tokens: str) -> tuple[str, ...]:
        """Make tokens, whose roles the tool decides; the observation of the last one."""
        observation = _NOTHING
        for token in tokens:
            role, observation = self._act(token)
            self._tokens.append(token)
            self._roles.append(role)
            if observation:
                self._tokens += observation
                self._roles += _OBSERVED * len(observation)
        if len(self._tokens) >= self._chunk:
            self._cut()
        return observation

    @property
    def tool(self) -> Tool:
        return self._tool

    def finish(self) -> None:
        """End the trajectory and hand over the last piece; the solver's caller does this."""
        self._make(EOS, Role.END)
        if self._tokens:
            self._hand_over(len(self._tokens))

    def _make(self, token: str, intended: Role) -> None:
        role, _ = self._act(token)
        if role is not intended:
            wanted, got = intended.name.lower(), role.name.lower()
            raise RuntimeError(f"the solver makes {token!r} as a {wanted}, which here is a {got}")
        self._tokens.append(token)
        self._roles.append(role)
        if len(self._tokens) >= self._chunk:
            self._cut()

    def _cut(self) -> None:
        while len(self._tokens) >= self._chunk:
            self._hand_over(self._chunk)

    def _hand_over(self, size: int) -> None:
        """Emit the first `size` tokens; the rest belongs to the current step, which began before the cut."""
        piece = Piece(
            self._tokens[:size],
            self._roles[:size],
            self._begins,
            self._phases,
            self._tool.calls,
            self._tool.longest_walk,
        )
        self._begins = {self._step: 0}
        self._phases = {self._step: self._phases[self._step]}
        self._tokens, self._roles = self._tokens[size:], self._roles[size:]
        self._emit(piece)


def copy_solution(agent: Agent) -> None:
    """Solve by one call of the tool `solver`, its answer copied as the output (setting single_turn)."""
    agent.step("call")
    answer = agent.command(SOLVE)[:-1]
    agent.step("copy")
    agent.answer()
    agent.output(*answer)

"""A task, a setting and a tool bound together: what the model of one cell is trained on and acts in."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from greenlet import getcurrent, greenlet

from tasks import TASKS
from tasks.agent import Agent, Environment
from tasks.base import ANSWER, EOS, PAD, Problem, Role, Task
from tasks.problems import BLOCK, training_stream
from tasks.resolve import name_of, resolve, unknown
from tasks.trajectory import Encoded, Piece, Trajectory
from tasks.vocabulary import Vocabulary
from tools import TOOLS
from tools.base import Tool
from tools.corrupted import Corrupted
from tools.none import Imagined


class Scenario:
    """Binds a task to a setting and a tool; task and tool are names, import paths, classes, or a task's instance.

    Without a tool, the first one that the task admits in the setting is taken. `tool_options` go to the tool's
    constructor, on top of the task's own.

    Raises:
        ValueError: an unknown name, a pairing that the task does not admit, or an option the tool does not have.
    """

    def __init__(
        self,
        task: str | type[Task] | Task,
        setting: str,
        tool: str | type[Tool] | None = None,
        form: str = "faithful",
        tool_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.task = _as_task(task)
        self.setting, self.form = setting, form
        if setting not in self.task.settings:
            raise unknown(f"{self.task.name} setting", setting, self.task.settings)
        if form not in self.task.forms:
            raise unknown(f"{self.task.name} trajectory form", form, self.task.forms)
        self.tool_name = self._admitted(tool)
        recorded = self.task.settings["interactive"][0] if setting == "cot" else self.tool_name
        self._tool_class: type[Tool] = resolve("tool", recorded, TOOLS)
        parameters = inspect.signature(self._tool_class).parameters.values()
        known = {p.name: p.default for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        usual = {**known, **self.task.tool_options.get(recorded, {})}
        self.changed_options = {name: value for name, value in (tool_options or {}).items() if value != usual.get(name)}
        """The given tool options that differ from what the tool would have without them."""
        self.tool_options = {**self.task.tool_options.get(recorded, {}), **(tool_options or {})}
        for option in self.tool_options:
            if option not in known:
                raise unknown(f"{recorded} tool option", option, known)
        try:
            made = self.make_tool()
        except TypeError as error:
            raise ValueError(f"tool {recorded}: options {self.tool_options}: {error}") from error
        self.task.check_tool(made)

    def _admitted(self, tool: str | type[Tool] | None) -> str:
        admitted = self.task.settings[self.setting]
        if tool is None:
            return admitted[0]
        name = tool if isinstance(tool, str) else name_of(tool, TOOLS)
        if name not in admitted:
            resolve("tool", name, TOOLS)
            pairing = f"tool {name!r} with setting {self.setting!r} of task {self.task.name!r}"
            raise ValueError(f"impossible pairing: {pairing}; allowed there: {', '.join(admitted)}")
        return name

    @property
    def revisions(self) -> dict[str, Any]:
        """Revisions that decide the trajectories: of the task, and of the tool they are recorded with."""
        return {"task": self.task.revision, "tool": self._tool_class.revision}

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(tuple(dict.fromkeys(self.tokens())))

    def tokens(self) -> Iterator[str]:
        """Padding, end, answer mark, then the task's tokens, then what the tool adds; some come again."""
        yield from (PAD, EOS, ANSWER, *self.task.tokens, *self.make_tool().vocabulary())

    def make_tool(self) -> Tool:
        """A fresh tool that really answers (in cot: the one that the model has to imagine)."""
        return self._tool_class(**self.tool_options)

    def environment(self, problem: Problem, corrupt: float = 0.0) -> Environment:
        """What a model acts in; `corrupt`: probability with which a token of an observation is another than it was."""
        tool = self.make_tool()
        if self.setting == "cot":
            tool = Imagined(tool)
        if corrupt:
            tool = Corrupted(tool, corrupt, problem.key, self.task.tokens or tool.vocabulary())
        return Environment(problem.prompt, tool)

    def answer_tokens(self, problem: Problem) -> tuple[str, ...]:
        """The right output as this setting writes it."""
        answer = self.task.answer(problem)
        return answer[::-1] if self.setting == "direct_reversed" else answer

    def right(self, problem: Problem, output: Sequence[str]) -> bool:
        """Whether an output written as this setting writes it is right."""
        written = output[::-1] if self.setting == "direct_reversed" else output
        return self.task.judge(problem, written, self.make_tool())

    def training_block(
        self,
        max_length: int,
        data_seed: int,
        block: int,
        stress: Mapping[str, float] | None = None,
        count: int = BLOCK,
    ) -> list[tuple[Scenario, Problem]]:
        """Block number `block` of the training stream, each problem with the scenario it is to be recorded in.

        stress: stress set of the task -> its share of the problems; count: only the first so many of the block.
        """
        return [(self, problem) for problem in training_stream(self.task, max_length, data_seed, block, stress, count)]

    def record(self, problem: Problem) -> Trajectory:
        """The oracle trajectory: the solver run against the real tool."""
        return self._whole(problem).as_trajectory(self._own)

    def encoded(self, problem: Problem) -> Encoded:
        """The oracle trajectory as arrays, tokens as ids of `vocabulary`."""
        return self._whole(problem).as_arrays(self._own, self.vocabulary)

    def stream(self, problem: Problem, chunk: int) -> Iterator[Trajectory]:
        """The oracle trajectory in pieces of `chunk` tokens (the last one shorter), made as they are asked for.

        Memory holds a piece or two beside the tool's own. All pieces must be taken in the thread that took the first.
        """
        return (piece.as_trajectory(self._own) for piece in self._pieces(problem, chunk))

    def stream_encoded(self, problem: Problem, chunk: int) -> Iterator[Encoded]:
        """`stream`, as arrays."""
        return (piece.as_arrays(self._own, self.vocabulary) for piece in self._pieces(problem, chunk))

    @cached_property
    def _own(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        given = {Role.QUESTION} if self.setting == "cot" else {Role.QUESTION, Role.OBSERVATION}
        return np.array([role not in given for role in Role])

    def _whole(self, problem: Problem) -> Piece:
        recorded = self.task.recorded(problem) if self.setting == "interactive" else None
        if recorded is not None:
            return self._copied(problem, recorded)
        pieces: list[Piece] = []
        self._run(problem, Agent(problem.prompt, self.make_tool(), pieces.append))
        return pieces[0]

    def _copied(self, problem: Problem, recorded: Sequence[tuple[Role, str]]) -> Piece:
        """A recorded trajectory, every command a step."""
        encode = self.make_tool().encode  # type: ignore[attr-defined]  # recorded text is for tools of text
        tokens, roles, begins = list(problem.prompt), bytearray([Role.QUESTION]) * len(problem.prompt), {0: 0}
        before, calls = Role.OBSERVATION, 0
        for role, text in recorded:
            if before == Role.OBSERVATION:
                begins[len(begins)] = len(tokens)
            pieces = encode(text)
            tokens += pieces
            roles += bytes([role]) * len(pieces)
            before, calls = role, calls + (role == Role.OBSERVATION)
        tokens.append(EOS)
        roles.append(Role.END)
        phases = {step: "turn" if step else "question" for step in begins}
        return Piece(tokens, roles, begins, phases, calls, 0)

    def _pieces(self, problem: Problem, chunk: int) -> Iterator[Piece]:
        """Run the solver as a coroutine that hands over each piece, so that it stays a plain program."""
        if chunk < 1:
            raise ValueError(f"chunk = {chunk}, must be at least 1 token")

        def emit(piece: Piece) -> None:
            worker.parent.switch(piece)

        worker = greenlet(lambda: self._run(problem, Agent(problem.prompt, self.make_tool(), emit, chunk)))
        return _handed_over(worker)

    def _run(self, problem: Problem, agent: Agent) -> None:
        if self.setting in ("direct", "direct_reversed"):
            agent.step("answer")
            agent.answer()
            agent.output(*self.answer_tokens(problem))
        elif self.setting == "single_turn":
            self.task.call(problem, agent)
        else:
            solve = "solve" if self.form == "faithful" else f"solve_{self.form}"
            getattr(self.task, solve)(problem, agent)
        agent.finish()


def _handed_over(worker: greenlet) -> Iterator[Piece]:
    """What a coroutine hands over; dropping the iterator ends the coroutine."""
    try:
        while True:
            worker.parent = getcurrent()
            piece = worker.switch()
            if worker.dead:
                return
            yield piece
    finally:
        worker.parent = getcurrent()
        worker.throw()


def _as_task(task: str | type[Task] | Task) -> Task:
    if isinstance(task, Task):
        return task
    found = resolve("task", task, TASKS) if isinstance(task, str) else task
    if not issubclass(found, Task):
        raise ValueError(f"task {task!r} is not a subclass of tasks.base.Task")
    return found()

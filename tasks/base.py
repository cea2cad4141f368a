"""What a task is: problems, a solver that shows how to solve them with tools, and an independent check."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, ClassVar

from tasks import TASKS
from tasks.resolve import name_of, resolve

if TYPE_CHECKING:
    from tasks.agent import Agent
    from tools.base import Tool

PAD, EOS, ANSWER = "[PAD]", "[EOS]", "[ANS]"

SETTINGS = ("interactive", "single_turn", "cot", "direct", "direct_reversed")


class Role(IntEnum):
    """Who a token of a trajectory belongs to, and what for."""

    QUESTION = 0
    THOUGHT = 1
    COMMAND = 2
    OBSERVATION = 3
    OUTPUT = 4
    END = 5


@dataclass(frozen=True)
class Problem:
    """One instance of a task."""

    prompt: tuple[str, ...]
    answer: tuple[str, ...]
    length: int
    """Complexity, as the task counts it."""

    reserved: bool = False
    """Kept for evaluation whatever its hash says: a stress set stands or falls with it."""

    @cached_property
    def key(self) -> str:
        """Content hash: 32 hexadecimal digits of BLAKE2b over the prompt."""
        return blake2b("\n".join(self.prompt).encode(), digest_size=16).hexdigest()


Sampler = Callable[[random.Random, int], Problem]


class Task(ABC):
    """Subclass it in a file of its own; instances hold no state. See docs/add-a-task.md."""

    revision: ClassVar[int]
    """Raise it with every change of problems or trajectories: it is part of the identity of every result."""

    tokens: ClassVar[tuple[str, ...]]
    """Content vocabulary: what prompts, thoughts and outputs are written in."""

    settings: ClassVar[Mapping[str, tuple[str, ...]]]
    """Setting -> names of the tools it admits, the first being the default."""

    prompt_end: ClassVar[str]
    """The last token of every prompt, found nowhere else in one."""

    forms: ClassVar[tuple[str, ...]] = ("faithful",)
    """Trajectory forms; `faithful` is solved by `solve`, any other form `x` by `solve_x`."""

    oracle: ClassVar[bool] = True
    """Whether a right model's trajectory is the solver's. Without: the solver is only a measure of how many tokens a
    problem takes; training reads `recorded` trajectories, and evaluation is live and judges the output alone."""

    several_answers: ClassVar[bool] = False
    """Other outputs than `Problem.answer` may be right, too."""

    tool_options: ClassVar[Mapping[str, Mapping[str, object]]] = {}
    """Tool name -> the options the solver counts on."""

    @property
    def name(self) -> str:
        """Its name in the registry, else its import path."""
        return name_of(type(self), TASKS)

    def __reduce__(self) -> tuple[Callable[[str], Task], tuple[str]]:
        """Pickled by name: a task over the content of a file is a class that no module has as a plain attribute."""
        return _named, (self.name,)

    @property
    def stress(self) -> Mapping[str, Sampler]:
        """Stress sets: name -> sampler of hard problems of one length."""
        return {}

    @abstractmethod
    def sample(self, rng: random.Random, length: int) -> Problem:
        """A problem of exactly this length; `rng` is the only randomness."""

    def sample_training(self, rng: random.Random, max_length: int) -> Problem:
        """A problem as training sees it: lengths uniform in 1..max_length."""
        return self.sample(rng, rng.randint(1, max_length))

    @abstractmethod
    def parse(self, prompt: Sequence[str]) -> Problem:
        """The problem a prompt states.

        Raises:
            ValueError: the prompt is not one of this task.
        """

    @abstractmethod
    def solve(self, problem: Problem, agent: Agent) -> None:
        """Solve the problem from what `agent.command` shows, ending with the output (settings interactive and cot)."""

    def recorded(self, problem: Problem) -> Sequence[tuple[Role, str]] | None:
        """A trajectory of another agent, as pieces of text with their roles; None: the solver's own is taken."""
        return None

    def call(self, problem: Problem, agent: Agent) -> None:
        """Solve the problem with a single command (setting single_turn)."""
        raise NotImplementedError(f"{self.name} has no single-turn solver")

    @abstractmethod
    def check(self, problem: Problem, output: Sequence[str]) -> bool:
        """Whether `output` is right, decided without the solver."""

    def answer(self, problem: Problem) -> tuple[str, ...]:
        """The right output, for tasks that make it only when it is asked for; else it stands in the problem."""
        return problem.answer

    def judge(self, problem: Problem, output: Sequence[str], tool: Tool) -> bool:
        """`check`, for tasks whose output has to be run: `tool` is a fresh one like that which it came from."""
        return self.check(problem, output)

    def strict(self, problem: Problem, output: Sequence[str]) -> bool | None:
        """Whether an output is also right by a stricter measure of the task's own; None where there is none."""
        return None

    def check_tool(self, tool: Tool) -> None:  # noqa: B027  most solvers can work with every tool they admit
        """Whether the solver can work with a tool of these options.

        Raises:
            ValueError: it cannot.
        """

    def count(self, length: int) -> int | None:
        """Number of distinct problems `sample` can give at this length; None if unknown."""
        return None

    def work(self, problem: Problem) -> int | None:
        """Nodes of a graph that have to be visited, or the like; None where the length says it."""
        return None

    def chance(self, length: int) -> float | None:
        """Probability that the best answer given blindly to every random problem of a length is right.

        "Blindly" is knowing the length, and which kind of question is asked where there are several. None if unknown.
        """
        return None

    def covered(self, bits: float, length: int) -> float | None:
        """At most what share of the problems of `sample` at this length have one of the 2**bits likeliest answers.

        It must not rise with the length. None: not known. See `harness.bound`.
        """
        return None

    def trajectory_length(self, problem: Problem, form: str = "faithful") -> int | None:
        """Tokens of the interactive trajectory in a form, question included, where that has a closed form."""
        return None


def _named(name: str) -> Task:
    return resolve("task", name, TASKS)()

"""Runs of Turing machines on a tape (the construction behind Theorem 2.2, Malach et al., arXiv 2510.14826).

Machines are YAML files. Those in `tasks/machines` are attributes of this module by name; a user's own is one by its
path, so that `tasks.turing:PATH.yaml` names it wherever a task is named.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cache
from math import log2
from pathlib import Path
from typing import ClassVar

from tasks.agent import Agent
from tasks.base import Problem, Sampler, Task
from tasks.digits import share
from tasks.machine import INJECTIVE, Machine
from tasks.machine_file import read_machine
from tasks.problems import commonest
from tasks.words import Words
from tools.base import END
from tools.tape import READ, RIGHT, WRITE

MACHINES = Path(__file__).parent / "machines"


class TuringMachine(Task):
    """The run of a machine on an input; the length is the number of symbols of the input.

    The question is the input followed by one blank, `[END]`: the tape, with the head on the first symbol. A thought
    names the state. One step of the machine is read, write, move, and the next state as a thought. In a halting state
    `[ANS]` follows, then the answer is read from the tape and copied: from the head rightwards to the first blank
    (`answer: word`), or the one symbol under the head (`answer: symbol`).

    `11 + 1` worked by hand, by the machine `increment` in the setting interactive:

    >>> from tasks.scenario import Scenario
    >>> scenario = Scenario("increment", "interactive")
    >>> trajectory = scenario.record(scenario.task.problem("11"))
    >>> lines = {}
    >>> for token, role, step in zip(trajectory.tokens, trajectory.roles, trajectory.steps):
    ...     given = role.name in ("QUESTION", "OBSERVATION")
    ...     lines.setdefault(step, []).append(f"<{token}>" if given else token)
    >>> for step, line in lines.items():
    ...     print(f"{trajectory.phases[step]:8}", *line)
    question <1> <1> <[END]>
    start    right
    right    [READ] <1> [WRITE] 1 [RIGHT] right
    right    [READ] <1> [WRITE] 1 [RIGHT] right
    right    [READ] <[END]> [WRITE] [END] [LEFT] carry
    carry    [READ] <1> [WRITE] 0 [LEFT] carry
    carry    [READ] <1> [WRITE] 0 [LEFT] carry
    carry    [READ] <[END]> [WRITE] 1 [LEFT] rewind
    rewind   [READ] <[END]> [WRITE] [END] [RIGHT] done
    copy     [ANS] [READ] <1> 1 [RIGHT]
    copy     [READ] <0> 0 [RIGHT]
    copy     [READ] <0> 0 [RIGHT]
    copy     [READ] <[END]> [EOS]

    The paper leaves the order within a step open. The state comes last, right before the next read, so that the six
    tokens back to the state decide every token: `carry [READ] <1>` is the (state, symbol) of the theorem's lookup.
    """

    machine: ClassVar[Machine]
    prompt_end: ClassVar[str] = END

    @property
    def stress(self) -> Mapping[str, Sampler]:
        return {name: self._sampler(words) for name, words in self.machine.stress.items()}

    def _sampler(self, words: Words) -> Sampler:
        return lambda rng, length: self.problem(words.draw(rng, length))

    def problem(self, word: Sequence[str]) -> Problem:
        """The problem with this input."""
        return Problem((*word, END), self.machine.result(word), len(word))

    def sample(self, rng: random.Random, length: int) -> Problem:
        return self.problem(self.machine.inputs.draw(rng, length))

    def parse(self, prompt: Sequence[str]) -> Problem:
        word, end = prompt[:-1], list(prompt[-1:])
        languages = (self.machine.inputs, *self.machine.stress.values())
        if end != [END] or not word or not any(words.holds(word) for words in languages):
            example = self.machine.inputs.draw(random.Random(0), 4)
            shown = " ".join((*example, END))
            raise ValueError(f"{self.name}: {' '.join(prompt)[:80]!r} is not a prompt like {shown!r}")
        return self.problem(word)

    def solve(self, problem: Problem, agent: Agent) -> None:
        machine, command, think = self.machine, agent.command, agent.think
        table, halt, state = machine.table, machine.halt, machine.start
        agent.step("start")
        think(state)
        while state not in halt:
            agent.step(state)
            write, move, state = table[state, command(READ)[0]]
            command(WRITE, write, move)
            think(state)
        _copy(agent, machine.answer == "word")

    def check(self, problem: Problem, output: Sequence[str]) -> bool:
        """By the plain Python of the machine's checker; without one, by running the table without the tool."""
        return tuple(output) == self.machine.result(problem.prompt[:-1])

    def count(self, length: int) -> int | None:
        return self.machine.inputs.count(length)

    def chance(self, length: int) -> float | None:
        """Estimated, for answers of one symbol; None for words."""
        return commonest(self, length) if self.machine.answer == "symbol" else None

    def covered(self, bits: float, length: int) -> float | None:
        """Known for answers of one symbol, and for machines that give every input an answer of its own."""
        if self.machine.answer == "symbol":
            return share(bits, log2(len(self.machine.alphabet) + 1))
        likeliest = self.machine.inputs.likeliest_bits(length) if self.machine.checker in INJECTIVE else None
        return None if likeliest is None else share(bits, likeliest)

    def trajectory_length(self, problem: Problem, form: str = "faithful") -> int:
        """6 tokens a step of the machine, 4 for each symbol of the answer, and 2 or (for a word) 5 beside them."""
        steps, answer = self.machine.run(problem.prompt[:-1])
        ends = 5 if self.machine.answer == "word" else 2
        return len(problem.prompt) + 6 * steps + 4 * len(answer) + ends


def _copy(agent: Agent, whole_word: bool) -> None:
    """Copy the symbol under the head, or all from there to the first blank."""
    agent.step("copy")
    agent.answer()
    (symbol,) = agent.command(READ)
    if not whole_word:
        agent.output(symbol)
        return
    while symbol != END:
        agent.output(symbol)
        agent.command(RIGHT)
        agent.step("copy")
        (symbol,) = agent.command(READ)


def __getattr__(name: str) -> type[TuringMachine]:
    """The task of a machine: one of ours by name, or a user's by the path of its YAML file.

    Raises:
        AttributeError: neither of the two.
        ValueError: a bad file.
    """
    if name.endswith((".yaml", ".yml")):
        return _task(name, Path(name).absolute())
    if name in (ours := {path.stem: path for path in MACHINES.glob("*.yaml")}):
        return _task(name, ours[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r} (machines: {', '.join(sorted(ours))})")


@cache
def _task(name: str, path: Path) -> type[TuringMachine]:
    machine = read_machine(path)
    settings = {"interactive": ("tape",), "cot": ("none",), "direct": ("none",)}
    if machine.answer == "word":
        settings["direct_reversed"] = ("none",)
    members = {
        "__module__": __name__,
        "__qualname__": name,
        "__doc__": machine.about,
        "machine": machine,
        "revision": machine.revision,
        "tokens": (*machine.alphabet, END, *machine.states),
        "settings": settings,
    }
    return type(name, (TuringMachine,), members)

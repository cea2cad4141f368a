"""Repair a growing code base through a shell: pass a variable to where it is needed, along every path."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import ClassVar
from zlib import crc32

from tasks.agent import Agent
from tasks.base import Problem, Role, Task
from tools.base import Tool
from tools.sandbox import Backend
from tools.shell import CLOSE, OPEN, Shell
from tools.text import read, spelled
from tools.virtual_shell import VirtualShell

BUG, GOAL, MAIN = "v10", "foo", "main"
NAMES = 1000
"""Functions are named f0 .. f999; larger code bases take further numbers."""
AT_ONCE = 3
"""Files that the interactive solver repairs after a run."""

TOLD = (
    "The program main.py stops with an error: foo prints the variable v10, which is declared in main.py and not known "
    "in foo. Hand v10 on as an argument along every path of calls from main.py to foo: every function on a path must "
    "take v10 as a parameter and pass it to those it calls that need it. Every function is in the file of its name. "
    "Change nothing else."
)
"""The bug, and how to repair it, for an agent that was not trained on it."""

RUN = "python main.py 2>&1 >/dev/null | tail -n 7"
PRINT = "cat *.py"

_QUESTION = re.compile(r"Fix ([1-9]\d*)-([0-9a-f]{12})\n")
_FRAME = re.compile(r'  File "/work/(\w+)\.py", line \d+, in (\S+)\n    (.*)\n')
_CALL = re.compile(r"(\w+)\(")


@dataclass(frozen=True)
class Function:
    """A file of the code base: what `name` declares, prints and calls. `main` is no function but the program."""

    name: str
    parameters: tuple[str, ...]
    declared: tuple[tuple[str, int], ...]
    lines: tuple[tuple[str, tuple[str, ...]], ...]
    """What is called (or `print`), and with which variables, in order."""


CodeBase = Mapping[str, Function]
"""Name -> function, callers before those they call."""


@lru_cache(1 << 8)
def code_base(question: str) -> CodeBase:
    """The code base that a question names; a function of its text alone."""
    match = _QUESTION.fullmatch(question)
    assert match is not None
    count, rng = int(match[1]), random.Random(question)
    names = [f"f{number}" for number in rng.sample(range(max(NAMES, 2 * count)), count - 1)]
    order = [MAIN, *names, GOAL]
    calls: dict[str, list[str]] = {name: [] for name in order}
    for at, name in enumerate(names, 1):
        for caller in rng.sample(order[:at], min(at, 1 + (rng.random() < 0.5))):
            calls[caller].append(name)
    for caller in rng.sample(order[:-1], min(count, 1 + count // 8)):
        calls[caller].append(GOAL)
    variables = [f"v{number}" for number in range(10)]
    takes = {name: tuple(rng.sample(variables, rng.randint(1, 3))) if name != MAIN else () for name in order}
    return {name: _function(rng, name, takes, calls[name], variables) for name in order}


def _function(
    rng: random.Random, name: str, takes: Mapping[str, tuple[str, ...]], calls: Sequence[str], variables: Sequence[str]
) -> Function:
    parameters = takes[name]
    free = [variable for variable in variables if variable not in parameters]
    declared = [(variable, rng.randrange(100)) for variable in rng.sample(free, rng.randint(name == MAIN, 2))]
    known = [*parameters, *(variable for variable, _ in declared)]
    if name == MAIN:
        declared.insert(rng.randint(0, len(declared)), (BUG, rng.randrange(100)))
    lines: list[tuple[str, tuple[str, ...]]] = [
        ("print", (rng.choice(known),)) for _ in range(rng.randint(not calls, 2))
    ]
    lines += [(called, tuple(rng.choices(known, k=len(takes[called])))) for called in calls]
    if name == GOAL:
        lines.append(("print", (BUG,)))
    rng.shuffle(lines)
    return Function(name, parameters, tuple(declared), tuple(lines))


@lru_cache(1 << 8)
def needing(question: str) -> frozenset[str]:
    """The functions on paths from main to foo, both included: all that have to hand v10 on."""
    found = {GOAL}
    for name, function in reversed(list(code_base(question).items())):
        if any(called in found for called, _ in function.lines):
            found.add(name)
    return frozenset(found)


def written(question: str, repaired: bool = False) -> dict[str, str]:
    """The files of a code base as it is, or with v10 handed on as the first argument of all that need it."""
    needed = needing(question) if repaired else frozenset()
    return {f"{name}.py": _source(function, needed) for name, function in code_base(question).items()}


def _source(function: Function, needed: frozenset[str]) -> str:
    def listed(name: str, variables: Sequence[str]) -> str:
        return ", ".join([BUG, *variables] if name in needed else variables)

    called = dict.fromkeys(name for name, _ in function.lines if name != "print")
    text = "".join(f"from {name} import {name}\n" for name in called) + "\n" * bool(called)
    indent = ""
    if function.name != MAIN:
        text += f"def {function.name}({listed(function.name, function.parameters)}):\n"
        indent = "    "
    text += "".join(f"{indent}{name} = {value}\n" for name, value in function.declared)
    return text + "".join(f"{indent}{name}({listed(name, variables)})\n" for name, variables in function.lines)


def printed(question: str) -> str:
    """What the repaired program has to print: the calls followed through the graph, without any program."""
    base, lines = code_base(question), []
    bug = dict(base[MAIN].declared)[BUG]
    # Depth first; a frame holds what is left to do of a function, and its variables.
    stack = [(iter(base[MAIN].lines), {**dict(base[MAIN].declared)})]
    while stack:
        left, known = stack[-1]
        for name, variables in left:
            values = [bug if variable == BUG else known[variable] for variable in variables]
            if name != "print":
                called = base[name]
                stack.append((iter(called.lines), {**dict(zip(called.parameters, values)), **dict(called.declared)}))
                break
            lines.append(f"{values[0]}\n")
        else:
            stack.pop()
    return "".join(lines)


def _given(prompt: Sequence[str]) -> dict[str, str]:
    return written(read(prompt))


class CodeFix(Task):
    """Hand `v10` from main to foo along every path of calls; the length is the number of functions beside main.

    Every function has a file of its own. `v10` is declared in main.py and used in foo.py, but handed on by nobody: the
    program stops with an error. The question names the code base, which is made from that name; its files are read and
    changed through a shell. Every function has one or two callers, foo one and one more for every eight functions. The
    output is the files: right if the program then runs and prints what it should; `strict` if besides nothing was
    changed that did not have to be.

    Interactive: run; repair up to three of the files that the last lines of the traceback name; run again; until
    nothing is said. A single turn is one look at everything, and then all the repairs.

    >>> from tasks.scenario import Scenario
    >>> scenario = Scenario("code_fix", "interactive", tool_options={"tokens": "bytes"})
    >>> print(read(scenario.record(scenario.task.problem(2, "00000000000b")).tokens[:-1]))  # doctest: +ELLIPSIS
    Fix 2-00000000000b
    ```bash
    python main.py 2>&1 >/dev/null | tail -n 7
    ```
    <returncode>0</returncode>
    <output>
    ...
    NameError: name 'v10' is not defined...
    </output>
    ```bash
    sed -Ei 's/(def foo)\\((v.\\b)/\\1(v10, \\2/' foo.py
    ...
    ```
    <returncode>0</returncode>
    <output>
    </output>
    ...
    """

    revision: ClassVar[int] = 1
    tokens: ClassVar[tuple[str, ...]] = ()
    prompt_end: ClassVar[str] = spelled("\n")
    settings: ClassVar[Mapping[str, tuple[str, ...]]] = {"interactive": ("shell",), "single_turn": ("shell",)}
    several_answers: ClassVar[bool] = True
    tool_options: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "shell": {"files": _given, "backend": "virtual", "output_chars": 1 << 20}
    }

    def problem(self, length: int, name: str) -> Problem:
        """The code base of so many functions beside main, called `name` (12 hexadecimal digits)."""
        return self.parse(tuple(spelled(f"Fix {length}-{name}\n")))

    def sample(self, rng: random.Random, length: int) -> Problem:
        return Problem(tuple(spelled(f"Fix {length}-{rng.getrandbits(48):012x}\n")), (), length)

    def parse(self, prompt: Sequence[str]) -> Problem:
        match = _QUESTION.fullmatch(read(prompt))
        if match is None or tuple(prompt) != tuple(spelled(match[0])):
            raise ValueError(f"code_fix: {read(prompt)[:80]!r} is not a prompt like 'Fix 16-00c0ffee0000'")
        return Problem(tuple(prompt), (), int(match[1]))

    def answer(self, problem: Problem) -> tuple[str, ...]:
        repaired = written(read(problem.prompt), repaired=True)
        return tuple(f"{name}\n{text}" for name, text in sorted(repaired.items()))

    def solve(self, problem: Problem, agent: Agent) -> None:
        while True:
            agent.step("run")
            frames = _FRAME.findall(_command(agent, RUN))
            repairs = [repair for frame in frames[::-1][:AT_ONCE] for repair in _repaired(*frame)]
            if not repairs:
                return
            agent.step("repair")
            _command(agent, "\n".join(repairs))

    def call(self, problem: Problem, agent: Agent) -> None:
        agent.step("read")
        defined: dict[str, list[str]] = {}
        calls: list[str] = []
        for line in _command(agent, PRINT).split("\n"):
            if line.startswith("def "):
                calls = defined[_CALL.findall(line)[0]] = []
            elif line.startswith("from ") and GOAL in defined and MAIN not in defined:  # its file is the next
                calls = defined[MAIN] = []
            elif found := _CALL.match(line.strip()):
                calls.append(found[1])
        agent.step("repair")
        needed, before = {GOAL}, set[str]()
        while needed != before:
            before = set(needed)
            needed |= {name for name, called in defined.items() if needed & set(called)}
        lines = []
        for name, called in defined.items():
            if name in needed:
                own = [] if name == MAIN else [f"def {name}"]
                lines.append(_sed([*own, *(each for each in called if each in needed)], name))
        _command(agent, "\n".join(lines))

    def check(self, problem: Problem, output: Sequence[str], backend: Backend | None = None) -> bool:
        """Run the files: whether the program ends well and prints what it should. backend: where (None: virtual)."""
        files = _files(output)
        if files is None:
            return False
        ran = (backend or VirtualShell()).run(files, "python main.py")
        return ran.status == 0 and ran.output == printed(read(problem.prompt)).encode()

    def judge(self, problem: Problem, output: Sequence[str], tool: Tool) -> bool:
        """In the sandbox that the commands ran in."""
        return self.check(problem, output, tool.backend if isinstance(tool, Shell) else None)

    def strict(self, problem: Problem, output: Sequence[str]) -> bool:
        """Whether the files differ from the broken ones by v10 alone, where it is needed, once in each place."""
        question, files = read(problem.prompt), _files(output)
        before, after = written(question), written(question, repaired=True)
        if files is None or files.keys() != before.keys():
            return False
        return all(_same(files[name].decode("utf-8", "replace"), before[name], after[name]) for name in before)

    def check_tool(self, tool: Tool) -> None:
        if not isinstance(tool, Shell):
            raise ValueError(f"code_fix: needs the tool shell, not {type(tool).__name__}")

    def work(self, problem: Problem) -> int:
        """Files that have to be changed."""
        return len(needing(read(problem.prompt)))


class Recorded(CodeFix):
    """`code_fix` as it is learnt from trajectories of another agent, which a file of `lengthwise collect` holds.

    Nobody else repairs in quite that way, so models are judged by what they leave alone.
    """

    oracle = False
    settings: ClassVar[Mapping[str, tuple[str, ...]]] = {"interactive": ("shell",)}
    tool_options: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "shell": {**CodeFix.tool_options["shell"], "backend": "bubblewrap", "output_chars": 10_000}
    }
    held: ClassVar[Mapping[str, Sequence[tuple[Role, str]]]] = {}
    """Question -> trajectory."""

    def sample_training(self, rng: random.Random, max_length: int) -> Problem:
        within = _within(type(self), max_length)
        if not within:
            raise ValueError(f"{self.name}: no trajectory of at most {max_length} functions")
        return rng.choice(within)

    def recorded(self, problem: Problem) -> Sequence[tuple[Role, str]] | None:
        return self.held.get(read(problem.prompt))


@cache
def _within(task: type[Recorded], max_length: int) -> list[Problem]:
    problems = (task().parse(tuple(spelled(question))) for question in task.held)
    return [problem for problem in problems if problem.length <= max_length]


def __getattr__(name: str) -> type[Recorded]:
    """The task learnt from the trajectories of a file, by its path.

    Raises:
        AttributeError: not the path of a JSONL file.
        ValueError: a bad file.
    """
    if name.endswith(".jsonl"):
        return _recorded(name, Path(name).absolute())
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r} (a file of trajectories is named `PATH.jsonl`)"
    )


@cache
def _recorded(name: str, path: Path) -> type[Recorded]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{name}: cannot be read ({error})") from error
    held: dict[str, Sequence[tuple[Role, str]]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            entry = json.loads(line)
            pieces = [(Role[role.upper()], str(said)) for role, said in entry["pieces"]]
            held[read(Recorded().parse(tuple(spelled(entry["question"]))).prompt)] = pieces
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{name}, line {number}: not a trajectory as `lengthwise collect` writes it") from error
    if not held:
        raise ValueError(f"{name}: no trajectory in it")
    revision = CodeFix.revision << 32 | crc32(text.encode())
    return type(name, (Recorded,), {"__module__": __name__, "__qualname__": name, "held": held, "revision": revision})


def _command(agent: Agent, command: str) -> str:
    """Give a command; what is shown of it."""
    shell = agent.tool
    assert isinstance(shell, Shell)
    return read(agent.say(*shell.encode(f"{OPEN}{command}{CLOSE}")))


def _repaired(file: str, function: str, line: str) -> list[str]:
    """The command, if any, for a file of the traceback: its own function takes v10, and hands it on in that line."""
    places = [] if function == "<module>" else [f"def {function}"]
    called = _CALL.match(line)
    if called and called[1] != "print" and f"({BUG}" not in line:
        places.append(called[1])
    return [_sed(places, file)] if places else []


def _sed(places: Sequence[str], file: str) -> str:
    """Hand v10 on as the first argument, where that is not done yet (`v.` is not followed by a digit)."""
    return rf"sed -Ei 's/({'|'.join(places)})\((v.\b)/\1({BUG}, \2/' {file}.py"


def _files(output: Sequence[str]) -> dict[str, bytes] | None:
    """The files an output states; None where it states none."""
    split = [each.partition("\n") for each in output]
    if not all(newline and name for name, newline, _ in split):
        return None
    return {name: text.encode() for name, _, text in split}


def _same(found: str, before: str, after: str) -> bool:
    lines = [text.split("\n") for text in (found, before, after)]
    if len({len(each) for each in lines}) > 1:
        return False
    for mine, old, new in zip(*lines):
        if old == new and mine != old:
            return False
        bare = re.sub(rf"\b{BUG}, |, {BUG}\b", "", mine, count=1)
        if old != new and (bare != old or mine == old):
            return False
    return True

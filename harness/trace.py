"""A trajectory on the terminal: tokens coloured by role, memory and pointers after every solver step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from rich.console import Console
from rich.text import Text

from harness.beside import follow
from tasks.base import Problem, Role
from tasks.scenario import Scenario
from tasks.trajectory import Trajectory
from tools.base import Snapshot

STYLES = {
    Role.QUESTION: "bold",
    Role.THOUGHT: "yellow",
    Role.COMMAND: "cyan",
    Role.OBSERVATION: "magenta",
    Role.OUTPUT: "bold green",
    Role.END: "bold red",
}

_MOST_TOKENS = 72
"""Tokens of a solver step that are shown; of longer ones the middle is left out."""

_AROUND = 3
"""Cells shown on each side of a pointer in a long memory."""

_SHORT_MEMORY = 40
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def notation(trajectory: Trajectory) -> str:
    """Tokens joined by spaces, questions and observations in angle brackets: `<^> <5> <=> r1 <^> R1`."""
    return " ".join(map(_marked, trajectory.tokens, trajectory.roles))


def trace(scenario: Scenario, problem: Problem, console: Console) -> None:
    """Print the oracle trajectory of a problem, one solver step after another; plain text off a terminal."""
    trajectory = scenario.record(problem)
    _print(console, _headline(scenario, trajectory))
    _print(console, _legend(trajectory))
    shown = Snapshot((), {})
    for step, start, stop, snapshot in _replay(scenario, problem, trajectory):
        phase = trajectory.phases[step]
        _print(console, Text.assemble((f"\n{step:>4} {phase:<8} ", "bold"), _tokens(trajectory, start, stop)))
        if snapshot != shown:
            _print(console, Text.assemble(" " * 14, _memory(snapshot)))
            shown = snapshot
    right = scenario.answer_tokens(problem)
    _print(console, Text(f"\nanswer {' '.join(right)}", style="bold green"))


def _print(console: Console, text: Text) -> None:
    console.print(text, soft_wrap=not console.is_terminal)


def _headline(scenario: Scenario, trajectory: Trajectory) -> Text:
    what = f"{scenario.task.name}, setting {scenario.setting}, tool {scenario.tool_name}"
    size = f"{len(trajectory.tokens):,} tokens, {sum(trajectory.own):,} of them the model's own"
    work = f"{trajectory.calls:,} tool calls, longest walk {trajectory.longest_walk:,}"
    return Text(f"{what}: {size}; {work}")


def _legend(trajectory: Trajectory) -> Text:
    present = [role for role in Role if role in set(trajectory.roles)]
    legend = Text(" ").join(Text(role.name.lower(), style=STYLES[role]) for role in present)
    return legend.append("   <given: question, observations>   cell¹ = pointer 1 stands there", style="dim")


def _replay(scenario: Scenario, problem: Problem, trajectory: Trajectory) -> Iterator[tuple[int, int, int, Snapshot]]:
    """Solver step, offsets of its first token and past its last, and the tool's state after it."""
    environment = scenario.environment(problem)
    asked = len(problem.prompt)
    happening = follow(environment, trajectory.tokens[asked:])
    stop = 0
    for step, group in groupby(trajectory.steps):
        start, stop = stop, stop + len(list(group))
        for _ in range(max(start, asked), stop):
            next(happening)
        yield step, start, stop, environment.tool.snapshot()


def _tokens(trajectory: Trajectory, start: int, stop: int) -> Text:
    left_out = stop - start - _MOST_TOKENS
    half = _MOST_TOKENS // 2
    spans = [(start, stop)] if left_out <= 0 else [(start, start + half), (stop - half, stop)]
    parts = [
        Text(" ").join(
            Text(_marked(token, role), style=STYLES[role])
            for token, role in zip(trajectory.tokens[first:last], trajectory.roles[first:last], strict=True)
        )
        for first, last in spans
    ]
    return Text.assemble((f" … {left_out} more … ", "dim")).join(parts)


def _memory(snapshot: Snapshot) -> Text:
    """Cells with superscript pointer numbers; long memories only around the pointers and at the end."""
    marks: dict[int, str] = {}
    for name, cell in snapshot.pointers.items():
        mark = name.translate(_SUPERSCRIPTS)
        marks[cell] = f"{marks[cell]}·{mark}" if cell in marks else mark
    cells = (*snapshot.memory, *("▫" for _ in range(max(marks, default=-1) + 1 - len(snapshot.memory))))
    text = Text.assemble(("memory ", "dim"))
    previous = -1
    for cell in _visible(len(cells), marks):
        text.append(" " if cell == previous + 1 else " … ")
        text.append(cells[cell], style="reverse" if cell in marks else "").append(marks.get(cell, ""), style="bold")
        previous = cell
    return text


def _visible(size: int, marks: Iterable[int]) -> list[int]:
    if size <= _SHORT_MEMORY:
        return list(range(size))
    centres = (*marks, size - 1)
    return [cell for cell in range(size) if any(abs(cell - centre) <= _AROUND for centre in centres)]


def _marked(token: str, role: Role) -> str:
    return f"<{token}>" if role in (Role.QUESTION, Role.OBSERVATION) else token

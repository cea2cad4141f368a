"""How a grid is coming along, on the terminal: a live table, or a plain line now and then when nobody watches."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.grid import Resolved

PLAIN_SECONDS = 10.0
SHOWN = 12
"""Running cells listed at most."""


@dataclass
class Running:
    """The last that was heard of a cell being worked on."""

    name: str
    event: dict[str, Any] = field(default_factory=dict)
    began: float = 0.0
    """When the first event of its present phase came, and how far it was then."""
    began_at: int = 0

    def hear(self, event: dict[str, Any], at: float) -> None:
        if event["phase"] != self.event.get("phase"):
            self.began, self.began_at = at, _position(event)[0]
        self.event = event

    def phase(self) -> str:
        return str(self.event.get("phase", "starting"))

    def done(self) -> str:
        at, total = _position(self.event)
        unit = "step" if self.phase() == "training" else "point"
        return f"{unit} {at}/{total}" if total else ""

    def detail(self) -> str:
        """The loss while training, the last finished point while evaluating."""
        if self.phase() == "training":
            return f"loss {self.event['loss']:.4g}"
        point = self.event.get("point")
        if not point:
            return ""
        exact = point.get("exact") if point.get("exact") is not None else point.get("answer_right")
        return f"length {point['length']}: {exact:.0%}" if exact is not None else f"length {point['length']}"

    def share(self) -> float:
        """How much of the cell is done: training counts for a half, evaluation for the other."""
        at, total = _position(self.event)
        part = at / total if total else 0.0
        return 0.5 * part if self.phase() == "training" else 0.5 + 0.5 * part if total else 0.0

    def left(self, at: float) -> float | None:
        """Seconds of training left at its speed so far; points differ too much in cost to say."""
        step, steps = _position(self.event)
        if self.phase() != "training" or step <= self.began_at:
            return None
        return (steps - step) * (at - self.began) / (step - self.began_at)


def _position(event: dict[str, Any]) -> tuple[int, int]:
    if event.get("phase") == "training":
        return event["step"], event["steps"]
    return event.get("points_done", 0), event.get("points", 0)


class Progress:
    """Counts and shows. Use it as a context; `tick` often."""

    def __init__(self, console: Console, todo: int, already_done: int) -> None:
        self.console, self.todo, self.already_done = console, todo, already_done
        self.done = self.failed = 0
        self.running: dict[str, Running] = {}
        self.start = self.spoken = time.monotonic()
        self.live = Live(console=console, get_renderable=self.render, refresh_per_second=2, transient=True)

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.console.is_terminal:
            self.live.stop()
        self.console.print(self.summary(), soft_wrap=True, markup=False, highlight=False)

    def say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)

    def started(self, cell: Resolved) -> None:
        self.running[cell.id] = Running(cell.name)

    def heard(self, event: dict[str, Any]) -> None:
        """Events of cells no longer running come late and do not count."""
        if event["cell"] in self.running:
            self.running[event["cell"]].hear(event, time.monotonic())

    def ended(self, cell: Resolved, outcome: str) -> None:
        """`outcome`: done or failed for good, else the cell waits again."""
        self.running.pop(cell.id, None)
        self.done += outcome == "done"
        self.failed += outcome == "failed"

    def tick(self) -> None:
        if not self.console.is_terminal and time.monotonic() - self.spoken >= PLAIN_SECONDS:
            self.spoken = time.monotonic()
            self.say("; ".join([self.summary(), *self._listed()]))

    def summary(self) -> str:
        waiting = self.todo - self.done - self.failed - len(self.running)
        counts = [f"{self.already_done + self.done} done", f"{len(self.running)} running", f"{waiting} waiting"]
        counts += [f"{self.failed} failed"] if self.failed else []
        left = self.left()
        about = f", about {clock(left)} left" if left is not None else ""
        return f"{clock(time.monotonic() - self.start)} cells: {', '.join(counts)}{about}"

    def left(self) -> float | None:
        """Seconds left if the other cells take as long as those so far."""
        share = self.done + self.failed + sum(running.share() for running in self.running.values())
        if share < 0.05 or share >= self.todo:
            return None
        return (time.monotonic() - self.start) * (self.todo - share) / share

    def _listed(self) -> Iterable[str]:
        shown = list(self.running.values())[:SHOWN]
        for running in shown:
            yield " ".join(part for part in (running.name, running.phase(), running.done(), running.detail()) if part)
        if len(self.running) > SHOWN:
            yield f"and {len(self.running) - SHOWN} more"

    def render(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for column in ("cell", "phase", "done", "", "left"):
            table.add_column(column, no_wrap=True)
        for running in list(self.running.values())[:SHOWN]:
            left = running.left(time.monotonic())
            cells = (running.name, running.phase(), running.done(), running.detail(), clock(left))
            table.add_row(*(Text(cell) for cell in cells))
        more = [Text(f"and {len(self.running) - SHOWN} more")] if len(self.running) > SHOWN else []
        return Group(Text(self.summary()), table, *more)


def clock(seconds: float | None) -> str:
    """Seconds as 4:05 or 1:02:03; nothing for None."""
    if seconds is None:
        return ""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"

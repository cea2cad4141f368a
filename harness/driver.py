"""Drives a grid on Ray: hands out cells to a pool of worker actors, counts attempts, replaces what is lost."""

from __future__ import annotations

import os
import secrets
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from harness.cluster import Shape, Stop, catching, cluster, room, with_gpus
from harness.config import Run
from harness.errors import UserError, one_line
from harness.grid import Grid, Resolved
from harness.progress import Progress
from harness.store import Store
from harness.work import Missing, missing, run_cell
from harness.worker import BoardActor, Carry, Ended, WorkerActor, now, out_of_memory

if TYPE_CHECKING:
    from harness.tracking import Tracker

POLL_SECONDS = 0.2
LOOK_SECONDS = 10.0
"""How often the cluster is asked how many workers it has room for."""
STOP_SECONDS = 30.0
"""How long running cells may take to save what they have when asked to stop."""
PAUSE_SECONDS = 2.0
"""No new worker for so long after one could not start."""
SMALLER = 2
"""Times a cell that runs out of memory is tried with smaller pieces alone."""


@dataclass
class Outcome:
    """How a grid ended."""

    done: int = 0
    """Cells that are finished, those of earlier runs included."""
    failed: dict[str, str] = field(default_factory=dict)
    """`ID (name)` of a cell -> why its last attempt failed."""
    stopped: int = 0
    """Cells left unfinished because the run was asked to stop."""


@dataclass
class Tries:
    """Attempts that ended badly: by an error of their own, for want of memory, and with a worker or node lost."""

    failed: int = 0
    memory: int = 0
    lost: int = 0

    def spent(self, ended: Ended, run: Run) -> bool:
        """Count one more; whether it was the last one allowed."""
        if ended.memory:
            self.memory += 1
            return self.memory >= run.memory_attempts
        if ended.outcome == "lost":
            self.lost += 1
            return self.lost >= run.lost_attempts
        self.failed += 1
        return ended.final or self.failed >= run.attempts


@dataclass
class Task:
    cell: Resolved
    run: Run
    """How the next attempt is carried out."""
    tries: Tries = field(default_factory=Tries)

    @property
    def shape(self) -> Shape:
        return Shape.of(self.run)

    def need_less(self) -> None:
        """After running out of memory: smaller pieces at first, then a larger share of a GPU."""
        changes: dict[str, Any] = {"pieces": 2 * self.run.pieces}
        if self.tries.memory > SMALLER and self.run.gpus:
            changes["gpus"] = min(1.0, 2 * self.run.gpus) if self.run.gpus < 1 else self.run.gpus
        self.run = self.run.model_copy(update=changes)


@dataclass
class Slot:
    """A worker and what it is doing."""

    worker: Any
    shape: Shape
    answer: Any
    """What Ray will answer with: that the worker is ready, or how its cell ended. None: the worker is idle."""
    task: Task | None = None
    """None while it starts, or is idle."""
    attempt: str = ""
    began: float = 0.0
    """When the attempt did, on this machine's monotonic clock."""
    cells: int = 0


def run_grid(
    grid: Grid,
    store: Store,
    *,
    address: str | None = None,
    tracker: Tracker | None = None,
    console: Console | None = None,
    carry: Carry = run_cell,
) -> Outcome:
    """Train and evaluate what the store lacks of a grid, on a Ray started here or on the one at `address`.

    Without `address`, RAY_ADDRESS says which cluster to join; inside a submitted job it is the job's own. Failed cells
    stop nothing; cells that an earlier run gave up are tried again. SIGINT and SIGTERM stop cleanly: what runs is
    checkpointed. Raises UserError when the cluster cannot be joined or has no room.
    """
    console = console or Console()
    todo = {cell.id: missing(cell, grid.evaluate(cell), store) for cell in grid.cells}
    tasks = [Task(cell, grid.run(cell)) for cell in longest_first(grid.cells, todo) if todo[cell.id]]
    outcome = Outcome(done=len(grid.cells) - len(tasks))
    progress = Progress(console, len(tasks), outcome.done)
    if tracker is not None:
        tracker.begin(grid, progress.say)
    if not tasks:
        progress.say(f"all {outcome.done} cells are done already")
        return outcome
    attempts = store.attempts({task.cell.id for task in tasks})
    again = given_up(attempts)
    if again:
        progress.say(f"{again} cells failed in an earlier run and are tried again")
    stop = Stop()
    with catching(stop), cluster(address, grid.file.run.mps) as alone, progress:
        nodes = ray.nodes()
        waiting: dict[Shape, deque[Task]] = {}
        for task in tasks:
            task.run = with_gpus(task.run, nodes)
            waiting.setdefault(task.shape, deque()).append(task)
        for shape in waiting:
            if alone and not room(nodes, shape):
                raise UserError(f"this machine has no room for {shape}")
        Driver(grid, store, waiting, unfinished(attempts), outcome, progress, tracker, stop, carry).drive()
    return outcome


def longest_first(cells: Iterable[Resolved], todo: Mapping[str, Missing]) -> list[Resolved]:
    """Cells in the order that ends soonest: by a crude measure of the work they need, longest first.

    Tokens are taken for lengths, a training token for three of an evaluation: so a cell that is only to be evaluated,
    but at great lengths, does not come last and keep everybody waiting.
    """

    def work(cell: Resolved) -> float:
        recipe, missing = cell.config.train, todo[cell.id]
        training = 1.5 * recipe.last * recipe.batch * recipe.max_length if missing.training else 0
        return training + sum((gap.stop - gap.start) * gap.length for gap in missing.points)

    return sorted(cells, key=work, reverse=True)


def given_up(attempts: Iterable[Mapping[str, Any]]) -> int:
    """Cells whose last attempt failed."""
    last = {attempt["cell"]: attempt["outcome"] for attempt in attempts}
    return sum(outcome == "failed" for outcome in last.values())


def unfinished(attempts: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Cell -> its attempts that never said how they ended."""
    found: dict[str, list[str]] = {}
    for attempt in attempts:
        if attempt["outcome"] == "running":
            found.setdefault(attempt["cell"], []).append(attempt["attempt"])
    return found


def attempt_id() -> str:
    """Sorts by time; random enough that two drivers never agree on one."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(3)}"


def refuse_relative_store(url: str) -> None:
    """Raise UserError when a submitted job would put its results into its scratch folder."""
    inside_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    if inside_job and "://" not in url and not os.path.isabs(url):
        raise UserError(
            f"--store {url!r}: inside a submitted job a relative path is a scratch folder that is thrown away; "
            "give an absolute path that every node sees, or a URL (s3://, gs://)"
        )


def _options(shape: Shape) -> dict[str, Any]:
    """What a worker asks of Ray. No runtime environment: it would need a process of its own, not one Ray has ready."""
    cpus, gpus = (shape.cpus, shape.gpus) if shape.ranks == 1 else (0.0, 0.0)
    labels = {"label_selector": dict(shape.labels)} if shape.labels and shape.ranks == 1 else {}
    return {"num_cpus": cpus, "num_gpus": gpus, **labels}


@dataclass
class Driver:
    """The loop over workers. Everything it knows that matters is in the store, so it may die at any time.

    A cell is sent to a worker when the worker is free for it, never before: whatever the size of the grid, Ray holds no
    more cells than there are workers. Cells of different shapes (CPUs, GPUs, labels) have workers of their own; a shape
    that nobody waits for gives its idle workers back when others wait.
    """

    grid: Grid
    store: Store
    waiting: dict[Shape, deque[Task]]
    unfinished: dict[str, list[str]]
    outcome: Outcome
    progress: Progress
    tracker: Tracker | None
    stop: Stop
    carry: Carry

    def __post_init__(self) -> None:
        self.settings = self.grid.file.run
        self.threads = max(cell.config.threads for cell in self.grid.cells)
        self.slots: list[Slot] = []
        self.starts: dict[Shape, Tries] = {}
        self.fitting: dict[Shape, int] = {}
        self.look_again, self.hire_again = 0.0, 0.0
        self.store_failed = False

    @property
    def busy(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.task is not None]

    def drive(self) -> None:
        """Work until nothing is left to do, or the run is asked to stop."""
        self._hire()  # before the board: Ray has as many processes ready as CPUs, and those are for the workers
        self._put_up_board()
        try:
            while (any(self.waiting.values()) or self.busy) and not self.stop.requests:
                self._hire()
                self._assign()
                self._turn()
            if self.stop.requests:
                self._wind_down()
        finally:
            for slot in list(self.slots):
                self._dismiss(slot)
            ray.kill(self.board)

    def _turn(self) -> None:
        """Wait a moment for an answer, and hear the news."""
        answers = {slot.answer: slot for slot in self.slots if slot.answer is not None}
        if answers:
            ray.wait(list(answers), timeout=POLL_SECONDS)
            ready, _ = ray.wait(list(answers), num_returns=len(answers), timeout=0)
            for answer in ready:
                self._heard(answers[answer])
                if not self.stop.requests:
                    self._assign()  # at once: what the others answered can wait, a worker should not
        else:
            time.sleep(POLL_SECONDS)
        self._end_overdue()
        self._read_board()
        self.progress.tick()

    # workers ---------------------------------------------------------------------------------------------------

    def _hire(self) -> None:
        """Bring the pool up to what the cluster has room for and the remaining cells need."""
        if time.monotonic() >= self.look_again:
            self._look()
        waited_for = [shape for shape, tasks in self.waiting.items() if tasks]
        for slot in [slot for slot in self.slots if slot.answer is None]:
            if waited_for and slot.shape not in waited_for:
                self._dismiss(slot)
        for shape in waited_for:
            free = sum(slot.task is None for slot in self.slots if slot.shape == shape)
            while free < len(self.waiting[shape]) and self._has_room(shape) and time.monotonic() >= self.hire_again:
                options = _options(shape)
                worker = WorkerActor.options(**options).remote(
                    self.store.url, options["num_gpus"], self.threads, self.carry
                )
                self.slots.append(Slot(worker, shape, worker.ready.remote()))
                free += 1

    def _look(self) -> None:
        """Ask the cluster for its room; nodes come and go."""
        first, self.look_again = not self.look_again, time.monotonic() + LOOK_SECONDS
        nodes = ray.nodes()
        self.fitting = {shape: room(nodes, shape) for shape in self.waiting}
        for shape, fitting in self.fitting.items():
            if first and not fitting:
                self.progress.say(f"no node has room for {shape} yet; waiting for one that has")

    def _has_room(self, shape: Shape) -> bool:
        """Whether one more worker of a shape may be asked for; where it fits nowhere, one is, for an autoscaler."""
        if self.settings.workers:
            return len(self.slots) < self.settings.workers
        if shape not in self.fitting:
            self.fitting[shape] = room(ray.nodes(), shape)
        if not self.fitting[shape]:
            return not any(slot.shape == shape for slot in self.slots)
        taken = sum(1 / max(1, self.fitting.get(slot.shape, 1)) for slot in self.slots)
        return taken + 1 / self.fitting[shape] <= 1 + 1e-9 or not self.slots

    def _dismiss(self, slot: Slot) -> None:
        self.slots.remove(slot)
        ray.kill(slot.worker)

    # cells -----------------------------------------------------------------------------------------------------

    def _assign(self) -> None:
        for slot in self.slots:
            tasks = self.waiting.get(slot.shape)
            if slot.answer is not None or not tasks:
                continue
            task = tasks.popleft()
            slot.task, slot.attempt, slot.began = task, attempt_id(), time.monotonic()
            self._bury(task.cell.id, slot.attempt)
            slot.answer = slot.worker.run.remote(
                task.cell, self.grid.evaluate(task.cell), task.run, slot.attempt, self.board
            )
            self.progress.started(task.cell)
            if self.tracker is not None:
                self.tracker.started(task.cell)

    def _bury(self, cell: str, successor: str) -> None:
        """End the attempts at a cell that a driver which died left open: a new one takes their place."""
        for attempt in self.unfinished.pop(cell, []):
            reason = f"nothing was heard of it when attempt {successor} began"
            with self._store_may_fail():
                self.store.presume_ended(attempt, {"ended": now(), "outcome": "lost", "reason": reason})

    def _heard(self, slot: Slot) -> None:
        """A worker is ready, has ended its cell, or is gone."""
        try:
            ended = ray.get(slot.answer) or Ended("ready")
        except RayTaskError as error:
            ended = Ended("failed", one_line(error.cause), str(error), isinstance(error.cause, UserError))
        except RayError as error:
            ended = Ended("lost", one_line(error), memory=out_of_memory(error))
        task, attempt, slot.answer, slot.task = slot.task, slot.attempt, None, None
        slot.cells += task is not None
        if ended.outcome in ("failed", "lost") or slot.cells >= self.settings.renew_after:
            self._dismiss(slot)
        if task is not None:
            self._settle(task, attempt, ended)
        elif ended.outcome == "ready":
            self.starts.pop(slot.shape, None)
        else:
            self._not_started(slot.shape, ended)

    def _end_overdue(self) -> None:
        """End attempts that take longer than they may; whatever they hang in."""
        for slot in self.busy:
            assert slot.task is not None
            limit = slot.task.run.limit_seconds
            if limit is not None and time.monotonic() - slot.began > limit:
                task, attempt = slot.task, slot.attempt
                self._dismiss(slot)
                reason = f"OverLimit: took longer than run.limit_seconds = {limit:g}"
                self._settle(task, attempt, Ended("failed", reason, final=True))

    def _settle(self, task: Task, attempt: str, ended: Ended) -> None:
        """What becomes of a cell whose attempt has ended."""
        if ended.outcome in ("failed", "lost"):
            self._record(task, attempt, ended)
            if not task.tries.spent(ended, task.run):
                if ended.memory:
                    task.need_less()
                self.progress.ended(task.cell, "waiting")
                self.waiting.setdefault(task.shape, deque()).appendleft(task)
                return
            self._fail(task, ended)
        elif ended.outcome == "done" and task.run.ranks > 1:  # trained; one worker will do for its points
            task.run = task.run.model_copy(update={"ranks": 1})
            self.progress.ended(task.cell, "waiting")
            self.waiting.setdefault(task.shape, deque()).appendleft(task)
        elif ended.outcome == "done":
            self.outcome.done += 1
            self._tell(task.cell, "done")
        else:
            self.outcome.stopped += 1
            self._tell(task.cell, "stopped")

    def _record(self, task: Task, attempt: str, ended: Ended) -> None:
        """Write what the worker may not have been able to; what it wrote stands."""
        record = {"outcome": ended.outcome, "reason": ended.reason, "traceback": ended.traceback}
        with self._store_may_fail():
            self.store.begin_attempt(attempt, {"cell": task.cell.id, "started": now()})
            self.store.presume_ended(attempt, {"ended": now(), **record})

    @contextmanager
    def _store_may_fail(self) -> Iterator[None]:
        """The ledger is told of what has happened where that can be; a full disk ends cells, and not their driver."""
        try:
            yield
        except Exception as error:  # whatever the file system raises
            if not self.store_failed:
                self.progress.say(f"the ledger cannot be written: {one_line(error)}")
            self.store_failed = True

    def _fail(self, task: Task, ended: Ended) -> None:
        self.outcome.failed[f"{task.cell.id} ({task.cell.name})"] = ended.reason or ended.outcome
        self._tell(task.cell, "failed")

    def _tell(self, cell: Resolved, outcome: str) -> None:
        self.progress.ended(cell, outcome)
        if self.tracker is not None:
            self.tracker.ended(cell, outcome)

    def _not_started(self, shape: Shape, ended: Ended) -> None:
        """A worker could not start. When that goes on, nothing that waits for one of its shape can be done."""
        self.hire_again = time.monotonic() + PAUSE_SECONDS
        tasks = self.waiting.get(shape, deque())
        if self.starts.setdefault(shape, Tries()).spent(ended, self.settings):
            while tasks:
                task = tasks.popleft()
                self._record(task, attempt_id(), ended)
                self._fail(task, ended)

    # the end, and the news -------------------------------------------------------------------------------------

    def _wind_down(self) -> None:
        """Let running cells save what they have, for STOP_SECONDS at most; then end them."""
        self.progress.say("stopping: running cells save what they have (once more: stop at once)")
        for slot in self.busy:
            slot.worker.stop.remote()
        patience = time.monotonic() + STOP_SECONDS
        while self.busy and time.monotonic() < patience and self.stop.requests < 2:
            self._turn()
        for slot in self.busy:
            assert slot.task is not None
            reason = "did not stop in time and was ended"
            self._record(slot.task, slot.attempt, Ended("stopped", reason))
            self._settle(slot.task, slot.attempt, Ended("stopped", reason))
        left = [task for tasks in self.waiting.values() for task in tasks]
        self.outcome.stopped += len(left)
        for task in left:
            if task.tries != Tries():
                self._tell(task.cell, "stopped")

    def _put_up_board(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self.board = BoardActor.options(scheduling_strategy=here).remote()
        self.news = self.board.take.remote()

    def _read_board(self) -> None:
        ready, _ = ray.wait([self.news], timeout=0)
        if not ready:
            return
        try:
            events = ray.get(self.news)
        except RayError:  # it starts anew by itself; what it had was only for looking at
            events = []
        self.news = self.board.take.remote()
        for event in events:
            self.progress.heard(event)
            if self.tracker is not None:
                self.tracker.heard(event)

"""The worker actor: it carries the work of cells, one after another, and keeps what they say."""

from __future__ import annotations

import faulthandler
import logging
import os
import platform
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import ray

from harness.cluster import environment
from harness.config import Evaluate, Run
from harness.errors import Diverged, Lost, OverLimit, Stopped, UserError, one_line, redacted
from harness.grid import Resolved
from harness.store import Store

Carry = Callable[
    [Resolved, Evaluate, Run, Store, str, Callable[[dict[str, Any]], None], Callable[[], bool]],
    None,
]
"""What does the work of a cell: `harness.work.run_cell`, or something of its signature."""

UPLOAD_SECONDS = 15.0
NO_MEMORY = ("can't allocate memory", "out of memory", "running low on memory")
"""What PyTorch's allocators and libraries say, and Ray of an actor it ended."""
log = logging.getLogger("lengthwise")


@dataclass(frozen=True)
class Ended:
    """How an attempt ended."""

    outcome: str
    """done, failed, stopped or lost."""
    reason: str | None = None
    traceback: str | None = None
    final: bool = False
    """Another attempt would end the same way."""
    memory: bool = False
    """It ran out of memory: one that needs less may end well."""


class Board:
    """Where workers pin what the driver may read. It knows nothing that the store does not know better."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def post(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def take(self) -> list[dict[str, Any]]:
        events, self.events = self.events, []
        return events


@dataclass(frozen=True)
class Pinned:
    """Pins events to the board, from whatever process it is sent to."""

    board: Any

    def __call__(self, event: dict[str, Any]) -> None:
        with suppress(ray.exceptions.RayError):
            self.board.post.remote(event)


class Worker:
    """One process that takes cells one after another. `stop` is answered while `run` is busy."""

    def __init__(self, store_url: str, gpus: float, threads: int, carry: Carry) -> None:
        self.store_url, self.gpus, self.threads, self.carry = store_url, gpus, threads, carry
        self.stopping = threading.Event()

    def ready(self) -> None:
        """Raises UserError when the store cannot be used from this node."""
        os.environ.update(environment(self.threads, self.gpus))  # PyTorch, which reads it, is not imported yet
        self.store = Store(self.store_url).open()
        self.device = f"cpu {platform.machine()}"
        if self.gpus:
            from harness.memory import take_gpu  # PyTorch with it: seconds, which only those pay that need it by now

            self.device = take_gpu(self.gpus)

    def run(self, cell: Resolved, evaluate: Evaluate, settings: Run, attempt: str, board: Any) -> Ended:
        """Carry one cell, pinning events to the board. What goes wrong is returned: not every error can be pickled."""
        store = self.store
        store.begin_attempt(
            attempt, {"cell": cell.id, "started": now(), "host": platform.node(), "device": self.device}
        )
        with kept_log(store, f"cells/{cell.id}/logs/{attempt}.log"):
            log.info("%s: attempt %s of cell %s", cell.name, attempt, cell.id)
            ended = self._carried(cell, evaluate, settings, attempt, Pinned(board))
            log.info("%s%s", ended.outcome, f": {ended.reason}" if ended.reason else "")
        record = {"outcome": ended.outcome, "reason": ended.reason, "traceback": ended.traceback}
        store.end_attempt(attempt, {"ended": now(), **record})
        return ended

    def _carried(self, cell: Resolved, evaluate: Evaluate, settings: Run, attempt: str, pinned: Pinned) -> Ended:
        try:
            self.carry(cell, evaluate, settings, self.store, attempt, pinned, self.stopping.is_set)
        except Stopped as error:
            return Ended("stopped", one_line(error))
        except Lost as error:
            return Ended("lost", one_line(error))
        except BaseException as error:
            traceback.print_exc()
            final = isinstance(error, Diverged | OverLimit | UserError)
            told = redacted(traceback.format_exc())
            return Ended("failed", one_line(error), told, final, out_of_memory(error))
        return Ended("done")

    @ray.method(concurrency_group="control")
    def stop(self) -> None:
        """Ask the cell that is running, and any later one, to stop at the next safe place."""
        self.stopping.set()


WorkerActor: Any = ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups={"control": 1})(Worker)
BoardActor: Any = ray.remote(num_cpus=0, max_restarts=-1)(Board)


def out_of_memory(error: BaseException) -> bool:
    """Whether Python, PyTorch (on a GPU or a CPU) or Ray's watch over a node's memory said so."""
    if isinstance(error, MemoryError | ray.exceptions.OutOfMemoryError):
        return True
    said = str(error)
    return type(error).__name__ == "OutOfMemoryError" or any(words in said for words in NO_MEMORY)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@contextmanager
def kept_log(store: Store, name: str) -> Iterator[None]:
    """Send what this process says meanwhile, C code and fatal signals included, to a file of the store.

    In a folder the file grows as it is written, so that the last words of a process that dies are there; elsewhere it
    is uploaded every UPLOAD_SECONDS and at the end.
    """
    if store.local:
        os.makedirs(os.path.dirname(store.path(name)), exist_ok=True)
        with redirected(store.path(name)):
            yield
        return
    with tempfile.NamedTemporaryFile() as file, uploaded(store, name, file.name), redirected(file.name):
        yield


@contextmanager
def uploaded(store: Store, name: str, path: str) -> Iterator[None]:
    """Copy a growing file to the store again and again, and once more at the end."""
    finished = threading.Event()

    def copy() -> None:
        with open(path, "rb") as file:
            store.write(name, file.read())

    def copy_often() -> None:
        while not finished.wait(UPLOAD_SECONDS):
            with suppress(Exception):  # the store may be back next time; a log is no reason to fail a cell
                copy()

    thread = threading.Thread(target=copy_often, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
        with suppress(Exception):
            copy()


@contextmanager
def redirected(path: str) -> Iterator[None]:
    """Append stdout, stderr (their file descriptors, too) and Python's logging to a file."""
    python = sys.stdout, sys.stderr
    for stream in python:
        stream.flush()
    kept = os.dup(1), os.dup(2)
    root = logging.getLogger()
    level = root.level
    with open(path, "a", buffering=1, errors="backslashreplace") as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.stdout = sys.stderr = file
            root.addHandler(handler)
            root.setLevel(logging.INFO)
            faulthandler.enable(file)
            yield
        finally:
            faulthandler.disable()
            root.removeHandler(handler)
            root.setLevel(level)
            sys.stdout, sys.stderr = python
            for descriptor, original in zip((1, 2), kept):
                os.dup2(original, descriptor)
                os.close(original)

"""The Ray cluster a grid runs on: starting or joining one, the room it has, and signals that ask to stop."""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import ray

from harness.config import Run
from harness.errors import UserError, one_line
from harness.mps import CONTROL, exported, service

OBJECT_STORE_BYTES = 200 * 2**20
"""Of a Ray started here. Cells pass through the results store, so Ray's own holds next to nothing."""
CONNECT_SECONDS = 10.0


class Stop:
    """Counts requests to stop: one stops at the next safe place, two at once."""

    def __init__(self) -> None:
        self.requests = 0

    def __call__(self, *signal: object) -> None:
        self.requests += 1


@contextmanager
def catching(stop: Stop) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into requests to stop."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def cluster(address: str | None, mps: bool = False) -> Iterator[bool]:
    """A Ray to work on; whether it was started here. If so it is ended here, else it goes on.

    mps: its workers share GPUs through a daemon of MPS that is started with it.
    """
    if ray.is_initialized():  # by whoever called, who then has started what belongs to it
        yield False
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        if mps:
            raise UserError(
                f"run.mps is for a Ray that is started here, not for the one at {address}: start `{CONTROL} -d` "
                "on each of its nodes before Ray, and leave run.mps out"
            )
        check_address(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local: dict[str, Any] = {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    handler = signal.getsignal(signal.SIGTERM)
    with ExitStack() as stack:
        if mps:
            stack.enter_context(exported(stack.enter_context(service())))
        try:
            ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **({} if address else local))
        except Exception as error:  # a bare one, too: "The current node timed out during startup", on a busy machine
            raise UserError(f"Ray at {address or 'this machine'} cannot be used: {one_line(error)}") from error
        stack.callback(ray.shutdown)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # ray.init put its own there, which exits at once
        yield not address


def check_address(address: str) -> None:
    """Raise UserError for an address that cannot be joined; Ray itself would try a dead one for minutes on end."""
    if "://" in address:
        raise UserError(
            f"Ray address {address!r} is not one to join (is it for `ray job submit`?); give HOST:PORT or auto"
        )
    host, separator, port = address.rpartition(":")
    if not separator:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(f"no Ray cluster answers at {address!r}: {one_line(error)}") from error


class Shape(NamedTuple):
    """What a worker takes of a node, and on which nodes it may run."""

    cpus: float
    gpus: float
    labels: tuple[tuple[str, str], ...] = ()
    ranks: int = 1
    """More than one: a group of so many of them, and a worker beside it that takes nothing and waits for the group."""

    @classmethod
    def of(cls, run: Run) -> Shape:
        return cls.of_a_rank(run)._replace(ranks=run.ranks)

    @classmethod
    def of_a_rank(cls, run: Run) -> Shape:
        return cls(run.cpus, run.gpus or 0.0, tuple(sorted(run.labels.items())))

    def __str__(self) -> str:
        labels = "".join(f", label {name}={value}" for name, value in self.labels)
        group = f"{self.ranks} times " if self.ranks > 1 else ""
        return f"{group}a worker of run.cpus = {self.cpus:g} and run.gpus = {self.gpus:g}{labels}"


def with_gpus(run: Run, nodes: Iterable[Mapping[str, Any]]) -> Run:
    """The run with its GPUs a worker settled: where nothing is said, 1 if any living node has one."""
    if run.gpus is not None:
        return run
    found = any(node["Alive"] and node["Resources"].get("GPU", 0) >= 1 for node in nodes)
    return run.model_copy(update={"gpus": 1.0 if found else 0.0})


def room(nodes: Iterable[Mapping[str, Any]], shape: Shape) -> int:
    """How many workers of a shape fit on the living nodes of a cluster that has nothing else to do.

    A group for which there is not enough room has some all the same: it makes do with fewer.
    """
    single = sum(fits(node, shape) for node in nodes if node["Alive"])
    return single // shape.ranks or min(single, 1)


def fits(node: Mapping[str, Any], shape: Shape) -> int:
    """How many workers of a shape, or members of its group, fit on a node."""
    labels, resources = node.get("Labels") or {}, node["Resources"]
    if any(labels.get(name) != value for name, value in shape.labels):
        return 0
    cpus = resources.get("CPU", 0.0) / shape.cpus
    gpus = resources.get("GPU", 0.0) / shape.gpus if shape.gpus else math.inf
    return math.floor(min(cpus, gpus) + 1e-9)


def environment(threads: int, gpus: float) -> dict[str, str]:
    """Of a process that carries a cell: its threads, and no GPU where it asked for none (Ray leaves all visible)."""
    hidden = {} if gpus else {"CUDA_VISIBLE_DEVICES": ""}
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **hidden}

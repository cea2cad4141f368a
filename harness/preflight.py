"""Whether a cluster can do the work of a grid: every node reaches the same store, and MLflow answers the driver."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness import __version__
from harness.errors import UserError, one_line, redacted
from harness.finding import Finding
from harness.store import Store

NODE_SECONDS = 120.0
"""How long a node may take to answer; a fresh one starts a Python first."""


def preflight(store: Store, mlflow: bool = True) -> Iterator[Finding]:
    """Look at the cluster this process is connected to. Writes a mark into the store that every node has to see."""
    mark = f"preflight/{secrets.token_hex(8)}"
    try:
        store.open(create=True).write(mark, b"seen")
    except (OSError, UserError) as error:
        yield Finding("store", one_line(error), wrong=True)
        return
    yield Finding("store", f"{store.url}: written and read by the driver")
    if mlflow:
        yield _mlflow(store)
    try:
        yield from _nodes(store, mark)
    finally:
        store.delete(mark)


def demand(store: Store, mlflow: bool) -> None:
    """Raise UserError unless nothing is wrong."""
    wrong = [f"{finding.subject}: {finding.says}" for finding in preflight(store, mlflow) if finding.wrong]
    if wrong:
        raise UserError(f"preflight: {'; '.join(wrong)}")


def _mlflow(store: Store) -> Finding:
    from harness.tracking import connect, tracking_uri

    uri = tracking_uri(None, store)
    if uri is None:
        return Finding("mlflow", "off: the store is not a folder and MLFLOW_TRACKING_URI is not set")
    try:
        connect(uri).search_experiments(max_results=1)
    except Exception as error:  # MLflow raises its own, SQLAlchemy's and requests' errors
        return Finding("mlflow", f"{redacted(uri)} does not answer the driver: {one_line(error)}", wrong=True)
    return Finding("mlflow", f"{redacted(uri)} answers")


def _nodes(store: Store, mark: str) -> Iterator[Finding]:
    """What each node that may get a worker says."""
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0}
    if not nodes:
        yield Finding("nodes", "none has CPUs yet; workers wait until one has")
    answers = {_ask(node, store.url, mark): node for node in nodes}
    ready, late = ray.wait(list(answers), num_returns=len(answers), timeout=NODE_SECONDS) if answers else ([], [])
    for answer in [*ready, *late]:
        node = nodes[answers[answer]]
        name = f"node {node['NodeManagerHostname']}"
        if answer in late:
            yield Finding(name, f"did not answer in {NODE_SECONDS:g} s", wrong=True)
            continue
        try:
            version, wrong = ray.get(answer)
        except RayError as error:
            yield Finding(name, one_line(error), wrong=True)
            continue
        if version != __version__:
            wrong = wrong or f"has Lengthwise {version}, the driver {__version__}"
        yield Finding(name, wrong or "reaches the store", wrong=bool(wrong))


def _ask(node: str, url: str, mark: str) -> Any:
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, max_retries=0)(look).options(scheduling_strategy=where).remote(url, mark)


def look(url: str, mark: str) -> tuple[str, str | None]:
    """On a node: the version of Lengthwise there, and what is wrong with the store as it is seen from there."""
    try:
        store = Store(url).open()
        if store.read(mark) != b"seen":
            return __version__, f"{url} is another store there"
        own = f"{mark}-{secrets.token_hex(4)}"
        store.write(own, b"")
        store.delete(own)
    except Exception as error:  # whatever the file system raises
        return __version__, one_line(error)
    return __version__, None

"""MLflow as a view of the store: one run per cell of a grid, under one run for the grid. Only the driver talks to it.

What its user interface then answers is told in docs/mlflow.md; names and texts of runs are made in `harness.labels`.

Rows are the record. Nothing here may fail or hold up a cell, and `sync` makes the same view from the store alone.
"""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import re
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from harness import labels
from harness.ahead import Remote
from harness.collect import rows_of, status_of
from harness.config import Evaluate
from harness.errors import UserError, one_line, redacted
from harness.grid import Grid, Resolved
from harness.store import Store, by_cell
from harness.work import missing, shares

EXPERIMENT = "lengthwise"
GRID, CELL, STORE = "lengthwise.grid", "lengthwise.cell", "lengthwise.store"
"""Tags by which runs are found again."""
STATUS = {"done": "FINISHED", "failed": "FAILED", "waiting": "KILLED", "stopped": "KILLED"}
"""MLflow's word for where a cell stands; RUNNING for any other."""
MULTIPLES = (2, 4, 10)
"""Times the training length at which accuracy is summarised."""
METRICS = {"exact": "exact_match"}
"""Shares of a point that have another name here."""
METRICS_PER_BATCH, PARAMS_PER_BATCH, VALUE_LENGTH = 900, 100, 500
"""A batch holds at most 1,000 things, of which 100 may be tags."""
QUIET_SECONDS = 60.0
"""A server that failed is left alone for so long."""
CLOSE_SECONDS = 60.0
"""How long what is still queued at the end may take."""


class Metric(NamedTuple):
    name: str
    step: int
    value: float


class Kept(NamedTuple):
    """What is kept of a cell's run: MLflow's own object, tags and all, adds up over a grid of thousands."""

    id: str
    start: int
    """Milliseconds since 1970."""


def tracking_uri(uri: str | None, store: Store) -> str | None:
    """Where MLflow is: `uri`, else MLFLOW_TRACKING_URI, else a database in a local store; None when nowhere."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri or not store.local:
        return uri
    return f"sqlite:///{store.path('mlflow.db')}"


class Tracker:
    """Shows a grid that is being run in MLflow, from a process of its own. No method raises, none but `close` waits.

    Of its own: what MLflow imports, computes and keeps would share the driver's interpreter with the hand-out of cells.
    """

    def __init__(self, uri: str | None, store: Store) -> None:
        self.uri, self.store = tracking_uri(uri, store), store
        self.say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)
        self.jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.mirror: Remote | None = None
        self.quiet_until = 0.0
        self.reached = self.missed = False
        self.thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def begin(self, grid: Grid, say: Callable[[str], None] | None = None) -> None:
        """Start; `say` prints a line for the user."""
        self.say = say or self.say
        if self.uri is None:
            self.say("MLflow: off (the store is not a folder; set MLFLOW_TRACKING_URI to a server)")
            return
        self.mirror = Remote(_mirror, self.uri, grid, self.store.url)
        self.thread.start()
        self._tell("parent_run")

    def started(self, cell: Resolved) -> None:
        self._tell("begin", cell)

    def heard(self, event: dict[str, Any]) -> None:
        if event.get("curve") or event.get("point"):
            self._tell("add", event)

    def ended(self, cell: Resolved, outcome: str) -> None:
        self._tell("fill", cell, outcome)

    def finish_grid(self, grid: Grid, store: Store) -> None:
        """Attach report and grid file; make up for what was missed while the server did not answer."""
        self._do(lambda: self._now("conclude", self.missed))

    def close(self) -> None:
        """Wait, within bounds, until all is sent."""
        self.jobs.put(None)
        if self.thread.is_alive():
            self.thread.join(CLOSE_SECONDS)
            if self.thread.is_alive():
                self.missed, self.quiet_until = True, math.inf
                self.say(f"MLflow: not everything was sent within {CLOSE_SECONDS:g} s; {_AGAIN}")
                if self.mirror is not None:
                    self.mirror.interrupt()
                return
        if self.mirror is not None:
            self.mirror.end()

    @property
    def complete(self) -> bool:
        """Whether, after `close`, everything was sent."""
        return self.reached and not self.missed

    def _tell(self, method: str, *arguments: Any) -> None:
        self._do(lambda: self._now(method, *arguments))

    def _do(self, job: Callable[[], None]) -> None:
        if self.mirror is not None:  # else nobody would ever take it
            self.jobs.put(job)

    def _now(self, method: str, *arguments: Any) -> None:
        assert self.mirror is not None
        self.mirror.tell(method, *arguments)
        self.reached = True

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            if time.monotonic() < self.quiet_until:
                self.missed = True
                continue
            try:
                job()
            except Exception as error:
                if not self.missed:
                    self.say(f"MLflow: {error}; results are not affected; {_AGAIN}")
                self.missed, self.quiet_until = True, max(self.quiet_until, time.monotonic() + QUIET_SECONDS)


_AGAIN = "`lengthwise mlflow sync` fills in what is missing"


def sync(grid: Grid, store: Store, uri: str | None = None) -> str:
    """Make the MLflow runs of a grid from the store alone; says what was done. Any number of times gives the same runs.

    Raises UserError when there is no MLflow to talk to, or it does not answer.
    """
    found = tracking_uri(uri, store)
    if found is None:
        raise UserError("mlflow sync: the store is not a folder, so give --uri or MLFLOW_TRACKING_URI")
    try:
        count = Mirror(found, grid, store).rebuild()
    except UserError:
        raise
    except Exception as error:  # MLflow raises its own, SQLAlchemy's, requests' and the artifact store's errors
        raise UserError(f"mlflow sync: {redacted(found)}: {one_line(error)}") from error
    return f"{count} cells in experiment {EXPERIMENT} at {redacted(found)}"


def _mirror(uri: str, grid: Grid, store: str) -> Mirror:
    return Mirror(uri, grid, Store(store).open())


class Mirror:
    """The MLflow runs of one grid in one store. Methods raise what MLflow raises."""

    def __init__(self, uri: str, grid: Grid, store: Store) -> None:
        self.grid, self.store, self.uri = grid, store, uri
        self.client = connect(uri)
        self.experiment = self._experiment(uri)
        self.parent: Any = None
        self.runs: dict[str, Kept] = {}
        for run in self._find():
            if CELL in run.data.tags:
                self.runs.setdefault(run.data.tags[CELL], Kept(run.info.run_id, run.info.start_time))
            else:
                self.parent = self.parent or run
        self.sent: dict[str, int] = {}
        self.fresh: dict[str, dict[tuple[str, int], float]] = {}
        """Run made here -> all it holds, which then need not be asked for."""

    def _experiment(self, uri: str) -> str:
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        database = database_path(uri)
        location = (database.parent / "mlartifacts").as_uri() if database else None
        return str(self.client.create_experiment(EXPERIMENT, location, {labels.NOTE: labels.EXPERIMENT}))

    def _find(self) -> Iterator[Any]:
        """The runs of this grid and store, oldest first."""
        wanted, token = f"tags.`{GRID}` = '{self.grid.file.name}'", None
        while True:
            page = self.client.search_runs(
                [self.experiment], wanted, max_results=1000, order_by=["attributes.start_time ASC"], page_token=token
            )
            yield from (run for run in page if run.data.tags.get(STORE) == self.store.url)
            token = page.token
            if not token:
                return

    def _create(self, name: str, tags: dict[str, str], start: int | None = None) -> Any:
        known = {GRID: self.grid.file.name, STORE: self.store.url, **tags}
        return self.client.create_run(self.experiment, start_time=start, run_name=name, tags=known)

    def parent_run(self) -> Any:
        """The run of the grid."""
        if self.parent is None:
            self.parent = self._create(self.grid.file.name, {labels.NOTE: labels.grid(self.grid.file, [])})
        return self.parent

    def report_link(self) -> str:
        """The report among the artifacts of the grid's run, as the user interface addresses it."""
        run = self.parent_run().info.run_id
        return f"[report](#/experiments/{self.experiment}/runs/{run}/artifacts/report.html)"

    def cell_run(self, cell: Resolved, start: int | None = None) -> Kept:
        """The run of a cell, made with its parameters and configuration when it is not there."""
        if cell.id not in self.runs:
            parent = self.parent_run().info.run_id
            tags = {CELL: cell.id, "mlflow.parentRunId": parent, **labels.known(cell)}
            run = self._create(cell.name, tags, start)
            self.runs[cell.id] = Kept(run.info.run_id, run.info.start_time)
            self.fresh[run.info.run_id] = {}
            self._describe(run, cell)
        return self.runs[cell.id]

    def _describe(self, run: Any, cell: Resolved) -> None:
        from mlflow.entities import Param
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        config = cell.config.model_dump(mode="json")
        params = [Param(tidy(name), str(value)[:VALUE_LENGTH]) for name, value in flatten(config)]
        for batch in slices(params, PARAMS_PER_BATCH):
            self.client.log_batch(run.info.run_id, params=batch, synchronous=True)
        text = json.dumps({"id": cell.id, "name": cell.name, "config": config}, indent=1)
        # Not `log_text`: the client would keep the place of each of the last 1,024 runs, 8 KB with a pool of threads.
        place = get_artifact_repository(run.info.artifact_uri, tracking_uri=self.uri)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "cell.json").write_text(text, encoding="utf-8")
            place.log_artifact(f"{folder}/cell.json")

    def begin(self, cell: Resolved) -> None:
        """A worker has taken the cell."""
        if cell.id in self.runs:
            self.client.update_run(self.runs[cell.id].id, status="RUNNING")
        else:
            self.cell_run(cell)  # it begins as running

    def add(self, event: Mapping[str, Any]) -> None:
        """What a running cell has just said: pieces of its curve, a finished point."""
        run, cell = self.runs.get(event["cell"]), event["cell"]
        if run is None:
            return
        # A cell resumed after a crash says some steps again; what was said first stands until `fill` sees the store.
        fresh = [record for record in event.get("curve") or [] if record["step"] > self.sent.get(cell, 0)]
        if fresh:
            self.sent[cell] = fresh[-1]["step"]
        metrics = list(curve_metrics(fresh))
        point = event.get("point")
        if point and point["n"] == self.grid.own.get(cell, self.grid.file.evaluate).problems:
            metrics += point_metrics(point)
        self._log(run, metrics)

    def fill(self, cell: Resolved, outcome: str, attempts: Iterable[Mapping[str, Any]] = ()) -> None:
        """Make a cell's run say what the store says. A run that says otherwise somewhere is deleted and made anew."""
        began = [moment(attempt["started"]) for attempt in attempts if attempt.get("started")]
        ended = [moment(attempt["ended"]) for attempt in attempts if attempt.get("ended")]
        story = tell(cell, self.grid.evaluate(cell), self.store)
        metrics = list(finite(story.metrics))
        run = self.cell_run(cell, min(began, default=None))
        said, others = self._said(run, {metric.name for metric in metrics})
        if others or any(said.get((metric.name, metric.step), metric.value) != metric.value for metric in metrics):
            self.client.delete_run(run.id)
            del self.runs[cell.id]
            run, said = self.cell_run(cell, run.start), {}
        new = [metric for metric in metrics if (metric.name, metric.step) not in said]
        self._log(run, new, labels.found(cell, outcome, story.published, story.points, self.report_link()))
        status = STATUS.get(outcome, "RUNNING")
        if status == "RUNNING":
            self.client.update_run(run.id, status=status)
        else:
            self.client.set_terminated(run.id, status, max(ended, default=None))
        self.fresh.pop(run.id, None)

    def _said(self, run: Kept, names: set[str]) -> tuple[dict[tuple[str, int], float], set[str]]:
        """What a run holds of these metrics already, and the names of further results in it."""
        if (known := self.fresh.get(run.id)) is not None:
            further = {name for name, _ in known if name.startswith(("eval/", "summary/"))} - names
            return {key: value for key, value in known.items() if key[0] in names}, further
        held = self.client.get_run(run.id).data.metrics
        said = {
            (name, metric.step): metric.value
            for name in sorted(names & held.keys())
            for metric in self.client.get_metric_history(run.id, name)
        }
        return said, {name for name in held if name.startswith(("eval/", "summary/"))} - names

    def _log(self, run: Kept, metrics: Iterable[Metric], tags: Mapping[str, str] | None = None) -> None:
        """Log with a timestamp that depends on nothing but the step: MLflow keeps a value once per timestamp."""
        from mlflow.entities import Metric as Logged
        from mlflow.entities import RunTag

        logged = [Logged(name, value, run.start + step, step) for name, step, value in finite(metrics)]
        batches = list(slices(logged, METRICS_PER_BATCH))
        told = [RunTag(name, text) for name, text in (tags or {}).items()]
        if told and not batches:
            batches = [[]]
        for batch in batches:
            self.client.log_batch(run.id, metrics=batch, tags=told, synchronous=True)
            told = []  # with the first batch
        if (known := self.fresh.get(run.id)) is not None:
            known.update({(metric.key, metric.step): metric.value for metric in logged})

    def incomplete(self) -> bool:
        """Some cell has no run: it was done before, for another grid or without MLflow."""
        return any(cell.id not in self.runs for cell in self.grid.cells)

    def conclude(self, missed: bool) -> None:
        """The end of a run, of which something was missed on the way or not."""
        if missed or self.incomplete():
            self.rebuild()
        else:
            self.finish()

    def finish(self) -> None:
        """Attach grid file and report to the grid's run, tell there who reaches how far, and close it."""
        run = self.parent_run().info.run_id
        self.client.log_text(run, self.grid.text, "grid.yaml")
        report = f"grids/{self.grid.file.name}/report.html"
        if self.store.exists(report):
            self.client.log_text(run, self.store.read(report).decode(), "report.html")
        held = [one for one in self._find() if CELL in one.data.tags]
        link = self.report_link() if self.store.exists(report) else None
        reaches = [(one.info.run_name, one.data.tags.get(labels.REACH, "")) for one in held]
        self.client.set_tag(run, labels.NOTE, labels.grid(self.grid.file, reaches, link))
        said = {one.info.status for one in held}
        everything = said == {"FINISHED"} and len(self.runs) >= len(self.grid.cells)
        status = "FINISHED" if everything else "FAILED" if "FAILED" in said else "KILLED"
        self.client.set_terminated(run, status)

    def rebuild(self) -> int:
        """Everything from the store; cells nobody has begun are left out. The number of cells that are in."""
        cells = {cell.id: cell for cell in self.grid.cells}
        attempts = by_cell(self.store.attempts(set(cells)))
        begun = [cell for cell in self.grid.cells if cell.id in attempts or self.store.published(cell.id)]
        for cell in begun:
            own = attempts.get(cell.id, [])
            status, _ = status_of(missing(cell, self.grid.evaluate(cell), self.store), own)
            self.fill(cell, status, own)
        self.finish()
        return len(begun)


# what there is to say of a cell ------------------------------------------------------------------------------------


class Story(NamedTuple):
    """What the store knows of a cell."""

    metrics: list[Metric]
    """Training curve, points (step = length), summaries."""
    points: list[dict[str, Any]]
    published: dict[str, Any]
    """Empty while nothing is published."""


def tell(cell: Resolved, evaluate: Evaluate, store: Store) -> Story:
    """A cell's story, from the store alone."""
    published = store.published(cell.id)
    if published is None:
        return Story([], [], {})
    rows = rows_of(cell, evaluate, store)
    points = list(summed(rows))
    metrics = list(curve_metrics(store.curve(cell.id)))
    metrics += [metric for point in points for metric in point_metrics(point)]
    # A summary's step is the number of rows it is made from, so that those of a grown grid come after those before.
    summed_up = summaries(points, cell.config.train.max_length, published)
    metrics += [Metric(f"summary/{name}", len(rows), value) for name, value in summed_up.items()]
    return Story(metrics, points, published)


def curve_metrics(curve: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    for record in curve:
        for name in ("loss", "learning_rate", "gradient_norm"):
            if record.get(name) is not None:
                yield Metric(f"train/{name}", record["step"], record[name])


def summed(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of a cell to one record per point."""

    def key(row: dict[str, Any]) -> tuple[str, int]:
        return row["stress"], row["length"]

    for (stress, length), group in groupby(sorted(rows, key=lambda row: (*key(row), row["index"])), key=key):
        yield {"stress": stress, "length": length, **shares(list(group))}


def point_metrics(point: Mapping[str, Any]) -> Iterator[Metric]:
    """For example `eval/exact_match`, of a stress set `eval/exact_match/carries`."""
    suffix = "" if point["stress"] == "random" else f"/{point['stress']}"
    for name in ("exact", "answer_right", "token_accuracy"):
        if point.get(name) is not None:
            yield Metric(f"eval/{METRICS.get(name, name)}{suffix}", point["length"], float(point[name]))


def summaries(points: list[dict[str, Any]], trained: int, published: Mapping[str, Any]) -> dict[str, float]:
    """One number each: how far, how well at the training length, multiples of it and the longest, and at what cost.

    Reach is the end of the unbroken run of solved lengths; the largest solved length may lie beyond a gap. An unfit
    cell has neither, so that a table sorted by them begins with runs that count.
    """
    from reports.statistics import SOLVED

    exact = {point["length"]: point["exact"] for point in points if point["stress"] == "random"}
    known = {name: published.get(name) for name in ("validation_exact", "train_seconds", "parameters")}
    known["exact_at_trained"], known["exact_at_longest"] = exact.get(trained), exact.get(max(exact, default=0))
    for times in MULTIPLES:
        known[f"exact_at_{times}x"] = exact.get(times * trained)
    reached = labels.reach(points, published)
    if reached is not None:
        solved = [at for at, share in labels.accuracies(points).items() if share is not None and share >= SOLVED]
        known["reach"], known["largest_length_95"] = reached.low, max(solved, default=0)
        known["reach_times_trained"] = reached.low / trained
    return {name: float(value) for name, value in known.items() if value is not None}


# MLflow's ways -----------------------------------------------------------------------------------------------------


def connect(uri: str) -> Any:
    """A client that gives up on a dead server within seconds; a fresh database is made first."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    database = database_path(uri)
    if database is not None:
        create_database(database)
        uri = f"sqlite:///{database}"
    return MlflowClient(tracking_uri=uri)


def database_path(uri: str) -> Path | None:
    """The file of an SQLite URI."""
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


def create_database(path: Path) -> None:
    """Make a fresh database under another name first: one that is half made, or made by two at once, stays broken."""
    if path.exists():
        return
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        MlflowClient(tracking_uri=f"sqlite:///{fresh}").search_experiments(max_results=1)
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink(missing_ok=True)


def tidy(name: str) -> str:
    """A name with MLflow's letters only."""
    return re.sub(r"/{2,}", "/", re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)).strip("/")[:250]


def finite(metrics: Iterable[Metric]) -> Iterator[Metric]:
    """Metrics MLflow can keep, under names it takes."""
    for name, step, value in metrics:
        if math.isfinite(value):
            yield Metric(tidy(name), step, float(value))


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def slices(items: list[Any], size: int) -> Iterator[list[Any]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]


def moment(text: str) -> int:
    """ISO 8601 to milliseconds since 1970, UTC."""
    when = datetime.fromisoformat(text)
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)

"""The driver: a pool of workers, retries counted apart, nothing lost, whoever dies."""

import dataclasses
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import torch
from rich.console import Console

from harness import driver
from harness.cluster import Shape, cluster, room, with_gpus
from harness.config import Cell, Evaluate, GridFile, Run
from harness.driver import Task, Tries, attempt_id, longest_first, refuse_relative_store, run_grid
from harness.errors import Diverged, OverLimit, Stopped, UserError
from harness.grid import Grid, Resolved, evaluation_id, parse
from harness.progress import Progress, clock
from harness.store import Extent, Held, Store
from harness.work import missing, run_cell
from harness.worker import Ended, out_of_memory

EVALUATE = Evaluate(lengths=(1, 2))
MEMORY = 200 * 2**20


def finish(cell, evaluate, store):
    """Put into the store what a finished cell leaves there."""
    checkpoint = "0" * 32
    store.create(f"cells/{cell.id}/published.json", json.dumps({"checkpoint": checkpoint}).encode())
    for gap in missing(cell, evaluate, store).points:
        where = (checkpoint, evaluation_id(evaluate), gap.length, gap.stress, gap.start, gap.stop)
        store.write_rows(cell.id, Extent(*where), [])


def scripted(cell, evaluate, run, store, attempt, report, stop):
    """Work that does what the name of its cell says."""
    tries = len(store.attempts({cell.id}))
    context = ray.get_runtime_context()
    resources = context.get_assigned_resources()
    seen = {
        "runtime_env": dict(context.runtime_env),
        "pid": os.getpid(),
        "pieces": run.pieces,
        "cpus": resources.get("CPU"),
        "environment": {name: os.environ.get(name) for name in WATCHED},
    }
    store.write(f"seen/{cell.id}/{attempt}.json", json.dumps(seen).encode())
    print("printed by", cell.name, flush=True)
    os.write(2, b"written by C\n")
    report({"cell": cell.id, "phase": "training", "step": 1, "steps": 2, "loss": 0.5, "curve": [{"step": 1}]})
    action = cell.name.split()[0]
    if action == "die" or (action == "die-once" and tries == 1):
        os._exit(1)
    if action == "raise":
        raise RuntimeError(f"boom in {cell.id}")
    if action == "hungry" and run.pieces < 4:
        raise torch.OutOfMemoryError(f"CUDA out of memory with pieces={run.pieces}")
    if action == "hang":
        time.sleep(600)
    if action == "diverge":
        raise Diverged("loss nan")
    if action == "misuse":
        raise UserError("no such thing")
    if action == "meet":
        patience = time.monotonic() + 60
        while len(store.names("seen")) < 2 and time.monotonic() < patience:
            time.sleep(0.05)
    if action == "wait":
        while not stop():
            time.sleep(0.05)
        raise Stopped("asked to")
    finish(cell, evaluate, store)


WATCHED = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store")).open(create=True)


@pytest.fixture(scope="module")
def two_cpus():
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(
        "local",
        num_cpus=2,
        labels={"kind": "small"},
        object_store_memory=MEMORY,
        include_dashboard=False,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


def grid_of(*names, **run):
    file = GridFile(name="g", axes={"seed": [0]}, evaluate=EVALUATE, run=Run(**run))
    return Grid(file, "", [Resolved(f"{index:02}", name, Cell()) for index, name in enumerate(names)])


def with_runs(grid, **own):
    """The grid with runs of their own for cells, by name."""
    runs = {cell.id: grid.file.run.model_copy(update=own[cell.name]) for cell in grid.cells if cell.name in own}
    return dataclasses.replace(grid, own_runs=runs)


def drive(grid, store, **more):
    console = Console(file=io.StringIO(), width=200)
    outcome = run_grid(grid, store, console=console, carry=scripted, **more)
    return outcome, console.file.getvalue()


def outcomes(store, cell):
    return [attempt["outcome"] for attempt in store.attempts({cell})]


def seen(store, cell):
    return [json.loads(store.read(f"seen/{cell}/{name}")) for name in store.names(f"seen/{cell}")]


class Recorder:
    """A tracker that only remembers."""

    def __init__(self):
        self.events = []

    def begin(self, grid, say):
        self.events.append("begin")

    def started(self, cell):
        self.events.append(("started", cell.id))

    def heard(self, event):
        self.events.append(("heard", event["cell"], event["step"]))

    def ended(self, cell, outcome):
        self.events.append(("ended", cell.id, outcome))


@pytest.mark.ray
def test_a_pool_of_workers_runs_many_cells(two_cpus, store):
    grid, tracker = grid_of("meet", "meet", *["good"] * 10), Recorder()
    outcome, text = drive(grid, store, tracker=tracker)
    assert (outcome.done, outcome.failed, outcome.stopped) == (12, {}, 0)
    assert "12 done" in text
    assert not any(missing(cell, EVALUATE, store) for cell in grid.cells)
    records = [record for cell in grid.cells for record in seen(store, cell.id)]
    assert len(records) == 12
    assert len({record["pid"] for record in records}) == 2
    assert records[0]["environment"] == {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    assert records[0]["runtime_env"] == {}  # so that Ray takes a process it has ready
    attempts = store.attempts()
    assert len(attempts) == 12
    assert all(record["outcome"] == "done" and record["ended"] and record["host"] for record in attempts)
    assert all(record["device"].startswith("cpu") for record in attempts)
    assert tracker.events[0] == "begin"
    for cell in grid.cells:
        assert tracker.events.index(("started", cell.id)) < tracker.events.index(("ended", cell.id, "done"))
    assert any(event[0] == "heard" for event in tracker.events)


@pytest.mark.ray
@pytest.mark.slow
def test_troubles_are_told_apart_and_stop_nobody_else(two_cpus, store):
    names = ["good", "die-once", "raise", "diverge", "misuse", "die", "good"]
    grid = grid_of(*names, attempts=2, lost_attempts=3)
    outcome, _ = drive(grid, store)
    ends = {name: outcomes(store, cell.id) for name, cell in zip(names, grid.cells)}
    assert ends == {
        "good": ["done"],
        "die-once": ["lost", "done"],
        "raise": ["failed", "failed"],
        "diverge": ["failed"],
        "misuse": ["failed"],
        "die": ["lost", "lost", "lost"],
    }
    assert (outcome.done, outcome.stopped) == (3, 0)
    reasons = {key.split("(")[1].rstrip(")"): reason for key, reason in outcome.failed.items()}
    assert reasons.keys() == {"raise", "diverge", "misuse", "die"}
    assert reasons["raise"] == "RuntimeError: boom in 02"
    assert reasons["diverge"] == "Diverged: loss nan"
    assert reasons["misuse"].startswith("UserError")
    assert "ActorDiedError" in reasons["die"]
    failed = store.attempts({"02"})[0]
    assert "raise RuntimeError" in failed["traceback"]
    pids = {record["pid"] for cell in grid.cells for record in seen(store, cell.id)}
    assert len(pids) >= 9  # an attempt that ends badly ends its worker: two survive seven such attempts
    for cell in ("02", "05"):  # one that failed, one whose process died without a word
        for name in store.names(f"cells/{cell}/logs"):
            log = store.read(f"cells/{cell}/logs/{name}").decode()
            assert f"printed by {grid.cells[int(cell)].name}" in log
            assert "written by C" in log
    assert "boom" in store.read(f"cells/02/logs/{failed['attempt']}.log").decode()

    _, text = drive(grid, store)
    assert "3 cells failed in an earlier run and are tried again" in text
    assert outcomes(store, "02") == ["failed"] * 4
    assert outcomes(store, "00") == ["done"]


@pytest.mark.ray
def test_workers_are_renewed(two_cpus, store):
    grid = grid_of(*["good"] * 5, renew_after=2, workers=1)
    assert drive(grid, store)[0].done == 5
    pids = [seen(store, cell.id)[0]["pid"] for cell in grid.cells]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]


@pytest.mark.ray
def test_a_cell_that_runs_out_of_memory_is_tried_with_smaller_pieces(two_cpus, store):
    outcome, _ = drive(grid_of("hungry", "good", attempts=1, workers=1), store)
    assert (outcome.done, outcome.failed) == (2, {})
    assert [record["pieces"] for record in seen(store, "00")] == [1, 2, 4]
    assert outcomes(store, "00") == ["failed", "failed", "done"]
    assert "OutOfMemoryError" in store.attempts({"00"})[0]["reason"]


@pytest.mark.ray
def test_cells_of_different_shapes_have_workers_of_their_own(two_cpus, store):
    small, large = {"cpus": 0.5, "labels": {"kind": "small"}}, {"cpus": 2}
    grid = with_runs(grid_of("good", "large", "good-2", "large-2"), large=large, **{"large-2": large, "good-2": small})
    outcome, _ = drive(grid, store)
    assert outcome.done == 4
    assert [seen(store, cell.id)[0]["cpus"] for cell in grid.cells] == [1, 2, 0.5, 2]


@pytest.mark.ray
def test_an_attempt_that_takes_too_long_is_ended(two_cpus, store):
    grid = with_runs(grid_of("hang", "good", workers=1), hang={"limit_seconds": 1.0})
    outcome, _ = drive(grid, store)
    assert outcome.done == 1
    assert outcome.failed == {"00 (hang)": "OverLimit: took longer than run.limit_seconds = 1"}
    assert outcomes(store, "00") == ["failed"]


@pytest.mark.ray
def test_no_more_cells_are_under_way_than_there_are_workers(two_cpus, store, monkeypatch):
    """However many wait: what waits is not in Ray's object store."""
    most, whole = [], driver.Driver._turn

    def turn(self):
        most.append((len(self.busy), len(self.slots), sum(map(len, self.waiting.values()))))
        whole(self)

    monkeypatch.setattr(driver.Driver, "_turn", turn)
    assert drive(grid_of(*["good"] * 20), store)[0].done == 20
    assert max(waiting for _, _, waiting in most) >= 18
    assert all(busy <= slots <= 2 for busy, slots, _ in most)


def test_budgets_of_attempts_are_counted_apart():
    run, tries = Run(attempts=2, lost_attempts=3, memory_attempts=2), Tries()
    lost, failed, memory = Ended("lost"), Ended("failed"), Ended("failed", memory=True)
    assert [tries.spent(ended, run) for ended in (lost, failed, memory, lost)] == [False] * 4
    assert all(tries.spent(ended, run) for ended in (lost, failed, memory))
    assert Tries().spent(Ended("failed", final=True), run)


def test_what_runs_out_of_memory_needs_less_then_gets_more():
    task = Task(grid_of("a").cells[0], Run(gpus=0.25))
    told = []
    for _ in range(4):
        task.tries.spent(Ended("failed", memory=True), task.run)
        task.need_less()
        told.append((task.run.pieces, task.run.gpus))
    assert told == [(2, 0.25), (4, 0.25), (8, 0.5), (16, 1.0)]
    whole = Task(grid_of("a").cells[0], Run(gpus=2), Tries(memory=5))
    whole.need_less()
    assert whole.run.gpus == 2


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (MemoryError(), True),
        (ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory"), True),
        (RuntimeError("boom"), False),
    ],
)
def test_running_out_of_memory_is_recognised(error, memory):
    assert out_of_memory(error) is memory


def test_a_cell_may_not_train_on_more_tokens_than_its_limit(store):
    grid = load_text("base: {architecture: gru, train: {max_length: 2, steps: 20, batch: 8, validation: 4}}")
    (cell,) = grid.cells
    with pytest.raises(OverLimit, match=r"\d+ training tokens, more than run.limit_tokens = 100"):
        run_cell(cell, grid.evaluate(cell), Run(limit_tokens=100), store, "a")


def test_a_grid_may_carry_some_cells_out_otherwise():
    grid = load_text(
        "overrides: [{where: {seed: 1}, run: {gpus: 0.5, labels: {kind: L4}}}]\nrun: {cpus: 2}", seeds=[0, 1]
    )
    first, second = (grid.run(cell) for cell in grid.cells)
    assert (first.cpus, first.gpus, second.cpus, second.gpus, second.labels) == (2, None, 2, 0.5, {"kind": "L4"})
    with pytest.raises(UserError, match=r"overrides.*run: .*workers is the whole grid's, not a cell's"):
        load_text("overrides: [{run: {workers: 2}}]")
    with pytest.raises(UserError, match=r"overrides\[0\].run: unknown key 'gpu' \(did you mean 'gpus'\?\)"):
        load_text("overrides: [{run: {gpu: 2}}]")


def load_text(more, seeds=(0,)):
    return parse(f"name: g\naxes: {{seed: {list(seeds)}}}\nevaluate: {{lengths: [1], problems: 2}}\n{more}", "g")


@pytest.mark.ray
def test_attempts_a_dead_driver_left_open_are_ended(two_cpus, store):
    store.begin_attempt("20200101T000000-dead", {"cell": "00", "started": "2020-01-01T00:00:00+00:00"})
    store.begin_attempt("20200101T000000-else", {"cell": "xx", "started": "2020-01-01T00:00:00+00:00"})
    drive(grid_of("good"), store)
    assert outcomes(store, "00") == ["lost", "done"]
    assert "nothing was heard" in store.attempts({"00"})[0]["reason"]
    assert outcomes(store, "xx") == ["running"]


@pytest.mark.ray
def test_a_store_that_workers_cannot_use_fails_the_cells(two_cpus, store, monkeypatch):
    monkeypatch.setattr(store, "url", "/nowhere/to/be/found")
    outcome, _ = drive(grid_of("good", "good", workers=1), store)
    assert outcome.done == 0
    assert len(outcome.failed) == 2
    assert all(reason.startswith("UserError: store '/nowhere/to/be/found'") for reason in outcome.failed.values())


REAL = """
name: real
base: {architecture: gru, train: {max_length: 2, steps: 100, batch: 8, validation: 8}}
axes: {seed: [0, 1]}
overrides: [{where: {seed: 1}, set: {train.steps: 5}}]
evaluate: {lengths: [1, 2], problems: 3}
run: {workers: 1, checkpoint_seconds: 0.5}
"""


@pytest.mark.ray
@pytest.mark.slow
def test_killed_then_interrupted_then_finished(tmp_path):
    """SIGKILL mid training, Ctrl-C mid training, and the third run finishes both cells from where they were."""
    (tmp_path / "real.yaml").write_text(REAL)
    store = Store(str(tmp_path / "store"))
    command = [sys.executable, "-m", "harness", "run", "real.yaml", "--store", "store", "--no-mlflow"]

    def start():
        output = open(tmp_path / "output", "w")  # noqa: SIM115
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        return subprocess.Popen(
            command, cwd=tmp_path, stdout=output, stderr=output, start_new_session=True, env=environment
        )

    def until_in_training(process, attempts):
        while not (len(store.attempts()) >= attempts and list(Path(store.root).glob("cells/*/training.pt"))):
            assert process.poll() is None, (tmp_path / "output").read_text()
            time.sleep(0.1)

    process = start()
    until_in_training(process, 1)
    process.kill()
    process.wait()
    assert [attempt["outcome"] for attempt in store.attempts()] == ["running"]

    process = start()
    until_in_training(process, 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everything it started, too
    assert process.wait() == 130, (tmp_path / "output").read_text()
    assert [attempt["outcome"] for attempt in store.attempts()] == ["lost", "stopped"]
    assert "stopped; the same command goes on" in (tmp_path / "output").read_text()

    assert start().wait() == 0
    assert [attempt["outcome"] for attempt in store.attempts()] == ["lost", "stopped", "done", "done"]
    first = store.attempts()[0]["cell"]
    assert [record["step"] for record in store.curve(first)] == list(range(10, 101, 10))
    assert not list(Path(store.root).glob("cells/*/training.pt"))


@pytest.mark.ray
def test_an_error_around_the_cell_counts_as_its_own(two_cpus, store):
    store.write("cells/00/logs", b"in the way of the folder for logs")
    outcome, _ = drive(grid_of("good", "good", attempts=2, workers=1), store)
    assert outcome.done == 1
    assert outcome.failed["00 (good)"].startswith("FileExistsError")
    assert outcomes(store, "00") == ["failed", "failed"]


@pytest.mark.ray
def test_what_runs_when_asked_to_stop_is_stopped(two_cpus, store):
    """SIGTERM arrives while one cell works: it is told, the others are left, and none counts as failed."""

    class Killer(Recorder):
        def heard(self, event):
            if self.events.count("killed") == 0:
                self.events.append("killed")
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    outcome, text = drive(grid_of("wait", "good", "good", workers=1), store, tracker=Killer())
    assert (outcome.done, outcome.failed, outcome.stopped) == (0, {}, 3)
    assert outcomes(store, "00") == ["stopped"]
    assert "stopping" in text
    assert signal.getsignal(signal.SIGTERM) == before


def test_with_nothing_to_do_ray_is_not_started(store, monkeypatch):
    grid = grid_of("good", "good")
    for cell in grid.cells:
        finish(cell, EVALUATE, store)
    monkeypatch.setattr(driver, "cluster", None)  # calling it would fail
    outcome, text = drive(grid, store)
    assert (outcome.done, outcome.failed, outcome.stopped) == (2, {}, 0)
    assert "all 2 cells are done already" in text
    assert store.attempts() == []


def test_attempts_sort_by_time_and_never_agree():
    ids = []
    for _ in range(5):
        ids += [attempt_id()]
        time.sleep(0.001)
    assert ids == sorted(ids)
    assert len({attempt_id() for _ in range(2000)}) == 2000


def test_room_counts_what_each_living_node_can_hold():
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 3.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    assert room(nodes, Shape.of(Run(cpus=2))) == 5
    assert room(nodes, Shape.of(Run(cpus=1, gpus=0.25))) == 4
    assert room(nodes, Shape.of(Run(cpus=0.1, gpus=0.1))) == 10
    assert room(nodes, Shape.of(Run(cpus=16))) == 0
    labelled = [{**nodes[0], "Labels": {"kind": "H100"}}, {**nodes[1], "Labels": {"kind": "L4"}}]
    assert room(labelled, Shape.of(Run(labels={"kind": "L4"}))) == 3
    assert room(labelled, Shape.of(Run(labels={"kind": "L4", "zone": "a"}))) == 0


def test_workers_take_a_gpu_where_there_are_any():
    nodes = [{"Alive": True, "Resources": {"CPU": 8.0}}, {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}]
    assert with_gpus(Run(), nodes).gpus == 1
    assert with_gpus(Run(), nodes[:1]).gpus == 0
    assert with_gpus(Run(), [{**nodes[1], "Alive": False}]).gpus == 0
    assert with_gpus(Run(gpus=0), nodes).gpus == 0
    assert with_gpus(Run(gpus=0.25), nodes[:1]).gpus == 0.25


def test_longest_cells_come_first():
    grid = grid_of("a", "b", "c")
    lengths = {"a": 5, "b": 50, "c": 20}
    cells = [Resolved(cell.id, cell.name, Cell(train={"max_length": lengths[cell.name]})) for cell in grid.cells]
    todo = {cell.id: missing(cell, EVALUATE, FakeStore(trained={"01"})) for cell in cells}
    assert [cell.name for cell in longest_first(cells, todo)] == ["c", "a", "b"]  # b only needs evaluation
    far = Evaluate(lengths=(100_000,), problems=1000)
    todo["01"] = missing(cells[1], far, FakeStore(trained={"01"}))
    assert [cell.name for cell in longest_first(cells, todo)] == ["b", "c", "a"]


class FakeStore:
    def __init__(self, trained):
        self.trained = trained

    def held(self, cell):
        return Held({"checkpoint": "0" * 32} if cell in self.trained else None, [])


def test_a_relative_store_is_refused_inside_a_job_only(monkeypatch):
    refuse_relative_store("results")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    refuse_relative_store("/shared/results")
    refuse_relative_store("s3://bucket/results")
    with pytest.raises(UserError, match="'results': inside a submitted job a relative path is a scratch folder"):
        refuse_relative_store("results")


def test_an_address_that_cannot_be_joined_is_refused_at_once(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", None)  # Ray would try for minutes
    for address in ("http://127.0.0.1:8265", "ray://127.0.0.1:10001"):
        with pytest.raises(UserError, match=r"is not one to join .* give HOST:PORT or auto"), cluster(address):
            pass
    with socket.socket() as bound:  # bound, but nobody listens
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with (
            pytest.raises(UserError, match=f"no Ray cluster answers at '{address}': ConnectionRefused"),
            cluster(address),
        ):
            pass
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(UserError, match=f"no Ray cluster answers at '{address}'"), cluster(None):
            pass
    with pytest.raises(UserError, match="no Ray cluster answers at 'here:there'"), cluster("here:there"):
        pass


def test_progress_says_how_it_goes(monkeypatch):
    at = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: at[0])
    console = Console(file=io.StringIO(), width=200)
    cells = grid_of("alpha", "beta", "gamma").cells
    with Progress(console, todo=3, already_done=4) as progress:
        for cell in cells[:2]:
            progress.started(cell)
        for at[0], step in ((10.0, 20), (20.0, 40)):
            progress.heard({"cell": "00", "phase": "training", "step": step, "steps": 100, "loss": 0.25})
        progress.heard({"cell": "99", "phase": "training", "step": 1, "steps": 2, "loss": 9.0})
        point = {"length": 7, "exact": 0.5}
        progress.heard({"cell": "01", "phase": "evaluating", "points_done": 1, "points": 4, "point": point})
        progress.tick()
        assert progress.running["00"].left(20.0) == 30.0  # 60 steps at 20 in 10 s
        assert "0:30" in console_text(progress.render())
    assert console.file.getvalue().split("\n")[0] == (
        "0:20 cells: 4 done, 2 running, 1 waiting, about 0:53 left; alpha training step 40/100 loss 0.25; "
        "beta evaluating point 1/4 length 7: 50%"
    )
    progress.ended(cells[0], "done")
    progress.ended(cells[1], "failed")
    assert progress.summary() == "0:20 cells: 5 done, 0 running, 1 waiting, 1 failed, about 0:10 left"
    assert clock(3723) == "1:02:03"


def console_text(shown):
    console = Console(file=io.StringIO(), width=200)
    console.print(shown)
    return console.file.getvalue()


def test_a_ray_that_does_not_start_gives_one_line(monkeypatch):
    def too_slow(*_, **__):
        raise Exception("The current node timed out during startup")  # what Ray raises on a busy machine

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", too_slow)
    with (
        pytest.raises(UserError, match=r"Ray at this machine cannot be used: .*timed out during startup"),
        cluster(None),
    ):
        pass


@pytest.mark.ray
@pytest.mark.slow
def test_a_lost_node_costs_an_attempt_only(store):
    from ray.cluster_utils import Cluster

    ray.shutdown()
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": MEMORY})
    doomed = nodes.add_node(num_cpus=1, object_store_memory=MEMORY)
    ray.init(nodes.address, log_to_driver=False)

    class Reaper(Recorder):
        def heard(self, event):
            if not self.events:
                self.events.append("node removed")
                nodes.remove_node(doomed, allow_graceful=False)
                nodes.add_node(num_cpus=1, object_store_memory=MEMORY)

    def slow_once(cell, evaluate, run, store, attempt, report, stop):
        report({"cell": cell.id, "phase": "training", "step": 1, "steps": 2, "loss": 0.5, "curve": [{"step": 1}]})
        if len(store.attempts({cell.id})) == 1:
            time.sleep(600)
        finish(cell, evaluate, store)

    try:
        reaper = Reaper()
        reaper.begin = reaper.started = reaper.ended = lambda *arguments: None
        console = Console(file=io.StringIO())
        outcome = run_grid(grid_of("node"), store, console=console, carry=slow_once, tracker=reaper)
        assert outcome.done == 1
        assert outcomes(store, "00") == ["lost", "done"]
    finally:
        ray.shutdown()
        nodes.shutdown()

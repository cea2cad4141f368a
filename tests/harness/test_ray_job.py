"""`ray job submit` against a local head with token authentication, word for word as the documentation has it."""

import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import ray  # noqa: F401  (its bundled psutil is put on the path)

from harness.store import Store

ROOT = Path(__file__).parents[2]
ENTRYPOINT = "python -m harness run harness/grids/demo.yaml"
TINY = (
    "setting=interactive architecture=gru seed=0 train.steps=3 train.batch=8 train.validation=4 "
    "evaluate.lengths=[1,2] evaluate.problems=2 run.workers=1"
)
SETTINGS = " ".join(f"--set {setting}" for setting in TINY.split())
PATIENCE = 240


def free_ports(count):
    held = [socket.socket() for _ in range(count)]
    for each in held:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


class Head:
    """A Ray head of its own: own ports, own folder, own token; ended by its process group."""

    def __init__(self, folder):
        port, dashboard, agent, client = free_ports(4)
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.stranger = {**clean, "PATH": path, "RAY_ADDRESS": f"http://127.0.0.1:{dashboard}"}
        self.friend = {**self.stranger, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        options = (
            f"--head --block --port {port} --num-cpus 2 --object-store-memory {200 * 2**20} --temp-dir {folder} "
            f"--dashboard-host 127.0.0.1 --dashboard-port {dashboard} --dashboard-agent-listen-port {agent} "
            f"--ray-client-server-port {client} --disable-usage-stats"
        )
        own = {name: value for name, value in self.friend.items() if name != "RAY_ADDRESS"}
        self.log = folder / "head.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                ["ray", "start", *options.split()], env=own, stdout=log, stderr=log, start_new_session=True
            )
        self.folder = folder

    def wait(self):
        deadline = time.monotonic() + PATIENCE
        while self.ray("job list").returncode != 0:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(1)

    def ray(self, arguments, environment=None):
        return subprocess.run(
            ["ray", *shlex.split(arguments)],
            env=environment or self.friend,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def submit(self, name, entrypoint):
        return self.ray(f"job submit --submission-id {name} --working-dir . -- {entrypoint}")

    def status(self, name):
        """How a job ended. Tailing its log may end before it does, so the status is asked for."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            said = self.ray(f"job status {name}")
            if found := re.search(rf"Job '{name}' (succeeded|failed|was stopped)", said.stdout + said.stderr):
                return found[1]
            time.sleep(1)
        raise AssertionError(f"job {name} did not end: {said.stdout}{said.stderr}")

    def end(self):
        self.process.send_signal(signal.SIGTERM)  # with --block, it ends what it started
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module")
def head():
    folder = Path(tempfile.mkdtemp(prefix="lw"))  # socket names in it must stay short
    started = Head(folder)
    try:
        started.wait()
        yield started
    finally:
        started.end()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.ray
@pytest.mark.slow
def test_a_submitted_job_runs_a_grid_and_writes_its_report(head, tmp_path):
    answer = head.submit("grid", f"{ENTRYPOINT} --store {tmp_path / 'store'} {SETTINGS}")
    assert head.status("grid") == "succeeded", answer.stdout + answer.stderr
    store = Store(str(tmp_path / "store")).open()
    assert [attempt["outcome"] for attempt in store.attempts()] == ["done"]
    assert store.read("grids/demo/report.html").startswith(b"<!doctype html>")
    assert store.exists("mlflow.db")
    packed = [path.name for path in head.folder.rglob("working_dir_files/*/*")]
    assert "harness" in packed
    assert ".venv" not in packed


HALVES = """
name: halves
base: {architecture: gru, setting: interactive, train: {max_length: 2, batch: 16, validation: 8}}
axes: {train.steps: [20, 250], seed: [0]}
evaluate: {lengths: [1, 2, 4], problems: 8}
run: {workers: 1, checkpoint_seconds: 0.2}
"""
"""Two cells, of which the longer comes first."""


def submitting(head, grid, store, **more):
    """`lengthwise submit` of the grid, as a process whose output goes to a file."""
    command = [sys.executable, "-m", "harness", "submit", str(grid), "--store", str(store), "--folder", str(ROOT)]
    output = (store.parent / f"{more['name']}.log").open("w")
    return subprocess.Popen(
        [*command, "--name", more["name"]], env=head.friend, cwd=grid.parent, stdout=output, stderr=output
    )


def driver_of(grid_file):
    """The process of a submitted job's driver."""
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if command[1:4] == ["-m", "harness", "run"] and grid_file in command:
            return process
    return None


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_whose_driver_is_killed_half_way_ends_with_the_same_report_when_it_is_submitted_again(head, tmp_path):
    grid = tmp_path / "halves.yaml"
    grid.write_text(HALVES)
    undisturbed, store = tmp_path / "undisturbed", tmp_path / "store"
    assert submitting(head, grid, undisturbed, name="whole").wait(PATIENCE) == 0, (tmp_path / "whole.log").read_text()

    first = submitting(head, grid, store, name="first")
    deadline = time.monotonic() + PATIENCE
    while not list(store.glob("cells/*/training.pt")):
        assert first.poll() is None, (tmp_path / "first.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    driver_of("submitted-halves.yaml").kill()
    assert first.wait(PATIENCE) == 137, (tmp_path / "first.log").read_text()
    assert not list(store.glob("cells/*/published.json")), "half way"

    assert submitting(head, grid, store, name="second").wait(PATIENCE) == 0, (tmp_path / "second.log").read_text()
    said = (tmp_path / "second.log").read_text()
    assert "2 done, 0 running" in said
    assert said.count("report: ") == 1
    outcomes = [attempt["outcome"] for attempt in Store(str(store)).open().attempts()]
    assert outcomes == ["lost", "done", "done"]
    assert points(grid, store) == points(grid, undisturbed)
    assert len(points(grid, store)) == 1 + 2 * 3


TIMINGS = ("seconds", "memory", "rate")


def points(grid, store):
    """What the report's table of points says, apart from timings."""
    out = store.parent / f"{store.name}.csv"
    command = ["report", str(grid), "--store", str(store), "--format", "csv", "--out", str(out)]
    subprocess.run([sys.executable, "-m", "harness", *command], check=True, cwd=ROOT, capture_output=True)
    lines = [line.split(",") for line in out.read_text().splitlines()]
    kept = [at for at, name in enumerate(lines[0]) if not any(word in name for word in TIMINGS)]
    return [[line[at] for at in kept] for line in lines]


@pytest.mark.ray
@pytest.mark.slow
def test_submitting_says_beforehand_what_cannot_work(head, tmp_path):
    def tell(*options, **changes):
        environment = {name: value for name, value in {**head.friend, **changes}.items() if value is not None}
        command = [sys.executable, "-m", "harness", "submit", "demo", *options]
        answer = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
        assert "Traceback" not in answer.stderr
        return answer.returncode, answer.stderr + answer.stdout

    assert tell("--store", "results")[0] == 2
    status, said = tell("--store", str(tmp_path), RAY_AUTH_MODE=None)
    assert (status, "wants a token" in said) == (2, True), said
    (tmp_path / "file").touch()
    status, said = tell("--store", str(tmp_path / "file" / "store"), "--no-mlflow", "--name", "unreachable")
    assert status == 2
    assert "lengthwise: preflight: store: " in said


@pytest.mark.ray
@pytest.mark.slow
def test_a_relative_store_is_refused_in_a_job(head):
    answer = head.submit("relative", f"{ENTRYPOINT} --store results {SETTINGS}")
    assert head.status("relative") == "failed"
    logs = head.ray("job logs relative").stdout
    assert "lengthwise: --store 'results': inside a submitted job a relative path is a scratch folder" in logs
    assert "Traceback" not in answer.stdout + logs


@pytest.mark.ray
@pytest.mark.slow
def test_without_the_token_nothing_can_be_submitted(head):
    (head.folder / "home").mkdir(exist_ok=True)
    stranger = {**head.stranger, "HOME": str(head.folder / "home"), "RAY_AUTH_MODE": "disabled"}
    answer = head.ray("job submit --submission-id stranger -- true", stranger)
    assert answer.returncode != 0
    assert "401" in answer.stdout + answer.stderr or "nauthori" in answer.stdout + answer.stderr
    assert "stranger" not in head.ray("job list").stdout

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

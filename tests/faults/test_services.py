"""With real services, started here: SeaweedFS as the S3 endpoint, MLflow's server on PostgreSQL."""

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.collect import report_data
from harness.errors import UserError
from harness.gc import garbage
from harness.grid import parse
from harness.plan import print_status
from harness.schema import ROWS
from harness.store import Store
from harness.tracking import CELL, EXPERIMENT, Tracker, sync
from harness.work import run_cell

BIN = Path(sys.executable).parent
PATIENCE = 180
GRID = """
name: services
base: {architecture: gru, train: {max_length: 2, steps: 20, batch: 8, validation: 4}}
axes: {seed: [0, 1]}
evaluate: {lengths: [1, 2], problems: 4}
run: {gpus: 0, workers: 1, checkpoint_seconds: 0.05}
"""
TIMINGS = {"seconds", "attempt"}


def free_ports(count):
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def until(condition, process, log):
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return condition()
        except Exception:
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < end, log.read_text()[-4000:]
            time.sleep(0.3)


@contextlib.contextmanager
def running(command, log, **more):
    with log.open("a") as output:
        process = subprocess.Popen(
            [str(part) for part in command], stdout=output, stderr=output, start_new_session=True, **more
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """A bucket of a SeaweedFS server, with a key of its own; the environment has what clients need."""
    import s3fs

    folder = tmp_path_factory.mktemp("weed")
    rights = {"name": "test", "credentials": [{"accessKey": "key", "secretKey": "secret"}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [rights]}))
    (folder / "data").mkdir()
    names = ["master", "master.port.grpc", "volume", "volume.port.grpc", "filer", "filer.port.grpc"]
    ports = dict(zip([*names, "s3", "s3.port.grpc"], free_ports(8)))
    options = [f"-{name if 'port' in name else f'{name}.port'}={port}" for name, port in ports.items()]
    log = folder / "log"
    command = [BIN / "weed", "-logtostderr=true", "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-filer"]
    command += ["-ip.bind=127.0.0.1", "-s3", f"-s3.config={folder / 's3.json'}", *options]
    command += ["-master.volumeSizeLimitMB=64", "-volume.max=20"]
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch, running(command, log) as process:
        for name, value in {**keys, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{ports['s3']}"}.items():
            patch.setenv(name, value)

        def ready():
            fs = s3fs.S3FileSystem(skip_instance_cache=True)
            fs.makedirs("results", exist_ok=True)
            fs.pipe_file("results/ready", b"")

        until(ready, process, log)
        yield "s3://results"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """The URI of a database; the server runs as another user than root, which it demands."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (found[-1] if found else None)
    if initdb is None:
        pytest.skip("needs PostgreSQL (apt-get install postgresql)")
    folder = Path(f"/tmp/lengthwise-postgres-{os.getpid()}")
    folder.mkdir(mode=0o700)
    binaries, more = Path(initdb).resolve().parent, {}
    if os.getuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        more = {"user": user.pw_uid, "group": user.pw_gid}
    try:
        create = [binaries / "initdb", "-D", folder / "data", "-U", "mlflow", "-A", "trust"]
        subprocess.run(create, check=True, capture_output=True, cwd="/", **more)
        (port,) = free_ports(1)
        log = tmp_path_factory.mktemp("postgres") / "log"
        command = [binaries / "postgres", "-D", folder / "data", "-p", port, "-k", folder, "-h", "127.0.0.1"]
        with running(command, log, cwd="/", **more) as process:
            uri = f"postgresql+psycopg2://mlflow:hunter2@127.0.0.1:{port}/postgres"

            def ready():
                import psycopg2

                psycopg2.connect(uri.replace("+psycopg2", "")).close()

            until(ready, process, log)
            yield uri
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Server:
    """MLflow's server on the database, to be stopped and started."""

    def __init__(self, uri, folder):
        (self.port,) = free_ports(1)
        self.url, self.log = f"http://127.0.0.1:{self.port}", folder / "log"
        options = f"--host 127.0.0.1 --port {self.port} --workers 1 --backend-store-uri {uri}".split()
        self.command = [BIN / "mlflow", "server", *options, "--artifacts-destination", folder / "artifacts"]
        self.stack = contextlib.ExitStack()

    def start(self):
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.process = self.stack.enter_context(running(self.command, self.log, env=environment))
        until(lambda: urllib.request.urlopen(f"{self.url}/health", timeout=2).close(), self.process, self.log)

    def stop(self):
        self.stack.close()

    def signal(self, number):
        os.killpg(self.process.pid, number)


@pytest.fixture(scope="module")
def mlflow_server(postgres, tmp_path_factory):
    server = Server(postgres, tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.stop()


def grid():
    return parse(GRID, "services")


def carry(cell, store, report=lambda event: None):
    run_cell(cell, grid().evaluate(cell), grid().run(cell), store, f"attempt-{cell.id}", report)
    store.begin_attempt(f"attempt-{cell.id}", {"cell": cell.id, "started": "2026-01-01T00:00:00+00:00"})
    store.end_attempt(f"attempt-{cell.id}", {"outcome": "done", "ended": "2026-01-01T00:01:00+00:00"})


def carried(store):
    for cell in grid().cells:
        carry(cell, store)
    return store


def rows_of(store):
    rows = [row for cell in grid().cells for row in store.rows(cell.id)]
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in rows]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return carried(Store(str(tmp_path_factory.mktemp("local") / "store")).open(create=True))


@pytest.mark.long
def test_the_first_writer_wins_on_s3(s3):
    store = Store(f"{s3}/race").open(create=True)
    assert store.create("a", b"1")
    assert not store.create("a", b"2")
    assert store.read("a") == b"1"
    with ThreadPoolExecutor(8) as writers:
        firsts = list(writers.map(lambda number: store.create("b", str(number).encode()), range(16)))
    assert sum(firsts) == 1
    assert store.read("b") == str(firsts.index(True)).encode()
    assert store.names("nothing") == []
    assert not store.exists("nothing")


@pytest.mark.long
def test_a_bucket_holds_what_a_folder_does(s3, local, capsys):
    far = carried(Store(f"{s3}/cells").open(create=True))
    assert rows_of(far) == rows_of(local)
    print_status(grid(), far)
    assert capsys.readouterr().out.endswith("2 done\n")
    data = report_data(grid(), far)
    assert set(data.cells["status"]) == {"done"}
    assert len(data.rows) == len(rows_of(local))
    far.write(f"cells/{grid().cells[0].id}/training.pt", b"left")
    assert [one.why for one in garbage(far)] == ["the cell is published"]
    assert all(name in ROWS for name in data.rows.columns)


@pytest.mark.long
@pytest.mark.ray
def test_the_command_runs_a_grid_on_s3_with_mlflow_on_postgresql(s3, mlflow_server, local, tmp_path):
    (tmp_path / "grid.yaml").write_text(GRID)
    command = [BIN / "python", "-m", "harness", "run", "grid.yaml", "--store", f"{s3}/run", "--preflight"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": mlflow_server.url}
    environment.pop("RAY_ADDRESS", None)
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    store = Store(f"{s3}/run").open()
    assert rows_of(store) == rows_of(local)
    assert store.read("grids/services/report.html").startswith(b"<!doctype html>")
    assert all(store.names(f"cells/{cell.id}/logs") for cell in grid().cells)
    assert runs(mlflow_server, store) == {cell.id: "FINISHED" for cell in grid().cells}


def runs(server, store):
    """Cell -> status of its run on the server."""
    from mlflow import MlflowClient

    client = MlflowClient(server.url)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    found = client.search_runs([experiment.experiment_id], f"tags.`lengthwise.store` = '{store.url}'")
    return {run.data.tags[CELL]: run.info.status for run in found if CELL in run.data.tags}


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["down", "slow"])
def test_mlflow_goes_away_and_comes_back(trouble, mlflow_server, local, tmp_path, monkeypatch, witness):
    """No cell waits for it; what it missed is made up for at the end, or by `mlflow sync`."""
    witness.fault = f"MLflow {trouble}, and back"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("harness.tracking.QUIET_SECONDS", 0.5)
    store = Store(str(tmp_path / "store")).open(create=True)
    said, waited = [], 0.0
    tracker = Tracker(mlflow_server.url, store)
    tracker.begin(grid(), said.append)
    mlflow_server.stop() if trouble == "down" else mlflow_server.signal(signal.SIGSTOP)
    for cell in grid().cells:
        began = time.monotonic()
        tracker.started(cell)
        waited += time.monotonic() - began
        carry(cell, store, tracker.heard)
        began = time.monotonic()
        tracker.ended(cell, "done")
        waited += time.monotonic() - began
    assert waited < 1, "a cell waits for MLflow"
    mlflow_server.start() if trouble == "down" else mlflow_server.signal(signal.SIGCONT)
    time.sleep(1)
    tracker.finish_grid(grid(), store)
    tracker.close()
    if tracker.missed:
        assert len(said) == 1
        assert "results are not affected" in said[0]
    sync(grid(), store, mlflow_server.url)
    assert runs(mlflow_server, store) == {cell.id: "FINISHED" for cell in grid().cells}
    witness.compare(grid(), store, local)


@pytest.mark.long
def test_no_password_is_told(postgres, local):
    with pytest.raises(UserError, match=r"mlflow:\*\*\*@127") as told:
        sync(grid(), local, postgres.replace("psycopg2", "nodriver"))
    assert "hunter2" not in str(told.value)

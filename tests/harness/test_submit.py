"""Submitting a job: what usually breaks is said before anything is sent, and the job's status is what counts."""

import http.server
import os
import subprocess
import threading
import time
import zipfile
from types import SimpleNamespace

import pytest

from harness import submit
from harness.errors import UserError, one_line
from harness.grid import parse
from harness.submit import Job, check_secret, check_store, check_token, follow, job_environment, pack

TEXT = """
name: g
base: {train: {steps: 3}}
axes: {seed: [0]}
evaluate: {lengths: [1]}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A checkout with a module, a note, and something git ignores."""
    place = tmp_path / "checkout"
    place.mkdir()
    (place / "mine.py").write_text("x = 1\n")
    (place / ".gitignore").write_text("ignored*\n")
    (place / "ignored.txt").write_text("large\n")
    subprocess.run(["git", "init", "-q", place], check=True)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    return place


def job(folder, text=TEXT, **more):
    return Job(parse(text, "g.yaml", ["train.steps=5"]), "/shared/results", folder, **more)


def names(package):
    return zipfile.ZipFile(package).namelist()


def test_the_package_has_the_checkout_and_the_grid_as_it_was_read(folder, tmp_path):
    package = pack(job(folder), tmp_path / "a.zip")
    assert names(package) == [".gitignore", "mine.py", "submitted-g.yaml"]
    sent = zipfile.ZipFile(package).read("submitted-g.yaml").decode()
    assert parse(sent, "sent").cells == job(folder).grid.cells
    assert package.read_bytes() == pack(job(folder), tmp_path / "b.zip").read_bytes()


def test_outside_a_checkout_everything_but_hidden_folders_travels(tmp_path):
    for name in ("a/b.py", ".venv/lib.py", "__pycache__/b.pyc"):
        (tmp_path / "plain" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "plain" / name).touch()
    assert names(pack(job(tmp_path / "plain"), tmp_path / "a.zip")) == ["a/b.py", "submitted-g.yaml"]


@pytest.mark.parametrize("named", ["ignored_data.jsonl", "ignored_task.py"])
def test_a_file_the_grid_names_and_git_ignores_is_missed(folder, tmp_path, named):
    (folder / named).touch()
    word = "ignored_task:Task" if named.endswith(".py") else f"tasks.retrieval:{named}"
    asked = job(folder)
    object.__setattr__(asked.grid, "text", f"base: {{task: '{word}'}}")
    with pytest.raises(UserError, match=f"^{named}: the grid needs it and git ignores it"):
        pack(asked, tmp_path / "a.zip")


def test_a_package_over_the_limit_is_refused_with_its_largest_files(folder, tmp_path, monkeypatch):
    (folder / "weights.bin").write_bytes(os.urandom(3 * 2**20))
    monkeypatch.setattr(submit, "LIMIT", 2 * 2**20)
    with pytest.raises(UserError, match=r"3 MiB would travel with the job.*2 MiB.*the largest files are weights.bin"):
        pack(job(folder), tmp_path / "a.zip")


def test_the_token_does_not_travel(folder, tmp_path, monkeypatch):
    (folder / "token").write_text("secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(folder / "token"))
    with pytest.raises(UserError, match="the token lies in the folder that travels"):
        pack(job(folder), tmp_path / "a.zip")


def test_the_command_of_the_job(folder):
    assert job(folder).entrypoint == "python -m harness run submitted-g.yaml --store /shared/results --preflight"
    assert job(folder, mlflow=False).entrypoint.endswith("--preflight --no-mlflow")
    assert job(folder, name="mine").id == "mine"
    assert job(folder).id.startswith("g-2")


def test_stores_a_job_could_not_use_are_refused():
    check_store("/shared/results")
    check_store("s3://bucket/results")
    with pytest.raises(UserError, match="--store 'results': a relative path is a scratch folder"):
        check_store("results")


def test_passwords_are_not_sent_along(monkeypatch):
    with pytest.raises(UserError, match="--store holds a password"):
        check_secret("--store", "ftp://user:hunter2@host/results")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://mlflow:hunter2@host/mlflow")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI holds a password") as told:
        job_environment()
    assert "hunter2" not in str(told.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert job_environment()["MLFLOW_TRACKING_URI"] == "http://host:5000"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    assert "hunter2" not in str(job_environment())


def test_errors_keep_no_passwords():
    told = one_line(RuntimeError("no answer from postgresql://mlflow:hunter2@db:5432/mlflow?x=1"))
    assert told == "RuntimeError: no answer from postgresql://mlflow:***@db:5432/mlflow?x=1"


@pytest.fixture
def dashboard():
    """An HTTP server that answers every request with the status it was told."""
    status = [401]

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status[0])
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", status
        server.shutdown()


def test_a_cluster_that_takes_jobs_from_anybody_is_refused(dashboard):
    address, status = dashboard
    status[0] = 200
    with pytest.raises(UserError, match="takes jobs from anybody: start its head with RAY_AUTH_MODE=token"):
        check_token(address, allow_open=False)
    check_token(address, allow_open=True)


def test_the_token_has_to_be_there_and_private(dashboard, tmp_path, monkeypatch):
    address, status = dashboard
    token = tmp_path / "token"
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    with pytest.raises(UserError, match="wants a token: export RAY_AUTH_MODE=token"):
        check_token(address, allow_open=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(UserError, match="no token is there"):
        check_token(address, allow_open=False)
    token.write_text("x")
    token.chmod(0o644)
    monkeypatch.setattr("harness.exposure.closed", lambda folder: False)
    with pytest.raises(UserError, match="others can read the token; chmod 600"):
        check_token(address, allow_open=False)
    token.chmod(0o600)
    check_token(address, allow_open=False)
    status[0] = 500
    with pytest.raises(UserError, match="answers 500; is this a Ray dashboard"):
        check_token(address, allow_open=False)


def test_nothing_at_the_address_is_said_in_a_line():
    with pytest.raises(UserError, match=r"nothing answers at http://127.0.0.1:1 .* open a tunnel: ssh -L"):
        check_token("http://127.0.0.1:1", allow_open=False)


class Client:
    """A head whose log breaks off after every piece, and whose status comes late or not at all."""

    def __init__(self, statuses, code=None):
        self.statuses, self.code, self.text = statuses, code, "one\ntwo\nthree\n"

    def get_job_info(self, job):
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if isinstance(status, Exception):
            raise status
        return SimpleNamespace(status=status, driver_exit_code=self.code)

    async def tail_job_logs(self, job):
        yield "one\n"
        yield "two\n"
        raise RuntimeError("closed unexpectedly")

    def get_job_logs(self, job):
        return self.text


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(submit, "POLL_SECONDS", 0.01)


@pytest.mark.parametrize(
    ("statuses", "code", "expected"),
    [
        (["PENDING", "RUNNING", "RUNNING", "SUCCEEDED"], 0, 0),
        (["RUNNING", ConnectionError("away"), "RUNNING", "FAILED"], 2, 2),
        (["FAILED"], None, 1),
        (["STOPPED"], None, 130),
    ],
)
def test_following_ends_with_the_jobs_status_and_tells_everything_once(monkeypatch, at_once, statuses, code, expected):
    written = []
    monkeypatch.setattr(submit, "connect", lambda address: Client(statuses, code))
    assert follow("http://head", "j", written.append) == expected
    assert "".join(written) == "one\ntwo\nthree\n"


def test_a_head_that_stays_away_is_given_up(monkeypatch, at_once):
    monkeypatch.setattr(submit, "LOST_SECONDS", 0.05)
    monkeypatch.setattr(submit, "connect", lambda address: Client(["RUNNING", ConnectionError("away")]))
    began = time.monotonic()
    with pytest.raises(UserError, match=r"job j: .* does not say how it stands .*`lengthwise status`"):
        follow("http://head", "j", lambda text: None)
    assert time.monotonic() - began > 0.05

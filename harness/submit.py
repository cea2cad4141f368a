"""A grid as a job of a Ray cluster, without the ways in which `ray job submit` goes wrong.

What usually breaks is checked before anything is sent: the token, the size of the package, files that git ignores, the
store's path. Whether the workers reach the store and the driver MLflow is looked at on the cluster, as the job's first
act (`harness.preflight`). The job's status is asked for until it has ended: its log may end earlier.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from harness.errors import UserError, one_line
from harness.exposure import others_can_read
from harness.grid import Grid

LIMIT = 512 * 2**20
"""Bytes of a package, beyond which Ray refuses it."""
POLL_SECONDS = 2.0
LOST_SECONDS = 600.0
"""A head that does not answer for so long is given up; the job may go on."""
LEFT_OUT = {".git", ".venv", "venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
"""Folders that never travel where git does not say what does."""
ENDED = {"SUCCEEDED": 0, "FAILED": 1, "STOPPED": 130}
"""Status of a job that has ended -> exit status, where its command had none of its own."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """What is to be submitted."""

    grid: Grid
    store: str
    folder: Path
    """Its files travel with the job."""
    mlflow: bool = True
    name: str = ""
    max_gpu_hours: float | None = None
    """Looked at on the cluster, where the store is."""

    @property
    def id(self) -> str:
        return self.name or f"{self.grid.file.name}-{datetime.now(UTC):%Y%m%dT%H%M%S}"

    @property
    def file(self) -> str:
        """The grid as it was read here, `--set` applied, under this name in the package."""
        return f"submitted-{self.grid.file.name}.yaml"

    @property
    def entrypoint(self) -> str:
        options = [] if self.mlflow else ["--no-mlflow"]
        options += [] if self.max_gpu_hours is None else ["--max-gpu-hours", f"{self.max_gpu_hours:g}"]
        return shlex.join(["python", "-m", "harness", "run", self.file, "--store", self.store, "--preflight", *options])


def submit(job: Job, address: str, say: Say, allow_open: bool = False) -> str:
    """Check what can be checked from here, send the job, and return its id. Raises UserError for what would fail."""
    check_store(job.store)
    environment = job_environment()
    check_token(address, allow_open)
    with tempfile.TemporaryDirectory() as scratch:
        package = pack(job, Path(scratch) / "package.zip")
        say(f"package: {package.stat().st_size / 2**20:.1f} MiB")
        runtime = {"working_dir": str(package), "env_vars": environment}
        try:
            client = connect(address)
            sent: str = client.submit_job(entrypoint=job.entrypoint, submission_id=job.id, runtime_env=runtime)
        except (RuntimeError, ConnectionError, ValueError) as error:
            raise UserError(f"submit: {one_line(error)}") from error
    return sent


def connect(address: str) -> Any:
    """Ray's client of jobs. Raises UserError when nothing answers."""
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except Exception as error:  # Ray raises RuntimeError, ConnectionError, its own and requests' errors
        raise UserError(f"no Ray jobs at {address!r}: {one_line(error)}") from error


# what usually breaks -----------------------------------------------------------------------------------------------


def check_store(url: str) -> None:
    """Raise UserError for a store that a job could not use, or that would give away a password."""
    if "://" not in url and not os.path.isabs(url):
        raise UserError(
            f"--store {url!r}: a relative path is a scratch folder inside a job; give an absolute path that every node "
            "sees, or a URL (s3://, gs://)"
        )
    check_secret("--store", url)


def check_secret(name: str, url: str) -> None:
    """Raise UserError for a URL with a password: a job's command and environment can be read by whoever sees jobs."""
    if "://" in url and urlsplit(url).password:
        raise UserError(f"{name} holds a password, which the job's record would show; set it on the nodes instead")


def job_environment() -> dict[str, str]:
    """What the job is told of this environment: where MLflow is, and no secret."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        check_secret("MLFLOW_TRACKING_URI", uri)
    return {"PYTHONUNBUFFERED": "1", **({"MLFLOW_TRACKING_URI": uri} if uri else {})}


def check_token(address: str, allow_open: bool) -> None:
    """Raise UserError unless the cluster wants a token and there is one here that only this user can read."""
    try:
        urllib.request.urlopen(f"{address.rstrip('/')}/api/jobs/", timeout=10).close()
        is_open = True
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):
            raise UserError(f"{address}: answers {error.code}; is this a Ray dashboard?") from error
        is_open = False
    except (OSError, ValueError) as error:
        raise UserError(
            f"nothing answers at {address} ({one_line(error)}); for a head elsewhere open a tunnel: "
            "ssh -L 8265:127.0.0.1:8265 HEAD"
        ) from error
    if is_open and not allow_open:
        raise UserError(
            f"{address} takes jobs from anybody: start its head with RAY_AUTH_MODE=token (docs/cluster.md), "
            "or say --allow-open"
        )
    if is_open:
        return
    if os.environ.get("RAY_AUTH_MODE") != "token":
        raise UserError(f"{address} wants a token: export RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH=FILE")
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = token_file()
    if not path.is_file():
        raise UserError(f"{path}: no token is there; it is the head's, copied by a way others cannot read")
    if others_can_read(path):
        raise UserError(f"{path}: others can read the token; chmod 600 {path}")


def token_file() -> Path:
    """Where Ray looks for the token."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()


# the package -------------------------------------------------------------------------------------------------------


def pack(job: Job, target: Path) -> Path:
    """Write the job's files as a zip, the same for the same files, so that Ray sends them once.

    Raises UserError for a package over the limit, one with the token in it, and for files the grid names that git
    ignores.
    """
    files = travelling(job.folder)
    if job.folder.joinpath(token_file()).resolve() in {(job.folder / name).resolve() for name in files}:
        raise UserError(f"{token_file()}: the token lies in the folder that travels with the job; move it away")
    if left_out := sorted(named_files(job.grid.text, job.folder) - set(files)):
        raise UserError(f"{', '.join(left_out)}: the grid needs it and git ignores it, so it would be left out")
    size = sum((job.folder / name).stat().st_size for name in files)
    if size > 4 * LIMIT:
        raise UserError(_too_large(size, files, job.folder))
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in files:
            _add(archive, name, (job.folder / name).read_bytes())
        _add(archive, job.file, job.grid.text.encode())
    if target.stat().st_size > LIMIT:
        raise UserError(_too_large(target.stat().st_size, files, job.folder))
    return target


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name)  # dated 1980, always
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, data, zipfile.ZIP_DEFLATED)


def _too_large(size: int, files: Iterable[str], folder: Path) -> str:
    largest = sorted(files, key=lambda name: -(folder / name).stat().st_size)[:3]
    return (
        f"{folder}: {size / 2**20:.0f} MiB would travel with the job, more than Ray's {LIMIT // 2**20} MiB; the largest"
        f" files are {', '.join(largest)}: let git ignore them or move them away"
    )


def travelling(folder: Path) -> list[str]:
    """The files below a folder that travel: those git does not ignore; outside a checkout all but hidden folders."""
    command = ["git", "-C", str(folder), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout.decode().split("\0")
        names = {name for name in listed if name}
    except (OSError, subprocess.SubprocessError):
        names = {path.relative_to(folder).as_posix() for path in _walk(folder)}
    return sorted(name for name in names if (folder / name).is_file())


def _walk(folder: Path) -> Iterable[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        yield from (Path(place) / name for name in files)


def named_files(text: str, folder: Path) -> set[str]:
    """Files of the folder that a grid names: modules of import paths (`mine.task:Task`), and data files."""
    found = set()
    for word in _words(yaml.safe_load(text)):
        for part in word.split(":"):
            module = f"{part.replace('.', '/')}.py" if re.fullmatch(r"[\w.]+", part) else part
            for name in (part, module):
                if name and not os.path.isabs(name) and (folder / name).is_file():
                    found.add(Path(name).as_posix())
    return found


def _words(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _words(key)
            yield from _words(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _words(inner)


# until it has ended ------------------------------------------------------------------------------------------------


@dataclass
class Log:
    """A job's log, printed as it comes. The connection may end before the job does; then it is taken up again."""

    client: Any
    job: str
    write: Say
    seen: int = 0
    ended: threading.Event = field(default_factory=threading.Event)
    writing: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        threading.Thread(target=self._tail_on, name="job log", daemon=True).start()

    def _tail_on(self) -> None:
        while not self.ended.is_set():
            with suppress(Exception):  # the head is away, or the job has no log yet; the status says what counts
                asyncio.run(self._tail())
            self.ended.wait(POLL_SECONDS)

    async def _tail(self) -> None:
        at = 0
        async for text in self.client.tail_job_logs(self.job):
            if self.ended.is_set():
                return
            self._take(at, text)
            at += len(text)

    def _take(self, at: int, text: str) -> None:
        """A piece of the log that begins at a place of it."""
        with self.writing:
            if fresh := text[max(0, self.seen - at) :]:
                self.write(fresh)
                self.seen = at + len(text)

    def close(self) -> None:
        """Print what is still missing."""
        self.ended.set()
        self._take(0, self.client.get_job_logs(self.job))


def follow(address: str, job: str, write: Say) -> int:
    """Print a job's log until it has ended; its exit status. Raises UserError when its head is lost for good."""
    client = connect(address)
    log = Log(client, job, write)
    heard = time.monotonic()
    while True:
        try:
            info = client.get_job_info(job)
            heard = time.monotonic()
            if str(info.status) in ENDED:
                break
        except Exception as error:  # the head is away for a while, or for good
            if time.monotonic() - heard > LOST_SECONDS or "does not exist" in str(error):
                log.ended.set()
                raise UserError(
                    f"job {job}: {address} does not say how it stands ({one_line(error)}); "
                    "`lengthwise status` says from the store what is done"
                ) from error
        time.sleep(POLL_SECONDS)
    log.close()
    own = info.driver_exit_code
    return own if own and str(info.status) == "FAILED" else ENDED[str(info.status)]

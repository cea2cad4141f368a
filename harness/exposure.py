"""What strangers could reach on this machine: services that run anybody's code, tokens anybody can read, passwords."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from harness.errors import redacted
from harness.finding import Finding

SERVICES = {8265: "Ray's dashboard", 10001: "Ray's client server", 6379: "Ray's control service", 5000: "MLflow"}
"""Ports these listen on unless told otherwise."""
NEEDS_TOKEN = {8265, 10001, 6379}
TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
LISTENING = "0A"
LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
"""127.0.0.1 and ::1, as the kernel's tables write them."""


def exposure(services: Mapping[int, str] = SERVICES) -> Iterator[Finding]:
    """Look at ports that listen (on Linux), at Ray's token and MLflow's address."""
    mode = os.environ.get("RAY_AUTH_MODE")
    for port, reached in sorted(listening(services).items()):
        guarded = reached and mode == "token" and port in NEEDS_TOKEN
        who = "other machines" if reached else "this one only"
        told = f"{services[port]} on port {port} answers {who}{', who need the token' if guarded else ''}"
        yield Finding("exposed", told, reached and not guarded)
    yield Finding("ray token", f"RAY_AUTH_MODE is {mode or 'unset: a head started here is open'}")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if path.is_file():
        readable = others_can_read(path)
        told = "others can read it; chmod 600" if readable else "for its owner alone"
        yield Finding("ray token", f"{path}: {told}", readable)
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        yield _mlflow(uri)


def _mlflow(uri: str) -> Finding:
    known = urlsplit(uri)
    if known.password:
        return Finding("mlflow", f"{redacted(uri)}: its password is in the environment of this process")
    plain = known.scheme == "http" and known.hostname not in ("localhost", "127.0.0.1", "::1")
    return Finding("mlflow", f"{uri}{': not encrypted, and anybody who reaches it may write' if plain else ''}")


def others_can_read(path: Path) -> bool:
    """Whether group or others may read a file: by its own rights, and those of the folders it lies in."""
    rights = stat.S_IRWXG | stat.S_IRWXO
    return bool(path.stat().st_mode & rights) and not any(closed(folder) for folder in path.resolve().parents)


def closed(folder: Path) -> bool:
    return not folder.stat().st_mode & (stat.S_IXGRP | stat.S_IXOTH)


def listening(ports: Mapping[int, str]) -> dict[int, bool]:
    """Which of the ports something listens on -> whether other machines can reach it there."""
    found: dict[int, bool] = {}
    for table in TABLES:
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, state, *_ = line.split()
            address, port = local.rsplit(":", 1)
            number = int(port, 16)
            if state == LISTENING and number in ports:
                found[number] = found.get(number, False) or address not in LOOPBACK
    return found

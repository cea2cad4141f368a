"""Sharing a GPU through MPS: a daemon of our own, reached by those that are told of it, and ended."""

import os
import subprocess

import pytest
import ray
import torch

from harness.cluster import cluster
from harness.errors import UserError
from harness.grid import parse
from harness.mps import CONTROL, exported, service

DAEMON = """#!/bin/sh
echo "$* $(cat) $CUDA_MPS_PIPE_DIRECTORY" >> {log}
exit {status}
"""


@pytest.fixture
def daemon(tmp_path, monkeypatch):
    """A control program that notes how it was called; there seem to be two GPUs."""

    def make(status=0):
        program = tmp_path / CONTROL
        program.write_text(DAEMON.format(log=tmp_path / "log", status=status))
        program.chmod(0o755)
        return lambda: [line.split() for line in (tmp_path / "log").read_text().splitlines()]

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    return make


def test_the_daemon_is_started_reached_and_ended(daemon):
    said = daemon()
    with service() as environment:
        assert environment["CUDA_VISIBLE_DEVICES"] == "0,1"
        pipe = environment["CUDA_MPS_PIPE_DIRECTORY"]
        assert os.path.isdir(pipe)
        assert said() == [["-d", pipe]]
    assert said()[1:] == [["quit", "-t", "10", pipe]]
    assert not os.path.exists(pipe)


def test_where_no_daemon_starts_one_line_says_why(daemon, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(UserError, match=f"MPS: this machine has no {CONTROL}"), service():
        pass
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="MPS: this machine has no GPU"), service():
        pass


def test_a_daemon_that_fails_is_named(daemon):
    daemon(status=3)
    with pytest.raises(UserError, match=f"MPS: {CONTROL} does not start"), service():
        pass


def test_a_daemon_that_does_not_end_loses_nothing(daemon, monkeypatch):
    daemon()
    with service():
        monkeypatch.setattr("harness.mps.subprocess.run", hang)


def hang(command, *, timeout, **_):
    raise subprocess.TimeoutExpired(command, timeout)


def test_the_environment_is_as_before_afterwards(monkeypatch):
    monkeypatch.setenv("KNOWN", "before")
    monkeypatch.delenv("NEW", raising=False)
    with exported({"KNOWN": "meanwhile", "NEW": "1"}):
        assert (os.environ["KNOWN"], os.environ["NEW"]) == ("meanwhile", "1")
    assert os.environ["KNOWN"] == "before"
    assert "NEW" not in os.environ


def test_it_is_for_a_ray_that_is_started_here(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(UserError, match=r"run\.mps is for a Ray that is started here, not for the one at auto"):
        cluster("auto", mps=True).__enter__()
    with pytest.raises(UserError, match="mps is the whole grid's, not a cell's"):
        parse("{name: a, overrides: [{run: {mps: true}}]}", "here")


@pytest.mark.ray
@pytest.mark.slow
def test_workers_are_led_to_it(daemon, monkeypatch):
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray.shutdown()
    said = daemon()
    with cluster(None, mps=True) as alone:
        assert alone
        environment = ray.get(ray.remote(lambda: dict(os.environ)).remote())
        pipe = environment["CUDA_MPS_PIPE_DIRECTORY"]
        assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
        assert said() == [["-d", pipe]]
    assert said()[1:] == [["quit", "-t", "10", pipe]]
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ

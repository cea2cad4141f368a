"""What strangers could reach is said, and wrong where they could run code or read secrets."""

import socket
import sys

import pytest

from harness.exposure import exposure, others_can_read


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))


def findings(ports=None):
    return {(one.subject, one.says): one.wrong for one in exposure(ports or {})}


@pytest.mark.skipif(sys.platform != "linux", reason="ports are looked up in /proc")
@pytest.mark.parametrize(("host", "wrong"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_a_service_other_machines_reach_is_wrong(host, wrong):
    with socket.create_server((host, 0)) as server:
        port = server.getsockname()[1]
        said = findings({port: "MLflow"})
        reach = "other machines" if wrong else "this one only"
        assert said["exposed", f"MLflow on port {port} answers {reach}"] is wrong
    assert not any(subject == "exposed" for subject, _ in findings({port: "MLflow"}))


def test_a_token_guards_ray(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setattr("harness.exposure.listening", lambda ports: {8265: True, 5000: True})
    said = {one.says: one.wrong for one in exposure()}
    assert said["Ray's dashboard on port 8265 answers other machines, who need the token"] is False
    assert said["MLflow on port 5000 answers other machines"] is True
    assert said["RAY_AUTH_MODE is token"] is False


def test_a_token_others_can_read_is_wrong(tmp_path, monkeypatch):
    token = tmp_path / "token"
    token.write_text("x")
    tmp_path.chmod(0o700)
    token.chmod(0o644)
    assert not others_can_read(token), "nobody else gets into its folder"
    monkeypatch.setattr("harness.exposure.closed", lambda folder: False)
    for mode, wrong in ((0o600, False), (0o640, True)):
        token.chmod(mode)
        (found,) = [one for one in exposure({}) if str(token) in one.says]
        assert found.wrong is wrong
    assert ("ray token", "RAY_AUTH_MODE is unset: a head started here is open") in findings()


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("http://mlflow.example.com", "http://mlflow.example.com: not encrypted, and anybody who reaches it may write"),
    ],
)
def test_mlflow_s_address_is_told(monkeypatch, uri, says):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert ("mlflow", says) in findings()


def test_a_password_is_said_to_be_there_and_not_told(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://u:hunter2@db/mlflow")
    ((_, said),) = [key for key in findings() if key[0] == "mlflow"]
    assert "password is in the environment" in said
    assert "hunter2" not in said

"""`lengthwise doctor` says what runs and why, and fails where an implementation disagrees with its reference."""

import pytest
import torch

from harness.cli import app
from models.kernels import choose, selective_scan
from models.kernels.choose import CANDIDATES, Candidate


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    choose.choice.cache_clear()
    yield
    choose.choice.cache_clear()


def example(device):
    return choose._scan_example(device)


def right(*arguments, **named):
    return selective_scan.gated_scan(*arguments, **named)


def wrong(u, *arguments, **named):
    return selective_scan.gated_scan(u * 1.1, *arguments, **named)


def broken(*arguments, **named):
    if arguments[0].shape[1] > 3:
        raise RuntimeError("too long for me")
    return selective_scan.gated_scan(*arguments, **named)


def lines(capsys):
    return {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}


@pytest.fixture(autouse=True)
def nothing_listens(monkeypatch):
    """Whatever else runs on this machine: see test_exposure."""
    monkeypatch.setattr("harness.exposure.TABLES", ())
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere")


def test_without_any_optional_package_the_references_run(capsys):
    app(["doctor"], standalone_mode=False)
    said = lines(capsys)
    assert set(choose.REFERENCES) < set(said)
    assert torch.__version__ in said["device"]
    assert all(line.startswith("ok") for line in said.values())


@pytest.mark.parametrize("name", ["right", "wrong", "broken"])
def test_an_implementation_is_held_to_its_reference(name, capsys, monkeypatch):
    candidate = Candidate(name, f"{__name__}:{name}", example, "cpu")
    monkeypatch.setattr(choose, "load", lambda path: globals()[name] if path == candidate.path else LOAD(path))
    monkeypatch.setitem(CANDIDATES, "selective_scan", (candidate,))
    if name == "right":
        app(["doctor"], standalone_mode=False)
        assert "of the reference" in lines(capsys)["right"]
        return
    with pytest.raises(SystemExit) as ended:
        app(["doctor"], standalone_mode=False)
    assert ended.value.code == 1
    said = lines(capsys)
    assert said["selective_scan"].startswith("ok")
    assert said[name].startswith("WRONG")
    assert ("too long for me" in said[name]) == (name == "broken")


LOAD = choose.load

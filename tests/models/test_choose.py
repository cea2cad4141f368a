"""What runs is what is said to run: the device decides, then what works on this machine, then what was demanded."""

import pytest
import torch

from models.build import build
from models.kernels import choose
from models.kernels.choose import CANDIDATES, REFERENCES, Candidate, choice, demand


@pytest.fixture(autouse=True)
def _afterwards():
    choice.cache_clear()
    yield
    demand({})


def example(device):
    return (torch.ones(2, device=device),)


def test_every_operation_has_a_reference_that_runs_on_a_cpu():
    for operation in REFERENCES:
        assert choice(operation, "cpu").name == "torch"
    assert set(CANDIDATES) <= set(REFERENCES)


def test_the_first_that_works_is_taken_and_the_failures_are_told(monkeypatch):
    broken = Candidate("broken", "no_such_package.fast:scan", example, "cpu")
    elsewhere = Candidate("elsewhere", "torch:sin", example, "cuda")
    good = Candidate("good", "torch:cos", example, "cpu")
    monkeypatch.setitem(CANDIDATES, "selective_scan", (broken, elsewhere, good))
    assert choice("selective_scan", "cpu").name == "good"
    assert build("mamba1", "tiny", 16).kernels()["selective_scan"] == "good"
    assert choose.gated_scan(torch.zeros(2)).tolist() == [1, 1]  # the kernel said to run is the one that runs
    monkeypatch.setitem(CANDIDATES, "selective_scan", (broken,))
    choice.cache_clear()
    assert choice("selective_scan", "cpu").name == "torch"
    assert "no_such_package" in choice("selective_scan", "cpu").why


def test_what_is_not_offered_is_taken_on_demand_only(monkeypatch):
    shy = Candidate("shy", "torch:cos", example, "cpu", offered=False)
    monkeypatch.setitem(CANDIDATES, "selective_scan", (shy,))
    assert choice("selective_scan", "cpu").name == "torch"
    demand({"selective_scan": "shy"})
    assert choice("selective_scan", "cpu").name == "shy"


def test_a_demand_is_met_or_an_error(monkeypatch):
    good = Candidate("good", "torch:cos", example, "cpu")
    broken = Candidate("broken", "torch:no_such_function", example, "cpu")
    monkeypatch.setitem(CANDIDATES, "selective_scan", (good, broken))
    demand({"selective_scan": "torch"})
    assert choice("selective_scan", "cpu").name == "torch"
    demand({"selective_scan": "broken"})
    with pytest.raises(ValueError, match=r"broken was demanded, but .*no_such_function"):
        choice("selective_scan", "cpu")
    with pytest.raises(ValueError, match="is none of torch, good, broken"):
        demand({"selective_scan": "fastest"})
    with pytest.raises(ValueError, match="is none of attention"):
        demand({"scan": "torch"})
    demand({})
    assert choice("selective_scan", "cpu").name == "good"

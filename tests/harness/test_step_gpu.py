"""Training on a GPU: graphs change nothing, the same seed gives the same weights, resuming too, bad losses are seen."""

from copy import deepcopy

import pytest
import torch

from harness.batches import Envelope
from harness.config import Cell
from harness.errors import Diverged, Stopped
from harness.step import GpuStepper, PlainStepper
from harness.stream import steps
from harness.train import make_optimiser, new_model, scenario_of, source_of, train
from harness.work import content_hash

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

ARCHITECTURES = ["gru", "lstm", "transformer", "sliding", "mamba1", "mamba2", "hybrid"]
SMALL = {"max_length": 2, "steps": 24, "batch": 16, "learning_rate": 3e-3, "validation": 8}


def cell(architecture, **fields):
    return Cell.model_validate({"architecture": architecture, "train": SMALL, **fields})


def stepped(config, make, count=12):
    model = new_model(config, scenario_of(config)).train()
    taken = make(model, make_optimiser(model, config.train), config)
    stream = steps(source_of(config))
    first = None
    for _ in range(count):
        taken.step(taken.batch(next(stream)), 1e-3)
        first = first or taken.check()
    if isinstance(taken, GpuStepper):
        assert bool(taken.graphs) == (taken.most > 0)
        taken.close()
    return first, taken.check()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_graphs_change_nothing(architecture, monkeypatch):
    monkeypatch.setattr(Envelope, "BATCHES", 4)
    config = cell(architecture)
    first, last = stepped(config, GpuStepper)
    again, plain = stepped(config, lambda *a: GpuStepper(*a, graphs=False))
    padded, parts = stepped(config, PlainStepper)
    assert first[0] == pytest.approx(again[0], rel=1e-4)
    assert first[0] == pytest.approx(padded[0], rel=1e-3)
    assert last[0] == pytest.approx(plain[0], rel=1e-2)
    assert last[0] == pytest.approx(parts[0], rel=2e-2)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_deterministic_training_gives_the_same_weights_also_when_resumed(architecture, precision):
    config = cell(architecture, deterministic=True, precision=precision)
    hashes = {content_hash(train(config, workers=workers).model.state_dict()) for workers in (0, 2)}
    saved, calls = [], iter(range(100))
    with pytest.raises(Stopped):
        train(config, save=saved.append, stop=lambda: next(calls) == 13)
    hashes.add(content_hash(train(config, resume=saved[0]).model.state_dict()))
    assert len(hashes) == 1


@pytest.mark.parametrize("architecture", ["gru", "transformer"])
def test_nothing_of_a_bad_step_is_saved(architecture):
    saved = []
    config = cell(architecture, train={**SMALL, "learning_rate": 1e30})
    with pytest.raises(Diverged):
        train(config, save=lambda held: saved.append(deepcopy(held["model"])), save_seconds=0.0)
    assert all(bool(torch.isfinite(tensor).all()) for held in saved for tensor in held.values())

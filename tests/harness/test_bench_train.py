"""The benches of training and data say what they say from real runs, and end with JSON."""

import json

import pytest
import torch
from torch.nn.functional import cross_entropy
from typer.testing import CliRunner

from harness.batches import IGNORED
from harness.bench.baseline import baseline, pad, plain_step
from harness.bench.cli import app
from harness.stream import Source, steps
from models.build import build


def result(*arguments):
    ran = CliRunner().invoke(app, list(arguments))
    assert ran.exit_code == 0, ran.output
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def rows():
    return next(steps(Source("addition", "interactive", 2, 0, 8)))


def test_train_compares_the_same_problems():
    shape = "--size=tiny --batch=8 --max-length=2 --steps=2 --repeats=1 --warm-up=1 --precision=float32"
    found = result("train", "--architectures", "gru,mamba1", *shape.split())["results"]
    gru = found["gru"]
    real = [gru[who]["real_per_second"] * gru[who]["ms_per_step"] for who in ("ours", "plain")]
    assert real[0] == pytest.approx(real[1])
    assert gru["ratio"] == pytest.approx(gru["plain"]["ms_per_step"] / gru["ours"]["ms_per_step"])
    assert gru["plain"]["processed_per_second"] > gru["plain"]["real_per_second"] * 0.9
    assert found["mamba1"]["ours"]["flops_per_second"] > 0


def test_data_counts_tokens_of_cores_and_workers():
    found = result("data", "--tasks", "addition", "--workers", "1", "--seconds", "0.1")
    one = found["results"]["addition faithful"]
    assert one["per_core"] > 0
    assert 100 < one["tokens_per_problem"] < 223
    assert 0 < one["drawing_share"] < 1
    assert found["results"]["addition faithful"]["workers"]["1"] > 0


@pytest.mark.parametrize("architecture", ["transformer", "sliding", "lstm", "gru"])
def test_baselines_are_as_large_as_ours_and_learn(rows, architecture):
    model = baseline(architecture, "tiny", 40)
    assert sum(p.numel() for p in model.parameters()) == build(architecture, "tiny", 40).parameter_count()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = [plain_step(model, optimiser, rows, torch.device("cpu"), "float32").item() for _ in range(20)]
    assert losses[-1] < losses[0]


def test_a_baseline_transformer_computes_what_ours_does(rows):
    ours, plain = build("transformer", "tiny", 40, seed=0), baseline("transformer", "tiny", 40)
    renamed = {name.replace("logits.", "head."): tensor for name, tensor in ours.state_dict().items()}
    plain.load_state_dict(renamed)
    tokens, targets = pad(rows)
    assert cross_entropy(plain(tokens).flatten(0, 1), targets.flatten(), ignore_index=IGNORED).item() == pytest.approx(
        cross_entropy(ours(tokens)[0].flatten(0, 1), targets.flatten(), ignore_index=IGNORED).item(), rel=1e-4
    )


def test_an_architecture_without_baseline_is_named():
    with pytest.raises(ValueError, match="no baseline for 'hybrid'"):
        baseline("hybrid", "tiny", 40)

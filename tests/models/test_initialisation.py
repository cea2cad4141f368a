"""Initial weights as in the original of each architecture."""

import math

import pytest
import torch
from torch.nn.functional import softplus

from models import ARCHITECTURES
from models.build import build


def model(architecture, **options):
    return build(architecture, "tiny", 64, {"d_model": 256, **options}, seed=0)


def test_mamba1_starts_as_the_original():
    built = model("mamba1", layers=4)
    mixer = built.blocks[0].mixer
    steps = softplus(mixer.dt_proj.bias)
    assert 1e-3 * 0.999 <= steps.min() < 1.5e-3
    assert 0.07 < steps.max() <= 0.1 * 1.001
    assert steps.log().median().item() == pytest.approx(math.log(1e-2), abs=0.4)
    assert torch.allclose(mixer.A_log.exp(), torch.arange(1.0, mixer.d_state + 1).expand_as(mixer.A_log))
    assert (mixer.D == 1).all()
    bound = mixer.inner**-0.5 / math.sqrt(4)
    assert 0.95 * bound < mixer.out_proj.weight.abs().max() <= bound
    assert mixer.dt_proj.weight.abs().max() <= mixer.rank**-0.5
    assert built.logits.weight is built.embedding.weight
    assert built.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_mamba2_starts_as_the_original():
    mixer = model("mamba2", layers=4, head_size=4).blocks[0].mixer
    steps = softplus(mixer.dt_bias)
    assert (steps.min() >= 1e-3 * 0.999) & (steps.max() <= 0.1 * 1.001)
    decays = mixer.A_log.exp()
    assert (decays.min() >= 1) & (decays.max() <= 16)
    assert decays.mean().item() == pytest.approx(8.5, abs=1.5)
    assert mixer.out_proj.weight.abs().max() <= mixer.inner**-0.5 / math.sqrt(4)


@pytest.mark.parametrize("architecture", ["mamba1", "mamba2"])
def test_the_dynamics_of_a_state_do_not_decay(architecture):
    marked = {name for name, p in model(architecture).named_parameters() if getattr(p, "_no_weight_decay", False)}
    assert {name.rsplit(".", 1)[1] for name in marked} >= {"A_log", "D"}


@pytest.mark.parametrize("architecture", ["transformer", "sliding"])
def test_transformers_start_as_gpt_neox(architecture):
    built = model(architecture, layers=4)
    attention = built.blocks[0].attention
    assert attention.project.weight.std().item() == pytest.approx(math.sqrt(2 / (5 * 256)), rel=0.03)
    assert attention.out.weight.std().item() == pytest.approx(2 / (4 * math.sqrt(256)), rel=0.03)
    assert built.blocks[0].down.weight.std().item() == pytest.approx(2 / (4 * math.sqrt(256)), rel=0.03)
    assert built.logits.weight is not built.embedding.weight


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_the_first_loss_is_that_of_a_uniform_guess(architecture):
    built = build(architecture, "tiny", 64, seed=0)
    tokens = torch.randint(0, 64, (8, 100), generator=torch.Generator().manual_seed(0))
    logits = built(tokens[:, :-1])[0]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(64), abs=0.35)

"""Initial weights as in the original of each architecture."""

import math

import pytest
import torch
from torch.nn.functional import softplus

from models import ARCHITECTURES
from models.build import build, resolve


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


def test_of_rwkv7_only_its_matrices_decay():
    decayed = {
        name.rsplit(".", 1)[0].rsplit(".", 1)[-1]
        for name, p in model("rwkv7").named_parameters()
        if p.ndim >= 2 and not getattr(p, "_no_weight_decay", False)
    }
    assert decayed == {"embedding", "receptance", "key", "value", "output", "logits"}


def test_gated_deltanet_starts_as_the_original():
    built = model("gated_deltanet", layers=2, heads=64, head_size=4)
    mixer = built.blocks[0].attention
    steps = softplus(mixer.dt_bias)
    assert (steps.min() >= 1e-3 * 0.999) & (steps.max() <= 0.1 * 1.001)
    decays = mixer.A_log.exp()
    assert (decays.min() > 0) & (decays.max() <= 16)
    assert decays.mean().item() == pytest.approx(8, abs=1.5)
    for matrix in (mixer.in_proj, mixer.out_proj, built.blocks[1].gate_up, built.blocks[1].down, built.logits):
        assert matrix.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert built.logits.weight is not built.embedding.weight
    assert (mixer.norm == 1).all()
    assert not mixer.conv.bias.any()
    assert "bias" not in dict(mixer.conv.named_parameters())


def test_rwkv7_starts_as_the_original():
    """Figures from the formulas of the authors' training code, worked out by hand for channel 0 and the last."""
    built = model("rwkv7", layers=4, head_size=64, mlp=512)
    first, last = built.blocks[0].time, built.blocks[3].time
    assert first.residual is None
    ranks = [low.down.out_features for low in (last.decay, last.rate, last.residual, last.gate)]
    assert ranks == [32, 32, 32, 64]
    assert first.decay.bias[[0, -1]].tolist() == pytest.approx([-6 + 0.5 - 2.5, 0.5 + 2.5])
    middle = -6 + 6 * (127 / 255) ** 2 + 0.5 + 2.5  # channel 127 of layer 3 is the last of its head
    assert last.decay.bias[127].item() == pytest.approx(middle, abs=1e-5)
    assert last.rate.bias[[0, -1]].tolist() == pytest.approx([-0.19 - 0.3 - 0.2, -0.19 + 0.3 + 0.2])
    assert last.residual.bias[[0, -1]].tolist() == pytest.approx([0.73 + 0.2, 0.73 - 0.2])
    assert last.removal[[0, -1]].tolist() == pytest.approx([0.71 + 0.05, 0.71 - 0.05])
    assert first.shift[:, 128].tolist() == pytest.approx([1 - 0.5**p for p in (0.2, 0.9, 0.7, 0.7, 0.9, 0.2)])
    assert last.shift[1, 128].item() == pytest.approx(1 - 0.5 ** (0.9 / 4))
    assert built.blocks[3].channel.shift[128].item() == pytest.approx(1 - 0.5 ** (1 / 256), rel=1e-4)
    assert (first.replacement == 1.02).all()
    assert (first.bonus == -0.04).all()
    assert torch.allclose(first.norm, torch.tensor(0.25**0.7))
    assert (last.norm == 1).all()
    eye = torch.eye(256)
    for matrix, gain in ((first.receptance, 1), (first.key, 0.1), (first.value, 1), (built.blocks[1].channel.key, 1)):
        assert torch.allclose(matrix.weight.T @ matrix.weight, gain**2 * eye, atol=1e-4)
    for matrix in (first.output, built.blocks[1].channel.value, first.decay.down, last.residual.down):
        assert not matrix.weight.any()
    assert torch.allclose(first.decay.up.weight.T @ first.decay.up.weight, 0.01 * torch.eye(32), atol=1e-5)
    assert built.embedding.weight.abs().max() <= 1e-4
    assert torch.allclose(built.logits.weight @ built.logits.weight.T, 0.25 * torch.eye(64), atol=1e-4)


@pytest.mark.parametrize("architecture", ["transformer", "sliding"])
def test_transformers_start_as_gpt_neox(architecture):
    built = model(architecture, layers=4)
    attention = built.blocks[0].attention
    assert attention.project.weight.std().item() == pytest.approx(math.sqrt(2 / (5 * 256)), rel=0.03)
    assert attention.out.weight.std().item() == pytest.approx(2 / (4 * math.sqrt(256)), rel=0.03)
    assert built.blocks[0].down.weight.std().item() == pytest.approx(2 / (4 * math.sqrt(256)), rel=0.03)
    assert built.logits.weight is not built.embedding.weight


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if resolve(name).learns == "gradients"])
@torch.no_grad()
def test_the_first_loss_is_that_of_a_uniform_guess(architecture):
    built = build(architecture, "tiny", 64, seed=0)
    tokens = torch.randint(0, 64, (8, 100), generator=torch.Generator().manual_seed(0))
    logits = built(tokens[:, :-1])[0]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(64), abs=0.35)

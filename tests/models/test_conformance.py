"""The conformance suite over every architecture and every option that changes its arithmetic, on trained weights."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from models import ARCHITECTURES
from models.build import build, resolve
from models.conformance import CHECKS, TOLERANCE, difference, in_chunks, in_steps, random_tokens, trained

ATTENTION = {"d_model": 32, "layers": 2, "heads": 4, "mlp": 48}
SLIDING = {**ATTENTION, "window": 16}
HYBRID = {"d_model": 32, "layers": 4, "heads": 4, "mlp": 48, "window": 16, "d_state": 8, "head_size": 16}
VARIANTS = {
    "mamba1": ("mamba1", {"d_model": 32, "layers": 2, "d_state": 4}),
    "mamba1 two taps": ("mamba1", {"d_model": 24, "layers": 1, "d_conv": 2, "expand": 1}),
    "mamba2": ("mamba2", {"d_model": 32, "layers": 2, "d_state": 8, "head_size": 16}),
    "gated_deltanet": (
        "gated_deltanet",
        {"d_model": 32, "layers": 2, "heads": 2, "head_size": 8, "mlp": 32},
    ),
    "gated_deltanet two taps": (
        "gated_deltanet",
        {"d_model": 24, "layers": 1, "heads": 1, "head_size": 16, "mlp": 24, "expand": 1, "d_conv": 2},
    ),
    "rwkv7": ("rwkv7", {"d_model": 32, "layers": 2, "mlp": 64, "head_size": 16}),
    "rwkv7 one layer": ("rwkv7", {"d_model": 24, "layers": 1, "mlp": 48, "head_size": 8}),
    "transformer": ("transformer", ATTENTION),
    "transformer none": ("transformer", {**ATTENTION, "positions": "none"}),
    "transformer alibi": ("transformer", {**ATTENTION, "positions": "alibi"}),
    "transformer randomised": ("transformer", {**ATTENTION, "positions": "randomised", "random_range": 400}),
    "sliding": ("sliding", {**SLIDING, "kv_heads": 2}),
    "sliding window of one": ("sliding", {**SLIDING, "window": 1}),
    "sliding none": ("sliding", {**SLIDING, "positions": "none"}),
    "sliding alibi": ("sliding", {**SLIDING, "positions": "alibi", "kv_heads": 1}),
    "sliding randomised": ("sliding", {**SLIDING, "positions": "randomised", "random_range": 400}),
    "lstm": ("lstm", {"d_model": 32, "layers": 2}),
    "gru": ("gru", {"d_model": 32, "layers": 2}),
    "hybrid": ("hybrid", HYBRID),
    "rmt": ("rmt", {**ATTENTION, "segment": 7, "memory": 3}),
    "rmt segment of one": ("rmt", {**ATTENTION, "segment": 1, "memory": 1}),
    "rmt long segment": ("rmt", {**ATTENTION, "segment": 400, "memory": 2, "positions": "none"}),
    "rmt alibi": ("rmt", {**ATTENTION, "segment": 16, "memory": 4, "positions": "alibi"}),
    "lookup": ("lookup", {}),
    "hybrid of all": ("hybrid", {**HYBRID, "pattern": ["mamba1", "attention", "sliding", "mamba2"]}),
}


@pytest.fixture(scope="module", params=VARIANTS)
def model(request):
    torch.set_num_threads(1)
    architecture, options = VARIANTS[request.param]
    torch.manual_seed(0)  # randomised positions draw from the global generator in training
    return trained(build(architecture, "tiny", 16, options, seed=0))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model_on_gpu(request):
    return trained(build(request.param, "tiny", 16, seed=0).to("cuda"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_architecture_on_a_gpu(model_on_gpu, check):
    check(model_on_gpu)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_architecture(model, check):
    check(model)


def test_every_architecture_has_a_variant():
    assert {architecture for architecture, _ in VARIANTS.values()} == set(ARCHITECTURES)


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if resolve(name).learns == "gradients"])
def test_training_learns_what_needs_memory(architecture):
    """Each token is that of two before: only a model whose memory works and gets gradients knows it."""
    torch.set_num_threads(1)
    model = build(architecture, "tiny", 8, VARIANTS[architecture][1], seed=0).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    draw = torch.Generator().manual_seed(0)
    for _ in range(80):
        tokens = torch.randint(0, 8, (32, 2), generator=draw).repeat(1, 6)
        loss = cross_entropy(model(tokens[:, :-1])[0][:, 2:].flatten(0, 1), tokens[:, 3:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())
    assert loss < 0.3 * math.log(8)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_16000random_tokens(architecture, capsys):
    """Promised of every architecture: steps, ragged chunks (size 1 among them) and one forward agree."""
    torch.set_num_threads(1)
    with torch.enable_grad():
        model = trained(build(architecture, "tiny", 16, seed=0), steps=40)
    tokens, lengths = random_tokens(model, 2, 16_000), torch.tensor([16_000, 9_973])
    whole, _ = model(tokens, None, lengths)
    chunked, _ = in_chunks(model, tokens, lengths, model.initial_state(2), seed=0, longest=3000)
    stepped, _ = in_steps(model, tokens, model.initial_state(2))
    gaps = [difference(other, whole, lengths) for other in (chunked, stepped)]
    with capsys.disabled():
        print(f"\n{architecture}: chunks {gaps[0]:.1e}, steps {gaps[1]:.1e} of the largest logit")
    assert max(gaps) <= TOLERANCE

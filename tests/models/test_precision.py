"""bf16 autocast: matrix products in bf16, states in float32, results near those of float32."""

import pytest
import torch

from models.base import SequenceModel
from models.build import build
from models.conformance import difference, in_steps, trained
from models.state import leaves

VARIANTS = [
    ("mamba1", {}),
    ("mamba2", {}),
    ("gated_deltanet", {}),
    ("rwkv7", {}),
    *(("transformer", {"positions": p}) for p in ("rotary", "alibi")),
    *(("sliding", {"positions": p, "window": 16}) for p in ("rotary", "alibi")),
    ("lstm", {}),
    ("gru", {}),
    ("hybrid", {}),
    ("rmt", {"segment": 16}),
]


@pytest.mark.parametrize(("architecture", "options"), VARIANTS)
def test_bf16_keeps_float32_states_and_stays_near(architecture, options):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model: SequenceModel = trained(build(architecture, "tiny", 16, options, seed=0), steps=5)
    tokens = torch.randint(0, 16, (3, 70))
    with torch.no_grad():
        exact, _ = model(tokens)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            whole, state = model(tokens)
            ragged, other = model(tokens, state, torch.tensor([70, 3, 0]))
            stepped, last = in_steps(model, tokens[:, :20], model.initial_state(3))
    for tensor in (*leaves(state), *leaves(other), *leaves(last)):
        assert tensor.dtype in (torch.float32, torch.int64)
    assert whole.dtype == torch.bfloat16
    assert torch.isfinite(ragged).all()
    assert difference(whole.float(), exact) < 0.05
    assert difference(stepped.float(), exact[:, :20]) < 0.05


@pytest.mark.parametrize(("architecture", "options"), VARIANTS)
def test_bf16_trains(architecture, options):
    torch.set_num_threads(1)
    model = build(architecture, "tiny", 16, options, seed=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, _ = model(torch.randint(0, 16, (2, 40)))
    logits.float().logsumexp(-1).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())

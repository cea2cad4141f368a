"""Recurrent memory: what crosses segments, gradients through them, and the cost of a segment."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from models.build import build
from models.conformance import random_tokens, trained
from models.state import leaves

SMALL = {"d_model": 32, "layers": 2, "heads": 4, "mlp": 48, "segment": 5, "memory": 2}


@torch.enable_grad()
def learnt(model):
    return trained(model)


def test_it_remembers_across_segments():
    """The first token is asked for two segments later: only the memory can hand it on, and only by gradients there."""
    torch.set_num_threads(1)
    model = build("rmt", "tiny", 8, SMALL, seed=0).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    draw = torch.Generator().manual_seed(0)
    for _ in range(300):
        tokens = torch.zeros(32, 12, dtype=torch.int64)
        tokens[:, 0] = torch.randint(1, 8, (32,), generator=draw)
        loss = cross_entropy(model(tokens)[0][:, -1], tokens[:, 0])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1


def test_gradients_flow_from_the_last_segment_to_the_first():
    model = build("rmt", "tiny", 8, SMALL, seed=0)
    tokens = torch.tensor([[1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3]])
    model(tokens)[0][0, -1].square().sum().backward()
    assert model.embedding.weight.grad[1].abs().max() > 0
    assert model.memory.grad.abs().max() > 0
    assert model.embedding.weight.grad[4].abs().max() == 0


@torch.no_grad()
def test_only_the_memory_crosses():
    """With the memory put back, a new segment knows nothing of the one before."""
    model = learnt(build("rmt", "tiny", 8, SMALL, seed=0))
    tokens = random_tokens(model, 3, 5)
    _, state = model(random_tokens(model, 3, 10, seed=1))
    told, _ = model(tokens, state)
    state.memory = model.initial_state(3).memory
    assert torch.equal(model(tokens, state)[0], model(tokens, model.initial_state(3))[0])
    assert not torch.allclose(told, model(tokens)[0])


@torch.no_grad()
def test_within_a_segment_it_is_the_transformer_behind_its_memory():
    model = learnt(build("rmt", "tiny", 8, {**SMALL, "segment": 20}, seed=0))
    tokens = random_tokens(model, 2, 20)
    plain = build("transformer", "tiny", 8, {name: SMALL[name] for name in ("d_model", "layers", "heads", "mlp")})
    plain.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if name != "memory"})
    x = torch.cat([model.memory.expand(2, -1, -1), model.embedding(tokens)], 1)
    plain.eval().embedding.forward = lambda _: x
    torch.testing.assert_close(plain(torch.zeros(2, 22, dtype=torch.int64))[0][:, 2:], model(tokens)[0])


def test_the_state_is_as_large_at_every_length():
    model = build("rmt", "tiny", 8)
    assert model.cost(0) == model.cost(10**6)
    sizes = {
        sum(leaf.numel() for leaf in leaves(model(torch.zeros(1, length, dtype=torch.int64))[1]))
        for length in (0, 1, 31, 32, 33, 100)
    }
    assert len(sizes) == 1


@torch.no_grad()
@pytest.mark.parametrize("segments", [1, 3])
def test_flops_of_whole_segments(segments):
    """The counter multiplies the masked half of the attention too."""
    model = build("rmt", "tiny", 64, seed=0).eval()
    options = model.options
    length = segments * options.segment
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(torch.zeros(1, length, dtype=torch.int64))
    if segments == 1:
        masked = model.places**2 - model.places * (model.places + 1) // 2
        assert counter.get_total_flops() == length * model.cost(0).flops + 4 * options.layers * options.d_model * masked
    assert counter.get_total_flops() >= length * model.cost(0).flops


def test_impossible_options_are_refused():
    with pytest.raises(ValueError, match="rmt: positions: randomised needs sequences without segments"):
        build("rmt", "tiny", 8, {"positions": "randomised"})
    with pytest.raises(ValueError, match="rmt: segment: 0 is not a whole number of at least 1"):
        build("rmt", "tiny", 8, {"segment": 0})

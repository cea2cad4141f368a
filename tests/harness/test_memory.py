"""Formulas of memory against what is counted: saved tensors on a CPU, allocated bytes on a GPU."""

import pytest
import torch

from harness.bench.forward import forward_of
from harness.bench.timing import peak_memory
from harness.memory import activations, evaluation_bytes, rows_that_fit, training_bytes
from models import ARCHITECTURES
from models.build import build
from models.state import leaves, state_bytes

FACTOR = 2.0
"""The formulas are held to within this factor on a GPU: they leave out what kernels and allocators keep."""


def test_activations_of_linear_maps_and_recurrent_layers():
    assert activations(torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 7))) == 8 + 12
    assert activations(torch.nn.GRU(3, 5, num_layers=2)) == 3 + 2 * (15 + 5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.inference_mode()
def test_states_have_the_bytes_that_are_stated(architecture):
    model = build(architecture, "tiny", 16, seed=0).eval()
    for length in (1, 40):
        state = model.reserve(model.initial_state(3), length)
        _, state = model.append(torch.zeros(3, length, dtype=torch.int64), state)
        assert state_bytes(state) == 3 * model.cost(length).state_bytes
        assert all(tensor.shape[0] == 3 for tensor in leaves(state))


def test_the_formulas_grow_with_what_they_should():
    model, other = build("mamba1", "tiny", 16), build("transformer", "tiny", 16)
    assert evaluation_bytes(model, 1, 100, 10**6, "bf16") == evaluation_bytes(model, 1, 100, 10, "bf16")
    assert evaluation_bytes(other, 1, 100, 10**6, "bf16") > 10**6 * 8 * other.options.d_model
    assert training_bytes(model, 200, "float32") > training_bytes(model, 100, "float32") > 16 * model.parameter_count()
    assert rows_that_fit(model, 10**9) >= 1 << 20


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("architecture", ["mamba1", "mamba2", "transformer", "sliding", "gru", "lstm", "hybrid"])
def test_evaluation_takes_about_the_memory_of_the_formula(architecture, precision):
    model = build(architecture, "paper", 24, seed=0).eval().cuda()
    tokens = torch.zeros(16, 1024, dtype=torch.int64, device="cuda")
    run = forward_of(model, tokens, precision)
    run()
    most, _ = peak_memory(run, torch.device("cuda"))
    stated = evaluation_bytes(model, 16, tokens.numel(), 1024, precision)
    assert stated / FACTOR < most < stated * FACTOR

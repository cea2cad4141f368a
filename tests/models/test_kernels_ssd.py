"""The Triton kernels of Mamba-2 against their references in float64: values, states, gradients."""

import pytest
import torch
from torch.nn.functional import softplus

from models.build import build
from models.kernels import mamba2 as mixer
from models.kernels import ssd as reference
from models.kernels.choose import choice, demand

pytest.importorskip("triton", reason="Triton is not installed")
from models.kernels import triton_mamba2, triton_ssd

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
TOLERANCE = {torch.float32: 3e-5, torch.bfloat16: 0.04}
"""Of the largest entry. float32 matrix products on a GPU keep about 22 bits."""


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def close(got, wanted, dtype):
    for mine, truth in zip(got, wanted, strict=True):
        assert mine.shape == truth.shape
        worst = (mine.double() - truth).abs().max() / truth.abs().max().clamp(min=1e-12)
        assert worst < TOLERANCE[dtype]


def ssd_inputs(batch, length, heads, size, states, dtype, with_state):
    """float64 numbers that `dtype` can hold."""
    x, B, C = (
        torch.randn(batch, length, *shape, device=DEVICE).to(dtype).double()
        for shape in ((heads, size), (states,), (states,))
    )
    delta = softplus(torch.randn(batch, length, heads, device=DEVICE)).double()
    A = (-torch.rand(heads, device=DEVICE) * 4 - 0.1).double()
    state = torch.randn(batch, heads, size, states, device=DEVICE).double() if with_state else None
    return x, delta, A, B, C, state


def outputs_and_gradients(function, inputs, types, **arguments):
    """Outputs, then the gradients of inputs that are there, for fixed random weights of all outputs."""
    inputs = [None if t is None else t.to(kind).detach().requires_grad_() for t, kind in zip(inputs, types)]
    outputs = function(*inputs, **arguments)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(o.shape, generator=generator, dtype=torch.float64).to(DEVICE) for o in outputs]
    sum((o.double() * w).sum() for o, w in zip(outputs, weights)).backward()
    return [*outputs, *(t.grad for t in inputs if t is not None)]


SHAPES = [
    # batch, length, heads, size, states, chunk, first state
    (2, 70, 3, 16, 8, None, True),
    (1, 64, 1, 5, 17, None, False),
    (1, 1, 8, 16, 16, None, True),
    (1, 200, 2, 8, 8, 64, True),
    (2, 129, 1, 16, 16, 64, False),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [*SHAPES, *([(2, 1100, 24, 64, 128, None, True)] if GPU else [])])
def test_ssd_and_its_gradients(shape, dtype):
    *sizes, chunk, with_state = shape
    inputs = ssd_inputs(*sizes, dtype, with_state)
    wanted = outputs_and_gradients(reference.ssd, inputs, [torch.float64] * 6)
    types = [dtype, torch.float32, torch.float32, dtype, dtype, torch.float32]
    close(outputs_and_gradients(triton_ssd.ssd, inputs, types, chunk=chunk), wanted, dtype)


@pytest.mark.parametrize("chunk", [None, 64])
def test_ssd_is_cut_at_boundaries(chunk):
    """Sequences of no token, of one, and of more than a chunk; states begin at zero in each."""
    inputs = ssd_inputs(1, 110, 2, 16, 8, torch.float32, False)
    offsets = torch.tensor([0, 20, 20, 21, 110], dtype=torch.int32, device=DEVICE)
    cut = {"offsets": offsets, "longest": 89}
    wanted = outputs_and_gradients(reference.ssd, inputs, [torch.float64] * 6, **cut)
    close(outputs_and_gradients(triton_ssd.ssd, inputs, [torch.float32] * 6, chunk=chunk, **cut), wanted, torch.float32)


def test_ssd_keeps_its_digits_under_strong_decay():
    inputs = ssd_inputs(1, 64, 2, 16, 16, torch.float32, False)
    inputs[1][:] = 0.01
    inputs[1][:, :32] = 40.0  # sums of some 10^3 lie before the tokens that matter
    exact, _ = reference.ssd(*inputs)
    got, _ = triton_ssd.ssd(*(None if t is None else t.float() for t in inputs))
    assert (got - exact)[:, 33:].abs().max() / exact[:, 33:].abs().max() < 4e-6


def test_ssd_takes_parts_of_larger_tensors():
    x, delta, A, B, C, _ = (None if t is None else t.float() for t in ssd_inputs(2, 9, 2, 8, 16, torch.float32, False))
    whole = torch.cat([x.flatten(2), B, C, delta], -1)
    parts = whole.split([16, 16, 16, 2], -1)
    got = triton_ssd.ssd(parts[0].unflatten(2, (2, 8)), parts[3], A, parts[1], parts[2])
    for mine, truth in zip(got, triton_ssd.ssd(x, delta, A, B, C)):
        assert torch.equal(mine, truth)


def test_shapes_the_kernels_do_not_do_go_to_the_reference():
    inputs = [None if t is None else t.float() for t in ssd_inputs(1, 3, 1, 4, 130, torch.float32, True)]
    for mine, truth in zip(triton_ssd.ssd(*inputs), reference.ssd(*inputs)):
        assert torch.equal(mine, truth)
    assert build("mamba2", "tiny", 16, {"d_state": 130}).operations == ("norm", "causal_conv", "ssd", "ssd_step")
    assert build("mamba2", "tiny", 16).operations == ("norm", "mamba2", "ssd_step")


HEADS, SIZE, STATES = 3, 8, 8
INNER, CHANNELS = HEADS * SIZE, HEADS * SIZE + 2 * STATES


def mixer_weights():
    shapes = ((CHANNELS, 4), (CHANNELS,), (HEADS,), (HEADS,), (HEADS,), (INNER,))
    generator = torch.Generator().manual_seed(2)
    tensors = [torch.randn(shape, generator=generator).to(DEVICE).requires_grad_() for shape in shapes]
    return mixer.Weights(*tensors, eps=1e-5)


def projected(batch, length, dtype):
    return torch.randn(batch, length, INNER + CHANNELS + HEADS, device=DEVICE).to(dtype)


@pytest.mark.parametrize(
    ("whole", "dtype"),  # sequences in one chunk, or cut into chunks with states between
    [(512, torch.float32), (512, torch.bfloat16), (64, torch.float32), *([(64, torch.bfloat16)] if GPU else [])],
)
def test_the_fused_mixer_and_its_gradients(monkeypatch, whole, dtype):
    monkeypatch.setattr(triton_ssd, "WHOLE", whole)
    monkeypatch.setattr(triton_ssd, "CHUNK", 64)
    offsets = torch.tensor([0, 2, 2, 3, 73], dtype=torch.int32, device=DEVICE)
    x, results = projected(1, 73, dtype), []
    factors = torch.randn(1, 73, INNER, device=DEVICE)
    for run, kind in ((mixer.mamba2, torch.float32), (triton_mamba2.mamba2, dtype)):
        weights, inputs = mixer_weights(), x.to(kind).detach().requires_grad_()
        y, state = run(inputs, weights, None, None, offsets, 70)
        assert state is None
        assert y.dtype == kind
        (y.float() * factors).sum().backward()
        results.append([y, inputs.grad, *(tensor.grad for tensor in weights.tensors())])
    close(results[1], [tensor.double() for tensor in results[0]], dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("lengths", [None, [70, 0], [2, 69]])
def test_the_fused_mixer_carries_its_state(dtype, with_state, lengths):
    weights, x = mixer_weights(), projected(2, 70, dtype)
    shapes = ((2, 3, CHANNELS), (2, HEADS, SIZE, STATES))
    state = tuple(torch.randn(shape, device=DEVICE) for shape in shapes) if with_state else None
    counts = None if lengths is None else torch.tensor(lengths, device=DEVICE)
    with torch.no_grad():
        wanted, after = mixer.mamba2(x.float(), weights, state, counts)
        got, mine = triton_mamba2.mamba2(x, weights, state, counts)
    seen = torch.arange(70, device=DEVICE) < (70 if counts is None else counts[:, None])
    close([got[seen.expand(2, 70)], *mine], [t.double() for t in (wanted[seen.expand(2, 70)], *after)], dtype)
    assert torch.isfinite(got).all()
    assert all(t.dtype == torch.float32 for t in mine)


def test_gradients_through_states_are_not_lost():
    weights, x = mixer_weights(), projected(1, 5, torch.float32).requires_grad_()
    _, state = triton_mamba2.mamba2(x, weights)
    triton_mamba2.mamba2(x, weights, state)[1][1].sum().backward()
    again = x.grad
    x.grad = None
    _, state = mixer.mamba2(x, weights)
    mixer.mamba2(x, weights, state)[1][1].sum().backward()
    torch.testing.assert_close(again, x.grad)


@pytest.mark.skipif(not GPU, reason="whole models run on these kernels on a GPU only")
@pytest.mark.gpu
def test_a_gpu_takes_the_fused_mixer():  # with which the model conforms: tests/models/test_conformance.py
    assert choice("mamba2", "cuda").name == "triton"


def test_a_demand_for_a_part_takes_the_mixer_apart():
    model = build("mamba2", "tiny", 16).to(DEVICE)
    demand({"ssd": "torch"})
    try:
        names = model.kernels()
        assert names["mamba2"] == names["ssd"] == "torch"
        assert "causal_conv" in names
    finally:
        demand({})

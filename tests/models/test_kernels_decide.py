"""Greedy decisions from features: the reference against plain logits, the Triton kernel against the reference."""

import pytest
import torch

from harness.decide import decide as from_logits
from models.build import build
from models.kernels import decide as reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def head(count, size, vocabulary, dtype=torch.float32):
    torch.manual_seed(0)
    features, weight = torch.randn(count, size), torch.randn(vocabulary, size)
    return features.to(DEVICE, dtype), weight.to(DEVICE, dtype), torch.randn(vocabulary, device=DEVICE)


@pytest.mark.parametrize("rows", [2, 1 << 16])  # in many pieces, or one
def test_the_reference_is_the_two_best_logits(monkeypatch, rows):
    monkeypatch.setattr(reference, "ROWS", rows)
    features, weight, bias = head(5, 8, 3)
    for b in (None, bias):
        logits = features @ weight.T + (0 if b is None else b)
        index, margin = reference.decide(features.reshape(1, 5, 8), weight, b)
        wanted, distance = from_logits(logits[None])
        assert torch.equal(index, wanted)
        torch.testing.assert_close(margin, distance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("count", "size", "vocabulary"), [(1, 8, 2), (70, 100, 17), (65, 64, 130)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_kernel_is_the_reference(dtype, count, size, vocabulary, with_bias):
    kernel = pytest.importorskip("models.kernels.triton_decide", reason="Triton is not installed")
    features, weight, bias = head(count, size, vocabulary, dtype)
    index, margin = kernel.decide(features, weight, bias if with_bias else None)
    wanted, distance = reference.decide(features, weight, bias if with_bias else None)
    torch.testing.assert_close(margin, distance, rtol=1e-4, atol=1e-4)
    clear = distance > 1e-3
    assert torch.equal(index[clear], wanted[clear])
    assert clear.float().mean() > 0.9
    assert index.dtype == torch.int64


def test_the_kernel_takes_no_tokens_rows_of_a_larger_tensor_and_settles_ties():
    kernel = pytest.importorskip("models.kernels.triton_decide", reason="Triton is not installed")
    features, weight, _ = head(6, 16, 5)
    assert kernel.decide(features[:0].reshape(2, 0, 16), weight)[0].shape == (2, 0)
    wide = torch.cat([features, features], 1)[:, :16].reshape(2, 3, 16)
    assert torch.equal(kernel.decide(wide, weight)[0].flatten(), reference.decide(features, weight)[0])
    weight[1:] = weight[1]  # four equal logits
    index, margin = kernel.decide(features, weight)
    assert set(index.tolist()) <= {0, 1}
    assert (margin[index == 1] == 0).all()


@pytest.mark.parametrize("architecture", ["mamba2", "gru"])
@pytest.mark.parametrize("autocast", [False, True])
def test_models_decide_as_their_logits_do(architecture, autocast):
    torch.set_num_threads(1)
    model = build(architecture, "tiny", 16, seed=0).to(DEVICE)
    tokens = torch.randint(0, 16, (2, 9), device=DEVICE)
    with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
        features, _ = model.hidden(tokens)
        index, margin = model.decide(features)
        wanted, distance = from_logits(model.head(features))
    tolerance = 0.02 if autocast else 1e-4  # of logits of about 1: autocast rounds each to 8 bits
    torch.testing.assert_close(margin, distance, rtol=0, atol=tolerance)
    assert torch.equal(index[distance > tolerance], wanted[distance > tolerance])


def test_a_large_vocabulary_goes_to_the_reference():
    kernel = pytest.importorskip("models.kernels.triton_decide", reason="Triton is not installed")
    features, weight, _ = head(3, 8, 300)
    assert torch.equal(kernel.decide(features, weight)[0], (features @ weight.T).argmax(-1))

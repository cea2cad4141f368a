"""Our Triton kernels against their references in float64: results, states and every gradient.

On a GPU where there is one, else in Triton's interpreter, at the same small sizes.
"""

import pytest
import torch

from models.kernels.causal_conv import causal_conv
from models.kernels.norm import forked_norm
from models.kernels.selective_scan import gated_scan

pytest.importorskip("triton", reason="Triton is not installed")
from models.kernels import triton_conv, triton_norm, triton_scan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def random(*shape, dtype=torch.float32):
    return torch.randn(shape, device=DEVICE).to(dtype)


def agree(fast, reference, inputs, named, weights, dtype):
    """Results and gradients of both, for a random functional of the results; None in `weights`: not used.

    inputs: tensors or None; the reference gets them in float64.
    """

    def run(function, kind):
        leaves = [None if t is None else t.detach().to(kind(t)).requires_grad_() for t in inputs]
        results = function(*leaves, **named)
        used = [(result, w) for result, w in zip(results, weights, strict=True) if w is not None]
        loss = sum((result.double() * w.double()).sum() for result, w in used)
        wanted = [leaf for leaf in leaves if leaf is not None]
        return [result * (w != 0) for result, w in used], torch.autograd.grad(loss, wanted)

    mine, theirs = run(fast, lambda t: t.dtype), run(reference, lambda t: torch.float64)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    for one, other in zip([*mine[0], *mine[1]], [*theirs[0], *theirs[1]], strict=True):
        assert one.shape == other.shape
        gap = (one.double() - other).abs().max() if other.numel() else 0
        assert gap <= tolerance * max(1, other.abs().max() if other.numel() else 0)


def before(lengths, width):
    """[B, T, 1], 1 before each row's length: past it a result means nothing."""
    return (torch.arange(width, device=DEVICE) < lengths[:, None])[..., None]


def scan_inputs(batch, width, channels, states, dtype):
    low = random(batch, width, 2 * states + 3, dtype=dtype)
    B, C = low.split([3, states, states], -1)[1:]  # strided, as a model's are
    u, delta, gate = (random(batch, width, channels, dtype=dtype) for _ in range(3))
    A = -torch.rand(channels, states, device=DEVICE) - 0.1
    return [u, delta, A, B, C, random(channels), random(channels), gate, random(batch, channels, states)]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("segment", [8, 256])  # many segments of a sequence side by side, or one
@pytest.mark.parametrize(("width", "channels", "states"), [(21, 20, 5), (1, 3, 16), (8, 33, 1)])
def test_scan(monkeypatch, dtype, segment, width, channels, states):
    monkeypatch.setattr(triton_scan, "SEGMENT", segment)
    inputs = scan_inputs(3, width, channels, states, dtype)
    weights = [random(3, width, channels), random(3, channels, states)]
    agree(triton_scan.gated_scan, gated_scan, inputs, {}, weights, dtype)
    lengths = torch.tensor([width, width // 2, 0], device=DEVICE)
    ragged = [weights[0] * before(lengths, width), weights[1]]
    agree(triton_scan.gated_scan, gated_scan, inputs, {"lengths": lengths}, ragged, dtype)
    y, _ = triton_scan.gated_scan(*inputs, lengths=lengths)
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_scan_with_nothing_optional(dtype):
    inputs = [*scan_inputs(2, 11, 6, 4, dtype)[:5], None, None, None, None]
    agree(triton_scan.gated_scan, gated_scan, inputs, {}, [random(2, 11, 6), None], dtype)
    agree(triton_scan.gated_scan, gated_scan, inputs, {}, [None, random(2, 6, 4)], dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_scan_of_packed_sequences(dtype):
    inputs = [*scan_inputs(1, 40, 20, 5, dtype)[:8], None]
    offsets = torch.tensor([0, 7, 7, 8, 27, 40], dtype=torch.int32, device=DEVICE)
    named = {"offsets": offsets, "longest": 23}
    agree(triton_scan.gated_scan, gated_scan, inputs, named, [random(1, 40, 20), random(5, 20, 5)], dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("width", "channels", "taps"), [(70, 66, 4), (9, 5, 2), (2, 5, 4), (1, 3, 3)])
def test_conv(dtype, width, channels, taps):
    x = random(3, width, 2 * channels, dtype=dtype)[..., :channels]
    parts = [random(channels, taps), random(channels), random(3, taps - 1, channels)]
    weights = [random(3, width, channels), random(3, taps - 1, channels)]
    lengths = torch.tensor([width, 1, 0], device=DEVICE)
    agree(triton_conv.causal_conv, causal_conv, [x, *parts], {"activate": True}, weights, dtype)
    agree(triton_conv.causal_conv, causal_conv, [x, *parts], {"lengths": lengths}, weights, dtype)
    agree(triton_conv.causal_conv, causal_conv, [x, *parts[:2], None], {"lengths": lengths}, weights, dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_conv_of_packed_sequences(dtype):
    inputs = [random(1, 150, 7, dtype=dtype), random(7, 4), random(7), None]
    offsets = torch.tensor([0, 7, 7, 8, 80, 150], dtype=torch.int32, device=DEVICE)
    named = {"offsets": offsets, "longest": 99, "activate": True}
    agree(triton_conv.causal_conv, causal_conv, inputs, named, [random(1, 150, 7), None], dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", [5, 768])
def test_norm(dtype, width):
    """The type is that of what follows; the residual stream is float32."""
    inputs, weights = [random(2, 37, width) * 3, random(width)], [random(2, 37, width), random(2, 37, width)]
    named = {"eps": 1e-5, "dtype": dtype}
    agree(triton_norm.forked_norm, forked_norm, inputs, named, weights, dtype)

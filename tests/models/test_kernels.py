"""Operations against their definitions, one token at a time in float64, and their gradients."""

import pytest
import torch
from torch.nn.functional import conv1d, softplus

from models.kernels import attention as attention_module
from models.kernels import selective_scan as scan_module
from models.kernels.attention import attention
from models.kernels.causal_conv import causal_conv
from models.kernels.selective_scan import selective_scan, selective_step
from models.kernels.ssd import ssd, ssd_step


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def scan_inputs(batch=2, length=7, channels=3, states=2, dtype=torch.float64):
    u, delta = (
        torch.randn(batch, length, channels, dtype=dtype),
        softplus(torch.randn(batch, length, channels, dtype=dtype)),
    )
    A = -torch.rand(channels, states, dtype=dtype) - 0.1
    B, C = torch.randn(2, batch, length, states, dtype=dtype)
    return [u, delta, A, B, C, torch.randn(batch, channels, states, dtype=dtype)]


def naive_scan(u, delta, A, B, C, h):
    outputs = []
    for t in range(u.shape[1]):
        h = torch.exp(delta[:, t, :, None] * A) * h + (delta[:, t] * u[:, t])[..., None] * B[:, t, None]
        outputs.append((h * C[:, t, None]).sum(-1))
    return torch.stack(outputs, 1), h


def ssd_inputs(batch=2, length=7, heads=3, size=2, states=4, dtype=torch.float64):
    x, delta = (
        torch.randn(batch, length, heads, size, dtype=dtype),
        softplus(torch.randn(batch, length, heads, dtype=dtype)),
    )
    B, C = torch.randn(2, batch, length, states, dtype=dtype)
    return [x, delta, -torch.rand(heads, dtype=dtype) * 4, B, C, torch.randn(batch, heads, size, states, dtype=dtype)]


def naive_ssd(x, delta, A, B, C, h):
    outputs = []
    for t in range(x.shape[1]):
        decay = torch.exp(delta[:, t] * A)[..., None, None]
        h = decay * h + (delta[:, t, :, None] * x[:, t])[..., None] * B[:, t, None, None]
        outputs.append((h * C[:, t, None, None]).sum(-1))
    return torch.stack(outputs, 1), h


@pytest.mark.parametrize(
    "elements", [1, 40, 10**6]
)  # one token a chunk; chunks that do not divide the length; one chunk
def test_selective_scan_is_its_definition(monkeypatch, elements):
    monkeypatch.setattr(scan_module, "CHUNK_ELEMENTS", elements)
    inputs = scan_inputs()
    for got, wanted in zip(selective_scan(*inputs), naive_scan(*inputs), strict=True):
        torch.testing.assert_close(got, wanted)
    zero = torch.zeros_like(inputs[-1])
    torch.testing.assert_close(selective_scan(*inputs[:-1])[0], naive_scan(*inputs[:-1], zero)[0])


@pytest.mark.parametrize("elements", [1, 40, 10**6])
def test_selective_scan_gradients(monkeypatch, elements):
    monkeypatch.setattr(scan_module, "CHUNK_ELEMENTS", elements)
    inputs = [tensor.requires_grad_() for tensor in scan_inputs(length=5)]
    assert torch.autograd.gradcheck(selective_scan, inputs)
    assert torch.autograd.gradcheck(lambda *a: selective_scan(*a)[0], inputs[:-1])  # no state in, none used after


def test_selective_step_is_one_token_of_the_scan():
    u, delta, A, B, C, h = scan_inputs(length=1)
    y, state = selective_step(u[:, 0], delta[:, 0], A, B[:, 0], C[:, 0], h)
    wanted, last = selective_scan(u, delta, A, B, C, h)
    torch.testing.assert_close(y, wanted[:, 0])
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize(("length", "chunk"), [(1, 4), (3, 4), (4, 4), (5, 4), (23, 4), (23, 64), (8, 1)])
def test_ssd_is_its_definition_for_any_length(length, chunk):
    inputs = ssd_inputs(length=length)
    for got, wanted in zip(ssd(*inputs, chunk=chunk), naive_ssd(*inputs), strict=True):
        torch.testing.assert_close(got, wanted)
    zero = torch.zeros_like(inputs[-1])
    torch.testing.assert_close(ssd(*inputs[:-1], chunk=chunk)[0], naive_ssd(*inputs[:-1], zero)[0])


def test_ssd_gradients():
    inputs = [tensor.requires_grad_() for tensor in ssd_inputs(length=7)]
    assert torch.autograd.gradcheck(lambda *a: ssd(*a, chunk=3), inputs)


def test_ssd_step_is_one_token():
    x, delta, A, B, C, h = ssd_inputs(length=1)
    y, state = ssd_step(x[:, 0], delta[:, 0], A, B[:, 0], C[:, 0], h)
    wanted, last = naive_ssd(x, delta, A, B, C, h)
    torch.testing.assert_close(y, wanted[:, 0])
    torch.testing.assert_close(state, last)


def test_ssd_in_float32_keeps_its_digits_under_strong_decay():
    """Running sums of large decays cancel: late pairs of a chunk lose digits unless the sums are kept exactly."""
    inputs = ssd_inputs(length=64, heads=2)
    inputs[1] = inputs[1] * 0 + 0.01
    inputs[1][:, :32] = 40.0  # sums of some 10^3 lie before the tokens that matter
    exact = naive_ssd(*inputs)[0]
    got = ssd(*(tensor.float() for tensor in inputs))[0].double()
    assert (got - exact)[:, 33:].abs().max() / exact[:, 33:].abs().max() < 2e-6


@pytest.mark.parametrize("scan", ["selective_scan", "ssd"])
def test_a_token_with_delta_zero_leaves_the_state(scan):
    inputs = scan_inputs() if scan == "selective_scan" else ssd_inputs()
    run = selective_scan if scan == "selective_scan" else ssd
    inputs[1][:, 3:] = 0
    shorter = [tensor[:, :3] if at in (0, 1, 3, 4) else tensor for at, tensor in enumerate(inputs)]
    torch.testing.assert_close(run(*inputs)[1], run(*shorter)[1], rtol=0, atol=1e-14)


def test_causal_conv_is_a_convolution_of_state_and_input():
    x, weight, bias = torch.randn(2, 9, 5), torch.randn(5, 4), torch.randn(5)
    state = torch.randn(2, 3, 5)
    whole = torch.cat([state, x], 1)
    wanted = conv1d(whole.transpose(1, 2), weight[:, None], bias, groups=5).transpose(1, 2)
    y, after = causal_conv(x, weight, bias, state)
    torch.testing.assert_close(y, wanted)
    assert torch.equal(after, whole[:, -3:])
    _, ragged = causal_conv(x, weight, bias, state, torch.tensor([0, 2]))
    assert torch.equal(ragged[0], state[0])
    assert torch.equal(ragged[1], whole[1, 2:5])


def naive_attention(q, k, v, query_positions, key_positions, window, slopes):
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = torch.einsum("bhtd,bhsd->bhts", q, k) / q.shape[-1] ** 0.5
    distance = (query_positions[:, :, None] - key_positions[:, None, :])[:, None]
    seen = (distance >= 0) & (key_positions >= 0)[:, None, None]
    seen = seen & (distance < window) if window else seen
    scores = scores - slopes[:, None, None] * distance if slopes is not None else scores
    return torch.einsum("bhts,bhsd->bhtd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)


@pytest.mark.parametrize("elements", [1, 1 << 24])  # many blocks of queries, or one
@pytest.mark.parametrize("alibi", [False, True])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("ragged", [False, True])
def test_attention_is_its_definition(monkeypatch, elements, alibi, window, ragged):
    monkeypatch.setattr(attention_module, "BLOCK_ELEMENTS", elements)
    before, width = 21, 100
    q = torch.randn(2, 4, width, 8, dtype=torch.float64)
    k, v = torch.randn(2, 2, 2, before + width, 8, dtype=torch.float64)
    start = torch.tensor([before, 17 if ragged else before])[:, None]
    queries, keys = start + torch.arange(width), torch.arange(before + width)[None].repeat(2, 1)
    if window and ragged:  # a window's keys end together, and begin before the first token
        keys = queries[:, :1] + torch.arange(-before, width)
    slopes = torch.tensor([0.5, 0.1, 0.02, 0.0], dtype=torch.float64) if alibi else None
    got = attention(q, k, v, queries, keys, before, window, slopes)
    torch.testing.assert_close(got, naive_attention(q, k, v, queries, keys, window, slopes))


def test_attention_without_a_past_is_causal():
    q, k, v = torch.randn(3, 2, 4, 50, 8, dtype=torch.float64)
    at = torch.arange(50)[None]
    for window in (None, 60, 50, 7):
        got = attention(q, k, v, at, at, 0, window)
        torch.testing.assert_close(got, naive_attention(q, k, v, at, at, window, None))


def test_attention_memory_is_bounded(monkeypatch):
    """No mask is larger than the bound, whatever the number of queries and keys."""
    sizes = []
    mask = attention_module._mask
    monkeypatch.setattr(attention_module, "BLOCK_ELEMENTS", 1 << 16)
    monkeypatch.setattr(attention_module, "_mask", lambda *a: sizes.append(mask(*a).numel()) or mask(*a))
    q, k, v = torch.randn(3, 1, 1, 3000, 4)
    at = torch.arange(3000)[None]
    attention(q, k, v, at, at, 0, None, torch.ones(1))
    attention(q, k, v, at, at, 0, 100)
    assert sizes
    assert max(sizes) <= 1 << 16


@pytest.mark.gpu
@pytest.mark.parametrize("width", [1, 64, 2100])  # one query, a mask in the kernel, earlier keys by themselves
def test_queries_after_many_keys_on_a_gpu(monkeypatch, width):
    monkeypatch.setattr(attention_module, "LARGE", 1 << 22)
    before, room = 2100, 100
    q = torch.randn(2, 4, width, 96, device="cuda")
    k, v = torch.randn(2, 2, 4, before + width + room, 96, device="cuda")
    seen = torch.arange(before, before + width, device="cuda")[None]
    keys = torch.arange(before + width + room, device="cuda")[None]
    wanted = attention(*(x.cpu() for x in (q, k, v, seen, keys)), ahead=before)
    with torch.autocast("cuda", torch.bfloat16):
        found = attention(q, k, v, seen, keys, ahead=before)
    torch.testing.assert_close(found.float().cpu(), wanted, atol=1.5e-3, rtol=2e-2)

"""The gated delta rule and RWKV-7's recurrence against their definitions, token by token in float64, and gradients."""

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import normalize

from models.kernels import chunks as chunks_module
from models.kernels.chunks import Chunks, solve
from models.kernels.gated_delta import gated_delta, gated_delta_step
from models.kernels.wkv7 import STRONGEST, wkv7, wkv7_step

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def delta_inputs(batch=2, length=7, heads=3, keys=4, values=5):
    q, k, v = (torch.randn(batch, length, heads, size, dtype=torch.float64) for size in (keys, keys, values))
    decay, beta = -2 * torch.rand(batch, length, heads).double(), torch.rand(batch, length, heads).double()
    return [q, normalize(k, dim=-1), v, decay, beta, torch.randn(batch, heads, keys, values, dtype=torch.float64)]


def wkv_inputs(batch=2, length=7, heads=3, keys=4, values=5):
    r, k, removed = torch.randn(3, batch, length, heads, keys, dtype=torch.float64)
    decay, rate = torch.rand(2, batch, length, heads, keys).double()
    v = torch.randn(batch, length, heads, values, dtype=torch.float64)
    state = torch.randn(batch, heads, keys, values, dtype=torch.float64)
    return [r, STRONGEST * decay, k, v, normalize(removed, dim=-1), rate, state]


def naive_delta(q, k, v, decay, beta, state):
    """y_t = S_t' q_t with S_t = a_t (I - b_t k_t k_t') S_(t-1) + b_t k_t v_t', as matrices."""
    outputs = []
    for t in range(q.shape[1]):
        key, rate = k[:, t, :, :, None], beta[:, t, :, None, None]
        kept = torch.eye(k.shape[-1], dtype=k.dtype) - rate * key @ key.mT
        state = decay[:, t, :, None, None].exp() * kept @ state + rate * key @ v[:, t, :, None, :]
        outputs.append((state.mT @ q[:, t, :, :, None]).squeeze(-1))
    return torch.stack(outputs, 1), state


def naive_wkv(r, decay, k, v, removed, rate, state):
    """y_t = S_t' r_t with S_t = (diag(w_t) - (a_t * z_t) z_t') S_(t-1) + k_t v_t', as matrices."""
    outputs = []
    for t in range(r.shape[1]):
        gone = removed[:, t, :, :, None]
        kept = torch.diag_embed(decay[:, t].exp()) - (rate[:, t, :, :, None] * gone) @ gone.mT
        state = kept @ state + k[:, t, :, :, None] @ v[:, t, :, None, :]
        outputs.append((state.mT @ r[:, t, :, :, None]).squeeze(-1))
    return torch.stack(outputs, 1), state


RULES = {
    "gated_delta": (gated_delta, gated_delta_step, naive_delta, delta_inputs),
    "wkv7": (wkv7, wkv7_step, naive_wkv, wkv_inputs),
}
both = pytest.mark.parametrize("rule", RULES)


@both
@pytest.mark.parametrize(("length", "chunk"), [(1, 4), (3, 4), (4, 4), (5, 4), (23, 4), (23, 64), (8, 1)])
def test_chunks_are_the_definition_for_any_length(rule, length, chunk):
    run, _, naive, inputs = RULES[rule]
    given = inputs(length=length)
    for got, wanted in zip(run(*given, chunk=chunk), naive(*given), strict=True):
        torch.testing.assert_close(got, wanted)
    zero = torch.zeros_like(given[-1])
    torch.testing.assert_close(run(*given[:-1], chunk=chunk)[0], naive(*given[:-1], zero)[0])


@both
def test_a_step_is_one_token(rule):
    _, step, naive, inputs = RULES[rule]
    given = inputs(length=1)
    y, state = step(*(tensor[:, 0] for tensor in given[:-1]), given[-1])
    wanted, last = naive(*given)
    torch.testing.assert_close(y, wanted[:, 0])
    torch.testing.assert_close(state, last)


@both
def test_gradients(rule):
    run, _, _, inputs = RULES[rule]
    given = [tensor.requires_grad_() for tensor in inputs(batch=1, heads=2, keys=3, values=2)]
    assert torch.autograd.gradcheck(lambda *a: run(*a, chunk=3), given)
    assert torch.autograd.gradcheck(lambda *a: run(*a, chunk=3)[0], given[:-1])  # no state in, none used after


@both
@pytest.mark.parametrize("chunk", [1, 4, 64])
@pytest.mark.parametrize("bounds", [[0, 5, 5, 6, 12], [0, 12], [0, 4, 8, 12, 12], [0, 0, 7, 12]])
def test_packed_sequences_are_each_alone(rule, bounds, chunk):
    run, _, _, inputs = RULES[rule]
    given = [tensor.requires_grad_() for tensor in inputs(batch=1, length=12)[:-1]]
    spans = list(pairwise(bounds))
    offsets, longest = torch.tensor(bounds, dtype=torch.int32), max(end - begin for begin, end in spans) + 1
    packed, _ = run(*given, chunk=chunk, offsets=offsets, longest=longest)
    alone = [run(*(x[:, begin:end] for x in given), chunk=chunk)[0] for begin, end in spans if end > begin]
    torch.testing.assert_close(packed, torch.cat(alone, 1))
    weights = torch.randn_like(packed)
    mine, theirs = (torch.autograd.grad((y * weights).sum(), given) for y in (packed, torch.cat(alone, 1)))
    torch.testing.assert_close(mine, theirs)


@both
def test_a_token_of_zeros_leaves_the_state(rule):
    run, _, _, inputs = RULES[rule]
    given = inputs()
    for still in {"gated_delta": (3, 4), "wkv7": (1, 2, 5)}[rule]:
        given[still][:, 3:] = 0
    shorter = [*(tensor[:, :3] for tensor in given[:-1]), given[-1]]
    torch.testing.assert_close(run(*given)[1], run(*shorter)[1], rtol=0, atol=1e-14)


@both
@pytest.mark.parametrize("inverted", [set(), {"cpu"}])
def test_float32_keeps_its_digits(monkeypatch, rule, inverted):
    """Under the strongest decay, and where all keys are the same one, for which powers of the triangular system grow
    like binomials."""
    monkeypatch.setattr(chunks_module, "INVERTED", inverted)
    run, _, naive, inputs = RULES[rule]
    given = inputs(batch=1, length=130, heads=1, keys=8, values=8)
    if rule == "wkv7":
        given[1] = torch.where(torch.arange(130)[None, :, None, None] % 2 == 0, STRONGEST, given[1])
        given[4], given[5] = given[4][:, :1].expand_as(given[4]), 0 * given[5] + 0.999
    else:
        given[3][:, :40] = -40.0  # sums of some 10^3 lie before the tokens that matter
        given[3][:, 40:] = -0.01
        given[1], given[4] = given[1][:, :1].expand_as(given[1]), 0 * given[4] + 0.999
    exact, _ = naive(*given)
    got, _ = run(*(tensor.float() for tensor in given))
    assert (got - exact).abs().max() / exact.abs().max() < 2e-6
    assert (got - exact)[:, 60:].abs().max() / exact[:, 60:].abs().max() < 2e-6


@pytest.mark.parametrize("inverted", [set(), {"cpu"}])
@pytest.mark.parametrize("size", [1, 5, 8])
def test_solve_reads_only_below_the_diagonal(monkeypatch, size, inverted):
    monkeypatch.setattr(chunks_module, "INVERTED", inverted)
    lower, right = torch.randn(2, size, size, dtype=torch.float64), torch.randn(2, size, 3, dtype=torch.float64)
    wanted = torch.linalg.inv(torch.eye(size) + lower.tril(-1)) @ right
    torch.testing.assert_close(solve(lower, right), wanted)
    assert torch.autograd.gradcheck(solve, [lower.requires_grad_(), right.requires_grad_()])


def test_carry_gives_the_state_before_each_chunk():
    transition, added = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64), torch.randn(2, 3, 2, 4, 5, dtype=torch.float64)
    state = torch.randn(2, 2, 4, 5, dtype=torch.float64)
    carry = Chunks(length=12, size=4).carry
    starts, last = carry(transition, added, state)
    torch.testing.assert_close(starts[:, 0], state)
    torch.testing.assert_close(transition[:, 2] @ starts[:, 2] + added[:, 2], last)
    given = [tensor.requires_grad_() for tensor in (transition, added, state)]
    assert torch.autograd.gradcheck(carry, given)


@both
@pytest.mark.parametrize(
    ("length", "keys", "values"), [(70, 20, 40), (5, 16, 70), (64, 8, 8)], ids=lambda number: str(number)
)
def test_the_triton_kernel_is_the_definition(rule, length, keys, values):
    kernel = pytest.importorskip("models.kernels.triton_delta", reason="Triton is not installed")
    _, _, naive, inputs = RULES[rule]
    given = inputs(length=length, heads=2, keys=keys, values=values)
    got = getattr(kernel, rule)(*(tensor.float().to(DEVICE) for tensor in given))
    _near(got, naive(*given))
    fresh = getattr(kernel, rule)(*(tensor.float().to(DEVICE) for tensor in given[:-1]))
    _near(fresh, naive(*given[:-1], torch.zeros_like(given[-1])))


@both
def test_the_triton_kernel_packs(rule):
    kernel = pytest.importorskip("models.kernels.triton_delta", reason="Triton is not installed")
    run, _, _, inputs = RULES[rule]
    given = inputs(batch=1, length=80, heads=2, keys=16, values=16)[:-1]
    packing = {"offsets": torch.tensor([0, 1, 40, 40, 80], dtype=torch.int32), "longest": 45}
    wanted, _ = run(*given, **packing)
    packing["offsets"] = packing["offsets"].to(DEVICE)
    got, _ = getattr(kernel, rule)(*(tensor.float().to(DEVICE) for tensor in given), **packing)
    _near([got], [wanted])


@both
def test_the_triton_kernel_leaves_gradients_to_the_reference(rule):
    kernel = pytest.importorskip("models.kernels.triton_delta", reason="Triton is not installed")
    run, _, _, inputs = RULES[rule]
    given = [tensor.float().requires_grad_() for tensor in inputs()]
    mine, theirs = (torch.autograd.grad(f(*given)[0].sum(), given) for f in (getattr(kernel, rule), run))
    assert all(torch.equal(one, other) for one, other in zip(mine, theirs, strict=True))


def _near(got, wanted):
    for one, other in zip(got, wanted, strict=True):
        assert (one.cpu() - other).abs().max() / other.abs().max() < 2e-6

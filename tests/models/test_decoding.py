"""Decoding one token at a time: rows at different places, rows that wait, and the fused kernels against `step`."""

import pytest
import torch

from models import ARCHITECTURES
from models.build import build
from models.decoding import Stepping, decoding
from models.kernels.attention import attention_step, held
from models.kernels.ssd import ssd_step
from models.state import clone, fill, leaves, mapped, take

VOCABULARY = 24
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def roughened(architecture, size="tiny", **options):
    """A model whose norms, biases and decays are not those it begins with."""
    model = build(architecture, size, VOCABULARY, options, seed=0).eval().to(DEVICE)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def packed(state):
    """As decoding wants it: contiguous, and shared with nobody."""
    return mapped(lambda tensor: tensor.clone(memory_format=torch.contiguous_format), state)


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "lookup"])
@torch.inference_mode()
def test_rows_go_on_from_different_places_and_those_that_wait_stay(architecture):
    model = roughened(architecture)
    rows, steps, longest = 4, 6, 9
    lengths = torch.tensor([2, 5, 9, 3], device=DEVICE)
    tokens = torch.randint(VOCABULARY, (rows, longest + steps), device=DEVICE)
    state = model.initial_state(rows, torch.device(DEVICE))
    state = model.reserve(state, longest + steps + 1)
    for row in range(rows):
        _, one = model(tokens[row : row + 1, : lengths[row]])
        state = fill(state, torch.tensor([row]), one)
    decode = decoding(model, rows, torch.float32)
    scores = torch.full((rows, VOCABULARY), 7.0, device=DEVICE)
    at = lengths.clone()
    for step in range(steps):
        live = torch.tensor([True, step % 2 == 0, step > 2, False], device=DEVICE)
        before = scores.clone()
        state = decode(tokens.gather(1, at[:, None])[:, 0], state, live, scores)
        at += live
        for row in range(rows):
            if not live[row]:
                assert torch.equal(scores[row], before[row])
                continue
            wanted = model(tokens[row : row + 1, : at[row]])[0][0, -1]
            assert torch.allclose(scores[row], wanted, atol=1e-4)


@torch.inference_mode()
def test_a_step_in_place_leaves_the_tensors_where_they_are():
    for architecture in ("mamba1", "transformer", "sliding", "gru"):
        model = roughened(architecture)
        state = model.reserve(model.initial_state(3, torch.device(DEVICE)), 10)
        places = [tensor.data_ptr() for tensor in leaves(state)]
        decode = decoding(model, 3, torch.float32)
        tokens, live = (
            torch.zeros(3, dtype=torch.int64, device=DEVICE),
            torch.tensor([True, False, True], device=DEVICE),
        )
        for _ in range(3):
            state = decode(tokens, state, live, torch.zeros(3, VOCABULARY, device=DEVICE))
        assert [tensor.data_ptr() for tensor in leaves(state)] == places


def test_fill_writes_rows_in_place_where_they_fit():
    big, small = {"a": torch.zeros(4, 5), "n": 1}, {"a": torch.ones(2, 3), "n": 2}
    filled = fill(big, torch.tensor([3, 1]), small)
    assert filled["a"] is big["a"]
    assert filled["n"] is None
    assert big["a"].sum(1).tolist() == [0, 3, 0, 3]
    grown = fill(small, torch.tensor([0]), take(big, torch.tensor([2])))
    assert grown["a"].shape == (2, 5)
    assert grown["a"].tolist() == [[0] * 5, [1, 1, 1, 0, 0]]


triton = pytest.importorskip("triton", reason="Triton is not installed")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3, 19])
@torch.inference_mode()
def test_mamba1_in_four_kernels_a_block(dtype, rows):
    from models.kernels.triton_mamba1_step import Mamba1Step

    model = roughened("mamba1", d_model=48, d_state=6, d_conv=3)
    _, state = model(torch.randint(VOCABULARY, (rows, 7), device=DEVICE))
    mine, theirs = packed(state), clone(state)
    fused, stepping = Mamba1Step(model, dtype, rows), Stepping(model, torch.float32)
    live = torch.arange(rows, device=DEVICE) % 3 != 1
    scores, wanted = (torch.zeros(rows, VOCABULARY, device=DEVICE) for _ in range(2))
    for _ in range(3):
        tokens = torch.randint(VOCABULARY, (rows,), device=DEVICE)
        mine, theirs = fused(tokens, mine, live, scores), stepping(tokens, theirs, live, wanted)
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for one, other in zip([scores, *leaves(mine)], [wanted, *leaves(theirs)], strict=True):
        assert (one - other).abs().max() <= tolerance * other.abs().max()
    for one, other in zip(leaves(mine), leaves(state), strict=True):
        assert torch.equal(one[~live], other[~live])


@torch.inference_mode()
def test_mamba1_rows_do_not_depend_on_each_other():
    from models.kernels.triton_mamba1_step import Mamba1Step

    model, rows = roughened("mamba1", layers=1), 5
    fused, live = Mamba1Step(model, torch.bfloat16, rows), torch.ones(rows, dtype=torch.bool, device=DEVICE)
    _, state = model(torch.randint(VOCABULARY, (rows, 4), device=DEVICE))
    _, other = model(torch.randint(VOCABULARY, (rows, 4), device=DEVICE))
    found = []
    for base in (state, other):
        mixed = fill(packed(base), torch.tensor([2]), take(state, torch.tensor([2])))
        tokens, scores = torch.randint(VOCABULARY, (rows,), device=DEVICE), torch.zeros(rows, VOCABULARY, device=DEVICE)
        tokens[2] = 3
        after = fused(tokens, mixed, live, scores)
        found.append([scores[2], *(tensor[2] for tensor in leaves(after))])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


@pytest.mark.parametrize(("size", "entries"), [(24, 40), (64, 128), (5, 3)])
def test_mamba2_state_of_one_token(size, entries):
    from models.kernels.triton_ssd_step import ssd_step as fused

    rows, heads = 3, 2
    x, B, C = (torch.randn(*shape, device=DEVICE) for shape in ((rows, heads, size), (rows, entries), (rows, entries)))
    delta, A = torch.rand(rows, heads, device=DEVICE), -torch.rand(heads, device=DEVICE)
    state = torch.randn(rows, heads, size, entries, device=DEVICE)
    live = torch.tensor([True, False, True], device=DEVICE)
    wanted, after = ssd_step(x, delta, A, B, C, state)
    held = state.clone()
    mine, same = fused(x, delta, A, B, C, held, live)
    assert same is held
    assert torch.allclose(mine, wanted, atol=1e-4)
    assert torch.allclose(held[live], after[live], atol=1e-5)
    assert torch.equal(held[~live], state[~live])


def caches(rows, heads, capacity, size, position, window):
    """Caches as rows at these positions have left them, with rubbish where nothing has been written."""
    keys, values = torch.randn(2, rows, heads, capacity, size, device=DEVICE).unbind(0)
    index = torch.arange(capacity, device=DEVICE)
    written = index < position[:, None] if window is None else held(position - 1, window) >= 0
    rubbish = torch.where(written, 0.0, 1e4)[:, None, :, None]
    return (keys + rubbish).contiguous(), (values + rubbish).contiguous()


@pytest.mark.parametrize("programs", [0, 2048])  # in one part, or in several that are joined
@pytest.mark.parametrize("extra", ["nothing", "slopes", "angles", "one angle"])
@pytest.mark.parametrize(("window", "groups"), [(None, 1), (None, 2), (40, 1), (40, 2)])
def test_attention_of_one_token(window, groups, extra, programs, monkeypatch):
    from models.kernels import triton_attention_step

    monkeypatch.setattr(triton_attention_step, "PROGRAMS", programs)
    position = torch.tensor([0, 1, 39, 40, 75], device=DEVICE)
    rows, heads, size, capacity = len(position), 4, 24, window or 80
    projected = torch.randn(rows, heads + 2 * heads // groups, size, device=DEVICE)
    q, k, v = projected.split([heads, heads // groups, heads // groups], dim=1)
    keys, values = caches(rows, heads // groups, capacity, size, position, window)
    tilt = torch.rand(heads, device=DEVICE) if extra == "slopes" else None
    angles = 6 * torch.rand(1 if extra == "one angle" else rows, 1, 1, 8, device=DEVICE)
    tables = (angles.cos(), angles.sin()) if "angle" in extra else None
    arguments = [(q, k, v, position, keys.clone(), values.clone(), window, tilt, tables) for _ in range(2)]
    mine, written = triton_attention_step.attention_step(*arguments[0])
    wanted, also = attention_step(*arguments[1])
    assert torch.allclose(mine, wanted, atol=2e-5)
    for one, other in zip(written, also, strict=True):
        assert torch.allclose(one, other, atol=1e-6) if tables else torch.equal(one, other)

"""State operations on any nest of tensors."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch

from models import ARCHITECTURES
from models.build import build
from models.state import clone, leaves, put, state_bytes, take


@dataclass
class Memory:
    cells: torch.Tensor
    name: str = "memory"


Pair = namedtuple("Pair", "left right")


def state(batch, capacity=3):
    numbers = torch.arange(batch * capacity, dtype=torch.float32).reshape(batch, capacity)
    return {"a": [numbers, Memory(numbers[:, None] + 100)], "b": (Pair(numbers.long(), numbers > 1), None)}


def test_take_picks_rows_of_every_leaf_and_keeps_the_structure():
    rows = torch.tensor([2, 0, 2])
    taken = take(state(4), rows)
    for got, whole in zip(leaves(taken), leaves(state(4)), strict=True):
        assert torch.equal(got, whole[rows])
        assert got.dtype == whole.dtype
    assert isinstance(taken["a"][1], Memory)
    assert taken["a"][1].name == "memory"
    assert isinstance(taken["b"][0], Pair)
    assert taken["b"][1] is None


@pytest.mark.parametrize(
    "operation", [clone, lambda s: take(s, torch.arange(4)), lambda s: put(s, torch.tensor([1]), state(1))]
)
def test_results_share_no_memory(operation):
    original = state(4)
    for tensor in leaves(operation(original)):
        tensor.zero_()
    for left, right in zip(leaves(original), leaves(state(4)), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize(("mine", "theirs"), [(3, 3), (3, 5), (5, 3), (0, 2)])
def test_put_replaces_rows_and_pads_to_the_larger_capacity(mine, theirs):
    rows = torch.tensor([2, 0])
    result, base, other = put(state(4, mine), rows, state(2, theirs)), state(4, mine), state(2, theirs)
    cells, before, new = result["a"][0], base["a"][0], other["a"][0]
    assert cells.shape == (4, max(mine, theirs))
    assert torch.equal(cells[[1, 3], :mine], before[[1, 3]])
    assert torch.equal(cells[rows, :theirs], new)
    assert not cells[[1, 3], mine:].any()
    assert not cells[rows, theirs:].any()


def test_put_of_nothing_is_a_copy():
    result = put(state(4), torch.tensor([], dtype=torch.int64), state(0))
    assert all(torch.equal(a, b) for a, b in zip(leaves(result), leaves(state(4)), strict=True))


def test_state_bytes_counts_every_tensor():
    assert state_bytes(state(4)) == 12 * 4 + 12 * 4 + 12 * 8 + 12 * 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.inference_mode()
def test_appending_equals_hidden_and_leaves_the_old_state_its_meaning(architecture):
    model = build(architecture, "tiny", 16, seed=0).eval()
    tokens = torch.randint(16, (2, 30), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([7, 10])
    state = model.reserve(model.initial_state(2), 32)
    _, state = model.append(tokens[:, :10], state, lengths)
    wanted, after = model.hidden(tokens[:, 10:20], state)
    features, appended = model.append(tokens[:, 10:20], state)
    assert torch.equal(features, wanted)
    again, _ = model.hidden(tokens[:, 10:20], state)
    assert torch.allclose(again, wanted, atol=1e-6)
    then, _ = model.hidden(tokens[:, 20:], after)
    assert torch.allclose(model.append(tokens[:, 20:], appended)[0], then, atol=1e-6)


@torch.inference_mode()
def test_a_growing_cache_is_reserved_once_and_appended_in_place():
    model = build("transformer", "tiny", 16, seed=0).eval()
    state = model.reserve(model.initial_state(2), 40)
    places = [tensor.data_ptr() for tensor in leaves(state) if tensor.ndim == 4]
    for _ in range(4):
        _, state = model.append(torch.zeros(2, 10, dtype=torch.int64), state)
    assert [tensor.data_ptr() for tensor in leaves(state) if tensor.ndim == 4] == places
    trimmed = model.reserve(state, 25)
    assert {tensor.shape[2] for tensor in leaves(trimmed) if tensor.ndim == 4} == {25}
    assert state_bytes(trimmed) == 2 * (model.cost(25).state_bytes)


@pytest.mark.parametrize("architecture", ["transformer", "sliding", "hybrid"])
@torch.inference_mode()
def test_a_cache_in_bfloat16_changes_nothing_for_a_forward_in_it(architecture):
    """It is half the memory, and not made bfloat16 anew by every call; a window's cache stays as it is."""
    model = build(architecture, "tiny", 16, seed=0).eval()
    tokens = torch.randint(16, (2, 40), generator=torch.Generator().manual_seed(0))
    one, other = (model.reserve(model.initial_state(2), 30, dtype) for dtype in (None, torch.bfloat16))
    for start in range(0, 40, 8):
        with torch.autocast("cpu", torch.bfloat16):
            wanted, one = model.append(tokens[:, start : start + 8], one)
            features, other = model.append(tokens[:, start : start + 8], other)
        assert torch.equal(features, wanted)
    caches = [tensor for tensor in leaves(other) if tensor.dtype == torch.bfloat16]
    assert len(caches) == {"transformer": 6, "sliding": 0, "hybrid": 2}[architecture]
    assert {tensor.dtype for tensor in leaves(model.reserve(other, 40, torch.float32))} == {torch.float32, torch.int64}


@torch.inference_mode()
def test_a_position_that_all_rows_share_is_known_on_the_host_until_they_do_not():
    model = build("transformer", "tiny", 16, seed=0).eval()
    tokens = torch.zeros(2, 5, dtype=torch.int64)
    _, state = model.hidden(tokens)
    _, state = model.step(tokens[:, 0], state)
    assert state.even == take(state, torch.tensor([1])).even == 6
    _, other = model.hidden(tokens[:1])
    assert put(state, torch.tensor([0]), other).even is None
    _, ragged = model.hidden(tokens, state, torch.tensor([3, 5]))
    assert ragged.even is None
    assert ragged.position.tolist() == [9, 11]

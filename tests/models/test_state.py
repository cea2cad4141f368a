"""State operations on any nest of tensors."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch

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

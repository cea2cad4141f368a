"""Operations on a model's state.

A state is a nest of lists, tuples, dicts and dataclasses whose tensors all have the batch as first dimension. These
functions know nothing else about it, so they serve every architecture, the user's own included.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

State = Any


def clone(state: State) -> State:
    """A copy that shares no memory with `state`."""
    return mapped(Tensor.clone, state)


def take(state: State, rows: Tensor) -> State:
    """The state of some rows, in the order asked for and as often: a copy.

    rows: int64 [R], each in 0..B-1.
    """
    return mapped(lambda tensor: tensor.index_select(0, rows.to(tensor.device)), state)


def put(state: State, rows: Tensor, other: State) -> State:
    """A copy of `state` in which row `rows[i]` is row i of `other`.

    rows: int64 [R], without repetition; other: a state of R rows of the same model. Tensors of different sizes beyond
    the batch (attention caches of different capacities) are padded with zeros to the larger size; every architecture
    here ignores what lies beyond a row's own length. What is no tensor and differs between the two becomes None.
    """
    return mapped(lambda mine, theirs: _put(mine, rows.to(mine.device), theirs), state, other)


def state_bytes(state: State) -> int:
    """Bytes its tensors hold, all rows together."""
    return sum(tensor.numel() * tensor.element_size() for tensor in leaves(state))


def leaves(state: State) -> Iterator[Tensor]:
    """The tensors of a state, in a fixed order."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        yield from (tensor for part in state.values() for tensor in leaves(part))
    elif isinstance(state, (list, tuple)):
        yield from (tensor for part in state for tensor in leaves(part))
    elif dataclasses.is_dataclass(state):
        yield from (tensor for field in dataclasses.fields(state) for tensor in leaves(getattr(state, field.name)))


def _put(mine: Tensor, rows: Tensor, theirs: Tensor) -> Tensor:
    size = [max(sizes) for sizes in zip(mine.shape[1:], theirs.shape[1:], strict=True)]
    result = _padded(mine, size)
    if result is mine:
        result = mine.clone()
    return result.index_copy_(0, rows, _padded(theirs, size).to(result))


def _padded(tensor: Tensor, size: list[int]) -> Tensor:
    if list(tensor.shape[1:]) == size:
        return tensor
    larger = tensor.new_zeros(tensor.shape[0], *size)
    larger[tuple(slice(extent) for extent in tensor.shape)] = tensor
    return larger


def mapped(function: Callable[..., Any], state: State, *others: State) -> State:
    """Apply `function` to corresponding tensors; what is neither tensor nor container stays where all agree on it."""
    if isinstance(state, Tensor):
        return function(state, *others)
    if isinstance(state, dict):
        return {key: mapped(function, value, *(other[key] for other in others)) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        parts = [mapped(function, *values) for values in zip(state, *others, strict=True)]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        names = [field.name for field in dataclasses.fields(state)]
        parts = [mapped(function, getattr(state, name), *(getattr(o, name) for o in others)) for name in names]
        return dataclasses.replace(state, **dict(zip(names, parts, strict=True)))
    return state if all(other == state for other in others) else None


__all__ = ["State", "clone", "leaves", "mapped", "put", "state_bytes", "take"]

"""Operations on a model's state.

A state is a nest of lists, tuples, dicts and dataclasses whose tensors all have the batch as first dimension. These
functions know nothing else about it, so they serve every architecture, the user's own included.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
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


def fill(state: State, rows: Tensor, other: State) -> State:
    """`put` in place, as far as the tensors of `other` fit into those of `state`; what is larger is put into a copy.

    What lies beyond them in the rows keeps its old values, which every architecture here ignores.
    """
    return mapped(lambda mine, theirs: _fill(mine, rows.to(mine.device), theirs), state, other)


def kept(state: State, after: State, live: Tensor) -> State:
    """The state `after` a step in the rows of `live` (bool [B]), `state` in the others; written into `state`.

    A tensor that the step itself changed in place is left as it is: it may only write what a row that stays does not
    see. One that has grown replaces the old one.
    """
    return mapped(lambda old, new: _kept(old, new, live), state, after)


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


def _fill(mine: Tensor, rows: Tensor, theirs: Tensor) -> Tensor:
    if any(size > room for size, room in zip(theirs.shape[1:], mine.shape[1:], strict=True)):
        return _put(mine, rows, theirs)
    index: tuple[Any, ...] = (rows, *(slice(size) for size in theirs.shape[1:]))
    mine[index] = theirs.to(mine)
    return mine


def _kept(old: Tensor, new: Tensor, live: Tensor) -> Tensor:
    if new is old:
        return old
    mask = live.reshape(-1, *[1] * (new.ndim - 1))
    if new.shape != old.shape:
        return torch.where(mask, new, _padded(old, list(new.shape[1:])))
    return torch.where(mask, new, old, out=old)


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


__all__ = ["State", "clone", "fill", "kept", "leaves", "mapped", "put", "state_bytes", "take"]

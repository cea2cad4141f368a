"""Training batches: the problems of a step in the layout that their model trains on fastest.

A CPU takes parts: rows split by length, so that little is padding. On a GPU a model that packs takes one row of all
sequences end to end, filled up to one of a few sizes, so that kernels and CUDA graphs meet the same shapes again; an
RNN takes the tokens of all rows time by time, as cuDNN does, without any padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

PARTS = 4
"""Most parts of a batch. More would pad less, but products of few rows are slow."""
SMALLEST_PART = 8
"""Fewest rows of a part."""
UNEVEN = 0.25
"""Share of padding above which equal parts are given up: the rows' lengths differ too much."""
ROWS_OF_A_PART = 2
"""What a part costs besides its rows: as much as so many more of them."""
SIZES = 16
"""Sizes of a packed row between a power of two and the next: at most 1/16 of it is padding."""
LONGEST_SIZES = 4
"""The same for the bound on its sequences' lengths, which costs nothing but is part of a CUDA graph."""
IGNORED = -100
"""Target of a token after which the model makes nothing."""


class Trajectory(Protocol):
    """What batches are made of: one row of tokens."""

    @property
    def ids(self) -> Any: ...

    @property
    def own(self) -> Any: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Part:
    """Right-padded trajectories of about the same length."""

    tokens: Tensor
    """int64 [B, T]."""
    own: Tensor
    """bool [B, T]: made by the model, so part of the loss."""
    lengths: Tensor
    """int64 [B]: real tokens of each row."""


@dataclass(frozen=True)
class Batch:
    """The problems of one optimiser step. Its parts differ in length; together they are a random sample, which parts
    on their own are not: gradients are accumulated over them."""

    parts: list[Part]
    tasks: dict[str, int] = field(default_factory=dict)
    """Real tokens of each task."""

    @property
    def own(self) -> int:
        """Tokens the model makes."""
        return sum(int(part.own.sum()) for part in self.parts)

    @property
    def real(self) -> int:
        """Tokens that are not padding."""
        return sum(int(part.lengths.sum()) for part in self.parts)

    @property
    def padding(self) -> int:
        return sum(part.tokens.numel() for part in self.parts) - self.real


@dataclass(frozen=True)
class Packed:
    """The problems of one step end to end, each without its last token, which nothing follows."""

    tokens: Tensor
    """int64 [N]."""
    targets: Tensor
    """int64 [N]: the next token where the model makes it, else IGNORED."""
    offsets: Tensor
    """int32 [S + 1]: where each sequence begins, and N. The last sequences, perhaps empty, are padding."""
    longest: int
    """No sequence has more tokens."""
    own: int
    real: int
    padding: int
    tasks: dict[str, int] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Batches of the same shape can go through the same CUDA graph."""
        return len(self.tokens), len(self.offsets), self.longest


@dataclass(frozen=True)
class Interleaved:
    """The problems of one step time by time: the first token of every row, then the second of every row that has one.
    Rows are in descending order of length, each without its last token."""

    tokens: Tensor
    """int64 [N]."""
    targets: Tensor
    """int64 [N]: the next token where the model makes it, else IGNORED."""
    sizes: Tensor
    """int64 [T], on the CPU: rows that have a token at each time."""
    own: int
    real: int
    padding: int = 0
    shape: tuple[int, ...] | None = None
    """Batches of the same shape, if they have one, can go through the same CUDA graph."""
    tasks: dict[str, int] = field(default_factory=dict)


class Envelope:
    """How many rows most batches of a stream have going at each time, so that those can be padded to the same sizes.

    Taken from the first batches: their mean and a margin. The sizes of a batch stray from the mean as an empirical
    distribution from the true one, so a margin of MARGIN times the square root of the rows holds all of them in a share
    1 - exp(-2 MARGIN^2) of the batches (Smirnov 1944).
    """

    MARGIN = 0.8
    BATCHES = 32

    def __init__(self) -> None:
        self.seen: list[np.ndarray[Any, Any]] = []
        self.sizes: np.ndarray[Any, Any] | None = None

    def around(self, batch: Interleaved) -> Interleaved:
        """The batch padded to the common sizes; as it is while these are not known yet, and where it does not fit."""
        sizes = batch.sizes.numpy()
        if self.sizes is None:
            self.seen.append(sizes)
            if len(self.seen) == self.BATCHES:
                self._settle()
            return batch
        common = self.sizes
        if len(sizes) > len(common) or (sizes > common[: len(sizes)]).any():
            return batch
        rows = np.repeat(np.concatenate([[0], np.cumsum(common)[: len(sizes) - 1]]), sizes)
        starts = np.repeat(np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes)
        places = rows + np.arange(len(starts)) - starts
        tokens, targets = np.zeros(common.sum(), np.int64), np.full(common.sum(), IGNORED)
        tokens[places], targets[places] = batch.tokens.numpy(), batch.targets.numpy()
        given, wanted, counts = (torch.from_numpy(array) for array in (tokens, targets, common))
        padding = len(tokens) - len(batch.tokens)
        return replace(batch, tokens=given, targets=wanted, sizes=counts, padding=padding, shape=(len(common),))

    def _settle(self) -> None:
        width, most = max(map(len, self.seen)), max(int(sizes[0]) for sizes in self.seen)
        mean = np.mean([np.pad(sizes, (0, width - len(sizes))) for sizes in self.seen], axis=0)
        self.sizes = np.minimum(np.ceil(mean + self.MARGIN * most**0.5), most).astype(np.int64)
        self.seen.clear()


def split(rows: Sequence[Trajectory], pieces: int = 1) -> Batch:
    """Rows as one batch, its parts cut from the rows sorted by length: equal ones, or, where much of those would be
    padding, the cheapest ones; then each into so many `pieces`."""
    ordered = sorted(rows, key=len)
    lengths = [len(row) for row in ordered]
    parts = max(1, min(PARTS, len(rows) // SMALLEST_PART))
    cuts = [len(rows) * part // parts for part in range(parts + 1)]
    padded = sum((end - begin) * lengths[end - 1] for begin, end in pairwise(cuts))
    if sum(lengths) < (1 - UNEVEN) * padded:
        cuts = cheapest(lengths)
    finer = {begin + (end - begin) * at // pieces for begin, end in pairwise(cuts) for at in range(pieces + 1)}
    return Batch([collate(ordered[begin:end]) for begin, end in pairwise(sorted(finer))])


def cheapest(lengths: Sequence[int]) -> list[int]:
    """Where to cut rows of these ascending lengths so that the parts' longest row times (rows + ROWS_OF_A_PART) sums to
    the least: 0, .., the number of rows."""
    count = len(lengths)
    least, begins = np.zeros(count + 1), np.zeros(count + 1, np.int64)
    for end in range(1, count + 1):
        costs = least[:end] + (end - np.arange(end) + ROWS_OF_A_PART) * lengths[end - 1]
        begins[end] = costs.argmin()
        least[end] = costs[begins[end]]
    cuts = [count]
    while cuts[-1]:
        cuts.append(int(begins[cuts[-1]]))
    return cuts[::-1]


def collate(rows: Sequence[Trajectory]) -> Part:
    """Rows of different lengths as one padded part."""
    lengths = [len(row) for row in rows]
    tokens = np.zeros((len(rows), max(lengths)), dtype=np.int64)
    own = np.zeros(tokens.shape, dtype=bool)
    for at, row in enumerate(rows):
        tokens[at, : lengths[at]] = row.ids
        own[at, : lengths[at]] = row.own
    return Part(torch.from_numpy(tokens), torch.from_numpy(own), torch.tensor(lengths))


def pack(rows: Sequence[Trajectory]) -> Packed:
    """Rows as one packed row of a stable size; padding is spread over further sequences, none longer than the rows."""
    lengths = np.array([len(row) - 1 for row in rows])
    fillers = len(rows) // SIZES + 1
    real = int(lengths.sum())
    total = stable(real, SIZES)
    longest = stable(max(int(lengths.max()), -(-(total - real) // fillers)), LONGEST_SIZES)
    filled = np.diff(np.linspace(real, total, fillers + 1).astype(np.int64))
    offsets = np.concatenate([[0], lengths, filled]).cumsum().astype(np.int32)
    tokens, targets = np.zeros(total, np.int64), np.full(total, IGNORED)
    tokens[:real] = np.concatenate([row.ids[:-1] for row in rows])
    targets[:real] = np.concatenate([_targets(row) for row in rows])
    own = int((targets >= 0).sum())
    given, wanted, bounds = (torch.from_numpy(array) for array in (tokens, targets, offsets))
    return Packed(given, wanted, bounds, longest, own, real + len(rows), total - real)


def interleave(rows: Sequence[Trajectory]) -> Interleaved:
    """Rows time by time."""
    ordered = sorted(rows, key=len, reverse=True)
    lengths = np.array([len(row) - 1 for row in ordered])
    places = np.arange(lengths[0])
    going = lengths > places[:, None]  # [T, B]
    tokens, targets = np.zeros(going.shape, np.int64), np.full(going.shape, IGNORED)
    for at, row in enumerate(ordered):
        tokens[: lengths[at], at] = row.ids[:-1]
        targets[: lengths[at], at] = _targets(row)
    given, wanted, sizes = (torch.from_numpy(array) for array in (tokens[going], targets[going], going.sum(axis=1)))
    return Interleaved(given, wanted, sizes, int((targets >= 0).sum()), int(lengths.sum()) + len(rows))


def stable(size: int, steps: int) -> int:
    """`size` rounded up to one of `steps` sizes between a power of two and the next."""
    granule = max(1, (1 << max(0, size - 1).bit_length() - 1) // steps) if size > 1 else 1
    return -(-size // granule) * granule


def _targets(row: Trajectory) -> np.ndarray[Any, Any]:
    return np.where(row.own[1:], row.ids[1:].astype(np.int64), IGNORED)

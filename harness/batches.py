"""Training batches: an endless, seekable stream of random problems, each split by length so that little is padding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tasks.problems import BLOCK
from tasks.scenario import Scenario
from tasks.trajectory import Encoded

PARTS = 4
"""Most parts of a batch. More would pad less, but products of few rows are slow."""
SMALLEST_PART = 8
"""Fewest rows of a part."""


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


def batches(scenario: Scenario, max_length: int, data_seed: int, size: int, start: int = 0) -> Iterator[Batch]:
    """Batches number `start`, `start` + 1, .. of the training stream of `data_seed`.

    Raises ValueError when `size` exceeds a block of the stream; what is left of a block after its last whole batch is
    dropped.
    """
    if size > BLOCK:
        raise ValueError(f"train.batch = {size}, at most {BLOCK} problems make a batch")
    block, skip = divmod(start, BLOCK // size)
    while True:
        problems = scenario.training_block(max_length, data_seed, block)
        for at in range(skip * size, BLOCK - size + 1, size):
            rows = [(whose.task.name, whose.encoded(problem)) for whose, problem in problems[at : at + size]]
            tasks: Counter[str] = Counter()
            for name, row in rows:
                tasks[name] += len(row)
            yield replace(split([row for _, row in rows]), tasks=dict(tasks))
        block, skip = block + 1, 0


def split(rows: list[Encoded]) -> Batch:
    """Rows as one batch, its parts cut from the rows sorted by length."""
    ordered = sorted(rows, key=len)
    parts = max(1, min(PARTS, len(rows) // SMALLEST_PART))
    cuts = [len(rows) * part // parts for part in range(parts + 1)]
    return Batch([collate(ordered[begin:end]) for begin, end in pairwise(cuts)])


def collate(rows: list[Encoded]) -> Part:
    """Rows of different lengths as one padded part."""
    lengths = [len(row) for row in rows]
    tokens = np.zeros((len(rows), max(lengths)), dtype=np.int64)
    own = np.zeros(tokens.shape, dtype=bool)
    for at, row in enumerate(rows):
        tokens[at, : lengths[at]] = row.ids
        own[at, : lengths[at]] = row.own
    return Part(torch.from_numpy(tokens), torch.from_numpy(own), torch.tensor(lengths))

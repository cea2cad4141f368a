"""Several processes that take the steps of one training together, each with its share of every batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ReduceOp, all_reduce

from harness.batches import Batch, Trajectory, split
from harness.config import Cell
from harness.step import PlainStepper


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is. They talk over torch.distributed's default group."""

    rank: int
    count: int

    def any(self, wish: bool) -> bool:
        """Whether one of them says so: the same answer for all."""
        said = torch.tensor(float(wish), device=_device())
        all_reduce(said, ReduceOp.MAX)
        return bool(said.item())


@dataclass(frozen=True)
class Share(Batch):
    """The part of a batch that one process takes; what is counted of it is the whole batch's."""

    counted: tuple[int, int, int] = (0, 0, 0)

    @property
    def own(self) -> int:
        return self.counted[0]

    @property
    def real(self) -> int:
        return self.counted[1]

    @property
    def padding(self) -> int:
        return self.counted[2]


class RankStepper(PlainStepper):
    """Steps whose gradients and losses are summed over the processes: those of the whole batch, up to rounding."""

    def __init__(self, model: Any, optimiser: torch.optim.Optimizer, cell: Cell, ranks: Ranks, pieces: int = 1) -> None:
        super().__init__(model, optimiser, cell, pieces)
        self.ranks = ranks

    def batch(self, rows: Sequence[Trajectory]) -> Share:
        """Every so many-th row in order of length, so that all processes have about as much to do."""
        mine = sorted(rows, key=len)[self.ranks.rank :: self.ranks.count]
        parts = split(mine, self.pieces).parts if mine else []
        padding = sum(part.tokens.numel() - int(part.lengths.sum()) for part in parts) * self.ranks.count
        return Share(parts, counted=(sum(int(row.own[1:].sum()) for row in rows), sum(map(len, rows)), padding))

    def reduce(self, total: Tensor) -> None:
        """One message for all gradients."""
        gradients = [self._gradient(parameter) for parameter in self.model.parameters() if parameter.requires_grad]
        together = torch.cat([gradient.flatten() for gradient in gradients] + [total.reshape(1)])
        all_reduce(together)
        *summed, loss = together.split([*(gradient.numel() for gradient in gradients), 1])
        for gradient, flat in zip(gradients, summed, strict=True):
            gradient.copy_(flat.view_as(gradient))
        total.copy_(loss[0])

    @staticmethod
    def _gradient(parameter: Tensor) -> Tensor:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        return parameter.grad


def _device() -> torch.device:
    """Where the group's messages have to lie: NCCL wants them on the GPU."""
    on_gpu = torch.distributed.get_backend() == "nccl"
    return torch.device("cuda" if on_gpu else "cpu")

"""Optimiser steps of one model, in the layout and by the machinery that suit its device."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.batches import IGNORED, Batch, Envelope, Interleaved, Packed, Part, Trajectory, interleave, pack, split
from harness.config import Cell
from harness.decide import autocast
from harness.errors import Diverged
from harness.initial_states import InitialStates
from harness.memory import sent
from models.kernels.choose import fused

if TYPE_CHECKING:
    from harness.ranks import Ranks

WARM = 2
"""Steps of a shape that are launched one kernel at a time, before it gets a CUDA graph: kernels compile in them."""
MOST_GRAPHS = 16

AnyBatch = Batch | Packed | Interleaved


class Stepper(Protocol):
    """Takes the optimiser steps of one model."""

    starts: InitialStates

    def batch(self, rows: Sequence[Trajectory]) -> AnyBatch:
        """The problems of one step in the layout that `step` takes."""

    def step(self, batch: AnyBatch, rate: float) -> None:
        """One step with a learning rate. May return before it is done, or known to be finite."""

    def check(self) -> tuple[float, float]:
        """Loss and norm of the gradient before clipping of the last step, once it is done.

        Raises Diverged when those of any step were not finite, or the weights are not: nothing of them may be kept.
        """

    def idle(self) -> bool:
        """Whether nothing is left to do of the steps taken."""

    def close(self) -> None:
        """Give back what only training needs."""


def stepper(
    model: Any, optimiser: torch.optim.Optimizer, cell: Cell, pieces: int = 1, ranks: Ranks | None = None
) -> Stepper:
    """The one for how the model learns, for its device, and for whether it is one of several processes.

    pieces: batches are cut so many times finer. Raises ValueError for a model that cannot be trained by several.
    """
    if ranks is not None:
        from harness.ranks import RankStepper

        if model.learns == "reading":
            raise ValueError(f"run.ranks: {cell.architecture} learns by reading, which several workers cannot share")
        if cell.train.initial_states:
            raise ValueError("run.ranks: train.initial_states are passed on within one worker; take one")
        return RankStepper(model, optimiser, cell, ranks, pieces)
    if model.learns == "reading":
        return Reader(model, optimiser, cell, pieces)
    if next(model.parameters()).device.type == "cuda":
        return GpuStepper(model, optimiser, cell, pieces)
    return PlainStepper(model, optimiser, cell, pieces)


class PlainStepper:
    """Parts one after another, gradients accumulated; every step is checked at once."""

    def __init__(self, model: Any, optimiser: torch.optim.Optimizer, cell: Cell, pieces: int = 1) -> None:
        self.model, self.optimiser, self.cell, self.pieces = model, optimiser, cell, pieces
        self.device = next(model.parameters()).device
        self.starts = InitialStates(model, cell.train, cell.precision)
        self.last = (math.nan, math.nan)

    def batch(self, rows: Sequence[Trajectory]) -> Batch:
        return split(rows, self.pieces)

    def step(self, batch: AnyBatch, rate: float) -> None:
        assert isinstance(batch, Batch)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        total, own = torch.zeros((), device=self.device), batch.own
        backward((loss for part in batch.parts for loss in self._losses(part)), own, total)
        self.starts.turn()
        self.reduce(total)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.cell.train.clip)
        self.last = (total.item(), norm.item())
        if not math.isfinite(sum(self.last)):
            raise _diverged(*self.last)
        self.optimiser.step()

    def _losses(self, part: Part) -> Iterator[Tensor]:
        if self.starts:
            yield from self.starts.losses(part, self.device)
            return
        with autocast(self.device, self.cell.precision):
            loss = own_loss(self.model, part, self.device)
        yield loss

    def reduce(self, total: Tensor) -> None:
        """Make the gradients and the loss those of the whole batch; here they are."""

    def check(self) -> tuple[float, float]:
        if not math.isfinite(largest_weight(self.model).item()):
            raise _diverged(*self.last)
        return self.last

    def idle(self) -> bool:
        return False  # it waits for nobody

    def close(self) -> None:
        pass


class Reader(PlainStepper):
    """Hands the trajectories to a model that learns by reading; the loss is that before it has read them."""

    @torch.no_grad()
    def step(self, batch: AnyBatch, rate: float) -> None:
        assert isinstance(batch, Batch)
        loss = sum(own_loss(self.model, part, self.device).item() for part in batch.parts)
        self.last = (loss / batch.own, 0.0)
        for part in batch.parts:
            self.model.read(part.tokens, part.own, part.lengths)


@dataclass
class _Graph:
    """A captured step and the tensors it reads."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]


class GpuStepper:
    """Steps queued on a stream of their own, without ever waiting for one; those of a packed shape seen before go
    through a CUDA graph of the whole step, optimiser included."""

    def __init__(
        self, model: Any, optimiser: torch.optim.Optimizer, cell: Cell, pieces: int = 1, graphs: bool = True
    ) -> None:
        self.model, self.optimiser, self.cell, self.pieces = model, optimiser, cell, pieces
        self.device = next(model.parameters()).device
        self.stream = torch.cuda.Stream(self.device)
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        self.graphs: dict[tuple[int, ...], _Graph] = {}
        self.seen: Counter[tuple[int, ...]] = Counter()
        self.most = MOST_GRAPHS if graphs else 0
        self.starts = InitialStates(model, cell.train, cell.precision)
        # Not the same after resuming, and with it the last bits of a step.
        self.envelope = Envelope() if graphs and not cell.deterministic else None
        self.pool = torch.cuda.graph_pool_handle()
        with torch.cuda.stream(self.stream):
            self.rate = torch.zeros((), device=self.device)
            self.loss, self.norm = torch.zeros_like(self.rate), torch.zeros_like(self.rate)
            self.health = torch.zeros_like(self.rate)  # 0, or NaN from the first bad step on
        for group in optimiser.param_groups:
            group["lr"] = self.rate
        self.compiled = [block for block in model.blocks if block.fuses] if "blocks" in model.operations else []
        for block in self.compiled:
            block.forward = fused(block.forward, "cuda")

    def batch(self, rows: Sequence[Trajectory]) -> AnyBatch:
        # One packed row, or one of all times, is what takes the most memory, and starts from empty states.
        if self.pieces > 1 or self.starts:
            return split(rows, self.pieces)
        if self.model.packs:
            return pack(rows)
        if not self.model.interleaves:
            return split(rows)
        batch = interleave(rows)
        return batch if self.envelope is None else self.envelope.around(batch)

    def step(self, batch: AnyBatch, rate: float) -> None:
        with torch.cuda.stream(self.stream):
            self.rate.fill_(rate)
            if isinstance(batch, Batch):
                self._parts(batch)
            else:
                self._one(batch)

    def check(self) -> tuple[float, float]:
        with torch.cuda.stream(self.stream):
            health = self.health + largest_weight(self.model) * 0
            loss, norm, health = torch.stack([self.loss, self.norm, health]).tolist()
        if health != 0:
            raise _diverged(loss, norm)
        return loss, norm

    def idle(self) -> bool:
        return self.stream.query()

    def close(self) -> None:
        self.stream.synchronize()
        self.graphs.clear()
        for block in self.compiled:
            del block.forward  # the class's own serves again
        self.optimiser.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()

    def _one(self, batch: Packed | Interleaved) -> None:
        """A step in one piece, through a graph where batches of its shape come again."""
        arrays, shape = self._arrays(batch), batch.shape
        captured = self.graphs.get(shape) if shape else None
        if shape and captured is None and self.seen[shape] >= WARM and len(self.graphs) < self.most:
            captured = self.graphs[shape] = self._capture(batch)
        if captured is not None:
            for mine, tensor in zip(captured.inputs, arrays, strict=True):
                mine.copy_(tensor.pin_memory(), non_blocking=True)
            captured.graph.replay()
            return
        if shape:
            self.seen[shape] += 1
        inputs = tuple(sent(tensor, self.device) for tensor in arrays)
        self._whole(lambda: self._loss(batch, inputs))

    def _capture(self, batch: Packed | Interleaved) -> _Graph:
        """The step as a graph; nothing runs yet. The gradients live in the graphs' common memory, and in no step."""
        inputs = tuple(sent(tensor, self.device) for tensor in self._arrays(batch))
        self.optimiser.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            self._whole(lambda: self._loss(batch, inputs))
        return _Graph(graph, inputs)

    @staticmethod
    def _arrays(batch: Packed | Interleaved) -> tuple[Tensor, ...]:
        """What differs between batches of a shape."""
        return (batch.tokens, batch.targets, *((batch.offsets,) if isinstance(batch, Packed) else ()))

    def _parts(self, batch: Batch) -> None:
        own = batch.own
        self.optimiser.zero_grad(set_to_none=True)
        self.loss.zero_()
        backward((loss for part in batch.parts for loss in self._losses(part)), own, self.loss)
        self.starts.turn()
        self._update()

    def _losses(self, part: Part) -> Iterator[Tensor]:
        if self.starts:
            yield from self.starts.losses(part, self.device)
            return
        tokens = sent(part.tokens, self.device)
        targets = sent(part.tokens.masked_fill(~part.own, IGNORED)[:, 1:].flatten(), self.device)
        with autocast(self.device, self.cell.precision):
            logits = self.model.head(self.model.hidden(tokens[:, :-1])[0]).flatten(0, 1)
            loss = cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")
        yield loss

    def _whole(self, loss_of: Callable[[], Tensor]) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        with autocast(self.device, self.cell.precision):
            loss = loss_of()
        loss.backward()
        self.loss.copy_(loss.detach())
        self._update()

    def _update(self) -> None:
        self.norm.copy_(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.cell.train.clip))
        self.health += (self.loss + self.norm) * 0
        self.optimiser.step()

    def _loss(self, batch: Packed | Interleaved, inputs: tuple[Tensor, ...]) -> Tensor:
        tokens, targets = inputs[:2]
        if isinstance(batch, Packed):
            features = self.model.packed(tokens, inputs[2], batch.longest)
        else:
            features = self.model.interleaved(tokens, batch.sizes)
        return cross_entropy(self.model.head(features).float(), targets, ignore_index=IGNORED)


@contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """Only kernels that give the same bits every time, while it lasts."""
    # cuBLAS reads this once, when it is first used; it is what PyTorch takes by default on Hopper anyway.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    torch.use_deterministic_algorithms(wanted or before[0])
    torch.backends.cudnn.deterministic = wanted or before[1]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.deterministic = before[1]


@torch.no_grad()
def largest_weight(model: Any) -> Tensor:
    """[]: infinite or NaN where any weight is."""
    weights = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    return torch.nn.utils.get_total_norm(weights, torch.inf)


def backward(losses: Iterable[Tensor], own: int, total: Tensor) -> None:
    """Accumulate the gradients of summed losses over `own` tokens, of one before the next is made; their mean is added
    to `total` in place."""
    for summed in losses:
        loss = summed / own
        loss.backward()
        total += loss.detach()


def own_loss(model: Any, part: Part, device: torch.device) -> Tensor:
    """Summed cross-entropy, in nats, of the tokens the model makes itself, each predicted from all before it."""
    tokens, own = part.tokens.to(device), part.own.to(device)
    features, _ = model.hidden(tokens[:, :-1])
    wanted = own[:, 1:]
    logits = model.head(features[wanted])
    return cross_entropy(logits.float(), tokens[:, 1:][wanted], reduction="sum")


def _diverged(loss: float, norm: float) -> Diverged:
    return Diverged(f"loss {loss:.4g}, gradient norm {norm:.4g}")

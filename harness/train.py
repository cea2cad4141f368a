"""Training of one cell: teacher forcing on the solver's trajectories. No Ray, no store."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.batches import Batch, Part, batches
from harness.config import Cell, Train
from harness.decide import autocast
from harness.errors import Diverged, Stopped
from harness.verify import verify
from models.build import build
from tasks.mixture import bind
from tasks.problems import validation_problems
from tasks.scenario import Scenario

LOG_EVERY = 10
FIT = 0.95
"""Exact trajectories on validation problems at training lengths below which a cell counts as unfit."""


@dataclass
class Progress:
    """What a training checkpoint holds besides weights, optimiser and random states."""

    step: int = 0
    tokens: int = 0
    padded: int = 0
    tasks: dict[str, int] = field(default_factory=dict)
    """Real tokens by task."""
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Trained:
    model: Any
    progress: Progress
    validation_exact: float
    validation_problems: int


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def scenario_of(cell: Cell) -> Scenario:
    return bind(cell.task, cell.setting, cell.tool, cell.form, cell.tool_options, cell.train.mixture)


def new_model(cell: Cell, scenario: Scenario) -> Any:
    """The cell's model, freshly initialised from its seed, on the default device."""
    model = build(cell.architecture, cell.size, len(scenario.vocabulary), cell.model, seed=cell.seed)
    return model.to(default_device())


def train(
    cell: Cell,
    *,
    resume: dict[str, Any] | None = None,
    save: Callable[[dict[str, Any]], None] = lambda checkpoint: None,
    save_seconds: float = math.inf,
    report: Callable[[dict[str, Any]], None] = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train a cell to its last step, from `resume` on if given, and measure its fit on validation problems.

    `save` gets a checkpoint every `save_seconds`, and one before Stopped is raised when `stop()` says so. A run resumed
    from any checkpoint ends with the same weights as one never interrupted, to the bit on a CPU. Raises Diverged when
    the loss is not finite.
    """
    torch.set_num_threads(cell.threads)
    torch.manual_seed(cell.seed)
    scenario = scenario_of(cell)
    model = new_model(cell, scenario)
    optimiser = make_optimiser(model, cell.train)
    progress = Progress()
    if resume is not None:
        progress = restore(resume, model, optimiser)
    stream = batches(scenario, cell.train.max_length, cell.data_seed or 0, cell.train.batch, start=progress.step)
    model.train()
    began, saved = time.perf_counter() - progress.seconds, time.perf_counter()
    while progress.step < cell.train.steps:
        if stop():
            save(snapshot(model, optimiser, progress))
            raise Stopped(f"stopped after step {progress.step}")
        batch = next(stream)
        rate = learning_rate(cell.train, progress.step)
        loss, norm = train_step(model, optimiser, batch, rate, cell)
        progress.step += 1
        progress.tokens += batch.real
        progress.padded += batch.padding
        progress.tasks = dict(Counter(progress.tasks) + Counter(batch.tasks))
        progress.seconds = time.perf_counter() - began
        if progress.step % LOG_EVERY == 0 or progress.step == cell.train.steps:
            _log(progress, loss, rate, norm, report)
        if time.perf_counter() - saved > save_seconds and progress.step < cell.train.steps:
            save(snapshot(model, optimiser, progress))
            saved = time.perf_counter()
    exact, count = validate(model, scenario, cell)
    progress.seconds = time.perf_counter() - began
    return Trained(model, progress, exact, count)


def train_step(
    model: Any, optimiser: torch.optim.Optimizer, batch: Batch, rate: float, cell: Cell
) -> tuple[Tensor, Tensor]:
    """One optimiser step; the loss and the norm of the gradient before clipping, both still on the device."""
    device = next(model.parameters()).device
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad(set_to_none=True)
    total, own = torch.zeros((), device=device), batch.own
    for part in batch.parts:
        with autocast(device, cell.precision):
            loss = own_loss(model, part, device) / own
        loss.backward()
        total += loss.detach()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), cell.train.clip)
    if not torch.isfinite(total + norm):
        raise Diverged(f"loss {total.item():.4g}, gradient norm {norm.item():.4g}")
    optimiser.step()
    return total, norm


def own_loss(model: Any, part: Part, device: torch.device) -> Tensor:
    """Summed cross-entropy, in nats, of the tokens the model makes itself, each predicted from all before it."""
    tokens, own = part.tokens.to(device), part.own.to(device)
    features, _ = model.hidden(tokens[:, :-1])
    wanted = own[:, 1:]
    logits = model.head(features[wanted])
    return cross_entropy(logits.float(), tokens[:, 1:][wanted], reduction="sum")


def learning_rate(recipe: Train, step: int) -> float:
    """Linear warm-up, then a cosine down to 0 at the last step. `step` counts from 0."""
    warm = max(1, round(recipe.warmup * recipe.steps))
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, recipe.steps - warm)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def make_optimiser(model: Any, recipe: Train) -> torch.optim.Optimizer:
    """AdamW; only matrices decay, and of them none that says `_no_weight_decay` (the A of a state-space model)."""
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for parameter in model.parameters():
        groups[parameter.ndim >= 2 and not getattr(parameter, "_no_weight_decay", False)].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": recipe.weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        fused=True,
    )


def validate(model: Any, scenario: Scenario, cell: Cell) -> tuple[float, int]:
    """Share of exact trajectories on validation problems at training lengths, and their number."""
    model.eval()
    problems = validation_problems(scenario.task, cell.train.max_length, cell.train.validation)
    results = verify(model, scenario, problems, chunk=1024, precision=cell.precision)
    return sum(result.divergence is None for result in results) / len(results), len(results)


def _log(progress: Progress, loss: Tensor, rate: float, norm: Tensor, report: Callable[[dict[str, Any]], None]) -> None:
    record = {
        "step": progress.step,
        "tokens": progress.tokens,
        "loss": loss.item(),
        "learning_rate": rate,
        "gradient_norm": norm.item(),
        "seconds": progress.seconds,
    }
    progress.curve.append(record)
    report(record)


def snapshot(model: Any, optimiser: torch.optim.Optimizer, progress: Progress) -> dict[str, Any]:
    """A training checkpoint: only tensors, numbers and strings, so that it loads with `weights_only=True`."""
    checkpoint = {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "progress": vars(progress),
        "random": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        checkpoint["cuda_random"] = torch.cuda.get_rng_state()
    return checkpoint


def restore(checkpoint: dict[str, Any], model: Any, optimiser: torch.optim.Optimizer) -> Progress:
    """Put a training checkpoint back; the inverse of `snapshot`."""
    model.load_state_dict(checkpoint["model"])
    optimiser.load_state_dict(checkpoint["optimiser"])
    torch.set_rng_state(checkpoint["random"])
    if "cuda_random" in checkpoint and torch.cuda.is_available():
        torch.cuda.set_rng_state(checkpoint["cuda_random"])
    return Progress(**checkpoint["progress"])

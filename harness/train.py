"""Training of one cell: teacher forcing on the solver's trajectories. No Ray, no store."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.ahead import in_thread
from harness.batches import split
from harness.config import Cell, Evaluate, Train
from harness.decide import autocast
from harness.errors import Stopped
from harness.evaluate import live
from harness.initial_states import InitialStates
from harness.step import AnyBatch, Stepper, determinism, own_loss, stepper
from harness.stream import Source, steps, tokens_by_task
from harness.verify import verify
from models.build import build
from tasks.mixture import bind
from tasks.problems import validation_problems
from tasks.scenario import Scenario

if TYPE_CHECKING:
    from harness.ranks import Ranks

LOG_EVERY = 10
DATA_WORKERS = 4
"""Processes that make the data of a GPU ahead, unless told otherwise."""
BATCHES_AHEAD = 4
LIVE_BUDGET = 4.0
"""Tokens of a validation rollout without an oracle, in those of the solver's trajectory."""
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
    waited: float = 0.0
    """Seconds of them that a GPU had nothing to do because the next batch was not there yet."""
    curve: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Trained:
    model: Any
    progress: Progress
    validation_exact: float
    """Share of exact trajectories (without an oracle: of right answers) on validation problems at training lengths."""
    validation_loss: float
    """Mean cross-entropy, in nats, of the tokens the model makes itself along them."""
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
    workers: int | None = None,
    pieces: int = 1,
    ranks: Ranks | None = None,
) -> Trained:
    """Train a cell to its last step, from `resume` on if given, and measure its fit on validation problems.

    `save` gets a checkpoint every `save_seconds`, one before Stopped is raised when `stop()` says so, and one at the
    end of training where the schedule goes on (`train.stop_after`). A run resumed from any checkpoint ends with the
    same weights as one never interrupted, to the bit on a CPU. workers: processes that make the training data ahead
    (None: 4 for a GPU, else 0); they change no result. pieces: batches are cut so many times finer, for less memory.
    ranks: this process takes its share of every batch; the first one alone saves, reports and validates. Raises
    Diverged when the loss is not finite, before a checkpoint could hold what came of it.
    """
    torch.set_num_threads(cell.threads)
    torch.manual_seed(cell.seed)
    scenario = scenario_of(cell)
    with determinism(cell.deterministic):
        model = new_model(cell, scenario)
        optimiser = make_optimiser(model, cell.train)
        progress = Progress() if resume is None else restore(resume, model, optimiser)
        taken = stepper(model, optimiser, cell, pieces, ranks)
        taken.starts.restore((resume or {}).get("initial_states", []))
        first = ranks is None or ranks.rank == 0
        began, saved = time.perf_counter() - progress.seconds, time.perf_counter()
        with closing(prepared(cell, taken, progress.step, workers)) as batches:
            while progress.step < cell.train.last:
                if stop() if ranks is None else ranks.any(stop()):
                    taken.check()
                    if first:
                        save(snapshot(model, optimiser, progress, taken.starts))
                    raise Stopped(f"stopped after step {progress.step}")
                batch = next_batch(batches, taken, progress)
                rate = learning_rate(cell.train, progress.step)
                taken.step(batch, rate)
                progress.step += 1
                progress.tokens += batch.real
                progress.padded += batch.padding
                progress.tasks = dict(Counter(progress.tasks) + Counter(batch.tasks))
                if progress.step % LOG_EVERY == 0 or progress.step == cell.train.last:
                    loss, norm = taken.check()
                    progress.seconds = time.perf_counter() - began
                    _log(progress, loss, rate, norm, report)
                if first and time.perf_counter() - saved > save_seconds and progress.step < cell.train.last:
                    taken.check()
                    progress.seconds = time.perf_counter() - began
                    save(snapshot(model, optimiser, progress, taken.starts))
                    saved = time.perf_counter()
        if first and progress.step < cell.train.steps:
            save(snapshot(model, optimiser, progress, taken.starts))  # for the cell that goes on
        taken.close()
        exact, loss, count = validate(model, scenario, cell) if first else (math.nan, math.nan, 0)
    progress.seconds = time.perf_counter() - began
    return Trained(model, progress, exact, loss, count)


def source_of(cell: Cell) -> Source:
    """The training stream of a cell."""
    return Source(
        cell.task,
        cell.setting,
        cell.train.max_length,
        cell.data_seed or 0,
        cell.train.batch,
        cell.tool,
        cell.form,
        cell.tool_options,
        cell.train.mixture,
        cell.train.stress,
        cell.train.context,
    )


def prepared(cell: Cell, taken: Stepper, start: int, workers: int | None) -> Generator[AnyBatch, None, None]:
    """The batches of step `start`, `start` + 1, ..; for a GPU they are made some steps ahead, by a thread."""
    ahead = default_device().type == "cuda"
    processes = (DATA_WORKERS if ahead else 0) if workers is None else workers

    def make() -> Generator[AnyBatch, None, None]:
        with closing(steps(source_of(cell), start, processes)) as stream:
            for rows in stream:
                yield replace(taken.batch(rows), tasks=tokens_by_task(rows))

    return in_thread(make(), BATCHES_AHEAD) if ahead else make()


def next_batch(batches: Iterator[AnyBatch], taken: Stepper, progress: Progress) -> AnyBatch:
    """The next batch, and in `progress.waited` the time that a GPU had nothing to do but wait for it."""
    began = time.perf_counter()
    batch = next(batches)
    if progress.step and taken.idle():
        progress.waited += time.perf_counter() - began
    return batch


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
    for parameter in (parameter for parameter in model.parameters() if parameter.requires_grad):
        groups[parameter.ndim >= 2 and not getattr(parameter, "_no_weight_decay", False)].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": recipe.weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        fused=True,
        capturable=next(model.parameters()).device.type == "cuda",
    )


@torch.inference_mode()
def validate(model: Any, scenario: Scenario, cell: Cell) -> tuple[float, float, int]:
    """Exact trajectories and loss on validation problems at training lengths, as in `Trained`, and their number."""
    model.eval()
    problems = validation_problems(scenario.task, cell.train.max_length, cell.train.validation)
    if not scenario.task.oracle:
        settings = Evaluate(lengths=(1,), mode="live", budget=LIVE_BUDGET, precision=cell.precision)
        rows = live(model, scenario, problems, settings)
        return sum(bool(row["answer_right"]) for row in rows) / len(rows), math.nan, len(rows)
    results = verify(model, scenario, problems, chunk=1024, precision=cell.precision)
    exact = sum(result.divergence is None for result in results) / len(results)
    batch, device = split([scenario.encoded(problem) for problem in problems]), next(model.parameters()).device
    with autocast(device, cell.precision):
        loss = sum(own_loss(model, part, device).item() for part in batch.parts) / batch.own
    return exact, loss, len(results)


def _log(progress: Progress, loss: float, rate: float, norm: float, report: Callable[[dict[str, Any]], None]) -> None:
    record = {
        "step": progress.step,
        "tokens": progress.tokens,
        "loss": loss,
        "learning_rate": rate,
        "gradient_norm": norm,
        "seconds": progress.seconds,
    }
    progress.curve.append(record)
    report(record)


def snapshot(model: Any, optimiser: torch.optim.Optimizer, progress: Progress, starts: InitialStates) -> dict[str, Any]:
    """A training checkpoint: only tensors, numbers and strings, so that it loads with `weights_only=True`."""
    checkpoint = {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "progress": vars(progress),
        "random": torch.get_rng_state(),
        "initial_states": starts.saved(),
    }
    if torch.cuda.is_available():
        checkpoint["cuda_random"] = torch.cuda.get_rng_state()
    return checkpoint


def restore(checkpoint: dict[str, Any], model: Any, optimiser: torch.optim.Optimizer) -> Progress:
    """Put a training checkpoint back; the inverse of `snapshot`."""
    model.load_state_dict(checkpoint["model"])
    options = [{k: v for k, v in group.items() if k != "params"} for group in optimiser.param_groups]
    optimiser.load_state_dict(checkpoint["optimiser"])
    for group, ours in zip(optimiser.param_groups, options, strict=True):
        group.update(ours)  # the checkpoint's may be those of another device
    torch.set_rng_state(checkpoint["random"])
    if "cuda_random" in checkpoint and torch.cuda.is_available():
        torch.cuda.set_rng_state(checkpoint["cuda_random"])
    return Progress(**checkpoint["progress"])

"""The work of one cell, from nothing to result rows, on a store. No Ray in it: a worker actor only carries it."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import platform
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import __version__
from harness.config import Evaluate, Run
from harness.errors import OverLimit, Stopped, UserError
from harness.grid import Resolved, evaluation_id, unstopped
from harness.schema import FORMAT
from harness.store import Extent, Held, Store

if TYPE_CHECKING:
    from harness.evaluate import Point
    from harness.ranks import Ranks
    from harness.train import Trained

Report = Callable[[dict[str, Any]], None]
REPORT_SECONDS = 0.5


@dataclass(frozen=True)
class Gap:
    """Problems of a point that have no rows yet."""

    length: int
    stress: str
    start: int
    stop: int


@dataclass
class Missing:
    """What a cell still needs: training, and points."""

    training: bool
    points: list[Gap] = field(default_factory=list)

    def __bool__(self) -> bool:
        return self.training or bool(self.points)


def missing(resolved: Resolved, evaluate: Evaluate, store: Store) -> Missing:
    """Compare what a grid asks of a cell with what the store holds."""
    return lacking(evaluate, store.held(resolved.id))


def lacking(evaluate: Evaluate, held: Held) -> Missing:
    """The same, of what is known to be held."""
    published = held.published
    wanted = [(length, stress) for length in evaluate.lengths for stress in ("random", *evaluate.stress)]
    if published is None:
        return Missing(True, [Gap(length, stress, 0, evaluate.problems) for length, stress in wanted])
    evaluation, checkpoint = evaluation_id(evaluate), published["checkpoint"][:16]
    done: dict[tuple[int, str], int] = {}
    for extent in sorted(held.extents, key=lambda extent: extent.start):
        point = (extent.length, extent.stress)
        if extent.evaluation == evaluation and extent.checkpoint == checkpoint and extent.start <= done.get(point, 0):
            done[point] = max(done.get(point, 0), extent.stop)
    gaps = [Gap(length, stress, done.get((length, stress), 0), evaluate.problems) for length, stress in wanted]
    return Missing(False, [gap for gap in gaps if gap.start < gap.stop])


def run_cell(
    resolved: Resolved,
    evaluate: Evaluate,
    run: Run,
    store: Store,
    attempt: str,
    report: Report = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train the cell unless that is done (resuming where it was left), then evaluate what is missing.

    Each point is published as it is done. A cell that several workers train (`run.ranks`) is trained only; the next
    attempt, by one worker, evaluates it. Raises Stopped when `stop()` says so (nothing is lost),
    Diverged when the loss is not finite, and whatever else goes wrong.
    """
    notify = _Notifier(resolved, report)
    config = {"format": FORMAT, "id": resolved.id, "name": resolved.name, "config": resolved.config.model_dump()}
    store.create(f"cells/{resolved.id}/cell.json", _json(config))
    if store.published(resolved.id) is None and run.ranks > 1:
        from harness.parallel import train_in_parallel

        train_in_parallel(resolved, run, store, report, stop)
        return  # one worker will do for the points
    if store.published(resolved.id) is None:
        publish(resolved, trained(resolved, run, store, report, stop), store)
    store.delete(f"cells/{resolved.id}/training.pt")
    if run.kernels:
        _demand(run.kernels)
    evaluate = evaluate.model_copy(update={"batch": max(1, evaluate.batch // run.pieces)})  # no result depends on it
    evaluate_missing(resolved, evaluate, store, attempt, notify, stop, run.data_workers)


def _demand(names: dict[str, str]) -> None:
    """Take these implementations of operations; UserError where one does not work on this machine."""
    from harness.train import default_device
    from models.kernels.choose import choice, demand

    try:
        demand(names)
        for operation in names:
            choice(operation, default_device().type)
    except ValueError as error:
        raise UserError(f"run.{error}") from error


def trained(
    resolved: Resolved,
    run: Run,
    store: Store,
    report: Report,
    stop: Callable[[], bool],
    ranks: Ranks | None = None,
) -> Trained:
    """Train a cell, going on from its last checkpoint in the store; `ranks`: this process is one of several."""
    from harness.train import train

    if run.kernels:
        _demand(run.kernels)
    notify = _Notifier(resolved, report)

    name = f"cells/{resolved.id}/training.pt"
    resume = _left_behind(store, name) or _handed_on(resolved, store)
    steps = resolved.config.train.last

    def heard(record: dict[str, Any]) -> None:
        notify.training(record, steps)
        if run.limit_tokens is not None and record["tokens"] > run.limit_tokens:
            raise OverLimit(f"{record['tokens']} training tokens, more than run.limit_tokens = {run.limit_tokens}")

    return train(
        resolved.config,
        resume=resume,
        save=lambda checkpoint: store.write(name, dump(checkpoint)),
        save_seconds=run.checkpoint_seconds,
        report=heard,
        stop=stop,
        workers=run.data_workers,
        pieces=run.pieces,
        ranks=ranks,
    )


def _pass_on(resolved: Resolved, store: Store) -> None:
    """A cell that stopped early leaves its training checkpoint to the cell that does not, unless that came further."""
    name, whole = f"cells/{resolved.id}/training.pt", unstopped(resolved).id
    if whole == resolved.id or store.published(whole) is not None:
        return
    own, other = _left_behind(store, name), _left_behind(store, f"cells/{whole}/training.pt")
    if own is not None and (other is None or other["progress"]["step"] < own["progress"]["step"]):
        store.write(f"cells/{whole}/training.pt", dump(own))


def _handed_on(resolved: Resolved, store: Store) -> Any:
    """The checkpoint of a cell that differs in `train.stop_after` alone; None without one, or one from too late."""
    whole = unstopped(resolved).id
    left = None if whole == resolved.id else _left_behind(store, f"cells/{whole}/training.pt")
    return left if left is not None and left["progress"]["step"] <= resolved.config.train.last else None


def _left_behind(store: Store, name: str) -> Any:
    """The training checkpoint of an earlier attempt; None without one, or with one that is damaged."""
    if not store.exists(name):
        return None
    try:
        return load(store, name)
    except UserError as error:
        logging.getLogger("lengthwise").warning("%s; trained from the start", error)
        return None


def publish(resolved: Resolved, trained: Trained, store: Store) -> None:
    """Make the weights the cell's own, unless another attempt was first."""
    from harness.bound import bound
    from harness.train import FIT, scenario_of

    _pass_on(resolved, store)
    scenario = scenario_of(resolved.config)
    cell, progress, model = f"cells/{resolved.id}", trained.progress, trained.model
    weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    checkpoint = content_hash(weights)
    vocabulary = list(scenario.vocabulary.tokens)
    store.create(f"{cell}/weights-{checkpoint}.pt", dump({"weights": weights, "vocabulary": vocabulary}))
    cost = model.cost(1000)
    length, why = bound(scenario, model)
    summary = {
        "checkpoint": checkpoint,
        "parameters": cost.parameters,
        "flops_per_token": cost.flops,
        "state_bytes": cost.state_bytes,
        "bound": length,
        "no_bound": why,
        "train_steps": progress.step,
        "train_tokens": progress.tokens,
        "train_seconds": progress.seconds,
        "train_tokens_by_task": json.dumps(progress.tasks),
        "padding": progress.padded / max(1, progress.tokens + progress.padded),
        "validation_exact": trained.validation_exact,
        "validation_loss": trained.validation_loss if math.isfinite(trained.validation_loss) else None,
        "validation_problems": trained.validation_problems,
        "fit": trained.validation_exact >= FIT,
        "train_device": device_name(model),
        "train_kernels": kernels(model),
        "versions": versions(),
    }
    store.write_curve(resolved.id, checkpoint, [{"cell": resolved.id, **record} for record in progress.curve])
    store.create(f"{cell}/published.json", _json(summary))


def evaluate_missing(
    resolved: Resolved,
    settings: Evaluate,
    store: Store,
    attempt: str,
    notify: _Notifier,
    stop: Callable[[], bool],
    workers: int | None = None,
) -> None:
    """Evaluate the cell's missing points with its published weights."""
    from harness.evaluate import Point, evaluate
    from harness.train import scenario_of

    gaps = missing(resolved, settings, store).points
    total = len(settings.lengths) * (1 + len(settings.stress))
    if not gaps:
        return
    model = load_model(resolved, store)
    published = store.published(resolved.id) or {}
    constant = {
        "cell": resolved.id,
        "checkpoint": published["checkpoint"],
        "evaluation": evaluation_id(settings),
        "attempt": attempt,
        "device": device_name(model),
        "kernels": kernels(model),
    }
    diverged = _diverged(gaps, resolved, constant, store)
    points = [Point(gap.length, gap.stress, gap.start, gap.stop, diverged[gap.length, gap.stress]) for gap in gaps]
    done = total - len(points)
    notify.evaluating(done, total)
    for point, rows in evaluate(model, scenario_of(resolved.config), points, settings, constant, stop, workers):
        store.write_rows(resolved.id, _extent(point, constant), rows)
        done += 1
        notify.evaluating(done, total, point, rows)
    if done < total:
        raise Stopped(f"stopped after {done} of {total} points")


def _diverged(gaps: list[Gap], resolved: Resolved, constant: dict[str, Any], store: Store) -> Counter[tuple[int, str]]:
    """Diverged problems of points that are being extended."""
    if not any(gap.start for gap in gaps):
        return Counter()
    same = [(row, row["checkpoint"], row["evaluation"]) for row in store.rows(resolved.id)]
    wanted = (constant["checkpoint"], constant["evaluation"])
    return Counter((row["length"], row["stress"]) for row, *key in same if (*key,) == wanted and row["exact"] is False)


def _extent(point: Point, constant: dict[str, Any]) -> Extent:
    checkpoint, evaluation = constant["checkpoint"], constant["evaluation"]
    return Extent(checkpoint, evaluation, point.length, point.stress, point.start, point.stop)


def load_model(resolved: Resolved, store: Store) -> Any:
    """The cell's model with its published weights. Raises UserError when they are damaged or do not fit."""
    import torch

    from harness.train import new_model, scenario_of

    published = store.published(resolved.id)
    if published is None:
        raise UserError(f"cell {resolved.id} ({resolved.name}) is not trained yet")
    name = f"cells/{resolved.id}/weights-{published['checkpoint']}.pt"
    held = load(store, name)
    if not isinstance(held, dict) or held.keys() != {"weights", "vocabulary"}:
        raise UserError(f"store {store.url!r}: {name} is damaged (it does not hold weights and vocabulary); {_AGAIN}")
    torch.set_num_threads(resolved.config.threads)
    scenario = scenario_of(resolved.config)
    if tuple(held["vocabulary"]) != scenario.vocabulary.tokens:
        raise UserError(f"{name}: its vocabulary is not that of {resolved.config.task} in this version")
    model = new_model(resolved.config, scenario)
    try:
        model.load_state_dict(held["weights"])
    except RuntimeError as error:
        raise UserError(f"{name}: does not fit {resolved.config.architecture}: {error}") from error
    if content_hash(held["weights"]) != published["checkpoint"]:
        raise UserError(f"store {store.url!r}: {name} is damaged (its content has another hash); {_AGAIN}")
    return model.eval()


_AGAIN = "move it and published.json beside it away, and the cell is trained again"


def dump(value: Any) -> bytes:
    import torch

    sink = io.BytesIO()
    torch.save(value, sink)
    return sink.getvalue()


def load(store: Store, name: str) -> Any:
    """A checkpoint file. Never runs code that is in it. Raises UserError when it is damaged."""
    import torch

    data = store.read(name)
    try:
        return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises pickle, zip, key, runtime and end-of-file errors for a damaged file
        raise UserError(f"store {store.url!r}: {name} is damaged ({type(error).__name__}); {_AGAIN}") from error


def content_hash(weights: dict[str, Any]) -> str:
    """Hash of names, shapes and bytes of all weights."""
    import torch

    state = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(weights.items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def device_name(model: Any) -> str:
    import torch

    device = next(model.parameters()).device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {platform.machine()}"


def kernels(model: Any) -> str:
    return " ".join(f"{operation}={choice}" for operation, choice in sorted(model.kernels().items()))


def versions() -> str:
    import torch

    known = {"lengthwise": __version__, "torch": torch.__version__, "python": platform.python_version()}
    if state := git_state():
        known["git"] = state
    return " ".join(f"{name}={version}" for name, version in known.items())


def git_state() -> str | None:
    """Commit of the checkout this code lies in, with `+changes` when it differs; None outside a checkout."""
    here = Path(__file__).parent.parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty=+changes", "--abbrev=12", "--exclude=*"]
    try:
        if not (here / ".git").exists():
            return None
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, default=list).encode()


class _Notifier:
    """Turns what happens in a cell into progress events, not more often than anybody can read."""

    def __init__(self, resolved: Resolved, report: Report) -> None:
        self.cell, self.report = resolved.id, report
        self.curve: list[dict[str, Any]] = []
        self.last = 0.0

    def training(self, record: dict[str, Any], steps: int) -> None:
        self.curve.append({"cell": self.cell, **record})
        if time.monotonic() - self.last >= REPORT_SECONDS or record["step"] == steps:
            event = {"phase": "training", "step": record["step"], "steps": steps, "loss": record["loss"]}
            self.report({"cell": self.cell, **event, "curve": self.curve})
            self.curve, self.last = [], time.monotonic()

    def evaluating(
        self, done: int, total: int, point: Point | None = None, rows: list[dict[str, Any]] | None = None
    ) -> None:
        event: dict[str, Any] = {"cell": self.cell, "phase": "evaluating", "points_done": done, "points": total}
        if point is not None and rows:
            event["point"] = {"length": point.length, "stress": point.stress, **shares(rows)}
        self.report(event)


def shares(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What there is to say of a point in one line, null columns left out of the means.

    `answer_right`: the diverged problems that were rolled out stand for all that diverged, since those that were not
    are all among the diverged; None when some diverged and none was rolled out. `answer_n`: answers known.
    """
    known = [row for row in rows if row["answer_right"] is not None]
    rolled = [float(row["answer_right"]) for row in known if row["exact"] is False]
    settled = [float(row["answer_right"]) for row in known if row["exact"] is not False]
    diverged = sum(row["exact"] is False for row in rows)
    answer = None
    if known and (rolled or not diverged):
        answer = (sum(settled) + diverged * (_mean(rolled) or 0.0)) / (len(settled) + diverged)
    return {
        "n": len(rows),
        "exact": _mean([float(row["exact"]) for row in rows if row["exact"] is not None]),
        "answer_right": answer,
        "answer_n": len(known),
        "token_accuracy": _mean([row["token_accuracy"] for row in rows if row["token_accuracy"] is not None]),
    }


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None

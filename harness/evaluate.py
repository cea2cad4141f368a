"""Evaluation of one loaded model: points in, result rows out. No Ray, no store.

Idea: verify first, roll out only what diverged (see `harness.verify`). Every number in a row is a function of the
weights, the problem and the evaluation settings alone, never of what else was evaluated before.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.ahead import Helpers
from harness.config import Evaluate
from harness.coverage import coverage
from harness.decide import NEAR_TIE, sampling
from harness.divergence import TRACE, TRACED, described, told
from harness.memory import rows_that_fit
from harness.pieces import whole
from harness.rollout import Rollout, Start, first_difference, from_question, roll_out, step_seconds
from harness.verify import Verified, longest, verify
from tasks.agent import Environment
from tasks.base import Problem
from tasks.problems import problems as draw
from tasks.scenario import Scenario
from tools.corrupted import Corrupted

Row = dict[str, Any]

TEXT = 2000
UNKNOWN = (
    *("answer_right", "strict", "token_accuracy", "failure", "ending", "output", "replay_equal"),
    *("divergence", "divergence_step", "divergence_phase", "divergence_role", "expected", "got", "context"),
    *("rollout", "rollout_tokens", "rollout_margin", "corrupted", "corrupted_at", "pairs", "pairs_unseen", "chunk"),
)
"""Columns that are null until something is known."""

PILOT = 8
"""Problems of a batch that are verified before it is decided whether to verify the others, at most a quarter."""
QUICK = 1.0
"""Seconds of verification about which no more is asked."""
LOSS = 0.2
"""Share of the time of going live that verifying first may take in vain."""
WORKERS = 4
"""Helper processes that run the solvers for a model on a GPU: one makes about 2M tokens a second."""


@dataclass(frozen=True)
class Point:
    """Problems start..stop-1 of one length and problem set."""

    length: int
    stress: str
    start: int
    stop: int
    diverged: int = 0
    """How many of the problems before `start` diverged: they used up that much of `rollout_max`."""


def evaluate(
    model: Any,
    scenario: Scenario,
    points: Sequence[Point],
    settings: Evaluate,
    constant: Row,
    stop: Callable[[], bool] = lambda: False,
    workers: int | None = None,
) -> Iterator[tuple[Point, list[Row]]]:
    """Rows of each point, as it is done. `constant`: columns that are the same in every row. Ends early on `stop()`.

    workers: helper processes that run the solvers (None: WORKERS for a model on a GPU, else none, which is: here).
    """
    if workers is None:
        workers = WORKERS if next(model.parameters()).device.type == "cuda" else 0
    with Helpers(workers) as helpers:
        for point in points:
            drawn = draw(scenario.task, "evaluation", point.length, point.stop, point.stress)[point.start :]
            size = min(settings.batch, rows_that_fit(model, longest(scenario, drawn) or 1))
            rows: list[Row] = []
            for at in range(0, len(drawn), size):
                if stop():
                    return
                room = settings.rollout_max - point.diverged - sum(row["exact"] is False for row in rows)
                rows += _batch(model, scenario, drawn[at : at + size], settings, max(0, room), helpers)
            standing_check(model, scenario, drawn, rows, settings, helpers)
            _forget(rows, TRACED - point.diverged)
            chance = scenario.task.chance(point.length) if point.stress in ("random", "jittered") else None
            for index, row in enumerate(rows, start=point.start):
                row.update(constant, index=index, length=point.length, stress=point.stress, chance=chance)
            yield point, rows


def _batch(
    model: Any, scenario: Scenario, batch: Sequence[Problem], settings: Evaluate, room: int, helpers: Helpers
) -> list[Row]:
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    if settings.mode == "live" or not scenario.task.oracle:
        rows = live(model, scenario, batch, settings, helpers)
    elif settings.mode == "auto":
        rows = cheaper(model, scenario, batch, settings, room, helpers)
    else:
        rows = verify_then_continue(model, scenario, batch, settings, room, helpers)
    seconds = (time.perf_counter() - began) / len(batch)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    for row in rows:
        row.update(seconds=seconds, peak_bytes=peak, state_bytes=int(model.cost(row["tokens"]).state_bytes))
        row["flops"] = trajectory_flops(model, row["tokens"])
    if model.learns == "reading":
        for row, problem in zip(rows, batch):
            row.update(coverage(model, scenario, problem, settings.chunk))
    return rows


def trajectory_flops(model: Any, tokens: int) -> float:
    """Forward FLOPs of so many tokens: the cost of the next token, read off in the middle of each quarter.

    Exact where every token costs the same (fixed states), a few percent off where it costs more with what is before it.
    """
    return tokens * sum(float(model.cost((2 * at + 1) * tokens // 8).flops) for at in range(4)) / 4


def cheaper(
    model: Any,
    scenario: Scenario,
    batch: Sequence[Problem],
    settings: Evaluate,
    room: int,
    helpers: Helpers | None = None,
) -> list[Row]:
    """Verify first or go live at once, whichever is likely to take less time.

    Verifying first saves the steps before the first divergence, and rows where fewer are continued than there are; for
    that it takes its own time. On a GPU a step takes about as long for many rows as for a few, so it may not pay. The
    first problems tell how long verifying takes and where they diverge, two windows of steps how long a step takes.
    Since continuing takes no longer than going live, verifying first loses its own time at most: where that is little,
    nothing more is asked. Where a step costs by the row, verifying is always cheaper.
    """
    device = next(model.parameters()).device
    pilot = batch[: min(PILOT, len(batch) // 4)]
    if device.type != "cuda" or not getattr(model, "records", False) or len(pilot) < 2:
        return verify_then_continue(model, scenario, batch, settings, room, helpers)
    half = len(pilot) // 2
    first = _verified(model, scenario, pilot[:-half], settings, room, helpers)  # kernels compile
    began = time.perf_counter()
    first += _verified(model, scenario, pilot[-half:], settings, room - _diverged(first), helpers)
    verifying = (time.perf_counter() - began) / half * len(batch)
    if (diverged := _diverged(first)) > 0:
        tokens = max(result.tokens for result in first)
        place = min(result.divergence / result.tokens for result in first if result.divergence is not None)
        continued = max(1, min(room, len(batch) * diverged // len(pilot)))
        if _live_is_quicker(model, scenario, batch, settings, verifying, tokens, place, continued):
            return live(model, scenario, batch, settings, helpers)
    return verify_then_continue(model, scenario, batch, settings, room, helpers, first)


def _live_is_quicker(
    model: Any,
    scenario: Scenario,
    batch: Sequence[Problem],
    settings: Evaluate,
    verifying: float,
    tokens: int,
    first: float,
    continued: int,
) -> bool:
    """Whether rolling out the whole batch takes less time than verifying it (seconds: `verifying`) and continuing so
    many of it, the earliest from the share `first` of a trajectory of `tokens` on."""
    if verifying <= QUICK:
        return False
    starts = [from_question(scenario, problem, limit(tokens, settings)) for problem in batch]
    step = step_seconds(model, scenario, starts, settings.precision)
    if verifying <= LOSS * tokens * step:
        return False
    fewer = step_seconds(model, scenario, starts[:continued], settings.precision)
    steps = (1 + settings.budget) / 2 * tokens  # of the longest rollout: to the oracle's end, or the budget's
    return verifying + (steps - first * tokens) * fewer > steps * step


def verify_then_continue(
    model: Any,
    scenario: Scenario,
    batch: Sequence[Problem],
    settings: Evaluate,
    room: int,
    helpers: Helpers | None = None,
    known: Sequence[Verified] = (),
) -> list[Row]:
    """Verify all problems; continue the first `room` diverged ones live, from the state before the divergence.

    known: of the first problems, which have been verified.
    """
    left = batch[len(known) :]
    verified = [*known, *_verified(model, scenario, left, settings, room - _diverged(known), helpers)]
    rows: list[Row] = []
    starts, continued = [], []
    for problem, result in zip(batch, verified):
        row = _row(
            scenario,
            problem,
            settings,
            tokens=result.tokens,
            own_tokens=result.own,
            steps=result.steps,
            tool_calls=result.calls,
            longest_walk=result.longest_walk,
        )
        row.update(
            mode="verify",
            chunk=settings.chunk,
            exact=result.divergence is None,
            token_accuracy=result.right / max(1, result.own),
        )
        row["margin"] = result.margin
        row["near_tie"] = result.margin < NEAR_TIE[settings.precision]
        if result.divergence is None:
            answer = scenario.answer_tokens(problem)
            row.update(answer_right=True, ending="finished", output=_text(answer))
            row["strict"] = scenario.task.strict(problem, answer)
        rows.append(row)
    diverged = [at for at, result in enumerate(verified) if result.divergence is not None]
    places = [(batch[at], verified[at].divergence or 0, verified[at].got or 0) for at in diverged]
    for at, (columns, environment) in zip(diverged, described(scenario, places, helpers)):
        rows[at].update(columns)
        if verified[at].resume is not None and rows[at]["tokens"] <= (settings.rollout_max_tokens or math.inf):
            starts.append(_resume(verified[at], environment, rows[at]["tokens"], settings))
            continued.append(at)
    for index, rollout in zip(continued, roll_out(model, scenario, starts, settings.precision)):
        _ending(rows[index], scenario, batch[index], rollout)
        rows[index]["rollout"] = _trace(scenario, rollout.ids)
    return rows


def _verified(
    model: Any,
    scenario: Scenario,
    batch: Sequence[Problem],
    settings: Evaluate,
    room: int,
    helpers: Helpers | None,
) -> list[Verified]:
    """Verify all problems; the first `room` diverged ones keep the state they may be continued from."""
    chunk, precision = settings.chunk, settings.precision
    return verify(model, scenario, batch, chunk=chunk, precision=precision, keep=max(0, room), helpers=helpers)


def _diverged(results: Sequence[Verified]) -> int:
    return sum(result.divergence is not None for result in results)


def live(
    model: Any,
    scenario: Scenario,
    batch: Sequence[Problem],
    settings: Evaluate,
    helpers: Helpers | None = None,
) -> list[Row]:
    """Live rollouts from the question on, compared with the oracle afterwards."""
    known, helpers = scenario.task.oracle, helpers or Helpers(0)
    oracles = helpers.spread(whole, scenario, batch)
    starts = [
        from_question(scenario, problem, limit(len(oracle.ids), settings), settings.corrupt)
        for problem, oracle in zip(batch, oracles)
    ]
    select = sampling(settings.temperature, settings.top_k) if settings.temperature else None
    for problem, start in zip(batch, starts):
        start.seed = int(problem.key[:15], 16)
    rollouts = roll_out(model, scenario, starts, settings.precision, select)
    rows = []
    left = [
        first_difference(oracle, rollout.ids, start.position) if known else None
        for oracle, start, rollout in zip(oracles, starts, rollouts)
    ]
    places = [
        (problem, at, rollout.ids[at - start.position])
        for problem, at, start, rollout in zip(batch, left, starts, rollouts)
        if at is not None
    ]
    said = iter(helpers.spread(told, scenario, places))
    for problem, oracle, start, rollout, at in zip(batch, oracles, starts, rollouts, left):
        row = _row(
            scenario,
            problem,
            settings,
            tokens=len(oracle),
            own_tokens=int(oracle.own.sum()),
            steps=int(oracle.steps[-1]),
            tool_calls=oracle.calls,
            longest_walk=oracle.longest_walk,
        )
        upto = len(rollout.ids) if at is None else at - start.position + 1
        margin = _least(rollout.margins[:upto])
        tool = start.environment.tool
        if isinstance(tool, Corrupted):
            row.update(corrupted=tool.replaced, corrupted_at=tool.first)
        row.update(
            mode="live",
            exact=at is None if known else None,
            margin=margin,
            near_tie=margin < NEAR_TIE[settings.precision],
        )
        if at is not None:
            row.update(next(said), rollout=_trace(scenario, rollout.ids[upto - 1 :]))
            rollout = Rollout(rollout.ids, rollout.margins[upto:], rollout.ending, rollout.output)
        _ending(row, scenario, problem, rollout)
        row["rollout_tokens"] = len(rollout.ids)
        if not known:
            wrong = "past_budget" if rollout.ending == "past_budget" else "wrong_output"
            row.update(failure=None if row["answer_right"] else wrong, tokens=start.position + len(rollout.ids))
            row.update(rollout_margin=None, tool_calls=rollout.calls, longest_walk=rollout.longest_walk)
        rows.append(row)
    return rows


def standing_check(
    model: Any,
    scenario: Scenario,
    batch: Sequence[Problem],
    rows: Sequence[Row],
    settings: Evaluate,
    helpers: Helpers | None = None,
) -> None:
    """Replay a share of the verified problems live, and say in their rows whether the results agree.

    A row that is itself a near tie may honestly disagree: readers tell those by `near_tie`. Where only the replay came
    upon a near tie nothing can be said, and the row says nothing.
    """
    verified = [at for at, row in enumerate(rows) if row["mode"] == "verify"]
    candidates = [at for at in verified if rows[at]["tokens"] <= settings.replay_max_tokens]
    chosen = sorted(candidates, key=lambda at: rows[at]["problem"])[: math.ceil(settings.replay * len(verified))]
    if not chosen:
        return
    for at, again in zip(chosen, live(model, scenario, [batch[at] for at in chosen], settings, helpers)):
        if rows[at]["near_tie"] or not again["near_tie"]:
            rows[at]["replay_equal"] = agree(rows[at], again)


RESULT = ("exact", "divergence", "divergence_step", "divergence_role", "expected", "got", "failure")
ANSWER = ("answer_right", "ending", "output")


def agree(verified: Row, replayed: Row) -> bool:
    """Whether two rows of one problem tell the same, near ties of the rollout after the divergence left aside."""
    if any(verified[name] != replayed[name] for name in RESULT):
        return False
    if verified["answer_right"] is None:
        return True
    threshold = NEAR_TIE[verified["precision"]]
    margins = [row["rollout_margin"] for row in (verified, replayed) if row["rollout_margin"] is not None]
    return min(margins, default=threshold) < threshold or all(verified[name] == replayed[name] for name in ANSWER)


def limit(oracle_tokens: int, settings: Evaluate) -> int:
    """Tokens a rollout may take. A constant is added so that short problems, too, have room to go astray and return."""
    return math.ceil(settings.budget * oracle_tokens) + 16


def _row(scenario: Scenario, problem: Problem, settings: Evaluate, **counts: int) -> Row:
    return {
        **dict.fromkeys(UNKNOWN),
        "problem": problem.key,
        "problem_length": problem.length,
        "question": _text(problem.prompt),
        **counts,
        "work": scenario.task.work(problem),
        "corrupt": settings.corrupt,
        "precision": settings.precision,
    }


def _resume(result: Verified, environment: Environment, tokens: int, settings: Evaluate) -> Start:
    assert result.resume is not None
    assert result.divergence is not None
    resume = result.resume
    return Start(
        environment, resume.tokens, resume.state, result.divergence, limit(tokens, settings), commit=result.got
    )


def _ending(row: Row, scenario: Scenario, problem: Problem, rollout: Rollout) -> None:
    """How the rollout ended, and whether its answer is right. Margins: those after the divergence."""
    finished = rollout.ending == "finished"
    right = finished and scenario.right(problem, rollout.output)
    row.update(
        answer_right=right,
        strict=right and strict if (strict := scenario.task.strict(problem, rollout.output)) is not None else None,
        ending=rollout.ending,
        output=_text(rollout.output),
        rollout_tokens=len(rollout.ids),
    )
    if not row["exact"]:
        least = _least(rollout.margins)
        row["rollout_margin"] = least if math.isfinite(least) else None


def _trace(scenario: Scenario, ids: Sequence[int]) -> str:
    return json.dumps(scenario.vocabulary.decode(ids[:TRACE]))


def _forget(rows: Sequence[Row], room: int) -> None:
    """Keep the rollouts of the first `room` diverged problems only."""
    diverged = [row for row in rows if row["exact"] is False]
    for row in diverged[max(0, room) :]:
        row["rollout"] = None


def _least(margins: Sequence[float]) -> float:
    known = np.asarray(margins, dtype=float)
    return float(np.nanmin(known)) if len(known) and not np.isnan(known).all() else math.inf


def _text(tokens: Sequence[str]) -> str:
    return " ".join(tokens)[:TEXT]

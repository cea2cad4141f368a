"""`lengthwise bench rollout`: steps of decoding against the bandwidth they need, rollouts against a plain loop."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from harness.ahead import Helpers
from harness.bench.rows import roughened
from harness.bench.timing import machine, peaks, synchronise, table, timed
from harness.config import Evaluate
from harness.decide import NEAR_TIE, autocast, decide, dtype_of
from harness.decoder import WINDOW, Decoder
from harness.evaluate import WORKERS, Row, agree, cheaper, live, verify_then_continue
from harness.evaluate import limit as budget_of
from harness.rollout import Rollout, Start, from_question, roll_out
from harness.train import default_device
from models.base import SequenceModel
from models.build import build
from models.state import leaves
from tasks.base import EOS, Problem
from tasks.problems import problems as draw
from tasks.scenario import Scenario
from tools.batched import batched

Precision = Literal["float32", "bf16"]
REPLAYS = 4
"""Windows of a run that is timed."""
LOOP_STEPS = 200
"""Steps of the plain loop that are timed; the rest is extrapolated."""


def bench_steps(
    architectures: Sequence[str],
    size: str,
    rows: Sequence[int],
    context: int,
    precision: Precision,
    repeats: int,
    tune: bool,
) -> dict[str, Any]:
    """Milliseconds of a whole step, tool and bookkeeping included, and the least that its bytes would take."""
    device, scenario = default_device(), Scenario("addition", "interactive")
    best = peaks(device)
    results = []
    for architecture in architectures:
        model = build(architecture, size, len(scenario.vocabulary), seed=0).to(device).eval()
        for count in rows:
            try:
                results.append(
                    _step(model, architecture, scenario, count, context, precision, repeats, best.bytes, tune)
                )
            except torch.cuda.OutOfMemoryError as error:
                results.append({"architecture": architecture, "rows": count, "error": str(error).splitlines()[0]})
            print(results[-1], flush=True)
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
        del model
    print(f"copy: {best.bytes / 1e12:.2f} TB/s")
    head = ("architecture", "rows", "tokens before", "ms a step", "bound", "reached", "tok/s")
    table(head, [_line(result) for result in results])
    for result in results:
        for one in result.get("tuned", ())[:12]:
            print(f"{result['rows']} rows: {one['ms']:.4f} ms {one['tiles']}")
    return {"bench": "rollout", "machine": machine(device), "copy_bytes": best.bytes, "steps": results}


def _line(result: dict[str, Any]) -> tuple[Any, ...]:
    if "error" in result:
        return result["architecture"], result["rows"], None, result["error"], None, None, None
    reached = f"{result['bound_ms'] / result['ms']:.0%}"
    rate = 1000 * result["rows"] / result["ms"]
    return *(result[name] for name in ("architecture", "rows", "context", "ms", "bound_ms")), reached, rate


@torch.inference_mode()
def _step(
    model: SequenceModel,
    architecture: str,
    scenario: Scenario,
    rows: int,
    context: int,
    precision: Precision,
    repeats: int,
    bandwidth: float,
    tune: bool,
) -> dict[str, Any]:
    length = context + 2 * WINDOW
    decoder = _busy(model, scenario, rows, context, length, precision)
    ms = _milliseconds(decoder, context, repeats)
    moved = bytes_of_a_step(model, rows, context, precision)
    result = {
        "architecture": architecture,
        "rows": rows,
        "context": context,
        "ms": ms,
        "bound_ms": 1000 * moved / bandwidth,
        "bytes": moved,
        "recorded": decoder.graph is not None,
        "kernels": model.kernels(),
    }
    if tune and hasattr(decoder.decode, "tiles"):
        result["tuned"] = _tuned(model, decoder, rows, precision)
    return result


def bytes_of_a_step(model: SequenceModel, rows: int, context: int, precision: Precision) -> float:
    """What a step must move: weights once, a recurrent state twice (read and written), a cache once."""
    weights = model.parameter_count() * (2 if precision == "bf16" else 4)
    return weights + rows * model.cost(context).state_bytes * (2 if model.steady else 1)


def _busy(
    model: SequenceModel, scenario: Scenario, rows: int, context: int, length: int, precision: Precision
) -> Decoder:
    """A decoder all of whose rows have seen `context` random tokens and have far to go."""
    device, names = model.device, scenario.vocabulary
    tool = batched(scenario.make_tool(), names.ids, rows, length, device)
    decoder = Decoder(model, tool, rows, length, len(names), names.ids[EOS], precision)
    torch.manual_seed(0)
    for tensor in leaves(decoder.state):
        if tensor.is_floating_point():
            tensor.normal_(std=0.1)
        else:
            tensor.fill_(context)
    decoder.scores.normal_()
    decoder.scores[:, names.ids[EOS]] = -torch.inf
    decoder.left.fill_(1 << 40)
    decoder.live.fill_(True)
    # No row may end: what is fed is drawn, and the end of a trajectory is not among it.
    decoder.eos = -1
    return decoder


def _milliseconds(decoder: Decoder, context: int, repeats: int) -> float:
    def run() -> None:
        for _ in range(REPLAYS):
            for tensor in leaves(decoder.state):  # no cache outgrows its room
                if not tensor.is_floating_point():
                    tensor.fill_(context)
            decoder.run()

    timing = timed(run, decoder.device, repeats)
    return 1000 * timing.seconds / (REPLAYS * decoder.steps)


def _tuned(model: Any, decoder: Decoder, rows: int, precision: Precision) -> list[dict[str, Any]]:
    """Other tiles of the fused step, fastest first."""
    from models.kernels.triton_mamba1_step import Mamba1Step

    found = []
    for tiles in _variants(model, rows):
        try:
            decoder.decode, decoder.graph = Mamba1Step(model, dtype_of(precision), rows, tiles), None
            found.append({"ms": _milliseconds(decoder, 0, 1), "tiles": vars(tiles)})
        except Exception as error:  # tiles that do not fit a machine must not lose the others
            found.append({"ms": float("inf"), "tiles": vars(tiles), "error": str(error)[:200]})
        print(found[-1], flush=True)
    return sorted(found, key=lambda one: one["ms"])


def _variants(model: Any, rows: int) -> Iterator[Any]:
    """One thing changed at a time, from the tiles that are taken by default."""
    from models.kernels.triton_mamba1_step import blocks

    base = blocks(rows, model.options.d_model, model.blocks[0].mixer.inner)
    enter, select, leave = base.enter, base.select, base.leave
    few: list[dict[str, Any]] = [
        *({"enter": (rows, *tile)} for tile in ((4, *enter[2:]), (16, *enter[2:]), (32, *enter[2:]))),
        *({"leave": (rows, *tile)} for tile in ((2, *leave[2:]), (8, *leave[2:]), (16, *leave[2:]))),
        *({"scan": (rows, *tile)} for tile in ((8, 1), (16, 2), (32, 4))),
    ]
    many: list[dict[str, Any]] = [
        *({"enter": tile} for tile in ((128, 64, 64, 8, 4), (64, 128, 64, 8, 4), (128, 128, 64, 8, 4))),
        *({"leave": tile} for tile in ((32, 32, 128, 4, 4), (64, 64, 64, 4, 4), (64, 32, 128, 4, 6))),
        *({"scan": tile} for tile in ((16, 16, 4), (16, 32, 8), (16, 16, 2))),
    ]
    either: list[dict[str, Any]] = [
        *({"select": (*select[:3], parts)} for parts in (1, 2, 3, 4, 6, 12)),
        {"early": not base.early},
    ]
    for change in [*(few if rows == 1 else many), *either]:
        yield replace(base, **change)


def bench_whole(model: Any, scenario: Scenario, digits: int, count: int, precision: Precision) -> dict[str, Any]:
    """Rollouts from the question on, by the engine and by a plain loop that asks the tools on the host."""
    device = next(model.parameters()).device
    settings = Evaluate(lengths=(digits,), problems=count, precision=precision)
    drawn = draw(scenario.task, "evaluation", digits, count)
    limits = [budget_of(len(scenario.encoded(problem).ids), settings) for problem in drawn]
    engine, rollouts = _timed(lambda: roll_out(model, scenario, _starts(scenario, drawn, limits), precision), device)
    engine, rollouts = _timed(lambda: roll_out(model, scenario, _starts(scenario, drawn, limits), precision), device)
    most = max(len(rollout.ids) for rollout in rollouts)
    short = draw(scenario.task, "evaluation", 9, 16)
    near = [budget_of(len(scenario.encoded(problem).ids), settings) for problem in short]
    same = _same(
        roll_out(model, scenario, _starts(scenario, short, near), precision),
        loop(model, scenario, _starts(scenario, short, near), precision)[0],
        NEAR_TIE[precision],
    )
    _, step = loop(model, scenario, _starts(scenario, drawn, limits), precision, LOOP_STEPS)
    result = {
        "digits": digits,
        "problems": count,
        "tokens": sum(len(rollout.ids) for rollout in rollouts),
        "finished": sum(rollout.ending == "finished" for rollout in rollouts),
        "steps": most,
        "seconds": engine,
        "ms_a_step": 1000 * engine / most,
        "loop_ms_a_step": 1000 * step,
        "loop_seconds": step * most,
        "times_as_fast": step * most / engine,
        "rollouts_of_9_digits": same,
    }
    print(result, flush=True)
    return result


def _timed(run: Any, device: torch.device) -> tuple[float, Any]:
    synchronise(device)
    began = time.perf_counter()
    made = run()
    synchronise(device)
    return time.perf_counter() - began, made


def _starts(scenario: Scenario, drawn: Sequence[Problem], limits: Sequence[int]) -> list[Start]:
    return [from_question(scenario, problem, limit) for problem, limit in zip(drawn, limits)]


@torch.inference_mode()
def loop(
    model: Any, scenario: Scenario, starts: Sequence[Start], precision: Precision, most: int | None = None
) -> tuple[list[Rollout], float]:
    """The plain loop: a step, its decisions read, every tool asked, the next tokens sent. Also seconds a step."""
    device, names = next(model.parameters()).device, scenario.vocabulary
    rollouts = [Rollout() for _ in starts]
    pending: list[list[int]] = [[] for _ in starts]
    over = [False] * len(starts)
    with autocast(device, precision):
        state, logits = _questions(model, starts, device)
        synchronise(device)
        began, steps = time.perf_counter(), 0
        while not all(over) and (most is None or steps < most):
            best, margins = decide(logits)
            tokens = []
            for row, (chosen, margin) in enumerate(zip(best.tolist(), margins.tolist())):
                if over[row]:
                    tokens.append(0)
                    continue
                environment, rollout = starts[row].environment, rollouts[row]
                if pending[row]:
                    token, margin = pending[row].pop(0), float("nan")
                else:
                    token = chosen
                    _, observation = environment.act(names.tokens[token])
                    pending[row] += names.encode(observation).tolist()
                rollout.ids.append(token)
                rollout.margins.append(margin)
                ended = environment.done or (environment.cut and not pending[row])
                over[row] = ended or len(rollout.ids) >= starts[row].limit - starts[row].position
                tokens.append(token)
            logits, state = model.step(torch.tensor(tokens, device=device), state)
            steps += 1
        synchronise(device)
        seconds = (time.perf_counter() - began) / max(1, steps)
    for start, rollout in zip(starts, rollouts, strict=True):
        environment, tool = start.environment, start.environment.tool
        rollout.ending = "finished" if environment.done else "past_budget"
        rollout.output, rollout.calls, rollout.longest_walk = list(environment.outcome), tool.calls, tool.longest_walk
    return rollouts, seconds


def _questions(model: Any, starts: Sequence[Start], device: torch.device) -> tuple[Any, torch.Tensor]:
    """States and logits after the questions, one token after another."""
    longest = max(len(start.tokens) for start in starts)
    tokens = torch.zeros(len(starts), longest, dtype=torch.int64)
    for row, start in enumerate(starts):
        tokens[row, : len(start.tokens)] = torch.tensor(start.tokens)
    lengths = torch.tensor([len(start.tokens) for start in starts], device=device)
    logits, state = model(tokens.to(device), model.initial_state(len(starts), device), lengths)
    return state, logits[torch.arange(len(starts), device=device), lengths - 1]


def _same(ones: Sequence[Rollout], others: Sequence[Rollout], near: float) -> dict[str, int]:
    """Of two sets of rollouts: how many came upon no near tie before they parted, and how many of those are equal."""
    clear = equal = 0
    for one, other in zip(ones, others, strict=True):
        upto = next((at for at, (a, b) in enumerate(zip(one.ids, other.ids)) if a != b), len(one.ids))
        margins = [m for rollout in (one, other) for m in rollout.margins[: upto + 1] if m == m]
        if min(margins, default=near) >= near:
            clear += 1
            equal += one.ids == other.ids
    return {"compared": clear, "equal": equal, "near_ties": len(ones) - clear}


def bench_continuation(
    model: Any, scenario: Scenario, digits: int, count: int, precision: Precision, wanted: Sequence[tuple[float, float]]
) -> list[dict[str, Any]]:
    """Verification with continuation of what diverged against live rollouts alone, at several shares of divergence.

    Noise in the weights makes more problems diverge than the model's own share. For fewer, the problems are chosen
    among twice as many: what is timed diverges where it does, only more rarely.
    """
    found: list[dict[str, Any]] = []
    device = next(model.parameters()).device
    clean = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = Evaluate(lengths=(digits,), problems=count, precision=precision, rollout_max=count, batch=count)
    drawn = draw(scenario.task, "evaluation", digits, 2 * count)
    with Helpers(WORKERS if device.type == "cuda" else 0) as helpers:
        for least, most in wanted:
            model.load_state_dict(clean)
            noise, _ = roughened(model, scenario, digits, count, precision, (least, most))
            known = verify_then_continue(model, scenario, drawn, settings, 0, helpers)
            chosen = _chosen([row["exact"] for row in known], count, least, most)
            if chosen is None:
                print(f"no {count} problems of {2 * count} of which {least:.0%} to {most:.0%} diverge", flush=True)
                continue
            batch = [drawn[at] for at in chosen]
            diverged = [drawn[at] for at in chosen if not known[at]["exact"]]
            result = _continued(model, scenario, settings, batch, diverged, helpers)
            found.append({"digits": digits, "problems": count, "noise": noise, "diverged": len(diverged), **result})
            print(found[-1], flush=True)
    model.load_state_dict(clean)
    return found


def _chosen(exact: Sequence[bool], count: int, least: float, most: float) -> list[int] | None:
    """Which problems to take, `count` of them: the first ones, unless too many or too few of those diverge."""
    diverging = [at for at, right in enumerate(exact) if not right]
    others = [at for at, right in enumerate(exact) if right]
    few = sum(not right for right in exact[:count])
    if not least <= few / count <= most:
        few = round((least + most) / 2 * count)
    if few > len(diverging) or count - few > len(others):
        return None
    return sorted(diverging[:few] + others[: count - few])


@torch.inference_mode()
def _continued(
    model: Any,
    scenario: Scenario,
    settings: Evaluate,
    batch: Sequence[Problem],
    diverged: Sequence[Problem],
    helpers: Helpers,
) -> dict[str, Any]:
    """Seconds of every way to the rows of this batch, kernels compiled beforehand; how many rows are the same."""
    device, count = next(model.parameters()).device, len(batch)
    for rows in {count, len(diverged)} - {0}:
        live(model, scenario, draw(scenario.task, "evaluation", 2, rows), settings)
    seconds: dict[str, float] = {}

    def timed_as(name: str, run: Callable[[], list[Row]]) -> list[Row]:
        seconds[name], rows = _timed(run, device)
        return rows

    timed_as("verification", lambda: verify_then_continue(model, scenario, batch, settings, 0, helpers))
    ones = timed_as("continued", lambda: verify_then_continue(model, scenario, batch, settings, count, helpers))
    others = timed_as("live", lambda: live(model, scenario, batch, settings, helpers))
    chosen = timed_as("auto", lambda: cheaper(model, scenario, batch, settings, count, helpers))
    timed_as("diverged live", lambda: live(model, scenario, diverged, settings, helpers) if diverged else [])
    clear = [(a, b) for a, b in zip(ones, others, strict=True) if not (a["near_tie"] or b["near_tie"])]
    return {
        "seconds": seconds,
        "of_verification_and_live": seconds["continued"] / (seconds["verification"] + 1.15 * seconds["diverged live"]),
        "auto": chosen[0]["mode"],
        "auto_of_the_better": seconds["auto"] / min(seconds["continued"], seconds["live"]),
        "compared": len(clear),
        "equal": sum(agree(a, b) for a, b in clear),
    }

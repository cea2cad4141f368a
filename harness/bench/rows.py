"""`lengthwise bench rows`: verification and live decoding tell the same, on a model that is wrong half the time."""

from __future__ import annotations

import copy
import time
from typing import Any, Literal

import torch

from harness.bench.timing import machine
from harness.config import Cell, Evaluate
from harness.decide import NEAR_TIE
from harness.evaluate import Point, Row, agree, evaluate
from harness.train import train
from tasks.scenario import Scenario

Precision = Literal["float32", "bf16"]
WANTED = (0.2, 0.8)
"""Share of diverged problems at which the comparison says something of right rows and of wrong ones."""
TRIES = 12


def bench_rows(model: Any, scenario: Scenario, digits: int, count: int, precision: Precision) -> dict[str, Any]:
    """Rows of `count` problems by verification with all diverged ones continued, and by live decoding alone.

    Noise is added to the weights until 20-80% of the problems diverge. The rule, fixed beforehand: rows are compared
    unless one of the two has a decision closer than NEAR_TIE; of continued rollouts likewise.
    """
    noise, share = roughened(model, scenario, digits, count, precision)
    settings = Evaluate(
        lengths=(digits,), problems=count, precision=precision, rollout_max=count, batch=count, replay=0
    )
    began = time.perf_counter()
    verified = rows_of(model, scenario, settings, count)
    verifying = time.perf_counter() - began
    lived = rows_of(model, scenario, settings.model_copy(update={"mode": "live"}), count)
    living = time.perf_counter() - began - verifying
    pairs = [(one, other) for one, other in zip(verified, lived, strict=True)]
    clear = [(one, other) for one, other in pairs if not (one["near_tie"] or other["near_tie"])]
    different = [(one, other) for one, other in clear if not agree(one, other)]
    for one, other in different:
        print("different:", {name: (one[name], other[name]) for name in one if one[name] != other[name]})
    result = {
        "digits": digits,
        "problems": count,
        "precision": precision,
        "near_tie": NEAR_TIE[precision],
        "relative_noise": noise,
        "diverged": sum(one["exact"] is False for one in verified),
        "wanted_share": WANTED,
        "share_diverged": share,
        "compared": len(clear),
        "compared_diverged": sum(one["exact"] is False for one, _ in clear),
        "equal": len(clear) - len(different),
        "near_ties": len(pairs) - len(clear),
        "seconds_verify_then_continue": verifying,
        "seconds_live": living,
    }
    print(result, flush=True)
    return {"bench": "rows", "machine": machine(next(model.parameters()).device), **result}


def trained(cell: Cell) -> Any:
    """A model from scratch, by the harness's own training."""
    began = time.perf_counter()
    done = train(cell)
    print(
        f"trained {cell.train.steps} steps in {time.perf_counter() - began:.1f} s: validation {done.validation_exact}"
    )
    return done.model.eval()


def roughened(
    model: Any,
    scenario: Scenario,
    digits: int,
    count: int,
    precision: Precision,
    wanted: tuple[float, float] = WANTED,
) -> tuple[float, float]:
    """Add noise to the weights in place, as little or as much as makes `wanted` of the problems diverge.

    Returns the noise, relative to the mean of each tensor's absolute values, and the share that does.
    """
    clean, low, high, noise, share = copy.deepcopy(model.state_dict()), 0.0, 1.0, 0.0, 0.0
    settings = Evaluate(lengths=(digits,), problems=count, precision=precision, rollout_max=0, batch=count, replay=0)
    for _ in range(TRIES):
        model.load_state_dict(clean)
        generator = torch.Generator(next(model.parameters()).device).manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                drawn = torch.randn(parameter.shape, generator=generator, device=parameter.device)
                parameter += noise * parameter.abs().mean() * drawn
        share = sum(row["exact"] is False for row in rows_of(model, scenario, settings, count)) / count
        print(f"relative noise {noise:.4g}: {share:.0%} diverge", flush=True)
        if wanted[0] <= share <= wanted[1] or (share > wanted[1] and noise == 0):
            break
        low, high = (noise, high) if share < wanted[0] else (low, noise)
        noise = high / 8 if low == 0 else (low * high) ** 0.5
    return noise, share


def rows_of(model: Any, scenario: Scenario, settings: Evaluate, count: int) -> list[Row]:
    [(_, rows)] = evaluate(model, scenario, [Point(settings.lengths[0], "random", 0, count)], settings, {})
    return rows

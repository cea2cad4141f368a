"""`lengthwise bench statistics`: how often the report's intervals hold and its tests err, where the truth is known.

Seeds are alike, have accuracies from a beta distribution (on problems of their own or on shared ones: what is hard for
one is hard for all), or are all or nothing: a share of them solves everything, the others nothing. See
docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from reports.expectation import crossed_bootstrap
from reports.runs import contrast
from reports.significance import LEVEL, corrected, decide, mcnemar, mcnemar_floor
from reports.statistics import SOLVED, Interval, clopper_pearson, partly_known

KINDS = ("alike", "beta", "beta, shared problems", "all or nothing")
SEEDS = (2, 3, 5, 10)
PROBLEMS = (32, 100)
SHARES = (0.001, 0.5, 0.995, 0.9999)
CORRELATION = 0.1
"""Intra-class correlation of the beta distribution: how much seeds differ."""
ROLLED = 16
LENGTHS = (5, 10, 20, 40, 80)

Bools = NDArray[np.bool_]
Record = dict[str, Any]


def bench_statistics(replications: int, seed: int) -> Record:
    """Every regime of `coverage`, `answers`, `retrained` and `checkpoints`, with their worst cases."""
    results = [coverage(*regime, replications, seed) for regime in product(KINDS, SEEDS, PROBLEMS, SHARES)]
    asked = product((0.05, 0.5, 0.9, 0.995), (0.0, 0.3, 1.0), (32, 100, 500))
    partly = [answers(*regime, replications, seed) for regime in asked]
    intervals = ("point", "seeds", "fresh seed")
    worst = {name: min(one[f"{name} covers"] for one in results) for name in intervals}
    return {
        "bench": "statistics",
        "replications": replications,
        "seed": seed,
        "least_coverage": {**worst, "answers": min(one["covers"] for one in partly)},
        "wilson_least_coverage": min(one["wilson covers"] for one in results),
        "coverage": results,
        "answers": partly,
        "retrained": list(retrained(min(replications, 1000), seed)),
        "checkpoints": list(checkpoints(replications, seed)),
    }


def coverage(kind: str, seeds: int, problems: int, share: float, replications: int, seed: int) -> Record:
    """How often the intervals of a point (one seed's accuracy), of k of S seeds and of a fresh seed hold their truth,
    and their mean widths."""
    chance = np.random.default_rng([seed, KINDS.index(kind), seeds, problems, round(1e4 * share)])
    accuracy, right, solving = _experiments(kind, (replications, seeds, problems), share, chance)
    k = right[:, 0].sum(axis=1)
    every = np.arange(problems + 1)
    wilson = [stats.binomtest(int(one), problems).proportion_ci(method="wilson") for one in every]
    found: dict[str, tuple[Interval, Any]] = {
        "point": (_looked_up(clopper_pearson(every, problems), k), accuracy[:, 0]),
        "wilson": (
            _looked_up((np.array([w.low for w in wilson]), np.array([w.high for w in wilson])), k),
            accuracy[:, 0],
        ),
        "seeds": (clopper_pearson((right.mean(axis=2) >= SOLVED).sum(axis=1), seeds), solving),
        "fresh seed": (_of_fresh_seeds(right), share),
    }
    record: Record = {"seeds are": kind, "seeds": seeds, "problems": problems, "share": share}
    for name, ((low, high), truth) in found.items():
        record[f"{name} covers"] = float(np.mean((low <= truth) & (truth <= high)))
        record[f"{name} width"] = float(np.mean(high - low))
    return record


def _experiments(
    kind: str, shape: tuple[int, int, int], share: float, chance: np.random.Generator
) -> tuple[NDArray[np.float64], Bools, Any]:
    """Accuracies of seeds, outcomes of shape (replications, seeds, problems), and the chance that a fresh seed solves
    these very problems."""
    replications, seeds, problems = shape
    needed = int(np.ceil(SOLVED * problems - 1e-9))
    if kind == "all or nothing":
        accuracy = (chance.random((replications, seeds)) < share).astype(np.float64)
        return accuracy, np.broadcast_to(accuracy[:, :, None] > 0.5, shape), share
    if kind == "alike":
        solving = stats.binom.sf(needed - 1, problems, share)
        return np.full((replications, seeds), share), chance.random(shape) < share, solving
    strength = 1 / CORRELATION - 1
    a, b = share * strength, (1 - share) * strength
    accuracy = chance.beta(a, b, (replications, seeds))
    shared = kind == "beta, shared problems"
    hardness = chance.random((replications, 1 if shared else seeds, problems))
    hardest = np.sort(hardness[:, 0], axis=1)[:, needed - 1]
    solving = stats.beta.sf(hardest, a, b) if shared else stats.betabinom.sf(needed - 1, problems, a, b)
    return accuracy, hardness < accuracy[:, :, None], solving


def _looked_up(bounds: Interval, k: NDArray[np.int64]) -> Interval:
    return bounds[0][k], bounds[1][k]


def _of_fresh_seeds(right: Bools, chunk: int = 1000) -> Interval:
    """Each pattern of outcomes once: near 0 and 1 there are few."""
    flat = right.reshape(len(right), -1)
    patterns, place = np.unique(np.packbits(flat, axis=1), axis=0, return_inverse=True)
    outcomes = np.unpackbits(patterns, axis=1, count=flat.shape[1]).reshape(-1, *right.shape[1:])
    parts = [crossed_bootstrap(outcomes[start : start + chunk]) for start in range(0, len(outcomes), chunk)]
    place = place.reshape(-1)
    return np.concatenate([low for low, _ in parts])[place], np.concatenate([high for _, high in parts])[place]


def answers(exact: float, rest: float, problems: int, replications: int, seed: int) -> Record:
    """The interval of right answers where at most ROLLED of the diverged problems are played to their end."""
    chance = np.random.default_rng([seed, round(1e4 * exact), round(1e4 * rest), problems])
    settled = chance.binomial(problems, exact, replications)
    rolled = np.minimum(ROLLED, problems - settled)
    low, high = partly_known(settled, settled, chance.binomial(rolled, rest), rolled, problems)
    truth = exact + (1 - exact) * rest
    covers, width = float(np.mean((low <= truth) & (truth <= high))), float(np.mean(high - low))
    return {"exact": exact, "of the rest right": rest, "problems": problems, "covers": covers, "width": width}


def retrained(replications: int, seed: int) -> Iterator[Record]:
    """Two trainings of the same thing (false alarms) and of different ones (power), of all-or-nothing seeds that reach
    the longest length or the shortest, in families of comparisons of which only the first may differ."""
    regimes = [(share, share) for share in (0.2, 0.5, 0.8)] + [(0.9, 0.1), (1.0, 0.2), (1.0, 0.0)]
    for (before, after), runs, family in product(regimes, (4, 5, 10), (1, 5)):
        chance = np.random.default_rng([seed, round(10 * before), round(10 * after), runs, family])
        alarms = found = undecidable = 0
        for _ in range(replications):
            shares = [(before, after)] + [(before, before)] * (family - 1)
            groups = [[_curves(runs, one, chance) for one in pair] for pair in shares]
            tests = [pair.test for one, other in groups if (pair := contrast(one, other))]
            outcomes = [decision.outcome for decision in decide(tests)]
            alarms += any(outcome in ("more", "less") for outcome in outcomes)
            found += outcomes[0] == "more"
            undecidable += outcomes[0] == "undecidable"
        yield {
            "solving before": before,
            "after": after,
            "runs a side": runs,
            "comparisons": family,
            "alarms": alarms / replications,
            "first found": found / replications,
            "undecidable": undecidable / replications,
        }


def _curves(runs: int, share: float, chance: np.random.Generator) -> list[dict[int, float]]:
    return [{length: float(solves) for length in LENGTHS} for solves in chance.random(runs) < share]


def checkpoints(replications: int, seed: int, problems: int = 200, lengths: int = 10) -> Iterator[Record]:
    """Two checkpoints of accuracy `before` and, at the first of ten lengths, `after`, on the same problems with errors
    independent of each other (the hardest case that is likely: shared errors make a fall easier to see)."""
    for before, after in ((0.98, 0.98), (0.5, 0.5), (0.98, 0.88), (0.98, 0.93), (0.6, 0.4)):
        chance = np.random.default_rng([seed, round(100 * before), round(100 * after)])
        shape = (replications, lengths, problems)
        one = chance.random(shape, dtype=np.float32) < before
        other = chance.random(shape, dtype=np.float32) < before
        other[:, 0] = chance.random((replications, problems)) < after
        lost, won = (one & ~other).sum(axis=2), (~one & other).sum(axis=2)
        p, floor = mcnemar(lost, won), mcnemar_floor(lost + won)
        alarms = found = 0
        for ps, floors, down in zip(p.tolist(), floor.tolist(), (lost > won).tolist()):
            moved = [value is not None and value <= LEVEL for value in corrected(ps, floors)[0]]
            alarms += any(moved)
            found += moved[0] and down[0]
        yield {
            "before": before,
            "after": after,
            "problems": problems,
            "lengths": lengths,
            "alarms": alarms / replications,
            "first found": found / replications,
        }


def show(result: Record) -> None:
    """Print the regimes as tables."""
    from harness.bench.timing import table

    for name in ("coverage", "answers", "retrained", "checkpoints"):
        lines = result[name]
        print(f"\n{name}")
        table(
            [str(key) for key in lines[0]],
            [[str(line[key]) if place == 0 else line[key] for place, key in enumerate(line)] for line in lines],
        )

"""Problem streams: which problems training, validation and evaluation see.

A hash of its content puts a problem into training (80%), validation (10%) or evaluation (10%), so the three are
disjoint. Streams are seeded by a hash of what they are for. Evaluation problems depend on the task, its revision, the
kind, the length and the index alone: they are the same for every architecture and seed.

Exempt from the split, and thus shared by all three, are lengths with fewer than `EXEMPT` distinct problems. Where a
list for evaluation or validation finds nothing in its split after an exhaustive search, it takes the whole space.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Literal

from tasks.base import Problem, Sampler, Task
from tasks.resolve import unknown

Purpose = Literal["training", "validation", "evaluation"]

BLOCK = 4_096
"""Problems in a block of the training stream."""

EXEMPT = 20

_TRIES = 2_000
"""Draws in a row without a new problem after which a space of unknown size counts as exhausted."""

_MOST_TRIES = 200_000

_TRAINING_TRIES = 100
"""Draws without a training problem after which the space can have none (four of five problems are)."""


def split(problem: Problem) -> Purpose:
    """The only purpose that a problem serves."""
    if problem.reserved:
        return "evaluation"
    bucket = int(problem.key[:8], 16) % 10
    return "validation" if bucket == 0 else "evaluation" if bucket == 1 else "training"


def problems(task: Task, purpose: Purpose, length: int, count: int, which: str = "random") -> list[Problem]:
    """The first `count` distinct problems for validation or evaluation at a length; fewer if there are no more.

    `which`: "random" (exactly that length), "jittered" (lengths uniform in `jitter(length)`), or a stress set of the
    task. Asking for more keeps the earlier ones.

    Raises:
        ValueError: unknown purpose or kind, length or count out of range.
    """
    if purpose not in ("validation", "evaluation"):
        raise unknown("purpose of a problem list", purpose, ("validation", "evaluation"))
    if length < 1 or count < 0:
        raise ValueError(f"problems: length = {length}, count = {count}; length must be at least 1, count at least 0")
    kinds: dict[str, Sampler] = {"random": task.sample, "jittered": _jittered(task), **task.stress}
    if which not in kinds:
        raise unknown(f"kind of {task.name} problems", which, kinds)
    rng = generator(task, purpose, which, length)
    draws = (kinds[which](rng, length) for _ in iter(int, 1))
    size = _space(task, length, which)
    return _distinct(task, draws, purpose, count, size)


def validation_problems(task: Task, max_length: int, count: int) -> list[Problem]:
    """The first `count` distinct problems for validation, drawn as in training up to `max_length`."""
    rng = generator(task, "validation", "training lengths", max_length)
    draw = task.sample_training if task.oracle else _up_to(task.sample)  # recorded problems are all for training
    draws = (draw(rng, max_length) for _ in iter(int, 1))
    return _distinct(task, draws, "validation", count, None)


def training_stream(
    task: Task,
    max_length: int,
    data_seed: int,
    block: int,
    stress: Mapping[str, float] | None = None,
    count: int = BLOCK,
) -> list[Problem]:
    """Block number `block` (from 0) of an endless stream, `BLOCK` problems; problems may come again.

    stress: stress set -> its share of the problems, at lengths uniform over 1..`max_length`; count: only the first so
    many of them.
    Raises ValueError for a set the task does not have.
    """
    if not stress:
        rng = generator(task, "training", max_length, data_seed, block)
        return [_draw_training(task, task.sample_training, rng, max_length) for _ in range(count)]
    for name in stress:
        if name not in task.stress:
            raise unknown(f"stress set of {task.name}", name, task.stress)
    rng = generator(task, "training", max_length, data_seed, block, dict(sorted(stress.items())))
    samplers = [task.sample_training, *(_up_to(task.stress[name]) for name in sorted(stress))]
    weights = [1 - sum(stress.values()), *(stress[name] for name in sorted(stress))]
    chosen = rng.choices(samplers, weights, k=BLOCK)[:count]
    return [_draw_training(task, which, rng, max_length) for which in chosen]


def jitter(length: int) -> range:
    """The lengths within 0.3% of `length`, at least its two neighbours: 997..1,003 around 1,000."""
    reach = max(1, round(0.003 * length))
    return range(max(1, length - reach), length + reach + 1)


def _jittered(task: Task) -> Sampler:
    return lambda rng, length: task.sample(rng, rng.choice(jitter(length)))


def generator(task: Task, *what: object) -> random.Random:
    """A generator seeded by the task, its revision, and what it is for."""
    content = json.dumps([task.name, task.revision, *what]).encode()
    return random.Random(int.from_bytes(blake2b(content, digest_size=32).digest(), "big"))


def _space(task: Task, length: int, which: str) -> int | None:
    """Number of distinct problems of a kind, where the task knows it."""
    if which not in ("random", "jittered"):
        return None
    counts = [task.count(n) for n in (jitter(length) if which == "jittered" else (length,))]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _distinct(task: Task, draws: Iterator[Problem], purpose: Purpose, count: int, size: int | None) -> list[Problem]:
    """The first `count` distinct problems of a purpose among the draws, which end when the space seems exhausted."""
    patience = _TRIES if size is None else min(20 * size, _MOST_TRIES)
    found: list[Problem] = []
    spare: list[Problem] = []
    seen: set[str] = set()
    misses = 0
    while len(found) < count and misses < patience and len(seen) != size:
        problem = next(draws)
        if problem.key in seen:
            misses += 1
            continue
        misses = 0
        seen.add(problem.key)
        if split(problem) == purpose or exempt(task, problem):
            found.append(problem)
        elif not found:
            spare.append(problem)
    return found or spare[:count]


def _up_to(sampler: Sampler) -> Sampler:
    return lambda rng, max_length: sampler(rng, rng.randint(1, max_length))


def _draw_training(task: Task, sampler: Sampler, rng: random.Random, max_length: int) -> Problem:
    for _ in range(_TRAINING_TRIES):
        problem = sampler(rng, max_length)
        if split(problem) == "training" or exempt(task, problem):
            break
    return problem


def commonest(task: Task, length: int, count: int = 1_000) -> float:
    """Share of the commonest answer among `count` random problems of a length."""
    rng = generator(task, "commonest answer", length)
    return Counter(task.sample(rng, length).answer for _ in range(count)).most_common(1)[0][1] / count


def exempt(task: Task, problem: Problem) -> bool:
    """Whether the problem may serve all purposes, because there are too few of its length to split."""
    count = task.count(problem.length)
    return count is not None and count < EXEMPT

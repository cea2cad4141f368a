"""The training stream as rows of tokens, made here or ahead of the training by helper processes.

No torch in here: a helper process imports the task, its tool, and numpy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import count, cycle
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.ahead import Helpers, in_thread
from tasks.mixture import bind
from tasks.problems import BLOCK

AHEAD = 16
"""Most steps that are kept ready of each helper process."""


@dataclass(frozen=True)
class Row:
    """A trajectory as training needs it."""

    ids: npt.NDArray[np.uint16]
    own: npt.NDArray[np.bool_]
    """Made by the model, so part of the loss."""
    task: str
    """Whose it is, in a mixture."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Source:
    """Names a training stream; all that a helper process is told."""

    task: str
    setting: str
    max_length: int
    data_seed: int
    size: int
    """Problems per step, at most a block of the stream."""
    tool: str | None = None
    form: str = "faithful"
    tool_options: Mapping[str, Any] = field(default_factory=dict)
    mixture: Mapping[str, float] = field(default_factory=dict)
    """Other tasks -> their share of the problems."""
    stress: Mapping[str, float] = field(default_factory=dict)
    """Stress sets of the task -> their share of its problems."""
    context: int | None = None
    """Tokens of a trajectory that are kept, from its beginning; None: all."""

    def __post_init__(self) -> None:
        if self.size > BLOCK:
            raise ValueError(f"train.batch = {self.size}, at most {BLOCK} problems make a batch")

    @property
    def per_block(self) -> int:
        """Steps of a block of the stream; what is left of it after the last whole step is dropped."""
        return BLOCK // self.size


def steps(source: Source, start: int = 0, workers: int = 0) -> Generator[list[Row], None, None]:
    """The rows of step `start`, `start` + 1, .. without end: the same whatever the number of workers.

    0 workers: made here, when asked for. Else that many helper processes make one step each in turn, up to `AHEAD`
    steps ahead each: all draw the problems of a block, a small part of the work, and solve those of their own steps.
    Closing the iterator ends them, and what goes wrong over there is raised here.
    """
    if workers:
        return _made_ahead(source, start, workers)
    return _made_here(source, start)


def tokens_by_task(rows: Sequence[Row]) -> dict[str, int]:
    tokens: Counter[str] = Counter()
    for row in rows:
        tokens[row.task] += len(row)
    return dict(tokens)


def _made_here(source: Source, start: int, stride: int = 1) -> Generator[list[Row], None, None]:
    """Every `stride`th step."""
    scenario = bind(source.task, source.setting, source.tool, source.form, source.tool_options, source.mixture)
    drawn = -1
    for step in count(start, stride):
        block, place = divmod(step, source.per_block)
        if block != drawn:
            problems = scenario.training_block(source.max_length, source.data_seed, block, source.stress)
            drawn = block
        rows = []
        for whose, problem in problems[place * source.size : (place + 1) * source.size]:
            encoded = whose.encoded(problem)
            kept = slice(source.context)
            rows.append(Row(encoded.ids[kept], encoded.own[kept], whose.task.name))
        yield rows


def _made_ahead(source: Source, start: int, workers: int) -> Generator[list[Row], None, None]:
    with ExitStack() as stack:
        helpers = stack.enter_context(Helpers(workers))
        streams = []
        for number in range(workers):
            items = helpers[number].iterate(share, source, start + number, workers)
            streams.append(stack.enter_context(closing(in_thread(items, AHEAD))))
            stack.callback(helpers[number].interrupt)  # runs first: its thread need not wait for an item to end
        for stream in cycle(streams):
            yield _unjoined(*next(stream))


Joined = tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_], npt.NDArray[np.int64], list[str]]
"""The rows of a step, end to end, their lengths and tasks: few large arrays travel faster than many small ones."""


def share(source: Source, start: int, stride: int) -> Iterator[Joined]:
    """Every `stride`th step of the stream from `start` on: what a helper makes."""
    return map(_joined, _made_here(source, start, stride))


def _joined(rows: list[Row]) -> Joined:
    ids, own = (np.concatenate([getattr(row, name) for row in rows]) for name in ("ids", "own"))
    return ids, own, np.fromiter(map(len, rows), np.int64, len(rows)), [row.task for row in rows]


def _unjoined(
    ids: npt.NDArray[np.uint16], own: npt.NDArray[np.bool_], lengths: npt.NDArray[np.int64], tasks: list[str]
) -> list[Row]:
    ends = np.cumsum(lengths).tolist()
    return [Row(ids[end - n : end], own[end - n : end], task) for end, n, task in zip(ends, lengths.tolist(), tasks)]

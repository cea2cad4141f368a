"""The training stream as rows of tokens, made here or ahead of the training by helper processes.

No torch in here: a helper process imports the task, its tool, and numpy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.ahead import Helpers, in_thread
from tasks.mixture import bind
from tasks.problems import BLOCK

AHEAD = 32
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

    def __post_init__(self) -> None:
        if self.size > BLOCK:
            raise ValueError(f"train.batch = {self.size}, at most {BLOCK} problems make a batch")

    @property
    def per_block(self) -> int:
        """Steps of a block of the stream; what is left of it after the last whole step is dropped."""
        return BLOCK // self.size


def steps(source: Source, start: int = 0, workers: int = 0) -> Generator[list[Row], None, None]:
    """The rows of step `start`, `start` + 1, .. without end: the same whatever the number of workers.

    0 workers: made here, when asked for. Else that many helper processes make whole blocks of the stream in turn, so
    that none draws problems in vain, up to `AHEAD` steps ahead each; closing the iterator ends them, and what goes
    wrong over there is raised here.
    """
    if workers:
        return _made_ahead(source, start, workers)
    return _made_here(source, start)


def tokens_by_task(rows: Sequence[Row]) -> dict[str, int]:
    tokens: Counter[str] = Counter()
    for row in rows:
        tokens[row.task] += len(row)
    return dict(tokens)


def _made_here(source: Source, start: int) -> Generator[list[Row], None, None]:
    block, skip = divmod(start, source.per_block)
    scenario = bind(source.task, source.setting, source.tool, source.form, source.tool_options, source.mixture)
    while True:
        problems = scenario.training_block(source.max_length, source.data_seed, block)
        for step in range(skip, source.per_block):
            rows = []
            for whose, problem in problems[step * source.size : (step + 1) * source.size]:
                encoded = whose.encoded(problem)
                rows.append(Row(encoded.ids, encoded.own, whose.task.name))
            yield rows
        block, skip = block + 1, 0


def _made_ahead(source: Source, start: int, workers: int) -> Generator[list[Row], None, None]:
    block, skip = divmod(start, source.per_block)
    with ExitStack() as stack:
        helpers = stack.enter_context(Helpers(workers))
        streams = []
        for number in range(workers):
            items = helpers[number].iterate(share, source, block + number, skip if number == 0 else 0, workers)
            streams.append(stack.enter_context(closing(in_thread(items, AHEAD))))
            stack.callback(helpers[number].interrupt)  # runs first: its thread need not wait for an item to end
        turn = 0
        while True:
            for _ in range(skip, source.per_block):
                yield _unjoined(*next(streams[turn]))
            turn, skip = (turn + 1) % workers, 0


Joined = tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_], npt.NDArray[np.int64], list[str]]
"""The rows of a step, end to end, their lengths and tasks: few large arrays travel faster than many small ones."""


def share(source: Source, block: int, skip: int, stride: int) -> Iterator[Joined]:
    """Every `stride`th block of the stream from `block` on, without its first `skip` steps: what a helper makes."""
    while True:
        stream = _made_here(source, block * source.per_block + skip)
        for _ in range(skip, source.per_block):
            yield _joined(next(stream))
        block, skip = block + stride, 0


def _joined(rows: list[Row]) -> Joined:
    ids, own = (np.concatenate([getattr(row, name) for row in rows]) for name in ("ids", "own"))
    return ids, own, np.fromiter(map(len, rows), np.int64, len(rows)), [row.task for row in rows]


def _unjoined(
    ids: npt.NDArray[np.uint16], own: npt.NDArray[np.bool_], lengths: npt.NDArray[np.int64], tasks: list[str]
) -> list[Row]:
    ends = np.cumsum(lengths).tolist()
    return [Row(ids[end - n : end], own[end - n : end], task) for end, n, task in zip(ends, lengths.tolist(), tasks)]

"""A cell that sleeps. It has a file of its own so that a worker that carries it imports no more than it needs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from harness.config import Evaluate, Run
from harness.grid import Resolved, evaluation_id
from harness.store import Extent, Store


@dataclass
class Nap:
    """A cell of so many seconds, as a worker carries it."""

    seconds: float

    def __call__(
        self,
        cell: Resolved,
        evaluate: Evaluate,
        run: Run,
        store: Store,
        attempt: str,
        report: Callable[[dict[str, Any]], None],
        stop: Callable[[], bool],
    ) -> None:
        began = time.monotonic()
        record = {"step": 1, "tokens": 8, "loss": 0.5, "learning_rate": 0.001, "gradient_norm": 1.0, "seconds": 0.1}
        event = {"cell": cell.id, "phase": "training", "step": 1, "steps": 1, "loss": 0.5}
        report({**event, "curve": [{"cell": cell.id, **record}]})
        time.sleep(self.seconds)
        checkpoint = (cell.id * 2)[:32]
        store.write_curve(cell.id, checkpoint, [{"cell": cell.id, **record}])
        summary = {"checkpoint": checkpoint, "parameters": 1000, "train_seconds": self.seconds, "fit": True}
        store.create(f"cells/{cell.id}/published.json", json.dumps(summary).encode())
        for length in evaluate.lengths:
            extent = Extent(checkpoint, evaluation_id(evaluate), length, "random", 0, evaluate.problems)
            store.write_rows(cell.id, extent, list(_rows(cell, extent, attempt, began)))


def _rows(cell: Resolved, extent: Extent, attempt: str, began: float) -> Iterator[dict[str, Any]]:
    known = {"cell": cell.id, "checkpoint": extent.checkpoint, "evaluation": extent.evaluation, "attempt": attempt}
    for index in range(extent.start, extent.stop):
        place = {"length": extent.length, "stress": extent.stress, "index": index}
        yield {**known, **place, "exact": True, "answer_right": True, "seconds": time.monotonic() - began}

"""What a model that learns by reading has read of what a problem needs."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.base import Problem
from tasks.scenario import Scenario


def coverage(model: Any, scenario: Scenario, problem: Problem, chunk: int) -> dict[str, int]:
    """Distinct (state, symbol) pairs in the oracle's trajectory, and how many of them the model never read.

    As in `models.lookup`: the token before a command that is answered, and the first token of the answer. The
    trajectory is streamed in pieces of `chunk` tokens.
    """
    needed: set[tuple[int, ...]] = set()
    ids, own = np.empty(0, np.int64), np.empty(0, np.bool_)
    for piece in scenario.stream_encoded(problem, chunk):
        ids, own = np.append(ids[-2:], piece.ids), np.append(own[-2:], piece.own)  # two from before: pairs may be cut
        at = np.flatnonzero(own[1:-1] & ~own[2:])
        needed.update(map(tuple, np.unique(np.stack([ids[at], ids[at + 1], ids[at + 2]], 1), axis=0).tolist()))
    return {"pairs": len(needed), "pairs_unseen": sum(not model.knows(*pair) for pair in needed)}

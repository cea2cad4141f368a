"""Which verdicts flip when the same weights judge the same problems in another way.

A store may hold several evaluations of a cell's weights: `--set evaluate.precision=bf16`, `evaluate.mode=live` (step by
step where the verification scans) and `evaluate.chunk=64` each add one beside what is there.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from harness.config import Evaluate
from harness.grid import Resolved, evaluation_id
from harness.schema import ROWS
from harness.store import Extent, Held, Store

Row = dict[str, Any]
WAYS = ("mode", "precision", "chunk", "device", "kernels")
"""Columns in which evaluations may differ without asking for anything else."""


def flips(cell: Resolved, evaluate: Evaluate, store: Store, held: Held) -> list[Row]:
    """Records of FLIPS: the grid's own evaluation of a cell against every other one in the store, point by point.

    Controls (corrupted observations) are left out. Rows of other evaluations are read only where there are any.
    """
    published, own = held.published, evaluation_id(evaluate)
    if published is None or evaluate.corrupt:
        return []
    by_point: dict[tuple[int, str], dict[str, list[Extent]]] = defaultdict(lambda: defaultdict(list))
    for extent in held.extents:
        if extent.checkpoint == published["checkpoint"][:16]:
            by_point[extent.length, extent.stress][extent.evaluation].append(extent)
    found = []
    for (length, stress), evaluations in sorted(by_point.items()):
        if own not in evaluations or len(evaluations) == 1:
            continue
        ours = _verdicts(cell, evaluations.pop(own), store)
        for evaluation, extents in sorted(evaluations.items()):
            theirs = _verdicts(cell, extents, store)
            both = [(ours[index], theirs[index]) for index in sorted(ours.keys() & theirs.keys())]
            if both and (differs := _differs(*both[0])):
                point = {"cell": cell.id, "evaluation": evaluation, "length": length, "stress": stress}
                found.append({**point, "differs": differs, **_compared(both)})
    return found


def _verdicts(cell: Resolved, extents: list[Extent], store: Store) -> dict[int, Row]:
    """Problem index -> row, of the problems with a verdict."""
    rows = (row for extent in extents for row in store.read_table(f"cells/{cell.id}/rows/{extent.file}", ROWS))
    return {row["index"]: row for row in rows if _right(row) is not None}


def _right(row: Row) -> bool | None:
    """The whole trajectory is exact; without an oracle, the answer is right."""
    right: bool | None = row["answer_right"] if row["exact"] is None else row["exact"]
    return right


def _differs(ours: Row, theirs: Row) -> str | None:
    """What is other in their evaluation; None when it is a control, or differs in nothing that is known."""
    if theirs["corrupt"]:
        return None
    known = [way for way in WAYS if ours[way] is not None and theirs[way] is not None and ours[way] != theirs[way]]
    return ", ".join(f"{way} {theirs[way]} instead of {ours[way]}" for way in known) or None


def _compared(both: list[tuple[Row, Row]]) -> dict[str, int]:
    flipped = [(ours, theirs) for ours, theirs in both if _right(ours) != _right(theirs)]
    lost = sum(bool(_right(ours)) for ours, _ in flipped)
    tied = sum(bool(ours["near_tie"] or theirs["near_tie"]) for ours, theirs in flipped)
    return {"n": len(both), "lost": lost, "gained": len(flipped) - lost, "tied": tied}

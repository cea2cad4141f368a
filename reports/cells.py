"""Which cells failed, do not fit, or are still waiting; then all of them."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from reports import statistics, wording
from reports.marks import marks
from reports.markup import Markup, element, folded, fragment, table
from reports.parts import note, section, single_runs
from reports.view import MOST_RUNS, View


def cells(view: View) -> Markup:
    if view.cells.is_empty():
        return section("cells", "Cells", note("The grid has no cells."))
    shown, number = view.single.height, wording.plural(view.cells.height, "cell")
    every = folded(f"All {number}" if shown == view.cells.height else f"{shown:,} of {number}", _all(view))
    return section("cells", "Cells", single_runs(view), _failed(view), _unfit(view), _waiting(view), every)


def _name(cell: dict[str, Any]) -> str:
    return cell["name"] or cell["cell"] or "unnamed"


def _table(head: list[str], body: list[list[Any]], cells: pl.DataFrame) -> Markup:
    """A line per cell."""
    return table(head, body, "numbers", [marks(cell) for cell in cells.to_dicts()])


def _failed(view: View) -> Markup | None:
    if view.failed.is_empty():
        return None
    return fragment(
        element("h3", "Failed"),
        [_failure(view, cell) for cell in view.failed.head(MOST_RUNS).to_dicts()],
        _more(view.failed),
    )


def _more(cells: pl.DataFrame) -> Markup | None:
    """How many of a list are left out."""
    return (
        note(f"And {cells.height - MOST_RUNS:,} more: cells.csv, below, has all.") if cells.height > MOST_RUNS else None
    )


def _failure(view: View, cell: dict[str, Any]) -> Markup:
    """Name and reason, the attempts with their tracebacks folded."""
    title = fragment(element("b", _name(cell)), " ", cell["reason"] or "no reason was recorded")
    attempts = view.data.attempts.filter(pl.col("cell") == cell["cell"]).sort("started").to_dicts()
    return element(
        "div", folded(title, [_attempt(one) for one in attempts] or note("No attempt was recorded.")), **marks(cell)
    )


def _attempt(attempt: dict[str, Any]) -> Markup:
    started, host = attempt["started"] or "unknown start", attempt["host"] or "unknown host"
    said = f"{started} on {host}: {attempt['outcome'] or 'unknown outcome'}. {attempt['reason'] or ''}"
    return fragment(element("p", said), element("pre", attempt["traceback"]) if attempt["traceback"] else None)


def _unfit(view: View) -> Markup | None:
    if view.unfit.is_empty():
        return None
    body = [[_name(cell), _validation(cell)] for cell in view.unfit.head(MOST_RUNS).to_dicts()]
    text = "They did not learn their training lengths, so what they do beyond them says nothing about extrapolation."
    return fragment(
        element("h3", "Unfit"),
        note(text),
        _table(["Cell", "Validation exact at training lengths"], body, view.unfit.head(MOST_RUNS)),
        _more(view.unfit),
    )


def _waiting(view: View) -> Markup | None:
    if view.waiting.is_empty():
        return None
    shown = view.waiting.head(MOST_RUNS)
    lines = shown.to_dicts()
    body = [[_name(cell), cell["status"] or "unknown", wording.whole(cell["tested"] or 0)] for cell in lines]
    return fragment(
        element("h3", "Waiting or running"),
        _table(["Cell", "Status", "Lengths evaluated"], body, shown),
        _more(view.waiting),
    )


def _validation(cell: dict[str, Any]) -> str:
    share, problems = cell["validation_exact"], cell["validation_problems"]
    if share is None or not problems:
        return wording.percent(share, 1)
    right = round(share * problems)
    low, high = statistics.interval(right, problems)
    return f"{wording.percent(share, 1)} ({right}/{problems}) [{wording.span(float(low), float(high))}]"


def _training(cell: dict[str, Any]) -> Markup:
    """How long, and for a mixture the tokens of each task."""
    tasks = json.loads(cell["train_tokens_by_task"] or "{}")
    tokens = ", ".join(f"{name} {wording.short(count)}" for name, count in sorted(tasks.items()))
    mixture = element("small", f"tokens: {tokens}") if len(tasks) > 1 else None
    return fragment(wording.duration(cell["train_seconds"]), mixture)


def _all(view: View) -> Markup:
    tried = dict(view.data.attempts.group_by("cell").len().iter_rows())
    body = [
        [
            fragment(
                element("b", cell["name"] or "unnamed"), element("small", element("code", (cell["cell"] or "")[:16]))
            ),
            fragment(cell["status"] or "unknown", element("b", " unfit") if cell["unfit"] else None),
            _validation(cell),
            wording.NONE if cell["unfit"] else wording.reach(cell["reach_low"], cell["reach_high"], cell["longest"]),
            wording.whole(cell["problems"]),
            _training(cell),
            wording.whole(tried.get(cell["cell"], 0)),
            element("code", (cell["checkpoint"] or wording.NONE)[:12]),
        ]
        for cell in view.single.to_dicts()
    ]
    head = ["Cell", "Status", "Validation exact", "Reach", "Problems", "Training", "Attempts", "Weights"]
    return _table(head, body, view.single)

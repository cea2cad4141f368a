"""The paper's tables and figures beside ours, claim by claim, for grids that train what they trained."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from reports import statistics, wording
from reports.marks import marks
from reports.markup import Markup, element, fragment, table
from reports.parts import architecture, by_architecture, note, section
from reports.reported import EXHIBITS, NAMES, Claim, Exhibit
from reports.view import View

_HEAD = ["Model", "Theirs", "Ours, best run", "Ours there, every run", "As accurate"]


def paper(view: View) -> Markup | None:
    """The exhibits of which this grid has at least one cell, trained to the same length; None without any."""
    parts = [made for exhibit in EXHIBITS if (made := _exhibit(view, exhibit))]
    if not parts:
        return None
    text = (
        "Malach et al., To Infinity and Beyond (arXiv 2510.14826); trajectories of the form faithful only. Written "
        "n → m (p%): trained up to n, accuracy p (trajectories exact) at the last tested length m with "
        "at least 5%. Theirs is the best of many recipes and seeds, from an unstated number of problems; ours is shown "
        "for every run, unfit ones too, the best named as the best of so many. There: at their length, or at the "
        "longest below it that we tested. As accurate: runs whose 95% interval reaches their accuracy."
    )
    return section("paper", "Beside the paper", note(text), *parts)


def _exhibit(view: View, exhibit: Exhibit) -> Markup | None:
    lines = [(claim, cells_of(view, claim)) for claim in exhibit.claims]
    if not any((cells["max_length"] == claim.trained).any() for claim, cells in lines):
        return None
    body, who = [], []
    for claim, cells in lines:
        for name, recipe, own in by_architecture(_alike(cells, claim)):
            body.append(_line(view, claim, name, recipe, own))
            who.append(marks({**own.row(0, named=True), "seed": None}))
    absent = sorted({claim.label + " " + NAMES[claim.architecture] for claim, cells in lines if cells.is_empty()})
    missing = note(f"Not in this grid: {', '.join(absent)}.") if absent else None
    head = element("h3", exhibit.title)
    return fragment(head, note(exhibit.note) if exhibit.note else None, table(_HEAD, body, "numbers", who), missing)


def cells_of(view: View, claim: Claim) -> pl.DataFrame:
    """Our cells of the claim's kind, to whatever length they were trained."""
    same = {"task": claim.task, "setting": claim.setting, "architecture": claim.architecture, "form": "faithful"}
    cells = view.cells.filter(*(pl.col(name) == value for name, value in same.items()))
    if claim.steps is None:
        return cells
    steps = [(json.loads(text or "{}").get("train") or {}).get("steps") for text in cells["config"]]
    return cells.filter(pl.Series(steps, dtype=pl.Int64) == claim.steps)


def _alike(cells: pl.DataFrame, claim: Claim) -> pl.DataFrame:
    """Those trained to the claim's length; where there are none, all."""
    equal = cells.filter(pl.col("max_length") == claim.trained)
    return equal if equal.height else cells


def _line(view: View, claim: Claim, name: str, recipe: str, own: pl.DataFrame) -> list[object]:
    model = fragment(architecture(view, name, recipe), element("small", f"{claim.label}, {NAMES[name]}"))
    points = view.points.filter((pl.col("stress") == claim.stress) & pl.col("cell").is_in(own["cell"].to_list()))
    known = points.filter((pl.col("length") <= claim.at) & pl.col("accuracy").is_not_null())
    at = known.filter(pl.col("length") == pl.col("length").max())
    return [model, _theirs(claim), _best(own, points), _every(own, at, claim), _as_accurate(own, at, claim)]


def _theirs(claim: Claim) -> Markup | str:
    said = element("small", claim.said) if claim.said else None
    if claim.share is None:
        return claim.said
    return fragment(f"{claim.trained:,} → {claim.at:,} ({wording.percent(claim.share)})", said)


def _best(own: pl.DataFrame, points: pl.DataFrame) -> Markup | str:
    """The paper's measure of the run that is best by it, with its counts and of how many it is the best."""
    found: list[tuple[tuple[int, float], str]] = []
    for run in own.to_dicts():
        lines = points.filter((pl.col("cell") == run["cell"]) & pl.col("accuracy").is_not_null())
        lengths, shares = lines["length"].to_list(), lines["accuracy"].to_list()
        if lengths:
            reached = statistics.paper_reach(lengths, shares)
            found.append((reached or (0, 0.0), statistics.paper_cell(run["max_length"], lengths, shares)))
    if not found:
        return wording.NONE
    return fragment(max(found)[1], element("small", f"best of {wording.plural(len(found), 'run')}"))


def _every(own: pl.DataFrame, at: pl.DataFrame, claim: Claim) -> Markup | str:
    """A chip per run: its accuracy at the paper's length, or at the longest below it that was tested."""
    if at.is_empty():
        return "not tested"
    known = {line["cell"]: line for line in at.to_dicts()}
    chips = [_chip(run, known.get(run["cell"]), claim) for run in own.sort("seed", "replicate").to_dicts()]
    return fragment(element("span", chips, class_="chips"), element("small", f"at {at['length'][0]:,}"))


def _chip(run: dict[str, Any], line: dict[str, Any] | None, claim: Claim) -> Markup:
    seed = f"seed {run['seed']}"
    if line is None or line[claim.measure] is None:
        return element("span", run["status"] or "unknown", class_="chip unfit", title=seed)
    exact = claim.measure == "accuracy"
    counts = f": {line['k']} of {line['of']} [{wording.span(line['low'], line['high'])}]" if exact else ""
    text = wording.percent(line[claim.measure], 0 if exact else 2) + " unfit" * run["unfit"]
    return element("span", text, class_="chip" + " unfit" * run["unfit"], title=seed + counts)


def _as_accurate(own: pl.DataFrame, at: pl.DataFrame, claim: Claim) -> str:
    """Failed runs count as runs that are not."""
    if claim.share is None or at.is_empty() or at["length"][0] != claim.at:
        return wording.NONE
    failed = failed_without(at, own)
    reached = pl.col("high" if claim.measure == "accuracy" else claim.measure)
    return f"{at.filter(reached >= claim.share).height} of {at.height + failed}"


def failed_without(points: pl.DataFrame, cells: pl.DataFrame) -> int:
    """How many of the cells failed and have none of the points: they count as right in none."""
    return cells.filter((pl.col("status") == "failed") & ~pl.col("cell").is_in(points["cell"].to_list())).height

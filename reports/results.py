"""Tables for a page of results in Markdown: every run of a grid, and the paper's claims beside what was run of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from reports import statistics, wording
from reports.aggregate import RANDOM
from reports.paper import cells_of, failed_without
from reports.reported import EXHIBITS, NAMES, Claim
from reports.significance import rank_correlation
from reports.view import View

LENGTHS = 8
"""Columns of lengths in the table of a grid."""
BLOCK = re.compile(r"(<!-- results: (?P<name>\S+) -->\n)(?P<body>.*?)(<!-- end of results -->)", re.DOTALL)


def filled(page: str, views: Mapping[str, View]) -> str:
    """The page with every block between `<!-- results: NAME -->` and `<!-- end of results -->` made anew.

    NAME is a grid, or `paper`. Raises ValueError for a block of a grid that is not among the views.
    """

    def body(found: re.Match[str]) -> str:
        name = found["name"]
        if name != "paper" and name not in views:
            raise ValueError(f"results: {name} is no grid here; allowed: paper, {', '.join(sorted(views))}")
        made = paper(views.values()) if name == "paper" else runs(views[name])
        return f"{found[1]}{made}\n{found[4]}"

    return BLOCK.sub(body, page)


def runs(view: View) -> str:
    """Every run of a grid, a line each: recipe, cost, and problems right at training length and beyond."""
    cells = view.cells.sort("task", "setting", "architecture", "seed", "replicate", maintain_order=True)
    points = view.points
    sets = points["stress"].unique(maintain_order=True).to_list()
    lengths = _lengths(points["length"].unique().sort().to_list(), max(cells["max_length"]))
    varying = [name for name in ("task", "setting", "form", "size") if cells[name].n_unique() > 1]
    titles = [_point(length, stress, sets) for stress in sets for length in lengths]
    head = ["architecture", *varying, "parameters", "seed", "learning rate", "tokens", "minutes", "validation"]
    head += ["margin", *titles, "reach"]
    found = {(line["cell"], line["length"], line["stress"]): line for line in points.to_dicts()}
    lines, answers, margins = [], [], _margins(view)
    for run in cells.to_dicts():
        own = [found.get((run["cell"], length, stress)) for stress in sets for length in lengths]
        recipe = json.loads(run["config"] or "{}").get("train", {})
        kind = [
            run["architecture"] + (f" ({run['recipe']})" if run["recipe"] else ""),
            *(run[name] for name in varying),
        ]
        known = list(kind)
        known += [
            wording.short(run["parameters"]),
            run["seed"],
            recipe.get("learning_rate"),
            wording.short(run["train_tokens"]),
        ]
        known += [_minutes(run["train_seconds"]), wording.percent(run["validation_exact"], 1)]
        known.append(f"{margins[run['cell']]:.1f}" if run["cell"] in margins else "")
        known += [_share(line, "k", "of") for line in own]
        lines.append([*known, wording.reach(run["reach_low"], run["reach_high"], run["longest"])])
        answers.append([*kind, run["seed"], *(_share(line, "answer_k", "answer_n") for line in own)])
    about = (
        f"{cells.height} runs, {points['k'].sum():,} of {points['of'].sum():,} problems right, on {_devices(cells)}."
    )
    parts = [about, _markdown(head, lines), _markdown(*_architectures(view, sets, lengths))]
    if (points["answer_n"] == points["n"]).all() and (points["answer_k"] > points["exact_k"]).any():
        parts.append("Right answers, those of trajectories that are not the solver's among them:")
        parts.append(_markdown(["right answers", *varying, "seed", *titles], answers))
    return "\n\n".join(filter(None, [*parts, _foretold(view, margins)]))


def _margins(view: View) -> dict[str, float]:
    """How sure every cell is of what it was trained on: the margin of a problem's least sure decision, the median over
    the random problems of the longest length within training."""
    trained = view.random.filter(pl.col("length") <= pl.col("max_length")).group_by("cell").agg(pl.col("length").max())
    rows = view.data.rows.filter(stress=RANDOM).join(trained, on=["cell", "length"])
    return dict(rows.group_by("cell").agg(pl.col("margin").median()).drop_nulls().iter_rows())


def _foretold(view: View, margins: Mapping[str, float]) -> str:
    """Whether, among runs of one kind, those that are surer at the length of training go further beyond it."""
    beyond = view.random.filter(pl.col("length") > pl.col("max_length")).group_by("cell").agg(pl.col("accuracy").mean())
    far = {cell: accuracy for cell, accuracy in beyond.drop_nulls().iter_rows() if cell in margins}
    groups = []
    for _, cells in view.cells.group_by("task", "setting", "architecture", "recipe", maintain_order=True):
        own = [cell for cell in cells["cell"].sort() if cell in far]
        groups.append(([margins[cell] for cell in own], [far[cell] for cell in own]))
    found = rank_correlation(groups)
    if found is None:
        return ""
    return (
        "Does the margin (of a problem's least sure decision, at the longest length of training; median over problems) "
        f"foretell how much is right beyond? Spearman's correlation within architectures {found[0]:+.2f}, "
        f"p = {found[1]:.2g} ({len(far)} runs)."
    )


def _architectures(view: View, sets: Sequence[str], lengths: Sequence[int]) -> tuple[list[str], list[list[Any]]]:
    """The mean over runs at every length, and a 95% interval for the share of runs that are right in at least 95%. One
    that failed is right in none."""
    keys = ["task", "setting", "architecture", "recipe"]
    lines = []
    for key, cells in view.cells.group_by(keys, maintain_order=True):
        points = view.points.filter(pl.col("cell").is_in(cells["cell"].to_list()))
        failed = failed_without(points, cells)
        line: list[Any] = [" ".join(filter(None, map(str, key))), cells.height]
        for stress in sets:
            for length in lengths:
                here = points.filter((pl.col("length") == length) & (pl.col("stress") == stress))[
                    "accuracy"
                ].drop_nulls()
                if not len(here):
                    line.append("")
                    continue
                solved, count = int((here >= statistics.SOLVED).sum()), len(here) + failed
                low, high = (float(bound) for bound in statistics.clopper_pearson(solved, count))
                mean = wording.percent(sum(here.to_list()) / count)
                line.append(f"{mean}; {solved} of {count} [{wording.span(low, high)}]")
        lines.append(line)
    head = ["mean over seeds; seeds with 95% [95% interval]", "runs"]
    return [*head, *(_point(length, stress, sets) for stress in sets for length in lengths)], lines


def _point(length: int, stress: str, sets: Sequence[str]) -> str:
    return f"{length:,}" if len(sets) == 1 else f"{stress} {length:,}"


def _lengths(lengths: Sequence[int], trained: int) -> list[int]:
    """All; of too many the longest of training and, from the longest down, those at most half of the one before."""
    if len(lengths) <= LENGTHS:
        return list(lengths)
    chosen: list[int] = []
    for length in sorted((length for length in lengths if length > trained), reverse=True):
        if len(chosen) < LENGTHS - 1 and (not chosen or 2 * length <= chosen[-1]):
            chosen.append(length)
    return [*[length for length in lengths if length <= trained][-1:], *reversed(chosen)]


def _share(point: dict[str, Any] | None, right: str, of: str) -> str:
    return "" if point is None or point[right] is None else f"{point[right]}/{point[of]}"


def _minutes(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds / 60:.1f}"


def _devices(cells: pl.DataFrame) -> str:
    return ", ".join(sorted(set(cells["train_device"].drop_nulls().to_list()))) or "no device that is known"


def paper(views: Iterable[View]) -> str:
    """Every claim of the paper: theirs, ours of those that were run, and the verdict on each.

    reproduced: their accuracy lies in the 95% interval (Clopper-Pearson) of our best run at their length; exceeded:
    below it; not reproduced: above it. Runs of different sizes stand in different lines. Claims without a number are
    left out unless they were run.
    """
    views = list(views)
    lines = []
    for exhibit in EXHIBITS:
        for claim in exhibit.claims:
            found = [line for view in views for line in _beside(view, claim)]
            theirs = [exhibit.title.split(":")[0], claim.label, NAMES[claim.architecture], _theirs(claim)]
            absent = [] if claim.share is None else [[*theirs, "", "", "", "", "not run"]]
            lines += [[*theirs, *line] for line in found] or absent
    head = ["in the paper", "what", "model", "theirs", "size", "our best run there", "mean over seeds", "every seed"]
    return _markdown([*head, "verdict"], lines)


def _theirs(claim: Claim) -> str:
    share = f"{claim.trained} → {claim.at:,} ({wording.percent(claim.share)})" if claim.share is not None else ""
    return f"{share} {claim.said}".strip()


def _beside(view: View, claim: Claim) -> list[list[str]]:
    cells = cells_of(view, claim).filter(max_length=claim.trained)
    lines = []
    for (size, recipe), own in cells.group_by(["size", "recipe"], maintain_order=True):
        at = view.points.filter(
            pl.col("cell").is_in(own["cell"].to_list()), length=claim.at, stress=claim.stress
        ).filter(pl.col("accuracy").is_not_null())
        if at.is_empty():
            continue
        failed = failed_without(at, own)
        seeds = at.sort("seed", "replicate").to_dicts()
        best = max(seeds, key=lambda line: line[claim.measure])
        shares, digits = [line[claim.measure] for line in seeds], 0 if claim.measure == "accuracy" else 2
        each = [*(wording.percent(share, digits) for share in shares), *["failed"] * failed]
        counts = f" ({best['k']}/{best['of']}, {wording.span(best['low'], best['high'])})" * (digits == 0)
        lines.append(
            [
                f"{size} {recipe}".strip(),
                f"{wording.percent(best[claim.measure], digits)}{counts}, best of {len(each)}",
                wording.percent(sum(shares) / len(each), digits),
                ", ".join(each),
                _verdict(claim, best),
            ]
        )
    return lines


def _verdict(claim: Claim, best: Mapping[str, Any]) -> str:
    if claim.share is None or claim.measure != "accuracy":
        return "no number to compare" if claim.share is None else "see the shares"
    if best["low"] > claim.share:
        return "exceeded"
    return "reproduced" if best["high"] >= claim.share else "not reproduced"


def _markdown(head: Sequence[Any], lines: Iterable[Sequence[Any]]) -> str:
    rows = ["| " + " | ".join(map(str, line)) + " |" for line in (head, ["---"] * len(head), *lines)]
    return "\n".join(rows)

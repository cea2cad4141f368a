"""A comparison of grids as one HTML page: what changed, which points moved, and the curves side by side."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from reports import figures, wording
from reports.bar import bar
from reports.compare import Comparison, Point, Side
from reports.data import ReportData
from reports.marks import marks
from reports.markup import Markup, element, folded, fragment, table
from reports.page import document
from reports.pairs import approximated, probability, said
from reports.parts import figure, note, panels, section
from reports.significance import LEVEL, POWER
from reports.view import View

_TEXTS = {
    "checkpoints": "The same checkpoints, paired problem by problem: exact McNemar test of the problems that were "
    "right in one and wrong in the other.",
    "retrained": "Trained again, so the runs are compared: exact two-sided permutation test of how far every run "
    "reaches (rank sum), on the lengths both were tested at. Unfit runs count with what they reach.",
}
_OPEN = 30
"""The most lines without a difference that are shown unasked."""


def render(comparisons: Sequence[Comparison]) -> str:
    """The page of one grid compared with others."""
    before = comparisons[0].before
    others = wording.listed([comparison.after.label for comparison in comparisons])
    title = f"{others} against {before.label}"
    sides = [before, *(comparison.after for comparison in comparisons)]
    everything = _together(sides)
    body = fragment(
        bar(everything),
        element("header", element("p", "Comparison of grids", class_="kicker"), element("h1", title)),
        element(
            "main",
            element("div", [_verdict(comparison) for comparison in comparisons], id="verdict"),
            _curves(sides, everything),
            [_tests(comparison, f"tests-{place}") for place, comparison in enumerate(comparisons, 1)],
        ),
    )
    return document(title, body)


def _together(sides: Sequence[Side]) -> View:
    """The cells of all grids without their results: what filters, legend and colours need."""
    first = sides[0].view.data
    cells = pl.concat([side.view.data.cells for side in sides])
    return View(ReportData({}, cells, first.rows.clear(), first.curves.clear(), first.attempts.clear()))


def _verdict(comparison: Comparison) -> Markup:
    """What moved, then what changed."""
    changes = [[change.key, change.before, change.after] for change in comparison.changes]
    head = ["Changed", comparison.before.label, comparison.after.label]
    return element(
        "section",
        element("h2", f"What moved: {_name(comparison)}"),
        element("p", f"{comparison.verdict[:1].upper()}{comparison.verdict[1:]}.", class_="verdict"),
        table(head, changes, "changes") if changes else note("Nothing changed in configuration, versions or devices."),
        note("Not compared: ", wording.listed(comparison.alone, 12), ".") if comparison.alone else None,
    )


def _curves(sides: Sequence[Side], everything: View) -> Markup:
    """A row of panels per task, setting and tool: each grid's curves beside those of the others."""
    titles = {(facet.title, facet.detail): facet for side in sides for facet in side.view.facets}
    rows = []
    for (title, detail), one in titles.items():
        drawn = []
        for side in sides:
            for facet in side.view.facets:
                points = facet.of(side.view.random)
                if (facet.title, facet.detail) == (title, detail) and points["accuracy"].count():
                    drawn.append(figure(side.label, detail, figures.curves(points, "accuracy", everything.looks)))
        if drawn:
            rows.append(element("div", element("h3", title), panels(drawn), **marks(one.values)))
    text = (
        "Accuracy on random problems (whole trajectory exact, or the answer where there is no oracle), a line per run."
    )
    return section("curves", "Curves side by side", note(text), *rows)


def _name(comparison: Comparison) -> str:
    return f"{comparison.after.label} against {comparison.before.label}"


def _tests(comparison: Comparison, id: str) -> Markup:
    """Every test, then how accuracies moved at every length."""
    shown = _points(comparison) if comparison.mode == "checkpoints" else _runs(comparison)
    correction = (
        f"All tests of these two grids are corrected together (Holm), at {LEVEL:.0%}; a dash stands where so little "
        "was seen that no outcome could have passed the correction."
    )
    rough = approximated([one.contrast.test for one in comparison.retrained if one.contrast])
    return section(
        id,
        f"Tests: {_name(comparison)}",
        note(f"{_TEXTS[comparison.mode]} {correction}{rough}"),
        shown,
        _shifts(comparison),
    )


def _runs(comparison: Comparison) -> Markup:
    body: list[list[object]] = []
    for line in comparison.retrained:
        if line.contrast is None or line.decision is None:
            body.append([line.name, f"{line.sizes[0]} → {line.sizes[1]}", *[wording.NONE] * 3, "no run to compare"])
            continue
        medians = [wording.median_reach(one, line.contrast.longest) for one in line.medians]
        p = line.decision.p
        body.append(
            [
                line.name,
                f"{line.sizes[0]} → {line.sizes[1]}",
                f"{medians[0]} → {medians[1]}",
                probability(line.contrast.test.p),
                wording.NONE if p is None else probability(p),
                said(line.decision, line.sizes),
            ]
        )
    return table(["Group", "Runs", "Median reach", "p", "p, corrected", "Now reaches"], body, "numbers verdicts")


def _points(comparison: Comparison) -> Markup:
    def line(point: Point, last: str) -> list[object]:
        shares = " → ".join(wording.percent(right / point.problems, 1) for right in point.right)
        corrected = wording.NONE if point.adjusted is None else probability(point.adjusted)
        counts = [f"{point.problems:,}", shares, f"{point.lost:,}, {point.won:,}"]
        return [point.title, *counts, probability(point.p), corrected, last]

    head = ["Checkpoint and length", "Problems", "Right", "Lost, won", "p", "p, corrected"]
    moved = [line(point, point.said) for point in comparison.points if point.outcome != "no difference"]
    still = [line(point, _smallest_fall(point)) for point in comparison.points if point.outcome == "no difference"]
    rest = f"{wording.plural(len(still), 'point')} without a difference shown"
    found = f"Smallest fall found (power {POWER:.0%})"
    return fragment(
        table([*head, "Now"], moved, "numbers") if moved else None,
        folded(rest, table([*head, found], still, "numbers"), open=not moved and len(still) <= _OPEN)
        if still
        else None,
    )


def _smallest_fall(point: Point) -> str:
    return "none" if point.detectable is None else f"{100 * point.detectable:.0f} points"


def _shifts(comparison: Comparison) -> Markup | None:
    if not comparison.shifts:
        return None
    body = [
        [
            shift.name,
            f"{shift.length:,}",
            " → ".join(shift.solved),
            " → ".join(wording.percent(mean, 1) for mean in shift.mean),
            "intervals do not overlap" if shift.apart else "",
        ]
        for shift in comparison.shifts
    ]
    head = ["Group", "Length", "Seeds that solve it", "Mean accuracy", "95% intervals of a fresh seed"]
    return folded("Accuracy at every length (descriptive, not tests)", table(head, body, "numbers"))

"""Which architecture reaches further than which, decided by runs; and where runs are too few to decide."""

from __future__ import annotations

from collections import Counter
from statistics import median

from reports import wording
from reports.marks import AGAINST, marks
from reports.markup import Markup, element, folded, table
from reports.pairs import Pair, approximated, probability, said
from reports.parts import architecture, note, part, section
from reports.significance import LEAST_RUNS, LEVEL
from reports.view import Facet, View

_SHOWN = 12
"""Pairs of a panel that show without a click."""


def comparisons(view: View) -> Markup | None:
    """A table per panel, or sentences where nothing in it can be decided; None with one architecture a panel."""
    parts = [_panel(view, facet, own) for facet in view.facets if (own := view.pairs.get(facet.key))]
    if not parts:
        return None
    text = (
        "Exact two-sided permutation test of the reach of every run (rank sum; a reach beyond the longest tested "
        "length ties with its like, a failed run reaches nothing, unfit runs are not counted), corrected within "
        f"task and setting (Holm) at {LEVEL:.0%}. Fewer than {LEAST_RUNS} runs a side decide nothing. Ahead: the "
        "chance that a run of the first reaches further than one of the second, ties counted half. The curves are "
        "descriptive: no other comparison on this page is a test."
        + approximated(pair.contrast.test for own in view.pairs.values() for pair in own)
    )
    return section("comparisons", "Which architecture reaches further", note(text), *parts)


def decided(view: View) -> Markup | None:
    """The same in a sentence or two, for the verdict."""
    found = {facet: own for facet in view.facets if (own := view.pairs.get(facet.key))}
    if not found:
        return None
    clear = [
        f"{facet.title}: {_name(pair.first)} further than {_name(pair.second)} (p {probability(pair.decision.p or 0)})"
        for facet, own in found.items()
        for pair in own
        if pair.decision.outcome == "more"
    ]
    every = [pair for own in found.values() for pair in own]
    open_ones = [pair for pair in every if pair.decision.outcome == "undecidable"]
    texts = [f"Decided by runs: {wording.listed(clear, 4)}."] if clear else []
    if not clear:
        texts.append("No difference between architectures is decided.")
    if open_ones:
        fewest, *_, most = 2 * sorted(min(pair.contrast.test.sizes) for pair in open_ones)
        runs = wording.plural(most, "run") if fewest == most else f"{fewest:,} to {most:,} runs"
        smallest = probability(min(pair.decision.reachable for pair in open_ones))
        texts.append(
            f"{len(open_ones)} of {wording.plural(len(every), 'comparison')} undecidable with "
            f"{runs} a side (smallest p {smallest})."
        )
    return note(" ".join(texts), " ", element("a", "Details", href="#comparisons"))


def _name(group: tuple[str, str]) -> str:
    return " ".join(part for part in group if part) or "unnamed"


def _panel(view: View, facet: Facet, own: list[Pair]) -> Markup:
    if all(pair.decision.outcome == "undecidable" for pair in own):
        reasons = Counter(said(pair.decision, pair.contrast.test.sizes) for pair in own)
        told = [note(f"{wording.plural(count, 'comparison')} {reason}.") for reason, count in reasons.items()]
        return part(facet, told)
    shown, rest = own[:_SHOWN], own[_SHOWN:]
    more = folded(f"{wording.plural(len(rest), 'further comparison')}", _table(view, rest)) if rest else None
    return part(facet, _table(view, shown), more)


def _table(view: View, own: list[Pair]) -> Markup:
    head = ["First", "Second", "Runs", "Median reach", "Ahead", "p", "p, corrected", "First reaches"]
    whose = [marks({"architecture": pair.first[0], AGAINST: pair.second[0]}) for pair in own]
    return table(head, [_line(view, pair) for pair in own], "numbers verdicts", whose)


def _line(view: View, pair: Pair) -> list[object]:
    contrast, decision = pair.contrast, pair.decision
    sizes, longest = contrast.test.sizes, contrast.longest
    medians = [wording.median_reach(median(reaches), longest) for reaches in (contrast.first, contrast.second)]
    text = said(decision, sizes)
    return [
        architecture(view, *pair.first),
        architecture(view, *pair.second),
        f"{sizes[0]}, {sizes[1]}",
        f"{medians[0]}, {medians[1]}",
        wording.percent(contrast.test.ahead),
        probability(contrast.test.p),
        wording.NONE if decision.p is None else probability(decision.p),
        element("b", text) if decision.outcome == "more" else element("small", text),
    ]

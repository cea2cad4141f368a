"""The first screen: what came out, in words that claim no more than the seeds allow."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from reports import aggregate, figures, statistics, style, wording
from reports.markup import Markup, element, fragment, table
from reports.panels import figure, panels
from reports.view import Facet, View


@dataclass(frozen=True)
class Furthest:
    """The longest reach within one panel, and whose it is."""

    facet: Facet
    low: int
    censored: bool
    """It is the longest tested length."""
    holders: list[tuple[str, int, int]]
    """Architecture, its seeds that reach as far, its seeds that count."""
    architectures: int
    seeds: int

    @property
    def times(self) -> float | None:
        """How many times the training range."""
        trained = self.facet["max_length"]
        return self.low / trained if trained else None

    def who(self) -> str:
        return wording.listed([f"{name} ({k} of {s} seeds)" for name, k, s in self.holders], 4)


def furthest(view: View, facet: Facet) -> Furthest | None:
    """None while no fit cell of the panel has a result. Failed cells count as seeds that reach nothing."""
    counted = facet.of(view.cells).filter(~pl.col("unfit"))
    counted = counted.filter(pl.col("reach_low").is_not_null() | (pl.col("status") == "failed"))
    reached = counted.filter(pl.col("reach_low").is_not_null())
    if reached.is_empty():
        return None
    low = int(reached["reach_low"].max())  # type: ignore[arg-type]
    best = reached.filter(pl.col("reach_low") == low)
    seeds = dict(counted.group_by("architecture").len().iter_rows())
    holding = dict(best.group_by("architecture").len().iter_rows())
    holders = [(name, holding[name], seeds[name]) for name in sorted(holding, key=style.order)] if low else []
    return Furthest(facet, low, best["reach_high"].null_count() > 0, holders, len(seeds), counted.height)


def _times(times: float | None) -> str:
    return wording.NONE if times is None else f"{times:.3g}×"


def headline(view: View) -> Markup:
    """One sentence about the furthest reach of all, labelled as the best of so many."""
    found = [best for facet in view.facets if (best := furthest(view, facet))]
    if not found:
        return fragment("No result yet: ", _states(view), ".")
    best = max(found, key=lambda one: (one.times or 0, one.low))
    task, trained = best.facet["task"] or "the task", best.facet["max_length"]
    setting = element("em", best.facet["setting"] or "the only setting")
    if best.low == 0:
        return fragment("No run solved even the shortest problems it was tested on.")
    if trained and best.low <= trained:
        return fragment(f"No run stayed exact beyond the lengths it was trained on (≤ {trained:,}).")
    times = f", {best.times:.3g} times the longest it was trained on" if best.times else ""
    limit = ", the longest tested" if best.censored else ""
    verb = "stays" if len(best.holders) == 1 else "stay"
    return fragment(
        "In ", setting, f", {best.who()} {verb} exact on {task} up to ",
        element("strong", f"length {best.low:,}"), f"{times}{limit}.",
    )  # fmt: skip


def _states(view: View) -> str:
    counts = view.cells.group_by("status").len().sort("status").iter_rows()
    return ", ".join(f"{count} {status or 'unknown'}" for status, count in counts) or "the grid has no cells"


def comparison(view: View) -> Markup | None:
    """A line per panel: its furthest reach, and whose."""
    body = []
    for facet in view.facets:
        best = furthest(view, facet)
        lost = facet.of(view.cells)
        notes = [
            f"{count} {word}"
            for count, word in ((lost["unfit"].sum(), "unfit"), ((lost["status"] == "failed").sum(), "failed"))
            if count
        ]
        name = fragment(element("b", facet.title), element("small", facet.detail))
        if best is None:
            body.append([name, wording.NONE, wording.NONE, "no result yet", ", ".join(notes)])
            continue
        length = f"{'≥ ' if best.censored else ''}{best.low:,}"
        of = f"furthest of {wording.plural(best.architectures, 'architecture')}, {wording.plural(best.seeds, 'seed')}"
        who = fragment(best.who() or "nobody", element("small", of))
        body.append([name, element("b", length), _times(best.times), who, ", ".join(notes)])
    head = ["Setting", "Furthest reach", "× trained", "By", "Left out"]
    return table(head, body, "comparison") if body else None


def reach_panels(view: View) -> Markup | None:
    """Reach of every seed, a panel per facet."""
    drawn = [
        figure(facet.title, facet.detail, figures.reaches(facet.of(view.cells), view.looks, lengths))
        for facet in view.facets
        if (lengths := view.lengths(facet)) and facet.of(view.cells)["reach_low"].count()
    ]
    return panels(drawn) if drawn else None


def tiles(view: View) -> Markup:
    """Four figures that say how complete and how trustworthy the results are."""
    done = int((view.cells["status"] == "done").sum())
    lost = [f"{frame.height} {word}" for frame, word in ((view.failed, "failed"), (view.waiting, "waiting"), (view.unfit, "unfit")) if frame.height]  # fmt: skip
    problems, ties = int(view.points["n"].sum()), int(view.points["near_ties"].sum())
    replayed, equal = int(view.points["replayed"].sum()), int(view.points["replayed_equal"].sum())
    sizes = sorted(set(view.random["n"].to_list()))
    each = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}" if sizes else "none"
    shown = [
        ("Cells done", f"{done:,} of {view.cells.height:,}", ", ".join(lost) or "none failed, none unfit"),
        ("Problems evaluated", wording.whole(problems), f"{each} per seed and length"),
        (
            "Replayed live",
            f"{equal:,} of {replayed:,} equal" if replayed else "none",
            "standing check of the evaluation",
        ),
        ("Near ties", wording.whole(ties), "decisions another decoder may take otherwise"),
    ]
    return element("dl", [
        element("div", element("dt", name), element("dd", value), element("dd", note, class_="note"))
        for name, value, note in shown
    ], class_="tiles")  # fmt: skip


def notices(view: View) -> list[Markup]:
    """What a reader must know before believing the curves."""
    replayed, equal = int(view.points["replayed"].sum()), int(view.points["replayed_equal"].sum())
    said = []
    if replayed > equal:
        text = f"{replayed - equal:,} of {replayed:,} live replays gave another result than the verification did. "
        said.append(("danger", fragment(element("b", text), "Do not trust these curves before that is explained; ",
                     element("a", "see the check", href="#run"), ".")))  # fmt: skip
    if view.failed.height:
        cells = wording.plural(view.failed.height, "cell")
        said.append(("warning", fragment(f"{cells} failed and count as seeds that solve nothing: ",
                     element("a", "reasons", href="#cells"), ".")))  # fmt: skip
    if view.unfit.height:
        cells = wording.plural(view.unfit.height, "cell")
        text = f"{cells} did not fit the training lengths (validation exact < {aggregate.FIT:.0%}): unfit, drawn grey"
        said.append(("warning", fragment(f"{text} and left out of every claim: ",
                     element("a", "which", href="#cells"), ".")))  # fmt: skip
    if view.waiting.height:
        cells = wording.plural(view.waiting.height, "cell")
        said.append(("info", fragment(f"{cells} still waiting or running: ", element("a", "which", href="#cells"),
                     ". This report is partial.")))  # fmt: skip
    return [element("p", text, class_=f"notice {kind}") for kind, text in said]


def verdict(view: View) -> Markup:
    meaning = (
        f"Reach: the last length of the unbroken run of tested lengths with at least {statistics.SOLVED:.0%} of the "
        "problems right. A bar ends at the first length that was not solved; an arrow says the longest tested length "
        "was solved."
    )
    return element(
        "section",
        element("p", headline(view), class_="verdict"),
        notices(view),
        tiles(view),
        comparison(view),
        reach_panels(view),
        element("p", meaning, class_="note"),
        id="verdict",
    )

"""The first screen: what came out, in words that claim no more than the seeds allow."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from reports import aggregate, figures, runs, statistics, style, wording
from reports.comparisons import decided
from reports.marks import marks
from reports.markup import Markup, element, fragment, table
from reports.parts import figure, note, panels, single_runs
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
        """How many times the training range; None when that is not known."""
        trained = self.facet["max_length"]
        return self.low / trained if trained else None

    @property
    def who(self) -> str:
        return wording.listed([f"{name} ({k} of {s} seeds)" for name, k, s in self.holders], 4)


def furthest(view: View, facet: Facet) -> Furthest | None:
    """None while no fit cell of the panel has a result. Failed cells are seeds that reach nothing; replicates and late
    checkpoints are none."""
    counted = facet.of(view.cells).filter(aggregate.first_replicate() & ~pl.col("unfit") & ~runs.EARLIER)
    counted = counted.filter(pl.col("reach_low").is_not_null() | (pl.col("status") == "failed"))
    reaches = counted["reach_low"].drop_nulls().to_list()
    if not reaches:
        return None
    low = max(reaches)
    best = counted.filter(pl.col("reach_low") == low)
    seeds = dict(counted.group_by("architecture").len().iter_rows())
    holding = dict(best.group_by("architecture").len().iter_rows())
    holders = [(name, holding[name], seeds[name]) for name in sorted(holding, key=style.order)] if low else []
    return Furthest(facet, low, best["reach_high"].null_count() > 0, holders, len(seeds), counted.height)


def verdict(view: View) -> Markup:
    found = {facet: best for facet in view.facets if (best := furthest(view, facet))}
    meaning = (
        f"Reach of a seed: the last length of the unbroken run of tested lengths with at least {statistics.SOLVED:.0%} "
        "of the problems right. In the figure a bar ends at the first length that was not solved; a triangle at the "
        "right end says the longest tested length was solved."
    )
    return element(
        "section",
        element("p", headline(view, list(found.values())), class_="verdict"),
        notices(view),
        tiles(view),
        _comparison(view, found),
        decided(view),
        _reaches(view),
        note(meaning) if found else None,
        id="verdict",
    )


def headline(view: View, found: list[Furthest]) -> Markup:
    """The furthest reach of all, labelled as the furthest of so many, and that of the other panels."""
    if not found:
        return fragment(f"No result yet: {_states(view)}.")
    best = max(found, key=lambda one: (one.times or 0, one.low))
    trained = best.facet["max_length"]
    if best.low == 0:
        return fragment("No run solved even the shortest problems it was tested on.")
    if trained and best.low <= trained:
        return fragment(f"No run solved longer problems than it was trained on (up to {trained:,}).")
    said = ["the longest tested"] if best.censored else []
    said += [f"{best.times:.3g} times the longest trained on"] if best.times else []
    return fragment(
        "In ",
        element("em", best.facet["setting"] or "the only setting"),
        f", {best.who} solve{'s' if len(best.holders) == 1 else ''} {best.facet['task'] or 'the task'} up to ",
        element("strong", f"length {best.low:,}"),
        f", {' and '.join(said)}." if said else ".",
        _others(found, best),
    )


def _others(found: list[Furthest], best: Furthest) -> Markup:
    others = [f"{one.facet.title} {'≥ ' if one.censored else ''}{one.low:,}" for one in found if one is not best]
    label = f"The furthest of {wording.plural(sum(one.seeds for one in found), 'run')}"
    rest = f"; elsewhere: {wording.listed(others)}." if others else "."
    return element("small", label + rest)


def _states(view: View) -> str:
    counts = view.cells.group_by("status").len().sort("status").iter_rows()
    return ", ".join(
        f"{wording.plural(count, 'cell')} {status or 'in an unknown state'}" for status, count in counts
    ) or ("the grid has no cells")


def notices(view: View) -> Markup:
    """What a reader must know before believing the curves."""
    replayed, contradicted = int(view.points["replayed"].sum()), int(view.points["contradicted"].sum())
    failed, unfit, waiting = (frame.height for frame in (view.failed, view.unfit, view.waiting))
    said = []
    if contradicted:
        text = f"{contradicted:,} of {replayed:,} live replays differ from the verification without a near tie."
        said.append(("danger", text, "Do not trust these curves before that is explained.", "run"))
    if failed:
        text = f"{wording.plural(failed, 'run')} failed."
        said.append(("warning", text, "Counted as solving nothing.", "cells"))
    if unfit:
        text = f"{wording.plural(unfit, 'run')} unfit."
        said.append(
            ("warning", text, f"Validation exact < {aggregate.FIT:.0%}: grey, and left out of every claim.", "cells")
        )
    if waiting:
        said.append(("info", f"{wording.plural(waiting, 'run')} not finished.", "This report is partial.", "cells"))
    if corrupt := [rate for rate in view.data.rows["corrupt"].unique() if rate]:
        text = f"A control: {wording.percent(max(corrupt), 2)} of the observed tokens were replaced."
        said.append(("info", text, "Exact: the model's own tokens stayed those of the solver.", "run"))
    shown = [
        element("p", element("b", text), f" {rest} ", element("a", "Details", href=f"#{to}"), class_=f"notice {kind}")
        for kind, text, rest, to in said
    ]
    return element("div", shown, class_="notices")


def tiles(view: View) -> Markup:
    """Four figures that say how complete and how trustworthy the results are."""
    states = (("failed", view.failed), ("unfit", view.unfit), ("not finished", view.waiting))
    lost = ", ".join(f"{frame.height:,} {name}" for name, frame in states if frame.height)
    done = int((view.cells["status"] == "done").sum())
    count = {name: int(view.points[name].sum()) for name in ("n", "near_ties", "replayed", "replayed_equal")}
    sizes = sorted(set(view.random["n"].to_list()))
    each = (
        wording.plural(sizes[0], "problem")
        if len(sizes) == 1
        else f"{sizes[0]:,} to {sizes[-1]:,}"
        if sizes
        else "none"
    )
    equal = f"{count['replayed_equal']:,} of {count['replayed']:,} equal" if count["replayed"] else "none"
    shown = [
        ("Cells done", f"{done:,} of {view.cells.height:,}", lost or "none failed, none unfit"),
        ("Problems evaluated", wording.whole(count["n"]), f"{each} per seed and length"),
        ("Replayed live", equal, "standing check of the evaluation"),
        ("Near ties", wording.whole(count["near_ties"]), "another decoder may decide otherwise"),
    ]
    return element("dl", [_tile(*tile) for tile in shown], class_="tiles")


def _tile(name: str, value: str, text: str) -> Markup:
    return element("div", element("dt", name), element("dd", value), element("dd", text, class_="note"))


def _comparison(view: View, found: dict[Facet, Furthest]) -> Markup | None:
    """A line per panel: its furthest reach, whose it is, of how many, and how many runs have none."""
    head = ["Setting", "Furthest reach", "× trained", "By", "Furthest of", "Without reach"]
    body = [_compared(view, facet, found.get(facet)) for facet in view.facets]
    whose = [marks(facet.values) for facet in view.facets]
    return table(head, body, "comparison", whose) if body else None


def _compared(view: View, facet: Facet, best: Furthest | None) -> list[object]:
    own = facet.of(view.cells)
    unfit, failed = own["unfit"].sum(), (own["status"] == "failed").sum()
    waiting = own.filter(~pl.col("status").is_in(["done", "failed"])).height
    lost = [
        f"{count:,} {state}"
        for count, state in ((unfit, "unfit"), (failed, "failed"), (waiting, "not finished"))
        if count
    ]
    name = fragment(element("b", facet.title), element("small", facet.detail))
    if best is None:
        return [name, wording.NONE, wording.NONE, "no result yet", wording.NONE, ", ".join(lost) or "none"]
    length = element("b", f"{'≥ ' if best.censored else ''}{best.low:,}")
    times = wording.NONE if best.times is None else f"{best.times:.3g}×"
    of = f"{wording.plural(best.architectures, 'architecture')}, {wording.plural(best.seeds, 'seed')}"
    return [name, length, times, best.who or "nobody", of, ", ".join(lost) or "none"]


def _reaches(view: View) -> Markup | None:
    """Reach of every seed, a panel per facet."""
    drawn = [
        figure(facet.title, facet.detail, figures.reaches(own, view.looks, lengths), facet.values)
        for facet in view.facets
        if (lengths := view.lengths(facet)) and (own := facet.of(view.single))["reach_low"].count()
    ]
    return fragment(single_runs(view), panels(drawn)) if drawn else None

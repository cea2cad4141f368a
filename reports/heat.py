"""Accuracy of every run at every length as one coloured table per panel: a heat map to be read as numbers, too."""

from __future__ import annotations

from typing import Any

import polars as pl

from reports import wording
from reports.marks import marks
from reports.markup import Markup, element
from reports.parts import architecture, by_architecture, note, part, section, single_runs
from reports.view import Facet, View

DARK = 0.77
"""Share from which white reads better than black on the blue of the light theme; in the dark one both are light."""


def heat(view: View) -> Markup | None:
    """A row per run, a column per tested length, on random problems; None while nothing is tested."""
    parts = [part(facet, _table(view, facet)) for facet in view.facets if view.lengths(facet)]
    if not parts:
        return None
    text = (
        "Percent of the problems right (the whole trajectory exact; without an oracle, the answer), a row per run, a "
        "column per length. The line stands where the training lengths end. 100 means every problem, >99 nearly every "
        "one; hover for counts and 95% intervals."
    )
    return section("heat", "Every run at every length", note(text), single_runs(view), *parts)


def _table(view: View, facet: Facet) -> Markup:
    lengths, points = view.lengths(facet), facet.of(view.random)
    beyond = [length for length in lengths if length > facet["max_length"]]
    edge = beyond[0] if facet["max_length"] and beyond else None
    names = [_bordered("th", f"{length:,}", length == edge, scope="col") for length in lengths]
    head = element("tr", element("th", "Length", scope="col"), element("th", "seed", scope="col"), names)
    body = []
    for name, recipe, own in by_architecture(facet.of(view.single)):
        for run in own.filter(pl.col("tested") > 0).sort("seed", "replicate").to_dicts():
            known = {line["length"]: line for line in points.filter(pl.col("cell") == run["cell"]).to_dicts()}
            shares = [_share(known.get(length), length == edge) for length in lengths]
            who = element("th", architecture(view, name, recipe), scope="row")
            body.append(element("tr", who, element("td", _seed(run), class_="seed"), shares, **marks(run)))
    whole = element("table", element("thead", head), element("tbody", body), class_="heat")
    return element("div", whole, class_="scroll", tabindex="0")


def _seed(run: dict[str, Any]) -> str:
    said = [str(run["seed"]), f"replicate {run['replicate']}" if run["replicate"] else "", "unfit" * run["unfit"]]
    return " ".join(text for text in said if text)


def _share(line: dict[str, Any] | None, edge: bool) -> Markup:
    if line is None or line["accuracy"] is None:
        return _bordered("td", wording.NONE, edge)
    share = line["accuracy"]
    counts = f"length {line['length']:,}: {line['k']} of {line['of']} [{wording.span(line['low'], line['high'])}]"
    text, colour = wording.percent(share).removesuffix("%"), f"--share:{share:.3f}"
    return _bordered("td", text, edge, "dark" if share >= DARK else "light", title=counts, style=colour)


def _bordered(tag: str, text: str, edge: bool, class_: str | None = None, **attributes: object) -> Markup:
    """A cell of the table; `edge`: it stands right of the line where the training lengths end."""
    classes = " ".join(name for name in (class_, "edge" if edge else None) if name)
    return element(tag, text, class_=classes or None, **attributes)

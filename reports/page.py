"""The report: one self-contained HTML page that opens offline.

A section is one function of the View that returns Markup, or None where there is nothing to show, in a file of its own
and named in `SECTIONS`. Its style sheet and script, where it needs them, are files beside it, named in `STYLES` and
`SCRIPTS`: all scripts become one element, each file in a block of its own, so that nothing it declares meets another's.
What the filters should act on says whom it is about: a trace in its `meta` (`marks.about(line)`), a panel by the
`about` of `parts.figure`, a part of a section as `parts.part(facet, ...)`, rows by the last argument of `markup.table`,
any other element by `**marks.marks(line)`. Colours come from the variables in page.css, which follow the theme.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from importlib import resources
from string import Template

from reports.bar import bar
from reports.cells import cells
from reports.comparisons import comparisons
from reports.costs import cost
from reports.curves import curves, stress
from reports.data import ReportData
from reports.divergence import divergences
from reports.failures import failures
from reports.hazards import hazards
from reports.heat import heat
from reports.markup import Markup, element, fragment, packed
from reports.paper import paper
from reports.provenance import run
from reports.robustness import robustness
from reports.search import search
from reports.seeds import seeds
from reports.summary import summary
from reports.training import training
from reports.verdict import verdict
from reports.view import View

SECTIONS: list[Callable[[View], Markup | None]] = [
    verdict,
    curves,
    stress,
    heat,
    summary,
    comparisons,
    paper,
    search,
    failures,
    hazards,
    divergences,
    training,
    cost,
    seeds,
    robustness,
    cells,
    run,
]
STYLES = ["page.css", "heat.css", "hazards.css", "viewer.css"]
SCRIPTS = ["page.js", "viewer.js", "download.js"]


def render(data: ReportData) -> str:
    """The whole page. Figures, scripts and styles are inside; its content security policy forbids every request.

    Partial data, down to a grid without cells, gives a page that says so.
    """
    view = View(data)
    title = str(data.grid.get("title") or data.grid.get("name") or "Lengthwise report")
    return document(title, _body(view, title))


def document(title: str, body: Markup) -> str:
    """A page that holds everything it shows."""
    from plotly.offline import get_plotlyjs

    plotly, script = get_plotlyjs(), _script()
    return Template(_file("page.html")).substitute(
        policy=_policy([plotly, script]),
        title=element("title", title),
        style="\n".join(map(_file, STYLES)),
        body=body,
        plotly=packed(plotly),
        script=script,
    )


def _body(view: View, title: str) -> Markup:
    return fragment(bar(view), _header(view, title), element("main", [section(view) for section in SECTIONS]))


def _header(view: View, title: str) -> Markup:
    grid = view.data.grid
    facts = [grid.get("name"), grid.get("when")]
    return element(
        "header",
        element("p", " · ".join(str(fact) for fact in facts if fact), class_="kicker"),
        element("h1", title),
        element("p", grid["description"], class_="description") if grid.get("description") else None,
    )


def _script() -> str:
    return "\n".join(['"use strict";', *[f"{{\n{_file(name)}}}" for name in SCRIPTS]])


def _file(name: str) -> str:
    return resources.files("reports").joinpath(name).read_text(encoding="utf-8")


def _policy(scripts: list[str]) -> str:
    """Only these very scripts may run, and nothing may be fetched."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"

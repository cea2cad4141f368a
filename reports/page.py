"""The report: one self-contained HTML page that opens offline."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from string import Template

from reports.cells import cells
from reports.costs import cost, training
from reports.curves import curves, stress
from reports.data import ReportData
from reports.divergence import divergences
from reports.failures import failures
from reports.legend import legend
from reports.markup import Markup, element, fragment
from reports.provenance import run
from reports.search import search
from reports.summary import summary
from reports.verdict import verdict
from reports.view import View


def render(data: ReportData) -> str:
    """The whole page. Figures, scripts and styles are inside; its content security policy forbids every request.

    Partial data, down to a grid without cells, gives a page that says so.
    """
    from plotly.offline import get_plotlyjs

    view = View(data)
    scripts = [get_plotlyjs(), _file("page.js")]
    title = str(data.grid.get("title") or data.grid.get("name") or "Lengthwise report")
    return Template(_file("page.html")).substitute(
        policy=_policy(scripts),
        title=element("title", title),
        style=_file("page.css"),
        body=_body(view, title),
        plotly=scripts[0],
        script=scripts[1],
    )


def _body(view: View, title: str) -> Markup:
    parts = [
        verdict(view),
        curves(view),
        stress(view),
        summary(view),
        search(view),
        failures(view),
        divergences(view),
        training(view),
        cost(view),
        cells(view),
        run(view),
    ]
    unfit = bool(view.unfit.height)
    return fragment(
        _header(view, title),
        element("main", parts[0], legend(view.looks, unfit) if view.looks else None, *parts[1:]),
    )


def _header(view: View, title: str) -> Markup:
    grid = view.data.grid
    facts = [grid.get("name"), grid.get("when")]
    return element(
        "header",
        element("p", " · ".join(str(fact) for fact in facts if fact), class_="kicker"),
        element("h1", title),
        element("p", grid["description"], class_="description") if grid.get("description") else None,
    )


def _file(name: str) -> str:
    return resources.files("reports").joinpath(name).read_text(encoding="utf-8")


def _policy(scripts: list[str]) -> str:
    """Only these very scripts may run, and nothing may be fetched."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"

"""The curves as one PNG: a page of their own, photographed by the Chromium or Chrome of this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path
from string import Template

from reports import figures, style
from reports.graph import Figure
from reports.legend import swatch
from reports.markup import Markup, element, fragment
from reports.view import View

BROWSERS = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"),
    *(
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
    ),
)
WIDTH, SCALE, SECONDS = 1200, 2, 120
"""Pixels of the layout, pixels of the picture for each of them, and how long the browser may take."""

_MEASURES = {"exact": "Whole trajectory exact", "answer": "Answer right"}


class NoBrowser(Exception):
    """There is none, or it does not do what it should. The message is one line."""


def browser() -> str:
    """The browser of this machine. Raises NoBrowser when there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise NoBrowser("no Chromium or Google Chrome is on the path")
    return found


def png(view: View) -> bytes:
    """Accuracy against length of every panel, with a legend: 2,400 pixels wide, white ground.

    Raises NoBrowser when there is no browser to draw it.
    """
    command = [browser(), "--headless=new", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    command += ["--virtual-time-budget=60000", f"--force-device-scale-factor={SCALE}"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--no-sandbox")  # Chromium's own sandbox refuses root, as in most containers
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        page, picture = Path(folder, "curves.html"), Path(folder, "curves.png")
        page.write_text(document(view), encoding="utf-8")
        command.append(f"--user-data-dir={folder}/profile")
        # Its height is known only once it is laid out, and a screenshot shows no more than the window.
        laid_out = _call([*command, f"--window-size={WIDTH},800", "--dump-dom", page.as_uri()])
        height = re.search(rb'<html[^>]* data-drawn="(\d+)"', laid_out)
        if height is None:
            raise NoBrowser(f"{command[0]} did not draw the figures")
        _call([*command, f"--window-size={WIDTH},{int(height[1])}", f"--screenshot={picture}", page.as_uri()])
        if not picture.exists():
            raise NoBrowser(f"{command[0]} wrote no picture")
        return picture.read_bytes()


def _call(command: list[str]) -> bytes:
    try:
        return subprocess.run(command, capture_output=True, timeout=SECONDS, check=True).stdout
    except subprocess.TimeoutExpired as error:
        raise NoBrowser(f"{command[0]} took more than {SECONDS} s") from error
    except (OSError, subprocess.CalledProcessError) as error:
        said = " ".join((getattr(error, "stderr", None) or b"").decode(errors="replace").split())
        raise NoBrowser(f"{command[0]} failed: {said[-200:] or error}") from error


def document(view: View) -> str:
    """The page that is photographed."""
    from plotly.offline import get_plotlyjs

    page = Template(resources.files("reports").joinpath("picture.html").read_text(encoding="utf-8"))
    grid = view.data.grid
    parts = [_measure(view, measure, title) for measure, title in _MEASURES.items()]
    body = fragment(
        element("h1", grid.get("title") or grid.get("name") or "Accuracy against length"),
        element("p", [_key(view, name) for name in sorted(view.looks, key=style.order)]),
        *(parts if any(parts) else ["No point has been evaluated yet."]),
    )
    return page.substitute(body=body, plotly=get_plotlyjs(), across=min(3, max(1, len(view.facets))))


def _embedded(plot: Figure) -> Markup:
    """A figure as JSON in a script element, which it cannot end: `<` is written as an escape."""
    return element("script", Markup(plot.to_json().replace("<", "\\u003c")), type="application/json")


def _key(view: View, name: str) -> Markup:
    return element("span", swatch(view.looks[name]), name or "unnamed", class_="key")


def _measure(view: View, measure: str, title: str) -> Markup | None:
    """One measure: a panel per facet that knows it."""
    panels = []
    for facet in view.facets:
        own = facet.of(view.random)
        if own[measure].count():
            plot = figures.curves(own, measure, view.looks)
            caption = element("figcaption", element("b", facet.title), element("small", facet.detail))
            place = element("div", class_="plot", style=f"height:{plot.layout['height']}px")
            panels.append(element("figure", caption, place, _embedded(plot)))
    return fragment(element("h2", title), element("div", panels, class_="panels")) if panels else None

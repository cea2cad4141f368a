"""What `lengthwise report --format` writes: name of the format -> file, and how it is made from a view."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from reports import latex, picture, points
from reports.page import render
from reports.view import View


class Export(NamedTuple):
    file: str
    make: Callable[[View], bytes]
    about: str


FORMATS: dict[str, Export] = {
    "html": Export("report.html", lambda view: render(view.data).encode(), "the report"),
    "csv": Export("points.csv", points.csv, "a line per cell, length and set of problems"),
    "parquet": Export("points.parquet", points.parquet, "the same, typed"),
    "latex": Export("tables.tex", lambda view: latex.tables(view).encode(), "tables for a paper"),
    "png": Export("curves.png", picture.png, "a picture of the curves, where there is a browser"),
}

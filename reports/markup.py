"""HTML that escapes by default: text becomes markup only through `element`."""

from __future__ import annotations

import base64
import gzip
import html
from collections.abc import Iterable, Mapping, Sequence

_VOID = {"br", "hr", "img", "input", "meta", "link", "col"}


class Markup(str):
    """Text that is HTML already; everything else is escaped."""


def _flat(children: Iterable[object]) -> Iterable[str]:
    for child in children:
        if isinstance(child, Markup):
            yield child
        elif isinstance(child, (list, tuple)):
            yield from _flat(child)
        elif child is not None:
            yield html.escape(str(child))


def fragment(*children: object) -> Markup:
    """Children side by side. Strings are escaped, None is left out, lists are flattened."""
    return Markup("".join(_flat(children)))


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """One HTML element. Attribute names: `class_` is class, `_` becomes `-`; None and False leave an attribute out."""
    pairs = []
    for name, value in attributes.items():
        key = name.rstrip("_").replace("_", "-")
        if value is True:
            pairs.append(f" {key}")
        elif value is not None and value is not False:
            pairs.append(f' {key}="{html.escape(str(value))}"')
    opening = f"<{tag}{''.join(pairs)}>"
    return Markup(opening if tag in _VOID else f"{opening}{fragment(*children)}</{tag}>")


def packed(text: str) -> Markup:
    """Text as gzip in Base64, for the page's scripts to unpack: a third to a tenth of its size."""
    return Markup(base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode())


def table(
    head: Sequence[object],
    body: Sequence[Sequence[object]],
    class_: str | None = None,
    about: Sequence[Mapping[str, object] | None] | None = None,
) -> Markup:
    """A table that scrolls sideways on its own when the page is narrower. The first column names the row.

    `about`: for every row the attributes that filters act on (`reports.marks.marks`), None for a row that stays.
    """

    def line(cells: Sequence[object], marks: Mapping[str, object] | None) -> Markup:
        values = [element("td", cell, data_label=name) for name, cell in zip(head[1:], cells[1:], strict=True)]
        return element("tr", element("th", cells[0], scope="row"), values, **(marks or {}))

    header = element("thead", element("tr", [element("th", cell, scope="col") for cell in head]))
    rows = [line(cells, marks) for cells, marks in zip(body, about or [None] * len(body), strict=True)]
    whole = element("table", header, element("tbody", rows), class_=class_)
    return element("div", whole, class_="scroll", tabindex="0")


def folded(summary: object, *children: object, open: bool = False) -> Markup:
    """Children that show on a click."""
    return element("details", element("summary", summary), *children, open=open)

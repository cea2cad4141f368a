"""Whatever models, users and exceptions write stays text, in every column there is."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser

import polars as pl
import pytest

from harness.schema import CELLS
from reports import compare_page
from reports.compare import compare
from reports.data import ReportData
from reports.page import render
from tests.reports.hostile import EVIL


class Elements(HTMLParser):
    """Every element with its attributes, and the text of every script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.found and self.found[-1][0] == "script":
            self.scripts.append((self.found[-1][1].get("type") or "", data))

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data[:80]}")


def test_no_text_becomes_an_element(evil, demo):
    page, innocent = Elements(render(evil)), Elements(render(demo(problems=6)))
    assert {tag for tag, _ in page.found} <= {tag for tag, _ in innocent.found} | {"pre", "small", "code"}
    assert "img" not in {tag for tag, _ in page.found}
    attributes = {name for _, own in page.found for name in own}
    assert attributes <= {name for _, own in innocent.found for name in own}
    assert not {name for name in attributes if name.startswith("on")}
    links = {own["href"] for _, own in page.found if "href" in own}
    assert all(link.startswith(("#", "data:")) for link in links)
    assert sum(kind == "" for kind, _ in page.scripts) == sum(kind == "" for kind, _ in innocent.scripts)


@pytest.mark.parametrize("mode", ["checkpoints", "retrained"])
def test_no_text_of_a_comparison_becomes_an_element(evil, demo, mode):
    def page(data: ReportData, name: str) -> Elements:
        return Elements(compare_page.render(compare([(f"a{name}", data), (f"b{name}", data)], mode)))

    hostile, innocent = page(evil, EVIL), page(demo(problems=6), "")
    assert {tag for tag, _ in hostile.found} <= {tag for tag, _ in innocent.found} | {"table", "thead", "tbody"}
    assert {name for _, own in hostile.found for name in own} <= {name for _, own in innocent.found for name in own}


def test_the_evil_text_is_there_to_be_read(evil):
    page = render(evil)
    assert page.count("&lt;img src=x onerror") > 50


def _texts(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a JSON value with the key it stands under."""
    if isinstance(value, dict):
        for name, inside in value.items():
            yield from _texts(inside, name)
    elif isinstance(value, list):
        for inside in value:
            yield from _texts(inside, key)
    elif isinstance(value, str):
        yield key, value


def unpacked(text: str) -> object:
    return json.loads(gzip.decompress(base64.b64decode(text)))


def test_figures_stay_json_and_their_labels_hold_no_markup(evil):
    figures = [unpacked(text) for kind, text in Elements(render(evil)).scripts if kind == "application/gzip"]
    assert len(figures) > 20
    told = [pair for figure in figures for pair in _texts(figure)]
    shown = {"hovertext", "hovertemplate", "text", "texttemplate", "ticktext"}
    labels = [text for key, text in told if key in shown]
    assert any("&lt;img" in text for text in labels)
    for text in labels:
        assert not re.search(r"<(?!/?(b|i|br|extra|sub|sup)>)", text), text[:200]


def test_texts_that_are_empty_or_missing_do_not_break_it(evil):
    texts = [name for name, (kind, _) in CELLS.items() if kind == "string" and name != "cell"]
    assert "<html" in render(
        replace(evil, cells=evil.cells.with_columns(pl.lit(None, pl.String).alias(n) for n in texts))
    )

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

from harness.schema import ATTEMPTS, CELLS, FLIPS, ROWS, Table
from reports.data import Failure, ReportData, Track
from reports.page import render

EVIL = """'"></script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>&lt;b&gt;{{7*7}}<!--"""
_KEPT = {"cell", "status", "failure", "ending", "outcome", "mode", "stress", "config", "train_tokens_by_task"}
"""Columns whose values mean something to the report; they are made evil without losing that."""


def _evil(table: pl.DataFrame, schema: Table) -> pl.DataFrame:
    """Every text of a table made evil; those that tell lines apart still do."""
    kept = [name for name in _KEPT & schema.keys() if name in ("cell", "stress")]
    texts = [name for name, (kind, _) in schema.items() if kind == "string" and name not in _KEPT]
    identity = {"task", "setting", "tool", "architecture", "name", "form", "size"} & set(texts)
    return table.with_columns(
        *(pl.lit(EVIL).alias(name) for name in texts if name not in identity),
        *(pl.concat_str(pl.col(name), pl.lit(EVIL)).alias(name) for name in sorted(identity)),
        *(
            pl.when(pl.col(name) == "random").then(pl.col(name)).otherwise(pl.col(name) + pl.lit(EVIL)).alias(name)
            for name in kept
        ),
    )


def _evil_failure(failure: Failure) -> Failure:
    told = {
        name: value + EVIL
        for name, value in failure.row.items()
        if isinstance(value, str) and (name not in _KEPT or name == "cell")
    }
    return replace(
        failure,
        row=failure.row | told,
        steps=[(at, number, name + EVIL) for at, number, name in failure.steps],
        oracle=failure.oracle and _evil_track(failure.oracle),
        model=failure.model and _evil_track(failure.model),
    )


def _evil_track(track: Track) -> Track:
    return Track(
        [token + EVIL for token in track.tokens],
        track.roles,
        [cell + EVIL for cell in track.memory],
        {name + EVIL: at for name, at in track.pointers.items()},
        [(at, start, gone, [cell + EVIL for cell in came]) for at, start, gone, came in track.edits],
        [(at, {name + EVIL: to for name, to in moved.items()}) for at, moved in track.moves],
    )


@pytest.fixture(scope="module")
def evil(demo) -> ReportData:
    """The made-up data with hostile text in every column and every key of the grid."""
    data = demo(problems=6)
    cells = _evil(data.cells, CELLS)
    config = json.dumps({"train": {EVIL: EVIL}})
    odd = pl.when(pl.col("seed") == 0).then(pl.lit(config)).otherwise(pl.lit("{}"))
    recipe = {EVIL: 0.001}
    tried = [{"recipe": recipe, "trials": [EVIL], "exact": 1.0, "loss": 0.1, "flops": 1.0, "failed": 0}]
    record = {"name": EVIL, "rule": EVIL, "winner": recipe, "tried": tried}
    return ReportData(
        grid={
            **{name: EVIL for name in ("name", "title", "description", "text", "when")},
            "evaluate": {EVIL: EVIL, "stress": [EVIL]},
            "search": [{"name": EVIL, "record": record}, {"name": EVIL, "record": None}],
        },
        cells=cells.with_columns(
            odd.alias("config"),
            pl.lit(json.dumps({EVIL: 1, "addition": 2})).alias("train_tokens_by_task"),
            pl.when(pl.col("status") == "waiting").then(pl.lit(EVIL)).otherwise("status").alias("status"),
        ),
        rows=_evil(data.rows, ROWS),
        curves=data.curves.with_columns(pl.col("cell") + pl.lit(EVIL)),
        attempts=_evil(data.attempts, ATTEMPTS).with_columns(pl.lit(EVIL).alias("outcome")),
        flips=_evil(data.flips, FLIPS),
        failures=[_evil_failure(failure) for failure in data.failures],
    )


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

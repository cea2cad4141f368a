"""Other formats than the page: a flat table, LaTeX, a picture."""

from __future__ import annotations

import io
import re
import struct
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from harness.schema import ATTEMPTS, CELLS, CURVES, ROWS
from reports import latex, picture
from reports.data import ReportData, frame
from reports.export import FORMATS
from reports.points import COLUMNS, csv, parquet, points
from reports.view import View


@pytest.fixture(scope="module")
def view(demo):
    return View(demo(problems=8))


def empty() -> View:
    return View(ReportData({}, *(frame(schema, []) for schema in (CELLS, ROWS, CURVES, ATTEMPTS))))


def test_the_table_has_a_line_for_every_point_and_loses_no_cell(view):
    table = points(view)
    assert table.columns == list(COLUMNS)
    assert table.filter(pl.col("length").is_not_null()).height == view.points.height
    without = set(table.filter(pl.col("length").is_null())["cell"])
    assert without == set(view.cells["cell"]) - set(view.points["cell"])
    assert {"direct-hybrid-1", "direct-sliding-1"} == without  # the failed one and the waiting one


def test_a_line_tells_counts_interval_reach_and_cost(view):
    line = points(view).filter(cell="interactive-gru-0", length=64, stress="random").row(0, named=True)
    known = view.points.filter(cell="interactive-gru-0", length=64, stress="random").row(0, named=True)
    cell = view.cells.filter(cell="interactive-gru-0").row(0, named=True)
    for ours, theirs in {"problems": "n", "n": "of", "k": "k", "accuracy": "accuracy", "low": "low"}.items():
        assert line[ours] == known[theirs]
    assert line["measure"] == "exact"
    for name in ("reach_low", "reach_high", "longest", "parameters", "train_tokens", "train_seconds"):
        assert line[name] == cell[name]
    assert line["state_bytes"] == known["state_bytes"]
    assert line["seconds"] == pytest.approx(8 * 0.0004 * (35 * 64 + 48))


def test_csv_and_parquet_say_the_same(view):
    table = points(view)
    assert pl.read_parquet(io.BytesIO(parquet(view))).equals(table)
    assert pl.read_csv(io.BytesIO(csv(view)), schema=table.schema).equals(table)


def test_every_column_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "exports.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `(\w+)` \| (.+?) \|$", text, re.MULTILINE)) == COLUMNS


def parse(text: str) -> list[list[list[str]]]:
    """The tables of a LaTeX text as lines of entries. Braces balance, environments nest, entries fill the columns."""
    unescaped = re.sub(r"\\[\\{}%&$#_]", "", text)
    assert unescaped.count("{") == unescaped.count("}")
    assert unescaped.count("$") % 2 == 0
    assert re.findall(r"\\begin{(\w+)}", text) == ["table", "tabular"] * 2
    assert re.findall(r"\\end{(\w+)}", text) == ["tabular", "table"] * 2
    found = []
    for columns, inside in re.findall(r"\\begin{tabular}{(l+)}\n(.*?)\\end{tabular}", text, re.DOTALL):
        assert [rule for rule in ("toprule", "midrule", "bottomrule") if inside.count(f"\\{rule}\n") == 1] == [
            "toprule",
            "midrule",
            "bottomrule",
        ]
        lines = [line for line in inside.splitlines() if line.endswith(r"\\")]
        table = [re.split(r"(?<!\\) & ", line.removesuffix(r" \\")) for line in lines]
        for entries in table:
            spans = [re.match(r"\\multicolumn{(\d+)}", entry) for entry in entries]
            assert sum(int(span[1]) if span else 1 for span in spans) == len(columns)
        found.append(table)
    return found


def test_the_table_of_the_paper_and_the_reach_of_every_seed(view):
    text = latex.tables(view)
    paper, reaches = parse(text)
    assert [line[0] for line in paper[:3]] == ["", "", ""]
    assert paper[0][1:] == [r"\multicolumn{2}{c}{interactive}", "single\\_turn", "direct"]
    assert paper[2][1:] == ["random", "carries", "random", "random"]
    assert [line[0] for line in paper[3:]] == list(dict.fromkeys(line[0] for line in reaches[3:]))
    assert "\\cmidrule(lr){2-3}" in text
    rows = {line[0]: line[1:] for line in paper[3:]}
    assert rows["mamba1"][0].startswith(r"$4 \to 64$ (100\%)")
    assert rows["mamba1"][0].endswith("[2]")
    assert rows["lstm"][2].endswith("[1]")  # its other seed is unfit
    seeds = {line[0]: line[1:] for line in reaches[3:]}
    assert seeds["mamba1"][0] == r"$\geq$ 64, $\geq$ 64"
    assert seeds["hybrid"][3].endswith(", failed")
    assert "of the best seed of as many as stand in brackets." in text
    assert r"$p \geq$ 5\%" in text
    assert r"at least 95\%" in text
    assert "8 problems a length and seed" in text


def test_one_number_of_seeds_stands_in_the_caption(demo):
    data = demo(problems=4)
    gru = pl.col("cell").str.contains("-gru-")
    text = latex.tables(View(replace(data, cells=data.cells.filter(gru))))
    assert "of the best seed of 2 seeds." in text
    assert "[2]" not in text


def test_special_characters_are_set_as_they_stand(demo):
    assert latex.escape("a_b 50% {x} \\d $5 #1 & ~ ^ <≥ 3>") == (
        r"a\_b 50\% \{x\} \textbackslash{}d \$5 \#1 \& \textasciitilde{} \textasciicircum{} $<$$\geq$ 3$>$"
    )
    assert latex.escape("two\nlines") == "two lines"
    evil = "100%\n\\end{table}\\input{/etc/passwd} & $x$ _^~#"
    data = demo(problems=4)
    texts = ("architecture", "setting", "task", "tool", "size", "name")
    odd = replace(
        data,
        grid={"name": evil, "title": evil, "when": evil},
        cells=data.cells.with_columns(pl.concat_str(pl.col(name), pl.lit(evil)).alias(name) for name in texts),
        rows=data.rows.with_columns(pl.when(pl.col("stress") != "random").then(pl.lit(evil)).otherwise("stress")),
    )
    text = latex.tables(View(odd))
    parse(text)
    assert "\\input" not in text
    assert [line[0] for line in text.splitlines() if "Lengthwise, grid" in line] == ["%"]


def test_formats_of_a_grid_without_cells():
    for name, export in FORMATS.items():
        if name != "png":
            assert export.make(empty())
    assert points(empty()).columns == list(COLUMNS)


def test_the_pictures_page_shows_every_panel_escaped(demo):
    data = demo(problems=4)
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    odd = replace(data, cells=data.cells.with_columns(pl.lit(evil).alias("tool")), grid={"title": evil})
    page = picture.document(View(odd))
    assert page.count('type="application/json"') == 6  # three settings, two measures
    assert "<img" not in page.split("* plotly.js v")[0]
    assert page.count("<script>") == page.count("</script>") - 6 == 2
    assert "No point has been evaluated yet" in picture.document(empty())


def test_without_a_browser_the_picture_says_so(view, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(picture.NoBrowser, match="no Chromium or Google Chrome is on the path"):
        picture.png(view)


def test_a_browser_that_fails_is_named(view, monkeypatch, tmp_path):
    fake = tmp_path / "chromium"
    fake.write_text("#!/bin/sh\necho no display >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(picture.NoBrowser, match=r"chromium failed: no display"):
        picture.png(view)
    fake.write_text("#!/bin/sh\necho '<html></html>'\n")
    with pytest.raises(picture.NoBrowser, match=r"did not draw the figures"):
        picture.png(view)


@pytest.mark.browser
def test_the_picture_is_a_png_of_the_whole_page_at_twice_the_size(view):
    try:
        picture.browser()
    except picture.NoBrowser:
        pytest.skip("no browser")
    content = picture.png(view)
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    assert width == picture.WIDTH * picture.SCALE
    assert height > 2 * 2 * 300  # two rows of panels

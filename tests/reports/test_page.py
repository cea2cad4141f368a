from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import plotly.graph_objects as go
import polars as pl
import pytest

from harness.schema import ATTEMPTS, CELLS, CURVES, ROWS
from reports import aggregate, figures, style, wording
from reports.cells import cells
from reports.costs import cost
from reports.curves import curves
from reports.data import ReportData, frame
from reports.divergence import divergences
from reports.download import tables
from reports.figures import run_name
from reports.heat import heat
from reports.markup import Markup, element, fragment, table
from reports.page import render
from reports.summary import summary
from reports.training import training
from reports.verdict import furthest, verdict
from reports.view import View, key_lengths

EVIL = "</script><script>alert('x')</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Elements, balanced tags, texts outside scripts, and the figures' JSON."""

    VOID = {"meta", "link", "br", "hr", "img", "input"}

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.elements, self.texts, self.figures, self.scripts = [], [], [], [], []
        self.feed(page)
        self.close()
        assert not self.open
        self.plotly = gzip.decompress(base64.b64decode(self.scripts[0])).decode() if self.scripts else ""
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        tag, attributes = self.open[-1] if self.open else ("", {})
        if tag == "script" and attributes.get("type") == "application/gzip":
            self.figures.append(json.loads(gzip.decompress(base64.b64decode(data))))
        elif tag == "script":
            self.scripts.append(data)
        elif tag != "style":
            self.texts.append(data)

    def with_class(self, name):
        return [attributes for _, attributes in self.elements if name in (attributes.get("class") or "").split()]


def empty(**grid) -> ReportData:
    return ReportData(grid, *(frame(schema, []) for schema in (CELLS, ROWS, CURVES, ATTEMPTS)))


def checked(figure):
    """The figure as Plotly's own objects, which refuse what its script would not understand."""
    return go.Figure(figure.specification())


def test_markup_escapes_everything_but_markup():
    assert element("p", "<b>", Markup("<i></i>"), None, ["&", 3]) == "<p>&lt;b&gt;<i></i>&amp;3</p>"
    assert (
        element("a", "x", class_="c", data_x='"', hidden=True, title=None)
        == '<a class="c" data-x="&quot;" hidden>x</a>'
    )
    assert element("br") == "<br>"
    assert fragment("<", element("b", "<")) == "&lt;<b>&lt;</b>"
    assert "<script>" not in table(["<script>"], [["<script>"]])


def test_the_page_is_self_contained(page):
    parsed = Page(page)
    for tag, attributes in parsed.elements:
        for name in ("src", "srcset", "action", "data", "poster"):
            assert name not in attributes, tag
        assert tag not in {"iframe", "object", "embed", "base"}
        assert attributes.get("href", "#").startswith(("#", "data:"))
    styles = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in styles
    assert "@import" not in styles
    assert Page(page).plotly.count("* plotly.js v") == 1
    assert "$" not in page[: page.index("<script>")]


def test_only_the_pages_own_scripts_may_run(page):
    policy = next(attributes["content"] for tag, attributes in Page(page).elements if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'")
    scripts = [Page(page).plotly, *re.findall(r"<script>(.*?)</script>", page, re.DOTALL)]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(digests) == 2
    assert re.findall(r"'sha256-([^']+)'", policy) == digests


def test_every_section_is_there(page):
    ids = [attributes["id"] for tag, attributes in Page(page).elements if tag == "section"]
    assert ids == [
        "verdict",
        "curves",
        "stress",
        "heat",
        "summary",
        "comparisons",
        "failures",
        "hazards",
        "divergences",
        "training",
        "cost",
        "seeds",
        "robustness",
        "cells",
        "run",
    ]


def test_what_models_write_is_escaped(demo):
    data = demo(problems=4)
    texts = [name for name, (kind, _) in ROWS.items() if kind == "string" and name not in ("cell", "stress", "failure")]
    cells = [
        name
        for name, (kind, _) in CELLS.items()
        if kind == "string" and name not in ("cell", "config", "status", "train_tokens_by_task")
    ]
    evil = ReportData(
        grid={"title": EVIL, "name": EVIL, "description": EVIL, "text": EVIL, "when": EVIL, "evaluate": {EVIL: EVIL}},
        cells=data.cells.with_columns(
            *(pl.lit(EVIL).alias(name) for name in cells),
            pl.lit(json.dumps({EVIL: 1, "addition": 2})).alias("train_tokens_by_task"),
        ),
        rows=data.rows.with_columns(pl.lit(EVIL).alias(name) for name in texts),
        curves=data.curves,
        attempts=data.attempts.with_columns(pl.lit(EVIL).alias(name) for name in ("reason", "traceback", "host")),
    )
    stress = pl.when(pl.col("stress") == "random").then("stress").otherwise(pl.lit(EVIL))
    evil = replace(evil, rows=evil.rows.with_columns(stress.alias("stress")))
    page = render(evil)
    assert "<img" not in page
    assert "<script>alert" not in page
    parsed = Page(page)
    assert len(parsed.scripts) == 2
    assert parsed.figures
    assert EVIL in "".join(parsed.texts)
    hovers = [text for one in parsed.figures for trace in one["data"] for text in trace.get("hovertext") or []]
    assert hovers
    assert not any("<img" in text or "<script" in text for text in hovers)


def test_unfit_runs_are_grey_and_claim_nothing(demo):
    data = demo(problems=8)
    parsed = Page(render(data))
    assert "1 run unfit" in parsed.text
    grey = [trace for one in parsed.figures for trace in one["data"] if trace["name"] == "lstm · seed 1"]
    grey = [trace for trace in grey if trace.get("line", {}).get("color") == style.UNFIT]
    assert grey
    assert all(trace["line"]["dash"] == "dot" for trace in grey)
    marked = [trace for trace in grey if "marker" in trace]
    assert all(trace["marker"]["symbol"].endswith("-open") for trace in marked)
    assert all("UNFIT" in text for trace in marked for text in trace["hovertext"])
    view = View(data)
    single = next(facet for facet in view.facets if facet["setting"] == "single_turn")
    assert furthest(view, single).seeds == 13
    everyone = replace(data, cells=data.cells.with_columns(pl.lit(False).alias("fit")))
    text = Page(render(everyone)).text
    assert "No result yet" in text
    assert "solve addition up to" not in text
    assert "Where errors come" not in text


def test_failed_and_waiting_cells_are_listed_with_their_reasons(page):
    parsed = Page(page)
    assert "1 run failed" in parsed.text
    assert "addition direct hybrid seed 1 FloatingPointError: loss is nan at step 212" in parsed.text
    assert 'File "harness/train.py", line 88' in parsed.text
    assert "1 run not finished" in parsed.text
    assert "addition direct sliding seed 1 waiting" in parsed.text


def test_the_headline_counts_seeds_and_says_when_the_reach_is_censored(page):
    text = Page(page).text
    assert "In interactive , mamba1 (2 of 2 seeds)" in text
    assert "up to length 64 , the longest tested and 16 times the longest trained on." in text
    assert "The furthest of 40 runs" in text


def test_a_failing_standing_check_is_loud(demo):
    data = demo(problems=8)
    assert not Page(render(data)).with_class("danger")
    third = pl.col("index") == 3
    differing = pl.when(third).then(False).otherwise("replay_equal").alias("replay_equal")
    for tied in (False, True):
        wrong = data.rows.with_columns(differing, pl.when(third).then(tied).otherwise("near_tie").alias("near_tie"))
        parsed = Page(render(replace(data, rows=wrong)))
        assert len(parsed.with_class("danger")) == (not tied)
        assert ("differ from the verification without a near tie" in parsed.text) == (not tied)
        assert "of the 648 that differ" in parsed.text


def test_the_summary_shows_every_seed_and_the_best_one_as_such(demo):
    view = View(demo())
    text = Page(summary(view)).text
    gru = text[text.index("gru") : text.index("hybrid")]
    assert "≥ 64 24 2 of 2 16–100%" in gru
    assert "4 → 64 (100%) 64/64 [94–100%], best of 2 seeds" in gru
    assert "lstm 4 unfit 1 of 1" in text
    assert "hybrid 4 failed 1 of 2" in text
    assert "waiting 1 of 1" in text


def test_failures_are_told_with_what_was_expected_and_what_came_of_it(demo):
    view = View(demo())
    text = Page(divergences(view)).text
    settings = {view.cells.filter(pl.col("cell") == one.row["cell"])["setting"][0] for one in view.data.failures}
    assert settings == {"interactive", "single_turn", "direct"}
    for failure in view.data.failures:
        row = failure.row
        assert f"problem {row['index']}" in text
        assert f"expected {row['expected']} got {row['got']}" in text
        assert f"token {row['divergence']:,} of {row['tokens']:,}" in text
    assert re.search(r"transformer · interactive · length \d+ · (wrong|malformed|past|stopped) ", text)
    assert divergences(View(replace(view.data, failures=[]))) is None
    untold = [replace(failure, oracle=None, model=None) for failure in view.data.failures]
    cards = Page(divergences(View(replace(view.data, failures=untold))))
    assert len(cards.with_class("facts")) == 12
    assert not any("data-failures" in attributes for _, attributes in cards.elements)


def test_costs_are_means_over_seeds_and_per_problem(demo):
    data = demo(problems=8)
    gru = data.cells.filter(pl.col("cell").is_in(["interactive-gru-0", "interactive-gru-1"]))
    text = Page(cost(View(data))).text
    assert (
        f"gru {wording.short(gru['parameters'].mean())} {wording.short(gru['flops_per_token'].mean())} 768 B 5.40M"
        in text
    )
    assert "Tokens 83 118 153 188 223" in text
    assert "gru 33.2 ms 47.2 ms" in text


def test_the_grid_without_cells_and_the_grid_without_rows(demo):
    parsed = Page(render(empty()))
    assert "No result yet: the grid has no cells." in parsed.text
    assert not parsed.figures
    data = demo(problems=2)
    waiting = frame(
        CELLS, [{"cell": "a", "status": "waiting"}, {"cell": "b", "status": "failed", "reason": "OSError: x"}]
    )
    parsed = Page(render(replace(empty(name="g"), cells=waiting)))
    assert "No result yet: 1 cell failed, 1 cell waiting." in parsed.text
    assert "OSError: x" in parsed.text
    assert Page(render(replace(data, rows=frame(ROWS, [])))).figures


@pytest.mark.parametrize("keep", ["one cell", "one length", "all failed", "only keys"])
def test_partial_data_renders(demo, keep):
    data = demo(problems=6)
    if keep == "one cell":
        data = replace(data, cells=data.cells.head(1))
    elif keep == "one length":
        data = replace(data, rows=data.rows.filter(pl.col("length") == 4))
    elif keep == "all failed":
        data = replace(data, cells=data.cells.with_columns(pl.lit("failed").alias("status")), rows=data.rows.clear())
    else:
        cells = frame(CELLS, data.cells.select("cell").to_dicts())
        rows = frame(ROWS, data.rows.select("cell", "length", "stress", "index", "exact").to_dicts())
        curves = frame(CURVES, data.curves.select("cell", "step").to_dicts())
        data = ReportData({}, cells, rows, curves, frame(ATTEMPTS, data.attempts.select("cell").to_dicts()))
    assert Page(render(data)).text


def test_a_task_without_an_oracle_is_judged_by_its_answers(demo):
    data = demo(problems=8, stress=())
    live = data.rows.with_columns(
        pl.lit(None, dtype=pl.Boolean).alias("exact"),
        pl.col("exact").alias("answer_right"),
        pl.lit("live").alias("mode"),
    )
    parsed = Page(render(replace(data, rows=live)))
    assert "Answer right" in parsed.text
    assert "Whole trajectory exact" not in parsed.text
    assert "solve addition up to length 64" in parsed.text


def test_tables_missing_columns_are_refused():
    with pytest.raises(ValueError, match=r"cells: the columns .*architecture.* are missing"):
        ReportData({}, pl.DataFrame(), frame(ROWS, []), frame(CURVES, []), frame(ATTEMPTS, []))


def test_curves_show_every_seed_with_counts(demo):
    view = View(demo(problems=8))
    facet = view.facets[0]
    figure = checked(figures.curves(facet.of(view.random), "exact", view.looks))
    assert len(figure.data) == 14
    assert {trace.type for trace in figure.data} == {"scatter"}
    assert figure.layout.xaxis.type == "log"
    assert figure.layout.shapes[0].x1 == 4
    trace = next(one for one in figure.data if one.name == "gru · seed 1")
    line = view.random.filter((pl.col("cell") == "interactive-gru-1") & (pl.col("length") == 64)).row(0, named=True)
    assert trace.y[-1] == pytest.approx(100 * line["exact"])
    assert trace.x[-1] == pytest.approx(64, rel=0.1)
    assert f"exact {line['exact_k']}/8" in trace.hovertext[-1]
    assert "length 64, 8 problems" in trace.hovertext[-1]


def test_plotly_understands_every_figure(page):
    parsed = Page(page)
    assert {trace["type"] for one in parsed.figures for trace in one["data"]} >= {"scatter", "bar"}
    for one in parsed.figures:
        go.Figure(one)


def test_architectures_look_the_same_in_every_report_and_unlike_each_other():
    looks = style.styles([*style.KNOWN, "retnet", "mine:Own"])
    assert len(set(looks.values())) == len(looks)
    assert looks["gru"] == style.KNOWN["gru"]
    assert looks["retnet"] == style.styles(["retnet"])["retnet"]
    many = style.styles([f"a{index}" for index in range(60)])
    assert len(set(many.values())) == 32


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (wording.percent(0.9999), ">99%"),
        (wording.percent(1.0), "100%"),
        (wording.percent(0.0001, 1), "<0.1%"),
        (wording.percent(None), "–"),
        (wording.span(0.292, 1.0), "29–100%"),
        (wording.short(1234567), "1.23M"),
        (wording.short(999_999), "1.00M"),
        (wording.size(2048), "2.05 kB"),
        (wording.size(768), "768 B"),
        (wording.duration(0.0034), "3.4 ms"),
        (wording.duration(75), "1 min 15 s"),
        (wording.duration(59.99), "1 min 0 s"),
        (wording.duration(7260), "2 h 1 min"),
        (wording.reach(64, None, 64), "≥ 64"),
        (wording.reach(0, 4, 64), "< 4"),
        (wording.reach(16, 32, 64), "16"),
        (wording.listed(["a", "b", "c"]), "a, b and c"),
        (wording.listed(list("abcdefgh")), "a, b, c, d, e, f and 2 more"),
    ],
)
def test_wording(said, expected):
    assert said == expected


def test_key_lengths_span_the_training_range_to_the_longest():
    assert key_lengths([1, 2, 4, 8, 16, 32, 64], 4) == [4, 8, 32, 64]
    assert key_lengths([1, 2], 4) == [2]
    assert key_lengths([8, 16], 4) == [8, 16]
    assert key_lengths([], 4) == []


def test_chance_is_drawn_where_answers_are_and_can_be_told_from_zero(demo):
    view = View(demo(problems=8))
    points = view.facets[0].of(view.random)
    names = []
    for chance in (0.5, 0.001, None):
        own = points.with_columns(chance=pl.lit(chance, pl.Float64))
        drawn = {measure: figures.curves(own, measure, view.looks) for measure in ("exact", "answer")}
        names.append([measure for measure in drawn if "chance" in [trace["name"] for trace in drawn[measure].data]])
    assert names == [["answer"], [], []]


def test_a_report_on_corrupted_observations_says_so(demo):
    data = demo(problems=8)
    corrupted = replace(data, rows=data.rows.with_columns(corrupt=pl.lit(0.01)))
    assert "1.00% of the observed tokens were replaced" in render(corrupted)
    assert "observed tokens were replaced" not in render(data)


def test_tokens_of_a_mixture_are_told_by_task(demo):
    data = demo(problems=8)
    mixed = data.cells.with_columns(train_tokens_by_task=pl.lit('{"multiplication": 1200, "addition": 300}'))
    assert "tokens: addition 300, multiplication 1.20k" in render(replace(data, cells=mixed))
    alone = data.cells.with_columns(train_tokens_by_task=pl.lit('{"multiplication": 1200}'))
    assert "tokens: " not in render(replace(data, cells=alone))


@pytest.fixture
def crowded(demo, monkeypatch):
    """The demo's view when a page has room for 12 runs only."""
    monkeypatch.setattr("reports.view.MOST_RUNS", 12)
    monkeypatch.setattr("reports.cells.MOST_RUNS", 12)
    return View(demo(problems=4))


def test_of_very_many_runs_a_page_shows_the_first_seeds_of_everything(demo, crowded):
    groups, own = crowded.cells.group_by(aggregate.GROUP), crowded.single
    assert crowded.cells.height > own.height == 12
    every = groups.agg(pl.col("seed").sort()).rows_by_key(aggregate.GROUP, unique=True)
    kept = own.group_by(aggregate.GROUP).agg(pl.col("seed").sort()).rows_by_key(aggregate.GROUP, unique=True)
    assert all(seeds == every[group][0][: len(seeds)] for group, (seeds,) in kept.items())
    assert min(12, len(every)) == len(kept)  # everything once before anything twice
    assert own["cell"].to_list() == [cell for cell in crowded.cells["cell"] if cell in set(own["cell"])]


def test_a_page_of_very_many_runs_says_what_it_leaves_out(crowded):
    page = Page(render(crowded.data))
    said = f"Of {crowded.cells.height} runs 12 are shown one by one"
    for section in (verdict, curves, heat, summary, training, cost, cells):
        assert said in Page(section(crowded)).text, section
    tested = crowded.single.filter(pl.col("tested") > 0).height
    assert len([row for row in Page(heat(crowded)).elements if row[0] == "tr"]) == tested + len(crowded.facets)
    assert f"12 of {crowded.cells.height} cells" in page.text
    traces = [trace for figure in Page(curves(crowded)).figures for trace in figure["data"] if "meta" in trace]
    assert {trace["name"] for trace in traces} <= {run_name(line) for line in crowded.single.to_dicts()}
    assert tables(crowded)["cells.csv"][0].height == crowded.cells.height


def test_what_is_said_of_seeds_together_counts_the_runs_that_are_not_shown(demo, crowded):
    few = crowded.solved
    with pytest.MonkeyPatch.context() as roomy:
        roomy.setattr("reports.view.MOST_RUNS", 1_000)
        assert View(demo(problems=4)).solved.equals(few)
        assert "are shown one by one" not in render(demo(problems=4))

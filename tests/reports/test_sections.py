"""The sections beside accuracy against length: heat map, costs, budgets, seeds, robustness, the paper, downloads."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
from dataclasses import replace
from importlib import resources

import polars as pl
import pytest

from harness.schema import FLIPS
from reports.costs import cost
from reports.curves import curves
from reports.data import ReportData, frame
from reports.families import budgets, checkpoints, repeats
from reports.heat import DARK, heat
from reports.page import render
from reports.paper import paper
from reports.provenance import run
from reports.reported import EXHIBITS, NAMES
from reports.robustness import robustness
from reports.search import search
from reports.seeds import seeds
from reports.training import training
from reports.view import View
from tests.reports.test_page import Page


def figures_of(markup) -> list[dict]:
    return Page(markup).figures


def only(data: ReportData, *wanted: pl.Expr) -> ReportData:
    cells = data.cells.filter(*wanted)
    return replace(data, cells=cells, rows=data.rows.filter(pl.col("cell").is_in(cells["cell"].to_list())))


def again(data: ReportData, name: str, lost_from: int = 10**9, train: dict | None = None, **columns) -> ReportData:
    """The same runs once more under other ids: other columns and recipe, every problem from a length on lost."""
    config = [json.dumps(merged(json.loads(text), train or {}, columns)) for text in data.cells["config"]]
    named = pl.concat_str("cell", pl.lit(f"-{name}")).alias("cell")
    cells = data.cells.with_columns(
        named, *(pl.lit(value, data.cells.schema[key]).alias(key) for key, value in columns.items())
    )
    rows = data.rows.with_columns(named, pl.col("exact") & (pl.col("length") < lost_from))
    return replace(data, cells=cells.with_columns(pl.Series("config", config)), rows=rows)


def merged(config: dict, train: dict, columns: dict) -> dict:
    told = {key: value for key, value in columns.items() if key in ("seed", "replicate")}
    return {**config, **told, "train": {**config["train"], **train}}


def together(*parts: ReportData) -> ReportData:
    cells, rows = (pl.concat([getattr(part, name) for part in parts]) for name in ("cells", "rows"))
    return replace(parts[0], cells=cells, rows=rows)


@pytest.fixture(scope="module")
def plain(demo):
    """Two seeds of one architecture in one setting, both right up to 24."""
    data = only(demo(problems=8), pl.col("architecture") == "gru", pl.col("setting") == "interactive")
    return replace(data, rows=data.rows.with_columns((pl.col("length") <= 24).alias("exact")))


def test_the_heat_map_has_every_run_and_length(demo):
    data = demo(problems=8)
    view = View(data)
    parsed = Page(heat(view))
    coloured = [one for name in ("dark", "light") for one in parsed.with_class(name)]
    known = view.random.filter(pl.col("accuracy").is_not_null())
    assert len(coloured) == known.height
    titles = [one["title"] for one in coloured]
    line = known.filter((pl.col("cell") == "interactive-gru-1") & (pl.col("length") == 64)).row(0, named=True)
    assert any(title.startswith(f"length 64: {line['k']} of 8 [") for title in titles)
    assert {one["style"] for one in coloured if one["title"].startswith("length 1: 8 of 8")} == {"--share:1.000"}
    # Training lengths end at 4, so the line stands left of 5: in the head and in every row.
    rows = view.cells.filter(pl.col("tested") > 0).height
    assert len(parsed.with_class("edge")) == rows + len(view.facets)
    assert "1 unfit" in parsed.text
    assert heat(View(replace(data, rows=data.rows.clear()))) is None


def test_the_numbers_of_the_heat_map_can_be_read_at_every_share():
    sheet = resources.files("reports")
    colours = re.compile(r"(--\w+): light-dark\((#\w{6}), (#\w{6})\)")
    found = [colours.findall(sheet.joinpath(name).read_text(encoding="utf-8")) for name in ("page.css", "heat.css")]
    by_name = {name: shades for lines in found for name, *shades in lines}
    for theme in (0, 1):
        ink, raised, heat_ = (_rgb(by_name[name][theme]) for name in ("--ink", "--raised", "--heat"))
        for percent in range(101):
            paper = [one + (other - one) * percent / 100 for one, other in zip(raised, heat_)]
            text = (255, 255, 255) if percent / 100 >= DARK else ink
            assert _contrast(text, paper) >= 4, (theme, percent)


def _rgb(colour):
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]


def _contrast(*colours):
    """WCAG 2's ratio of two sRGB colours."""
    light = [
        sum(
            weight * (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
            for weight, part in zip((0.2126, 0.7152, 0.0722), [value / 255 for value in colour])
        )
        for colour in colours
    ]
    return (max(light) + 0.05) / (min(light) + 0.05)


def test_costs_are_drawn_against_length_and_accuracy_against_costs(demo):
    data = demo(problems=8)
    measured = data.rows.with_columns(peak_bytes=pl.lit(2**30), flops=pl.col("tokens") * 1e6)
    view = View(replace(data, rows=measured))
    titles = [one["layout"]["yaxis"]["title"]["text"] for one in figures_of(cost(view))]
    assert titles == [*[""] * 5, "right", "right", "reach"] * 3
    text = Page(cost(view)).text
    for name in (
        "Tokens of a problem",
        "FLOPs of a problem",
        "Seconds of a problem",
        "Peak memory",
        "State of a sequence",
    ):
        assert text.count(name) >= 3
    tokens, flops = figures_of(cost(view))[:2]
    assert len(tokens["data"]) == 7
    gru = next(trace for trace in tokens["data"] if trace["name"] == "gru")
    assert gru["y"][gru["x"].index(8)] == 35 * 8 + 48
    assert "mean of 2 seeds" in gru["hovertext"][0]
    assert next(trace for trace in flops["data"] if trace["name"] == "gru")["y"][0] == pytest.approx(83e6)
    right = figures_of(cost(view))[5]
    one = next(trace for trace in right["data"] if trace["name"] == "gru · seed 0")
    assert one["x"] == sorted(one["x"])
    assert one["y"][0] == 100
    assert one["meta"]["architecture"] == "gru"
    state = next(trace for trace in figures_of(cost(view))[7]["data"] if trace["name"] == "gru · seed 0")
    assert (state["x"], state["y"], state["marker"]["symbol"]) == ([768], [64], ["triangle-up"])


def test_flops_of_older_rows_are_told_where_the_state_does_not_grow(demo):
    data = demo(problems=8)
    grown = pl.when(pl.col("cell").str.contains("transformer")).then(pl.col("tokens") * 100).otherwise("state_bytes")
    view = View(replace(data, rows=data.rows.with_columns(grown.alias("state_bytes"))))
    flops = figures_of(cost(view))[1]
    assert {trace["name"] for trace in flops["data"]} == {"gru", "hybrid", "lstm", "mamba1", "mamba2", "sliding"}


def test_losses_are_drawn_against_tokens_and_budgets_stand_side_by_side(demo):
    view = View(demo(problems=4))
    drawn = figures_of(training(view))
    assert len(drawn) == 3
    assert drawn[0]["layout"]["xaxis"]["title"]["text"] == "training tokens"
    text = Page(training(view)).text
    assert "600 128" in text
    assert "5.40M" in text
    assert "What more training buys" not in text


def test_several_budgets_give_reach_against_tokens(plain):
    short = again(plain, "short", lost_from=8, train={"steps": 300}, train_steps=300, train_tokens=2_700_000)
    view = View(together(plain, short))
    drawn = figures_of(training(view))
    assert [one["layout"]["xaxis"]["title"]["text"] for one in drawn[-2:]] == ["training tokens", "training steps"]
    for trace in drawn[-2]["data"]:
        assert trace["x"] == [2_700_000, 5_400_000]
        assert trace["y"] == [6, 24]
        assert "2.70M training tokens: reach 6" in trace["hovertext"][0]
    assert {trace["name"] for trace in drawn[-2]["data"]} == {"gru · seed 0", "gru · seed 1"}
    at_lengths = figures_of(seeds(view))
    assert [trace["y"] for trace in at_lengths[0]["data"]] == [[0, 100]] * 2
    assert len(at_lengths) == 3


def test_late_checkpoints_are_told_from_budgets(plain):
    late = again(plain, "late", lost_from=8, train={"stop_after": 500}, train_steps=500)
    short = again(plain, "short", train={"steps": 300}, train_steps=300)
    view = View(together(plain, late, short))
    assert set(checkpoints(view.cells)["train_steps"]) == {500, 600}
    assert set(budgets(view.cells)["train_steps"]) == {300, 600}
    page = Page(seeds(view))
    assert "Reach across late checkpoints" in page.text
    assert "checkpoints of one schedule" in page.text
    assert all(trace["x"] == [500, 600] and trace["y"] == [6, 24] for trace in page.figures[0]["data"])
    assert not checkpoints(View(plain).cells).height
    assert not budgets(View(plain).cells).height


def test_the_spread_is_over_seeds_and_replicates_are_apart(plain):
    assert "gru 2 of 2 24 100% 100%" in Page(seeds(View(plain))).text
    other = again(plain, "again", lost_from=8, replicate=1, checkpoint="other")
    view = View(together(plain, other))
    assert repeats(view.cells)["repeats"].n_unique() == 2
    text = Page(seeds(view)).text
    assert "gru 2 of 2 24 100% 100%" in text
    assert "4 runs differ by up to 100.0 points at one length" in text
    same = again(plain, "again", replicate=1)
    assert "4 runs: the same weights 2 seeds" in Page(seeds(View(together(plain, same)))).text
    assert seeds(View(only(plain, pl.col("seed") == 0))) is None


def test_verdicts_judged_again_are_counted_and_near_ties_told(plain):
    differs = "precision bf16 instead of float32"
    point = {"cell": "interactive-gru-0", "evaluation": "e2", "differs": differs, "stress": "random"}
    flips = [
        {**point, "length": 4, "n": 100, "lost": 3, "gained": 1, "tied": 2},
        {**point, "length": 8, "n": 100, "lost": 0, "gained": 0, "tied": 0},
    ]
    unlike = pl.when(pl.col("index") == 0).then(pl.lit(False)).alias("replay_equal")
    data = replace(plain, flips=frame(FLIPS, flips), rows=plain.rows.with_columns(unlike))
    text = Page(robustness(View(data))).text
    assert f"gru {differs} 200 4 2.00% 0.5%–5.0%" in text
    assert "3 1 2 of 4" in text
    assert "a scan 48 48 100.00% 92.6%–100.0% – – 0 of 48" in text
    silent = replace(plain, rows=plain.rows.with_columns(pl.lit(None, dtype=pl.Boolean).alias("replay_equal")))
    assert robustness(View(silent)) is None


def test_recipes_of_one_architecture_get_panels_of_their_own(plain):
    assert len(figures_of(curves(View(plain)))) == 2
    short = again(plain, "short", train={"steps": 1200}, train_steps=1200)
    page = Page(curves(View(together(short, plain))))
    assert len(page.figures) == 4
    assert page.text.index("train.steps=600") < page.text.index("train.steps=1200")
    assert all(len(one["data"]) == 2 for one in page.figures)


def searched() -> list[dict]:
    tried = [
        {
            "recipe": {"train.learning_rate": 0.01},
            "trials": ["a"],
            "exact": 0.25,
            "loss": 0.7,
            "flops": 1e9,
            "failed": 0,
        },
        {
            "recipe": {"train.learning_rate": 0.001},
            "trials": ["b"],
            "exact": 1.0,
            "loss": 0.1,
            "flops": 1e9,
            "failed": 0,
        },
        {
            "recipe": {"train.learning_rate": 0.1},
            "trials": ["c"],
            "exact": 0.0,
            "loss": None,
            "flops": None,
            "failed": 1,
        },
    ]
    record = {"name": "n", "rule": "the rule", "winner": {"train.learning_rate": 0.001}, "tried": tried}
    return [{"name": "addition gru", "record": record}, {"name": "addition lstm", "record": None}]


def test_the_search_says_the_rule_and_shows_every_trial(plain):
    text = Page(search(View(replace(plain, grid={"search": searched()})))).text
    assert "the winner has the rule" in text
    assert "learning_rate 0.001 3 recipes × 1 seed 100% 0.1 1 of 3" in text
    assert "addition lstm not decided yet" in text
    tried = text[text.index("All 3 recipes tried for addition gru") :]
    assert tried.index("0.001 chosen 100.0%") < tried.index("0.01 25.0%") < tried.index("0.1 0.0%")
    assert search(View(plain)) is None


def test_the_paper_stands_beside_ours_where_the_training_is_the_same(plain):
    assert paper(View(plain)) is None
    five = replace(plain, cells=plain.cells.with_columns(max_length=pl.lit(5), architecture=pl.lit("mamba1")))
    long = pl.when(pl.col("length") == 64).then(1000).otherwise("length").alias("length")
    five = replace(five, rows=five.rows.with_columns(long))
    text = Page(paper(View(five))).text
    assert "Figure 2: addition" in text
    assert "mamba1 addition, Mamba 5 → 1,000 (100%) 5 → 24 (100%) best of 2 runs 0% 0% at 1,000 0 of 2" in text
    assert "Not in this grid: addition LSTM" in text
    short = replace(five, rows=five.rows.filter(pl.col("length") < 1000))
    assert "best of 2 runs 0% 0% at 32 –" in Page(paper(View(short))).text
    assert "Tables 1 and 2" not in text
    whole = replace(five, rows=five.rows.with_columns(pl.lit(True).alias("exact")))
    assert "5 → 1,000 (100%) best of 2 runs 100% 100% at 1,000 2 of 2" in Page(paper(View(whole))).text
    localised = replace(five, cells=five.cells.with_columns(form=pl.lit("localised")))
    assert paper(View(localised)) is None


def test_every_claim_of_the_paper_is_of_something_that_exists():
    from models import ARCHITECTURES
    from tasks import TASKS
    from tasks.scenario import Scenario

    claims = [claim for exhibit in EXHIBITS for claim in exhibit.claims]
    assert len(claims) > 50
    for claim in claims:
        assert claim.architecture in NAMES.keys() & ARCHITECTURES.keys()
        assert claim.task in TASKS
        assert claim.stress in {"random", *Scenario(claim.task, claim.setting).task.stress}
        assert (claim.share is not None) or claim.said


def test_the_tables_can_be_saved_from_the_page(demo):
    data = demo(problems=4)
    view = View(data)
    links = [attributes for tag, attributes in Page(run(view)).elements if tag == "a" and "download" in attributes]
    saved = {}
    for link in links:
        kind, _, content = link["href"].partition(",")
        assert kind == "data:application/gzip;base64"
        saved[link["download"].removesuffix(".gz")] = pl.read_csv(
            io.BytesIO(gzip.decompress(base64.b64decode(content))), infer_schema_length=None
        )
    assert set(saved) == {"points.csv", "cells.csv", "seeds.csv"}
    assert saved["cells.csv"].height == data.cells.height
    points = saved["points.csv"].filter(pl.col("length").is_not_null())
    assert points.height == view.points.height
    assert sorted(points["exact_k"]) == sorted(view.points["exact_k"])


def test_the_whole_page_has_the_sections_that_have_data(plain):
    late = again(plain, "late", train={"stop_after": 500}, train_steps=500)
    page = Page(render(together(plain, late)))
    ids = {attributes["id"] for tag, attributes in page.elements if tag == "section"}
    assert {"heat", "training", "cost", "seeds", "robustness", "run"} <= ids
    assert not {"paper", "search"} & ids

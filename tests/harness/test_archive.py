"""Grids in folders to commit: nothing lost, nothing doubled, weights not mixed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness import archive
from harness.bench.simulate import TEXT, simulate
from harness.cli import app
from harness.collect import report_data
from harness.errors import UserError
from harness.grid import load
from harness.store import Store

SMALL = ["task=[addition]", "setting=[interactive]", "architecture=[mamba1, gru]", "seed=[0, 1]"]
LENGTHS = ["evaluate.lengths=[5, 20, 80]", "evaluate.problems=20"]
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def grid(tmp_path):
    (tmp_path / "simulated.yaml").write_text(TEXT)
    return load(str(tmp_path / "simulated.yaml"), [*SMALL, *LENGTHS])


def filled(path, grid):
    store = Store(str(path)).open(create=True)
    simulate(grid, store, failed_every=None)
    return store


def same(one, other):
    for name in ("cells", "rows", "curves", "attempts"):
        assert getattr(one, name).equals(getattr(other, name)), name


def test_a_published_grid_makes_the_same_report(tmp_path, grid):
    store = filled(tmp_path / "store", grid)
    assert archive.publish(grid, store, tmp_path / "out") == 4 * 3 * 20
    assert {path.name for path in (tmp_path / "out").iterdir()} == {archive.GRID, archive.DOCUMENTS, *archive.TABLES}
    with archive.opened(str(tmp_path / "out")) as (again, held):
        assert [cell.id for cell in again.cells] == [cell.id for cell in grid.cells]
        same(report_data(again, held), report_data(grid, store))


def test_publishing_again_adds_what_is_new_and_doubles_nothing(tmp_path, grid):
    for place, cells in enumerate((grid.cells[:3], grid.cells[2:])):
        archive.publish(grid, filled(tmp_path / f"store{place}", replace(grid, cells=cells)), tmp_path / "out")
    whole = filled(tmp_path / "whole", grid)
    with archive.opened(str(tmp_path / "out")) as (again, held):
        same(report_data(again, held), report_data(grid, whole))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    archive.publish(grid, whole, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_rows_of_other_weights_are_refused(tmp_path, grid):
    store = filled(tmp_path / "store", grid)
    archive.publish(grid, store, tmp_path / "out")
    name = f"cells/{grid.cells[0].id}/published.json"
    store.write(name, json.dumps({**json.loads(store.read(name)), "checkpoint": "f" * 32}).encode())
    with pytest.raises(UserError, match=f"cell {grid.cells[0].id} is in it with other weights"):
        archive.publish(grid, store, tmp_path / "out")


@pytest.mark.parametrize("less", ["seed=[1]", "evaluate.lengths=[5]", "evaluate.problems=10", "evaluate.budget=2"])
def test_a_grid_that_would_hide_rows_is_refused(tmp_path, grid, less):
    store = filled(tmp_path / "store", grid)
    archive.publish(grid, store, tmp_path / "out")
    narrower = load(str(tmp_path / "simulated.yaml"), [*SMALL, *LENGTHS, less])
    with pytest.raises(UserError, match=r"has not|does not ask for"):
        archive.publish(narrower, store, tmp_path / "out")


@pytest.mark.parametrize("file", [archive.DOCUMENTS, "rows.parquet"])
def test_damage_is_told_in_a_line(tmp_path, grid, file):
    archive.publish(grid, filled(tmp_path / "store", grid), tmp_path / "out")
    path = tmp_path / "out" / file
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged") as caught, archive.opened(str(tmp_path / "out")):
        pass
    assert "\n" not in str(caught.value)


def test_the_commands_publish_and_report(tmp_path, grid):
    filled(tmp_path / "store", grid)
    sets = [part for item in (*SMALL, *LENGTHS) for part in ("--set", item)]
    out = tmp_path / "page" / "simulated"
    command = [
        "publish",
        str(tmp_path / "simulated.yaml"),
        "--store",
        str(tmp_path / "store"),
        "--out",
        str(out),
        *sets,
    ]
    assert CliRunner().invoke(app, command).output.startswith("240 rows")
    assert CliRunner().invoke(app, ["report", str(out)]).exit_code == 0
    assert CliRunner().invoke(app, ["status", str(out)]).output.endswith("4 done\n")
    assert "Simulated results" in (out / "report.html").read_text()

    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results: simulated -->\n<!-- end of results -->\nafter\n")
    assert CliRunner().invoke(app, ["results", str(page), "--check"]).exit_code != 0
    assert CliRunner().invoke(app, ["results", str(page)]).exit_code == 0
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert sum(line.startswith(("| mamba1 |", "| gru |")) for line in lines) == 4
    assert CliRunner().invoke(app, ["results", str(page), "--check"]).exit_code == 0
    page.write_text("<!-- results: nothing -->\n<!-- end of results -->\n")
    result = CliRunner().invoke(app, ["results", str(page)])
    assert "nothing is no grid here" in str(result.exception)


def test_our_page_of_results_says_what_the_committed_rows_say():
    result = CliRunner().invoke(app, ["results", str(DOCS / "results.md"), "--check"])
    assert result.exit_code == 0, result.exception
    assert "<!-- results: paper -->" in (DOCS / "results.md").read_text()

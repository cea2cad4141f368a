"""From a store to a report's tables, on simulated stores: everything asked for, once, and nothing else."""

from __future__ import annotations

from operator import itemgetter

import pytest
from scipy import stats

from harness.bench.simulate import TEXT, accuracy, simulate
from harness.collect import report_data, rows_of, tables, whole_row
from harness.errors import UserError
from harness.grid import load
from harness.schema import ROWS
from harness.store import Store
from reports.aggregate import points
from reports.data import COUNTED

SMALL = ["task=[addition]", "setting=[interactive, direct]", "architecture=[mamba1, gru]", "seed=[0, 1]"]
LENGTHS = ["evaluate.lengths=[5, 20, 80]", "evaluate.problems=60"]


def grid_of(folder, *sets):
    (folder / "simulated.yaml").write_text(TEXT)
    return load(str(folder / "simulated.yaml"), [*SMALL, *LENGTHS, *sets])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("simulated")


@pytest.fixture(scope="module")
def store(folder):
    store = Store(str(folder / "store")).open(create=True)
    simulate(grid_of(folder), store)
    return store


def test_the_points_are_drawn_from_the_stated_truth(folder, store):
    grid = grid_of(folder)
    data = report_data(grid, store)
    assert data.rows.height == 8 * 3 * 60
    assert data.curves["cell"].n_unique() == 8
    found = points(data.rows, data.cells)
    truth = {(cell.id, length): accuracy(cell, length) for cell in grid.cells for length in (5, 20, 80)}
    assert len({round(value, 3) for value in truth.values()}) > 8
    for cell, length, k, n in found.select("cell", "length", "k", "of").iter_rows():
        assert stats.binomtest(k, n, truth[cell, length]).pvalue > 1e-4


def test_rows_are_those_of_the_store_in_the_columns_that_are_counted(folder, store):
    grid = grid_of(folder)
    records = [row for cell in grid.cells for row in rows_of(cell, grid.evaluate(cell), store)]
    rows = report_data(grid, store).rows
    assert set(rows.columns) == set(COUNTED)
    assert rows.to_dicts() == [{name: row[name] for name in ROWS if name in COUNTED} for row in records]
    further = tables(grid, store, ["problem"]).rows
    assert further["problem"].to_list() == [row["problem"] for row in records]


def test_failed_problems_are_shown_with_everything_that_their_rows_hold(folder, store):
    grid = grid_of(folder)
    key = itemgetter("cell", "length", "stress", "index")
    records = {key(row): row for cell in grid.cells for row in rows_of(cell, grid.evaluate(cell), store)}
    shown = [failure.row for failure in report_data(grid, store).failures]
    assert len({row["length"] for row in shown}) == 3
    assert all(row["question"] and row["failure"] for row in shown)
    assert shown == [{name: value for name, value in records[key(row)].items() if name != "rollout"} for row in shown]


def test_only_what_the_grid_asks_for_is_read(folder, store):
    fewer = grid_of(folder, "seed=[1]", "evaluate.lengths=[5, 80]", "evaluate.problems=7")
    rows = report_data(fewer, store).rows
    assert rows.height == 4 * 2 * 7
    assert set(rows["length"]) == {5, 80}
    assert rows["index"].max() == 6
    assert report_data(grid_of(folder, "evaluate.budget=2"), store).rows.is_empty(), "other settings, other rows"


def test_a_problem_in_two_files_counts_once(folder, tmp_path):
    grid = grid_of(folder, "seed=[0]", "setting=[direct]", "architecture=[gru]", "evaluate.lengths=[5]")
    store = Store(str(tmp_path)).open(create=True)
    simulate(grid, store)
    [cell] = grid.cells
    [extent] = store.extents(cell.id)
    overlap = store.read_table(f"cells/{cell.id}/rows/{extent.file}", ROWS)[50:]
    more = [{**overlap[0], "index": index} for index in range(60, 70)]
    store.write_rows(cell.id, extent._replace(start=50, stop=70), overlap + more)

    assert report_data(grid, store).rows["index"].sort().to_list() == list(range(60))
    evaluate, of = grid.evaluate(cell), {"length": 5, "stress": "random"}
    assert [whole_row(cell, evaluate, store, {**of, "index": index})["index"] for index in (0, 55, 59)] == [0, 55, 59]


def test_a_torn_file_is_named(folder, tmp_path):
    grid = grid_of(folder, "seed=[0]", "setting=[direct]", "architecture=[gru]")
    store = Store(str(tmp_path)).open(create=True)
    simulate(grid, store)
    path = next((tmp_path / "cells" / grid.cells[0].id / "rows").iterdir())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"rows/.*parquet.*move it away"):
        report_data(grid, store)


def test_no_truth_is_made_up_for_other_settings(folder, tmp_path):
    grid = grid_of(folder, "setting=[direct_reversed]")
    with pytest.raises(UserError, match="direct_reversed"):
        simulate(grid, Store(str(tmp_path)).open(create=True))

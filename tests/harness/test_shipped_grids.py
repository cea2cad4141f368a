"""Every grid that comes with Lengthwise: it expands, in both sizes, and `plan` says what it would take."""

import math
from pathlib import Path

import pytest

from harness import grid as grids
from harness.plan import print_plan
from harness.search import choices
from tasks.turing import MACHINES

SHIPPED = sorted(path.stem for path in (Path(grids.__file__).parent / "grids").glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_plan_prints_cells_points_parameters_tokens_and_flops(name, capsys):
    grid = grids.load(name)
    assert grid.file.name == name, "a shipped grid is named like its file: results lie under that name"
    assert grid.file.title
    assert grid.file.description
    print_plan(grid, None)
    *lines, total, price = capsys.readouterr().out.splitlines()
    for column in ("cell", "to do", "parameters", "train tokens", "FLOPs", "evaluate tokens"):
        assert column in lines[0]
    points = sum(len(evaluate.lengths) * (1 + len(evaluate.stress)) for evaluate in map(grid.evaluate, grid.cells))
    assert f"{len(grid.cells)} of {len(grid.cells)} cells to train, {points} of {points} points" in total
    assert price.startswith("takes ")
    assert "from measured speeds" in price
    searches = [line for line in lines if line.startswith("search: ")]
    assert len(searches) == (len(choices(grid)) + 1 if grid.file.search else 0)
    listed = [line for line in lines[1:] if line not in searches]
    assert all(cell.id in line for cell, line in zip(grid.cells, listed, strict=True))


@pytest.mark.parametrize("name", [name for name in SHIPPED if not name.endswith("_small")])  # those have one size
def test_the_tiny_form_is_for_a_cpu(name):
    """Small presets in float32, and work that a CPU can do: the longest trajectory is bounded."""
    from harness.plan import point_tokens

    grid = grids.load(name, ["size=tiny"])
    for cell in grid.cells:
        assert (cell.config.size, cell.config.precision) == ("tiny", "float32")
        assert point_tokens(cell.config, max(grid.evaluate(cell).lengths)) < 20_000


def test_the_tables_of_the_paper():
    """Tasks, lengths and training lengths of the study (tables 1 and 2, figure 2)."""
    trained = {"addition": 5, "multiplication": 10, "logical_graph": 10, "hanoi": 8, "hanoi_recursive": 7}
    longest = {"addition": 1000, "multiplication": 1000, "logical_graph": 1000, "hanoi": 12, "hanoi_recursive": 12}
    found = set()
    for name in ("figure2", "table1", "table2"):
        grid = grids.load(name)
        for cell in grid.cells:
            task = cell.config.task
            found.add((task, cell.config.architecture))
            assert (cell.config.size, cell.config.form, cell.config.setting) == ("paper", "faithful", "interactive")
            assert cell.config.train.max_length == trained[task]
            assert max(grid.evaluate(cell).lengths) == longest[task]
            if task == "multiplication":
                assert {"x1", "x2"} <= set(grid.evaluate(cell).stress)
        search = grid.file.search
        assert search is not None
        assert math.prod(map(len, search.axes.values())) * len(search.seeds) == 96
        assert choices(grids.load(name, ["size=tiny"])) == [], "a CPU is spared the search"
    for task in trained:
        assert {name for at, name in found if at == task} >= {"mamba1", "lstm", "gru", "transformer", "sliding"}
    assert ("addition", "hybrid") in found


@pytest.mark.parametrize("name", ["fair_addition", "fair_multiplication"])
def test_transformers_get_every_position_encoding_and_window(name):
    options = [(cell.config.architecture, cell.config.model) for cell in grids.load(name).cells]
    positions = {"rotary", "none", "alibi", "randomised"}
    windows = {(model["window"], model["positions"]) for kind, model in options if kind == "sliding"}
    assert windows == {(window, encoding) for window in (32, 64, 128, 256, 512) for encoding in positions}
    assert {model["positions"] for kind, model in options if kind == "transformer"} == positions


def test_recurrent_memory_has_two_segment_lengths_beside_hybrid_and_mamba():
    for sets in ([], ["size=tiny"]):
        cells = [cell.config for cell in grids.load("hybrid_rmt", sets).cells]
        assert {cell.architecture for cell in cells} == {"mamba1", "hybrid", "rmt"}
        assert {cell.model["segment"] for cell in cells if cell.architecture == "rmt"} == {32, 128}


def test_every_machine_has_the_learner_of_the_theorem():
    cells = [cell.config for cell in grids.load("turing").cells]
    machines = {path.stem for path in MACHINES.glob("*.yaml")}
    assert {cell.task for cell in cells if cell.architecture == "lookup"} == machines

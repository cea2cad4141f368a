"""`lengthwise compare`: references, exit status, text and page."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from harness.cli import app, main
from harness.grid import load
from harness.schema import ROWS
from harness.store import Extent, Store

GRID = """
name: {name}
base: {{architecture: gru, train: {{max_length: 2, steps: {steps}}}}}
axes: {{seed: [0, 1, 2, 3, 4]}}
evaluate: {{lengths: [2, 4, 8], problems: 20{more}}}
"""


def published(folder, store, right, name="small", steps=5, more="", weights="a"):
    """A store in which every cell of a small grid is done, with so many problems right at each length."""
    from harness.grid import evaluation_id

    path = folder / f"{name}.yaml"
    path.write_text(GRID.format(name=name, steps=steps, more=more))
    grid, opened = load(str(path)), Store(str(folder / store)).open(create=True)
    opened.write(f"grids/{name}/grid.yaml", grid.text.encode())
    for cell in grid.cells:
        checkpoint = f"{weights}{cell.config.seed}" * 16
        opened.create(f"cells/{cell.id}/published.json", b'{"checkpoint": "%s", "fit": true}' % checkpoint.encode())
        opened.write_curve(cell.id, checkpoint, [])
        evaluate = grid.evaluate(cell)
        for length, k in zip(evaluate.lengths, right):
            row = {"cell": cell.id, "checkpoint": checkpoint, "evaluation": evaluation_id(evaluate), "length": length}
            rows = [row | {"stress": "random", "index": i, "problem": str(i), "exact": i < k} for i in range(20)]
            assert rows[0].keys() <= ROWS.keys()
            opened.write_rows(cell.id, Extent(checkpoint, evaluation_id(evaluate), length, "random", 0, 20), rows)
    return str(path)


def invoke(*arguments):
    result = CliRunner().invoke(app, ["compare", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def fails(capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["lengthwise", "compare", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_retrained_grids_in_two_stores(tmp_path):
    published(tmp_path, "old", (20, 20, 20))
    published(tmp_path, "new", (20, 10, 0), weights="b")
    old, new = f"{tmp_path / 'old'}:small", f"{tmp_path / 'new'}:small"
    worse = invoke(old, new)
    assert worse.exit_code == 1
    assert "(retrained)" in worse.output
    assert "5 → 5" in worse.output
    assert "worse: gru" in worse.output
    page = tmp_path / "new/grids/small/compared-with-small.html"
    assert f"comparison: {page}" in worse.output.replace("\n", "")
    assert page.read_text().count('class="plot"') == 2
    better = invoke(new, old)
    assert (better.exit_code, "better: gru" in better.output) == (0, True)
    same = invoke(old, old)
    assert (same.exit_code, "nothing moved beyond chance" in same.output) == (0, True)


def test_grids_of_one_store_and_what_changed_between_them(tmp_path):
    published(tmp_path, "store", (20, 20, 20), "before")
    after = published(tmp_path, "store", (20, 20, 20), "after", steps=6, weights="b")
    out = tmp_path / "page.html"
    result = invoke("before", after, "--store", str(tmp_path / "store"), "--out", str(out))
    assert result.exit_code == 0
    assert "after against before" in result.output
    assert "train.steps: 5 → 6" in result.output
    assert "train.steps" in out.read_text()


def test_the_same_weights_evaluated_otherwise_are_paired(tmp_path):
    published(tmp_path, "store", (20, 20, 20), "before")
    published(tmp_path, "store", (20, 20, 9), "after", more=", precision: bf16")
    result = invoke("before", "after", "--store", str(tmp_path / "store"))
    assert result.exit_code == 1
    assert "(checkpoints)" in result.output
    assert "evaluate.precision: float32 → bf16" in result.output
    assert "worse: gru, seed 0, length 8" in result.output
    by_runs = invoke("before", "after", "--store", str(tmp_path / "store"), "--mode", "retrained")
    assert "(retrained)" in by_runs.output


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["small"], ["name two grids or more"]),
        (["small", "nowhere"], ["nowhere", "no such grid"]),
        (["small", "nowhere:small"], ["nowhere", "no Lengthwise store"]),
        (["small", "small", "--mode", "paired"], ["paired", "checkpoints", "retrained"]),
        (["small", "small", "--out", "/nonexistent/x.html"], ["/nonexistent/x.html"]),
    ],
)
def test_mistakes_get_one_line_and_exit_status_2(capsys, monkeypatch, tmp_path, arguments, parts):
    published(tmp_path, "store", (20, 20, 20))
    error = fails(capsys, monkeypatch, *arguments, "--store", str(tmp_path / "store"))
    for part in parts:
        assert part in error

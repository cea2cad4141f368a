"""The command line: light, and clear about mistakes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli import app, main
from harness.grid import load
from harness.store import Store

SMALL = """
name: small
base: {architecture: gru, train: {max_length: 2, steps: 5, batch: 16, validation: 8}}
axes: {seed: [0, 1]}
evaluate: {lengths: [1, 2], problems: 3}
"""


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return str(path)


def invoke(*arguments):
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def fails(capsys, monkeypatch, *arguments):
    """Run it as the console script would; returns the one line on standard error."""
    monkeypatch.setattr(sys, "argv", ["lengthwise", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.count("\n") == 1, error
    return error


def test_importing_the_harness_is_light():
    heavy = ["torch", "ray", "mlflow", "polars", "plotly", "pandas", "numpy", "pydantic"]
    code = f"import harness, harness.cli, sys; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_training_needs_neither_ray_nor_mlflow_nor_polars(tmp_path):
    code = f"""
import sys
for name in ("ray", "mlflow", "polars", "plotly"):
    sys.modules[name] = None
from harness.grid import load
from harness.config import Run
from harness.store import Store
from harness.work import run_cell
grid = load({str(tmp_path / "small.yaml")!r})
run_cell(grid.cells[0], grid.file.evaluate, Run(), Store({str(tmp_path / "store")!r}).open(create=True), "a")
"""
    (tmp_path / "small.yaml").write_text(SMALL)
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lists():
    assert "mamba1" in invoke("models").output
    assert "interactive: pointer" in invoke("tasks").output
    assert "calculator" in invoke("tools").output


def test_trace_prints_the_trajectory():
    output = invoke("trace", "addition", "--length", "3", "--setting", "single_turn").output
    assert "[CALL]" in output
    assert "[EOS]" in output


def test_plan_counts_what_is_left(grid, tmp_path):
    from harness.config import Run
    from harness.work import run_cell

    store = str(tmp_path / "store")
    output = invoke("plan", grid, "--store", store).output
    assert "2 of 2 cells to train, 4 of 4 points" in output
    loaded = load(grid)
    run_cell(loaded.cells[0], loaded.file.evaluate, Run(), Store(store).open(create=True), "a")
    output = invoke("plan", grid, "--store", store).output
    assert "1 of 2 cells to train, 2 of 4 points" in output
    status = invoke("status", grid, "--store", store).output
    assert re.search(r"1 done.*1 waiting|1 waiting.*1 done", status)


def test_the_report_can_be_written_from_a_partial_store(grid, tmp_path):
    Store(str(tmp_path / "store")).open(create=True)
    out = tmp_path / "report.html"
    invoke("report", grid, "--store", str(tmp_path / "store"), "--out", str(out))
    assert "<html" in out.read_text()


def test_the_report_in_other_formats(grid, tmp_path):
    store, folder = str(tmp_path / "store"), tmp_path / "out" / "paper"
    Store(store).open(create=True)
    said = invoke("report", grid, "--store", store, "--format", "csv, latex").output
    beside = f"{store}/grids/small"
    assert said.splitlines() == [f"report: {beside}/points.csv", f"report: {beside}/tables.tex"]
    assert sorted(os.listdir(beside)) == ["points.csv", "tables.tex"]
    invoke("report", grid, "--store", store, "--format", "csv,parquet", "--out", str(folder))
    assert sorted(os.listdir(folder)) == ["points.csv", "points.parquet"]
    invoke("report", grid, "--store", store, "--format", "latex", "--out", str(folder))
    invoke("report", grid, "--store", store, "--format", "latex", "--out", str(tmp_path / "my.tex"))
    assert (folder / "tables.tex").read_text().count("\\toprule") == 2
    assert "\\toprule" in (tmp_path / "my.tex").read_text()


def test_without_a_browser_the_other_formats_are_written(capsys, monkeypatch, grid, tmp_path):
    store = str(tmp_path / "store")
    Store(store).open(create=True)
    monkeypatch.setenv("PATH", "/nonexistent")
    error = fails(capsys, monkeypatch, "report", grid, "--store", store, "--format", "png,csv")
    assert "--format png: no Chromium or Google Chrome is on the path" in error
    assert os.listdir(f"{store}/grids/small") == ["points.csv"]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["report", "GRID", "--format", "html,pdf"], ["--format", "'pdf'", "csv, html, latex, parquet, png"]),
        (["plan", "nowhere.yaml"], ["nowhere.yaml", "demo"]),
        (["plan", "GRID", "--set", "train.step=3"], ["train.step", "train.steps"]),
        (["status", "GRID", "--store", "/nonexistent/store"], ["/nonexistent/store", "no Lengthwise store"]),
        (["trace", "adition"], ["adition", "addition"]),
        (["trace", "addition", "--setting", "interactive", "--tool", "calculator"], ["calculator", "pointer"]),
        (["trace", "addition", "--stress", "nines"], ["nines", "carries"]),
    ],
)
def test_mistakes_get_one_line_and_exit_status_2(capsys, monkeypatch, grid, arguments, parts):
    error = fails(capsys, monkeypatch, *[grid if argument == "GRID" else argument for argument in arguments])
    for part in parts:
        assert part in error


def test_a_folder_with_packages_of_the_same_names_does_no_harm(tmp_path):
    for name in ("models", "tasks", "tools", "reports"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('the wrong one')")
    command = [sys.executable, "-c", "from harness.cli import main; main()", "plan", "demo"]
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_report_that_cannot_be_written_is_said(capsys, monkeypatch, grid, tmp_path):
    Store(str(tmp_path / "store")).open(create=True)
    error = fails(
        capsys, monkeypatch, "report", grid, "--store", str(tmp_path / "store"), "--out", "/nonexistent/x.html"
    )
    assert "/nonexistent/x.html" in error


def test_links_in_the_documents_lead_somewhere():
    root = Path(__file__).parents[2]
    for page in (*root.glob("*.md"), *root.glob("docs/*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_a_damaged_row_file_stops_the_report_not_the_store(capsys, monkeypatch, grid, tmp_path):
    from harness.config import Run
    from harness.work import run_cell

    store = Store(str(tmp_path / "store")).open(create=True)
    loaded = load(grid)
    run_cell(loaded.cells[0], loaded.file.evaluate, Run(), store, "a")
    extent = store.extents(loaded.cells[0].id)[0]
    path = tmp_path / "store/cells" / loaded.cells[0].id / "rows" / extent.file
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    error = fails(capsys, monkeypatch, "report", grid, "--store", store.url)
    assert extent.file in error
    assert "move it away" in error
    path.unlink()
    run_cell(loaded.cells[0], loaded.file.evaluate, Run(), store, "b")
    assert len(list(store.rows(loaded.cells[0].id))) == 6

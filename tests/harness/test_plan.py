"""What a plan says: hours from speeds that were measured, and how they are known; a grid finished is left alone."""

import json

import pytest

from harness.bench.simulate import simulate
from harness.errors import UserError
from harness.finished import finish, stands
from harness.grid import parse
from harness.plan import hours as hours_of
from harness.plan import print_plan, print_status, remaining
from harness.store import Store
from harness.throughput import Hours, Throughput, refuse

TEXT = """
name: g
base: {{size: {size}, train: {{max_length: 2, steps: 100, batch: 8}}}}
axes: {{architecture: [gru, lstm], seed: [{seeds}]}}
evaluate: {{lengths: [1, 2], problems: 4}}
run: {{gpus: {gpus}}}
"""


def grid(size="tiny", seeds="0", gpus=0):
    return parse(TEXT.format(size=size, seeds=seeds, gpus=gpus), "g.yaml")


def hours(asked, store):
    return hours_of(remaining(asked, store), store)


@pytest.fixture
def store(tmp_path):
    """A store in which gru and lstm were trained on a CPU, at 1,000 tokens a second, and their rows took 2 s each."""
    opened = Store(str(tmp_path / "store")).open(create=True)
    simulate(grid(seeds="0"), opened, failed_every=None)
    for cell in grid().cells:
        known = {"config": cell.config.model_dump()}
        opened.create(f"cells/{cell.id}/cell.json", json.dumps(known).encode())
        summary = opened.published(cell.id)
        summary.update(train_tokens=50_000, train_seconds=50.0, train_device="cpu x86_64", flops_per_token=1e6)
        opened.write(f"cells/{cell.id}/published.json", json.dumps(summary).encode())
    return opened


def test_the_hours_of_known_kinds_are_tokens_over_measured_speed(store):
    asked = grid(seeds="0, 1")  # two cells are done, two of the same kinds are not
    needed = hours(asked, store)
    training = Throughput(store).seconds(asked.cells[0].config, "cpu", "train", 1000.0, 0.0)
    assert training == (pytest.approx(1.0), "1 such in this store, on cpu x86_64")
    assert needed.gpu == 0
    assert needed.unknown == 0
    assert sum(needed.sources.values()) == 2
    assert hours(grid(), store).sources == {}
    assert str(hours(grid(), store)) == "no time: nothing is left to do"


def test_where_nothing_is_left_to_do_no_speed_is_looked_up(store, monkeypatch):
    """It would be the rows of 200 cells that are opened."""
    asked = grid()
    monkeypatch.setattr(Store, "arrow", lambda *_: pytest.fail("rows were read"))
    assert str(hours(asked, store)) == "no time: nothing is left to do"


def test_other_kinds_take_the_flops_of_their_size(store):
    other = parse(TEXT.format(size="tiny", seeds="0", gpus=0).replace("[gru, lstm]", "[mamba2]"), "g.yaml")
    seconds, source = Throughput(store).seconds(other.cells[0].config, "cpu", "train", 1.0, 6e9)
    assert seconds == pytest.approx(6e9 / (2 * 3 * 50_000 * 1e6 / 100.0))
    assert source == "the FLOP/s of size tiny, cpu x86_64"


def test_a_gpu_is_not_measured_by_a_cpu(store):
    needed = hours(grid(seeds="0, 1", gpus=1), store)
    assert (needed.unknown, needed.sources) == (2, {})
    assert "2 cells not counted: nothing like them was measured" in str(needed)
    with pytest.raises(UserError, match="--max-gpu-hours 5: the grid takes unknown time"):
        refuse(needed, 5)


def test_the_papers_size_has_a_first_guess_and_shares_of_a_gpu_count_as_such():
    whole, quarter = hours(grid("paper", gpus=1), None), hours(grid("paper", gpus=0.25), None)
    assert whole.gpu > 0
    assert quarter.gpu == pytest.approx(whole.gpu / 4)
    assert "mamba1 on one H200, docs/benchmarks.md" in str(whole)


def test_more_hours_than_allowed_are_refused():
    refuse(Hours(4.9, 0, {"x": 1}), 5)
    refuse(Hours(500, 0, {}), None)
    with pytest.raises(UserError, match=r"--max-gpu-hours 5: the grid takes 5.1 GPU-hours, from measured speeds"):
        refuse(Hours(5.1, 0, {"x": 1}), 5)


def test_plan_and_status_say_a_line_a_cell(store, capsys):
    print_plan(grid(seeds="0, 1"), store)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 4 + 2
    head = "cell id to do parameters train tokens FLOPs evaluate tokens FLOPs"
    assert " ".join(lines[0].split()) == head
    assert lines[-1].startswith("takes ")
    assert len({len(line) for line in lines[1:5]}) == 1, "numbers stand below one another"
    print_status(grid(seeds="0, 1"), store)
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == "2 done, 2 waiting"


def test_a_finished_grid_stands_until_something_changes(store, monkeypatch):
    monkeypatch.setattr("harness.finished.versions", lambda: "lengthwise=1")
    assert not stands(grid(), store, None)
    finish(grid(), store, "postgresql://u:hunter2@db/mlflow")
    assert "hunter2" not in store.read("grids/g/finished.json").decode()
    assert stands(grid(), store, None)
    assert stands(grid(), store, "postgresql://u:hunter2@db/mlflow")
    assert not stands(grid(), store, "http://elsewhere:5000")
    store.begin_attempt("9", {"cell": "x"})
    assert not stands(grid(), store, None)
    finish(grid(), store, None)
    assert stands(grid(), store, None)
    assert not stands(grid(), store, "http://elsewhere:5000")
    monkeypatch.setattr("harness.finished.versions", lambda: "lengthwise=2")
    assert not stands(grid(), store, None)
    monkeypatch.setattr("harness.finished.versions", lambda: "lengthwise=2 git=abc+changes")
    finish(grid(), store, None)
    assert not stands(grid(), store, None)

"""MLflow is a view of the store: the same however often it is made, and never in the way."""

import gc
import json
import math
import os
import socket
import threading

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from harness import labels, tracking
from harness.config import Cell, Evaluate, GridFile
from harness.errors import UserError
from harness.grid import Grid, Resolved, evaluation_id
from harness.store import Extent, Store
from harness.tracking import Mirror, Tracker, connect, finite, flatten, summaries, sync, tidy, tracking_uri

HASH = "0" * 32


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A fresh database, made once: it takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path.read_bytes()


@pytest.fixture
def store(tmp_path, database, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    store = Store(str(tmp_path / "store")).open(create=True)
    store.write("mlflow.db", database)
    return store


def grid_of(lengths=(3, 6, 12), stress=("carries",), problems=4):
    evaluate = Evaluate(lengths=lengths, stress=stress, problems=problems)
    file = GridFile(name="demo", axes={"seed": [0, 1]}, evaluate=evaluate)
    cells = [Resolved(f"cell{seed}", f"gru seed={seed}", Cell(seed=seed, train={"max_length": 3})) for seed in (0, 1)]
    return Grid(file, "name: demo", cells)


def row(length, index, exact):
    return {
        **{"cell": "cell0", "checkpoint": HASH, "length": length, "index": index},
        **{"exact": exact, "answer_right": exact or None, "token_accuracy": 1.0 if exact else 0.5},
    }


CURVE = [
    {"cell": "cell0", "step": 10 * (at + 1), "loss": 1.0 / (at + 1), "learning_rate": 1e-3, "gradient_norm": math.inf}
    for at in range(1500)
]


def train(store):
    """Cell 0 as it lies in a store after training."""
    begin = {"cell": "cell0", "started": "2026-01-02T03:04:05+00:00"}
    store.begin_attempt("a1", begin)
    store.write_curve("cell0", HASH, CURVE)
    published = {"checkpoint": HASH, "validation_exact": 1.0, "train_seconds": 12.5, "parameters": 1234}
    store.create("cells/cell0/published.json", json.dumps(published).encode())


def evaluate(store, grid):
    """Its points: all of length 3, three in four of 6, half of 12 exact."""
    exact = {3: 4, 6: 3, 12: 2, 24: 1}
    settings = grid.file.evaluate
    for length in settings.lengths:
        for stress in ("random", *settings.stress):
            extent = Extent(HASH, evaluation_id(settings), length, stress, 0, settings.problems)
            rows = [row(length, index, index < exact[length]) for index in range(settings.problems)]
            rows = [{**record, "stress": stress, "evaluation": evaluation_id(settings)} for record in rows]
            store.write_rows("cell0", extent, rows)
    store.end_attempt("a1", {"outcome": "done", "ended": "2026-01-02T03:05:05+00:00"})
    store.begin_attempt("a2", {"cell": "cell1", "started": "2026-01-02T03:04:06+00:00"})
    store.end_attempt("a2", {"outcome": "failed", "ended": "2026-01-02T03:05:06+00:00", "reason": "boom"})
    store.write("grids/demo/report.html", b"<html>report</html>")


def client_of(store):
    return MlflowClient(tracking_uri=f"sqlite:///{store.path('mlflow.db')}")


def runs(client):
    experiment = client.get_experiment_by_name("lengthwise").experiment_id
    found = client.search_runs([experiment])
    return {run.data.tags.get("lengthwise.cell", "parent"): run for run in found}, len(found)


def histories(client):
    """Everything every run holds: (cell, metric) -> its (step, value, timestamp)s."""
    by_cell, _ = runs(client)
    return {
        (cell, name): [(m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, name)]
        for cell, run in by_cell.items()
        for name in run.data.metrics
    }


def filled(store, grid=None):
    grid = grid or grid_of()
    train(store)
    evaluate(store, grid)
    return grid


def test_sync_tells_what_the_store_knows(store, tmp_path):
    grid = filled(store)
    assert sync(grid, store) == f"2 cells in experiment lengthwise at sqlite:///{store.path('mlflow.db')}"
    client = client_of(store)
    found, count = runs(client)
    assert count == 3
    assert found["parent"].data.tags["lengthwise.grid"] == "demo"
    assert found["parent"].info.status == "FAILED"
    done, failed = found["cell0"], found["cell1"]
    assert (done.info.status, failed.info.status) == ("FINISHED", "FAILED")
    assert done.data.tags["mlflow.parentRunId"] == found["parent"].info.run_id
    assert done.info.run_name == "gru seed=0"
    assert done.info.end_time - done.info.start_time == 60_000
    assert done.data.params["train.max_length"] == "3"
    assert done.data.params["seed"] == "0"
    held = histories(client)
    loss = held["cell0", "train/loss"]
    assert [(step, value) for step, value, _ in loss] == [(record["step"], record["loss"]) for record in CURVE]
    assert ("cell0", "train/gradient_norm") not in held  # never finite
    assert [(step, value) for step, value, _ in held["cell0", "eval/exact_match"]] == [(3, 1.0), (6, 0.75), (12, 0.5)]
    assert [step for step, _, _ in held["cell0", "eval/exact_match/carries"]] == [3, 6, 12]
    assert [value for _, value, _ in held["cell0", "eval/token_accuracy"]] == [1.0, 0.875, 0.75]
    assert {name: value for name, value in done.data.metrics.items() if name.startswith("summary/")} == {
        "summary/reach": 3,
        "summary/reach_times_trained": 1,
        "summary/largest_length_95": 3,
        "summary/exact_at_trained": 1.0,
        "summary/exact_at_longest": 0.5,
        "summary/exact_at_2x": 0.75,
        "summary/exact_at_4x": 0.5,
        "summary/validation_exact": 1.0,
        "summary/train_seconds": 12.5,
        "summary/parameters": 1234,
    }
    assert not any(cell == "cell1" for cell, _ in held)


def test_tags_and_descriptions_say_who_reaches_how_far(store):
    sync(filled(store), store)
    client = client_of(store)
    found, _ = runs(client)
    tags = found["cell0"].data.tags
    assert (tags["reach"], tags["dataset"], tags["model_size"]) == ("3", "addition up to 3", "tiny, 1.23k parameters")
    assert found["cell1"].data.tags["reach"] == "failed"
    experiment, parent = found["parent"].info.experiment_id, found["parent"].info.run_id
    link = f"[report](#/experiments/{experiment}/runs/{parent}/artifacts/report.html)"
    assert tags["mlflow.note.content"] == f"Reach **3**, trained up to 3. Its grid's {link}."
    note = found["parent"].data.tags["mlflow.note.content"]
    assert link in note
    assert note.endswith("| gru | 3, failed |")
    assert "summary/reach" in client.get_experiment(experiment).tags["mlflow.note.content"]


def test_artifacts_lie_beside_the_database(store, tmp_path):
    grid = filled(store)
    sync(grid, store)
    client = client_of(store)
    found, _ = runs(client)
    beside = f"file://{store.root}/mlartifacts/"
    assert all(run.info.artifact_uri.startswith(beside) for run in found.values())
    parent, cell = found["parent"].info.run_id, found["cell0"].info.run_id
    assert mlflow.artifacts.load_text(f"{found['parent'].info.artifact_uri}/report.html") == "<html>report</html>"
    assert sorted(artifact.path for artifact in client.list_artifacts(parent)) == ["grid.yaml", "report.html"]
    config = json.loads(mlflow.artifacts.load_text(f"{found['cell0'].info.artifact_uri}/cell.json"))
    assert config["config"]["train"]["max_length"] == 3
    assert [artifact.path for artifact in client.list_artifacts(cell)] == ["cell.json"]
    assert {path.name for path in tmp_path.iterdir()} == {"store"}  # nothing in the current directory


def test_sync_twice_leaves_the_same(store):
    grid = filled(store)
    sync(grid, store)
    client = client_of(store)
    once, ids = histories(client), {cell: run.info.run_id for cell, run in runs(client)[0].items()}
    sync(grid, store)
    assert histories(client) == once
    again, count = runs(client)
    assert {cell: run.info.run_id for cell, run in again.items()} == ids
    assert count == 3


def test_a_grown_grid_adds_to_its_runs(store):
    sync(filled(store), store)
    client = client_of(store)
    ids = {cell: run.info.run_id for cell, run in runs(client)[0].items()}
    grown = grid_of(lengths=(3, 6, 12, 24))
    evaluate(store, grown)
    sync(grown, store)
    assert {cell: run.info.run_id for cell, run in runs(client)[0].items()} == ids
    held = histories(client)
    assert [step for step, _, _ in held["cell0", "eval/exact_match"]] == [3, 6, 12, 24]
    steps = [step for step, _, _ in held["cell0", "summary/exact_at_2x"]]
    assert steps == [24, 32]  # rows before, rows now: the later one counts


def test_a_run_that_contradicts_the_store_is_made_anew(store):
    grid = filled(store)
    sync(grid, store)
    client = client_of(store)
    good, before = histories(client), runs(client)[0]["cell0"].info.run_id
    client.delete_run(before)
    parent = runs(client)[0]["parent"].info.run_id
    tags = {"lengthwise.grid": "demo", "lengthwise.cell": "cell0", "lengthwise.store": store.url}
    forged = client.create_run("1", start_time=1767323045000, tags={**tags, "mlflow.parentRunId": parent})
    client.log_metric(forged.info.run_id, "train/loss", 99.0, step=10)
    sync(grid, store)
    assert histories(client) == good
    assert runs(client)[0]["cell0"].info.run_id not in (before, forged.info.run_id)


def test_another_store_has_runs_of_its_own(store, tmp_path, database):
    uri = f"sqlite:///{store.path('mlflow.db')}"
    sync(filled(store), store, uri)
    other = Store(str(tmp_path / "other")).open(create=True)
    sync(filled(other), other, uri)
    assert runs(client_of(store))[1] == 6


def test_a_running_grid_is_shown_live_and_ends_as_sync_would_have_it(store):
    grid, tracker = grid_of(), Tracker(None, store)
    cell, client = grid.cells[0], client_of(store)
    tracker.begin(grid, print)
    tracker.started(cell)
    tracker.heard({"cell": "cell0", "phase": "training", "step": 20, "steps": 15000, "loss": 0.5, "curve": CURVE[:2]})
    tracker.heard({"cell": "unheard of", "curve": CURVE[:2]})
    settled = threading.Event()
    tracker.jobs.put(settled.set)
    assert settled.wait(120)
    assert runs(client)[0]["cell0"].info.status == "RUNNING"
    assert [step for step, _, _ in histories(client)["cell0", "train/loss"]] == [10, 20]
    train(store)
    # resumed: it says step 20 again
    tracker.heard({"cell": "cell0", "phase": "training", "step": 30, "steps": 15000, "loss": 0.4, "curve": CURVE[1:3]})
    point = {"length": 3, "stress": "random", "n": 4, "exact": 1.0, "answer_right": 1.0, "token_accuracy": 1.0}
    tracker.heard({"cell": "cell0", "phase": "evaluating", "points_done": 1, "points": 6, "point": point})
    evaluate(store, grid)
    tracker.ended(cell, "done")
    tracker.started(grid.cells[1])
    tracker.ended(grid.cells[1], "failed")
    tracker.finish_grid(grid, store)
    tracker.close()
    assert not tracker.missed
    found, count = runs(client)
    assert count == 3
    assert [found[name].info.status for name in ("cell0", "cell1", "parent")] == ["FINISHED", "FAILED", "FAILED"]
    live = histories(client)
    sync(grid, store)
    assert histories(client) == live
    assert len(live["cell0", "train/loss"]) == len(CURVE)


def test_a_dead_server_is_named_once_and_holds_nothing_up(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    grid, said = filled(store), []
    tracker = Tracker(None, store)
    tracker.begin(grid, said.append)
    for cell in grid.cells:
        tracker.started(cell)
        tracker.heard({"cell": cell.id, "curve": CURVE[:2]})
        tracker.ended(cell, "done")
    tracker.finish_grid(grid, store)
    tracker.close()
    assert not tracker.thread.is_alive()
    assert len(said) == 1
    assert "lengthwise mlflow sync" in said[0]
    assert said[0].startswith("MLflow: MlflowException: ")
    assert "results are not affected" in said[0]
    with pytest.raises(UserError, match=r"mlflow sync: http://127\.0\.0\.1:9: "):
        sync(grid, store)


def test_a_server_that_hangs_does_not_keep_the_driver(store, monkeypatch):
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        silent.settimeout(120)
        said = []
        tracker = Tracker(f"http://127.0.0.1:{silent.getsockname()[1]}", store)
        tracker.begin(grid_of(), said.append)
        silent.accept()
        tracker.started(grid_of().cells[0])
        process = tracker.mirror.process
        tracker.close()
        assert process.wait(10)
    assert len(said) == 1
    assert "not everything was sent" in said[0]
    tracker.thread.join(10)
    assert not tracker.complete
    assert tracker.mirror.process is None  # and no other one was started for what was left


def test_a_mirror_that_dies_is_named_once_and_made_up_for(store, monkeypatch):
    monkeypatch.setattr(tracking, "QUIET_SECONDS", 0.0)
    grid, said, tracker = filled(store), [], Tracker(None, store)
    tracker.begin(grid, said.append)
    tracker.jobs.put(lambda: tracker.mirror.interrupt())
    for cell in grid.cells:
        tracker.started(cell)
    tracker.finish_grid(grid, store)
    tracker.close()
    assert len(said) == 1
    assert "its process died" in said[0]
    assert len(histories(client_of(store))["cell0", "train/loss"]) == len(CURVE)


def test_what_a_server_missed_is_made_up_for_when_it_is_back(store, monkeypatch):
    monkeypatch.setattr(tracking, "QUIET_SECONDS", 0.0)
    grid, said, tracker = filled(store), [], Tracker(None, store)
    tracker.begin(grid, said.append)

    def fail():
        raise ConnectionError("gone")

    tracker.jobs.put(fail)
    tracker.jobs.put(fail)
    tracker.finish_grid(grid, store)
    tracker.close()
    assert len(said) == 1
    assert len(histories(client_of(store))["cell0", "train/loss"]) == len(CURVE)


@pytest.mark.parametrize(("wanted", "told"), [(None, "true"), ("false", "false")])
def test_mlflow_reports_nothing_unless_it_is_asked_to(store, monkeypatch, wanted, told):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", wanted or "")
    if wanted is None:
        monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    connect(tracking_uri(None, store))
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == told


def test_where_mlflow_is(store, monkeypatch):
    class Remote:
        local = False

    assert tracking_uri(None, store) == f"sqlite:///{store.root}/mlflow.db"
    assert tracking_uri("http://here", store) == "http://here"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    assert tracking_uri(None, store) == "http://there"
    assert tracking_uri("http://here", store) == "http://here"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri(None, Remote()) is None
    said = []
    tracker = Tracker(None, Remote())
    tracker.begin(grid_of(), said.append)
    tracker.started(grid_of().cells[0])
    tracker.finish_grid(grid_of(), store)
    assert tracker.jobs.empty()  # nothing piles up that nobody takes
    tracker.close()
    assert said == ["MLflow: off (the store is not a folder; set MLFLOW_TRACKING_URI to a server)"]
    with pytest.raises(UserError, match="give --uri"):
        sync(grid_of(), Remote())


def test_a_fresh_database_survives_two_drivers_at_once(tmp_path):
    uri, errors = f"sqlite:///{tmp_path}/new/mlflow.db", []

    def create():
        try:
            connect(uri).search_experiments()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=create) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert os.listdir(tmp_path / "new") == ["mlflow.db"]


def test_names_and_values_mlflow_takes():
    assert tidy("eval/exact/módulo(2)=a,b") == "eval/exact/m_dulo_2__a_b"
    assert tidy("a//b/") == "a/b"
    values = [("a", 1, math.inf), ("a", 2, math.nan), ("a", 3, 1.0)]
    assert [tuple(metric) for metric in finite(tracking.Metric(*value) for value in values)] == [("a", 3, 1.0)]
    assert dict(flatten({"a": {"b": 1, "c": {"d": 2}}, "e": [3]})) == {"a.b": 1, "a.c.d": 2, "e": [3]}


def points_of(*exact):
    return [
        {"stress": stress, "length": length, "exact": share, "answer_right": 0.5} for stress, length, share in exact
    ]


def test_summaries_leave_out_what_was_not_evaluated():
    points = points_of(("random", 5, 1.0), ("random", 10, 0.96), ("random", 50, 0.2), ("zeros", 20, 1.0))
    assert summaries(points, 5, {"validation_exact": 0.99}) == {
        **{"validation_exact": 0.99, "reach": 10.0, "reach_times_trained": 2.0, "largest_length_95": 10.0},
        **{"exact_at_trained": 1.0, "exact_at_2x": 0.96, "exact_at_10x": 0.2, "exact_at_longest": 0.2},
    }


def test_the_largest_length_may_lie_beyond_a_gap_and_the_reach_does_not():
    found = summaries(points_of(("random", 4, 1.0), ("random", 8, 0.9), ("random", 9, 1.0)), 4, {})
    assert (found["reach"], found["largest_length_95"]) == (4.0, 9.0)


def test_an_unfit_cell_claims_no_reach():
    grid = grid_of()
    points, published = points_of(("random", 3, 0.9), ("random", 6, 1.0)), {"validation_exact": 0.9}
    assert not {"reach", "largest_length_95"} & summaries(points, 3, published).keys()
    assert labels.found(grid.cells[0], "done", published, points, "")["reach"] == "unfit"


def test_tasks_without_an_oracle_reach_by_their_answers():
    points = [{**point, "answer_right": 1.0} for point in points_of(("random", 3, None), ("random", 6, None))]
    assert summaries(points, 3, {}) == {"reach": 6.0, "reach_times_trained": 2.0, "largest_length_95": 6.0}
    assert labels.found(grid_of().cells[0], "done", {}, points, "")["reach"] == "≥ 6"
    assert labels.found(grid_of().cells[0], "waiting", {}, [], "")["reach"] == "waiting"


def test_the_table_of_a_grid_is_sorted_by_the_median_seed_escaped_and_bounded():
    file = grid_of().file.model_copy(update={"title": "<b>*|", "description": "a\nb"})
    reaches = [("a seed=0", "12"), ("a seed=1", "< 3"), ("b|c seed=0", "≥ 1,000"), ("d seed=0", "unfit")]
    note = labels.grid(file, reaches)
    assert note.startswith("**\\<b\\>\\*\\|**\n\na b\n\n")
    assert note.splitlines()[-3:] == ["| b\\|c | ≥ 1,000 |", "| a | 12, \\< 3 |", "| d | unfit |"]
    long = labels.grid(file, [(f"{'x' * 90}{at} seed=0", "3") for at in range(100)])
    assert len(long) < 5000
    assert long.endswith(" more in the report.")


def test_results_of_other_names_in_a_run_are_not_kept(store):
    grid = filled(store)
    sync(grid, store)
    client = client_of(store)
    good, before = histories(client), runs(client)[0]["cell0"].info.run_id
    client.log_metric(before, "eval/exact", 1.0, step=3)
    sync(grid, store)
    assert histories(client) == good


def test_cells_that_were_done_before_get_their_runs(store):
    """As when another grid, or a run without MLflow, has done them."""
    grid = filled(store)
    tracker = Tracker(None, store)
    tracker.begin(grid, lambda text: None)
    tracker.finish_grid(grid, store)
    tracker.close()
    found, count = runs(client_of(store))
    assert count == 3
    assert (found["cell0"].info.status, found["cell1"].info.status) == ("FINISHED", "FAILED")
    assert found["parent"].info.status == "FAILED"


def test_of_a_cell_whose_run_is_made_mlflow_keeps_nothing_in_memory(store):
    def places():
        gc.collect()
        return sum(issubclass(type(one), ArtifactRepository) for one in gc.get_objects())

    grid = grid_of()
    mirror = Mirror(tracking_uri(None, store), grid, store)
    mirror.parent_run()
    before = places()
    for cell in grid.cells:
        mirror.begin(cell)
    assert places() == before

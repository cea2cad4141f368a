"""One cell on a store, from nothing to rows: nothing done twice, nothing lost, damage named."""

import json
from pathlib import Path

import pytest
import torch

from harness.config import Evaluate, Run
from harness.errors import Stopped, UserError
from harness.grid import resolve
from harness.store import Store
from harness.work import load_model, missing, run_cell, shares
from models.kernels import choose

TRAIN = {"max_length": 2, "steps": 20, "batch": 16, "validation": 8}
EVALUATE = Evaluate(lengths=[1, 2, 4], problems=6, stress=["carries"], rollout_max=2)
TIMINGS = {"seconds", "attempt"}


def cell(**changes):
    return resolve({"architecture": "gru", "train": TRAIN, **changes})


def rows_of(store, resolved):
    rows = [{k: v for k, v in row.items() if k not in TIMINGS} for row in store.rows(resolved.id)]
    return sorted(rows, key=lambda row: (row["length"], row["stress"], row["index"]))


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store")).open(create=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("store"))).open(create=True)
    run_cell(cell(), EVALUATE, Run(), store, "a")
    return rows_of(store, cell())


def test_a_cell_is_done_once(store, undisturbed):
    events = []
    run_cell(cell(), EVALUATE, Run(), store, "a", report=events.append)
    assert {event["phase"] for event in events} == {"training", "evaluating"}
    assert sum(len(event.get("curve", [])) for event in events) == 2
    assert len([event for event in events if "point" in event]) == 6
    assert not missing(cell(), EVALUATE, store)
    events.clear()
    run_cell(cell(), EVALUATE, Run(), store, "b", report=events.append)
    assert events == []
    assert rows_of(store, cell()) == undisturbed
    assert not store.exists(f"cells/{cell().id}/training.pt")
    assert [record["step"] for record in store.curve(cell().id)] == [10, 20]


def test_only_what_is_new_is_run(store):
    run_cell(cell(), EVALUATE, Run(), store, "a")
    before = store.published(cell().id)
    more = EVALUATE.model_copy(update={"lengths": (1, 2, 4, 8)})
    todo = missing(cell(), more, store)
    assert not todo.training
    assert [(gap.length, gap.stress) for gap in todo.points] == [(8, "random"), (8, "carries")]
    wider = EVALUATE.model_copy(update={"problems": 9})
    assert {(gap.start, gap.stop) for gap in missing(cell(), wider, store).points} == {(6, 9)}
    run_cell(cell(), more, Run(), store, "b")
    assert store.published(cell().id) == before
    assert {row["attempt"] for row in store.rows(cell().id) if row["length"] < 8} == {"a"}
    assert {row["attempt"] for row in store.rows(cell().id) if row["length"] == 8} == {"b"}
    assert missing(cell(seed=1), EVALUATE, store).training
    other = EVALUATE.model_copy(update={"mode": "live"})
    assert len(missing(cell(), other, store).points) == 6, "other evaluation settings are other points"


def test_a_raised_revision_trains_again(store, monkeypatch):
    from tasks.addition import Addition

    run_cell(cell(), EVALUATE, Run(), store, "a")
    monkeypatch.setattr(Addition, "revision", Addition.revision + 1)
    assert missing(cell(), EVALUATE, store).training


class Killed(BaseException):
    """Stands for SIGKILL: nothing gets to clean up."""


@pytest.mark.parametrize(
    "phase", ["step", "checkpoint", "checkpoint_done", "weights", "published", "published_done", "rows", "rows_done"]
)
def test_killed_anywhere_and_run_again_the_rows_are_the_same(store, undisturbed, monkeypatch, phase):
    writes = iter(range(1000))

    def kill_at(name, wanted, after=False):
        original = getattr(Store, name)

        def wrapped(self, path, data, *rest):
            if wanted in path and next(writes) == 0:
                if after:
                    original(self, path, data, *rest)
                else:
                    self._temporary(path, data[: len(data) // 2])  # what a torn write leaves behind
                raise Killed
            return original(self, path, data, *rest)

        monkeypatch.setattr(Store, name, wrapped)

    events = {
        "step": lambda: None,
        "checkpoint": lambda: kill_at("write", "training.pt"),
        "checkpoint_done": lambda: kill_at("write", "training.pt", after=True),
        "weights": lambda: kill_at("create", "weights-", after=True),
        "published": lambda: kill_at("create", "published.json"),
        "published_done": lambda: kill_at("create", "published.json", after=True),
        "rows": lambda: kill_at("create", "/rows/"),
        "rows_done": lambda: kill_at("create", "/rows/", after=True),
    }
    events[phase]()

    def report(event):
        if phase == "step" and event["phase"] == "training":
            raise Killed

    with pytest.raises(Killed):
        run_cell(cell(), EVALUATE, Run(checkpoint_seconds=1e-9), store, "a", report=report)
    run_cell(cell(), EVALUATE, Run(), store, "b")
    assert rows_of(store, cell()) == undisturbed
    assert not store.exists(f"cells/{cell().id}/training.pt")


def test_stopping_loses_nothing(store, undisturbed):
    for stop_at in (3, 9, 10):
        calls = iter(range(1000))
        with pytest.raises(Stopped):
            run_cell(cell(), EVALUATE, Run(), store, "a", stop=lambda at=stop_at, calls=calls: next(calls) >= at)
    run_cell(cell(), EVALUATE, Run(), store, "b")
    assert rows_of(store, cell()) == undisturbed


def test_the_first_published_weights_win(store):
    from harness.train import train
    from harness.work import publish

    publish(cell(), train(cell().config), store)
    first = store.published(cell().id)
    curve = store.curve(cell().id)
    publish(cell(), train(cell(seed=5).config), store)
    assert store.published(cell().id) == first
    assert store.curve(cell().id) == curve
    run_cell(cell(), EVALUATE, Run(), store, "a")
    assert {row["checkpoint"] for row in store.rows(cell().id)} == {first["checkpoint"]}


def test_damaged_weights_are_named_and_nothing_is_lost(store):
    run_cell(cell(), EVALUATE, Run(), store, "a")
    [name] = [name for name in store.names(f"cells/{cell().id}") if name.startswith("weights")]
    path = f"cells/{cell().id}/{name}"
    good = store.read(path)
    for damaged in (good[: len(good) // 2], b"", b"\x80\x04nonsense"):
        store.write(path, damaged)
        with pytest.raises(UserError, match=f"{name} is damaged"):
            load_model(cell(), store)
    torch_bytes = bytearray(good)
    middle = good.index(b"data/0") + 200
    torch_bytes[middle] ^= 0xFF
    store.write(path, bytes(torch_bytes))
    with pytest.raises(UserError, match="damaged"):
        load_model(cell(), store)
    assert len(list(store.rows(cell().id))) > 0


def test_weights_never_run_code(store, tmp_path):
    import os
    import pickle

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    run_cell(cell(), EVALUATE, Run(), store, "a")
    [name] = [name for name in store.names(f"cells/{cell().id}") if name.startswith("weights")]
    store.write(f"cells/{cell().id}/{name}", pickle.dumps(Evil()))
    with pytest.raises(UserError, match="damaged"):
        load_model(cell(), store)
    assert not (tmp_path / "owned").exists()


def test_loaded_weights_are_the_trained_ones(store):
    from harness.train import train

    run_cell(cell(), EVALUATE, Run(), store, "a")
    again = train(cell().config).model
    loaded = load_model(cell(), store)
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    published = json.loads(store.read(f"cells/{cell().id}/published.json"))
    assert published["parameters"] == sum(parameter.numel() for parameter in loaded.parameters())


def test_rolled_out_problems_stand_for_all_that_diverged():
    def row(exact, right):
        return {"exact": exact, "answer_right": right, "token_accuracy": 1.0}

    mixed = [row(True, True)] * 4 + [row(False, True), row(False, False)] + [row(False, None)] * 2
    assert shares(mixed)["answer_right"] == (4 + 4 * 0.5) / 8
    assert shares(mixed)["answer_n"] == 6
    assert shares([row(False, None)] * 3)["answer_right"] is None
    assert shares([row(True, True)] * 3)["answer_right"] == 1.0
    assert shares([row(None, True), row(None, False)]) == {
        "n": 2,
        "exact": None,
        "answer_right": 0.5,
        "answer_n": 2,
        "token_accuracy": 1.0,
    }


def test_a_point_grown_in_steps_equals_one_made_at_once(store, tmp_path):
    """`rollout_max` is a number per point, whatever the steps in which its problems were added."""
    settings = Evaluate(lengths=[2], problems=12, rollout_max=3)
    run_cell(cell(), settings.model_copy(update={"problems": 5}), Run(), store, "a")
    run_cell(cell(), settings, Run(), store, "b")
    other = Store(str(tmp_path / "other")).open(create=True)
    run_cell(cell(), settings, Run(), other, "c")

    def told(rows):
        return [(row["index"], row["problem"], row["exact"], row["answer_right"], row["output"]) for row in rows]

    assert told(rows_of(store, cell())) == told(rows_of(other, cell()))
    assert sum(row["answer_right"] is not None for row in rows_of(store, cell())) == 3


def test_a_kernel_that_was_demanded_and_does_not_work_fails_the_cell(store):
    demand = Run(kernels={"selective_scan": "mamba_ssm"})
    try:
        with pytest.raises(UserError, match=r"run.kernels: selective_scan: mamba_ssm was demanded, but"):
            run_cell(cell(), Evaluate(lengths=[1], problems=2), demand, store, "a")
    finally:
        choose.demand({})
    assert store.published(cell().id) is None


def test_a_mixture_is_evaluated_on_its_own_task_with_the_vocabulary_of_all(store):
    mixed = cell(task="increment", train={**TRAIN, "mixture": {"palindrome": 0.5}})
    control = Evaluate(lengths=[1, 4], problems=3, mode="live", corrupt=0.5)
    run_cell(mixed, EVALUATE.model_copy(update={"lengths": (1, 4)}), Run(), store, "a")
    run_cell(mixed, control, Run(), store, "b")
    published, rows = store.published(mixed.id), list(store.rows(mixed.id))
    assert json.loads(published["train_tokens_by_task"]).keys() == {"increment", "palindrome"}
    assert sum(json.loads(published["train_tokens_by_task"]).values()) == published["train_tokens"]
    assert all(row["question"].split()[0] in "01" for row in rows)
    assert {row["corrupt"] for row in rows} == {0.0, 0.5}
    assert not missing(mixed, control, store)


def stopping(step):
    return cell(train={**TRAIN, "stop_after": step})


def steps_of(resolved, store):
    """The training steps that a run of the cell reports."""
    events = []
    run_cell(resolved, NOTHING, Run(), store, "a", report=events.append)
    return [event["step"] for event in events if event["phase"] == "training"]


NOTHING = EVALUATE.model_copy(update={"lengths": (), "stress": ()})


def test_a_cell_goes_on_from_one_that_stopped_earlier_with_the_same_weights(store, tmp_path):
    fresh = Store(str(tmp_path / "fresh")).open(create=True)
    left = f"cells/{cell().id}/training.pt"
    assert steps_of(stopping(10), store) == [10]
    assert store.exists(left)
    assert steps_of(stopping(15), store) == [15]
    assert steps_of(cell(), store) == [20]
    assert [record["step"] for record in store.curve(cell().id)] == [10, 15, 20]
    assert not list(Path(store.root).glob("cells/*/training.pt"))
    for whose in (stopping(15), cell()):
        assert steps_of(whose, fresh)[0] in (10, 20)
        assert store.published(whose.id)["checkpoint"] == fresh.published(whose.id)["checkpoint"]
        fresh.delete(left)


def test_a_checkpoint_of_a_later_step_is_left_alone(store):
    steps_of(stopping(15), store)
    left = store.read(f"cells/{cell().id}/training.pt")
    assert steps_of(stopping(10), store) == [10]
    assert store.read(f"cells/{cell().id}/training.pt") == left


@pytest.mark.parametrize("place", ["training.pt", "published.json"])
def test_a_cell_that_dies_while_it_hands_on_its_checkpoint_hands_it_on(store, monkeypatch, place):
    write, create = Store.write, Store.create

    def die(method):
        def dying(self, name, data):
            if name.endswith(place) and (place != "training.pt" or cell().id in name):
                raise KeyboardInterrupt
            return method(self, name, data)

        return dying

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", die(write))
        patch.setattr(Store, "create", die(create))
        with pytest.raises(KeyboardInterrupt):
            run_cell(stopping(10), NOTHING, Run(), store, "a")
    assert steps_of(stopping(10), store) == [], "it had come to its last step"
    assert steps_of(cell(), store) == [20]

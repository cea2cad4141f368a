"""The same weights judged in another way: what a store tells of it."""

import pytest

from harness.config import Evaluate, Run
from harness.grid import evaluation_id, resolve
from harness.robustness import flips
from harness.store import Extent, Store
from harness.work import run_cell

CELL = resolve({"architecture": "gru", "train": {"max_length": 2, "steps": 20, "batch": 16, "validation": 8}})
OURS = Evaluate(lengths=[1, 2], problems=4)
BF16 = Evaluate(lengths=[1, 2], problems=4, precision="bf16")


@pytest.fixture
def store(tmp_path):
    store = Store(str(tmp_path / "store")).open(create=True)
    store.create(f"cells/{CELL.id}/published.json", b'{"checkpoint": "ab12"}')
    return store


def found_in(store, evaluate):
    return flips(CELL, evaluate, store, store.held(CELL.id))


def write(store, evaluate, verdicts, length=1, start=0, **columns):
    """Rows with these verdicts, two characters a problem: exact or not (+ -), near tie or not (t .)."""
    known = {"checkpoint": "ab12", "length": length, "stress": "random", "mode": "verify", "precision": "float32"}
    rows = [
        {**known, "index": start + at, "exact": exact == "+", "near_tie": tie == "t", "corrupt": 0.0, **columns}
        for at, (exact, tie) in enumerate(verdicts)
    ]
    extent = Extent("ab12", evaluation_id(evaluate), length, "random", start, start + len(rows))
    store.write_rows(CELL.id, extent, rows)


def test_flips_are_counted_by_point_over_the_problems_both_judged(store):
    write(store, OURS, ["+.", "+."])
    write(store, OURS, ["+t", "-."], start=2)
    write(store, OURS, ["+."], length=2)
    assert found_in(store, OURS) == []
    write(store, BF16, ["+.", "-.", "-.", "+t", "+."], precision="bf16")
    write(store, BF16, ["+."], length=8, precision="bf16")
    point = {"cell": CELL.id, "evaluation": evaluation_id(BF16), "length": 1, "stress": "random"}
    said = {"differs": "precision bf16 instead of float32", "n": 4, "lost": 2, "gained": 1, "tied": 2}
    assert found_in(store, OURS) == [{**point, **said}]
    turned = {"differs": "precision float32 instead of bf16", "n": 4, "lost": 1, "gained": 2, "tied": 2}
    assert found_in(store, BF16) == [{**point, "evaluation": evaluation_id(OURS), **turned}]


def test_controls_and_evaluations_that_ask_the_same_are_left_out(store):
    write(store, OURS, ["+.", "+."])
    write(store, OURS.model_copy(update={"rollout_max": 3}), ["+.", "-."])
    write(store, OURS.model_copy(update={"mode": "live", "corrupt": 0.1}), ["-.", "-."], mode="live", corrupt=0.1)
    assert found_in(store, OURS) == []
    assert found_in(store, OURS.model_copy(update={"mode": "live", "corrupt": 0.1})) == []


def test_without_an_oracle_the_answers_are_the_verdicts(store):
    live, bf16 = OURS.model_copy(update={"mode": "live"}), BF16.model_copy(update={"mode": "live"})
    write(store, live, ["..", ".."], exact=None, answer_right=True, mode="live")
    write(store, bf16, ["..", ".."], exact=None, answer_right=False, mode="live", precision="bf16")
    assert [(one["n"], one["lost"]) for one in found_in(store, live)] == [(2, 2)]


def test_chunks_and_single_steps_are_evaluations_beside_the_first(tmp_path):
    store = Store(str(tmp_path / "store")).open(create=True)
    ways = [OURS.model_copy(update=change) for change in ({}, {"chunk": 5}, {"mode": "live"})]
    for way in ways:
        run_cell(CELL, way, Run(), store, "a")
    found = found_in(store, OURS)
    assert {one["differs"] for one in found} == {"chunk 5 instead of 1024", "mode live instead of verify"}
    assert all(one["n"] == 4 and one["lost"] + one["gained"] <= one["tied"] for one in found)
    default = Evaluate.model_fields["chunk"].default
    assert evaluation_id(OURS) == evaluation_id(OURS.model_copy(update={"chunk": default}))
    assert evaluation_id(ways[2]) == evaluation_id(ways[2].model_copy(update={"chunk": 5}))

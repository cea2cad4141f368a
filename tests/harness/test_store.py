"""The store: whole files or none, first writer wins, damage is named."""

import os
import threading

import pytest

from harness.errors import UserError
from harness.schema import ROWS
from harness.store import Extent, Store, parquet

EXTENT = Extent("ab" * 8, "cd" * 8, 40, "random", 0, 2)


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    url = str(tmp_path / "store") if request.param == "folder" else f"memory://{tmp_path.name}/store"
    return Store(url).open(create=True)


def test_create_lets_the_first_writer_win(store):
    assert store.create("a/b.json", b"1")
    assert not store.create("a/b.json", b"2")
    assert store.read("a/b.json") == b"1"


def test_create_under_contention_has_one_winner(tmp_path):
    store = Store(str(tmp_path)).open(create=True)
    wins = []
    threads = [
        threading.Thread(target=lambda n=n: wins.append(n) if store.create("x", str(n).encode() * 1000) else None)
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert store.read("x") == str(wins[0]).encode() * 1000
    assert store.names("") == ["lengthwise.json", "x"], "no temporary file stays behind"


def test_rows_round_trip_and_are_never_doubled(store):
    rows = [{"cell": "c", "length": 40, "stress": "random", "index": index, "exact": True} for index in range(2)]
    assert store.write_rows("c", EXTENT, rows)
    assert not store.write_rows("c", EXTENT, [{**row, "exact": False} for row in rows])
    overlap = EXTENT._replace(start=1, stop=3)
    store.write_rows("c", overlap, [{**rows[1], "index": index} for index in (1, 2)])
    found = list(store.rows("c"))
    assert sorted(row["index"] for row in found) == [0, 1, 2]
    assert all(row["exact"] for row in found)
    assert set(found[0]) == set(ROWS)
    assert store.extents("c") == [EXTENT, overlap]


def test_a_column_outside_the_schema_is_refused():
    with pytest.raises(ValueError, match="accuracy"):
        parquet(ROWS, [{"accuracy": 1.0}])


def test_a_torn_row_file_is_named(tmp_path):
    store = Store(str(tmp_path)).open(create=True)
    store.write_rows("c", EXTENT, [{"cell": "c", "index": 0}])
    path = tmp_path / "cells/c/rows" / EXTENT.file
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"cells/c/rows/.*parquet.*move it away"):
        list(store.rows("c"))


def test_an_interrupted_write_leaves_nothing_that_counts(tmp_path, monkeypatch):
    store = Store(str(tmp_path)).open(create=True)
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        store.write("cells/c/published.json", b"{}")
    assert store.names("cells/c") == []


def test_a_newer_store_is_refused(tmp_path):
    (tmp_path / "lengthwise.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match=r"99.*newer"):
        Store(str(tmp_path)).open()


@pytest.mark.parametrize("content", ["", "[]", "{}", "nonsense", '{"format": "x"}', '{"format": null}'])
def test_a_damaged_version_file_is_said(tmp_path, content):
    (tmp_path / "lengthwise.json").write_text(content)
    with pytest.raises(UserError, match="cannot be used"):
        Store(str(tmp_path)).open()


def test_a_missing_store_and_an_unknown_protocol(tmp_path):
    with pytest.raises(UserError, match="no Lengthwise store"):
        Store(str(tmp_path / "nowhere")).open()
    with pytest.raises(UserError, match="nosuch"):
        Store("nosuch://bucket")


def test_a_store_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be used"):
        Store(str(tmp_path / "file")).open(create=True)


def test_what_an_attempt_says_of_its_end_stands(store):
    store.begin_attempt("1", {"cell": "c", "started": "2026-01-01"})
    store.begin_attempt("2", {"cell": "d", "started": "2026-01-02"})
    store.end_attempt("1", {"outcome": "failed", "reason": "x"})
    store.presume_ended("1", {"outcome": "lost"})
    assert [(a["attempt"], a["outcome"]) for a in store.attempts()] == [("1", "failed"), ("2", "running")]
    assert [a["attempt"] for a in store.attempts({"d"})] == ["2"]
    store.presume_ended("2", {"outcome": "lost"})
    store.presume_ended("2", {"outcome": "stopped"})
    assert [a["outcome"] for a in store.attempts()] == ["failed", "lost"]
    store.end_attempt("2", {"outcome": "done"})
    assert [a["outcome"] for a in store.attempts()] == ["failed", "done"]


def test_flipped_bits_in_rows_are_never_read_as_rows(tmp_path):
    import random

    store = Store(str(tmp_path)).open(create=True)
    rows = [{"cell": "c", "index": index, "length": 40, "output": "1 2 3" * index} for index in range(20)]
    store.write_rows("c", EXTENT, rows)
    path = tmp_path / "cells/c/rows" / EXTENT.file
    whole, rng = path.read_bytes(), random.Random(0)
    before = list(store.rows("c"))
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(damaged))
        try:
            assert [{name: row[name] for name in rows[0]} for row in store.rows("c")] == [
                {name: row[name] for name in rows[0]} for row in before
            ]
        except UserError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("content", [b"{}", b"[]", b"5", b"{", b"null"])
def test_a_damaged_publication_is_named(tmp_path, content):
    store = Store(str(tmp_path)).open(create=True)
    store.write("cells/c/published.json", content)
    with pytest.raises(UserError, match=r"published\.json is damaged"):
        store.published("c")

"""Garbage is what nobody needs again; rows, published weights and the ledger are not."""

import json
import os
import time

import pytest

from harness.gc import garbage
from harness.store import Extent, Store


@pytest.fixture
def store(tmp_path):
    opened = Store(str(tmp_path / "store")).open(create=True)
    opened.write("cells/done/training.pt", b"12345")
    for checkpoint in ("aa", "bb"):
        opened.write(f"cells/done/weights-{checkpoint}.pt", b"w")
        opened.write(f"cells/done/curve-{checkpoint}.parquet", b"c")
    opened.write("cells/done/published.json", json.dumps({"checkpoint": "aa"}).encode())
    opened.write_rows("done", Extent("aa", "e", 1, "random", 0, 1), [{"cell": "done"}])
    opened.write("cells/open/training.pt", b"123")
    opened.write("cells/open/weights-cc.pt", b"about to be published")
    opened.begin_attempt("1", {"cell": "open"})
    return opened


def made_old(store, name, days):
    long_ago = time.time() - 86400 * days
    os.utime(store.path(name), (long_ago, long_ago))


def names(store, **more):
    return {one.name for one in garbage(store, **more)}


def test_what_is_published_needs_no_checkpoint_and_no_second_weights(store):
    found = {one.name: (one.size, one.why) for one in garbage(store)}
    assert found == {
        "cells/done/training.pt": (5, "the cell is published"),
        "cells/done/weights-bb.pt": (1, "of an attempt that came second"),
        "cells/done/curve-bb.parquet": (1, "of an attempt that came second"),
    }


def test_what_may_still_be_written_stays(store):
    for name in ("cells/open/training.pt.0a.tmp", "preflight/mark"):
        store.write(name, b"")
        assert name not in names(store)
        made_old(store, name, 1)
        assert name in names(store)


def test_abandoned_checkpoints_go_only_when_asked_for(store):
    made_old(store, "cells/open/training.pt", 40)
    assert "cells/open/training.pt" not in names(store)
    assert "cells/open/training.pt" in names(store, abandoned_days=30)
    assert "cells/open/training.pt" not in names(store, abandoned_days=50)


def test_the_command_deletes_and_says_what(store):
    from typer.testing import CliRunner

    from harness.cli import app

    told = CliRunner().invoke(app, ["gc", "--store", store.url, "--dry-run"])
    assert "cells/done/training.pt" in told.output
    assert "would free 7 bytes in 3 files" in told.output
    assert len(names(store)) == 3
    told = CliRunner().invoke(app, ["gc", "--store", store.url])
    assert "freed 7 bytes in 3 files" in told.output
    assert names(store) == set()
    assert list(store.rows("done"))
    assert store.exists("cells/done/weights-aa.pt")
    assert store.attempts()

"""What the viewer is given: packed as it was, within its limit, in a page that cannot be broken by it."""

import base64
import gzip
import json
from pathlib import Path

import pytest

from reports import viewer as module
from reports.data import Failure, Track
from reports.viewer import ROLES, SIDES, pack, viewer

EVIL = '"></div><script>alert(1)</script><img src=x onerror=alert(1)>'
STYLES = Path(module.__file__).with_suffix(".css")


def failure(*tokens, known="whole"):
    side = Track(list(tokens), ["command"] * len(tokens), ["^", EVIL], {"1": 0}, [(1, 2, 0, ["5"])], [(1, {"1": 2})])
    return Failure({"divergence": 7}, 6, [(0, 3, "walk")], side, side, known)


def unpacked(text):
    return json.loads(gzip.decompress(base64.b64decode(text)))


def test_packing_loses_nothing():
    given = [failure("a", EVIL, "b"), failure("b", "[EOS]", known="part")]
    data = unpacked(pack(given))
    for one, told in zip(given, data["failures"], strict=True):
        assert (told["at"], told["start"], told["known"]) == (1, 6, one.known)
        assert told["steps"] == [[0, 3, "walk"]]
        for name in SIDES:
            side, track = told[name], getattr(one, name)
            assert [data["names"][number] for number in side["tokens"]] == track.tokens
            assert [ROLES[int(digit)] for digit in side["roles"]] == track.roles
            assert [data["names"][number] for number in side["memory"]] == track.memory
            assert side["pointers"] == track.pointers
            [[offset, cell, removed, put]] = side["edits"]
            assert (offset, cell, removed, [data["names"][number] for number in put]) == track.edits[0]
            assert side["moves"] == [[1, {"1": 2}]]


def test_what_models_wrote_reaches_the_page_packed_only():
    markup = viewer([failure(EVIL)], [EVIL])
    assert "<script" not in markup
    assert "<img" not in markup
    assert "innerHTML" not in STYLES.with_suffix(".js").read_text(encoding="utf-8")


def test_failures_that_could_not_be_replayed_are_not_offered():
    untold = Failure({"divergence": 7})
    assert viewer([untold], ["none"]) is None
    markup = viewer([untold, failure("a")], ["none", "some"])
    assert '<option value="1">some</option>' in markup
    assert "none" not in markup


def test_the_page_stays_small(monkeypatch):
    given = [failure(*(f"{seed}{place}" for place in range(50))) for seed in "abc"]
    monkeypatch.setattr(module, "LIMIT", len(pack(given[:2])))
    markup = viewer(given, ["first", "second", "third"])
    assert "second" in markup
    assert "third" not in markup


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_a_colour(role):
    assert f"#viewer .role.{role} " in STYLES.read_text(encoding="utf-8")

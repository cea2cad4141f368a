import numpy as np
import pytest

from tasks.vocabulary import Vocabulary

VOCABULARY = Vocabulary(["[PAD]", "a", "b", "c0"])


def test_ids_are_positions() -> None:
    ids = VOCABULARY.encode(["b", "c0", "a", "[PAD]"])
    assert ids.tolist() == [2, 3, 1, 0]
    assert ids.dtype == np.uint16
    assert VOCABULARY.decode(ids) == ["b", "c0", "a", "[PAD]"]
    assert len(VOCABULARY) == 4


def test_tokens_are_all_there_is_to_store() -> None:
    assert Vocabulary(VOCABULARY.tokens) == VOCABULARY
    assert hash(Vocabulary(VOCABULARY.tokens)) == hash(VOCABULARY)
    assert Vocabulary(["[PAD]", "a"]) != VOCABULARY


def test_unknown_tokens_are_named() -> None:
    with pytest.raises(ValueError, match=r"unknown token 'c1', did you mean 'c0'\?"):
        VOCABULARY.encode(["a", "c1"])


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["a", "[PAD]"], r"must be \[PAD\]"),
        ([], r"must be \[PAD\]"),
        (["[PAD]", "a", "a"], "'a' stands twice"),
        (["[PAD]", *map(str, range(1 << 16))], "at most 65,536"),
    ],
)
def test_bad_vocabularies_are_refused(tokens: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary(tokens)

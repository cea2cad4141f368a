"""The string-matching learner on trajectories written by hand."""

import pytest
import torch

from models.build import build
from models.lookup import SURE

NAMES = ("pad", "eos", "?", "go", "stop", "read", "0", "1", "left", "right")
IDS = {name: at for at, name in enumerate(NAMES)}


def reading(*trajectories, contexts=100):
    """A model that has read trajectories: words joined by spaces, given ones in angle brackets."""
    model = build("lookup", "tiny", len(NAMES), {"contexts": contexts})
    for text in trajectories:
        words = text.split()
        tokens = torch.tensor([[IDS[word.strip("<>")] for word in words]])
        own = torch.tensor([[not word.startswith("<") for word in words]])
        model.read(tokens, own, torch.tensor([len(words)]))
    return model


def says(model, text):
    """What it says after each word."""
    logits, _ = model(torch.tensor([[IDS[word] for word in text.split()]]))
    assert ((logits == SURE).sum(-1) == 1).all()
    return [NAMES[token] for token in logits.argmax(-1)[0].tolist()]


ONE = "<1> <0> <?> go read <0> left go read <1> right stop eos"


def test_it_repeats_what_follows_a_state_and_a_symbol():
    model = reading(ONE)
    assert says(model, "1 1 1 ? go read 1 right stop")[3:] == ["go", "read", "eos", "right", "stop", "eos"]
    assert says(model, "0 ? go read 0 left go read 0 left go read 1")[-1] == "right"


def test_a_pair_never_read_ends_the_trajectory():
    model = reading("<0> <?> go read <0> left go read <0> left stop eos")
    assert says(model, "? go read 1")[-1] == "eos"
    assert says(model, "? go read 1 left right left")[-3:] == ["eos"] * 3
    assert says(model, "? go read 1 left right go read 0")[-1] == "left", "it does not find back at the next pair"


def test_a_state_is_known_by_itself_and_not_by_what_came_before():
    model = reading("<?> go read <0> right stop read <0> left eos")
    assert says(model, "? go read 0")[-1] == "right"
    assert says(model, "? stop read 0")[-1] == "left"
    assert model.knows(IDS["go"], IDS["read"], IDS["0"])
    assert not model.knows(IDS["go"], IDS["read"], IDS["1"])
    assert not model.knows(IDS["left"], IDS["read"], IDS["0"])


def test_the_first_continuation_that_was_read_counts():
    assert says(reading("<?> go read <0> left eos", "<?> go read <0> right eos"), "? go read 0")[-1] == "left"


def test_answers_of_several_tokens_are_matched_whole():
    model = reading("<?> read <0> <1> left eos", "<?> read <0> <0> right eos")
    assert says(model, "? read 0 1")[-1] == "left"
    assert says(model, "? read 0 0")[-1] == "right"
    assert says(model, "? read 1 0")[-1] == "eos"


def test_without_a_tool_only_the_whole_string_is_known():
    model = reading("<0> <?> 1 left 0 eos")
    assert says(model, "1 ? 1 left 0")[1:] == ["1", "left", "0", "eos"]
    assert says(model, "1 ? 0 left 0")[-3:] == ["eos"] * 3


def test_a_full_table_learns_no_more_and_keeps_what_it_has():
    room = len(NAMES) + 2 + 4
    model = reading(ONE, contexts=room)
    assert says(model, "? go read 0")[-1] == "left"
    assert says(model, "? go read 1")[-1] == "eos"
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.read(
        torch.tensor([[2, 3, 5, 7, 9, 1]]), torch.tensor([[False, True, True, False, True, True]]), torch.tensor([6])
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items() if name != "says")
    with pytest.raises(ValueError, match="lookup: contexts: 11 leave no room, a vocabulary of 10 needs more"):
        build("lookup", "tiny", 10, {"contexts": 11})


def test_a_model_that_has_read_nothing_goes_on_saying_one_token():
    model = build("lookup", "tiny", len(NAMES))
    assert says(model, "? go read 0") == ["pad"] * 4


def test_others_do_not_read():
    with pytest.raises(NotImplementedError, match="GRU does not learn by reading"):
        build("gru", "tiny", 9).read(torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1))

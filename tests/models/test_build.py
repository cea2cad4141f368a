"""From names to models: what is refused, and how; what a seed decides."""

import dataclasses
import sys

import pytest
import torch

from models import ARCHITECTURES
from models.build import build, describe, full_options, resolve

TRAINED = [name for name in ARCHITECTURES if resolve(name).learns == "gradients"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mamba3", "tiny", 9), r"'mamba3'; allowed: mamba1, .*lookup or an import path module:Class; did you mean"),
        (("gru", "tinny", 9), r"unknown size of gru 'tinny'; allowed: tiny, small, paper; did you mean 'tiny'\?"),
        (("sliding", "tiny", 9, {"windw": 3}), r"option of sliding 'windw'; allowed: .*heads.*did you mean 'window'\?"),
        (("gru", "tiny", 9, {"layers": 0}), r"gru: layers: 0 is not a whole number of at least 1"),
        (("gru", "tiny", 9, {"layers": True}), r"gru: layers: True is not a whole number"),
        (("gru", "tiny", 9, {"layers": "2"}), r"gru: layers: '2' is not a whole number"),
        (("transformer", "tiny", 9, {"positions": "rope"}), r"'rope' is none of rotary, none, alibi, randomised"),
        (("transformer", "tiny", 9, {"heads": 5}), r"transformer: heads: 5 does not divide d_model = "),
        (("sliding", "tiny", 9, {"kv_heads": 3}), r"sliding: kv_heads: 3 does not divide heads = "),
        (("mamba2", "tiny", 9, {"head_size": 7}), r"mamba2: head_size: 7 does not divide"),
        (("rwkv7", "tiny", 9, {"head_size": 7}), r"rwkv7: head_size: 7 does not divide d_model = "),
        (("hybrid", "tiny", 9, {"pattern": ["mamba2", "rnn"]}), r"pattern: 'rnn' is none of mamba1, mamba2, "),
        (("hybrid", "tiny", 9, {"pattern": []}), r"pattern: \(\) is not a list of at least one value"),
        (("hybrid", "tiny", 9, {"pattern": "mamba1"}), r"pattern: 'mamba1' is not a list"),
        (("no.such.module:Model", "tiny", 9), r"architecture 'no.such.module:Model': No module named 'no'"),
        (("models.gru:GRU", "tiny", 9), r"architecture 'models.gru:GRU': No module named"),
        (("models.recurrent:Nothing", "tiny", 9), r"module 'models.recurrent' has no attribute 'Nothing'"),
        (("models.base:Cost", "tiny", 9), r"not a class derived from models.base.SequenceModel"),
    ],
)  # fmt: skip
def test_bad_names_and_values_are_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        build(*arguments)
    assert "\n" not in str(error.value)


def test_full_options_refuses_what_build_refuses():
    for arguments in (("gru", "huge"), ("gru", "tiny", {"unit": 3}), ("gruu", "tiny")):
        with pytest.raises(ValueError, match="unknown"):
            full_options(*arguments)


def test_an_import_path_names_the_same_model():
    named, path = build("gru", "tiny", 9, seed=1), build("models.recurrent:GRU", "tiny", 9, seed=1)
    assert type(named) is type(path)


def test_options_replace_those_of_the_preset():
    model = build("hybrid", "tiny", 9, {"pattern": ["sliding"], "window": 5, "layers": 2})
    assert model.options.pattern == ("sliding",)
    assert model.blocks[1].attention.window == 5
    assert len(model.blocks) == 2


def test_full_options_leave_out_class_defaults_only():
    options, revision = full_options("transformer", "paper", {"positions": "alibi"})
    assert options == {"d_model": 768, "layers": 24, "heads": 8, "mlp": 1536, "positions": "alibi"}
    assert revision >= 1
    assert full_options("transformer", "paper", {"positions": "rotary"}) == full_options("transformer", "paper")


@pytest.mark.parametrize("architecture", TRAINED)
def test_a_seed_decides_the_initialisation_and_nothing_else(architecture):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (build(architecture, "tiny", 16, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.rand(3), expected)
    mine, same, theirs = (model.state_dict() for model in (first, second, other))
    assert all(torch.equal(mine[name], same[name]) for name in mine)
    assert any(not torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_load_back(architecture):
    model, other = build(architecture, "tiny", 16, seed=0), build(architecture, "tiny", 16, seed=1)
    other.load_state_dict(model.state_dict())
    tokens = torch.arange(12)[None] % 16
    assert torch.equal(model.eval()(tokens)[0], other.eval()(tokens)[0])


def test_describe_says_one_line_and_the_sizes():
    lines = {name: (about, counts) for name, about, counts in describe()}
    assert list(lines) == list(ARCHITECTURES)
    for name, (about, counts) in lines.items():
        assert about
        assert about[-1] == "."
        assert list(counts) == ["tiny", "small", "paper"]
        assert (50_000 < counts["tiny"] < 400_000) == (name in TRAINED)


def test_options_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        build("gru", "tiny", 9).options.layers = 3


def test_listing_architectures_imports_none(tmp_path):
    import subprocess

    code = "import models, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

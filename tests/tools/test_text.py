import json

import pytest

from tools.text import ALPHABET, SHIPPED, Learnt, learn, read, spelled, tokenizer

TEXTS = ["print(v10)\n", "", '  File "/work/f1.py"', "naïve – ✓ 🦉", "\x00\x1b[31m\r\n", "[EOS] [PAD] [ANS]"]


def test_the_alphabet_is_that_of_gpt2():
    assert len(set(ALPHABET)) == 256
    assert (ALPHABET[ord(" ")], ALPHABET[ord("\n")], ALPHABET[ord("a")]) == ("Ġ", "Ċ", "a")
    assert all(len(char) == 1 and char.isprintable() for char in ALPHABET)


@pytest.mark.parametrize("name", ["bytes", "code"])
@pytest.mark.parametrize("text", TEXTS)
def test_every_text_can_be_written_and_read(name, text):
    made = tokenizer(name)
    tokens = made.encode(text)
    assert read(tokens) == text
    assert set(tokens) <= set(made.tokens)
    assert read(spelled(text)) == text


def test_any_tokens_are_a_text():
    assert read(("Ã", "x", "Ċ")) == "\ufffdx\n"


def test_marks_of_the_vocabulary_are_no_tokens_of_text():
    assert not {"[EOS]", "[PAD]", "[ANS]"} & set(tokenizer("code").tokens)
    assert set(ALPHABET) <= set(tokenizer("code").tokens)


def test_what_is_learnt_repeats_and_shortens():
    text = "sed -Ei 's/(def f1|foo)/x/' f1.py\n" * 50
    made = learn([text], 300)
    assert made == learn([text], 300)
    assert len(Learnt(made).encode(text)) < 0.5 * len(text)


@pytest.mark.slow
def test_the_shipped_tokenizer_is_learnt_from_training_problems():
    """What docs/coding-agents.md says of it; the package that learns may break ties otherwise in another version."""
    from tasks.problems import training_stream
    from tasks.scenario import Scenario

    scenarios = [Scenario("code_fix", setting) for setting in ("interactive", "single_turn")]
    texts = [
        read(scenario.record(problem).tokens[len(problem.prompt) : -1])
        for problem in training_stream(scenarios[0].task, 32, 0, 0)[:300]
        for scenario in scenarios
    ]
    shipped = json.loads(SHIPPED["code"].read_text(encoding="utf-8"))
    assert json.loads(learn(texts, 512))["model"]["merges"][:200] == shipped["model"]["merges"][:200]


@pytest.mark.parametrize("name", ["no/such/place.json", "/nowhere", ""])
def test_a_missing_tokenizer_gives_one_line(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"tokenizer '.*neither bytes, code") as error:
        tokenizer(name)
    assert "\n" not in str(error.value)


def test_a_tokenizer_that_is_not_byte_level_is_refused(tmp_path):
    from tokenizers import Tokenizer, models

    (tmp_path / "tokenizer.json").write_text(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).to_str())
    with pytest.raises(ValueError, match="not byte-level"):
        tokenizer(str(tmp_path))

"""Text as tokens: byte-level tokenizers, in which every text can be written and every sequence of tokens is a text.

A token is written in the alphabet of GPT-2, one printable character for each byte (`Ġ` for a space, `Ċ` for a newline),
so that tokens of any such tokenizer, that of Mamba and Pythia included, are bytes to whoever reads them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

BYTES = "bytes"
CODE = "code"
SHIPPED = {CODE: Path(__file__).parent / "code_tokenizer.json"}
"""Learnt by `learn` from programs and trajectories of the task `code_fix`, of training problems only."""

SPLIT = r"\n|[0-9]|[^\n0-9]+"
"""Within what a learnt token lies: a newline, a digit, or what stands between those, blanks and all."""


def _alphabet() -> str:
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    characters = {byte: chr(byte) for byte in shown} | {byte: chr(256 + at) for at, byte in enumerate(hidden)}
    return "".join(characters[byte] for byte in range(256))


ALPHABET = _alphabet()
"""Character of each byte."""
_TO_BYTES = str.maketrans({character: chr(byte) for byte, character in enumerate(ALPHABET)})
_FROM_BYTES = str.maketrans({chr(byte): character for byte, character in enumerate(ALPHABET)})


def spelled(text: str) -> str:
    """A text in the alphabet of tokens, one character a byte."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1").translate(_FROM_BYTES)


def read(tokens: Iterable[str]) -> str:
    """The text that tokens spell; bytes that are no UTF-8 become the replacement character."""
    return "".join(tokens).translate(_TO_BYTES).encode("latin-1", "replace").decode("utf-8", "replace")


class Tokenizer(Protocol):
    tokens: tuple[str, ...]
    """Its vocabulary, in the order of its own ids."""

    def encode(self, text: str) -> tuple[str, ...]:
        """A text as tokens; `read` of them is the text."""
        ...


class Bytes:
    """A token for every byte."""

    tokens = tuple(ALPHABET)

    def encode(self, text: str) -> tuple[str, ...]:
        return tuple(spelled(text))


class Learnt:
    """A byte-level BPE of the package `tokenizers`; `held`: its JSON."""

    def __init__(self, held: str) -> None:
        from tokenizers import Tokenizer as Held

        self.held = Held.from_str(held)
        size = self.held.get_vocab_size(with_added_tokens=True)
        self.tokens = tuple(self.held.id_to_token(number) or f"[unused {number}]" for number in range(size))

    def encode(self, text: str) -> tuple[str, ...]:
        return tuple(self.held.encode(text, add_special_tokens=False).tokens)


@cache
def tokenizer(name: str) -> Tokenizer:
    """`bytes`, `code`, the path of a `tokenizer.json` or of a folder that has one, or a name on the Hugging Face hub.

    Raises:
        ValueError: there is none of that name, or it is not byte-level.
    """
    if name == BYTES:
        return Bytes()
    try:
        made = Learnt(_json(name))
    except ImportError as error:
        raise ValueError(f"tokenizer {name!r} needs the package tokenizers: pip install 'lengthwise[text]'") from error
    missing = set(ALPHABET) - set(made.tokens)
    if missing:
        raise ValueError(f"tokenizer {name!r} is not byte-level: it has no token for {len(missing)} of the 256 bytes")
    return made


def _json(name: str) -> str:
    path = SHIPPED.get(name, Path(name))
    path = path / "tokenizer.json" if path.is_dir() else path
    if path.is_file():
        return path.read_text(encoding="utf-8")
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(name, "tokenizer.json")).read_text(encoding="utf-8")
    except Exception as error:  # of the network, of the hub, or of a name that it does not take
        known = ", ".join((BYTES, *SHIPPED))
        raise ValueError(
            f"tokenizer {name!r}: neither {known}, nor a file or folder here, nor to be had from the hub "
            f"({type(error).__name__})"
        ) from error


def learn(texts: Sequence[str], size: int) -> str:
    """A byte-level BPE of `size` tokens learnt from texts, as the JSON that `Learnt` takes."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    held = Tokenizer(models.BPE())
    held.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    held.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=list(ALPHABET), show_progress=False)
    held.train_from_iterator(texts, trainer)
    made: dict[str, Any] = json.loads(held.to_str())
    return json.dumps(made, ensure_ascii=False, indent=1)

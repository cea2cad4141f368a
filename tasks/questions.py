"""Short questions with the topic of each: our own, made from templates, or those of a file of the Oolong benchmark.

A question is a tuple of lower-case words and marks; a topic is one capitalised token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from itertools import product
from pathlib import Path
from string import Formatter

Words = tuple[str, ...]
Pool = Mapping[Words, str]
"""Question -> its topic."""

_FILLERS = {
    "animal": "cat dog owl horse whale spider tiger crow",
    "country": "norway kenya peru japan egypt canada",
    "job": "king doctor pilot painter sailor poet",
    "letters": "dna gps usb led atm cpu pdf vip",
    "place": "river island desert harbour lake mountain",
    "thing": "bridge lamp clock wheel piano engine kettle mirror",
}

_TEMPLATES = {
    "Abbreviation": (
        "what does {letters} stand for ?",
        "what is {letters} short for ?",
        "what is the full form of {letters} ?",
        "how is {letters} written out in {country} ?",
        "what is the abbreviation of {thing} and {thing} ?",
    ),
    "Description": (
        "why does a {animal} sleep ?",
        "how does a {thing} work ?",
        "what is a {thing} for ?",
        "how do you repair a {thing} ?",
        "what happened to the {thing} by the {place} ?",
    ),
    "Entity": (
        "what colour is a {animal} ?",
        "what does a {animal} eat ?",
        "which {animal} swims across the {place} ?",
        "what kind of {thing} floats ?",
        "what language is spoken in {country} ?",
    ),
    "Human": (
        "who made the first {thing} ?",
        "who was the last {job} of {country} ?",
        "which {job} had a {animal} ?",
        "whose {thing} fell into the {place} ?",
        "what {job} crossed the {place} with a {animal} ?",
    ),
    "Location": (
        "where is the largest {place} ?",
        "where does the {animal} live ?",
        "what country has the oldest {thing} ?",
        "in which city was the {job} born ?",
        "which {place} is nearest to {country} ?",
    ),
    "Numeric": (
        "how many legs does a {animal} have ?",
        "how old is the {job} of {country} ?",
        "what year was the {thing} made ?",
        "how far is the {place} from {country} ?",
        "what is the price of a {thing} ?",
    ),
}
"""Topic -> its templates; each starts like one of another topic, so that no first word gives a topic away."""

_LABELLED = re.compile(r"\|\| Instance: (.*?) \|\| Label: (.*)")
_WORD = re.compile(r"[a-z0-9']+|[^\sa-z0-9']")


def templates() -> Pool:
    """Our own: every template with every choice of fillers."""
    pool = {}
    for topic, texts in _TEMPLATES.items():
        for text in texts:
            slots = [name for _, name, _, _ in Formatter().parse(text) if name]
            pattern = re.sub(r"{\w+}", "{}", text)
            for fillers in product(*(_FILLERS[slot].split() for slot in slots)):
                pool[tuple(pattern.format(*fillers).split())] = topic
    return pool


def read(path: Path, reserved: Collection[str]) -> Pool:
    """The questions of a file of the Oolong benchmark (Bertsch et al., arXiv 2511.02817, `oolong-synth`).

    One JSON object a line, of which `context_window_text_with_labels` is read: in it, the lines that hold
    `|| Instance: who wrote it ? || Label: human being`. Questions are split into lower-case words and marks; words in
    `reserved` get a `#` in front. A question that comes with two labels is left out.

    Raises:
        ValueError: no such file, a line that is not such an object, several data sets in one file, fewer than two
            topics.
    """
    found: dict[Words, set[str]] = {}
    datasets = set()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            text = record["context_window_text_with_labels"]
            labelled = _LABELLED.findall(text)
        except (ValueError, TypeError, KeyError):
            expected = "a JSON object with the text `context_window_text_with_labels`"
            raise ValueError(f"{path}: line {number} is not {expected}") from None
        datasets.add(record.get("dataset"))
        for question, label in labelled:
            words = tuple(f"#{word}" if word in reserved else word for word in _WORD.findall(question.lower()))
            found.setdefault(words, set()).add(label.strip().capitalize().replace(" ", "_"))
    if len(datasets) > 1:
        raise ValueError(f"{path}: holds the data sets {', '.join(sorted(map(str, datasets)))}; keep one of them")
    pool = {words: topics.pop() for words, topics in found.items() if words and len(topics) == 1}
    if len(set(pool.values())) < 2:
        raise ValueError(f"{path}: holds no questions of two topics or more (`|| Instance: .. || Label: ..`)")
    return pool

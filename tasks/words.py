"""Random words of a given length from short rules: the inputs of Turing machines."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from math import log2
from typing import Protocol

_ATOM = re.compile(r"\s*(\[[^\]\s]+\]|[^\s\[\]*+])([*+]?)")


class Rule(Protocol):
    """A way to draw words."""

    @property
    def symbols(self) -> str:
        """What its words are made of."""
        ...

    def fits(self, length: int) -> bool:
        """Whether it has words of this length."""
        ...

    def draw(self, rng: random.Random, length: int) -> str:
        """A random word of a length that fits."""
        ...


@dataclass(frozen=True)
class Pattern:
    """A sequence of symbols or sets of symbols, each once, `*` any number of times or `+` at least once: `1 [01]*`.

    Symbols of a set are equally likely. Where several atoms repeat, the cells they share are cut at uniform places.
    """

    atoms: tuple[tuple[str, bool], ...]
    """Symbols to choose from, and whether any number of them may follow each other."""

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """The pattern that `text` writes.

        Raises:
            ValueError: it is not one.
        """
        atoms: list[tuple[str, bool]] = []
        at, text = 0, text.strip()
        while at < len(text):
            match = _ATOM.match(text, at)
            if match is None:
                raise ValueError(f"pattern {text!r}: {text[at:]!r} is no symbol or set like '[ab]', with '*' or '+'")
            symbols = "".join(dict.fromkeys(match[1].strip("[]")))
            atoms += [(symbols, False)] * (match[2] != "*") + [(symbols, True)] * bool(match[2])
            at = match.end()
        return cls(tuple(atoms))

    @property
    def symbols(self) -> str:
        return "".join(symbols for symbols, _ in self.atoms)

    def fits(self, length: int) -> bool:
        once = sum(not repeated for _, repeated in self.atoms)
        return once == length or (once < length and once < len(self.atoms))

    def draw(self, rng: random.Random, length: int) -> str:
        repeating = sum(repeated for _, repeated in self.atoms)
        shared = length - (len(self.atoms) - repeating)
        cuts = [0, *sorted(rng.randint(0, shared) for _ in range(repeating - 1)), shared]
        sizes = (stop - start for start, stop in pairwise(cuts))
        parts = (rng.choices(symbols, k=next(sizes) if repeated else 1) for symbols, repeated in self.atoms)
        return "".join(symbol for part in parts for symbol in part)

    def word_bits(self, length: int) -> float | None:
        """Each word of this length is drawn once in 2**bits; None where several atoms repeat and words differ in it."""
        repeating = sum(repeated for _, repeated in self.atoms)
        if repeating > 1:
            return None
        shared = length - (len(self.atoms) - repeating)
        return sum(log2(len(symbols)) * (shared if repeated else 1) for symbols, repeated in self.atoms)


@dataclass(frozen=True)
class Mirror:
    """Palindromes: the first half uniform, the second its mirror image."""

    symbols: str

    def fits(self, length: int) -> bool:
        return length >= 1

    def draw(self, rng: random.Random, length: int) -> str:
        half = "".join(rng.choices(self.symbols, k=(length + 1) // 2))
        return half + half[: length // 2][::-1]


@dataclass(frozen=True)
class Nested:
    """Uniform balanced words of a pair of brackets; of an odd length, with one more bracket somewhere."""

    symbols: str

    def fits(self, length: int) -> bool:
        return length >= 1

    def draw(self, rng: random.Random, length: int) -> str:
        word = _balanced(rng, length // 2, *self.symbols)
        if length % 2:
            word.insert(rng.randint(0, len(word)), rng.choice(self.symbols))
        return "".join(word)


def _balanced(rng: random.Random, pairs: int, opening: str, closing: str) -> list[str]:
    """By the cycle lemma: of all rotations of a word with one closing bracket too many, one closes it last."""
    steps = [1] * pairs + [-1] * (pairs + 1)
    rng.shuffle(steps)
    heights = list(accumulate(steps))
    turn = heights.index(min(heights)) + 1
    return [opening if step == 1 else closing for step in (steps[turn:] + steps[:turn])[:-1]]


@dataclass(frozen=True)
class Changed:
    """Near misses: words of another rule with `cells` symbols (at most all of them) replaced by other ones."""

    rule: Rule
    cells: int

    @property
    def symbols(self) -> str:
        return self.rule.symbols

    def fits(self, length: int) -> bool:
        return self.rule.fits(length)

    def draw(self, rng: random.Random, length: int) -> str:
        word = list(self.rule.draw(rng, length))
        for cell in rng.sample(range(length), min(length, self.cells)):
            word[cell] = rng.choice([symbol for symbol in sorted(set(self.symbols)) if symbol != word[cell]])
        return "".join(word)


_Places = frozenset[tuple[int, int]]
"""Where in the patterns a word may stand: (pattern, atoms done)."""


@dataclass(frozen=True)
class Words:
    """Several rules, each equally likely where it fits."""

    rules: tuple[Rule, ...]

    def fits(self, length: int) -> bool:
        return any(rule.fits(length) for rule in self.rules)

    def draw(self, rng: random.Random, length: int) -> str:
        """A random word.

        Raises:
            ValueError: no rule has words of this length.
        """
        fitting = [rule for rule in self.rules if rule.fits(length)]
        if not fitting:
            raise ValueError(f"no input of length {length}")
        return rng.choice(fitting).draw(rng, length)

    def likeliest_bits(self, length: int) -> float | None:
        """No word of this length is drawn more often than once in 2**bits; None where some rule does not say so."""
        fitting = [rule for rule in self.rules if rule.fits(length)]
        found = [rule.word_bits(length) if isinstance(rule, Pattern) else None for rule in fitting]
        known = [bits for bits in found if bits is not None]
        return min(known) if known and len(known) == len(found) else None

    @cached_property
    def symbols(self) -> frozenset[str]:
        return frozenset(symbol for rule in self.rules for symbol in rule.symbols)

    def holds(self, word: Iterable[str]) -> bool:
        """Whether the word follows a pattern, or is written in the symbols of a rule of another kind."""
        word = list(word)
        if any(set(word) <= set(rule.symbols) for rule in self.rules if not isinstance(rule, Pattern)):
            return True
        places = _start(self)
        for symbol in word:
            places = _advance(self, places, symbol)
        return self._complete(places)

    def count(self, length: int) -> int | None:
        """Number of distinct words; None where rules other than patterns add some that are not counted."""
        found = _count(self, length)
        complete = all(isinstance(rule, Pattern) for rule in self.rules) or found == len(self.symbols) ** length
        return found if complete else None

    def _complete(self, places: _Places) -> bool:
        ends = {(index, len(rule.atoms)) for index, rule in enumerate(self.rules) if isinstance(rule, Pattern)}
        return not ends.isdisjoint(places)


def _start(words: Words) -> _Places:
    patterns = [index for index, rule in enumerate(words.rules) if isinstance(rule, Pattern)]
    return _skipping(words, {(index, 0) for index in patterns})


@lru_cache(maxsize=4_096)
def _advance(words: Words, places: _Places, symbol: str) -> _Places:
    """The places after one more symbol (the subset construction, one step)."""
    reached = set()
    for index, done in places:
        atoms = words.rules[index].atoms  # type: ignore[attr-defined]
        if done < len(atoms) and symbol in atoms[done][0]:
            reached.add((index, done if atoms[done][1] else done + 1))
    return _skipping(words, reached)


def _skipping(words: Words, places: set[tuple[int, int]]) -> _Places:
    """With the places reached by leaving out atoms that may be absent."""
    found = set(places)
    for index, done in places:
        atoms = words.rules[index].atoms  # type: ignore[attr-defined]
        while done < len(atoms) and atoms[done][1]:
            done += 1
            found.add((index, done))
    return frozenset(found)


@lru_cache(maxsize=4_096)
def _count(words: Words, length: int) -> int:
    """Number of distinct words that follow a pattern."""
    ways = Counter({_start(words): 1})
    for _ in range(length):
        longer: Counter[_Places] = Counter()
        for places, number in ways.items():
            for symbol in words.symbols:
                longer[_advance(words, places, symbol)] += number
        ways = longer
    return sum(number for places, number in ways.items() if words._complete(places))

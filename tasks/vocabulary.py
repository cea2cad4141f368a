"""Tokens and their ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tasks.base import PAD
from tasks.resolve import unknown

Ids = npt.NDArray[np.uint16]


class Vocabulary:
    """Ids are positions in `tokens`; padding is 0. `tokens` is all there is to store: `Vocabulary(tokens)` restores it.

    Raises:
        ValueError: padding is not first, a token stands twice, or there are more than 65,536.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tuple(tokens)
        if self.tokens[:1] != (PAD,):
            raise ValueError(f"vocabulary: the first token must be {PAD}")
        if len(self.ids) < len(self.tokens):
            twice = next(token for token in self.tokens if self.tokens.count(token) > 1)
            raise ValueError(f"vocabulary: token {twice!r} stands twice")
        if len(self.tokens) > 1 << 16:
            raise ValueError(f"vocabulary: {len(self.tokens):,} tokens, at most 65,536 fit the ids")

    @cached_property
    def ids(self) -> dict[str, int]:
        """Token -> id."""
        return {token: number for number, token in enumerate(self.tokens)}

    def encode(self, tokens: Sequence[str]) -> Ids:
        """Tokens -> ids, uint16, same length.

        Raises:
            ValueError: a token is not in the vocabulary.
        """
        try:
            return np.fromiter(map(self.ids.__getitem__, tokens), np.uint16, len(tokens))
        except KeyError as error:
            raise unknown("token", str(error.args[0]), self.tokens) from None

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Ids -> tokens."""
        return [self.tokens[number] for number in ids]

    def __len__(self) -> int:
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.tokens == other.tokens

    def __hash__(self) -> int:
        return hash(self.tokens)

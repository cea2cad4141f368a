"""The tokens of one solved problem, or a piece of them, as text and as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tasks.base import Role
from tasks.vocabulary import Vocabulary

_ROLES = tuple(Role)


@dataclass(frozen=True)
class Trajectory:
    """A trajectory or a piece of one: all lists have one entry per token."""

    tokens: list[str]
    roles: list[Role]
    own: list[bool]
    """Made by the model, so that training takes its loss on it: all but the question and what a tool answered."""

    steps: list[int]
    """Number of the solver step; 0 is the question."""

    phases: dict[int, str]
    """Solver step -> its name, for the steps found here."""

    calls: int
    """Commands completed since the beginning of the problem, when the last token here had been made."""

    longest_walk: int


@dataclass(frozen=True)
class Encoded:
    """A trajectory or a piece of one as arrays with one entry per token; fields as in `Trajectory`."""

    ids: npt.NDArray[np.uint16]
    roles: npt.NDArray[np.uint8]
    own: npt.NDArray[np.bool_]
    steps: npt.NDArray[np.int32]
    phases: dict[int, str]
    calls: int
    longest_walk: int

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Piece:
    """What the recorder hands over: roles as bytes, steps as the offsets where they begin."""

    tokens: list[str]
    roles: bytearray
    begins: Mapping[int, int]
    """Solver step -> offset of its first token, ascending; steps without tokens share an offset with the next."""

    phases: Mapping[int, str]
    calls: int
    longest_walk: int

    def as_trajectory(self, own: npt.NDArray[np.bool_]) -> Trajectory:
        """As lists; `own` says for each role whether its tokens are the model's."""
        arrays = np.frombuffer(self.roles, np.uint8)
        roles = list(map(_ROLES.__getitem__, self.roles))
        steps, phases = self._steps()
        return Trajectory(
            self.tokens, roles, own[arrays].tolist(), steps.tolist(), phases, self.calls, self.longest_walk
        )

    def as_arrays(self, own: npt.NDArray[np.bool_], vocabulary: Vocabulary) -> Encoded:
        """As arrays; `own` says for each role whether its tokens are the model's."""
        roles = np.frombuffer(self.roles, np.uint8)
        ids = vocabulary.encode(self.tokens)
        steps, phases = self._steps()
        return Encoded(ids, roles, own[roles], steps, phases, self.calls, self.longest_walk)

    def _steps(self) -> tuple[npt.NDArray[np.int32], dict[int, str]]:
        """The step of every token, and the names of the steps that have tokens."""
        sizes = [stop - start for start, stop in pairwise([*self.begins.values(), len(self.tokens)])]
        steps = np.repeat(np.fromiter(self.begins, np.int32, len(sizes)), sizes)
        return steps, {step: self.phases[step] for step, size in zip(self.begins, sizes, strict=True) if size}

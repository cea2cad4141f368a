"""Oracle trajectories of many problems, streamed side by side in rounds. No torch: helper processes import this."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.ahead import Helpers
from tasks.base import Problem
from tasks.scenario import Scenario
from tasks.trajectory import Encoded


@dataclass(frozen=True)
class Round:
    """The next tokens of every trajectory that has not ended."""

    rows: list[int]
    """Indices of their problems, ascending."""
    kept: list[int] | None
    """Where these rows stood in the round before; None: they are the same."""
    tokens: npt.NDArray[np.int32]
    """[R, T], 0 beyond a row's end."""
    own: npt.NDArray[np.bool_]
    """[R, T]: tokens the model makes."""
    lengths: list[int]
    calls: list[int]
    """Completed commands since the beginning of each problem."""
    walks: list[int]
    """Longest walk since the beginning of each problem."""


@dataclass(frozen=True)
class Pieces:
    """One piece of some trajectories, laid end to end: few large arrays cross from process to process fastest."""

    rows: list[int]
    lengths: list[int]
    ids: npt.NDArray[np.uint16]
    own: npt.NDArray[np.bool_]
    calls: list[int]
    walks: list[int]


def rounds(
    scenario: Scenario,
    problems: Sequence[Problem],
    size: int,
    launch: int = 0,
    multiple: int = 1,
    helpers: Helpers | None = None,
) -> Iterator[Round]:
    """All trajectories in rounds of `size` tokens a row, or a multiple of that where few rows are left.

    launch: tokens a round should have, all rows together; multiple: widths are rounded up to one of it; helpers: the
    solvers run there, each with its share of the problems (None or no helper: here). What a round holds does not
    depend on the helpers.
    """
    numbered = list(enumerate(problems))
    if helpers:
        count = min(len(helpers), len(numbered))
        sources = [helpers[at].iterate(pieces, scenario, numbered[at::count], size) for at in range(count)]
    else:
        sources = [pieces(scenario, numbered, size)]
    before, going = list(range(len(numbered))), len(numbered)
    while going:
        turns = max(1, launch // (going * size))
        taken = [piece for source in sources for piece in islice(source, turns)]
        made = _round(taken, before, multiple)
        if not made.rows:
            return
        yield made
        before, going = made.rows, sum(length == turns * size for length in made.lengths)


def pieces(scenario: Scenario, numbered: Sequence[tuple[int, Problem]], size: int) -> Iterator[Pieces]:
    """One piece of every trajectory, again and again until the last has ended."""
    streams = {row: scenario.stream_encoded(problem, size) for row, problem in numbered}
    while streams:
        turn: dict[int, Encoded] = {}
        for row, stream in list(streams.items()):
            piece = next(stream, None)
            if piece is None:
                del streams[row]
            else:
                turn[row] = piece
        if turn:
            made = turn.values()
            yield Pieces(
                rows=list(turn),
                lengths=[len(piece) for piece in made],
                ids=np.concatenate([piece.ids for piece in made]),
                own=np.concatenate([piece.own for piece in made]),
                calls=[piece.calls for piece in made],
                walks=[piece.longest_walk for piece in made],
            )


def _round(taken: Sequence[Pieces], before: list[int], multiple: int) -> Round:
    parts: dict[int, list[tuple[Any, Any]]] = {}
    latest: dict[int, tuple[int, int]] = {}
    for piece in taken:
        at = 0
        for row, length, calls, walk in zip(piece.rows, piece.lengths, piece.calls, piece.walks, strict=True):
            parts.setdefault(row, []).append((piece.ids[at : at + length], piece.own[at : at + length]))
            latest[row] = (calls, walk)
            at += length
    rows = sorted(parts)
    lengths = [sum(len(ids) for ids, _ in parts[row]) for row in rows]
    width = -(-max(lengths, default=0) // multiple) * multiple
    tokens = np.zeros((len(rows), width), np.int32)
    own = np.zeros(tokens.shape, np.bool_)
    for at, row in enumerate(rows):
        tokens[at, : lengths[at]] = np.concatenate([ids for ids, _ in parts[row]])
        own[at, : lengths[at]] = np.concatenate([mine for _, mine in parts[row]])
    place = {row: at for at, row in enumerate(before)}
    kept = None if rows == before else [place[row] for row in rows]
    return Round(rows, kept, tokens, own, lengths, [latest[row][0] for row in rows], [latest[row][1] for row in rows])

"""Oracle trajectories of many problems, streamed side by side in rounds. No torch: helper processes import this."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

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
    own_counts: list[int]
    lengths: list[int]
    calls: list[int]
    """Completed commands since the beginning of each problem."""
    walks: list[int]
    """Longest walk since the beginning of each problem."""
    steps: list[int]
    """The solver step of each row's last token."""


@dataclass(frozen=True)
class Pieces:
    """One piece of some trajectories, side by side: few large arrays cross from process to process fastest."""

    rows: list[int]
    lengths: list[int]
    ids: npt.NDArray[np.uint16]
    """[R, T], 0 beyond a row's end."""
    own: npt.NDArray[np.bool_]
    """[R, T]."""
    calls: list[int]
    walks: list[int]
    steps: list[int]


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
        taken = [list(islice(source, turns)) for source in sources]
        made = _round(taken, size, before, multiple)
        if not made.rows:
            return
        yield made
        before, going = made.rows, sum(length == turns * size for length in made.lengths)


def whole(scenario: Scenario, problems: Sequence[Problem]) -> Iterator[Encoded]:
    """The whole trajectory of every problem."""
    return map(scenario.encoded, problems)


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
            yield _side_by_side(turn)


def _side_by_side(turn: dict[int, Encoded]) -> Pieces:
    made, lengths = turn.values(), [len(piece) for piece in turn.values()]
    ids = np.zeros((len(turn), max(lengths)), np.uint16)
    own = np.zeros(ids.shape, np.bool_)
    for at, piece in enumerate(made):
        ids[at, : lengths[at]], own[at, : lengths[at]] = piece.ids, piece.own
    calls, walks = [piece.calls for piece in made], [piece.longest_walk for piece in made]
    return Pieces(list(turn), lengths, ids, own, calls, walks, [int(piece.steps[-1]) for piece in made])


def _round(taken: Sequence[Sequence[Pieces]], size: int, before: list[int], multiple: int) -> Round:
    """Pieces that each source made one after another, as one round. All but a row's last piece have `size` tokens."""
    rows = sorted(row for pieces in taken for row in (pieces[0].rows if pieces else ()))
    place = {row: at for at, row in enumerate(rows)}
    lengths, calls, walks, steps = ([0] * len(rows) for _ in range(4))
    for piece in (piece for pieces in taken for piece in pieces):
        for row, length, *last in zip(piece.rows, piece.lengths, piece.calls, piece.walks, piece.steps, strict=True):
            at = place[row]
            lengths[at] += length
            calls[at], walks[at], steps[at] = last
    width = -(-max(lengths, default=0) // multiple) * multiple
    tokens = np.zeros((len(rows), width), np.int32)
    own = np.zeros(tokens.shape, np.bool_)
    for pieces in taken:
        for turn, piece in enumerate(pieces):
            where = [place[row] for row in piece.rows], slice(turn * size, turn * size + piece.ids.shape[1])
            tokens[where], own[where] = piece.ids, piece.own
    old = {row: at for at, row in enumerate(before)}
    kept = None if rows == before else [old[row] for row in rows]
    return Round(rows, kept, tokens, own, own.sum(axis=1).tolist(), lengths, calls, walks, steps)

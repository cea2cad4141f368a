"""Verification: the oracle's trajectory through the parallel forward, compared with what the model would have chosen.

Under greedy decoding a live rollout equals the oracle's trajectory up to the first token where the model's argmax
differs from it, because until then the tool saw the same commands and gave the same observations. So one forward over
the oracle tells where a live rollout would diverge. The oracle is streamed in chunks and the state carried from chunk
to chunk: for a model with a state of fixed size the memory needed does not depend on the length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.decide import autocast, decide
from models.state import clone, take
from tasks.base import Problem
from tasks.scenario import Scenario
from tasks.trajectory import Encoded


@dataclass
class Resume:
    """The place of a divergence: a state of one row, and the oracle's tokens between it and the first wrong token."""

    state: Any
    tokens: list[int]


@dataclass
class Verified:
    """What the model would do along one oracle trajectory."""

    tokens: int = 0
    own: int = 0
    right: int = 0
    divergence: int | None = None
    got: int | None = None
    margin: float = float("inf")
    """Least margin over the model's own tokens up to the divergence, that one included."""
    resume: Resume | None = None
    calls: int = 0
    longest_walk: int = 0


@torch.no_grad()
def verify(
    model: Any,
    scenario: Scenario,
    problems: Sequence[Problem],
    *,
    chunk: int,
    precision: str = "float32",
    keep: int = 0,
) -> list[Verified]:
    """Verify problems in one batch; the first `keep` diverged ones, by index, get a state to resume from."""
    device = next(model.parameters()).device
    streams = [scenario.stream_encoded(problem, chunk) for problem in problems]
    results = [Verified() for _ in problems]
    rows = list(range(len(problems)))
    state, last = model.initial_state(len(rows), device), None
    while True:
        pieces = [next(streams[row], None) for row in rows]
        going = [at for at, piece in enumerate(pieces) if piece is not None]
        if not going:
            return results
        if len(going) < len(rows):
            index = torch.tensor(going, device=device)
            state, last = take(state, index), None if last is None else last[index]
        rows = [rows[at] for at in going]
        here = [piece for piece in pieces if piece is not None]
        before = state
        tokens, lengths = _pad(here, device)
        with autocast(device, precision):
            logits, state = model(tokens, before, lengths)
        first = torch.zeros_like(logits[:, 0]) if last is None else last
        last = logits[torch.arange(len(rows), device=device), lengths - 1]
        chosen, margins = decide(torch.cat([first[:, None], logits[:, :-1]], dim=1))
        _compare(results, rows, here, chosen.cpu().numpy(), margins.cpu().numpy())
        _keep(results, rows, here, before, keep, device)


def _pad(pieces: Sequence[Encoded], device: torch.device) -> tuple[Tensor, Tensor]:
    lengths = [len(piece.ids) for piece in pieces]
    padded = np.zeros((len(pieces), max(lengths)), dtype=np.int64)
    for row, piece in enumerate(pieces):
        padded[row, : lengths[row]] = piece.ids
    return torch.from_numpy(padded).to(device), torch.tensor(lengths, device=device)


def _compare(
    results: list[Verified], rows: list[int], pieces: Sequence[Encoded], chosen: np.ndarray, margins: np.ndarray
) -> None:
    """Count right tokens and find first divergences; chosen, margins: [rows, T] for the token at each place."""
    for at, (row, piece) in enumerate(zip(rows, pieces)):
        result, size = results[row], len(piece.ids)
        own = np.flatnonzero(piece.own)
        wrong = own[chosen[at, own] != piece.ids[own]]
        if result.divergence is None:
            upto = own if not len(wrong) else own[own <= wrong[0]]
            if len(upto):
                result.margin = min(result.margin, float(margins[at, upto].min()))
            if len(wrong):
                result.divergence = result.tokens + int(wrong[0])
                result.got = int(chosen[at, wrong[0]])
        result.tokens += size
        result.own += len(own)
        result.right += len(own) - len(wrong)
        result.calls, result.longest_walk = piece.calls, piece.longest_walk


def _keep(
    results: list[Verified], rows: list[int], pieces: Sequence[Encoded], before: Any, keep: int, device: torch.device
) -> None:
    """Keep the state before this chunk for the rows that diverged in it, within the `keep` lowest indices."""
    diverged = [row for row, result in enumerate(results) if result.divergence is not None]
    for row in diverged[keep:]:
        results[row].resume = None
    for at, (row, piece) in enumerate(zip(rows, pieces)):
        result, start = results[row], results[row].tokens - len(piece.ids)
        if row in diverged[:keep] and result.divergence is not None and result.divergence >= start:
            tokens = piece.ids[: result.divergence - start].tolist()
            result.resume = Resume(clone(take(before, torch.tensor([at], device=device))), tokens)

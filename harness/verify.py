"""Verification: the oracle's trajectory through the parallel forward, compared with what the model would have chosen.

Under greedy decoding a live rollout equals the oracle's trajectory up to the first token where the model's argmax
differs from it, because until then the tool saw the same commands and gave the same observations. So one forward over
the oracle tells where a live rollout would diverge. The oracle is streamed in rounds and the state carried from round
to round: for a model with a state of fixed size the memory needed does not depend on the length.

A GPU is kept busy: trajectories are made and copied ahead of it, the comparison is made there, and its few results
are read some rounds later, when they are long done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.ahead import Helpers, in_thread
from harness.decide import autocast, decide
from harness.pieces import Round, rounds
from models.base import SequenceModel
from models.state import take
from tasks.base import Problem
from tasks.scenario import Scenario

LAUNCH = 1 << 17
"""Tokens that go through a GPU at once, where rows have so many left: enough to fill it, and bounds its memory."""
MULTIPLE = 64
"""Rounds are padded to a multiple of so many tokens on a GPU: few different shapes, few kernels to compile."""
LAG, AHEAD = 2, 3
"""Rounds on a GPU: results are read so many later, trajectories made so many earlier."""


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
    steps: int = 0


@dataclass(frozen=True)
class _Done:
    """A round that has been launched, and what will be known of it."""

    round: Round
    before: Any
    """The state before the round, where a row may have to resume from it."""
    found: Tensor
    """float64 [4, R], on the host: wrong tokens, place of the first (T: none), what was chosen there, least margin."""
    copied: torch.cuda.Event | None


@torch.inference_mode()
def verify(
    model: Any,
    scenario: Scenario,
    problems: Sequence[Problem],
    *,
    chunk: int,
    precision: str = "float32",
    keep: int = 0,
    helpers: Helpers | None = None,
) -> list[Verified]:
    """Verify problems in one batch; the first `keep` diverged ones, by index, get a state to resume from.

    chunk: tokens of each problem that go through the model at once; on a GPU more where few problems are left. With
    `helpers` the solvers run there; that changes no result.
    """
    device = next(model.parameters()).device
    results = [Verified() for _ in problems]
    state, last = model.initial_state(len(problems), device), None
    most = longest(scenario, problems)
    if isinstance(model, SequenceModel) and most is not None:
        state = model.reserve(state, most + MULTIPLE)
    pending: deque[_Done] = deque()
    for made, tokens, own in _loaded(scenario, problems, chunk, device, helpers):
        if made.kept is not None:
            index = _sent(torch.tensor(made.kept), device)
            state, last = take(state, index), None if last is None else (last[0][index], last[1][index])
        ragged = min(made.lengths) < tokens.shape[1]
        lengths = _sent(torch.tensor(made.lengths), device) if ragged else None
        before = state if keep else None
        with autocast(device, precision):
            chosen, margins, state = _choices(model, tokens, state, lengths)
        end = slice(-1, None) if lengths is None else (lengths - 1)[:, None]
        following = _at(chosen, end), _at(margins, end)
        first = (torch.zeros_like(following[0]), torch.zeros_like(following[1])) if last is None else last
        last = following
        found = _compared(
            torch.cat([first[0], chosen[:, :-1]], dim=1), torch.cat([first[1], margins[:, :-1]], dim=1), tokens, own
        )
        pending.append(_read_later(made, before, found))
        if len(pending) > (LAG if device.type == "cuda" else 0):
            _settle(results, pending.popleft(), model, keep)
    while pending:
        _settle(results, pending.popleft(), model, keep)
    return results


def longest(scenario: Scenario, problems: Sequence[Problem]) -> int | None:
    """Tokens of the longest trajectory, where that is known beforehand."""
    if scenario.setting not in ("interactive", "cot"):
        return None
    lengths = [scenario.task.trajectory_length(problem, scenario.form) for problem in problems]
    known = [length for length in lengths if length is not None]
    return max(known) if known and len(known) == len(lengths) else None


def _loaded(
    scenario: Scenario, problems: Sequence[Problem], chunk: int, device: torch.device, helpers: Helpers | None
) -> Iterator[tuple[Round, Tensor, Tensor]]:
    """Rounds, with their tokens (int64 [R, T]) and which of them are the model's own (bool [R, T]) on the device."""
    if device.type != "cuda":
        for made in rounds(scenario, problems, chunk, helpers=helpers):
            yield made, torch.from_numpy(made.tokens).long(), torch.from_numpy(made.own)
        return
    streamed = _pinned(rounds(scenario, problems, chunk, LAUNCH, MULTIPLE, helpers))
    for made, tokens, own in in_thread(streamed, AHEAD):
        yield made, tokens.to(device, non_blocking=True).long(), own.to(device, non_blocking=True)


def _pinned(streamed: Iterator[Round]) -> Iterator[tuple[Round, Tensor, Tensor]]:
    for made in streamed:
        yield made, torch.from_numpy(made.tokens).pin_memory(), torch.from_numpy(made.own).pin_memory()


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Copied to the device without waiting for what it is busy with."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _choices(model: Any, tokens: Tensor, state: Any, lengths: Tensor | None) -> tuple[Tensor, Tensor, Any]:
    """The greedy token after each token and its margin, both [R, T], and the new state."""
    if isinstance(model, SequenceModel):
        features, state = model.append(tokens, state, lengths)
        return *model.decide(features), state
    logits, state = model(tokens, state, lengths)
    return *decide(logits), state


def _at(values: Tensor, end: Any) -> Tensor:
    """[R, T] -> [R, 1]: the value at each row's end."""
    return values[:, end] if isinstance(end, slice) else values.gather(1, end)


def _compared(chosen: Tensor, margins: Tensor, tokens: Tensor, own: Tensor) -> Tensor:
    """What there is to know of a round, float64 [4, R] (see `_Done.found`); all arguments [R, T]."""
    width = tokens.shape[1]
    places = torch.arange(width, device=tokens.device)
    wrong = own & (chosen != tokens)
    first = torch.where(wrong, places, width).amin(1)
    least = torch.where(own & (places <= first[:, None]), margins, torch.inf).amin(1)
    got = chosen.gather(1, first.clamp(max=width - 1)[:, None])[:, 0]
    return torch.stack([wrong.sum(1).double(), first.double(), got.double(), least.double()])


def _read_later(made: Round, before: Any, found: Tensor) -> _Done:
    if found.device.type != "cuda":
        return _Done(made, before, found, None)
    host = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
    host.copy_(found, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()
    return _Done(made, before, host, copied)


def _settle(results: list[Verified], done: _Done, model: Any, keep: int) -> None:
    """Enter a round into the results, and keep the state before it for rows that diverged in it."""
    if done.copied is not None:
        done.copied.synchronize()
    made = done.round
    wrong, first, got, margins = done.found.tolist()
    diverged_here = []
    for at, (row, length) in enumerate(zip(made.rows, made.lengths, strict=True)):
        result, own = results[row], made.own_counts[at]
        if result.divergence is None:
            result.margin = min(result.margin, margins[at])
            if wrong[at]:
                result.divergence, result.got = result.tokens + int(first[at]), int(got[at])
                diverged_here.append((at, row, result.tokens))
        result.tokens += length
        result.own += own
        result.right += own - int(wrong[at])
        result.calls, result.longest_walk, result.steps = made.calls[at], made.walks[at], made.steps[at]
    if diverged_here and keep:
        _keep(results, done, diverged_here, model, keep)


def _keep(
    results: list[Verified], done: _Done, diverged_here: list[tuple[int, int, int]], model: Any, keep: int
) -> None:
    """Only the `keep` lowest indices of all that diverged so far have a state. diverged_here: (at, row, start)."""
    diverged = [row for row, result in enumerate(results) if result.divergence is not None]
    for row in diverged[keep:]:
        results[row].resume = None
    for at, row, start in diverged_here:
        if row in diverged[:keep]:
            state = take(done.before, torch.tensor([at]))
            # Of a cache with room for the whole trajectory only the part that is filled.
            state = model.reserve(state, start) if isinstance(model, SequenceModel) else state
            place = (results[row].divergence or 0) - start
            results[row].resume = Resume(state, done.round.tokens[at, :place].tolist())

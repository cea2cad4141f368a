"""Verification: the oracle's trajectory through the parallel forward, compared with what the model would have chosen.

Under greedy decoding a live rollout equals the oracle's trajectory up to the first token where the model's argmax
differs from it, because until then the tool saw the same commands and gave the same observations. So one forward over
the oracle tells where a live rollout would diverge. The oracle is streamed in rounds and the state carried from round
to round: for a model with a state of fixed size the memory needed does not depend on the length.

A GPU is kept busy: trajectories are made and copied ahead of it, the comparison is made there, and its few results
are read some rounds later, when they are long done.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.ahead import Helpers, in_thread
from harness.decide import autocast, decide
from harness.memory import sent
from harness.pieces import Round, rounds
from models.base import SequenceModel
from models.state import clone, leaves, take
from tasks.base import Problem
from tasks.scenario import Scenario

LAUNCH = 1 << 17
"""Tokens that go through a GPU at once, where rows have so many left: enough to fill it, and bounds its memory."""
MULTIPLE = 64
"""Rounds are padded to a multiple of so many tokens on a GPU: few different shapes, few kernels to compile."""
LAG, AHEAD = 2, 3
"""Rounds on a GPU: results are read so many later, trajectories made so many earlier."""
WARM, MANY = 2, 4
"""Rounds of a shape that go launch by launch before there is a graph of it, and that must be left then."""


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
    state = model.initial_state(len(problems), device)
    most = longest(scenario, problems)
    if isinstance(model, SequenceModel):
        # A float32 cache would be made bfloat16 anew for every round.
        cache = torch.bfloat16 if precision == "bf16" else None
        state = model.reserve(state, 0 if most is None else most + MULTIPLE, cache)
    compare = _Compare(model, precision, device, state, 0 if most is None else most)
    pending: deque[_Done] = deque()
    for made, tokens, own in _loaded(scenario, problems, chunk, device, helpers):
        if made.kept is not None:
            compare.take(sent(torch.tensor(made.kept), device))
        ragged = min(made.lengths) < tokens.shape[1]
        lengths = sent(torch.tensor(made.lengths), device) if ragged else None
        before = compare.before() if keep else None
        pending.append(_read_later(made, before, compare(tokens, own, lengths)))
        if len(pending) > (LAG if device.type == "cuda" else 0):
            _settle(results, pending.popleft(), model, keep)
    while pending:
        _settle(results, pending.popleft(), model, keep)
    return results


class _Compare:
    """Takes the rounds of a verification one after another, and carries what one hands to the next."""

    def __init__(self, model: Any, precision: str, device: torch.device, state: Any, most: int) -> None:
        self.model, self.precision, self.device, self.state, self.left = model, precision, device, state, most
        self.last: tuple[Tensor, Tensor] | None = None
        """What was chosen after the last token of the round before, and its margin, [R, 1] each."""
        # An RNN's forward is thousands of launches, for which the host takes longer than the GPU.
        self.records = device.type == "cuda" and getattr(model, "interleaves", False)
        self.seen: Counter[torch.Size] = Counter()
        self.graph: _Graph | None = None

    def __call__(self, tokens: Tensor, own: Tensor, lengths: Tensor | None) -> Tensor:
        """tokens: int64 [R, T]; own: bool [R, T]; lengths: int64 [R] or None. Returns `_Done.found`, on the device."""
        self.left -= tokens.shape[1]
        if self.records and lengths is None and self._recorded(tokens, own):
            assert self.graph is not None
            return self.graph.replay(tokens, own)
        self.graph = None
        self.state, self.last, found = self._round(tokens, own, lengths, self.state, self.last)
        return found

    def take(self, rows: Tensor) -> None:
        """Only these rows go on."""
        self.state, self.graph = take(self.state, rows), None
        self.last = None if self.last is None else (self.last[0][rows], self.last[1][rows])

    def before(self) -> Any:
        """The state as it is now, also after the next round."""
        return self.state if self.graph is None else clone(self.state)

    def _round(
        self, tokens: Tensor, own: Tensor, lengths: Tensor | None, state: Any, last: tuple[Tensor, Tensor] | None
    ) -> tuple[Any, tuple[Tensor, Tensor], Tensor]:
        with autocast(self.device, self.precision):
            chosen, margins, state = _choices(self.model, tokens, state, lengths)
        end = slice(-1, None) if lengths is None else (lengths - 1)[:, None]
        following = _at(chosen, end), _at(margins, end)
        first = (torch.zeros_like(following[0]), torch.zeros_like(following[1])) if last is None else last
        chosen, margins = (torch.cat([one, rest[:, :-1]], dim=1) for one, rest in zip(first, (chosen, margins)))
        return state, following, _compared(chosen, margins, tokens, own)

    def _recorded(self, tokens: Tensor, own: Tensor) -> bool:
        """Whether there is a graph for this round, which is made where many more like it are to come."""
        shape = tokens.shape
        if self.graph is not None and self.graph.tokens.shape == shape:
            return True
        self.seen[shape] += 1
        if self.last is None or self.seen[shape] <= WARM or self.left < MANY * shape[1]:
            return False
        state, last = clone(self.state), (self.last[0].clone(), self.last[1].clone())
        inputs, graph = (tokens.clone(), own.clone()), torch.cuda.CUDAGraph()
        # Other threads pin memory for later rounds meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            after, following, found = self._round(*inputs, None, state, last)
            for mine, new in zip((*leaves(state), *last), (*leaves(after), *following)):
                mine.copy_(new)
        self.state, self.last, self.graph = state, last, _Graph(graph, *inputs, found)
        return True


@dataclass(frozen=True)
class _Graph:
    """A captured round, which reads and writes the same tensors every time."""

    graph: torch.cuda.CUDAGraph
    tokens: Tensor
    own: Tensor
    found: Tensor

    def replay(self, tokens: Tensor, own: Tensor) -> Tensor:
        self.tokens.copy_(tokens)
        self.own.copy_(own)
        self.graph.replay()
        return self.found


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
            # Of a cache with room for the whole trajectory only the part that is filled; and what decodes has float32.
            state = model.reserve(state, start, torch.float32) if isinstance(model, SequenceModel) else state
            place = (results[row].divergence or 0) - start
            results[row].resume = Resume(state, done.round.tokens[at, :place].tolist())

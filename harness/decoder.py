"""A batch of rows decoding side by side, each at its own place, without the host: model, selection, tool, bookkeeping.

A row is fed a reply, acts, waits for the host (whose tool has to answer), or has ended. The host looks on after every
window of steps: it reads what was made, answers, and puts new rows into the places of those that ended. On a GPU the
step is replayed from a CUDA graph and windows are read while the next one runs; on a CPU the same steps run one by one,
and a window ends as soon as the host is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.decide import dtype_of
from harness.memory import sent
from models.base import SequenceModel
from models.decoding import decoding
from models.state import State, fill, leaves
from models.state import take as take_rows
from tools.batched import ASKS, NOTHING, BatchedTool

WINDOW = 120
"""Steps between two looks: a number of many divisors, so that short loops are seen at their return."""
ASKING = 12
"""The same where the host has to answer: rows that wait do so for as long, or twice as long on a GPU."""
REPLY = 64
"""Tokens of the longest reply there is room for at first."""

Select = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits [B, V], seed of each row [B] and number of tokens it has made [B] -> the scores whose best is taken."""


@dataclass(frozen=True)
class Window:
    """What the rows did in some steps; all tensors on the host."""

    count: Tensor
    """int64 [B]: tokens of each row."""
    made: Tensor
    """int32 [B, steps]."""
    margins: Tensor
    """float32 [B, steps]; NaN for tokens of a reply."""
    asks: Tensor
    """bool [B]: rows that wait for an answer to their last token."""
    returned: Tensor
    """bool [B]: marked rows that are back where they were when they were marked, a window ago."""
    copied: Any
    """Event after which they may be read; None: at once."""

    def wait(self) -> None:
        if self.copied is not None:
            self.copied.synchronize()


class Decoder:
    """`rows` places for rows of at most `length` tokens each, replies and question included.

    tool: the rows' tool on the device. select: how tokens are chosen; None: greedily. Use it in inference mode.
    """

    def __init__(
        self,
        model: Any,
        tool: BatchedTool,
        rows: int,
        length: int,
        vocabulary: int,
        eos: int,
        precision: str = "float32",
        select: Select | None = None,
        graph: bool = True,
    ) -> None:
        self.model, self.tool, self.rows, self.eos, self.select = model, tool, rows, eos, select
        self.device = device = next(model.parameters()).device
        self.decode = decoding(model, rows, dtype_of(precision))
        self.state: State = model.initial_state(rows, device)
        if isinstance(model, SequenceModel):
            self.state = model.reserve(self.state, length + 1)
        self.steps = WINDOW if tool.alone else ASKING

        def whole(*shape: int) -> Tensor:
            return torch.zeros(rows, *shape, dtype=torch.int64, device=device)

        def truth() -> Tensor:
            return torch.zeros(rows, dtype=torch.bool, device=device)

        self.scores = torch.zeros(rows, vocabulary, device=device)
        self.tokens, self.left, self.at, self.end, self.count, self.seed, self.own = (whole() for _ in range(7))
        self.said = torch.full_like(self.tokens, NOTHING)
        self.reply = whole(REPLY)
        self.live, self.fed, self.acts = truth(), truth(), truth()
        self.made = torch.zeros(rows, self.steps, dtype=torch.int32, device=device)
        self.margins = torch.zeros(rows, self.steps, device=device)
        self.repeats = select is None and tool.alone and bool(getattr(model, "steady", False))
        """Whether a row that is where it was before does the same again, for ever."""
        self._marked: tuple[Tensor, list[Tensor]] | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self._recorded = graph and device.type == "cuda" and getattr(model, "records", False)
        self._take = _fastest_take(device)

    def put(
        self,
        rows: Sequence[int],
        state: State,
        logits: Tensor,
        commits: Sequence[int | None],
        left: Sequence[int],
        tools: Sequence[Any],
        seeds: Sequence[int],
    ) -> None:
        """Begin new rows in these places.

        state: of so many rows; logits: float32 [R, V] after their last token; commits: their first token where it is
        decided already; left: tokens each may take; tools: their tools on the host; seeds: of their choices.
        """
        index = self._sent(rows)
        self.state = fill(self.state, index, state)
        logits = logits.float()
        for at, token in enumerate(commits):
            if token is not None:
                logits[at] = -torch.inf
                logits[at, token] = 0
        self.left[index], self.seed[index] = self._sent(left), self._sent(seeds)
        self.own[index] = self._sent([int(token is not None) for token in commits])
        if self.select is not None:
            open_ = self._sent([token is None for token in commits])[:, None]
            logits = torch.where(open_, self.select(logits, self.seed[index], self.own[index]), logits)
        self.scores[index] = logits
        self.at[index], self.end[index] = 0, 0
        self.said[index] = NOTHING
        self.tool.load(index, tools)
        self.live[index] = True

    def answer(
        self, rows: Sequence[int], replies: Sequence[Sequence[int]], tools: Sequence[Any], last: Sequence[bool]
    ) -> None:
        """Give rows that wait the reply to their last token (which may be empty); where it is the `last`, they end."""
        longest = max(map(len, replies))
        if longest > self.reply.shape[1]:
            room = self.reply.new_zeros(self.rows, max(longest, 2 * self.reply.shape[1]))
            room[:, : self.reply.shape[1]] = self.reply
            self.reply, self.graph = room, None
        index = self._sent(rows)
        padded = torch.zeros(len(rows), max(1, longest), dtype=torch.int64)
        for row, reply in enumerate(replies):
            padded[row, : len(reply)] = torch.tensor(reply, dtype=torch.int64)
        self.reply[index, : padded.shape[1]] = sent(padded, self.device)
        sizes = self._sent([len(reply) for reply in replies])
        self.at[index], self.end[index] = 0, sizes
        left = self.left[index]
        self.left[index] = torch.where(self._sent(last), torch.minimum(left, sizes), left)
        self.said[index] = NOTHING
        self.tool.answered(index, tools)

    def mark(self, rows: Sequence[int]) -> None:
        """Remember where these rows are, until the end of the next window (see `Window.returned`)."""
        index = self._sent(rows)
        self._marked = index, self._whereabouts(index)

    def stop(self, rows: Sequence[int]) -> None:
        """These rows need not go on."""
        self.live[self._sent(rows)] = False

    def _whereabouts(self, rows: Tensor) -> list[Tensor]:
        """All that the further steps of rows depend on, each a copy. (Of a state the number of tokens is left out: a
        steady model does not look at it.)"""
        memory = take_rows(getattr(self.state, "layers", self.state), rows)
        own = *self.tool.state(rows), self.scores[rows], self.said[rows], self.live[rows]
        return [tensor.flatten(1) if tensor.ndim > 1 else tensor[:, None] for tensor in (*leaves(memory), *own)]

    def run(self) -> Window:
        """A window of steps; on a GPU it may still be under way."""
        if self._recorded and self.graph is None:
            self._record()
        going = self._going()
        for _ in range(self.steps):
            if self.graph is not None:
                self.graph.replay()
                continue
            self.step()
            if self.device.type != "cuda" and self._going() < going:
                break
        return self._looked_at()

    def _going(self) -> int:
        """Rows that neither wait nor have ended; asked of a CPU only."""
        return int((self.live & (self.said != ASKS)).sum()) if self.device.type != "cuda" else 0

    def step(self) -> None:
        """Every row's next token: taken, fed to the tool, fed to the model."""
        self._take(self)
        self.tool.feed(self.tokens, self.acts, self.said)
        if self.select is None:
            self.state = self.decode(self.tokens, self.state, self.fed, self.scores)
            return
        logits = torch.zeros_like(self.scores)
        self.state = self.decode(self.tokens, self.state, self.fed, logits)
        torch.where(self.fed[:, None], self.select(logits, self.seed, self.own), self.scores, out=self.scores)

    def _looked_at(self) -> Window:
        asks, returned = self.live & (self.said == ASKS), torch.zeros_like(self.live)
        if self._marked is not None:
            rows, before = self._marked
            same = [(old == new).all(1) for old, new in zip(before, self._whereabouts(rows), strict=True)]
            returned[rows] = torch.stack(same).all(0)
            self._marked = None
        if self.device.type != "cuda":
            window = Window(self.count.clone(), self.made.clone(), self.margins.clone(), asks, returned, None)
        else:
            count, made, margins, asks, returned = map(
                self._copied, (self.count, self.made, self.margins, asks, returned)
            )
            event = torch.cuda.Event()
            event.record()
            window = Window(count, made, margins, asks, returned, event)
        self.count.zero_()
        return window

    def _copied(self, tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)

    def _sent(self, values: Sequence[Any]) -> Tensor:
        return sent(torch.tensor(values), self.device)

    def _record(self) -> None:
        """Record a step. The kernels compile in steps in which no row takes part, so that nothing changes."""
        live = self.live.clone()
        self.live.zero_()
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(2):
                self.step()
        torch.cuda.current_stream(self.device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step()
        self.live.copy_(live)


def take(decoder: Decoder) -> None:
    """Each row's next token: one of a reply, else the best by its scores. What follows from that for the row."""
    best, index = decoder.scores.topk(2, dim=-1)
    going = decoder.live & (decoder.said != ASKS)
    at = decoder.at.clamp(max=decoder.reply.shape[1] - 1)[:, None]
    said, queued = decoder.said >= 0, decoder.at < decoder.end
    given = said | queued
    token = torch.where(said, decoder.said, torch.where(queued, decoder.reply.gather(1, at)[:, 0], index[:, 0]))
    margin = torch.where(given, torch.nan, best[:, 0] - best[:, 1])
    place = decoder.count.clamp(max=decoder.steps - 1)[:, None]
    for log, value in ((decoder.made, token.int()), (decoder.margins, margin)):
        log.scatter_(1, place, torch.where(going, value, log.gather(1, place)[:, 0])[:, None])
    own = going & ~given
    decoder.tokens.copy_(torch.where(going, token, 0))
    decoder.count += going
    decoder.left -= going.long()
    decoder.own += own
    decoder.at += going & queued & ~said
    decoder.said.copy_(torch.where(going, NOTHING, decoder.said))
    decoder.acts.copy_(own & (token != decoder.eos))
    ended = (own & (token == decoder.eos)) | (decoder.left <= 0)
    decoder.fed.copy_(going & ~ended)
    decoder.live &= ~(going & ended)


def _fastest_take(device: torch.device) -> Callable[[Decoder], None]:
    if device.type != "cuda":
        return take
    try:
        from harness.triton_take import take as fused
    except ImportError:
        return take
    return fused

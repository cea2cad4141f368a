# mypy: disable-error-code="no-untyped-def"
"""`harness.decoder.take` in one Triton kernel: selection and bookkeeping of every row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from tools.batched import ASKS, NOTHING

if TYPE_CHECKING:
    from harness.decoder import Decoder

_ASKS, _NOTHING = tl.constexpr(ASKS), tl.constexpr(NOTHING)


def take(decoder: Decoder) -> None:
    """As the reference; of equal best scores the first is taken."""
    d = decoder
    vocabulary = d.scores.shape[1]
    _take[(d.rows,)](
        d.scores, d.live.view(torch.uint8), d.said, d.reply, d.at, d.end, d.count, d.left, d.own, d.tokens,
        d.fed.view(torch.uint8), d.acts.view(torch.uint8), d.made, d.margins, vocabulary, d.reply.shape[1], d.steps,
        d.eos, COLUMNS=triton.next_power_of_2(vocabulary), num_warps=1 if vocabulary <= 256 else 4,
    )  # fmt: skip


@triton.jit
def _take(
    scores, live, said, reply, at, end, count, left, own, tokens, fed, acts, made, margins,
    vocabulary, room, steps, eos, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    heard = tl.load(said + row)
    going = (tl.load(live + row) != 0) & (heard != _ASKS)
    if going:
        c = tl.arange(0, COLUMNS)
        score = tl.load(scores + row.to(tl.int64) * vocabulary + c, mask=c < vocabulary, other=-float("inf"))
        best = tl.max(score, 0)
        first = tl.min(tl.where(score == best, c, COLUMNS), 0)
        second = tl.max(tl.where(c == first, -float("inf"), score), 0)
        place = tl.load(at + row)
        queued = (heard < 0) & (place < tl.load(end + row))
        given = queued | (heard >= 0)
        replied = tl.load(reply + row.to(tl.int64) * room + place, mask=queued, other=0)
        token = tl.where(queued, replied, tl.where(heard >= 0, heard, first.to(tl.int64)))
        number = tl.load(count + row)
        log = row.to(tl.int64) * steps + number
        tl.store(made + log, token.to(tl.int32), mask=number < steps)
        tl.store(margins + log, tl.where(given, float("nan"), best - second), mask=number < steps)
        tl.store(count + row, number + 1)
        remaining = tl.load(left + row) - 1
        tl.store(left + row, remaining)
        tl.store(own + row, tl.load(own + row) + tl.where(given, 0, 1))
        tl.store(at + row, place + tl.where(queued, 1, 0))
        tl.store(said + row, _NOTHING)
        tl.store(tokens + row, token)
        mine = tl.where(given, 0, 1)
        tl.store(acts + row, tl.where(token == eos, 0, mine))
        goes_on = tl.where(remaining <= 0, 0, tl.where(token == eos, 1 - mine, 1))
        tl.store(fed + row, goes_on)
        tl.store(live + row, goes_on)
    else:
        tl.store(tokens + row, 0)
        tl.store(acts + row, 0)
        tl.store(fed + row, 0)

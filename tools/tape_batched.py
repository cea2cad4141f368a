"""Turing machine tapes of a whole batch as tensors on a device: the twin of `tools.tape.Tape`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tools.base import END
from tools.batched import NOTHING, fastest
from tools.tape import LEFT, READ, RIGHT, WRITE, Tape

ORDINARY, MOVE, READS, WRITES = 0, 1, 4, 5
"""Codes of tokens: a move is 1 to the left, 3 to the right."""


class BatchedTape:
    """One tape a row; tokens are ids of a vocabulary (token -> id), and no row may take more than `length` of them.

    Its state: `cells` int32 [B, 2 `length` + 1], of which the first one of the question is in the middle, `head` int32
    [B], and `writing` bool [B]. Calls and walks are counted by the tool on the host. See `tools.batched.BatchedTool`.

    Raises:
        ValueError: a command, or `[END]`, is not in the vocabulary, or a size is below 1.
    """

    alone = True

    def __init__(
        self, vocabulary: Mapping[str, int], batch: int, length: int, device: str | torch.device = "cpu"
    ) -> None:
        missing = [token for token in (READ, WRITE, LEFT, RIGHT, END) if token not in vocabulary]
        if missing:
            raise ValueError(f"tool tape: the vocabulary lacks {' '.join(missing)}")
        if batch < 1 or length < 1:
            raise ValueError(f"tool tape: batch = {batch}, length = {length}, must both be at least 1")
        self.batch, self.origin, self.vocabulary, self.end = batch, length, vocabulary, vocabulary[END]
        codes = torch.zeros(max(vocabulary.values()) + 1, dtype=torch.int32)
        for token, code in ((LEFT, MOVE), (RIGHT, MOVE + 2), (READ, READS), (WRITE, WRITES)):
            codes[vocabulary[token]] = code
        self.codes = codes.to(device)
        self.cells = torch.full((batch, 2 * length + 1), self.end, dtype=torch.int32, device=device)
        self.head = torch.full((batch,), length, dtype=torch.int32, device=device)
        self.writing = torch.zeros(batch, dtype=torch.bool, device=device)
        self._feed = fastest("tools.triton_tools:feed_tapes", feed, device)

    def load(self, rows: Tensor, tools: Sequence[Tape]) -> None:
        """Raises ValueError when a tape reaches farther than `length` from its origin."""
        cells = torch.full((len(tools), self.cells.shape[1]), self.end, dtype=torch.int32)
        for row, tool in enumerate(tools):
            for cell, token in tool.cells.items():
                if abs(cell) > self.origin:
                    raise ValueError(
                        f"tool tape: cell {cell} is written, at most {self.origin} from the first are held"
                    )
                cells[row, self.origin + cell] = self.vocabulary[token]
        device = self.cells.device
        self.cells[rows] = cells.to(device)
        self.head[rows] = torch.tensor([self.origin + tool.head for tool in tools], dtype=torch.int32).to(device)
        self.writing[rows] = torch.tensor([tool.writing for tool in tools]).to(device)

    def feed(self, tokens: Tensor, active: Tensor, said: Tensor) -> None:
        self._feed(self, tokens, active, said)

    def answered(self, rows: Tensor, tools: Sequence[Tape]) -> None:
        raise AssertionError("it never asks")

    def state(self, rows: Tensor) -> tuple[Tensor, ...]:
        """See `tools.batched.BatchedTool`."""
        return self.cells[rows], self.head[rows], self.writing[rows]


def feed(twin: BatchedTape, tokens: Tensor, active: Tensor, said: Tensor) -> None:
    """`BatchedTape.feed` in plain PyTorch."""
    code = twin.codes[tokens]
    writes, commands = active & twin.writing, active & ~twin.writing
    at = twin.head[:, None].long()
    cell = twin.cells.gather(1, at)[:, 0]
    said.copy_(torch.where(active, torch.where(commands & (code == READS), cell, NOTHING), said))
    symbol = torch.where(writes & (code == ORDINARY), tokens.int(), cell)
    twin.cells.scatter_(1, at, symbol[:, None])
    moves = commands & (code >= MOVE) & (code < READS)
    twin.head.copy_((twin.head + torch.where(moves, code - MOVE - 1, 0)).clamp(0, twin.cells.shape[1] - 1))
    twin.writing.copy_(torch.where(active, commands & (code == WRITES), twin.writing))

"""Tools of a whole batch on a device: what they answer at once, and what has to wait for the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor

from tools.base import ASK, Mode, Tool

NOTHING, ASKS = -1, -2
"""No reply; a reply that the tool on the host has to make."""
CELLS = 1 << 28
"""Cells of memory, all rows together, that are kept on a device: 1 GB."""


class BatchedTool(Protocol):
    """One tool a row. All tensors are allocated once and written in place, and nothing waits for the device, so that
    `feed` can be recorded in a CUDA graph."""

    alone: bool
    """Whether it never asks the host."""

    def load(self, rows: Tensor, tools: Sequence[Any]) -> None:
        """From now on rows `rows` (int64 [R], on the device) are where these tools on the host are."""
        ...

    def feed(self, tokens: Tensor, active: Tensor, said: Tensor) -> None:
        """Feed one token to each active row.

        tokens: int64 [B]; active: bool [B]; said: int64 [B], where an active row's reply is written: a token, NOTHING
        or ASKS. Rows that are not active keep theirs.
        """
        ...

    def answered(self, rows: Tensor, tools: Sequence[Any]) -> None:
        """The tools on the host have answered the last token of these rows."""
        ...

    def state(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Of a tool that is alone: copies of all that further replies to these rows depend on."""
        ...


class Asking:
    """Any tool: it stays on the host, and rows wait for it where one of its modes says so (see `Tool.modes`)."""

    def __init__(self, tool: Tool, vocabulary: Mapping[str, int], batch: int, device: str | torch.device) -> None:
        modes = tool.modes()
        table = torch.stack([_line(mode, vocabulary) for mode in modes])
        self.alone = not bool((table == ASK).any())
        self.table = table.to(device)
        self.mode = torch.zeros(batch, dtype=torch.int64, device=device)

    def load(self, rows: Tensor, tools: Sequence[Tool]) -> None:
        self.mode[rows] = torch.tensor([tool.mode() for tool in tools]).to(self.mode.device)

    answered = load

    def state(self, rows: Tensor) -> tuple[Tensor, ...]:
        return (self.mode[rows],)

    def feed(self, tokens: Tensor, active: Tensor, said: Tensor) -> None:
        following = self.table[self.mode, tokens]
        asks = active & (following == ASK)
        self.mode.copy_(torch.where(active & ~asks, following, self.mode))
        said.copy_(torch.where(active, torch.where(asks, ASKS, NOTHING), said))


def _line(mode: Mode, vocabulary: Mapping[str, int]) -> Tensor:
    """int64 [V]: the mode that follows each token."""
    line = torch.full((max(vocabulary.values()) + 1,), mode.otherwise)
    for token, following in mode.after.items():
        if token in vocabulary:
            line[vocabulary[token]] = following
    return line


def fastest(kernel: str, plain: Callable[..., None], device: str | torch.device) -> Callable[..., None]:
    """The Triton kernel that `module:function` names on a GPU where Triton is, else the plain function."""
    if torch.device(device).type != "cuda":
        return plain
    module, name = kernel.split(":")
    try:
        found: Callable[..., None] = getattr(import_module(module), name)
    except ImportError:
        return plain
    return found


def batched(
    tool: Tool, vocabulary: Mapping[str, int], batch: int, length: int, device: str | torch.device
) -> BatchedTool:
    """What stands on a device for tools like `tool`, in rows of at most `length` tokens."""
    from tools.pointer import PointerMemory
    from tools.pointer_batched import BatchedPointerMemory
    from tools.tape import Tape
    from tools.tape_batched import BatchedTape

    if type(tool) is PointerMemory and batch * (tool.capacity or length) <= CELLS:
        return BatchedPointerMemory(vocabulary, batch, tool.capacity or length, tool.pointers, device)
    if type(tool) is Tape and batch * 2 * length <= CELLS:
        return BatchedTape(vocabulary, batch, length, device)
    return Asking(tool, vocabulary, batch, device)

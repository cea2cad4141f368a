"""Element-wise work of a block fused into few kernels, where that is worth compiling for.

What is `fused` takes and returns a function. A compiled one works for any number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WORTH = 20_000_000
"""Parameters of a model from which its blocks are compiled for training: that takes 10 to 30 seconds once, and what it
saves of a smaller model's steps a CUDA graph saves anyway."""

Function = Callable[..., Any]


def plain(function: Function, trial: Tensor | None = None) -> Function:
    """As it is: one kernel per operation."""
    return function


def inductor(function: Function, trial: Tensor | None = None) -> Function:
    """Through `torch.compile`; with a trial argument it compiles at once, and raises where it cannot."""
    compiled: Function = torch.compile(function, dynamic=True)
    if trial is not None:
        compiled(trial)
    return compiled

"""How much of a GPU's memory evaluation fills with states, so that growing caches of many rows do not burst it."""

from __future__ import annotations

from typing import Any

import torch

SHARE = 0.4
"""Of the memory this process may use: the rest is for weights, one call's activations, and states that are copied."""


def rows_that_fit(model: Any, tokens: int) -> int:
    """How many sequences of so many tokens may be under way at once on the model's device; at least one."""
    device = next(model.parameters()).device
    if device.type != "cuda":
        return 1 << 30
    total = torch.cuda.get_device_properties(device).total_memory
    share = SHARE * torch.cuda.get_per_process_memory_fraction(device)
    return max(1, int(total * share) // max(1, int(model.cost(tokens).state_bytes)))

"""How much memory evaluation and training take, from formulas, and how many rows evaluation puts under way at once.

The formulas count weights, states and what goes in and out of matrix products; they leave out what kernels keep for
themselves, allocators waste, and libraries reserve. `lengthwise bench` prints them beside what was allocated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SHARE = 0.4
"""Of the memory this process may use: the rest is for weights, one call's activations, and states that are copied."""
GATES = {"LSTM": 4, "GRU": 3}


def take_gpu(share: float) -> str:
    """The GPU's name. A process given a share keeps to that share of the memory: to Ray it is book-keeping only."""
    if share < 1:
        torch.cuda.set_per_process_memory_fraction(share)
    return torch.cuda.get_device_name()


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Copied to the device without waiting for what that is busy with."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def rows_that_fit(model: Any, tokens: int) -> int:
    """How many sequences of so many tokens may be under way at once on the model's device; at least one."""
    device = next(model.parameters()).device
    if device.type != "cuda":
        return 1 << 30
    total = torch.cuda.get_device_properties(device).total_memory
    share = SHARE * torch.cuda.get_per_process_memory_fraction(device)
    return max(1, int(total * share) // max(1, int(model.cost(tokens).state_bytes)))


def evaluation_bytes(model: Any, rows: int, launch: int, length: int, precision: str) -> float:
    """Most bytes while `rows` sequences of `length` tokens go through, `launch` tokens of all rows together at once.

    Weights (in bf16 a second time where autocast keeps copies), the state before a call and after it, of which a
    growing cache is one and the same, and the activations of the largest block, all of it at once.
    """
    cost = model.cost(length)
    itemsize = 2 if precision == "bf16" else 4
    grows = model.cost(length + 1).state_bytes > cost.state_bytes
    states = cost.state_bytes * rows * (1 if grows else 2)
    widest = max(map(activations, _blocks(model)))
    return _weights(model, precision) + states + launch * (itemsize * widest + _residual(model))


def training_bytes(model: Any, tokens: int, precision: str) -> float:
    """Most bytes of a training step over `tokens` tokens: what `evaluation_bytes` counts, of every block, since the
    backward pass needs it; and with each weight a gradient and AdamW's two moments, all float32."""
    itemsize = 2 if precision == "bf16" else 4
    kept = sum(itemsize * activations(block) + _residual(model) for block in _blocks(model))
    return _weights(model, precision) + 12 * model.parameter_count() + tokens * kept


def activations(module: nn.Module) -> int:
    """Numbers a token brings into and out of the linear maps and recurrent layers below a module."""
    count = 0
    for part in module.modules():
        if isinstance(part, nn.Linear):
            count += part.in_features + part.out_features
        elif isinstance(part, nn.RNNBase):
            gates = GATES.get(part.mode, 1) * part.hidden_size
            count += part.input_size + part.num_layers * (gates + part.hidden_size)
    return count


def _blocks(model: Any) -> list[nn.Module]:
    return list(getattr(model, "blocks", [model]))


def _weights(model: Any, precision: str) -> int:
    return int(model.parameter_count()) * (6 if precision == "bf16" else 4)


def _residual(model: Any) -> int:
    """Bytes of a token in the residual stream: before the block and after it, float32."""
    return 8 * int(getattr(model.options, "d_model", 0))

"""The one place that decides, and says, which implementation of each operation runs. Models import operations here.

The device decides: `CANDIDATES` lists the fast implementations of an operation, best first, and the kind of device each
is for. The first whose import and tiny call succeed on this machine is taken, else the reference in plain PyTorch,
which runs everywhere and is the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from models.kernels.attention import attention
from models.kernels.gated_delta import gated_delta_step
from models.kernels.selective_scan import selective_step
from models.kernels.wkv7 import wkv7_step

REFERENCES = {
    "attention": "models.kernels.attention:attention",
    "attention_step": "models.kernels.attention:attention_step",
    "blocks": "models.kernels.fuse:plain",
    "causal_conv": "models.kernels.causal_conv:causal_conv",
    "decide": "models.kernels.decide:decide",
    "gated_delta": "models.kernels.gated_delta:gated_delta",
    "norm": "models.kernels.norm:forked_norm",
    "mamba1_step": "models.kernels.selective_scan:no_fused_step",
    "mamba2": "models.kernels.mamba2:mamba2",
    "packed_attention": "models.kernels.attention:packed_attention",
    "rnn": "torch.nn:RNNBase",
    "selective_scan": "models.kernels.selective_scan:gated_scan",
    "ssd": "models.kernels.ssd:ssd",
    "ssd_step": "models.kernels.ssd:ssd_step",
    "wkv7": "models.kernels.wkv7:wkv7",
}
"""Operation -> its reference, called `torch`: plain PyTorch, fused attention and cuDNN where PyTorch has them."""


@dataclass(frozen=True)
class Candidate:
    """A faster implementation of an operation, with its reference's arguments and results."""

    name: str
    path: str
    """`module:function`; imported only when it is considered, so that optional packages stay optional."""
    example: Callable[[torch.device], tuple[Any, ...]]
    """Arguments of the tiny call that must succeed before it is chosen."""
    device: str = "cuda"
    offered: bool = True
    """False: taken only when demanded."""


@dataclass(frozen=True)
class Choice:
    name: str
    why: str
    function: Callable[..., Any]


def _conv_example(device: torch.device) -> tuple[Any, ...]:
    return torch.ones(1, 3, 16, device=device), torch.ones(16, 4, device=device), torch.ones(16, device=device), None


def _decide_example(device: torch.device) -> tuple[Any, ...]:
    return torch.ones(3, 16, device=device), torch.ones(4, 16, device=device)


def _delta_example(device: torch.device) -> tuple[Any, ...]:
    key, v = torch.ones(1, 3, 1, 64, device=device), torch.ones(1, 3, 1, 128, device=device)
    return 0.125 * key, 0.125 * key, v, -v[..., 0], v[..., 0]


def _norm_example(device: torch.device) -> tuple[Any, ...]:
    return torch.ones(2, 16, device=device), torch.ones(16, device=device), 1e-5


def _mamba2_example(device: torch.device) -> tuple[Any, ...]:
    """Sizes of the paper's heads and states, in bf16, trained on: compilation may fail in any of it."""
    from models.kernels.mamba2 import Weights

    inner, convolved, heads = (torch.ones(size, device=device) for size in (128, 384, 2))
    weights = Weights(torch.ones(384, 4, device=device), convolved, heads, heads, heads, inner, 1e-5)
    projected = torch.ones(1, 3, 514, device=device, dtype=torch.bfloat16, requires_grad=True)
    return projected, weights, None, None, torch.tensor([0, 3], dtype=torch.int32, device=device), 3


def _scan_example(device: torch.device) -> tuple[Any, ...]:
    u, A, B = torch.ones(1, 3, 16, device=device), -torch.ones(16, 4, device=device), torch.ones(1, 3, 4, device=device)
    return u, u, A, B, B


def _ssd_example(device: torch.device) -> tuple[Any, ...]:
    x, delta, B = (torch.ones(1, 3, *size, device=device) for size in ((1, 16), (1,), (16,)))
    return x, delta, -torch.ones(1, device=device), B, B


def _ssd_step_example(device: torch.device) -> tuple[Any, ...]:
    x, one, B = torch.ones(1, 2, 16, device=device), torch.ones(2, device=device), torch.ones(1, 8, device=device)
    return x, one[None], -one, B, B, torch.ones(1, 2, 16, 8, device=device), one[:1] > 0


def _wkv7_example(device: torch.device) -> tuple[Any, ...]:
    ones = torch.ones(1, 3, 1, 64, device=device)
    return ones, -0.1 * ones, ones, ones, 0.125 * ones, ones


def _packed_example(device: torch.device) -> tuple[Any, ...]:
    q = torch.ones(1, 2, 5, 64, device=device, dtype=torch.bfloat16)
    return q, q, q, torch.tensor([0, 3, 5], dtype=torch.int32, device=device), 3, 2


def _blocks_example(device: torch.device) -> tuple[Any, ...]:
    return lambda x: x.sin() + 1, torch.ones(3, device=device)


def _attention_step_example(device: torch.device) -> tuple[Any, ...]:
    q, cache = torch.ones(1, 2, 16, device=device), torch.ones(1, 2, 8, 16, device=device)
    return q, q, q, torch.ones(1, dtype=torch.int64, device=device), cache, cache.clone()


def _mamba1_step_example(device: torch.device) -> tuple[Any, ...]:
    from models.mamba1 import Mamba1, Mamba1Options

    return Mamba1(5, Mamba1Options(d_model=32, layers=1)).to(device), 1, torch.bfloat16


CANDIDATES: dict[str, tuple[Candidate, ...]] = {
    "attention_step": (
        Candidate("triton", "models.kernels.triton_attention_step:attention_step", _attention_step_example),
    ),
    "blocks": (Candidate("inductor", "models.kernels.fuse:inductor", _blocks_example),),
    "causal_conv": (Candidate("triton", "models.kernels.triton_conv:causal_conv", _conv_example),),
    "decide": (Candidate("triton", "models.kernels.triton_decide:decide", _decide_example),),
    "gated_delta": (
        Candidate("triton-forward", "models.kernels.triton_delta:gated_delta", _delta_example, offered=False),
        Candidate("fla", "models.kernels.vendor_fla:gated_delta", _delta_example, offered=False),
    ),
    "mamba1_step": (Candidate("triton", "models.kernels.triton_mamba1_step:mamba1_step", _mamba1_step_example),),
    "mamba2": (Candidate("triton", "models.kernels.triton_mamba2:mamba2", _mamba2_example),),
    "norm": (Candidate("triton", "models.kernels.triton_norm:forked_norm", _norm_example),),
    "packed_attention": (
        Candidate("flash-attn-4", "models.kernels.varlen:flash4", _packed_example),
        Candidate("flash-attn-2", "models.kernels.varlen:flash2", _packed_example),
        Candidate("torch-varlen", "models.kernels.varlen:torch_varlen", _packed_example),
    ),
    "selective_scan": (
        Candidate("triton", "models.kernels.triton_scan:gated_scan", _scan_example),
        Candidate("mamba_ssm", "models.kernels.vendor_mamba:gated_scan", _scan_example),
    ),
    "ssd": (
        Candidate("triton", "models.kernels.triton_ssd:ssd", _ssd_example),
        Candidate("mamba_ssm", "models.kernels.vendor_mamba:ssd", _ssd_example),
    ),
    "ssd_step": (Candidate("triton", "models.kernels.triton_ssd_step:ssd_step", _ssd_step_example),),
    "wkv7": (
        Candidate("triton-forward", "models.kernels.triton_delta:wkv7", _wkv7_example, offered=False),
        Candidate("fla", "models.kernels.vendor_fla:wkv7", _wkv7_example, offered=False),
    ),
}
"""Operation -> what may run instead of its reference, best first. `triton-forward` is the reference where gradients are
wanted; it is only for who demands it until it has been measured on a GPU."""

PARTS = {"mamba2": ("causal_conv", "ssd")}
"""Operations whose reference is made of others: it is taken when one of those is demanded."""

_DEMANDED: dict[str, str] = {}


def demand(names: Mapping[str, str]) -> None:
    """From now on take exactly these implementations, operation -> name; an empty mapping lifts all demands.

    Raises ValueError for an unknown operation or name. One that does not work here raises when it is first needed.
    """
    check(names)
    _DEMANDED.clear()
    _DEMANDED.update(names)
    choice.cache_clear()


def check(names: Mapping[str, str]) -> None:
    """Raise ValueError for an operation or an implementation that there is not."""
    for operation, name in names.items():
        if operation not in REFERENCES:
            raise ValueError(f"kernels: {operation!r} is none of {', '.join(REFERENCES)}")
        known = ["torch", *(candidate.name for candidate in CANDIDATES.get(operation, ()))]
        if name not in known:
            raise ValueError(f"kernels: {operation}: {name!r} is none of {', '.join(known)}")


@cache
def choice(operation: str, device: str) -> Choice:
    """What runs for an operation on a kind of device ("cpu", "cuda"), and why; decided once.

    Raises ValueError when one that was demanded does not work here.
    """
    failures = []
    taken_apart = any(part in _DEMANDED for part in PARTS.get(operation, ()))
    wanted = _DEMANDED.get(operation, "torch" if taken_apart else None)
    for candidate in CANDIDATES.get(operation, ()):
        if candidate.device != device or wanted not in (None, candidate.name):
            continue
        if wanted is None and not candidate.offered:
            continue
        problem = works(candidate)
        if problem is None:
            return Choice(candidate.name, "demanded" if wanted else "works here", load(candidate.path))
        failures.append(f"{candidate.name} does not: {problem}")
    if wanted not in (None, "torch"):
        reason = failures[0] if failures else f"it is not for {device}"
        raise ValueError(f"kernels: {operation}: {wanted} was demanded, but {reason}")
    why = "demanded" if wanted else "; ".join(failures) or f"nothing faster is known for {device}"
    return Choice("torch", why, load(REFERENCES[operation]))


def stated(operations: Iterable[str], device: str) -> dict[str, str]:
    """Operation -> the name of what runs for it, and for the parts of one that is taken apart."""
    names = {operation: choice(operation, device).name for operation in operations}
    parts = [part for operation, name in names.items() if name == "torch" for part in PARTS.get(operation, ())]
    return names | {part: choice(part, device).name for part in parts}


def works(candidate: Candidate) -> str | None:
    """Import a candidate and make its tiny call; None if all is well, else what went wrong, in one line.

    Backward too, if the example has something that requires a gradient.
    """
    device = torch.device(candidate.device)
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            made = load(candidate.path)(*candidate.example(device))
            if isinstance(made, tuple) and made[0].requires_grad:
                made[0].sum().backward()
    except Exception as error:  # an optional package may fail in any way at all
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def load(path: str) -> Callable[..., Any]:
    """What `module:function` names."""
    module, name = path.split(":")
    return getattr(import_module(module), name)


_MET: dict[str, Callable[..., Any]] = {}


def _met(operation: str, device: str) -> str:
    """The key in _MET of what was chosen: to compiled blocks, which must not trace the decision itself, a constant."""
    chosen = choice(operation, device)
    key = f"{operation} {chosen.name}"
    _MET[key] = chosen.function
    return key


def fused(function: Callable[..., Any], device: str) -> Callable[..., Any]:
    """See `models.kernels.fuse`."""
    chosen = choice("blocks", device)
    if chosen.name == "inductor":
        torch.compiler.assume_constant_result(_met)  # not where it is defined: this brings the compiler, two seconds
    return chosen.function(function)


def packed_attention(q: Tensor, *arguments: Any, **named: Any) -> Tensor:
    """See `models.kernels.attention`."""
    return _MET[_met("packed_attention", q.device.type)](q, *arguments, **named)


def attention_step(q: Tensor, *arguments: Any, **named: Any) -> tuple[Tensor, Any]:
    """See `models.kernels.attention`; updates the caches in place."""
    return choice("attention_step", q.device.type).function(q, *arguments, **named)


def causal_conv(x: Tensor, *arguments: Any, **named: Any) -> tuple[Tensor, Tensor]:
    """See `models.kernels.causal_conv`."""
    return choice("causal_conv", x.device.type).function(x, *arguments, **named)


def forked_norm(x: Tensor, *arguments: Any, **named: Any) -> tuple[Tensor, Tensor]:
    """See `models.kernels.norm`."""
    return choice("norm", x.device.type).function(x, *arguments, **named)


def gated_scan(u: Tensor, *arguments: Any, **named: Any) -> tuple[Tensor, Tensor]:
    """See `models.kernels.selective_scan`."""
    return choice("selective_scan", u.device.type).function(u, *arguments, **named)


def ssd(x: Tensor, *arguments: Any, **named: Any) -> tuple[Tensor, Tensor]:
    """See `models.kernels.ssd`."""
    return choice("ssd", x.device.type).function(x, *arguments, **named)


def ssd_step(x: Tensor, *arguments: Any, **named: Any) -> tuple[Tensor, Tensor]:
    """See `models.kernels.ssd`; may update the state in place."""
    return choice("ssd_step", x.device.type).function(x, *arguments, **named)


def decide(features: Tensor, *arguments: Any, **named: Any) -> tuple[Tensor, Tensor]:
    """See `models.kernels.decide`."""
    return choice("decide", features.device.type).function(features, *arguments, **named)


def gated_delta(q: Tensor, *arguments: Any, **named: Any) -> tuple[Tensor, Tensor]:
    """See `models.kernels.gated_delta`."""
    return choice("gated_delta", q.device.type).function(q, *arguments, **named)


def mamba2(projected: Tensor, *arguments: Any, **named: Any) -> tuple[Tensor, Any]:
    """See `models.kernels.mamba2`."""
    return choice("mamba2", projected.device.type).function(projected, *arguments, **named)


def wkv7(r: Tensor, *arguments: Any, **named: Any) -> tuple[Tensor, Tensor]:
    """See `models.kernels.wkv7`."""
    return choice("wkv7", r.device.type).function(r, *arguments, **named)


__all__ = [
    "CANDIDATES",
    "PARTS",
    "REFERENCES",
    "attention",
    "attention_step",
    "causal_conv",
    "check",
    "choice",
    "decide",
    "demand",
    "forked_norm",
    "fused",
    "gated_delta",
    "gated_delta_step",
    "gated_scan",
    "load",
    "mamba2",
    "packed_attention",
    "selective_step",
    "ssd",
    "ssd_step",
    "stated",
    "wkv7",
    "wkv7_step",
    "works",
]

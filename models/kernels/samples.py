"""Small realistic arguments of every operation, on which an implementation is compared with the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from models.kernels.mamba2 import Weights
from models.state import leaves, mapped


@dataclass(frozen=True)
class Sample:
    """Arguments of one call."""

    about: str
    arguments: tuple[Any, ...]
    named: dict[str, Any] = field(default_factory=dict)
    differentiable: bool = True

    @property
    def lengths(self) -> Tensor | None:
        """Tokens of each row that count."""
        found: Tensor | None = self.named.get("lengths")
        return found

    @property
    def packed(self) -> bool:
        return "offsets" in self.named


ROWS, WIDTH, CHANNELS, STATE = 3, 150, 64, 16
CUTS = (0, 1, 60, 60, 150)
"""Boundaries of packed sequences: of one token, of 59, of none, of 90."""


class Draw:
    """Random tensors on a device."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.generator = torch.Generator(device).manual_seed(0)

    def normal(self, *shape: int, wide: bool = False) -> Tensor:
        """Standard normal, of the sample's type; `wide`: float32."""
        made = torch.randn(*shape, device=self.device, generator=self.generator)
        return made if wide else made.to(self.dtype)

    def steps(self, *shape: int) -> Tensor:
        """Step sizes between 0.001 and 0.1, float32."""
        return 10 ** (-1 - 2 * torch.rand(*shape, device=self.device, generator=self.generator))

    @property
    def lengths(self) -> Tensor:
        return torch.tensor([WIDTH, 0, 77], device=self.device)

    @property
    def packed(self) -> dict[str, Any]:
        return {"offsets": torch.tensor(CUTS, dtype=torch.int32, device=self.device), "longest": 96}


def _causal_conv(draw: Draw) -> Iterator[Sample]:
    weights = draw.normal(CHANNELS, 4, wide=True), draw.normal(CHANNELS, wide=True)
    state = draw.normal(ROWS, 3, CHANNELS, wide=True)
    ragged = {"lengths": draw.lengths}
    yield Sample("from the start", (draw.normal(ROWS, WIDTH, CHANNELS), *weights, None))
    yield Sample("from a state, ragged", (draw.normal(ROWS, WIDTH, CHANNELS), *weights, state), ragged)
    yield Sample("packed", (draw.normal(1, WIDTH, CHANNELS), *weights, None), draw.packed)


def _selective_scan(draw: Draw) -> Iterator[Sample]:
    def inputs(rows: int) -> tuple[Tensor, ...]:
        u, delta, gate = (draw.normal(rows, WIDTH, CHANNELS) for _ in range(3))
        B, C = (draw.normal(rows, WIDTH, STATE) for _ in range(2))
        return u, delta - 4, A, B, C, draw.normal(CHANNELS, wide=True), draw.normal(CHANNELS, wide=True), gate

    A = -torch.arange(1.0, STATE + 1, device=draw.device).repeat(CHANNELS, 1)
    state = draw.normal(ROWS, CHANNELS, STATE, wide=True)
    yield Sample("from the start", inputs(ROWS))
    yield Sample("from a state, ragged", inputs(ROWS), {"state": state, "lengths": draw.lengths})
    yield Sample("packed", inputs(1), draw.packed)


def _ssd_step(draw: Draw) -> Iterator[Sample]:
    heads, size, entries = 4, 24, 40
    A, live = -torch.arange(1.0, heads + 1, device=draw.device), torch.ones(ROWS, device=draw.device) > 0
    B, C = (draw.normal(ROWS, entries) for _ in range(2))
    state = draw.normal(ROWS, heads, size, entries, wide=True)
    yield Sample(
        "one token", (draw.normal(ROWS, heads, size), draw.steps(ROWS, heads), A, B, C, state, live), {}, False
    )


def _attention_step(draw: Draw) -> Iterator[Sample]:
    heads, size, window = 4, 24, 40
    position = torch.tensor([0, 39, 75], device=draw.device)
    q, k, v = (draw.normal(ROWS, some, size) for some in (heads, heads // 2, heads // 2))
    for about, capacity, limit in (("everything", 80, None), ("a window", window, window)):
        keys, values = (draw.normal(ROWS, heads // 2, capacity, size, wide=True) for _ in range(2))
        slopes = torch.rand(heads, device=draw.device, generator=draw.generator)
        yield Sample(about, (q, k, v, position, keys, values, limit, None), {}, False)
        yield Sample(f"{about}, with slopes", (q, k, v, position, keys, values, limit, slopes), {}, False)
        angles = torch.rand(ROWS, 1, 1, 4, device=draw.device, generator=draw.generator)
        tables = {"tables": (angles.cos(), angles.sin())}
        yield Sample(f"{about}, rotated", (q, k, v, position, keys, values, limit, None), tables, False)


def _ssd(draw: Draw) -> Iterator[Sample]:
    heads, size, entries = 4, 64, 128

    def inputs(rows: int) -> tuple[Tensor, ...]:
        B, C = (draw.normal(rows, WIDTH, entries) for _ in range(2))
        return draw.normal(rows, WIDTH, heads, size), draw.steps(rows, WIDTH, heads), A, B, C

    A = -torch.arange(1.0, heads + 1, device=draw.device)
    yield Sample("from the start", inputs(ROWS))
    yield Sample("from a state", inputs(ROWS), {"state": draw.normal(ROWS, heads, size, entries, wide=True)})
    yield Sample("packed", inputs(1), draw.packed)


def _gated_delta(draw: Draw) -> Iterator[Sample]:
    heads, keys, values = 2, 64, 128

    def inputs(rows: int) -> tuple[Tensor, ...]:
        q, k = (normalize(draw.normal(rows, WIDTH, heads, keys, wide=True), dim=-1) for _ in range(2))
        v, beta = draw.normal(rows, WIDTH, heads, values, wide=True), draw.normal(rows, WIDTH, heads, wide=True)
        return q, k, v, -4 * draw.steps(rows, WIDTH, heads), torch.sigmoid(beta)

    yield from _trained_or_not(draw, inputs, draw.normal(ROWS, heads, keys, values, wide=True))


def _wkv7(draw: Draw) -> Iterator[Sample]:
    heads, size = 2, 64

    def inputs(rows: int) -> tuple[Tensor, ...]:
        r, k, v, removed, rate = (draw.normal(rows, WIDTH, heads, size, wide=True) for _ in range(5))
        decay = -6 * draw.steps(rows, WIDTH, heads, size)
        return r, decay, k, v, normalize(removed, dim=-1), torch.sigmoid(rate)

    yield from _trained_or_not(draw, inputs, draw.normal(ROWS, heads, size, size, wide=True))


def _trained_or_not(draw: Draw, inputs: Callable[[int], tuple[Tensor, ...]], state: Tensor) -> Iterator[Sample]:
    """For operations that may run differently where no gradients are wanted."""
    for differentiable, about in ((True, ""), (False, ", without gradients")):
        yield Sample(f"from the start{about}", inputs(ROWS), {}, differentiable)
        yield Sample(f"from a state{about}", inputs(ROWS), {"state": state}, differentiable)
        yield Sample(f"packed{about}", inputs(1), draw.packed, differentiable)


def _mamba2(draw: Draw) -> Iterator[Sample]:
    heads, size, entries = 4, 16, 32
    inner, convolved = heads * size, heads * size + 2 * entries

    def inputs(rows: int) -> tuple[Any, ...]:
        per_head = draw.normal(heads, wide=True) - 3, torch.arange(1.0, heads + 1, device=draw.device).log()
        taps = draw.normal(convolved, 4, wide=True), draw.normal(convolved, wide=True)
        after = draw.normal(heads, wide=True), draw.normal(inner, wide=True)
        return draw.normal(rows, WIDTH, inner + convolved + heads), Weights(*taps, *per_head, *after, 1e-5)

    state = draw.normal(ROWS, 3, convolved, wide=True), draw.normal(ROWS, heads, size, entries, wide=True)
    yield Sample("from the start", inputs(ROWS), {}, False)
    yield Sample("from a state, ragged", inputs(ROWS), {"state": state, "lengths": draw.lengths}, False)
    yield Sample("packed", inputs(1), draw.packed)


def _decide(draw: Draw) -> Iterator[Sample]:
    yield Sample("decisions", (draw.normal(ROWS, WIDTH, CHANNELS), draw.normal(24, CHANNELS, wide=True)), {}, False)


def _norm(draw: Draw) -> Iterator[Sample]:
    stream = draw.normal(ROWS, WIDTH, CHANNELS, wide=True)
    yield Sample("norm", (stream, draw.normal(CHANNELS, wide=True), 1e-5))


SAMPLES: dict[str, Callable[[Draw], Iterator[Sample]]] = {
    "attention_step": _attention_step,
    "causal_conv": _causal_conv,
    "decide": _decide,
    "gated_delta": _gated_delta,
    "mamba2": _mamba2,
    "norm": _norm,
    "selective_scan": _selective_scan,
    "ssd": _ssd,
    "ssd_step": _ssd_step,
    "wkv7": _wkv7,
}


def differences(
    function: Callable[..., Any],
    reference: Callable[..., Any],
    operation: str,
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[tuple[str, float]]:
    """For each sample, forward and backward: what was compared, and the largest difference of a number from the
    reference in float32, relative to the largest number of its tensor."""
    for sample in SAMPLES[operation](Draw(device, dtype)):
        got, got_gradients = _run(function, sample, torch.float32 if dtype == torch.float32 else None)
        # A last state that carries no gradient is none to differentiate in the reference either.
        through = [result.requires_grad for result in got]
        wanted, wanted_gradients = _run(reference, sample, torch.float32, through)
        yield sample.about, _largest(got, wanted)
        if sample.differentiable:
            yield f"{sample.about}, gradients", _largest(got_gradients, wanted_gradients)


def _run(
    function: Callable[..., Any], sample: Sample, dtype: torch.dtype | None, through: list[bool] | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Results that mean something, and gradients with respect to all floating arguments. dtype: of the arguments;
    through: the results that count for the gradients (None: those that have one)."""

    def prepared(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        return value.detach().to(dtype or value.dtype, copy=True).requires_grad_(sample.differentiable)

    arguments, named = mapped(prepared, sample.arguments), mapped(prepared, sample.named)
    y, last = function(*arguments, **named)
    results = [y if sample.lengths is None else _counted(y, sample.lengths)]
    if not sample.packed:
        results.extend(leaves(last))
    if not sample.differentiable:
        return results, []
    generator = torch.Generator(y.device).manual_seed(1)
    weights = [torch.randn(r.shape, device=r.device, generator=generator) for r in results]
    inputs = [v for v in leaves((arguments, named)) if v.requires_grad]
    counted = through or [result.requires_grad for result in results]
    loss = sum((r.float() * w).sum() for r, w, counts in zip(results, weights, counted, strict=True) if counts)
    return results, list(torch.autograd.grad(loss, inputs))  # type: ignore[arg-type]


def _counted(y: Tensor, lengths: Tensor) -> Tensor:
    past = torch.arange(y.shape[1], device=y.device) >= lengths[:, None]
    return y.masked_fill(past[..., None], 0)


def _largest(got: list[Tensor], wanted: list[Tensor]) -> float:
    worst = 0.0
    for one, other in zip(got, wanted, strict=True):
        scale = float(other.detach().double().abs().max()) or 1.0
        worst = max(worst, float((one.detach().double() - other.detach().double()).abs().max()) / scale)
    return worst

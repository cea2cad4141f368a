"""Position encodings of attention."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from models.backbone import Span
from models.kernels.packing import flattened

Positions = Literal["rotary", "none", "alibi", "randomised"]

ROTARY_BASE = 10000.0


def rotary_tables(span: Span, size: int, random_range: int | None = None) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 [B or 1, 1, T, size / 2], for rotating `size` entries of each head.

    Positions are those of the span. With `random_range` (randomised positions, Ruoss et al. 2023) each row trains on
    its own increasing positions, drawn without replacement by the global torch generator. Out of training, positions
    are consecutive, so that a stream need not know its length. That such dense positions are familiar, the range drawn
    from is itself random, log-uniform between the row's length and `random_range`; in the paper, which evaluates on
    random positions too, it is always the largest.
    """
    positions = span.positions
    if random_range is not None and span.training:
        positions = span.share("random positions", lambda: _draw(span, random_range))
    # The angles of late positions need float64: float32 holds an angle of 100,000 to no better than 0.004.
    inverse = ROTARY_BASE ** (-torch.arange(0, size, 2, dtype=torch.float64, device=positions.device) / size)
    angles = positions[..., None].double() * inverse
    return angles.cos().float().unsqueeze(1), angles.sin().float().unsqueeze(1)


def alibi_slopes(heads: int) -> Tensor:
    """Slopes 2^(-8/heads), 2^(-16/heads), .. of ALiBi (Press et al. 2022), float32 [heads]."""
    return 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads)


def _draw(span: Span, size: int) -> Tensor:
    if not span.fresh:
        raise ValueError("positions: randomised trains on whole sequences; in training mode leave `state` out")
    rows, width = len(span.start), span.width
    if span.offsets is not None:
        rows, width = len(span.offsets) - 1, span.longest
    if width > size:
        raise ValueError(f"random_range: {width} tokens cannot have different positions below {size}")
    device = span.start.device
    noise = torch.rand(rows, size + 1, device=device)
    ranges = width * (size / width) ** noise[:, :1]
    noise = noise[:, 1:].masked_fill(torch.arange(size, device=device) >= ranges.round(), -1)
    drawn = noise.topk(width, dim=1).indices.sort(dim=1).values
    return drawn if span.offsets is None else flattened(drawn, span.offsets, span.width)

"""mamba-ssm's kernels behind our operations, where that package is installed. Imported only when considered.

They differ from ours in what they take, which is made up for here at the price of copies, so ours come first: its
selective scan knows no initial state, neither knows where rows end, and packed sequences go through padding.
"""

from __future__ import annotations

import torch
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # type: ignore[import-not-found]
from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined  # type: ignore[import-not-found]
from torch import Tensor
from torch.nn.functional import silu, softplus

from models.kernels.packing import flattened, padded

STEP = 1e-3
"""Step size of the tokens that write an initial state: small, so that hardly anything decays meanwhile."""


def gated_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    state: Tensor | None = None,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    longest: int = 0,
) -> tuple[Tensor, Tensor]:
    """As `models.kernels.selective_scan.gated_scan`, in float32; no gradient comes through the last state."""
    if offsets is not None:
        rows = [None if x is None else padded(x, offsets, longest) for x in (u, delta, B, C, gate)]
        y, last = gated_scan(rows[0], rows[1], A, rows[2], rows[3], D, bias, rows[4])  # type: ignore[arg-type]
        return flattened(y, offsets, u.shape[1]), last
    steps = softplus(delta.float() if bias is None else delta.float() + bias)
    if lengths is not None:
        past = torch.arange(u.shape[1], device=u.device) >= lengths[:, None]
        steps = steps.masked_fill(past[..., None], 0)
    inputs = [u.float(), steps, B.float(), C.float()]
    extra = 0
    if state is not None:
        written = _writing(state, A)
        extra = written[0].shape[1]
        inputs = [torch.cat(pair, dim=1) for pair in zip(written, inputs, strict=True)]
    inputs = [x.transpose(1, 2).contiguous() for x in inputs]
    y, last = selective_scan_fn(inputs[0], inputs[1], A, inputs[2], inputs[3], return_last_state=True)
    y = y.transpose(1, 2)[:, extra:]
    y = y if D is None else y + D * u
    return y if gate is None else y * silu(gate), last.detach()


def _writing(state: Tensor, A: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u, delta, B and C of N tokens after which the state, [batch, channels, N], is as given: one for each entry n."""
    batch, _, entries = state.shape
    later = torch.arange(entries - 1, -1, -1, device=state.device)
    u = (state * torch.exp(-STEP * later * A) / STEP).transpose(1, 2)
    delta = torch.full_like(u, STEP)
    B = torch.eye(entries, device=state.device).expand(batch, -1, -1)
    return u, delta, B, torch.zeros_like(B)


def ssd(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor | None = None,
    chunk: int | None = None,
    offsets: Tensor | None = None,
    longest: int = 0,
) -> tuple[Tensor, Tensor]:
    """As `models.kernels.ssd.ssd`."""
    if offsets is not None:
        rows = [padded(tensor, offsets, longest) for tensor in (x, delta, B, C)]
        y, last = ssd(rows[0], rows[1], A, rows[2], rows[3], None, chunk)
        return flattened(y, offsets, x.shape[1]), last
    y, last = mamba_chunk_scan_combined(
        x, delta, A, B[:, :, None], C[:, :, None], chunk or 256, initial_states=state, return_final_states=True
    )
    return y, last

# mypy: disable-error-code="no-untyped-def,assignment,var-annotated,misc,index,has-type"
"""Mamba-1's scan with its steps' softplus, skip and gate in Triton, forward and backward, over padded or packed rows.

One warp walks through the tokens of a sequence with the float32 states of some channels in registers. Where sequences
and channels are too few to fill a GPU, sequences are cut into segments: what a segment adds to the state and the sum
of its steps are found first, for all segments at once, then the states between them, then everything else.

The backward pass keeps one state per CHUNK tokens, makes the others again, and walks back. Gradients summed over tokens
or channels are written as partial sums of each program and added up afterwards, always in the same order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.triton_parts import bounds, flat

CHUNK = 4
"""Tokens whose loads are issued together, and between two states kept for the backward pass."""
ELEMENTS_FORWARD, ELEMENTS_BACKWARD = 1024, 512
"""Elements of the states one program carries: what the registers of a warp hold, with all else."""
SEGMENT = 256
"""Fewest tokens of a segment."""
PROGRAMS = 2048
"""Programs that fill a GPU; with fewer, long sequences are cut into segments."""
LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


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
    """As the reference; y has u's type and is 0 past a row's length, states and sums are float32."""
    # Within `forward` gradients are always off, and parameters always say that they need one.
    learns = torch.is_grad_enabled()
    return _Scan.apply(u, delta, A, B, C, D, bias, gate, state, lengths, offsets, longest, learns)


def _block(elements: int, states: int, channels: int) -> int:
    """Channels of a program."""
    return max(1, min(elements // states, triton.next_power_of_2(channels)))


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        bias: Tensor | None,
        gate: Tensor | None,
        state: Tensor | None,
        lengths: Tensor | None,
        offsets: Tensor | None,
        longest: int,
        learns: bool,
    ) -> tuple[Tensor, Tensor]:
        u, delta, B, C = flat(u), flat(delta), flat(B), flat(C)
        gate = None if gate is None else flat(gate)
        A, D, bias, state = (None if t is None else t.contiguous() for t in (A, D, bias, state))
        channels, N = A.shape
        sequences, width = (u.shape[0], u.shape[1]) if offsets is None else (len(offsets) - 1, longest)
        states = max(4, triton.next_power_of_2(N))
        block = _block(ELEMENTS_FORWARD, states, channels)
        blocks = triton.cdiv(channels, block)
        tokens = u.shape[0] * u.shape[1]
        keep = learns and any(ctx.needs_input_grad)
        y = (torch.empty if lengths is None else torch.zeros)(u.shape, dtype=u.dtype, device=u.device)
        # Before the gate, which the backward pass needs; without a gate it needs neither.
        plain = torch.empty_like(y) if keep and gate is not None else None
        last = torch.empty(sequences, channels, N, device=u.device)
        starts = torch.empty(tokens // CHUNK + sequences + 1, N, channels, device=u.device) if keep else None
        segments = max(1, min(triton.cdiv(width, SEGMENT), triton.cdiv(PROGRAMS, max(1, sequences * blocks))))
        segment = triton.cdiv(triton.cdiv(width, segments), CHUNK) * CHUNK
        segments = max(1, triton.cdiv(width, max(1, segment)))
        shape = {"N": N, "STATES": states, "BLOCK": block, "CHUNK": CHUNK, "num_warps": 1}
        grid = (blocks, sequences, segments)
        before = state
        if segments > 1:
            sums = torch.empty(sequences, segments, channels, device=u.device)
            before = torch.empty(sequences, segments, channels, N, device=u.device)
            _segments[grid](
                u, delta, A, B, bias, before, sums, lengths, offsets, width, segment, channels,
                u.stride(1), delta.stride(1), B.stride(1), **shape,
            )  # fmt: skip
            _between[(triton.cdiv(channels * N, 128), sequences)](
                A, state, before, sums, last, segments, channels * N, N=N, BLOCK=128, num_warps=4
            )
        if sequences:
            _forward[grid](
                u, delta, A, B, C, D, bias, gate, before, y, plain, last, starts, lengths, offsets,
                width, segment, channels, u.stride(1), delta.stride(1), B.stride(1), C.stride(1),
                0 if gate is None else gate.stride(1), SEGMENTED=segments > 1, **shape,
            )  # fmt: skip
        ctx.save_for_backward(u, delta, A, B, C, D, bias, gate, state, lengths, offsets, plain, starts)
        ctx.sizes = width, sequences
        ctx.set_materialize_grads(False)
        return y, last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_last: Tensor | None) -> tuple[Tensor | None, ...]:
        u, delta, A, B, C, D, bias, gate, state, lengths, offsets, plain, starts = ctx.saved_tensors
        width, sequences = ctx.sizes
        (channels, N), tokens = A.shape, u.shape[0] * u.shape[1]
        states = max(4, triton.next_power_of_2(N))
        block = _block(ELEMENTS_BACKWARD, states, channels)
        blocks = triton.cdiv(channels, block)
        grad = None if grad is None else flat(grad)
        grad_last = None if grad_last is None else grad_last.contiguous()
        new = torch.empty if lengths is None else torch.zeros
        grad_u = new(u.shape, dtype=u.dtype, device=u.device)
        grad_delta = new(delta.shape, dtype=delta.dtype, device=u.device)
        grad_gate = None if gate is None else new(gate.shape, dtype=gate.dtype, device=u.device)
        grad_B, grad_C = (new(blocks, tokens, N, device=u.device) for _ in "BC")
        grad_A = torch.empty(sequences, N, channels, device=u.device)
        grad_D, grad_bias = (torch.empty(sequences, channels, device=u.device) for _ in "Db")
        grad_state = None if state is None else torch.empty_like(state)
        _backward[(blocks, sequences)](
            u, delta, A, B, C, D, bias, gate, plain, starts, lengths, offsets, grad, grad_last,
            grad_u, grad_delta, grad_gate, grad_B, grad_C, grad_A, grad_D, grad_bias, grad_state,
            width, channels, tokens, u.stride(1), delta.stride(1), B.stride(1), C.stride(1),
            0 if gate is None else gate.stride(1), 0 if grad is None else grad.stride(1),
            N=N, ROWS=states // 4, BLOCK=block, CHUNK=CHUNK, num_warps=1,
        )  # fmt: skip
        return (
            grad_u,
            grad_delta,
            grad_A.sum(0).T.to(A.dtype),
            grad_B.sum(0).view(B.shape).to(B.dtype),
            grad_C.sum(0).view(C.shape).to(C.dtype),
            None if D is None else grad_D.sum(0).to(D.dtype),
            None if bias is None else grad_bias.sum(0).to(bias.dtype),
            grad_gate,
            grad_state,
            *(None,) * 4,
        )


@triton.jit
def _softplus(x):
    return tl.where(x > 20, x, tl.log(1 + tl.exp(tl.minimum(x, 20.0))))


@triton.jit
def _row(tensor, at, mask):
    """Entries of one token, float32; zeros where masked."""
    return tl.load(tensor + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _step(delta, at, bias, mask):
    """The steps of one token, softplus(delta + bias), 0 where masked, and what the softplus was taken of."""
    raw = tl.load(delta + at, mask=mask, other=0.0).to(tl.float32) + bias
    return tl.where(mask, _softplus(raw), 0.0), raw


@triton.jit
def _channel(vector, c, mask):
    """Entries of a vector of the channels, float32; zeros where there is none."""
    if vector is not None:
        return tl.load(vector + c, mask=mask, other=0.0).to(tl.float32)
    else:
        return tl.zeros(c.shape, dtype=tl.float32)


@triton.jit(do_not_specialize=["width", "segment"])
def _segments(
    u, delta, A, B, bias, added, sums, lengths, offsets, width, segment, channels, u_stride, delta_stride, B_stride,
    N: tl.constexpr, STATES: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The state each segment ends with if it begins with zeros, and the sum of its steps."""
    sequence, number = tl.program_id(1), tl.program_id(2)
    start, length = bounds(sequence, offsets, lengths, width)
    c, n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, STATES)
    real, inside = c < channels, n < N
    both = inside[:, None] & real[None, :]
    a = tl.load(A + c[None, :] * N + n[:, None], mask=both, other=0.0).to(tl.float32) * LOG2E
    shift = _channel(bias, c, real)
    h, total = tl.zeros((STATES, BLOCK), dtype=tl.float32), tl.zeros((BLOCK,), dtype=tl.float32)
    end = tl.minimum(length, (number + 1) * segment)
    for first in range(number * segment, end, CHUNK):
        us, steps, Bs = (), (), ()
        for k in tl.static_range(CHUNK):
            t = start + first + k
            live = c < tl.where(first + k < end, channels, 0)
            us = us + (_row(u, t * u_stride + c, live),)
            step, _ = _step(delta, t * delta_stride + c, shift, live)
            steps = steps + (step,)
            Bs = Bs + (_row(B, t * B_stride + n, n < tl.where(first + k < end, N, 0)),)
        for k in tl.static_range(CHUNK):
            h = tl.exp2(a * steps[k][None, :]) * h + Bs[k][:, None] * (steps[k] * us[k])[None, :]
            total += steps[k]
    slot = (sequence.to(tl.int64) * tl.num_programs(2) + number) * channels + c
    tl.store(sums + slot, total, mask=real)
    tl.store(added + slot[None, :] * N + n[:, None], h, mask=both)


@triton.jit(do_not_specialize=["segments"])
def _between(A, state, added, sums, last, segments, size, N: tl.constexpr, BLOCK: tl.constexpr):
    """Replace what each segment adds by the state it begins with, and find the last one."""
    sequence = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    a = tl.load(A + at, mask=mask, other=0.0).to(tl.float32) * LOG2E
    if state is not None:
        h = tl.load(state + sequence * size + at, mask=mask, other=0.0)
    else:
        h = tl.zeros((BLOCK,), dtype=tl.float32)
    for number in range(segments):
        place = sequence * segments + number
        new = tl.load(added + place * size + at, mask=mask, other=0.0)
        total = tl.load(sums + place * (size // N) + at // N, mask=mask, other=0.0)
        tl.store(added + place * size + at, h, mask=mask)
        h = tl.exp2(a * total) * h + new
    tl.store(last + sequence * size + at, h, mask=mask)


@triton.jit(do_not_specialize=["width", "segment"])
def _forward(
    u, delta, A, B, C, D, bias, gate, before, y, plain, last, starts, lengths, offsets,
    width, segment, channels, u_stride, delta_stride, B_stride, C_stride, gate_stride,
    SEGMENTED: tl.constexpr, N: tl.constexpr, STATES: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    sequence, number = tl.program_id(1), tl.program_id(2)
    start, length = bounds(sequence, offsets, lengths, width)
    c, n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, STATES)
    real, inside = c < channels, n < N
    both = inside[:, None] & real[None, :]
    a = tl.load(A + c[None, :] * N + n[:, None], mask=both, other=0.0).to(tl.float32) * LOG2E
    shift, skip = _channel(bias, c, real), _channel(D, c, real)
    slot = (sequence.to(tl.int64) * tl.num_programs(2) + number) * channels + c
    if before is not None:
        h = tl.load(before + slot[None, :] * N + n[:, None], mask=both, other=0.0)
    else:
        h = tl.zeros((STATES, BLOCK), dtype=tl.float32)
    end = tl.minimum(length, (number + 1) * segment)
    for first in range(number * segment, end, CHUNK):
        if starts is not None:
            chunk = start // CHUNK + sequence + first // CHUNK
            tl.store(starts + (chunk * N + n[:, None]) * channels + c[None, :], h, mask=both)
        us, steps, Bs, Cs, gates = (), (), (), (), ()
        for k in tl.static_range(CHUNK):
            t = start + first + k
            live = c < tl.where(first + k < end, channels, 0)
            us = us + (_row(u, t * u_stride + c, live),)
            step, _ = _step(delta, t * delta_stride + c, shift, live)
            steps = steps + (step,)
            Bs = Bs + (_row(B, t * B_stride + n, n < tl.where(first + k < end, N, 0)),)
            Cs = Cs + (_row(C, t * C_stride + n, n < tl.where(first + k < end, N, 0)),)
            if gate is not None:
                gates = gates + (_row(gate, t * gate_stride + c, live),)
        for k in tl.static_range(CHUNK):
            at = (start + first + k) * channels + c
            live = c < tl.where(first + k < end, channels, 0)
            h = tl.exp2(a * steps[k][None, :]) * h + Bs[k][:, None] * (steps[k] * us[k])[None, :]
            result = tl.sum(h * Cs[k][:, None], 0) + skip * us[k]
            if gate is not None:
                if plain is not None:
                    tl.store(plain + at, result, mask=live)
                result = result * gates[k] * tl.sigmoid(gates[k])
            tl.store(y + at, result, mask=live)
    if not SEGMENTED:
        tl.store(last + slot[None, :] * N + n[:, None], h, mask=both)


@triton.jit(do_not_specialize=["width", "tokens"])
def _backward(
    u, delta, A, B, C, D, bias, gate, plain, starts, lengths, offsets, grad, grad_last,
    grad_u, grad_delta, grad_gate, grad_B, grad_C, grad_A, grad_D, grad_bias, grad_state,
    width, channels, tokens, u_stride, delta_stride, B_stride, C_stride, gate_stride, grad_stride,
    N: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """States are [ROWS, BLOCK, 4]: 4 threads of a warp share a channel, 8 a state: sums over either are short."""
    sequence = tl.program_id(1)
    start, length = bounds(sequence, offsets, lengths, width)
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    n = tl.arange(0, ROWS)[:, None] * 4 + tl.arange(0, 4)[None, :]
    real = c < channels
    c3, n3 = c[None, :, None], n[:, None, :]
    both = (n3 < N) & (c3 < channels)
    a = tl.load(A + c3 * N + n3, mask=both, other=0.0).to(tl.float32) * LOG2E
    shift, skip = _channel(bias, c, real), _channel(D, c, real)
    home = sequence.to(tl.int64) * channels
    if grad_last is not None:
        g = tl.load(grad_last + (home + c3) * N + n3, mask=both, other=0.0).to(tl.float32)
    else:
        g = tl.zeros((ROWS, BLOCK, 4), dtype=tl.float32)
    sum_A = tl.zeros((ROWS, BLOCK, 4), dtype=tl.float32)
    sum_D, sum_bias = tl.zeros((BLOCK,), dtype=tl.float32), tl.zeros((BLOCK,), dtype=tl.float32)
    partial = tl.program_id(0).to(tl.int64) * tokens
    chunks = tl.cdiv(length, CHUNK)
    for back in range(chunks):
        first = (chunks - 1 - back) * CHUNK
        chunk = start // CHUNK + sequence + first // CHUNK
        h = tl.load(starts + (chunk * N + n3) * channels + c3, mask=both, other=0.0)
        us, steps, outs, gates, plains, Bs, Cs = (), (), (), (), (), (), ()
        for k in tl.static_range(CHUNK):
            t = start + first + k
            live = c < tl.where(first + k < length, channels, 0)
            inside = n < tl.where(first + k < length, N, 0)
            us = us + (_row(u, t * u_stride + c, live),)
            step, _ = _step(delta, t * delta_stride + c, shift, live)
            steps = steps + (step,)
            Bs = Bs + (_row(B, t * B_stride + n, inside),)
            Cs = Cs + (_row(C, t * C_stride + n, inside),)
            if grad is not None:
                outs = outs + (_row(grad, t * grad_stride + c, live),)
                if gate is not None:
                    gates = gates + (_row(gate, t * gate_stride + c, live),)
                    plains = plains + (_row(plain, t * channels + c, live),)
            else:
                outs = outs + (tl.zeros((BLOCK,), dtype=tl.float32),)
        states, ungated = (), ()
        for k in tl.static_range(CHUNK):
            at = (start + first + k) * channels + c
            live = c < tl.where(first + k < length, channels, 0)
            inside = n < tl.where(first + k < length, N, 0)
            out = outs[k]
            if gate is not None:
                if grad is not None:
                    s = tl.sigmoid(gates[k])
                    tl.store(grad_gate + at, out * plains[k] * s * (1 + gates[k] * (1 - s)), mask=live)
                    out = out * gates[k] * s
                else:
                    tl.store(grad_gate + at, out, mask=live)
            states, ungated = states + (h,), ungated + (out,)
            h = tl.exp2(a * steps[k][None, :, None]) * h + Bs[k][:, None, :] * (steps[k] * us[k])[None, :, None]
            place = (partial + start + first + k) * N + n
            tl.store(grad_C + place, tl.sum(h * out[None, :, None], 1), mask=inside)
        for k in tl.static_range(CHUNK - 1, -1, -1):
            t = start + first + k
            live = c < tl.where(first + k < length, channels, 0)
            inside = n < tl.where(first + k < length, N, 0)
            # Read again, from the cache: kept, these and their copies in other threads would not fit in the registers.
            here, out = _row(u, t * u_stride + c, live), ungated[k]
            step, raw = _step(delta, t * delta_stride + c, shift, live)
            g += Cs[k][:, None, :] * out[None, :, None]
            tl.store(grad_B + (partial + t) * N + n, tl.sum(g * (step * here)[None, :, None], 1), mask=inside)
            into = tl.sum(tl.sum(g * _row(B, t * B_stride + n, inside)[:, None, :], 2), 0)
            g = g * tl.exp2(a * step[None, :, None])
            through = g * states[k]
            sum_A += through * step[None, :, None]
            slope = into * here + tl.sum(tl.sum(through * a, 2), 0) * 0.6931471805599453  # a is A log2(e)
            slope = slope * tl.sigmoid(raw)
            tl.store(grad_u + t * channels + c, into * step + skip * out, mask=live)
            tl.store(grad_delta + t * channels + c, slope, mask=live)
            sum_D += out * here
            sum_bias += tl.where(live, slope, 0.0)
    tl.store(grad_A + (sequence.to(tl.int64) * N + n3) * channels + c3, sum_A, mask=both)
    tl.store(grad_D + home + c, sum_D, mask=real)
    tl.store(grad_bias + home + c, sum_bias, mask=real)
    if grad_state is not None:
        tl.store(grad_state + (home + c3) * N + n3, g, mask=both)

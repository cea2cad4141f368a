"""Recurrent Memory Transformer (Bulatov et al. 2022): a Transformer over segments, and memory tokens between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.backbone import Backbone, Span
from models.base import Cost
from models.transformer import ParallelBlock, TransformerOptions


@dataclass(frozen=True)
class RecurrentMemoryOptions(TransformerOptions):
    segment: int = 64
    """Tokens of a segment."""
    memory: int = 16
    """Memory tokens that a segment hands to the next."""


@dataclass
class RecurrentMemoryState:
    position: Tensor
    """int64 [B]: tokens seen of the current segment, always fewer than it has."""
    memory: Tensor
    """float32 [B, memory, D]: what the segment before has written, or the initial memory."""
    layers: list[Any]
    """Each layer's cache of the current segment: its memory, then its tokens."""


@dataclass(frozen=True)
class _Round:
    """One pass through the layers: of each row the memory it reads, some tokens of one segment, the memory it writes.

    Whole numbers, one per row.
    """

    start: list[int]
    """Places of the row's segment seen before; a segment has memory + segment + memory places."""
    done: list[int]
    """Tokens of the call that went before."""
    reads: list[int]
    """Memory tokens read: all at the beginning of a segment, else none."""
    takes: list[int]
    """Tokens of the call."""
    writes: list[int]
    """Memory tokens written: all at the end of a segment, else none."""

    @property
    def widths(self) -> list[int]:
        return [sum(parts) for parts in zip(self.reads, self.takes, self.writes, strict=True)]

    @property
    def fresh(self) -> bool:
        """All rows are at the beginning of a segment."""
        return not any(self.start)

    def columns(self, device: torch.device) -> Tensor:
        """The five numbers, int64 [5, B, 1]."""
        return torch.tensor([self.start, self.done, self.reads, self.takes, self.writes], device=device)[..., None]


class RecurrentMemoryTransformer(Backbone):
    """Recurrent Memory Transformer: segments of a Transformer joined by memory tokens; a state of fixed size.

    Each segment runs causally over [memory, tokens, memory]: it reads the memory at its beginning, and the output at
    the places of the second copy is the memory of the next segment, after its last token. Gradients flow through all
    segments. Blocks and positions, which count from the beginning of a segment, are those of `transformer`.
    """

    packs = False
    sizes = {
        "tiny": RecurrentMemoryOptions(d_model=96, layers=3, heads=4, mlp=192, segment=32, memory=8),
        "small": RecurrentMemoryOptions(d_model=256, layers=10, heads=4, mlp=512),
        # The paper states no size for it: 19 layers of its Transformer come closest to its Mamba's 90.6M.
        "paper": RecurrentMemoryOptions(d_model=768, layers=19, heads=8, mlp=1536),
    }

    def __init__(self, vocabulary: int, options: RecurrentMemoryOptions) -> None:
        if options.positions == "randomised":
            raise ValueError("positions: randomised needs sequences without segments; rotary, none and alibi do not")
        self.places = 2 * options.memory + options.segment
        blocks = [ParallelBlock(options, window=self.places) for _ in range(options.layers)]
        std = (2 / (5 * options.d_model)) ** 0.5
        super().__init__(vocabulary, options, blocks, nn.LayerNorm(options.d_model), std, tied=False)
        self.steady = False
        self.memory = nn.Parameter(torch.empty(options.memory, options.d_model))
        nn.init.normal_(self.memory, std=std)

    @property
    def records(self) -> bool:
        return False  # a step that ends a segment does more

    def initial_state(self, batch: int, device: torch.device | str | None = None) -> Any:
        device = self.device if device is None else torch.device(device)
        memory = self.memory.detach().to(device).repeat(batch, 1, 1)
        position = torch.zeros(batch, dtype=torch.int64, device=device)
        return RecurrentMemoryState(position, memory, [block.initial_state(batch, device) for block in self._blocks])

    def hidden(self, tokens: Tensor, state: Any = None, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
        return self._segments(tokens, state, lengths)

    def append(self, tokens: Tensor, state: Any, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
        return self._segments(tokens, state, lengths)

    def reserve(self, state: Any, length: int, dtype: torch.dtype | None = None) -> Any:
        return state

    def step(self, tokens: Tensor, state: Any, live: Tensor | None = None) -> tuple[Tensor, Any]:
        features, state = self._segments(tokens[:, None], state, in_place=True)
        return self.head(features[:, 0]), state

    def cost(self, length: int) -> Cost:
        """The same at every length: the FLOPs of a segment, its memory tokens included, shared by its tokens."""
        flops = sum(block.flops(place) for block in self._blocks for place in range(self.places))
        state_bytes = 8 + 4 * self.memory.numel() + sum(block.state_bytes(length) for block in self._blocks)
        each = flops / self.options.segment + 2 * self.logits.weight.numel()
        return Cost(self.parameter_count(), each, state_bytes)

    def _segments(
        self,
        tokens: Tensor,
        state: RecurrentMemoryState | None,
        lengths: Tensor | None = None,
        in_place: bool = False,
    ) -> tuple[Tensor, RecurrentMemoryState]:
        batch, width = tokens.shape
        positions = [0] * batch if state is None else state.position.tolist()
        counts = [width] * batch if lengths is None else lengths.tolist()
        if state is None:
            state = self.initial_state(batch, tokens.device)
            state.memory = self.memory.expand(batch, -1, -1)  # with its gradient
        memory, layers, device = state.memory, list(state.layers), tokens.device
        times = torch.arange(width, device=device)
        place_of = torch.zeros(batch, width, dtype=torch.int64, device=device)  # of each token, in all outputs together
        outputs, before = [], 0
        for part in self._rounds(positions, counts):
            _, done, reads, takes, writes = part.columns(device)
            x = self._through_layers(self._inputs(tokens, memory, part), layers, part, in_place)
            here = (times >= done) & (times < done + takes)
            place_of = torch.where(here, before + reads + times - done, place_of)
            outputs.append(x)
            before += x.shape[1]
            if any(part.writes):
                last = (reads + takes + torch.arange(self.options.memory, device=device)).clamp(max=x.shape[1] - 1)
                memory = torch.where(writes[..., None] > 0, _picked(x, last).float(), memory)
        features = _picked(torch.cat(outputs, 1), place_of) if outputs else self.norm(self.embedding(tokens))
        ends = torch.tensor([at + count for at, count in zip(positions, counts, strict=True)], device=device)
        return features, RecurrentMemoryState(ends % self.options.segment, memory, layers)

    def _inputs(self, tokens: Tensor, memory: Tensor, part: _Round) -> Tensor:
        """What goes into the layers, [B, width, D]: memory, tokens, memory, as many of each as every row has."""
        _, done, reads, takes, _ = part.columns(tokens.device)
        place = torch.arange(max(part.widths), device=tokens.device) - reads  # from the first token on
        slot = torch.where(place < 0, place + reads, place - takes).clamp(0, self.options.memory - 1)
        words = self.embedding(tokens.gather(1, (done + place).clamp(0, tokens.shape[1] - 1)))
        own = (place >= 0) & (place < takes)
        return torch.where(own[..., None], words, _picked(memory, slot))

    def _through_layers(self, x: Tensor, layers: list[Any], part: _Round, in_place: bool) -> Tensor:
        """Outputs of the last layer, normed; `layers` gets the new caches."""
        widths = torch.tensor(part.widths, device=x.device)
        start = torch.tensor(part.start, device=x.device)
        equal = len(set(part.widths)) == 1
        alone = in_place and equal and x.shape[1] == 1 and not part.fresh
        span = Span(start, x.shape[1], None if equal else widths, part.fresh, alone, self.training)
        for at, block in enumerate(self.blocks):
            x, layers[at] = block(x, None if part.fresh else layers[at], span)
        return self.norm(x)

    def _rounds(self, positions: list[int], counts: list[int]) -> list[_Round]:
        """The passes of a call: row b has `counts[b]` tokens, from place `positions[b]` of its segment on."""
        size, memory = self.options.segment, self.options.memory
        at, done, rounds = list(positions), [0] * len(counts), []
        while done != counts:
            takes = [min(count - past, size - here) for count, past, here in zip(counts, done, at, strict=True)]
            reads = [memory if take and not here else 0 for take, here in zip(takes, at, strict=True)]
            writes = [memory if here + take == size else 0 for take, here in zip(takes, at, strict=True)]
            start = [memory + here if here else 0 for here in at]
            rounds.append(_Round(start, list(done), reads, takes, writes))
            at = [(here + take) % size for here, take in zip(at, takes, strict=True)]
            done = [past + take for past, take in zip(done, takes, strict=True)]
        return rounds


def _picked(entries: Tensor, index: Tensor) -> Tensor:
    """entries[b, index[b, i]] for each row: [B, S, D], int64 [B, I] -> [B, I, D]."""
    return entries.gather(1, index[..., None].expand(-1, -1, entries.shape[2]))

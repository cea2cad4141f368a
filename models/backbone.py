"""The frame most architectures share: embedding, residual blocks each with a state of its own, final norm, head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from models.base import Cost, SequenceModel
from models.kernels.choose import decide, forked_norm
from models.kernels.decide import product_type
from models.kernels.fuse import WORTH
from models.kernels.packing import places

T = TypeVar("T")


@dataclass
class BackboneState:
    """State of a stack of blocks."""

    position: Tensor
    """int64 [B]: tokens seen so far."""
    layers: list[Any]
    """The state of each block."""
    even: int | None = None
    """The position, on the host, where it is known that all rows share it: so a GPU need not be asked for it."""


@dataclass(frozen=True)
class Span:
    """The stretch of tokens one call covers; made once per call and shared by all blocks."""

    start: Tensor
    """int64 [B]: tokens seen before."""
    width: int
    """T, the tokens of this call, padding included."""
    lengths: Tensor | None
    """int64 [B]: tokens of each row that count; None: all."""
    fresh: bool
    """Nothing came before: blocks get None for their state."""
    in_place: bool
    """A single token whose call may modify the state it is given."""
    training: bool
    live: Tensor | None = None
    """bool [B]: rows whose state an `in_place` call may modify; None: all."""
    offsets: Tensor | None = None
    """int32 [S + 1]: the row is S sequences laid end to end, each from its initial state (see `SequenceModel.packed`);
    None: every row is one sequence."""
    longest: int = 0
    """With `offsets`: no sequence has more tokens."""
    appends: bool = False
    """The call may write into the caches it is given, beyond the tokens they hold (see `SequenceModel.append`)."""
    even: int | None = None
    """`start` on the host, where it is known that all rows share it."""
    shared: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def counts(self) -> Tensor:
        """int64 [B]: tokens of each row that count."""
        return torch.full_like(self.start, self.width) if self.lengths is None else self.lengths

    @cached_property
    def padding(self) -> Tensor | None:
        """bool [B, T], True where a token does not count; None: all count."""
        if self.lengths is None:
            return None
        return torch.arange(self.width, device=self.start.device) >= self.lengths[:, None]

    @cached_property
    def places(self) -> Tensor:
        """int64 [T]: with `offsets`, the place of each token within its own sequence."""
        assert self.offsets is not None
        return places(self.offsets, self.width)[1]

    @cached_property
    def furthest(self) -> int:
        """The largest number of tokens any row has seen before."""
        return int(self.start.max()) if self.even is None else self.even

    @cached_property
    def positions(self) -> Tensor:
        """int64 [B, T], or [1, T] where all rows are equally far, which makes masks and tables smaller."""
        if self.offsets is not None:
            return self.places[None]
        if self.in_place:  # nothing may be asked of the device, nor may a recorded step hold a position
            return self.start[:, None]
        steps = torch.arange(self.width, device=self.start.device)
        if self.even is not None or bool((self.start == self.furthest).all()):
            return steps[None] + self.furthest
        return self.start[:, None] + steps

    def share(self, key: Any, make: Callable[[], T]) -> T:
        """What `make` gives, made once for all blocks of this call."""
        if key not in self.shared:
            self.shared[key] = make()
        return self.shared[key]


class Block(nn.Module, ABC):
    """One residual block, or a mixer inside one."""

    operations: tuple[str, ...] = ()
    steady: bool = False
    """See `SequenceModel.steady`."""

    @property
    def records(self) -> bool:
        """See `SequenceModel.records`."""
        return self.steady

    fuses: bool = False
    """Whether training gains from compiling its forward (see `models.kernels.fuse`)."""

    @abstractmethod
    def initial_state(self, batch: int, device: torch.device) -> Any: ...

    @abstractmethod
    def forward(self, x: Tensor, state: Any, span: Span) -> tuple[Tensor, Any]:
        """x: [B, T, D]; state: this block's, None when `span.fresh`. Returns [B, T, D] and the new state.

        With `span.offsets`, x is [1, N, D] and the state returned is None.
        """

    def reserve(self, state: Any, length: int, dtype: torch.dtype | None) -> Any:
        """See `SequenceModel.reserve`."""
        return state

    def prepare(self, span: Span) -> None:
        """Make what blocks share of a packed call, before the first of them runs."""

    @abstractmethod
    def flops(self, length: int) -> float:
        """Forward FLOPs of the next token after `length` tokens."""

    @abstractmethod
    def state_bytes(self, length: int) -> int:
        """Bytes of this block's state of one sequence after `length` tokens."""


class Residual(Block):
    """Pre-norm: x + mixer(norm(x))."""

    def __init__(self, norm: nn.RMSNorm, mixer: Block) -> None:
        super().__init__()
        self.norm, self.mixer = norm, mixer
        self.operations, self.steady = ("norm", *mixer.operations), mixer.steady

    @property
    def records(self) -> bool:
        return self.mixer.records

    def initial_state(self, batch: int, device: torch.device) -> Any:
        return self.mixer.initial_state(batch, device)

    def reserve(self, state: Any, length: int, dtype: torch.dtype | None) -> Any:
        return self.mixer.reserve(state, length, dtype)

    def prepare(self, span: Span) -> None:
        self.mixer.prepare(span)

    def forward(self, x: Tensor, state: Any, span: Span) -> tuple[Tensor, Any]:
        assert self.norm.eps is not None
        x, normed = forked_norm(x, self.norm.weight, self.norm.eps, product_type(x))
        mixed, state = self.mixer(normed, state, span)
        return x + mixed, state

    def flops(self, length: int) -> float:
        return self.mixer.flops(length)

    def state_bytes(self, length: int) -> int:
        return self.mixer.state_bytes(length)


class Backbone(SequenceModel):
    """Embedding, blocks, final norm, linear head without bias (`tied`: its matrix is the embedding's)."""

    packs = True

    def __init__(
        self, vocabulary: int, options: Any, blocks: Iterable[Block], norm: nn.Module, embedding_std: float, tied: bool
    ) -> None:
        super().__init__(vocabulary, options)
        self.embedding = nn.Embedding(vocabulary, options.d_model)
        self.blocks = nn.ModuleList(blocks)
        names = dict.fromkeys(name for block in self._blocks for name in block.operations)
        self.operations = tuple(name for name in names if self.packs or name != "packed_attention")
        self.steady = all(block.steady for block in self._blocks)
        if self.packs and any(block.fuses for block in self._blocks):
            weights = sum(parameter.numel() for parameter in self.blocks.parameters())
            self.operations += ("blocks",) if weights >= WORTH else ()
        self.norm = norm
        self.logits = nn.Linear(options.d_model, vocabulary, bias=False)
        nn.init.normal_(self.embedding.weight, std=embedding_std)
        nn.init.normal_(self.logits.weight, std=embedding_std)
        if tied:
            self.logits.weight = self.embedding.weight

    @property
    def records(self) -> bool:
        return all(block.records for block in self._blocks)

    def initial_state(self, batch: int, device: torch.device | str | None = None) -> BackboneState:
        device = self.device if device is None else torch.device(device)
        position = torch.zeros(batch, dtype=torch.int64, device=device)
        return BackboneState(position, [block.initial_state(batch, device) for block in self._blocks], even=0)

    def hidden(
        self, tokens: Tensor, state: BackboneState | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, BackboneState]:
        return self._run(tokens, state, lengths)

    def append(
        self, tokens: Tensor, state: BackboneState, lengths: Tensor | None = None
    ) -> tuple[Tensor, BackboneState]:
        return self._run(tokens, state, lengths, appends=True)

    def reserve(self, state: BackboneState, length: int, dtype: torch.dtype | None = None) -> BackboneState:
        layers = [
            block.reserve(memory, length, dtype) for block, memory in zip(self._blocks, state.layers, strict=True)
        ]
        return BackboneState(state.position, layers, state.even)

    def packed(self, tokens: Tensor, offsets: Tensor, longest: int) -> Tensor:
        span = Span(tokens.new_zeros(1), len(tokens), None, True, False, self.training, None, offsets, longest)
        span.positions  # noqa: B018  made here, because compiled blocks should meet it made
        for block in self._blocks:
            block.prepare(span)
        return self._through(tokens[None], [None] * len(self.blocks), span)[0][0]

    def head(self, features: Tensor) -> Tensor:
        return self.logits(features)

    def decide(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return decide(features, self.logits.weight)

    def step(self, tokens: Tensor, state: BackboneState, live: Tensor | None = None) -> tuple[Tensor, BackboneState]:
        features, state = self._run(tokens[:, None], state, in_place=True, live=live)
        return self.head(features[:, 0]), state

    def cost(self, length: int) -> Cost:
        flops = sum(block.flops(length) for block in self._blocks)
        state_bytes = 8 + sum(block.state_bytes(length) for block in self._blocks)
        return Cost(self.parameter_count(), flops + 2 * self.logits.weight.numel(), state_bytes)

    @property
    def _blocks(self) -> list[Block]:
        return list(self.blocks)  # type: ignore[arg-type]

    def _run(
        self,
        tokens: Tensor,
        state: BackboneState | None,
        lengths: Tensor | None = None,
        in_place: bool = False,
        appends: bool = False,
        live: Tensor | None = None,
    ) -> tuple[Tensor, BackboneState]:
        start = tokens.new_zeros(len(tokens)) if state is None else state.position
        width, even = tokens.shape[1], 0 if state is None else state.even
        span = Span(start, width, lengths, state is None, in_place, self.training, live, appends=appends, even=even)
        before = [None] * len(self.blocks) if state is None else state.layers
        features, after = self._through(tokens, before, span)
        ragged = lengths is not None
        return features, BackboneState(start + span.counts, after, None if even is None or ragged else even + width)

    def _through(self, tokens: Tensor, before: list[Any], span: Span) -> tuple[Tensor, list[Any]]:
        after = []
        x = self.embedding(tokens)
        for block, memory in zip(self.blocks, before, strict=True):
            x, memory = block(x, memory, span)
            after.append(memory)
        return self.norm(x), after


def matrices(module: nn.Module) -> int:
    """Weights of the linear maps below a module; each costs two FLOPs a token."""
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))

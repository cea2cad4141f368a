"""The contract of an architecture: memory is a value that goes in and comes out, and costs are stated.

Nothing of a sequence is kept on the module, so that a caller may stop, copy, resume and batch sequences as it likes.
For every architecture one step at a time = many tokens at once = chunks of any sizes, ragged or not, to rounding.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from models.kernels.choose import stated
from models.state import State


@dataclass(frozen=True)
class Options:
    """Base of the options of an architecture: checks that values have the types and choices of their annotations."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            _check(field.name, getattr(self, field.name), hints[field.name])


@dataclass(frozen=True)
class Cost:
    """What a model costs after some number of tokens."""

    parameters: int
    """Trainable parameters; tied ones count once."""
    flops: float
    """Forward floating-point operations of the next token; a multiplication and an addition are two."""
    state_bytes: int
    """Bytes of state of one sequence. (A growing cache may have reserved up to twice that.)"""


class SequenceModel(nn.Module, ABC):
    """A model of token sequences. Built by `Class(vocabulary, options)`; presets of the options are in `sizes`."""

    revision: ClassVar[int] = 1
    """Raised whenever the same weights or the same training would give other results."""
    sizes: ClassVar[Mapping[str, Any]]
    """Size presets; their type is the architecture's options class."""
    packs: ClassVar[bool] = False
    """Whether it can train on several sequences in one row (`packed`)."""
    steady: bool = False
    """Whether every `step` is the same function of token and state, however many tokens came before."""
    interleaves: ClassVar[bool] = False
    """Whether it can train on sequences side by side, time by time (`interleaved`)."""
    learns: ClassVar[Literal["gradients", "reading"]] = "gradients"
    """How it is trained: by an optimiser on the loss of its logits, or by `read`, without one."""
    operations: tuple[str, ...] = ()
    """Operations that have, or may get, several implementations (see `models.kernels.choose`)."""

    def __init__(self, vocabulary: int, options: Any) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.options = options

    @abstractmethod
    def initial_state(self, batch: int, device: torch.device | str | None = None) -> State:
        """The state before any token, float32, on `device` (None: where the weights are)."""

    @abstractmethod
    def hidden(self, tokens: Tensor, state: State | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Features [B, T, D] from which `head` makes logits; otherwise as `forward`."""

    @abstractmethod
    def head(self, features: Tensor) -> Tensor:
        """Logits [..., V] from features [..., D]; a caller may select positions first."""

    def decide(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The greedy token, int64 [...], and its margin over the second best, float32 [...], from features [..., D]."""
        best, index = self.head(features).float().topk(2, dim=-1)
        return index[..., 0], best[..., 0] - best[..., 1]

    @abstractmethod
    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """One token per row: int64 [B] -> logits [B, V] and the next state. May modify `state` in place."""

    def decoding(self, rows: int, dtype: torch.dtype) -> Any | None:
        """What decodes `rows` rows faster than `step` does, as `models.decoding.Decoding`; None: nothing does."""
        return None

    def append(self, tokens: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """`hidden`, but what it adds to a growing cache it may write into `state`, beyond the tokens that holds.

        So `state` keeps its meaning only until something else is appended to it.
        """
        return self.hidden(tokens, state, lengths)

    def reserve(self, state: State, length: int, dtype: torch.dtype | None = None) -> State:
        """The same state with caches that grow just large enough for `length` tokens, those seen included.

        dtype: of these caches; None: as it is. In bfloat16 they mean the same to a forward that multiplies in it.
        """
        return state

    def packed(self, tokens: Tensor, offsets: Tensor, longest: int) -> Tensor:
        """Features [N, D] of sequences laid end to end, each from its initial state; only where `packs`.

        tokens: int64 [N]; offsets: int32 [S + 1] on the same device, ascending from 0 to N: sequence s is
        tokens[offsets[s] : offsets[s + 1]]; longest: no sequence has more tokens.
        """
        raise NotImplementedError(f"{type(self).__name__} does not pack")

    def interleaved(self, tokens: Tensor, sizes: Tensor) -> Tensor:
        """Features [N, D] of sequences in descending order of length, time by time; only where `interleaves`.

        tokens: int64 [N]: the first of every sequence, then the second of every one that has two, ..; sizes: int64 [T]
        on the CPU: sequences that have a token at each time.
        """
        raise NotImplementedError(f"{type(self).__name__} does not interleave")

    @abstractmethod
    def cost(self, length: int) -> Cost:
        """The cost after `length` tokens."""

    def forward(
        self, tokens: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Many tokens at once.

        tokens: int64 [B, T]; state: None is the initial one, and it is never modified; lengths: int64 [B], each in
        0..T: row b's state stops after lengths[b] tokens (None: all T). Returns logits [B, T, V], unspecified but
        finite past a row's length, and the new state.
        """
        features, state = self.hidden(tokens, state, lengths)
        return self.head(features), state

    def read(self, tokens: Tensor, own: Tensor, lengths: Tensor) -> None:
        """Learn from trajectories, where `learns` is "reading".

        tokens: int64 [B, T]; own: bool [B, T], made by the model; lengths: int64 [B], tokens of each row that count.
        """
        raise NotImplementedError(f"{type(self).__name__} does not learn by reading")

    def kernels(self) -> dict[str, str]:
        """Operation -> the implementation chosen for it on the device the weights are on."""
        return stated(self.operations, self.device.type)

    def parameter_count(self) -> int:
        """Trainable parameters; tied ones count once."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    @property
    def records(self) -> bool:
        """Whether a `step` where the weights are runs the same operations on the same shapes, without waiting for any
        of them, so that a GPU may replay it from a CUDA graph."""
        return self.steady

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def _check(name: str, value: Any, hint: Any) -> None:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{name}: {value!r} is none of {', '.join(map(str, get_args(hint)))}")
    elif get_origin(hint) is tuple:
        if not isinstance(value, tuple) or not value:
            raise ValueError(f"{name}: {value!r} is not a list of at least one value")
        for entry in value:
            _check(name, entry, get_args(hint)[0])
    elif hint is int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}: {value!r} is not a whole number of at least 1")
    elif not isinstance(value, hint):
        raise ValueError(f"{name}: {value!r} is not of type {getattr(hint, '__name__', hint)}")


__all__ = ["Cost", "Options", "SequenceModel", "State"]

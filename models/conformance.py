"""What every architecture must satisfy, ours and the user's own, as checks that raise AssertionError.

Run them on trained weights: at initialisation many mistakes are too small to see.

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_mine(check):
        check(trained(build("mypackage.mymodel:MyModel", "tiny", 16, seed=0)))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from models.base import SequenceModel
from models.state import clone, leaves, put, state_bytes, take

TOLERANCE = 1e-5
"""Largest difference of two logits that should be equal, relative to the largest logit, in float32 at any length."""

LENGTH = 150
JUNK = 1
"""The token that fills padding."""


def _on_its_device(check: Callable[[SequenceModel], None]) -> Callable[[SequenceModel], None]:
    """What a check makes, it makes where the model is."""

    @wraps(check)
    def checked(model: SequenceModel) -> None:
        with torch.device(_device(model)):
            check(model)

    return checked


def _device(model: SequenceModel) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def trained(model: SequenceModel, steps: int = 30, seed: int = 0) -> SequenceModel:
    """Train in place for a few steps on sequences that repeat themselves, and switch to evaluation."""
    draw = torch.Generator().manual_seed(seed)
    if model.learns == "reading":
        for _ in range(steps):
            tokens = random_tokens(model, 8, 64, draw)
            own = tokens % 4 > 0
            own[:, 0], own[:, 1] = False, True  # a question of one token
            model.read(tokens, own, torch.full((8,), 64))
        return model.eval()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        half = random_tokens(model, 8, 16, draw)
        tokens = torch.cat([half, half], dim=1)
        logits, _ = model(tokens[:, :-1])
        optimiser.zero_grad()
        cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimiser.step()
    return model.eval()


@_on_its_device
@torch.no_grad()
def steps_equal_forward(model: SequenceModel) -> None:
    """One token at a time gives the logits of all at once, and a state that goes on alike."""
    tokens = random_tokens(model, 3, LENGTH)
    whole, state = model(tokens)
    stepped, stepped_state = in_steps(model, tokens, model.initial_state(3))
    _same(stepped, whole, "one token at a time differs from all at once")
    _same_state(model, stepped_state, state, "the state after single steps differs from that of one forward")


@_on_its_device
@torch.no_grad()
def chunks_equal_forward(model: SequenceModel) -> None:
    """Ragged chunks of any size, rows that get nothing included, give the logits and the state of all at once."""
    tokens = random_tokens(model, 4, LENGTH)
    lengths = torch.tensor([LENGTH, LENGTH - 1, LENGTH // 3, 0])
    whole, state = model(tokens, None, lengths)
    for seed in range(3):
        chunked, chunked_state = in_chunks(model, tokens, lengths, model.initial_state(4), seed)
        _same(chunked, whole, "chunks differ from all at once", lengths)
        _same_state(model, chunked_state, state, "the state after chunks differs from that of one forward")
    full, _ = model(tokens)
    _same(whole, full, "lengths change logits before them", lengths)
    _same_state(model, take(state, torch.tensor([3])), model.initial_state(1), "a row of length 0 changes its state")


@_on_its_device
@torch.no_grad()
def continues_from_a_state(model: SequenceModel) -> None:
    """From a state that is not empty, rows at different places: steps, chunks and one forward agree."""
    _, state = model(random_tokens(model, 3, 40, seed=1), None, torch.tensor([40, 7, 0]))
    tokens, lengths = random_tokens(model, 3, LENGTH), torch.full((3,), LENGTH)
    whole, after = model(tokens, state)
    chunked, chunked_after = in_chunks(model, tokens, lengths, state, seed=2)
    stepped, stepped_after = in_steps(model, tokens, clone(state))
    _same(chunked, whole, "chunks from a state differ from one forward from it")
    _same(stepped, whole, "steps from a state differ from one forward from it")
    _same_state(model, chunked_after, after, "the states of chunks and forward differ")
    _same_state(model, stepped_after, after, "the states of steps and forward differ")


@_on_its_device
@torch.no_grad()
def leaves_its_input_alone(model: SequenceModel) -> None:
    """`forward` never modifies the state it is given."""
    tokens = random_tokens(model, 3, 30)
    _, grown = in_steps(model, tokens[:, :9], model.initial_state(3))
    for state in (model.initial_state(3), model(tokens)[1], grown):
        before = clone(state)
        for lengths in (None, torch.tensor([30, 2, 0])):
            model(tokens, state, lengths)
            model(tokens[:, :1], state, None if lengths is None else lengths.clamp(max=1))
        for old, new in zip(leaves(before), leaves(state), strict=True):
            assert torch.equal(old, new), "forward modified the state it was given"


@_on_its_device
@torch.no_grad()
def rows_move_between_states(model: SequenceModel) -> None:
    """Rows taken from one state and put into another go on as if nothing had happened; copies share nothing."""
    tokens = random_tokens(model, 4, 60)
    _, long = model(tokens)
    _, short = model(tokens[:, :20])
    next_tokens = random_tokens(model, 4, 15, seed=3)
    alone, _ = in_steps(model, next_tokens, clone(long))
    brief, _ = in_steps(model, next_tokens, clone(short))
    rows = torch.tensor([2, 0])
    for base, other, kept, moved in ((long, short, alone, brief), (short, long, brief, alone)):
        mixed = put(base, torch.tensor([1, 3]), take(other, rows))
        tokens = next_tokens.clone()
        tokens[[1, 3]] = next_tokens[rows]
        result, _ = in_steps(model, tokens, mixed)
        _same(result[[0, 2]], kept[[0, 2]], "put changed rows it should not touch")
        _same(result[[1, 3]], moved[rows], "a row that was taken and put goes on differently")
    _same(in_steps(model, next_tokens, long)[0], alone, "steps from a clone, take or put changed the original")


@_on_its_device
@torch.no_grad()
def sees_only_the_past(model: SequenceModel) -> None:
    """A token changes no logits before it, and does change later ones."""
    tokens = random_tokens(model, 2, LENGTH)
    other = tokens.clone()
    place = LENGTH // 2
    other[:, place] = (other[:, place] + 1) % model.vocabulary
    mine, theirs = model(tokens)[0], model(other)[0]
    _same(mine[:, :place], theirs[:, :place], "a later token changes earlier logits")
    assert not torch.allclose(mine[:, place:], theirs[:, place:]), "a token changes nothing after it"


@_on_its_device
@torch.no_grad()
def rows_are_independent(model: SequenceModel) -> None:
    """A row's logits do not depend on the other rows of its batch."""
    tokens = random_tokens(model, 5, LENGTH)
    lengths = torch.tensor([LENGTH, 3, 70, 0, LENGTH])
    together, _ = model(tokens, None, lengths)
    for row in (0, 1, 2, 4):
        alone, _ = model(tokens[row : row + 1, : lengths[row]])
        _same(together[row : row + 1, : lengths[row]], alone, "a row depends on the other rows of its batch")


@_on_its_device
def packing_changes_nothing(model: SequenceModel) -> None:
    """Where the model packs: sequences laid end to end give the logits and the gradients of each alone."""
    if not model.packs:
        return
    lengths = [37, 1, LENGTH, 64]
    sequences = [random_tokens(model, 1, length, seed=length)[0] for length in lengths]
    offsets = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    alone = torch.cat([model(tokens[None])[0][0] for tokens in sequences])
    packed = model.head(model.packed(torch.cat(sequences), offsets, LENGTH + 3))
    _same(packed.detach(), alone.detach(), "packed sequences differ from each alone")
    weights = torch.randn(alone.shape, generator=torch.Generator().manual_seed(0), device="cpu").to(alone.device)
    parameters = list(model.parameters())
    mine, theirs = (torch.autograd.grad((logits * weights).sum(), parameters) for logits in (packed, alone))
    for name, one, other in zip(dict(model.named_parameters()), mine, theirs, strict=True):
        gap = difference(one.detach(), other.detach())
        assert gap <= 10 * TOLERANCE, f"the gradient of {name} changes by {gap:.1e} in packed sequences"


@_on_its_device
@torch.no_grad()
def logits_are_finite(model: SequenceModel) -> None:
    """Also past a row's length."""
    logits, _ = model(random_tokens(model, 3, 20), None, torch.tensor([20, 1, 0]))
    assert torch.isfinite(logits).all(), "logits past a row's length are not finite"


@_on_its_device
@torch.no_grad()
def states_its_cost(model: SequenceModel) -> None:
    """`cost` agrees with the parameters there are and with the bytes of a state."""
    assert model.cost(0).parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert model.cost(0).state_bytes == state_bytes(model.initial_state(1)), "cost(0) is not the initial state's size"
    for length in (1, 17, LENGTH):
        _, state = model(random_tokens(model, 2, length))
        assert 2 * model.cost(length).state_bytes == state_bytes(state), f"cost({length}) is not the state's size"
    for tensor in leaves(model(random_tokens(model, 5, 7))[1]):
        assert tensor.shape[0] == 5, "a tensor of the state does not have the batch as its first dimension"


@_on_its_device
@torch.no_grad()
def holds_only_its_state(model: SequenceModel) -> None:
    """A state keeps nothing else alive: no tensor of it is a piece of a larger one."""
    _, state = model(random_tokens(model, 2, LENGTH))
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in leaves(state)}
    held, own = sum(storages.values()), state_bytes(state)
    assert held <= own, f"the state's tensors keep {held:,} bytes alive, the state has {own:,}"


CHECKS: tuple[Callable[[SequenceModel], None], ...] = (
    steps_equal_forward,
    chunks_equal_forward,
    continues_from_a_state,
    leaves_its_input_alone,
    rows_move_between_states,
    sees_only_the_past,
    rows_are_independent,
    packing_changes_nothing,
    logits_are_finite,
    states_its_cost,
    holds_only_its_state,
)


def in_steps(model: SequenceModel, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
    """One token at a time: logits [B, T, V] and the state, which may be consumed."""
    parts = []
    for token in tokens.unbind(1):
        logits, state = model.step(token, state)
        parts.append(logits)
    return torch.stack(parts, dim=1), state


def in_chunks(
    model: SequenceModel, tokens: Tensor, lengths: Tensor, state: Any, seed: int, longest: int = 40
) -> tuple[Tensor, Any]:
    """The first `lengths` tokens of each row in ragged pieces of random sizes: logits [B, T, V] and the state."""
    draw = torch.Generator().manual_seed(seed)
    done = torch.zeros_like(lengths)
    result = torch.zeros(*tokens.shape, model.vocabulary, device=tokens.device)
    while bool((done < lengths).any()):
        wide = torch.rand((), generator=draw, device="cpu") < 0.8
        width = int(_draw(1, longest + 1, (), draw)) if wide else 1
        counts = _draw(0, width + 1, lengths.shape, draw)
        counts[int(_draw(0, len(counts), (), draw))] = width
        counts = torch.minimum(counts.to(lengths.device), lengths - done)
        piece = torch.full((len(tokens), width), JUNK, device=tokens.device)
        for row, (at, count) in enumerate(zip(done.tolist(), counts.tolist(), strict=True)):
            piece[row, :count] = tokens[row, at : at + count]
        logits, state = model(piece, state, None if bool((counts == width).all()) else counts)
        for row, (at, count) in enumerate(zip(done.tolist(), counts.tolist(), strict=True)):
            result[row, at : at + count] = logits[row, :count]
        done = done + counts
    return result, state


def difference(mine: Tensor, theirs: Tensor, lengths: Tensor | None = None) -> float:
    """The largest difference of two logits, relative to the largest logit (at least 1); only before `lengths`."""
    gap = (mine - theirs).abs().amax(-1)
    if lengths is not None:
        gap = gap.masked_fill(torch.arange(gap.shape[1], device=gap.device) >= lengths[:, None], 0)
    return float(gap.max()) / max(1.0, float(theirs.abs().max()))


def random_tokens(
    model: SequenceModel, batch: int, length: int, draw: torch.Generator | None = None, seed: int = 0
) -> Tensor:
    draw = torch.Generator().manual_seed(seed) if draw is None else draw
    return _draw(0, model.vocabulary, (batch, length), draw).to(_device(model))


def _draw(low: int, high: int, shape: Sequence[int], draw: torch.Generator) -> Tensor:
    return torch.randint(low, high, tuple(shape), generator=draw, device="cpu")


def _same(mine: Tensor, theirs: Tensor, message: str, lengths: Tensor | None = None) -> None:
    gap = difference(mine, theirs, lengths)
    assert gap <= TOLERANCE, f"{message}: by {gap:.2g} of the largest logit, allowed {TOLERANCE:.2g}"


def _same_state(model: SequenceModel, mine: Any, theirs: Any, message: str) -> None:
    """Two states are the same when the model goes on alike from them."""
    tokens = random_tokens(model, len(next(leaves(mine))), 5, seed=9)
    _same(in_steps(model, tokens, clone(mine))[0], in_steps(model, tokens, clone(theirs))[0], message)

"""Layouts of a batch: every token of every row once, its target beside it, whatever the layout."""

from itertools import combinations, islice, pairwise

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from harness.batches import IGNORED, ROWS_OF_A_PART, Envelope, cheapest, collate, interleave, pack, split, stable
from harness.config import Cell
from harness.step import stepper
from harness.stream import Row, Source, steps
from harness.train import make_optimiser
from models.build import build


@pytest.fixture(scope="module")
def rows():
    return next(steps(Source("addition", "interactive", 3, 0, 48)))


def pairs(row):
    """(token, target) at each place of a row."""
    after = np.where(row.own[1:], row.ids[1:].astype(int), IGNORED)
    return list(zip(row.ids[:-1].tolist(), after.tolist()))


def test_packed_rows_lie_end_to_end(rows):
    packed = pack(rows)
    bounds = list(pairwise(packed.offsets.tolist()))
    found = list(zip(packed.tokens.tolist(), packed.targets.tolist()))
    for row, (begin, end) in zip(rows, bounds):
        assert found[begin:end] == pairs(row)
    rest = found[bounds[len(rows)][0] :]
    assert all(target == IGNORED for _, target in rest)
    assert packed.padding == len(rest)
    assert packed.offsets.dtype == torch.int32
    assert packed.offsets[-1] == len(packed.tokens)
    assert max(end - begin for begin, end in bounds) <= packed.longest
    assert packed.own == split(rows).own
    assert packed.real == split(rows).real


def test_packing_wastes_little_and_meets_few_shapes():
    batches = [pack(rows) for rows in islice(steps(Source("addition", "interactive", 5, 0, 128)), 16)]
    real, padding = (sum(getattr(batch, name) for batch in batches) for name in ("real", "padding"))
    assert real / (real + padding) > 0.93
    assert len({batch.shape for batch in batches}) <= 6


def test_pieces_are_finer_and_give_the_same_gradient(rows):
    coarse, fine = split(rows), split(rows, pieces=4)
    assert len(fine.parts) == 4 * len(coarse.parts)
    assert (fine.own, fine.real) == (coarse.own, coarse.real)
    assert max(part.tokens.numel() for part in fine.parts) < max(part.tokens.numel() for part in coarse.parts) / 3
    assert len(split(rows[:3], pieces=8).parts) == 3
    cell = Cell(architecture="gru")
    weights = []
    for pieces in (1, 4):
        model = build("gru", "tiny", 64, seed=0)
        taken = stepper(model, make_optimiser(model, cell.train), cell, pieces)
        taken.step(taken.batch(rows), 1e-3)
        weights.append((torch.cat([parameter.grad.flatten() for parameter in model.parameters()]), taken.check()))
    (whole, told), (pieced, also_told) = weights
    assert torch.allclose(whole, pieced, rtol=1e-4, atol=1e-6)
    assert told == pytest.approx(also_told, rel=1e-5)


def test_rows_of_very_different_lengths_are_not_padded_to_the_longest():
    source = Source("logical_graph", "interactive", 10, 0, 12, form="localised", stress={"deep": 0.5})
    batches = [split(rows) for rows in islice(steps(source), 16)]
    real, padding = (sum(getattr(batch, name) for batch in batches) for name in ("real", "padding"))
    assert real / (real + padding) > 0.75  # in equal parts: 0.4
    assert all(sum(len(part.lengths) for part in batch.parts) == 12 for batch in batches)


@pytest.mark.parametrize("lengths", [[7], [1, 1, 1, 9], [3, 3, 4, 20, 21, 60], [5] * 6])
def test_cheapest_parts_are_the_cheapest_there_are(lengths):
    def cost(cuts):
        return sum((end - begin + ROWS_OF_A_PART) * lengths[end - 1] for begin, end in pairwise(cuts))

    inner = range(1, len(lengths))
    every = [[0, *chosen, len(lengths)] for size in range(len(lengths)) for chosen in combinations(inner, size)]
    assert cost(cheapest(lengths)) == min(map(cost, every))


def test_one_row_can_be_packed():
    packed = pack([Row(np.arange(1, 8, dtype=np.uint16), np.ones(7, bool), "addition")])
    assert packed.tokens[:6].tolist() == [1, 2, 3, 4, 5, 6]
    assert packed.targets[:6].tolist() == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("steps", [4, 16])
def test_stable_sizes_are_few_and_near(steps):
    sizes = {stable(size, steps) for size in range(1025, 2049)}
    assert len(sizes) == steps
    assert all(size <= stable(size, steps) <= size * (1 + 1 / steps) + 1 for size in range(1, 5000))


def test_interleaved_rows_go_time_by_time(rows):
    batch = interleave(rows)
    sizes = batch.sizes.tolist()
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == len(batch.tokens) == batch.real - len(rows)
    ordered = sorted(rows, key=len, reverse=True)
    at = 0
    for time, size in enumerate(sizes):
        here = list(zip(batch.tokens[at : at + size].tolist(), batch.targets[at : at + size].tolist()))
        assert here == [pairs(row)[time] for row in ordered[:size]]
        at += size


def test_most_interleaved_batches_are_padded_to_the_same_sizes():
    envelope = Envelope()
    batches = [interleave(rows) for rows in islice(steps(Source("addition", "interactive", 5, 0, 128)), 128)]
    padded = [envelope.around(batch) for batch in batches]
    assert all(one is other for one, other in zip(batches, padded[: Envelope.BATCHES]))
    later = padded[Envelope.BATCHES :]
    common = [batch for batch in later if batch.shape]
    assert len(common) / len(later) > 0.6
    assert all(torch.equal(batch.sizes, common[0].sizes) for batch in common)
    assert sum(batch.real for batch in common) / sum(batch.real + batch.padding for batch in common) > 0.9
    for before, after in zip(batches, padded):
        assert after.own == int((after.targets >= 0).sum()) == before.own
        assert after.real + after.padding - 128 == len(after.tokens) == int(after.sizes.sum())


def test_a_batch_that_sticks_out_is_left_as_it_is(rows, monkeypatch):
    monkeypatch.setattr(Envelope, "BATCHES", 1)
    envelope = Envelope()
    envelope.around(interleave(rows[:16]))
    assert envelope.around(interleave(rows[:16])).shape
    many = interleave(rows)
    assert envelope.around(many) is many


def test_a_padded_interleaved_batch_gives_the_same_loss_and_gradient(rows, monkeypatch):
    monkeypatch.setattr(Envelope, "BATCHES", 1)
    model, envelope, batch = build("gru", "tiny", 64, seed=0), Envelope(), interleave(rows)
    envelope.around(batch)
    padded = envelope.around(batch)
    assert padded.padding > 0
    losses = [
        cross_entropy(model.head(model.interleaved(one.tokens, one.sizes)), one.targets, ignore_index=IGNORED)
        for one in (batch, padded)
    ]
    mine, theirs = (torch.autograd.grad(loss, list(model.parameters())) for loss in losses)
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    for one, other in zip(mine, theirs):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("architecture", ["transformer", "sliding", "mamba1", "mamba2", "hybrid", "lstm", "gru"])
def test_every_layout_gives_the_same_loss_and_gradient(rows, architecture):
    model = build(architecture, "tiny", 64, seed=0)
    part = collate(rows)
    targets = part.tokens.masked_fill(~part.own, IGNORED)[:, 1:].flatten()
    padded = cross_entropy(model(part.tokens[:, :-1])[0].flatten(0, 1), targets, ignore_index=IGNORED)
    if model.packs:
        batch = pack(rows)
        features = model.packed(batch.tokens, batch.offsets, batch.longest)
    else:
        batch = interleave(rows)
        features = model.interleaved(batch.tokens, batch.sizes)
    ours = cross_entropy(model.head(features), batch.targets, ignore_index=IGNORED)
    assert ours.item() == pytest.approx(padded.item(), rel=1e-5)
    parameters = list(model.parameters())
    for one, other in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(padded, parameters)):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)

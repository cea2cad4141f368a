"""Position encodings: what each makes a model sensitive to."""

import pytest
import torch

from models.backbone import Span
from models.build import build
from models.kernels.attention import rotate
from models.positions import alibi_slopes, rotary_tables


def span(width, start=0, training=False, batch=1):
    return Span(torch.full((batch,), start), width, None, start == 0, False, training)


def test_rotary_scores_depend_on_distance_alone_however_late():
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)
    scores = []
    for start in (0, 1_000_000):
        cos, sin = rotary_tables(span(40, start), 16)
        tables = (cos.double(), sin.double())
        turned = [rotate(tensor.expand(1, 1, 40, 16), tables) for tensor in (q, k)]
        scores.append((turned[0][:, :, 39] * turned[1][:, :, 30]).sum())
    assert scores[0] == pytest.approx(scores[1].item(), abs=1e-5)


def test_pythia_rotates_a_quarter_of_each_head():
    attention = build("transformer", "paper", 64, device="meta").blocks[0].attention
    assert (attention.size, attention.rotated) == (96, 24)
    x = torch.randn(1, 2, 5, 96)
    turned = rotate(x, rotary_tables(span(5), 24))
    assert torch.equal(turned[..., 24:], x[..., 24:])
    assert not torch.allclose(turned[:, :, 1:, :24], x[:, :, 1:, :24])
    assert build("sliding", "paper", 64, device="meta").blocks[0].attention.rotated == 96


def test_alibi_slopes_are_those_of_the_paper():
    assert torch.equal(alibi_slopes(8), 2.0 ** -torch.arange(1.0, 9.0))


@pytest.mark.parametrize("architecture", ["transformer", "sliding"])
@torch.no_grad()
def test_without_positions_order_is_seen_through_the_mask_only(architecture):
    """One layer of attention without positions gives the last token the same features however its past is permuted."""
    tokens, swapped = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[3, 1, 2, 4]])
    for positions, same in (("none", True), ("rotary", False), ("alibi", False)):
        model = build(architecture, "tiny", 16, {"positions": positions, "layers": 1}, seed=0).eval()
        last = [model(rows)[0][:, -1] for rows in (tokens, swapped)]
        assert torch.allclose(*last, atol=1e-6) == same


def test_randomised_positions_are_increasing_seeded_and_only_for_training():
    torch.manual_seed(0)
    drawn = [rotary_tables(span(30, training=True, batch=64), 2, 100) for _ in range(2)]
    torch.manual_seed(0)
    again = rotary_tables(span(30, training=True, batch=64), 2, 100)
    assert torch.equal(drawn[0][0], again[0])
    assert not torch.equal(drawn[0][0], drawn[1][0])
    calm = rotary_tables(span(30), 2, 100)
    assert torch.equal(calm[0], rotary_tables(span(30), 2)[0])


def test_randomised_draws_cover_the_range_without_repetition():
    from models.positions import _draw

    positions = _draw(span(30, training=True, batch=64), 100)
    assert positions.shape == (64, 30)
    assert (positions.diff(dim=1) > 0).all()
    assert positions.min() == 0
    assert positions.max() == 99
    reach = positions[:, -1]  # of rows nearly consecutive, and of rows nearly over the whole range
    assert reach.min() < 34
    assert ((reach > 40) & (reach < 80)).sum() > 10


def test_all_layers_share_one_draw():
    """One forward takes from the generator what one draw takes."""
    model = build("transformer", "tiny", 16, {"positions": "randomised", "layers": 3}, seed=0).train()
    tokens = torch.randint(0, 16, (4, 20))
    torch.manual_seed(1)
    model(tokens)
    after = torch.rand(1)
    torch.manual_seed(1)
    torch.rand(4, 2049)
    assert torch.equal(after, torch.rand(1))


def test_randomised_refuses_what_it_cannot_draw():
    model = build("transformer", "tiny", 16, {"positions": "randomised", "random_range": 8}, seed=0).train()
    with pytest.raises(ValueError, match="random_range: 9 tokens"):
        model(torch.zeros(1, 9, dtype=torch.int64))
    with pytest.raises(ValueError, match="in training mode leave `state` out"):
        model(torch.zeros(1, 3, dtype=torch.int64), model.initial_state(1))

"""Interventions for length generalisation: what each changes in training, and that a resumed run ends the same."""

import io

import pytest
import torch

from harness.batches import collate
from harness.config import Cell, Train
from harness.errors import Stopped, UserError
from harness.initial_states import InitialStates
from harness.step import own_loss, stepper
from harness.stream import Source, steps
from harness.train import make_optimiser, new_model, scenario_of, train
from harness.work import content_hash, dump
from models.build import build
from models.state import leaves, mapped

SMALL = {"max_length": 2, "steps": 12, "batch": 16, "learning_rate": 3e-3, "validation": 8}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def part():
    return collate(next(steps(Source("addition", "interactive", 3, 0, 8))))


@pytest.fixture
def model():
    return build("gru", "tiny", 64, seed=0)


def starts(model, **recipe):
    return InitialStates(model, Train(**recipe), "float32")


def gradient(model, losses):
    model.zero_grad(set_to_none=True)
    total = 0.0
    for loss in losses:
        loss.backward()
        total += loss.item()
    return total, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def after_one_part(model, part, **recipe):
    made = starts(model, **recipe)
    gradient(model, made.losses(part, CPU))
    made.turn()
    return made


def test_the_first_step_starts_from_empty_states(model, part):
    loss, _ = gradient(model, starts(model, initial_states={"passed": 1.0}).losses(part, CPU))
    assert loss == pytest.approx(own_loss(model, part, CPU).item(), rel=1e-5)


def test_passed_states_are_the_last_of_the_step_before(model, part):
    made = after_one_part(model, part, initial_states={"passed": 1.0})
    _, last = model.hidden(part.tokens[:, :-1], None, part.lengths - 1)
    distances = torch.cdist(made._drawn(20)[0][0], last[0][0].detach())
    assert distances.amin(1).max() < 1e-4
    loss, _ = gradient(model, made.losses(part, CPU))
    assert loss != pytest.approx(own_loss(model, part, CPU).item(), rel=1e-6)


def test_noise_has_the_magnitude_of_the_states_it_stands_for(model, part):
    torch.manual_seed(0)
    made = after_one_part(model, part, initial_states={"noise": 1.0})
    for kept, drawn in zip(leaves(made.kept), leaves(made._drawn(400))):
        assert drawn.square().mean().item() == pytest.approx(kept.square().mean().item(), rel=0.1)
        assert abs(drawn.mean().item()) < 0.1 * drawn.std().item() + 1e-3


@pytest.mark.parametrize("kind", ["passed", "noise"])
def test_a_share_of_the_sequences_starts_elsewhere(model, part, kind):
    torch.manual_seed(0)
    drawn = after_one_part(model, part, initial_states={kind: 0.25})._drawn(2000)[0][0]
    assert (drawn.abs().sum(1) > 0).float().mean().item() == pytest.approx(0.25, abs=0.04)


def test_truncation_cuts_the_gradient_and_not_the_state(model, part):
    whole, gradients = gradient(model, starts(model).losses(part, CPU))
    cut, truncated = gradient(model, starts(model, truncate=7).losses(part, CPU))
    assert cut == pytest.approx(whole, rel=1e-5)
    assert (gradients - truncated).abs().max() > 1e-3 * gradients.abs().max()
    longer, same = gradient(model, starts(model, truncate=10_000).losses(part, CPU))
    assert longer == pytest.approx(whole, rel=1e-6)
    torch.testing.assert_close(same, gradients)


@pytest.mark.parametrize("architecture", ["gru", "mamba1", "mamba2", "rwkv7", "gated_deltanet"])
def test_a_resumed_run_ends_with_the_same_weights(architecture):
    recipe = {**SMALL, "initial_states": {"passed": 0.5, "noise": 0.2}, "truncate": 30}
    config = Cell(architecture=architecture, train=recipe)
    whole = content_hash(train(config).model.state_dict())
    assert whole != content_hash(train(Cell(architecture=architecture, train=SMALL)).model.state_dict())
    saved, calls = [], iter(range(100))
    with pytest.raises(Stopped):
        train(config, save=lambda held: saved.append(dump(held)), stop=lambda: next(calls) == 7)
    resumed = train(config, resume=torch.load(io.BytesIO(saved[0]), weights_only=True))
    assert content_hash(resumed.model.state_dict()) == whole


@pytest.mark.parametrize("architecture", ["transformer", "hybrid", "lookup"])
def test_a_state_that_grows_is_refused(architecture):
    with pytest.raises(UserError, match="initial_states"):
        starts(build(architecture, "tiny", 64), initial_states={"passed": 0.5})


def test_a_growing_cache_can_be_truncated(part):
    model = build("transformer", "tiny", 64, seed=0)
    whole, _ = gradient(model, starts(model).losses(part, CPU))
    assert gradient(model, starts(model, truncate=20).losses(part, CPU))[0] == pytest.approx(whole, rel=1e-4)


def test_unknown_kinds_and_more_than_all_are_refused():
    for wrong in ({"pased": 0.5}, {"passed": 0.8, "noise": 0.3}):
        with pytest.raises(ValueError, match="initial_states"):
            Train(initial_states=wrong)


def test_the_plain_recipe_is_left_as_it_was():
    config = Cell(architecture="gru", train=SMALL)
    model = new_model(config, scenario_of(config))
    assert not stepper(model, make_optimiser(model, config.train), config).starts


def test_kept_states_share_nothing_with_the_model(model, part):
    made = after_one_part(model, part, initial_states={"passed": 1.0})
    mapped(lambda tensor: tensor.zero_(), made._drawn(4))
    assert all(bool(tensor.abs().sum() > 0) for tensor in leaves(made.kept))

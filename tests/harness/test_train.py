"""Training: what the loss covers, resuming to the bit, and stopping when it must."""

import io
import math
from copy import deepcopy

import pytest
import torch

from harness.batches import Batch, collate, split
from harness.config import Cell
from harness.errors import Diverged, Stopped
from harness.step import own_loss
from harness.stream import Source, steps
from harness.train import learning_rate, make_optimiser, new_model, scenario_of, train
from harness.work import content_hash, dump
from tasks.problems import BLOCK, training_stream

SMALL = {"max_length": 2, "steps": 12, "batch": 16, "learning_rate": 3e-3, "validation": 8}


def cell(architecture="gru", setting="interactive", **train):
    return Cell(setting=setting, architecture=architecture, train={**SMALL, **train})


def reload(checkpoint):
    return torch.load(io.BytesIO(dump(checkpoint)), weights_only=True)


@pytest.mark.parametrize("architecture", ["gru", "mamba2", "transformer"])
def test_resumed_from_any_checkpoint_training_ends_bit_identical(architecture):
    whole = train(cell(architecture))
    for stop_at in (1, 5, 11):
        saved = []
        calls = iter(range(100))
        with pytest.raises(Stopped):
            train(cell(architecture), save=saved.append, stop=lambda at=stop_at, calls=calls: next(calls) == at)
        resumed = train(cell(architecture), resume=reload(saved[0]))
        assert content_hash(resumed.model.state_dict()) == content_hash(whole.model.state_dict())
        strip = [{k: v for k, v in record.items() if k != "seconds"} for record in resumed.progress.curve]
        assert strip == [{k: v for k, v in record.items() if k != "seconds"} for record in whole.progress.curve]
        assert resumed.progress.tokens == whole.progress.tokens


def test_stopping_after_a_step_gives_the_weights_the_whole_run_has_there():
    saved = []
    calls = iter(range(100))
    with pytest.raises(Stopped):
        train(cell(), save=saved.append, stop=lambda: next(calls) == 7)
    early = train(cell(stop_after=7))
    assert early.progress.step == 7
    assert early.progress.curve[-1]["step"] == 7
    assert content_hash(early.model.state_dict()) == content_hash(saved[0]["model"])


def test_random_positions_continue_where_they_were():
    randomised = Cell(architecture="transformer", model={"positions": "randomised"}, train=SMALL)
    whole = train(randomised)
    saved = []
    calls = iter(range(100))
    with pytest.raises(Stopped):
        train(randomised, save=saved.append, stop=lambda: next(calls) == 6)
    torch.rand(100)  # whatever happens in between
    resumed = train(randomised, resume=reload(saved[0]))
    assert content_hash(resumed.model.state_dict()) == content_hash(whole.model.state_dict())


def test_seeds_decide():
    hashes = {
        content_hash(train(Cell(architecture="gru", seed=seed, data_seed=data, train=SMALL)).model.state_dict())
        for seed, data in ((0, 0), (0, 1), (1, 0), (0, 0))
    }
    assert len(hashes) == 3


def test_loss_covers_own_tokens_only():
    config = cell()
    scenario = scenario_of(config)
    model = new_model(config, scenario)
    batch = split(next(steps(Source("addition", "interactive", 2, 0, 8))))
    loss, count = 0.0, 0
    for part in batch.parts:
        with torch.no_grad():
            logits, _ = model(part.tokens)
        spread = torch.log_softmax(logits.double(), -1)
        for row in range(len(part.tokens)):
            for at in range(1, int(part.lengths[row])):
                if part.own[row, at]:
                    loss -= spread[row, at - 1, part.tokens[row, at]].item()
                    count += 1
    ours = sum(own_loss(model, part, torch.device("cpu")).item() for part in batch.parts)
    assert count == batch.own
    assert ours == pytest.approx(loss, rel=1e-4)
    names = scenario.vocabulary.tokens
    part = batch.parts[0]
    read = [at for at in range(len(part.tokens[0])) if names[part.tokens[0, at]] == "r1"]
    assert read
    assert not any(part.own[0, at + 1] for at in read), "what the tool answers is not learnt"


def test_parts_do_not_change_the_gradient():
    config = cell()
    scenario = scenario_of(config)
    rows = [scenario.encoded(problem) for problem in training_stream(scenario.task, 2, 0, 0)[:32]]
    model = new_model(config, scenario)

    def gradient(batch):
        model.zero_grad()
        for part in batch.parts:
            (own_loss(model, part, torch.device("cpu")) / batch.own).backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    assert len(split(rows).parts) > 1
    torch.testing.assert_close(gradient(split(rows)), gradient(Batch([collate(rows)])), atol=1e-5, rtol=1e-4)


def test_padding_is_small_and_counted():
    trained = train(cell(max_length=4, batch=64, steps=5))
    share = trained.progress.padded / (trained.progress.padded + trained.progress.tokens)
    assert 0 < share < 0.15


def test_schedule_warms_up_and_ends_near_zero():
    recipe = cell(steps=100, learning_rate=1.0).train
    rates = [learning_rate(recipe, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert 0 < rates[-1] < 1e-3


def test_only_matrices_decay():
    config = cell("mamba1")
    model = new_model(config, scenario_of(config))
    decayed, free = (group["params"] for group in make_optimiser(model, config.train).param_groups)
    assert decayed
    assert all(parameter.ndim >= 2 for parameter in decayed)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert not any("A_log" in names[id(parameter)] for parameter in decayed)
    assert len(decayed) + len(free) == len(names)


def test_a_loss_that_is_not_finite_ends_training():
    with pytest.raises(Diverged, match="loss"):
        train(cell(learning_rate=1e30, steps=50))


@pytest.mark.parametrize("architecture", ["gru", "transformer"])
def test_nothing_of_a_bad_step_is_saved(architecture):
    saved = []
    config = Cell(architecture=architecture, train={**SMALL, "learning_rate": 1e30, "steps": 50})
    with pytest.raises(Diverged):
        train(config, save=lambda held: saved.append(deepcopy(held["model"])), save_seconds=0.0)
    assert all(bool(torch.isfinite(tensor).all()) for held in saved for tensor in held.values())


def test_a_batch_larger_than_a_block_is_refused():
    with pytest.raises(ValueError, match="less than or equal to 4096"):
        train(cell(batch=BLOCK + 1))


def test_it_learns():
    trained = train(cell(setting="direct", max_length=1, steps=400, batch=32, learning_rate=1e-2))
    assert trained.progress.curve[-1]["loss"] < 0.5 * trained.progress.curve[0]["loss"]
    assert math.isfinite(trained.progress.curve[-1]["gradient_norm"])


def test_tokens_are_counted_by_task():
    mixed = train(Cell(task="multiplication", architecture="gru", train={**SMALL, "mixture": {"addition": 0.5}}))
    assert mixed.progress.tasks.keys() == {"multiplication", "addition"}
    assert sum(mixed.progress.tasks.values()) == mixed.progress.tokens
    alone = train(cell(setting="direct")).progress
    assert alone.tasks == {"addition": alone.tokens}

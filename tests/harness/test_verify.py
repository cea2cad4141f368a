"""What verification says of a trajectory, and that helpers, rounds and a GPU change nothing of it."""

import pytest
import torch

from harness.ahead import Helpers
from harness.bench.verify import Planted
from harness.oracle import ScriptedModel
from harness.verify import verify
from models import ARCHITECTURES
from models.build import build
from models.state import leaves
from tasks.addition import Addition
from tasks.problems import problems as drawn
from tasks.scenario import Scenario

SCENARIO = Scenario("addition", "interactive")
PROBLEMS = [Addition.problem("9" * size, "1" * (1 + size // 2)) for size in (1, 40, 3, 17, 40, 8)]


def model_of(architecture):
    """Untrained, but sure enough of itself that rounding decides nothing."""
    model = build(architecture, "tiny", len(SCENARIO.vocabulary), seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model


def told(results):
    return [
        (one.tokens, one.own, one.right, one.divergence, one.got, one.calls, one.longest_walk, one.resume is None)
        for one in results
    ]


def test_helpers_change_nothing():
    model = model_of("gru")
    alone = verify(model, SCENARIO, PROBLEMS, chunk=50, keep=3)
    with Helpers(2) as helpers:
        helped = verify(model, SCENARIO, PROBLEMS, chunk=50, keep=3, helpers=helpers)
    assert told(alone) == told(helped)
    assert [one.margin for one in alone] == [one.margin for one in helped]
    for one, other in zip(alone, helped):
        if one.resume is not None:
            assert one.resume.tokens == other.resume.tokens
            assert all(map(torch.equal, leaves(one.resume.state), leaves(other.resume.state)))


@pytest.mark.parametrize("architecture", ["transformer", "hybrid", "gru"])
def test_a_kept_state_is_that_before_the_divergence(architecture):
    """Though the caches of a Transformer were appended to in place since."""
    model = model_of(architecture)
    for problem, one in zip(PROBLEMS, verify(model, SCENARIO, PROBLEMS, chunk=16, keep=len(PROBLEMS))):
        oracle = SCENARIO.encoded(problem).ids.astype("int64")
        start = one.divergence - len(one.resume.tokens)
        assert start % 16 == 0
        assert one.resume.tokens == oracle[start : one.divergence].tolist()
        if start:
            _, wanted = model(torch.tensor(oracle[None, :start]))
            for have, want in zip(leaves(one.resume.state), leaves(wanted), strict=True):
                assert have.shape == want.shape
                assert torch.allclose(have.double(), want.double(), atol=1e-4)


@pytest.mark.parametrize("place", [0, 200, 1036])
def test_a_wrong_token_of_the_oracle_is_found_where_it_was_planted(place):
    [problem] = drawn(SCENARIO.task, "evaluation", 30, 1)
    planted = Planted("addition", "interactive")
    planted.place = place
    [one] = verify(ScriptedModel(SCENARIO), planted, [problem], chunk=100)
    oracle = SCENARIO.encoded(problem)
    wanted = place + int(oracle.own[place:].argmax())
    assert one.divergence == wanted
    assert one.got == oracle.ids[wanted]
    assert one.own - one.right == 1


@pytest.mark.slow
def test_a_wrong_token_is_found_near_position_3_400_000():
    """100,000 digits, 3.5M tokens, streamed."""
    [problem] = drawn(SCENARIO.task, "evaluation", 100_000, 1)
    planted = Planted("addition", "interactive")
    planted.place = 3_400_000
    [one] = verify(ScriptedModel(SCENARIO), planted, [problem], chunk=1 << 16)
    assert one.tokens == SCENARIO.task.trajectory_length(problem)
    assert one.divergence in range(3_400_000, 3_400_010)
    assert one.got is not None
    assert one.own - one.right == 1


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_a_gpu_says_the_same_as_the_cpu(architecture):
    model = model_of(architecture)
    here = verify(model, SCENARIO, PROBLEMS, chunk=64, keep=3)
    with Helpers(2) as helpers:
        there = verify(model.cuda(), SCENARIO, PROBLEMS, chunk=64, keep=3, helpers=helpers)
    assert told(here) == told(there)
    for one, other in zip(here, there):
        assert one.margin == pytest.approx(other.margin, abs=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", ["gru", "lstm"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_recorded_rounds_change_nothing(architecture, precision, monkeypatch):
    monkeypatch.setattr("harness.verify.LAUNCH", 64)
    model, problems = model_of(architecture).cuda(), drawn(SCENARIO.task, "evaluation", 60, 5)
    told_of = {}
    for many in (4, 1 << 30):
        monkeypatch.setattr("harness.verify.MANY", many)
        told_of[many] = told(verify(model, SCENARIO, problems, chunk=64, precision=precision, keep=2))
    assert told_of[4] == told_of[1 << 30]

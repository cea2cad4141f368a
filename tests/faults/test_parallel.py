"""A cell trained by several workers is trained as by one."""

import io
import os
import signal
import sys
import time
from contextlib import suppress

import pytest
import ray
import torch
from rich.console import Console
from torch.distributed import get_world_size

from harness.config import Cell
from harness.driver import run_grid
from harness.errors import Lost, Stopped
from harness.grid import parse
from harness.parallel import Flag, cause, members
from harness.ranks import Ranks, RankStepper
from harness.step import PlainStepper, stepper
from harness.store import Store
from harness.stream import Source, steps
from harness.train import make_optimiser, train
from harness.work import run_cell
from models.build import build

MEMORY = 100 * 2**20
GRID = """
name: parallel
base: {architecture: gru, train: {max_length: 2, steps: 40, batch: 8, validation: 8}}
axes: {seed: [0]}
evaluate: {lengths: [1, 2], problems: 4}
run: {ranks: 2, gpus: 0, checkpoint_seconds: 0.0001}
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A group of one process."""
    place = tmp_path_factory.mktemp("group") / "meeting"
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def stepped(kind, *more):
    cell, model = Cell(architecture="gru"), build("gru", "tiny", 64, seed=0)
    taken = kind(model, make_optimiser(model, cell.train), cell, *more)
    batch = taken.batch(next(steps(Source("addition", "interactive", 3, 0, 24))))
    taken.step(batch, 1e-3)
    return taken.check(), batch, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_a_group_of_one_takes_the_same_steps(alone):
    (plain, whole, weights), (ranked, share, also) = stepped(PlainStepper), stepped(RankStepper, Ranks(0, 1))
    assert plain == pytest.approx(ranked, rel=1e-5)
    assert torch.allclose(weights, also, atol=1e-6)
    assert (whole.own, whole.real) == (share.own, share.real)


def test_the_shares_are_the_batch():
    rows = next(steps(Source("addition", "interactive", 3, 0, 23)))
    model, cell = build("gru", "tiny", 64, seed=0), Cell(architecture="gru")
    optimiser = make_optimiser(model, cell.train)
    shares = [RankStepper(model, optimiser, cell, Ranks(rank, 3)).batch(rows) for rank in range(3)]
    assert sorted(sum(len(part.lengths) for part in share.parts) for share in shares) == [7, 8, 8]
    assert sum(int(part.lengths.sum()) for share in shares for part in share.parts) == sum(map(len, rows))
    assert len({(share.own, share.real) for share in shares}) == 1
    assert RankStepper(model, optimiser, cell, Ranks(2, 3)).batch(rows[:2]).parts == []


def test_a_rank_other_than_the_first_writes_nothing(alone):
    saved, reported = [], []
    cell = Cell(architecture="gru", train={"max_length": 1, "steps": 10, "batch": 4, "validation": 4})

    ranks = Ranks(1, 1)
    result = train(cell, save=saved.append, save_seconds=0.0, report=reported.append, ranks=ranks)
    assert saved == []
    assert result.validation_problems == 0
    with pytest.raises(Stopped):
        train(cell, save=saved.append, stop=lambda: True, ranks=ranks)
    assert saved == []


def test_what_learns_by_reading_is_not_shared():
    model = build("lookup", "tiny", 64)
    with pytest.raises(ValueError, match=r"run\.ranks: lookup learns by reading"):
        stepper(model, None, Cell(architecture="lookup"), ranks=Ranks(0, 2))


class Wrapped(Exception):
    """As Ray Train hands over what a worker raised."""

    def __init__(self, error):
        self._base_exc = error


@pytest.mark.parametrize(
    ("failures", "kind"),
    [
        ([Wrapped(RuntimeError("boom")), Wrapped(RuntimeError("Connection closed by peer"))], RuntimeError),
        ([Wrapped(RuntimeError("Connection closed by peer")), RuntimeError("health check failed")], Lost),
        ([Wrapped(RuntimeError("[gloo] Connection reset by peer"))], Lost),
        ([Wrapped(Stopped("after step 3")), Wrapped(Stopped("after step 3"))], Stopped),
        ([], Lost),
    ],
)
def test_a_lost_worker_is_told_from_an_error(failures, kind):
    assert type(cause(failures)) is kind


@pytest.fixture(scope="module")
def two_nodes():
    """A head without CPUs, and two nodes of one CPU."""
    from ray.cluster_utils import Cluster

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": MEMORY})
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    ray.init(cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def losses(store, cell):
    return [record["loss"] for record in store.curve(cell.id)]


def carry_on(store, carry=run_cell):
    return run_grid(parse(GRID, "parallel"), store, console=Console(file=io.StringIO()), carry=carry)


class Told:
    """What the first worker reports, kept in a file with the number of workers; at step 20 its node dies, once."""

    def __init__(self, report, folder):
        self.report, self.folder = report, folder

    def __call__(self, event):
        self.report(event)
        if event["phase"] != "training":
            return
        step = event["curve"][-1]["step"]
        with open(self.folder / "told", "a") as file:
            file.write(f"{get_world_size()} {step}\n")
        if step >= 20:
            with suppress(FileExistsError):
                with open(self.folder / "struck", "x") as file:
                    file.write(str(time.time()))
                os.kill(os.getppid(), signal.SIGKILL)  # a worker's parent is its raylet
                os.kill(os.getpid(), signal.SIGKILL)


class LosesANode:
    """The work of a cell, its first worker and that one's node killed in the middle."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, cell, evaluate, run, store, attempt, report, stop):
        run_cell(cell, evaluate, run, store, attempt, Told(report, self.folder), stop)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A store with the cell, trained by one worker without Ray."""
    grid, store = parse(GRID, "parallel"), Store(str(tmp_path_factory.mktemp("single") / "store")).open(create=True)
    (cell,) = grid.cells
    run_cell(cell, grid.evaluate(cell), grid.run(cell).model_copy(update={"ranks": 1}), store, "single")
    return store


@pytest.mark.ray
@pytest.mark.long
def test_two_workers_train_as_one(two_nodes, single, tmp_path):
    (cell,) = parse(GRID, "parallel").cells
    pair = Store(str(tmp_path / "pair")).open(create=True)
    outcome = carry_on(pair)
    assert (outcome.done, outcome.failed) == (1, {})
    assert losses(pair, cell) == pytest.approx(losses(single, cell), abs=1e-5)
    assert [attempt["outcome"] for attempt in pair.attempts()] == ["done", "done"]  # trained, then evaluated
    assert len(list(pair.rows(cell.id))) == len(list(single.rows(cell.id)))


@pytest.mark.ray
@pytest.mark.slow
def test_a_group_waits_for_room_and_can_be_stopped_meanwhile(two_nodes, monkeypatch):
    monkeypatch.setattr("harness.parallel.ROOM_SECONDS", 1)
    run, asked = parse(GRID, "parallel").file.run, []

    def stop():
        asked.append(1)
        return len(asked) > 2

    busy = [ray.remote(num_cpus=1)(Flag).remote() for _ in range(2)]
    ray.get([one.is_up.remote() for one in busy])
    with pytest.raises(Stopped, match="before there was room"):
        members(run, {"CPU": 1.0}, stop)
    assert len(asked) == 3
    for one in busy:
        ray.kill(one)
    assert members(run, {"CPU": 1.0}, lambda: False) == 2
    assert members(run.model_copy(update={"ranks": 3}), {"CPU": 1.0}, lambda: False) == 2


@pytest.mark.ray
@pytest.mark.slow
def test_when_one_of_two_workers_is_killed_with_its_node_the_other_goes_on_alone(two_nodes, single, witness, tmp_path):
    witness.fault = "kill one of two workers of a cell, and its node"
    (cell,) = parse(GRID, "parallel").cells
    pair = Store(str(tmp_path / "pair")).open(create=True)
    outcome = carry_on(pair, LosesANode(tmp_path))
    assert (outcome.done, outcome.failed) == (1, {})
    assert sorted(attempt["outcome"] for attempt in pair.attempts()) == ["done", "done", "lost"]
    told = [tuple(map(int, line.split())) for line in (tmp_path / "told").read_text().splitlines()]
    before = [step for workers, step in told if workers == 2]
    after = [step for workers, step in told if workers == 1]
    assert before + after == [step for _, step in told]
    assert before
    assert before[0] < after[0] <= before[-1], "it did not go on from the last checkpoint"
    assert losses(pair, cell) == pytest.approx(losses(single, cell), abs=1e-5)
    witness.recover(pair, float((tmp_path / "struck").read_text()))
    witness.compare(parse(GRID, "parallel"), pair, single, exactly=False)
    two_nodes.add_node(num_cpus=1, object_store_memory=MEMORY)

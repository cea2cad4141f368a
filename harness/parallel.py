"""The training of a cell by several workers, data parallel, through Ray Train: NCCL on GPUs, gloo on CPUs.

Each worker takes its share of every batch, so the steps are those of one worker with the whole batch, up to rounding.
Checkpoints are the same files, written by the first worker: a training goes on with any number of workers, also fewer
than it was begun with, where the cluster has lost some.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from harness.cluster import Shape, environment, fits
from harness.config import Run
from harness.errors import Lost, Stopped, one_line
from harness.grid import Resolved
from harness.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

ASK_SECONDS = 0.5
ROOM_SECONDS = 5
"""After so long without room for a group, the nodes are counted again. Ray takes whole seconds."""
CUT_OFF = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL communicator was aborted")
"""What workers say whose fellow is gone."""
Report = Callable[[dict[str, Any]], None]


class Flag:
    """Where workers look whether they are to stop."""

    def __init__(self) -> None:
        self.up = False

    def raise_it(self) -> None:
        self.up = True

    def is_up(self) -> bool:
        return self.up


class Asked:
    """Whether the flag is up, as far as is known: the answer is never waited for."""

    def __init__(self, flag: Any) -> None:
        self.flag, self.answer, self.known = flag, flag.is_up.remote(), False

    def __call__(self) -> bool:
        ready, _ = ray.wait([self.answer], timeout=0)
        if ready and not self.known:
            with suppress(ray.exceptions.RayError):
                self.known = ray.get(self.answer)
            self.answer = self.flag.is_up.remote()
        return self.known


@dataclass(frozen=True)
class Work:
    """What every worker is told."""

    cell: Resolved
    run: Run
    store: str
    report: Report
    flag: Any


def train_in_parallel(cell: Resolved, run: Run, store: Store, report: Report, stop: Callable[[], bool]) -> None:
    """Train the cell with `run.ranks` workers, or with as many as there is room for, and publish its weights.

    `report` has to be one that can be sent to another process. Waits until there is room for one. Raises Stopped as
    `train` does, Lost when a worker was lost, and what else goes wrong in one of them.
    """
    from ray import train
    from ray.train.torch import TorchConfig, TorchTrainer

    resources = {"CPU": run.cpus, **({"GPU": run.gpus} if run.gpus else {})}
    count = members(run, resources, stop)
    flag = ray.remote(num_cpus=0)(Flag).remote()
    folder = f"{store.url}/ray-train" if store.local else tempfile.mkdtemp()
    trainer = TorchTrainer(
        one_rank,
        train_loop_config={"work": Work(cell, run, store.url, report, flag)},
        scaling_config=train.ScalingConfig(
            num_workers=count,
            use_gpu=bool(run.gpus),
            resources_per_worker=resources,
            **({"label_selector": dict(run.labels)} if run.labels else {}),
        ),
        torch_config=TorchConfig(backend="nccl" if run.gpus else "gloo"),
        run_config=train.RunConfig(
            storage_path=folder,
            failure_config=train.FailureConfig(max_failures=0, controller_failure_limit=0),
            worker_runtime_env={"env_vars": environment(cell.config.threads, run.gpus or 0.0)},
        ),
    )
    try:
        with passed_on(stop, flag):
            trainer.fit()
    except train.WorkerGroupError as error:
        raise cause(list(error.worker_failures.values())) from error
    except train.ControllerError as error:
        raise Lost(one_line(error)) from error
    finally:
        ray.kill(flag)
        shutil.rmtree(folder, ignore_errors=True)


def members(run: Run, resources: dict[str, float], stop: Callable[[], bool]) -> int:
    """How many workers there is room for, `run.ranks` at most, once they can be placed. Raises Stopped.

    A node that is lost counts as alive for a while, and Ray Train would wait for ever for its share of a group.
    """
    while not stop():
        alive = [node for node in ray.nodes() if node["Alive"]]
        count = max(1, min(run.ranks, sum(fits(node, Shape.of_a_rank(run)) for node in alive)))
        labels = [dict(run.labels)] * count if run.labels else None
        group = placement_group([resources] * count, bundle_label_selector=labels)
        try:
            if group.wait(ROOM_SECONDS):
                return count
        finally:
            remove_placement_group(group)
    raise Stopped("stopped before there was room for it")


def one_rank(config: dict[str, Any]) -> None:
    """What each worker does."""
    import torch
    from ray import train

    from harness.ranks import Ranks
    from harness.work import publish, trained

    work: Work = config["work"]
    context = train.get_context()
    ranks = Ranks(context.get_world_rank(), context.get_world_size())
    if work.run.gpus:
        from ray.train.torch import get_device

        torch.cuda.set_device(get_device())
    store = Store(work.store).open()
    first = ranks.rank == 0
    result = trained(work.cell, work.run, store, work.report if first else _nothing, Asked(work.flag), ranks)
    if first:
        publish(work.cell, result, store)


def _nothing(event: dict[str, Any]) -> None:
    pass


@contextmanager
def passed_on(stop: Callable[[], bool], flag: Any) -> Iterator[None]:
    """Raise the flag when `stop()` says so."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(ASK_SECONDS):
            if stop():
                flag.raise_it.remote()
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def cause(failures: list[Any]) -> BaseException:
    """What went wrong in the workers: that one was lost, before errors of others, which may only follow from it.

    What a worker raised comes wrapped (`_base_exc`); what is not wrapped is Ray's word on a worker that is gone.
    """
    raised = [error for failure in failures if (error := getattr(failure, "_base_exc", None)) is not None]
    for error in raised:
        if isinstance(error, Stopped):
            return error
    if len(raised) < len(failures) or not failures:
        gone = [failure for failure in failures if not hasattr(failure, "_base_exc")]
        return Lost(one_line(gone[0]) if gone else "a worker of the group is gone")
    own = [error for error in raised if not any(words in str(error) for words in CUT_OFF)]
    return own[0] if own else Lost(one_line(raised[0]))

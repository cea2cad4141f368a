"""What a grid file may say. Every key is checked; an unknown one is an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class Train(Strict):
    """The training recipe of a cell."""

    max_length: Positive = 5
    """Longest training problem; lengths are uniform over 1..max_length."""
    steps: Positive = 1000
    """Optimiser steps of the schedule."""
    stop_after: Positive | None = None
    """Stop after so many of them; left out, after the last. As an axis: late checkpoints of one run, which the next may
    go on from."""
    batch: Annotated[int, Field(ge=1, le=4096)] = 128
    """Problems per step, at most a block of the training stream."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay, on matrices only."""
    warmup: Share = 0.1
    """Share of the steps over which the learning rate rises linearly; then it falls along a cosine to 0."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""
    context: Positive | None = None
    """Only the first so many tokens of a trajectory are trained on; left out, all of it."""
    validation: Positive = 128
    """Validation problems at training lengths, on which fit and hyper-parameters are judged."""
    mixture: dict[str, Share] = {}
    """Other tasks -> their share of the training problems; the cell's own task gets the rest."""
    stress: dict[str, Share] = {}
    """Stress sets of the task -> their share of its training problems, at training lengths; the rest are random ones.
    Validation problems are random ones all the same."""

    initial_states: dict[Literal["passed", "noise"], Share] = {}
    """Shares of the training sequences that start from the last state of a sequence of the step before (`passed`: state
    passing), or from noise of the same magnitude (`noise`); the rest start from the empty state, as evaluation does."""
    truncate: Positive | None = None
    """Truncated back-propagation through time: the state goes on, the gradient stops, after every so many tokens."""

    @property
    def last(self) -> int:
        """The step after which training ends."""
        return self.steps if self.stop_after is None else self.stop_after

    @model_validator(mode="after")
    def _stops_within_the_schedule(self) -> Train:
        if self.last > self.steps:
            raise ValueError(f"stop_after = {self.stop_after} is past the last of {self.steps} steps")
        return self

    @field_validator("stress", "initial_states")
    @classmethod
    def _are_shares(cls, shares: Mapping[str, float]) -> Mapping[str, float]:
        if sum(shares.values()) > 1:
            raise ValueError(f"the shares sum to {sum(shares.values()):g}, more than 1")
        return {name: share for name, share in shares.items() if share}

    @field_validator("mixture")
    @classmethod
    def _leaves_a_rest(cls, shares: Mapping[str, float]) -> Mapping[str, float]:
        if sum(shares.values()) >= 1:
            total = sum(shares.values())
            raise ValueError(f"the shares sum to {total:g}, which leaves nothing for the cell's own task")
        return {name: share for name, share in shares.items() if share}


class Cell(Strict):
    """One model to train: task + setting + tool + architecture + recipe + seed."""

    task: str = "addition"
    """A task's name, or `module:Class`."""
    form: str = "faithful"
    """Trajectory form of the task."""
    setting: str = "interactive"
    """What the model may do: interactive, single_turn, cot, direct, direct_reversed."""
    tool: str | None = None
    """A tool's name, or `module:Class`; left out, the first one the task admits in this setting."""
    tool_options: dict[str, Any] = {}
    """Options of the tool's constructor (`limit: 64` of the search tool)."""
    architecture: str = "mamba1"
    """An architecture's name, or `module:Class`."""
    size: str = "tiny"
    """Size preset of the architecture."""
    model: dict[str, Any] = {}
    """Options of the architecture that replace those of its size preset."""
    train: Train = Train()
    seed: Seed = 0
    """Seed of the initialisation."""
    data_seed: Seed | None = None
    """Seed of the training problems; left out, the same as `seed`."""
    replicate: Annotated[int, Field(ge=0)] = 0
    """The same seed run again, to see what non-determinism alone does."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: matrix products under autocast; weights, optimiser and recurrent state stay float32."""
    deterministic: bool = False
    """On a GPU, too, the same seed gives the same weights (to the bit, on the same kind of GPU), at some cost in speed;
    on a CPU it always does."""
    threads: Positive = 1
    """CPU threads of the training process (results on a CPU depend on it in the last bits)."""


class Evaluate(Strict):
    """On what every cell of a grid is evaluated."""

    lengths: Annotated[tuple[Positive, ...], Field(min_length=1)]
    """Problem lengths, one point each."""
    problems: Positive = 100
    """Problems per point."""
    stress: tuple[str, ...] = ()
    """Further problem sets at the same lengths: `jittered`, or stress sets of the task."""
    mode: Literal["verify", "live", "auto"] = "verify"
    """verify: the oracle through the parallel forward, live rollouts only of what diverged. live: rollouts only. auto:
    live on a GPU where going by the first problems of a batch that takes less time; else verify. Rows say which it was:
    live ones know no token accuracy."""
    rollout_max: Annotated[int, Field(ge=0)] = 16
    """At most so many diverged problems of a point continue as live rollouts."""
    rollout_max_tokens: Positive | None = None
    """Diverged problems whose trajectory is longer are not continued (mode verify); left out, they all are."""
    budget: Annotated[float, Field(ge=1.0)] = 1.25
    """A live rollout may take so many times the tokens of the oracle's trajectory."""
    replay: Share = 0.05
    """Share of the verified problems that are replayed live as a standing check (at least one a cell)."""
    replay_max_tokens: Positive = 3000
    """The standing check leaves out trajectories longer than this."""
    batch: Positive = 64
    """Problems evaluated together."""
    chunk: Positive = 1024
    """Tokens of the oracle that go through the forward at once; another number than the default is an evaluation of its
    own, so that a report can tell which verdicts it flips."""
    precision: Literal["float32", "bf16"] = "float32"
    corrupt: Share = 0.0
    """Control: every token of an observation is replaced with this probability (mode live only)."""

    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Tokens are drawn from the softmax of logits / temperature (mode live only); 0: the likeliest is taken."""
    top_k: Positive | None = None
    """With a temperature: only so many of the likeliest tokens are drawn from; left out, all."""

    @model_validator(mode="after")
    def _corrupts_live_rollouts(self) -> Evaluate:
        if self.corrupt and self.mode != "live":
            raise ValueError(f"corrupt = {self.corrupt:g} needs mode: live (nothing is observed in a verification)")
        if self.temperature and self.mode != "live":
            raise ValueError(f"temperature = {self.temperature:g} needs mode: live (a verification is greedy)")
        if self.top_k and not self.temperature:
            raise ValueError(f"top_k = {self.top_k} needs a temperature above 0 (without one the likeliest is taken)")
        return self

    @field_validator("lengths", "stress")
    @classmethod
    def _unique(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) != len(values):
            raise ValueError("the same value stands twice")
        return values


class Run(Strict):
    """How a grid is carried out; nothing here changes a result (`pieces` may, in the last bits)."""

    workers: Positive | None = None
    """Worker actors; left out, as many as the cluster has room for."""
    cpus: Annotated[float, Field(gt=0)] = 1
    """CPUs of a worker."""
    gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs of a worker; a fraction lets several workers share one; left out, 1 where the cluster has any, else 0."""
    mps: bool = False
    """Workers that share a GPU do so through NVIDIA's Multi-Process Service, on a Ray that is started for the grid."""
    data_workers: Annotated[int, Field(ge=0)] | None = None
    """Processes beside each worker that make trajectories ahead of its model; left out, 4 with a GPU, else none."""
    kernels: dict[str, str] = {}
    """Operation -> the implementation that has to run (`lengthwise doctor` lists them); where it cannot, cells fail."""
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 30
    """Seconds between training checkpoints."""
    ranks: Positive = 1
    """Workers that train a cell together, each with `cpus` and `gpus` of its own and its share of every batch."""
    labels: dict[str, str] = {}
    """Ray labels of the nodes that workers may run on (`ray.io/accelerator-type: H100`), so that costs compare."""
    pieces: Positive = 1
    """Pieces a training batch is cut into: less memory, the same gradient up to rounding, more time."""
    limit_seconds: Annotated[float, Field(gt=0)] | None = None
    """An attempt at a cell that takes longer is ended, and the cell counts as failed."""
    limit_tokens: Positive | None = None
    """A cell that trains on more tokens is ended, and counts as failed."""
    attempts: Positive = 2
    """Attempts at a cell that fails by an error of its own."""
    memory_attempts: Positive = 4
    """Attempts at a cell that runs out of memory: the second and third with smaller pieces of its batches, those after
    them with twice the share of a GPU, too."""
    lost_attempts: Positive = 10
    """Attempts at a cell whose worker or node was lost."""
    renew_after: Positive = 20
    """A worker is replaced by a fresh one after so many cells."""


class Override(Strict):
    """`set` applies to every cell that has all the values in `where`."""

    where: dict[str, Any] = {}
    set: dict[str, Any] = {}
    evaluate: dict[str, Any] = {}
    """Keys of `evaluate` that are other ones for these cells: tasks differ in their lengths and stress sets."""
    run: dict[str, Any] = {}
    """Keys of `run` that are other ones for these cells, all but `workers`, `mps` and `renew_after`."""

    @field_validator("run")
    @classmethod
    def _of_a_cell(cls, run: dict[str, Any]) -> dict[str, Any]:
        if shared := {"workers", "mps", "renew_after"} & run.keys():
            raise ValueError(f"{', '.join(sorted(shared))} is the whole grid's, not a cell's")
        return run


class Halving(Strict):
    """Successive halving (Jamieson and Talwalkar 2016): all recipes train a little, the best of them on, and so on,
    until one is left; it has won."""

    min_steps: Positive
    """Steps after which the recipes are compared for the first time; then after `factor` times as many, and again."""
    factor: Annotated[int, Field(ge=2)] = 2
    """One in so many recipes, rounded up, goes on."""

    def stops(self, last: int) -> list[int]:
        """The steps of the comparisons before the last one."""
        found, step = [], self.min_steps
        while step < last:
            found.append(step)
            step *= self.factor
        return found


class Search(Strict):
    """Recipes to choose from before the grid's cells are trained: see `harness.search`."""

    where: dict[str, Any] = {}
    """The cells it is for, as in an override; left out, all."""
    axes: Annotated[dict[str, list[Any]], Field(min_length=1)]
    """Field of the recipe (`train.learning_rate`) -> its values; every architecture tries their product."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    """Seeds of the trials; none may be one of the grid's cells."""
    halving: Halving | None = None
    """Stop the worse recipes early; left out, every trial is trained to its end."""

    @field_validator("axes")
    @classmethod
    def _of_the_recipe(cls, axes: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for axis, values in axes.items():
            if axis not in _SEARCHED:
                raise ValueError(f"{axis} is not searched; allowed: {', '.join(_SEARCHED)}")
            if not values:
                raise ValueError(f"axis {axis!r} is empty")
        return axes

    @model_validator(mode="after")
    def _compares_like_with_like(self) -> Search:
        if self.halving is not None and "train.steps" in self.axes:
            raise ValueError(
                "halving compares recipes after as many steps: train.steps cannot be an axis of the search"
            )
        return self


_SEARCHED = tuple(f"train.{name}" for name in ("steps", "batch", "learning_rate", "weight_decay", "warmup", "clip"))
"""What does not change the validation problems, so that trials are judged on the same."""


class GridFile(Strict):
    """A grid file: axes that multiply out to cells, and what the cells are evaluated on."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    title: str = ""
    description: str = ""
    base: dict[str, Any] = {}
    """Fields every cell starts from, nested as in a cell (`train: {steps: 600}`)."""
    axes: Annotated[dict[str, list[Any]], Field(min_length=1)]
    """Cell field (dots for nested ones: `train.steps`) -> its values; cells are their product."""
    exclude: list[dict[str, Any]] = []
    """Products to leave out: a cell that has all the values of an entry (a list means any of its values)."""
    include: list[dict[str, Any]] = []
    """Further cells, each on top of `base`."""
    overrides: list[Override] = []
    """Recipes and lengths for some of the cells, applied in order after the axes."""
    search: Search | None = None
    """A search for the recipe, whose winner takes the place of what else is said of it."""
    evaluate: Evaluate
    run: Run = Run()

    @model_validator(mode="after")
    def _axes_are_not_empty(self) -> GridFile:
        for axis, values in self.axes.items():
            if not values:
                raise ValueError(f"axis {axis!r} is empty; give at least one value or leave the axis out")
        return self

"""`lengthwise bench`: what the fast paths reach on this machine, beside baselines run in the same minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Measure this machine; the last line of stdout is JSON.", no_args_is_help=True)

Architectures = Annotated[str, typer.Option(help="Architectures, with commas.")]
Size = Annotated[str, typer.Option(help="Size preset.")]
Precision = Annotated[str, typer.Option(help="bf16 (matrix products under autocast) or float32.")]
Repeats = Annotated[int, typer.Option(min=1, help="Runs of which the median is taken.")]


@app.command()
def forward(
    architectures: Architectures = "mamba1,mamba2,transformer,sliding,lstm,gru,hybrid",
    size: Size = "paper",
    shapes: Annotated[str, typer.Option(help="Rows x tokens, with commas.")] = "8x32768,100x1024,1x131072",
    precision: Precision = "bf16",
    repeats: Repeats = 5,
) -> None:
    """The forward alone, features to decisions included: ours, and mamba-ssm's where it is installed."""
    from harness.bench.forward import bench_forward
    from harness.bench.timing import finish

    finish(bench_forward(architectures.split(","), size, shapes.split(","), precision, repeats))


@app.command()
def verify(
    architecture: Annotated[str, typer.Option(help="An architecture.")] = "mamba1",
    size: Size = "paper",
    digits: Annotated[int, typer.Option(min=1, help="Length of the addition problems.")] = 1000,
    problems: Annotated[int, typer.Option(min=1, help="How many of them, verified together.")] = 100,
    long: Annotated[
        str, typer.Option(help="Lengths of single long problems, with commas; the first is the reference of memory.")
    ] = "",
    plant: Annotated[
        float,
        typer.Option(
            help="Where in the longest one a wrong token is planted, as a share of its "
            "tokens; needs weights that are exact there."
        ),
    ] = 0.0,
    weights: Annotated[str | None, typer.Option(help="A weights-*.pt of a store; left out, fresh weights.")] = None,
    baselines: Annotated[bool, typer.Option(help="Also the token loop, and mamba-ssm's forward and decoding.")] = True,
    workers: Annotated[int, typer.Option(min=0, help="Helper processes that run the solvers.")] = 4,
    chunk: Annotated[int, typer.Option(min=1, help="Tokens a row per round.")] = 1024,
    precision: Precision = "bf16",
    repeats: Repeats = 3,
) -> None:
    """Verification of oracle trajectories against the forward alone and against decoding token by token."""
    from harness.bench.timing import finish
    from harness.bench.verify import Bench

    bench = Bench(architecture, size, precision, chunk, workers, repeats, weights)
    lengths = [int(length) for length in long.split(",")] if long else []
    finish(bench.run(digits, problems, lengths, plant, baselines))


@app.command()
def rows(
    architecture: Annotated[str, typer.Option(help="An architecture.")] = "mamba1",
    size: Size = "paper",
    digits: Annotated[int, typer.Option(min=1, help="Length of the addition problems.")] = 200,
    problems: Annotated[int, typer.Option(min=1, help="How many of them.")] = 100,
    weights: Annotated[str | None, typer.Option(help="A weights-*.pt of a store; left out, trained here.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps it is trained here: batch 128, at most 5 digits.")] = 880,
    learning_rate: Annotated[float, typer.Option(help="For that training.")] = 2e-3,
    save: Annotated[
        str | None, typer.Option(help="File for the weights trained here, as `--weights` takes it.")
    ] = None,
    precisions: Annotated[str, typer.Option(help="Of the evaluation, with commas.")] = "float32,bf16",
) -> None:
    """Whether verification and live decoding give the same rows, on a model that diverges about half the time."""
    import torch

    from harness.bench.rows import bench_rows, trained
    from harness.bench.timing import finish
    from harness.bench.verify import loaded
    from harness.config import Cell, Train
    from tasks.scenario import Scenario

    scenario = Scenario("addition", "interactive")
    recipe = Train(steps=steps, learning_rate=learning_rate, max_length=5, batch=128)
    cell = Cell(architecture=architecture, size=size, precision="bf16", train=recipe)
    model = trained(cell) if weights is None else loaded(architecture, size, scenario, weights)
    if save is not None:
        torch.save({"weights": model.state_dict(), "vocabulary": list(scenario.vocabulary.tokens)}, save)
    wanted: list[Any] = precisions.split(",")
    results = [bench_rows(model, scenario, digits, problems, precision) for precision in wanted]
    finish({"architecture": architecture, "size": size, "kernels": model.kernels(), "results": results})


@app.command()
def rollout(
    architectures: Architectures = "mamba1,transformer",
    size: Size = "paper",
    rows: Annotated[str, typer.Option(help="Rows that decode side by side, with commas.")] = "1,256",
    context: Annotated[int, typer.Option(min=1, help="Tokens each row has seen before.")] = 1000,
    tune: Annotated[bool, typer.Option(help="Also other tiles of the fused kernels.")] = False,
    digits: Annotated[
        int, typer.Option(min=0, help="Length of the addition problems of whole rollouts; 0: none.")
    ] = 200,
    problems: Annotated[int, typer.Option(min=1, help="How many of them.")] = 100,
    continued: Annotated[
        int,
        typer.Option(min=0, help="Length at which verify-then-continue is timed at three divergence rates; 0: not."),
    ] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Steps the first model is trained for these.")] = 880,
    learning_rate: Annotated[float, typer.Option(help="For that training.")] = 2e-3,
    seed: Annotated[int, typer.Option(min=0, help="Of that training.")] = 0,
    precision: Precision = "bf16",
    repeats: Repeats = 3,
) -> None:
    """A step of decoding against its bandwidth bound, and whole rollouts against a plain loop."""
    from harness.bench.rollout import bench_continuation, bench_steps, bench_whole
    from harness.bench.rows import trained
    from harness.bench.timing import finish
    from harness.config import Cell, Train
    from tasks.scenario import Scenario

    names, kind = architectures.split(","), _precision(precision)
    counts = [int(count) for count in rows.split(",")] if rows else []
    result = bench_steps(names if counts else [], size, counts, context, kind, repeats, tune)
    if digits or continued:
        recipe = Train(steps=steps, learning_rate=learning_rate, max_length=5, batch=128)
        scenario = Scenario("addition", "interactive")
        model = trained(Cell(architecture=names[0], size=size, precision=kind, train=recipe, seed=seed))
        if digits:
            result["whole"] = bench_whole(model, scenario, digits, problems, kind)
        if continued:
            shares = ((0.02, 0.2), (0.3, 0.7), (0.9, 1.0))
            result["continued"] = bench_continuation(model, scenario, continued, problems, kind, shares)
    finish(result)


@app.command()
def pack(
    architectures: Architectures = "gru,mamba1",
    size: Size = "tiny",
    cells: Annotated[int, typer.Option(min=2, help="Cells, and processes at a time.")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each.")] = 600,
    batch: Annotated[int, typer.Option(min=1, help="Problems per step.")] = 32,
) -> None:
    """Small cells trained one after another on a GPU against several at a time."""
    from harness.bench.pack import bench_pack
    from harness.bench.timing import finish

    finish(bench_pack(architectures.split(","), size, cells, steps, batch))


def _precision(name: str) -> Any:
    from harness.errors import UserError

    if name not in ("float32", "bf16"):
        raise UserError(f"--precision {name!r} is none of float32, bf16")
    return name


@app.command()
def train(
    architectures: Architectures = "mamba1,mamba2,transformer,sliding,lstm,gru",
    size: Size = "paper",
    task: Annotated[str, typer.Option(help="A task's name, or module:Class.")] = "addition",
    max_length: Annotated[int, typer.Option(min=1, help="Longest training problem.")] = 5,
    batch: Annotated[int, typer.Option(min=1, help="Problems per step.")] = 128,
    steps: Annotated[int, typer.Option(min=1, help="Steps of one run; 32 take one block of the stream.")] = 32,
    repeats: Repeats = 3,
    precision: Precision = "bf16",
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that make our data; 4 on a GPU.")] = None,
    warm_up: Annotated[int, typer.Option(min=1, help="Steps of ours before the clock runs.")] = 64,
) -> None:
    """Our training against a plain loop that pads, feeds and steps in one thread, over the same problems."""
    from harness.bench.timing import finish
    from harness.bench.train import bench_train

    names = architectures.split(",")
    finish(bench_train(names, size, task, max_length, batch, steps, repeats, precision, workers, warm_up))


@app.command()
def data(
    tasks: Annotated[str, typer.Option(help="Tasks, with commas; left out, all.")] = "",
    workers: Annotated[str, typer.Option(help="Numbers of worker processes, with commas.")] = "1,2,4",
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of each measurement.")] = 3.0,
    batch: Annotated[int, typer.Option(min=1, help="Problems per step.")] = 64,
) -> None:
    """How fast the solvers make training trajectories: a core's rate, and that of worker processes together."""
    from harness.bench.data import bench_data
    from harness.bench.timing import finish

    counts = [int(count) for count in workers.split(",")] if workers else []
    finish(bench_data(tasks.split(",") if tasks else [], counts, seconds, batch))


@app.command()
def report(
    sets: Annotated[
        list[str], typer.Option("--set", help="key=value on top of the simulated grid; may be repeated.")
    ] = [],  # noqa: B006
    repeats: Repeats = 3,
    keep: Annotated[Path | None, typer.Option(help="Copy the page there.")] = None,
) -> None:
    """Time, memory and size of a report over a million simulated rows, and how fast it opens in Chromium."""
    from harness.bench.report import bench_report
    from harness.bench.timing import finish

    finish(bench_report(sets, repeats, keep))


@app.command()
def statistics(
    replications: Annotated[int, typer.Option(min=1, help="Simulated experiments of each regime.")] = 5000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulation.")] = 0,
) -> None:
    """How often the report's intervals hold and its tests err, on simulated seeds whose truth is known."""
    from harness.bench.statistics import bench_statistics, show
    from harness.bench.timing import finish

    result = bench_statistics(replications, seed)
    show(result)
    finish(result)


@app.command()
def shell(
    lengths: Annotated[str, typer.Option(help="Functions of the code bases, with commas.")] = "4,16,64",
    problems: Annotated[int, typer.Option(min=1, help="Code bases of each.")] = 3,
) -> None:
    """Commands of the interactive agent of code_fix in the virtual shell against bubblewrap."""
    from harness.bench.shell import bench_shell
    from harness.bench.timing import finish

    finish(bench_shell([int(length) for length in lengths.split(",")], problems))


@app.command()
def overhead(
    cells: Annotated[int, typer.Option(min=1, help="Cells of the whole grid.")] = 2000,
    seconds: Annotated[float, typer.Option(min=0.01, help="Seconds of a cell.")] = 1.0,
    workers: Annotated[int, typer.Option(min=1, help="Workers, and logical CPUs.")] = 16,
    sample: Annotated[int, typer.Option(min=0, help="Cells for the comparison with Ray Tune; 0: without.")] = 160,
) -> None:
    """What carrying a grid costs beside its cells: the driver's time over the ideal, its memory, and Ray Tune's."""
    from harness.bench.overhead import bench_overhead
    from harness.bench.timing import finish

    finish(bench_overhead(cells, seconds, workers, sample))


@app.command()
def grid(
    cells: Annotated[int, typer.Option(min=1, help="Cells, rounded up to a multiple of 40.")] = 10_000,
    points: Annotated[int, typer.Option(min=1, help="Lengths of each, of 2 problems.")] = 2,
    folder: Annotated[Path | None, typer.Option(help="Keep the simulated store there, or take the one kept.")] = None,
) -> None:
    """How long a plan, a status and another run of a finished grid of very many cells take."""
    from harness.bench.grid import bench_grid
    from harness.bench.timing import finish

    finish(bench_grid(cells, points, folder))

"""The command line. Everything heavy is imported inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.bench.cli import app as bench_app

if TYPE_CHECKING:
    from rich.console import Console

    from harness.grid import Grid
    from harness.store import Store
    from reports.view import View

app = typer.Typer(
    name="lengthwise",
    help="Train sequence models on short problems, evaluate them on long ones, report the extrapolation curves.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
mlflow_app = typer.Typer(help="The MLflow view of a store.", no_args_is_help=True)
app.add_typer(mlflow_app, name="mlflow")
app.add_typer(bench_app, name="bench")

GridArgument = Annotated[str, typer.Argument(help="A grid file, or the name of a shipped one (demo).")]
ReportedArgument = Annotated[
    str, typer.Argument(help="A grid file, the name of a shipped one (demo), or a folder that `publish` made.")
]

StoreOption = Annotated[
    str, typer.Option(help="Folder or URL (s3://, gs://) of the results.", envvar="LENGTHWISE_STORE")
]
SetOption = Annotated[list[str], typer.Option("--set", help="key=value on top of the grid file; may be repeated.")]

HoursOption = Annotated[
    float | None, typer.Option(min=0, help="Refuse a grid that would take more, by speeds that were measured.")
]

FAILED, USAGE, INTERRUPTED = 1, 2, 130
WIDE = 160
"""Columns of a table that goes into a log, which has no width of its own."""


def main() -> None:
    """Entry point: UserError becomes one line and exit status 2."""
    from harness.errors import UserError

    # Ours first, by importing them: the folder the command is given in may have packages of the same names.
    for name in ("models", "reports", "tasks", "tools"):
        import_module(name)
    sys.path.append("")  # so that `mypackage.mytask:MyTask` is found in the folder the command is given in
    try:
        app()
    except UserError as error:
        typer.echo(f"lengthwise: {' '.join(str(error).split())}", err=True)
        sys.exit(USAGE)


def _load(path: str, sets: list[str]) -> Grid:
    from harness.grid import load

    return load(path, sets)


def _open(store: str, create: bool = False) -> Store:
    from harness.store import Store

    return Store(store).open(create)


@app.command()
def run(
    grid: GridArgument,
    store: StoreOption = "results",
    sets: SetOption = [],  # noqa: B006
    address: Annotated[str | None, typer.Option(help="Ray cluster to join; left out, one is started here.")] = None,
    mlflow: Annotated[bool, typer.Option(help="Log to MLflow.")] = True,
    preflight: Annotated[bool, typer.Option(help="First look whether all nodes reach the store and MLflow.")] = False,
    max_gpu_hours: HoursOption = None,
) -> None:
    """Train and evaluate what the store does not have yet, then write the report. Run it again to go on."""
    from harness.driver import refuse_relative_store

    refuse_relative_store(store)
    loaded = _load(grid, sets)
    _refuse(loaded, store, max_gpu_hours)
    if not preflight:
        _run(loaded, store, address, mlflow)
        return
    from harness.cluster import cluster
    from harness.preflight import demand
    from harness.store import Store

    with cluster(address, loaded.file.run.mps):
        demand(Store(store), mlflow)
        _run(loaded, store, address, mlflow)


def _run(loaded: Grid, store: str, address: str | None, mlflow: bool) -> None:
    from rich.console import Console

    from harness.collect import report_data
    from harness.driver import run_grid
    from harness.finished import finish, stands
    from harness.search import chosen
    from harness.tracking import Tracker, tracking_uri
    from reports.view import View

    opened = _open(store, create=True)
    opened.write(f"grids/{loaded.file.name}/grid.yaml", loaded.text.encode())
    console = Console()
    undecided = _searched(loaded, opened, address, console)
    loaded = chosen(loaded, opened)
    uri = tracking_uri(None, opened) if mlflow else None
    report = f"grids/{loaded.file.name}/report.html"
    if not undecided and opened.exists(report) and stands(loaded, opened, uri):
        console.print(f"all {len(loaded.cells)} cells are done already, and nothing has changed since the report")
        console.print(f"report: {opened.url}/{report}", soft_wrap=True, markup=False)
        return
    tracker = Tracker(None, opened) if mlflow else None
    try:
        outcome = run_grid(loaded, opened, address=address, tracker=tracker, console=console)
        for cell, reason in outcome.failed.items():
            console.print(f"failed: {cell}: {reason}", soft_wrap=True, markup=False)
        where = _write_report(View(report_data(loaded, opened)), loaded, opened)
        if tracker is not None:
            tracker.finish_grid(loaded, opened)
    finally:
        if tracker is not None:
            tracker.close()
    console.print(f"report: {where}", soft_wrap=True, markup=False)
    if not (outcome.stopped or outcome.failed or undecided):
        finish(loaded, opened, uri if tracker is not None and tracker.complete else None)
    if outcome.stopped:
        console.print("stopped; the same command goes on where this one ended")
        sys.exit(INTERRUPTED)
    if outcome.failed or undecided:
        broken_input = any(reason.startswith("UserError") for reason in outcome.failed.values())
        sys.exit(USAGE if broken_input else FAILED)


def _searched(grid: Grid, store: Store, address: str | None, console: Console) -> bool:
    """Run the grid's search for recipes, if it has one; whether some are still open because trials were lost."""
    from harness.driver import run_grid
    from harness.search import settle, trials, undecided

    if grid.file.search is None:
        return False
    looked_at: set[str] = set()
    while True:
        settle(grid, store)
        tried = trials(grid, store)
        if not tried.cells or {cell.id for cell in tried.cells} <= looked_at:  # all that could be done has been
            break
        looked_at |= {cell.id for cell in tried.cells}
        console.print(f"search: {len(tried.cells)} trials, trained and validated before the cells of the grid")
        outcome = run_grid(tried, store, address=address, console=console)
        for cell, reason in outcome.failed.items():
            console.print(f"failed trial: {cell}: {reason}", soft_wrap=True, markup=False)
        if outcome.stopped:
            console.print("stopped; the same command goes on where this one ended")
            sys.exit(INTERRUPTED)
    open_ones = [choice.name for choice in undecided(grid, store)]
    for name in open_ones:
        console.print(f"search: {name}: trials were lost; run again to decide", soft_wrap=True, markup=False)
    return bool(open_ones)


AddressOption = Annotated[str, typer.Option(help="The head's dashboard; a tunnel to it, mostly.", envvar="RAY_ADDRESS")]
DASHBOARD = "http://127.0.0.1:8265"


@app.command()
def submit(
    grid: GridArgument,
    store: StoreOption,
    sets: SetOption = [],  # noqa: B006
    address: AddressOption = DASHBOARD,
    mlflow: Annotated[bool, typer.Option(help="Log to MLflow.")] = True,
    folder: Annotated[Path, typer.Option(help="Its files travel with the job.")] = Path(),
    name: Annotated[str, typer.Option(help="The job's id; left out, the grid's name and the time.")] = "",
    allow_open: Annotated[bool, typer.Option(help="Also to a cluster that takes jobs from anybody.")] = False,
    wait: Annotated[bool, typer.Option(help="Follow the job and exit with its status.")] = True,
    max_gpu_hours: HoursOption = None,
) -> None:
    """Run a grid as a job of a Ray cluster: check what usually breaks, send it, follow it, exit with its status."""
    from harness.submit import Job
    from harness.submit import submit as send

    def say(text: str) -> None:
        typer.echo(text, err=True)

    job = send(Job(_load(grid, sets), store, folder, mlflow, name, max_gpu_hours), address, say, allow_open)
    say(f"job: {job}")
    if wait:
        follow(job, address)


@app.command()
def follow(
    job: Annotated[str, typer.Argument(help="A job's id, as `submit` printed it.")],
    address: AddressOption = DASHBOARD,
) -> None:
    """Print what a submitted job says until it has ended, and exit with its status."""
    from harness.submit import follow as listen

    try:
        sys.exit(listen(address, job, lambda text: typer.echo(text, nl=False)))
    except KeyboardInterrupt:
        typer.echo(f"the job goes on: `lengthwise follow {job}`, or `ray job stop {job}`", err=True)
        sys.exit(INTERRUPTED)


@app.command()
def preflight(
    store: StoreOption = "results",
    address: Annotated[str | None, typer.Option(help="Ray cluster to join; left out, one is started here.")] = None,
    mlflow: Annotated[bool, typer.Option(help="Also whether MLflow answers.")] = True,
) -> None:
    """Say whether every node of a cluster reaches the store, and MLflow answers."""
    from harness.cluster import cluster
    from harness.preflight import preflight as examine
    from harness.store import Store

    with cluster(address):
        _print_findings(examine(Store(store), mlflow))


@app.command()
def plan(
    grid: GridArgument,
    store: StoreOption = "results",
    sets: SetOption = [],  # noqa: B006
    max_gpu_hours: HoursOption = None,
) -> None:
    """List cells, what of them is done, parameters, the FLOPs that training and evaluation take, and GPU-hours."""
    from harness.plan import print_plan
    from harness.throughput import refuse

    refuse(print_plan(_load(grid, sets), _existing(store)), max_gpu_hours)


def _existing(store: str) -> Store | None:
    from harness.store import Store

    unopened = Store(store)
    return unopened.open() if unopened.exists("lengthwise.json") else None


def _refuse(grid: Grid, store: str, max_gpu_hours: float | None) -> None:
    """Refuse a grid that would take more GPU-hours than allowed."""
    from harness.plan import hours, remaining
    from harness.throughput import refuse

    if max_gpu_hours is not None:
        known = _existing(store)
        refuse(hours(remaining(grid, known), known), max_gpu_hours)


@app.command()
def status(grid: ReportedArgument, store: StoreOption = "results", sets: SetOption = []) -> None:  # noqa: B006
    """Say where each cell stands, from the store alone."""
    from harness import archive
    from harness.plan import print_status

    if not archive.is_archive(grid):
        print_status(_load(grid, sets), _open(store))
        return
    with archive.opened(grid) as (asked, held):
        print_status(asked, held)


@app.command()
def gc(
    store: StoreOption = "results",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    abandoned: Annotated[
        float | None, typer.Option(help="Also training checkpoints nobody has gone on with for so many days.")
    ] = None,
) -> None:
    """Delete what a store no longer needs: checkpoints of published cells, second weights, leftovers. Never a row."""
    from harness.gc import garbage

    opened = _open(store)
    files = size = 0
    for one in garbage(opened, abandoned):
        typer.echo(f"{one.size:12,} {one.name}: {one.why}")
        if not dry_run:
            opened.delete(one.name)
        files, size = files + 1, size + one.size
    typer.echo(f"{'would free' if dry_run else 'freed'} {size:,} bytes in {files} files")


@app.command()
def report(
    grid: ReportedArgument,
    store: StoreOption = "results",
    sets: SetOption = [],  # noqa: B006
    formats: Annotated[
        str, typer.Option("--format", help="html, csv, parquet, latex or png; several with commas.")
    ] = "html",
    out: Annotated[
        Path | None, typer.Option(help="Write here instead of into the store: a file, or a folder for several formats.")
    ] = None,
) -> None:
    """Write the report of what the store has of a grid, as a page or in a format for other programs."""
    from harness import archive
    from harness.errors import unknown
    from harness.search import chosen
    from reports.export import FORMATS

    wanted = list(dict.fromkeys(name.strip() for name in formats.split(",")))
    for name in wanted:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS, "--format")
    if out and len(wanted) > 1:
        _make_folder(out)
    if not archive.is_archive(grid):
        opened = _open(store)
        _write_reports(chosen(_load(grid, sets), opened), opened, wanted, out)
        return
    with archive.opened(grid) as (asked, held):
        _write_reports(asked, held, wanted, out or Path(grid))


def _write_reports(asked: Grid, opened: Store, wanted: list[str], out: Path | None) -> None:
    from harness.collect import report_data
    from harness.errors import UserError
    from reports.export import FORMATS
    from reports.picture import NoBrowser
    from reports.view import View

    view, lost = View(report_data(asked, opened)), None
    for name in wanted:
        file = out / FORMATS[name].file if out and out.is_dir() else out
        try:
            typer.echo(f"report: {_write_report(view, asked, opened, name, file)}")
        except NoBrowser as error:
            lost = UserError(f"--format {name}: {error}; the other formats need no browser")
    if lost:
        raise lost


def _write_report(view: View, grid: Grid, store: Store, name: str = "html", out: Path | None = None) -> str:
    """Write one format into the store, or to `out`; says where."""
    from reports.export import FORMATS

    return store.deliver(f"grids/{grid.file.name}/{FORMATS[name].file}", FORMATS[name].make(view), out)


def _make_folder(path: Path) -> None:
    from harness.errors import UserError

    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {path}: several formats need a folder ({error})") from error


@app.command()
def publish(
    grid: GridArgument,
    out: Annotated[Path, typer.Option(help="Folder it is put into, beside what is there of the grid already.")],
    store: StoreOption = "results",
    sets: SetOption = [],  # noqa: B006
) -> None:
    """Put rows, curves and recipes of a grid, without weights, into a folder to commit; `report FOLDER` reads it."""
    from harness import archive

    rows = archive.publish(_load(grid, sets), _open(store), out)
    typer.echo(f"{rows:,} rows: {out}")


@app.command()
def results(
    page: Annotated[Path, typer.Argument(help="The page, with blocks `<!-- results: GRID -->` to fill.")],
    check: Annotated[bool, typer.Option("--check", help="Only look whether the page says what the rows say.")] = False,
) -> None:
    """Write the tables of a page of results anew, from the folders beside it that `publish` made (PAGE without .md)."""
    from harness.archive import views
    from harness.errors import UserError
    from reports.results import filled

    try:
        before = page.read_text()
        after = filled(before, views(page.with_suffix("")))
        if check and after != before:
            raise ValueError(f"its tables are not what the rows say; `lengthwise results {page}` writes them anew")
        if after != before:
            page.write_text(after)
    except OSError as error:
        raise UserError(f"{page}: cannot be read or written ({error})") from error
    except ValueError as error:
        raise UserError(f"{page}: {error}") from error
    typer.echo(f"{page}: {'as the rows say' if after == before else 'written anew'}")


@app.command()
def compare(
    grids: Annotated[list[str], typer.Argument(help="Two or more: GRID of the store, or STORE:GRID.")],
    store: StoreOption = "results",
    mode: Annotated[
        str,
        typer.Option(help="checkpoints: the same weights, by problems; retrained: by runs; auto: by what is there."),
    ] = "auto",
    out: Annotated[Path | None, typer.Option(help="Write the page here instead of into the store.")] = None,
) -> None:
    """Set grids against the first: what changed, and what moved beyond chance. Exit status 1: something got worse."""
    from rich.console import Console

    from harness.compare import compare_grids, show
    from harness.errors import unknown

    modes: dict[str, Any] = {"auto": None, "checkpoints": "checkpoints", "retrained": "retrained"}
    if mode not in modes:
        raise unknown("--mode", mode, modes)
    found = compare_grids(grids, store, modes[mode])
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    for comparison in found.comparisons:
        show(comparison, console)
    console.print(f"comparison: {found.write(out)}", soft_wrap=True, markup=False)
    if any(comparison.moved("less") for comparison in found.comparisons):
        sys.exit(FAILED)


@app.command()
def trace(
    task: Annotated[str, typer.Argument(help="A task's name, or module:Class.")],
    length: Annotated[int, typer.Option(min=1, help="Length of the problem.")] = 5,
    setting: Annotated[str, typer.Option(help="What the model may do.")] = "interactive",
    tool: Annotated[str | None, typer.Option(help="A tool the task admits in this setting.")] = None,
    form: Annotated[str, typer.Option(help="Trajectory form.")] = "faithful",
    index: Annotated[int, typer.Option(min=0, help="Which of the evaluation problems.")] = 0,
    stress: Annotated[str, typer.Option(help="Problem set.")] = "random",
) -> None:
    """Print a solved problem: roles in colour, memory and pointers."""
    from rich.console import Console

    from harness.errors import UserError
    from harness.trace import trace as show
    from tasks.problems import problems
    from tasks.scenario import Scenario

    try:
        scenario = Scenario(task, setting, tool, form=form)
        drawn = problems(scenario.task, "evaluation", length, index + 1, stress)
    except ValueError as error:
        raise UserError(str(error)) from error
    if index >= len(drawn):
        raise UserError(f"--index {index}: there are only {len(drawn)} evaluation problems of length {length}")
    show(scenario, drawn[index], Console())


@app.command()
def check(
    task: Annotated[str, typer.Argument(help="A task's name, or module:Class.")],
    lengths: Annotated[str, typer.Option(help="Lengths to look at, with commas.")] = "1,2,3,5",
    count: Annotated[int, typer.Option("--problems", min=1, help="Problems of each.")] = 8,
) -> None:
    """Check that a task keeps its promises: oracle, checker, errors located, stated lengths, splits, vocabulary."""
    from harness.check import check as look
    from harness.errors import UserError

    try:
        wanted = [int(length) for length in lengths.split(",")]
        findings = list(look(task, wanted, count))
    except ValueError as error:
        raise UserError(f"check: {error}") from error
    for finding in findings:
        typer.echo(f"{'ok   ' if finding.wrong is None else 'WRONG'} {finding.promise}")
        if finding.wrong is not None:
            typer.echo(f"      {finding.wrong}")
    if any(finding.wrong is not None for finding in findings):
        sys.exit(FAILED)


@app.command()
def collect(
    task: Annotated[str, typer.Argument(help="code_fix.")],
    endpoint: Annotated[str, typer.Option(help="An OpenAI-compatible API: http://HOST:PORT/v1")],
    model: Annotated[str, typer.Option(help="Its name there.")],
    out: Annotated[Path, typer.Option(help="The trajectories that are kept; every attempt is kept beside it.")],
    agent: Annotated[str, typer.Option(help="Who works on the problems.")] = "mini-swe-agent",
    count: Annotated[int, typer.Option("--problems", min=1, help="How many.")] = 200,
    max_length: Annotated[int, typer.Option(min=1, help="Functions of a code base, at most.")] = 16,
    backend: Annotated[str, typer.Option(help="Where commands run.")] = "bubblewrap",
    steps: Annotated[int, typer.Option(min=1, help="Turns of an attempt, at most.")] = 60,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a reply.")] = 120,
    temperature: Annotated[float | None, typer.Option(help="Left out, as the endpoint has it.")] = None,
    parallel: Annotated[int, typer.Option(min=1, help="Problems at a time.")] = 16,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join; left out, one is started here.")] = None,
) -> None:
    """Collect trajectories of another agent to train on. Run it again to go on. OPENAI_API_KEY is passed on."""
    from harness.distill import AGENTS, Asked
    from harness.distill import collect as run
    from harness.errors import UserError, unknown

    if task != "code_fix":
        raise unknown("task to collect for", task, ("code_fix",))
    if agent not in AGENTS:
        raise unknown("agent", agent, AGENTS)
    asked = Asked(endpoint, model, count, max_length, backend, steps, timeout, temperature)
    try:
        counts = run(
            asked,
            out,
            parallel,
            address,
            lambda one, done, total: typer.echo(f"{done}/{total} {one.outcome}", err=True),
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    typer.echo(", ".join(f"{number} {name}" for name, number in counts.most_common()))
    typer.echo(f"trajectories: {out}; to train on them: --set task=tasks.code_fix:{out}")
    if counts["not begun"]:
        sys.exit(INTERRUPTED)


@app.command()
def doctor(
    everything: Annotated[
        bool, typer.Option("--all", help="Check those that were not chosen, too; takes minutes.")
    ] = False,
) -> None:
    """Say what this machine offers, what runs for each operation and why, and check that against the references."""
    from harness.doctor import examine

    _print_findings(examine(everything))


def _print_findings(findings: Iterable[Any]) -> None:
    """Print lines with a subject, what there is to say of it, and whether that is wrong; exit if anything was."""
    wrong = 0
    for line in findings:
        typer.echo(f"{'WRONG' if line.wrong else 'ok   '} {line.subject:16} {line.says}")
        wrong += line.wrong
    if wrong:
        sys.exit(FAILED)


@app.command()
def models() -> None:
    """List the architectures."""
    from models.build import describe

    lines = []
    for name, about, parameters in describe():
        sizes = ", ".join(f"{size} {count / 1e6:.2f}M" for size, count in parameters.items())
        lines.append((name, about, f"parameters (vocabulary 64): {sizes}"))
    _print_list(lines)


@app.command()
def tasks() -> None:
    """List the tasks with the settings and tools they admit."""
    from tasks import TASKS
    from tasks.resolve import resolve

    lines = []
    for name in TASKS:
        kind: Any = resolve("task", name, TASKS)
        admits = "; ".join(f"{setting}: {', '.join(tools)}" for setting, tools in kind.settings.items())
        lines.append((name, _headline(kind), admits))
    _print_list(lines)


@app.command()
def tools() -> None:
    """List the tools."""
    from tasks.resolve import resolve
    from tools import TOOLS

    _print_list((name, _headline(resolve("tool", name, TOOLS)), "") for name in TOOLS)


@mlflow_app.command("sync")
def mlflow_sync(
    grid: GridArgument,
    store: StoreOption = "results",
    sets: SetOption = [],  # noqa: B006
    uri: Annotated[str | None, typer.Option(help="MLflow server or database.", envvar="MLFLOW_TRACKING_URI")] = None,
) -> None:
    """Rebuild the MLflow runs of a grid from the store."""
    from harness.search import chosen
    from harness.tracking import sync

    opened = _open(store)
    typer.echo(sync(chosen(_load(grid, sets), opened), opened, uri))


def _headline(kind: type) -> str:
    return (kind.__doc__ or "").strip().split("\n")[0]


def _print_list(lines: Iterable[tuple[str, str, str]]) -> None:
    for name, about, more in lines:
        typer.echo(f"{name:16} {about}")
        if more:
            typer.echo(f"{'':16} {more}")

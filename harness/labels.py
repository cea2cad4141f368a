"""What the MLflow runs of a grid are tagged with and described by: dataset, size, reach, who reaches how far."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from harness.config import GridFile
from harness.grid import Resolved

if TYPE_CHECKING:
    from reports.statistics import Reach

NOTE = "mlflow.note.content"
"""Tag whose text the user interface shows as the description, read as Markdown."""
REACH, DATASET, SIZE = "reach", "dataset", "model_size"
NOTE_LENGTH = 4800
"""Characters of a description at most; MLflow takes 5,000."""

EXPERIMENT = (
    "One run for each trained model, under one for its grid. Sort by `summary/reach` to see who holds furthest; chart "
    "`eval/exact_match` against step, which is the length of the problems; group by `architecture` for means over "
    "seeds. The run of the grid has the report among its artifacts."
)


def known(cell: Resolved) -> dict[str, str]:
    """Tags that the configuration alone gives."""
    config = cell.config
    form = "" if config.form == "faithful" else f" {config.form}"
    return {DATASET: f"{config.task}{form} up to {config.train.max_length}", SIZE: config.size}


def accuracies(points: Iterable[Mapping[str, Any]]) -> dict[int, float | None]:
    """Length -> share of random problems that are right: exact trajectories, or answers of a task without an oracle."""
    return {
        point["length"]: point["answer_right"] if point["exact"] is None else point["exact"]
        for point in points
        if point["stress"] == "random"
    }


def reach(points: Iterable[Mapping[str, Any]], published: Mapping[str, Any]) -> Reach | None:
    """The cell's reach; None for one that is unfit, or was not tested."""
    from reports.statistics import reach as reached

    accuracy = accuracies(points)
    return reached(list(accuracy), list(accuracy.values())) if fits(published) else None


def fits(published: Mapping[str, Any]) -> bool:
    """Whether it learnt its training lengths."""
    from reports.statistics import SOLVED

    exact = published.get("validation_exact")
    return exact is None or exact >= SOLVED


def found(
    cell: Resolved, status: str, published: Mapping[str, Any], points: list[dict[str, Any]], report: str
) -> dict[str, str]:
    """Tags that the results give: reach in words, size with parameters, description. `report` links to the report."""
    from reports import wording

    reached = reach(points, published)
    if reached is None:
        told = "unfit" if not fits(published) else "not tested" if status == "done" else status
    else:
        told = wording.reach(reached.low, reached.high, max(accuracies(points)))
    parameters = published.get("parameters")
    size = f"{cell.config.size}, {wording.short(parameters)} parameters" if parameters else cell.config.size
    if told == "unfit":
        said = "Unfit: it did not learn its training lengths, so it claims nothing beyond them."
    elif reached is None:
        said = f"No reach: {told}."
    else:
        said = f"Reach **{plain(told)}**, trained up to {cell.config.train.max_length}."
    return {REACH: told, SIZE: size, NOTE: f"{said} Its grid's {report}."}


def grid(file: GridFile, reaches: Iterable[tuple[str, str]], report: str | None = None) -> str:
    """Description of a grid's run: title, link to the report, and the `reach` of every seed: (run name, tag)."""
    told = [f"**{plain(file.title or file.name)}**", plain(file.description)]
    told += [f"The {report} is among the artifacts of this run."] if report else []
    seeds: dict[str, list[str]] = {}
    for name, reached in reaches:
        seeds.setdefault(re.sub(r" seed=\d+$", "", name), []).append(reached or "unknown")
    text = "\n\n".join(filter(None, told))
    if not seeds:
        return text[:NOTE_LENGTH]
    text += "\n\n| runs | reach of each seed |\n|---|---|"
    left = sorted(seeds.items(), key=lambda item: (-_middle(item[1]), item[0]))
    while left and len(text) + len(line := _line(*left[0])) < NOTE_LENGTH:
        text += line
        left = left[1:]
    return text + (f"\n\nand {len(left)} more in the report." if left else "")


def _line(name: str, reached: list[str]) -> str:
    return f"\n| {plain(name)} | {plain(', '.join(reached))} |"


def _middle(reached: list[str]) -> float:
    """Median over seeds of the reach in words, by which the table is sorted; no reach counts as none."""
    numbers = sorted(0 if one.startswith("<") else int(re.sub(r"\D", "", one) or 0) for one in reached)
    return (numbers[(len(numbers) - 1) // 2] + numbers[len(numbers) // 2]) / 2


def plain(text: str) -> str:
    """Text that Markdown shows as it stands, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>()#|~!])", r"\\\1", " ".join(text.split()))

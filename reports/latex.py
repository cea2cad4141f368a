"""The results as LaTeX tables for a paper: architectures down, tasks and settings across. They need booktabs only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import polars as pl

from reports import aggregate, statistics, wording
from reports.parts import by_architecture
from reports.view import Facet, View

_SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": "$<$", ">": "$>$", "|": "$|$", "≤": r"$\leq$", "≥": r"$\geq$", "×": r"$\times$", "→": r"$\to$"},
    **{"·": r"$\cdot$", "–": "--", "…": r"\dots{}", '"': "''"},
}


def escape(text: object) -> str:
    """Text that LaTeX sets as it stands, on one line."""
    return "".join(_SPECIAL.get(character, character) for character in " ".join(str(text).split()))


class Column(NamedTuple):
    """One column of results: a panel of the report and one of its sets of problems."""

    facet: Facet
    stress: str


class Run(NamedTuple):
    """One seed in a column: lengths tested and the share right at each; none for a run that failed before."""

    lengths: list[int]
    accuracies: list[float | None]


class Entry(NamedTuple):
    """Where a row and a column meet."""

    column: Column
    runs: list[Run]
    """The seeds that count: those that fit and were tested, and failed ones; of each its first replicate."""
    absent: str
    """What stands there when none does."""


def tables(view: View) -> str:
    """Two tables: `n → m (p%)` of the best seed as in Malach et al. (arXiv 2510.14826), and the reach of every seed."""
    grid = view.data.grid
    name, across = str(grid.get("name") or "grid"), columns(view)
    rows = {who: [_entry(view, own, column) for column in across] for who, own in _rows(view)}
    counts = {len(entry.runs) for row in rows.values() for entry in row if entry.runs}
    paper = {who: [_paper(entry, len(counts) > 1) for entry in row] for who, row in rows.items()}
    reaches = {who: [_reaches(entry) for entry in row] for who, row in rows.items()}
    about = escape(f"grid {name}, {grid.get('when') or 'no date'}")
    lines = [
        f"% Lengthwise, {about}; the preamble needs \\usepackage{{booktabs}}",
        *_table(paper, across, f"{_title(view)} {_paper_caption(counts)} {_small_print(view)}", f"{name}-paper"),
        "",
        *_table(reaches, across, f"{_title(view)} {_REACH_CAPTION} {_small_print(view)}", f"{name}-reach"),
    ]
    return "\n".join(lines) + "\n"


def columns(view: View) -> list[Column]:
    """Every panel with its random problems, then its stress sets."""
    return [
        Column(facet, stress)
        for facet in view.facets
        for stress in sorted(
            facet.of(view.points)["stress"].unique(), key=lambda name: (name != aggregate.RANDOM, name)
        )
    ]


def _rows(view: View) -> Iterator[tuple[str, pl.DataFrame]]:
    """Architecture, with its recipe where they differ, and its cells."""
    for name, recipe, own in by_architecture(view.cells):
        yield escape(name or "unnamed") + (f" {{\\footnotesize {escape(recipe)}}}" if recipe else ""), own


def _entry(view: View, own: pl.DataFrame, column: Column) -> Entry:
    cells = column.facet.of(own)
    points = column.facet.of(view.points).filter(pl.col("stress") == column.stress)
    runs = []
    fit = cells.filter(aggregate.first_replicate() & ~pl.col("unfit"))
    for cell, status in fit.sort("seed").select("cell", "status").iter_rows():
        tested = points.filter(pl.col("cell") == cell).sort("length")
        if tested.height or status == "failed":
            runs.append(Run(tested["length"].to_list(), tested["accuracy"].to_list()))
    return Entry(column, runs, "unfit" if cells.height and cells["unfit"].all() else "--")


def _paper(entry: Entry, counted: bool) -> str:
    """`n → m (p%)` of the best seed; `counted`: and of how many it is the best."""
    if not entry.runs:
        return entry.absent
    trained = entry.column.facet["max_length"] or "?"
    best = max((found for run in entry.runs if (found := statistics.paper_reach(*run))), default=None)
    of = f" [{len(entry.runs)}]" if counted else ""
    if best is None:
        return f"${trained} \\to$ none{of}"
    return f"${trained} \\to {best[0]}$ ({escape(wording.percent(best[1]))}){of}"


def _paper_caption(counts: set[int]) -> str:
    of = f"of {wording.plural(max(counts), 'seed')}" if len(counts) == 1 else "of as many as stand in brackets"
    return (
        "$n \\to m$ ($p$): trained to length $n$, accuracy $p$ at the last tested length $m$ with "
        f"$p \\geq$ {escape(f'{statistics.PAPER_FLOOR:.0%}')}, the measure of Malach et al.\\ (arXiv 2510.14826), "
        f"of the best seed {of}."
    )


def _reaches(entry: Entry) -> str:
    """The reach of every seed, in the order of the seeds."""
    told = []
    for run in entry.runs:
        reach = statistics.reach(*run)
        told.append(wording.reach(reach.low, reach.high, max(run.lengths)) if reach else "failed")
    return ", ".join(map(escape, told)) or entry.absent


_REACH_CAPTION = (
    "Reach of every seed: the last length of the unbroken run of tested lengths with at least "
    f"{escape(f'{statistics.SOLVED:.0%}')} of the problems right; $\\geq$ marks the longest tested length."
)


def _small_print(view: View) -> str:
    sizes = sorted(set(view.points["n"].to_list()))
    each = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}" if sizes else "No"
    return (
        f"{each} problems a length and seed. Seeds under {escape(f'{aggregate.FIT:.0%}')} exact at training lengths "
        "are unfit and left out; failed ones count."
    )


def _title(view: View) -> str:
    title = escape(view.data.grid.get("title") or view.data.grid.get("name") or "Results")
    return title if title.endswith((".", "?", "!")) else f"{title}."


def _table(rows: dict[str, list[str]], across: Sequence[Column], caption: str, label: str) -> Iterator[str]:
    """Lines of one table."""
    yield from (r"\begin{table}", r"\centering", f"\\caption{{{caption}}}")
    yield f"\\label{{tab:{re.sub(r'[^A-Za-z0-9.-]', '-', label)}}}"
    yield f"\\begin{{tabular}}{{{'l' * (1 + len(across))}}}"
    yield from (r"\toprule", *_head(across), r"\midrule")
    yield from (_line([who, *entries]) for who, entries in rows.items())
    yield from (r"\bottomrule", r"\end{tabular}", r"\end{table}")


def _head(across: Sequence[Column]) -> Iterator[str]:
    """Panels over their sets of problems; the sets are named where there are others than the random ones."""
    spans = [(facet, len(list(own))) for facet, own in groupby(across, key=lambda column: column.facet)]
    for names in ([facet.title for facet, _ in spans], [facet.detail for facet, _ in spans]):
        yield _line(["", *(_spanning(name, span) for name, (_, span) in zip(names, spans))])
    if len(across) > len(spans):
        starts = [2 + sum(span for _, span in spans[:at]) for at in range(len(spans))]
        yield "".join(f"\\cmidrule(lr){{{start}-{start + span - 1}}}" for start, (_, span) in zip(starts, spans))
        yield _line(["", *(escape(column.stress) for column in across)])


def _spanning(text: str, span: int) -> str:
    return escape(text) if span == 1 else f"\\multicolumn{{{span}}}{{c}}{{{escape(text)}}}"


def _line(entries: Sequence[str]) -> str:
    return " & ".join(entries) + r" \\"

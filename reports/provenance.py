"""With what it was run: the standing check, versions, devices, kernels, settings, the grid file."""

from __future__ import annotations

import polars as pl

from reports import wording
from reports.download import downloads
from reports.markup import Markup, element, folded, fragment
from reports.parts import section
from reports.view import View


def run(view: View) -> Markup:
    rows, known, grid = view.data.rows, view.data.cells, view.data.grid
    facts = [
        ("Evaluated", grid.get("when")),
        ("Standing check", standing_check(view)),
        (
            "Near ties",
            f"{int(view.points['near_ties'].sum()):,} of {wording.plural(int(view.points['n'].sum()), 'problem')}",
        ),
        ("Versions", _distinct(known["versions"])),
        ("Trained on", _distinct(known["train_device"])),
        ("Training kernels", _distinct(known["train_kernels"])),
        ("Evaluated on", _distinct(rows["device"])),
        ("Evaluation kernels", _distinct(rows["kernels"])),
        ("Precision", _distinct(rows["precision"])),
        ("Mode", _distinct(rows["mode"])),
        ("Attempts", _attempts(view)),
        *[(f"evaluate.{name}", _plain(value)) for name, value in (grid.get("evaluate") or {}).items()],
    ]
    listed = [fragment(element("dt", name), element("dd", value or wording.NONE)) for name, value in facts]
    file = folded("The grid file", element("pre", grid["text"])) if grid.get("text") else None
    saved = downloads(view)
    data = fragment(element("h3", "The numbers behind this page"), saved) if saved else None
    return section("run", "What was run, and with what", element("dl", listed, class_="facts"), file, data)


def standing_check(view: View) -> str:
    """Of the verified problems replayed live, how many gave the same result, and how near a tie the others were."""
    replayed = view.data.rows.filter(pl.col("replay_equal").is_not_null()).select("replay_equal", "near_tie")
    if replayed.is_empty():
        return "no problem was replayed live"
    equal, tied = int(replayed["replay_equal"].sum()), int(replayed["near_tie"].sum())
    differing = int(replayed.select((~pl.col("replay_equal") & pl.col("near_tie")).sum()).item())
    text = f"{wording.plural(replayed.height, 'problem')} replayed live, {equal:,} equal to the verification"
    if equal < replayed.height:
        text += f"; of the {replayed.height - equal:,} that differ, {differing:,} are near ties"
    return f"{text}; {wording.plural(tied, 'near tie')} among the replayed"


def _attempts(view: View) -> str:
    counts = view.data.attempts.group_by("outcome").len().sort("outcome").iter_rows()
    return ", ".join(f"{count:,} {outcome or 'unknown'}" for outcome, count in counts)


def _distinct(values: pl.Series) -> list[Markup]:
    """Every different value on a line of its own."""
    return [element("span", value) for value in values.drop_nulls().unique().sort()]


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else str(value)

"""How the recipes were chosen: among what, by which rule, and what the winners did on validation problems."""

from __future__ import annotations

from typing import Any

from reports import wording
from reports.markup import Markup, table
from reports.parts import note, section
from reports.view import View


def search(view: View) -> Markup | None:
    """One line per choice; None for a grid that searched for nothing."""
    found: list[dict[str, Any]] = view.data.grid.get("search") or []
    if not found:
        return None
    decided = [item["record"] for item in found if item["record"]]
    rule = decided[0]["rule"] if decided else "nothing is decided yet"
    text = (
        f"Every architecture got the same trials; the winner has {rule}. Trials were never evaluated on longer "
        "problems, and the winners were trained again from fresh seeds: no trial is among the runs on this page."
    )
    head = ["For", "Chosen", "Among", "Validation exact", "Validation loss", "Failed trials"]
    return section("search", "How the recipes were chosen", note(text), table(head, [_line(item) for item in found]))


def _line(item: dict[str, Any]) -> list[str]:
    record = item["record"]
    if record is None:
        return [item["name"], "not decided yet", *[wording.NONE] * 4]
    tried = record["tried"]
    winner = next(one for one in tried if one["recipe"] == record["winner"])
    chosen = ", ".join(f"{field.removeprefix('train.')} {value:g}" for field, value in record["winner"].items())
    among = f"{wording.plural(len(tried), 'recipe')} × {wording.plural(len(winner['trials']), 'seed')}"
    loss = wording.NONE if winner["loss"] is None else f"{winner['loss']:.2g}"
    failed = f"{sum(one['failed'] for one in tried):,} of {sum(len(one['trials']) for one in tried):,}"
    return [item["name"], chosen, among, wording.percent(winner["exact"]), loss, failed]

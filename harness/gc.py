"""Removal of what a store no longer needs. Never a row, a published weight, or a record of the ledger."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from harness.store import Store

LEFTOVER_SECONDS = 3600.0
"""A temporary file older than that belongs to no process that is still writing it."""


class Garbage(NamedTuple):
    name: str
    size: int
    why: str


def garbage(store: Store, abandoned_days: float | None = None) -> Iterator[Garbage]:
    """What can go: training checkpoints of published cells, weights and curves of attempts that came second, leftovers.

    abandoned_days: also checkpoints of unpublished cells that nobody has gone on with for so long.
    """
    files = _files(store)
    published = {name.split("/")[1] for name in files if re.fullmatch(r"cells/[^/]+/published\.json", name)}
    kept = {cell: (store.published(cell) or {}).get("checkpoint") for cell in sorted(published)}
    for name, (size, age) in sorted(files.items()):
        why = _why(name, kept, age, abandoned_days)
        if why is not None:
            yield Garbage(name, size, why)


def _why(name: str, kept: dict[str, Any], age: float, abandoned_days: float | None) -> str | None:
    if name.endswith(".tmp"):
        return "half written and left behind" if age > LEFTOVER_SECONDS else None
    if name.startswith(("preflight/", "ray-train/")):
        return "left behind" if age > LEFTOVER_SECONDS else None
    match = re.fullmatch(r"cells/([^/]+)/(training\.pt|(?:weights|curve)-([0-9a-f]+)\.(?:pt|parquet))", name)
    if match is None:
        return None
    cell, file, checkpoint = match.groups()
    if cell in kept:
        if file == "training.pt":
            return "the cell is published"
        return "of an attempt that came second" if checkpoint != kept[cell] else None
    if file == "training.pt" and abandoned_days is not None and age > 86400 * abandoned_days:
        return f"nobody has gone on with it for {abandoned_days:g} days"
    return None


def _files(store: Store) -> dict[str, tuple[int, float]]:
    """Every file of the store -> its bytes, and seconds since it was written (0 where that is not known)."""
    now = datetime.now(UTC).timestamp()
    found = {}
    for path, known in store.fs.find(store.root, detail=True).items():
        when = known.get("mtime", known.get("LastModified", now))
        when = when.timestamp() if isinstance(when, datetime) else float(when)
        found[path.removeprefix(store.root).lstrip("/")] = (int(known["size"] or 0), now - when)
    return found

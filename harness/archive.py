"""What a grid came to, in a folder small enough to commit: everything its report is made of, so no weights and no logs.

    grid.yaml         the grid file
    documents.json    every other small file of the store that is about the grid: its name there -> its content
    rows.parquet      the result rows; `file` is the row file each lay in
    curves.parquet    the training curves; `file` likewise

Rows of a thousand points compress to a fiftieth in one file of what they take in a thousand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.grid import Grid, evaluation_id, parse
from harness.schema import CURVES, ROWS, Table
from harness.search import chosen, decisions
from harness.store import Store, curve_file, encoded

if TYPE_CHECKING:
    import pyarrow

    from reports.view import View

GRID, DOCUMENTS = "grid.yaml", "documents.json"
TABLES: dict[str, Table] = {"rows.parquet": ROWS, "curves.parquet": CURVES}


def is_archive(path: str) -> bool:
    """Whether a path is a folder that `publish` made."""
    return (Path(path) / DOCUMENTS).is_file()


def publish(grid: Grid, store: Store, folder: Path) -> int:
    """Put what a store has of a grid into a folder, beside what the folder has already; returns how many rows it holds.

    Raises UserError when a cell in it has other weights than in the store (their rows are not to be mixed), when the
    grid asks for less than the folder's own does (whose rows would be there and not be seen), or when the folder cannot
    be written.
    """
    with TemporaryDirectory() as place:
        held = Store(place).open(create=True)
        before = None
        if is_archive(str(folder)):
            _unpack(folder, held)
            before = chosen(_grid(folder), held)
            before = replace(before, cells=[cell for cell in before.cells if held.published(cell.id)])
        for name in _names(grid, store):
            if name.endswith("published.json"):
                _same_weights(held, store, name, folder)
            held.write(name, store.read(name))
        if before is not None:
            _asks_for_all(chosen(grid, held), before, folder)
        return _pack(grid, held, folder)


@contextmanager
def opened(folder: str) -> Iterator[tuple[Grid, Store]]:
    """The grid of such a folder, and a store, gone afterwards, with what it holds. Raises UserError for damage."""
    with TemporaryDirectory() as place:
        store = Store(place).open(create=True)
        _unpack(Path(folder), store)
        yield chosen(_grid(Path(folder)), store), store


def _grid(folder: Path) -> Grid:
    try:
        return parse((folder / GRID).read_text(), f"{folder}/{GRID}")
    except OSError as error:
        raise UserError(f"{folder}: is not what `lengthwise publish` makes, or is damaged ({error})") from error


def _asks_for_all(now: Grid, before: Grid, folder: Path) -> None:
    cells = {cell.id for cell in now.cells}
    for cell in before.cells:
        if cell.id not in cells:
            raise UserError(f"{folder}: holds {cell.name}, which this grid has not (--set must not narrow it)")
        old, new = before.evaluate(cell), now.evaluate(cell)
        less = {*old.lengths} - {*new.lengths} or {*old.stress} - {*new.stress}
        if less or old.problems > new.problems or evaluation_id(old) != evaluation_id(new):
            raise UserError(f"{folder}: holds points of {cell.name} that this grid does not ask for")


def views(folder: Path) -> dict[str, View]:
    """Of every such folder in a folder: the name of its grid -> its aggregated tables."""
    from harness.collect import report_data
    from reports.view import View

    found = {}
    for place in sorted(folder.iterdir() if folder.is_dir() else ()):
        if is_archive(str(place)):
            with opened(str(place)) as (grid, store):
                found[grid.file.name] = View(report_data(grid, store))
    return found


def _names(grid: Grid, store: Store) -> Iterator[str]:
    """The files of a store that are about a grid, but for weights, checkpoints and logs."""
    searched = decisions(grid, store)
    yield from searched
    trials = {
        trial
        for name in searched
        for one in (store.read_json(name) or {})["tried"]
        for trial in [*one["trials"], *one.get("before", ())]
    }
    cells = {cell.id for cell in chosen(grid, store).cells} | trials
    for cell in sorted(cells):
        published = store.published(cell)
        own = [f"cells/{cell}/cell.json", f"cells/{cell}/published.json"]
        if published is not None:
            own += [curve_file(cell, published["checkpoint"])]
            own += [f"cells/{cell}/rows/{extent.file}" for extent in store.extents(cell)]
        yield from filter(store.exists, own)
    for record in store.attempts(cells):
        yield from filter(store.exists, (f"ledger/{record['attempt']}.{end}.json" for end in ("start", "end")))


def _same_weights(held: Store, store: Store, name: str, folder: Path) -> None:
    cell = name.split("/")[1]
    before, now = held.published(cell), store.published(cell)
    if before and now and before["checkpoint"] != now["checkpoint"]:
        raise UserError(
            f"{folder}: cell {cell} is in it with other weights ({before['checkpoint'][:12]}) than store {store.url!r} "
            f"has ({now['checkpoint'][:12]}); publish that store into a folder of its own"
        )


def _pack(grid: Grid, held: Store, folder: Path) -> int:
    import pyarrow

    names = sorted(str(path.relative_to(held.root)) for path in Path(held.root).rglob("*") if path.is_file())
    content: dict[str, bytes] = {GRID: grid.text.encode()}
    documents = {name: json.loads(held.read(name)) for name in names if name.endswith(".json")}
    content[DOCUMENTS] = json.dumps(documents, indent=0, sort_keys=True).encode()
    rows = 0
    for table, kind in TABLES.items():
        inside = [name for name in names if name.endswith(".parquet") and ("/rows/" in name) == (kind is ROWS)]
        parts = [_labelled(held.arrow(name, kind), name) for name in inside]
        if not parts:
            continue
        whole = pyarrow.concat_tables(parts, promote_options="default")
        content[table] = encoded(whole, level=19)
        rows += whole.num_rows if kind is ROWS else 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in content.items():
            (folder / name).write_bytes(data)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written ({error})") from error
    return rows


def _labelled(table: pyarrow.Table, name: str) -> pyarrow.Table:
    import pyarrow

    return table.append_column("file", pyarrow.array([name] * table.num_rows, pyarrow.string()))


def _unpack(folder: Path, store: Store) -> None:
    import pyarrow
    import pyarrow.parquet

    try:
        for name, document in json.loads((folder / DOCUMENTS).read_text()).items():
            store.write(name, json.dumps(document).encode())
        for table in TABLES:
            if not (folder / table).exists():
                continue
            whole = pyarrow.parquet.read_table(folder / table, page_checksum_verification=True)
            start, bare = 0, whole.drop_columns(["file"])
            for file in whole["file"].value_counts().to_pylist():  # the rows of a file lie together
                store.write(file["values"], encoded(bare.slice(start, file["counts"])))
                start += file["counts"]
    except (OSError, ValueError, KeyError, AttributeError, pyarrow.ArrowException) as error:
        said = " ".join(str(error).split())[:120]
        raise UserError(f"{folder}: is not what `lengthwise publish` makes, or is damaged ({said})") from error

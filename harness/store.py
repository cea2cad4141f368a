"""The store: where cells, checkpoints, rows and the ledger of attempts lie. A folder, or any fsspec URL.

    lengthwise.json                     version of the layout
    cells/ID/cell.json                  resolved configuration
    cells/ID/training.pt                training checkpoint (dropped when the cell is published; also left for it by one
                                        that differs in `train.stop_after` alone, for it to go on from)
    cells/ID/weights-HASH.pt            weights, named by their content
    cells/ID/published.json             which weights are the cell's: the first writer wins
    cells/ID/curve-HASH.parquet         the training curve of those weights
    cells/ID/rows/POINT.parquet         result rows of one point, written whole or not at all
    cells/ID/logs/ATTEMPT.log           what the worker had to say
    ledger/ATTEMPT.start.json, ATTEMPT.end.json
    searches/ID.json                    what a search for recipes chose, and among what: the first writer wins
    grids/NAME/                         grid file, report.html

A file is either absent or whole, but for logs, which grow in a folder while their attempt runs.
"""

from __future__ import annotations

import io
import json
import os
import re
import secrets
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.errors import UserError
from harness.schema import CURVES, FORMAT, ROWS, Table

if TYPE_CHECKING:
    import pyarrow


class Extent(NamedTuple):
    """One row file: problems start..stop-1 of a point."""

    checkpoint: str
    evaluation: str
    length: int
    stress: str
    start: int
    stop: int

    @property
    def file(self) -> str:
        return f"{self.checkpoint[:16]}-{self.evaluation}-{self.length}-{self.stress}-{self.start}-{self.stop}.parquet"

    @classmethod
    def parse(cls, file: str) -> Extent | None:
        match = re.fullmatch(r"([0-9a-f]+)-([0-9a-f]+)-(\d+)-(.+)-(\d+)-(\d+)\.parquet", file)
        if match is None:
            return None
        checkpoint, evaluation, length, stress, start, stop = match.groups()
        return cls(checkpoint, evaluation, int(length), stress, int(start), int(stop))


class Held(NamedTuple):
    """What a store holds of a cell."""

    published: dict[str, Any] | None
    """What is known of its trained weights; None while it has none."""
    extents: list[Extent]
    """Its row files."""


class Store:
    """Files under one root, each written whole or not at all.

    Raises UserError when the place cannot be read or written, or was written by a newer version.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            self.fs, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise UserError(f"store {url!r}: {error}") from error
        self.local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))
        self.root = str(Path(root).absolute()) if self.local else root.rstrip("/")
        self.url = self.root if self.local else url.rstrip("/")

    def open(self, create: bool = False) -> Store:
        """Check the version; with `create`, make the store if it is not there yet."""
        try:
            text = self._cat("lengthwise.json")
            if text is None:
                if not create:
                    raise UserError(f"store {self.url!r}: no Lengthwise store is there; `lengthwise run` makes one")
                self.create("lengthwise.json", json.dumps({"format": FORMAT}).encode())
                text = self.read("lengthwise.json")
            version = int(json.loads(text)["format"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"store {self.url!r} cannot be used: {type(error).__name__}: {error}") from error
        if version > FORMAT:
            raise UserError(
                f"store {self.url!r} has format {version}, written by a newer Lengthwise; this one reads up to {FORMAT}"
            )
        return self

    # files -----------------------------------------------------------------------------------------------------

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _cat(self, name: str) -> bytes | None:
        try:
            if not self.local:
                return bytes(self.fs.cat_file(self.path(name)))
            with open(self.path(name), "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"store {self.url!r}: {name} cannot be read ({error})") from error

    def read(self, name: str) -> bytes:
        data = self._cat(name)
        if data is None:
            raise UserError(f"store {self.url!r}: {name} is missing")
        return data

    def exists(self, name: str) -> bool:
        return bool(self.fs.exists(self.path(name)))

    def write(self, name: str, data: bytes) -> None:
        """Write or replace a file, whole or not at all."""
        if self.local:
            temporary = self._temporary(name, data)
            os.replace(temporary, self.path(name))
        else:
            self.fs.pipe_file(self.path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it is there already; False when somebody else was first."""
        if not self.local:
            try:
                self.fs.pipe_file(self.path(name), data, mode="create")
            except OSError:  # of S3 it is one of many: "At least one of the pre-conditions .. did not hold"
                self.fs.invalidate_cache()
                if not self.exists(name):
                    raise
                return False
            return True
        temporary = self._temporary(name, data)
        try:
            os.link(temporary, self.path(name))
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        return True

    def _temporary(self, name: str, data: bytes) -> str:
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.{secrets.token_hex(4)}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            if os.path.exists(temporary):
                os.unlink(temporary)
            raise
        return temporary

    def names(self, folder: str) -> list[str]:
        """Names of the whole files in a folder, sorted; empty when there is no such folder."""
        try:
            if self.local:
                paths = os.listdir(self.path(folder))  # fsspec would look at every file
            else:
                self.fs.invalidate_cache()
                paths = self.fs.ls(self.path(folder), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for path in paths if not (name := path.rstrip("/").rsplit("/", 1)[-1]).endswith(".tmp"))

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    # JSON and Parquet ------------------------------------------------------------------------------------------

    def read_json(self, name: str, needed: frozenset[str] = frozenset()) -> dict[str, Any] | None:
        """A JSON file with the keys `needed`; None when it is not there. Raises UserError when it is damaged."""
        data = self._cat(name)
        if data is None:
            return None
        return self._parsed(name, data, needed)

    def _parsed(self, name: str, data: bytes, needed: frozenset[str]) -> dict[str, Any]:
        try:
            value: dict[str, Any] = json.loads(data)
            if not isinstance(value, dict) or not needed <= value.keys():
                raise ValueError(f"not a mapping with {', '.join(sorted(needed)) or 'keys'}")
        except ValueError as error:
            raise UserError(f"store {self.url!r}: {name} is damaged ({error}); move it away to go on") from error
        return value

    def deliver(self, name: str, content: bytes, out: Path | None) -> str:
        """Write what is made for readers (a report) into the store, or to the file `out` instead; returns where it is.

        Raises UserError when `out` cannot be written.
        """
        if out is None:
            self.write(name, content)
            return f"{self.url}/{name}"
        try:
            out.write_bytes(content)
        except OSError as error:
            raise UserError(f"--out {out}: cannot be written ({error})") from error
        return str(out)

    def arrow(self, name: str, kind: Table, columns: Collection[str] | None = None) -> pyarrow.Table:
        """A table as its file holds it, or some of its columns. Raises UserError for damage in what is read."""
        import pyarrow.parquet

        try:
            content = pyarrow.BufferReader(self.read(name))
            file = pyarrow.parquet.ParquetFile(content, page_checksum_verification=True)
            found, types = {field.name: field.type for field in file.schema_arrow}, arrow_types()
            if unknown := found.keys() - kind.keys():
                raise ValueError(f"unknown columns {', '.join(sorted(map(repr, unknown)))}")
            if wrong := [name for name, is_of in found.items() if is_of != types[kind[name][0]]]:
                raise ValueError(f"another type than it should have: {', '.join(wrong)}")
            return file.read([name for name in found if columns is None or name in columns], use_threads=False)
        except UserError:
            raise
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise UserError(
                f"store {self.url!r}: {name} is not a whole Parquet file ({' '.join(str(error).split())[:120]}); "
                "move it away and run the grid again: what it held will be made anew"
            ) from error

    def read_table(self, name: str, kind: Table) -> list[dict[str, Any]]:
        """Records of a table; a column not known when they were written is null. Raises UserError for damage."""
        records: list[dict[str, Any]] = self.arrow(name, kind).to_pylist()
        return [{**dict.fromkeys(kind), **record} for record in records]

    # cells -----------------------------------------------------------------------------------------------------

    def published(self, cell: str) -> dict[str, Any] | None:
        """What is known of the cell's trained weights; None while it has none."""
        return self.read_json(f"cells/{cell}/published.json", frozenset({"checkpoint"}))

    def extents(self, cell: str) -> list[Extent]:
        """The row files of a cell."""
        found = (Extent.parse(file) for file in self.names(f"cells/{cell}/rows"))
        return [extent for extent in found if extent is not None]

    def held(self, cell: str) -> Held:
        """Both; without weights, no row file is looked for."""
        published = self.published(cell)
        return Held(published, self.extents(cell) if published else [])

    def write_rows(self, cell: str, extent: Extent, rows: list[dict[str, Any]]) -> bool:
        """Publish the rows of a point; False when they were there already."""
        return self.create(f"cells/{cell}/rows/{extent.file}", parquet(ROWS, rows))

    def rows(self, cell: str, extents: Iterable[Extent] | None = None) -> Iterator[dict[str, Any]]:
        """All result rows of a cell, or those of some of its files, each point and problem once."""
        seen = set()
        for extent in self.extents(cell) if extents is None else extents:
            for row in self.read_table(f"cells/{cell}/rows/{extent.file}", ROWS):
                key = (row["checkpoint"], row["evaluation"], row["length"], row["stress"], row["index"])
                if key not in seen:
                    seen.add(key)
                    yield row

    def curve(self, cell: str) -> list[dict[str, Any]]:
        """The training curve of the cell's published weights."""
        published = self.published(cell)
        return self.read_table(curve_file(cell, published["checkpoint"]), CURVES) if published else []

    def write_curve(self, cell: str, checkpoint: str, curve: Iterable[dict[str, Any]]) -> None:
        self.create(curve_file(cell, checkpoint), parquet(CURVES, list(curve)))

    # ledger ----------------------------------------------------------------------------------------------------

    def begin_attempt(self, attempt: str, record: dict[str, Any]) -> None:
        self.create(f"ledger/{attempt}.start.json", json.dumps(record).encode())

    def end_attempt(self, attempt: str, record: dict[str, Any]) -> None:
        """The attempt itself says how it ended, whatever was said of it meanwhile."""
        self.write(f"ledger/{attempt}.end.json", json.dumps(record).encode())

    def presume_ended(self, attempt: str, record: dict[str, Any]) -> None:
        """Somebody else says how an attempt ended; what is known stands."""
        self.create(f"ledger/{attempt}.end.json", json.dumps(record).encode())

    def attempts(self, cells: set[str] | None = None) -> list[dict[str, Any]]:
        """Every attempt, oldest first, with its outcome (`running` when it never said how it ended).

        Oldest by its id, which the driver gave it: the clocks of the nodes that say when it started may differ.
        """
        names = self.names("ledger")
        ended = {name for name in names if name.endswith(".end.json")}
        read = self._many([f"ledger/{name}" for name in names])
        records = []
        for name in names:
            if not name.endswith(".start.json"):
                continue
            attempt = name.removesuffix(".start.json")
            record = read.get(f"ledger/{name}", {})
            if cells is None or record.get("cell") in cells:
                end = read.get(f"ledger/{attempt}.end.json", {}) if f"{attempt}.end.json" in ended else {}
                records.append({"attempt": attempt, "outcome": "running", **record, **end})
        return records

    def _many(self, names: list[str]) -> dict[str, dict[str, Any]]:
        """JSON files, fetched together where they are far away."""
        if self.local:
            found = {name: data for name in names if (data := self._cat(name)) is not None}
        else:
            fetched = self.fs.cat([self.path(name) for name in names], on_error="omit") if names else {}
            found = {name: fetched[path] for name in names if (path := self.path(name)) in fetched}
        return {name: self._parsed(name, data, frozenset()) for name, data in found.items()}


def by_cell(attempts: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Cell -> its attempts, in the same order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for attempt in attempts:
        found.setdefault(attempt["cell"], []).append(attempt)
    return found


def curve_file(cell: str, checkpoint: str) -> str:
    """Where the training curve of a cell's weights is."""
    return f"cells/{cell}/curve-{checkpoint}.parquet"


def parquet(table: Table, records: list[dict[str, Any]]) -> bytes:
    """Records as a Parquet file with the table's columns; a missing value is null, an unknown column an error."""
    import pyarrow

    for record in records:
        if extra := record.keys() - table.keys():
            raise ValueError(f"unknown columns {sorted(extra)}")
    complete = [{name: record.get(name) for name in table} for record in records]
    return encoded(pyarrow.Table.from_pylist(complete, schema=arrow_schema(table)))


def arrow_types() -> dict[str, pyarrow.DataType]:
    """Arrow's types by their names in `harness.schema`."""
    import pyarrow

    return {"string": pyarrow.string(), "int64": pyarrow.int64(), "double": pyarrow.float64(), "bool": pyarrow.bool_()}


def arrow_schema(table: Table) -> pyarrow.Schema:
    import pyarrow

    types = arrow_types()
    return pyarrow.schema([(name, types[kind]) for name, (kind, _) in table.items()])


def encoded(table: pyarrow.Table, level: int | None = None) -> bytes:
    """A table as a Parquet file, every page with its checksum; level: of the compression, zstd's own where left out."""
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, compression="zstd", compression_level=level, write_page_checksum=True)
    return sink.getvalue()

"""From names to classes and back, for the registries of tasks and tools."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module


def unknown(what: str, name: str, allowed: Iterable[str]) -> ValueError:
    """The error for a name that is not among `allowed`, with the closest match and everything allowed in one line."""
    known = list(allowed)
    close = get_close_matches(name, known, 1, 0.5)
    hint = f", did you mean {close[0]!r}?" if close else ""
    return ValueError(f"unknown {what} {name!r}{hint} (allowed: {', '.join(known) or 'nothing'})")


def resolve(kind: str, name: str, table: Mapping[str, str]) -> type:
    """The class that `name` stands for: a key of `table`, or an import path `module:Class`.

    Raises:
        ValueError: neither of the two, or the import fails.
    """
    path = table.get(name, name)
    if ":" not in path:
        raise unknown(kind, name, [*table, "an import path `module:Class`"])
    module, _, attribute = path.partition(":")
    try:
        home = import_module(module)
    except (ImportError, ValueError, TypeError, SyntaxError) as error:
        raise ValueError(f"{kind} {name!r} cannot be imported: {error}") from error
    try:
        found = getattr(home, attribute)
    except AttributeError as error:
        raise ValueError(f"{kind} {name!r} cannot be imported: {error}") from error
    if not isinstance(found, type):
        raise ValueError(f"{kind} {name!r} is a {type(found).__name__}, must be a class")
    return found


def name_of(cls: type, table: Mapping[str, str]) -> str:
    """The key of `table` that leads to `cls`, else its import path."""
    path = f"{cls.__module__}:{cls.__qualname__}"
    return next((name for name, value in table.items() if value == path), path)

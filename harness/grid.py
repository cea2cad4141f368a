"""From a grid file to cells: reading, `--set`, axes, recipes, and the id that names a cell by its content."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from harness.config import Cell, Evaluate, GridFile, Train
from harness.errors import UserError, unknown

Model = TypeVar("Model", bound=BaseModel)

TRAINING_REVISION = 1
"""Raised when the same cell would train to other weights than before."""
EVALUATION_REVISION = 1
"""Raised when the same weights would get other result rows than before."""


@dataclass(frozen=True)
class Resolved:
    """One cell with every field settled."""

    id: str
    """Hash of what decides its weights."""
    name: str
    """Its values on the axes, for people."""
    config: Cell


@dataclass(frozen=True)
class Grid:
    file: GridFile
    text: str
    """The grid file as it was read, with `--set` applied."""
    cells: list[Resolved]


def load(path: str, sets: Sequence[str] = ()) -> Grid:
    """Read a grid file and expand it. Raises UserError with one line saying what is wrong and where."""
    found = _find(path)
    try:
        raw = yaml.safe_load(found.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: a grid file is a mapping with the keys {', '.join(GridFile.model_fields)}")
    for item in sets:
        apply_set(raw, item)
    file = validate(GridFile, raw, str(path))
    return Grid(file, yaml.safe_dump(raw, sort_keys=False), expand(file, str(path)))


def _find(path: str) -> Path:
    """The file at `path`, or the shipped grid of that name."""
    shipped = {file.stem: file for file in (Path(__file__).parent / "grids").glob("*.yaml")}
    if Path(path).is_file():
        return Path(path)
    if path in shipped:
        return shipped[path]
    raise UserError(f"{path}: no such grid file; shipped grids: {', '.join(sorted(shipped))}")


def apply_set(raw: dict[str, Any], item: str) -> None:
    """Apply one `--set key=value`: a key of the grid file (`evaluate.problems`), or a cell field, which then holds for
    every cell (a list makes it an axis)."""
    key, separator, text = item.partition("=")
    if not separator or not key:
        raise UserError(f"--set {item!r}: write key=value, for example train.steps=200")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {item!r}: the value is not valid YAML") from error
    if key.split(".")[0] in GridFile.model_fields:
        _place(raw, key, value)
        return
    check_field(key, "--set")
    axes = raw.setdefault("axes", {})
    for axis in [axis for axis in axes if _within(axis, key)]:
        del axes[axis]
    overrides = raw.setdefault("overrides", [])
    if isinstance(value, list) and not key.startswith("model."):
        axes[key] = value
        for override in overrides:
            _forget(override.get("set", {}), key.split("."))
    else:
        overrides.append({"where": {}, "set": _nest(key, value)})
    if not axes:
        axes["seed"] = [0]


def expand(file: GridFile, where: str) -> list[Resolved]:
    """The cells of a grid, in the order of its axes, each once. Raises UserError for an impossible one."""
    for axis in file.axes:
        check_field(axis, f"{where}: axes")
    for index, override in enumerate(file.overrides):
        for key in _flatten(override.where):
            check_field(key, f"{where}: overrides[{index}].where")
    cells: dict[str, Resolved] = {}
    for raw in _combinations(file, where):
        for override in file.overrides:
            if matches(raw, override.where):
                raw = merge(raw, nested(override.set))
        resolved = resolve(raw, list(file.axes), where)
        check_stress(file.evaluate, resolved, where)
        cells.setdefault(resolved.id, resolved)
    if not cells:
        raise UserError(f"{where}: `exclude` leaves no cell")
    return list(cells.values())


def _combinations(file: GridFile, where: str) -> Iterator[dict[str, Any]]:
    for key in (key for entry in file.exclude for key in _flatten(entry)):
        check_field(key, f"{where}: exclude")
    for values in itertools.product(*file.axes.values()):
        raw = nested(file.base)
        for axis, value in zip(file.axes, values, strict=True):
            raw = merge(raw, _nest(axis, value))
        if not any(matches(raw, entry) for entry in file.exclude):
            yield raw
    for extra in file.include:
        yield merge(nested(file.base), nested(extra))


def resolve(raw: Mapping[str, Any], axes: Sequence[str] = (), where: str = "cell") -> Resolved:
    """A cell with defaults filled in, checked for what is impossible, and named by its content."""
    from models.build import full_options
    from tasks.scenario import Scenario

    cell = validate(Cell, raw, where)
    try:
        scenario = Scenario(cell.task, cell.setting, cell.tool, form=cell.form)
        options, model_revision = full_options(cell.architecture, cell.size, cell.model)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    data_seed = cell.seed if cell.data_seed is None else cell.data_seed
    cell = cell.model_copy(update={"tool": scenario.tool_name, "data_seed": data_seed})
    content = {
        "cell": changed(cell, leave_out={"size", "model"}),
        "model": options,
        "revisions": {"training": TRAINING_REVISION, "model": model_revision, **scenario.revisions},
    }
    return Resolved(digest(content), name_of(cell, axes), cell)


def check_stress(evaluate: Evaluate, cell: Resolved, where: str) -> None:
    """Raise UserError unless the cell's task has all the problem sets asked for."""
    from tasks.scenario import Scenario

    known = {"jittered", *Scenario(cell.config.task, cell.config.setting).task.stress}
    for name in evaluate.stress:
        if name not in known:
            raise unknown(f"problem set of task {cell.config.task}", name, known, f"{where}: evaluate.stress")


def digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def changed(model: BaseModel, leave_out: set[str] = frozenset()) -> dict[str, Any]:  # type: ignore[assignment]
    """The fields that differ from their defaults, so that a new field with a default renames no cell."""
    result = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if name in leave_out or value == field.default:
            continue
        result[name] = changed(value) if isinstance(value, BaseModel) else value
    return result


def evaluation_id(evaluate: Evaluate) -> str:
    """Hash of the evaluation settings that change a result (which points there are does not)."""
    relevant = {name: getattr(evaluate, name) for name in ("mode", "rollout_max", "budget", "precision")}
    return digest({"revision": EVALUATION_REVISION, **relevant})


def name_of(cell: Cell, axes: Sequence[str]) -> str:
    """For example `addition interactive gru seed=1`."""
    fixed = [cell.task, cell.setting, cell.architecture]
    flat = _flatten(cell.model_dump())
    plain = {"task", "setting", "architecture"}
    extra = [f"{axis.split('.')[-1]}={flat.get(axis)}" for axis in axes if axis not in plain and axis != "seed"]
    return " ".join([*fixed, *extra, f"seed={cell.seed}"])


def validate(kind: type[Model], raw: Any, where: str) -> Model:
    """Pydantic's check with its complaints as one line: file, key, what is allowed, closest match."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise UserError("; ".join(_complaint(kind, item, where) for item in error.errors()[:3])) from error


def _complaint(kind: type[BaseModel], item: Mapping[str, Any], where: str) -> str:
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        allowed: Any = kind
        for part in item["loc"][:-1]:
            field = getattr(allowed, "model_fields", {}).get(part)
            allowed = field.annotation if field else allowed
        *parents, key = (str(part) for part in item["loc"])
        inside = ": ".join([where, *([".".join(parents)] if parents else [])])
        return str(unknown("key", key, getattr(allowed, "model_fields", {}), inside))
    given = item.get("input")
    shown = f", not {given!r}" if isinstance(given, str | int | float) and item["type"] != "missing" else ""
    return f"{where}: {place}: {item['msg'].removeprefix('Value error, ')}{shown}"


def check_field(key: str, where: str) -> None:
    """Raise UserError unless `key` names a field of a cell (`model.X` is checked by the architecture)."""
    nested = {f"train.{name}" for name in Train.model_fields}
    if not key.startswith("model.") and key not in nested | set(Cell.model_fields):
        raise unknown("key", key, nested | set(Cell.model_fields) | {"model.OPTION"}, where)


def matches(raw: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a cell has all the wanted values (a list: any of them); a field left out has its default."""
    defaults = _flatten(Cell().model_dump())
    flat = {**defaults, **_flatten(raw)}
    return all(
        flat.get(key) in value if isinstance(value, list) else flat.get(key) == value
        for key, value in _flatten(wanted).items()
    )


def merge(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`extra` on top of `base`, mappings merged key by key; neither is changed."""
    result = dict(base)
    for key, value in extra.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def nested(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys (`train.steps: 5`) written as nested mappings."""
    result: dict[str, Any] = {}
    for key, value in raw.items():
        result = merge(result, _nest(key, nested(value) if isinstance(value, Mapping) else value))
    return result


def _nest(key: str, value: Any) -> dict[str, Any]:
    head, _, rest = key.partition(".")
    return {head: _nest(rest, value) if rest else value}


def _flatten(raw: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in raw.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _place(raw: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        raw = raw.setdefault(parent, {})
        if not isinstance(raw, dict):
            raise UserError(f"--set {key}: {parent} is not a mapping")
    raw[last] = value


def _within(axis: str, key: str) -> bool:
    return axis == key or axis.startswith(f"{key}.")


def _forget(settings: dict[str, Any], path: list[str]) -> None:
    if len(path) > 1 and isinstance(settings.get(path[0]), dict):
        _forget(settings[path[0]], path[1:])
    else:
        settings.pop(path[0], None)

"""From a grid file to cells: reading, `--set`, axes, recipes, and the id that names a cell by its content."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from harness.config import Cell, Evaluate, GridFile, Run, Train
from harness.errors import UserError, unknown

if TYPE_CHECKING:
    from tasks.scenario import Scenario

Model = TypeVar("Model", bound=BaseModel)

TRAINING_REVISION = 1
"""Raised when the same cell would train to other weights than before."""
EVALUATION_REVISION = 1
"""Raised when the same weights would get other result rows than before."""


_FORM = Cell.model_fields["form"].default


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
    own: Mapping[str, Evaluate] = field(default_factory=dict)
    """Cell id -> on what it is evaluated, where that is not `file.evaluate`."""
    own_runs: Mapping[str, Run] = field(default_factory=dict)
    """Cell id -> how it is carried out, where that is not `file.run`."""

    def evaluate(self, cell: Resolved) -> Evaluate:
        """On what a cell of this grid is evaluated."""
        return self.own.get(cell.id, self.file.evaluate)

    def run(self, cell: Resolved) -> Run:
        """How a cell of this grid is carried out."""
        return self.own_runs.get(cell.id, self.file.run)


def load(path: str, sets: Sequence[str] = ()) -> Grid:
    """Read a grid file and expand it. Raises UserError with one line saying what is wrong and where."""
    found = _find(path)
    try:
        text = found.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    return parse(text, str(path), sets)


def parse(text: str, path: str, sets: Sequence[str] = ()) -> Grid:
    """Expand the text of a grid file; `path` is where it was found, for messages."""
    try:
        raw = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: a grid file is a mapping with the keys {', '.join(GridFile.model_fields)}")
    file = validate(GridFile, raw, path)
    for item in sets:
        apply_set(raw, item)
        file = validate(GridFile, raw, path)
    if file.run.kernels:
        _check_kernels(file.run.kernels, path)
    grid = expand(file, yaml.safe_dump(raw, sort_keys=False), path)
    if file.search is not None:
        from harness.search import check

        check(grid)
    return grid


def _check_kernels(names: Mapping[str, str], where: str) -> None:
    from models.kernels.choose import check

    try:
        check(names)
    except ValueError as error:
        raise UserError(f"{where}: run.{error}") from error


class _Loader(yaml.SafeLoader):
    """YAML in which a key stands once: plain YAML lets the last one win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
        twice = [key for at, key in enumerate(keys) if key in keys[:at]]
        if twice:
            raise yaml.YAMLError(f"key {twice[0]!r} stands twice,{node.start_mark}")
        return super().construct_mapping(node, deep)


def _find(path: str) -> Path:
    """The file at `path`, or the shipped grid of that name."""
    shipped = {file.stem: file for file in (Path(__file__).parent / "grids").glob("*.yaml")}
    if Path(path).is_file():
        return Path(path)
    if path in shipped:
        return shipped[path]
    raise UserError(f"{path}: no such grid file; shipped grids: {', '.join(sorted(shipped))}")


def apply_set(raw: dict[str, Any], item: str) -> None:
    """Apply one `--set key=value` to a valid grid: a key of the grid file (`evaluate.problems`), or a cell field.

    A cell field becomes an axis of that value (or those of a list), whatever axes, recipes and, for a single value,
    `include` said of it. An option `model.X` holds for every cell; its value may itself be a list.
    """
    key, separator, text = item.partition("=")
    if not separator or not key:
        raise UserError(f"--set {item!r}: write key=value, for example train.steps=200")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {item!r}: the value is not valid YAML") from error
    if key.split(".")[0] in GridFile.model_fields:
        _place(raw, key, value)
        head, *rest = key.split(".")
        if head == "evaluate" and rest:
            for override in raw.get("overrides", []):
                _forget(override.get("evaluate", {}), rest)
        return
    check_field(key, "--set")
    axes, overrides = raw["axes"], raw.setdefault("overrides", [])
    for axis in [axis for axis in axes if axis.startswith(f"{key}.")]:
        del axes[axis]
    if key.startswith("model.") or isinstance(value, Mapping):
        axes.pop(key, None)
        overrides.append({"set": _nest(key, value)})
        if not axes:
            axes["seed"] = [0]
        return
    axes[key] = value if isinstance(value, list) else [value]
    for override in overrides:
        override["set"] = nested(override.get("set", {}))
        _forget(override["set"], key.split("."))
    if not isinstance(value, list):
        raw["include"] = [merge(nested(entry), _nest(key, value)) for entry in raw.get("include", [])]


def expand(file: GridFile, text: str, where: str) -> Grid:
    """The cells of a grid, in the order of its axes, each once. Raises UserError for an impossible one."""
    for axis in file.axes:
        check_field(axis, f"{where}: axes")
    recipes = []
    for at, override in enumerate(file.overrides):
        place = f"{where}: overrides[{at}]"
        validate(Cell, merge(nested(file.base), nested(override.set)), f"{place}.set")
        _changed(file.evaluate, override.evaluate, f"{place}.evaluate")
        _changed(file.run, override.run, f"{place}.run")
        recipes.append((wanted_values(override.where, f"{place}.where"), nested(override.set), override))
    cells: dict[str, Resolved] = {}
    own: dict[str, Evaluate] = {}
    own_runs: dict[str, Run] = {}
    facts = cache(facts_of)
    stress = cache(stress_sets)
    for raw in _combinations(file, where):
        asked: dict[str, Any] = {}
        carried: dict[str, Any] = {}
        for wanted, settings, override in recipes:
            if matches(raw, wanted, where):
                raw, asked = merge(raw, settings), merge(asked, override.evaluate)
                carried = merge(carried, override.run)
        resolved = resolve(raw, where, facts)
        evaluate = _changed(file.evaluate, asked, where)
        check_stress(evaluate, resolved.config.task, stress(resolved.config.task, resolved.config.setting), where)
        cells.setdefault(resolved.id, resolved)
        if asked:
            own.setdefault(resolved.id, evaluate)
        if carried:
            own_runs.setdefault(resolved.id, _changed(file.run, carried, where))
    if not cells:
        raise UserError(f"{where}: `exclude` leaves no cell")
    return Grid(file, text, named(list(cells.values())), own, own_runs)


def _changed(base: Model, changes: Mapping[str, Any], where: str) -> Model:
    return validate(type(base), {**base.model_dump(), **changes}, where) if changes else base


def _combinations(file: GridFile, where: str) -> Iterator[dict[str, Any]]:
    excluded = [wanted_values(entry, f"{where}: exclude") for entry in file.exclude]
    for values in itertools.product(*file.axes.values()):
        raw = nested(file.base)
        for axis, value in zip(file.axes, values, strict=True):
            raw = merge(raw, _nest(axis, value))
        if not any(matches(raw, wanted, where) for wanted in excluded):
            yield raw
    for extra in file.include:
        yield merge(nested(file.base), nested(extra))


@dataclass(frozen=True)
class Facts:
    """What a cell gets from its task, tool and architecture, whatever its seeds."""

    task: str
    tool: str
    tool_options: Mapping[str, Any]
    shares: Mapping[str, float]
    architecture: str
    options: Mapping[str, Any]
    revisions: Mapping[str, Any]
    stress: Sequence[str]


def facts_of(words: str) -> Facts:
    """The facts of a cell, from its `_words`. Raises ValueError for what is impossible."""
    from models import ARCHITECTURES
    from models.build import full_options
    from models.build import resolve as architecture_class
    from tasks.mixture import Mixture, bind
    from tasks.resolve import name_of

    task, setting, tool, form, tool_options, mixture, max_length, architecture, size, model = json.loads(words)
    scenario = bind(task, setting, tool, form, tool_options, mixture)
    if scenario.changed_options:
        _try_tool(scenario, max_length)
    options, revision = full_options(architecture, size, model)
    if model or architecture not in ARCHITECTURES:  # presets of ours go together, and trying takes seconds
        _try_model(architecture, size, json.dumps(model), len(scenario.vocabulary))
    return Facts(
        scenario.task.name,
        scenario.tool_name,
        scenario.changed_options,
        scenario.shares if isinstance(scenario, Mixture) else {},
        name_of(architecture_class(architecture), ARCHITECTURES),
        options,
        {"training": TRAINING_REVISION, "model": revision, **scenario.revisions},
        tuple(scenario.task.stress),
    )


def _words(cell: Cell) -> str:
    """All that the facts of a cell depend on."""
    words = (cell.task, cell.setting, cell.tool, cell.form, cell.tool_options, cell.train.mixture)
    return json.dumps((*words, cell.train.max_length, cell.architecture, cell.size, cell.model))


def resolve(raw: Mapping[str, Any], where: str = "cell", facts: Callable[[str], Facts] = facts_of) -> Resolved:
    """A cell with defaults filled in, checked for what is impossible, and named by its content.

    facts: `facts_of`, or the same with a memory, for many cells that differ in little.
    """
    cell = validate(Cell, raw, where)
    try:
        known = facts(_words(cell))
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    for name in cell.train.stress:
        if name not in known.stress:
            raise unknown(f"stress set of {known.task}", name, known.stress, f"{where}: train.stress")
    stop_after = cell.train.stop_after if cell.train.last < cell.train.steps else None
    cell = cell.model_copy(
        update={
            "train": cell.train.model_copy(update={"mixture": dict(known.shares), "stop_after": stop_after}),
            "task": known.task,
            "form": cell.form if cell.setting in ("interactive", "cot") else _FORM,  # elsewhere nothing differs
            "tool": known.tool,
            "tool_options": dict(known.tool_options),
            "architecture": known.architecture,
            "data_seed": cell.seed if cell.data_seed is None else cell.data_seed,
        }
    )
    training = changed(cell.train, leave_out=("validation",))  # it measures the weights and does not change them
    content = {
        "cell": {**changed(cell, leave_out=("size", "model", "train")), "train": training},
        "model": known.options,
        "revisions": known.revisions,
    }
    return Resolved(digest(content), f"{cell.task} {cell.setting} {cell.architecture} seed={cell.seed}", cell)


def unstopped(cell: Resolved) -> Resolved:
    """The cell without `train.stop_after`, whose weights are the same up to there."""
    if cell.config.train.stop_after is None:
        return cell
    return resolve(merge(cell.config.model_dump(), {"train": {"stop_after": None}}), cell.name)


def _try_tool(scenario: Scenario, length: int) -> None:
    """Raise ValueError unless the solver can work with the tool's options, as far as one problem shows."""
    try:
        scenario.record(scenario.task.sample_training(random.Random(0), length))
    except RuntimeError as error:
        raise ValueError(f"tool_options {scenario.changed_options}: {error}") from error


@cache
def _try_model(architecture: str, size: str, options: str, vocabulary: int) -> None:
    """Raise ValueError for options that do not go together; nothing is allocated."""
    from models.build import build

    build(architecture, size, vocabulary, json.loads(options), device="meta")


def named(cells: list[Resolved]) -> list[Resolved]:
    """Cells with names that tell apart those of one task, setting and architecture by what differs among them."""
    dumped = [cell.config.model_dump(exclude={"seed", "data_seed"}) for cell in cells]
    kinds = [repr(mine) for mine in dumped]  # of very many cells, few differ in more than seeds
    groups: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for kind, (mine, cell) in dict(zip(kinds, zip(dumped, cells))).items():
        groups.setdefault(_group(cell), {})[kind] = _flatten(mine)
    told = {}
    for group, members in groups.items():
        varying = _varying(list(members.values()))
        for kind, mine in members.items():
            told[kind] = " ".join([*group, *(f"{key.split('.')[-1]}={mine.get(key)}" for key in varying)])
    return [replace(cell, name=f"{told[kind]} seed={cell.config.seed}") for cell, kind in zip(cells, kinds)]


def _group(cell: Resolved) -> tuple[str, str, str]:
    return cell.config.task, cell.config.setting, cell.config.architecture


def _varying(members: list[dict[str, Any]]) -> list[str]:
    """The fields in which some of the cells differ."""
    keys = dict.fromkeys(key for member in members for key in member)
    return [key for key in keys if any(member.get(key) != members[0].get(key) for member in members)]


def stress_sets(task: str, setting: str) -> Sequence[str]:
    """The problem sets a task has beside the random ones."""
    from tasks.scenario import Scenario

    return "jittered", *Scenario(task, setting).task.stress


def check_stress(evaluate: Evaluate, task: str, known: Sequence[str], where: str) -> None:
    """Raise UserError unless all the problem sets asked for are known of the cell's task."""
    for name in evaluate.stress:
        if name not in known:
            raise unknown(f"problem set of task {task}", name, known, f"{where}: evaluate.stress")


def digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def changed(model: BaseModel, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """The fields that differ from their defaults, so that a new field with a default renames no cell."""
    result = {}
    for name, known in type(model).model_fields.items():
        value = getattr(model, name)
        if name in leave_out or value == known.default:
            continue
        result[name] = changed(value) if isinstance(value, BaseModel) else value
    return result


@cache
def evaluation_id(evaluate: Evaluate) -> str:
    """Hash of the evaluation settings that change a result (which points there are does not)."""
    relevant = {name: getattr(evaluate, name) for name in ("mode", "rollout_max", "budget", "precision")}
    control = {"corrupt": evaluate.corrupt} if evaluate.corrupt else {}
    drawn = {"temperature": evaluate.temperature} if evaluate.temperature else {}
    drawn |= {"top_k": evaluate.top_k} if evaluate.top_k else {}
    chunked = evaluate.mode != "live" and evaluate.chunk != Evaluate.model_fields["chunk"].default
    chunk = {"chunk": evaluate.chunk} if chunked else {}
    bounded = {"rollout_max_tokens": evaluate.rollout_max_tokens} if evaluate.rollout_max_tokens else {}
    return digest({"revision": EVALUATION_REVISION, **relevant, **control, **drawn, **chunk, **bounded})


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
            allowed = next(iter(get_args(allowed)), allowed)  # the entries of a list
        *parents, key = (str(part) for part in item["loc"])
        inside = ": ".join([where, *([".".join(parents)] if parents else [])])
        return str(unknown("key", key, getattr(allowed, "model_fields", {}), inside))
    given = item.get("input")
    shown = f", not {given!r}" if isinstance(given, str | int | float) and item["type"] != "missing" else ""
    where = f"{where}: {place}" if place else where
    return f"{where}: {item['msg'].removeprefix('Value error, ')}{shown}"


def check_field(key: str, where: str) -> None:
    """Raise UserError unless `key` names a field of a cell; what stands behind an open one is checked elsewhere."""
    known = {f"train.{name}" for name in Train.model_fields} | set(Cell.model_fields)
    open_ended = {"model.": "OPTION", "tool_options.": "OPTION", "train.mixture.": "TASK", "train.stress.": "SET"}
    if key not in known and not key.startswith(tuple(open_ended)):
        raise unknown("key", key, known | {field + what for field, what in open_ended.items()}, where)


def wanted_values(wanted: Mapping[str, Any], where: str) -> dict[str, list[Any]]:
    """Cell field -> the values that match, read as a cell would read them. Raises UserError for impossible ones."""
    result = {}
    for key, values in _flatten(nested(wanted)).items():
        check_field(key, where)
        result[key] = [_read(key, value, where) for value in (values if isinstance(values, list) else [values])]
    return result


def _read(key: str, value: Any, where: str) -> Any:
    from models.build import resolve as architecture_class
    from tasks import TASKS
    from tasks.base import SETTINGS
    from tasks.resolve import resolve as class_of
    from tools import TOOLS

    read = _flatten(validate(Cell, _nest(key, value), where).model_dump()).get(key)
    try:
        if key == "architecture":
            architecture_class(value)
        elif key in ("task", "tool") and value is not None:
            class_of(key, value, TASKS if key == "task" else TOOLS)
        elif key == "setting" and value not in SETTINGS:
            raise unknown("setting", value, SETTINGS)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    return read


def matches(raw: Mapping[str, Any], wanted: Mapping[str, list[Any]], where: str) -> bool:
    """Whether a cell has, for every field, one of the wanted values; a field left out has its default."""
    if not wanted:
        return True
    flat = _flatten(validate(Cell, raw, where).model_dump())
    return all(flat.get(key) in values for key, values in wanted.items())


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
        if not isinstance(key, str):
            raise UserError(f"key {key!r} is not a name")
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


def _forget(settings: dict[str, Any], path: list[str]) -> None:
    if len(path) > 1 and isinstance(settings.get(path[0]), dict):
        _forget(settings[path[0]], path[1:])
    else:
        settings.pop(path[0], None)

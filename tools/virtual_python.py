"""A Python for small programs, which runs nothing: assignments, prints and calls between files, with real tracebacks.

What it knows is what the programs of the task `code_fix` are made of, right or broken: `from f1 import f1`, functions
of plain parameters, `name = number`, `print(..)` and calls as statements. It prints what CPython (3.11 or later) prints
under the environment of the sandbox, errors included, or raises `Beyond`; it never guesses.
"""

from __future__ import annotations

import builtins
import keyword
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

STEPS = 400_000
"""Calls and statements of functions in one run, at most."""
KEPT = 1 << 13
"""Bytes of a file whose statements are kept from run to run, at most."""
DEEPEST = 400
"""Frames on top of each other, at most: CPython has a limit, too, but a traceback of another form there."""
LARGEST = 1 << 20
"""Bytes of output, at most."""


class Beyond(Exception):
    """The program, or the command, is beyond what is emulated."""


@dataclass(frozen=True)
class Call:
    """A call as a statement."""

    line: int
    text: str
    name: str
    arguments: tuple[str | int, ...]


@dataclass(frozen=True)
class Assign:
    line: int
    text: str
    name: str
    value: str | int


@dataclass(frozen=True)
class Import:
    line: int
    text: str
    module: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Function:
    line: int
    name: str
    parameters: tuple[str, ...]
    body: tuple[Statement, ...]
    variables: tuple[str, ...]
    """Its local names, in the order CPython keeps them."""


Statement = Call | Assign | Import | Function

_NAME = r"[A-Za-z_]\w*"
_ARGUMENT = rf"(?:{_NAME}|0|[1-9]\d{{0,8}})"
_LIST = rf"(?:{_ARGUMENT}(?: *, *{_ARGUMENT})*)?"
_CALL = re.compile(rf"({_NAME})\( *({_LIST}) *\)", re.ASCII)
_ASSIGN = re.compile(rf"({_NAME}) *= *({_ARGUMENT})", re.ASCII)
_IMPORT = re.compile(rf"from ({_NAME}) import ({_NAME}(?:, *{_NAME})*)", re.ASCII)
_DEF = re.compile(rf"def ({_NAME})\( *((?:{_NAME}(?: *, *{_NAME})*)?) *\):", re.ASCII)
_RESERVED = {*keyword.kwlist, *keyword.softkwlist}


def parsed(source: bytes) -> tuple[Statement, ...]:
    """The statements of a file. Raises Beyond for anything else, syntax errors included."""
    return (_parsed if len(source) <= KEPT else _parsed.__wrapped__)(source)


@lru_cache(1 << 13)
def _parsed(source: bytes) -> tuple[Statement, ...]:
    try:
        text = source.decode("ascii")
    except UnicodeDecodeError:
        raise Beyond("a program that is not ASCII") from None
    if len(text) > 100_000 or any(char < " " and char != "\n" for char in text):
        raise Beyond("a program that is long or has control characters")
    found: list[Statement] = []
    body: list[Statement] | None = None
    head: tuple[int, str, tuple[str, ...]] | None = None

    def close() -> None:
        nonlocal body, head
        if head is not None:
            if not body:
                raise Beyond("a function without a body")
            assigned = (statement.name for statement in body if isinstance(statement, Assign))
            found.append(Function(*head, tuple(body), tuple(dict.fromkeys((*head[2], *assigned)))))
        body = head = None

    for number, line in enumerate(text.split("\n"), 1):
        bare = line.strip(" ")
        if not bare or bare.startswith("#"):
            continue
        if line.startswith("    ") and line[4] != " " and body is not None:
            body.append(_statement(number, bare))
            continue
        if line.startswith(" "):
            raise Beyond(f"line {number}: {bare[:60]!r}")
        close()
        if match := _DEF.fullmatch(bare):
            names = tuple(re.findall(_NAME, match[2]))
            if len(set(names)) < len(names):
                raise Beyond(f"line {number}: a parameter that stands twice")
            head, body = (number, _known(match[1]), tuple(map(_known, names))), []
        else:
            found.append(_statement(number, bare))
    close()
    _check(found)
    return tuple(found)


def _statement(number: int, text: str) -> Statement:
    if match := _CALL.fullmatch(text):
        return Call(number, text, _known(match[1]), tuple(map(_value, re.findall(r"\w+", match[2]))))
    if match := _ASSIGN.fullmatch(text):
        return Assign(number, text, _known(match[1]), _value(match[2]))
    if match := _IMPORT.fullmatch(text):
        if match[1] in sys.stdlib_module_names or match[1] in ("main", "__main__") or match[1].startswith("_"):
            raise Beyond(f"the module {match[1]}")
        return Import(number, text, match[1], tuple(map(_known, re.findall(_NAME, match[2]))))
    raise Beyond(f"line {number}: {text[:60]!r}")


def _known(name: str) -> str:
    if name in _RESERVED or name.startswith("__"):
        raise Beyond(f"the name {name}")
    return name


def _value(text: str) -> str | int:
    return int(text) if text[0].isdigit() else _known(text)


def _check(found: Sequence[Statement]) -> None:
    for statement in found:
        if isinstance(statement, Function) and any(isinstance(part, Import) for part in statement.body):
            raise Beyond("an import in a function")


@dataclass(frozen=True)
class Frame:
    file: str
    line: int
    where: str
    text: str

    def __str__(self) -> str:
        return f'  File "{self.file}", line {self.line}, in {self.where}\n    {self.text}\n'


class _Raised(Exception):
    """An error of the program, on its way up."""

    def __init__(self, message: str) -> None:
        self.message = message
        self.frames: list[Frame] = []


@dataclass
class _Module:
    name: str
    file: str
    globals: dict[str, Value] = field(default_factory=dict)
    begun: bool = True


class Bound(NamedTuple):
    """A function, and the module whose names it sees."""

    function: Function
    home: _Module


Value = int | Bound


class _Run:
    def __init__(self, files: Mapping[str, bytes], folder: str) -> None:
        self.files, self.folder = files, folder
        self.modules: dict[str, _Module] = {}
        self.printed: list[str] = []
        self.size = self.steps = self.imports = 0

    def module(self, name: str, file: str) -> _Module:
        made = _Module(name, f"{self.folder}/{file}")
        self.modules[name] = made
        for statement in parsed(self.files[file]):
            if statement.__class__ is Function:
                made.globals[statement.name] = Bound(statement, made)  # type: ignore[arg-type, union-attr]
                continue
            try:
                self.top(statement, made)
            except _Raised as error:
                line, text = statement.line, "" if isinstance(statement, Function) else statement.text
                error.frames.append(Frame(made.file, line, "<module>", text))
                raise
        made.begun = False
        return made

    def top(self, statement: Statement, module: _Module) -> None:
        if isinstance(statement, Import):
            self.load(statement, module)
        elif isinstance(statement, Assign):
            module.globals[statement.name] = self.look(statement.value, None, {}, module)
        else:
            assert isinstance(statement, Call)
            self.call(statement, None, {}, module, 1)

    def load(self, statement: Import, into: _Module) -> None:
        name = statement.module
        found = self.modules.get(name)
        if found is None:
            if f"{name}.py" not in self.files:
                if any(file.startswith((f"{name}/", f"{name}.")) for file in self.files):
                    raise Beyond(f"the module {name}")
                raise _Raised(f"ModuleNotFoundError: No module named '{name}'")
            self.imports += 1
            if self.imports > DEEPEST // 8:
                raise Beyond("a program that imports so deep")
            found = self.module(name, f"{name}.py")
            self.imports -= 1
        if found.begun:
            raise Beyond("modules that import each other")
        for wanted in statement.names:
            if wanted not in found.globals:
                raise _Raised(f"ImportError: cannot import name '{wanted}' from '{name}' ({found.file})")
            into.globals[wanted] = found.globals[wanted]

    def call(self, call: Call, function: Function | None, local: dict[str, Value], module: _Module, depth: int) -> None:
        """Evaluate the callee, then the arguments, then call."""
        called: Value | None
        name = call.name
        if name in local:
            called = local[name]
        elif function is not None and name in function.variables:
            called = self.look(name, function, local, module)  # which fails
        elif name in module.globals:
            called = module.globals[name]
        else:
            called = None if name == "print" else self.look(name, function, local, module)
        values = [local[what] if what in local else self.look(what, function, local, module) for what in call.arguments]
        if called.__class__ is Bound:
            self.bind(called, values, depth)  # type: ignore[arg-type]
        elif called is None:
            self.print(values)
        else:
            raise _Raised("TypeError: 'int' object is not callable")

    def print(self, values: Sequence[Value]) -> None:
        for value in values:
            if value.__class__ is not int:
                raise Beyond("a function that is printed")
        line = " ".join(map(str, values)) + "\n"
        self.size += len(line)
        if self.size > LARGEST:
            raise Beyond("much output")
        self.printed.append(line)

    def bind(self, called: Bound, values: list[Value], depth: int) -> None:
        function, home = called
        body, parameters = function.body, function.parameters
        self.steps += 1 + len(body)
        if self.steps > STEPS or depth > DEEPEST:
            raise Beyond("a program that does so much")
        if len(values) != len(parameters):
            raise _Raised(f"TypeError: {function.name}() {_mismatch(parameters, len(values))}")
        local: dict[str, Value] = dict(zip(parameters, values))
        for statement in body:
            try:
                if statement.__class__ is Call:
                    self.call(statement, function, local, home, depth + 1)  # type: ignore[arg-type]
                else:
                    assert isinstance(statement, Assign)
                    local[statement.name] = self.look(statement.value, function, local, home)
            except _Raised as error:
                assert isinstance(statement, Call | Assign)
                error.frames.append(Frame(home.file, statement.line, function.name, statement.text))
                raise

    def look(self, what: str | int, function: Function | None, local: dict[str, Value], module: _Module) -> Value:
        if isinstance(what, int):
            return what
        if what in local:
            return local[what]
        if function is not None and what in function.variables:
            raise _Raised(
                f"UnboundLocalError: cannot access local variable '{what}' where it is not associated with a value"
            )
        if what in module.globals:
            return module.globals[what]
        if hasattr(builtins, what) or what in sys.stdlib_module_names:
            raise Beyond(f"the name {what}")
        names = [() if function is None else function.variables, (*_HIDDEN, *module.globals), dir(builtins)]
        near = next(filter(None, (_nearest(what, known) for known in names)), None)
        raise _Raised(f"NameError: name '{what}' is not defined{f'. Did you mean: {near!r}?' if near else ''}")


_HIDDEN = ("__name__", "__doc__", "__package__", "__loader__", "__spec__", "__file__", "__cached__", "__builtins__")


def run(files: Mapping[str, bytes], file: str, folder: str) -> tuple[str, str, int]:
    """What `python FILE` prints to its output and, after that, to its error output, and its exit status.

    Raises:
        Beyond: the program is beyond what is emulated.
    """
    state = _Run(files, folder)
    try:
        state.module("__main__", file)
    except _Raised as error:
        frames = "".join(map(str, reversed(error.frames)))
        return "".join(state.printed), f"Traceback (most recent call last):\n{frames}{error.message}\n", 1
    return "".join(state.printed), "", 0


def _mismatch(parameters: Sequence[str], given: int) -> str:
    """What CPython says of a call with another number of arguments."""
    missing = parameters[given:]
    if missing:
        return f"missing {len(missing)} required positional argument{'s' * (len(missing) > 1)}: {_listed(missing)}"
    takes = f"takes {len(parameters)} positional argument{'s' * (len(parameters) != 1)}"
    return f"{takes} but {given} {'was' if given == 1 else 'were'} given"


def _listed(names: Sequence[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    if len(quoted) < 3:
        return " and ".join(quoted)
    return f"{', '.join(quoted[:-1])}, and {quoted[-1]}"


def _nearest(name: str, known: Sequence[str]) -> str | None:
    """The name CPython suggests (Python/suggestions.c): the first of the least distance, if that is small enough."""
    best, least = None, sys.maxsize
    for other in known:
        if other == name or max(len(name), len(other)) > 40:
            continue
        most = min((len(name) + len(other) + 3) * 2 // 6, least - 1)
        distance = _distance(name, other)
        if distance <= most:
            best, least = other, distance
    return best


@lru_cache(1 << 14)
def _distance(one: str, other: str) -> int:
    """Levenshtein distance in which a change costs 2, one of case 1."""
    row = [2 * at for at in range(len(other) + 1)]
    for at, char in enumerate(one, 1):
        before, row[0] = row[0], 2 * at
        for place, theirs in enumerate(other, 1):
            change = 0 if char == theirs else 1 if char.lower() == theirs.lower() else 2
            before, row[place] = row[place], min(before + change, row[place] + 2, row[place - 1] + 2)
    return row[-1]

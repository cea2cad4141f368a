"""A shell for trajectories that runs nothing: files and a command in, output and files out, in microseconds.

It knows echo, cat, ls, head, tail, sed, rm, pwd, true, false, cd to the folder itself, and python on small programs
(`tools.virtual_python`); quotes, globs of the folder, `;`, `&&`, `||`, pipes, here-documents and redirections. What it
knows it does as bash, GNU and CPython do in the sandbox, byte for byte; of everything else it says that it does not,
and leaves the files as they were.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tools import virtual_python
from tools.sandbox import WORK, Files, Ran
from tools.virtual_python import Beyond
from tools.virtual_sed import sed
from tools.virtual_syntax import Entry, Simple, Word, parsed

LARGEST = 1 << 20
"""Bytes of a file or of output, at most."""
FOLDER = 1 << 24
"""Bytes of all files, at most."""
STATUS = 2
"""Exit status of a command that is beyond this shell."""
_NAME = re.compile(r"[\w./-]+", re.ASCII)


class VirtualShell:
    """The backend `virtual`: deterministic, and the same on every machine."""

    repeats = True

    def run(self, files: Files, command: str) -> Ran:
        """As a sandbox runs it; what is beyond this shell has exit status 2 and changes nothing."""
        state = _State(dict(files), one_line="\n" not in command)
        try:
            status = _list(parsed(command), state)
            output = b"".join(state.output)
            if len(output) > LARGEST:
                raise Beyond("so much output")
        except Beyond as error:
            said = f"virtual shell: {error} is not supported\n"
            return Ran(said.encode("utf-8", "backslashreplace"), STATUS, files)
        left = state.files if state.changed else files
        return Ran(output, status, left)


@dataclass
class _State:
    files: dict[str, bytes]
    output: list[bytes] = field(default_factory=list)
    changed: bool = False
    one_line: bool = True
    written: int = 0
    """Bytes of all files written so far, some perhaps again and again."""

    def write(self, name: str, content: bytes) -> None:
        self.written += len(content)
        if len(content) > LARGEST or self.written > FOLDER:
            raise Beyond("so much written")
        if name not in self.files:
            self.files = dict(sorted({**self.files, name: content}.items()))
        else:
            self.files[name] = content
        self.changed = True


def _list(entries: Sequence[Entry], state: _State) -> int:
    status = 0
    for entry in entries:
        if (entry.operator == "&&" and status) or (entry.operator == "||" and not status):
            continue
        status = _pipeline(entry.commands, state)
    return status


def _pipeline(commands: Sequence[Simple], state: _State) -> int:
    given = b""
    status = writers = 0
    if len(commands) > 1 and any(_changes(command) for command in commands):
        raise Beyond("a change of files in a pipeline")
    for at, command in enumerate(commands):
        last = at == len(commands) - 1
        before = len(state.output)
        given, status = _simple(command, given, state, last)
        writers += any(state.output[before:])
    if writers > 1:
        raise Beyond("a pipeline of which two commands write to the output at once")
    return status


def _changes(command: Simple) -> bool:
    name = command.words[0].text
    inplace = name == "sed" and any(re.match(r"-[nEr]*i|--in-place", word.text) for word in command.words)
    return (
        name == "rm"
        or inplace
        or any(r.operator in (">", ">>") and r.word.text != "/dev/null" for r in command.redirections)
    )


def _simple(command: Simple, given: bytes, state: _State, last: bool) -> tuple[bytes, int]:
    """Run one command; what it hands to the next in the pipe, and its status."""
    words = [text for word in command.words for text in _expanded(word, state)]
    ours: list[bytes] = []
    piped: list[bytes] = []
    out, err = (ours if last else piped), ours
    kept: dict[str, list[bytes]] = {}

    for redirection in command.redirections:
        text = redirection.word.text
        if redirection.operator == "2>&1":
            err = out
        elif redirection.operator == "<<":
            given = text.encode()
        elif redirection.operator == "<":
            name = _name(text)
            if name not in state.files:
                if not state.one_line:
                    raise Beyond("an error of bash itself in a command of several lines")
                ours.append(_bash(f"{text}: No such file or directory"))
                state.output += ours
                return b"".join(piped), 1
            given = state.files[name]
        elif text == "/dev/null":
            if redirection.error:
                err = []
            else:
                out = []
        else:
            name = _writable(text, state)
            if name in kept:
                raise Beyond("two redirections to one file")
            kept[name] = [state.files.get(name, b"")] if redirection.operator == ">>" else []
            state.write(name, b"".join(kept[name]))  # bash opens it before the command reads
            if redirection.error:
                err = kept[name]
            else:
                out = kept[name]
    name, *arguments = words
    if any(argument.removeprefix(f"{WORK}/").removeprefix("./") in kept for argument in arguments):
        raise Beyond("a file that is read and written at once")
    if name not in COMMANDS:
        raise Beyond(f"the command {name[:40]!r}")
    with_files = _Call(name, arguments, given, state, out, err)
    status = COMMANDS[name](with_files)
    for file, content in kept.items():
        state.write(file, b"".join(content))
    state.output += ours
    if sum(map(len, state.output)) > LARGEST:
        raise Beyond("so much output")
    return b"".join(piped), status


@dataclass
class _Call:
    """One command as it runs."""

    name: str
    arguments: list[str]
    given: bytes
    state: _State
    out: list[bytes]
    err: list[bytes]

    def complain(self, message: str) -> None:
        self.err.append(f"{self.name}: {message}\n".encode())

    def read(self, file: str, complaint: str) -> bytes | None:
        """A file, or standard input for `-`; None, and a complaint, where there is none."""
        if file == "-":
            return self.given
        name = _name(file)
        if name in self.state.files:
            return self.state.files[name]
        self.complain(complaint.format(_quotable(file)))
        return None


def _bash(message: str) -> bytes:
    return f"bash: line 1: {message}\n".encode()


def _expanded(word: Word, state: _State) -> list[str]:
    if not word.globs:
        if not word.pieces:
            return []
        if re.match(r"[A-Za-z_]\w*=", word.pieces[0][0]) and not word.pieces[0][1]:
            raise Beyond("a variable")
        return [word.text]
    pattern = "".join(
        re.escape(text)
        if quoted
        else fnmatch.translate(text).removeprefix("(?s:").removesuffix(")\\Z").removesuffix(")\\z")
        for text, quoted in word.pieces
    )
    if "/" in word.text or word.text.startswith("-"):
        raise Beyond("such a pattern of file names")
    names = [name for name in sorted(_top(state)) if not name.startswith(".") and re.fullmatch(f"(?s:{pattern})", name)]
    return names or [word.text]


def _top(state: _State) -> list[str]:
    if any("/" in name for name in state.files):
        raise Beyond("a folder in the folder")
    return list(state.files)


def _name(text: str) -> str:
    """The file a path names. Raises Beyond for one outside of the folder, or in a folder of its own."""
    inside = text.removeprefix(f"{WORK}/")
    while inside.startswith("./"):
        inside = inside[2:].lstrip("/")
    if not inside or "/" in inside or inside in (".", ".."):
        raise Beyond(f"the path {text[:60]!r}")
    if len(inside) > 200 or not inside.isascii() or not inside.isprintable():
        raise Beyond("such a file name")
    return inside


def _writable(text: str, state: _State) -> str:
    name = _name(text)
    if not _NAME.fullmatch(name):
        raise Beyond("such a file name")
    _top(state)
    return name


def _echo(call: _Call) -> int:
    arguments, end = call.arguments, "\n"
    if arguments[:1] == ["-n"]:
        arguments, end = arguments[1:], ""
    if arguments and re.fullmatch(r"-[neE]+", arguments[0]):
        raise Beyond("such an option of echo")
    call.out.append((" ".join(arguments) + end).encode())
    return 0


def _cat(call: _Call) -> int:
    status = 0
    for file in _files(call):
        content = call.read(file, "{}: No such file or directory")
        if content is None:
            status = 1
        else:
            call.out.append(content)
    return status


def _files(call: _Call) -> list[str]:
    """Its arguments, all of which name files; standard input where there are none."""
    for argument in call.arguments:
        if argument.startswith("-") and argument != "-":
            raise Beyond(f"the option {argument[:20]!r} of {call.name}")
    return call.arguments or ["-"]


def _ls(call: _Call) -> int:
    listed: list[str] = []
    missing = 0
    options = [argument for argument in call.arguments if argument.startswith("-")]
    named = [argument for argument in call.arguments if not argument.startswith("-")]
    if options and options not in (["-1"], ["-a"]):
        raise Beyond(f"the options {' '.join(options)[:20]!r} of ls")
    if not named or named in (["."], [WORK], [f"{WORK}/"], ["./"]):
        hidden = options == ["-a"]
        listed = sorted(name for name in _top(call.state) if hidden or not name.startswith("."))
        listed = [".", "..", *listed] if hidden else listed
    else:
        for name in named:
            if _name(name) in call.state.files:
                listed.append(name)
            else:
                call.complain(f"cannot access '{_quotable(name)}': No such file or directory")
                missing = 2
        listed.sort()
    if any(not _NAME.fullmatch(name) for name in listed):
        raise Beyond("such a file name")
    call.out.append("".join(f"{name}\n" for name in listed).encode())
    return missing


def _quotable(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise Beyond("such a file name")
    return name


def _ends(take: Callable[[list[bytes], int], list[bytes]]) -> Callable[[_Call], int]:
    """head or tail."""

    def run(call: _Call) -> int:
        arguments, count = list(call.arguments), 10
        if arguments and (match := re.fullmatch(r"-n? ?(\d+)|--lines=(\d+)", arguments[0])):
            count = int(match[1] or match[2])
            if len(arguments) > 2 and not arguments[0].startswith(("-n", "--")):
                raise Beyond(f"such options of {call.name}")
            del arguments[0]
        elif arguments[:1] == ["-n"] and len(arguments) > 1 and arguments[1].isdigit():
            count = int(arguments[1])
            del arguments[:2]
        if any(argument.startswith("-") and argument != "-" for argument in arguments):
            raise Beyond(f"such options of {call.name}")
        status, first = 0, True
        for file in arguments or ["-"]:
            if file != "-":
                _quotable(file)
            content = call.read(file, "cannot open '{}' for reading: No such file or directory")
            if content is None:
                status = 1
                continue
            if len(arguments) > 1:
                title = "standard input" if file == "-" else file
                call.out.append(f"{'' if first else chr(10)}==> {title} <==\n".encode())
            first = False
            call.out += take(content.splitlines(True) if b"\r" not in content else _lines(content), count)
        return status

    return run


def _lines(content: bytes) -> list[bytes]:
    return re.findall(rb"[^\n]*\n|[^\n]+", content)


def _rm(call: _Call) -> int:
    arguments = [argument for argument in call.arguments if argument != "-f"]
    forced = len(arguments) < len(call.arguments)
    if not arguments or any(argument.startswith("-") for argument in arguments):
        raise Beyond("such options of rm")
    status = 0
    for argument in arguments:
        name = _name(argument)
        if name in call.state.files:
            call.state.files.pop(name)
            call.state.changed = True
        elif not forced:
            call.complain(f"cannot remove '{_quotable(argument)}': No such file or directory")
            status = 1
    return status


def _cd(call: _Call) -> int:
    if call.arguments not in ([], [WORK], ["."], [f"{WORK}/"]):
        raise Beyond("another folder")
    return 0


def _pwd(call: _Call) -> int:
    if call.arguments:
        raise Beyond("such options of pwd")
    call.out.append(f"{WORK}\n".encode())
    return 0


def _constant(status: int) -> Callable[[_Call], int]:
    return lambda call: status


def _python(call: _Call) -> int:
    if len(call.arguments) != 1 or call.arguments[0].startswith("-"):
        raise Beyond("such a use of python")
    (file,) = call.arguments
    name = _name(file)
    if name not in call.state.files:
        call.err.append(f"{call.name}: can't open file '{WORK}/{name}': [Errno 2] No such file or directory\n".encode())
        return 2
    if not name.endswith(".py"):
        raise Beyond("a program of such a name")
    output, error, status = virtual_python.run(call.state.files, name, WORK)
    call.out.append(output.encode())
    call.err.append(error.encode())
    return status


def _sed(call: _Call) -> int:
    return sed(call.arguments, call.given, _Access(call), call.out.append, call.complain)


class _Access:
    """The files as sed sees them."""

    def __init__(self, call: _Call) -> None:
        self.state = call.state

    def read(self, file: str) -> bytes | None:
        return self.state.files.get(_name(file))

    def write(self, file: str, content: bytes) -> None:
        self.state.write(_name(file), content)


COMMANDS: Mapping[str, Callable[[_Call], int]] = {
    "echo": _echo,
    "cat": _cat,
    "ls": _ls,
    "head": _ends(lambda lines, count: lines[:count]),
    "tail": _ends(lambda lines, count: lines[max(0, len(lines) - count) :]),
    "sed": _sed,
    "rm": _rm,
    "cd": _cd,
    "pwd": _pwd,
    "true": _constant(0),
    "false": _constant(1),
    "python": _python,
    "python3": _python,
}

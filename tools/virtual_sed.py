"""A part of GNU sed: substitute, delete and print, by line number, range or pattern."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from tools.virtual_python import Beyond

DEAREST = 30_000_000
"""Steps that matching a pattern to a file may take at worst."""
END = -1
"""The address `$`: the last line."""


class Folder(Protocol):
    def read(self, file: str) -> bytes | None: ...

    def write(self, file: str, content: bytes) -> None: ...


@dataclass(frozen=True)
class Address:
    """A line number, END, or a pattern."""

    line: int = 0
    pattern: re.Pattern[str] | None = None


@dataclass(frozen=True)
class Command:
    """`s`, `d` or `p`, and the lines it is for."""

    kind: str
    start: Address | None = None
    stop: Address | None = None
    pattern: re.Pattern[str] | None = None
    replacement: tuple[str | int, ...] = ()
    """Text, and numbers of groups."""
    everywhere: bool = False
    prints: bool = False


def sed(
    arguments: Sequence[str],
    given: bytes,
    folder: Folder,
    out: Callable[[bytes], object],
    complain: Callable[[str], object],
) -> int:
    """Run `sed ARGUMENTS`; its exit status."""
    scripts: list[str] = []
    files: list[str] = []
    quiet = inplace = extended = False
    left = list(arguments)
    while left:
        argument = left.pop(0)
        if argument == "-e" and left:
            scripts.append(left.pop(0))
        elif match := re.fullmatch(r"-([nEr]*)(i?)", argument):
            if len(argument) == 1:
                raise Beyond("such a file of sed")
            quiet, inplace = quiet or "n" in match[1], inplace or bool(match[2])
            extended = extended or "E" in match[1] or "r" in match[1]
        elif argument.startswith("-"):
            raise Beyond(f"the option {argument[:20]!r} of sed")
        else:
            files.append(argument)
    if not scripts:
        if not files:
            raise Beyond("sed without a script")
        scripts.append(files.pop(0))
    commands = parsed("\n".join(scripts), extended)
    if inplace and not files:
        raise Beyond("sed -i without a file")
    status, together = 0, b""
    for file in files or ["-"]:
        content = given if file == "-" and not inplace else folder.read(file)
        if content is None:
            complain(f"can't read {file}: No such file or directory")
            status = 2
        elif inplace:
            folder.write(file, _through(commands, content, quiet))
        else:
            if together and not together.endswith(b"\n"):
                raise Beyond("files without a newline at their end, one after another")
            together += content
    if not inplace:
        out(_through(commands, together, quiet))
    return status


@lru_cache(1 << 12)
def parsed(script: str, extended: bool) -> tuple[Command, ...]:
    """The commands of a script. Raises Beyond for what is not known, errors included."""
    return tuple(_Script(script, extended).commands())


class _Script:
    def __init__(self, text: str, extended: bool) -> None:
        self.text, self.extended, self.at = text, extended, 0

    def commands(self) -> list[Command]:
        found: list[Command] = []
        while True:
            while self.peek() in (" ", "\n", ";") and self.peek():
                self.at += 1
            if not self.peek():
                return found
            start = self.address()
            stop = None
            if start is not None and self.peek() == ",":
                self.at += 1
                stop = self.address()
                if stop is None:
                    raise Beyond("such an address of sed")
            if start is not None and start.line == 0 and start.pattern is None:
                raise Beyond("line 0 of sed")
            kind = self.next()
            if kind in ("d", "p"):
                found.append(Command(kind, start, stop))
            elif kind == "s":
                found.append(self.substitution(start, stop))
            else:
                raise Beyond(f"the command {kind!r} of sed")
            while self.peek() == " ":
                self.at += 1
            if self.peek() not in ("", ";", "\n"):
                raise Beyond("such a script of sed")

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def next(self) -> str:
        char = self.peek()
        self.at += 1
        return char

    def address(self) -> Address | None:
        if match := re.compile(r"\d+", re.ASCII).match(self.text, self.at):
            self.at = match.end()
            return Address(int(match[0]))
        if self.peek() == "$":
            self.at += 1
            return Address(END)
        if self.peek() == "/":
            self.at += 1
            return Address(pattern=pattern(self.until("/"), self.extended))
        return None

    def until(self, end: str) -> str:
        """Up to `end`, which a backslash hides."""
        made: list[str] = []
        while True:
            char = self.next()
            if not char or char == "\n":
                raise Beyond("such a script of sed")
            if char == end:
                return "".join(made)
            if char == "[":
                raise_on_end = self.text.find("]", self.at + 1)
                if raise_on_end < 0 or end in self.text[self.at : raise_on_end]:
                    raise Beyond("such a script of sed")
            if char == "\\":
                following = self.next()
                if not following or following == "\n":
                    raise Beyond("such a script of sed")
                if following == end:
                    if end != "/":
                        raise Beyond("such a script of sed")
                    char = end
                else:
                    char += following
            made.append(char)

    def substitution(self, start: Address | None, stop: Address | None) -> Command:
        end = self.next()
        if end not in "/|#,:@!" or not end:
            raise Beyond("such a script of sed")
        what = pattern(self.until(end), self.extended)
        replacement = _replacement(self.until(end), what.groups)
        flags = ""
        while self.peek() in ("g", "p") and self.peek():
            flags += self.next()
        if len(set(flags)) < len(flags):
            raise Beyond("such flags of sed")
        if "g" in flags and what.match(""):
            raise Beyond("a pattern that matches nothing, everywhere")
        return Command("s", start, stop, what, replacement, "g" in flags, "p" in flags)


def _replacement(text: str, groups: int) -> tuple[str | int, ...]:
    made: list[str | int] = []
    at = 0
    while at < len(text):
        char = text[at]
        if char == "&":
            made.append(0)
        elif char == "\\":
            at += 1
            char = text[at]
            if char.isdigit() and char != "0":
                if int(char) > groups:
                    raise Beyond("a group that is not there")
                made.append(int(char))
            elif char in "&\\/.()[]*":
                made.append(char)
            elif char == "n":
                made.append("\n")
            else:
                raise Beyond("such a replacement of sed")
        else:
            made.append(char)
        at += 1
    return tuple(made)


_ATOM = re.compile(
    r"(?P<escape>\\[\\./()\[\]*+?{}|^$b&\w])|(?P<set>\[\^?[\w ,.-]+\])|(?P<special>[()|*+?^${}.])|(?P<plain>[^\\\[\n])",
    re.ASCII,
)


@lru_cache(1 << 12)
def pattern(text: str, extended: bool) -> re.Pattern[str]:
    """A POSIX regular expression as one of Python's, where both find the same; raises Beyond elsewhere.

    POSIX takes the longest of all matches, Python the first: so there is at most one alternation, of plain texts no
    two of which can match at one place, and repetition is of single characters only.
    """
    if not text:
        raise Beyond("an empty pattern")
    beyond = Beyond(f"the pattern {text[:40]!r}")
    made, at, depth, repeatable = [], 0, 0, False
    while at < len(text):
        match = _ATOM.match(text, at)
        if match is None:
            raise beyond
        at = match.end()
        atom, kind = match[0], str(match.lastgroup)
        if kind == "escape":
            kind, atom = _escaped(atom, extended)
        elif kind == "special" and not extended and atom in "()|+?{}":
            kind = "plain"
        if kind != "special":
            made.append(atom if kind in ("set", "bound") else re.escape(atom))
            repeatable = kind != "bound"
            continue
        misplaced = (atom == "^" and bool(made)) or (atom == "$" and at < len(text))
        if atom in "?{}" or misplaced or (atom in "*+" and not repeatable):
            raise beyond
        depth += (atom == "(") - (atom == ")")
        if depth not in (0, 1):
            raise beyond
        made.append(r"\Z" if atom == "$" else atom)
        repeatable = atom == "."
    if depth:
        raise beyond
    _alternation("".join(made), text)
    return re.compile("".join(made), re.ASCII)


def _escaped(atom: str, extended: bool) -> tuple[str, str]:
    char = atom[1]
    if char == "b":
        return "bound", r"\b"
    if char == "w":
        return "set", r"\w"
    if char in "()|+?{}":
        if char in "?{}" and not extended:
            raise Beyond("such a repetition")
        return ("plain", char) if extended else ("special", char)
    if char.isalnum():
        raise Beyond(f"\\{char} in a pattern")
    return "plain", char


def _alternation(made: str, text: str) -> None:
    bare = re.sub(r"\\.", "__", made)
    if "|" not in bare:
        return
    groups = re.findall(r"\(([^()]*)\)", bare)
    alternations = [group for group in groups if "|" in group]
    if (
        len(alternations) != 1
        or bare.count("|") != alternations[0].count("|")
        or re.search(r"[*+.\[^$]", alternations[0])
    ):
        raise Beyond(f"the alternatives in {text[:40]!r}")
    begin = bare.index(f"({alternations[0]})") + 1
    choices = re.split(r"(?<!\\)\|", made[begin : begin + len(alternations[0])])
    plain = [re.sub(r"\\(.)", r"\1", choice) for choice in choices]
    # What has to follow the alternatives, if that is one plain character.
    follows = re.match(r"\)(?:\\(\W)|([^\w\\.*+(\[|^$]))(?!\*)", made[begin + len(alternations[0]) :])
    after = follows and (follows[1] or follows[2])
    for one in plain:
        longer = [other for other in plain if other is not one and other.startswith(one)]
        if not one or any(other == one or after is None or other[len(one)] == after for other in longer):
            raise Beyond(f"the alternatives in {text[:40]!r}")


def _through(commands: Sequence[Command], content: bytes, quiet: bool) -> bytes:
    """A file after the commands."""
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        raise Beyond("a file that is not ASCII") from None
    if not text:
        return b""
    ended = text.endswith("\n")
    lines = text.removesuffix("\n").split("\n")
    # A pattern of several repetitions tries each length of each at each place: a line could take for ever.
    for command in commands:
        for tried in (command.pattern, *(at.pattern for at in (command.start, command.stop) if at is not None)):
            power = 1 + (0 if tried is None else len(re.findall(r"(?<!\\)[*+]", tried.pattern)))
            if sum(len(line) ** power for line in lines) > DEAREST:
                raise Beyond("so costly a pattern")
    made: list[str] = []
    inside = [False] * len(commands)
    for number, line in enumerate(lines, 1):
        deleted = False
        for at, command in enumerate(commands):
            if not _selected(command, number, line, number == len(lines), inside, at):
                continue
            if command.kind == "d":
                deleted = True
                break
            if command.kind == "p":
                made.append(line)
                continue
            assert command.pattern is not None
            line, count = command.pattern.subn(lambda m, c=command: _filled(c, m), line, 0 if command.everywhere else 1)
            if count and command.prints:
                made.append(line)
        if not deleted and not quiet:
            made.append(line)
    if not ended and made and (quiet or len(made) != len(lines)):
        raise Beyond("a file without a newline at its end")
    return "".join(f"{line}\n" for line in made)[: None if ended else -1].encode()


def _filled(command: Command, match: re.Match[str]) -> str:
    return "".join(part if isinstance(part, str) else match[part] for part in command.replacement)


def _selected(command: Command, number: int, line: str, last: bool, inside: list[bool], at: int) -> bool:
    if command.start is None:
        return True
    if command.stop is None:
        return _meets(command.start, number, line, last)
    if inside[at]:
        stop = command.stop
        if stop.pattern is None and stop.line != END and number >= stop.line:
            inside[at] = False
            return number == stop.line
        inside[at] = not _meets(stop, number, line, last)
        return True
    if not _meets(command.start, number, line, last):
        return False
    stop = command.stop
    # A range ends at its first line where it ends by a number no larger than that.
    inside[at] = not (stop.pattern is None and stop.line != END and stop.line <= number)
    return True


def _meets(address: Address, number: int, line: str, last: bool) -> bool:
    if address.pattern is not None:
        return address.pattern.search(line) is not None
    return last if address.line == END else number == address.line

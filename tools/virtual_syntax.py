"""What the virtual shell knows of the grammar of bash: words, quotes, lists, pipes, redirections, here-documents."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from tools.virtual_python import Beyond

LONGEST = 100_000
"""Characters of a command, at most."""


@dataclass(frozen=True)
class Word:
    """A word of a command: pieces of text, and whether each was quoted."""

    pieces: tuple[tuple[str, bool], ...]

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.pieces)

    @property
    def globs(self) -> bool:
        return any(not quoted and re.search(r"[*?]", text) for text, quoted in self.pieces)


@dataclass(frozen=True)
class Redirection:
    """`>`, `>>`, `<`, `<<` (the word is then the text), or `2>&1`."""

    operator: str
    word: Word
    error: bool = False
    """Of the error output."""


@dataclass(frozen=True)
class Simple:
    words: tuple[Word, ...]
    redirections: tuple[Redirection, ...]


@dataclass(frozen=True)
class Entry:
    """A pipeline, and the operator before it."""

    operator: str
    commands: tuple[Simple, ...]


_OPERATORS = re.compile(r"2>&1|&&|\|\||>>|<<|2>>|2>|[;|<>\n]")
_PLAIN = re.compile(r"[\w./:,=+@%^*?-]+", re.ASCII)


@lru_cache(1 << 9)
def parsed(command: str) -> tuple[Entry, ...]:
    if len(command) > LONGEST or "\0" in command:
        raise Beyond("so long a command")
    return _Parser(command).entries()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.documents: list[tuple[int, str, bool]] = []

    def entries(self) -> tuple[Entry, ...]:
        found: list[Entry] = []
        commands: list[Simple] = []
        words: list[Word] = []
        redirections: list[Redirection] = []
        before, wanting = ";", False
        waiting: list[tuple[int, str, bool]] = []
        """Here-documents: place in `redirections`, end mark, and whether the mark was quoted."""

        def simple() -> None:
            nonlocal words, redirections, wanting
            if not words:
                raise Beyond("a command that is not one")
            commands.append(Simple(tuple(words), tuple(redirections)))
            words, redirections, wanting = [], [], False

        while True:
            token = self.token()
            if isinstance(token, Word):
                words.append(token)
                continue
            if token == "2>&1":
                redirections.append(Redirection(token, Word(()), True))
                continue
            if token in (">", ">>", "<", "<<", "2>", "2>>"):
                name = self.token()
                if not isinstance(name, Word) or name.globs:
                    raise Beyond("such a redirection")
                if token == "<<":
                    waiting.append((len(redirections), name.text, any(quoted for _, quoted in name.pieces)))
                redirections.append(Redirection(token[-2:] if token[0] == "2" else token, name, token[0] == "2"))
                if token == "2>":
                    redirections[-1] = Redirection(">", name, True)
                continue
            if token == "|":
                if waiting:
                    raise Beyond("a here-document before a pipe")
                simple()
                wanting = True
                continue
            # ; && || newline or the end
            for place, mark, quoted in waiting:
                if token != "\n":
                    raise Beyond("such a here-document")
                redirections[place] = Redirection("<<", Word(((self.document(mark, quoted), True),)))
            waiting = []
            if words or redirections:
                simple()
            elif wanting and token == "\n":
                continue
            elif commands or (token in ("&&", "||")) or (token == ";" and not commands):
                raise Beyond("such a list of commands")
            if commands:
                found.append(Entry(before, tuple(commands)))
                commands = []
            elif token is None or token == "\n":
                if before in ("&&", "||") and token is None:
                    raise Beyond("a list of commands that does not end")
                if token is None:
                    return tuple(found)
                continue
            if token is None:
                return tuple(found)
            before = token if token in ("&&", "||") else ";"

    def token(self) -> Word | str | None:
        """The next word or operator; None at the end."""
        text = self.text
        while self.at < len(text) and text[self.at] in " \t":
            self.at += 1
        if self.at < len(text) and text[self.at] == "#":
            end = text.find("\n", self.at)
            self.at = len(text) if end < 0 else end
        if self.at == len(text):
            return None
        if match := _OPERATORS.match(text, self.at):
            self.at = match.end()
            return match[0]
        pieces: list[tuple[str, bool]] = []
        while self.at < len(text) and text[self.at] not in " \t\n;|<>":
            pieces.append(self.piece())
        numbered = len(pieces) == 1 and not pieces[0][1] and pieces[0][0].isdigit()
        if numbered and text[self.at : self.at + 1] in ("<", ">"):
            raise Beyond("a redirection of other outputs")
        return Word(tuple(pieces))

    def piece(self) -> tuple[str, bool]:
        """The next piece of a word."""
        text, at = self.text, self.at
        char = text[at]
        if char == "'":
            end = text.find("'", at + 1)
            if end < 0:
                raise Beyond("a quote that does not end")
            self.at = end + 1
            return text[at + 1 : end], True
        if char == '"':
            return self.double(), True
        if char == "\\":
            if at + 1 == len(text) or text[at + 1] == "\n":
                raise Beyond("a line that goes on")
            self.at = at + 2
            return text[at + 1], True
        match = _PLAIN.match(text, at)
        if match is None:
            raise Beyond(f"{char!r} outside of quotes")
        self.at = match.end()
        return match[0], False

    def double(self) -> str:
        made: list[str] = []
        text, at = self.text, self.at + 1
        while True:
            if at >= len(text):
                raise Beyond("a quote that does not end")
            char = text[at]
            if char == '"':
                self.at = at + 1
                return "".join(made)
            if char in "$`":
                raise Beyond("an expansion")
            if char == "\\" and at + 1 < len(text):
                following = text[at + 1]
                if following == "\n":
                    raise Beyond("a line that goes on")
                made.append(following if following in '$`"\\' else char + following)
                at += 2
                continue
            made.append(char)
            at += 1

    def document(self, mark: str, quoted: bool) -> str:
        """The here-document that begins here."""
        lines: list[str] = []
        while self.at < len(self.text):
            end = self.text.find("\n", self.at)
            line = self.text[self.at :] if end < 0 else self.text[self.at : end]
            self.at = len(self.text) if end < 0 else end + 1
            if line == mark:
                self.at -= end >= 0  # the newline ends the command
                made = "".join(f"{line}\n" for line in lines)
                if not quoted and re.search(r"[$`\\]", made):
                    raise Beyond("an expansion")
                return made
            lines.append(line)
        raise Beyond("a here-document that does not end")

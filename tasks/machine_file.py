"""Reading Turing machines from YAML (docs/add-a-turing-machine.md)."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from tasks.machine import CHECKERS, Machine, Table, Transition
from tasks.resolve import unknown
from tasks.words import Changed, Mirror, Nested, Pattern, Rule, Words
from tools.base import END
from tools.tape import LEFT, RIGHT

_REQUIRED = ("about", "revision", "alphabet", "blank", "start", "halt", "answer", "input", "table")
_OPTIONAL = ("checker", "stress")
_ANSWERS = ("word", "symbol")
_MOVES = {"L": LEFT, "R": RIGHT}
_STATE = re.compile(r"[A-Za-z][A-Za-z0-9_]+")

_PROBLEM_SETS = ("random", "jittered")
_TRIAL_LENGTHS = range(1, 7)
_TRIAL_STEPS = 100_000


def read_machine(path: Path) -> Machine:
    """The machine in a YAML file.

    Raises:
        ValueError: it is not one; one line with the file, the number of the offending line, and what is allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"machine {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from error
    if root is None:
        raise ValueError(f"{path}:1: empty")
    return _Reader(path, root).machine()


Entry = tuple[yaml.Node, yaml.Node]
"""A key and its value."""


class _Reader:
    """Reads a YAML tree, in which every node knows its line, so that complaints can name it."""

    def __init__(self, path: Path, root: yaml.Node) -> None:
        self.path, self.root = path, root
        self.fields = self._mapping(root, "machine", (*_REQUIRED, *_OPTIONAL))
        for field in _REQUIRED:
            if field not in self.fields:
                raise self._error(root, f"missing key {field!r}")
        self.alphabet, self.blank = self._symbols()
        self.rows = self._mapping(self._value("table"), "table")
        self.halt = self._states(self._value("halt"))
        for name, (key, _) in self.rows.items():
            self._check_state_name(key, name)
            if name in self.halt:
                raise self._error(key, f"state {name!r} halts and cannot have transitions")

    def machine(self) -> Machine:
        machine = Machine(
            about=self._text(self._value("about")),
            revision=self._positive(self._value("revision")),
            alphabet=tuple(self.alphabet),
            start=self._choice(self._value("start"), "state", self.rows),
            halt=frozenset(self.halt),
            answer=self._choice(self._value("answer"), "answer", _ANSWERS),
            checker=self._choice(self._value("checker"), "checker", CHECKERS) if "checker" in self.fields else None,
            inputs=self._words(self._value("input")),
            stress=self._stress(),
            table=self._table(),
        )
        self._check_halting(machine.table)
        self._try(machine)
        return machine

    # --- symbols, states and transitions

    def _symbols(self) -> tuple[str, str]:
        alphabet, blank = self._text(self._value("alphabet")), self._text(self._value("blank"))
        if len(blank) != 1 or blank in alphabet:
            raise self._error(self._value("blank"), f"blank {blank!r} must be one character outside the alphabet")
        repeated = next((symbol for symbol in alphabet if alphabet.count(symbol) > 1), None)
        if repeated is not None:
            raise self._error(self._value("alphabet"), f"symbol {repeated!r} twice in the alphabet")
        if not alphabet or any(symbol.isspace() for symbol in alphabet + blank):
            raise self._error(self._value("alphabet"), 'the alphabet must be characters other than spaces, like "01"')
        return alphabet, blank

    def _states(self, node: yaml.Node) -> dict[str, yaml.Node]:
        names: dict[str, yaml.Node] = {}
        for item in self._items(node):
            self._check_state_name(item, self._text(item))
            names[self._text(item)] = item
        return names

    def _check_state_name(self, node: yaml.Node, name: str) -> None:
        if not _STATE.fullmatch(name):
            raise self._error(node, f"state {name!r} must be a word of two or more letters, digits and '_'")

    def _table(self) -> Table:
        table = Table(self._place(self.fields["table"][0]))
        for state, (key, row) in self.rows.items():
            cells = self._cells(state, row)
            for symbol in self.alphabet + self.blank:
                if symbol not in cells:
                    raise self._error(key, f"missing transition of state {state!r} on {symbol!r} (or say 'never')")
            for symbol, node in cells.items():
                pair = state, self._token(symbol)
                if self._text(node) == "never":
                    table.never[pair] = self._place(node)
                else:
                    table[pair] = self._transition(node, symbol)
        return table

    def _cells(self, state: str, row: yaml.Node) -> dict[str, yaml.Node]:
        """Symbol -> its transition; a key of several symbols stands for each."""
        cells: dict[str, yaml.Node] = {}
        for symbols, (key, node) in self._mapping(row, f"state {state!r}").items():
            for symbol in symbols:
                self._check_symbol(key, symbol)
                if symbol in cells:
                    raise self._error(key, f"duplicate transition of state {state!r} on {symbol!r}")
                cells[symbol] = node
        return cells

    def _transition(self, node: yaml.Node, symbol: str) -> Transition:
        parts = self._text(node).split()
        if len(parts) != 3:
            raise self._error(node, f"transition {self._text(node)!r} must be 'WRITE MOVE STATE' or 'never'")
        write, move, state = parts
        if write != "same":
            self._check_symbol(node, write)
        if move not in _MOVES:
            raise self._error(node, str(unknown("move", move, _MOVES)))
        if state not in self.rows and state not in self.halt:
            raise self._error(node, str(unknown("state", state, [*self.rows, *self.halt])))
        return Transition(self._token(symbol if write == "same" else write), _MOVES[move], state)

    def _check_symbol(self, node: yaml.Node, symbol: str) -> None:
        known = [*self.alphabet, self.blank]
        if symbol not in known:
            raise self._error(node, f"symbol {symbol!r} is outside the alphabet (allowed: {' '.join(known)})")

    def _token(self, symbol: str) -> str:
        return END if symbol == self.blank else symbol

    def _check_halting(self, table: Table) -> None:
        """Every state must lead to a halting one, and every halting one must be led to, along transitions."""
        targets = {transition.state for transition in table.values()}
        for name, node in self.halt.items():
            if name not in targets:
                raise self._error(node, f"halting state {name!r} cannot be reached: no transition leads to it")
        halting, before = set(self.halt), set[str]()
        while halting != before:
            before = set(halting)
            halting |= {state for (state, _), transition in table.items() if transition.state in before}
        for name, (key, _) in self.rows.items():
            if name not in halting:
                raise self._error(key, f"no halting state can be reached from state {name!r}")

    # --- inputs

    def _stress(self) -> dict[str, Words]:
        if "stress" not in self.fields:
            return {}
        sets = self._mapping(self._value("stress"), "stress")
        for name, (key, _) in sets.items():
            if name in _PROBLEM_SETS:
                raise self._error(key, f"stress set {name!r} must not be called like the sets every task has")
        return {name: self._words(value) for name, (_, value) in sets.items()}

    def _words(self, node: yaml.Node) -> Words:
        words = Words(tuple(self._rule(item) for item in self._items(node)))
        for length in _TRIAL_LENGTHS:
            if not words.fits(length):
                raise self._error(node, f"no input of length {length}: every length from 1 on needs one")
        return words

    def _rule(self, node: yaml.Node) -> Rule:
        if isinstance(node, yaml.ScalarNode):
            return self._pattern(node)
        fields = self._mapping(node, "input rule", ("pattern", "mirror", "nested", "changed"))
        kinds = [name for name in fields if name != "changed"]
        if len(kinds) != 1:
            raise self._error(node, "an input rule needs exactly one of: pattern, mirror, nested")
        value = fields[kinds[0]][1]
        rule = self._pattern(value) if kinds[0] == "pattern" else self._drawn(kinds[0], value)
        if "changed" not in fields:
            return rule
        if len(set(rule.symbols)) < 2:
            raise self._error(fields["changed"][0], "'changed' needs a rule with two symbols or more")
        return Changed(rule, self._positive(fields["changed"][1]))

    def _pattern(self, node: yaml.Node) -> Rule:
        try:
            pattern = Pattern.parse(self._text(node))
        except ValueError as error:
            raise self._error(node, str(error)) from None
        return self._with_known_symbols(node, pattern)

    def _drawn(self, kind: str, node: yaml.Node) -> Rule:
        symbols = self._text(node)
        if kind == "nested" and not (len(symbols) == len(set(symbols)) == 2):
            raise self._error(node, f"nested {symbols!r} must be an opening and a closing symbol")
        return self._with_known_symbols(node, Nested(symbols) if kind == "nested" else Mirror(symbols))

    def _with_known_symbols(self, node: yaml.Node, rule: Rule) -> Rule:
        for symbol in rule.symbols:
            if symbol not in self.alphabet:
                allowed = " ".join(self.alphabet)
                raise self._error(node, f"symbol {symbol!r} of an input is outside the alphabet (allowed: {allowed})")
        return rule

    def _try(self, machine: Machine) -> None:
        """Run short inputs: they must halt, with the answer that the checker gives."""
        rng = random.Random(0)
        for words in (machine.inputs, *machine.stress.values()):
            for word in (words.draw(rng, length) for length in _TRIAL_LENGTHS for _ in range(8)):
                found = "".join(machine.run(word, _TRIAL_STEPS)[1])
                if machine.checker is not None and found != (right := self._checked(machine.checker, word)):
                    message = f"the table gives {found!r} for input {word!r}, the checker {machine.checker!r} {right!r}"
                    raise self._error(self.fields["table"][0], message)

    def _checked(self, checker: str, word: str) -> str:
        try:
            return CHECKERS[checker](word)
        except ValueError as error:
            message = f"the checker {checker!r} cannot take input {word!r}: {error}"
            raise self._error(self._value("checker"), message) from None

    # --- nodes

    def _error(self, node: yaml.Node, message: str) -> ValueError:
        return ValueError(f"{self._place(node)}: {message}")

    def _place(self, node: yaml.Node) -> str:
        return f"{self.path}:{node.start_mark.line + 1}"

    def _value(self, field: str) -> yaml.Node:
        return self.fields[field][1]

    def _mapping(self, node: yaml.Node, what: str, known: Iterable[str] | None = None) -> dict[str, Entry]:
        if not isinstance(node, yaml.MappingNode):
            raise self._error(node, f"{what} must be a mapping of keys to values")
        found: dict[str, Entry] = {}
        for key, value in node.value:
            name = self._text(key)
            if name in found:
                raise self._error(key, f"duplicate key {name!r} in {what}")
            if known is not None and name not in known:
                raise self._error(key, str(unknown(f"{what} key", name, known)))
            found[name] = key, value
        return found

    def _items(self, node: yaml.Node) -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            raise self._error(node, "must be a list with at least one entry")
        return list(node.value)

    def _text(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
            raise self._error(node, "must be a text")
        return str(node.value)

    def _positive(self, node: yaml.Node) -> int:
        text = self._text(node)
        if not (text.isascii() and text.isdecimal() and int(text) > 0):
            raise self._error(node, f"{text!r} must be a whole number of at least 1")
        return int(text)

    def _choice(self, node: yaml.Node, what: str, allowed: Iterable[str]) -> str:
        text = self._text(node)
        if text not in allowed:
            raise self._error(node, str(unknown(what, text, allowed)))
        return text

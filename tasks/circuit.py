"""Circuits of AND, OR and NOT as Python assignments: read, drawn at random, evaluated.

A circuit maps each label, a word of `WIDTH` digits, to its expression: one constant, or one or two labels, each perhaps
after `not`, with `and` or `or` between.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

WIDTH = 4
"""Digits of a label: one width for all lengths, so that no label is a prefix of another. Allows 10,000 nodes."""

INPUTS = 3
"""The first nodes, which are constants."""

CONSTANTS = ("True", "False")

Words = tuple[str, ...]
Circuit = Mapping[str, Words]
"""Label -> words of its expression."""

Wiring = Callable[[random.Random, int], Iterator[Sequence[int]]]
"""For a number of nodes, the one or two earlier nodes that each gate takes, as numbers in order of creation."""


LABEL = rf"[0-9]{{{WIDTH}}}"
_OPERAND = rf"(?:not )?{LABEL}"
_ASSIGNMENT = re.compile(rf"({LABEL}) = (True|False|{_OPERAND}(?: (?:and|or) {_OPERAND})?)")
_HARMLESS = (
    ast.Module,
    ast.Assign,
    ast.Expr,
    ast.Call,
    ast.Name,
    ast.Constant,
    ast.BoolOp,
    ast.UnaryOp,
    ast.boolop,
    ast.Not,
    ast.expr_context,
)


def read(lines: Iterable[str]) -> Circuit:
    """The circuit of lines like `0471 = not 9912 and 3333`, in any order.

    Raises:
        ValueError: a malformed line, a label defined twice or not at all.
    """
    circuit: dict[str, Words] = {}
    for line in lines:
        match = _ASSIGNMENT.fullmatch(line)
        if match is None:
            raise ValueError(f"logical_graph: {line[:80]!r} is not a line like '0471 = not 9912 and 3333'")
        if match[1] in circuit:
            raise ValueError(f"logical_graph: node {match[1]} is defined twice")
        circuit[match[1]] = tuple(match[2].split())
    for label, expression in circuit.items():
        for variable in variables(expression):
            if variable not in circuit:
                raise ValueError(f"logical_graph: node {variable}, used by {label}, is not defined")
    return circuit


def topological(circuit: Circuit) -> list[str]:
    """The labels, each after those it depends on.

    Raises:
        ValueError: there is a cycle.
    """
    try:
        return list(TopologicalSorter({label: variables(words) for label, words in circuit.items()}).static_order())
    except CycleError as error:
        raise ValueError(f"logical_graph: cycle {' -> '.join(error.args[1][:9])}") from None


def evaluate(circuit: Circuit, order: Iterable[str]) -> dict[str, str]:
    """Label -> its value, `True` or `False`, given the labels in topological order."""
    values: dict[str, str] = {}
    for label in order:
        (values[label],) = replace(circuit[label], values)
    return values


def variables(expression: Words) -> list[str]:
    """The distinct labels of an expression, in its order."""
    return [word for word in dict.fromkeys(expression) if word.isdecimal()]


def replace(expression: Words, values: Mapping[str, str]) -> Words:
    """Variables replaced where their values are known; a constant once none is left."""
    replaced = tuple([values.get(word, word) for word in expression])
    return replaced if variables(replaced) else (_truth(replaced),)


def _truth(expression: Words) -> str:
    """The value of an expression without variables."""
    operands = " ".join(expression).replace("not True", "F").replace("not False", "T")
    true = "T" in operands if "or" in expression else "F" not in operands
    return str(true)


def run(text: str) -> bool:
    """What a program of Boolean assignments in any order prints, run by Python itself in an empty namespace.

    Raises:
        ValueError: the program holds anything but assignments, names, constants, `and`, `or`, `not` and calls.
    """
    module = ast.parse(text)
    for node in ast.walk(module):
        if not isinstance(node, _HARMLESS):
            raise ValueError(f"logical_graph: {type(node).__name__} does not belong in the source of a graph")
    *assignments, call = module.body
    defined = {_names(line, ast.Store).pop(): line for line in assignments}
    order = TopologicalSorter({name: _names(line, ast.Load) for name, line in defined.items()}).static_order()
    ordered = ast.Module([*(defined[name] for name in order), call], [])
    printed: list[bool] = []
    exec(compile(ordered, "<logical graph>", "exec"), {"__builtins__": {}, "print": printed.append})
    return printed[0]


def _names(line: ast.stmt, context: type[ast.expr_context]) -> set[str]:
    return {node.id for node in ast.walk(line) if isinstance(node, ast.Name) and isinstance(node.ctx, context)}


def draw(rng: random.Random, length: int, wiring: Wiring, negated: float = 0.5) -> tuple[Circuit, str, str]:
    """A circuit random but for its wiring, its lines shuffled; the label of its last node, and the value of that.

    Raises:
        ValueError: more nodes than labels.
    """
    if length > 10**WIDTH:
        raise ValueError(f"logical_graph: length = {length:,}, but labels of {WIDTH} digits allow {10**WIDTH:,} nodes")
    labels = [f"{number:0{WIDTH}}" for number in rng.sample(range(10**WIDTH), length)]
    circuit: dict[str, Words] = {label: (rng.choice(CONSTANTS),) for label in labels[:INPUTS]}
    for label, operands in zip(labels[INPUTS:], wiring(rng, length), strict=True):
        circuit[label] = _gate(rng, [labels[number] for number in operands], negated)
    lines = list(circuit.items())
    rng.shuffle(lines)
    return dict(lines), labels[-1], evaluate(circuit, labels)[labels[-1]]


def _gate(rng: random.Random, operands: list[str], negated: float) -> Words:
    first, *second = [("not", label) if rng.random() < negated else (label,) for label in operands]
    return (*first, rng.choice(("and", "or")), *second[0]) if second else first


def uniform(rng: random.Random, length: int) -> Iterator[Sequence[int]]:
    """One or two nodes, either as likely, uniform among the earlier ones."""
    for number in range(INPUTS, length):
        yield rng.sample(range(number), rng.randint(1, 2))


def chain(rng: random.Random, length: int) -> Iterator[Sequence[int]]:
    """Every gate takes the node before it, and half of them one more."""
    for number in range(INPUTS, length):
        operands = [number - 1] if rng.random() < 1 / 2 else [number - 1, rng.randrange(number - 1)]
        rng.shuffle(operands)
        yield operands


def tree(rng: random.Random, length: int) -> Iterator[Sequence[int]]:
    """Half of the gates take two inputs, the others two gates, oldest first: a balanced tree of them all."""
    unused: list[int] = []
    for number in range(INPUTS, length):
        if length - number > len(unused):
            yield rng.sample(range(INPUTS), 2)
        else:
            yield unused[:2]
            del unused[:2]
        unused.append(number)

"""Logical graph: the value of a circuit in Python source, by depth-first search (Malach et al., arXiv 2510.14826)."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import perm
from typing import ClassVar

from tasks import circuit
from tasks.agent import Agent, copy_solution
from tasks.base import Problem, Sampler, Task
from tasks.circuit import CONSTANTS, INPUTS, LABEL, WIDTH, Circuit, Words, replace, variables
from tasks.digits import share
from tools.base import Tool
from tools.search import COMMAND, FIND, MORE, NEWLINE, RUN, VALUE, SearchMemory

_DIGITS = tuple("0123456789")
_SPELLED = re.compile(" ".join(["([0-9])"] * WIDTH))
_CALL = re.compile(rf"print \( ({LABEL}) \)")
_CLOSED_UP = "".join(rf"\{group + 1}" for group in range(WIDTH))
_IS, _FROM = "=", "from"

_LEAST_LIMIT = 39
"""Tokens of the longest reply about one relation of one node: its definition, half replaced, and its value."""

_SEARCH, _ANSWER = 9, 3
"""Tokens of a search for a label and of its reply's frame; tokens of `[ANS]`, the value and `[EOS]`."""


def _answer(prompt: Sequence[str]) -> tuple[str, ...]:
    """What the tool `solver` says; a function of the module, so that helper processes can be sent it."""
    return LogicalGraph().parse(prompt).answer


class LogicalGraph(Task):
    """The value of the last node of a random circuit; the length is the number of nodes, inputs included.

    The first three nodes are inputs, `True` or `False`; each later one is a Python expression of one or two distinct
    earlier nodes: `not a`, `a and not b`, `a or b`, an operand being negated with probability 1/2. Labels are random
    words of four digits (`v` before each makes the prompt Python source, see `source`), and the lines are shuffled, so
    only the call `print ( label )` at the end says which node is wanted. The work grows far slower than the length: the
    wanted node depends on 4.5 of 10 nodes on average, on 29 of 1,000 (`nodes_visited`); on nearly all in stress sets.

    Depth-first search, nothing skipped because an operator is decided early. The solver keeps one node and what it has
    just read; the rest is in these lines, which it writes and finds again:

    * `x = expression`: what is known about `x` now, variables replaced by truth values; the last such line counts.
    * `y from x`: the search went from `x` down to `y`, and must return there.

    In the form `localised`, observations in angle brackets; labels, commands and replies are shortened for reading:

    >>> from itertools import groupby
    >>> from tasks.scenario import Scenario
    >>> task = LogicalGraph()
    >>> problem = task.problem(["4444 = 1111 or 3333", "1111 = False", "3333 = not 1111"], "4444")
    >>> print(source(problem.prompt))
    v4444 = v1111 or v3333
    v1111 = False
    v3333 = not v1111
    print ( v4444 )
    >>> def short(tokens):
    ...     text = _SPELLED.sub(_CLOSED_UP, " ".join(tokens)).replace("[COMMAND] find [VALUE]", "find")
    ...     text = text.replace(" [RUN]", "").replace(" [END]", ">")
    ...     return text.replace("[OBSERVATION]", "<").replace("< ", "<")
    >>> trajectory = Scenario(task, "interactive", form="localised").record(problem)
    >>> for step, run in groupby(zip(trajectory.tokens, trajectory.steps), key=lambda pair: pair[1]):
    ...     print(f"{trajectory.phases[step]:9}", short(token for token, _ in run))
    question  4444 = 1111 or 3333 [NL] 1111 = False [NL] 3333 = not 1111 [NL] print ( 4444 )
    visit     find 4444 = <4444 = 1111 or 3333>
    look      find 1111 = <1111 = False>
    log       4444 = False or 3333 [NL]
    look      find 3333 = <3333 = not 1111>
    log       3333 from 4444 [NL]
    look      find 1111 = <1111 = False>
    log       3333 = True [NL]
    backtrack find 3333 from <3333 from 4444>
    visit     find 4444 = <4444 = 1111 or 3333 [NL] 4444 = False or 3333>
    look      find 3333 = <3333 = not 1111 [NL] 3333 = True>
    log       4444 = True [NL]
    backtrack find 4444 from <>
    answer    [ANS] True [EOS]

    In the form `faithful` a search is for the label alone, and shows every line that holds it, uses included; a node's
    variables are all looked up before the line with their values is written. Replies grow with the uses of a node, and
    a trajectory of a wide graph with the square of its length. Where the tool cuts a reply short (its `limit`), the
    solver asks again as `localised` does. In the form `localised` every reply has at most 39 tokens.
    """

    revision: ClassVar[int] = 1
    tokens: ClassVar[tuple[str, ...]] = (
        *_DIGITS,
        _IS,
        "and",
        "or",
        "not",
        *CONSTANTS,
        NEWLINE,
        _FROM,
        "print",
        "(",
        ")",
    )
    prompt_end: ClassVar[str] = ")"
    settings: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "interactive": ("search",),
        "single_turn": ("solver",),
        "cot": ("none",),
        "direct": ("none",),
    }
    forms: ClassVar[tuple[str, ...]] = ("faithful", "localised")
    tool_options: ClassVar[Mapping[str, Mapping[str, object]]] = {"solver": {"answer": _answer}}

    @property
    def stress(self) -> Mapping[str, Sampler]:
        return {"deep": _deep, "wide": _wide, "negations": _negations}

    @staticmethod
    def problem(lines: Iterable[str], wanted: str) -> Problem:
        """The graph of these lines, like `0471 = not 9912 and 3333`, and the label wanted.

        Raises:
            ValueError: a malformed line, a label defined twice or not at all, or a cycle.
        """
        graph = circuit.read(lines)
        if wanted not in graph:
            raise ValueError(f"logical_graph: node {wanted}, the one wanted, is not defined")
        return _problem(graph, wanted, circuit.evaluate(graph, circuit.topological(graph))[wanted])

    def sample(self, rng: random.Random, length: int) -> Problem:
        """Gates take one or two nodes, either as likely, uniform among the earlier ones."""
        return _problem(*circuit.draw(rng, length, circuit.uniform))

    def parse(self, prompt: Sequence[str]) -> Problem:
        *lines, last = _lines(prompt)
        call = _CALL.fullmatch(last)
        if call is None:
            raise ValueError(f"logical_graph: the last line of a prompt is like 'print ( 0 4 7 1 )', not {last[:80]!r}")
        problem = self.problem(lines, call[1])
        if problem.prompt != tuple(prompt):
            raise ValueError("logical_graph: every token of a prompt is one digit or one word, every line ends in [NL]")
        return problem

    def solve(self, problem: Problem, agent: Agent) -> None:
        node = _wanted(problem)
        while True:
            agent.step("visit")
            expression = _search(agent, node, _IS)
            values = {}
            for variable in variables(expression):
                agent.step("look")
                found = _search(agent, variable, _IS)
                if found[0] in CONSTANTS:
                    values[variable] = found[0]
            agent.step("log")
            if values:
                expression = replace(expression, values)
                agent.think(*_spell((node, _IS, *expression)), NEWLINE)
            if unknown := variables(expression):
                agent.think(*_spell((unknown[0], _FROM, node)), NEWLINE)
                node = unknown[0]
                continue
            agent.step("backtrack")
            parent = _search(agent, node, _FROM)
            if not parent:
                break
            (node,) = parent
        _finish(agent, expression)

    def solve_localised(self, problem: Problem, agent: Agent) -> None:
        node = _wanted(problem)
        agent.step("visit")
        expression = _ask(agent, node, _IS)
        while True:
            if unknown := variables(expression):
                agent.step("look")
                found = _ask(agent, unknown[0], _IS)
                agent.step("log")
                if found[0] in CONSTANTS:
                    expression = replace(expression, {unknown[0]: found[0]})
                    agent.think(*_spell((node, _IS, *expression)), NEWLINE)
                else:
                    agent.think(*_spell((unknown[0], _FROM, node)), NEWLINE)
                    node, expression = unknown[0], found
                continue
            agent.step("backtrack")
            parent = _ask(agent, node, _FROM)
            if not parent:
                break
            (node,) = parent
            agent.step("visit")
            expression = _ask(agent, node, _IS)
        _finish(agent, expression)

    def call(self, problem: Problem, agent: Agent) -> None:
        copy_solution(agent)

    def check(self, problem: Problem, output: Sequence[str]) -> bool:
        return list(output) == [str(circuit.run(source(problem.prompt)))]

    def check_tool(self, tool: Tool) -> None:
        if isinstance(tool, SearchMemory) and tool.limit is not None and tool.limit < _LEAST_LIMIT:
            raise ValueError(f"logical_graph: the search tool needs a limit of at least {_LEAST_LIMIT} tokens")

    def count(self, length: int) -> int | None:
        """Known up to the inputs alone: labels, their values, and which one is wanted."""
        return perm(10**WIDTH, length) * 2**length * length if length <= INPUTS else None

    def nodes_visited(self, problem: Problem) -> int:
        """The nodes that the wanted one depends on, inputs and itself included: the work that the graph asks for."""
        graph = circuit.read(_lines(problem.prompt)[:-1])
        seen, left = {_wanted(problem)}, [_wanted(problem)]
        while left:
            new = set(variables(graph[left.pop()])) - seen
            seen |= new
            left += new
        return len(seen)

    def work(self, problem: Problem) -> int:
        return self.nodes_visited(problem)

    def chance(self, length: int) -> float:
        """Exchanging True and False, `and` and `or` leaves the distribution of graphs as it is."""
        return 0.5

    def covered(self, bits: float, length: int) -> float:
        """There are two answers."""
        return share(bits, 1.0)

    def trajectory_length(self, problem: Problem, form: str = "faithful") -> int:
        """Tokens of a form's trajectory with an unlimited tool.

        Sums the sizes of the replies over a search of the graph that keeps, for every label, the tokens of the lines
        that a `find` of it would show.
        """
        lengths = {"faithful": _faithful_length, "localised": _localised_length}
        return len(problem.prompt) + lengths[form](circuit.read(_lines(problem.prompt)[:-1]), _wanted(problem))


def source(prompt: Sequence[str]) -> str:
    """A prompt as Python source: `v` before each label, one statement a line, in the prompt's order."""
    return re.sub(LABEL, r"v\g<0>", "\n".join(_lines(prompt)))


def _problem(graph: Circuit, wanted: str, value: str) -> Problem:
    lines = (token for label, words in graph.items() for token in (*_spell((label, _IS, *words)), NEWLINE))
    return Problem((*lines, "print", "(", *wanted, ")"), (value,), len(graph))


def _lines(prompt: Sequence[str]) -> list[str]:
    """The lines of a prompt, as words joined by spaces."""
    return _SPELLED.sub(_CLOSED_UP, " ".join(prompt)).split(f" {NEWLINE} ")


def _wanted(problem: Problem) -> str:
    return "".join(problem.prompt[-1 - WIDTH : -1])


def _spell(words: Iterable[str]) -> Iterator[str]:
    """Words -> tokens."""
    for word in words:
        if word.isdecimal():
            yield from word
        else:
            yield word


def _search(agent: Agent, label: str, relation: str) -> Words:
    """As `_ask`, from every line that holds the label if the tool shows them all."""
    reply = agent.command(COMMAND, FIND, VALUE, *label, RUN)
    return _ask(agent, label, relation) if reply[-2] == MORE else _last(reply, label, relation)


def _ask(agent: Agent, label: str, relation: str) -> Words:
    """What stands after `label relation` in the last line that begins so; nothing if there is none."""
    return _last(agent.command(COMMAND, FIND, VALUE, *label, relation, RUN), label, relation)


def _last(reply: Words, label: str, relation: str) -> Words:
    head = f"{' '.join(label)} {relation} "
    lines = " ".join(reply[1:-1]).split(f" {NEWLINE} ")
    found = next((line for line in reversed(lines) if line.startswith(head)), head)
    return tuple(_SPELLED.sub(_CLOSED_UP, found[len(head) :]).split())


def _finish(agent: Agent, expression: Words) -> None:
    agent.step("answer")
    agent.answer()
    agent.output(*expression)


def _deep(rng: random.Random, length: int) -> Problem:
    return _problem(*circuit.draw(rng, length, circuit.chain))


def _wide(rng: random.Random, length: int) -> Problem:
    return _problem(*circuit.draw(rng, length, circuit.tree))


def _negations(rng: random.Random, length: int) -> Problem:
    """Chains in which every operand is negated."""
    return _problem(*circuit.draw(rng, length, circuit.chain, negated=1.0))


def _size(words: Iterable[str]) -> int:
    """Tokens of a line, its end included."""
    return sum(1 for _ in _spell(words)) + 1


def _faithful_length(graph: Circuit, output: str) -> int:
    """Tokens after the question; a search takes 9 and the lines that it shows."""
    shown = Counter({output: _size(("print", "(", output, ")"))})

    def write(*words: str) -> int:
        shown.update(dict.fromkeys(variables(words), _size(words)))
        return _size(words)

    for label, expression in graph.items():
        write(label, _IS, *expression)
    left, known, path = dict(graph), {label: "True" for label in graph if graph[label][0] in CONSTANTS}, [output]
    total = _ANSWER
    while path:
        node = path[-1]
        looked_up = variables(left[node])
        total += sum(_SEARCH + shown[label] for label in (node, *looked_up))
        if not known.keys().isdisjoint(looked_up):
            left[node] = replace(left[node], known)
            total += write(node, _IS, *left[node])
        if unknown := variables(left[node]):
            total += write(unknown[0], _FROM, node)
            path.append(unknown[0])
        else:
            total += _SEARCH + shown[node]
            known[path.pop()] = "True"
    return total


def _localised_length(graph: Circuit, output: str) -> int:
    """Tokens after the question; a search takes 10 and the lines that it shows."""
    shown = {label: _size((label, _IS, *expression)) for label, expression in graph.items()}
    parent_line = _size((output, _FROM, output))
    left, known, path = dict(graph), {label: "True" for label in graph if graph[label][0] in CONSTANTS}, [output]
    total = _ANSWER + _SEARCH + 1 + shown[output]
    while path:
        node = path[-1]
        if unknown := variables(left[node])[:1]:
            total += _SEARCH + 1 + shown[unknown[0]]
            if unknown[0] in known:
                left[node] = replace(left[node], {unknown[0]: "True"})
                line = _size((node, _IS, *left[node]))
                shown[node] += line
                total += line
            else:
                total += parent_line
                path.append(unknown[0])
        else:
            known[path.pop()] = "True"
            total += _SEARCH + 2
            if path:
                total += parent_line + _SEARCH + shown[path[-1]]
    return total

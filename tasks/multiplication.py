"""Multi-digit multiplication, by long multiplication with pointers (Malach et al., arXiv 2510.14826, section 4)."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

from tasks.agent import Agent
from tasks.base import ANSWER, Problem, Sampler, Task
from tasks.digits import calculate, is_number, multiply, numbers_bits, random_number, seek, share, sparse_number, walk
from tools.calculator import DIGITS, to_int

_CARRIES = tuple(f"c{carry}" for carry in range(10))
_PROMPT = re.compile(r"\^(0|[1-9][0-9]*)\*(0|[1-9][0-9]*)=")
_VALUES = {digit: int(digit) for digit in DIGITS}
_MOST_SECOND_DIGITS = 10
"""More partial products could carry past `c9` in their sum."""


class Multiplication(Task):
    """Product of two nonnegative integers; the length is the number of digits of the first one.

    The second one has 1 to `second_digits` digits, uniformly; a subclass that says `second_digits = 4` (10 at most)
    goes up to n x 4. The stress sets `x1` to `x{second_digits}` hold one width each.

    `7 * 12` worked by hand, in the setting interactive. `L1 R1 r1` are left, right and read of pointer 1; the question
    and what the tool answers stand in angle brackets:

    >>> from tasks.scenario import Scenario
    >>> trajectory = Scenario("multiplication", "interactive").record(Multiplication().problem("7", "12"))
    >>> lines = {}
    >>> for token, role, step in zip(trajectory.tokens, trajectory.roles, trajectory.steps):
    ...     given = role.name in ("QUESTION", "OBSERVATION")
    ...     lines.setdefault(step, []).append(f"<{token}>" if given else token)
    >>> for step, line in lines.items():
    ...     print(f"{trajectory.phases[step]:8}", *line)  # doctest: +NORMALIZE_WHITESPACE
    question <^> <7> <*> <1> <2> <=>
    walk     r1 <^> R1 r1 <7> R1 r1 <*> L1
    walk     r2 <^> R2 r2 <7> R2 r2 <*> R2 r2 <1> R2 r2 <2> R2 r2 <=> L2
    row      r2 <2>
    multiply r1 <7> L1 4 c1
    multiply r1 <^> 1 c0 L2
    row      r2 <1> + 0 r1 <^> R1 r1 <7> R1 r1 <*> L1
    multiply r1 <7> L1 7 c0
    multiply r1 <^> L2
    row      r2 <*> =
    place    r1 <^> R1 r1 <7> R1 r1 <*> R1 r1 <1> R1 r1 <2> R1 r1 <=> R1
    place    r2 <*> R2 r2 <1> R2 r2 <2> R2 r2 <=> R2 r2 <4> R2 r2 <c1> R2 r2 <1> R2 r2 <c0> R2 r2 <+> R2
    add      r1 <4> r2 <0> R1 R2 4 c0
    add      r1 <c1> R1 r1 <1> r2 <7> R1 R2 8 c0
    add      r1 <c0> R1 r1 <+> r2 <c0> R2 r2 <=> [ANS]
    return   r1 <+> R1 r1 <0> R1 r1 <7> R1 r1 <c0> R1 r1 <=> R1 r1 <4> R1 r1 <c0> R1 r1 <8> R1 r1 <c0> R1 r1
             <[ANS]> L1 L1
    copy     r1 <8> 8 L1
    copy     r1 <c0> L1 r1 <4> 4 L1
    copy     r1 <=> [EOS]

    A partial product stands in the memory least significant digit first, each digit before its carry, a last carry as a
    digit of its own with `c0`. Where the paper is silent: `+` stands between partial products and `=` behind the last;
    padding zeros are bare digits without a carry; a single partial product goes through the summation too; the
    leading zeros that a product of 0 has are not copied.

    In the form `localised` every token follows from the last nine of the trajectory (4 p + 1 with p pointers); what the
    faithful form has to remember over a walk or a sweep is shown by an observation instead:

    * pointer 2 is read again for every digit, where the faithful form remembers its digit over a sweep;
    * the padding of a row is one zero for each digit of the second factor passed on the way to `=`, and pointer 1
      moves along, so that it is back on `^` when pointer 2 is back on its digit;
    * pointers 1 and 2 walk together to the partial products, so that this walk looks unlike a return to the end of the
      first factor; then pointer 2, by now inside the first partial product, walks on to `+`. It stays on the `=` behind
      a single partial product, so that both pointers are read in every sum and nothing depends on the row number;
    * padding zeros carry `c0`, so that every digit is two cells from the next.

    Further pointers (`second_digits` > 2) follow pointer 2 until it has reached its partial product.
    """

    revision: ClassVar[int] = 1
    second_digits: ClassVar[int] = 2
    """Most digits of the second factor."""

    tokens: ClassVar[tuple[str, ...]] = ("^", *DIGITS, "*", "=", "+", *_CARRIES)
    prompt_end: ClassVar[str] = "="
    settings: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "interactive": ("pointer",),
        "single_turn": ("calculator",),
        "cot": ("none",),
        "direct": ("none",),
        "direct_reversed": ("none",),
    }
    forms: ClassVar[tuple[str, ...]] = ("faithful", "localised")
    tool_options: ClassVar[Mapping[str, Mapping[str, object]]] = {"pointer": {"pointers": 2}}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not 1 <= cls.second_digits <= _MOST_SECOND_DIGITS:
            raise ValueError(f"{cls.__name__}: second_digits = {cls.second_digits}, must be 1..{_MOST_SECOND_DIGITS}")
        cls.tool_options = {"pointer": {"pointers": max(cls.second_digits, 2)}}

    @property
    def stress(self) -> Mapping[str, Sampler]:
        widths = {f"x{digits}": partial(self._sample, digits) for digits in range(1, self.second_digits + 1)}
        return {**widths, "carries": self._carries, "zeros": self._zeros}

    def problem(self, first: str, second: str) -> Problem:
        """`first * second`, given as decimal digits.

        Raises:
            ValueError: the second factor has more than `second_digits` digits.
        """
        if len(second) > self.second_digits:
            raise ValueError(f"{self.name}: second factor of {len(second)} digits, at most {self.second_digits}")
        all_nines = len(first) > 1 and set(first + second) == {"9"}
        answer = multiply(first, int(second))
        return Problem(("^", *first, "*", *second, "="), tuple(answer), len(first), reserved=all_nines)

    def sample(self, rng: random.Random, length: int) -> Problem:
        """The first factor has exactly `length` digits."""
        return self._sample(rng.randint(1, self.second_digits), rng, length)

    def _sample(self, second_digits: int, rng: random.Random, length: int) -> Problem:
        return self.problem(random_number(rng, length), random_number(rng, second_digits))

    def parse(self, prompt: Sequence[str]) -> Problem:
        match = _PROMPT.fullmatch("".join(prompt))
        problem = self.problem(*match.groups()) if match else None
        if problem is None or problem.prompt != tuple(prompt):
            raise ValueError(f"{self.name}: {' '.join(prompt)[:80]!r} is not a prompt like '^ 5 8 * 7 ='")
        return problem

    def solve(self, problem: Problem, agent: Agent) -> None:
        walk(agent, "1", "*")
        walk(agent, "2", "=")
        rows = _multiply(agent)
        _place(agent, rows)
        _add(agent, rows, 1)
        _copy(agent)

    def solve_localised(self, problem: Problem, agent: Agent) -> None:
        """The form `localised`: every token follows from the last few of the trajectory."""
        pointers = max(self.second_digits, 2)
        _multiply_localised(agent, pointers)
        _place_localised(agent, pointers)
        _add(agent, pointers, 2)
        _copy(agent)

    def call(self, problem: Problem, agent: Agent) -> None:
        calculate(problem, agent)

    def check(self, problem: Problem, output: Sequence[str]) -> bool:
        first, second = _factors(problem)
        given = "".join(output)
        if set(output) - set(DIGITS) or not is_number(given) or len(given) > len(first) + len(second):
            return False
        return to_int(given) == to_int(first) * to_int(second)

    def count(self, length: int) -> int:
        firsts = 10 if length == 1 else 9 * 10 ** (length - 1)
        return firsts * 10**self.second_digits

    def chance(self, length: int) -> float:
        """The likeliest product is 0: a factor of one digit is 0 one time in ten."""
        second = 1 / (10 * self.second_digits)
        return second + (1 - second) / 10 if length == 1 else second

    def covered(self, bits: float, length: int) -> float:
        """Whatever the second factor is, only one first one gives a certain product, except for a factor 0."""
        return min(1.0, 1 / (10 * self.second_digits) + share(bits, numbers_bits(length)))

    def trajectory_length(self, problem: Problem, form: str = "faithful") -> int:
        """Tokens of the interactive trajectory in this form.

        Linear in the digits of the first factor: 36 tokens a digit for n x 1 and 62 for n x 2, localised 42 and 60,
        and a constant that depends on the last carries, which are counted from the products.
        """
        first, second = _factors(problem)
        rows = [_row_digits(first, digit) for digit in reversed(second)]
        columns = max(digits + row for row, digits in enumerate(rows))
        last = 0 if problem.answer == ("0",) else len(problem.answer) - columns
        if form == "faithful":
            return _faithful_length(len(first), rows, columns, last) + len(problem.answer)
        pointers = max(self.second_digits, 2)
        return _localised_length(len(first), pointers, rows, columns, last) + len(problem.answer)

    def _carries(self, rng: random.Random, length: int) -> Problem:
        """Every product of two digits carries 3 or more; one draw in eight is 99..9 times 9 or 99 or so."""
        second_digits = rng.randint(1, self.second_digits)
        if rng.random() < 1 / 8:
            return self.problem("9" * length, "9" * second_digits)
        return self.problem("".join(rng.choices("6789", k=length)), "".join(rng.choices("6789", k=second_digits)))

    def _zeros(self, rng: random.Random, length: int) -> Problem:
        """A first factor that is nearly all zeros, and a second one that is 0 (one draw in four) or nearly so."""
        second = "0" if rng.random() < 1 / 4 else sparse_number(rng, rng.randint(1, self.second_digits))
        return self.problem(sparse_number(rng, length), second)


def _multiply(agent: Agent) -> int:
    """Write the partial products, those after the first behind `+` and their padding zeros; how many there are."""
    rows = 0
    while True:
        agent.step("row")
        (second,) = agent.command("r2")
        if second == "*":
            break
        if rows:
            agent.think("+", *"0" * rows)
            seek(agent, "1", "*")
            agent.command("L1")
        _sweep(agent, second)
        agent.command("L2")
        rows += 1
    agent.think("=")
    return rows


def _multiply_localised(agent: Agent, pointers: int) -> None:
    """`_multiply`, with pointers 3 and up beside pointer 2; the padding leaves pointer 1 as many cells right of `^`."""
    command = agent.command
    left, right = ([f"{move}{p}" for p in range(2, pointers + 1)] for move in "LR")
    agent.step("walk")
    while command("r2") != ("=",):
        command(*right)
    while True:
        agent.step("row")
        command(*left)
        while command("r1") != ("^",):
            command("L1", *left)
        while command("R1", "r1") != ("*",):
            pass
        command("L1")
        _sweep(agent)
        agent.step("pad")
        if command(*left, "r2") == ("*",):
            break
        agent.think("+")
        while command(*right, "r2") != ("=",):
            agent.think("0", "c0")
            command("R1")
    agent.think("=")


def _sweep(agent: Agent, second: str | None = None) -> None:
    """Multiply the first factor by one digit, from the right: `second`, or what pointer 2 reads each time."""
    carry = 0
    while True:
        agent.step("multiply")
        digit = second or agent.command("r2")[0]
        (first,) = agent.command("r1")
        if first not in _VALUES:
            break
        carry, low = divmod(_VALUES[first] * _VALUES[digit] + carry, 10)
        agent.command("L1")
        agent.think(DIGITS[low], _CARRIES[carry])
    if carry:
        agent.think(DIGITS[carry], "c0")


def _place(agent: Agent, rows: int) -> None:
    """Put one pointer on the first digit of each partial product."""
    agent.step("place")
    seek(agent, "1", "=")
    agent.command("R1")
    for pointer in range(2, rows + 1):
        agent.step("place")
        for _ in range(pointer - 1):
            seek(agent, str(pointer), "+")
            agent.command(f"R{pointer}")


def _place_localised(agent: Agent, pointers: int) -> None:
    """`_place`; all pointers walk until the first arrives, the others on until the next; idle ones stop on `=`."""
    moves = [f"R{p}" for p in range(1, pointers + 1)]
    agent.step("place")
    while agent.command(*moves, "r1") != ("=",):
        pass
    agent.command("R1")
    for pointer in range(2, pointers + 1):
        agent.step("place")
        cell = ""
        while cell not in ("+", "="):
            (cell,) = agent.command(*moves[pointer - 1 :], f"r{pointer}")
        if cell == "=":
            break
        agent.command(f"R{pointer}")


def _add(agent: Agent, pointers: int, stride: int) -> None:
    """Add the partial products under the pointers, which skip carries, or step over them with a stride of 2.

    A pointer stops at a non-digit, and when all have stopped that ends it.
    """
    commands = [(f"r{p}", f"R{p}") for p in range(1, pointers + 1)]
    carry = 0
    while True:
        agent.step("add")
        total, moves = carry, []
        for read, right in commands:
            (cell,) = agent.command(read)
            if cell in _CARRIES:
                (cell,) = agent.command(right, read)
            if cell in _VALUES:
                total += _VALUES[cell]
                moves += [right] * stride
        if not moves:
            break
        agent.command(*moves)
        carry, digit = divmod(total, 10)
        agent.think(DIGITS[digit], _CARRIES[carry])
    if carry:
        agent.think(DIGITS[carry], "c0")
    agent.answer()


def _copy(agent: Agent) -> None:
    """Go to the end of the sum and copy its digits backwards, skipping carries and leading zeros, until `=`."""
    agent.step("return")
    seek(agent, "1", ANSWER)
    agent.command("L1", "L1")
    begun = False
    while True:
        agent.step("copy")
        (cell,) = agent.command("r1")
        if cell in _CARRIES:
            (cell,) = agent.command("L1", "r1")
        if cell == "=":
            break
        begun = begun or cell != "0"
        if begun:
            agent.output(cell)
        agent.command("L1")
    if not begun:
        agent.output("0")


def _faithful_length(n: int, rows: Sequence[int], columns: int, last: int) -> int:
    """Tokens but the output: digits of the first factor, of each row and of the sum, and its last carry (0 or 1).

    Walking over c cells and one step on takes 3 c tokens.
    """
    k = len(rows)
    question = n + k + 3
    cells = [2 * digits + row + 1 for row, digits in enumerate(rows)]
    walks = 3 * (n + 2) + 3 * question
    multiply = sum(3 * n + 5 + 2 * digits for digits in rows) + sum(3 * n + 7 + row for row in range(1, k)) + 3
    starts = [question + sum(cells[:row]) for row in range(k)]
    place = 3 * sum(starts) - (3 * (n + 1) if k > 1 else 0)
    add = sum(4 * digits + row + 2 * columns + 2 for row, digits in enumerate(rows)) + 2 * columns + 2 * last + 1
    return question + walks + multiply + place + add + _copy_length(cells, columns + last)


def _localised_length(n: int, pointers: int, rows: Sequence[int], columns: int, last: int) -> int:
    """As `_faithful_length`; padding zeros have two cells like all digits."""
    k, p = len(rows), pointers
    question = n + k + 3
    cells = [2 * (digits + row) + 1 for row, digits in enumerate(rows)]
    walk = 2 * question + (p - 1) * (question - 1)
    multiply = sum(8 * n + 2 * digits + 2 * p + 10 + (p + 2) * row for row, digits in enumerate(rows)) + 1
    pad = sum(p + 2 + (p + 4) * row for row in range(1, k))
    place = (p + 2) * (question - 1) + 1
    for row, passed in enumerate(cells[: p - 1]):
        place += (p - row + 1) * (passed if row else passed - n - 1) + (row + 1 < k)
    add = sum(count - 1 for count in cells) + 2 * p * (columns + 1) + 2 * columns + 2 * last + 1
    return question + walk + multiply + pad + place + add + _copy_length(cells, columns + last)


def _copy_length(cells: Sequence[int], digits: int) -> int:
    """Tokens of `_copy` and the end but the output, from the cells of the rows and the digits of the sum."""
    return 3 * (sum(cells[1:]) + 2 * digits + 2) + 1 + 6 * digits


def _factors(problem: Problem) -> list[str]:
    return "".join(problem.prompt[1:-1]).split("*")


def _row_digits(first: str, digit: str) -> int:
    """Digits of a partial product as it is written: as many as the first factor has, and one for a last carry."""
    return max(len(first), len(multiply(first, int(digit))))

"""Tower of Hanoi, by the iterative algorithm with one pointer (Malach et al., arXiv 2510.14826, section 4)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import cycle
from math import comb, inf, log2
from typing import ClassVar

from tasks.agent import Agent, copy_solution
from tasks.base import Problem, Sampler, Task
from tasks.digits import share

MOST_DISKS = 16
"""Their run has 7 million tokens, the answer a quarter of that, and each further disk doubles both."""

SIZES = {f"({size})": size for size in range(1, 101)}
DISKS = tuple(SIZES)
RODS = ("A", "B", "C")
CLOSE, STOP = "|", "$"

# Moves and states as bytes: rods, marks, then disks by rank from the smallest.
_SYMBOLS = (*RODS, CLOSE, STOP)
_A, _B, _C, _CLOSE, _STOP, _SMALLEST = range(6)
_SWAP_BC = bytes.maketrans(bytes([_B, _C]), bytes([_C, _B]))
_SWAP_AB = bytes.maketrans(bytes([_A, _B]), bytes([_B, _A]))

_TURNS = {"C": {"A": "C", "C": "B", "B": "A"}, "B": {"A": "B", "B": "C", "C": "A"}}
"""Target of the first move -> the rod that the smallest disk goes to from each rod."""

_SPARE = 2
"""Sizes that the window of the stress set `close` has beyond the number of disks."""

Tops = dict[str, str]
"""Rod -> its top disk, "" if it is empty."""


def _answer(prompt: Sequence[str]) -> tuple[str, ...]:
    """What the tool `solver` says; a function of the module, so that helper processes can be sent it."""
    return Hanoi().parse(prompt).answer


class Hanoi(Task):
    """Move all disks from rod A to rod C, one at a time, never onto a smaller one; the length is the number of disks.

    A state stands as `A (7) (5) (1) | B | C (3) | $`, largest disk first, and a move as `(5) A C $`. Sizes are drawn
    without replacement from 1..100, one token each. That `|` closes each rod is our choice: it marks where a disk is
    put down, and brings the lengths, 40,991 tokens at 9 disks and 376,884 at 12, near those of the paper (about 42,000
    and 385,000).

    The output is the run: every move, followed by the state it leads to. The paper leaves it open. The final state
    alone would be a copy of the question, nothing to solve in the setting direct; the moves alone are the output of
    `hanoi_recursive`. Any run that is legal and ends with all disks on C is right, the shortest or not; exact match
    asks for the shortest.

    Two disks worked by hand, in the setting interactive; the question and what the tool answers in angle brackets:

    >>> from tasks.scenario import Scenario
    >>> trajectory = Scenario("hanoi", "interactive").record(Hanoi().problem([3, 8]))
    >>> lines = {}
    >>> for token, role, step in zip(trajectory.tokens, trajectory.roles, trajectory.steps):
    ...     given = role.name in ("QUESTION", "OBSERVATION")
    ...     lines.setdefault(step, []).append(f"<{token}>" if given else token)
    >>> for step, line in lines.items():
    ...     print(f"{trajectory.phases[step]:8}", *line)
    question <^> <A> <(8)> <(3)> <|> <B> <|> <C> <|> <$>
    parity   r1 <^> R1 r1 <A> R1 r1 <(8)> C R1 r1 <(3)> B R1 r1 <|>
    rewind   L1 r1 <(3)> L1 r1 <(8)> L1 r1 <A> [ANS]
    move     (3) A B $
    copy     r1 <A> A R1 r1 <(8)> (8) R1 r1 <(3)> R1 r1 <|> | R1
    copy     r1 <B> B R1 r1 <|> (3) | R1
    copy     r1 <C> C R1 r1 <|> | R1
    copy     r1 <$> $ R1
    advance  r1 <C> R1 r1 <B> R1 r1 <[ANS]> R1 r1 <(3)> R1 r1 <A> R1 r1 <B> R1 r1 <$> R1
    move     (8) A C $
    copy     r1 <A> A R1 r1 <(8)> R1 r1 <|> | R1
    copy     r1 <B> B R1 r1 <(3)> (3) R1 r1 <|> | R1
    copy     r1 <C> C R1 r1 <|> (8) | R1
    copy     r1 <$> $ R1
    advance  r1 <(8)> R1 r1 <A> R1 r1 <C> R1 r1 <$> R1
    move     (3) B C $
    copy     r1 <A> A R1 r1 <|> | R1
    copy     r1 <B> B R1 r1 <(3)> R1 r1 <|> | R1
    copy     r1 <C> C R1 r1 <(8)> (8) R1 r1 <|> (3) | R1
    copy     r1 <$> $ R1 [EOS]

    The last letter of the parity walk is the rod that the smallest disk goes to first; every other move takes it on the
    same way round, and those between are the only legal ones of another disk. The move is remembered while the state
    is copied, and the tops of the rods until the next move, so that what a step depends on lies further back the more
    disks there are. There is no form `localised`: one pointer cannot hold the move and the tops as well.
    """

    revision: ClassVar[int] = 1
    tokens: ClassVar[tuple[str, ...]] = ("^", *RODS, CLOSE, STOP, *DISKS)
    prompt_end: ClassVar[str] = STOP
    settings: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "interactive": ("pointer",),
        "single_turn": ("solver",),
        "cot": ("none",),
        "direct": ("none",),
    }
    several_answers: ClassVar[bool] = True
    tool_options: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "pointer": {"pointers": 1},
        "solver": {"answer": _answer},
    }

    @property
    def stress(self) -> Mapping[str, Sampler]:
        return {"close": self._close, "extreme": self._extreme}

    def problem(self, sizes: Sequence[int]) -> Problem:
        """The problem of these disks, in any order.

        Raises:
            ValueError: no disks or too many, a size out of 1..100, or one that comes twice.
        """
        self._admit(len(sizes))
        disks = [f"({size})" for size in sorted(set(sizes))]
        if len(disks) < len(sizes) or not set(disks) <= set(SIZES):
            raise ValueError(f"{self.name}: sizes = {list(sizes)}, must be distinct and in 1..{len(SIZES)}")
        answer = tuple(map((*_SYMBOLS, *disks).__getitem__, self._answer(len(disks))))
        prompt = ("^", "A", *reversed(disks), CLOSE, "B", CLOSE, "C", CLOSE, STOP)
        return Problem(prompt, answer, len(disks))

    def sample(self, rng: random.Random, length: int) -> Problem:
        self._admit(length)
        return self.problem(rng.sample(range(1, len(SIZES) + 1), length))

    def _admit(self, disks: int) -> None:
        if not 1 <= disks <= MOST_DISKS:
            raise ValueError(f"{self.name}: {disks} disks, must be 1..{MOST_DISKS}")

    def _close(self, rng: random.Random, length: int) -> Problem:
        """Sizes next to one another: out of a window with two sizes more than there are disks."""
        start = rng.randint(1, len(SIZES) + 1 - (length + _SPARE))
        return self.problem(rng.sample(range(start, start + length + _SPARE), length))

    def _extreme(self, rng: random.Random, length: int) -> Problem:
        """The smallest and the largest size among others; at length 1, one of the two."""
        ends = [1, len(SIZES)] if length > 1 else [rng.choice((1, len(SIZES)))]
        return self.problem([*ends, *rng.sample(range(2, len(SIZES)), length - len(ends))])

    def parse(self, prompt: Sequence[str]) -> Problem:
        sizes = [SIZES[token] for token in prompt if token in SIZES]
        try:
            problem = self.problem(sizes)
        except ValueError:
            problem = None
        if problem is None or problem.prompt != tuple(prompt):
            shown, like = " ".join(prompt)[:80], "^ A (7) (5) (1) | B | C | $"
            raise ValueError(f"{self.name}: {shown!r} is not a prompt like {like!r}")
        return problem

    def solve(self, problem: Problem, agent: Agent) -> None:
        first, smallest = _parity(agent)
        _rewind(agent)
        agent.answer()
        home, tops = "A", Tops(A=smallest, B="", C="")
        for odd in cycle((True, False)):
            source, target = (home, _TURNS[first][home]) if odd else _only_other(tops, home)
            home = target if odd else home
            tops = _move(agent, tops[source], source, target)
            if not tops["A"] and not tops["B"]:
                return
            _advance(agent)

    def call(self, problem: Problem, agent: Agent) -> None:
        copy_solution(agent)

    def check(self, problem: Problem, output: Sequence[str]) -> bool:
        rods, width = start_rods(problem), problem.length + 11
        for start in range(0, len(output), width):
            move, state = output[start : start + 4], output[start + 4 : start + width]
            if not make_move(rods, move) or list(state) != _written(rods):
                return False
        return not rods["A"] and not rods["B"]

    def count(self, length: int) -> int:
        return comb(len(SIZES), length)

    def chance(self, length: int) -> float:
        """Right for one set of disks."""
        return 1 / self.count(length)

    def covered(self, bits: float, length: int) -> float:
        """The disks decide the answer; there are no problems, and no more answers, beyond the most disks."""
        return share(bits, log2(comb(len(SIZES), min(length, MOST_DISKS))))

    def trajectory_length(self, problem: Problem, form: str = "faithful") -> int:
        """4n + 44 tokens for each of the 2^n - 1 moves, 8n + 9 around them, 3n + 3 to get past the parity letters."""
        n = problem.length
        return (4 * n + 44) * (2**n - 1) + 8 * n + 9 + (3 * n + 3 if n > 1 else 0)

    def _answer(self, disks: int) -> bytes:
        return _run(disks)


def shortest_moves(disks: int) -> bytes:
    """The shortest list of moves, each of four bytes: disk, rod, rod, `$`."""
    moves = b""
    for disk in range(_SMALLEST, _SMALLEST + disks):
        moves = moves.translate(_SWAP_BC) + bytes([disk, _A, _C, _STOP]) + moves.translate(_SWAP_AB)
    return moves


@lru_cache
def _run(disks: int) -> bytes:
    """The shortest moves, each followed by the state it leads to."""
    rods = [bytes(range(_SMALLEST + disks - 1, _SMALLEST - 1, -1)), b"", b""]
    moves, run = shortest_moves(disks), bytearray()
    for start in range(0, len(moves), 4):
        disk, source, target, _ = moves[start : start + 4]
        rods[source] = rods[source][:-1]
        rods[target] += bytes([disk])
        run += moves[start : start + 4]
        for rod, stack in enumerate(rods):
            run += bytes([rod, *stack, _CLOSE])
        run.append(_STOP)
    return bytes(run)


def _parity(agent: Agent) -> tuple[str, str]:
    """Walk over rod A, writing C and B in turn; the last letter written and the smallest disk."""
    agent.step("parity")
    command, letters, letter, smallest = agent.command, cycle("CB"), "", ""
    while (cell := command("r1")[0]) != CLOSE:
        if cell in SIZES:
            letter, smallest = next(letters), cell
            agent.think(letter)
        command("R1")
    return letter, smallest


def _rewind(agent: Agent) -> None:
    """Walk back to the start of the state."""
    agent.step("rewind")
    cell = ""
    while cell != "A":
        agent.command("L1")
        (cell,) = agent.command("r1")


def _only_other(tops: Tops, home: str) -> tuple[str, str]:
    """From where to where the only legal move of another disk than the smallest, which is on rod `home`, leads."""
    source, target = sorted({*RODS} - {home}, key=lambda other: SIZES.get(tops[other], inf))
    return source, target


def _move(agent: Agent, disk: str, source: str, target: str) -> Tops:
    """Write a move, and copy the state with that disk moved; the new tops."""
    agent.step("move")
    agent.output(disk, source, target, STOP)
    tops = Tops()
    while True:
        agent.step("copy")
        (cell,) = agent.command("r1")
        agent.output(cell)
        agent.command("R1")
        if cell == STOP:
            return tops
        tops[cell] = _copy_rod(agent, disk, cell == target)


def _copy_rod(agent: Agent, moved: str, gains: bool) -> str:
    """Copy the disks of a rod without the moved one, which is put on top if the rod gains it; the new top."""
    command, output, top = agent.command, agent.output, ""
    while (cell := command("r1")[0]) != CLOSE:
        if cell != moved:
            output(cell)
            top = cell
        command("R1")
    if gains:
        output(moved)
    output(CLOSE)
    command("R1")
    return moved if gains else top


def _advance(agent: Agent) -> None:
    """Walk past the move that follows the state."""
    agent.step("advance")
    cell = ""
    while cell != STOP:
        (cell,) = agent.command("r1")
        agent.command("R1")


def start_rods(problem: Problem) -> dict[str, list[str]]:
    """Rod -> its disks, the top one last, before the first move."""
    return {"A": list(problem.prompt[2 : 2 + problem.length]), "B": [], "C": []}


def make_move(rods: dict[str, list[str]], tokens: Sequence[str]) -> bool:
    """Make the move that the tokens state, if they state a legal one."""
    if len(tokens) != 4 or tokens[3] != STOP or tokens[1] == tokens[2] or not {*tokens[1:3]} <= {*RODS}:
        return False
    source, target = rods[tokens[1]], rods[tokens[2]]
    if source[-1:] != [tokens[0]] or (target and SIZES[target[-1]] < SIZES[source[-1]]):
        return False
    target.append(source.pop())
    return True


def _written(rods: Mapping[str, Sequence[str]]) -> list[str]:
    return [token for rod in RODS for token in (rod, *rods[rod], CLOSE)] + [STOP]

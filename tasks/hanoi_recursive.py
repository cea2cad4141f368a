"""Tower of Hanoi, by the recursive algorithm with two pointers (Malach et al., arXiv 2510.14826, section 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from tasks.agent import Agent
from tasks.base import Problem
from tasks.hanoi import CLOSE, DISKS, RODS, STOP, Hanoi, make_move, shortest_moves, start_rods

_LIST = "#"
_SWAP_BC = {"B": "C", "C": "B"}
_SWAP_AB = {"A": "B", "B": "A"}

Copy = Callable[[Agent, Callable[..., None], Mapping[str, str]], None]


def _answer(prompt: Sequence[str]) -> tuple[str, ...]:
    """What the tool `solver` says; a function of the module, so that helper processes can be sent it."""
    return HanoiRecursive().parse(prompt).answer


class HanoiRecursive(Hanoi):
    """Tower of Hanoi as in `hanoi`, by writing the moves for 1, 2, .. n disks, each list from the one before.

    Every list opens with `#`, the first of them, that of no disks, being empty. Pointer 1 holds the current disk, from
    the smallest, and looks one disk ahead; pointer 2 goes over the previous list twice. The list for all disks is the
    output, and so begins with `[ANS]` after its `#`. Any legal moves that end with all disks on C are right, the
    shortest or not; exact match asks for the shortest.

    Two disks worked by hand, in the setting interactive; the question and what the tool answers in angle brackets:

    >>> from textwrap import fill
    >>> from tasks.scenario import Scenario
    >>> scenario = Scenario("hanoi_recursive", "interactive")
    >>> trajectory = scenario.record(scenario.task.problem([3, 8]))
    >>> lines = {}
    >>> for token, role, step in zip(trajectory.tokens, trajectory.roles, trajectory.steps):
    ...     given = role.name in ("QUESTION", "OBSERVATION")
    ...     lines.setdefault(step, []).append(f"<{token}>" if given else token)
    >>> for step, line in lines.items():
    ...     text = " ".join([f"{trajectory.phases[step]:9}", *line])
    ...     print(fill(text, width=100, subsequent_indent=" " * 10))
    question  <^> <A> <(8)> <(3)> <|> <B> <|> <C> <|> <$>
    walk      r1 <^> R1 r1 <A> R1 r1 <(8)> R1 r1 <(3)> R1 r1 <|> L1
    walk      # r2 <^> R2 r2 <A> R2 r2 <(8)> R2 r2 <(3)> R2 r2 <|> R2 r2 <B> R2 r2 <|> R2 r2 <C> R2 r2
              <|> R2 r2 <$> R2 r2 <#> R2
    ahead     L1 r1 <(8)> R1 #
    swap B C  r2 <#>
    largest   r1 <(3)> (3) A C $
    rewind    L2 r2 <#> R2
    swap A B  r2 <#>
    next      R2 L1 r1 <(8)>
    ahead     L1 r1 <A> R1 # [ANS]
    swap B C  r2 <(3)> (3) R2 r2 <A> A R2 r2 <C> B R2 r2 <$> $ R2 r2 <#>
    largest   r1 <(8)> (8) A C $
    rewind    L2 r2 <$> L2 r2 <C> L2 r2 <A> L2 r2 <(3)> L2 r2 <#> R2
    swap A B  r2 <(3)> (3) R2 r2 <A> B R2 r2 <C> C R2 r2 <$> $ R2 r2 <#>
    next      R2 L1 r1 <A> [EOS]

    In this form, `faithful`, which of the two copies is under way has to be remembered over their whole length. In the
    form `localised` the second copy moves the pointer before it writes, so that the last tokens show it (`swap A B` is
    `r2 <(3)> R2 (3) r2 <A> R2 B ..`): every token follows from the 8 before it. Output and length are the same.
    """

    revision: ClassVar[int] = 1
    tokens: ClassVar[tuple[str, ...]] = ("^", *RODS, CLOSE, STOP, _LIST, *DISKS)
    forms: ClassVar[tuple[str, ...]] = ("faithful", "localised")
    tool_options: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "pointer": {"pointers": 2},
        "solver": {"answer": _answer},
    }

    def solve(self, problem: Problem, agent: Agent) -> None:
        _solve(agent, _copy)

    def solve_localised(self, problem: Problem, agent: Agent) -> None:
        """As `solve`, the second copy moving before it writes."""
        _solve(agent, _copy_after_moving)

    def check(self, problem: Problem, output: Sequence[str]) -> bool:
        rods = start_rods(problem)
        moves = (output[start : start + 4] for start in range(0, len(output), 4))
        return all(make_move(rods, move) for move in moves) and not rods["A"] and not rods["B"]

    def trajectory_length(self, problem: Problem, form: str = "faithful") -> int:
        """44 tokens for every move that is copied, twice, 23 for each of the n lists, 7n + 47 around them."""
        n = problem.length
        return 44 * (2**n - n - 1) + 23 * n + 7 * n + 47

    def _answer(self, disks: int) -> bytes:
        return shortest_moves(disks)


def _solve(agent: Agent, second_copy: Copy) -> None:
    _walk(agent)
    rest = ""
    while rest != "A":
        make = _open_list(agent)
        agent.step("swap B C")
        _copy(agent, make, _SWAP_BC)
        agent.step("largest")
        make(*agent.command("r1"), "A", "C", STOP)
        _rewind(agent)
        agent.step("swap A B")
        second_copy(agent, make, _SWAP_AB)
        agent.step("next")
        agent.command("R2", "L1")
        (rest,) = agent.command("r1")


def _walk(agent: Agent) -> None:
    """Walk pointer 1 to the smallest disk, and pointer 2 into the list of no disks."""
    agent.step("walk")
    while agent.command("r1") != (CLOSE,):
        agent.command("R1")
    agent.command("L1")
    agent.step("walk")
    agent.think(_LIST)
    while agent.command("r2") != (_LIST,):
        agent.command("R2")
    agent.command("R2")


def _open_list(agent: Agent) -> Callable[..., None]:
    """Open the list for the current disk, the answer if it is the last one; what writes its moves."""
    agent.step("ahead")
    agent.command("L1")
    last = agent.command("r1") == ("A",)
    agent.command("R1")
    agent.think(_LIST)
    if not last:
        return agent.think
    agent.answer()
    return agent.output


def _copy(agent: Agent, make: Callable[..., None], swap: Mapping[str, str]) -> None:
    """Copy the previous list with two rods swapped."""
    command = agent.command
    while (cell := command("r2")[0]) != _LIST:
        make(swap.get(cell, cell))
        command("R2")


def _copy_after_moving(agent: Agent, make: Callable[..., None], swap: Mapping[str, str]) -> None:
    command = agent.command
    while (cell := command("r2")[0]) != _LIST:
        command("R2")
        make(swap.get(cell, cell))


def _rewind(agent: Agent) -> None:
    """Walk pointer 2 back to the first move of the previous list."""
    agent.step("rewind")
    cell = ""
    while cell != _LIST:
        agent.command("L2")
        (cell,) = agent.command("r2")
    agent.command("R2")

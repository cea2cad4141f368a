import doctest
import random
import tracemalloc
from collections.abc import Iterator
from itertools import combinations
from math import comb

import pytest

import tasks.hanoi
import tasks.hanoi_recursive
from harness.trace import notation
from tasks.base import Problem, Role, Task
from tasks.hanoi import MOST_DISKS, SIZES, Hanoi
from tasks.hanoi_recursive import HanoiRecursive
from tasks.scenario import Scenario

ITERATIVE = Scenario(Hanoi, "interactive")
RECURSIVE = Scenario(HanoiRecursive, "interactive")
LOCALISED = Scenario(HanoiRecursive, "interactive", form="localised")
every_scenario = pytest.mark.parametrize("scenario", [ITERATIVE, RECURSIVE, LOCALISED], ids=["it", "rec", "loc"])
every_task = pytest.mark.parametrize("task", [Hanoi(), HanoiRecursive()], ids=["iterative", "recursive"])

State = tuple[tuple[int, ...], ...]
"""The disks of the rods A, B and C, the top one last."""

GOLDEN_ITERATIVE = """
<^> <A> <(8)> <(3)> <|> <B> <|> <C> <|> <$>
r1 <^> R1 r1 <A> R1 r1 <(8)> C R1 r1 <(3)> B R1 r1 <|> L1 r1 <(3)> L1 r1 <(8)> L1 r1 <A> [ANS]
(3) A B $ r1 <A> A R1 r1 <(8)> (8) R1 r1 <(3)> R1 r1 <|> | R1 r1 <B> B R1 r1 <|> (3) | R1 r1 <C> C R1 r1 <|> | R1
r1 <$> $ R1 r1 <C> R1 r1 <B> R1 r1 <[ANS]> R1 r1 <(3)> R1 r1 <A> R1 r1 <B> R1 r1 <$> R1
(8) A C $ r1 <A> A R1 r1 <(8)> R1 r1 <|> | R1 r1 <B> B R1 r1 <(3)> (3) R1 r1 <|> | R1 r1 <C> C R1 r1 <|> (8) | R1
r1 <$> $ R1 r1 <(8)> R1 r1 <A> R1 r1 <C> R1 r1 <$> R1
(3) B C $ r1 <A> A R1 r1 <|> | R1 r1 <B> B R1 r1 <(3)> R1 r1 <|> | R1 r1 <C> C R1 r1 <(8)> (8) R1 r1 <|> (3) | R1
r1 <$> $ R1 [EOS]
"""

GOLDEN_RECURSIVE = """
<^> <A> <(8)> <(3)> <|> <B> <|> <C> <|> <$>
r1 <^> R1 r1 <A> R1 r1 <(8)> R1 r1 <(3)> R1 r1 <|> L1
# r2 <^> R2 r2 <A> R2 r2 <(8)> R2 r2 <(3)> R2 r2 <|> R2 r2 <B> R2 r2 <|> R2 r2 <C> R2 r2 <|> R2 r2 <$> R2 r2 <#> R2
L1 r1 <(8)> R1 # r2 <#> r1 <(3)> (3) A C $ L2 r2 <#> R2 r2 <#> R2 L1 r1 <(8)>
L1 r1 <A> R1 # [ANS] r2 <(3)> (3) R2 r2 <A> A R2 r2 <C> B R2 r2 <$> $ R2 r2 <#>
r1 <(8)> (8) A C $ L2 r2 <$> L2 r2 <C> L2 r2 <A> L2 r2 <(3)> L2 r2 <#> R2
r2 <(3)> (3) R2 r2 <A> B R2 r2 <C> C R2 r2 <$> $ R2 r2 <#> R2 L1 r1 <A> [EOS]
"""
RIGHT = "(5) A B $ (7) A C $ (5) B C $"
SECOND_COPY = "r2 <(3)> (3) R2 r2 <A> B R2 r2 <C> C R2 r2 <$> $ R2 r2 <#> R2 L1"
SECOND_COPY_LOCALISED = "r2 <(3)> R2 (3) r2 <A> R2 B r2 <C> R2 C r2 <$> R2 $ r2 <#> R2 L1"


def marked(scenario: Scenario, problem: Problem) -> list[str]:
    trajectory = scenario.record(problem)
    given = (Role.QUESTION, Role.OBSERVATION)
    return [f"<{t}>" if role in given else t for t, role in zip(trajectory.tokens, trajectory.roles)]


def solved(scenario: Scenario, problem: Problem) -> tuple[str, ...]:
    trajectory = scenario.record(problem)
    return tuple(t for t, role in zip(trajectory.tokens, trajectory.roles) if role is Role.OUTPUT)


def legal_moves(state: State) -> Iterator[tuple[str, State]]:
    """Every legal move of a state and the state it leads to: a referee of its own, on tuples of integers."""
    for source, target in ((s, t) for s in range(3) for t in range(3) if s != t):
        if state[source] and min(state[target], default=101) > (disk := state[source][-1]):
            rods = list(state)
            rods[source], rods[target] = state[source][:-1], (*state[target], disk)
            yield f"({disk}) {'ABC'[source]} {'ABC'[target]} $", tuple(rods)


def written(state: State) -> str:
    return " ".join(f"{rod} {''.join(f'({disk}) ' for disk in disks)}|" for rod, disks in zip("ABC", state)) + " $"


def shortest(sizes: tuple[int, ...]) -> list[tuple[str, State]]:
    """The shortest way from A to C by breadth-first search: moves and the states they lead to."""
    start: State = (tuple(sorted(sizes, reverse=True)), (), ())
    reached: dict[State, list[tuple[str, State]]] = {start: []}
    frontier = [start]
    while (goal := ((), (), start[0])) not in reached:
        edges = [(state, edge) for state in frontier for edge in legal_moves(state)]
        frontier = []
        for state, edge in edges:
            if edge[1] not in reached:
                reached[edge[1]] = [*reached[state], edge]
                frontier.append(edge[1])
    return reached[goal]


def as_output(task: Task, way: list[tuple[str, State]]) -> list[str]:
    """A way as the task writes it: the recursive one leaves the states out."""
    texts = [move if isinstance(task, HanoiRecursive) else f"{move} {written(state)}" for move, state in way]
    return " ".join(texts).split()


def wander(rng: random.Random, sizes: tuple[int, ...], moves: int) -> list[tuple[str, State]]:
    """A random legal way from the start, of so many moves or until all disks are on C."""
    state: State = (tuple(sorted(sizes, reverse=True)), (), ())
    way = []
    while len(way) < moves and len(state[2]) < len(sizes):
        way.append(rng.choice(list(legal_moves(state))))
        state = way[-1][1]
    return way


def mutated(rng: random.Random, tokens: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    """One token replaced, dropped or put in, or two exchanged, or the end cut off."""
    at, new = rng.randrange(len(tokens)), rng.choice(others)
    other = rng.randrange(len(tokens))
    exchanged = list(tokens)
    exchanged[at], exchanged[other] = exchanged[other], exchanged[at]
    head, tail = tokens[:at], tokens[at + 1 :]
    return rng.choice([(*head, new, *tail), (*head, *tail), (*head, new, *tokens[at:]), tuple(exchanged), head])


@pytest.mark.parametrize("module", [tasks.hanoi, tasks.hanoi_recursive])
def test_doctest(module: object) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 3
    assert result.failed == 0


def test_golden_traces() -> None:
    assert marked(ITERATIVE, Hanoi().problem([3, 8])) == GOLDEN_ITERATIVE.split()
    assert marked(RECURSIVE, HanoiRecursive().problem([3, 8])) == GOLDEN_RECURSIVE.split()


def test_localised_form_moves_before_it_writes_in_the_second_copy() -> None:
    golden = " ".join(GOLDEN_RECURSIVE.split())
    assert golden.count(SECOND_COPY) == 1
    assert " ".join(marked(LOCALISED, HanoiRecursive().problem([3, 8]))) == golden.replace(
        SECOND_COPY, SECOND_COPY_LOCALISED
    )


def continuations(scenario: Scenario, window: int) -> dict[tuple[str, ...], set[str]]:
    """The tokens that the solver makes after each run of `window` tokens, over all problems with sizes up to 5."""
    found: dict[tuple[str, ...], set[str]] = {}
    for length in range(1, 6):
        for sizes in combinations(range(1, 6), length):
            trajectory = scenario.record(scenario.task.problem(sizes))
            padded = ["[PAD]"] * window + trajectory.tokens
            for at, own in enumerate(trajectory.own):
                if own:
                    found.setdefault(tuple(padded[at : at + window]), set()).add(padded[at + window])
    return found


def test_localised_tokens_follow_from_the_8_before_them() -> None:
    assert max(map(len, continuations(LOCALISED, 8).values())) == 1
    assert max(map(len, continuations(LOCALISED, 7).values())) > 1
    assert max(map(len, continuations(RECURSIVE, 8).values())) > 1


@every_scenario
@pytest.mark.parametrize("length", range(1, 11))
def test_solver_finds_the_answer_and_the_length_is_as_stated(scenario: Scenario, length: int) -> None:
    problem = scenario.task.sample(random.Random(length), length)
    assert solved(scenario, problem) == problem.answer
    assert scenario.right(problem, problem.answer)
    assert scenario.task.trajectory_length(problem) == len(scenario.encoded(problem))


@pytest.mark.parametrize(("disks", "iterative", "recursive"), [(8, 19_480, 11_155), (9, 40_991, 22_405)])
def test_lengths_at_the_sizes_of_the_paper(disks: int, iterative: int, recursive: int) -> None:
    sizes = range(3, 3 + disks)
    assert len(ITERATIVE.encoded(Hanoi().problem(sizes))) == iterative
    assert len(RECURSIVE.encoded(HanoiRecursive().problem(sizes))) == recursive


def peak_and_cells(scenario: Scenario, disks: int) -> tuple[int, int]:
    """Bytes at most in use while the trajectory is streamed in small pieces, and cells of the tool at its end."""
    problem = scenario.task.problem(range(1, disks + 1))
    made = (Role.QUESTION, Role.THOUGHT, Role.OUTPUT)
    cells = sum(role in made for role in scenario.record(problem).roles)
    tracemalloc.start()
    size = sum(len(piece) for piece in scenario.stream_encoded(problem, 64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == scenario.task.trajectory_length(problem) > 3 * cells
    return peak, cells


@every_scenario
def test_streaming_needs_the_memory_of_the_tool_and_the_output_alone(scenario: Scenario) -> None:
    small, large = peak_and_cells(scenario, 8), peak_and_cells(scenario, 9)
    assert large[0] - small[0] < 24 * (large[1] - small[1])


@every_scenario
def test_twelve_disks_stream(scenario: Scenario) -> None:
    problem = scenario.task.problem(range(1, 13))
    pieces = list(scenario.stream_encoded(problem, 8_192))
    tokens = scenario.vocabulary.tokens
    output = [tokens[i] for piece in pieces for i in piece.ids[piece.roles == Role.OUTPUT]]
    assert sum(map(len, pieces)) == scenario.task.trajectory_length(problem)
    assert tuple(output) == problem.answer
    assert scenario.right(problem, output)


def test_twelve_disks_have_the_stated_lengths() -> None:
    longest = Hanoi().problem(range(1, 13))
    assert Hanoi().trajectory_length(longest) == 376_884
    assert HanoiRecursive().trajectory_length(longest) == 180_059


@every_task
@pytest.mark.parametrize("sizes", [(4,), (9, 10), (7, 1, 100), (2, 3, 5, 7), (99, 12, 50, 6, 51)])
def test_answer_is_the_shortest_way(task: Task, sizes: tuple[int, ...]) -> None:
    way = shortest(sizes)
    assert len(way) == 2 ** len(sizes) - 1
    assert list(task.problem(sizes).answer) == as_output(task, way)


@every_task
def test_check_accepts_every_legal_way_to_the_end_and_no_other(task: Task) -> None:
    rng, outcomes = random.Random(0), []
    for _ in range(300):
        sizes = tuple(rng.sample(range(1, 101), 2))
        way = wander(rng, sizes, rng.randint(0, 60))
        arrived = bool(way) and len(way[-1][1][2]) == 2
        outcomes.append(arrived)
        assert task.check(task.problem(sizes), as_output(task, way)) == arrived
    assert 30 < sum(outcomes) < 270


@every_task
def test_check_alone_catches_mutations(task: Task) -> None:
    rng = random.Random(0)
    problems = [task.sample(rng, length) for length in (1, 2, 3, 4, 5, 6)]
    caught = 0
    for _ in range(1_200):
        problem = rng.choice(problems)
        output = mutated(rng, problem.answer, (*task.tokens, *problem.prompt * 5, "[ANS]", "r1", "<odd>"))
        assert task.check(problem, output) == (output == problem.answer)
        caught += output != problem.answer
    assert caught > 1_000


@every_task
@pytest.mark.parametrize(
    "moves",
    [
        "(5) A B $ (7) A B $ (5) B C $ (7) B C $ ",
        "(7) A C $ (5) A C $",
        "(5) A A $ (5) A B $ (7) A C $ (5) B C $",
        "(5) A B $ (7) A C $ (5) A C $",
        "(5) A B $ (7) A C $ (5) B D $",
        "(5) A B $ (7) A C $ (7) C B $ (5) B C $",
        "(5) A C $ (7) A B $ (5) C B $",
    ],
    ids=["onto smaller", "not the top", "nowhere", "not there", "no such rod", "onto smaller later", "wrong end"],
)
def test_check_refuses_illegal_moves_and_other_ends(task: Task, moves: str) -> None:
    problem = HanoiRecursive().problem([5, 7])
    assert HanoiRecursive().check(problem, RIGHT.split())
    assert not HanoiRecursive().check(problem, moves.split())
    assert not task.check(problem, ())


def test_check_of_a_run_compares_every_state() -> None:
    problem = Hanoi().problem([5])
    assert Hanoi().check(problem, problem.answer)
    for state in ("A | B (5) | C | $", "A | B | C | (5) $", "A (5) | B | C (5) | $", "A | B | C (6) | $", ""):
        assert not Hanoi().check(problem, f"(5) A C $ {state}".split())


@every_task
def test_problems_state_the_disks_largest_first(task: Task) -> None:
    assert task.problem([5, 100, 7]).prompt == ("^", "A", "(100)", "(7)", "(5)", "|", "B", "|", "C", "|", "$")
    assert task.problem([5, 100, 7]).length == 3


@every_task
def test_sizes_are_drawn_without_replacement_from_all(task: Task) -> None:
    rng = random.Random(0)
    drawn = [set(task.sample(rng, 4).prompt) & set(SIZES) for _ in range(600)]
    assert {len(sizes) for sizes in drawn} == {4}
    assert set().union(*drawn) == {f"({size})" for size in range(1, 101)}


def test_training_lengths_are_uniform() -> None:
    rng = random.Random(0)
    lengths = [Hanoi().sample_training(rng, 4).length for _ in range(2_000)]
    assert all(420 < lengths.count(length) < 580 for length in (1, 2, 3, 4))


@every_task
def test_count_is_that_of_sets_of_disks(task: Task) -> None:
    assert [task.count(length) for length in (1, 2, 8)] == [100, 4_950, comb(100, 8)]


def sizes_of(problem: Problem) -> list[int]:
    return sorted(SIZES[token] for token in problem.prompt if token in SIZES)


def test_stress_sets() -> None:
    rng = random.Random(0)
    for length in (1, 2, 6):
        close = [sizes_of(Hanoi().stress["close"](rng, length)) for _ in range(2_000)]
        assert {len(sizes) for sizes in close} == {length}
        assert max(sizes[-1] - sizes[0] for sizes in close) == (length + 1 if length > 1 else 0)
        assert {sizes[0] for sizes in close} >= {1, 40}
        assert max(sizes[-1] for sizes in close) == 100
    extreme = [sizes_of(Hanoi().stress["extreme"](rng, 5)) for _ in range(50)]
    assert all(len(sizes) == 5 and sizes[0] == 1 and sizes[-1] == 100 for sizes in extreme)
    assert {tuple(sizes_of(Hanoi().stress["extreme"](rng, 1))) for _ in range(50)} == {(1,), (100,)}


@every_task
@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "^ A | B | C | $",
        "^ A (5) (7) | B | C | $",
        "^ A (7) (7) | B | C | $",
        "^ A (7) | B (5) | C | $",
        "^ A (101) | B | C | $",
        "^ A (7) (5) B C $",
        "^ A (7) (5) | B | C |",
        "^ A " + " ".join(f"({size})" for size in range(100, 0, -1)) + " | B | C | $",
    ],
)
def test_parse_refuses_what_is_no_prompt(task: Task, prompt: str) -> None:
    with pytest.raises(ValueError, match=r"is not a prompt like '\^ A \(7\)"):
        task.parse(prompt.split())


@every_task
def test_parse_is_the_inverse_of_the_prompt(task: Task) -> None:
    rng = random.Random(0)
    for length in (1, 2, 5, 9):
        for sampler in (task.sample, *task.stress.values()):
            problem = sampler(rng, length)
            assert task.parse(problem.prompt) == problem


@every_task
def test_disks_that_cannot_be_are_refused(task: Task) -> None:
    for disks in (0, MOST_DISKS + 1, 10**9):
        with pytest.raises(ValueError, match=rf"{disks} disks, must be 1\.\.16"):
            task.sample(random.Random(0), disks)
    for sizes in ([5, 5], [0, 1], [101], [-3]):
        with pytest.raises(ValueError, match=r"must be distinct and in 1\.\.100"):
            task.problem(sizes)


def test_recursive_solver_needs_a_second_pointer_and_the_iterative_one_does_not() -> None:
    commands = {"r1", "L1", "R1", "r2", "L2", "R2"}
    assert commands & set(ITERATIVE.vocabulary.tokens) == {"r1", "L1", "R1"}
    assert commands <= set(RECURSIVE.vocabulary.tokens)


def test_a_setting_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="setting"):
        Scenario(Hanoi, "direct_reversed")


def test_single_turn_has_the_question_solved_and_copies() -> None:
    for task, answer in (("hanoi", "(4) A C $ A | B | C (4) | $"), ("hanoi_recursive", "(4) A C $")):
        scenario = Scenario(task, "single_turn")
        trajectory = scenario.record(scenario.task.problem([4]))
        given = " ".join(f"<{token}>" for token in answer.split())
        assert notation(trajectory).split(maxsplit=9)[-1] == f"[SOLVE] {given} <[END]> [ANS] {answer} [EOS]"
        assert trajectory.calls == 1

"""Turing machines: the shipped ones, a user's own, what is refused, and that a lookup of (state, symbol) suffices."""

import doctest
import random
import re
import tracemalloc
from collections import Counter
from itertools import product
from pathlib import Path

import pytest

import tasks.turing
from harness.config import Evaluate
from harness.evaluate import Point, evaluate
from harness.grid import load
from harness.oracle import ScriptedModel
from harness.trace import notation
from tasks.machine import CHECKERS
from tasks.machine_file import read_machine
from tasks.problems import problems
from tasks.scenario import Scenario
from tasks.turing import MACHINES, TuringMachine
from tasks.words import Mirror, Nested, Pattern, Words

NAMES = sorted(path.stem for path in MACHINES.glob("*.yaml"))
DOC = (Path(__file__).parents[2] / "docs" / "add-a-turing-machine.md").read_text()
BLOCK = re.compile(r"```yaml\n# (\S+)\n(.*?)```", re.DOTALL)
PARITY = dict(BLOCK.findall(DOC))["parity.yaml"]
every_machine = pytest.mark.parametrize("name", NAMES)


def task_of(name: str) -> TuringMachine:
    return getattr(tasks.turing, name)()


def trace(name: str, word: str) -> str:
    return notation(Scenario(name, "interactive").record(task_of(name).problem(word)))


# --- the shipped machines


def test_doctest() -> None:
    result = doctest.testmod(tasks.turing)
    assert result.attempted > 3
    assert result.failed == 0


GOLDEN = {
    ("palindrome", "ab"): """<a> <b> <[END]> first [READ] <a> [WRITE] [END] [RIGHT] seek_a [READ] <b> [WRITE] b [RIGHT]
        seek_a [READ] <[END]> [WRITE] [END] [LEFT] last_a [READ] <b> [WRITE] F [RIGHT] show [READ] <[END]> [WRITE] [END]
        [LEFT] done [ANS] [READ] <F> F [EOS]""",
    ("sort", "ba"): """<b> <a> <[END]> first [READ] <b> [WRITE] b [RIGHT] after_b [READ] <a> [WRITE] b [LEFT] drop_a
        [READ] <b> [WRITE] a [LEFT] first [READ] <[END]> [WRITE] [END] [RIGHT] first [READ] <a> [WRITE] a [RIGHT]
        after_a [READ] <b> [WRITE] b [RIGHT] after_b [READ] <[END]> [WRITE] [END] [LEFT] rewind [READ] <b>
        [WRITE] b [LEFT] rewind [READ] <a> [WRITE] a [LEFT] rewind [READ] <[END]> [WRITE] [END] [RIGHT] done [ANS]
        [READ] <a> a [RIGHT] [READ] <b> b [RIGHT] [READ] <[END]> [EOS]""",
}


@pytest.mark.parametrize(("name", "word"), GOLDEN)
def test_golden_trace(name: str, word: str) -> None:
    assert trace(name, word) == " ".join(GOLDEN[name, word].split())


@pytest.mark.parametrize(
    ("name", "word", "answer"),
    [
        ("increment", "0", "1"),
        ("increment", "1011", "1100"),
        ("increment", "111", "1000"),
        ("palindrome", "a", "T"),
        ("palindrome", "abba", "T"),
        ("palindrome", "abaab", "F"),
        ("balanced", "(()())", "T"),
        ("balanced", "())(()", "F"),
        ("balanced", "(()", "F"),
        ("unary_to_binary", "||||||.", "110"),
        ("unary_to_binary", "|...", "1"),
        ("copy", "aab", "aab#aab"),
        ("sort", "cabbac", "aabbcc"),
    ],
)
def test_answers_worked_by_hand(name: str, word: str, answer: str) -> None:
    problem = task_of(name).problem(word)
    assert problem.answer == tuple(answer)
    assert problem.prompt == (*word, "[END]")
    assert trace(name, word).count("[ANS]") == 1
    assert task_of(name).machine.run(word)[1] == tuple(answer)


def test_all_shipped_machines_are_registered_and_have_checkers() -> None:
    assert set(NAMES) == {"increment", "palindrome", "balanced", "unary_to_binary", "copy", "sort"}
    for name in NAMES:
        assert task_of(name).name == name
        assert task_of(name).machine.checker in CHECKERS


@every_machine
def test_the_table_agrees_with_the_checker_on_every_short_input(name: str) -> None:
    task, tried = task_of(name), 0
    for length in range(1, 8):
        for letters in product(sorted(task.machine.inputs.symbols), repeat=length):
            if task.machine.inputs.holds(letters):
                assert task.machine.run(letters)[1] == tuple(CHECKERS[task.machine.checker or ""]("".join(letters)))
                tried += 1
    assert tried == sum(task.count(length) or 0 for length in range(1, 8))


@every_machine
def test_trajectory_length_is_the_recorded_one_and_so_is_the_answer(name: str) -> None:
    scenario, rng = Scenario(name, "interactive"), random.Random(1)
    for sampler in (scenario.task.sample, *scenario.task.stress.values()):
        for length in (1, 2, 5, 11, 30):
            problem = sampler(rng, length)
            trajectory = scenario.record(problem)
            assert scenario.task.trajectory_length(problem) == len(trajectory.tokens)
            output = [token for token, role in zip(trajectory.tokens, trajectory.roles) if role.name == "OUTPUT"]
            assert tuple(output) == problem.answer


@every_machine
def test_check_refuses_what_is_not_the_answer(name: str) -> None:
    task, rng = task_of(name), random.Random(2)
    for _ in range(200):
        problem = task.sample(rng, rng.randint(1, 12))
        output = list(problem.answer)
        assert task.check(problem, output)
        cell = rng.randrange(len(output))
        other = rng.choice([token for token in task.tokens if token != output[cell]])
        assert not task.check(problem, [*output[:cell], other, *output[cell + 1 :]])
        assert not task.check(problem, [*output, output[-1]])
        assert not task.check(problem, ["".join(output), ""])


@pytest.mark.parametrize(("name", "shares"), [("palindrome", (0.4, 0.7)), ("balanced", (0.25, 0.6))])
def test_both_answers_of_a_decision_are_common_at_any_even_length(name: str, shares: tuple[float, float]) -> None:
    task, rng = task_of(name), random.Random(0)
    for length in (2, 20, 200):
        answers = Counter(task.sample(rng, length).answer[0] for _ in range(400))
        assert shares[0] < answers["F"] / 400 < 0.8
        assert 0.2 < answers["T"] / 400 < shares[1]


def test_long_inputs() -> None:
    for name, length, tokens in (("increment", 3_000, 30_000), ("palindrome", 200, 1_000), ("sort", 150, 50_000)):
        scenario = Scenario(name, "interactive")
        problem = max((scenario.task.sample(random.Random(seed), length) for seed in range(4)), key=lambda p: p.answer)
        pieces = list(scenario.stream_encoded(problem, 4_096))
        assert sum(map(len, pieces)) == scenario.task.trajectory_length(problem)
        assert sum(map(len, pieces)) > tokens


def test_settings_reverse_words_but_not_single_symbols() -> None:
    assert list(task_of("increment").settings) == ["interactive", "cot", "direct", "direct_reversed"]
    assert list(task_of("palindrome").settings) == ["interactive", "cot", "direct"]


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("increment", ""),
        ("increment", "[END]"),
        ("increment", "1 0"),
        ("increment", "0 1 [END]"),
        ("increment", "1 2 [END]"),
        ("increment", "1 [END] [END]"),
        ("unary_to_binary", "| . | [END]"),
        ("palindrome", "a T [END]"),
    ],
)
def test_parse_refuses_what_is_no_prompt(name: str, prompt: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: .* is not a prompt like"):
        task_of(name).parse(prompt.split())


def test_memory_of_a_stream_is_bounded_by_the_chunk() -> None:
    scenario = Scenario("palindrome", "interactive")
    problem = scenario.task.problem("a" * 150)  # type: ignore[attr-defined]
    tracemalloc.start()
    try:
        tokens = sum(len(piece.tokens) for piece in scenario.stream(problem, 512))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert tokens > 60_000
    assert peak < 300_000


@pytest.mark.parametrize("setting", ["interactive", "cot", "direct"])
@pytest.mark.parametrize(("name", "length"), [("increment", 6), ("increment", 1_000), *((name, 12) for name in NAMES)])
def test_the_scripted_oracle_is_exact_through_the_evaluation(name: str, length: int, setting: str) -> None:
    scenario = Scenario(name, setting)
    points = [Point(length, "random", 0, 4)]
    [(_, rows)] = evaluate(ScriptedModel(scenario), scenario, points, Evaluate(lengths=(length,), problems=4), {})
    assert rows
    assert all(row["exact"] and row["answer_right"] and row["failure"] is None for row in rows)


def test_planted_errors_are_found_through_the_evaluation() -> None:
    scenario = Scenario("palindrome", "interactive")
    model = ScriptedModel(scenario, error_rate=0.5, error_seed=1)
    settings = Evaluate(lengths=(8,), problems=30, mode="live")
    [(_, rows)] = evaluate(model, scenario, [Point(8, "random", 0, 30)], settings, {})
    planted = {problem.key: model.planted(problem) for problem in problems(scenario.task, "evaluation", 8, 30)}
    assert 5 < sum(error is not None for error in planted.values()) < 25
    for row in rows:
        error = planted[row["problem"]]
        assert row["exact"] == (error is None)
        assert error is None or (row["divergence"], row["failure"]) == (error.position, error.failure)


# --- Theorem 2.2


def context(tokens: list[str], at: int, question: int) -> tuple[str, ...]:
    """What the theorem's learner looks at: from the state before the last read on; nothing older."""
    reads = (cell for cell in range(at - 1, max(question, at - 8), -1) if tokens[cell] == "[READ]")
    return tuple(tokens[next(reads, question + 1) - 1 : at])


@every_machine
def test_a_lookup_of_state_and_symbol_learns_the_machine_from_short_runs(name: str) -> None:
    scenario, rng = Scenario(name, "interactive"), random.Random(0)
    learned: dict[tuple[str, ...], str] = {}
    for length in (*range(1, 7),) * 60:
        problem = scenario.task.sample(rng, length)
        tokens = scenario.record(problem).tokens
        for at in range(len(problem.prompt), len(tokens)):
            key = context(tokens, at, len(problem.prompt))
            assert len(key) <= 8
            if tokens[at - 1] != "[READ]":
                assert learned.setdefault(key, tokens[at]) == tokens[at]
    problem = scenario.task.sample(rng, 600 if name == "increment" else 60)
    trajectory = scenario.record(problem)
    for at, (token, own) in enumerate(zip(trajectory.tokens, trajectory.own)):
        if own:
            assert learned[context(trajectory.tokens, at, len(problem.prompt))] == token


# --- a user's own machine


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the guide, in the current directory."""
    for name, text in BLOCK.findall(DOC):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_is_a_task_by_its_path(folder: Path) -> None:
    for path in ("parity.yaml", "./parity.yaml", str(folder / "parity.yaml")):
        scenario = Scenario(f"tasks.turing:{path}", "interactive")
        assert scenario.task.name == f"tasks.turing:{path}"
        assert (scenario.task.__doc__ or "").startswith("Tell whether a word has an odd number of ones")
        for problem in problems(scenario.task, "evaluation", 9, 20):
            odd = "T" if problem.prompt.count("1") % 2 else "F"
            assert problem.answer == (odd,)
            assert scenario.task.check(problem, [odd])
            assert not scenario.task.check(problem, ["F" if odd == "T" else "T"])
            assert scenario.task.trajectory_length(problem) == len(scenario.record(problem).tokens)


def test_the_trajectory_in_the_guide_is_the_recorded_one(folder: Path) -> None:
    scenario = Scenario("tasks.turing:parity.yaml", "interactive")
    shown = next(block for block in DOC.split("```") if block.startswith("\n<1>"))
    assert notation(scenario.record(scenario.task.parse(["1", "0", "1", "[END]"]))) == " ".join(shown.split())


def test_the_grid_of_the_guide_names_the_machine(folder: Path) -> None:
    assert len(load(str(folder / "parity_grid.yaml")).cells) == 4


def test_a_name_that_is_no_machine() -> None:
    with pytest.raises(ValueError, match=r"cannot be imported: .*incremen.*machines: balanced, copy, increment"):
        Scenario("tasks.turing:incremen", "direct")


# --- bad files

BAD = [
    ("revision: 1\n", "", 1, "missing key 'revision'"),
    ("revision: 1", "revision: 0", 2, "'0' must be a whole number of at least 1"),
    ("blank: _", "blanc: _", 4, "unknown machine key 'blanc', did you mean 'blank'?"),
    ("blank: _", "blank: 1", 4, "blank '1' must be one character outside the alphabet"),
    ("blank: _", "blank: [_]", 4, "must be a text"),
    ('"01TF"', '"01TF0"', 3, "symbol '0' twice in the alphabet"),
    ('"01TF"', '"01 TF"', 3, "the alphabet must be characters other than spaces"),
    ("start: even", "start: evn", 5, "unknown state 'evn', did you mean 'even'?"),
    ("halt: [done]", "halt: []", 6, "must be a list with at least one entry"),
    ("halt: [done]", "halt: [done, odd]", 17, "state 'odd' halts and cannot have transitions"),
    ("halt: [done]", "halt: [done, lost]", 6, "halting state 'lost' cannot be reached"),
    ("halt: [done]", "halt: [q]", 6, "state 'q' must be a word of two or more letters"),
    ("answer: symbol", "answer: cell", 7, "unknown answer 'cell' (allowed: word, symbol)"),
    ("answer: symbol", "answer: symbol\nchecker: sort", 8, "unknown checker 'sort', did you mean 'sorted'?"),
    (
        "answer: symbol",
        "answer: symbol\nchecker: sorted",
        12,
        "the table gives 'T' for input '1', the checker 'sorted'",
    ),
    ('["[01]*"]', '["[012]*"]', 8, "symbol '2' of an input is outside the alphabet (allowed: 0 1 T F)"),
    ('["[01]*"]', '["1 [01*"]', 8, "pattern '1 [01*': ' [01*' is no symbol or set"),
    ('["[01]*"]', '["0 1 [01]*"]', 8, "no input of length 1: every length from 1 on needs one"),
    ('["[01]*"]', '["[01]"]', 8, "no input of length 2"),
    ('["[01]*"]', "[{mirror: 01, nested: 01}]", 8, "exactly one of: pattern, mirror, nested"),
    ('["[01]*"]', "[{nested: 11}]", 8, "nested '11' must be an opening and a closing symbol"),
    ("  ones:", "  random:", 10, "stress set 'random' must not be called like the sets every task has"),
    ('["[01]*"]', "[{nested: 0}]", 8, "nested '0' must be an opening and a closing symbol"),
    ('["[01]*"]', '[{pattern: "0*", changed: 1}]', 8, "'changed' needs a rule with two symbols or more"),
    ('["[01]*"]', "[{miror: 01}]", 8, "unknown input rule key 'miror', did you mean 'mirror'?"),
    ('["0* 1+", "1+ 0*"]', '["0* 2"]', 10, "symbol '2' of an input is outside the alphabet"),
    ("    1: same R odd\n", "", 12, "missing transition of state 'even' on '1' (or say 'never')"),
    ("    1: same R odd", "    1: same R od", 14, "unknown state 'od', did you mean 'odd'?"),
    ("    1: same R odd", "    1: same S odd", 14, "unknown move 'S' (allowed: L, R)"),
    ("    1: same R odd", "    1: x R odd", 14, "symbol 'x' is outside the alphabet (allowed: 0 1 T F _)"),
    ("    1: same R odd", "    1: R odd", 14, "transition 'R odd' must be 'WRITE MOVE STATE' or 'never'"),
    ("    1: same R odd", "    12: same R odd", 14, "symbol '2' is outside the alphabet"),
    ("    1: same R odd", "    01: same R odd", 14, "duplicate transition of state 'even' on '0'"),
    ("    1: same R odd", "    0: same R odd", 14, "duplicate key '0' in state 'even'"),
    ("  odd:", "  even:", 17, "duplicate key 'even' in table"),
    ("    _: same L done", "    _: same L show", 6, "halting state 'done' cannot be reached"),
    ("  show:", "  spin:\n    01TF_: same R spin\n  show:", 22, "no halting state can be reached from state 'spin'"),
    ("    1: same R even", "    1: never", 19, "state 'odd' meets '1', which its table says never happens"),
    ("    _: F R show", "    _: same R even", 11, "does not halt in 100,000 steps on the input '0'"),
    ("table:", "table: [", 13, "not valid YAML"),
    ("  show:", "  show: 7", 23, "not valid YAML"),
]


@pytest.mark.parametrize(("old", "new", "line", "message"), BAD, ids=[message[:40] for *_, message in BAD])
def test_bad_files_are_refused_with_the_line_in_one_line(
    old: str, new: str, line: int, message: str, tmp_path: Path
) -> None:
    assert old in PARITY
    path = tmp_path / "bad.yaml"
    path.write_text(PARITY.replace(old, new, 1))
    with pytest.raises(ValueError) as error:
        Scenario(f"tasks.turing:{path}", "direct")
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file"), (b"", ":1: empty"), (b"\xff", "cannot be read")]
)
def test_files_that_cannot_be_read(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_machine(tmp_path / "bad.yaml")
    assert "\n" not in str(error.value)


def test_a_checker_that_cannot_take_the_input_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text((MACHINES / "copy.yaml").read_text().replace("checker: twice", "checker: increment"))
    with pytest.raises(ValueError, match=r"bad.yaml:9: the checker 'increment' cannot take input '[ab]'"):
        read_machine(path)


def test_a_list_is_no_machine(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match=r"bad.yaml:1: machine must be a mapping"):
        read_machine(tmp_path / "bad.yaml")


# --- words


@pytest.mark.parametrize(
    ("patterns", "counts"),
    [
        (["[ab]*"], [2, 4, 8]),
        (["1 [01]*", "0"], [2, 2, 4]),
        (["|+ .*"], [1, 2, 3]),
        (["a* b* a*"], [2, 4, 7]),
        (["a* b", "b* a", "a*"], [2, 3, 3]),
    ],
)
def test_words_of_patterns_are_counted_once_each_and_all_drawn(patterns: list[str], counts: list[int]) -> None:
    words = Words(tuple(map(Pattern.parse, patterns)))
    assert [words.count(length) for length in (1, 2, 3)] == counts
    rng = random.Random(0)
    for length, count in zip((1, 2, 3), counts):
        drawn = {words.draw(rng, length) for _ in range(400)}
        every = {"".join(word) for word in product(sorted(words.symbols), repeat=length)}
        assert drawn == {word for word in every if words.holds(word)}
        assert len(drawn) == count


def test_words_that_are_not_all_patterns_are_counted_only_where_patterns_cover_them() -> None:
    assert Words((Mirror("ab"), Pattern.parse("[ab]*"))).count(5) == 32
    assert Words((Mirror("ab"), Pattern.parse("a [ab]*"))).count(5) is None
    assert Words((Mirror("ab"),)).count(3) is None


def test_cells_are_shared_by_repeating_atoms_uniformly() -> None:
    rng, pattern = random.Random(0), Pattern.parse("|+ .*")
    counts = Counter(pattern.draw(rng, 4).count("|") for _ in range(4_000))
    assert set(counts) == {1, 2, 3, 4}
    assert all(850 < count < 1_150 for count in counts.values())


def test_mirrored_words() -> None:
    rng = random.Random(0)
    for length in (1, 2, 5, 8):
        words = [Mirror("ab").draw(rng, length) for _ in range(300)]
        assert all(len(word) == length and word == word[::-1] for word in words)
        assert len(set(words)) == 2 ** ((length + 1) // 2)


def test_nested_words_are_balanced_and_uniform() -> None:
    rng = random.Random(0)
    counts = Counter(Nested("()").draw(rng, 8) for _ in range(7_000))
    assert len(counts) == 14
    assert all(CHECKERS["balanced"](word) == "T" for word in counts)
    assert all(400 < count < 600 for count in counts.values())
    assert {CHECKERS["balanced"](Nested("()").draw(rng, 7)) for _ in range(50)} == {"F"}

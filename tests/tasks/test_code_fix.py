"""The task `code_fix`: what its code bases are like, that its solvers repair them, that its checker is not fooled."""

import random
import re

import pytest

from tasks.code_fix import CodeFix, code_base, needing, printed, written
from tasks.scenario import Scenario
from tools.sandbox import Limits
from tools.text import read
from tools.virtual_shell import VirtualShell

TASK = CodeFix()
SETTINGS = ("interactive", "single_turn")


@pytest.fixture(scope="module")
def box(trusted):
    return trusted(Limits(seconds=20))


def drawn(length, count, seed=0):
    rng = random.Random(f"{seed} {length}")
    return [TASK.sample(rng, length) for _ in range(count)]


def solved(setting, problem):
    """What the scripted agent leaves."""
    scenario = Scenario("code_fix", setting)
    trajectory, environment = scenario.record(problem), scenario.environment(problem)
    for token, own in zip(trajectory.tokens, trajectory.own):
        if own:
            environment.act(token)
    return environment.outcome


@pytest.mark.parametrize("length", [1, 2, 4, 16, 64])
def test_a_code_base_is_a_graph_in_which_foo_is_reached_and_v10_is_missing(length):
    for problem in drawn(length, 20):
        question = read(problem.prompt)
        base, files = code_base(question), written(question)
        names = list(base)
        assert (names[0], names[-1], len(names)) == ("main", "foo", length + 1)
        assert files.keys() == {f"{name}.py" for name in names}
        reached = {"main"}
        for name in names:
            assert name in reached, "callers stand before those they call, and all are called"
            reached |= {called for called, _ in base[name].lines} - {"print"}
        assert {"main", "foo"} <= needing(question)
        assert sum(text.count("v10") for text in files.values()) == 2
        ran = VirtualShell().run({name: text.encode() for name, text in files.items()}, "python main.py")
        assert "NameError: name 'v10' is not defined" in ran.text


def test_a_code_base_follows_from_its_question_alone():
    first, second = drawn(9, 2)
    before = written(read(first.prompt))
    code_base.cache_clear()
    needing.cache_clear()
    assert written(read(first.prompt)) == before != written(read(second.prompt))


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("length", [1, 4, 16, 64])
def test_scripted_agents_repair_everything_and_nothing_else(setting, length):
    for problem in drawn(length, 40 if length < 64 else 8):
        output = solved(setting, problem)
        assert TASK.check(problem, output)
        assert TASK.strict(problem, output)
        assert tuple(output) == TASK.answer(problem)


def test_the_interactive_agent_repairs_at_most_three_files_between_runs():
    scenario = Scenario("code_fix", "interactive")
    for problem in drawn(32, 10):
        turns = re.findall(r"```bash\n(.*?)\n```\n", read(scenario.record(problem).tokens), re.DOTALL)
        assert all(turn.startswith("python main.py") for turn in turns[::2])
        assert all(1 <= len(turn.split("\n")) <= 3 for turn in turns[1::2])
        assert len(turns) % 2 == 1, "the last look finds nothing"


def unfixed(problem, rng):
    """The right answer with one edge left as it was: a call that does not hand v10 on."""
    question = read(problem.prompt)
    files, needed = written(question, repaired=True), needing(question)
    edges = [(name, called) for name in needed for called, _ in code_base(question)[name].lines if called in needed]
    name, called = rng.choice(sorted(edges))
    files[f"{name}.py"] = files[f"{name}.py"].replace(f"{called}(v10, ", f"{called}(", 1 + (called == name))
    return [f"{file}\n{text}" for file, text in sorted(files.items())]


def test_one_edge_left_unfixed_always_fails():
    rng = random.Random(0)
    for length in (1, 4, 16, 64):
        for problem in drawn(length, 100):
            output = unfixed(problem, rng)
            assert tuple(output) != TASK.answer(problem)
            assert not TASK.check(problem, output)


@pytest.mark.parametrize(
    "length", [pytest.param(4, marks=pytest.mark.slow), *(pytest.param(n, marks=pytest.mark.long) for n in (16, 64))]
)
def test_500_code_bases_judged_alike_in_bubblewrap_and_virtual(box, length):
    """Each scripted agent's repair passes, one edge left unfixed fails, and both judges say so of every one."""
    rng = random.Random(1)
    for problem in drawn(length, 500, seed=1):
        outputs = {tuple(solved(setting, problem)) for setting in SETTINGS}
        for output in outputs:
            assert TASK.check(problem, output, box)
            assert TASK.check(problem, output)
        wrong = unfixed(problem, rng)
        assert not TASK.check(problem, wrong, box)
        assert not TASK.check(problem, wrong)


def test_judged_alike_in_bubblewrap_and_virtual(box):
    rng = random.Random(2)
    for length in (1, 4, 16):
        for problem in drawn(length, 3, seed=2):
            for output in (solved("interactive", problem), unfixed(problem, rng), [], ["main.py\nprint(1)\n"]):
                assert TASK.check(problem, output, box) == TASK.check(problem, output)


def test_what_should_be_printed_is_what_python_prints(box):
    for problem in drawn(24, 5, seed=3):
        question = read(problem.prompt)
        ran = box.run({name: text.encode() for name, text in written(question, True).items()}, "python main.py")
        assert ran.output.decode() == printed(question)


def test_other_repairs_are_right_but_only_needed_ones_are_strict():
    (problem,) = drawn(6, 1, seed=4)
    right = dict(each.split("\n", 1) for each in TASK.answer(problem))

    def verdicts(files):
        output = [f"{name}\n{text}" for name, text in files.items()]
        return TASK.check(problem, output), TASK.strict(problem, output)

    assert verdicts(right) == (True, True)
    last = {name: re.sub(r"\(v10, (v.(?:, v.)*)\)", r"(\1, v10)", text) for name, text in right.items()}
    assert last != right
    assert verdicts(last) == (True, True), "v10 may stand anywhere among the arguments"
    assert verdicts({**right, "more.py": "x = 1\n"}) == (True, False)
    assert verdicts({**right, "foo.py": right["foo.py"] + "# done\n"}) == (True, False)
    needless = next(name for name in right if name.removesuffix(".py") not in needing(read(problem.prompt)))
    assert verdicts({**right, needless: right[needless] + "x = 1\n"}) == (True, False)
    assert verdicts({**right, "foo.py": right["foo.py"].replace("print(v10)", "print(7)")})[0] is False
    assert verdicts({name: text for name, text in right.items() if name != "foo.py"}) == (False, False)


def test_a_global_instead_of_an_argument_is_right_but_not_strict():
    (problem,) = drawn(4, 1, seed=5)
    question = read(problem.prompt)
    files = written(question)
    value = dict(code_base(question)["main"].declared)["v10"]
    files["foo.py"] = f"v10 = {value}\n\n" + files["foo.py"]
    output = [f"{name}\n{text}" for name, text in files.items()]
    assert TASK.check(problem, output), "it runs and prints what it should"
    assert not TASK.strict(problem, output), "but that is not the repair that was asked for"


@pytest.mark.parametrize("prompt", ["Fix 4-00000000000", "Fix 0-000000000000\n", "fix", "Fix 4-00000000000G\n"])
def test_a_bad_prompt_gives_one_line(prompt):
    with pytest.raises(ValueError, match="not a prompt like"):
        TASK.parse(tuple(prompt))


def test_most_code_bases_need_more_work_the_larger_they_are():
    means = [sum(map(TASK.work, drawn(length, 50, seed=6))) / 50 for length in (4, 16, 64)]
    assert means == sorted(means)
    assert means[2] > 2 * means[1] > 4 * means[0] * 0.9

import doctest
import random
from itertools import pairwise, product

import pytest

import tasks.logical_graph
from harness.trace import notation
from tasks.base import Problem, Role
from tasks.logical_graph import LogicalGraph, source
from tasks.scenario import Scenario

GRAPH = LogicalGraph()
FORMS = {form: Scenario(GRAPH, "interactive", form=form) for form in GRAPH.forms}
every_form = pytest.mark.parametrize("form", FORMS)

SMALL = (["4444 = 1111 or 3333", "1111 = False", "3333 = not 1111"], "4444")

# Labels are closed up, [COMMAND] find [VALUE] .. [RUN] is `find ..;` and the frame of replies is left out.
GOLDEN = """
find 4444; 4444=1111or3333[NL]print(4444)
find 1111; 4444=1111or3333[NL]1111=False[NL]3333=not1111
find 3333; 4444=1111or3333[NL]3333=not1111
4444=Falseor3333[NL]
3333from4444[NL]
find 3333; 4444=1111or3333[NL]3333=not1111[NL]4444=Falseor3333[NL]3333from4444
find 1111; 4444=1111or3333[NL]1111=False[NL]3333=not1111
3333=True[NL]
find 3333; 4444=1111or3333[NL]3333=not1111[NL]4444=Falseor3333[NL]3333from4444[NL]3333=True
find 4444; 4444=1111or3333[NL]print(4444)[NL]4444=Falseor3333[NL]3333from4444
find 3333; 4444=1111or3333[NL]3333=not1111[NL]4444=Falseor3333[NL]3333from4444[NL]3333=True
4444=True[NL]
find 4444; 4444=1111or3333[NL]print(4444)[NL]4444=Falseor3333[NL]3333from4444[NL]4444=True
[ANS]True[EOS]
"""


def sampled(lengths: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 9, 10, 17, 40)) -> list[Problem]:
    rng = random.Random(3)
    samplers = (GRAPH.sample, GRAPH.sample_training, *GRAPH.stress.values())
    return [sampler(rng, length) for length in lengths for sampler in samplers]


def observations(problem: Problem, scenario: Scenario) -> list[int]:
    """The sizes of the replies."""
    recorded = scenario.record(problem)
    text = " ".join(t for t, role in zip(recorded.tokens, recorded.roles) if role is Role.OBSERVATION)
    return [len(reply.split()) + 1 for reply in text.split("[END]")[:-1]]


def test_doctest() -> None:
    result = doctest.testmod(tasks.logical_graph)
    assert result.attempted > 5
    assert result.failed == 0


def test_golden_trace_of_the_faithful_form() -> None:
    recorded = FORMS["faithful"].record(GRAPH.problem(*SMALL))
    text = "".join(t for t, role in zip(recorded.tokens, recorded.roles) if role is not Role.QUESTION)
    shortened = text.replace("[COMMAND]find[VALUE]", "find ").replace("[RUN][OBSERVATION]", "; ").replace("[END]", "")
    assert shortened == GOLDEN.replace("\n", "")


def test_golden_trace_in_tokens() -> None:
    for form, value in product(FORMS, ("True", "False")):
        narrow = "" if form == "faithful" else " ="
        line = f"<0> <4> <7> <1> <=> <{value}>"
        seen = f"{line} <[NL]> <print> <(> <0> <4> <7> <1> <)>" if form == "faithful" else line
        parent = f"{seen} <[END]>" if form == "faithful" else "<[END]>"
        assert notation(FORMS[form].record(GRAPH.problem([f"0471 = {value}"], "0471"))) == (
            f"{line} <[NL]> <print> <(> <0> <4> <7> <1> <)>"
            f" [COMMAND] find [VALUE] 0 4 7 1{narrow} [RUN] <[OBSERVATION]> {seen} <[END]>"
            f" [COMMAND] find [VALUE] 0 4 7 1{' from' if narrow else ''} [RUN] <[OBSERVATION]> {parent}"
            f" [ANS] {value} [EOS]"
        )


@every_form
def test_trajectory_length_is_the_recorded_one(form: str) -> None:
    for problem in sampled():
        assert GRAPH.trajectory_length(problem, form) == len(FORMS[form].encoded(problem))


@pytest.mark.parametrize("value", [{"1": a, "2": b} for a, b in product((False, True), repeat=2)])
def test_every_gate_of_two_operands_has_the_value_that_python_gives_it(value: dict[str, bool]) -> None:
    inputs = [f"{label * 4} = {value[label]}" for label in value]
    for first, operator, second in product(("", "not "), ("and", "or"), ("", "not ")):
        gate = f"3333 = {first}1111 {operator} {second}2222"
        expected = str(eval(f"{first}{value['1']} {operator} {second}{value['2']}"))
        problem = GRAPH.problem([gate, *inputs], "3333")
        assert problem.answer == (expected,)
        for scenario in FORMS.values():
            recorded = scenario.record(problem)
            assert [t for t, role in zip(recorded.tokens, recorded.roles) if role is Role.OUTPUT] == [expected]


def test_checker_runs_the_source_and_takes_its_one_word_only() -> None:
    for problem in sampled():
        (value,) = problem.answer
        other = "False" if value == "True" else "True"
        assert GRAPH.check(problem, [value])
        assert not any(GRAPH.check(problem, wrong) for wrong in ([other], [], [value, value], [value, "[NL]"], ["1"]))
    assert not GRAPH.check(Problem(GRAPH.problem(*SMALL).prompt, ("False",), 3), ["False"]), "the answer is not asked"


def test_source_is_python_in_the_order_of_the_prompt() -> None:
    printed: list[bool] = []
    problem = GRAPH.problem(["0001 = True", "0002 = not 0001", "9999 = 0002 or 0001"], "9999")
    exec(source(problem.prompt), {"print": printed.append})
    assert printed == [True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"print": "(", "(": "print"}, "last line"),
        ({"or": "xor"}, "is not a line"),
        ({"False": "false"}, "is not a line"),
        ({"False": "٣"}, "is not a line"),
        ({"or": "or not"}, "one digit or one word"),
        ({"1": "3"}, "defined twice"),
    ],
)
def test_parse_refuses_what_is_not_a_graph(change: dict[str, str], message: str) -> None:
    prompt = [change.get(token, token) for token in GRAPH.problem(*SMALL).prompt]
    with pytest.raises(ValueError, match=message):
        GRAPH.parse(prompt)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1111 = 2222"], "node 2222, used by 1111, is not defined"),
        (["1111 = 2222", "2222 = not 1111"], "cycle"),
        (["1111 = 1111"], "cycle"),
        (["1111 = 1111 and 1111 and 1111"], "is not a line"),
        (["2222 = True"], "node 1111, the one wanted, is not defined"),
    ],
)
def test_graphs_without_a_value_are_refused(lines: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GRAPH.problem(lines, "1111")


def test_the_longest_graph_uses_every_label_and_a_longer_one_is_refused() -> None:
    assert GRAPH.sample(random.Random(0), 10_000).length == 10_000
    with pytest.raises(ValueError, match="labels of 4 digits allow 10,000 nodes"):
        GRAPH.sample(random.Random(0), 10_001)


def test_distinct_problems_are_counted_up_to_the_inputs() -> None:
    assert GRAPH.count(1) == 10_000 * 2
    assert GRAPH.count(2) == 10_000 * 9_999 * 4 * 2
    assert GRAPH.count(4) is None


def test_stress_sets_are_what_their_names_say() -> None:
    rng = random.Random(1)
    deep, wide, negations = (sampler(rng, 60) for sampler in GRAPH.stress.values())
    assert list(GRAPH.stress) == ["deep", "wide", "negations"]
    assert GRAPH.nodes_visited(deep) >= 58 <= GRAPH.nodes_visited(negations)
    assert GRAPH.nodes_visited(wide) == 60
    leaves = {line for line in source(wide.prompt).splitlines() if sum(line.count(f"v{i}") for i in inputs(wide)) == 2}
    assert len(leaves) == 29, "half of the gates take two inputs"
    gates = source(negations.prompt).splitlines()[:-1]
    assert all(set(expression(line)) <= {"not"} for line in gates)


def inputs(problem: Problem) -> list[str]:
    lines = source(problem.prompt).splitlines()
    return [line[1:5] for line in lines if line.endswith(("True", "False"))]


def expression(line: str) -> list[str]:
    """The word before each variable of an assignment."""
    words = line.split()[1:]
    return [before for before, word in pairwise(words) if word.startswith("v")]


def test_nodes_visited_are_those_that_the_output_depends_on() -> None:
    unused = ["5555 = 4444 and 1111", "6666 = True"]
    assert GRAPH.nodes_visited(GRAPH.problem([*SMALL[0], *unused], "4444")) == 3
    assert GRAPH.nodes_visited(GRAPH.problem([*SMALL[0], *unused], "5555")) == 4
    assert GRAPH.nodes_visited(GRAPH.problem([*SMALL[0], *unused], "6666")) == 1


def test_replies_of_the_localised_form_do_not_grow() -> None:
    assert max(size for problem in sampled((80,)) for size in observations(problem, FORMS["localised"])) == 39


@every_form
@pytest.mark.parametrize("setting", ["interactive", "cot"])
def test_a_model_that_makes_the_tokens_of_the_oracle_gets_its_roles_and_observations(form: str, setting: str) -> None:
    scenario = Scenario(GRAPH, setting, form=form, tool_options={"limit": 39})
    for problem in sampled((1, 3, 4, 30)):
        recorded, environment = scenario.record(problem), scenario.environment(problem)
        replayed = [(token, Role.QUESTION) for token in problem.prompt]
        for token, own in zip(recorded.tokens, recorded.own):
            if own:
                assert environment.allows(token)
                role, observation = environment.act(token)
                replayed += [(token, role), *((seen, Role.OBSERVATION) for seen in observation)]
        assert replayed == list(zip(recorded.tokens, recorded.roles))
        assert environment.tool.calls == recorded.calls
        assert scenario.right(problem, environment.output)


@every_form
def test_the_least_limit_suffices_and_changes_no_answer(form: str) -> None:
    limited = Scenario(GRAPH, "interactive", form=form, tool_options={"limit": 39})
    cut = 0
    for problem in sampled():
        recorded = limited.record(problem)
        cut += "[MORE]" in recorded.tokens
        assert recorded.tokens[-2] == problem.answer[0]
        assert max(observations(problem, limited)) <= 39
    assert (cut > 10) == (form == "faithful")


@every_form
def test_a_limit_too_small_for_a_definition_is_an_error(form: str) -> None:
    with pytest.raises(ValueError, match="needs a limit of at least 39 tokens"):
        Scenario(GRAPH, "interactive", form=form, tool_options={"limit": 8}).record(GRAPH.problem(*SMALL))


@every_form
@pytest.mark.parametrize("which", ["random", *GRAPH.stress])
def test_a_thousand_nodes_stream_through_every_form(form: str, which: str) -> None:
    length = 250 if (form, which) == ("faithful", "wide") else 1_000
    sampler = GRAPH.sample if which == "random" else GRAPH.stress[which]
    problem = sampler(random.Random(5), length)
    pieces = list(FORMS[form].stream_encoded(problem, 4_096))
    assert {len(piece) for piece in pieces[:-1]} <= {4_096}
    assert sum(map(len, pieces)) == GRAPH.trajectory_length(problem, form)
    *_, mark, answer, end = FORMS[form].vocabulary.decode([*pieces[-2].ids[-3:], *pieces[-1].ids])
    assert (mark, answer, end) == ("[ANS]", *problem.answer, "[EOS]")
    assert GRAPH.check(problem, [answer])


def test_single_turn_has_the_question_solved_and_copies() -> None:
    problem = GRAPH.problem(["0471 = not 0002", "0002 = False"], "0471")
    trajectory = notation(Scenario(GRAPH, "single_turn").record(problem))
    assert trajectory.endswith("<)> [SOLVE] <True> <[END]> [ANS] True [EOS]")

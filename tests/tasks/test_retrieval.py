"""Retrieval over examples in natural language: golden trace, answers, locality, files of the benchmark."""

import doctest
import json
import random
from collections import Counter
from pathlib import Path

import pytest

import tasks.retrieval
from harness.check import check
from harness.grid import load
from tasks.base import Problem, Role
from tasks.questions import read, templates
from tasks.retrieval import Retrieval
from tasks.scenario import Scenario

TASK = Retrieval()
SCENARIO = Scenario(TASK, "interactive")
BY_TOPIC = {topic: [text for text, its in TASK.pool.items() if its == topic] for topic in TASK.topics}


def listed(topics: list[str], *asked: str, start: int = 95) -> Problem:
    return TASK.problem(start, [BY_TOPIC[topic][0] for topic in topics], *asked)


def sampled(length: int, count: int, seed: int = 0) -> list[Problem]:
    rng = random.Random(seed)
    return [sampler(rng, length) for _ in range(count) for sampler in (TASK.sample, *TASK.stress.values())]


def test_the_trace_worked_by_hand() -> None:
    result = doctest.testmod(tasks.retrieval)
    assert result.attempted > 5
    assert result.failed == 0


GOLDEN = """
find 0095 : <0095 : how many legs does a cat have ?> 0095 is Numeric [NL]
find 0096 : <0096 : who made the first bridge ?> 0096 is Human [NL]
find 0097 : <>
find Answer: <from 0095 on how many are about Numeric ? Answer:>
[ANS] find 0095 is Numeric <0095 is Numeric> | find 0096 is <0096 is Human>
find 0096 is Numeric <> find 0097 is <> . [EOS]
"""


def test_a_count_is_a_tally() -> None:
    tokens = SCENARIO.record(listed(["Numeric", "Human"], "Numeric")).tokens
    text = " ".join(tokens).replace("[COMMAND] find [VALUE]", "find").replace(" [RUN]", "").replace(" [END]", ">")
    text = text.replace("[OBSERVATION]", "<").replace("< ", "<")
    for number in ("0 0 9 5", "0 0 9 6", "0 0 9 7"):
        text = text.replace(number, number.replace(" ", ""))
    assert text.endswith(" ".join(GOLDEN.split()))


@pytest.mark.parametrize(
    ("topics", "asked", "answer"),
    [
        (["Human"], ("Human",), "| ."),
        (["Human"], ("Entity",), "."),
        (["Human", "Entity", "Human"], ("Human",), "| | ."),
        (["Human"], ("Entity", "Human"), "Human"),
        (["Human"], ("Human", "Entity"), "Human"),
        (["Human"], ("Entity", "Numeric"), "same"),
        (["Human", "Entity", "Entity", "Human"], ("Entity", "Human"), "same"),
        (["Entity", "Human", "Numeric", "Human"], ("Human", "Entity"), "Human"),
        (["Numeric"], (), "Numeric"),
        (["Abbreviation"], (), "Abbreviation"),
        (["Human", "Entity", "Entity", "Human", "Human"], (), "Human"),
    ],
)
def test_answers_by_hand(topics: list[str], asked: tuple[str, ...], answer: str) -> None:
    problem = listed(topics, *asked)
    assert " ".join(problem.answer) == answer
    recorded = SCENARIO.record(problem)
    assert [t for t, role in zip(recorded.tokens, recorded.roles) if role is Role.OUTPUT] == answer.split()
    assert TASK.check(problem, answer.split())


@pytest.mark.parametrize("output", ["", "|", "| . .", ". |", "| | .", "Human", "same", "1"])
def test_wrong_counts_are_refused(output: str) -> None:
    assert not TASK.check(listed(["Human", "Entity"], "Human"), output.split())


def test_every_question_is_asked_and_topics_are_balanced() -> None:
    rng = random.Random(1)
    drawn = [TASK.sample(rng, 6) for _ in range(1_200)]
    asked = Counter(
        " ".join(problem.prompt[-12:]).count(",") + ("many" in problem.prompt[-8:]) * 2 for problem in drawn
    )
    assert all(count == pytest.approx(400, rel=0.2) for count in asked.values())
    assert len(asked) == 3
    topics = Counter(TASK.pool[text] for problem in drawn for text in texts(problem))
    assert all(count == pytest.approx(1_200, rel=0.15) for count in topics.values())


def texts(problem: Problem) -> list[tuple[str, ...]]:
    lines = " ".join(problem.prompt).split(" [NL] ")[:-1]
    return [tuple(line.split(" : ")[1].split()) for line in lines]


def test_no_first_word_gives_a_topic_away_and_no_question_has_two() -> None:
    topics: dict[str, set[str]] = {}
    for text, topic in templates().items():
        topics.setdefault(text[0], set()).add(topic)
    assert {word for word, its in topics.items() if len(its) == 1} <= {"who", "whose", "where", "in", "why"}
    assert len(topics["what"]) == len(TASK.topics)
    assert Counter(templates().values()).keys() == set(TASK.topics)


def test_every_token_follows_from_the_last_64() -> None:
    following: dict[tuple[str, ...], str] = {}
    for length, count in ((1, 60), (3, 60), (9, 20), (40, 4)):
        for problem in sampled(length, count):
            trajectory = SCENARIO.record(problem)
            for at, own in enumerate(trajectory.own):
                if own:
                    context = tuple(trajectory.tokens[max(len(problem.prompt), at - 64) : at])
                    assert following.setdefault(context, trajectory.tokens[at]) == trajectory.tokens[at]


def test_lengths_as_stated() -> None:
    for length in (1, 2, 6, 31):
        for problem in sampled(length, 25):
            assert TASK.trajectory_length(problem) == len(SCENARIO.record(problem).tokens)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [(), ("Human",), ("Human", "Entity")])
def test_a_thousand_examples(asked: tuple[str, ...]) -> None:
    problem = next(p for p in sampled(1_000, 40) if sum(t in TASK.topics for t in p.prompt[-12:]) == len(asked))
    size = sum(len(piece.ids) for piece in SCENARIO.stream_encoded(problem, 4_096))
    assert size == TASK.trajectory_length(problem)


def test_chance_is_what_the_best_blind_answers_get() -> None:
    rng = random.Random(2)
    for length in (1, 4, 12):
        answers: dict[str, Counter[tuple[str, ...]]] = {}
        for _ in range(6_000):
            problem = TASK.sample(rng, length)
            named = [token for token in problem.prompt[-12:] if token in TASK.topics]
            blind = tuple({topic: f"#{at}" for at, topic in enumerate(named)}.get(t, t) for t in problem.answer)
            answers.setdefault(str(len(named)), Counter())[blind] += 1
        best = [counts.most_common(1)[0][1] / counts.total() for counts in answers.values()]
        assert TASK.chance(length) == pytest.approx(sum(best) / 3, abs=0.03)


def test_the_largest_reply_fits_the_least_limit() -> None:
    with pytest.raises(ValueError, match="needs a limit of at least") as error:
        Scenario(TASK, "interactive", tool_options={"limit": 5})
    least = int(str(error.value).split()[-2])
    limited = Scenario(TASK, "interactive", tool_options={"limit": least})
    for problem in sampled(20, 10):
        assert limited.record(problem).tokens == SCENARIO.record(problem).tokens


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((9_000, [("why",)]), "is not a question with a known topic"),
        ((10_000, [BY_TOPIC["Human"][0]]), "1 examples from number 10000, must be in 0..9998"),
        ((3, [BY_TOPIC["Human"][0]], "Sport"), "must be up to two topics"),
        ((3, [BY_TOPIC["Human"][0]], "Human", "Human"), "must be up to two topics"),
        ((3, [BY_TOPIC["Human"][0], BY_TOPIC["Entity"][0]]), "are as common as each other"),
    ],
)
def test_impossible_problems_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match="retrieval: ") as error:
        TASK.problem(*arguments)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "Answer:",
        "from 0 0 0 1 on which is the most common ? Answer:",
        "0 0 0 1 : why does a cat sleep ? [NL] from 0 0 0 2 on which is the most common ? Answer:",
        "0 0 0 1 : why does a cat bark ? [NL] from 0 0 0 1 on which is the most common ? Answer:",
        "0 0 0 1 : why does a cat sleep ? [NL] from 0 0 0 1 on which is the least common ? Answer:",
    ],
)
def test_other_prompts_are_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match="retrieval: "):
        TASK.parse(prompt.split())


# --- files of the benchmark

EXAMPLES = [
    ("When was the telegraph invented, in 1837?", "numeric value"),
    ("Who could find the source of the Nile?", "human being"),
    ("Where is the Louvre?", "location"),
    ("What is 4 times 5?", "numeric value"),
    ("What does NASA stand for?", "abbreviation"),
    ("Who is it?", "human being"),
    ("Who is it?", "entity"),
]


def record(examples: list[tuple[str, str]], **more: str) -> str:
    lines = [f"Date: Jan 02, 2024 || User: 8 || Instance: {text} || Label: {label}" for text, label in examples]
    body = "\n".join(["The following lines contain questions.", *lines, "Recall: answer the question."])
    return json.dumps({"id": 1, "dataset": "trec_coarse", "context_window_text_with_labels": body, **more})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "oolong.jsonl"
    file.write_text("\n".join([record(EXAMPLES[:4]), "", record(EXAMPLES[2:])]))
    return file


def test_examples_of_a_file_become_a_task(path: Path) -> None:
    scenario = Scenario(f"tasks.retrieval:{path}", "interactive")
    task = scenario.task
    assert isinstance(task, Retrieval)
    assert task.topics == ("Abbreviation", "Human_being", "Location", "Numeric_value")
    assert tuple(["when", "was", "the", "telegraph", "invented", ",", "in", "1837", "?"]) in task.pool
    assert tuple(["who", "could", "#find", "the", "source", "of", "the", "nile", "?"]) in task.pool
    assert tuple(["what", "is", "#4", "times", "#5", "?"]) in task.pool
    assert not any(text[:3] == ("who", "is", "it") for text in task.pool), "it has two labels"
    assert all(finding.wrong is None for finding in check(task.name, (1, 3, 8), 4))
    grid = path.with_name("grid.yaml")
    task_line = f'base: {{task: "tasks.retrieval:{path}"}}'
    grid.write_text(f"name: x\n{task_line}\naxes: {{architecture: [gru]}}\nevaluate: {{lengths: [3]}}\n")
    assert load(str(grid)).cells[0].config.task == f"tasks.retrieval:{path}"


def test_other_examples_are_another_revision(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(record(EXAMPLES[:3]))
    revisions = {Scenario(f"tasks.retrieval:{file}", "direct").task.revision for file in (path, other)}
    assert len({*revisions, TASK.revision}) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "line 1 is not a JSON object"),
        ("[]", "line 1 is not a JSON object"),
        ('{"question": "why"}', "line 1 is not a JSON object"),
        (record([]), "no questions of two topics"),
        (record(EXAMPLES) + "\n" + record(EXAMPLES, dataset="spam"), "holds the data sets spam, trec_coarse"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "bad.jsonl"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError) as error:
        read(file, ())
    assert message in str(error.value)
    assert "\n" not in str(error.value)

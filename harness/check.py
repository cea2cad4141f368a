"""`lengthwise check`: whether a task keeps what every task promises, for whoever adds one."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from harness.config import Evaluate
from harness.evaluate import Point, evaluate
from harness.oracle import Misspelling, ScriptedModel
from tasks.base import Problem, Task
from tasks.problems import exempt, problems, split, training_stream, validation_problems
from tasks.scenario import Scenario

MUTATIONS = 1_000
"""Changed answers that the checker alone has to judge."""
MISSPELT = 100
"""Trajectories of a scenario in which one token, whichever, is changed."""
SAMPLE = 200
"""Problems of a training block that are looked at."""


@dataclass(frozen=True)
class Finding:
    """One promise: kept if `wrong` is None, else what was found instead."""

    promise: str
    wrong: str | None = None


def check(task: str | type[Task], lengths: Sequence[int], count: int) -> Iterator[Finding]:
    """Look at `count` problems of each length, in every setting, tool and form the task admits.

    Raises ValueError for a task that cannot be found.
    """
    first = Scenario(task, _any_setting(task))
    drawn = [(length, problems(first.task, "evaluation", length, count)) for length in lengths]
    everything = [problem for _, some in drawn for problem in some]
    for which in first.task.stress:
        for length in lengths:
            everything += problems(first.task, "evaluation", length, count, which)
    yield _kept("prompts parse, and end with the mark that ends them", lambda: _prompts(first.task, everything))
    yield _kept("the same seed draws the same problems, and different ones differ", lambda: _draws(first.task, lengths))
    yield _kept("training, validation and evaluation share no problem", lambda: _disjoint(first.task, lengths))
    yield _kept("the checker takes right answers and refuses changed ones", lambda: _checker(first.task, everything))
    for scenario in scenarios(first.task) if first.task.oracle else ():
        name = f"{scenario.setting}, tool {scenario.tool_name}, form {scenario.form}"
        yield _kept(f"{name}: it can be sent to helper processes", partial(_sent, scenario))
        oracle, planted = partial(_oracle, scenario, lengths, count), partial(_planted, scenario, lengths, count)
        yield _kept(f"{name}: the oracle is exact through the evaluation", oracle)
        yield _kept(f"{name}: every planted error is found", planted)
        misspelt = partial(_misspelt, scenario, lengths, count)
        yield _kept(f"{name}: every change of a single token is located", misspelt)
        if scenario.setting == "interactive":
            yield _kept(f"{name}: trajectories are as long as stated", partial(_lengths, scenario, everything))


def scenarios(task: Task) -> Iterator[Scenario]:
    """Everything the task can be trained in."""
    for setting, tools in task.settings.items():
        for tool in tools:
            for form in task.forms if setting in ("interactive", "cot") else task.forms[:1]:
                yield Scenario(task, setting, tool, form=form)


def _any_setting(task: str | type[Task]) -> str:
    from tasks import TASKS
    from tasks.resolve import resolve

    kind = resolve("task", task, TASKS) if isinstance(task, str) else task
    return str(next(iter(kind.settings)))  # type: ignore[attr-defined]


def _kept(promise: str, look: Callable[[], str | None]) -> Finding:
    try:
        return Finding(promise, look())
    except Exception as error:  # whatever a broken task raises is a finding
        return Finding(promise, f"{type(error).__name__}: {error}")


def _prompts(task: Task, drawn: Sequence[Problem]) -> str | None:
    for problem in drawn:
        if task.parse(problem.prompt) != problem:
            return f"parse gives another problem for {' '.join(problem.prompt)!r}"
        if problem.prompt.index(task.prompt_end) != len(problem.prompt) - 1:
            return f"{task.prompt_end!r} is not the last token only in {' '.join(problem.prompt)!r}"
    return None


def _sent(scenario: Scenario) -> None:
    pickle.dumps(scenario)  # raises what stands in the way


def _draws(task: Task, lengths: Sequence[int]) -> str | None:
    for length in lengths:
        one, again, other = (task.sample(random.Random(seed), length) for seed in (1, 1, 2))
        if one != again:
            return f"two problems of length {length} from one seed differ: something else than `rng` is random"
        if one.length != length:
            return f"sample gave length {one.length} when asked for {length}"
        if one == other and (task.count(length) or 1000) > 100:
            return f"two seeds gave the same problem of length {length}"
    return None


def _disjoint(task: Task, lengths: Sequence[int]) -> str | None:
    longest = max(lengths)
    evaluated = [problems(task, "evaluation", length, SAMPLE) for length in lengths]
    # A small space may have no problem of the evaluation's own, and then lends it all: see tasks.problems.
    purposes = (
        training_stream(task, longest, 0, 0, count=SAMPLE),
        validation_problems(task, longest, SAMPLE),
        [problem for some in evaluated if any(map(_own, some)) for problem in some],
    )
    keys = [{problem.key for problem in some if not exempt(task, problem)} for some in purposes]
    shared = keys[0] & keys[1] | keys[0] & keys[2] | keys[1] & keys[2]
    return f"{len(shared)} problems serve two purposes" if shared else None


def _own(problem: Problem) -> bool:
    return split(problem) == "evaluation"


def _checker(task: Task, drawn: Sequence[Problem]) -> str | None:
    rng, refused, passed = random.Random(0), 0, ""
    for problem in drawn:
        if not task.check(problem, task.answer(problem)):
            return f"the answer of {' '.join(problem.prompt)!r} is refused"
    for at in range(MUTATIONS):
        problem = drawn[at % len(drawn)]
        changed = mutated(rng, task, task.answer(problem))
        if task.check(problem, changed):
            passed = f"{' '.join(changed)!r} passes as the answer of {' '.join(problem.prompt)!r}"
        else:
            refused += 1
    # Where several answers are right some changes may pass; but a checker that lets half of them pass is none.
    enough = refused > MUTATIONS / 2 if task.several_answers else refused == MUTATIONS
    return None if enough else f"only {refused} of {MUTATIONS} changed answers are refused: {passed}"


def mutated(rng: random.Random, task: Task, answer: Sequence[str]) -> list[str]:
    """Another sequence of tokens than the answer: one to three of its tokens replaced, removed, doubled or swapped
    with the next, tokens put in, or its end cut off."""
    changed = list(answer)
    while changed == list(answer):
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            _change(rng, task.tokens or answer, changed)
    return changed


def _change(rng: random.Random, known: Sequence[str], tokens: list[str]) -> None:
    at = rng.randrange(len(tokens) or 1)
    kind = rng.choice(("replace", "replace", "insert", "remove", "double", "swap", "cut"))
    if kind == "insert" or not tokens:
        tokens.insert(rng.randint(0, len(tokens)), rng.choice(known))
    elif kind == "replace":
        tokens[at] = rng.choice(known)
    elif kind == "remove":
        del tokens[at]
    elif kind == "double":
        tokens.insert(at, tokens[at])
    elif kind == "swap":
        tokens[at : at + 2] = tokens[at : at + 2][::-1]
    else:
        del tokens[at:]


def _oracle(scenario: Scenario, lengths: Sequence[int], count: int) -> str | None:
    settings = Evaluate(lengths=tuple(lengths), problems=count)
    points = [Point(length, "random", 0, count) for length in lengths]
    for point, rows in evaluate(ScriptedModel(scenario), scenario, points, settings, {}):
        for row in rows:
            if not (row["exact"] and row["answer_right"] and row["replay_equal"] is not False):
                return f"length {point.length}, {row['question']!r}: {row['failure'] or 'a live replay differs'}"
    for length in lengths:
        for problem in problems(scenario.task, "evaluation", length, count):
            trajectory, environment = scenario.record(problem), scenario.environment(problem)
            for token in (token for token, own in zip(trajectory.tokens, trajectory.own) if own):
                environment.act(token)
            output = environment.outcome
            if not scenario.right(problem, output):
                return f"length {length}: the solver answers {' '.join(output)!r} to {' '.join(problem.prompt)!r}"
    return None


def _planted(scenario: Scenario, lengths: Sequence[int], count: int) -> str | None:
    model = ScriptedModel(scenario, error_rate=0.5)
    settings = Evaluate(lengths=tuple(lengths), problems=count, rollout_max=count)
    points = [Point(length, "random", 0, count) for length in lengths]
    for point, rows in evaluate(model, scenario, points, settings, {}):
        drawn = {problem.key: problem for problem in problems(scenario.task, "evaluation", point.length, count)}
        for row in rows:
            error = model.planted(drawn[row["problem"]])
            found = (row["divergence"], row["failure"])
            planted = (error.position, error.failure) if error else (None, None)
            if found != planted:
                return f"length {point.length}: planted {planted}, found {found} in {row['question']!r}"
    return None


def _misspelt(scenario: Scenario, lengths: Sequence[int], count: int) -> str | None:
    settings = Evaluate(lengths=tuple(lengths), problems=count, rollout_max=0, replay=0)
    points = [Point(length, "random", 0, count) for length in lengths]
    looked = 0
    for seed in range(MISSPELT):
        model = Misspelling(scenario, error_rate=1.0, error_seed=seed)
        for point, rows in evaluate(model, scenario, points, settings, {}):
            drawn = {problem.key: problem for problem in problems(scenario.task, "evaluation", point.length, count)}
            for row in rows:
                error = model.planted(drawn[row["problem"]])
                planted = (error.position, scenario.vocabulary.tokens[error.token]) if error else None
                if row["exact"] or (row["divergence"], row["got"]) != planted:
                    return f"length {point.length}: planted {planted}, found {row['divergence']} in {row['question']!r}"
            looked += len(rows)
        if looked >= MISSPELT:
            break
    return None


def _lengths(scenario: Scenario, drawn: Sequence[Problem]) -> str | None:
    for problem in drawn:
        stated = scenario.task.trajectory_length(problem, scenario.form)
        recorded = len(scenario.encoded(problem))
        if stated not in (None, recorded):
            return f"{recorded} tokens where {stated} are stated for {' '.join(problem.prompt)!r}"
    return None

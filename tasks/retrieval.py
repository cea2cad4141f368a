"""Questions about many short examples in natural language, answered by search: after Oolong's question topics.

Built after the benchmark (Bertsch et al., arXiv 2511.02817), not from its data: the examples are made from templates of
our own. `tasks.retrieval:PATH.jsonl` is the same task over the examples of a file of the benchmark, wherever a task is
named (see `tasks.questions.read`).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from math import comb
from pathlib import Path
from typing import ClassVar
from zlib import crc32

from tasks.agent import Agent
from tasks.base import Problem, Sampler, Task
from tasks.questions import Pool, Words, read, templates
from tools.base import Tool
from tools.search import COMMAND, FIND, NEWLINE, RUN, VALUE, SearchMemory

DIGITS = tuple("0123456789")
WIDTH = 4
"""Digits of an example's number: one width for all lengths. Allows 9,999 examples."""

_ASK, _OF, _IS = "Answer:", ":", "is"
_MARK, _STOP, _SAME = "|", ".", "same"
_SEEK, _ALONE = "seek", "alone"
_DUEL, _CONTEST = ("or", "after"), ("over", "under")
_COUNT, _MORE, _MOST = (
    "how many are about {} ?",
    "which is more common , {} or {} ?",
    "which is the most common ?",
)
_FRAME = ("from", "on", *(word for word in f"{_COUNT} {_MORE} {_MOST}".split() if word != "{}"))
_THOUGHTS = (_IS, _MARK, _STOP, _SAME, _SEEK, _ALONE, *_DUEL, *_CONTEST)
_RESERVED = frozenset((*DIGITS, *SearchMemory().vocabulary(), _MARK, _OF))

_FIND, _EMPTY, _FOUND, _NOTE = 9, 2, 8, 7
"""Tokens of a search for an example or its note, of a reply of nothing, of a reply of a note, and of a note."""
_TURN, _ALONE_TURN = 13, 8
"""Tokens of a thought that says what is sought, and where."""


def _tokens(pool: Pool) -> Words:
    words = sorted({word for text in pool for word in text})
    topics = sorted(set(pool.values()))
    return tuple(dict.fromkeys((*DIGITS, _OF, NEWLINE, *_FRAME, _ASK, *_THOUGHTS, *topics, *words)))


class Retrieval(Task):
    """Which topics the questions in a list are about, and how often; the length is the number of examples in the list.

    An example is a short question on one of six topics, numbered from a random number on; the topic is never written:
    it has to be read off the words. What is asked, each as likely as the others: how many examples are about a topic;
    which of two topics is more common, or `same`; which topic is the most common (then one is). The benchmark's
    questions about the least common topic, users and dates are left out.

    Every example is fetched by its number and its topic noted. What is asked is then answered from the notes, fetched
    one by one again, without a number that grows with the list: a count is given in tally marks, closed by `.`, and two
    topics are compared by taking one note of each in turn until one has none left. So nothing has to be learnt that
    short lists do not show, and every token follows from the 64 before it.

    Commands and replies are shortened for reading:

    >>> from itertools import groupby
    >>> from tasks.scenario import Scenario
    >>> task = Retrieval()
    >>> texts = ["what does dna stand for ?", "how old is the king of peru ?", "why does a cat sleep ?"]
    >>> problem = task.problem(4198, [tuple(text.split()) for text in texts], "Numeric", "Description")
    >>> def short(tokens):
    ...     text = re.sub(r"(\\d) (?=\\d)", r"\\1", " ".join(tokens)).replace("[COMMAND] find [VALUE]", "find")
    ...     text = text.replace(" [RUN]", "").replace(" [END]", ">")
    ...     return text.replace("[OBSERVATION]", "<").replace("< ", "<")
    >>> trajectory = Scenario(task, "interactive").record(problem)
    >>> for step, run in groupby(zip(trajectory.tokens, trajectory.steps), key=lambda pair: pair[1]):
    ...     print(f"{trajectory.phases[step]:8}", short(token for token, _ in run).replace("[NL] ", "[NL]\\n         "))
    question 4198 : what does dna stand for ? [NL]
             4199 : how old is the king of peru ? [NL]
             4200 : why does a cat sleep ? [NL]
             from 4198 on which is more common , Numeric or Description ? Answer:
    ask      find Answer: <from 4198 on which is more common , Numeric or Description ? Answer:>
    read     find 4198 : <4198 : what does dna stand for ?> 4198 is Abbreviation [NL]
    read     find 4199 : <4199 : how old is the king of peru ?> 4199 is Numeric [NL]
    read     find 4200 : <4200 : why does a cat sleep ?> 4200 is Description [NL]
    read     find 4201 : <>
    ask      find Answer: <from 4198 on which is more common , Numeric or Description ? Answer:>
    seek     seek Numeric 4198 or Description 4198 [NL]
             find 4198 is <4198 is Abbreviation>
    seek     seek Numeric 4199 or Description 4198 [NL]
             find 4199 is <4199 is Numeric>
    seek     seek Description 4198 after Numeric 4200 [NL]
             find 4198 is <4198 is Abbreviation>
    seek     seek Description 4199 after Numeric 4200 [NL]
             find 4199 is <4199 is Numeric>
    seek     seek Description 4200 after Numeric 4200 [NL]
             find 4200 is <4200 is Description>
    seek     seek Numeric 4200 or Description 4201 [NL]
             find 4200 is <4200 is Description>
    seek     seek Numeric 4201 or Description 4201 [NL]
             find 4201 is <>
    alone    seek Description 4201 alone [NL]
             find 4201 is <>
    answer   [ANS] same [EOS]

    The most common topic is the one that no other beats: each in turn, with `over` and `under` for `or` and `after`. A
    single turn is one search for `:`, which shows all examples, and then the answer at once.
    """

    revision: ClassVar[int] = 1
    pool: ClassVar[Pool] = templates()
    tokens: ClassVar[tuple[str, ...]] = _tokens(pool)
    prompt_end: ClassVar[str] = _ASK
    settings: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "interactive": ("search",),
        "single_turn": ("search",),
        "cot": ("none",),
        "direct": ("none",),
    }

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.tokens = _tokens(cls.pool)

    @property
    def topics(self) -> tuple[str, ...]:
        return _by_topic(type(self))[0]

    @property
    def stress(self) -> Mapping[str, Sampler]:
        return {"alike": self._alike, "tied": self._tied}

    def problem(self, start: int, examples: Sequence[Words], *asked: str) -> Problem:
        """Examples numbered from `start` on; asked is the count of one topic, the commoner of two, or the commonest.

        Raises:
            ValueError: numbers of more than four digits, an unknown example or topic, or no commonest topic.
        """
        if not examples or not 0 <= start < 10**WIDTH - len(examples):
            limit = 10**WIDTH - len(examples)
            raise ValueError(f"{self.name}: {len(examples)} examples from number {start}, must be in 0..{limit - 1}")
        if unknown := [text for text in examples if text not in self.pool]:
            raise ValueError(f"{self.name}: {' '.join(unknown[0])[:80]!r} is not a question with a known topic")
        if not set(asked) <= set(self.topics) or len(set(asked)) < len(asked) or len(asked) > 2:
            raise ValueError(f"{self.name}: asked = {asked}, must be up to two topics of {', '.join(self.topics)}")
        answer = self._answer(Counter(self.pool[text] for text in examples), asked)
        prompt: list[str] = []
        for number, text in enumerate(examples, start):
            prompt += [*_digits(number), _OF, *text, NEWLINE]
        question = (_MOST, _COUNT, _MORE)[len(asked)].format(*asked)
        return Problem((*prompt, "from", *_digits(start), "on", *question.split(), _ASK), answer, len(examples))

    def _answer(self, counts: Counter[str], asked: Sequence[str]) -> Words:
        if len(asked) == 1:
            return (*[_MARK] * counts[asked[0]], _STOP)
        if len(asked) == 2:
            first, second = (counts[topic] for topic in asked)
            return (_SAME,) if first == second else (asked[first < second],)
        (best, most), *others = counts.most_common(2)
        if others and others[0][1] == most:
            raise ValueError(
                f"{self.name}: {best} and {others[0][0]} are as common as each other; one must be the most"
            )
        return (best,)

    def sample(self, rng: random.Random, length: int) -> Problem:
        """Topics uniform and independent, and so are examples of a topic; drawn again until one topic is commonest."""
        asked = rng.sample(self.topics, rng.randrange(3))
        while True:
            topics = rng.choices(self.topics, k=length)
            ranked = Counter(topics).most_common(2)
            if asked or len(ranked) < 2 or ranked[0][1] > ranked[1][1]:
                return self._draw(rng, topics, asked)

    def _draw(self, rng: random.Random, topics: Sequence[str], asked: Sequence[str]) -> Problem:
        _, texts = _by_topic(type(self))
        if len(topics) >= 10**WIDTH:
            raise ValueError(
                f"{self.name}: length = {len(topics):,}, but numbers of {WIDTH} digits allow 9,999 examples"
            )
        start = rng.randrange(10**WIDTH - len(topics))
        return self.problem(start, [rng.choice(texts[topic]) for topic in topics], *asked)

    def _alike(self, rng: random.Random, length: int) -> Problem:
        """All examples on one topic, about which most of these problems ask."""
        topic, other = rng.sample(self.topics, 2)
        asked = rng.choice(((), (topic,), (other,), (topic, other), (other, topic)))
        return self._draw(rng, [topic] * length, asked)

    def _tied(self, rng: random.Random, length: int) -> Problem:
        """Two topics that are equally common."""
        first, second, *others = rng.sample(self.topics, len(self.topics))
        pairs = rng.randint(0, length // 2) if others else length // 2
        rest = rng.choices(others or [first], k=length - 2 * pairs)
        topics = [*[first, second] * pairs, *rest]
        rng.shuffle(topics)
        return self._draw(rng, topics, (first, second))

    def parse(self, prompt: Sequence[str]) -> Problem:
        *lines, question = _split(prompt)
        understood = _understood(question[:-1], self.topics)
        problem = None
        if understood and lines:
            start, asked = understood
            problem = self.problem(int(start), [line[WIDTH + 1 :] for line in lines], *asked)
        if problem is None or problem.prompt != tuple(prompt):
            example = "0 0 0 7 : why does a cat sleep ? [NL] from 0 0 0 7 on which is the most common ? Answer:"
            raise ValueError(f"{self.name}: {' '.join(prompt)[-80:]!r} does not end a prompt like {example!r}")
        return problem

    def solve(self, problem: Problem, agent: Agent) -> None:
        start, _ = self._ask(agent)
        self._read(agent, start)
        start, asked = self._ask(agent)
        if len(asked) == 1:
            _count(agent, start, *asked)
        elif len(asked) == 2:
            _finish(agent, _more(agent, start, *asked))
        else:
            _finish(agent, self._most(agent, start))

    def call(self, problem: Problem, agent: Agent) -> None:
        agent.step("call")
        _find(agent, _OF)
        _finish(agent, *problem.answer)

    def check(self, problem: Problem, output: Sequence[str]) -> bool:
        *lines, question = _split(problem.prompt)
        topics = [self.pool[line[WIDTH + 1 :]] for line in lines]
        named = [word for word in question if word in self.topics]
        if len(named) == 1:
            return list(output[:-1]) == [_MARK for topic in topics if topic == named[0]] and list(output[-1:]) == [
                _STOP
            ]
        if len(output) != 1:
            return False
        if not named:
            return output[0] in topics and all(
                topics.count(output[0]) > topics.count(other) for other in self.topics if other != output[0]
            )
        lead = topics.count(named[0]) - topics.count(named[1])
        return output[0] == (_SAME if not lead else named[0] if lead > 0 else named[1])

    def check_tool(self, tool: Tool) -> None:
        least = 3 + WIDTH + max(max(map(len, self.pool)), len(_MORE.split()) + 2)
        if isinstance(tool, SearchMemory) and tool.limit is not None and tool.limit < least:
            raise ValueError(f"{self.name}: the search tool needs a limit of at least {least} tokens")

    def chance(self, length: int) -> float:
        """The mean over the three questions of what the best blind answer to each gets."""
        k, n = length, len(self.topics)
        likeliest = max(comb(k, c) * (n - 1) ** (k - c) for c in range(k // n, min(k, k // n + 1) + 1)) / n**k
        tie = sum(comb(k, 2 * c) * comb(2 * c, c) * (n - 2) ** (k - 2 * c) for c in range(k // 2 + 1)) / n**k
        return (likeliest + max(tie, (1 - tie) / 2) + 1 / n) / 3

    def trajectory_length(self, problem: Problem, form: str = "faithful") -> int:
        """29 tokens an example and those of its words to read the list; then, by what is asked, 35 to 50 an example for
        a count, up to 68 to compare two topics, and that five times over for the most common of six."""
        *lines, question = _split(problem.prompt)
        topics = [self.pool[line[WIDTH + 1 :]] for line in lines]
        k, asking = len(topics), 7 + len(question)
        asked = [word for word in question if word in self.topics]
        total = len(problem.prompt) + 2 * asking + _FIND + _EMPTY
        total += sum(_FIND + 2 + len(line) + _NOTE for line in lines)
        if len(asked) == 1:
            c = topics.count(asked[0])
            searches = k * (_FIND + 1) + c * _FOUND + (k - c) * _EMPTY + k * _FIND + (k - 1) * _FOUND + _EMPTY
            return total + 1 + searches + c + 2
        if len(asked) == 2:
            tokens, beaten, seen = _duel_length(topics, *asked)
            if not beaten:
                left = topics[seen:]
                steps = left.index(asked[1]) + 1 if asked[1] in left else len(left)
                tokens += steps * (_ALONE_TURN + _FIND + _FOUND)
                tokens += 0 if asked[1] in left else _ALONE_TURN + _FIND + _EMPTY
            return total + tokens + 3
        champion = self.topics[0]
        for place, challenger in enumerate(self.topics[1:]):
            tokens, beaten, _ = _duel_length(topics, challenger, champion)
            champion = challenger if beaten else champion
            total += tokens + (asking if place else 0)
        return total + 3

    def _ask(self, agent: Agent) -> tuple[str, Words]:
        """Fetch what is asked: the number of the first example, and the topics named."""
        agent.step("ask")
        understood = _understood(_find(agent, _ASK)[:-1], self.topics)
        assert understood is not None
        return understood

    def _read(self, agent: Agent, at: str) -> None:
        """Note the topic of every example."""
        while True:
            agent.step("read")
            found = _find(agent, *at, _OF)
            if not found:
                return
            agent.think(*at, _IS, self.pool[found[WIDTH + 1 :]], NEWLINE)
            at = _next(at)

    def _most(self, agent: Agent, start: str) -> str:
        champion, challenger, *others = self.topics
        while True:
            if _duel(agent, start, challenger, champion, _CONTEST)[0]:
                champion = challenger
            if not others:
                return champion
            challenger, *others = others
            start, _ = self._ask(agent)


@cache
def _by_topic(task: type[Retrieval]) -> tuple[Words, Mapping[str, Sequence[Words]]]:
    """The topics of a task's pool, and the questions about each."""
    texts: dict[str, list[Words]] = {topic: [] for topic in sorted(set(task.pool.values()))}
    for text, topic in task.pool.items():
        texts[topic].append(text)
    return tuple(texts), texts


def _digits(number: int) -> str:
    return f"{number:0{WIDTH}}"


def _next(number: str) -> str:
    return _digits(int(number) + 1)


def _split(prompt: Sequence[str]) -> Iterator[Words]:
    """The lines of a prompt."""
    line: list[str] = []
    for token in prompt:
        if token == NEWLINE:
            yield tuple(line)
            line = []
        else:
            line.append(token)
    yield tuple(line)


def _understood(question: Words, topics: Words) -> tuple[str, Words] | None:
    """The number of the first example and the topics named in a question like `from 4 1 9 8 on ..`; None if unlike."""
    start, asked = "".join(question[1 : 1 + WIDTH]), question[2 + WIDTH :]
    named = tuple(word for word in asked if word in topics)
    said = " ".join("{}" if word in topics else word for word in asked)
    frame = (*question[:1], *question[1 + WIDTH : 2 + WIDTH])
    known = frame == ("from", "on") and re.fullmatch(f"[0-9]{{{WIDTH}}}", start) and said in (_COUNT, _MORE, _MOST)
    return (start, named) if known else None


def _find(agent: Agent, *pattern: str) -> Words:
    """The lines with a pattern."""
    return agent.command(COMMAND, FIND, VALUE, *pattern, RUN)[1:-1]


def _count(agent: Agent, at: str, topic: str) -> None:
    """Make a tally mark for every note of a topic."""
    agent.answer()
    while True:
        agent.step("count")
        if _find(agent, *at, _IS, topic):
            agent.output(_MARK)
        at = _next(at)
        if not _find(agent, *at, _IS):
            break
    agent.output(_STOP)


def _more(agent: Agent, start: str, first: str, second: str) -> str:
    won, at = _duel(agent, start, first, second, _DUEL)
    while not won:
        agent.step("alone")
        agent.think(_SEEK, second, *at, _ALONE, NEWLINE)
        found = _find(agent, *at, _IS)
        if not found or found[-1] == second:
            return second if found else _SAME
        at = _next(at)
    return first


def _duel(agent: Agent, start: str, first: str, second: str, turns: tuple[str, str]) -> tuple[bool, str]:
    """Take one note of each topic in turn until a topic has none left; whether the first has won, having one more,
    and the number up to which the other topic has been looked for."""
    sought, at, other, beside, turn = first, start, second, start, 0
    while True:
        agent.step("seek")
        agent.think(_SEEK, sought, *at, turns[turn], other, *beside, NEWLINE)
        found = _find(agent, *at, _IS)
        if not found:
            return turn == 1, beside
        at = _next(at)
        if found[-1] == sought:
            sought, at, other, beside, turn = other, beside, sought, at, 1 - turn


def _duel_length(topics: Sequence[str], first: str, second: str) -> tuple[int, bool, int]:
    """Tokens of a duel, whether the first has won, and how many notes the other topic has been looked for in."""
    places = [[place + 1 for place, topic in enumerate(topics) if topic == each] for each in (first, second)]
    won = len(places[0]) > len(places[1])
    seen = places[0][len(places[1])] if won else [0, *places[1]][len(places[0])]
    steps = len(topics) + seen
    return steps * (_TURN + _FIND + _FOUND) + _TURN + _FIND + _EMPTY, won, seen


def _finish(agent: Agent, *answer: str) -> None:
    agent.step("answer")
    agent.answer()
    agent.output(*answer)


def __getattr__(name: str) -> type[Retrieval]:
    """The task over the examples of a file, by its path.

    Raises:
        AttributeError: not the path of a JSONL file.
        ValueError: a bad file.
    """
    if name.endswith(".jsonl"):
        return _task(name, Path(name).absolute())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r} (a file of examples is named `PATH.jsonl`)")


@cache
def _task(name: str, path: Path) -> type[Retrieval]:
    pool = read(path, _RESERVED)
    content = "\n".join(f"{' '.join(text)}\t{topic}" for text, topic in sorted(pool.items()))
    revision = Retrieval.revision << 32 | crc32(content.encode())
    return type(name, (Retrieval,), {"__module__": __name__, "__qualname__": name, "pool": pool, "revision": revision})

"""Training on several tasks at once (Malach et al., arXiv 2510.14826, appendix D.8)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.base import Problem
from tasks.problems import BLOCK, generator, training_stream
from tasks.scenario import Scenario


class Mixture(Scenario):
    """A scenario that also trains on other tasks; validation and evaluation are on its own.

    `shares`: other task -> its share of the training problems; the task's own get the rest. The others take part in
    the same setting, with their default tool, and in the same form if they have it, else in the first of theirs. All
    share one vocabulary: that of the task, followed by what the others add, in order of their names.

    Raises:
        ValueError: as `Scenario`, for any of the tasks; shares that leave the task none; or another task whose prompts
            cannot be told from its own.
    """

    def __init__(
        self,
        task: str,
        setting: str,
        tool: str | None,
        form: str,
        tool_options: Mapping[str, Any],
        shares: Mapping[str, float],
    ) -> None:
        super().__init__(task, setting, tool, form, tool_options)
        if min(shares.values()) <= 0 or sum(shares.values()) >= 1:
            given = ", ".join(f"{name} {share:g}" for name, share in shares.items())
            raise ValueError(f"mixture: {given}; shares must be above 0, and sum to less than 1")
        unsorted = {}
        for name, share in shares.items():
            other = Scenario(name, setting)
            forms = other.task.forms
            unsorted[other.task.name] = (Scenario(name, setting, form=form if form in forms else forms[0]), share)
        self.others = dict(sorted(unsorted.items()))
        """Name of another task -> its scenario, and its share of the training problems."""
        self._tell_apart()
        for other, _ in self.others.values():
            other.vocabulary = self.vocabulary

    def tokens(self) -> Iterator[str]:
        yield from super().tokens()
        for other, _ in self.others.values():
            yield from other.tokens()

    @property
    def shares(self) -> dict[str, float]:
        return {name: share for name, (_, share) in self.others.items()}

    @property
    def revisions(self) -> dict[str, Any]:
        return {**super().revisions, "mixture": {name: other.revisions for name, (other, _) in self.others.items()}}

    def training_block(
        self,
        max_length: int,
        data_seed: int,
        block: int,
        stress: Mapping[str, float] | None = None,
        count: int = BLOCK,
    ) -> list[tuple[Scenario, Problem]]:
        """Every place of the block goes to one of the tasks at random, and holds what its own stream has there.

        stress: stress set of the cell's own task -> its share of that task's problems; count: only the first so many
        places.
        """
        scenarios: list[Scenario] = [self, *(other for other, _ in self.others.values())]
        rng = generator(self.task, "mixture", self.shares, data_seed, block)
        weights = [1 - sum(self.shares.values()), *self.shares.values()]
        whose = rng.choices(range(len(scenarios)), weights, k=BLOCK)[:count]
        own = training_stream(self.task, max_length, data_seed, block, stress, count)
        streams = [own]
        streams += [training_stream(other.task, max_length, data_seed, block, count=count) for other in scenarios[1:]]
        return [(scenarios[which], streams[which][place]) for place, which in enumerate(whose)]

    def _tell_apart(self) -> None:
        tasks = {self.task.name: self.task, **{name: other.task for name, (other, _) in self.others.items()}}
        if len(tasks) <= len(self.others):
            raise ValueError(f"mixture: {self.task.name} is the task itself; name others")
        for name, task in tasks.items():
            for length in (1, 2, 3):
                prompt = task.sample(random.Random(length), length).prompt
                for other in tasks.keys() - {name}:
                    try:
                        tasks[other].parse(prompt)
                    except ValueError:
                        continue
                    raise ValueError(f"mixture: the prompt {' '.join(prompt)!r} of {name} could be one of {other}")


def bind(
    task: str,
    setting: str,
    tool: str | None = None,
    form: str = "faithful",
    tool_options: Mapping[str, Any] | None = None,
    mixture: Mapping[str, float] | None = None,
) -> Scenario:
    """The scenario of a cell: a mixture where other tasks have a share above 0."""
    shares = {name: share for name, share in (mixture or {}).items() if share}
    if shares:
        return Mixture(task, setting, tool, form, tool_options or {}, shares)
    return Scenario(task, setting, tool, form, tool_options)

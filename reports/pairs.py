"""Architectures set against each other, two at a time, within every panel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import polars as pl

from reports import aggregate, runs, style, wording
from reports.significance import LEVEL, POWER, Decision, Permutation, decide, detectable_share, smallest_p

Key = tuple[Any, ...]
"""Values of `aggregate.FACET`: one panel."""
_FAMILY = tuple(aggregate.FACET.index(name) for name in ("task", "setting"))
"""Comparisons of the same task and setting are corrected together."""


@dataclass(frozen=True)
class Pair:
    """Two architectures (or recipes of one) and the test of how far their runs reach."""

    first: tuple[str, str]
    """Architecture and recipe; of the two, the one whose runs are ahead."""
    second: tuple[str, str]
    contrast: runs.Contrast
    decision: Decision


def pairs(cells: pl.DataFrame, random: pl.DataFrame) -> dict[Key, list[Pair]]:
    """Panel -> its pairs, the clearest first. Takes summarised cells and their points on random problems."""
    found: list[tuple[Key, tuple[str, str], tuple[str, str], runs.Contrast]] = []
    for key, own in runs.counted(cells.filter(~runs.EARLIER)).group_by(*aggregate.FACET, maintain_order=True):
        groups = {(str(name), str(recipe)): group for (name, recipe), group in own.group_by("architecture", "recipe")}
        names = sorted(groups, key=lambda name: (style.order(name[0]), name[1]))
        curves = {name: runs.curves(groups[name], random) for name in names}
        for one, other in combinations(names, 2):
            contrast = runs.contrast(curves[one], curves[other])
            if contrast is not None and contrast.test.ahead < 0.5:
                one, other, contrast = other, one, runs.contrast(curves[other], curves[one])
            if contrast is not None:
                found.append((key, one, other, contrast))
    families: dict[Key, list[int]] = {}
    for place, (key, *_) in enumerate(found):
        families.setdefault(tuple(key[at] for at in _FAMILY), []).append(place)
    result: dict[Key, list[Pair]] = {}
    for places in families.values():
        for place, decision in zip(places, decide([found[place][3].test for place in places])):
            key, one, other, contrast = found[place]
            result.setdefault(key, []).append(Pair(one, other, contrast, decision))
    return {key: sorted(own, key=lambda pair: pair.contrast.test.p) for key, own in result.items()}


def said(decision: Decision, sizes: tuple[int, int]) -> str:
    """What a test decides, with what it could have found where it finds nothing."""
    if decision.outcome in ("more", "less"):
        return {"more": "further", "less": "less far"}[decision.outcome]
    if decision.outcome == "undecidable":
        return f"undecidable with {_sides(sizes)}: {_limits(decision, sizes)}"
    return f"no difference shown; {_detectable(decision.detectable)}"


def _sides(sizes: tuple[int, int]) -> str:
    one, other = sorted(sizes)
    if one == other:
        return f"{one} run{'' if one == 1 else 's'} a side"
    return f"{one} and {other} runs"


def _limits(decision: Decision, sizes: tuple[int, int]) -> str:
    """Why runs of these numbers cannot decide, and from how many on they could."""
    corrected = f" after correction for {decision.family} comparisons" if decision.family > 1 else ""
    smallest = f"smallest p {probability(decision.reachable)}{corrected}"
    level = LEVEL / decision.family
    enough = next(n for n in range(5, 100) if smallest_p(n, n) <= level and detectable_share(n, n, level) is not None)
    return f"{smallest}; with {enough} a side {_detectable(detectable_share(enough, enough, level))}"


def _detectable(share: float | None) -> str:
    if share is None:
        return f"no difference would be found with a power of {POWER:.0%}"
    return f"a difference of {100 * share:.0f} in 100 seeds would be found with a power of {POWER:.0%}"


def approximated(tests: Iterable[Permutation]) -> str:
    """A sentence about those that are not exact; empty where all are."""
    rough = sum(not test.exact for test in tests)
    if not rough:
        return ""
    return f" Of {wording.plural(rough, 'comparison')} the runs are too many for that: normal approximation, with ties."


def probability(p: float) -> str:
    """0.0079 -> 0.008, 0.33 -> 0.33, 0.00001 -> < 0.001."""
    return "< 0.001" if p < 0.0005 else f"{p:.3f}" if p < 0.095 else f"{p:.2f}"

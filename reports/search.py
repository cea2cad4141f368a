"""How the recipes were chosen: among what, by which rule, and what every one did on validation problems."""

from __future__ import annotations

from typing import Any

from reports import wording
from reports.markup import Markup, element, folded, fragment, table
from reports.parts import note, section
from reports.view import View

_TRIED = ["Recipe", "Validation exact", "Validation loss", "Training FLOPs", "Failed trials"]


def search(view: View) -> Markup | None:
    """One line per choice, and behind it every recipe tried; None for a grid that searched for nothing."""
    found: list[dict[str, Any]] = view.data.grid.get("search") or []
    if not found:
        return None
    decided = [item["record"] for item in found if item["record"]]
    rule = decided[0]["rule"] if decided else "nothing is decided yet"
    text = (
        f"Every architecture got the same trials; the winner has {rule}. Loss is in nats per token. Trials were never "
        "evaluated on longer problems, and the winners were trained again from fresh seeds: no trial is among the "
        f"runs on this page.{_stopped_early(decided)}"
    )
    head = ["For", "Chosen", "Among", "Validation exact", "Validation loss", "Failed trials"]
    whole = table(head, [_line(item) for item in found], "numbers")
    return section("search", "How the recipes were chosen", note(text), whole, *map(_trials, found))


def _stopped_early(decided: list[dict[str, Any]]) -> str:
    """How many recipes successive halving left behind, and when; nothing where it was not asked for."""
    stops: list[int] = []
    for record in decided:
        stops += [one["steps"] for one in record["tried"] if "steps" in one and one["recipe"] != record["winner"]]
    if not stops:
        return ""
    each = wording.listed([f"{stops.count(stop)} at step {stop:,}" for stop in sorted(set(stops))])
    return f" Successive halving compared them on their way and left behind {each}; the last that was left has won."


def _line(item: dict[str, Any]) -> list[str]:
    record = item["record"]
    if record is None:
        return [item["name"], "not decided yet", *[wording.NONE] * 4]
    tried = record["tried"]
    winner = next(one for one in tried if one["recipe"] == record["winner"])
    among = f"{wording.plural(len(tried), 'recipe')} × {wording.plural(len(winner['trials']), 'seed')}"
    failed = f"{sum(one['failed'] for one in tried):,} of {sum(len(one['trials']) for one in tried):,}"
    return [
        item["name"],
        _recipe(record["winner"]),
        among,
        wording.percent(winner["exact"]),
        _loss(winner["loss"]),
        failed,
    ]


def _trials(item: dict[str, Any]) -> Markup | None:
    """Every recipe that was tried, the best first by the rule's own measures; the winner is marked."""
    record = item["record"]
    if record is None:
        return None
    unknown = float("inf")
    ranked = sorted(
        record["tried"],
        key=lambda one: (
            -one.get("steps", 0),
            -one["exact"],
            *(unknown if one[name] is None else one[name] for name in ("loss", "flops")),
        ),
    )
    halved = any("steps" in one for one in ranked)
    body = [
        [
            fragment(_recipe(one["recipe"]), element("b", " chosen") if one["recipe"] == record["winner"] else None),
            wording.percent(one["exact"], 1),
            _loss(one["loss"]),
            wording.short(one["flops"]),
            f"{one['failed']} of {len(one['trials'])}",
            *([f"{one['steps']:,}"] if halved else []),
        ]
        for one in ranked
    ]
    title = f"All {wording.plural(len(ranked), 'recipe')} tried for {item['name']}"
    return folded(title, table([*_TRIED, *(["Compared at step"] if halved else [])], body, "numbers"))


def _recipe(recipe: dict[str, Any]) -> str:
    return ", ".join(f"{name.removeprefix('train.')} {value:g}" for name, value in recipe.items())


def _loss(loss: float | None) -> str:
    return wording.NONE if loss is None else f"{loss:.2g}"

"""The viewer: steps through failed rollouts beside the oracle. Its script is viewer.js, its style viewer.css."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from reports.data import Failure, Track
from reports.marks import marks
from reports.markup import Markup, element, packed

LIMIT = 1_000_000
"""Characters that the packed failures may take in the page; the last ones are left out beyond it."""

ROLES = ("question", "thought", "command", "observation", "output", "end")
SIDES = ("oracle", "model")
_BUTTONS = {
    "first": ("|◀", "First token (Home)"),
    "back": ("◀", "One token back (left arrow)"),
    "forward": ("▶", "One token forward (right arrow)"),
    "last": ("▶|", "Last token (End)"),
    "divergence": ("To the divergence", "First wrong token (d)"),
}
_KEYS = (
    "Left and right arrows step (with Shift by ten tokens), Home and End go to the ends, d goes to the first wrong "
    "token; a click on a token goes there."
)


def viewer(
    failures: Sequence[Failure], labels: Sequence[str], whose: Sequence[Mapping[str, Any]] = ()
) -> Markup | None:
    """The viewer of all failures that could be replayed; None when none could. `labels`: what to call each failure;
    `whose`: its cell, for the filters.

    Nothing shows before the script has unpacked the data, and without it nothing is missed: every failure has a card.
    """
    shown = [place for place, failure in enumerate(failures) if failure.model is not None]
    packed = pack([failures[place] for place in shown])
    while shown and len(packed) > LIMIT:
        shown.pop()
        packed = pack([failures[place] for place in shown])
    if not shown:
        return None
    marked = {place: marks(line) for place, line in enumerate(whose)}
    options = [element("option", labels[place], value=place, **marked.get(place, {})) for place in shown]
    return element(
        "div",
        _controls(options),
        element("p", _KEYS, class_="note keys"),
        element("p", aria_live="polite", class_="status", data_part="status"),
        element(
            "div", element("table", data_part="strip"), class_="strip", role="group", tabindex="0", aria_label="Tokens"
        ),
        element("p", [element("span", role, class_=f"role {role}") for role in ROLES], class_="roles"),
        element("div", [_memory(side) for side in SIDES], class_="memories"),
        id="viewer",
        role="group",
        aria_label="Failed rollouts, step by step",
        tabindex="-1",
        hidden=True,
        data_failures=packed,
    )


def _controls(options: Sequence[Markup]) -> Markup:
    buttons = [
        element("button", text, type="button", data_go=name, title=title, aria_label=title)
        for name, (text, title) in _BUTTONS.items()
    ]
    return element(
        "div",
        element("label", "Failure ", element("select", options, data_part="pick")),
        element("div", buttons, class_="buttons"),
        element("input", type="range", min=0, value=0, data_part="place", aria_label="Token"),
        class_="controls",
    )


def _memory(side: str) -> Markup:
    title = f"What the {side}'s tool holds"
    return element("div", element("h4", title), element("p", class_="cells", data_part=side), class_="memory")


def pack(failures: Sequence[Failure]) -> str:
    """Failures as packed JSON, each token a number; `viewer.js` unpacks them.

    {names: tokens by number, failures: [{at, start, known, steps, oracle, model}]}; `at` is the offset of the
    divergence. A side is {tokens, roles: a digit of ROLES per token, memory, pointers, edits, moves} as in
    `reports.data.Track`, cells of memory as numbers.
    """
    numbers: dict[str, int] = {}
    lines = [
        {
            "at": failure.row["divergence"] - failure.start,
            "start": failure.start,
            "known": failure.known,
            "steps": failure.steps,
            **{side: _numbered(getattr(failure, side), numbers) for side in SIDES},
        }
        for failure in failures
    ]
    text = json.dumps({"names": list(numbers), "failures": lines}, separators=(",", ":"))
    return packed(text)


def _numbered(track: Track, numbers: dict[str, int]) -> dict[str, Any]:
    def number(tokens: Sequence[str]) -> list[int]:
        return [numbers.setdefault(token, len(numbers)) for token in tokens]

    return {
        "tokens": number(track.tokens),
        "roles": "".join(str(ROLES.index(role)) for role in track.roles),
        "memory": number(track.memory),
        "pointers": track.pointers,
        "edits": [(offset, cell, removed, number(put)) for offset, cell, removed, put in track.edits],
        "moves": track.moves,
    }

"""Where a few failed problems first went wrong, token by token."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import polars as pl

from reports import aggregate, style, wording
from reports.marks import marks
from reports.markup import Markup, element, fragment
from reports.parts import note, section
from reports.view import View

MOST = 12


def examples(view: View) -> list[dict[str, Any]]:
    """The first failed problem at the shortest failing length of each group that fits, panels taking turns."""
    identity = view.cells.filter(~pl.col("unfit")).select("cell", *aggregate.GROUP, "seed", "replicate")
    failed = (pl.col("exact") == False) | pl.col("failure").is_not_null()  # noqa: E712
    places = view.data.rows.lazy().with_row_index("place").filter(failed & (pl.col("stress") == aggregate.RANDOM))
    first = (
        places.select("place", "cell", "length", "index")
        .collect()
        .join(identity, on="cell", how="inner")
        .sort("length", "index", "cell")
        .unique(subset=list(aggregate.GROUP), keep="first", maintain_order=True)
    )
    rows = view.data.rows[first["place"].to_list()].drop("cell", "length", "index")
    whole = pl.concat([first.drop("place"), rows], how="horizontal").to_dicts()
    return _in_turns(view, whole)[:MOST]


def _in_turns(view: View, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One of each panel, then the second of each, and so on."""
    lines = sorted(lines, key=lambda line: style.order(line["architecture"]))
    own = [
        [line for line in lines if tuple(line[name] for name in aggregate.FACET) == facet.key] for facet in view.facets
    ]
    return [line for turn in zip_longest(*own) for line in turn if line is not None]


def divergences(view: View) -> Markup | None:
    shown = examples(view)
    if not shown:
        return None
    text = (
        "For each architecture, the first failed problem at the shortest length where one failed; unfit runs left out."
    )
    cards = element("div", [_card(line) for line in shown], class_="cards")
    return section("divergences", "Where runs first go wrong", note(text), cards)


def _card(line: dict[str, Any]) -> Markup:
    title = f"{line['architecture'] or 'unnamed'} · {line['setting'] or 'no setting'}"
    where = f"seed {line['seed']}, length {line['length']:,}, problem {line['index']}"
    facts = [
        ("Where", _where(line)),
        ("Class", (line["failure"] or "unclassified").replace("_", " ")),
        (
            "Margin",
            None if line["margin"] is None else f"{line['margin']:.3g}{' (near tie)' if line['near_tie'] else ''}",
        ),
        ("Then", _ending(line)),
        ("Output", None if line["output"] is None else element("code", line["output"])),
    ]
    return element(
        "article",
        element("h3", title, element("small", where)),
        element("p", element("code", line["question"]), class_="tokens question") if line["question"] else None,
        _tokens(line),
        element(
            "dl",
            [fragment(element("dt", name), element("dd", value)) for name, value in facts if value],
            class_="facts",
        ),
        **marks(line),
    )


def _tokens(line: dict[str, Any]) -> Markup | None:
    if line["expected"] is None and line["got"] is None:
        return None
    wanted = element("ins", _shown(line["expected"]), title="expected")
    got = element("del", _shown(line["got"]), title="got")
    context = f"… {line['context']}" if line["context"] else None
    return element("p", element("code", context, " "), "expected ", wanted, " got ", got, class_="tokens")


def _shown(token: str | None) -> str:
    return "nothing" if token is None else token if token.strip() else repr(token)


def _where(line: dict[str, Any]) -> str | None:
    if line["divergence"] is None:
        return None
    text = f"token {line['divergence']:,} of {wording.whole(line['tokens'])}"
    if line["divergence_step"] is not None:
        text += f", solver step {line['divergence_step']:,}"
    if line["divergence_phase"]:
        text += f" ({line['divergence_phase']})"
    return text + (f", {line['divergence_role']}" if line["divergence_role"] else "")


def _ending(line: dict[str, Any]) -> str:
    if line["ending"] is None:
        return "not rolled out"
    right = {True: "answer right", False: "answer wrong", None: "answer unknown"}[line["answer_right"]]
    return f"rolled out: {line['ending'].replace('_', ' ')}, {right}"

"""A few failed problems: where each first went wrong, what came of it, and a viewer that steps through them."""

from __future__ import annotations

from typing import Any

from reports import wording
from reports.aggregate import FACET
from reports.data import Failure
from reports.marks import marks
from reports.markup import Markup, element, fragment
from reports.parts import note, section
from reports.view import View
from reports.viewer import viewer


def divergences(view: View) -> Markup | None:
    """The viewer, and a card for each failure, of which the viewer's script shows the one that is looked at."""
    if not view.data.failures:
        return None
    text = (
        "Of every architecture in its setting the first failed random problem at the shortest length where one failed, "
        "then at the next such length, and so on; unfit runs left out. Up to the first wrong token oracle and model "
        "are the same; from there on the model's own rollout is shown, with what its tool then holds."
    )
    known = {line["cell"]: line for line in view.cells.iter_rows(named=True)}
    lines = [known.get(failure.row["cell"], {}) for failure in view.data.failures]
    labels = [_label(view, failure, line) for failure, line in zip(view.data.failures, lines)]
    cards = [_card(place, *told) for place, told in enumerate(zip(labels, lines, view.data.failures))]
    return section(
        "divergences",
        "Failed problems, step by step",
        note(text),
        viewer(view.data.failures, labels, lines),
        element("div", cards, class_="cards"),
    )


def _label(view: View, failure: Failure, line: dict[str, Any]) -> str:
    facet = next((facet for facet in view.facets if facet.key == tuple(line.get(name) for name in FACET)), None)
    parts = [
        line.get("architecture") or "unnamed",
        line.get("recipe"),
        facet and facet.title,
        f"length {failure.row['length']:,}",
    ]
    return " · ".join(part for part in [*parts, _class(failure.row)] if part)


def _class(row: dict[str, Any]) -> str:
    return (row["failure"] or "unclassified").replace("_", " ")


def _card(place: int, label: str, line: dict[str, Any], failure: Failure) -> Markup:
    row = failure.row
    where = f"seed {line['seed']}, " if line.get("seed") is not None else ""
    margin = None if row["margin"] is None else f"{row['margin']:.3g}{', a near tie' if row['near_tie'] else ''}"
    facts = [
        ("Where", _where(row)),
        ("Margin of logits", margin),
        ("Then", _ending(row)),
        ("Output", element("code", row["output"]) if row["output"] else None),
    ]
    return element(
        "article",
        element("h3", label, element("small", f"{where}problem {row['index']}")),
        element("p", element("code", row["question"]), class_="tokens question") if row["question"] else None,
        _tokens(row),
        element(
            "dl",
            [fragment(element("dt", name), element("dd", value)) for name, value in facts if value],
            class_="facts",
        ),
        **marks(line),
        data_failure=place,
    )


def _tokens(row: dict[str, Any]) -> Markup | None:
    if row["expected"] is None and row["got"] is None:
        return None
    wanted = element("ins", _shown(row["expected"]), title="expected")
    got = element("del", _shown(row["got"]), title="got")
    context = f"… {row['context']}" if row["context"] else None
    return element("p", element("code", context, " "), "expected ", wanted, " got ", got, class_="tokens")


def _shown(token: str | None) -> str:
    return "nothing" if token is None else token if token.strip() else repr(token)


def _where(row: dict[str, Any]) -> str | None:
    if row["divergence"] is None:
        return None
    text = f"token {row['divergence']:,} of {wording.whole(row['tokens'])}"
    if row["divergence_step"] is not None:
        text += f", solver step {row['divergence_step']:,}"
    if row["divergence_phase"]:
        text += f" ({row['divergence_phase']})"
    return text + (f", {row['divergence_role']}" if row["divergence_role"] else "")


def _ending(row: dict[str, Any]) -> str:
    if row["ending"] is None:
        return "not rolled out"
    right = {True: "answer right", False: "answer wrong", None: "answer unknown"}[row["answer_right"]]
    return f"rolled out: {row['ending'].replace('_', ' ')}, {right}"

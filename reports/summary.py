"""The summary tables: per architecture the reach of every seed, k of S seeds, and the paper's measure."""

from __future__ import annotations

from typing import Any

import polars as pl

from reports import aggregate, statistics, wording
from reports.marks import marks
from reports.markup import Markup, element, fragment, table
from reports.parts import architecture, by_architecture, note, part, section, single_runs
from reports.view import Facet, View, key_lengths


def summary(view: View) -> Markup | None:
    parts = [_table(view, facet) for facet in view.facets]
    if not parts:
        return None
    text = (
        f"A seed solves a length when at least {statistics.SOLVED:.0%} of its problems are right; k of S seeds with "
        "the Clopper-Pearson interval. A failed run counts as a seed that does not; unfit and waiting ones are not "
        "counted, nor is a seed run again (a replicate). Fresh seed: the accuracy to expect of another seed at the "
        "longest length, the mean over seeds with its 95% interval (bootstrap of seeds and problems crossed), wide "
        "while seeds are few. n → m (p%) is the "
        "measure of Malach et al. (arXiv 2510.14826): trained to n, accuracy p at the last length m with p ≥ 5%, of "
        "the best seed."
    )
    return section("summary", "Summary", note(text), single_runs(view), *parts)


def _table(view: View, facet: Facet) -> Markup:
    shown = key_lengths(view.lengths(facet), facet["max_length"])
    solving = [f"Solve {length:,}" for length in shown]
    head = ["Architecture", "Reach of each seed", *solving, "Fresh seed", "Best seed, n → m (p%)"]
    body, whose = [], []
    for name, recipe, own in by_architecture(facet.of(view.cells)):
        whose.append(marks({"architecture": name}))
        same = [pl.col(key) == value for key, value in own.select(aggregate.GROUP).row(0, named=True).items()]
        solved = {line["length"]: line for line in view.solved.filter(*same).iter_rows(named=True)}
        shown_runs = view.singles(own)
        chips = [_reach(run) for run in shown_runs.sort("seed", "replicate").to_dicts()]
        more = f" and {own.height - shown_runs.height:,} more" if shown_runs.height < own.height else None
        body.append(
            [
                architecture(view, name, recipe),
                element("span", chips, more, class_="chips"),
                *[_solved(solved.get(length)) for length in shown],
                _fresh(solved.get(shown[-1]) if shown else None),
                _paper(view, own),
            ]
        )
    return part(facet, table(head, body, "numbers", whose))


def _reach(run: dict[str, Any]) -> Markup:
    """Reach of one seed, or why it has none."""
    seed = f"seed {run['seed']}" + (f", replicate {run['replicate']}" if run["replicate"] else "")
    again = " again" if run["replicate"] else ""
    if run["unfit"]:
        return element("span", "unfit", again, class_="chip unfit", title=f"{seed}: does not fit its training lengths")
    if run["reach_low"] is None:
        state, class_ = ("failed", "chip failed") if run["status"] == "failed" else ("waiting", "chip unfit")
        return element("span", state, again, class_=class_, title=seed)
    low, high, longest = run["reach_low"], run["reach_high"], run["longest"]
    end = "the longest tested length" if high is None else f"{high:,} is the first tested length not solved"
    return element("span", wording.reach(low, high, longest), again, class_="chip", title=f"{seed}: {end}")


def _solved(line: dict[str, Any] | None) -> Markup | str:
    if line is None:
        return wording.NONE
    return fragment(f"{line['solved']} of {line['seeds']}", element("small", wording.span(line["low"], line["high"])))


def _fresh(line: dict[str, Any] | None) -> Markup | str:
    if line is None:
        return wording.NONE
    bounds = wording.span(line["expected_low"], line["expected_high"])
    return fragment(wording.percent(line["expected"]), element("small", bounds))


def _paper(view: View, own: pl.DataFrame) -> Markup | str:
    """The paper's measure for the best seed, with the count and interval it leaves out. Failed seeds count."""
    tested, failed = pl.col("tested") > 0, pl.col("status") == "failed"
    seeds = own.filter(aggregate.first_replicate() & ~pl.col("unfit") & (tested | failed))
    if seeds.filter(tested).is_empty():
        return wording.NONE
    best = seeds.sort("paper_length", "paper_accuracy", descending=True, nulls_last=True).row(0, named=True)
    at = view.random.filter((pl.col("cell") == best["cell"]) & (pl.col("length") == best["paper_length"]))
    text = statistics.paper_cell(best["max_length"], at["length"].to_list(), at["accuracy"].to_list())
    counts = [
        f"{k}/{of} [{wording.span(low, high)}]" for k, of, low, high in at.select("k", "of", "low", "high").iter_rows()
    ]
    return fragment(text, element("small", ", ".join([*counts, f"best of {wording.plural(seeds.height, 'seed')}"])))

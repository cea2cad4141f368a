"""The sections below the verdict, each a function from the view to HTML, None when it has nothing to say."""

from __future__ import annotations

from typing import Any

import polars as pl

from harness.schema import FAILURES
from reports import aggregate, figures, statistics, style, wording
from reports.legend import swatch
from reports.markup import Markup, element, folded, fragment, table
from reports.panels import figure, panels
from reports.view import Facet, View, key_lengths

_CURVE_POINTS = 60_000
"""Points of all training curves together; longer ones are thinned."""


def section(name: str, title: str, *children: object) -> Markup:
    return element("section", element("h2", title), *children, id=name)


def note(*text: object) -> Markup:
    return element("p", *text, class_="note")


def architecture(view: View, line: dict[str, Any]) -> Markup:
    """Swatch, name and, where they differ, the recipe."""
    recipe = element("small", line["recipe"]) if line.get("recipe") else None
    return element(
        "span", swatch(view.looks[line["architecture"]]), line["architecture"] or "unnamed", recipe, class_="who"
    )


# curves ------------------------------------------------------------------------------------------------------------


def curves(view: View) -> Markup:
    """Exact trajectories, then right answers, against length on random problems."""
    if view.random.is_empty():
        return section("curves", "Accuracy against length", note("No point has been evaluated yet."))
    parts: list[Markup] = []
    for measure, title in (("exact", "Whole trajectory exact"), ("answer", "Answer right")):
        drawn = _curve_panels(view, view.random, measure)
        if drawn:
            parts += [element("h3", title), panels(drawn)]
    text = (
        "One line per seed; the grey band is the training range. Markers stand slightly beside their length so that they "
        "do not hide each other; hover for counts and 95% intervals. Where only some of the diverged problems were rolled "
        "out, the share of right answers weighs those for all that diverged."
    )
    return section("curves", "Accuracy against length", note(text), *parts)


def _curve_panels(view: View, points: pl.DataFrame, measure: str, stress: str | None = None) -> list[Markup]:
    drawn = []
    for facet in view.facets:
        own = facet.of(points)
        if own[measure].count():
            title = facet.title if stress is None else f"{facet.title} · {stress}"
            drawn.append(figure(title, facet.detail, figures.curves(own, measure, view.looks)))
    return drawn


def stress(view: View) -> Markup | None:
    """The same curves on every other set of problems."""
    points = view.points.filter(pl.col("stress") != aggregate.RANDOM)
    if points.is_empty():
        return None
    drawn = [
        panel
        for (name,), own in points.sort("stress").group_by("stress", maintain_order=True)
        for panel in _curve_panels(view, own, own["measure"][0], str(name))
    ]
    text = "Problems chosen to be hard in one way, at the same lengths. No summary on this page counts them."
    return section("stress", "Stress sets", note(text), panels(drawn))


# summary -----------------------------------------------------------------------------------------------------------


def summary(view: View) -> Markup | None:
    parts = [part for facet in view.facets if (part := _summary_table(view, facet))]
    if not parts:
        return None
    text = (
        f"A seed solves a length when at least {statistics.SOLVED:.0%} of its problems are right; k of S seeds with the "
        "Clopper-Pearson interval. A failed run counts as a seed that does not; unfit and waiting ones are not counted. "
        "Fresh seed: accuracy to expect at the longest length (beta-binomial mean, 95% credible interval): wide while "
        "seeds are few. n → m (p%) is the measure of Malach et al. (arXiv 2510.14826): trained to n, accuracy p at the "
        "last length m with p ≥ 5%, of the best seed."
    )
    return section("summary", "Summary", note(text), *parts)


def _summary_table(view: View, facet: Facet) -> Markup | None:
    cells, lengths = facet.of(view.cells), view.lengths(facet)
    if cells.is_empty():
        return None
    shown = key_lengths(lengths, facet["max_length"])
    head = [
        "Architecture",
        "Reach of each seed",
        *[f"Solve {length:,}" for length in shown],
        "Fresh seed",
        "n → m (p%)",
    ]
    body = []
    groups = cells.group_by("architecture", "recipe", maintain_order=True)
    for _, own in sorted(groups, key=lambda group: (style.order(str(group[0][0])), str(group[0][1]))):
        line = own.row(0, named=True)
        solved = {one["length"]: one for one in _same_group(view.solved, line).iter_rows(named=True)}
        body.append(
            [
                architecture(view, line),
                element("span", [_reach_chip(run) for run in own.sort("seed", "replicate").to_dicts()], class_="chips"),
                *[_solved(solved.get(length)) for length in shown],
                _fresh(solved.get(shown[-1]) if shown else None),
                _paper(view, own),
            ]
        )
    return fragment(element("h3", facet.title, element("small", facet.detail)), table(head, body, "numbers"))


def _same_group(frame: pl.DataFrame, line: dict[str, Any]) -> pl.DataFrame:
    return frame.filter(*(pl.col(name) == line[name] for name in aggregate.GROUP))


def _reach_chip(run: dict[str, Any]) -> Markup:
    """Reach of one seed, or why it has none."""
    seed = f"seed {run['seed']}" + (f", replicate {run['replicate']}" if run["replicate"] else "")
    if run["unfit"]:
        return element("span", "unfit", class_="chip unfit", title=f"{seed}: does not fit its training lengths")
    if run["reach_low"] is None:
        failed = run["status"] == "failed"
        return element(
            "span", "failed" if failed else "waiting", class_="chip failed" if failed else "chip", title=seed
        )
    low, high, longest = run["reach_low"], run["reach_high"], run["longest"]
    title = f"{seed}: {'the longest tested' if high is None else f'{high:,} is the first tested length not solved'}"
    return element("span", wording.reach(low, high, longest), class_="chip", title=title)


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
    """The paper's measure for the best seed, with the count and interval it leaves out."""
    fit = own.filter(~pl.col("unfit") & (pl.col("tested") > 0))
    if fit.is_empty():
        return wording.NONE
    best = fit.sort("paper_length", "paper_accuracy", descending=True, nulls_last=True).row(0, named=True)
    trained = best["max_length"]
    seeds = f"best of {wording.plural(fit.height, 'seed')}"
    if best["paper_length"] is None:
        return fragment(f"{trained} → none", element("small", seeds))
    at = view.random.filter((pl.col("cell") == best["cell"]) & (pl.col("length") == best["paper_length"]))
    point = at.row(0, named=True)
    text = statistics.paper_cell(trained, [best["paper_length"]], [best["paper_accuracy"]])
    bounds = wording.span(point["low"], point["high"])
    return fragment(text, element("small", f"{point['k']}/{point['of']} [{bounds}], {seeds}"))


# failures ----------------------------------------------------------------------------------------------------------


def failures(view: View) -> Markup | None:
    """Why problems failed, by length, pooled over the seeds of each architecture that fit."""
    names = [f"failure_{name}" for name in FAILURES]
    fit = view.random.filter(~pl.col("unfit") & (pl.sum_horizontal(names).sum().over(*aggregate.GROUP) > 0))
    if fit.is_empty():
        return None
    pooled = fit.group_by(*aggregate.GROUP, "length").agg(pl.col("n", *names).sum())
    parts: list[Markup] = []
    for facet in view.facets:
        groups = facet.of(pooled).group_by("architecture", "recipe")
        drawn = [
            figure(str(name), str(recipe), figures.failures(own))
            for (name, recipe), own in sorted(groups, key=lambda group: (style.order(str(group[0][0])), group[0][1]))
        ]
        if drawn:
            parts += [element("h3", facet.title, element("small", facet.detail)), panels(drawn, "panels small")]
    seen = [name for name in FAILURES if pooled[f"failure_{name}"].sum()]
    keys = [
        element("span", element("i", style=f"background:{figures.FAILURE_COLOURS[name]}"), name.replace("_", " "))
        for name in seen
    ]
    text = "Share of problems by the class of their first error, seeds pooled, unfit runs left out."
    return section("failures", "How problems fail", note(text), element("p", keys, class_="legend"), *parts)


# training and cost -------------------------------------------------------------------------------------------------


def training(view: View) -> Markup | None:
    identity = view.cells.select("cell", *aggregate.GROUP, "seed", "replicate", "unfit")
    curve = view.data.curves.filter(pl.col("loss").is_finite()).join(identity, on="cell", how="inner")
    if curve.is_empty():
        return None
    each = max(50, min(400, _CURVE_POINTS // curve["cell"].n_unique()))
    thin = curve.sort("cell", "step").filter(_every(each))
    drawn = [
        figure(facet.title, facet.detail, figures.losses(own, view.looks))
        for facet in view.facets
        if not (own := facet.of(thin)).is_empty()
    ]
    return section("training", "Training loss", note("Mean cross-entropy on the model's own tokens."), panels(drawn))


def _every(most: int) -> pl.Expr:
    """Keep about `most` lines of each cell, the last one always."""
    place, count = pl.int_range(pl.len()).over("cell"), pl.len().over("cell")
    return ((place % pl.max_horizontal(count // most, 1)) == 0) | (place == count - 1)


def cost(view: View) -> Markup | None:
    parts = [part for facet in view.facets if (part := _cost_table(view, facet))]
    if not parts:
        return None
    text = (
        "Means over seeds. FLOPs of one token's forward pass and state bytes of one sequence, both after 1,000 tokens. "
        "Evaluation seconds are wall-clock, shared evenly among the problems of a batch."
    )
    return section("cost", "Cost", note(text), *parts)


_COST = ("parameters", "flops_per_token", "state_bytes", "train_steps", "train_tokens", "train_seconds", "padding", "evaluation_seconds")  # fmt: skip


def _cost_table(view: View, facet: Facet) -> Markup | None:
    cells = facet.of(view.cells).filter(pl.any_horizontal(pl.col(_COST).is_not_null()))
    if cells.is_empty():
        return None
    grouped = cells.group_by("architecture", "recipe").agg(pl.col(_COST).mean(), pl.len().alias("seeds"))
    lines = sorted(grouped.to_dicts(), key=lambda line: (style.order(line["architecture"]), line["recipe"]))
    head = [
        "Architecture",
        "Parameters",
        "FLOPs/token",
        "State",
        "Steps",
        "Train tokens",
        "Train time",
        "Padding",
        "Eval time",
    ]
    body = [
        [
            architecture(view, line),
            wording.short(line["parameters"]),
            wording.short(line["flops_per_token"]),
            wording.size(line["state_bytes"]),
            wording.whole(line["train_steps"]),
            wording.short(line["train_tokens"]),
            wording.duration(line["train_seconds"]),
            wording.percent(line["padding"], 1),
            wording.duration(line["evaluation_seconds"]),
        ]
        for line in lines
    ]
    heading = element("h3", facet.title, element("small", facet.detail))
    return fragment(heading, table(head, body, "numbers"), _cost_by_length(view, facet))


def _cost_by_length(view: View, facet: Facet) -> Markup | None:
    """Tokens of a problem, and seconds spent on one by each architecture, at every length."""
    points, lengths = facet.of(view.random), view.lengths(facet)
    if not lengths:
        return None
    shared = points.group_by("length").agg(
        pl.col("tokens", "own_tokens", "tool_calls").mean(), pl.col("longest_walk").max()
    )
    work = {line["length"]: line for line in shared.to_dicts()}
    body: list[list[object]] = [
        [title, *[wording.whole(work[length][name]) for length in lengths]]
        for name, title in (("tokens", "Tokens"), ("own_tokens", "of them the model's own"), ("tool_calls", "Tool calls"), ("longest_walk", "Longest walk"))
    ]  # fmt: skip
    spent = points.group_by("architecture", "recipe", "length").agg(pl.col("seconds").sum() / pl.col("n").sum())
    rows: dict[tuple[str, str], dict[int, float | None]] = {}
    for name, recipe, length, seconds in spent.iter_rows():
        rows.setdefault((name, recipe), {})[length] = seconds
    for name, recipe in sorted(rows, key=lambda key: (style.order(key[0]), key[1])):
        line = {"architecture": name, "recipe": recipe}
        body.append(
            [architecture(view, line), *[wording.duration(rows[name, recipe].get(length)) for length in lengths]]
        )
    head = ["A problem of length", *[f"{length:,}" for length in lengths]]
    return folded("Tokens and evaluation time of a problem, by length", table(head, body, "numbers"))


# what the results rest on ------------------------------------------------------------------------------------------


def cells(view: View) -> Markup:
    """Failed, waiting and unfit cells by name, then every cell."""
    parts: list[Markup] = []
    if view.failed.height:
        parts += [element("h3", "Failed"), *[_failure(view, cell) for cell in view.failed.to_dicts()]]
    if view.unfit.height:
        body = [[cell["name"] or cell["cell"], _validation(cell)] for cell in view.unfit.to_dicts()]
        parts += [element("h3", "Unfit"), table(["Cell", "Validation problems exact, at training lengths"], body)]
    if view.waiting.height:
        body = [[cell["name"] or cell["cell"], cell["status"] or "unknown", wording.whole(cell["tested"] or 0)] for cell in view.waiting.to_dicts()]  # fmt: skip
        parts += [element("h3", "Waiting or running"), table(["Cell", "Status", "Lengths evaluated"], body)]
    if view.cells.is_empty():
        parts.append(note("The grid has no cells."))
    else:
        parts.append(folded(f"All {wording.plural(view.cells.height, 'cell')}", _all_cells(view)))
    return section("cells", "Cells", *parts)


def _failure(view: View, cell: dict[str, Any]) -> Markup:
    attempts = view.data.attempts.filter(pl.col("cell") == cell["cell"]).sort("started").to_dicts()
    title = fragment(element("b", cell["name"] or cell["cell"]), " ", cell["reason"] or "no reason was recorded")
    tried = [
        fragment(
            element("p", f"{one['started'] or 'unknown start'} on {one['host'] or 'unknown host'}: "
                    f"{one['outcome'] or 'unknown outcome'}. {one['reason'] or ''}"),
            element("pre", one["traceback"]) if one["traceback"] else None,
        )
        for one in attempts
    ]  # fmt: skip
    return folded(title, tried or note("No attempt was recorded."))


def _validation(cell: dict[str, Any]) -> str:
    share, problems = cell["validation_exact"], cell["validation_problems"]
    if share is None:
        return wording.NONE
    if not problems:
        return wording.percent(share, 1)
    right = round(share * problems)
    low, high = statistics.interval(right, problems)
    return f"{wording.percent(share, 1)} ({right}/{problems}) [{wording.span(float(low), float(high))}]"


def _all_cells(view: View) -> Markup:
    tried = dict(view.data.attempts.group_by("cell").len().iter_rows())
    body = [
        [
            fragment(element("b", cell["name"] or "unnamed"), element("code", (cell["cell"] or "")[:16])),
            fragment(cell["status"] or "unknown", element("b", " unfit") if cell["unfit"] else None),
            _validation(cell),
            wording.NONE if cell["unfit"] else wording.reach(cell["reach_low"], cell["reach_high"], cell["longest"]),
            wording.whole(cell["problems"]),
            wording.duration(cell["train_seconds"]),
            wording.whole(tried.get(cell["cell"], 0)),
            element("code", (cell["checkpoint"] or wording.NONE)[:12]),
        ]
        for cell in view.cells.to_dicts()
    ]
    head = ["Cell", "Status", "Validation exact", "Reach", "Problems", "Training", "Attempts", "Weights"]
    return table(head, body, "numbers")


def run(view: View) -> Markup:
    """With what: settings, versions, devices, kernels, the standing check, the grid file."""
    rows, cells = view.data.rows, view.data.cells
    replayed, equal = int(view.points["replayed"].sum()), int(view.points["replayed_equal"].sum())
    tied = rows.filter(pl.col("replay_equal").is_not_null() & pl.col("near_tie"))
    check = f"{replayed:,} verified problems replayed live, {equal:,} gave the same result; {tied.height:,} of the replayed were near ties"
    facts = [
        ("Evaluated", view.data.grid.get("when")),
        ("Standing check", check if replayed else "no problem was replayed live"),
        ("Near ties", f"{int(view.points['near_ties'].sum()):,} of {int(view.points['n'].sum()):,} problems"),
        ("Versions", _distinct(cells["versions"])),
        ("Trained on", _distinct(cells["train_device"])),
        ("Training kernels", _distinct(cells["train_kernels"])),
        ("Evaluated on", _distinct(rows["device"])),
        ("Evaluation kernels", _distinct(rows["kernels"])),
        ("Precision", _distinct(rows["precision"])),
        ("Mode", _distinct(rows["mode"])),
        ("Attempts", ", ".join(f"{count} {name}" for name, count in view.data.attempts.group_by("outcome").len().sort("outcome").iter_rows())),
        *[(f"evaluate.{name}", _plain(value)) for name, value in (view.data.grid.get("evaluate") or {}).items()],
    ]  # fmt: skip
    listed = [fragment(element("dt", name), element("dd", value or wording.NONE)) for name, value in facts]
    text = view.data.grid.get("text")
    file = folded("The grid file", element("pre", text)) if text else None
    return section("run", "What was run, and with what", element("dl", listed, class_="facts"), file)


def _distinct(values: pl.Series) -> list[Markup]:
    """Every different value on a line of its own."""
    return [element("span", value) for value in values.drop_nulls().unique().sort()]


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else str(value)

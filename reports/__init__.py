"""From result rows to one HTML page: Polars aggregation, Plotly figures, honest statistics.

    data.py         what a report is made from
    statistics.py   intervals, reach, the mean over seeds
    aggregate.py    rows -> points -> cells -> groups of seeds
    view.py         the aggregated tables of one report, and its panels
    style.py        one colour, dash and marker per architecture
    figures.py      Plotly figures
    legend.py       the legend of the page
    markup.py       HTML that escapes by default
    wording.py      numbers as people read them
    parts.py        what sections are put together from
    page.py         the page, with page.html, page.css and page.js

    verdict.py, curves.py, summary.py, failures.py, divergence.py, costs.py, cells.py, provenance.py
                    the sections, in the order of the page

Imports the row schema of `harness` and nothing else of ours, never torch.
"""

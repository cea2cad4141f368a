"""From result rows to one HTML page: Polars aggregation, Plotly figures, honest statistics.

    data.py         what a report is made from
    statistics.py   intervals, reach, the mean over seeds
    aggregate.py    rows -> points -> cells -> groups of seeds
    style.py        one colour, dash and marker per architecture
    figures.py      Plotly figures
    markup.py       HTML that escapes by default
    wording.py      numbers as people read them
    verdict.py      the headline
    sections.py     the sections below it
    page.py         the page

Imports the row schema of `harness` and nothing else of ours, never torch.
"""

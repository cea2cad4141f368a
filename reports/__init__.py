"""From result rows to one HTML page: Polars aggregation, Plotly figures, honest statistics.

    data.py         what a report is made from
    statistics.py   intervals and reach of one checkpoint
    expectation.py  the accuracy to expect of a fresh seed
    significance.py exact tests, Holm's correction, what could have been found
    runs.py         the runs of a group of seeds, and two groups set against each other
    pairs.py        architectures compared, two at a time, within a panel
    compare.py      two grids compared; compare_page.py: as a page
    aggregate.py    rows -> points -> cells -> groups of seeds
    survival.py     hazards of the first error, and where it falls
    view.py         the aggregated tables of one report, and its panels
    style.py        one colour, dash and marker per architecture
    figures.py      Plotly figures
    legend.py       the legend of the page
    markup.py       HTML that escapes by default
    wording.py      numbers as people read them
    parts.py        what sections are put together from
    viewer.py       the viewer of failed rollouts, with viewer.js and viewer.css
    page.py         the page, with page.html, page.css and page.js

    chart.py        small charts of one number against another
    families.py     cells that differ in nothing but how long they were trained
    reported.py     what the paper reported, as data

The sections, in the order of the page, are named in page.py.

Imports the row schema of `harness` and nothing else of ours, never torch.
"""

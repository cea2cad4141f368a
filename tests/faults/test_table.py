"""The table of faults says what their rounds have left."""

import json
import runpy
from pathlib import Path

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
ours = runpy.run_path(str(HERE / "table.py"))


def line(fault, survived=True, lost=0, doubled=0, recovery=None):
    record = {"fault": fault, "survived": survived, "lost": lost, "doubled": doubled, "recovery": recovery}
    return json.dumps({**record, "seconds": 30.0}) + "\n"


def test_a_round_that_was_not_survived_is_counted():
    text = line("b", recovery=2.04) + line("a") + line("b", False, 3, 1, 7.5) + line("b", False, None, None)
    assert ours["table"](text).removeprefix(ours["HEAD"]) == (
        "| b | 3 | 1 | 3 | 1 | 7.5 s |\n| a | 1 | 1 | 0 | 0 | - |\n"
    )
    assert ours["minutes"](text) == 2


def test_the_page_has_the_table_of_the_rounds_that_were_run():
    text = (DOCS / "faults.jsonl").read_text()
    assert ours["table"](text) in (DOCS / "reliability.md").read_text()
    assert f"{ours['minutes'](text):.0f} minutes in all" in (DOCS / "reliability.md").read_text()

"""The table of docs/reliability.md, from the lines of JSON that the rounds of faults have left.

python tests/faults/table.py docs/faults.jsonl
"""

import json
import sys
from pathlib import Path

HEAD = "| fault | struck | survived | rows lost | rows doubled | longest recovery |\n|---|---|---|---|---|---|\n"


def table(text):
    """A line a fault, in the order of their first lines. A round that ended early has lost and doubled what it says."""
    rounds = {}
    for line in text.splitlines():
        record = json.loads(line)
        rounds.setdefault(record["fault"], []).append(record)
    return HEAD + "".join(row(fault, records) for fault, records in rounds.items())


def row(fault, records):
    lost, doubled = (sum(record[name] or 0 for record in records) for name in ("lost", "doubled"))
    waits = [record["recovery"] for record in records if record["recovery"] is not None]
    longest = f"{max(waits):.1f} s" if waits else "-"
    survived = sum(record["survived"] for record in records)
    return f"| {fault} | {len(records)} | {survived} | {lost} | {doubled} | {longest} |\n"


def minutes(text):
    """All the rounds took together."""
    return sum(json.loads(line)["seconds"] for line in text.splitlines()) / 60


if __name__ == "__main__":
    given = Path(sys.argv[1]).read_text()
    print(f"{table(given)}\n{minutes(given):.0f} minutes in all")

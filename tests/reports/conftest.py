"""Made-up report data that looks like the demo: most tool-using recurrent models extrapolate, the others do not."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.schema import ATTEMPTS, CELLS, CURVES, FAILURES, ROWS
from reports.data import Failure, ReportData, Track, frame
from reports.page import render
from tests.reports.chromium import started
from tests.reports.hostile import hostile

LENGTHS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 64)
SETTINGS = {"interactive": "pointer", "single_turn": "calculator", "direct": "none"}
# Where half of the problems are lost, per architecture and seed, in the interactive setting.
HALVES = {
    "gru": (400, 40),
    "lstm": (70, 14),
    "mamba1": (400, 400),
    "mamba2": (400, 150),
    "transformer": (5.5, 6),
    "sliding": (9, 7),
    "hybrid": (30, 11),
}
TRACEBACK = 'Traceback (most recent call last):\n  File "harness/train.py", line 88\nFloatingPointError: loss is nan'
GRID_TEXT = (
    "name: demo\naxes:\n  architecture: [gru, lstm, mamba1, mamba2, transformer, sliding, hybrid]\n  seed: [0, 1]\n"
)


@pytest.fixture(scope="session")
def demo() -> Callable[..., ReportData]:
    """The maker of the made-up data."""
    return make


@pytest.fixture(scope="session")
def page(demo: Callable[..., ReportData]) -> str:
    return render(demo(problems=24))


@pytest.fixture(scope="session")
def evil(demo: Callable[..., ReportData]) -> ReportData:
    """The made-up data with hostile text in every column."""
    return hostile(demo(problems=6))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium without a network."""
    chrome = started(tmp_path_factory.mktemp("profile"))
    yield chrome
    chrome.quit()


def make(
    seed: int = 0, problems: int = 64, lengths: tuple[int, ...] = LENGTHS, stress: tuple[str, ...] = ("carries",)
) -> ReportData:
    """Three settings, seven architectures, two seeds; one failed cell, one unfit, one waiting."""
    chance = random.Random(seed)
    cells, rows, curves, attempts = [], [], [], []
    for setting in SETTINGS:
        for architecture in HALVES:
            for run in (0, 1):
                cell = _cell(setting, architecture, run, chance)
                cells.append(cell)
                attempts.append(_attempt(cell))
                if cell["status"] == "waiting":
                    continue
                curves += _curve(cell, chance)
                if cell["status"] == "done":
                    sets = ("random", *stress) if setting == "interactive" else ("random",)
                    rows += [
                        row
                        for name in sets
                        for length in lengths
                        for row in _point(cell, length, name, problems, chance)
                    ]
    return ReportData(
        grid={
            "name": "demo",
            "title": "Addition with and without a tool",
            "description": "Seven small architectures learn to add up to four digits and are tested on up to 64.",
            "text": GRID_TEXT,
            "when": "2026-01-15T10:42:07Z",
            "evaluate": {"lengths": list(lengths), "problems": problems, "stress": list(stress), "rollout_max": 16},
        },
        cells=frame(CELLS, cells),
        rows=frame(ROWS, rows),
        curves=frame(CURVES, curves),
        attempts=frame(ATTEMPTS, attempts),
        failures=_failures(cells, rows),
    )


def _cell(setting: str, architecture: str, seed: int, chance: random.Random) -> dict[str, Any]:
    here = (setting, architecture, seed)
    status = {("direct", "hybrid", 1): "failed", ("direct", "sliding", 1): "waiting"}.get(here, "done")  # type: ignore[arg-type]
    exact = 0.859375 if here == ("single_turn", "lstm", 1) else 1.0 if seed == 0 else 0.984375
    cell: dict[str, Any] = {
        "cell": f"{setting}-{architecture}-{seed}",
        "name": f"addition {setting} {architecture} seed {seed}",
        "task": "addition",
        "form": "faithful",
        "setting": setting,
        "tool": SETTINGS[setting],
        "architecture": architecture,
        "size": "tiny",
        "seed": seed,
        "replicate": 0,
        "max_length": 4,
        "config": json.dumps({"task": "addition", "seed": seed, "train": {"steps": 600, "batch": 128}}),
        "status": status,
    }
    if status == "waiting":
        return cell
    parameters = chance.randrange(180_000, 420_000)
    cell |= {
        "parameters": parameters,
        "flops_per_token": 2.1 * parameters,
        "state_bytes": 4 * 192 if architecture in ("gru", "lstm") else 4 * chance.randrange(4_000, 300_000),
        "train_steps": 600,
        "train_tokens": 5_400_000 if setting == "interactive" else 900_000,
        "train_seconds": chance.uniform(25, 90),
        "padding": chance.uniform(0.01, 0.06),
        "train_device": "AMD EPYC 7R13",
        "train_kernels": "scan=reference attention=sdpa",
        "versions": "lengthwise=0.1.0 torch=2.13.0 python=3.11.2 git=1a2b3c4",
    }
    if status == "failed":
        return cell | {"reason": "FloatingPointError: loss is nan at step 212"}
    return cell | {
        "checkpoint": f"{chance.getrandbits(128):032x}",
        "validation_exact": exact,
        "validation_problems": 128,
        "fit": exact >= 0.95,
    }


def _attempt(cell: dict[str, Any]) -> dict[str, Any]:
    failed = cell["status"] == "failed"
    return {
        "attempt": f"{cell['cell']}-1",
        "cell": cell["cell"],
        "started": "2026-01-15T10:31:00Z",
        "ended": None if cell["status"] == "waiting" else "2026-01-15T10:33:00Z",
        "outcome": {"failed": "failed", "waiting": "lost"}.get(cell["status"], "done"),
        "reason": cell.get("reason"),
        "traceback": TRACEBACK if failed else None,
        "host": "node-1",
        "device": "cpu",
    }


def _curve(cell: dict[str, Any], chance: random.Random) -> Iterator[dict[str, Any]]:
    last = 212 if cell["status"] == "failed" else 600
    speed = chance.uniform(0.8, 1.6)
    for step in range(1, last + 1, 3):
        loss = 2.4 * math.exp(-speed * step / 60) + 3e-4 * (1 + chance.random()) * speed
        yield {
            "cell": cell["cell"],
            "step": step,
            "tokens": step * 9000,
            "loss": loss * math.exp(chance.gauss(0, 0.15)),
        }


def _accuracy(cell: dict[str, Any], length: int, stress: str) -> float:
    if cell["setting"] == "interactive":
        half = HALVES[cell["architecture"]][cell["seed"]] * (0.6 if stress != "random" else 1.0)
    else:
        half = 7 + 0.5 * cell["seed"]
    if not cell["fit"]:
        half = 3.0
    return 1 / (1 + (length / half) ** 7)


def _point(
    cell: dict[str, Any], length: int, stress: str, problems: int, chance: random.Random
) -> Iterator[dict[str, Any]]:
    accuracy, rolled = _accuracy(cell, length, stress), 0
    for index in range(problems):
        exact = chance.random() < accuracy
        row = _row(cell, length, stress, index, chance) | {"exact": exact, "answer_right": True if exact else None}
        row["token_accuracy"] = 1.0 if exact else chance.uniform(0.7, 0.999)
        row["replay_equal"] = True if chance.random() < 0.02 else None
        if not exact:
            row |= _failure(length, row["tokens"], chance)
            if rolled < 16:
                rolled += 1
                right = chance.random() < 0.25
                row |= {
                    "answer_right": right,
                    "ending": "finished" if right else chance.choice(["finished", "loop", "past_budget"]),
                }
                row |= {"rollout_tokens": 35 * length, "output": " ".join(chance.choices("0123456789", k=length))}
        yield row


def _row(cell: dict[str, Any], length: int, stress: str, index: int, chance: random.Random) -> dict[str, Any]:
    operands = ["".join(chance.choices("123456789", k=length)) for _ in range(2)]
    tokens = 35 * length + 48 if cell["setting"] == "interactive" else 3 * length + 4
    return {
        "cell": cell["cell"],
        "checkpoint": cell["checkpoint"],
        "evaluation": "e1",
        "length": length,
        "stress": stress,
        "index": index,
        "question": " ".join(["<^>", *operands[0], "<+>", *operands[1], "<=>"]),
        "mode": "verify",
        "margin": chance.uniform(0.01, 8),
        "near_tie": chance.random() < 0.001,
        "tokens": tokens,
        "own_tokens": tokens // 2,
        "steps": length + 5,
        "tool_calls": tokens // 3 if cell["setting"] == "interactive" else 0,
        "longest_walk": length if cell["setting"] == "interactive" else 0,
        "seconds": 0.0004 * tokens,
        "state_bytes": cell["state_bytes"],
        "device": "AMD EPYC 7R13",
        "kernels": "scan=reference attention=sdpa",
        "precision": "float32",
    }


def _failure(length: int, tokens: int, chance: random.Random) -> dict[str, Any]:
    return {
        "failure": chance.choices(FAILURES, weights=[8, 5, 3, 1, 1, 2])[0],
        "divergence": min(tokens - 1, 12 * length + chance.randrange(20)),
        "divergence_step": length + chance.randrange(5),
        "divergence_phase": chance.choice(["walk to =", "add", "copy sum"]),
        "divergence_role": chance.choice(["command", "thought", "output"]),
        "expected": chance.choice(["L1", "R2", "7", "c0"]),
        "got": chance.choice(["r1", "[ANS]", "3", "c1"]),
        "context": "r1 <5> r2 <+> L1 6 c0 r1 <^> r2 <+> [ANS] r2 <+> R2 r2 <7> R2 r2 <=> R2 r2 <5> R2 r2",
    }


def _failures(cells: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[Failure]:
    """The first failed problem of every fit cell's kind, as if it had been replayed."""
    fit = {cell["cell"]: (cell["setting"], cell["architecture"]) for cell in cells if cell.get("fit")}
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (row["length"], row["index"], row["cell"])):
        if row["exact"] is False and row["stress"] == "random" and row["cell"] in fit:
            first.setdefault(fit[row["cell"]], frame(ROWS, [row]).row(0, named=True))
    return [_replayed(row) for row in list(first.values())[:12]]


def _replayed(row: dict[str, Any]) -> Failure:
    start = max(0, row["divergence"] - 24)
    before = row["context"].split()[-(row["divergence"] - start) :] if row["divergence"] else []
    tracks = [_track([*before, row[side], *after]) for side, after in (("expected", ["5", "c0", "L1"]), ("got", ["7"]))]
    at = len(before)
    return Failure(row, row["divergence"] - at, [(0, 1, "walk"), (at, 2, "add")], *tracks, known="part")


def _track(tokens: list[str]) -> Track:
    """Every digit is a thought, every r1 moves the first pointer."""
    roles = ["thought" if token.isdigit() else "command" for token in tokens]
    track = Track(tokens, roles, ["^", "5", "+", "7", "="], {"1": 0, "2": 3})
    for offset, token in enumerate(tokens[1:], start=1):
        if token.isdigit():
            track.edits.append((offset, 5 + len(track.edits), 0, [token]))
        elif token == "r1":
            track.moves.append((offset, {"1": len(track.moves) % 5}))
    return track

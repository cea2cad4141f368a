"""Verifying a longer problem takes no more memory: the process does not grow, but for the tool's own memory."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, sys
import torch
from harness.verify import verify
from models.build import build
from tasks.problems import problems
from tasks.scenario import Scenario

name, short, long = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
scenario = Scenario(name, "interactive")
model = build("gru", "tiny", len(scenario.vocabulary), {"d_model": 16, "layers": 1}).eval()
drawn = {length: problems(scenario.task, "evaluation", length, 4) for length in (short, long)}
tokens, peaks = [], []
for length in (short, short, long):
    tokens.append(sum(one.tokens for one in verify(model, scenario, drawn[length], chunk=256)))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
print(tokens[1], tokens[2], peaks[2] - peaks[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "short", "long"),
    [("addition", 100, 1000), ("hanoi", 6, 9), ("retrieval", 30, 300), ("palindrome", 50, 200)],
)
def test_memory_does_not_grow_with_the_length(name, short, long):
    """Trajectories five to fifteen times as long, whose tokens and logits would take 20 MB and more."""
    command = [sys.executable, "-c", PROGRAM, name, str(short), str(long)]
    said = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True).stdout
    few, many, growth = map(int, said.split())
    print(f"{name}: {few:,} tokens, then {many:,}: {growth / 2**20:.1f} MB more")
    assert many > 4 * few
    assert growth < 6 * 2**20

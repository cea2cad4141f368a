"""`lengthwise bench shell`: what a command takes in the virtual shell, and in bubblewrap."""

from __future__ import annotations

import random
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

from harness.bench.timing import machine, table
from tasks.code_fix import written
from tasks.scenario import Scenario
from tools.sandbox import Bubblewrap
from tools.text import read
from tools.virtual_shell import VirtualShell

COMMAND = re.compile(r"```bash\n(.*?)\n```\n", re.DOTALL)


def bench_shell(lengths: Sequence[int], problems: int) -> dict[str, Any]:
    """Median seconds of the commands of the interactive agent, each given to both in turn, by length and kind."""
    import torch

    scenario, rng = Scenario("code_fix", "interactive"), random.Random(0)
    virtual, box = VirtualShell(), Bubblewrap()
    box.run({}, "true")  # the self-test
    results: dict[str, Any] = {}
    lines = []
    for length in lengths:
        seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for problem in (scenario.task.sample(rng, length) for _ in range(problems)):
            files = {name: text.encode() for name, text in written(read(problem.prompt)).items()}
            for command in COMMAND.findall(read(scenario.record(problem).tokens)):
                times = [time.perf_counter()]
                left = virtual.run(files, command).files
                times.append(time.perf_counter())
                box.run(files, command)
                times.append(time.perf_counter())
                seconds[command.split()[0]].append((times[1] - times[0], times[2] - times[1]))
                files = dict(left)
        for kind, pairs in seconds.items():
            ours, theirs = (median(times) for times in zip(*pairs))
            results[f"{kind} at {length}"] = {"commands": len(pairs), "virtual": ours, "bubblewrap": theirs}
            lines.append([f"{kind} at {length}", len(pairs), ours * 1e6, theirs * 1e3, theirs / ours])
    table(["", "commands", "virtual us", "bubblewrap ms", "times"], lines)
    return {"bench": "shell", "machine": machine(torch.device("cpu")), "results": results}

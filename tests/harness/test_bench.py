"""The benchmarks run at tiny sizes on a CPU, and the last line they print is JSON. What they measure is not tested."""

import json
import subprocess
import sys

import pytest
import torch

from harness.bench.rollout import _chosen, bench_continuation
from harness.bench.rows import bench_rows
from harness.bench.timing import least_traffic, peak_memory, timed
from harness.cli import app
from harness.store import Store
from models.build import build
from tasks.scenario import Scenario

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr("harness.bench.forward.default_device", lambda: CPU)
    monkeypatch.setattr("harness.bench.verify.default_device", lambda: CPU)
    monkeypatch.setattr("harness.bench.verify.STEPS", 5)


def printed(capsys, *arguments):
    app(["bench", *arguments], standalone_mode=False)
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_forward(capsys):
    result = printed(
        capsys, "forward", "--architectures=gru,mamba2", "--size=tiny", "--shapes=2x40", "--precision=float32"
    )
    assert [line["architecture"] for line in result["results"]] == ["gru", "mamba2"]
    assert all(line["tokens_per_second"] > 0 and line["tflops"] > 0 for line in result["results"])
    assert result["peaks"]["flops"] > 0


def test_verify(capsys):
    result = printed(
        capsys,
        *("verify", "--architecture=gru", "--size=tiny", "--digits=5", "--problems=2", "--long=6,12", "--plant=0.5"),
        *("--workers=1", "--repeats=1", "--precision=float32"),
    )
    assert result["verification"]["rows"] == 2
    assert [line["digits"] for line in result["long"]] == [6, 12]
    assert result["planted"]["digits"] == 12
    assert set(result["decoding"]) == {"ours, eager"}


def test_rows_compare_verification_with_live_decoding():
    scenario = Scenario("addition", "interactive")
    model = build("gru", "tiny", len(scenario.vocabulary), seed=0).eval()
    result = bench_rows(model, scenario, 2, 4, "float32")
    assert result["diverged"] == 4
    assert result["equal"] == result["compared"] == 4 - result["near_ties"]


def test_timing():
    calls = []
    timing = timed(lambda: calls.append(1), CPU, repeats=3, warm_ups=2)
    assert len(calls) == 5
    assert len(timing.runs) == 3
    assert timing.seconds == sorted(timing.runs)[1]
    assert peak_memory(lambda: None, CPU) == (None, None)
    assert least_traffic(torch.nn.Linear(3, 5), 2) == 16


def test_shell(capsys):
    from harness.bench.shell import bench_shell
    from tools.sandbox import SandboxUnavailable

    try:
        result = bench_shell([2], 1)
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    assert {kind.split()[0] for kind in result["results"]} == {"python", "sed"}
    assert all(one["bubblewrap"] > 0 and one["virtual"] > 0 for one in result["results"].values())
    assert "virtual us" in capsys.readouterr().out


def test_a_worker_on_the_cpu_is_ready_for_a_nap_without_pytorch(tmp_path):
    store = Store(str(tmp_path)).open(create=True)
    code = f"""
import sys
from harness.bench.nap import Nap
from harness.worker import Worker
worker = Worker({store.url!r}, 0.0, 1, Nap(0.0))
worker.ready()
print(worker.device, "torch" in sys.modules)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.startswith("cpu ")
    assert told.endswith(" False\n")


@pytest.mark.ray
@pytest.mark.slow
def test_overhead_carries_the_grid_and_a_sample_with_ray_tune(capsys):
    result = printed(capsys, "overhead", "--cells=6", "--seconds=0.05", "--workers=1", "--sample=2")
    assert result["whole"]["cells"] == 6
    assert result["whole"]["mlflow_complete"]
    assert result["sample"]["ideal"] == pytest.approx(0.1)
    assert result["times"] == pytest.approx(result["tune"] / result["sample"]["seconds"])


@pytest.mark.slow
def test_a_grid_of_many_cells_is_planned_and_looked_at(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.bench.grid.stands", lambda *_: True)  # tests run with uncommitted changes, too
    result = printed(capsys, "grid", "--cells=40", "--points=1", f"--folder={tmp_path}")
    assert {name for name, of in result.items() if isinstance(of, dict)} == {
        *("run", "plan", "status", "plan, nothing done")
    }
    assert all(of["cpu_seconds"] > 0 for of in result.values() if isinstance(of, dict))
    assert len(list((tmp_path / "store" / "cells").iterdir())) == 40


def test_continuation_is_compared_with_live_rollouts():
    scenario = Scenario("addition", "interactive")
    model = build("gru", "tiny", len(scenario.vocabulary), seed=0).eval()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    # Of an untrained model everything diverges: fewer cannot be had.
    [found] = bench_continuation(model, scenario, 2, 8, "float32", ((0.0, 0.5), (0.9, 1.0)))
    assert (found["diverged"], found["noise"], found["auto"]) == (8, 0.0, "verify")
    assert 0 < found["compared"] == found["equal"]
    assert set(found["seconds"]) == {"verification", "continued", "live", "auto", "diverged live"}
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_problems_are_chosen_for_a_share_of_divergence():
    exact = [False, False, True, False, False, True, True, True]
    assert _chosen(exact, 4, 0.5, 1.0) == [0, 1, 2, 3]  # three of the first four diverge
    assert _chosen(exact, 4, 0.2, 0.3) == [0, 2, 5, 6]
    assert _chosen(exact, 4, 0.9, 1.0) == [0, 1, 3, 4]
    assert _chosen([False] * 8, 4, 0.0, 0.5) is None
    assert _chosen([True] * 8, 4, 0.5, 1.0) is None

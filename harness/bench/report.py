"""`lengthwise bench report`: seconds, memory and size of a report over simulated results, and how fast it opens."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from harness.bench.simulate import TEXT, simulate
from harness.grid import load
from harness.store import Store

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1280,900")


def bench_report(sets: list[str], repeats: int, keep: Path | None) -> dict[str, Any]:
    """Write the report of a simulated store in processes of its own, then open it; times are medians."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "simulated.yaml").write_text(TEXT)
        grid = load(str(place / "simulated.yaml"), sets)
        began = time.perf_counter()
        simulate(grid, Store(str(place / "store")).open(create=True))
        rows = sum(len(grid.evaluate(cell).lengths) * grid.evaluate(cell).problems for cell in grid.cells)
        print(f"{len(grid.cells)} cells, {rows:,} rows: simulated in {time.perf_counter() - began:.1f} s", flush=True)
        page = place / "report.html"
        command = [sys.executable, "-m", "harness", "report", str(place / "simulated.yaml")]
        command += ["--store", str(place / "store"), "--out", str(page), *[f"--set={item}" for item in sets]]
        runs = [_run(command) for _ in range(repeats)]
        result: dict[str, Any] = {
            "bench": "report",
            "machine": {"cores": os.cpu_count(), **{name: metadata.version(name) for name in ("polars", "plotly")}},
            "python": platform.python_version(),
            "cells": len(grid.cells),
            "points": sum(len(grid.evaluate(cell).lengths) for cell in grid.cells),
            "rows": rows,
            "seconds": statistics.median(run.seconds for run in runs),
            "cpu_seconds": statistics.median(run.cpu_seconds for run in runs),
            "peak_bytes": max(run.peak_bytes for run in runs),
            "page_bytes": page.stat().st_size,
            "opened": opened(page, repeats),
        }
        if keep is not None:
            shutil.copy(page, keep)
    took = f"{result['seconds']:.1f} s ({result['cpu_seconds']:.1f} s of CPU)"
    print(f"written in {took}, {result['peak_bytes'] / 1e9:.2f} GB resident at most")
    print(f"page of {result['page_bytes'] / 1e6:.2f} MB; opened: {result['opened'] or 'no Chromium, or no selenium'}")
    return result


class Run(NamedTuple):
    """What a process took, interpreter and imports included."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    """Resident at most."""


def _run(command: list[str]) -> Run:
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Run(time.perf_counter() - began, usage.ru_utime + usage.ru_stime, peak)


def opened(page: Path, repeats: int) -> dict[str, float] | None:
    """Seconds until the figures in the window are drawn, and until all are; None without a browser to open it in."""
    browser = chromium()
    if browser is None:
        return None
    try:
        times = [_opened(browser, page) for _ in range(repeats)]
    finally:
        browser.quit()
    return {name: statistics.median(each[name] for each in times) for name in times[0]}


def chromium() -> Any:
    """A browser without a window; None where there is none, or nothing to drive it."""
    found, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    try:
        from selenium import webdriver
    except ImportError:
        return None
    if not (found and driver):
        return None
    options = webdriver.ChromeOptions()
    options.binary_location = found
    for flag in FLAGS:
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def _opened(browser: Any, page: Path) -> dict[str, float]:
    browser.get("about:blank")
    browser.get(page.as_uri())
    while not browser.execute_script("return document.documentElement.dataset.drawn"):
        time.sleep(0.1)
    marks = "return performance.getEntriesByName(arguments[0])[0].startTime / 1000"
    return {
        "in_view": browser.execute_script(marks, "lengthwise:in-view"),
        "all": browser.execute_script(marks, "lengthwise:all"),
    }

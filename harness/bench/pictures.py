"""The pictures of a report that the documentation shows: `python -m harness.bench.pictures PAGE FOLDER`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from harness.bench.report import chromium
from harness.errors import UserError

PICTURES = {"report": "", "report-heat": "heat", "report-hazard": "hazards"}
"""File name -> section at the top of the window; none: the top of the page."""
WIDTH, HEIGHT = 1280, 800


def take(page: Path, folder: Path) -> list[Path]:
    """Photograph a page in the light theme, every figure drawn. Raises UserError without a browser to open it in."""
    browser = chromium()
    if browser is None:
        raise UserError("pictures: no Chromium with its driver, or no selenium")
    made = []
    try:
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(page.absolute().as_uri())
        for name, section in PICTURES.items():
            browser.execute_script(
                "document.getElementById(arguments[0])?.scrollIntoView({behavior: 'instant'})", section
            )
            time.sleep(0.5)
            while not browser.execute_script("return document.documentElement.dataset.drawn"):
                time.sleep(0.1)
            made.append(folder / f"{name}.png")
            browser.save_screenshot(str(made[-1]))
    finally:
        browser.quit()
    return made


if __name__ == "__main__":
    for picture in take(Path(sys.argv[1]), Path(sys.argv[2])):
        print(picture)

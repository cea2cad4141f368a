"""The browser that the tests open pages in."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def started(profile: Path) -> Any:
    """Chromium without a network, its log kept; skips the test where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium") or shutil.which("chrome"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chrome.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    chrome.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    return chrome


def drawn(browser: Any) -> None:
    """Wait until every figure that can be seen is drawn with the present filters."""
    deadline = time.monotonic() + 300
    while not browser.execute_script("return document.documentElement.dataset.drawn"):
        assert time.monotonic() < deadline, "the figures are not drawn"
        time.sleep(0.05)


def complaints(browser: Any) -> list[dict[str, Any]]:
    """What the console has said since it was last asked, and was no mere note."""
    return [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def clicked(browser: Any, element: Any) -> None:
    """Click an element once it rests in view: figures above it that are drawn again move it meanwhile."""
    place = "arguments[0].scrollIntoView({block: 'center'}); const at = arguments[0].getBoundingClientRect();"
    place += " return [at.x, at.y, window.scrollY]"
    deadline, before = time.monotonic() + 30, None
    while (now := browser.execute_script(place, element)) != before:
        assert time.monotonic() < deadline, "it never rests"
        before = now
        time.sleep(0.2)
    element.click()

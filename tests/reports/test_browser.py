"""The page in a real browser, without a network."""

from __future__ import annotations

import json
import shutil
import time

import pytest

pytestmark = pytest.mark.browser

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium") or shutil.which("chrome"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chrome.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    chrome.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    yield chrome
    chrome.quit()


@pytest.fixture(scope="module")
def opened(browser, page, tmp_path_factory):
    """The browser with the page loaded and every figure drawn."""
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(page, encoding="utf-8")
    browser.set_window_size(1400, 900)
    browser.get(file.as_uri())
    deadline = time.monotonic() + 60
    while not browser.execute_script("return document.documentElement.dataset.drawn"):
        assert time.monotonic() < deadline, "the figures are not drawn"
        time.sleep(0.1)
    return browser


def test_every_figure_is_drawn(opened, page):
    expected = page.count('<script type="application/json">')
    drawn = opened.execute_script(
        "return [...document.querySelectorAll('.js-plotly-plot')].map(plot => ["
        "plot.querySelectorAll('svg.main-svg').length,"
        "plot.querySelectorAll('.scatterlayer .trace, .barlayer .trace').length, plot.data.length])"
    )
    assert len(drawn) == expected > 20
    for svgs, traces, wanted in drawn:
        assert svgs
        assert traces == wanted > 0


def test_nothing_is_requested_and_nothing_complains(opened):
    assert [entry for entry in opened.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    requests = [entry["params"] for entry in messages if entry["method"] == "Network.requestWillBeSent"]
    sent = [request["request"]["url"] for request in requests if request["documentURL"].startswith("file:")]
    assert sent
    assert [url for url in sent if not url.startswith(("file:", "data:", "blob:"))] == []


def test_no_button_uploads_anything(opened):
    titles = opened.execute_script("return [...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)")
    assert set(titles) == {"Download plot as a PNG", "Zoom", "Pan", "Reset axes"}
    assert opened.execute_script("return document.querySelectorAll('.modebar a[href]').length") == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 800, 400])
def test_it_fits_the_window_and_its_lines_can_be_seen(opened, width, theme, tmp_path):
    features = [{"name": "prefers-color-scheme", "value": theme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    time.sleep(0.5)
    opened.save_screenshot(str(tmp_path / f"{width}-{theme}.png"))
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    wide = "return [...document.querySelectorAll('.plot svg.main-svg')].filter(s => s.clientWidth > %d).length"
    assert opened.execute_script(wide % width) == 0
    # The black of the palette follows the theme: a style rule looks for the colour Plotly writes.
    stroke = opened.execute_script(
        "const plot = [...document.querySelectorAll('.plot')].find(p => p.data.some(t => t.meta === 'hybrid'));"
        "const at = plot.data.findIndex(t => t.meta === 'hybrid');"
        "const line = [...plot.querySelectorAll('.scatterlayer .trace')][at].querySelector('.js-line, .point');"
        "return getComputedStyle(line).stroke"
    )
    assert stroke == ("rgb(26, 26, 26)" if theme == "light" else "rgb(236, 238, 241)")


def test_the_legend_hides_an_architecture_everywhere(opened):
    hidden = "return [...document.querySelectorAll('.plot')].flatMap(p => p.data).filter(t => t.visible === false)"
    click = "document.querySelector('button[data-architecture=gru]').click();"
    opened.execute_script(click)
    assert {trace["meta"] for trace in opened.execute_script(hidden)} == {"gru"}
    opened.execute_script(click)
    assert opened.execute_script(hidden) == []

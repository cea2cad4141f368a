"""The page in a real browser, without a network."""

from __future__ import annotations

import json
import struct
import time

import pytest

from reports.page import render
from tests.reports.chromium import clicked, complaints, drawn
from tests.reports.test_pairs import study

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def opened(browser, page, tmp_path_factory):
    """The browser with the page loaded and every figure drawn."""
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(page, encoding="utf-8")
    browser.set_window_size(1400, 900)
    browser.get(file.as_uri())
    drawn(browser)
    return browser


def test_every_figure_is_drawn(opened, page):
    expected = page.count('<script type="application/gzip">')
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
    assert complaints(opened) == []
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
        "const own = trace => trace.meta?.architecture === 'hybrid';"
        "const plot = [...document.querySelectorAll('.plot')].find(p => p.data.some(own));"
        "const at = plot.data.findIndex(own);"
        "const line = [...plot.querySelectorAll('.scatterlayer .trace')][at].querySelector('.js-line, .point');"
        "return getComputedStyle(line).stroke"
    )
    assert stroke == ("rgb(26, 26, 26)" if theme == "light" else "rgb(236, 238, 241)")


HIDDEN = (
    "return [...document.querySelectorAll('.plot')].flatMap(p => p.data)"
    ".filter(t => t.visible === false).map(t => t.meta)"
)
SEEN = "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).length"


def click(browser, selector):
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)
    drawn(browser)


def test_filters_act_on_every_figure_and_table_and_stand_in_the_address(opened):
    rows = "tr[data-architecture=gru], article[data-architecture=gru]"
    panels = "figure[data-setting=direct]"
    everything = [opened.execute_script(SEEN, one) for one in (rows, panels)]
    assert all(everything)
    click(opened, "button[data-filter=architecture][value=gru]")
    assert {meta["architecture"] for meta in opened.execute_script(HIDDEN)} == {"gru"}
    assert opened.execute_script(SEEN, rows) == 0
    click(opened, "input[data-filter=setting][value=direct]")
    assert opened.execute_script(SEEN, panels) == 0
    click(opened, "input[data-filter=seed][value='1']")
    gone = opened.execute_script(HIDDEN)
    assert all(meta["architecture"] == "gru" or meta["seed"] == "1" or meta["setting"] == "direct" for meta in gone)
    assert {meta["seed"] for meta in gone if meta["architecture"] == "lstm"} >= {"1"}
    assert opened.execute_script("return location.hash") == "#hide-setting=direct&hide-architecture=gru&hide-seed=1"
    assert "gru" in opened.execute_script("return document.getElementById('shown').textContent")
    opened.refresh()
    drawn(opened)
    assert opened.execute_script(SEEN, rows) == opened.execute_script(SEEN, panels) == 0
    opened.execute_script("location.hash = '#cells'")
    drawn(opened)
    assert opened.execute_script(SEEN, rows) == 0, "a link within the page forgets the filters"
    click(opened, "#everything")
    assert opened.execute_script(HIDDEN) == []
    assert [opened.execute_script(SEEN, one) for one in (rows, panels)] == everything


def test_the_theme_can_be_switched(opened):
    paper = "return getComputedStyle(document.body).backgroundColor"
    seen = {}
    for theme in ("dark", "light"):
        opened.execute_script("document.querySelector(`[name=theme][value=${arguments[0]}]`).click()", theme)
        assert f"theme={theme}" in opened.execute_script("return location.hash")
        seen[theme] = opened.execute_script(paper)
    assert seen == {"dark": "rgb(20, 23, 28)", "light": "rgb(255, 255, 255)"}


def test_the_keyboard_reaches_the_filters_and_focus_is_seen(opened):
    from selenium.webdriver.common.keys import Keys

    opened.execute_script("history.replaceState(null, '', location.pathname)")
    opened.refresh()
    drawn(opened)
    told = []
    for _ in range(6):
        opened.switch_to.active_element.send_keys(Keys.TAB)
        told.append(
            opened.execute_script(
                "const e = document.activeElement; return [e.textContent.trim(), getComputedStyle(e).outlineStyle]"
            )
        )
    assert told[0][0] == "Skip to the results"
    assert [text.split()[0] for text, _ in told[1:4]] == ["Contents", "Settings", "Seeds"]
    assert told[4][0] == "mamba1"
    assert {outline for _, outline in told} == {"solid"}


def test_a_figure_has_its_numbers_as_a_table(opened):
    opened.execute_script("document.querySelector('#curves .numbers-of').open = true")
    deadline = time.monotonic() + 10
    read = "return [...document.querySelectorAll('#curves .numbers-of[open] td')].map(cell => cell.textContent)"
    while not (cells := opened.execute_script(read)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "mamba1 · seed 0" in cells
    assert any(cell.startswith("length 64, 24 problems, exact 24/24 = 100.0% [") for cell in cells)


def test_it_prints_every_figure_and_no_control(opened):
    opened.execute_script("dispatchEvent(new Event('beforeprint'))")
    widths = opened.execute_script("return [...document.querySelectorAll('#curves .plot')].map(p => p.layout.width)")
    assert set(widths) == {330}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert opened.execute_script(SEEN, ".menu, .skip, .modebar") == 0
    assert opened.execute_script(SEEN, ".bar button") == 7, "the legend stays"
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    opened.execute_script("dispatchEvent(new Event('afterprint'))")


def test_the_viewer_steps_and_jumps(opened, demo):
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    failures = demo(problems=24).failures
    viewer = opened.find_element("id", "viewer")
    pick = Select(viewer.find_element("css selector", "select"))
    place = lambda: int(viewer.get_attribute("data-place"))  # noqa: E731
    here = lambda: [cell.text for cell in viewer.find_elements("css selector", "td.here")]  # noqa: E731
    cells = lambda side: [  # noqa: E731
        cell.text for cell in viewer.find_elements("css selector", f"[data-part={side}] span")
    ]
    assert len(pick.options) == len(failures)
    for index in (1, 0):
        pick.select_by_index(index)
        first = failures[index]
        at = first.row["divergence"] - first.start
        assert place() == at
        assert here() == [first.row["expected"], first.row["got"]]
        assert "first wrong token" in viewer.find_element("css selector", ".status").text
        shown = opened.find_elements("css selector", "article[data-failure]:not([hidden])")
        assert [card.get_attribute("data-failure") for card in shown] == [str(index)]
    strip = viewer.find_element("css selector", ".strip")
    for keys, expected in (
        (Keys.ARROW_RIGHT, at + 1),
        (Keys.ARROW_LEFT * 3, at - 2),
        (Keys.HOME, 0),
        (Keys.END, at + 3),
        ("d", at),
        (Keys.HOME + Keys.ARROW_LEFT, 0),
    ):
        strip.send_keys(keys)
        assert place() == expected, keys
    assert cells("oracle") == ["^1", "5", "+", "72", "="]
    strip.send_keys(Keys.END)
    assert here() == [first.oracle.tokens[-1], ""]
    thoughts = [token for token in first.oracle.tokens[1:] if token.isdigit()]
    assert [cell.rstrip("¹²") for cell in cells("oracle")][5:] == thoughts
    assert "only its first tokens are kept" in viewer.text
    clicked(opened, viewer.find_element("css selector", "[data-go=back]"))
    assert place() == at + 2
    clicked(opened, viewer.find_element("css selector", f"th[data-offset='{at}']"))
    assert place() == at
    viewer.find_element("css selector", "input[type=range]").send_keys(Keys.ARROW_RIGHT)
    assert place() == at + 1
    assert complaints(opened) == []


def test_the_tables_are_saved_as_plain_csv(opened, tmp_path):
    opened.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    opened.execute_script("document.querySelector(\"a[download='points.csv.gz']\").click()")
    deadline = time.monotonic() + 30
    while not (saved := list(tmp_path.glob("*.csv"))):
        assert time.monotonic() < deadline, "nothing was saved"
        time.sleep(0.1)
    assert saved[0].name == "points.csv"
    assert saved[0].read_text().startswith("cell,")


def test_a_comparison_goes_with_either_of_its_architectures(browser, tmp_path):
    view = study({"gru": [0, 4, 8, 4, 8], "lstm": [4, 8, 4, 8, 8], "mamba1": [16] * 5})
    (tmp_path / "report.html").write_text(render(view.data), encoding="utf-8")
    browser.get((tmp_path / "report.html").as_uri())
    shown = "return [...document.querySelectorAll('#comparisons tbody tr')].filter(r => r.checkVisibility()).length"
    assert browser.execute_script(shown) == 3
    for hidden, left in (("gru", 1), ("mamba1", 0)):
        browser.execute_script("document.querySelector(`button[value=${arguments[0]}]`).click()", hidden)
        assert browser.execute_script(shown) == left


def test_the_pictures_of_the_documentation_are_taken_of_a_page(browser, tmp_path):
    from harness.bench.pictures import take

    view = study({"gru": [4, 8, 16], "lstm": [4, 8, 8]})
    (tmp_path / "report.html").write_text(render(view.data), encoding="utf-8")
    made = [picture.read_bytes() for picture in take(tmp_path / "report.html", tmp_path)]
    assert [struct.unpack(">II", picture[16:24]) for picture in made] == [(1280, 800)] * 3
    assert made[0] != made[1], "the heat map is another place of the page"

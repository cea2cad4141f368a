"""Hostile text in a real browser: nothing of it runs, whatever a reader does."""

from __future__ import annotations

import re
import time

import pytest

from harness.schema import FAILURES
from reports import compare_page
from reports.compare import compare
from reports.page import render
from tests.reports.chromium import complaints, drawn
from tests.reports.hostile import EVIL

pytestmark = pytest.mark.browser

PWNED = "return window.pwned"
POLICY = re.compile('<meta http-equiv="Content-Security-Policy"[^>]*>')


def show(browser, page, folder):
    """Open a page without its policy, which would forbid the payloads to run, were there any."""
    bare, policies = POLICY.subn("", page)
    assert policies == 1
    file = folder / "page.html"
    file.write_text(bare, encoding="utf-8")
    browser.get(file.as_uri())
    drawn(browser)
    assert browser.execute_script("return document.body.textContent").count("window.pwned=1") > 20


def point_at_everything(browser):
    """Open what is folded, and point at a point of every trace."""
    browser.execute_script("for (const fold of document.querySelectorAll('details')) fold.open = true")
    unwritten = "return [...document.querySelectorAll('.numbers-of > div')].some(numbers => !numbers.firstChild)"
    deadline = time.monotonic() + 60
    while browser.execute_script(unwritten):
        assert time.monotonic() < deadline, "the numbers of a figure are not written"
        time.sleep(0.05)
    named = "return [...document.querySelectorAll('.numbers-of td:first-child')].map(cell => cell.textContent)"
    names = browser.execute_script(named)
    assert {name for name in names if EVIL not in name} <= {"end of the trajectory", *FAILURES}
    assert any(EVIL in name for name in names)
    drawn(browser)
    browser.execute_script(
        "for (const plot of document.querySelectorAll('.js-plotly-plot'))"
        " plot.data.forEach((trace, at) => Plotly.Fx.hover(plot, [{ curveNumber: at, pointNumber: 0 }]))"
    )


def assert_nothing_ran(browser):
    assert browser.execute_script("return document.querySelectorAll('img, [onload], [href^=javascript]').length") == 0
    assert browser.execute_script(PWNED) is None
    assert complaints(browser) == []


def test_the_payload_runs_where_nothing_stops_it(browser, tmp_path):
    for before, after in (("<p>", "</p>"), ("<p title='", "'></p>"), ("<script>let a = '", "'</script>")):
        (tmp_path / "page.html").write_text(f"{before}{EVIL}{after}", encoding="utf-8")
        browser.get((tmp_path / "page.html").as_uri())
        assert browser.execute_script(PWNED) == 1, before
    assert complaints(browser), "a missing picture is told"


@pytest.mark.parametrize("mode", ["checkpoints", "retrained"])
def test_nothing_runs_in_a_comparison(browser, evil, mode, tmp_path):
    sides = [(f"a{EVIL}", evil), (f"b{EVIL}", evil)]
    show(browser, compare_page.render(compare(sides, mode)), tmp_path)
    point_at_everything(browser)
    assert_nothing_ran(browser)


@pytest.fixture(scope="module")
def report(browser, evil, tmp_path_factory):
    """The browser with the hostile report, every figure drawn."""
    show(browser, render(evil), tmp_path_factory.mktemp("report"))
    return browser


def test_nothing_runs_in_a_report(report):
    point_at_everything(report)
    assert_nothing_ran(report)


def test_the_viewer_shows_it_as_text(report, evil):
    told = report.execute_script(
        """
        const viewer = document.getElementById("viewer"), pick = viewer.querySelector("select"), told = [];
        const text = (part) => viewer.querySelector(`[data-part=${part}]`).textContent;
        for (let index = 0; index < pick.options.length; index++) {
          pick.selectedIndex = index;
          pick.dispatchEvent(new Event("change"));
          viewer.querySelector("[data-go=first]").click();
          for (let place; place !== viewer.dataset.place; viewer.querySelector("[data-go=forward]").click()) {
            place = viewer.dataset.place;
            told.push(["status", "strip", "oracle", "model"].map(text));
          }
        }
        return told;
        """
    )
    assert len(told) == sum(len(failure.oracle.tokens) for failure in evil.failures)
    assert all(EVIL in text for step in told for text in step)
    assert_nothing_ran(report)


def test_the_address_may_hold_it(report):
    report.execute_script("document.querySelector('button[data-filter=architecture]').click()")
    assert "pwned" in report.execute_script("return location.hash")
    report.refresh()
    assert EVIL in report.execute_script("return document.getElementById('shown').textContent")
    assert_nothing_ran(report)

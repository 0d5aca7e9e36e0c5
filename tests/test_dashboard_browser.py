"""The dashboard in a browser, served as ``make dashboard`` serves it: each filter changes the figures to what SQL says,
on a desktop and on a phone, by the keyboard alone, and hostile reviews stay text."""

from __future__ import annotations

import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator

import pytest
from conftest import CHROMIUM, ROOT, SCREENSHOTS, Embedded, Graph
from dagster_ui import free_port
from playwright.sync_api import Page, TimeoutError, expect
from shown_reviews import CHOICES, HOSTILE_TEXTS, Choice, shown, shown_graph, truth

from command_line.dashboard import arguments

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: `make browser` installs it"),
]
START_SECONDS = 60
PATIENCE_MS = 90_000
LIST_MS = 10_000
ATTEMPTS = 5
DESKTOP = {"width": 1400, "height": 1000}
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def graph(embedded: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    with shown_graph(embedded, tmp_path_factory.mktemp("dagster"), "DB_DASHBOARD_BROWSER", shown()) as graph:
        yield graph


@pytest.fixture(scope="module")
def address(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    with (tmp_path_factory.mktemp("dashboard") / "log").open("w+") as log:
        server = subprocess.Popen(
            arguments(port),
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "CUSTOMER_INSIGHTS_DATABASE": graph.database},
        )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=2).close()
                break
            except OSError:
                assert server.poll() is None, log.read()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture(scope="module")
def visitor(browser) -> Iterator[Page]:
    """One visitor for all tests: a new one would fetch and compile the page's scripts anew, for seconds."""
    SCREENSHOTS.mkdir(exist_ok=True)
    page = browser.new_page(viewport=DESKTOP)
    page.set_default_timeout(PATIENCE_MS)
    yield page
    page.close()


def sees(page: Page, figures: dict[str, str]) -> None:
    """The figures come to be shown."""
    for label, value in figures.items():
        metric = page.get_by_test_id("stMetric").filter(has=page.get_by_text(label, exact=True))
        expect(metric.get_by_test_id("stMetricValue")).to_have_text(value, timeout=PATIENCE_MS)


def choose(page: Page, choice: Choice, by_tapping: bool) -> None:
    """Choose from a list: typed and taken by Enter, or tapped. A list closes when the page moves below it, as a
    phone's does: then once more."""
    box = page.get_by_role("combobox", name=choice.label)
    option = page.get_by_role("option").filter(has_text=choice.typed).first
    chip = page.get_by_test_id("stMultiSelect").filter(has_text=choice.label).get_by_text(choice.typed).first
    for _ in range(ATTEMPTS):
        if chip.is_visible():
            return
        try:
            box.focus()
            box.fill(choice.typed)
            option.wait_for(timeout=LIST_MS)
            if by_tapping:
                option.click(timeout=LIST_MS)
            else:
                page.keyboard.press("Enter")
            # It becomes a chip, which tells what is chosen; then on to the next list, as one who has no mouse does.
            chip.wait_for(timeout=LIST_MS)
        except TimeoutError:
            continue
        return
    raise AssertionError(f"{choice.typed} could not be chosen in {ATTEMPTS} attempts")


@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_each_filter_changes_the_figures_to_what_sql_says(graph: Graph, address: str, visitor: Page, size: str):
    page = visitor
    page.set_viewport_size(PHONE if size == "phone" else DESKTOP)
    page.goto(address)
    everything = truth(graph)
    sees(page, everything)
    page.screenshot(path=SCREENSHOTS / f"dashboard-{size}.png")
    for choice in CHOICES:
        if size == "phone":
            page.get_by_test_id("stExpandSidebarButton").click()
        choose(page, choice, by_tapping=size == "phone")
        page.keyboard.press("Tab")
        if size == "phone":
            page.get_by_test_id("stSidebarCollapseButton").get_by_role("button").click()
        expected = truth(graph, choice.condition)
        assert expected != everything
        sees(page, expected)
        # A look at the address is enough to share the view.
        expect(page).to_have_url(re.compile(r"\?(type|layout|quality|language)="), timeout=PATIENCE_MS)
        if size == "phone":
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
            assert page.get_by_test_id("stMain").evaluate("main => main.scrollWidth <= main.clientWidth")
            page.get_by_test_id("stExpandSidebarButton").click()
        page.get_by_role("button", name="Show everything").click()
        if size == "phone":
            page.get_by_test_id("stSidebarCollapseButton").get_by_role("button").click()
        sees(page, everything)


def test_charts_have_words_for_who_cannot_see_them(graph: Graph, address: str, visitor: Page):
    page = visitor
    page.set_viewport_size(DESKTOP)
    page.goto(f"{address}/?type=Toys&language=de")
    sees(page, truth(graph, "PRODUCT_TYPE = 'Toys' AND LANGUAGE = 'de'"))
    chart = page.locator("[aria-label^='Purchase rate by review quality. ']").first
    chart.wait_for()
    page.get_by_text("Numbers as a table").first.click()
    expect(page.locator(".ci-table").first).to_be_visible(timeout=PATIENCE_MS)


def test_hostile_reviews_stay_text_and_nothing_is_asked_of_others(graph: Graph, address: str, visitor: Page):
    page = visitor
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{address}/reviews")
    quotes = page.locator(".ci-card blockquote")
    expect(quotes.first).to_contain_text(HOSTILE_TEXTS[0], timeout=PATIENCE_MS)
    expect(page.locator(".ci-card script, .ci-card img, .ci-card a, .ci-card h1")).to_have_count(0)
    assert "owned" not in page.title()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []

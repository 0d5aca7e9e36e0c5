"""Dagster's UI in a headless browser, on the materialized graph: what a person sees and clicks."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from conftest import ROOT, Graph

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
SCREENSHOTS = ROOT / "tests" / "screenshots"
START_TIMEOUT_SECONDS = 120

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: `make browser` installs it"),
]


@pytest.fixture(scope="module")
def ui(materialized_graph) -> Iterator[str]:
    """``make ui`` as it runs: webserver, daemon and code server on the graph's instance; gives the address."""
    graph: Graph = materialized_graph[0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "dagster"), "dev", "-w", "workspace.yaml", "-h", "127.0.0.1"]
    with (graph.dagster_home / "ui.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "-p", str(port)],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "DAGSTER_HOME": str(graph.dagster_home)},
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{address}/server_info", timeout=2).close()
            break
        except OSError:
            assert process.poll() is None, (graph.dagster_home / "ui.log").read_text()[-2000:]
            time.sleep(0.5)
    yield address
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def browser():
    """One Chromium; its flags keep it from calling anybody but the pages that a test opens."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*flags, "--disable-sync", "--no-first-run"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, request: pytest.FixtureRequest):
    """A page of desktop size; its last state is kept as a screenshot named after the test."""
    SCREENSHOTS.mkdir(exist_ok=True)
    opened = browser.new_page(viewport={"width": 1700, "height": 1100})
    opened.set_default_timeout(60_000)
    yield opened
    opened.screenshot(path=SCREENSHOTS / f"{request.node.name}.png")
    opened.close()


def test_the_lineage_page_shows_every_asset(ui: str, page):
    page.goto(f"{ui}/asset-groups")
    page.get_by_text("conversion", exact=True).last.wait_for(state="attached")
    # Groups are drawn closed; these keys open them all.
    page.wait_for_timeout(2000)
    page.keyboard.press("Alt+KeyE")
    for name in ("staged_reviews", "raw_reviews", "purchase_features", "champion", "product_insights"):
        page.get_by_text(name, exact=True).first.wait_for()


def test_an_asset_page_shows_its_metadata_and_its_columns(ui: str, page):
    page.goto(f"{ui}/assets/conversion_model?view=overview")
    page.get_by_text("challenger_roc_auc", exact=True).first.wait_for()
    page.goto(f"{ui}/assets/raw_reviews?view=overview")
    page.get_by_text("SOURCE_FILE").first.wait_for()
    page.get_by_text("File on the stage.").first.wait_for()


def test_a_plot_opens_as_a_picture(ui: str, page):
    page.goto(f"{ui}/assets/model_explanations?view=events")
    page.get_by_text("importance", exact=True).first.wait_for()
    page.get_by_text("[Show Markdown]").last.click()
    picture = page.locator("img[alt='feature importance']")
    picture.wait_for()
    assert picture.evaluate("image => image.complete && image.naturalWidth > 100")


def test_a_click_on_materialize_submits_a_job_and_the_run_succeeds(ui: str, page, materialized_graph):
    graph: Graph = materialized_graph[0]
    # Other features: otherwise nothing is trained.
    graph.session().sql(
        "DELETE FROM PURCHASE_FEATURES WHERE UUID = (SELECT MIN(UUID) FROM PURCHASE_FEATURES)"
    ).collect()
    versions = len(graph.session().sql("SHOW VERSIONS IN MODEL CONVERSION_MODEL").collect())
    jobs = graph.value("SELECT COUNT(*) FROM TABLE(SNOWFLAKE.SPCS.GET_JOB_HISTORY())")
    page.goto(f"{ui}/assets/conversion_model")
    page.get_by_role("button", name="Materialize").first.click()
    run = wait_for_run(graph, "conversion_model")
    assert run.status.value == "SUCCESS"
    assert len(graph.session().sql("SHOW VERSIONS IN MODEL CONVERSION_MODEL").collect()) == versions + 1
    assert graph.value("SELECT COUNT(*) FROM TABLE(SNOWFLAKE.SPCS.GET_JOB_HISTORY())") == jobs + 1
    page.goto(f"{ui}/runs/{run.run_id}")
    page.get_by_text("submitted HOL_DB.HOL_SCHEMA.CONVERSION_MODEL_").first.wait_for()
    page.goto(f"{ui}/assets/conversion_model?view=events")
    page.get_by_text("snowflake/job_id").first.wait_for()


def wait_for_run(graph: Graph, asset: str, timeout: float = 240) -> dg.DagsterRun:
    """The newest run that a person launched for the asset, once it is over."""
    with graph.instance as instance:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for run in instance.get_runs(limit=5):
                chosen = {key.to_user_string() for key in run.asset_selection or ()}
                if chosen == {asset} and run.is_finished and run.job_name == "__ASSET_JOB":
                    return run
            time.sleep(1)
    raise AssertionError(f"no run of {asset} ended within {timeout} s")

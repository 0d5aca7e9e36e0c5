"""Dagster's UI in a headless browser, on the materialized graph: what a person sees and clicks."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import dagster as dg
import psutil
import pytest
from conftest import CHROMIUM, Graph
from dagster_ui import dagster_ui
from playwright.sync_api import Page, expect

from embedded_snowflake.ray_nodes import JOB_MARK, SERVER_MARK
from resources.job_lookup import KnownJob, jobs_in

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: `make browser` installs it"),
]


# Pages load slowly while runs keep the machine busy.
expect.set_options(timeout=60_000)

# Smaller than this, a name cannot be read without zooming.
READABLE_PIXELS = 8


@pytest.fixture(scope="module")
def on(materialized_graph) -> Graph:
    """The graph, with the Dagster instance that the page shows."""
    return materialized_graph[0]


@pytest.fixture(scope="module")
def ui(on: Graph) -> Iterator[str]:
    """``make ui`` as it runs, on SQLite; gives the address."""
    with dagster_ui(on.dagster_home) as address:
        yield address


def test_the_lineage_page_shows_every_asset_by_group(ui: str, page: Page):
    page.goto(f"{ui}/asset-groups")
    for group in {spec.group_name for spec in assets()}:
        page.get_by_text(group, exact=True).last.wait_for(state="attached")
    # Groups are drawn closed; these keys open them all.
    page.wait_for_timeout(2000)
    page.keyboard.press("Alt+KeyE")
    for name in [spec.key.to_user_string() for spec in assets()]:
        shown = page.get_by_text(drawn(name)).first
        shown.wait_for()
        assert shown.bounding_box()["height"] >= READABLE_PIXELS, name


def assets() -> Sequence[dg.AssetSpec]:
    from definitions import defs

    return defs.resolve_all_asset_specs()


def drawn(name: str) -> re.Pattern[str]:
    """A name in the graph, where all of it is in sight: from 19 characters on, Dagster leaves out the middle."""
    return re.compile(f"^({name}|{name[:5]}\\w*…\\w*{name[-5:]})$")


def test_a_column_is_traced_by_clicks_from_the_features_to_the_stages_files(ui: str, page: Page):
    page.goto(f"{ui}/assets/purchase_features?view=overview")
    column = "REVIEW_SENTIMENT"
    for asset, source in (
        ("reviews", "REVIEW_SENTIMENT"),
        ("review_sentiment", "REVIEW_SENTIMENT"),
        ("raw_reviews", "REVIEW_TEXT"),
        ("staged_reviews", "REVIEW_TEXT"),
    ):
        row = page.get_by_role("row", name=f"{column} ").first
        expect(row).to_contain_text(f"From {asset}: {source}.")
        row.get_by_role("link", name=asset, exact=True).click()
        page.wait_for_url(f"**/assets/{asset}**")
        column = source
    row = page.get_by_role("row", name=f"{column} ").first
    expect(row).to_contain_text("The record's text")
    expect(row).not_to_contain_text("From ")
    page.get_by_text("The review files on the stage").first.wait_for()


def test_an_asset_page_shows_its_metadata_and_its_columns(ui: str, page: Page):
    page.goto(f"{ui}/assets/conversion_model?view=overview")
    page.get_by_text("challenger_roc_auc", exact=True).first.wait_for()
    page.goto(f"{ui}/assets/raw_reviews?view=overview")
    page.get_by_text("SOURCE_FILE").first.wait_for()
    page.get_by_text("File on the stage.").first.wait_for()


def test_a_plot_opens_as_a_picture(ui: str, page: Page):
    page.goto(f"{ui}/assets/model_explanations?view=events")
    page.get_by_text("importance", exact=True).first.wait_for()
    page.get_by_text("[Show Markdown]").last.click()
    picture = page.locator("img[alt='effect of each feature']")
    picture.wait_for()
    assert picture.evaluate("image => image.complete && image.naturalWidth > 100")


def test_a_click_on_materialize_runs_to_success(ui: str, page: Page, on: Graph):
    page.goto(f"{ui}/assets/purchase_features")
    begun = datetime.now(UTC)
    page.get_by_role("button", name="Materialize").first.click()
    run = wait_for_run(on, begun)
    assert run.status == dg.DagsterRunStatus.SUCCESS
    page.goto(f"{ui}/assets/purchase_features?view=events")
    page.get_by_text("dagster/row_count").or_(page.get_by_text("Row count")).first.wait_for()


def wait_for_run(graph: Graph, begun: datetime, job: str = "__ASSET_JOB", timeout: float = 240) -> dg.DagsterRun:
    """The run that a person launched since then, of assets or of a job, once it is over."""
    with graph.instance as instance:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for run in instance.get_runs(filters=dg.RunsFilter(job_name=job, created_after=begun)):
                if run.is_finished:
                    return run
            time.sleep(0.5)
    raise AssertionError(f"no run of {job} ended within {timeout} s")


def test_a_run_whose_worker_is_killed_is_retried_and_reads_on_its_job(ui: str, page: Page, materialized_graph):
    graph: Graph = materialized_graph[0]
    run_id = classify_all_again(ui, graph)
    killed_job = wait_for_job(graph, run_id, "RUNNING")
    with graph.instance as instance:
        (worker,) = [
            int(found.group(1))
            for entry in instance.all_logs(run_id)
            if (found := re.search(r"executor: parent process \(pid: (\d+)\)", entry.user_message))
        ]
    os.kill(worker, signal.SIGKILL)
    retried = wait_for_retry(graph, run_id)
    page.goto(f"{ui}/runs/{retried.run_id}")
    # Only the rows in sight are in the page.
    page.get_by_placeholder("Filter").last.fill("reattached")
    page.get_by_text("reattached to job").first.wait_for()
    with graph.instance as instance:
        (event,) = instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey("review_quality"), after_timestamp=0.0), limit=1
        ).records
        assert event.run_id == retried.run_id
        metadata = event.asset_materialization.metadata
    assert metadata["snowflake/job_id"].value == killed_job.id
    assert metadata["snowflake/submitted_by_run"].value == run_id
    assert [job.id for job in jobs_of(graph, "REVIEW_QUALITY_") if job.run_id in (run_id, retried.run_id)] == [
        killed_job.id
    ]
    rows, keys, reviews = (
        graph.value(f"SELECT {count} FROM {table}")
        for count, table in (
            ("COUNT(*)", "REVIEW_QUALITY"),
            ("COUNT(DISTINCT UUID)", "REVIEW_QUALITY"),
            ("COUNT(*)", "RAW_REVIEWS"),
        )
    )
    assert rows == keys == reviews > 0


@pytest.fixture
def kept_quality(on: Graph) -> Iterator[None]:
    """The quality labels that the test removes are there again for the tests after it."""
    on.session().sql("CREATE TABLE KEPT_QUALITY AS SELECT * FROM REVIEW_QUALITY").collect()
    yield
    for sql in (
        "DELETE FROM REVIEW_QUALITY",
        "INSERT INTO REVIEW_QUALITY SELECT * FROM KEPT_QUALITY",
        "DROP TABLE KEPT_QUALITY",
    ):
        on.session().sql(sql).collect()


@pytest.mark.usefixtures("kept_quality")
def test_a_run_that_is_terminated_takes_its_job_and_its_processes_with_it(ui: str, page: Page, materialized_graph):
    graph: Graph = materialized_graph[0]
    run_id = classify_all_again(ui, graph)
    wait_for_job(graph, run_id, "RUNNING")
    page.goto(f"{ui}/runs/{run_id}")
    page.get_by_text("successfully opened dagster pipes").first.wait_for()
    started = wait_for_ray_workers(graph)
    page.get_by_role("button", name="Terminate").click()
    page.get_by_role("dialog").get_by_role("button", name="Terminate").click()
    clicked = time.monotonic()
    job = wait_for_job(graph, run_id, "CANCELLED")
    gone, alive = psutil.wait_procs(started, timeout=30)
    assert not alive, f"{job.id}: {alive}"
    print(f"{time.monotonic() - clicked:.1f} s from the click until {len(gone)} processes of the job were gone")
    with graph.instance as instance:
        deadline = time.monotonic() + 60
        while not (run := instance.get_run_by_id(run_id)).is_finished and time.monotonic() < deadline:
            time.sleep(0.2)
        assert run.status == dg.DagsterRunStatus.CANCELED
        # What was cancelled is not retried.
        assert not instance.get_runs(filters=dg.RunsFilter(tags={"dagster/parent_run_id": run_id}))


def processes_of_jobs(graph: Graph) -> list[psutil.Process]:
    """Every process that the embedded server started for a job, wherever it is in the tree of processes."""
    data = str(graph.embedded.home / "data")
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            environment = process.environ()
            if JOB_MARK in environment and environment.get(SERVER_MARK) == data:
                found.append(process)
    return found


def wait_for_ray_workers(graph: Graph, timeout: float = 60) -> list[psutil.Process]:
    """The processes of jobs, as soon as some are Ray workers."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found = processes_of_jobs(graph)
        with contextlib.suppress(psutil.Error):
            if any(process.name().startswith("ray::") for process in found):
                return found
        time.sleep(0.1)
    raise AssertionError(f"no Ray worker within {timeout} s")


def classify_all_again(ui: str, graph: Graph) -> str:
    """Launch a run of review_quality for which every review is to be classified; its id."""
    graph.session().sql("DELETE FROM REVIEW_QUALITY").collect()
    mutation = """mutation($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
        ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
    day = graph.value("SELECT MAX(ARRIVAL_DATE)::VARCHAR FROM RAW_REVIEWS")
    selector = {
        "repositoryLocationName": "customer_insights",
        "repositoryName": "__repository__",
        "pipelineName": "__ASSET_JOB",
        "assetSelection": [{"path": ["review_quality"]}],
    }
    tags = [{"key": "dagster/partition", "value": day}]
    params = {"mode": "default", "runConfigData": "{}", "selector": selector, "executionMetadata": {"tags": tags}}
    request = urllib.request.Request(
        f"{ui}/graphql",
        json.dumps({"query": mutation, "variables": {"params": params}}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        launched = json.load(answer)
    return launched["data"]["launchPipelineExecution"]["run"]["runId"]


def jobs_of(graph: Graph, name_begins: str) -> list[KnownJob]:
    return jobs_in(graph.session(), f"{graph.database}.HOL_SCHEMA", name_begins)


def wait_for_job(graph: Graph, run_id: str, status: str, timeout: float = 120) -> KnownJob:
    deadline = time.monotonic() + timeout
    found: list[KnownJob] = []
    while time.monotonic() < deadline:
        found = [job for job in jobs_of(graph, "REVIEW_QUALITY_") if job.run_id == run_id]
        if any(job.status == status for job in found):
            return found[0]
        time.sleep(0.2)
    raise AssertionError(f"no job of run {run_id} was {status} within {timeout} s: {found}")


def wait_for_retry(graph: Graph, run_id: str, timeout: float = 240) -> dg.DagsterRun:
    """The run that Dagster started in place of a failed one, once it has succeeded."""
    with graph.instance as instance:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for run in instance.get_runs(filters=dg.RunsFilter(tags={"dagster/parent_run_id": run_id})):
                if run.is_finished:
                    assert run.status == dg.DagsterRunStatus.SUCCESS
                    return run
            time.sleep(0.5)
    raise AssertionError(f"run {run_id} was not retried to success within {timeout} s")

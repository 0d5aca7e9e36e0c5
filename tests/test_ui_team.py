"""Dagster's UI in a headless browser, as a team runs it: on Postgres, with code server, daemon and webserver by the
commands of ``deploy/dagster/compose.yaml``.

Two tests are those of ``test_ui``, which run on SQLite there; the others are of what a team looks at in a day:
freshness, a backfill, a schedule, a check that fails. The Snowflake behind it is the graph of ``test_graph``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
import test_ui
from conftest import CHROMIUM, Graph, today
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus
from dagster._core.test_utils import freeze_time
from dagster_ui import team_environment, team_home, team_ui
from playwright.sync_api import Page, expect

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: `make browser` installs it"),
]

# Schedules that the tests may turn on, and the settings of their hours. On a busy machine the first is too early: the
# services take a while to start.
SCHEDULES = {
    "daily_reviews_schedule": "CUSTOMER_INSIGHTS_REVIEWS_AT",
    "daily_predictions_schedule": "CUSTOMER_INSIGHTS_PREDICTIONS_AT",
}
SECONDS_TO_FIRST_TICK, MINUTES_BETWEEN_TICKS = 100, 3

# Age of an asset's newest materialization, and what the page then says of its freshness.
LATE = {
    "conversion_model": (timedelta(days=7, hours=12), "Warning"),
    "champion": (timedelta(days=9), "Failed"),
    "product_insights": (timedelta(days=2), "Failed"),
}


@pytest.fixture(scope="module")
def ticks() -> dict[str, datetime]:
    """When each of ``SCHEDULES`` is due."""
    first = (datetime.now(UTC) + timedelta(seconds=SECONDS_TO_FIRST_TICK + 60)).replace(second=0, microsecond=0)
    return {name: first + timedelta(minutes=MINUTES_BETWEEN_TICKS * place) for place, name in enumerate(SCHEDULES)}


@pytest.fixture(scope="module")
def on(materialized_graph, postgres, ticks: dict[str, datetime], tmp_path_factory) -> Iterator[Graph]:
    """The graph's tables, with the team's instance: no run is there yet, the tables are reported to it."""
    home = team_home(tmp_path_factory.mktemp("team"))
    with pytest.MonkeyPatch.context() as environment:
        for name, value in team_environment(home, postgres, 0).items():
            environment.setenv(name, value)
        for name, setting in SCHEDULES.items():
            environment.setenv(setting, f"{ticks[name]:%H:%M}")
        environment.setenv("FRESHNESS_DAEMON_INTERVAL_SECONDS", "5")
        graph = replace(materialized_graph[0], dagster_home=home)
        report_materializations(graph)
        yield graph


def report_materializations(graph: Graph) -> None:
    """Each table as materialized now, or as long ago as ``LATE`` says."""
    from definitions import defs

    with graph.instance as instance:
        for spec in defs.resolve_all_asset_specs():
            name = spec.key.to_user_string()
            age = LATE.get(name, (timedelta(0),))[0]
            with freeze_time(datetime.now(UTC) - age):
                day = today() if spec.partitions_def else None
                instance.report_runless_asset_event(dg.AssetMaterialization(name, partition=day))


@pytest.fixture(scope="module")
def ui(on: Graph, postgres) -> Iterator[str]:
    """The address of the team's page."""
    with team_ui(on.dagster_home, postgres) as address:
        yield address


@pytest.fixture(scope="module")
def turned_on(ui: str, browser, ticks: dict[str, datetime]) -> str:
    """The schedule that is due next, turned on by its switch."""
    soon = [name for name, tick in ticks.items() if tick > datetime.now(UTC) + timedelta(seconds=20)]
    assert soon, f"the services were not up in time for {ticks}"
    page = browser.new_page(viewport={"width": 1700, "height": 1100})
    page.set_default_timeout(60_000)
    page.goto(f"{ui}/automation")
    row = page.locator("[class*=VirtualizedTable_row]", has_text=soon[0])
    # What is seen and clicked is the label; until its state is known, the switch is one that does nothing.
    switch = row.locator("label[class*=formatSwitch]")
    switch.locator("input:enabled:not(:checked)").wait_for(state="attached")
    with page.expect_response(lambda answer: "StartThisSchedule" in (answer.request.post_data or "")):
        switch.click()
    switch.locator("input:enabled:checked").wait_for(state="attached")
    page.close()
    return soon[0]


def test_a_schedule_is_turned_on_by_its_switch(ui: str, turned_on: str, page: Page, on: Graph):
    with on.instance as instance:
        (state,) = [state for state in instance.all_instigator_state() if state.instigator_name == turned_on]
        assert state.is_running
    page.goto(f"{ui}/locations/customer_insights/schedules/{turned_on}")
    expect(page.get_by_text("Next tick").first).to_be_visible()


def test_fresh_late_and_overdue_assets_are_told_apart(ui: str, page: Page, on: Graph):
    for name, state in (("raw_reviews", "Passing"), *((name, state) for name, (_, state) in LATE.items())):
        wait_for_freshness(on, name)
        page.goto(f"{ui}/assets/{name}?view=overview")
        status = page.get_by_text("Freshness policy", exact=True).first.locator("xpath=..")
        expect(status).to_contain_text(state)


def wait_for_freshness(graph: Graph, asset: str, timeout: float = 60) -> None:
    """Until the daemon has looked at the asset."""
    with graph.instance as instance:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            record = instance.get_freshness_state_records([dg.AssetKey(asset)]).get(dg.AssetKey(asset))
            if record and record.freshness_state.value not in ("UNKNOWN", "NOT_APPLICABLE"):
                return
            time.sleep(0.5)
    raise AssertionError(f"the freshness of {asset} was not evaluated within {timeout} s")


def test_a_backfill_of_three_days_is_one_run_and_one_job(ui: str, page: Page, on: Graph):
    last = datetime.fromisoformat(today())
    days = [(last - timedelta(days=age)).date().isoformat() for age in (2, 1, 0)]
    on.put("backfill.txt", b'"backfill-1","The drawer closes softly, and it came a day early."\n')
    jobs = job_count(on)
    begun = datetime.now(UTC)
    page.goto(f"{ui}/assets/raw_reviews")
    page.get_by_role("button", name="Materialize").first.click()
    dialog = page.get_by_role("dialog")
    chosen = dialog.get_by_role("textbox").first
    chosen.fill(f"[{days[0]}...{days[-1]}]")
    chosen.press("Enter")
    expect(dialog.get_by_text("3 partitions")).to_be_visible()
    dialog.get_by_role("button", name="Launch backfill").click()
    expect(dialog).to_be_hidden()
    with on.instance as instance:
        (backfill,) = instance.get_backfills()
        page.goto(f"{ui}/runs/b/{backfill.backfill_id}")
        run = test_ui.wait_for_run(on, begun)
        assert run.status == dg.DagsterRunStatus.SUCCESS
        assert run.tags["dagster/backfill"] == backfill.backfill_id
        expect(page.get_by_text("100% completed")).to_be_visible()
        assert len(instance.get_runs(filters=dg.RunsFilter(tags={"dagster/backfill": backfill.backfill_id}))) == 1
        assert run.tags["dagster/asset_partition_range_start"] == days[0]
        assert run.tags["dagster/asset_partition_range_end"] == days[-1]
        assert instance.get_materialized_partitions(dg.AssetKey("raw_reviews")) == set(days)
    assert job_count(on) == jobs + 1
    assert on.value("SELECT COUNT(*) FROM RAW_REVIEWS WHERE UUID = 'backfill-1'") == 1


def job_count(graph: Graph) -> int:
    return graph.value("SELECT COUNT(*) FROM TABLE(SNOWFLAKE.SPCS.GET_JOB_HISTORY(RESULT_LIMIT => 10000))")


def test_a_failed_check_stops_what_is_downstream(ui: str, page: Page, on: Graph):
    visit = on.value("SELECT MIN(UUID) FROM PURCHASE_FEATURES")
    rating = on.value(f"SELECT PRODUCT_RATING FROM TABULAR_DATA WHERE UUID = '{visit}'")
    predicted = on.value("SELECT MAX(SCORED_AT) FROM PURCHASE_PROPENSITY")
    on.session().sql(f"UPDATE TABULAR_DATA SET PRODUCT_RATING = 9 WHERE UUID = '{visit}'").collect()
    begun = datetime.now(UTC)
    try:
        page.goto(f"{ui}/locations/customer_insights/jobs/predictions")
        page.get_by_role("button", name="Materialize all").first.click()
        run = test_ui.wait_for_run(on, begun, "predictions")
    finally:
        on.session().sql(f"UPDATE TABULAR_DATA SET PRODUCT_RATING = {rating} WHERE UUID = '{visit}'").collect()
    assert run.status == dg.DagsterRunStatus.FAILURE
    with on.instance as instance:
        steps = {step.step_key: step.status.value for step in instance.get_run_step_stats(run.run_id) if step.status}
    assert steps["purchase_features"] == "FAILURE"
    assert not {"purchase_propensity", "drift_report", "product_insights", "daily_report"} & set(steps)
    assert on.value("SELECT MAX(SCORED_AT) FROM PURCHASE_PROPENSITY") == predicted
    page.goto(f"{ui}/assets/purchase_features?view=checks")
    page.get_by_text("values_in_range", exact=True).first.click()
    page.get_by_text("1 rows: not PRODUCT_RATING from 1 to 5").first.wait_for()
    page.goto(f"{ui}/runs/{run.run_id}")
    page.get_by_text("Errored (1)").wait_for()
    page.get_by_text(f"Not executed ({len(run.asset_selection or ()) - len(steps)})").wait_for()


# After what leaves wrong features behind, since these make them anew.
test_a_click_on_materialize_runs_to_success = test_ui.test_a_click_on_materialize_runs_to_success
test_the_lineage_page_shows_every_asset_by_group = test_ui.test_the_lineage_page_shows_every_asset_by_group


def test_the_schedule_that_was_turned_on_ticks_when_its_hour_comes_and_says_what_it_did(
    ui: str, turned_on: str, page: Page, on: Graph, ticks: dict[str, datetime]
):
    tick = wait_for_tick(on, turned_on, ticks[turned_on].timestamp() + 120)
    assert datetime.fromtimestamp(tick.timestamp, UTC) == ticks[turned_on]
    page.goto(f"{ui}/locations/customer_insights/schedules/{turned_on}")
    if tick.status == TickStatus.SKIPPED:
        # Its day may be in the backfill above, should that still go on.
        assert tick.skip_reason
        page.get_by_text("Skipped").first.wait_for()
    else:
        (run_id,) = tick.run_ids
        page.get_by_text(run_id[:8]).first.wait_for()


def wait_for_tick(graph: Graph, schedule: str, deadline: float) -> InstigatorTick:
    """The first tick of a schedule, once it is over."""
    with graph.instance as instance:
        (state,) = [state for state in instance.all_instigator_state() if state.instigator_name == schedule]
        while True:
            for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id):
                if tick.status != TickStatus.STARTED:
                    return tick
            assert time.time() < deadline, f"{schedule} did not tick"
            time.sleep(1)

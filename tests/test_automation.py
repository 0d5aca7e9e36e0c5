"""Declarative automation, tick after tick on a real instance: a change runs what is downstream once, and nothing else
does. What a run computes is left out; that it ran is written to the event log."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from days_of_arrival import run

import definitions
from assets import automation as automatic
from schedules import day_requests

DAY = "2026-03-02"
DOWNSTREAM = {
    *("reviews", "purchase_features", "purchase_propensity", "model_explanations", "drift_report", "product_insights"),
    *("aspect_insights", "purchase_rates", "targeting", "daily_report"),
}
NOT_OF_REVIEWS = DOWNSTREAM - {"reviews"}


class Automation:
    """The sensor ``automation`` and a clock."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.now = datetime(2026, 3, 2, 8, tzinfo=UTC)
        self.cursor = None
        for number in range(2):
            for asset in ("tabular_data", "conversion_model", "champion", *sorted(DOWNSTREAM)):
                self.made(asset, f"first-{number}")
        for asset in day_requests.OF_REVIEWS:
            self.made(asset.to_user_string(), "first", DAY)
        assert self.tick() == []

    def made(self, asset: str, version: str, partition: str | None = None) -> None:
        """A materialization, or an observation of a source, with a data version."""
        kind = dg.AssetObservation if asset == "tabular_data" else dg.AssetMaterialization
        self.instance.report_runless_asset_event(
            kind(asset, partition=partition, tags={"dagster/data_version": version})
        )

    def tick(self, minutes: float = 1) -> list[str]:
        """What is asked for, one entry an asset and partition, some minutes after the last tick."""
        self.now += timedelta(minutes=minutes)
        found = dg.evaluate_automation_conditions(
            definitions.defs, self.instance, evaluation_time=self.now, cursor=self.cursor
        )
        self.cursor = found.cursor
        return sorted(
            key.to_user_string()
            for key in definitions.defs.resolve_asset_graph().get_all_asset_keys()
            for _ in range(found.get_num_requested(key))
        )

    def goes_on(self, ended: dg.DagsterRun) -> None:
        """Make a run that failed one that has not ended yet."""
        self.instance.run_storage.delete_run(ended.run_id)
        self.instance.run_storage.add_run(ended.with_status(dg.DagsterRunStatus.STARTED))


@pytest.fixture
def automation(tmp_path: Path) -> Iterator[Automation]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield Automation(instance)


def test_a_new_day_of_reviews_runs_each_asset_downstream_once_in_a_day_of_ticks(automation: Automation):
    going = run(automation.instance, DAY, fails="review_quality").dagster_run
    automation.goes_on(going)
    assert automation.tick() == []
    automation.instance.run_storage.delete_run(going.run_id)
    run(automation.instance, DAY)
    asked = automation.tick()
    assert asked == sorted(DOWNSTREAM)
    # Nothing has begun yet.
    asked += automation.tick()
    for asset in sorted(DOWNSTREAM):
        automation.made(asset, "second")
    for _ in range(6):
        asked += automation.tick(minutes=180)
        # The hourly observation finds what was there.
        automation.made("tabular_data", "first-1")
    assert asked == sorted(DOWNSTREAM)


def test_what_was_only_made_again_runs_nothing_and_new_visits_run_what_depends_on_them(automation: Automation):
    automation.made("tabular_data", "first-1")
    for asset in day_requests.OF_REVIEWS:
        automation.made(asset.to_user_string(), "first", DAY)
    assert automation.tick() == []
    automation.made("tabular_data", "more visits")
    assert automation.tick() == sorted(NOT_OF_REVIEWS)
    assert automation.tick() == []


def test_a_failed_blocking_check_upstream_holds_back_what_is_downstream_until_it_passes(automation: Automation):
    def checked(passed: bool) -> None:
        automation.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey("purchase_features"), check_name="keys_unique_and_complete", passed=passed
            )
        )

    automation.made("purchase_features", "second")
    checked(passed=False)
    assert automation.tick() == []
    automation.made("purchase_features", "third")
    checked(passed=True)
    assert automation.tick() == sorted(NOT_OF_REVIEWS - {"purchase_features"})


def test_a_day_that_was_only_read_is_scored_and_no_other(automation: Automation):
    automation.made("raw_reviews", "second", DAY)
    asked = automation.tick()
    assert asked == sorted({"review_sentiment", "review_quality", *DOWNSTREAM})


def test_every_asset_has_a_condition_but_those_that_something_else_asks_for():
    made = {key.to_user_string() for key in definitions.defs.resolve_asset_graph().materializable_asset_keys}
    assert made - set(automatic.BY_ASSET) == {"raw_reviews", "conversion_model", "pipeline_costs"}
    assert set(automatic.BY_ASSET) <= made

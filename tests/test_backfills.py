"""Backfills as the UI launches them: how many runs a range of days is, what a new version of a model leaves to do, and
a day that failed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Any

import dagster as dg
import pytest
from conftest import ROOT, Graph
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster_graphql.test.utils import execute_dagster_graphql
from days_of_arrival import run
from scored_reviews import scored, write

from assets import catalogue
from customer_insights.settings import settings
from schedules import alerts, day_requests, jobs

LAUNCH = """
mutation Launch($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""
PROGRESS = """
query Progress($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill {
      status
      assetBackfillData { assetBackfillStatuses {
        ... on AssetPartitionsStatusCounts {
          assetKey { path } numPartitionsTargeted numPartitionsInProgress numPartitionsMaterialized numPartitionsFailed
        }
      } }
    }
  }
}
"""


ORIGIN = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="definitions", working_directory=str(ROOT)))


@contextmanager
def workspace(instance: dg.DagsterInstance) -> Iterator[WorkspaceProcessContext]:
    """What webserver and daemon see: the code location ``definitions``."""
    target = InProcessWorkspaceLoadTarget(ORIGIN)
    with WorkspaceProcessContext(instance, target) as context:
        yield context


def launched(context: WorkspaceProcessContext, days: list[str], **what: Any) -> str:
    """Launch a backfill through GraphQL, let the daemon ask for its runs, and give its id."""
    params = {**what, "partitionNames": days}
    answer = execute_dagster_graphql(context.create_request_context(), LAUNCH, {"params": params}).data
    backfill = answer["launchPartitionBackfill"]
    assert backfill["__typename"] == "LaunchBackfillSuccess", backfill
    for _ in range(2):
        list(execute_backfill_iteration(context, logging.getLogger("backfills")))
    return backfill["backfillId"]


def progress(context: WorkspaceProcessContext, backfill: str) -> dict[str, dict[str, int]]:
    """What the backfill's page shows: counts of days by asset."""
    answer = execute_dagster_graphql(context.create_request_context(), PROGRESS, {"id": backfill}).data
    counts = answer["partitionBackfillOrError"]["assetBackfillData"]["assetBackfillStatuses"]
    return {one.pop("assetKey")["path"][0]: one for one in counts}


def ranges(instance: dg.DagsterInstance) -> set[tuple[str, str]]:
    """First and last day of every run, which all wait in the queue."""
    runs = instance.get_runs()
    assert {run.status for run in runs} == {dg.DagsterRunStatus.QUEUED}
    return {(run.tags[day_requests.RANGE_START], run.tags[day_requests.RANGE_END]) for run in runs}


def days_from(first: str, count: int) -> list[str]:
    start = date.fromisoformat(first)
    return [(start + timedelta(days=number)).isoformat() for number in range(count)]


def test_a_range_of_days_is_one_run_and_a_history_a_run_a_month_with_the_limit_of_its_job(empty_graph: Graph):
    days = days_from(catalogue.FIRST_DAY, 40)
    assets = [{"path": [key.to_user_string()]} for key in day_requests.OF_REVIEWS]
    with empty_graph.instance as instance, workspace(instance) as context:
        three = launched(context, days[:3], assetSelection=assets)
        assert ranges(instance) == {(days[0], days[2])}
        shown = progress(context, three)
        assert {name: one["numPartitionsInProgress"] for name, one in shown.items()} == {
            key.to_user_string(): 3 for key in day_requests.OF_REVIEWS
        }
        instance.delete_run(instance.get_runs()[0].run_id)

        location = next(iter(context.create_request_context().code_locations)).name
        repository = {"repositoryName": "__repository__", "repositoryLocationName": location}
        job = {"partitionSetName": "rescoring_partition_set", "repositorySelector": repository}
        launched(context, days, selector=job)
        assert ranges(instance) == {(days[0], days[30]), (days[31], days[39])}
        assert {run.tags[jobs.MAX_RUNTIME] for run in instance.get_runs()} == {str(settings().long_run_limit_seconds)}


def wait(instance: dg.DagsterInstance, job: Any, *requests: dg.RunRequest, **tags: str) -> list[str]:
    """Put runs of a job into the queue, with the tags that it gives them; their ids."""
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(ORIGIN, "__repository__"), job.name)
    runs = [
        dg.DagsterRun(
            job.name,
            status=dg.DagsterRunStatus.QUEUED,
            tags={**job.tags, **request.tags, **tags},
            remote_job_origin=origin,
        )
        for request in requests or (dg.RunRequest(),)
    ]
    return [instance.add_run(run).run_id for run in runs]


def next_ones(instance: dg.DagsterInstance) -> list[str]:
    """The runs that the daemon takes out of the queue, in order."""
    daemon = QueuedRunCoordinatorDaemon(interval_seconds=1)
    return [run.run_id for run in daemon._get_runs_to_dequeue(instance, instance.get_concurrency_config(), None)]


def test_a_history_on_the_stage_leaves_slots_for_what_the_day_needs(empty_graph: Graph):
    start = date.fromisoformat(catalogue.FIRST_DAY)
    months = [
        day_requests.request(str(start + timedelta(first)), str(start + timedelta(first + 30)), "", {})
        for first in (0, 31, 62, 93)
    ]
    with empty_graph.instance as instance:
        history = wait(instance, jobs.daily_reviews, *months)
        assert next_ones(instance) == history[:2]
        range_of_backfill = {"dagster/backfill": "b", day_requests.RANGE_START: catalogue.FIRST_DAY}
        (backfill,) = wait(instance, jobs.rescoring, **range_of_backfill)
        assert next_ones(instance) == [backfill, history[0]]
        of_the_day = [
            *wait(instance, jobs.daily_reviews, day_requests.request("2026-03-01", "2026-03-01", "", {})),
            *wait(instance, jobs.observation),
            *wait(instance, alerts.newest_days),
        ]
        assert next_ones(instance) == [*of_the_day, backfill]


def test_a_failed_day_is_seen_and_materialized_alone(empty_graph: Graph):
    with empty_graph.instance as instance:
        run(instance, "2026-03-01", "2026-03-02")
        failed = run(instance, "2026-03-03", fails="review_quality").dagster_run
        assert set(day_requests.unfinished(instance)) == {"2026-03-03"}
        assert day_requests.unfinished(instance)["2026-03-03"].run_id == failed.run_id
        key = dg.AssetKey("review_quality")
        days = ["2026-03-01", "2026-03-02", "2026-03-03"]
        shown = instance.get_status_by_partition(key, days, catalogue.DAILY)
        assert shown
        statuses = dg.AssetPartitionStatus
        assert [shown[day] for day in days] == [statuses.MATERIALIZED, statuses.MATERIALIZED, statuses.FAILED]
        run(instance, "2026-03-03")
        assert not day_requests.unfinished(instance)


def test_reviews_of_another_version_are_counted_and_rescoring_a_day_leaves_the_others(
    empty_graph: Graph, monkeypatch: pytest.MonkeyPatch
):
    # Cortex reads them all: no job is needed.
    monkeypatch.setenv("CUSTOMER_INSIGHTS_SENTIMENT_CORTEX_LANGUAGES", "en,de,ar,zh")
    settings.cache_clear()
    frame = scored(rows=30)
    frame["ARRIVAL_DATE"] = [date(2026, 3, 1 + number % 3) for number in range(30)]
    write(empty_graph.session(), frame)

    def rescored(first: str, last: str) -> tuple[Any, dict[str, Any]]:
        result = empty_graph.run("review_sentiment", start=first, end=last, raise_on_error=True)
        (check,) = [
            event.asset_check_evaluation_data
            for event in result.all_events
            if event.event_type_value == "ASSET_CHECK_EVALUATION"
            and event.asset_check_evaluation_data.check_name == "scored_by_the_present_version"
        ]
        metadata = {name: value.value for name, value in check.metadata.items()}
        assert check.passed == (metadata["rows of other versions"] == 0)
        materialized = result.get_asset_materialization_events()[0].step_materialization_data.materialization
        return materialized.metadata["rows scored by Cortex"].value, metadata

    answered, left = rescored("2026-03-02", "2026-03-02")
    assert answered == 10
    assert (left["rows of other versions"], left["days with such rows"]) == (20, 2)
    assert (left["first day"], left["last day"]) == ("2026-03-01", "2026-03-03")
    # The whole range: what is done is not done again.
    answered, left = rescored("2026-03-01", "2026-03-03")
    assert answered == 20
    assert left["rows of other versions"] == 0

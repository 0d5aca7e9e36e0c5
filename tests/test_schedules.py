"""The schedules as the daemon evaluates them: which tick starts what, and why one starts nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from days_of_arrival import run

import definitions
from assets import catalogue
from customer_insights.settings import Settings
from schedules import alerts, day_requests, jobs, timetable


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("empty"))) as instance:
        yield instance


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


def named(name: str, **options: Any) -> dg.ScheduleDefinition:
    return next(schedule for schedule in timetable.build(Settings(**options)) if schedule.name == name)


def tick(schedule: dg.ScheduleDefinition, at: datetime, instance: dg.DagsterInstance) -> dg.RunRequest | str:
    """The run that a tick asks for, or why it asks for none."""
    found = schedule(dg.build_schedule_context(instance=instance, scheduled_execution_time=at))
    if isinstance(found, dg.RunRequest):
        return found
    assert isinstance(found, dg.SkipReason)
    assert found.skip_message
    return found.skip_message


def ticks_after(schedule: dg.ScheduleDefinition, start: datetime) -> Iterator[datetime]:
    from dagster._utils.schedules import cron_string_iterator

    assert isinstance(schedule.cron_schedule, str)
    zone = schedule.execution_timezone
    return cron_string_iterator(start.timestamp(), schedule.cron_schedule, zone)


@pytest.mark.parametrize(
    ("zone", "day"), [("UTC", "2026-03-01"), ("Asia/Tokyo", "2026-02-28"), ("America/Los_Angeles", "2026-03-01")]
)
def test_the_daily_schedule_asks_for_the_last_day_that_is_over_in_utc(zone: str, day: str, empty):
    five_o_clock = datetime(2026, 3, 2, 5, 0, tzinfo=ZoneInfo(zone))
    request = tick(named("daily_reviews_schedule", timezone=zone), five_o_clock, empty)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == day


@pytest.mark.parametrize("change", [date(2026, 3, 29), date(2026, 10, 25)], ids=["spring", "autumn"])
@pytest.mark.parametrize("at", [time(5), time(1, 30), time(2, 30)], ids=str)
def test_clocks_that_change_leave_no_day_out_and_ask_for_none_twice(change: date, at: time, empty):
    zone = "Europe/Berlin"
    schedule = named("daily_reviews_schedule", timezone=zone, reviews_at=at)
    start = datetime.combine(change - timedelta(days=4), time(0), ZoneInfo(zone))
    found: list[str] = []
    scheduled = list(islice(ticks_after(schedule, start), 8))
    for moment in scheduled:
        request = tick(schedule, moment, empty)
        if isinstance(request, dg.RunRequest):
            first, last = (
                request.tags.get(tag, request.partition_key)
                for tag in (day_requests.RANGE_START, day_requests.RANGE_END)
            )
            assert first
            assert last
            found += day_requests.days_between(first, last)
    assert all(date.fromisoformat(b) - date.fromisoformat(a) == timedelta(days=1) for a, b in pairwise(found))
    # Every day that is over at the last tick was asked for.
    assert found[-1] == timetable.last_whole_day(scheduled[-1]).isoformat()
    if at == time(5):
        assert {moment.astimezone(ZoneInfo(zone)).time() for moment in scheduled} == {at}
        assert len(found) == 8


def test_hours_and_weekdays_come_from_the_settings_and_the_report_follows_the_reviews(empty):
    chosen: dict[str, Any] = {
        "timezone": "Asia/Tokyo",
        "reviews_at": "04:15",
        "retraining_weekday": "friday",
        "retraining_at": "22:05",
    }
    crons = {schedule.name: schedule.cron_schedule for schedule in timetable.build(Settings(**chosen))}
    assert crons["daily_reviews_schedule"] == "15 4 * * *"
    assert crons["weekly_retraining_schedule"] == "5 22 * * 5"
    assert {schedule.execution_timezone for schedule in timetable.build(Settings(**chosen))} == {"Asia/Tokyo"}
    retraining = named("weekly_retraining_schedule", **chosen)
    first = next(iter(ticks_after(retraining, datetime(2026, 3, 1, tzinfo=UTC))))
    assert first.astimezone(ZoneInfo("Asia/Tokyo")).isoformat() == "2026-03-06T22:05:00+09:00"


def test_a_day_that_is_being_worked_on_is_not_asked_for_again(instance):
    going = run(instance, "2026-03-01", fails="raw_reviews").dagster_run
    instance.run_storage.delete_run(going.run_id)
    instance.run_storage.add_run(going.with_status(dg.DagsterRunStatus.STARTED))
    schedule = named("daily_reviews_schedule")
    five_o_clock = datetime(2026, 3, 2, 5, tzinfo=UTC)
    assert tick(schedule, five_o_clock, instance) == f"2026-03-01 is being worked on by run {going.run_id[:8]}"
    instance.run_storage.delete_run(going.run_id)
    instance.run_storage.add_run(going.with_status(dg.DagsterRunStatus.FAILURE))
    assert isinstance(tick(schedule, five_o_clock, instance), dg.RunRequest)


def test_before_the_first_partition_nothing_is_asked_for(empty):
    first = catalogue.DAILY.start.date()
    schedule = named("daily_reviews_schedule")
    skipped = tick(schedule, datetime.combine(first, time(5), UTC), empty)
    assert skipped == "no day (UTC) that has a partition ended since the last tick"
    request = tick(schedule, datetime.combine(first + timedelta(days=1), time(5), UTC), empty)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == first.isoformat()


def test_predictions_wait_for_a_champion_and_no_job_is_started_beside_itself(instance):
    schedule, at = named("daily_predictions_schedule"), datetime(2026, 3, 2, 7, tzinfo=UTC)
    assert tick(schedule, at, instance) == "no champion yet: run the job `retraining`, or `everything`"
    instance.report_runless_asset_event(dg.AssetMaterialization("champion"))
    assert isinstance(tick(schedule, at, instance), dg.RunRequest)
    going = dg.DagsterRun(job_name=jobs.predictions.name, status=dg.DagsterRunStatus.STARTED)
    instance.add_run(going)
    assert tick(schedule, at, instance) == f"run {going.run_id[:8]} of predictions has not ended: started"


def test_freshness_is_not_asked_while_a_run_asks(instance):
    schedule, at = alerts.newest_days_schedule, datetime(2026, 3, 2, 7, 30, tzinfo=UTC)
    assert isinstance(tick(schedule, at, instance), dg.RunRequest)
    going = dg.DagsterRun(job_name=alerts.newest_days.name, status=dg.DagsterRunStatus.STARTED)
    instance.add_run(going)
    assert tick(schedule, at, instance) == f"run {going.run_id[:8]} of newest_days has not ended: started"


@pytest.mark.parametrize("hours", [1, 3, 12])
def test_costs_are_collected_all_day_long_before_there_is_a_champion_and_by_one_run_at_a_time(hours: int, instance):
    schedule = named("costs_schedule", costs_hours=hours)
    day = list(islice(ticks_after(schedule, datetime(2026, 3, 2, tzinfo=UTC)), 24 // hours))
    assert [moment.hour for moment in day] == list(range(0, 24, hours))
    for moment in day:
        assert isinstance(tick(schedule, moment, instance), dg.RunRequest)
    going = dg.DagsterRun(job_name=jobs.cost_collection.name, status=dg.DagsterRunStatus.STARTED)
    instance.add_run(going)
    assert tick(schedule, day[0], instance) == f"run {going.run_id[:8]} of costs has not ended: started"


def test_costs_are_a_run_of_their_own_that_no_other_jobs_failure_ends():
    def made_by(job: str) -> set[str]:
        return {key.to_user_string() for key in definitions.defs.resolve_job_def(job).asset_layer.executable_asset_keys}

    assert made_by("costs") == {"pipeline_costs"}
    assert "pipeline_costs" not in made_by("predictions")
    assert "pipeline_costs" in made_by("everything")


def test_a_run_that_takes_too_long_is_ended_by_the_limit_of_its_job():
    every = [*jobs.JOBS, *alerts.JOBS]
    limits = {job.name: tags[jobs.MAX_RUNTIME] for job in every if jobs.MAX_RUNTIME in (tags := job.tags or {})}
    chosen = Settings()
    assert set(limits) == {job.name for job in every}
    assert limits["predictions"] == str(chosen.daily_run_limit_seconds)
    assert limits["daily_reviews"] == limits["retraining"] == str(chosen.long_run_limit_seconds)

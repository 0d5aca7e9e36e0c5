"""Plays the part of Dagster's daemon: asks the project's schedules and sensors at simulated times, and runs what they
want.

A stop of the clock is one look at everything, as after an outage of the daemon: of a schedule's ticks that have passed,
the last one is evaluated. Runs go one after the other in this process, with the resources, retries and jobs that they
always have. Run keys, cursors and tags are kept as the daemon keeps them.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import dagster as dg
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
    RUN_KEY_TAG,
)
from dagster._utils.schedules import schedule_execution_time_iterator

# The half-hourly look at the newest days and the collection of costs are asked for by name, twice and once a day; what
# is derived is made by the morning's schedule, so the automation and the hourly observation that it waits for are off.
LOOK = "newest_days_schedule"
COSTS = "costs_schedule"
SCHEDULES = (
    "weekly_maintenance_schedule",
    "daily_reviews_schedule",
    "weekly_retraining_schedule",
    "daily_predictions_schedule",
)
BACKFILL = "backfill"
SENSORS = ("new_review_files", "retraining_on_drift", "orphaned_jobs", "alerts")


@dataclass(frozen=True)
class Ran:
    """One run: who asked for it and when, for which day, and how it ended."""

    at: datetime
    job: str
    by: str
    day: str
    run_id: str
    succeeded: bool
    tags: dict[str, str]


@dataclass
class Operation:
    """The instance, the code location, and what the daemon would remember."""

    definitions: dg.Definitions
    instance: dg.DagsterInstance
    last: datetime
    cursors: dict[str, str | None] = field(default_factory=dict)
    ran: list[Ran] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    ticks: int = 0
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.repository = self.definitions.get_repository_def()

    def backfill(self, job: str, first: str, last: str) -> None:
        """One run over a range of days, as somebody launches it for a history."""
        tags = {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}
        self._run(job, BACKFILL, dg.RunRequest(tags=tags), tags)

    def stop(self, now: datetime, looks: bool, counts: bool) -> None:
        """Everything that is due at ``now``."""
        for name in (*SCHEDULES, *([LOOK] if looks else []), *([COSTS] if counts else [])):
            if self.repository.has_schedule_def(name):
                self._schedule(self.repository.get_schedule_def(name), now)
        self.last = now
        for name in SENSORS:
            if self.repository.has_sensor_def(name):
                self._sensor(self.repository.get_sensor_def(name))

    def _schedule(self, schedule: dg.ScheduleDefinition, now: datetime) -> None:
        due = self._due(schedule, now)
        if due is None:
            return
        self.ticks += 1
        context = dg.build_schedule_context(self.instance, due, repository_def=self.repository)
        try:
            found = schedule.evaluate_tick(context)
        except Exception:
            self.errors.append(f"{schedule.name}: {traceback.format_exc()}")
            return
        self.skipped[schedule.name] = found.skip_message or ""
        self._run_all(schedule.job_name, schedule.name, found.run_requests or ())

    def _due(self, schedule: dg.ScheduleDefinition, now: datetime) -> datetime | None:
        """The schedule's last tick after the last stop of the clock."""
        passed: datetime | None = None
        for tick in self._ticks(schedule, self.last):
            if tick > now:
                return passed
            passed = tick
        return passed

    def _ticks(self, schedule: dg.ScheduleDefinition, after: datetime) -> Iterator[datetime]:
        found = schedule_execution_time_iterator(
            after.timestamp(), schedule.cron_schedule, schedule.execution_timezone, ascending=True
        )
        return (tick for tick in found if tick > after)

    def _sensor(self, sensor: dg.SensorDefinition) -> None:
        self.ticks += 1
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursors.get(sensor.name),
            repository_def=self.repository,
            sensor_name=sensor.name,
            definitions=None,
            resources=self._resources(sensor),
        )
        try:
            with context:
                found = sensor.evaluate_tick(context)
        except Exception:
            self.errors.append(f"{sensor.name}: {traceback.format_exc()}")
            return
        if found.cursor is not None:
            self.cursors[sensor.name] = found.cursor
        self.skipped[sensor.name] = found.skip_message or ""
        if found.run_requests:
            self._run_all(sensor.job_name, sensor.name, found.run_requests)

    def _resources(self, sensor: dg.SensorDefinition) -> dict[str, Any]:
        return {name: (self.definitions.resources or {})[name] for name in sensor.required_resource_keys}

    def _run_all(self, job: str | None, by: str, requests: Sequence[dg.RunRequest]) -> None:
        for request in requests:
            name = request.job_name or job or ""
            known = {**request.tags, **({RUN_KEY_TAG: request.run_key} if request.run_key else {})}
            if request.run_key and self._has_run(name, by, request.run_key):
                continue
            self._run(name, by, request, known)

    def _has_run(self, job: str, by: str, run_key: str) -> bool:
        """A run key asks once, as with the daemon."""
        return any(run.job == job and run.by == by and run.tags.get(RUN_KEY_TAG) == run_key for run in self.ran)

    def _run(self, job: str, by: str, request: dg.RunRequest, tags: dict[str, str]) -> None:
        at = datetime.now(self.last.tzinfo)
        result = self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            run_config=request.run_config,
            partition_key=request.partition_key,
            tags=tags,
            asset_selection=list(request.asset_selection) if request.asset_selection else None,
            raise_on_error=False,
        )
        start, end = (tags.get(tag, "") for tag in (ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG))
        day = request.partition_key or tags.get(PARTITION_NAME_TAG) or (f"{start}...{end}" if start else "")
        self.ran.append(Ran(at, job, by, day, result.run_id, result.success, tags))

"""When drift is a reason to train again: read from the results of drift_report's checks in Dagster's event log.

What is measured, and what is large, is in ``customer_insights.drift``; the sensor is in ``sensors``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from assets import monitoring
from customer_insights.settings import Settings
from schedules import day_requests, jobs

REASON = "customer_insights/retraining_reason"
# Purchases and scores that move make every prediction wrong. One feature may move for a sale, and come back.
AT_ONCE = ("label_rate_stable", "no_score_drift")
WHEN_IT_LASTS = ("no_feature_drift",)
# Missing values are not among them: what is missing is to be mended where it comes from.


def reason(instance: DagsterInstance, now: datetime, settings: Settings) -> tuple[str, str | None]:
    """Why to train again, with the run of the report that says so; or why not, and None."""
    going = day_requests.running(instance, jobs.retraining.name)
    if going:
        return f"retraining goes on in run {going.run_id[:8]}", None
    trained = last_retraining(instance)
    cooldown = timedelta(days=settings.retraining_cooldown_days)
    if trained and now - trained < cooldown:
        return (
            f"trained on {trained:%Y-%m-%d}: drift starts no other training before "
            f"{trained + cooldown:%Y-%m-%d %H:%M} UTC"
        ), None
    zone, wanted = ZoneInfo(settings.timezone), settings.drift_reports_before_retraining
    found = {name: failures(instance, name, wanted, trained, zone) for name in (*AT_ONCE, *WHEN_IT_LASTS)}
    reports = max(len(days) for days in found.values())
    if not reports:
        return f"no drift report{f' since the training of {trained:%Y-%m-%d}' if trained else ' yet'}", None
    for name in AT_ONCE:
        if found[name] and found[name][0].failed:
            return f"{name} failed on {found[name][0].day}", found[name][0].run_id
    for name in WHEN_IT_LASTS:
        days = found[name]
        if len(days) >= wanted and all(one.failed for one in days):
            return f"{name} failed on {wanted} days in a row, {days[-1].day} to {days[0].day}", days[0].run_id
    return (
        f"no reason to train: of the last reports of {reports} days {failed_of(found)}; drift of a feature must last "
        f"for {wanted} days"
    ), None


@dataclass(frozen=True)
class CheckedDay:
    """The last result of a check on one day."""

    day: str
    failed: bool
    run_id: str


def failed_of(found: dict[str, list[CheckedDay]]) -> str:
    said = [f"{name} failed on {sum(one.failed for one in days)}" for name, days in found.items() if days]
    return ", ".join(said)


def failures(
    instance: DagsterInstance, check: str, days: int, since: datetime | None, zone: ZoneInfo
) -> list[CheckedDay]:
    """The last result of each of the newest days with a report after ``since``, the newest first, at most ``days``."""
    key = dg.AssetCheckKey(monitoring.drift_report.key, check)
    found: dict[date, CheckedDay] = {}
    cursor = None
    while len(found) <= days:
        records = instance.event_log_storage.get_asset_check_execution_history(key, limit=50, cursor=cursor)
        for record in records:
            cursor = record.id
            if record.event is None or record.status == AssetCheckExecutionRecordStatus.PLANNED:
                continue
            at = datetime.fromtimestamp(record.event.timestamp, UTC)
            if since and at <= since:
                return list(found.values())[:days]
            day = at.astimezone(zone).date()
            failed = record.status == AssetCheckExecutionRecordStatus.FAILED
            found.setdefault(day, CheckedDay(day=day.isoformat(), failed=failed, run_id=record.run_id))
        if not records:
            break
    return list(found.values())[:days]


def last_retraining(instance: DagsterInstance) -> datetime | None:
    """When the newest run of the job ended that did not fail: by schedule, by drift or by hand."""
    ended_well = dg.RunsFilter(job_name=jobs.retraining.name, statuses=[DagsterRunStatus.SUCCESS])
    record = next(iter(instance.get_run_records(ended_well, limit=1)), None)
    return datetime.fromtimestamp(record.end_time, UTC) if record and record.end_time else None

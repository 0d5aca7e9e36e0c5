"""When freshness is looked at, and who is told of what goes wrong: the checks' schedule, and the sensor ``alerts``.

What is wrong, by Dagster's instance, is found in ``schedules.incidents``; how a message gets to people is in
``resources.notifications``; what each alert means is in ``docs/alerts.md``.
"""

from __future__ import annotations

import time

import dagster as dg
from pydantic import ValidationError

from assets import freshness
from customer_insights.settings import settings
from resources import notifications
from schedules import incidents, jobs, timetable

newest_days = dg.define_asset_job(
    "newest_days",
    selection=freshness.CHECKS,
    tags=jobs.DAILY_LIMIT | jobs.FIRST,
    description="Asks which day of arrival each table has reached and compares it with what is expected; no job runs.",
)


@dg.schedule(
    job=newest_days,
    cron_schedule=f"*/{settings().freshness_minutes} * * * *",
    execution_timezone=settings().timezone,
    default_status=dg.DefaultScheduleStatus.RUNNING if settings().schedules_on else dg.DefaultScheduleStatus.STOPPED,
    description=f"Asks every {settings().freshness_minutes} minutes, also when nothing arrives and nothing runs.",
)
def newest_days_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """One run at a time: those that waited behind others would all give one answer."""
    return timetable.once(context, newest_days.name)


ALERTS = "alerts"
HOW_TO_SET_UP = (
    "no channel is set up: nobody is told of anything. Set CUSTOMER_INSIGHTS_ALERT_WEBHOOK_URL, or "
    "CUSTOMER_INSIGHTS_ALERT_EMAIL_TO and CUSTOMER_INSIGHTS_SMTP_HOST (docs/alerts.md), and restart Dagster"
)


def _set_up() -> bool:
    """Whether there is a channel; also where it is set up wrongly: then the sensor's ticks fail and say so."""
    try:
        return bool(notifications.channels())
    except ValidationError:
        return True


@dg.sensor(
    name=ALERTS,
    minimum_interval_seconds=60,
    # Whoever sets a channel up wants to be told.
    default_status=dg.DefaultSensorStatus.RUNNING if _set_up() else dg.DefaultSensorStatus.STOPPED,
    description=(
        "Every minute, looks for runs that failed, checks that failed, what is late and what stands still, and tells "
        "people once when it begins and once when it is over. What a channel does not take is sent again."
    ),
)
def alerts(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """The cursor holds what is wrong, what was told of it, and what could not be sent yet."""
    channels = notifications.channels()
    if not channels:
        return dg.SkipReason(HOW_TO_SET_UP)
    state, now = incidents.State.read(context.cursor), time.time()
    found = incidents.update(context.instance, _watched(context), state, now)
    found += incidents.reminders(state, now, notifications.AlertSettings().alert_reminder_days)
    problems = incidents.deliver(state, found, channels)
    said = f"{len(found)} messages, {len(state.open)} incidents last"
    waiting = [f"{name}: {why}; {len(state.outbox[name])} wait for the next tick" for name, why in problems.items()]
    for line in waiting:
        context.log.warning(line)
    return dg.SensorResult(skip_reason="; ".join([said, *waiting]), cursor=state.model_dump_json())


def _watched(context: dg.SensorEvaluationContext) -> incidents.Watched:
    repository = context.repository_def
    if repository is None:
        raise dg.DagsterInvariantViolationError("the sensor alerts needs the code location that it belongs to")
    graph = repository.asset_graph
    keys = graph.get_all_asset_keys()
    return incidents.Watched(
        made=frozenset(key.to_user_string() for key in graph.materializable_asset_keys),
        by_day=frozenset(key.to_user_string() for key in keys if graph.get(key).is_partitioned),
        policies=frozenset(key.to_user_string() for key in keys if graph.get(key).freshness_policy),
        checks=frozenset((key.asset_key.to_user_string(), key.name) for key in graph.asset_check_keys),
        myself=ALERTS,
    )


JOBS = [newest_days]
SCHEDULES = [newest_days_schedule]
SENSORS = [alerts]

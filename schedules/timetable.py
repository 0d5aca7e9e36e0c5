"""The schedules, each declared with its hour from the settings, in the settings' time zone.

They are loaded stopped; ``CUSTOMER_INSIGHTS_SCHEDULES_ON=true`` loads them running. A tick that starts nothing says
why. Local times stay what they are when clocks change.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import dagster as dg

from assets import catalogue, conversion
from customer_insights.settings import Settings, settings
from schedules import day_requests, jobs

WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")


def cron(at: time, weekday: str | None = None) -> str:
    """Every day, or once a week, at a time of day."""
    return f"{at.minute} {at.hour} * * {WEEKDAYS.index(weekday) if weekday else '*'}"


def last_whole_day(moment: datetime) -> date:
    """The newest day that is over in UTC, and whose partition is therefore whole."""
    return moment.astimezone(UTC).date() - timedelta(days=1)


def days_of_tick(scheduled: datetime) -> tuple[str, str] | None:
    """First and last day that became whole since the tick of the day before; None where none did.

    It is one day, but for an hour that is before midnight UTC in summer and after it in winter: when clocks change, a
    day would be left out in autumn and be asked for twice in spring.
    """
    before = datetime.combine(scheduled.date() - timedelta(days=1), scheduled.time(), scheduled.tzinfo)
    first, last = last_whole_day(before) + timedelta(days=1), last_whole_day(scheduled)
    first = max(first, catalogue.DAILY.start.date())
    return (first.isoformat(), last.isoformat()) if first <= last else None


def build(chosen: Settings) -> list[dg.ScheduleDefinition]:
    """Every schedule, with the hours and the time zone of the settings."""
    status = dg.DefaultScheduleStatus.RUNNING if chosen.schedules_on else dg.DefaultScheduleStatus.STOPPED

    @dg.schedule(
        job=jobs.daily_reviews,
        cron_schedule=cron(chosen.reviews_at),
        execution_timezone=chosen.timezone,
        default_status=status,
        description=(
            f"At {chosen.reviews_at:%H:%M}, reads and scores what arrived yesterday (UTC), also where the sensor has "
            "read it: nothing is done twice, and freshness sees that the day is whole."
        ),
    )
    def daily_reviews_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """One run for the day that is over. Without anything to read it takes seconds and submits no job."""
        days = days_of_tick(context.scheduled_execution_time)
        if days is None:
            return dg.SkipReason("no day (UTC) that has a partition ended since the last tick")
        first, last = days
        runs = day_requests.unfinished(context.instance)
        going = {day: runs[day] for day in day_requests.days_between(first, last) if day in runs and runs[day].goes_on}
        if len(going) == len(day_requests.days_between(first, last)):
            return dg.SkipReason(f"{last} is being worked on by run {going[last].run_id[:8]}")
        return day_requests.request(first, last, last, {})

    @dg.schedule(
        job=jobs.predictions,
        cron_schedule=cron(chosen.predictions_at),
        execution_timezone=chosen.timezone,
        default_status=status,
        description=f"At {chosen.predictions_at:%H:%M}, predicts with the champion on everything scored so far.",
    )
    def daily_predictions_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """One run a day, once there is a champion."""
        if context.instance.get_latest_materialization_event(conversion.champion.key) is None:
            return dg.SkipReason("no champion yet: run the job `retraining`, or `everything`")
        return once(context, jobs.predictions.name)

    @dg.schedule(
        job=jobs.cost_collection,
        cron_schedule=f"0 */{chosen.costs_hours} * * *",
        execution_timezone=chosen.timezone,
        default_status=status,
        description=(
            f"Every {chosen.costs_hours} hours, collects what runs have cost, also before there is a champion and "
            "while other jobs fail."
        ),
    )
    def costs_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """One run in so many hours, and the last uses of a day are compared with its budget soon after it."""
        return once(context, jobs.cost_collection.name)

    @dg.schedule(
        job=jobs.retraining,
        cron_schedule=cron(chosen.retraining_at, chosen.retraining_weekday),
        execution_timezone=chosen.timezone,
        default_status=status,
        description=(
            f"On {chosen.retraining_weekday.capitalize()}s at {chosen.retraining_at:%H:%M}, trains a challenger; it is "
            "promoted only when the gate lets it pass."
        ),
    )
    def weekly_retraining_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """One run a week."""
        return once(context, jobs.retraining.name)

    @dg.schedule(
        job=jobs.observation,
        cron_schedule="0 * * * *",
        execution_timezone=chosen.timezone,
        default_status=status,
        description="Every hour, gives the stage's files and the visits their data versions.",
    )
    def hourly_observation_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """One run an hour; what depends on the visits runs when they have changed."""
        return once(context, jobs.observation.name)

    @dg.schedule(
        job=jobs.maintenance,
        cron_schedule=cron(chosen.maintenance_at, chosen.maintenance_weekday),
        execution_timezone=chosen.timezone,
        default_status=status,
        description=(
            f"On {chosen.maintenance_weekday.capitalize()}s at {chosen.maintenance_at:%H:%M}, removes what nobody has "
            f"needed for {chosen.kept_days} days."
        ),
    )
    def weekly_maintenance_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """One run a week."""
        return once(context, jobs.maintenance.name)

    return [
        daily_reviews_schedule,
        daily_predictions_schedule,
        costs_schedule,
        weekly_retraining_schedule,
        hourly_observation_schedule,
        weekly_maintenance_schedule,
    ]


def once(context: dg.ScheduleEvaluationContext, job_name: str) -> dg.RunRequest | dg.SkipReason:
    """A run of a job, unless one waits or goes on."""
    going = day_requests.running(context.instance, job_name)
    if going:
        return dg.SkipReason(f"run {going.run_id[:8]} of {job_name} has not ended: {going.status.value.lower()}")
    return dg.RunRequest(run_key=context.scheduled_execution_time.isoformat())


SCHEDULES = build(settings())

"""The schedules, each declared with its hour in the settings' time zone.

They are loaded stopped; ``CUSTOMER_INSIGHTS_SCHEDULES_ON=true`` loads them running.
"""

from datetime import UTC, timedelta

import dagster as dg

from assets import catalogue
from customer_insights.settings import settings
from schedules import jobs

STATUS = dg.DefaultScheduleStatus.RUNNING if settings().schedules_on else dg.DefaultScheduleStatus.STOPPED


@dg.schedule(
    job=jobs.daily_reviews,
    cron_schedule="0 5 * * *",
    execution_timezone=settings().timezone,
    default_status=STATUS,
    description="At 05:00, reads and scores what arrived yesterday (UTC); freshness expects it by 07:00.",
)
def daily_reviews_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """One run for yesterday: its day is over, also in UTC, so its partition is whole."""
    day = (context.scheduled_execution_time.astimezone(UTC).date() - timedelta(days=1)).isoformat()
    return dg.RunRequest(run_key=day, partition_key=max(day, catalogue.FIRST_DAY))


@dg.schedule(
    job=jobs.predictions,
    cron_schedule="0 7 * * *",
    execution_timezone=settings().timezone,
    default_status=STATUS,
    description="At 07:00, predicts with the champion on everything scored so far.",
)
def daily_predictions_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """One run a day."""
    return dg.RunRequest(run_key=context.scheduled_execution_time.date().isoformat())


@dg.schedule(
    job=jobs.retraining,
    cron_schedule="0 6 * * 1",
    execution_timezone=settings().timezone,
    default_status=STATUS,
    description="On Mondays at 06:00, trains a challenger; it is promoted only when the gate lets it pass.",
)
def weekly_retraining_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """One run a week."""
    return dg.RunRequest(run_key=context.scheduled_execution_time.date().isoformat())


SCHEDULES = [daily_reviews_schedule, daily_predictions_schedule, weekly_retraining_schedule]

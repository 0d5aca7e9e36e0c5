"""When freshness is looked at, and who is told of what goes wrong: the checks' schedule, and the sensor ``alerts``.

What is wrong, by Dagster's instance, is found in ``schedules.incidents``; how a message gets to people is in
``resources.notifications``; what each alert means is in ``docs/alerts.md``.
"""

from __future__ import annotations

import dagster as dg

from assets import freshness
from customer_insights.settings import settings

newest_days = dg.define_asset_job(
    "newest_days",
    selection=freshness.CHECKS,
    description="Asks which day of arrival each table has reached and compares it with what is expected; no job runs.",
)

newest_days_schedule = dg.ScheduleDefinition(
    name="newest_days_schedule",
    job=newest_days,
    cron_schedule=f"*/{settings().freshness_minutes} * * * *",
    execution_timezone=settings().timezone,
    default_status=dg.DefaultScheduleStatus.RUNNING if settings().schedules_on else dg.DefaultScheduleStatus.STOPPED,
    description=f"Asks every {settings().freshness_minutes} minutes, also when nothing arrives and nothing runs.",
)

JOBS = [newest_days]
SCHEDULES = [newest_days_schedule]

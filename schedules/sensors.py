"""The sensors: new files on the stage start a run; automation keeps what is downstream in step.

They are loaded stopped; ``CUSTOMER_INSIGHTS_SCHEDULES_ON=true`` loads them running.
"""

import hashlib
import json

import dagster as dg

from assets import catalogue
from customer_insights.settings import settings
from resources.snowflake import SnowflakeConnection
from schedules import jobs

STATUS = dg.DefaultSensorStatus.RUNNING if settings().schedules_on else dg.DefaultSensorStatus.STOPPED


@dg.sensor(
    job=jobs.daily_reviews,
    minimum_interval_seconds=60,
    default_status=STATUS,
    description="Looks at the stage every minute and starts one run for each day that has new files.",
)
def new_review_files(
    context: dg.SensorEvaluationContext, snowflake: SnowflakeConnection
) -> dg.SensorResult | dg.SkipReason:
    """The cursor holds one fingerprint a day; a day whose fingerprint changed is requested, under a run key that holds
    it."""
    from customer_insights import stage_files

    seen: dict[str, str] = json.loads(context.cursor or "{}")
    by_day: dict[str, list[str]] = {}
    with snowflake.session() as session:
        for file in stage_files.list_files(session, f"@{settings().review_stage}"):
            by_day.setdefault(file.arrival_date.isoformat(), []).append(f"{file.name} {file.size} {file.md5}")
    found = {
        day: hashlib.sha256("\n".join(sorted(files)).encode()).hexdigest()[:16]
        for day, files in by_day.items()
        if day >= catalogue.DAILY.start.date().isoformat()
    }
    changed = sorted(day for day, fingerprint in found.items() if seen.get(day) != fingerprint)
    if not changed:
        return dg.SkipReason(
            f"nothing new on @{settings().review_stage}: {sum(map(len, by_day.values()))} files, all seen"
        )
    return dg.SensorResult(
        run_requests=[dg.RunRequest(run_key=f"{day}-{found[day]}", partition_key=day) for day in changed],
        cursor=json.dumps(found, sort_keys=True),
    )


automation = dg.AutomationConditionSensorDefinition(
    "automation",
    target=dg.AssetSelection.all(),
    default_status=STATUS,
    description="Materializes what is downstream when what it depends on has changed.",
)

SENSORS = [new_review_files, automation]

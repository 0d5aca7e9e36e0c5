"""The sensors: new files on the stage start a run; automation keeps what is downstream in step; a sweep cancels jobs
that nobody watches.

Those that start runs are loaded stopped; ``CUSTOMER_INSIGHTS_SCHEDULES_ON=true`` loads them running.
"""

import json
from contextlib import closing

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
    """The cursor holds one version a day; a day whose version changed is requested, under a run key that holds it."""
    from customer_insights import stage_files

    seen: dict[str, str] = json.loads(context.cursor or "{}")
    with snowflake.session() as session:
        files = stage_files.list_files(session, f"@{settings().review_stage}")
    found = {
        day: version[:16] for day, version in stage_files.versions_by_day(files).items() if day >= catalogue.FIRST_DAY
    }
    changed = sorted(day for day, version in found.items() if seen.get(day) != version)
    if not changed:
        return dg.SkipReason(f"nothing new on @{settings().review_stage}: {len(files)} files, all seen")
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


@dg.sensor(
    minimum_interval_seconds=300,
    # It starts nothing, and what it cancels costs money: it runs from the start.
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Every five minutes, cancels jobs on the compute pool whose runs are over, and removes the files that killed "
        "runs left on the stages. A run that failed keeps its job for 15 minutes, for its retry to reattach."
    ),
)
def orphaned_jobs(context: dg.SensorEvaluationContext, snowflake: SnowflakeConnection) -> dg.SkipReason:
    """Says what it did; it never asks for a run."""
    from resources.job_sweep import sweep

    schema = settings().qualified_schema
    # Its short statements give up where nobody answers; another tick comes.
    with closing(snowflake.open_polling_session()) as session:
        swept = sweep(
            session,
            context.instance,
            payload_stage=f"@{schema}.{settings().payload_stage}",
            work_stage=f"@{schema}.{settings().work_stage}",
        )
    return dg.SkipReason(str(swept))


SENSORS = [new_review_files, automation, orphaned_jobs]

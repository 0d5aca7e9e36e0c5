"""The sensors: new files on the stage start a run; automation keeps what is downstream in step; drift retrains; a sweep
cancels jobs that nobody watches.

Those that start runs are loaded stopped; ``CUSTOMER_INSIGHTS_SCHEDULES_ON=true`` loads them running. Which days and
versions are asked for is decided in ``day_requests`` and ``retraining``.
"""

from contextlib import closing
from datetime import UTC

import dagster as dg

# The daemon's own clock, which tests of a month can set (`dagster._core.test_utils.freeze_time`).
from dagster._time import get_current_datetime

from assets import catalogue
from customer_insights.settings import settings
from resources.snowflake import SnowflakeConnection
from schedules import day_requests, jobs, retraining

STATUS = dg.DefaultSensorStatus.RUNNING if settings().schedules_on else dg.DefaultSensorStatus.STOPPED


@dg.sensor(
    job=jobs.daily_reviews,
    minimum_interval_seconds=60,
    default_status=STATUS,
    description=(
        "Looks at the stage every minute and starts runs for days with unread files, one for days in a row; a day that "
        "failed is asked for again, alone, a few times."
    ),
)
def new_review_files(
    context: dg.SensorEvaluationContext, snowflake: SnowflakeConnection
) -> dg.SensorResult | dg.SkipReason:
    """The ledger says which files have been read; the cursor, which of them need not be looked up any more.

    LIST wants no warehouse. One is used only when the files are others than at the last tick, or a day is not done.
    """
    from customer_insights import ingest, stage_files

    chosen, now = settings(), get_current_datetime()
    before = day_requests.Cursor.of(context.cursor)
    runs = {
        day: run
        for day, run in day_requests.unfinished(context.instance).items()
        if catalogue.FIRST_DAY <= day <= now.date().isoformat()
    }
    with snowflake.session() as session:
        files = stage_files.list_files(session, ingest.review_stage(chosen))
        found = {
            day: version[: day_requests.VERSION_LETTERS]
            for day, version in stage_files.versions_by_day(files).items()
            if catalogue.FIRST_DAY <= day <= now.date().isoformat()
        }
        # They are ordered by time.
        newest = {file.arrival_date.isoformat(): file.modified.replace(tzinfo=UTC).timestamp() for file in files}
        changed = before.changed(found)
        looked_up = changed - set(runs)
        listed = [file for file in files if file.arrival_date.isoformat() in looked_up]
        unread = {file.arrival_date.isoformat() for file in ingest.unread(session, listed)} if listed else set()
    not_read = unread | (changed & set(runs))
    to_do = not_read | set(runs)
    planned = day_requests.plan(to_do, found, newest, before.asked, runs, now.timestamp(), chosen)
    asked = {day: entry for day, entry in before.asked.items() if day in to_do}
    requests, asked = day_requests.requests(planned, found, asked, runs, now.timestamp(), chosen)
    cursor = str(day_requests.Cursor.after(found, not_read, asked, now.date()))
    stage = f"@{chosen.review_stage}"
    if requests:
        return dg.SensorResult(run_requests=requests, cursor=cursor)
    if planned.waiting:
        return dg.SensorResult(skip_reason=f"nothing to ask for on {stage}: {planned}", cursor=cursor)
    return dg.SensorResult(
        skip_reason=f"nothing new on {stage}: {len(files)} files of {len(found)} days, all read", cursor=cursor
    )


@dg.sensor(
    job=jobs.retraining,
    minimum_interval_seconds=600,
    default_status=STATUS,
    description=(
        "Every ten minutes, looks at the checks of drift_report: drifted purchases or scores, or features that stay "
        "drifted for days, start one retraining; the next not before the cool-down is over."
    ),
)
def retraining_on_drift(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """One run a drift, with the reason in its tags. Needs no warehouse: the checks are in Dagster's event log."""
    reason, report = retraining.reason(context.instance, get_current_datetime(), settings())
    if report is None:
        return dg.SkipReason(reason)
    return dg.SensorResult(
        run_requests=[dg.RunRequest(run_key=f"drift-{report}", tags={retraining.REASON: reason})],
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


SENSORS = [new_review_files, retraining_on_drift, automation, orphaned_jobs]

"""The job ``maintenance``: removes what nobody needs any more, or says what it would remove. What that is, is in
``resources.maintenance``; when the job runs, in ``timetable``."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg
from dagster._time import get_current_datetime
from pydantic import Field

from assets import catalogue
from customer_insights.settings import settings
from resources.snowflake import SnowflakeConnection

if TYPE_CHECKING:
    from snowflake.snowpark import Session

    from resources.maintenance import Leftover, Place

MOST_SHOWN = 200
POOL = "maintenance"


class Maintenance(dg.Config):
    """How to clean up."""

    dry_run: bool = Field(default=False, description="only say what would be removed")
    older_than_days: int | None = Field(default=None, ge=0, description="instead of the setting kept_days")
    as_of: str | None = Field(default=None, description="moment (ISO, UTC where it names no zone) instead of now")

    @property
    def before(self) -> datetime:
        """What was made earlier is old."""
        now = datetime.fromisoformat(self.as_of) if self.as_of else get_current_datetime()
        days = settings().kept_days if self.older_than_days is None else self.older_than_days
        return (now if now.tzinfo else now.replace(tzinfo=UTC)) - timedelta(days=days)


def _report(
    context: dg.OpExecutionContext,
    config: Maintenance,
    snowflake: SnowflakeConnection,
    find: "Callable[[Session, Place], list[Leftover]]",
) -> None:
    """Find, remove unless it is a dry run, and say both in the metadata.

    Raises:
        dg.Failure: the server refused to remove something; everything else was removed.
    """
    from resources.maintenance import Place, Removed, clear

    place = Place(settings(), config.before)
    with snowflake.session() as session:
        found = find(session, place)
        done = Removed(found) if config.dry_run else clear(session, found)
    rows = [
        (one.kind, one.name, "unknown" if one.bytes is None else one.bytes, done.refused.get(one.name, one.why))
        for one in found[:MOST_SHOWN]
    ]
    what = "to be removed" if config.dry_run else "removed"
    more = f", {MOST_SHOWN} of them below" if len(found) > MOST_SHOWN else ""
    context.log.info(
        f"{len(found) - len(done.refused)} {what}, {done.bytes} bytes; made before {place.before:%Y-%m-%d}"
    )
    metadata = {
        what: len(found) - len(done.refused),
        "refused": len(done.refused),
        "bytes": done.bytes,
        "made before": place.before.isoformat(timespec="minutes"),
        "found": catalogue.markdown_table(("kind", "name", "bytes", "why"), rows) if rows else "nothing",
    }
    if done.refused:
        first = next(iter(done.refused.items()))
        raise dg.Failure(
            f"{len(done.refused)} of {len(found)} could not be removed{more}, the others were; {first[0]}: {first[1]}",
            metadata=metadata,
            allow_retries=False,
        )
    context.add_output_metadata(metadata)


@dg.op(pool=POOL, description="Services of ended jobs, with their logs and results.", out=dg.Out(dg.Nothing))
def ended_jobs(context: dg.OpExecutionContext, config: Maintenance, snowflake: SnowflakeConnection) -> None:
    """Of runs that are over."""
    from resources import maintenance

    _report(context, config, snowflake, lambda session, place: maintenance.ended_jobs(session, place, context.instance))


@dg.op(
    pool=POOL,
    ins={"after": dg.In(dg.Nothing)},
    out=dg.Out(dg.Nothing),
    description="Files on the stages: payloads that no job was started from, folders of runs that are over.",
)
def stage_folders(context: dg.OpExecutionContext, config: Maintenance, snowflake: SnowflakeConnection) -> None:
    """After the jobs, which say which payloads are used."""
    from resources import maintenance

    _report(
        context,
        config,
        snowflake,
        lambda session, place: [
            *maintenance.old_payloads(session, place),
            *maintenance.run_folders(session, place, context.instance),
        ],
    )


@dg.op(pool=POOL, description="Tables of publications that were cut off.", out=dg.Out(dg.Nothing))
def staging_tables(context: dg.OpExecutionContext, config: Maintenance, snowflake: SnowflakeConnection) -> None:
    """Temporary tables go with their session; these did not."""
    from resources import maintenance

    _report(context, config, snowflake, maintenance.staging_tables)


@dg.op(
    pool=POOL,
    description="Old versions of the model that never served, and what was kept of versions that are gone.",
    out=dg.Out(dg.Nothing),
)
def model_versions(context: dg.OpExecutionContext, config: Maintenance, snowflake: SnowflakeConnection) -> None:
    """The training sets and rows of the versions go with them."""
    from resources import maintenance

    def find(session: "Session", place: "Place") -> "list[Leftover]":
        versions = maintenance.old_versions(session, place)
        gone = [version.name for version in versions]
        return [
            *versions,
            *maintenance.training_sets(session, place, gone),
            *maintenance.records_of_versions(session, place, gone),
        ]

    _report(context, config, snowflake, find)


@dg.job(
    tags={"dagster/max_runtime": str(settings().daily_run_limit_seconds)},
    config=dg.RunConfig(
        ops={name: Maintenance() for name in ("ended_jobs", "stage_folders", "staging_tables", "model_versions")}
    ),
    description=(
        "Removes ended jobs, old files of ours on the stages, left-over tables and old versions of the model. With "
        "`dry_run: true` in the launchpad it only says what it would remove. Nothing that a run or the champion needs."
    ),
)
def maintenance() -> None:
    """Four steps, of which a refused one leaves the others to do their work."""
    stage_folders(after=ended_jobs())
    staging_tables()
    model_versions()

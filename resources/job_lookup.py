"""The jobs that are on Snowflake already: found by the comment that every submission of this project's client carries.

Whether one of them is to be read on, waited for or cancelled before another is submitted is decided here, and which
are left over is for ``job_sweep``. Submitting and watching are not here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, PartitionKeyRange

if TYPE_CHECKING:
    from dagster import AssetExecutionContext, OpExecutionContext
    from snowflake.snowpark import Session

    from resources.job_submission import JobIdentity

TERMINAL = frozenset({"DONE", "FAILED", "CANCELLED", "INTERNAL_ERROR", "DELETED"})
RANGE = "..."


@dataclass(frozen=True)
class KnownJob:
    """One job of a Dagster run, as Snowflake lists it; the last six from its comment."""

    id: str
    name: str
    status: str
    created_on: datetime
    comment: str
    run_id: str
    step: str
    retry: int
    partition: str | None
    work: str | None

    @property
    def is_live(self) -> bool:
        return self.status not in TERMINAL

    @property
    def age_seconds(self) -> float:
        return max(0.0, (datetime.now(UTC) - self.created_on).total_seconds())

    @property
    def described(self) -> str:
        window = f" for {self.partition}" if self.partition else ""
        return f"job {self.id}{window} ({self.status}) of run {self.run_id}"


def jobs_in(session: Session, schema: str, name_begins: str = "") -> list[KnownJob]:
    """The jobs of Dagster runs in a schema, oldest first; others, whose comment is not ours, are left out."""
    like = f"LIKE '{name_begins}%' " if name_begins else ""
    rows = session.sql(f"SHOW JOB SERVICES {like}IN SCHEMA {schema}").collect()
    # LIKE takes the underscores of a name for any character.
    found = [job for row in rows if (job := _known(row.as_dict())) and job.name.startswith(name_begins)]
    return sorted(found, key=lambda job: (job.created_on, job.name))


def _known(row: dict) -> KnownJob | None:
    try:
        values = json.loads(row["comment"] or "")
        run_id, step = str(values["dagster_run_id"]), str(values["step"])
    except (ValueError, KeyError, TypeError):
        return None
    created: datetime = row["created_on"]
    return KnownJob(
        id=f"{row['database_name']}.{row['schema_name']}.{row['name']}",
        name=row["name"],
        status=row["status"],
        created_on=created.replace(tzinfo=UTC) if created.tzinfo is None else created.astimezone(UTC),
        comment=row["comment"],
        run_id=run_id,
        step=step,
        retry=int(values.get("retry", 0)),
        partition=values.get("partition"),
        work=values.get("work"),
    )


def reattached_tag(step: str) -> str:
    """The tag of a run whose step reads on a job that another attempt submitted; its value is the job's id."""
    return f"snowflake_reattached/{step[-60:]}"


def owners(instance: DagsterInstance, job: KnownJob) -> Iterator[DagsterRun | None]:
    """The run that submitted the job, None where this instance does not know it, and those that reattached to it."""
    yield instance.get_run_by_id(job.run_id)
    yield from instance.get_runs(filters=dg.RunsFilter(tags={reattached_tag(job.step): job.id}))


@dataclass(frozen=True)
class Standing:
    """What the jobs that are there mean for one that is about to be submitted.

    Attributes:
        reattach: A job that does the same work and runs, submitted by an attempt that is over.
        unread: A job that did the same work and ended well, submitted by an attempt that is over.
        cancel: Live jobs of attempts that are over, which nobody will read: their run was cancelled, or they do other
            work (other code, other settings) on the same partitions.
        wait_for: Live jobs of attempts that go on, or of another Dagster instance, on the same partitions.
    """

    reattach: KnownJob | None
    unread: KnownJob | None
    cancel: tuple[KnownJob, ...]
    wait_for: tuple[KnownJob, ...]


def standing(
    context: AssetExecutionContext | OpExecutionContext, identity: JobIdentity, work: str, jobs: Sequence[KnownJob]
) -> Standing:
    """Sort the jobs of the same step by what they mean to the attempt ``identity``, which wants to do ``work``."""
    reattach, unread = None, None
    cancel, wait_for = [], []
    for job in jobs:
        of_this_attempt = (job.run_id, job.retry) == (identity.run_id, identity.retry)
        if job.step != identity.step or of_this_attempt:
            continue
        same_work = job.work == work
        if not job.is_live:
            if same_work and job.status == "DONE" and _attempts_are_over(context, identity, job):
                unread = job
            continue
        if not _overlap(context, job.partition, identity.partition):
            continue
        if not _attempts_are_over(context, identity, job):
            wait_for.append(job)
        elif same_work and not reattach and job.status != "CANCELLING" and not _cancelled(context.instance, job):
            reattach = job
        else:
            cancel.append(job)
    return Standing(reattach, unread, tuple(cancel), tuple(wait_for))


def _attempts_are_over(
    context: AssetExecutionContext | OpExecutionContext, identity: JobIdentity, job: KnownJob
) -> bool:
    for run in owners(context.instance, job):
        if run is not None and run.run_id == identity.run_id:
            # An earlier attempt of this very step: it is over, or this one would not be.
            continue
        if run is None or not run.is_finished:
            return False
    return True


def _cancelled(instance: DagsterInstance, job: KnownJob) -> bool:
    return any(run is not None and run.status == DagsterRunStatus.CANCELED for run in owners(instance, job))


def _overlap(context: AssetExecutionContext | OpExecutionContext, one: str | None, other: str | None) -> bool:
    if one == other or one is None or other is None:
        return True
    return bool(_keys(context, one) & _keys(context, other))


def _keys(context: AssetExecutionContext | OpExecutionContext, label: str) -> set[str]:
    """The partition keys of a label ``key`` or ``first...last``."""
    if RANGE not in label or not context.has_assets_def or context.assets_def.partitions_def is None:
        return {label}
    first, last = label.split(RANGE, 1)
    return set(context.assets_def.partitions_def.get_partition_keys_in_range(PartitionKeyRange(first, last)))

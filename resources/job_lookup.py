"""The jobs that are on Snowflake already: found by the comment that every submission of this project's client carries.

Whether one of them is to be read on, waited for or cancelled before another is submitted is decided here, and which
are left over is for ``job_sweep``. Submitting and watching are not here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import dagster as dg
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, PartitionKeyRange
from dagster._core.storage.runs import SqlRunStorage

if TYPE_CHECKING:
    from dagster import AssetExecutionContext, OpExecutionContext
    from snowflake.snowpark import Session

    from resources.job_submission import JobIdentity

TERMINAL = frozenset({"DONE", "FAILED", "CANCELLED", "INTERNAL_ERROR", "DELETED"})
RANGE = "..."


@dataclass(frozen=True)
class KnownJob:
    """One job of a Dagster run, as Snowflake lists it; the last seven from its comment."""

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
    instance: str | None

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
        instance=values.get("instance"),
    )


def run_tag(kind: Literal["job", "reattached"], step: str, call: int = 1) -> str:
    """The tag of a run for the id of its step's job, or of a job that it reads on for another attempt.

    Dagster allows one slash, and 63 characters after it.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", step)[-60:]
    return f"snowflake_{kind}/{name}" if call == 1 else f"snowflake_{kind}/{name}.{call}"


def instance_id(instance: DagsterInstance) -> str | None:
    """What tells one Dagster instance from others that use the same schema; None where its storage has no id."""
    storage = instance.run_storage
    return storage.get_run_storage_id() if isinstance(storage, SqlRunStorage) else None


def owners(instance: DagsterInstance, job: KnownJob) -> Iterator[DagsterRun | None]:
    """The run that submitted the job, None where it is another instance's, and those that reattached to it.

    A run of this instance that somebody has deleted is no owner.
    """
    run = instance.get_run_by_id(job.run_id)
    if run is not None or job.instance is None or job.instance != instance_id(instance):
        yield run
    yield from instance.get_runs(filters=dg.RunsFilter(tags={run_tag("reattached", job.step): job.id}))


def retries(instance: DagsterInstance, job: KnownJob) -> list[DagsterRun]:
    """Re-executions of the run that submitted the job, also those that wait in the queue and may reattach."""
    run = instance.get_run_by_id(job.run_id)
    root = (run.root_run_id if run else None) or job.run_id
    return list(instance.get_runs(filters=dg.RunsFilter(tags={"dagster/root_run_id": root})))


@dataclass(frozen=True)
class Standing:
    """What the jobs that are there mean for one that is about to be submitted.

    Attributes:
        reattach: A job that does the same work and runs, submitted by an attempt that is over.
        unread: A job that did the same work and ended well, submitted by an attempt that is over. Its files tell
            whether its messages were read.
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


def run_is_over(context: AssetExecutionContext | OpExecutionContext) -> bool:
    """Whether the run of this step has ended: its worker died, and this process was left over."""
    run = context.instance.get_run_by_id(context.run_id)
    return run is not None and run.is_finished


def is_read_by_another(context: AssetExecutionContext | OpExecutionContext, job: KnownJob) -> bool:
    """Whether another run that goes on reattached to the job, too, and is older than this one."""

    def age(run_id: str) -> tuple[float, str]:
        record = context.instance.get_run_record_by_id(run_id)
        return record.create_timestamp.timestamp() if record else 0.0, run_id

    others = [run for run in owners(context.instance, job) if run and run.run_id != context.run_id]
    return any(not run.is_finished and age(run.run_id) < age(context.run_id) for run in others)


def is_retry_of(instance: DagsterInstance, run_id: str, job: KnownJob) -> bool:
    """Whether a run is the job's, or a re-execution of it."""
    return run_id == job.run_id or any(run.run_id == run_id for run in retries(instance, job))


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

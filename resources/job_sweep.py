"""What is left of runs that are over: live jobs that nobody watches, their files, and files of killed jobs.

A run that ends well, fails or is cancelled cleans up after itself. Something is left where its worker was killed and no
retry came, or where Snowflake was out of reach at the end. What a run still needs is decided by Dagster's instance; a
run that the instance does not know is another instance's, and is left alone.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from customer_insights.jobs.pipes_stage_writer import quoted
from resources.errors import SnowflakeJobError
from resources.job_lookup import KnownJob, jobs_in, owners, retries
from resources.job_watch import cancel
from resources.pipes_stage import remove_files

if TYPE_CHECKING:
    from snowflake.snowpark import Session

logger = logging.getLogger(__name__)

# A retry of a failed run is started within a minute or so, and reattaches to its job.
GRACE_SECONDS = 900.0
# ``<STEP>_<run id>_<hash>``, as ``JobIdentity.job_name`` makes it.
_JOB_NAME = re.compile(r".+_([0-9A-F]{32})_[0-9A-F]{6}")
_RUN_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass
class Swept:
    """What one sweep did: ids of the jobs that were cancelled, stage locations that were removed."""

    cancelled: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.cancelled and not self.removed:
            return "no orphaned job, no left-over file"
        return f"cancelled {len(self.cancelled)} orphaned jobs, removed {len(self.removed)} left-over folders: " + (
            ", ".join([*self.cancelled, *self.removed])
        )


def sweep(
    session: Session,
    instance: DagsterInstance,
    *,
    payload_stage: str,
    work_stage: str,
    grace_seconds: float = GRACE_SECONDS,
) -> Swept:
    """Cancel the live jobs whose runs are over, and remove the files of jobs and runs that are over.

    Args:
        payload_stage: ``@DB.SCHEMA.STAGE`` of the job client, with the jobs' contexts and messages under ``pipes/``.
        work_stage: Stage whose folders are named after runs.
        grace_seconds: Time after a run's failure in which its retry may still be started; none after a cancel.

    Raises:
        SnowflakeJobError: some jobs could not be cancelled; everything else was done.
    """
    done = Swept()
    jobs = jobs_in(session, payload_stage.lstrip("@").rsplit(".", 1)[0])
    failures: list[str] = []
    for job in jobs:
        if job.is_live and job.status != "CANCELLING" and _is_orphaned(instance, job, grace_seconds):
            logger.warning("cancelling %s: that run is over and nobody watches its job", job.described)
            try:
                cancel(session, job.id)
                done.cancelled.append(job.id)
            except Exception as error:
                # The others are to be cancelled all the same; it is raised in the end.
                failures.append(f"{job.described}: {error}")
    by_name = {job.name: job for job in jobs}
    for name in _folders(session, f"{payload_stage}/pipes/"):
        if _is_left_over(instance, name, by_name.get(name), grace_seconds):
            done.removed.append(_removed(session, f"{payload_stage}/pipes/{name}"))
    used = {job.run_id for job in jobs if job.is_live}
    for run_id in _folders(session, f"{work_stage}/"):
        if not _RUN_ID.fullmatch(run_id) or run_id in used:
            continue
        if _is_over(instance, instance.get_run_by_id(run_id), grace_seconds):
            done.removed.append(_removed(session, f"{work_stage}/{run_id}"))
    if failures:
        raise SnowflakeJobError(f"{len(failures)} orphaned jobs could not be cancelled: " + "; ".join(failures))
    return done


def _is_left_over(instance: DagsterInstance, name: str, job: KnownJob | None, grace_seconds: float) -> bool:
    """Whether nobody will read the files of a job; ``job`` is None where it was never submitted, or is forgotten."""
    if job:
        return not job.is_live and _is_orphaned(instance, job, grace_seconds)
    found = _JOB_NAME.fullmatch(name)
    return bool(found) and _is_over(instance, instance.get_run_by_id(str(UUID(found[1]))), grace_seconds)


def _is_orphaned(instance: DagsterInstance, job: KnownJob, grace_seconds: float) -> bool:
    # A retry that waits in the queue may reattach.
    if any(not run.is_finished for run in retries(instance, job)):
        return False
    return all(_is_over(instance, run, grace_seconds) for run in owners(instance, job))


def _is_over(instance: DagsterInstance, run: DagsterRun | None, grace_seconds: float) -> bool:
    """Whether a run has ended, and long enough ago that no retry of it will come and read its job."""
    if run is None or not run.is_finished:
        return False
    if run.status == DagsterRunStatus.CANCELED:
        return True
    record = instance.get_run_record_by_id(run.run_id)
    ended = record.end_time if record else None
    return ended is None or time.time() - ended > grace_seconds


def _folders(session: Session, location: str) -> list[str]:
    """Names of the folders right under a stage location."""
    depth = len(location.strip("/").split("/"))
    from snowflake.connector.errors import ProgrammingError

    try:
        with session.connection.cursor() as cursor:
            rows: Iterable = cursor.execute(f"LIST {quoted(location)}") or ()
            # A listed name begins with the stage's own, without database and schema.
            return sorted({parts[depth] for row in rows if len(parts := str(row[0]).split("/")) > depth + 1})
    except ProgrammingError as error:
        # 2003: no such stage; the first job creates it.
        if error.errno != 2003:
            raise
        return []


def _removed(session: Session, location: str) -> str:
    remove_files(session.connection, location)
    return location

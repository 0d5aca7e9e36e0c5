"""One attempt of a step at its job: waits for other jobs of the partition, then reads on that of an earlier attempt or
submits its own.

What the other jobs mean is decided in ``job_lookup.py``; what a user of the client calls is in ``snowflake_jobs.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster_pipes import PipesExtras

from resources.errors import JobQueueTimeoutError
from resources.job_lookup import KnownJob, Standing, instance_id, is_retry_of, jobs_in, run_is_over, standing
from resources.job_payload import PayloadSnapshot, UploadedPayload, upload_once
from resources.job_submission import JobIdentity, StepContext, Submission, schema_of, work_digest
from resources.job_watch import Polling, WatchedJob, cancel
from resources.pipes_stage import GivenContextInjector, StageContextInjector, StageMessageReader, has_context
from resources.snowflake import ReconnectingSession

if TYPE_CHECKING:
    from dagster import PipesSession


@dataclass(frozen=True)
class WantedJob:
    """What a step asks for, with the client's own values filled in."""

    entry: str
    payload: PayloadSnapshot
    args: tuple[str, ...]
    extras: PipesExtras | None
    env_vars: Mapping[str, str]
    compute_pool: str
    target_instances: int
    min_instances: int
    query_warehouse: str | None
    external_access_integrations: tuple[str, ...]
    queue_timeout: float
    run_timeout: float
    require_materializations: bool


@dataclass(frozen=True)
class Habits:
    """How the client goes about every job."""

    payload_prefix: str
    polling: Polling
    cancel_timeout: float


class Attempt:
    """One attempt of a step at one job."""

    def __init__(
        self, context: StepContext, snowflake: ReconnectingSession, stage: str, wanted: WantedJob, habits: Habits
    ) -> None:
        self._context = context
        self._snowflake = snowflake
        self._stage = stage
        self._wanted = wanted
        self._habits = habits
        self._identity = JobIdentity.of(context)
        self._work = work_digest(
            self._identity,
            wanted.payload,
            wanted.entry,
            args=wanted.args,
            extras=wanted.extras,
            env_vars=dict(wanted.env_vars),
            compute_pool=wanted.compute_pool,
            target_instances=wanted.target_instances,
        )

    def run(self, needed: Callable[[], bool] | None) -> tuple[WatchedJob, PipesSession] | None:
        """The job that was watched to its good end, with what it reported; None when nothing was ``needed``.

        ``needed`` is asked when no other job of the partition runs any more, and again after an earlier attempt's job:
        more may have come since that was submitted.
        """
        found = self._wait_for_others()
        earlier = found.reattach
        if not earlier:
            done = needed is not None and not needed()
            earlier = self._unread(found, done)
            if done and not earlier:
                return None
        if earlier:
            ended = self._watch(earlier)
            if not needed or not needed():
                return ended
        # Before anything else is put on the stage: the upload creates it where it does not exist.
        return self._watch(self._upload())

    # -- other jobs of the partition -----------------------------------------------------------------------------

    def _wait_for_others(self) -> Standing:
        begun = time.monotonic()
        intervals = self._habits.polling.intervals()
        told: set[str] = set()
        while True:
            if run_is_over(self._context):
                # This process was left over; it must not submit for a run that another has taken the place of.
                raise dg.DagsterExecutionInterruptedError
            found = self._look()
            for job in found.cancel:
                if job.id not in told and job.status != "CANCELLING":
                    self._context.log.info(f"cancelling {job.described}: that run is over and nobody reads its job")
                    self._snowflake.call(lambda session, job=job: cancel(session, job.id))
            for job in found.wait_for:
                if job.id not in told:
                    self._context.log.info(f"waiting for {job.described}, which works on the same partition")
            in_the_way = (*found.cancel, *found.wait_for)
            if not in_the_way:
                return found
            told |= {job.id for job in in_the_way}
            if time.monotonic() - begun > self._wanted.queue_timeout:
                raise JobQueueTimeoutError(
                    f"waited more than {self._wanted.queue_timeout:g} s (queue_timeout) for {in_the_way[0].described}, "
                    "which works on the same partition; nothing was submitted. Look at that run, or cancel that job"
                )
            time.sleep(next(intervals))

    def _look(self) -> Standing:
        begins = self._identity.name_begins
        jobs = self._snowflake.call(lambda session: jobs_in(session, schema_of(self._stage), begins))
        return standing(self._context, self._identity, self._work, jobs)

    def _unread(self, found: Standing, done: bool) -> KnownJob | None:
        """A job that ended while nobody watched, where what it reported is what this attempt would report.

        That is so when its work is ``done``, and for a retry of the run that submitted it.
        """
        job = found.unread
        if not job or not (done or is_retry_of(self._context.instance, self._context.run_id, job)):
            return None
        location = self._location(job.name)
        there = self._snowflake.call(lambda session: has_context(session.connection, location))
        return job if there else None

    # -- the job -------------------------------------------------------------------------------------------------

    def _location(self, job_name: str) -> str:
        return f"{self._stage}/pipes/{job_name}"

    def _watch(self, source: KnownJob | UploadedPayload) -> tuple[WatchedJob, PipesSession]:
        """Read on an earlier attempt's job, or submit a job of a payload and follow it."""
        wanted = self._wanted
        if isinstance(source, KnownJob):
            location = self._location(source.name)
            injector = GivenContextInjector(location)
        else:
            location = self._location(self._identity.job_name)
            injector = StageContextInjector(self._snowflake, location)
        reader = StageMessageReader(self._snowflake, location)
        job = WatchedJob(
            self._context,
            self._snowflake,
            reader,
            polling=self._habits.polling,
            queue_timeout=wanted.queue_timeout,
            run_timeout=wanted.run_timeout,
            cancel_timeout=self._habits.cancel_timeout,
            known=source if isinstance(source, KnownJob) else None,
        )
        try:
            with dg.open_pipes_session(
                context=self._context,  # pyright: ignore[reportArgumentType]
                context_injector=injector,
                message_reader=reader,
                extras=wanted.extras,
            ) as pipes_session:
                if isinstance(source, KnownJob):
                    job.reattach()
                else:
                    job.run(self._submission(source, pipes_session.get_bootstrap_env_vars()))
                job.require_success(pipes_session, wanted.require_materializations)
        finally:
            # Otherwise a retry reads them, or the sweep removes them.
            if job.is_settled:
                job.remove_files(location)
        return job, pipes_session

    def _upload(self) -> UploadedPayload:
        wanted = self._wanted
        return self._snowflake.call(
            lambda session: upload_once(
                session,
                wanted.payload,
                wanted.entry,
                stage=self._stage,
                prefix=self._habits.payload_prefix,
                compute_pool=wanted.compute_pool,
            )
        )

    def _submission(self, uploaded: UploadedPayload, bootstrap: Mapping[str, Any]) -> Submission:
        wanted = self._wanted
        return Submission(
            identity=self._identity,
            work=self._work,
            instance=instance_id(self._context.instance),
            payload=uploaded,
            payload_digest=wanted.payload.digest,
            compute_pool=wanted.compute_pool,
            stage=self._stage,
            args=wanted.args,
            env_vars={**wanted.env_vars, **bootstrap},
            target_instances=wanted.target_instances,
            min_instances=wanted.min_instances,
            query_warehouse=wanted.query_warehouse,
            external_access_integrations=wanted.external_access_integrations,
        )

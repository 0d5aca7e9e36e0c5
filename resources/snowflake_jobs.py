"""``PipesSnowflakeJobClient``: a Dagster Pipes client for Snowflake ML Jobs (batch jobs on a compute pool).

    client = PipesSnowflakeJobClient(
        connection_name="embedded",
        compute_pool="HOL_COMPUTE_POOL",
        payload=Payload(root=Path("."), include=("customer_insights/**/*.py",)),
        payload_stage="HOL_DB.HOL_SCHEMA.PAYLOAD_STAGE",
        query_warehouse="HOL_WAREHOUSE",
    )

    @dg.asset
    def raw_reviews(context: dg.AssetExecutionContext, jobs: dg.ResourceParam[PipesSnowflakeJobClient]):
        return jobs.run(
            context=context,
            entrypoint="customer_insights.jobs.ingest_reviews",   # or the path of the file
            args=["--limit", "100"],                              # sys.argv of the entry point
            extras={"window": ["2026-01-01", "2026-01-02"]},      # pipes.extras in the job, of any size
        ).get_materialize_result()

In the job: ``with open_job_pipes() as (pipes, session): ...`` (``customer_insights/jobs/pipes_stage_writer.py``).

The parts: the files that go along (``job_payload.py``), the submission (``job_submission.py``), watching and cancelling
(``job_watch.py``), messages (``pipes_stage.py``), the log (``job_logs.py``). Nothing in them knows what a job computes.

One job of a step is found again by its name, ``<STEP>_<run id>_<hash of step, retry and call>``: it is the
idempotency key of the submission, and the folder of its context and messages on the stage. Its comment holds the run
id, step, retry, partition, payload and the hash of its work as JSON, and the run's tag ``snowflake_job/<step>`` its id.

Before a job is submitted the step's other jobs are looked at (``job_lookup.py``). One that does the same work, and
whose attempt is over because its worker died or was shut down, is not repeated: this attempt reattaches to it. Of two
attempts for one partition that both go on, the later waits for the earlier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Required, TypedDict, Unpack

import dagster as dg
from dagster import PipesClientCompletedInvocation
from dagster._core.definitions.resource_annotation import TreatAsResourceParam
from dagster_pipes import PipesExtras

from resources.errors import JobRejectedError
from resources.job_attempt import Attempt, Habits, WantedJob
from resources.job_payload import Payload
from resources.job_submission import StepContext, instance_family, qualified_stage
from resources.job_watch import Polling, WatchedJob
from resources.snowflake import ReconnectingSession, SnowflakeConnection

if TYPE_CHECKING:
    from dagster import MaterializeResult, PipesSession
    from dagster._core.pipes.context import PipesExecutionResult
    from snowflake.snowpark import Session

__all__ = ["CompletedJob", "Payload", "PipesSnowflakeJobClient", "Polling", "SnowflakeJobInvocation"]


@dataclass(frozen=True)
class CompletedJob:
    """What is known of a job that ended well; the seconds and credits of one that was reattached to are not."""

    job_id: str
    compute_pool: str
    nodes: int
    queue_seconds: float | None
    run_seconds: float | None
    payload: str
    estimated_credits: float | None
    submitted_by: str | None

    def metadata(self) -> dict[str, Any]:
        """As Dagster's metadata, under the prefix ``snowflake/``."""
        values = {
            "job_id": self.job_id,
            "compute_pool": self.compute_pool,
            "nodes": self.nodes,
            "queue_seconds": self.queue_seconds,
            "run_seconds": self.run_seconds,
            "payload": self.payload,
            "estimated_credits": self.estimated_credits,
            "submitted_by_run": self.submitted_by,
        }
        return {f"snowflake/{key}": value for key, value in values.items() if value is not None}


class JobOptions(TypedDict, total=False):
    """One job, as ``run`` takes it. What is left out is as the client has it.

    Attributes:
        entrypoint: Python file of the payload, as a path (``pkg/mod.py``) or a module name (``pkg.mod``); runs as
            ``__main__``.
        args: ``sys.argv[1:]`` of the entry point. They are in the job's spec: no secrets.
        extras: ``pipes.extras`` of the job; goes by the stage, so its size does not matter.
        env_vars: Environment besides the client's. In the job's spec: no secrets.
        payload: Files instead of the client's payload.
        compute_pool: Pool instead of the client's.
        target_instances: Nodes, by default 1; the entry point runs on the first, and Ray spans all of them.
        min_instances: Nodes with which the job may start; by default all.
        query_warehouse: Warehouse instead of the client's.
        external_access_integrations: Integrations instead of the client's.
        queue_timeout: Seconds in PENDING, or of waiting for another job, instead of the client's limit.
        run_timeout: Seconds after PENDING instead of the client's limit.
        require_materializations: Fail unless every selected asset was reported as materialized; by default true.
        extra_metadata: Metadata of every result besides the job's.
    """

    entrypoint: Required[str]
    args: Sequence[object]
    extras: PipesExtras | None
    env_vars: Mapping[str, str]
    payload: Payload
    compute_pool: str
    target_instances: int
    min_instances: int
    query_warehouse: str | None
    external_access_integrations: Sequence[str]
    queue_timeout: float
    run_timeout: float
    require_materializations: bool
    extra_metadata: Callable[[CompletedJob], Mapping[str, Any]]


class SnowflakeJobInvocation(PipesClientCompletedInvocation):
    """The results that the job reported, with the job's metadata on each, and ``job``.

    Nothing is materialized implicitly unless asked for: a job that reported nothing has done nothing that is known.
    """

    def __init__(self, session: PipesSession, job: CompletedJob, metadata: Mapping[str, Any]) -> None:
        super().__init__(session, metadata)
        self.job = job

    def get_results(self, *, implicit_materializations: bool = False) -> Sequence[PipesExecutionResult]:
        return super().get_results(implicit_materializations=implicit_materializations)

    def get_materialize_result(self, *, implicit_materialization: bool = False) -> MaterializeResult:
        return super().get_materialize_result(implicit_materialization=implicit_materialization)


class PipesSnowflakeJobClient(dg.PipesClient, TreatAsResourceParam):
    """Runs a step's work as a Snowflake ML Job and reports it through Dagster Pipes.

    Args:
        connection_name: Connection of ``connections.toml``; by default the one that Snowflake's own rules choose.
        session_factory: Opens a Snowpark session, instead of a connection's name. See
            ``SnowflakeConnection.open_polling_session`` for what it should take care of.
        compute_pool: Pool for jobs that name none.
        payload: The files for jobs that bring none.
        payload_stage: Stage for payloads, contexts and messages; made by Snowflake's client where it does not exist.
        payload_prefix: Beginning of the payload's folder there.
        query_warehouse: Warehouse of the job's session; by default the submitting session's.
        external_access_integrations: What the container may reach, for instance to install requirements.
        env_vars: Environment of every job. Whoever may describe a job reads them: no secrets.
        queue_timeout: Seconds that a job may wait for the pool.
        run_timeout: Seconds that a job may run.
        cancel_timeout: Seconds to wait for a cancelled job to be gone.
        connection_patience: Seconds for which an unreachable Snowflake is asked again while a job runs.
        polling: How often a job is looked at.
        credits_per_node_hour: For the estimate in the metadata: credits (Snowflake's consumption table), or those by
            instance family.
    """

    def __init__(
        self,
        *,
        compute_pool: str | None = None,
        payload: Payload | None = None,
        connection_name: str | None = None,
        session_factory: Callable[[], Session] | None = None,
        payload_stage: str = "PAYLOAD_STAGE",
        payload_prefix: str = "payload",
        query_warehouse: str | None = None,
        external_access_integrations: Sequence[str] = (),
        env_vars: Mapping[str, str] | None = None,
        queue_timeout: float = 1800,
        run_timeout: float = 4 * 3600,
        cancel_timeout: float = 120,
        connection_patience: float = 300,
        polling: Polling | None = None,
        credits_per_node_hour: float | Mapping[str, float] | None = None,
    ) -> None:
        named = SnowflakeConnection(connection_name=connection_name)
        self._open_session = session_factory or named.open_polling_session
        self._compute_pool = compute_pool
        self._payload = payload
        self._payload_stage = payload_stage
        self._payload_prefix = payload_prefix
        self._query_warehouse = query_warehouse
        self._external_access_integrations = tuple(external_access_integrations)
        self._env_vars = dict(env_vars or {})
        self._queue_timeout = queue_timeout
        self._run_timeout = run_timeout
        self._cancel_timeout = cancel_timeout
        self._connection_patience = connection_patience
        self._polling = polling or Polling()
        self._credits_per_node_hour = credits_per_node_hour

    def run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, *, context: StepContext, **options: Unpack[JobOptions]
    ) -> SnowflakeJobInvocation:
        """Submit a job, or reattach to that of an earlier attempt, wait for it, and return what it reported.

        Raises:
            JobRejectedError: nothing was submitted.
            JobFailedError: the status is not DONE, or the job reported an exception or too little. Carries the last
                log lines.
            JobInterruptedError: the job ended in the middle, was lost or deleted, or says that another may succeed.
            JobQueueTimeoutError: the pool, or another job of the same partition, kept this one waiting for too long.
            JobRunTimeoutError: the job ran for too long and was cancelled.
            JobOvertakenError: another job of the same partition was submitted at the same moment and came first.
            JobUnreachableError: Snowflake stayed out of reach; the job was left as it is.
            SnowflakeConnectionError: the connection does not exist or was refused.
        """
        invocation = self._run(context, options, needed=None)
        assert invocation  # noqa: S101  there is always a job when nobody asks whether it is needed
        return invocation

    def run_if(
        self, needed: Callable[[], bool], *, context: StepContext, **options: Unpack[JobOptions]
    ) -> SnowflakeJobInvocation | None:
        """As ``run``, where there is something to do; None where there is not.

        ``needed`` is asked when no other job of the partition runs any more, and again after an earlier attempt's job.
        """
        return self._run(context, options, needed)

    def _run(
        self, context: StepContext, options: JobOptions, needed: Callable[[], bool] | None
    ) -> SnowflakeJobInvocation | None:
        wanted = self._wanted(options)
        habits = Habits(self._payload_prefix, self._polling, self._cancel_timeout)
        with self._snowflake() as snowflake:
            stage = snowflake.call(lambda session: qualified_stage(session, self._payload_stage))
            ended = Attempt(context, snowflake, stage, wanted, habits).run(needed)
            if ended is None:
                return None
            job, pipes_session = ended
            completed = self._completed(snowflake, job, wanted)
        extra_metadata = options.get("extra_metadata")
        metadata = {**completed.metadata(), **(extra_metadata(completed) if extra_metadata else {})}
        return SnowflakeJobInvocation(pipes_session, completed, metadata)

    def _wanted(self, options: JobOptions) -> WantedJob:
        pool, payload = options.get("compute_pool") or self._compute_pool, options.get("payload") or self._payload
        if not pool or not payload:
            raise JobRejectedError("a job needs a compute pool and a payload: give them to the client or to run()")
        snapshot = payload.snapshot()
        instances = options.get("target_instances", 1)
        return WantedJob(
            entry=snapshot.entrypoint(options["entrypoint"]),
            payload=snapshot,
            args=tuple(str(argument) for argument in options.get("args", ())),
            extras=options.get("extras"),
            env_vars={**self._env_vars, **options.get("env_vars", {})},
            compute_pool=pool,
            target_instances=instances,
            min_instances=options.get("min_instances", instances),
            query_warehouse=options.get("query_warehouse", self._query_warehouse),
            external_access_integrations=tuple(
                options.get("external_access_integrations", self._external_access_integrations)
            ),
            queue_timeout=options.get("queue_timeout", self._queue_timeout),
            run_timeout=options.get("run_timeout", self._run_timeout),
            require_materializations=options.get("require_materializations", True),
        )

    @contextmanager
    def _snowflake(self) -> Iterator[ReconnectingSession]:
        snowflake = ReconnectingSession(self._open_session, self._connection_patience)
        try:
            yield snowflake
        finally:
            snowflake.close()

    def _completed(self, snowflake: ReconnectingSession, job: WatchedJob, wanted: WantedJob) -> CompletedJob:
        rate = self._credits_per_node_hour
        if isinstance(rate, Mapping):
            rate = rate.get(snowflake.call(lambda session: instance_family(session, wanted.compute_pool)))
        credits_used = None
        if rate is not None and job.run_seconds is not None:
            credits_used = round(job.run_seconds * wanted.target_instances / 3600 * rate, 6)
        return CompletedJob(
            job_id=job.id,
            compute_pool=wanted.compute_pool,
            nodes=wanted.target_instances,
            queue_seconds=None if job.queue_seconds is None else round(job.queue_seconds, 2),
            run_seconds=None if job.run_seconds is None else round(job.run_seconds, 2),
            payload=wanted.payload.digest,
            estimated_credits=credits_used,
            submitted_by=job.submitted_by,
        )

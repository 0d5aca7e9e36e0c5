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

Submitting, watching and cancelling belong here. The files that go along are ``job_payload.py``, the messages
``pipes_stage.py``, the log ``job_logs.py``. Nothing here knows what a job computes.

One job of a step is found again by its name, ``<STEP>_<run id>_<hash of step, retry and call>``: it is the
idempotency key of the submission, and the folder of its context and messages on the stage. Its comment holds the run
id, step, retry, partition and payload as JSON, and the run's tag ``snowflake_job/<step>`` its id.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster import AssetExecutionContext, DagsterRunStatus, OpExecutionContext, PipesClientCompletedInvocation
from dagster._core.definitions.resource_annotation import TreatAsResourceParam
from dagster_pipes import PipesExtras

from resources.errors import (
    JobFailedError,
    JobLostError,
    JobRejectedError,
    JobTimeoutError,
    JobUnreachableError,
    SnowflakeUnreachableError,
)
from resources.job_logs import LogFollower
from resources.job_payload import Payload, UploadedPayload, upload_once
from resources.pipes_stage import StageContextInjector, StageMessageReader, remove_files
from resources.snowflake import ReconnectingSession, SnowflakeConnection, causes, error_number, is_transient

if TYPE_CHECKING:
    from dagster import MaterializeResult, PipesSession
    from dagster._core.pipes.context import PipesExecutionResult
    from snowflake.ml.jobs import MLJob
    from snowflake.snowpark import Session

TERMINAL = frozenset({"DONE", "FAILED", "CANCELLED", "INTERNAL_ERROR", "DELETED"})
LOST = frozenset({"INTERNAL_ERROR", "DELETED"})
_ALREADY_EXISTS = 2002

StepContext = AssetExecutionContext | OpExecutionContext

# How often a step has called run() in this process: a step may run several jobs.
_CALLS: Counter[tuple[str, str, int]] = Counter()


@dataclass(frozen=True)
class CompletedJob:
    """What is known of a job that ended well."""

    job_id: str
    compute_pool: str
    nodes: int
    queue_seconds: float
    run_seconds: float
    payload: str
    estimated_credits: float | None

    def metadata(self) -> dict[str, Any]:
        """As Dagster's metadata, under the prefix ``snowflake/``."""
        values = {
            "job_id": self.job_id,
            "compute_pool": self.compute_pool,
            "nodes": self.nodes,
            "queue_seconds": round(self.queue_seconds, 2),
            "run_seconds": round(self.run_seconds, 2),
            "payload": self.payload,
            "estimated_credits": self.estimated_credits,
        }
        return {f"snowflake/{key}": value for key, value in values.items() if value is not None}


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


@dataclass(frozen=True)
class _Identity:
    """What tells one job from every other: see the module's docstring."""

    run_id: str
    step: str
    retry: int
    call: int
    partition: str | None

    @classmethod
    def of(cls, context: StepContext) -> _Identity:
        step = context.get_step_execution_context().step.key
        key = (context.run_id, step, context.retry_number)
        _CALLS[key] += 1
        partition = None
        if context.has_partition_key:
            window = context.partition_key_range
            partition = window.start if window.start == window.end else f"{window.start}...{window.end}"
        return cls(*key, _CALLS[key], partition)

    @property
    def job_name(self) -> str:
        # Short enough (56 of 63 characters) for a DNS label, which the name of a service becomes.
        step = re.sub(r"\W", "_", self.step).upper()[:16]
        key = hashlib.sha256(f"{self.step}\0{self.retry}\0{self.call}".encode()).hexdigest()[:6]
        return f"{step if step[:1].isalpha() else 'S' + step[:15]}_{self.run_id.replace('-', '')}_{key}".upper()

    def comment(self, payload: str) -> str:
        values = {
            "dagster_run_id": self.run_id,
            "step": self.step,
            "retry": self.retry,
            "partition": self.partition,
            "payload": payload,
        }
        return json.dumps({key: value for key, value in values.items() if value is not None})

    @property
    def tag(self) -> str:
        return "snowflake_job/" + re.sub(r"[^A-Za-z0-9_.-]", "_", self.step)[-63:]


@dataclass(frozen=True)
class _Submission:
    """One job as it is asked for."""

    identity: _Identity
    payload: UploadedPayload
    payload_digest: str
    compute_pool: str
    stage: str
    args: tuple[str, ...]
    env_vars: Mapping[str, str]
    target_instances: int
    min_instances: int
    query_warehouse: str | None
    external_access_integrations: tuple[str, ...]

    @property
    def comment(self) -> str:
        return self.identity.comment(self.payload_digest)


@dataclass(frozen=True)
class Polling:
    """Seconds between two looks at a job: the first, the longest, and the factor from one to the next."""

    first: float = 0.3
    longest: float = 5.0
    factor: float = 1.25

    def intervals(self) -> Iterator[float]:
        interval = self.first
        while True:
            yield interval
            interval = min(interval * self.factor, self.longest)


class PipesSnowflakeJobClient(dg.PipesClient, TreatAsResourceParam):
    """Runs a step's work as a Snowflake ML Job and reports it through Dagster Pipes.

    Args:
        connection_name: Connection of ``connections.toml``; by default the one that Snowflake's own rules choose.
        session_factory: Opens a Snowpark session, instead of a connection's name.
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
        cancel_on_shutdown: Cancel the job also when this process is asked to stop without the run being cancelled,
            for instance by Ctrl-C in a terminal. By default it is left running, for a restarted worker.
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
        cancel_on_shutdown: bool = False,
    ) -> None:
        self._open_session = session_factory or SnowflakeConnection(connection_name=connection_name).open_session
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
        self._cancel_on_shutdown = cancel_on_shutdown

    def run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        *,
        context: StepContext,
        entrypoint: str,
        args: Sequence[object] = (),
        extras: PipesExtras | None = None,
        env_vars: Mapping[str, str] | None = None,
        payload: Payload | None = None,
        compute_pool: str | None = None,
        target_instances: int = 1,
        min_instances: int | None = None,
        query_warehouse: str | None = None,
        external_access_integrations: Sequence[str] | None = None,
        queue_timeout: float | None = None,
        run_timeout: float | None = None,
        require_materializations: bool = True,
        extra_metadata: Callable[[CompletedJob], Mapping[str, Any]] | None = None,
    ) -> SnowflakeJobInvocation:
        """Submit a job, wait for it, and return what it reported.

        Args:
            context: The step's context.
            entrypoint: Python file of the payload, as a path (``pkg/mod.py``) or a module name (``pkg.mod``); runs as
                ``__main__``.
            args: ``sys.argv[1:]`` of the entry point. They are in the job's spec: no secrets.
            extras: ``pipes.extras`` of the job; goes by the stage, so its size does not matter.
            env_vars: Environment besides the client's. In the job's spec: no secrets.
            payload: Files instead of the client's payload.
            compute_pool: Pool instead of the client's.
            target_instances: Nodes; the entry point runs on the first, and Ray spans all of them.
            min_instances: Nodes with which the job may start; by default all.
            query_warehouse: Warehouse instead of the client's.
            external_access_integrations: Integrations instead of the client's.
            queue_timeout: Seconds in PENDING instead of the client's limit.
            run_timeout: Seconds after PENDING instead of the client's limit.
            require_materializations: Fail unless every selected asset was reported as materialized.
            extra_metadata: Metadata of every result besides the job's.

        Raises:
            JobRejectedError: nothing was submitted.
            JobFailedError: the status is not DONE, or the job reported an exception or too little. Carries the last
                log lines.
            JobLostError: Snowflake lost the job, or somebody deleted it.
            JobTimeoutError: a limit was reached; the job was cancelled.
            JobUnreachableError: Snowflake stayed out of reach; the job was left as it is.
            SnowflakeConnectionError: the connection does not exist or was refused.
        """
        pool, chosen = compute_pool or self._compute_pool, payload or self._payload
        if not pool or not chosen:
            raise JobRejectedError("a job needs a compute pool and a payload: give them to the client or to run()")
        snapshot = chosen.snapshot()
        entry = snapshot.entrypoint(entrypoint)
        identity = _Identity.of(context)
        with self._snowflake() as snowflake:
            stage = snowflake.call(lambda session: qualified_stage(session, self._payload_stage))
            uploaded = snowflake.call(
                lambda session: upload_once(
                    session, snapshot, entry, stage=stage, prefix=self._payload_prefix, compute_pool=pool
                )
            )
            location = f"{stage}/pipes/{identity.job_name}"
            reader = StageMessageReader(snowflake, location)
            job = _Job(
                context,
                snowflake,
                reader,
                polling=self._polling,
                queue_timeout=self._queue_timeout if queue_timeout is None else queue_timeout,
                run_timeout=self._run_timeout if run_timeout is None else run_timeout,
                cancel_timeout=self._cancel_timeout,
            )
            try:
                with dg.open_pipes_session(
                    context=context,  # pyright: ignore[reportArgumentType]
                    context_injector=StageContextInjector(snowflake, location),
                    message_reader=reader,
                    extras=extras,
                ) as pipes_session:
                    submission = _Submission(
                        identity=identity,
                        payload=uploaded,
                        payload_digest=snapshot.digest,
                        compute_pool=pool,
                        stage=stage,
                        args=tuple(str(argument) for argument in args),
                        env_vars={**self._env_vars, **(env_vars or {}), **pipes_session.get_bootstrap_env_vars()},
                        target_instances=target_instances,
                        min_instances=min_instances or target_instances,
                        query_warehouse=query_warehouse or self._query_warehouse,
                        external_access_integrations=tuple(
                            self._external_access_integrations
                            if external_access_integrations is None
                            else external_access_integrations
                        ),
                    )
                    job.run(submission, cancel_on_shutdown=self._cancel_on_shutdown)
                    job.require_success(pipes_session, require_materializations)
            finally:
                if job.is_over:
                    job.remove_files(location)
            completed = self._completed(snowflake, job, submission)
        metadata = {**completed.metadata(), **(extra_metadata(completed) if extra_metadata else {})}
        return SnowflakeJobInvocation(pipes_session, completed, metadata)

    @contextmanager
    def _snowflake(self) -> Iterator[ReconnectingSession]:
        snowflake = ReconnectingSession(self._open_session, self._connection_patience)
        try:
            yield snowflake
        finally:
            snowflake.close()

    def _completed(self, snowflake: ReconnectingSession, job: _Job, submission: _Submission) -> CompletedJob:
        assert job.job_id
        rate = self._credits_per_node_hour
        if isinstance(rate, Mapping):
            rate = rate.get(snowflake.call(lambda session: instance_family(session, submission.compute_pool)))
        hours = job.run_seconds * submission.target_instances / 3600
        return CompletedJob(
            job_id=job.job_id,
            compute_pool=submission.compute_pool,
            nodes=submission.target_instances,
            queue_seconds=job.queue_seconds,
            run_seconds=job.run_seconds,
            payload=submission.payload_digest,
            estimated_credits=None if rate is None else round(hours * rate, 6),
        )


class _Job:
    """One job from its submission to its end, watched by one step."""

    def __init__(
        self,
        context: StepContext,
        snowflake: ReconnectingSession,
        reader: StageMessageReader,
        *,
        polling: Polling,
        queue_timeout: float,
        run_timeout: float,
        cancel_timeout: float,
    ) -> None:
        self._context = context
        self._snowflake = snowflake
        self._reader = reader
        self._polling = polling
        self._queue_timeout = queue_timeout
        self._run_timeout = run_timeout
        self._cancel_timeout = cancel_timeout
        self._log = LogFollower()
        self._log_complaint = ""
        self._submitted = self._started = self._ended = 0.0
        self.job_id: str | None = None
        self.status = "NOT SUBMITTED"

    # -- what others ask -----------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether there is nothing (or nothing any more) that runs."""
        return self.status == "NOT SUBMITTED" or self.status in TERMINAL

    @property
    def queue_seconds(self) -> float:
        return (self._started or self._ended) - self._submitted

    @property
    def run_seconds(self) -> float:
        return self._ended - (self._started or self._ended)

    def run(self, submission: _Submission, *, cancel_on_shutdown: bool) -> None:
        """Submit and watch to the end. Whatever happens in between, no job is left behind unless that is meant."""
        try:
            self._submit(submission)
            self._watch()
        except SnowflakeUnreachableError as error:
            raise JobUnreachableError(f"{error}; {self._described()} was left as it is", self.job_id) from error
        except Exception:
            self._cancel_unless_over(submission, "this step failed")
            raise
        except BaseException:
            # The run was cancelled, or this process is asked to stop. The session may be in the middle of a request.
            self._snowflake.renew()
            if cancel_on_shutdown or self._run_is_cancelled():
                self._cancel_unless_over(submission, "the run was cancelled")
            else:
                self._context.log.warning(f"this process stops; {self._described()} is left running")
            raise

    def require_success(self, pipes_session: PipesSession, require_materializations: bool) -> None:
        """Raise unless the job ended well and said what it did."""
        self._reader.drain()
        handler = pipes_session.message_handler
        if self.status in LOST:
            raise JobLostError(*self._failure(f"Snowflake lost {self._described()}"))
        if self._reader.exception:
            stack = "".join(self._reader.exception.get("stack") or ())
            message = (self._reader.exception.get("message") or "").strip()
            raise JobFailedError(*self._failure(f"{self._described()} failed: {message}\n{stack}"))
        if self.status != "DONE":
            raise JobFailedError(*self._failure(f"{self._described()} did not end well"))
        if not handler.received_opened_message:
            raise JobFailedError(*self._failure(f"{self._described()} reported nothing: it must use open_job_pipes()"))
        if not handler.received_closed_message:
            raise JobFailedError(*self._failure(f"{self._described()} ended without closing its Pipes session"))
        if require_materializations and self._context.has_assets_def:
            self._require_materializations(pipes_session)

    def remove_files(self, location: str) -> None:
        """Remove the job's context and messages; a job that ended well is not failed for want of that."""
        try:
            self._snowflake.call(lambda session: remove_files(session.connection, location))
        except Exception as error:
            self._context.log.warning(f"files of {self._described()} remain in {location}: {error}")

    # -- submit --------------------------------------------------------------------------------------------------

    def _submit(self, submission: _Submission) -> None:
        # From here on a job may exist although no answer came: it is looked for by its name.
        self.status = "PENDING"
        self._submitted = time.monotonic()
        asked_before = False

        def ask(session: Session) -> str:
            nonlocal asked_before
            if asked_before and (found := find_job(session, submission)):
                return found
            asked_before = True
            return submit(session, submission)

        try:
            self.job_id = self._snowflake.call(ask)
        except SnowflakeUnreachableError:
            raise
        except Exception as error:
            if any(error_number(cause) == _ALREADY_EXISTS for cause in causes(error)):
                self.job_id = self._snowflake.call(lambda session: find_job(session, submission))
            if self.job_id is None:
                self.status = "NOT SUBMITTED"
                raise JobRejectedError(
                    f"Snowflake refused job {submission.identity.job_name} for pool {submission.compute_pool}: {error}"
                ) from error
        assert self.job_id
        self._context.instance.add_run_tags(self._context.run_id, {submission.identity.tag: self.job_id})
        self._context.log.info(
            f"submitted {self.job_id} to {submission.compute_pool}, {submission.target_instances} node(s), "
            f"payload {submission.payload_digest}"
        )

    # -- watch ---------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        intervals = self._polling.intervals()
        while True:
            status = self._ask_status()
            if status != self.status:
                self._context.log.info(f"{self.job_id} is {status}")
                self.status = status
                intervals = self._polling.intervals()
            now = time.monotonic()
            if status != "PENDING" and not self._started:
                self._started = now
            self._read_log()
            self._reader.poll()
            if status in TERMINAL:
                self._ended = now
                self._end_log()
                return
            self._check_limits(now)
            time.sleep(next(intervals))

    def _check_limits(self, now: float) -> None:
        if not self._started and now - self._submitted > self._queue_timeout:
            raise JobTimeoutError(
                f"{self._described()} waited more than {self._queue_timeout:g} s (queue_timeout) for its compute pool "
                "and was cancelled: look at the pool's nodes with SHOW COMPUTE POOLS, or raise the limit",
                self.job_id,
            )
        if self._started and now - self._started > self._run_timeout:
            raise JobTimeoutError(
                f"{self._described()} ran more than {self._run_timeout:g} s (run_timeout) and was cancelled. "
                f"Its last log lines:\n" + "\n".join(f"    {line}" for line in self._log.tail),
                self.job_id,
            )

    def _ask_status(self) -> str:
        return self._snowflake.call(lambda session: str(self._job(session).status))

    def _job(self, session: Session) -> MLJob[Any]:
        from snowflake.ml.jobs import MLJob

        assert self.job_id
        return MLJob(self.job_id, session=session)

    def _read_log(self) -> None:
        if self.status == "PENDING":
            return
        try:
            snapshot = self._snowflake.call(lambda session: self._job(session).get_logs(verbose=True))
        except SnowflakeUnreachableError:
            raise
        except Exception as error:
            # A container that is only just starting, or a log that Snowflake has dropped: the job does not fail for
            # that.
            if str(error) != self._log_complaint:
                self._log_complaint = str(error)
                self._context.log.debug(f"the log of {self.job_id} cannot be read: {error}")
            return
        self._show(self._log.feed(snapshot))

    def _end_log(self) -> None:
        self._show(self._log.end())

    def _show(self, lines: list[str]) -> None:
        if lines:
            # Dagster keeps a step's standard output as its compute log.
            sys.stdout.write("".join(f"{line}\n" for line in lines))
            sys.stdout.flush()

    # -- cancel --------------------------------------------------------------------------------------------------

    def _run_is_cancelled(self) -> bool:
        run = self._context.instance.get_run_by_id(self._context.run_id)
        return run is not None and run.status in (DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED)

    def _cancel_unless_over(self, submission: _Submission, reason: str) -> None:
        if self.is_over:
            return
        if self.job_id is None:
            self.job_id = self._snowflake.call(lambda session: find_job(session, submission))
            if self.job_id is None:
                self.status = "NOT SUBMITTED"
                return
        self._context.log.info(f"cancelling {self.job_id}: {reason}")
        self._snowflake.call(self._cancel)
        deadline = time.monotonic() + self._cancel_timeout
        intervals = self._polling.intervals()
        while (status := self._ask_status()) not in TERMINAL:
            if time.monotonic() > deadline:
                self._context.log.error(f"{self.job_id} is still {status} {self._cancel_timeout:g} s after its cancel")
                return
            time.sleep(next(intervals))
        self.status = status
        self._context.log.info(f"{self.job_id} is {status}")

    def _cancel(self, session: Session) -> None:
        job = self._job(session)
        try:
            job.cancel()
        except RuntimeError as error:
            # It may have ended meanwhile.
            if is_transient(error) or str(self._job(session).status) not in TERMINAL:
                raise

    # -- errors --------------------------------------------------------------------------------------------------

    def _require_materializations(self, pipes_session: PipesSession) -> None:
        reported = {
            result.asset_key
            for result in pipes_session.get_reported_results()
            if isinstance(result, dg.MaterializeResult)
        }
        missing = sorted(key.to_user_string() for key in self._context.selected_asset_keys if key not in reported)
        if missing:
            raise JobFailedError(
                *self._failure(f"{self._described()} ended without reporting a materialization of {', '.join(missing)}")
            )

    def _described(self) -> str:
        return f"job {self.job_id} (status {self.status})" if self.job_id else "the job, if it was submitted at all,"

    def _failure(self, message: str) -> tuple[str, str, str, list[str]]:
        return message, self.job_id or "", self.status, list(self._log.tail)


def qualified_stage(session: Session, stage: str) -> str:
    """``@DB.SCHEMA.STAGE``, so that the job's session finds the same stage whatever its schema is."""
    name = stage.lstrip("@")
    if name.count(".") >= 2:
        return f"@{name}"
    database, schema = session.get_current_database(), session.get_current_schema()
    if not database or not schema:
        raise JobRejectedError(
            f"stage {stage} has no database and schema, and neither has the connection: give it as DB.SCHEMA.STAGE"
        )
    plain = [part.strip('"') if re.fullmatch(r'"[A-Z_][A-Z0-9_$]*"', part) else part for part in (database, schema)]
    return "@" + ".".join([*plain[: 2 - name.count(".")], name])


def submit(session: Session, submission: _Submission) -> str:
    """Submit one job by Snowflake's client, under the name that was chosen for it; returns its id."""
    from snowflake.ml.jobs import MLJobDefinition

    definition = MLJobDefinition(
        source=str(submission.payload.stage_path),
        compute_pool=submission.compute_pool,
        stage_name=submission.stage,
        session=session,
        name=submission.payload.stage_path.name,
        target_instances=submission.target_instances,
        min_instances=submission.min_instances,
        external_access_integrations=list(submission.external_access_integrations) or None,
        env_vars=dict(submission.env_vars),
        query_warehouse=submission.query_warehouse,
        payload=submission.payload,  # pyright: ignore[reportArgumentType]
        comment=submission.comment,
    )
    # The client names every job after the folder of its payload, and adds a suffix. The first call of to_sql()
    # registers the definition; after it the name is free to be the job's own, without a suffix, so that a second
    # submission is refused.
    definition.to_sql()
    definition.job_definition_id = f"{definition.database}.{definition.schema}.{submission.identity.job_name}"
    definition.job_options.generate_suffix = False
    return str(definition(*submission.args).id)


def find_job(session: Session, submission: _Submission) -> str | None:
    """Id of the job that this submission has already created, if there is one."""
    name = submission.identity.job_name
    schema = submission.stage.lstrip("@").rsplit(".", 1)[0]
    for row in session.sql(f"SHOW JOB SERVICES LIKE '{name}%' IN SCHEMA {schema}").collect():
        if row["name"] == name or str(row["name"]).startswith(f"{name}_"):
            if row["comment"] != submission.comment:
                raise JobRejectedError(
                    f"a job named {name} exists that is not this one: {row['comment']} instead of {submission.comment}"
                )
            return f"{row['database_name']}.{row['schema_name']}.{row['name']}"
    return None


def instance_family(session: Session, compute_pool: str) -> str:
    """Instance family of a compute pool (``CPU_X64_M``), or an empty text where the pool cannot be seen."""
    rows = session.sql(f"SHOW COMPUTE POOLS LIKE '{compute_pool}'").collect()
    return str(rows[0]["instance_family"]) if rows else ""

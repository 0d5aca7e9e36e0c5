"""Ray batch job: zero-shot classification of review quality, one transformer an actor."""

from __future__ import annotations

from functools import partial

from customer_insights import pending, quality, scoring, zero_shot
from customer_insights.jobs.reporting import job, scoring_metadata
from customer_insights.tables import REVIEW_QUALITY


def main() -> None:
    """Label the window that Dagster asked for and report what was done."""
    with job() as run:
        model, revision = zero_shot.identity(run.settings)
        query = quality.quality_pending(run.settings, run.window, model, revision)
        report = scoring.score_pending(
            run.session,
            pending=query.sql,
            binds=query.binds,
            table=REVIEW_QUALITY,
            prefix=f"@{run.settings.qualified_schema}.{run.settings.work_stage}/{run.run_id}/quality",
            run_id=run.run_id,
            make_scorer=partial(quality.QualityScorer, run.settings),
        )
        left = pending.count(run.session, query)
        run.report({**scoring_metadata(report), "model": model, "revision": revision, "rows left": left})


if __name__ == "__main__":
    main()

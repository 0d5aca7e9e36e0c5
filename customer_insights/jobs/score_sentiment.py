"""Ray batch job: sentiment of the reviews that Cortex does not read, with the model of the settings."""

from __future__ import annotations

from functools import partial

from customer_insights import pending, scoring, sentiment, sentiment_models
from customer_insights.jobs.reporting import job, scoring_metadata
from customer_insights.tables import REVIEW_SENTIMENT


def main() -> None:
    """Score the window that Dagster asked for and report what was done."""
    with job() as run:
        model, revision = sentiment_models.identity(run.settings.sentiment_model, run.settings.sentiment_revision)
        query = sentiment.model_pending(run.settings, run.window, model, revision)
        report = scoring.score_pending(
            run.session,
            pending=query.sql,
            binds=query.binds,
            table=REVIEW_SENTIMENT,
            prefix=f"@{run.settings.qualified_schema}.{run.settings.work_stage}/{run.run_id}/sentiment",
            run_id=run.run_id,
            make_scorer=partial(
                sentiment.SentimentScorer, run.settings.sentiment_model, run.settings.sentiment_revision
            ),
        )
        left = pending.count(run.session, query)
        run.report({**scoring_metadata(report), "model": model, "revision": revision, "rows left": left})


if __name__ == "__main__":
    main()

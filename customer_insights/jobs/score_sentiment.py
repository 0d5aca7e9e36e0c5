"""Ray batch job: sentiment of the reviews that Cortex does not read, with the model of the settings."""

from __future__ import annotations

from functools import partial

from customer_insights import sentiment
from customer_insights.jobs.reporting import job, score
from customer_insights.tables import REVIEW_SENTIMENT


def main() -> None:
    """Score the window that Dagster asked for and report what was done."""
    with job() as run:
        model, revision = sentiment.model_identity(run.settings)
        query = sentiment.model_pending(run.settings, run.window, model, revision)
        score(run, REVIEW_SENTIMENT, query, partial(sentiment.SentimentScorer, run.settings), model, revision)


if __name__ == "__main__":
    main()

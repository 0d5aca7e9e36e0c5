"""Ray batch job: zero-shot classification of review quality, one transformer an actor."""

from __future__ import annotations

from functools import partial

from customer_insights import quality, zero_shot
from customer_insights.jobs.reporting import job, score
from customer_insights.tables import REVIEW_QUALITY


def main() -> None:
    """Label the window that Dagster asked for and report what was done."""
    with job() as run:
        model, revision = zero_shot.identity(run.settings)
        query = quality.quality_pending(run.settings, run.window, model, revision)
        score(run, REVIEW_QUALITY, query, partial(quality.QualityScorer, run.settings), model, revision)


if __name__ == "__main__":
    main()

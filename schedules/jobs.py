"""Selections of assets that run together. When they run is in ``timetable`` and ``sensors``."""

from __future__ import annotations

from typing import Any

import dagster as dg

from assets import catalogue, conversion, costs, freshness, insights, monitoring, reviews
from customer_insights.settings import settings
from schedules.maintenance import maintenance

# Run monitoring ends a run that takes longer; .dagster/dagster.yaml has the limit of what has none here.
MAX_RUNTIME = "dagster/max_runtime"
DAILY_LIMIT = {MAX_RUNTIME: str(settings().daily_run_limit_seconds)}
LONG_LIMIT = {MAX_RUNTIME: str(settings().long_run_limit_seconds)}
# Before a history that waits in the queue.
FIRST = {"dagster/priority": "1"}


def _job(name: str, selection: dg.AssetSelection, **options: Any) -> Any:
    """A job of assets and the checks of their steps; how fresh they are is asked by a job of its own."""
    return dg.define_asset_job(name, selection=selection - freshness.CHECKS, **options)


daily_reviews = _job(
    "daily_reviews",
    selection=dg.AssetSelection.assets(reviews.raw_reviews, reviews.review_sentiment, reviews.review_quality),
    partitions_def=catalogue.DAILY,
    # A day takes minutes; the same job also reads a history.
    tags=LONG_LIMIT | FIRST,
    description="Reads and scores the reviews that arrived on one day, or on a range of days.",
)

rescoring = _job(
    "rescoring",
    selection=dg.AssetSelection.assets(reviews.review_sentiment, reviews.review_quality),
    partitions_def=catalogue.DAILY,
    tags=LONG_LIMIT,
    description=(
        "Scores again what another version of a model has scored; what this version has scored is left as it is. "
        "Launched for a range of days it is one run a month, and its backfill shows how far it is."
    ),
)

predictions = _job(
    "predictions",
    selection=dg.AssetSelection.assets(
        reviews.reviews,
        conversion.purchase_features,
        conversion.purchase_propensity,
        insights.product_insights,
        insights.aspect_insights,
        insights.purchase_rates,
        insights.targeting,
        monitoring.drift_report,
        insights.daily_report,
    ),
    tags=DAILY_LIMIT | FIRST,
    description=(
        "Joins what is scored, predicts every visit with the champion, sums up by product, measures drift and writes "
        "the daily report."
    ),
)

cost_collection = _job(
    "costs",
    selection=dg.AssetSelection.assets(costs.pipeline_costs),
    tags=DAILY_LIMIT,
    description="Collects from Snowflake's history what every run has cost, and compares it with the budgets.",
)

retraining = _job(
    "retraining",
    selection=dg.AssetSelection.assets(
        conversion.purchase_features,
        conversion.conversion_model,
        conversion.champion,
        conversion.purchase_propensity,
        conversion.model_explanations,
    ),
    tags=LONG_LIMIT,
    description="Trains a challenger, promotes it when it is good enough, predicts and explains with the champion.",
)

rollback = _job(
    "rollback",
    selection=dg.AssetSelection.assets(
        conversion.champion,
        conversion.purchase_propensity,
        conversion.model_explanations,
        insights.product_insights,
        insights.targeting,
        monitoring.drift_report,
        insights.daily_report,
    ),
    config=dg.RunConfig(ops={"champion": conversion.ServiceChange(action="rollback")}),
    tags=DAILY_LIMIT,
    description=(
        "Takes the version in service out of it, puts back the one that served before (or `to_version` in the "
        "launchpad) and predicts with it. The gate does not promote the version that was taken out again."
    ),
)

everything = _job(
    "everything",
    selection=dg.AssetSelection.groups(
        reviews.GROUP, conversion.GROUP, insights.GROUP, monitoring.GROUP
    ).materializable(),
    partitions_def=catalogue.DAILY,
    tags=LONG_LIMIT,
    description=(
        "The whole graph, from the stage to the insights, for one day or a range of days of arrival. Its costs are "
        "those of earlier runs: the job `costs` after it counts its own."
    ),
)

observation = _job(
    "observation",
    selection=dg.AssetSelection.keys(reviews.staged_reviews.key, reviews.tabular_data.key),
    tags=DAILY_LIMIT | FIRST,
    description="Looks at the stage's files and at the visits and gives them data versions; nothing is computed.",
)

JOBS = [
    daily_reviews,
    rescoring,
    predictions,
    cost_collection,
    retraining,
    rollback,
    everything,
    observation,
    maintenance,
]

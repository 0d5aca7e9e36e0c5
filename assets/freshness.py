"""How fresh every asset must be, in one place: each asset's policy, from the settings.

What a policy cannot see, which day of arrival a table has reached, is asked by the checks of ``newest_day``. Who is
told is in ``schedules.alerts``.
"""

from __future__ import annotations

from datetime import time, timedelta

import dagster as dg

from customer_insights.settings import settings

# What has a day of arrival as its partition, and what the weekly retraining makes. All else is made anew every day.
REVIEWS = frozenset({"raw_reviews", "review_sentiment", "review_quality"})
MODEL = frozenset({"conversion_model", "champion", "model_explanations"})
# A table counts as the day's when it was made within so long before its deadline.
WINDOW = timedelta(hours=7)


def _daily(deadline: time) -> dg.FreshnessPolicy:
    """Fails when the asset was not materialized in the hours before the deadline, until it is.

    Dagster's policies by cron know no warning; the check on the newest day warns before.
    """
    return dg.FreshnessPolicy.cron(
        f"{deadline.minute} {deadline.hour} * * *", lower_bound_delta=WINDOW, timezone=settings().timezone
    )


def policy(asset: str) -> dg.FreshnessPolicy:
    """The policy of an asset by its name."""
    if asset in MODEL:
        return dg.FreshnessPolicy.time_window(
            fail_window=timedelta(days=settings().model_fail_days),
            warn_window=timedelta(days=settings().model_warn_days),
        )
    return _daily(settings().reviews_deadline if asset in REVIEWS else settings().features_deadline)


def with_policy(spec: dg.AssetSpec) -> dg.AssetSpec:
    """``spec`` with its policy, for ``dg.map_asset_specs``.

    Sources keep none: Dagster 1.13 evaluates materializations alone, so that the state of what is observed would be
    unknown for ever. That nothing arrives is found by the check on ``raw_reviews``.
    """
    return dg.apply_freshness_policy(spec, policy(spec.key.to_user_string()))

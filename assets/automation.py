"""What makes an asset run by itself: one condition each, for the sensor ``automation``.

Days of reviews are not asked for here but by the sensor of the stage and the daily schedule, which know what has
arrived; a model is trained by the schedule and the sensor of drift. When those run is in ``schedules``.
"""

from __future__ import annotations

import dagster as dg

_Condition = dg.AutomationCondition

# Changed, and not merely made again: a run that finds nothing new gives an asset the data version that it had. What the
# same run makes of it is no reason either.
_CHANGED = _Condition.any_deps_match(
    (_Condition.data_version_changed() & ~_Condition.executed_with_root_target()).with_label("changed by another run")
    | _Condition.will_be_requested()
).with_label("something it depends on has changed")

# Also a check that only warned counts as failed here, so what may warn for long must not be blocking.
_CHECKED = ~_Condition.any_deps_match(
    _Condition.any_checks_match(_Condition.check_failed(), blocking_only=True)
).with_label("a blocking check of what it depends on has failed")

# Once for a change, however many ticks see it; while anything upstream is being made, the change waits.
IN_STEP = (
    _CHANGED.since_last_handled() & _CHECKED & ~_Condition.any_deps_in_progress() & ~_Condition.in_progress()
).with_label("in step with what it depends on")
# For what waits until there is a champion. The first two downstream of the reviews do not wait for each day since the
# first partition, of which some never had a review, nor for an observation of the visits.
WHEN_ALL_IS_THERE = (IN_STEP & ~_Condition.any_deps_missing()).with_label(
    "in step with what it depends on, when all of it is there"
)

BY_ASSET = {
    "review_sentiment": WHEN_ALL_IS_THERE,
    "review_quality": WHEN_ALL_IS_THERE,
    "reviews": IN_STEP,
    "purchase_features": IN_STEP,
    "champion": WHEN_ALL_IS_THERE,
    "purchase_propensity": WHEN_ALL_IS_THERE,
    "model_explanations": WHEN_ALL_IS_THERE,
    "drift_report": WHEN_ALL_IS_THERE,
    "product_insights": WHEN_ALL_IS_THERE,
    "aspect_insights": WHEN_ALL_IS_THERE,
    "purchase_rates": WHEN_ALL_IS_THERE,
    "targeting": WHEN_ALL_IS_THERE,
    "daily_report": WHEN_ALL_IS_THERE,
}


def with_condition(spec: dg.AssetSpec) -> dg.AssetSpec:
    """The asset with its condition, where it has one."""
    condition = BY_ASSET.get(spec.key.to_user_string())
    return spec.replace_attributes(automation_condition=condition) if condition else spec

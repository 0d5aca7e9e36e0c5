"""Watching the model in service: whether the visits are still those that it was trained on."""

from typing import TYPE_CHECKING

import dagster as dg

from assets import catalogue, checks
from assets.conversion import champion, purchase_features, purchase_propensity
from customer_insights import display
from customer_insights.settings import settings
from customer_insights.tables import DRIFT_REPORT
from resources.compute_pool import JobOutcome
from resources.retries import retried
from resources.snowflake import SnowflakeConnection

if TYPE_CHECKING:
    from snowflake.snowpark import Session

    from customer_insights.drift import Kind, Measurement, Report

GROUP = "monitoring"
# Each picture is some 15 KB in Dagster's event log.
MOST_PICTURES = 6

# Check -> what it looks at, in its description, and what to do when it warns.
_CHECKS: dict[str, tuple[tuple["Kind", ...], str, str]] = {
    "no_feature_drift": (
        ("nominal", "numeric"),
        "Every feature is distributed as in the champion's training set.",
        "Look whether its source has changed (a unit, a format, a page, a language that came in); where the visits "
        "really are others, run the job `retraining`",
    ),
    "no_score_drift": (
        ("score",),
        "The champion's probabilities are distributed as on its held-out visits.",
        "Look at the features that moved most; where they are right, run the job `retraining`, and check who is "
        "targeted meanwhile",
    ),
    "label_rate_stable": (
        ("label",),
        "As many visits end in a purchase as in the champion's training set.",
        "Check TABULAR_DATA.PURCHASE_DECISION; where the rate is right, probabilities are off by as much: run the job "
        "`retraining`",
    ),
    "nulls_stable": (
        ("nulls",),
        "No more sentiments, decisions or predictions are missing than in the champion's training set.",
        "Missing sentiments: look at review_sentiment's checks; missing predictions: materialize purchase_propensity; "
        "missing decisions: wait for them, or load the visits again",
    ),
}


@dg.asset(
    group_name=GROUP,
    deps=[purchase_features, purchase_propensity, champion],
    kinds={"snowflake"},
    owners=catalogue.OWNERS,
    tags={"domain": "monitoring"},
    code_version="1",
    pool="drift_report",
    metadata=catalogue.table_metadata(DRIFT_REPORT),
    check_specs=[
        checks.keys_spec(DRIFT_REPORT),
        *(checks.spec(name, "drift_report", text, blocking=False) for name, (_, text, _) in _CHECKS.items()),
    ],
)
@retried
def drift_report(context: dg.AssetExecutionContext, snowflake: SnowflakeConnection) -> dg.MaterializeResult:
    """How far the visits of the latest days are from the champion's training set: each feature, the score, the purchase
    rate and what is missing. A warning is both large and not by chance. For whoever answers for the model."""
    from customer_insights import drift, promotion

    with snowflake.session() as session:
        served = promotion.in_service(session, settings())
        found = drift.report(session, settings(), served.name, context.run_id)
        monitor = _monitored(session, context, served.name) if settings().model_monitor else "off"
        latest = ("WINDOW_END = ?::DATE AND MODEL_VERSION = ?", [found.window_end.isoformat(), found.version])
        return JobOutcome.without_job("computed in the step, on samples").result(
            {
                "dagster/row_count": len(found.measurements),
                "dagster/column_lineage": catalogue.column_lineage(DRIFT_REPORT),
                "model version": found.version,
                "window": f"{found.window_start} to {found.window_end}",
                "visits": found.visits,
                "visits compared": len(found.current),
                "of these seen in training": int(found.current["SEEN"].sum()),
                "visits of the training set compared": len(found.reference),
                "model monitor": monitor,
                "found": dg.MetadataValue.md(_table(found)),
                **{name: dg.MetadataValue.md(picture) for name, picture in _pictures(found).items()},
            },
            [checks.keys(session, DRIFT_REPORT, *latest), *(_check(name, found) for name in _CHECKS)],
        )


def _monitored(session: "Session", context: dg.AssetExecutionContext, version: str) -> str:
    """The monitor's name, or why there is none: the report does not depend on it."""
    from snowflake.snowpark.exceptions import SnowparkSQLException

    from customer_insights import model_monitor

    try:
        return model_monitor.create(session, settings(), version)
    except SnowparkSQLException as error:
        context.log.warning(f"no model monitor of {version}: {error}")
        return f"not created: {display.literal(str(error))}"


def _check(name: str, found: "Report") -> dg.AssetCheckResult:
    kinds, _, what_to_do = _CHECKS[name]
    looked_at = found.of(*kinds)
    drifted = [one for one in looked_at if one.drifted]
    not_judged = [f"{one.measured}: {one.change}" for one in looked_at if not one.is_judged]
    texts = [_words(one) for one in drifted] or [f"{len(looked_at) - len(not_judged)} of {len(looked_at)} compared"]
    return dg.AssetCheckResult(
        check_name=name,
        passed=not drifted,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"drifted": len(drifted), "compared": len(looked_at) - len(not_judged), "visits": found.visits},
        description=display.literal("; ".join([*texts, *not_judged]) + (f". {what_to_do}." if drifted else "")),
    )


def _words(one: "Measurement") -> str:
    limits = settings()
    return (
        f"{one.measured}: {one.change} (stability index {one.population_stability:.2f}, limit "
        f"{limits.drift_stability_limit:g}; distance {one.distance:.2f}, limit {limits.drift_distance_limit:g}; "
        f"p {one.p_value:.1e})"
    )


def _table(found: "Report") -> str:
    columns = ("measured", "kind", "drifted", "change", "stability index", "distance", "p", "then", "now")
    rows = [
        (
            *(one.measured, one.kind, "yes" if one.drifted else "no" if one.is_judged else "not judged", one.change),
            *(one.population_stability, one.distance, one.p_value, one.reference_rows, one.current_rows),
        )
        for one in found.measurements
    ]
    return display.markdown_table(columns, rows)


def _pictures(found: "Report") -> dict[str, str]:
    """The index of everything, and the distributions of what has drifted, or of what has moved most."""
    from customer_insights import drift, plots

    judged = [one for one in found.measurements if one.is_judged]
    if not judged:
        return {}
    by_index = sorted(judged, key=lambda one: one.population_stability or 0, reverse=True)
    pictures = {
        "population stability": plots.stability(
            {_name(one): one.population_stability or 0.0 for one in by_index},
            {_name(one) for one in judged if one.drifted},
            settings().drift_stability_limit,
        )
    }
    shown = [one for one in judged if one.drifted][:MOST_PICTURES] or judged[:1]
    for one in shown:
        pictures[f"distribution of {_name(one)}"] = plots.shares_then_and_now(
            *drift.distribution(found, one), title=_name(one), alt=f"{_name(one)} in training and now"
        )
    return pictures


def _name(one: "Measurement") -> str:
    return f"{one.measured} missing" if one.kind == "nulls" else one.measured

"""How fresh every asset must be, in one place: each asset's policy, from the settings, and the check ``newest_day``.

A policy looks at the last materialization only, so that a backfill of an old day makes a stale asset fresh, and it
warns of nothing by cron. The check asks the warehouse which day of arrival each table has reached. What is expected,
and when, is in ``customer_insights.arrivals``; when the check runs and who is told is in ``schedules.alerts``.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from customer_insights import arrivals
from customer_insights.settings import settings
from resources.retries import retried
from resources.snowflake import SnowflakeConnection

# What has a day of arrival as its partition, what the weekly retraining makes, and what is made all day long. All
# else is made anew every day.
REVIEWS = frozenset({"raw_reviews", "review_sentiment", "review_quality"})
MODEL = frozenset({"conversion_model", "champion", "model_explanations"})
COSTS = frozenset({"pipeline_costs"})


def _daily(deadline: time) -> dg.FreshnessPolicy:
    """Fails when the asset was not materialized in the hours before the deadline, until it is.

    Dagster's policies by cron know no warning; the check on the newest day warns before.
    """
    return dg.FreshnessPolicy.cron(
        f"{deadline.minute} {deadline.hour} * * *", lower_bound_delta=arrivals.WINDOW, timezone=settings().timezone
    )


def policy(asset: str) -> dg.FreshnessPolicy:
    """The policy of an asset by its name."""
    if asset in MODEL:
        return dg.FreshnessPolicy.time_window(
            fail_window=timedelta(days=settings().model_fail_days),
            warn_window=timedelta(days=settings().model_warn_days),
        )
    if asset in COSTS:
        # Twice as long as the longest time between two collections.
        return dg.FreshnessPolicy.time_window(fail_window=timedelta(days=1))
    return _daily(settings().reviews_deadline if asset in REVIEWS else settings().features_deadline)


def with_policy(spec: dg.AssetSpec) -> dg.AssetSpec:
    """``spec`` with its policy, for ``dg.map_asset_specs``.

    Sources keep none: Dagster 1.13 evaluates materializations alone, so that the state of what is observed would be
    unknown for ever. That nothing arrives is found by the check on ``raw_reviews``.
    """
    return dg.apply_freshness_policy(spec, policy(spec.key.to_user_string()))


NEWEST_DAY = "newest_day"
# A run's tag in place of the clock: an ISO time, in UTC when it names no zone.
AS_OF = "customer_insights/as_of"
_LEVELS = {
    arrivals.Level.PASSED: dg.AssetCheckSeverity.WARN,
    arrivals.Level.WARN: dg.AssetCheckSeverity.WARN,
    arrivals.Level.ERROR: dg.AssetCheckSeverity.ERROR,
}


class Clock(dg.Config):
    """When the check says that it is."""

    as_of: str | None = None

    def now(self, run: dg.DagsterRun) -> datetime:
        """The time of the config, of the run's tag, or now."""
        said = self.as_of or run.tags.get(AS_OF)
        if not said:
            return datetime.now(UTC)
        try:
            at = datetime.fromisoformat(said)
        except ValueError as error:
            raise dg.Failure(
                f"as_of: a time as 2026-03-02T07:30:00+00:00 was expected, found {said!r}", allow_retries=False
            ) from error
        return at if at.tzinfo else at.replace(tzinfo=UTC)


@dg.multi_asset_check(
    name=NEWEST_DAY,
    specs=[
        dg.AssetCheckSpec(
            NEWEST_DAY,
            asset=table.name.lower(),
            description=(
                "Has the newest day of arrival that it should have. A warning: files are later than usual, or wait "
                "to be worked on. An error: past the deadline."
            ),
        )
        for table in arrivals.TABLES
    ],
    can_subset=True,
)
def newest_day(
    context: dg.AssetCheckExecutionContext, config: Clock, snowflake: SnowflakeConnection
) -> Iterator[dg.AssetCheckResult]:
    """Asks once for every table."""
    asked = {key.asset_key.to_user_string() for key in context.selected_asset_check_keys}
    yield from (one for asset, one in results(config.now(context.run), snowflake).items() if asset in asked)


@retried
def results(now: datetime, snowflake: SnowflakeConnection) -> dict[str, dg.AssetCheckResult]:
    """Asset -> how it stands at ``now``."""
    zone = ZoneInfo(settings().timezone)
    with snowflake.session() as session:
        found = arrivals.look(session, settings(), now)
    awaited = arrivals.expected(found.arrivals, now, settings().reviews_deadline, zone)
    judged = arrivals.judged(found, awaited, now, settings())
    assets = {table.name.lower(): judged[table.name] for table in arrivals.TABLES}
    return {asset: _result(asset, one, awaited, now) for asset, one in assets.items()}


def _result(asset: str, one: arrivals.Judgement, awaited: arrivals.Expectation, now: datetime) -> dg.AssetCheckResult:
    times: dict[str, Any] = {"as of": now, "expected by": awaited.deadline, "usual time": awaited.usual}
    times["late from"] = awaited.late
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=NEWEST_DAY,
        passed=one.level is arrivals.Level.PASSED,
        severity=_LEVELS[one.level],
        description=one.reason,
        metadata={
            "newest day": one.newest.isoformat() if one.newest else "none",
            "files waiting" if asset == "raw_reviews" else "reviews waiting": one.waiting,
            "overdue by": f"{one.overdue.total_seconds() / 3600:.1f} hours" if one.overdue else "not overdue",
            "next day": awaited.day.isoformat(),
            **{name: dg.MetadataValue.timestamp(at) for name, at in times.items() if at},
        },
    )


CHECKS = dg.AssetSelection.checks(newest_day)

"""What Snowflake's tables and the Model Registry tell: reviews, rejected rows, the model in service, credits."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from command_line import connection
from command_line.overview import Day, Freshness, Snowflake, Version
from customer_insights import arrivals, promotion, query, stage_files
from customer_insights.errors import CustomerInsightsError
from customer_insights.settings import settings
from customer_insights.tables import (
    CHAMPION_HISTORY,
    PIPELINE_COSTS,
    RAW_REVIEWS,
    REJECTED_REVIEWS,
)

if TYPE_CHECKING:
    from snowflake.snowpark import Session

SECONDS = 20.0
_LEVELS: dict[arrivals.Level, Freshness] = {
    arrivals.Level.PASSED: "fresh",
    arrivals.Level.WARN: "late",
    arrivals.Level.ERROR: "overdue",
}


def read() -> Snowflake:
    """What is there; of what cannot be reached or does not exist, the reason."""
    try:
        connection.reach()
        session = connection.open_session(SECONDS)
    except CustomerInsightsError as error:
        return Snowflake(connection.name(), error=str(error))
    from snowflake.snowpark.exceptions import SnowparkSQLException

    try:
        return _read(session)
    except SnowparkSQLException as error:
        if stage_files.is_missing(error):
            said = f"{settings().qualified_schema} is not complete: run `customer-insights deploy`"
            return Snowflake(connection.name(), error=said)
        return Snowflake(connection.name(), error=" ".join(str(error).split()))
    finally:
        session.close()


def _read(session: Session) -> Snowflake:
    counts = query.row(
        session,
        f"SELECT (SELECT COUNT(*) FROM {RAW_REVIEWS.name}) AS REVIEWS,\n"
        f"  (SELECT COUNT(*) FROM {REJECTED_REVIEWS.name}) AS REJECTED,\n"
        f"  (SELECT COUNT(*) FROM {REJECTED_REVIEWS.name} WHERE ARRIVAL_DATE =\n"
        f"    (SELECT MAX(ARRIVAL_DATE) FROM {RAW_REVIEWS.name})) AS REJECTED_NEWEST_DAY,\n"
        f"  (SELECT MAX(ARRIVAL_DATE) FROM {RAW_REVIEWS.name}) AS NEWEST_DAY",
    )
    found = promotion.versions(session, settings())
    champion = promotion.find_in_service(session, found)
    challenger = promotion.with_alias(found, "CHALLENGER")
    day, month = _credits(session)
    days, awaited = _days(session)
    return Snowflake(
        connection.name(),
        reviews=int(counts["REVIEWS"]),
        rejected=int(counts["REJECTED"]),
        rejected_newest_day=int(counts["REJECTED_NEWEST_DAY"]),
        newest_day=counts["NEWEST_DAY"],
        days=days,
        awaited=awaited,
        champion=_version(champion, _since(session, champion.name)) if champion else None,
        challenger=_version(challenger) if challenger and challenger is not champion else None,
        credits_day=day,
        credits_month=month,
    )


def _days(session: Session) -> tuple[dict[str, Day], tuple[date, datetime]]:
    """How each table stands, by the rule of the checks on the newest day."""
    now, chosen = datetime.now(UTC), settings()
    found = arrivals.look(session, chosen, now)
    awaited = arrivals.expected(found.arrivals, now, chosen.reviews_deadline, ZoneInfo(chosen.timezone))
    judged = arrivals.judged(found, awaited, now, chosen)
    days = {
        table.name.lower(): Day(one.newest, _LEVELS[one.level], one.reason)
        for table in arrivals.TABLES
        if (one := judged[table.name])
    }
    return days, (awaited.day, awaited.deadline)


def _version(found: promotion.Version, since: datetime | None = None) -> Version:
    auc = found.metrics.get("challenger_roc_auc")
    return Version(found.name, None if auc is None else float(auc), since)


def _since(session: Session, version: str) -> datetime | None:
    """When the version came into service for the last time (UTC)."""
    sql = f"SELECT MAX(CHANGED_AT) FROM {CHAMPION_HISTORY.name} WHERE MODEL_VERSION = ?"
    changed = query.value(session, sql, [version])
    return changed.replace(tzinfo=UTC) if changed else None


def _credits(session: Session) -> tuple[float | None, float | None]:
    """Estimated credits of the last day and of the last 30; None where none are recorded."""
    name = PIPELINE_COSTS.name
    row = query.row(
        session,
        f"SELECT SUM(IFF(STARTED_AT >= DATEADD(day, -1, SYSDATE()), ESTIMATED_CREDITS, 0)) AS LAST_DAY,\n"
        f"  SUM(ESTIMATED_CREDITS) AS LAST_MONTH FROM {name} WHERE STARTED_AT >= DATEADD(day, -30, SYSDATE())",
    )
    day, month = row["LAST_DAY"], row["LAST_MONTH"]
    return (None if day is None else float(day)), (None if month is None else float(month))

"""The daily report: what it says, gathered from the tables, and where the page is kept, a file a day on a stage.

How the page looks and what it says in words is in ``report_page``.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from customer_insights import insights, query, stage_files
from customer_insights.errors import PermanentError
from customer_insights.identifiers import stage_location
from customer_insights.insights import EXAMPLE_CHARACTERS, Aspect, Plan, Share
from customer_insights.settings import Settings
from customer_insights.stage_files import StageFile

if TYPE_CHECKING:
    from snowflake.snowpark import Session

PRODUCTS_SHOWN = 3
ASPECTS_SHOWN = 6
EXAMPLES_SHOWN = 3
FEATURES_SHOWN = 8
_FILE = re.compile(r"daily_report-(\d{4}-\d{2}-\d{2})\.html")


@dataclass(frozen=True)
class Measure:
    """A number with its 95 % interval, where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Example:
    """A review as it was written. ``about``: the aspect, or nothing; ``product``: type and layout."""

    text: str
    language: str
    about: str = ""
    product: str = ""


@dataclass(frozen=True)
class Product:
    """One product type in one layout. ``mean_sentiment`` is None where no review has a score."""

    product_type: str
    layout: str
    rate: Share
    mean_sentiment: float | None


@dataclass(frozen=True)
class Service:
    """The version whose predictions are shown. ``replaced_by``: the one in service, where that is another by now."""

    version: str
    since: datetime | None
    replaced_by: str | None
    roc_auc: Measure | None
    calibration_error: Measure | None


@dataclass(frozen=True)
class Drift:
    """What was measured of the latest days against the training set, and what of it is an alarm."""

    measured: int
    alarms: tuple[str, ...]
    window_end: date


@dataclass(frozen=True)
class Facts:
    """Everything that the report says. What the tables do not hold yet is None or empty."""

    day: date
    made_at: datetime
    newest_arrival: date | None
    predicted_at: datetime | None
    arrived: int
    reviews: int
    visits: int
    rate: Share | None
    sentiment: Measure | None
    service: Service | None
    drift: Drift | None
    rates: dict[str, list[Share]]
    best: tuple[Product, ...]
    worst: tuple[Product, ...]
    layouts: dict[str, list[Share]]
    aspects: tuple[Aspect, ...]
    liked: tuple[Example, ...]
    disliked: tuple[Example, ...]
    plan: Plan
    purchase_value: float
    contact_cost: float
    calibration_limit: float
    importance: dict[str, float]


def today() -> date:
    """The day of the report: UTC, as the days of arrival."""
    return datetime.now(UTC).date()


def gather(session: Session, settings: Settings, day: date) -> Facts:
    """Read what the report of ``day`` says; every table may be empty."""
    arrivals = query.row(
        session,
        "SELECT COUNT(*) AS REVIEWS, MAX(ARRIVAL_DATE) AS NEWEST, "
        "COUNT_IF(ARRIVAL_DATE BETWEEN ?::DATE - 1 AND ?::DATE) AS ARRIVED FROM RAW_REVIEWS",
        [day.isoformat(), day.isoformat()],
    )
    visits = query.row(
        session,
        "SELECT COUNT(*) AS VISITS, COUNT(PURCHASE_DECISION) AS DECIDED, SUM(PURCHASE_DECISION) AS PURCHASES, "
        "AVG(REVIEW_SENTIMENT) AS MEAN, STDDEV(REVIEW_SENTIMENT) AS SPREAD, COUNT(REVIEW_SENTIMENT) AS SCORED "
        "FROM PURCHASE_FEATURES",
    )
    decided = int(visits["DECIDED"])
    found_aspects = insights.aspects(session)
    ranked = _products(session)
    return Facts(
        day=day,
        made_at=datetime.now(UTC),
        newest_arrival=arrivals["NEWEST"],
        predicted_at=query.value(session, "SELECT MAX(SCORED_AT) FROM PURCHASE_PROPENSITY"),
        arrived=int(arrivals["ARRIVED"] or 0),
        reviews=int(arrivals["REVIEWS"]),
        visits=int(visits["VISITS"]),
        rate=Share.of("all", int(visits["PURCHASES"]), decided) if decided else None,
        sentiment=_mean(visits),
        service=_service(session),
        drift=_drift(session),
        rates=insights.purchase_rates(session),
        best=tuple(ranked[:PRODUCTS_SHOWN]),
        worst=tuple(ranked[PRODUCTS_SHOWN:]),
        layouts=_layouts(session),
        aspects=tuple(found_aspects[:ASPECTS_SHOWN]),
        liked=_examples(session, "LIKED", "positive", bool(found_aspects)),
        disliked=_examples(session, "DISLIKED", "negative", bool(found_aspects)),
        plan=insights.plan(session),
        purchase_value=settings.purchase_value,
        contact_cost=settings.contact_cost,
        calibration_limit=settings.calibration_limit,
        importance=_importance(session),
    )


def _mean(row: dict[str, Any]) -> Measure | None:
    if row["MEAN"] is None:
        return None
    mean, scored = float(row["MEAN"]), int(row["SCORED"])
    if scored < 2:
        return Measure(mean)
    spread = 1.959964 * float(row["SPREAD"] or 0) / scored**0.5
    return Measure(mean, max(-1.0, mean - spread), min(1.0, mean + spread))


def _service(session: Session) -> Service | None:
    """None before anything was predicted."""
    predicted = query.rows(session, "SELECT MODEL_VERSION FROM TARGETING ORDER BY DECILE LIMIT 1")
    if not predicted:
        return None
    version = str(predicted[0]["MODEL_VERSION"])
    history = query.rows(
        session, "SELECT MODEL_VERSION, CHANGED_AT FROM CHAMPION_HISTORY ORDER BY CHANGED_AT DESC, RUN_ID LIMIT 1"
    )
    latest = history[0] if history else None
    measured = {
        row["METRIC"]: Measure(float(row["VALUE"]), _number(row["LOW"]), _number(row["HIGH"]))
        for row in query.rows(
            session,
            "SELECT METRIC, VALUE, LOW, HIGH FROM MODEL_EVALUATIONS "
            "WHERE MODEL_VERSION = ? AND MODEL = 'challenger' AND SEGMENT_BY = 'ALL'",
            [version],
        )
    }
    return Service(
        version=version,
        since=latest["CHANGED_AT"] if latest and latest["MODEL_VERSION"] == version else None,
        replaced_by=str(latest["MODEL_VERSION"]) if latest and latest["MODEL_VERSION"] != version else None,
        roc_auc=measured.get("roc_auc"),
        calibration_error=measured.get("expected_calibration_error"),
    )


def _number(value: object) -> float | None:
    return None if value is None else float(str(value))


def _drift(session: Session) -> Drift | None:
    """The latest comparison of the version whose predictions are shown; None before the first."""
    rows = query.rows(
        session,
        "SELECT MEASURED, DRIFTED, WINDOW_END FROM DRIFT_REPORT\n"
        "WHERE MODEL_VERSION IN (SELECT MODEL_VERSION FROM TARGETING)\n"
        "QUALIFY DENSE_RANK() OVER (ORDER BY WINDOW_END DESC, COMPUTED_AT DESC) = 1 ORDER BY MEASURED",
    )
    if not rows:
        return None
    alarms = dict.fromkeys(str(row["MEASURED"]) for row in rows if int(row["DRIFTED"]))
    return Drift(len(rows), tuple(alarms), rows[0]["WINDOW_END"])


def _products(session: Session) -> list[Product]:
    """The products that surely sell best, the best first, then those that surely sell worst, the worst last.

    They are ordered by the interval's nearer end, so that a product with three visits is neither.
    """
    last = f"ROW_NUMBER() OVER (ORDER BY PURCHASE_RATE_HIGH, PRODUCT_TYPE, PRODUCT_LAYOUT) <= {PRODUCTS_SHOWN}"
    first = f"ROW_NUMBER() OVER (ORDER BY PURCHASE_RATE_LOW DESC, PRODUCT_TYPE, PRODUCT_LAYOUT) <= {PRODUCTS_SHOWN}"
    columns = "PRODUCT_TYPE, PRODUCT_LAYOUT, VISITS, PURCHASE_RATE, PURCHASE_RATE_LOW, PURCHASE_RATE_HIGH"

    def read(condition: str) -> list[Product]:
        rows = query.rows(
            session,
            f"SELECT {columns}, MEAN_SENTIMENT FROM PRODUCT_INSIGHTS WHERE PURCHASE_RATE IS NOT NULL "
            f"QUALIFY {condition} ORDER BY PURCHASE_RATE DESC, PRODUCT_TYPE, PRODUCT_LAYOUT",
        )
        return [_product(row) for row in rows]

    best = read(first)
    return [*best, *(product for product in read(last) if product not in best)]


def _product(row: dict[str, Any]) -> Product:
    rate = Share(
        f"{row['PRODUCT_TYPE']} / {row['PRODUCT_LAYOUT']}",
        float(row["PURCHASE_RATE"]),
        float(row["PURCHASE_RATE_LOW"]),
        float(row["PURCHASE_RATE_HIGH"]),
        int(row["VISITS"]),
    )
    return Product(row["PRODUCT_TYPE"], row["PRODUCT_LAYOUT"], rate, _number(row["MEAN_SENTIMENT"]))


def _layouts(session: Session) -> dict[str, list[Share]]:
    """Product type -> its layouts, of the types with the most visits."""
    rows = query.rows(
        session,
        "SELECT PRODUCT_TYPE, PRODUCT_LAYOUT, COUNT(*) AS VISITS, SUM(PURCHASE_DECISION) AS PURCHASES,\n"
        "  SUM(COUNT(*)) OVER (PARTITION BY PRODUCT_TYPE) AS OF_TYPE\n"
        "FROM PURCHASE_FEATURES WHERE PURCHASE_DECISION IS NOT NULL GROUP BY PRODUCT_TYPE, PRODUCT_LAYOUT\n"
        "ORDER BY OF_TYPE DESC, PRODUCT_TYPE, PRODUCT_LAYOUT LIMIT 200",
    )
    found: dict[str, list[Share]] = {}
    for row in rows:
        share = Share.of(row["PRODUCT_LAYOUT"], int(row["PURCHASES"]), int(row["VISITS"]))
        found.setdefault(row["PRODUCT_TYPE"], []).append(share)
    return found


def _examples(session: Session, column: str, sentiment: str, of_aspects: bool) -> tuple[Example, ...]:
    if not of_aspects:
        return _examples_of_reviews(session, sentiment)
    rows = query.rows(
        session,
        f"SELECT ASPECT, PRODUCT_TYPE, PRODUCT_LAYOUT, {column}_EXAMPLE AS TEXT, {column}_LANGUAGE AS LANGUAGE,\n"
        f"  SUM({column}) OVER (PARTITION BY ASPECT) AS OF_ASPECT, LENGTH({column}_EXAMPLE) AS CHARACTERS\n"
        f"FROM ASPECT_INSIGHTS WHERE {column}_EXAMPLE IS NOT NULL\n"
        f"QUALIFY ROW_NUMBER() OVER (PARTITION BY ASPECT ORDER BY\n"
        f"  IFF(LENGTH({column}_EXAMPLE) BETWEEN {EXAMPLE_CHARACTERS[0]} AND {EXAMPLE_CHARACTERS[1]}, 0, 1),\n"
        f"  {column} DESC, PRODUCT_TYPE, PRODUCT_LAYOUT) <= 8\n"
        f"ORDER BY OF_ASPECT DESC, ASPECT, {column} DESC, PRODUCT_TYPE, PRODUCT_LAYOUT",
    )
    candidates = [
        Example(row["TEXT"], row["LANGUAGE"], row["ASPECT"], f"{row['PRODUCT_TYPE']} / {row['PRODUCT_LAYOUT']}")
        for row in rows
    ]
    return _varied(candidates)


def _varied(candidates: list[Example]) -> tuple[Example, ...]:
    """One example of each of the first aspects, in languages that differ where they can, and no text twice."""
    chosen: list[Example] = []
    for aspect in dict.fromkeys(example.about for example in candidates):
        texts, languages = {example.text for example in chosen}, {example.language for example in chosen}
        of_aspect = [example for example in candidates if example.about == aspect and example.text not in texts]
        of_aspect.sort(key=lambda example: example.language in languages)
        chosen += of_aspect[:1]
    return tuple(chosen[:EXAMPLES_SHOWN])


def _examples_of_reviews(session: Session, sentiment: str) -> tuple[Example, ...]:
    """Reviews of a sentiment, where none says what it speaks of; one of each language at most."""
    shortest, longest = EXAMPLE_CHARACTERS
    rows = query.rows(
        session,
        "SELECT REVIEW_TEXT, LANGUAGE FROM (\n"
        "  SELECT REVIEW_TEXT, LANGUAGE, QUALITY_SCORE, UUID FROM REVIEWS\n"
        "  WHERE SENTIMENT_LABEL = ? AND LENGTH(REVIEW_TEXT) BETWEEN ? AND ?\n"
        "  QUALIFY ROW_NUMBER() OVER (PARTITION BY LANGUAGE ORDER BY QUALITY_SCORE DESC NULLS LAST, MD5(UUID)) = 1\n"
        f") AS examples ORDER BY QUALITY_SCORE DESC NULLS LAST, MD5(UUID) LIMIT {EXAMPLES_SHOWN}",
        [sentiment, shortest, longest],
    )
    return tuple(Example(row["REVIEW_TEXT"], row["LANGUAGE"]) for row in rows)


def _importance(session: Session) -> dict[str, float]:
    """Mean absolute contribution (log-odds) of each feature to the explained predictions, the largest first."""
    rows = query.rows(
        session,
        "SELECT FEATURE, AVG(ABS(CONTRIBUTION)) AS AMOUNT FROM MODEL_EXPLANATIONS "
        f"GROUP BY FEATURE ORDER BY AMOUNT DESC, FEATURE LIMIT {FEATURES_SHOWN}",
    )
    return {row["FEATURE"]: float(row["AMOUNT"]) for row in rows}


def file_name(day: date) -> str:
    """Of the report of a day on the stage."""
    return f"daily_report-{day.isoformat()}.html"


def publish(session: Session, settings: Settings, day: date, page: bytes) -> str:
    """Put the page on the stage, in place of an earlier one of the day; returns its location."""
    location = stage_location(_stage(settings), file_name(day))
    with io.BytesIO(page) as content:
        stage_files.write_bytes(session, content, location)
    return location


def size_on_stage(session: Session, settings: Settings, day: date) -> int | None:
    """Bytes of the report of a day; None when there is none."""
    return next((file.size for found, file in _reports(session, settings) if found == day), None)


def find(session: Session, settings: Settings, day: date | None = None) -> tuple[date, str]:
    """The day and the location of the report of ``day``, or of the newest.

    Raises:
        PermanentError: there is none.
    """
    found = [there for there, _ in _reports(session, settings)]
    if not found:
        raise PermanentError(
            f"there is no report on {_stage(settings)} yet: materialize daily_report in Dagster, or run "
            "`customer-insights demo`"
        )
    chosen = day or max(found)
    if chosen not in found:
        raise PermanentError(
            f"there is no report of {chosen} on {_stage(settings)}; the newest is of {max(found)}, the oldest of "
            f"{min(found)}: give one of its days, or none for the newest"
        )
    return chosen, stage_location(_stage(settings), file_name(chosen))


def _reports(session: Session, settings: Settings) -> Iterable[tuple[date, StageFile]]:
    for file in stage_files.list_files(session, _stage(settings)):
        if named := _FILE.fullmatch(file.name):
            # 2026-99-99: somebody else's file.
            with suppress(ValueError):
                yield date.fromisoformat(named.group(1)), file


def _stage(settings: Settings) -> str:
    return f"@{settings.qualified_schema}.{settings.report_stage}"

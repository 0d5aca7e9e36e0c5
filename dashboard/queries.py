"""The questions that the pages ask, one statement a part of a page. All of them aggregate in the warehouse or are
limited to a few rows, so that a page costs the same to read whether there are a thousand reviews or a million.

How an answer is drawn is the views' business; where it comes from, ``connection``'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from customer_insights.tables import (
    ASPECT_INSIGHTS,
    CHAMPION_HISTORY,
    DRIFT_REPORT,
    MODEL_EVALUATIONS,
    MODEL_EXPLANATIONS,
    MODEL_REFERENCE,
    PRODUCT_INSIGHTS,
    PURCHASE_FEATURES,
    PURCHASE_PROPENSITY,
    PURCHASE_RATES,
    RAW_REVIEWS,
    REVIEW_QUALITY,
    REVIEW_SENTIMENT,
    TARGETING,
)
from dashboard.connection import read
from dashboard.selection import Options, Selection

if TYPE_CHECKING:
    import pandas as pd

# Fifths of the range from -1 to 1, as the quickstart cuts it; what has no score is told apart.
BANDS = ("very negative", "negative", "neutral", "positive", "very positive", "not known")
_BAND = (
    "CASE WHEN REVIEW_SENTIMENT IS NULL THEN 'not known' WHEN REVIEW_SENTIMENT < -0.6 THEN 'very negative' "
    "WHEN REVIEW_SENTIMENT < -0.2 THEN 'negative' WHEN REVIEW_SENTIMENT <= 0.2 THEN 'neutral' "
    "WHEN REVIEW_SENTIMENT <= 0.6 THEN 'positive' ELSE 'very positive' END"
)
LOAD_TIMES = ("under 1 s", "1 to 2 s", "2 to 3 s", "3 to 4 s", "4 to 5 s", "5 s or more")
_LOAD_TIME = (
    "CASE "
    + " ".join(f"WHEN PAGE_LOAD_TIME < {limit} THEN '{name}'" for limit, name in enumerate(LOAD_TIMES[:-1], start=1))
    + f" ELSE '{LOAD_TIMES[-1]}' END"
)
_DIMENSIONS = {
    "PRODUCT_TYPE": "PRODUCT_TYPE",
    "PRODUCT_LAYOUT": "PRODUCT_LAYOUT",
    "REVIEW_QUALITY": "REVIEW_QUALITY",
    "LANGUAGE": "LANGUAGE",
    "ARRIVAL_DATE": "ARRIVAL_DATE",
    "PRODUCT_RATING": "PRODUCT_RATING",
    "SENTIMENT": _BAND,
    "LOAD_TIME": _LOAD_TIME,
}
_MEASURES = (
    "COUNT(*) AS VISITS, COUNT(PURCHASE_DECISION) AS DECIDED, COALESCE(SUM(PURCHASE_DECISION), 0) AS PURCHASES, "
    "AVG(REVIEW_SENTIMENT)::FLOAT AS MEAN_SENTIMENT, AVG(STARS)::FLOAT AS MEAN_RATING, "
    "AVG(QUALITY_SCORE)::FLOAT AS MEAN_QUALITY"
)
Groups = Mapping[tuple[str, ...], "pd.DataFrame"]


def groups(selection: Selection, *wanted: tuple[str, ...]) -> Groups:
    """Counts and means of the chosen visits by several groupings at once, from one scan: grouping -> its rows.

    VISITS, DECIDED (of which the outcome is known), PURCHASES, MEAN_SENTIMENT, MEAN_RATING, MEAN_QUALITY; ``()`` is all
    of them in one row.
    """
    names = list(dict.fromkeys(name for columns in wanted for name in columns))
    condition, binds = selection.condition()
    sets = ", ".join(f"({', '.join(columns)})" for columns in wanted)
    columns = ", ".join(f"{_DIMENSIONS[name]} AS {name}" for name in names)
    listed = ", ".join(names)
    statement = (
        f"SELECT {f'GROUPING({listed}) AS IN_SET, {listed}, ' if names else '0 AS IN_SET, '}{_MEASURES}\n"
        f"FROM (SELECT {columns + ', ' if columns else ''}PURCHASE_DECISION, REVIEW_SENTIMENT, QUALITY_SCORE,\n"
        f"  PRODUCT_RATING AS STARS FROM {PURCHASE_FEATURES.name} WHERE {condition}) AS chosen\n"
        f"GROUP BY GROUPING SETS ({sets})"
    )
    answer = read(statement, binds)
    found = {}
    for columns_of_set in wanted:
        # A bit for each name, the first the highest: 1 where the column is not in the grouping.
        bits = sum(1 << (len(names) - 1 - place) for place, name in enumerate(names) if name not in columns_of_set)
        rows = answer[answer["IN_SET"].astype(int) == bits]
        found[columns_of_set] = rows[
            [*columns_of_set, "VISITS", "DECIDED", "PURCHASES", "MEAN_SENTIMENT", "MEAN_RATING", "MEAN_QUALITY"]
        ].reset_index(drop=True)
    return found


@dataclass(frozen=True)
class Total:
    """Of some visits. ``rate`` is None where no outcome is known."""

    visits: int
    decided: int
    purchases: int
    sentiment: float | None
    rating: float | None

    @property
    def rate(self) -> float | None:
        return self.purchases / self.decided if self.decided else None


def total(found: Groups) -> Total:
    """Of the grouping ``()``; of no visits, where there is none."""
    rows = records(found[()])
    if not rows:
        return Total(0, 0, 0, None, None)
    row = rows[0]
    return Total(
        int(row["VISITS"]),
        int(row["DECIDED"]),
        int(row["PURCHASES"]),
        _number(row["MEAN_SENTIMENT"]),
        _number(row["MEAN_RATING"]),
    )


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Its rows, column name to value."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _number(value: Any) -> float | None:
    return None if is_missing(value) else float(value)


def is_missing(value: Any) -> bool:
    """Whether it is NULL, in any of the ways in which pandas says so."""
    return value is None or value != value


def everything() -> tuple[Options, Total]:
    """What can be chosen, and what all visits come to: what a selection is compared with.

    Languages are in the order of their frequency, quality labels from the one that tells a reader the most.
    """
    found = groups(
        Selection(), (), ("PRODUCT_TYPE",), ("PRODUCT_LAYOUT",), ("REVIEW_QUALITY",), ("LANGUAGE",), ("ARRIVAL_DATE",)
    )
    qualities = found["REVIEW_QUALITY",].sort_values(["MEAN_QUALITY", "REVIEW_QUALITY"], ascending=[False, True])
    languages = found["LANGUAGE",].sort_values(["VISITS", "LANGUAGE"], ascending=[False, True])
    days = [as_day(value) for value in found["ARRIVAL_DATE",]["ARRIVAL_DATE"]]
    options = Options(
        types=tuple(sorted(found["PRODUCT_TYPE",]["PRODUCT_TYPE"])),
        layouts=tuple(sorted(found["PRODUCT_LAYOUT",]["PRODUCT_LAYOUT"])),
        qualities=tuple(qualities["REVIEW_QUALITY"]),
        languages=tuple(languages["LANGUAGE"]),
        first=min(days, default=None),
        last=max(days, default=None),
    )
    return options, total(found)


def as_day(value: Any) -> date:
    """A day as Snowflake's clients give it: a date, or pandas' moment."""
    return value.date() if isinstance(value, datetime) else value


# Name -> which of the chosen visits, and which of them first.
KINDS_OF_REVIEWS = {
    "Most positive": ("f.REVIEW_SENTIMENT IS NOT NULL", "f.REVIEW_SENTIMENT DESC"),
    "Most negative": ("f.REVIEW_SENTIMENT IS NOT NULL", "f.REVIEW_SENTIMENT ASC"),
    "Positive, no purchase": ("f.REVIEW_SENTIMENT > 0.2 AND f.PURCHASE_DECISION = 0", "f.REVIEW_SENTIMENT DESC"),
    "Negative, but a purchase": ("f.REVIEW_SENTIMENT < -0.2 AND f.PURCHASE_DECISION = 1", "f.REVIEW_SENTIMENT ASC"),
    "Newest": ("TRUE", "f.ARRIVAL_DATE DESC"),
}
# Of a longer review the beginning is shown.
REVIEW_CHARACTERS = 2000


def reviews(selection: Selection, kind: str, contains: str, count: int) -> pd.DataFrame:
    """At most ``count`` reviews of the chosen visits; of equals, those that tell more first."""
    condition, binds = selection.condition("f")
    which, order = KINDS_OF_REVIEWS[kind]
    columns = (
        "f.UUID, f.PRODUCT_TYPE, f.PRODUCT_LAYOUT, f.PRODUCT_RATING, f.REVIEW_QUALITY, f.REVIEW_SENTIMENT, "
        "f.PURCHASE_DECISION, f.LANGUAGE, f.ARRIVAL_DATE, f.QUALITY_SCORE"
    )
    order = f"{order}, f.QUALITY_SCORE DESC, f.UUID"
    text = f"LEFT(r.REVIEW_TEXT, {REVIEW_CHARACTERS}) AS REVIEW_TEXT, LENGTH(r.REVIEW_TEXT) AS CHARACTERS"
    if contains:
        return read(
            f"SELECT {columns}, {text} FROM {PURCHASE_FEATURES.name} AS f\n"
            f"JOIN {RAW_REVIEWS.name} AS r ON r.UUID = f.UUID\n"
            f"WHERE {condition} AND {which} AND CONTAINS(LOWER(r.REVIEW_TEXT), LOWER(?))\nORDER BY {order} LIMIT ?",
            [*binds, contains, count],
        )
    # The few are chosen before the texts are read.
    return read(
        f"SELECT {columns}, {text} FROM (\n"
        f"  SELECT * FROM {PURCHASE_FEATURES.name} AS f WHERE {condition} AND {which}\n  ORDER BY {order} LIMIT ?\n"
        f") AS f JOIN {RAW_REVIEWS.name} AS r ON r.UUID = f.UUID\nORDER BY {order}",
        [*binds, count],
    )


def product_examples(product_type: str) -> pd.DataFrame:
    """Of each layout: what is liked and disliked in the words of a customer."""
    return read(
        "SELECT PRODUCT_LAYOUT, VISITS, MEAN_PROBABILITY, NEGATIVE_SHARE, LIKED_EXAMPLE, DISLIKED_EXAMPLE "
        f"FROM {PRODUCT_INSIGHTS.name} WHERE PRODUCT_TYPE = ? ORDER BY VISITS DESC, PRODUCT_LAYOUT",
        [product_type],
    )


def product_aspects(product_type: str) -> pd.DataFrame:
    """What reviews of the product speak of, over its layouts."""
    return read(
        "SELECT ASPECT, SUM(MENTIONS) AS MENTIONS, SUM(LIKED) AS LIKED, SUM(DISLIKED) AS DISLIKED "
        f"FROM {ASPECT_INSIGHTS.name} WHERE PRODUCT_TYPE = ? GROUP BY ASPECT ORDER BY SUM(MENTIONS) DESC, ASPECT",
        [product_type],
    )


def champions() -> pd.DataFrame:
    """Changes of the version in service, the latest first."""
    return read(
        "SELECT CHANGED_AT, MODEL_VERSION, PREVIOUS_VERSION, ACTION, REASON "
        f"FROM {CHAMPION_HISTORY.name} ORDER BY CHANGED_AT DESC, RUN_ID LIMIT 50"
    )


def evaluations(version: str) -> pd.DataFrame:
    """Every metric of the version and of what it was compared with, on its test visits and their segments."""
    return read(
        "SELECT MODEL, SEGMENT_BY, SEGMENT, METRIC, VALUE, LOW, HIGH, VISITS, PURCHASES "
        f"FROM {MODEL_EVALUATIONS.name} WHERE MODEL_VERSION = ? ORDER BY MODEL, SEGMENT_BY, SEGMENT, METRIC",
        [version],
    )


def reliability(version: str) -> pd.DataFrame:
    """The version's predictions for its test visits in tenths of equal size, beside what happened."""
    return read(
        "SELECT TENTH, COUNT(*) AS VISITS, SUM(PURCHASE_DECISION) AS PURCHASES,\n"
        "  AVG(PURCHASE_PROBABILITY)::FLOAT AS PREDICTED\nFROM (\n"
        "  SELECT PURCHASE_DECISION, PURCHASE_PROBABILITY,\n"
        "    NTILE(10) OVER (ORDER BY PURCHASE_PROBABILITY, UUID) AS TENTH\n"
        f"  FROM {MODEL_REFERENCE.name}\n"
        "  WHERE MODEL_VERSION = ? AND PART = 'test' AND PURCHASE_DECISION IS NOT NULL\n"
        ") AS tested GROUP BY TENTH ORDER BY TENTH",
        [version],
    )


def importance(version: str) -> pd.DataFrame:
    """How much each feature moves the predictions that were explained, the most first."""
    return read(
        "SELECT FEATURE, AVG(ABS(CONTRIBUTION))::FLOAT AS AMOUNT, COUNT(*) AS VISITS "
        f"FROM {MODEL_EXPLANATIONS.name} WHERE MODEL_VERSION = ? GROUP BY FEATURE ORDER BY AMOUNT DESC, FEATURE",
        [version],
    )


def deciles() -> pd.DataFrame:
    """TARGETING, the most likely to buy first."""
    return read(
        "SELECT DECILE, VISITS, LOWEST_PROBABILITY, MEAN_PROBABILITY, EXPECTED_PURCHASES, EXPECTED_GAIN, "
        f"EXPECTED_PROFIT, MODEL_VERSION FROM {TARGETING.name} ORDER BY DECILE"
    )


def most_likely(selection: Selection, count: int, undecided_only: bool) -> pd.DataFrame:
    """The chosen visits that are most likely to end in a purchase, and whether the prediction was explained.

    ``undecided_only``: without those that did end in one.
    """
    condition, binds = selection.condition("f")
    if undecided_only:
        condition += " AND (f.PURCHASE_DECISION IS NULL OR f.PURCHASE_DECISION = 0)"
    return read(
        "SELECT c.*, IFF(e.UUID IS NULL, 0, 1) AS EXPLAINED FROM (\n"
        "  SELECT f.UUID, p.PURCHASE_PROBABILITY, p.DECILE, f.PRODUCT_TYPE, f.PRODUCT_LAYOUT, f.LANGUAGE,\n"
        "    f.PAGE_LOAD_TIME, f.PRODUCT_RATING, f.REVIEW_SENTIMENT, f.REVIEW_QUALITY, f.PURCHASE_DECISION,\n"
        "    f.ARRIVAL_DATE\n"
        f"  FROM {PURCHASE_PROPENSITY.name} AS p JOIN {PURCHASE_FEATURES.name} AS f ON f.UUID = p.UUID\n"
        f"  WHERE {condition} ORDER BY p.PURCHASE_PROBABILITY DESC, f.UUID LIMIT ?\n"
        f") AS c LEFT JOIN (SELECT DISTINCT UUID FROM {MODEL_EXPLANATIONS.name}) AS e ON e.UUID = c.UUID\n"
        "ORDER BY c.PURCHASE_PROBABILITY DESC, c.UUID",
        [*binds, count],
    )


def explanation(uuid: str) -> pd.DataFrame:
    """What moved one prediction, the strongest first; empty where it was not explained."""
    return read(
        "SELECT e.FEATURE, e.FEATURE_VALUE, e.CONTRIBUTION, e.MODEL_VERSION, p.PURCHASE_PROBABILITY, r.LANGUAGE,\n"
        f"  LEFT(r.REVIEW_TEXT, {REVIEW_CHARACTERS}) AS REVIEW_TEXT\n"
        f"FROM {MODEL_EXPLANATIONS.name} AS e LEFT JOIN {PURCHASE_PROPENSITY.name} AS p ON p.UUID = e.UUID\n"
        f"LEFT JOIN {RAW_REVIEWS.name} AS r ON r.UUID = e.UUID\n"
        "WHERE e.UUID = ? ORDER BY ABS(e.CONTRIBUTION) DESC, e.FEATURE",
        [uuid],
    )


def drift() -> pd.DataFrame:
    """The latest comparison of the latest visits with the training set of a version, alarms first."""
    return read(
        "SELECT MEASURED, KIND, REFERENCE_ROWS, CURRENT_ROWS, REFERENCE_VALUE, CURRENT_VALUE, POPULATION_STABILITY, "
        f"DISTANCE, P_VALUE, DRIFTED, WINDOW_START, WINDOW_END, MODEL_VERSION, COMPUTED_AT\nFROM {DRIFT_REPORT.name}\n"
        "QUALIFY DENSE_RANK() OVER (ORDER BY WINDOW_END DESC, COMPUTED_AT DESC, MODEL_VERSION) = 1\n"
        "ORDER BY DRIFTED DESC, DISTANCE DESC NULLS LAST, MEASURED, KIND"
    )


def drift_history() -> pd.DataFrame:
    """Alarms of each comparison, the oldest first."""
    return read(
        "SELECT WINDOW_END, SUM(DRIFTED) AS ALARMS, COUNT(*) AS MEASURED FROM ("
        f"SELECT * FROM {DRIFT_REPORT.name} "
        "QUALIFY DENSE_RANK() OVER (PARTITION BY WINDOW_END ORDER BY COMPUTED_AT DESC, MODEL_VERSION) = 1) AS latest "
        "GROUP BY WINDOW_END ORDER BY WINDOW_END DESC LIMIT 60"
    )


@dataclass(frozen=True)
class Shown:
    """A table that the pages show: the asset that makes it, the column that tells its age, and the hours after which
    it is old."""

    table: str
    asset: str
    column: str
    what: str
    old_after_hours: int


_DAILY, _WEEKLY = 48, 24 * 9
SHOWN = (
    Shown(RAW_REVIEWS.name, "raw_reviews", "ARRIVAL_DATE", "Newest reviews", _DAILY),
    Shown(REVIEW_SENTIMENT.name, "review_sentiment", "SCORED_AT", "Sentiment", _DAILY),
    Shown(REVIEW_QUALITY.name, "review_quality", "SCORED_AT", "Review quality", _DAILY),
    Shown(PURCHASE_FEATURES.name, "purchase_features", "ARRIVAL_DATE", "Newest visit", _DAILY),
    Shown(PURCHASE_PROPENSITY.name, "purchase_propensity", "SCORED_AT", "Predictions", _DAILY),
    Shown(MODEL_EXPLANATIONS.name, "model_explanations", "EXPLAINED_AT", "Explanations", _DAILY),
    Shown(TARGETING.name, "targeting", "COMPUTED_AT", "Targeting", _DAILY),
    Shown(PRODUCT_INSIGHTS.name, "product_insights", "COMPUTED_AT", "Products", _DAILY),
    Shown(ASPECT_INSIGHTS.name, "aspect_insights", "COMPUTED_AT", "Aspects", _DAILY),
    Shown(PURCHASE_RATES.name, "purchase_rates", "COMPUTED_AT", "Purchase rates", _DAILY),
    Shown(DRIFT_REPORT.name, "drift_report", "COMPUTED_AT", "Drift", _DAILY),
    Shown(MODEL_EVALUATIONS.name, "conversion_model", "MEASURED_AT", "Model evaluation", _WEEKLY),
    Shown(MODEL_REFERENCE.name, "conversion_model", "LOGGED_AT", "Model's training set", _WEEKLY),
    Shown(CHAMPION_HISTORY.name, "champion", "CHANGED_AT", "Version in service", 24 * 3650),
)


def tables_there() -> frozenset[str]:
    """Names of the tables that exist and that the role may see."""
    found = read("SELECT TABLE_NAME FROM INFORMATION_SCHEMA.TABLES WHERE TABLE_SCHEMA = CURRENT_SCHEMA()")
    return frozenset(found["TABLE_NAME"])


def newest(there: Sequence[str] | frozenset[str]) -> dict[str, datetime | date | None]:
    """Table -> its newest moment (UTC), or its newest day; None where it is empty."""
    shown = [each for each in SHOWN if each.table in there]
    if not shown:
        return {}
    found = read(
        "\nUNION ALL\n".join(
            f"SELECT '{each.table}' AS NAME, MAX({each.column})::TIMESTAMP_NTZ AS NEWEST FROM {each.table}"
            for each in shown
        )
    )
    moments = dict(zip(found["NAME"], found["NEWEST"], strict=True))
    return {
        each.table: None
        if is_missing(moments[each.table])
        else _moment(moments[each.table], each.column == "ARRIVAL_DATE")
        for each in shown
    }


def _moment(value: Any, is_day: bool) -> datetime | date:
    moment = value.to_pydatetime() if hasattr(value, "to_pydatetime") else value
    return moment.date() if is_day else moment

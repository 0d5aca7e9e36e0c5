"""The features of the purchase model: one SQL join in the warehouse, and a fingerprint of its result.

What the model does with them is in ``purchase_model``; which columns it sees is in ``tables``.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from customer_insights import query
from customer_insights.tables import MODEL_FEATURES, PURCHASE_FEATURES, TARGET

if TYPE_CHECKING:
    from snowflake.snowpark import Session

# A visit becomes a row when its review is scored in full and what was shown is known; the others are counted, not
# dropped unseen.
BUILD = """
SELECT t.UUID, t.PRODUCT_TYPE, t.PRODUCT_LAYOUT, t.PAGE_LOAD_TIME, t.PRODUCT_RATING, r.LANGUAGE,
  LENGTH(r.REVIEW_TEXT) AS REVIEW_LENGTH, r.REVIEW_SENTIMENT, r.REVIEW_QUALITY, r.QUALITY_PROBABILITY, r.QUALITY_SCORE,
  t.PURCHASE_DECISION, r.ARRIVAL_DATE
FROM REVIEWS AS r
JOIN (
  SELECT * FROM TABULAR_DATA QUALIFY ROW_NUMBER() OVER (PARTITION BY UUID ORDER BY PAGE_LOAD_TIME, PRODUCT_TYPE) = 1
) AS t ON t.UUID = r.UUID
WHERE r.REVIEW_QUALITY IS NOT NULL AND r.SENTIMENT_LABEL IS NOT NULL AND t.PRODUCT_TYPE IS NOT NULL
  AND t.PRODUCT_LAYOUT IS NOT NULL AND t.PAGE_LOAD_TIME IS NOT NULL AND t.PRODUCT_RATING IS NOT NULL
  AND r.QUALITY_PROBABILITY IS NOT NULL AND r.QUALITY_SCORE IS NOT NULL AND r.ARRIVAL_DATE <= ?::DATE
"""
# Later than every day of arrival.
EVERYTHING = "9999-12-31"

LOSSES = """
SELECT
  COUNT(*) AS REVIEWS,
  COUNT_IF(v.UUID IS NULL) AS REVIEWS_WITHOUT_VISIT,
  COUNT_IF(r.REVIEW_QUALITY IS NULL OR r.QUALITY_SCORE IS NULL) AS REVIEWS_WITHOUT_QUALITY,
  COUNT_IF(r.SENTIMENT_LABEL IS NULL) AS REVIEWS_WITHOUT_SENTIMENT,
  COUNT_IF(v.INCOMPLETE) AS REVIEWS_OF_INCOMPLETE_VISITS,
  (SELECT COUNT(*) FROM TABULAR_DATA) AS VISITS,
  (SELECT COUNT(*) FROM TABULAR_DATA) - (SELECT COUNT(DISTINCT UUID) FROM TABULAR_DATA) AS VISITS_DOUBLED
FROM REVIEWS AS r LEFT JOIN (
  SELECT UUID, BOOLOR_AGG(
    PRODUCT_TYPE IS NULL OR PRODUCT_LAYOUT IS NULL OR PAGE_LOAD_TIME IS NULL OR PRODUCT_RATING IS NULL
  ) AS INCOMPLETE FROM TABULAR_DATA GROUP BY UUID
) AS v ON v.UUID = r.UUID
WHERE r.ARRIVAL_DATE <= ?::DATE
"""


def build(session: Session, as_of: date | None = None) -> int:
    """Make PURCHASE_FEATURES anew, in one statement that replaces it whole; returns its rows.

    ``as_of``: the last day of arrival that is in it; nothing that arrived later is. None: all that has arrived.
    """
    columns = ", ".join(PURCHASE_FEATURES.column_names)
    session.sql(
        f"INSERT OVERWRITE INTO {PURCHASE_FEATURES.name} ({columns}) {BUILD}", params=[_last_day(as_of)]
    ).collect()
    return int(session.table(PURCHASE_FEATURES.name).count())


def losses(session: Session, as_of: date | None = None) -> dict[str, int]:
    """Where reviews and visits do not meet: counts by reason."""
    return {name: int(count or 0) for name, count in query.row(session, LOSSES, [_last_day(as_of)]).items()}


def _last_day(as_of: date | None) -> str:
    return as_of.isoformat() if as_of else EVERYTHING


def fingerprint(session: Session) -> str:
    """A value that changes when any row that the model is trained on changes, whatever the order of the rows."""
    columns = ", ".join(("UUID", *MODEL_FEATURES, TARGET))
    return str(query.value(session, f"SELECT HASH_AGG({columns}) FROM {PURCHASE_FEATURES.name}"))

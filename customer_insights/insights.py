"""What a manager reads by product type and layout: one SQL statement over features, reviews and predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from customer_insights.settings import Settings
from customer_insights.tables import PRODUCT_INSIGHTS

if TYPE_CHECKING:
    from snowflake.snowpark import Session

# The example is the review with the strongest sentiment; among equals one of the best quality label, then the longest.
# DECIDED is NULL where nobody has decided yet: Snowflake fails the statement at a division by 0.
BUILD = """
WITH visits AS (
  SELECT f.*, p.PURCHASE_PROBABILITY, r.SENTIMENT_LABEL, r.REVIEW_TEXT, IFF(f.REVIEW_QUALITY = ?, 1, 0) AS IS_DETAILED
  FROM PURCHASE_FEATURES AS f
  JOIN REVIEWS AS r ON r.UUID = f.UUID
  LEFT JOIN PURCHASE_PROPENSITY AS p ON p.UUID = f.UUID
), examples AS (
  SELECT PRODUCT_TYPE, PRODUCT_LAYOUT,
    MAX(IFF(LIKED = 1, REVIEW_TEXT, NULL)) AS LIKED_EXAMPLE,
    MAX(IFF(DISLIKED = 1, REVIEW_TEXT, NULL)) AS DISLIKED_EXAMPLE
  FROM (
    SELECT PRODUCT_TYPE, PRODUCT_LAYOUT, REVIEW_TEXT,
      IFF(REVIEW_SENTIMENT > 0, ROW_NUMBER() OVER (PARTITION BY PRODUCT_TYPE, PRODUCT_LAYOUT
        ORDER BY REVIEW_SENTIMENT DESC NULLS LAST, IS_DETAILED DESC, REVIEW_LENGTH DESC, UUID), NULL) AS LIKED,
      IFF(REVIEW_SENTIMENT < 0, ROW_NUMBER() OVER (PARTITION BY PRODUCT_TYPE, PRODUCT_LAYOUT
        ORDER BY REVIEW_SENTIMENT ASC NULLS LAST, IS_DETAILED DESC, REVIEW_LENGTH DESC, UUID), NULL) AS DISLIKED
    FROM visits
  ) AS ranked
  GROUP BY PRODUCT_TYPE, PRODUCT_LAYOUT
), counts AS (
  SELECT PRODUCT_TYPE, PRODUCT_LAYOUT, COUNT(*) AS VISITS, NULLIF(COUNT(PURCHASE_DECISION), 0) AS DECIDED,
    AVG(PURCHASE_DECISION) AS RATE, AVG(PURCHASE_PROBABILITY) AS MEAN_PROBABILITY,
    AVG(REVIEW_SENTIMENT) AS MEAN_SENTIMENT, AVG(PRODUCT_RATING) AS MEAN_RATING,
    AVG(IFF(SENTIMENT_LABEL = 'negative', 1, 0)) AS NEGATIVE_SHARE
  FROM visits GROUP BY PRODUCT_TYPE, PRODUCT_LAYOUT
)
SELECT c.PRODUCT_TYPE, c.PRODUCT_LAYOUT, c.VISITS, c.RATE AS PURCHASE_RATE,
  (c.RATE + 1.9208 / c.DECIDED - 1.96 * SQRT((c.RATE * (1 - c.RATE) + 0.9604 / c.DECIDED) / c.DECIDED))
    / (1 + 3.8416 / c.DECIDED) AS PURCHASE_RATE_LOW,
  (c.RATE + 1.9208 / c.DECIDED + 1.96 * SQRT((c.RATE * (1 - c.RATE) + 0.9604 / c.DECIDED) / c.DECIDED))
    / (1 + 3.8416 / c.DECIDED) AS PURCHASE_RATE_HIGH,
  c.MEAN_PROBABILITY, c.MEAN_SENTIMENT, c.MEAN_RATING, c.NEGATIVE_SHARE, e.LIKED_EXAMPLE, e.DISLIKED_EXAMPLE,
  SYSDATE() AS COMPUTED_AT, ? AS RUN_ID
FROM counts AS c
JOIN examples AS e ON e.PRODUCT_TYPE = c.PRODUCT_TYPE AND e.PRODUCT_LAYOUT = c.PRODUCT_LAYOUT
"""


def build(session: Session, settings: Settings, run_id: str) -> int:
    """Make PRODUCT_INSIGHTS anew; the interval is Wilson's (1927) at 95 %. Returns its rows."""
    columns = ", ".join(PRODUCT_INSIGHTS.column_names)
    session.sql(
        f"INSERT OVERWRITE INTO {PRODUCT_INSIGHTS.name} ({columns}) {BUILD}",
        params=[settings.quality_labels[0], run_id],
    ).collect()
    return int(session.table(PRODUCT_INSIGHTS.name).count())

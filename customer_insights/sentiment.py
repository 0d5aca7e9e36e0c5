"""Sentiment of reviews: one scale from -1 to 1, computed by Cortex in the warehouse or by a model on the compute pool.

Which reviews have no score yet, and the statements that score them, belong here; the models are in
``sentiment_models``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from customer_insights.pending import Query, Window, pending
from customer_insights.settings import Settings
from customer_insights.tables import REVIEW_SENTIMENT

if TYPE_CHECKING:
    import pandas as pd
    from snowflake.snowpark import Session

CORTEX_BACKEND = "cortex"
CORTEX_MODEL = "AI_SENTIMENT"
# Snowflake names no version of the function: a new value here scores every review again.
CORTEX_REVISION = "2025-07"

# AI_SENTIMENT answers with a class. 'mixed' is no half praise: it stands in the middle; 'unknown' is no score at all.
UNKNOWN = "unknown"
CLASS_SCORES = {"positive": 1.0, "neutral": 0.0, "mixed": 0.0, "negative": -1.0}


def cortex_pending(settings: Settings, window: Window) -> Query:
    """Reviews in Cortex's languages that Cortex has not scored."""
    return pending(REVIEW_SENTIMENT, window, CORTEX_MODEL, CORTEX_REVISION, _of_cortex(settings, True))


def model_pending(settings: Settings, window: Window, model: str, revision: str) -> Query:
    """Reviews in the other languages that this revision of the model has not scored."""
    return pending(REVIEW_SENTIMENT, window, model, revision, _of_cortex(settings, False))


def _of_cortex(settings: Settings, wanted: bool) -> Query:
    languages = settings.sentiment_cortex_languages
    if not languages:
        return Query(str(not wanted).upper(), ())
    return Query(f"r.LANGUAGE {'' if wanted else 'NOT '}IN ({', '.join('?' for _ in languages)})", languages)


def score_with_cortex(session: Session, settings: Settings, window: Window, run_id: str) -> int:
    """Score what is pending with ``AI_SENTIMENT`` in the warehouse; returns the number of reviews scored.

    Every distinct text is sent once: the function is billed by the call. The overall sentiment is read by its name, not
    by its place.
    """
    query = cortex_pending(settings, window)
    session.sql(f"CREATE OR REPLACE TEMPORARY TABLE CORTEX_PENDING AS {query.sql}", params=list(query.binds)).collect()
    session.sql(
        "CREATE OR REPLACE TEMPORARY TABLE CORTEX_ANSWERS AS\n"
        "SELECT t.TEXT_HASH, AI_SENTIMENT(t.REVIEW_TEXT) AS ANSWER\n"
        "FROM (SELECT TEXT_HASH, ANY_VALUE(REVIEW_TEXT) AS REVIEW_TEXT FROM CORTEX_PENDING GROUP BY TEXT_HASH) AS t"
    ).collect()
    cases = " ".join("WHEN ? THEN ?::FLOAT" for _ in CLASS_SCORES)
    merged = session.sql(
        "MERGE INTO REVIEW_SENTIMENT AS target USING (\n"
        "  SELECT p.UUID, p.TEXT_HASH, p.LANGUAGE, p.ARRIVAL_DATE, COALESCE(o.LABEL, ?) AS SENTIMENT_LABEL,\n"
        f"    CASE o.LABEL {cases} END AS REVIEW_SENTIMENT\n"
        "  FROM CORTEX_PENDING AS p LEFT JOIN (\n"
        "    SELECT a.TEXT_HASH, c.VALUE:sentiment::STRING AS LABEL\n"
        "    FROM CORTEX_ANSWERS AS a, LATERAL FLATTEN(INPUT => a.ANSWER:categories) AS c\n"
        "    WHERE c.VALUE:name::STRING = 'overall'\n"
        "  ) AS o ON o.TEXT_HASH = p.TEXT_HASH\n"
        ") AS source ON target.UUID = source.UUID\n"
        "WHEN MATCHED THEN UPDATE SET TEXT_HASH = source.TEXT_HASH, LANGUAGE = source.LANGUAGE,\n"
        "  REVIEW_SENTIMENT = source.REVIEW_SENTIMENT, SENTIMENT_LABEL = source.SENTIMENT_LABEL,\n"
        "  BACKEND = ?, MODEL = ?, REVISION = ?, ARRIVAL_DATE = source.ARRIVAL_DATE,\n"
        "  SCORED_AT = SYSDATE(), RUN_ID = ?\n"
        "WHEN NOT MATCHED THEN INSERT (UUID, TEXT_HASH, LANGUAGE, REVIEW_SENTIMENT, SENTIMENT_LABEL, BACKEND, MODEL,\n"
        "  REVISION, ARRIVAL_DATE, SCORED_AT, RUN_ID)\n"
        "  VALUES (source.UUID, source.TEXT_HASH, source.LANGUAGE, source.REVIEW_SENTIMENT, source.SENTIMENT_LABEL,\n"
        "  ?, ?, ?, source.ARRIVAL_DATE, SYSDATE(), ?)",
        params=[
            UNKNOWN,
            *(value for pair in CLASS_SCORES.items() for value in pair),
            *(CORTEX_BACKEND, CORTEX_MODEL, CORTEX_REVISION, run_id) * 2,
        ],
    ).collect()
    for table in ("CORTEX_PENDING", "CORTEX_ANSWERS"):
        session.sql(f"DROP TABLE {table}").collect()
    return sum(int(value) for value in merged[0].as_dict().values())


class SentimentScorer:
    """Turns pending rows into sentiment columns with one of the models of ``sentiment_models``."""

    def __init__(self, name: str, revision: str | None) -> None:
        from customer_insights import sentiment_models

        self._model = sentiment_models.load(name, revision)

    def __call__(self, pending: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        prediction = self._model.predict(pending["REVIEW_TEXT"].tolist())
        return pd.DataFrame(
            {
                "REVIEW_SENTIMENT": prediction.scores,
                "SENTIMENT_LABEL": prediction.labels,
                "BACKEND": self._model.backend,
                "MODEL": self._model.name,
                "REVISION": self._model.revision,
            },
            index=pending.index,
        )

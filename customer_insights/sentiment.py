"""Sentiment of reviews: one scale from -1 to 1, computed by Cortex in the warehouse or by a model on the compute pool.

Which reviews have no score yet, and the statements that score them, belong here; the models are in
``sentiment_models``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from customer_insights import publish, query
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
# AI_SENTIMENT answers NULL where it failed (behaviour change 2184). Such a review is 'unknown' for now, and stays
# pending by this revision: the next run of its day asks again.
UNANSWERED_REVISION = f"{CORTEX_REVISION}, no answer"

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
    """Score what is pending with ``AI_SENTIMENT`` in the warehouse; returns the number of reviews written.

    Every distinct text is sent once: the function is billed by the call. The overall sentiment is read by its name, not
    by its place. Of two runs at once each pays for its calls, and the second updates the rows of the first.
    """
    pending_reviews = cortex_pending(settings, window)
    with (
        publish.temporary(session, pending_reviews.sql, pending_reviews.binds) as asked,
        publish.temporary(
            session,
            "SELECT t.TEXT_HASH, AI_SENTIMENT(t.REVIEW_TEXT) AS ANSWER\n"
            f"FROM (SELECT TEXT_HASH, ANY_VALUE(REVIEW_TEXT) AS REVIEW_TEXT FROM {asked} GROUP BY TEXT_HASH) AS t",
        ) as answers,
    ):
        merged = publish.transaction(session, REVIEW_SENTIMENT, lambda: _merge_answers(session, asked, answers, run_id))
    return sum(int(count) for count in merged.values())


def _merge_answers(session: Session, asked: str, answers: str, run_id: str) -> dict[str, int]:
    """Rows inserted and updated."""
    cases = " ".join("WHEN ? THEN ?::FLOAT" for _ in CLASS_SCORES)
    return query.row(
        session,
        "MERGE INTO REVIEW_SENTIMENT AS target USING (\n"
        "  SELECT p.UUID, p.TEXT_HASH, p.LANGUAGE, p.ARRIVAL_DATE, COALESCE(o.LABEL, ?) AS SENTIMENT_LABEL,\n"
        f"    CASE o.LABEL {cases} END AS REVIEW_SENTIMENT,\n"
        "    IFF(o.LABEL IS NULL, ?, ?) AS REVISION\n"
        f"  FROM {asked} AS p LEFT JOIN (\n"
        "    SELECT a.TEXT_HASH, c.VALUE:sentiment::STRING AS LABEL\n"
        f"    FROM {answers} AS a, LATERAL FLATTEN(INPUT => a.ANSWER:categories) AS c\n"
        "    WHERE c.VALUE:name::STRING = 'overall'\n"
        "  ) AS o ON o.TEXT_HASH = p.TEXT_HASH\n"
        ") AS source ON target.UUID = source.UUID\n"
        "WHEN MATCHED THEN UPDATE SET TEXT_HASH = source.TEXT_HASH, LANGUAGE = source.LANGUAGE,\n"
        "  REVIEW_SENTIMENT = source.REVIEW_SENTIMENT, SENTIMENT_LABEL = source.SENTIMENT_LABEL,\n"
        "  BACKEND = ?, MODEL = ?, REVISION = source.REVISION, ARRIVAL_DATE = source.ARRIVAL_DATE,\n"
        "  SCORED_AT = SYSDATE(), RUN_ID = ?\n"
        "WHEN NOT MATCHED THEN INSERT (UUID, TEXT_HASH, LANGUAGE, REVIEW_SENTIMENT, SENTIMENT_LABEL, BACKEND, MODEL,\n"
        "  REVISION, UNANSWERED, ARRIVAL_DATE, SCORED_AT, RUN_ID)\n"
        "  VALUES (source.UUID, source.TEXT_HASH, source.LANGUAGE, source.REVIEW_SENTIMENT, source.SENTIMENT_LABEL,\n"
        "  ?, ?, source.REVISION, 0, source.ARRIVAL_DATE, SYSDATE(), ?)",
        [
            UNKNOWN,
            *(value for pair in CLASS_SCORES.items() for value in pair),
            *(UNANSWERED_REVISION, CORTEX_REVISION),
            *(CORTEX_BACKEND, CORTEX_MODEL, run_id) * 2,
        ],
    )


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
                "SENTIMENT_CONFIDENCE": prediction.confidences,
                "ASPECTS": None,
                "UNANSWERED": 0,
                "BACKEND": self._model.backend,
                "MODEL": self._model.name,
                "REVISION": self._model.revision,
            },
            index=pending.index,
        )

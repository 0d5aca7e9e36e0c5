"""Sentiment of reviews: one scale from -1 to 1, computed by Cortex in the warehouse or by a model on the compute pool.

Which reviews have no score yet, and the statements that score them, belong here; the models are in
``sentiment_models``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from customer_insights import costs, publish, query
from customer_insights.pending import Query, Window, pending, scored_by_others
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
# The record of AI_SENTIMENT's answer that is about the whole text.
OVERALL = "overall"
_ARRIVED = "ARRIVAL_DATE BETWEEN ?::DATE AND ?::DATE"


@dataclass(frozen=True)
class CortexReport:
    """What a run of Cortex did: rows written, rows among them that have a sentiment, and texts sent, each billed."""

    rows: int
    answered: int
    texts_sent: int


def cortex_revision(settings: Settings) -> str:
    """What is stored as the revision: with another list of aspects every review is asked about again."""
    return _with_aspects(CORTEX_REVISION, settings.review_aspects)


def model_identity(settings: Settings) -> tuple[str, str]:
    """Name and revision that the model on the compute pool stores, with the aspects it judges; loads no encoder."""
    from customer_insights import sentiment_models

    name, revision = sentiment_models.identity(settings.sentiment_model, settings.sentiment_revision)
    known = _asked(settings.review_aspects, sentiment_models.aspect_names(settings.sentiment_model))
    return name, _with_aspects(revision, known)


def _with_aspects(revision: str, aspects: Sequence[str]) -> str:
    # Sorted, as their order changes no answer.
    return f"{revision}, aspects {', '.join(sorted(aspects))}" if aspects else revision


def _asked(aspects: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in aspects if name in known)


def cortex_pending(settings: Settings, window: Window) -> Query:
    """Reviews in Cortex's languages that Cortex has not scored, and those it gave no answer to so far.

    AI_SENTIMENT answers NULL where it failed (behaviour change 2184), and 'unknown' where it cannot tell. The next run
    asks again, up to the setting's number of attempts.
    """
    done = Query("s.UNANSWERED NOT BETWEEN 1 AND ?", (settings.sentiment_attempts - 1,))
    of_cortex = _of_cortex(settings, True)
    return pending(REVIEW_SENTIMENT, window, CORTEX_MODEL, cortex_revision(settings), of_cortex, done)


def given_up(settings: Settings, window: Window) -> Query:
    """Rows without a sentiment that are not asked about any more."""
    return Query(
        "SELECT UUID FROM REVIEW_SENTIMENT WHERE ARRIVAL_DATE BETWEEN ?::DATE AND ?::DATE\n"
        "AND MODEL = ? AND REVISION = ? AND UNANSWERED >= ?",
        (window.start, window.end, CORTEX_MODEL, cortex_revision(settings), settings.sentiment_attempts),
    )


def model_pending(settings: Settings, window: Window, model: str, revision: str) -> Query:
    """Reviews in the other languages that this revision of the model has not scored."""
    return pending(REVIEW_SENTIMENT, window, model, revision, _of_cortex(settings, False))


def of_other_versions(settings: Settings, model: str, revision: str) -> Query:
    """Days of the rows that neither Cortex, in its languages, nor this revision of the model, in the others, scored."""
    return scored_by_others(
        REVIEW_SENTIMENT,
        [
            (_of_cortex(settings, True, "LANGUAGE"), CORTEX_MODEL, cortex_revision(settings)),
            (_of_cortex(settings, False, "LANGUAGE"), model, revision),
        ],
    )


def _of_cortex(settings: Settings, wanted: bool, language: str = "r.LANGUAGE") -> Query:
    languages = settings.sentiment_cortex_languages
    if not languages:
        return Query(str(not wanted).upper(), ())
    return Query(f"{language} {'' if wanted else 'NOT '}IN ({', '.join('?' for _ in languages)})", languages)


def score_with_cortex(session: Session, settings: Settings, window: Window, run_id: str) -> CortexReport:
    """Score what is pending with ``AI_SENTIMENT`` in the warehouse: overall, and by aspect where the settings ask.

    The function is billed by the call: every distinct text is sent once, and none that was answered or given up before,
    whichever review it was of. Of two runs at once each pays for its calls, and the second updates the rows of the
    first; an answer of this revision is never replaced by none.
    """
    pending_reviews = cortex_pending(settings, window)
    aspects = settings.review_aspects
    categories = f", [{', '.join('?' for _ in aspects)}]" if aspects else ""
    earlier = _earlier(settings)
    with (
        publish.temporary(session, pending_reviews.sql, pending_reviews.binds) as asked,
        publish.temporary(
            session,
            "SELECT p.TEXT_HASH, ANY_VALUE(p.REVIEW_TEXT) AS REVIEW_TEXT\n"
            f"FROM {asked} AS p LEFT JOIN ({earlier.sql}) AS k ON k.TEXT_HASH = p.TEXT_HASH\n"
            "WHERE k.LABEL IS NULL AND COALESCE(k.UNANSWERED, 0) < ? GROUP BY p.TEXT_HASH",
            (*earlier.binds, settings.sentiment_attempts),
        ) as unsettled,
    ):
        # In the tag before they are sent: whatever becomes of this process, Snowflake knows what it is asked.
        counted = query.row(
            session, f"SELECT COUNT(*) AS N, COALESCE(SUM(OCTET_LENGTH(REVIEW_TEXT)), 0) AS B FROM {unsettled}"
        )
        texts = int(counted["N"])
        tag = costs.query_tag(
            run_id,
            REVIEW_SENTIMENT.name.lower(),
            costs.partition_label(window.start, window.end),
            cortex_rows=texts,
            cortex_tokens=int(counted["B"]) // costs.BYTES_PER_TOKEN + texts * settings.cortex_prompt_tokens,
        )
        with publish.temporary(
            session,
            f"SELECT t.TEXT_HASH, AI_SENTIMENT(t.REVIEW_TEXT{categories}) AS ANSWER\nFROM {unsettled} AS t",
            aspects,
            tag,
        ) as answers:
            merged = publish.transaction(
                session, REVIEW_SENTIMENT, lambda: _merge_answers(session, settings, asked, answers, run_id)
            )
            sent = int(query.value(session, f"SELECT COUNT(*) FROM {answers}"))
        answered = query.value(
            session,
            f"SELECT COUNT(*) FROM REVIEW_SENTIMENT AS s JOIN {asked} AS p ON p.UUID = s.UUID WHERE s.UNANSWERED = 0",
        )
    return CortexReport(sum(int(count) for count in merged.values()), int(answered), sent)


def _earlier(settings: Settings) -> Query:
    """One row a text that this revision was asked about: its answer (NULL for none) and the attempts without one."""
    return Query(
        "SELECT TEXT_HASH, MAX(IFF(UNANSWERED = 0, SENTIMENT_LABEL, NULL)) AS LABEL,\n"
        "  MAX(IFF(UNANSWERED = 0, ASPECTS, NULL)) AS ASPECTS, MAX(UNANSWERED) AS UNANSWERED\n"
        "FROM REVIEW_SENTIMENT WHERE MODEL = ? AND REVISION = ? GROUP BY TEXT_HASH",
        (CORTEX_MODEL, cortex_revision(settings)),
    )


def _merge_answers(session: Session, settings: Settings, asked: str, answers: str, run_id: str) -> dict[str, int]:
    """Rows inserted and updated."""
    cases = " ".join("WHEN ? THEN ?::FLOAT" for _ in CLASS_SCORES)
    read, earlier = _read_answers(settings, answers), _earlier(settings)
    return query.row(
        session,
        "MERGE INTO REVIEW_SENTIMENT AS target USING (\n"
        "  SELECT n.UUID, n.TEXT_HASH, n.LANGUAGE, n.ARRIVAL_DATE, COALESCE(n.LABEL, ?) AS SENTIMENT_LABEL,\n"
        f"    CASE n.LABEL {cases} END AS REVIEW_SENTIMENT, n.ASPECTS,\n"
        "    IFF(n.LABEL IS NULL, n.ATTEMPTS, 0) AS UNANSWERED\n"
        "  FROM (\n"
        "    SELECT p.UUID, p.TEXT_HASH, p.LANGUAGE, p.ARRIVAL_DATE, COALESCE(o.LABEL, k.LABEL) AS LABEL,\n"
        "      IFF(o.LABEL IS NULL AND k.LABEL IS NOT NULL, k.ASPECTS, o.ASPECTS) AS ASPECTS,\n"
        "      COALESCE(k.UNANSWERED, 0) + IFF(a.TEXT_HASH IS NULL, 0, 1) AS ATTEMPTS\n"
        f"    FROM {asked} AS p\n"
        f"    LEFT JOIN {answers} AS a ON a.TEXT_HASH = p.TEXT_HASH\n"
        f"    LEFT JOIN ({read.sql}) AS o ON o.TEXT_HASH = p.TEXT_HASH\n"
        f"    LEFT JOIN ({earlier.sql}) AS k ON k.TEXT_HASH = p.TEXT_HASH\n"
        "  ) AS n\n"
        ") AS source ON target.UUID = source.UUID\n"
        "WHEN MATCHED THEN UPDATE SET TEXT_HASH = source.TEXT_HASH, LANGUAGE = source.LANGUAGE,\n"
        "  REVIEW_SENTIMENT = source.REVIEW_SENTIMENT, SENTIMENT_LABEL = source.SENTIMENT_LABEL,\n"
        "  SENTIMENT_CONFIDENCE = NULL, ASPECTS = source.ASPECTS, UNANSWERED = source.UNANSWERED,\n"
        "  BACKEND = ?, MODEL = ?, REVISION = ?, ARRIVAL_DATE = source.ARRIVAL_DATE, SCORED_AT = SYSDATE(),\n"
        "  RUN_ID = ?\n"
        "WHEN NOT MATCHED THEN INSERT (UUID, TEXT_HASH, LANGUAGE, REVIEW_SENTIMENT, SENTIMENT_LABEL, ASPECTS,\n"
        "  UNANSWERED, BACKEND, MODEL, REVISION, ARRIVAL_DATE, SCORED_AT, RUN_ID)\n"
        "  VALUES (source.UUID, source.TEXT_HASH, source.LANGUAGE, source.REVIEW_SENTIMENT, source.SENTIMENT_LABEL,\n"
        "  source.ASPECTS, source.UNANSWERED, ?, ?, ?, source.ARRIVAL_DATE, SYSDATE(), ?)",
        [
            UNKNOWN,
            *(value for pair in CLASS_SCORES.items() for value in pair),
            *read.binds,
            *earlier.binds,
            *(CORTEX_BACKEND, CORTEX_MODEL, cortex_revision(settings), run_id) * 2,
        ],
    )


def _read_answers(settings: Settings, answers: str) -> Query:
    """One row a text that has an answer: its overall class (NULL for 'unknown') and its aspects as JSON.

    Classes are read by the category's name, not by its place; a key that is NULL is left out of the object.
    """
    aspects = settings.review_aspects
    asked = f"c.VALUE:name::STRING IN ({', '.join('?' for _ in aspects)})" if aspects else "FALSE"
    as_json = "COALESCE(TO_JSON(OBJECT_AGG(r.ASPECT, r.SENTIMENT)), '{}')" if aspects else "NULL::STRING"
    return Query(
        f"SELECT r.TEXT_HASH, MAX(r.LABEL) AS LABEL, {as_json} AS ASPECTS\n"
        "FROM (\n"
        "  SELECT a.TEXT_HASH, c.VALUE:sentiment AS SENTIMENT,\n"
        "    IFF(c.VALUE:name::STRING = ?, NULLIF(c.VALUE:sentiment::STRING, ?), NULL) AS LABEL,\n"
        f"    IFF({asked} AND c.VALUE:sentiment::STRING <> ?, c.VALUE:name::STRING, NULL) AS ASPECT\n"
        f"  FROM {answers} AS a, LATERAL FLATTEN(INPUT => a.ANSWER:categories) AS c\n"
        ") AS r GROUP BY r.TEXT_HASH",
        (OVERALL, UNKNOWN, *aspects, UNKNOWN),
    )


def means_by_language(session: Session, days: tuple[str, str]) -> dict[str, float]:
    """Mean sentiment of the reviews that have one, by language in alphabetical order; ``days``: first and last."""
    found = query.rows(
        session,
        f"SELECT LANGUAGE AS V, AVG(REVIEW_SENTIMENT) AS M FROM REVIEW_SENTIMENT WHERE {_ARRIVED} "
        "GROUP BY LANGUAGE HAVING AVG(REVIEW_SENTIMENT) IS NOT NULL ORDER BY LANGUAGE",
        days,
    )
    return {row["V"]: float(row["M"]) for row in found}


def classes_by_language(session: Session, days: tuple[str, str]) -> dict[str, dict[str, int]]:
    """Language -> class -> reviews, in alphabetical order of the language."""
    return _counts(
        query.rows(
            session,
            f"SELECT LANGUAGE AS V, SENTIMENT_LABEL AS C, COUNT(*) AS N FROM REVIEW_SENTIMENT WHERE {_ARRIVED} "
            "GROUP BY LANGUAGE, SENTIMENT_LABEL ORDER BY LANGUAGE, SENTIMENT_LABEL",
            days,
        )
    )


def classes_by_aspect(session: Session, days: tuple[str, str]) -> dict[str, dict[str, int]]:
    """Aspect -> class -> reviews that speak of it, in alphabetical order of the aspect."""
    return _counts(
        query.rows(
            session,
            "SELECT a.KEY AS V, a.VALUE::STRING AS C, COUNT(*) AS N\n"
            f"FROM (SELECT ASPECTS FROM REVIEW_SENTIMENT WHERE {_ARRIVED} AND ASPECTS IS NOT NULL) AS s,\n"
            "LATERAL FLATTEN(INPUT => PARSE_JSON(s.ASPECTS)) AS a GROUP BY a.KEY, a.VALUE::STRING ORDER BY 1, 2",
            days,
        )
    )


def _counts(found: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for row in found:
        counts.setdefault(str(row["V"]), {})[str(row["C"])] = int(row["N"])
    return counts


def confidences(session: Session, days: tuple[str, str]) -> list[float]:
    """The probabilities of the classes, where the backend gives them: up to 10,000 reviews, the same ones each time."""
    found = query.rows(
        session,
        f"SELECT SENTIMENT_CONFIDENCE AS P FROM REVIEW_SENTIMENT WHERE {_ARRIVED} "
        "AND SENTIMENT_CONFIDENCE IS NOT NULL ORDER BY MD5(UUID) LIMIT 10000",
        days,
    )
    return [float(row["P"]) for row in found]


class SentimentScorer:
    """Turns pending rows into sentiment columns with the model of the settings.

    Aspects are those of the settings that the model knows; NULL where it knows none of them.
    """

    def __init__(self, settings: Settings) -> None:
        from customer_insights import sentiment_models

        self._model = sentiment_models.load(settings.sentiment_model, settings.sentiment_revision)
        self._aspects = _asked(settings.review_aspects, sentiment_models.aspect_names(settings.sentiment_model))
        _, self._revision = model_identity(settings)

    def __call__(self, pending: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        texts = pending["REVIEW_TEXT"].tolist()
        prediction = self._model.predict(texts)
        return pd.DataFrame(
            {
                "REVIEW_SENTIMENT": prediction.scores,
                "SENTIMENT_LABEL": prediction.labels,
                "SENTIMENT_CONFIDENCE": prediction.confidences,
                "ASPECTS": self._aspects_of(texts),
                "UNANSWERED": 0,
                "BACKEND": self._model.backend,
                "MODEL": self._model.name,
                "REVISION": self._revision,
            },
            index=pending.index,
        )

    def _aspects_of(self, texts: list[str]) -> list[str | None]:
        if not self._aspects:
            return [None] * len(texts)
        return [
            json.dumps({name: said[name] for name in self._aspects if name in said})
            for said in self._model.aspects(texts)
        ]

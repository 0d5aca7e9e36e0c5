"""Sentiment by Cortex, where its answer is not what one hopes for."""

from __future__ import annotations

from customer_insights import deployment, pending, query, sentiment
from customer_insights.settings import settings


def test_a_review_that_cortex_fails_on_is_unknown_and_asked_for_again(embedded):
    session = embedded.session()
    deployment.deploy(session, settings())
    window = pending.Window("2026-02-01", "2026-02-01")
    query.rows(
        session,
        "INSERT INTO RAW_REVIEWS (UUID, REVIEW_TEXT, TEXT_HASH, LANGUAGE, LANGUAGE_CONFIDENCE, SOURCE_FILE,"
        " SOURCE_LINE, ARRIVAL_DATE, INGESTED_AT, RUN_ID)"
        " SELECT 'cortex-1', 'A good chair', 'h-cortex-1', 'en', 1, 'f', 1, '2026-02-01'::DATE, SYSDATE(), 'r'",
    )
    try:
        for answer, label, left in (
            ("NULL::OBJECT", "unknown", 1),
            ('PARSE_JSON(\'{"categories": [{"name": "overall", "sentiment": "mixed"}]}\')', "mixed", 0),
        ):
            query.rows(
                session, f"CREATE TEMPORARY TABLE ANSWERS AS SELECT 'h-cortex-1' AS TEXT_HASH, {answer} AS ANSWER"
            )
            query.rows(session, "CREATE TEMPORARY TABLE ASKED AS SELECT * FROM RAW_REVIEWS WHERE UUID = 'cortex-1'")
            sentiment._merge_answers(session, "ASKED", "ANSWERS", "run")
            query.rows(session, "DROP TABLE ANSWERS")
            query.rows(session, "DROP TABLE ASKED")
            found = query.rows(session, "SELECT SENTIMENT_LABEL FROM REVIEW_SENTIMENT WHERE UUID = 'cortex-1'")
            assert [row["SENTIMENT_LABEL"] for row in found] == [label]
            assert pending.count(session, sentiment.cortex_pending(settings(), window)) == left
    finally:
        for table in ("RAW_REVIEWS", "REVIEW_SENTIMENT"):
            query.rows(session, f"DELETE FROM {table} WHERE UUID = 'cortex-1'")

"""Sentiment by Cortex: what it is asked, what is done where its answer is not what one hopes for."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from conftest import start_embedded, stop_embedded
from pydantic import ValidationError
from snowflake.snowpark import Session

from customer_insights import deployment, pending, query, sentiment
from customer_insights.settings import Settings

DAY = pending.Window("2026-02-01", "2026-02-01")
ASPECTS = ("price", "delivery")


@dataclass(frozen=True)
class Place:
    """A server whose AI_SENTIMENT counts the words of a lexicon, and the settings of one schema in it."""

    session: Session
    settings: Settings

    def arrive(self, **texts: str) -> None:
        for uuid, text in texts.items():
            query.rows(
                self.session,
                "MERGE INTO RAW_REVIEWS AS t USING (SELECT ? AS UUID, ? AS REVIEW_TEXT) AS s ON t.UUID = s.UUID"
                " WHEN MATCHED THEN UPDATE SET REVIEW_TEXT = s.REVIEW_TEXT, TEXT_HASH = MD5(s.REVIEW_TEXT)"
                " WHEN NOT MATCHED THEN INSERT (UUID, REVIEW_TEXT, TEXT_HASH, LANGUAGE, LANGUAGE_CONFIDENCE,"
                " SOURCE_FILE, SOURCE_LINE, ARRIVAL_DATE, INGESTED_AT, RUN_ID) VALUES (s.UUID, s.REVIEW_TEXT,"
                " MD5(s.REVIEW_TEXT), 'en', 1, 'f', 1, '2026-02-01'::DATE, SYSDATE(), 'r')",
                [uuid, text],
            )

    def score(self, run_id: str = "run", **changed: object) -> sentiment.CortexReport:
        settings = self.settings.model_copy(update=changed)
        return sentiment.score_with_cortex(self.session, settings, DAY, run_id)

    def waiting(self, **changed: object) -> int:
        return pending.count(self.session, sentiment.cortex_pending(self.settings.model_copy(update=changed), DAY))

    def rows(self) -> dict[str, tuple]:
        found = query.rows(self.session, "SELECT * FROM REVIEW_SENTIMENT ORDER BY UUID")
        return {
            row["UUID"]: (
                row["SENTIMENT_LABEL"],
                row["REVIEW_SENTIMENT"],
                None if row["ASPECTS"] is None else json.loads(row["ASPECTS"]),
                row["UNANSWERED"],
            )
            for row in found
        }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    home = tmp_path_factory.mktemp("cortex") / ".snowflake"
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        server = start_embedded(home, "--sentiment-model", "lexicon_sentiment:build")
    connection = tomllib.loads((home / "connections.toml").read_text())["embedded"]
    session = Session.builder.configs(connection).create()
    yield session
    session.close()
    stop_embedded(server)


@pytest.fixture
def place(server, request: pytest.FixtureRequest) -> Place:
    settings = Settings(schema_name=f"S_{abs(hash(request.node.name)) % 10**8}", review_aspects=ASPECTS)
    deployment.deploy(server, settings)
    server.use_schema(settings.qualified_schema)
    return Place(server, settings)


def test_the_class_and_the_aspects_of_a_review_come_from_one_call(place: Place) -> None:
    place.arrive(a="a great price, awful delivery", b="a great price, awful delivery", c="a teapot")
    assert place.score() == sentiment.CortexReport(rows=3, answered=3, texts_sent=2)
    both = {"price": "positive", "delivery": "negative"}
    assert place.rows() == {"a": ("mixed", 0.0, both, 0), "b": ("mixed", 0.0, both, 0), "c": ("neutral", 0.0, {}, 0)}
    assert place.waiting() == 0


def test_aspects_that_are_not_asked_for_are_null(place: Place) -> None:
    place.arrive(a="a great price")
    place.score(review_aspects=())
    assert place.rows() == {"a": ("positive", 1.0, None, 0)}


def test_a_new_list_of_aspects_scores_again_and_another_order_does_not(place: Place) -> None:
    place.arrive(a="a great price")
    place.score()
    assert place.waiting(review_aspects=ASPECTS[::-1]) == 0
    assert place.waiting(review_aspects=("price",)) == 1
    place.score(review_aspects=("delivery",))
    assert place.rows() == {"a": ("positive", 1.0, {}, 0)}


def test_a_text_that_was_answered_is_not_sent_again_for_another_review(place: Place) -> None:
    place.arrive(a="a great price")
    place.score()
    place.arrive(b="a great price")
    assert place.score() == sentiment.CortexReport(rows=1, answered=1, texts_sent=0)
    assert place.rows()["b"] == ("positive", 1.0, {"price": "positive"}, 0)


@pytest.mark.parametrize("text", ["mute", "a riddle"], ids=["no answer", "unknown"])
def test_a_text_without_an_answer_is_asked_about_again_and_then_given_up(place: Place, text: str) -> None:
    place.arrive(a=text, b="a great chair")
    sent = [place.score().texts_sent for _ in range(4)]
    assert sent == [2, 1, 1, 0]
    label, score, _, unanswered = place.rows()["a"]
    assert (label, score, unanswered) == ("unknown", None, 3)
    assert place.waiting() == 0
    assert pending.count(place.session, sentiment.given_up(place.settings, DAY)) == 1
    # The same text in another review is not billed either; a new text begins anew.
    place.arrive(c=text)
    assert place.score() == sentiment.CortexReport(rows=1, answered=0, texts_sent=0)
    assert place.rows()["c"][:2] == ("unknown", None)
    place.arrive(a="a bad chair")
    assert place.score().texts_sent == 1
    assert place.rows()["a"] == ("negative", -1.0, {}, 0)


def test_a_text_that_waits_is_counted_as_waiting_and_an_answer_ends_it(place: Place) -> None:
    place.arrive(a="a good chair")
    query.rows(place.session, "CREATE TEMPORARY TABLE ASKED AS SELECT * FROM RAW_REVIEWS")
    for answer, label, left in (
        ("NULL::OBJECT", "unknown", 1),
        ('PARSE_JSON(\'{"categories": [{"name": "price", "sentiment": "positive"}]}\')', "unknown", 1),
        # Read by its name: the overall class is not the first record.
        (
            'PARSE_JSON(\'{"categories": [{"name": "price", "sentiment": "positive"},'
            ' {"name": "overall", "sentiment": "mixed"}, {"name": "delivery", "sentiment": "unknown"}]}\')',
            "mixed",
            0,
        ),
        # A run at the same time that got no answer does not take it away.
        ("NULL::OBJECT", "mixed", 0),
    ):
        query.rows(
            place.session,
            f"CREATE OR REPLACE TEMPORARY TABLE ANSWERS AS SELECT TEXT_HASH, {answer} AS ANSWER FROM ASKED",
        )
        sentiment._merge_answers(place.session, place.settings, "ASKED", "ANSWERS", "run")
        assert place.rows()["a"][0] == label
        assert place.waiting() == left
    assert place.rows()["a"] == ("mixed", 0.0, {"price": "positive"}, 0)
    query.rows(place.session, "DROP TABLE ASKED")
    query.rows(place.session, "DROP TABLE ANSWERS")


@pytest.mark.parametrize(
    ("aspects", "message"),
    [
        (tuple(f"a{number}" for number in range(11)), "up to 10 aspects, found 11"),
        (("x" * 31,), "1 to 30 characters"),
        (("price", "Overall"), "'overall' is AI_SENTIMENT's name"),
        (("price", "Price"), "each aspect must be named once"),
    ],
)
def test_aspects_that_ai_sentiment_does_not_take_are_refused_as_a_setting(aspects: tuple[str, ...], message) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings(review_aspects=aspects)


def test_pictures_of_an_empty_day_have_no_numbers(place: Place) -> None:
    days = (DAY.start, DAY.end)
    assert sentiment.classes_by_language(place.session, days) == {}
    place.arrive(a="a great price, awful delivery", b="great")
    place.score()
    assert sentiment.classes_by_language(place.session, days) == {"en": {"mixed": 1, "positive": 1}}
    assert sentiment.classes_by_aspect(place.session, days) == {"delivery": {"negative": 1}, "price": {"positive": 1}}
    assert sentiment.means_by_language(place.session, days) == {"en": 0.5}
    assert sentiment.confidences(place.session, days) == []


def test_the_job_writes_the_aspects_that_its_model_knows_and_the_confidence_of_the_class() -> None:
    reviews = pd.DataFrame({"REVIEW_TEXT": ["Delivery was two weeks late and the box was torn.", "ok"]}, index=[7, 3])
    some = Settings(review_aspects=("delivery", "colour"))
    scored = sentiment.SentimentScorer(some)(reviews)
    assert [json.loads(said) for said in scored["ASPECTS"]] == [{"delivery": "negative"}, {}]
    assert scored["SENTIMENT_CONFIDENCE"].between(0.25, 1).all()
    assert (scored["MODEL"].iloc[0], scored["REVISION"].iloc[0]) == sentiment.model_identity(some)
    assert scored["REVISION"].iloc[0].endswith(", aspects delivery")
    unknown = Settings(review_aspects=("colour",))
    assert sentiment.SentimentScorer(unknown)(reviews)["ASPECTS"].tolist() == [None, None]
    assert sentiment.model_identity(unknown) == sentiment.model_identity(Settings(review_aspects=()))

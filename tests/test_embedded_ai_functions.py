"""AI_SENTIMENT and SNOWFLAKE.CORTEX.SENTIMENT of the embedded server, by Snowflake's connector and SQL only."""

from __future__ import annotations

import json
import os
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import snowflake.connector
from conftest import start_embedded, stop_embedded
from lexicon_sentiment import LexiconModel
from snowflake.connector.errors import ProgrammingError

from embedded_snowflake.inference_worker import _sentiment

REVIEWS = [
    (1, "a great teapot, I love it"),
    (2, "it came broken"),
    (3, "great sound, awful battery"),
    (4, "a teapot"),
    (5, "   "),
    (6, None),
]
LABELS = {1: "positive", 2: "negative", 3: "mixed", 4: "neutral", 5: "unknown", 6: None}


@pytest.fixture(scope="module")
def cursor(tmp_path_factory) -> Iterator[snowflake.connector.cursor.SnowflakeCursor]:
    yield from _server(tmp_path_factory.mktemp("ai") / ".snowflake", "lexicon_sentiment:build")


@pytest.fixture
def cursor_without_model(tmp_path) -> Iterator[snowflake.connector.cursor.SnowflakeCursor]:
    yield from _server(tmp_path / ".snowflake", "no_such_module:build")


def _server(home: Path, model: str) -> Iterator[snowflake.connector.cursor.SnowflakeCursor]:
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        server = start_embedded(home, "--sentiment-model", model)
    connection = snowflake.connector.connect(**tomllib.loads((home / "connections.toml").read_text())["embedded"])
    cursor = connection.cursor()
    for statement in ("CREATE DATABASE HOL_DB", "CREATE SCHEMA HOL_DB.HOL_SCHEMA", "USE SCHEMA HOL_DB.HOL_SCHEMA"):
        cursor.execute(statement)
    cursor.execute("CREATE TABLE REVIEWS (ID INT, REVIEW STRING)")
    cursor.executemany("INSERT INTO REVIEWS VALUES (%s, %s)", REVIEWS)
    yield cursor
    connection.close()
    stop_embedded(server)


def test_ai_sentiment_returns_the_documented_object(cursor):
    rows = dict(cursor.execute("SELECT ID, AI_SENTIMENT(REVIEW) FROM REVIEWS").fetchall())
    assert {key: value and json.loads(value) for key, value in rows.items()} == {
        key: label and {"categories": [{"name": "overall", "sentiment": label}]} for key, label in LABELS.items()
    }


def test_ai_sentiment_answers_each_category_under_the_name_it_was_asked_by(cursor):
    said = ("'great price, awful delivery'", "'a teapot'", "''", "NULL")
    texts = " UNION ALL ".join(f"SELECT {text} AS T" for text in said)
    rows = dict(cursor.execute(f"SELECT T, AI_SENTIMENT(T, ['Price', 'delivery']) FROM ({texts})").fetchall())
    found = {
        text: [(record["name"], record["sentiment"]) for record in json.loads(answer)["categories"]]
        for text, answer in rows.items()
        if answer
    }
    assert found == {
        "great price, awful delivery": [("overall", "mixed"), ("Price", "positive"), ("delivery", "negative")],
        "a teapot": [("overall", "neutral"), ("Price", "unknown"), ("delivery", "unknown")],
        "": [("overall", "unknown"), ("Price", "unknown"), ("delivery", "unknown")],
    }
    assert rows[None] is None


def test_categories_may_be_bound_or_constructed(cursor):
    expected = {
        "categories": [{"name": "overall", "sentiment": "positive"}, {"name": "price", "sentiment": "positive"}]
    }
    for categories, values in (
        ("[%s]", ["price"]),
        ("ARRAY_CONSTRUCT('price')", []),
        ("PARSE_JSON('[\"price\"]')", []),
    ):
        answer = cursor.execute(f"SELECT AI_SENTIMENT('great price', {categories})", values).fetchall()[0][0]
        assert json.loads(answer) == expected
    assert json.loads(cursor.execute("SELECT AI_SENTIMENT('great', [])").fetchall()[0][0]) == {
        "categories": expected["categories"][:1]
    }


@pytest.mark.parametrize("categories", [", ".join(["'price'"] * 11), f"'{'x' * 31}'", "1"])
def test_categories_that_snowflake_does_not_take_are_refused(cursor, categories):
    with pytest.raises(ProgrammingError, match="up to 10 strings of up to 30 characters"):
        cursor.execute(f"SELECT AI_SENTIMENT('great price', [{categories}])")


def test_a_text_that_the_model_does_not_answer_is_null(cursor):
    assert cursor.execute("SELECT AI_SENTIMENT('mute'), AI_SENTIMENT('mute', ['price'])").fetchall() == [(None, None)]


def test_cortex_sentiment_is_a_score_from_minus_one_to_one(cursor):
    rows = dict(cursor.execute("SELECT ID, SNOWFLAKE.CORTEX.SENTIMENT(REVIEW) FROM REVIEWS").fetchall())
    assert rows == {1: 1.0, 2: -1.0, 3: 0.0, 4: 0.0, 5: 0.0, 6: None}


@pytest.mark.parametrize(
    "query",
    [
        "SELECT ID, AI_SENTIMENT(REVIEW):categories[0]:sentiment::STRING FROM REVIEWS",
        "SELECT a.ID, c.VALUE:sentiment::STRING FROM (SELECT ID, AI_SENTIMENT(REVIEW) AS S FROM REVIEWS) AS a,"
        " LATERAL FLATTEN(INPUT => a.S:categories) AS c WHERE c.VALUE:name::STRING = 'overall'",
    ],
    ids=["by position", "by name"],
)
def test_the_overall_sentiment_can_be_read(cursor, query):
    rows = dict(cursor.execute(query).fetchall())
    assert {key: label for key, label in rows.items() if label} == {
        key: label for key, label in LABELS.items() if label
    }


def test_sentiment_works_in_ctas_insert_and_merge(cursor):
    cursor.execute("CREATE OR REPLACE TABLE SCORED AS SELECT ID, SNOWFLAKE.CORTEX.SENTIMENT(REVIEW) AS S FROM REVIEWS")
    cursor.execute("INSERT INTO SCORED SELECT ID + 10, SNOWFLAKE.CORTEX.SENTIMENT(REVIEW) FROM REVIEWS WHERE ID < 3")
    cursor.execute(
        "MERGE INTO SCORED AS t"
        " USING (SELECT ID, AI_SENTIMENT(REVIEW):categories[0]:sentiment::STRING AS L FROM REVIEWS) AS s"
        " ON t.ID = s.ID WHEN MATCHED AND s.L = 'mixed' THEN UPDATE SET S = 0.5"
    )
    rows = dict(cursor.execute("SELECT ID, S FROM SCORED").fetchall())
    assert rows == {1: 1.0, 2: -1.0, 3: 0.5, 4: 0.0, 5: 0.0, 6: None, 11: 1.0, 12: -1.0}


def test_a_bound_text_and_a_view_are_scored(cursor):
    found = cursor.execute("SELECT SNOWFLAKE.CORTEX.SENTIMENT(%s)", ("excellent, 'really' good",)).fetchall()
    assert found == [(1.0,)]
    cursor.execute("CREATE OR REPLACE VIEW V AS SELECT ID, SNOWFLAKE.CORTEX.SENTIMENT(REVIEW) AS S FROM REVIEWS")
    assert cursor.execute("SELECT S FROM V WHERE ID = 2").fetchall() == [(-1.0,)]


def test_the_model_is_called_once_a_batch_of_rows_and_not_once_a_row(cursor):
    cursor.execute(
        "CREATE OR REPLACE TABLE MANY AS"
        " SELECT 'great number ' || SEQ4() AS REVIEW FROM TABLE(GENERATOR(ROWCOUNT => 10000))"
    )
    started = time.monotonic()
    found = cursor.execute("SELECT COUNT(*), SUM(SNOWFLAKE.CORTEX.SENTIMENT(REVIEW)) FROM MANY").fetchall()
    assert found == [(10_000, 10_000.0)]
    assert time.monotonic() - started < 10


def test_score_and_label_of_a_text_are_one_pass_of_the_model():
    texts = pa.table({"text": ["great", "broken"]})
    source = "lexicon_sentiment:build"
    labels, scores = (_sentiment({"source": source, "column": column}, texts) for column in ("label", "score"))
    assert labels.to_pydict() == {"label": ["positive", "negative"]}
    assert scores.to_pydict() == {"score": [1.0, -1.0]}
    assert LexiconModel.passes == 1


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("SELECT AI_SENTIMENT(REVIEW, ['price'], TRUE) FROM REVIEWS", "AI_SENTIMENT with return_error_details"),
        ("SELECT AI_SENTIMENT(REVIEW, ['price', 'colour']) FROM REVIEWS", "AI_SENTIMENT with the category 'colour'"),
        ("SELECT AI_COMPLETE('model', REVIEW) FROM REVIEWS", "AI_COMPLETE"),
        ("SELECT SNOWFLAKE.CORTEX.SUMMARIZE(REVIEW) FROM REVIEWS", "SNOWFLAKE.CORTEX.SUMMARIZE"),
    ],
)
def test_other_ai_functions_are_refused_by_name(cursor, sql, named):
    with pytest.raises(ProgrammingError, match=f"unsupported on the embedded server: {named}"):
        cursor.execute(sql)


def test_a_functions_name_inside_a_text_is_no_call(cursor):
    assert cursor.execute("SELECT 'AI_COMPLETE(x) SNOWFLAKE.CORTEX.SUMMARIZE(y)'").fetchall() == [
        ("AI_COMPLETE(x) SNOWFLAKE.CORTEX.SUMMARIZE(y)",)
    ]


def test_a_server_without_its_model_says_how_to_name_one(cursor_without_model):
    assert cursor_without_model.execute("SELECT SNOWFLAKE.CORTEX.SENTIMENT(NULL)").fetchall() == [(None,)]
    with pytest.raises(
        ProgrammingError, match=r"unsupported on the embedded server: AI_SENTIMENT \(start the server with"
    ):
        cursor_without_model.execute("SELECT AI_SENTIMENT(REVIEW) FROM REVIEWS")

"""Training sets, frozen and read by Snowflake's own client on the embedded server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from conftest import Embedded
from snowflake.ml.dataset import Dataset
from snowflake.snowpark import Session

from customer_insights import training_set
from customer_insights.errors import PermanentError
from customer_insights.settings import Settings
from customer_insights.tables import MODEL_FEATURES, PURCHASE_FEATURES, TARGET

SCHEMA = "TRAINING_SETS"
SETTINGS = Settings(database="HOL_DB", schema_name=SCHEMA)
ROWS = 3_000
# By the type of a column; every third value of one that may be NULL is.
GENERATED = {
    "STRING": "MD5(SEQ4()::STRING) || ' ''日本'",
    "FLOAT": "SEQ4() / 7",
    "INT": "SEQ4() % 5",
    "DATE": "DATEADD(DAY, SEQ4() % 400, '2025-12-31'::DATE)",
}


@pytest.fixture
def session(embedded: Embedded) -> Session:
    session = embedded.session()
    session.sql(f"DROP SCHEMA IF EXISTS HOL_DB.{SCHEMA} CASCADE").collect()
    session.sql(f"CREATE SCHEMA HOL_DB.{SCHEMA}").collect()
    session.use_schema(f"HOL_DB.{SCHEMA}")
    session.sql(PURCHASE_FEATURES.create_ddl()).collect()
    return session


def fill(session: Session, rows: int) -> None:
    values = [
        f"IFF(SEQ4() % 3 = 0, NULL, {GENERATED[column.type]})" if column.nullable else GENERATED[column.type]
        for column in PURCHASE_FEATURES.columns
    ]
    session.sql(
        f"INSERT INTO PURCHASE_FEATURES ({', '.join(PURCHASE_FEATURES.column_names)}) "
        f"SELECT {', '.join(values)} FROM TABLE(GENERATOR(ROWCOUNT => {rows}))"
    ).collect()


def test_a_frozen_set_is_read_as_the_table_was(session: Session):
    fill(session, ROWS)
    table = session.table("PURCHASE_FEATURES").to_pandas().sort_values("UUID", ignore_index=True)
    frozen = training_set.freeze(session, SETTINGS, "rows_1")
    assert (frozen.dataset, frozen.version, frozen.is_new) == (
        f"HOL_DB.{SCHEMA}.PURCHASE_TRAINING_SETS",
        "ROWS_1",
        True,
    )
    assert timedelta(0) <= datetime.now(UTC) - frozen.frozen_at < timedelta(minutes=5)
    assert session.sql(f"LIST '{frozen.url}'").collect()
    versions = Dataset.load(session, frozen.dataset)
    versions.create_version("SHUFFLED", session.table("PURCHASE_FEATURES"), shuffle=True, exclude_cols=["ARRIVAL_DATE"])
    session.sql("TRUNCATE TABLE PURCHASE_FEATURES").collect()
    read = training_set.read(session, SETTINGS, "ROWS_1")
    pd.testing.assert_frame_equal(read, table, check_exact=True)
    assert read["REVIEW_SENTIMENT"].isna().sum() == ROWS / 3
    pd.testing.assert_frame_equal(training_set.read(session, SETTINGS, "SHUFFLED"), table, check_exact=True)
    only_features = versions.select_version("ROWS_1").read.to_snowpark_dataframe(True)
    assert set(only_features.columns) == set(MODEL_FEATURES)
    assert TARGET not in only_features.columns


def test_a_set_that_is_there_is_found_and_not_made_again(session: Session):
    fill(session, 10)
    first = training_set.freeze(session, SETTINGS, "ROWS_1")
    session.sql("DELETE FROM PURCHASE_FEATURES WHERE PRODUCT_RATING = 0").collect()
    second = training_set.freeze(session, SETTINGS, "ROWS_1")
    assert (second.is_new, second.frozen_at) == (False, first.frozen_at)
    assert training_set.freeze(session, SETTINGS, "ROWS_2").is_new
    assert [len(training_set.read(session, SETTINGS, name)) for name in ("ROWS_1", "ROWS_2")] == [10, 8]


def test_of_two_that_freeze_one_set_at_once_the_second_finds_it(embedded: Embedded, session: Session):
    fill(session, 60_000)
    both = [embedded.session() for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        frozen = list(threads.map(lambda each: training_set.freeze(each, SETTINGS, "ROWS_1"), both))
    assert sorted(each.is_new for each in frozen) == [False, True]
    assert frozen[0].frozen_at == frozen[1].frozen_at
    assert list(training_set.versions(session, SETTINGS)) == ["ROWS_1"]


def test_a_set_that_is_missing_is_named_with_those_that_exist(session: Session):
    with pytest.raises(PermanentError, match=r"ROWS_3 of the Dataset .*TRAINING_SETS, found none"):
        training_set.read(session, SETTINGS, "ROWS_3")
    fill(session, 3)
    for name in ("ROWS_2", "ROWS_1"):
        training_set.freeze(session, SETTINGS, name)
    with pytest.raises(PermanentError, match="found ROWS_1, ROWS_2"):
        training_set.read(session, SETTINGS, "ROWS_3")
    training_set.discard(session, SETTINGS, "ROWS_1")
    with pytest.raises(PermanentError, match="found ROWS_2"):
        training_set.discard(session, SETTINGS, "ROWS_1")
    with pytest.raises(ValueError, match="plain Snowflake identifier"):
        training_set.freeze(session, SETTINGS, "v1' FROM (SELECT 1) --")


def test_no_rows_are_no_training_set(session: Session):
    with pytest.raises(PermanentError, match="PURCHASE_FEATURES has no rows"):
        training_set.freeze(session, SETTINGS, "ROWS_1")
    assert training_set.versions(session, SETTINGS) == {}


def test_what_went_wrong_is_not_taken_for_a_set_that_is_there(session: Session):
    fill(session, 3)
    session.sql("ALTER TABLE PURCHASE_FEATURES DROP COLUMN PAGE_LOAD_TIME").collect()
    with pytest.raises(Exception, match="PAGE_LOAD_TIME"):
        training_set.freeze(session, SETTINGS, "ROWS_1")
    assert training_set.versions(session, SETTINGS) == {}

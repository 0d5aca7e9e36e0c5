"""Datasets of the embedded server, by Snowflake's own client, Snowpark and SQL."""

from __future__ import annotations

import logging
import tomllib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import Embedded, start_embedded, stop_embedded
from snowflake.ml import dataset
from snowflake.ml._internal.exceptions.dataset_errors import (
    DatasetCannotDeleteError,
    DatasetExistError,
    DatasetNotExistError,
)
from snowflake.ml.dataset import Dataset
from snowflake.snowpark import Row, Session
from snowflake.snowpark.exceptions import SnowparkSQLException

SCHEMA = "HOL_DB.DATASETS"
# The client says of each DATE column that a tensor could not hold it.
logging.getLogger().setLevel(logging.ERROR)
ROWS = [
    (1, 'it\'s "quoted", 日本語, $$, ) --', 0.1 + 0.2, -(2**62), date(1969, 12, 31), True),
    (2, None, None, None, None, None),
    (3, "", -1.5e-300, 9_007_199_254_740_993, date(2026, 2, 28), False),
    (4, "line\nbreak", 1e300, 0, date(2100, 1, 1), True),
]


@pytest.fixture(scope="module")
def session(embedded: Embedded) -> Session:
    session = embedded.session()
    session.sql(f"CREATE OR REPLACE SCHEMA {SCHEMA}").collect()
    session.use_schema(SCHEMA)
    fill(session)
    return session


def fill(session: Session) -> None:
    session.sql("CREATE TABLE VISITS (ID INT, WORDS STRING, SECONDS FLOAT, N INT, DAY DATE, BOUGHT BOOLEAN)").collect()
    values = ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(ROWS))
    session.sql(f"INSERT INTO VISITS VALUES {values}", params=[value for row in ROWS for value in row]).collect()


@pytest.fixture(scope="module")
def visits(session: Session) -> Dataset:
    """Version V1 of the Dataset VISITS, made before any test adds another."""
    return dataset.create_from_dataframe(
        session,
        "VISITS",
        "V1",
        input_dataframe=session.table("VISITS"),
        exclude_cols=["DAY"],
        label_cols=["BOUGHT"],
        comment="the client's",
    )


def files(selected: Dataset) -> list[Row]:
    """The files of the selected version as LIST shows them."""
    assert selected.selected_version
    return selected.selected_version.list_files()


def rows(frame: pd.DataFrame) -> list[tuple]:
    """The rows by ID, whatever the type that pandas has for a column with a missing value."""
    ordered = frame.sort_values("ID").astype(object)
    return [tuple(None if pd.isna(value) else value for value in row) for row in ordered.itertuples(index=False)]


def test_a_version_has_exactly_the_rows_of_its_query(session: Session, visits: Dataset):
    assert [tuple(row) for row in visits.read.to_snowpark_dataframe().sort("ID").collect()] == ROWS
    (url,) = visits.read.files()
    with visits.read.filesystem().open(url) as file:
        table = pq.read_table(file)
    assert sorted(zip(*(column.to_pylist() for column in table.columns), strict=True)) == ROWS
    read, source = visits.read.to_pandas(), session.table("VISITS").to_pandas()
    assert rows(read) == rows(source)
    assert dict(read.dtypes) == dict(source.dtypes)


def test_a_version_keeps_its_comment_its_labels_and_when_it_was_made(visits: Dataset):
    version = visits.selected_version
    assert version
    assert (version.comment, version.label_cols, version.exclude_cols) == ("the client's", ["BOUGHT"], ["DAY"])
    assert timedelta(0) <= datetime.now(UTC) - version.created_on < timedelta(minutes=10)
    assert visits.read.to_snowpark_dataframe(only_feature_cols=True).columns == ["ID", "WORDS", "SECONDS", "N"]


def test_an_existing_version_is_refused_and_stays_as_it_was(session: Session, visits: Dataset):
    with pytest.raises(DatasetExistError, match="V1 already exists"):
        visits.create_version("V1", session.table("VISITS").limit(1))
    with pytest.raises(DatasetExistError):
        Dataset.create(session, "VISITS")
    assert visits.read.to_snowpark_dataframe().count() == len(ROWS)
    session.sql("CREATE OR REPLACE TABLE GROWING AS SELECT 1 AS ID").collect()
    frozen = dataset.create_from_dataframe(session, "GROWING", "V1", session.table("GROWING"))
    session.sql("INSERT INTO GROWING VALUES (2)").collect()
    assert frozen.read.to_snowpark_dataframe().collect() == [Row(ID=1)]


@pytest.mark.parametrize(
    "statement",
    [
        "REMOVE 'snow://dataset/VISITS/versions/V1/'",
        "PUT 'file://{file}' 'snow://dataset/VISITS/versions/V1/'",
        "COPY INTO 'snow://dataset/VISITS/versions/V1/' FROM VISITS",
        "COPY FILES INTO 'snow://dataset/VISITS/versions/V1/' FROM @FILES",
    ],
)
def test_no_file_of_a_version_can_be_changed_or_added(session: Session, visits: Dataset, tmp_path: Path, statement):
    (tmp_path / "data_0_9_0.parquet").write_bytes(b"PAR1")
    session.sql("CREATE STAGE IF NOT EXISTS FILES").collect()
    before = files(visits)
    with pytest.raises(SnowparkSQLException, match=r"immutable|never written"):
        session.sql(statement.format(file=tmp_path / "data_0_9_0.parquet")).collect()
    assert files(visits) == before


def test_of_two_that_make_one_version_at_once_one_is_told_that_it_exists(embedded: Embedded, session: Session):
    Dataset.create(session, "RACE")
    sessions = [embedded.session() for _ in range(2)]

    def make(number: int) -> str:
        query = f"(SELECT {number} AS WINNER, SEQ4() AS ID FROM TABLE(GENERATOR(ROWCOUNT => 60000)))"
        try:
            sessions[number].sql(f"ALTER DATASET {SCHEMA}.RACE ADD VERSION 'V1' FROM {query}").collect()
        except SnowparkSQLException as error:
            return str(error.sql_error_code)
        return "made"

    with ThreadPoolExecutor(2) as threads:
        outcomes = list(threads.map(make, range(2)))
    assert sorted(outcomes) == ["399020", "made"]
    frozen = dataset.load_dataset(session, "RACE", "V1").read.to_snowpark_dataframe().to_pandas()
    assert (len(frozen), set(frozen["WINNER"])) == (60_000, {outcomes.index("made")})
    assert frozen["ID"].is_unique
    assert not [row for row in session.sql("SHOW STAGES").collect() if row["name"].startswith("DATASET_VERSION")]


def test_versions_are_listed_selected_and_dropped_by_exact_name(session: Session, visits: Dataset):
    frame = session.table("VISITS").select("ID")
    for version in ("v1", "v10", "run_4.2-b"):
        dataset.create_from_dataframe(session, "NAMED", version, frame.filter(f"ID <= {len(version)}"))
    named = Dataset.load(session, f"{SCHEMA}.NAMED")
    assert named.list_versions() == ["run_4.2-b", "v1", "v10"]
    # A prefix in LIST, but not in a query.
    assert named.select_version("v1").read.to_snowpark_dataframe().count() == 2
    assert named.select_version("v1").read.to_pandas().shape == (2, 1)
    with pytest.raises(DatasetNotExistError, match="V1"):
        named.select_version("V1")
    named.delete_version("v1")
    assert named.list_versions() == ["run_4.2-b", "v10"]
    with pytest.raises(DatasetCannotDeleteError, match=r"there is v10, run_4\.2-b"):
        named.delete_version("v1")
    named.create_version("v1", frame)
    assert named.select_version("v1").read.to_snowpark_dataframe().count() == len(ROWS)
    named.delete()
    with pytest.raises(DatasetNotExistError):
        Dataset.load(session, "NAMED")
    with pytest.raises(DatasetNotExistError):
        named.create_version("v1", frame)
    assert visits.list_versions() == ["V1"]


def test_a_version_may_be_partitioned_and_shuffled(session: Session):
    frame = session.table("VISITS").select("ID", "N")
    Dataset.create(session, "PARTS").create_version(
        "V1", frame, shuffle=True, partition_by="'odd=' || (ID % 2)", comment="(METADATA"
    )
    parts = dataset.load_dataset(session, "PARTS", "V1")
    names = [row["name"] for row in files(parts)]
    assert [name.split("/")[2] for name in names] == ["odd=0", "odd=1"]
    read = parts.read.to_snowpark_dataframe().sort("ID")
    assert (read.columns, read.collect()) == (["ID", "N"], frame.sort("ID").collect())


def test_the_query_of_a_version_may_have_brackets_and_comments_in_it(session: Session):
    Dataset.create(session, "BRACKETS")
    session.sql(
        "ALTER DATASET BRACKETS ADD VERSION 'V1' FROM (\n"
        "SELECT ')' AS A, $$ (COMMENT = '$$ AS \"B)\" -- )\n, (SELECT MAX(ID) FROM VISITS) AS C /* ) */\n) COMMENT='x'"
    ).collect()
    read = dataset.load_dataset(session, "BRACKETS", "V1").read.to_snowpark_dataframe()
    assert [row.as_dict() for row in read.collect()] == [{"A": ")", "B)": " (COMMENT = '", "C": 4}]


def test_a_failed_query_leaves_no_version(session: Session):
    Dataset.create(session, "FAILED")
    for query, why in (("SELECT NOPE FROM VISITS", "NOPE"), ("SELECT TO_NUMBER(WORDS) AS N FROM VISITS", "DECIMAL")):
        with pytest.raises(SnowparkSQLException, match=why):
            session.sql(f"ALTER DATASET FAILED ADD VERSION 'V1' FROM ({query})").collect()
    assert Dataset.load(session, "FAILED").list_versions() == []


def test_what_a_transaction_may_still_take_back_is_not_frozen(session: Session):
    session.sql("CREATE OR REPLACE TABLE OPEN_ROWS (ID INT)").collect()
    Dataset.create(session, "OPEN_ROWS")
    session.sql("BEGIN").collect()
    session.sql("INSERT INTO OPEN_ROWS VALUES (1)").collect()
    session.sql("ALTER DATASET OPEN_ROWS ADD VERSION 'V1' FROM (SELECT * FROM OPEN_ROWS)").collect()
    session.sql("ROLLBACK").collect()
    # DDL commits.
    assert session.table("OPEN_ROWS").count() == 1
    assert dataset.load_dataset(session, "OPEN_ROWS", "V1").read.to_snowpark_dataframe().count() == 1


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("ALTER DATASET VISITS SET COMMENT = 'x'", "unsupported on the embedded server: ALTER DATASET ... SET"),
        ("ALTER DATASET VISITS RENAME TO X", "unsupported on the embedded server: ALTER DATASET ... RENAME TO"),
        ("DESCRIBE DATASET VISITS", "unsupported on the embedded server: DESCRIBE DATASET"),
        ("UNDROP DATASET VISITS", "unsupported on the embedded server: UNDROP DATASET"),
        ("ALTER DATASET VISITS ADD VERSION 'V2' FROM @FILES", "FROM anything but a query"),
        ("ALTER DATASET VISITS ADD VERSION '../V2' FROM (SELECT 1 AS A)", "invalid version name"),
        ("ALTER DATASET VISITS ADD VERSION 'V2' FROM (SELECT 1 AS A) METADATA = '[1]'", "expected a JSON object"),
        ("ALTER DATASET VISITS ADD VERSION 'V2' FROM (SELECT 1 AS A) CLUSTER BY A", "unexpected 'CLUSTER BY A'"),
        ("LIST 'snow://dataset/VISITS/versions/V1/../../../'", "leaves the stage"),
        ("LIST 'snow://dataset/VISITS/versions/V2/'", "does not exist"),
        ("SELECT GET_PRESIGNED_URL('snow://dataset/VISITS/versions/V1', '../../../../catalog.duckdb')", "leaves"),
        ("SELECT $1 FROM 'snow://model/M/versions/V1/'", "unsupported on the embedded server"),
        ("COPY FILES INTO @FILES FROM 'snow://dataset/VISITS/versions/V1/'", "unsupported on the embedded server"),
        ("CREATE DATASET NO_SCHEMA.X", "NO_SCHEMA"),
    ],
)
def test_what_is_not_served_is_refused_by_name(session: Session, visits: Dataset, statement: str, why: str):
    with pytest.raises(SnowparkSQLException) as refusal:
        session.sql(statement).collect()
    assert why in str(refusal.value)
    assert visits.list_versions() == ["V1"]


def test_the_files_of_a_version_can_be_downloaded(session: Session, visits: Dataset, tmp_path: Path):
    (got,) = session.file.get("snow://dataset/VISITS/versions/V1/", str(tmp_path))
    assert pq.read_table(tmp_path / Path(got.file).name).num_rows == len(ROWS)


def test_datasets_go_with_their_schema(embedded: Embedded, session: Session):
    session.sql("CREATE SCHEMA HOL_DB.DATASETS_BRIEFLY").collect()
    session.sql("CREATE DATASET HOL_DB.DATASETS_BRIEFLY.D").collect()
    session.sql("ALTER DATASET HOL_DB.DATASETS_BRIEFLY.D ADD VERSION 'V1' FROM (SELECT 1 AS A)").collect()
    directories = set((embedded.home / "data" / "datasets").iterdir())
    session.sql("DROP SCHEMA HOL_DB.DATASETS_BRIEFLY").collect()
    session.use_schema(SCHEMA)
    assert session.sql("SHOW DATASETS LIKE 'D' IN DATABASE HOL_DB").collect() == []
    assert len(directories - set((embedded.home / "data" / "datasets").iterdir())) == 1


def test_datasets_outlive_a_kill_of_the_server_and_half_made_versions_do_not(tmp_path: Path):
    home = tmp_path / ".snowflake"
    home.mkdir()

    def connected(server: Embedded) -> Session:
        options = tomllib.loads((home / "connections.toml").read_text())["embedded"]
        server.opened.append(Session.builder.configs(options).create())
        return server.opened[-1]

    server = start_embedded(home)
    session = connected(server)
    for statement in ("CREATE DATABASE HOL_DB", "CREATE SCHEMA HOL_DB.HOL_SCHEMA", "USE SCHEMA HOL_DB.HOL_SCHEMA"):
        session.sql(statement).collect()
    fill(session)
    dataset.create_from_dataframe(session, "KEPT", "V1", session.table("VISITS"), comment="kept")
    (kept,) = (home / "data" / "datasets").iterdir()
    for half in (kept / "versions" / "V2", kept.parent / "dropped" / "versions" / "V1"):
        half.mkdir(parents=True)
        (half / "data_0_0_0.snappy.parquet").write_bytes(b"PAR1")
    for client in server.opened:
        client.close()
    server.process.kill()
    server.process.wait(timeout=60)

    server = start_embedded(home)
    session = connected(server)
    found = Dataset.load(session, "KEPT")
    assert found.list_versions() == ["V1"]
    version = found.select_version("V1")
    assert version.selected_version
    assert version.selected_version.comment == "kept"
    assert [tuple(row) for row in version.read.to_snowpark_dataframe().sort("ID").collect()] == ROWS
    assert [path.name for path in kept.parent.glob("*/versions/*")] == ["V1"]
    found.create_version("V2", session.table("VISITS").limit(1))
    assert found.select_version("V2").read.to_snowpark_dataframe().count() == 1
    stop_embedded(server)

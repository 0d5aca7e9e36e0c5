"""Stages on the embedded server, through Snowflake's unchanged connector, Snowpark and stage file system."""

from __future__ import annotations

import gzip
import io
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from snowflake.connector.errors import OperationalError, ProgrammingError


@pytest.fixture(scope="module")
def session(embedded):
    return embedded.session()


@pytest.fixture
def sql(session):
    return lambda text, *binds: (
        session._conn._conn.cursor().execute(text, binds or None, _force_qmark_paramstyle=bool(binds)).fetchall()
    )


@pytest.fixture
def stage(sql) -> Iterator[str]:
    name = f"ST_{uuid.uuid4().hex[:8]}".upper()
    sql(f"CREATE STAGE {name}")
    yield name
    sql(f"DROP STAGE IF EXISTS {name}")


def names(listed) -> list[str]:
    return [row[0] for row in listed]


def test_a_put_file_is_listed_with_its_size_digest_and_time(sql, stage, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"hello")
    assert sql(f"PUT 'file://{tmp_path}/a.txt' '@{stage}/in' AUTO_COMPRESS=FALSE")[0][6] == "UPLOADED"
    ((name, size, md5, modified),) = sql(f"LIST '@{stage}/in'")
    assert (name, size, md5) == (f"{stage.lower()}/in/a.txt", 5, "5d41402abc4b2a76b9719d911017c592")
    assert parsedate_to_datetime(modified).tzname() == "UTC"


def test_put_compresses_unless_told_not_to(sql, stage, tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    ((source, target, *_),) = sql(f"PUT file://{tmp_path}/a.txt @{stage}")
    assert (source, target) == ("a.txt", "a.txt.gz")
    sql(f"GET @{stage}/a.txt.gz file://{tmp_path}/")
    assert gzip.decompress((tmp_path / "a.txt.gz").read_bytes()) == b"hello"


def test_put_takes_wildcards_and_quoted_names_and_spaces(sql, tmp_path):
    sql('CREATE OR REPLACE STAGE "my stage"')
    for number in range(3):
        (tmp_path / f"f {number}.csv").write_text(str(number))
    (tmp_path / "other.txt").write_text("x")
    assert len(sql(f"PUT 'file://{tmp_path}/*.csv' '@\"my stage\"/a b/' AUTO_COMPRESS=FALSE OVERWRITE=TRUE")) == 3
    assert names(sql('LIST \'@"HOL_DB"."HOL_SCHEMA"."my stage"/a b\'')) == [
        f"my stage/a b/f {number}.csv" for number in range(3)
    ]
    sql('DROP STAGE "my stage"')


def test_put_without_overwrite_keeps_what_is_there_and_says_skipped(session, sql, stage, tmp_path):
    (tmp_path / "a.txt").write_text("first")
    session.file.put(f"{tmp_path}/a.txt", f"@{stage}", auto_compress=False)
    (tmp_path / "a.txt").write_text("second")
    (tmp_path / "b.txt").write_text("new")
    results = session.file.put(f"{tmp_path}/*.txt", f"@{stage}", auto_compress=False, overwrite=False)
    assert {result.source: result.status for result in results} == {"a.txt": "SKIPPED", "b.txt": "UPLOADED"}
    assert session.file.get_stream(f"@{stage}/a.txt").read() == b"first"
    assert (
        session.file.put(f"{tmp_path}/a.txt", f"@{stage}", auto_compress=False, overwrite=True)[0].status == "UPLOADED"
    )
    assert session.file.get_stream(f"@{stage}/a.txt").read() == b"second"


def test_streams_go_in_and_out(session, stage):
    result = session.file.put_stream(io.BytesIO(b"stream"), f"@{stage}/dir/s.bin", auto_compress=False)
    assert result.status == "UPLOADED"
    assert session.file.get_stream(f"@{stage}/dir/s.bin").read() == b"stream"
    again = session.file.put_stream(io.BytesIO(b"other"), f"@{stage}/dir/s.bin", auto_compress=False)
    assert again.status == "SKIPPED"


def test_get_takes_a_directory_and_a_pattern(session, stage, tmp_path):
    for name in ("a/x.txt", "a/y.csv", "b/z.txt"):
        session.file.put_stream(io.BytesIO(name.encode()), f"@{stage}/{name}", auto_compress=False)
    session.file.get(f"@{stage}/a", f"{tmp_path}/all")
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["x.txt", "y.csv"]
    session.file.get(f"@{stage}", f"{tmp_path}/some", pattern=".*[.]txt")
    assert sorted(path.name for path in (tmp_path / "some").iterdir()) == ["x.txt", "z.txt"]
    (tmp_path / "escaped").mkdir()
    session.sql(rf"GET @{stage} 'file://{tmp_path}/escaped' PATTERN = '.*\\.csv'").collect()
    assert [path.name for path in (tmp_path / "escaped").iterdir()] == ["y.csv"]


def test_get_of_a_missing_file_is_an_error(sql, stage, tmp_path):
    with pytest.raises(OperationalError, match="does not exist"):
        sql(f"GET @{stage}/no_such_file file://{tmp_path}/")


def test_list_and_remove_take_a_prefix_and_a_pattern(session, sql, stage):
    for name in ("day=1/a.csv", "day=1/b.txt", "day=10/c.csv"):
        session.file.put_stream(io.BytesIO(b"x"), f"@{stage}/{name}", auto_compress=False)
    assert len(sql(f"LS @{stage}/day=1")) == 3
    assert len(sql(f"LS @{stage}/day=1/")) == 2
    assert names(sql(f"LIST @{stage} PATTERN='.*csv'")) == [
        f"{stage.lower()}/day=1/a.csv",
        f"{stage.lower()}/day=10/c.csv",
    ]
    assert sql(f"REMOVE @{stage}/day=1/ PATTERN='.*txt'") == [(f"{stage.lower()}/day=1/b.txt", "removed")]
    assert len(sql(f"LIST @{stage}")) == 2
    assert len(sql(f"RM @{stage}")) == 2
    assert sql(f"LIST @{stage}") == []


def test_an_empty_stage_lists_nothing_and_a_missing_one_is_error_2003(sql, stage):
    assert sql(f"LIST @{stage}") == []
    for statement in (
        "LIST @NO_SUCH_STAGE",
        "DESCRIBE STAGE NO_SUCH_STAGE",
        "REMOVE @NO_SUCH_STAGE",
        "DROP STAGE NO_SUCH_STAGE",
    ):
        with pytest.raises(ProgrammingError) as error:
            sql(statement)
        assert error.value.errno == 2003
    with pytest.raises(ProgrammingError) as error:
        sql("describe stage identifier(?)", "HOL_DB.HOL_SCHEMA.NO_SUCH_STAGE")
    assert error.value.errno == 2003


@pytest.mark.parametrize("path", ["../x", "a/../../x", "a/..", "/../../etc"])
def test_a_path_cannot_leave_its_stage(sql, session, stage, tmp_path, path):
    (tmp_path / "x").write_text("x")
    for statement in (
        f"PUT 'file://{tmp_path}/x' '@{stage}/{path}'",
        f"LIST '@{stage}/{path}'",
        f"GET '@{stage}/{path}' 'file://{tmp_path}/'",
        f"REMOVE '@{stage}/{path}'",
        f"SELECT GET_PRESIGNED_URL(@{stage}, '{path}')",
        f"COPY INTO '@{stage}/{path}' FROM (SELECT 1 AS A) FILE_FORMAT = (TYPE = PARQUET)",
    ):
        with pytest.raises(ProgrammingError, match="leaves the stage"):
            sql(statement)


def test_a_symbolic_link_does_not_lead_out_of_a_stage(embedded, sql, stage):
    directory = embedded.home / "data" / "stages" / "HOL_DB" / "HOL_SCHEMA" / stage
    (directory / "etc").symlink_to("/etc")
    assert sql(f"LIST @{stage}") == []
    with pytest.raises(ProgrammingError, match="leaves the stage"):
        sql(f"LIST @{stage}/etc/passwd")


def test_stages_are_created_described_shown_and_dropped(sql):
    sql(
        "create stage if not exists identifier(?) encryption = (type = 'SNOWFLAKE_SSE') DIRECTORY = (ENABLE = TRUE)",
        "S1",
    )
    sql("create stage if not exists identifier(?) encryption = (type = 'SNOWFLAKE_SSE')", "HOL_DB.HOL_SCHEMA.S1")
    assert sql("describe stage identifier(?)", "HOL_DB.HOL_SCHEMA.S1")
    with pytest.raises(ProgrammingError) as error:
        sql("CREATE STAGE S1")
    assert error.value.errno == 2002
    assert [row[1] for row in sql("SHOW STAGES LIKE 's1' IN SCHEMA HOL_DB.HOL_SCHEMA")] == ["S1"]
    assert sql("SHOW STAGES LIKE 'no%'") == []
    sql("DROP STAGE S1")
    assert sql("SHOW STAGES LIKE 'S1'") == []


def test_what_is_no_named_internal_stage_is_refused_by_name(sql, tmp_path):
    (tmp_path / "x").write_text("x")
    for statement in ("LIST @~", "LIST @%T", f"PUT file://{tmp_path}/x @~", "CREATE STAGE E URL = 's3://bucket'"):
        with pytest.raises(ProgrammingError, match="unsupported on the embedded server"):
            sql(statement)


def test_a_temporary_stage_is_its_sessions_own_and_goes_with_it(embedded):
    with embedded.connect() as first, embedded.connect() as second:
        first.cursor().execute("CREATE SCOPED TEMPORARY STAGE MINE")
        assert first.cursor().execute("LIST @MINE").fetchall() == []
        with pytest.raises(ProgrammingError):
            second.cursor().execute("LIST @MINE")
    with embedded.connect() as third:
        assert third.cursor().execute("SHOW STAGES LIKE 'MINE'").fetchall() == []
    assert not any((embedded.home / "data" / "temporary_stages").rglob("MINE"))


def test_files_are_copied_from_stage_to_stage(session, sql, stage):
    for name in ("in/a.txt", "in/deep/b.txt", "out.txt"):
        session.file.put_stream(io.BytesIO(name.encode()), f"@{stage}/{name}", auto_compress=False)
    sql(f"COPY FILES INTO @{stage}/to/ FROM @{stage}/in/")
    assert names(sql(f"LIST @{stage}/to/")) == [f"{stage.lower()}/to/a.txt", f"{stage.lower()}/to/deep/b.txt"]


def test_a_presigned_url_reads_one_file_until_it_expires(session, sql, stage):
    session.file.put_stream(io.BytesIO(b"0123456789"), f"@{stage}/d/f.txt", auto_compress=False)
    ((url,),) = sql(f"SELECT GET_PRESIGNED_URL(@{stage}, 'd/f.txt', 60)")
    assert urllib.request.urlopen(url).read() == b"0123456789"
    part = urllib.request.Request(url, headers={"Range": "bytes=2-4"})
    assert urllib.request.urlopen(part).read() == b"234"
    ((old,),) = sql(f"SELECT GET_PRESIGNED_URL('@{stage}', 'd/f.txt', -1)")
    for bad in (old, url.replace("/stage-files/", "/stage-files/A")):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(bad)
        assert error.value.code == 403
    upload = urllib.request.Request(url, data=b"x", method="PUT")
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(upload)


def test_only_a_file_on_a_stage_gets_an_address(embedded, sql):
    with pytest.raises(ProgrammingError, match="not on a stage"):
        sql(f"SELECT _PRESIGNED_URL('{embedded.home / 'data'}', 'catalog.duckdb', 60.0)")


def test_snowflakes_own_stage_file_system_reads_a_stage(session, stage):
    from snowflake.ml.fileset.stage_fs import SFStageFileSystem

    for name in ("a/x.txt", "a/b/y.txt"):
        session.file.put_stream(io.BytesIO(name.encode()), f"@{stage}/{name}", auto_compress=False)
    files = SFStageFileSystem(db="HOL_DB", schema="HOL_SCHEMA", stage=stage, snowpark_session=session)
    assert sorted(files.ls("a")) == ["a/b/", "a/x.txt"]
    with files.open("a/b/y.txt") as opened:
        assert opened.read() == b"a/b/y.txt"
    assert files._USE_FALLBACK_FILE_ACCESS is None


def test_a_stages_lines_can_be_queried_with_their_file(session, sql, stage):
    session.file.put_stream(
        io.BytesIO(b'"u1","good, really"\n"u2","bad ""x"""\n'), f"@{stage}/r.txt", auto_compress=True
    )
    sql("CREATE OR REPLACE FILE FORMAT QUOTED TYPE = CSV FIELD_OPTIONALLY_ENCLOSED_BY = '\"'")
    found = sql(
        "SELECT t.$1, t.$2, METADATA$FILENAME, METADATA$FILE_ROW_NUMBER "
        f"FROM @{stage} (FILE_FORMAT => 'QUOTED') t ORDER BY 1"
    )
    file = f"{stage.lower()}/r.txt.gz"
    assert found == [("u1", "good, really", file, 1), ("u2", 'bad "x"', file, 2)]


def test_json_documents_can_be_queried_by_path(session, sql, stage):
    session.file.put_stream(
        io.BytesIO(b'{"a": 1, "b": {"c": "x"}}\n{"a": 2}\n'), f"@{stage}/r.json", auto_compress=False
    )
    sql("CREATE OR REPLACE FILE FORMAT JS TYPE = JSON")
    found = sql(f"SELECT $1:a::INT, $1:b.c::STRING FROM @{stage} (FILE_FORMAT => 'JS') ORDER BY 1")
    assert found == [(1, "x"), (2, None)]


def put_parquet(session, table: pa.Table, location: str) -> None:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    sink.seek(0)
    session.file.put_stream(sink, location, auto_compress=False)


def test_many_parquet_files_are_copied_by_column_name_all_or_nothing(session, sql, stage):
    sql("CREATE OR REPLACE TABLE LOADED (ID INT, TEXT VARCHAR, AT TIMESTAMP_NTZ, EXTRA INT)")
    at = pd.Timestamp("2024-01-02 03:04:05.678")
    for number in range(5):
        put_parquet(
            session, pa.table({"id": [number], "Text": [f"t{number}"], "at": [at]}), f"@{stage}/p/{number}.parquet"
        )
    copy = f"COPY INTO LOADED FROM @{stage}/p/ FILE_FORMAT=(TYPE=PARQUET) MATCH_BY_COLUMN_NAME=CASE_INSENSITIVE"
    loaded = sql(copy)
    assert [row[1] for row in loaded] == ["LOADED"] * 5
    assert sum(row[3] for row in loaded) == 5
    assert sql("SELECT * FROM LOADED ORDER BY ID")[4] == (4, "t4", at.to_pydatetime(), None)
    assert {row[1] for row in sql(copy)} == {"LOAD_SKIPPED"}
    assert sql("SELECT COUNT(*) FROM LOADED") == [(5,)]
    put_parquet(session, pa.table({"ID": [7]}), f"@{stage}/p/7.parquet")
    put_parquet(session, pa.table({"ID": ["no number"]}), f"@{stage}/p/8.parquet")
    with pytest.raises(ProgrammingError):
        sql(copy)
    assert sql("SELECT COUNT(*) FROM LOADED") == [(5,)]


def test_copy_takes_a_pattern_and_purges(session, sql, stage):
    sql("CREATE OR REPLACE TABLE PICKED (ID INT)")
    for name in ("a.parquet", "b.parquet", "c.other"):
        put_parquet(session, pa.table({"ID": [1]}), f"@{stage}/{name}")
    sql(
        f"COPY INTO PICKED FROM @{stage} PATTERN='.*parquet' FILE_FORMAT=(TYPE=PARQUET) "
        "MATCH_BY_COLUMN_NAME=CASE_INSENSITIVE PURGE=TRUE"
    )
    assert sql("SELECT COUNT(*) FROM PICKED") == [(2,)]
    assert names(sql(f"LIST @{stage}")) == [f"{stage.lower()}/c.other"]


def test_csv_and_json_are_copied_and_bad_rows_are_left_out_only_when_asked(session, sql, stage):
    sql("CREATE OR REPLACE TABLE FIGURES (NAME VARCHAR, N INT)")
    session.file.put_stream(io.BytesIO(b"name,n\na,1\nb,two\nc,3\n"), f"@{stage}/f.csv", auto_compress=False)
    copy = f"COPY INTO FIGURES FROM @{stage}/f.csv FILE_FORMAT=(TYPE=CSV SKIP_HEADER=1)"
    with pytest.raises(ProgrammingError):
        sql(copy)
    assert sql("SELECT * FROM FIGURES") == []
    ((_, status, parsed, loaded, _, errors, _, line, *_),) = sql(f"{copy} ON_ERROR=CONTINUE")
    assert (status, parsed, loaded, errors, line) == ("PARTIALLY_LOADED", 3, 2, 1, 2)
    assert sql("SELECT * FROM FIGURES ORDER BY 1") == [("a", 1), ("c", 3)]
    session.file.put_stream(io.BytesIO(b'[{"name": "d", "n": 4}]'), f"@{stage}/f.json", auto_compress=False)
    sql(
        f"COPY INTO FIGURES FROM @{stage}/f.json FILE_FORMAT=(TYPE=JSON STRIP_OUTER_ARRAY=TRUE) "
        "MATCH_BY_COLUMN_NAME=CASE_INSENSITIVE"
    )
    assert ("d", 4) in sql("SELECT * FROM FIGURES")


def test_a_stages_own_file_format_is_used_with_its_null_values_and_delimiter(session, sql):
    sql(r"CREATE TEMPORARY STAGE TABBED FILE_FORMAT = (TYPE = CSV FIELD_DELIMITER = '\t' NULL_IF = ('NA', 'none'))")
    session.file.put_stream(io.BytesIO(b"a\tNA\nnone\tb\n"), "@TABBED/f.tsv", auto_compress=False)
    assert sql("SELECT $1, $2 FROM @TABBED ORDER BY METADATA$FILE_ROW_NUMBER") == [("a", None), (None, "b")]


def test_two_copies_of_the_same_files_at_once_load_them_once(embedded, session, sql, stage):
    sql("CREATE OR REPLACE TABLE ONCE (ID INT)")
    for number in range(20):
        put_parquet(session, pa.table({"ID": [number]}), f"@{stage}/{number}.parquet")

    def copy() -> None:
        with embedded.connect() as connection:
            connection.cursor().execute(
                f"COPY INTO ONCE FROM @{stage} FILE_FORMAT=(TYPE=PARQUET) MATCH_BY_COLUMN_NAME=CASE_INSENSITIVE"
            )

    threads = [threading.Thread(target=copy) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sql("SELECT COUNT(*), COUNT(DISTINCT ID) FROM ONCE") == [(20, 20)]


def test_a_query_is_unloaded_into_several_parquet_files_that_keep_its_names(sql, stage, tmp_path):
    sql(
        "CREATE OR REPLACE TABLE MANY AS SELECT SEQ4() AS ID, 'review ' || SEQ4() AS TEXT "
        "FROM TABLE(GENERATOR(ROWCOUNT => 120000))"
    )
    ((rows, *_),) = sql(
        f'COPY INTO @{stage}/out/ FROM (SELECT ID, TEXT AS "text" FROM MANY WHERE ID >= ?) '
        "FILE_FORMAT=(TYPE=PARQUET) HEADER=TRUE OVERWRITE=TRUE",
        0,
    )
    assert rows == 120000
    listed = names(sql(f"LIST @{stage}/out/"))
    assert len(listed) > 1
    assert all(name.endswith(".snappy.parquet") for name in listed)
    sql(f"GET @{stage}/out/ file://{tmp_path}/")
    table = pq.read_table(tmp_path)
    assert table.column_names == ["ID", "text"]
    assert table.num_rows == 120000
    assert len(set(table["ID"].to_pylist())) == 120000
    with pytest.raises(ProgrammingError, match="already existing"):
        sql(f"COPY INTO @{stage}/out/ FROM MANY FILE_FORMAT=(TYPE=PARQUET) HEADER=TRUE")


def test_an_unload_can_be_partitioned_and_come_back_by_copy(sql, stage):
    sql("CREATE OR REPLACE TABLE BY_DAY AS SELECT * FROM VALUES ('a', 1), ('a', 2), ('b', 3) AS T(D, N)")
    sql(f"COPY INTO @{stage}/d/ FROM BY_DAY PARTITION BY ('day=' || D) FILE_FORMAT=(TYPE=PARQUET) HEADER=TRUE")
    assert {name.split("/")[2] for name in names(sql(f"LIST @{stage}/d/"))} == {"day=a", "day=b"}
    sql("CREATE OR REPLACE TABLE BACK LIKE BY_DAY")
    sql(f"COPY INTO BACK FROM @{stage}/d/ FILE_FORMAT=(TYPE=PARQUET) MATCH_BY_COLUMN_NAME=CASE_INSENSITIVE")
    assert sql("SELECT * FROM BACK ORDER BY N") == [("a", 1), ("a", 2), ("b", 3)]


def test_snowpark_reads_parquet_from_a_stage(session, stage):
    put_parquet(session, pa.table({"ID": [1, 2], "TEXT": ["a", "b"]}), f"@{stage}/x.parquet")
    assert session.read.parquet(f"@{stage}/x.parquet").sort("ID").collect()[1].as_dict() == {"ID": 2, "TEXT": "b"}

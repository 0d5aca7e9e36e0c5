"""SQL on the embedded server through Snowflake's unchanged clients: what it means, what lasts, what is refused."""

from __future__ import annotations

import datetime
import io
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import snowflake.connector
import tomlkit
from conftest import Embedded, start_embedded, stop_embedded
from snowflake.connector.errors import DatabaseError, IntegrityError, OperationalError, ProgrammingError

from embedded_snowflake.results import REMEMBERED_RESULTS, Result, Results


@pytest.fixture(scope="module")
def session(embedded):
    return embedded.session()


@pytest.fixture(scope="module")
def sql(session):
    return lambda text, *binds: (
        session._conn._conn.cursor().execute(text, binds or None, _force_qmark_paramstyle=bool(binds)).fetchall()
    )


def columns(session, text: str) -> list[str]:
    return [column.name for column in session._conn._conn.cursor().execute(text).description]


def at_once(*work: Callable[[], object]) -> None:
    """Run all of these at the same time; raise the first error."""
    errors: list[BaseException] = []

    def run(one: Callable[[], object]) -> None:
        try:
            one()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_a_session_knows_who_and_where_it_is(session, sql):
    ((warehouse, role, user, database, schema),) = sql(
        "SELECT CURRENT_WAREHOUSE(), CURRENT_ROLE(), CURRENT_USER(), CURRENT_DATABASE(), CURRENT_SCHEMA()"
    )
    assert (warehouse, role, user, database, schema) == (
        "HOL_WAREHOUSE",
        "SYSADMIN",
        "EMBEDDED",
        "HOL_DB",
        "HOL_SCHEMA",
    )
    assert session.get_current_warehouse() == '"HOL_WAREHOUSE"'
    assert session.get_current_role() == '"SYSADMIN"'
    assert all(sql("SELECT CURRENT_ACCOUNT(), CURRENT_REGION(), CURRENT_VERSION(), CURRENT_SESSION()")[0])


def test_warehouses_are_created_changed_used_and_dropped(embedded):
    with embedded.connect() as connection:
        run = connection.cursor().execute
        run("CREATE WAREHOUSE IF NOT EXISTS W2 WITH WAREHOUSE_SIZE = 'MEDIUM' AUTO_SUSPEND = 60")
        run("USE WAREHOUSE W2")
        assert run("SELECT CURRENT_WAREHOUSE()").fetchone() == ("W2",)
        run("ALTER WAREHOUSE W2 SET WAREHOUSE_SIZE = LARGE")
        run("SHOW WAREHOUSES LIKE 'W2'")
        assert run('SELECT "size" FROM TABLE(RESULT_SCAN(LAST_QUERY_ID()))').fetchall() == [("Large",)]
        run("DROP WAREHOUSE W2")
        with pytest.raises(ProgrammingError, match="does not exist"):
            run("USE WAREHOUSE W2")


def test_a_grant_is_recorded_and_shown(sql):
    sql("CREATE OR REPLACE ROLE READER")
    sql("GRANT USAGE ON SCHEMA HOL_DB.HOL_SCHEMA TO ROLE READER")
    sql("GRANT CREATE SERVICE, SELECT ON ALL TABLES IN SCHEMA HOL_DB.HOL_SCHEMA TO ROLE READER")
    assert [row[1:4] for row in sql("SHOW GRANTS TO ROLE READER")] == [
        ("USAGE", "SCHEMA", "HOL_DB.HOL_SCHEMA"),
        ("CREATE SERVICE", "ALL TABLES IN SCHEMA", "HOL_DB.HOL_SCHEMA"),
        ("SELECT", "ALL TABLES IN SCHEMA", "HOL_DB.HOL_SCHEMA"),
    ]
    sql("REVOKE USAGE ON SCHEMA HOL_DB.HOL_SCHEMA FROM ROLE READER")
    assert len(sql("SHOW GRANTS TO ROLE READER")) == 2
    with pytest.raises(ProgrammingError):
        sql("USE ROLE NO_SUCH_ROLE")


def test_session_parameters_are_set_and_shown(session, sql):
    sql("ALTER SESSION SET QUERY_TAG = 'a tag'")
    assert sql("SHOW PARAMETERS LIKE 'QUERY_TAG'")[0][1] == "a tag"
    sql("ALTER SESSION UNSET QUERY_TAG")
    assert sql("SHOW PARAMETERS LIKE 'QUERY_TAG'")[0][1] == ""


def test_a_wrong_password_is_refused_at_once(embedded):
    start = time.monotonic()
    with pytest.raises(DatabaseError, match="Incorrect username or password"):
        snowflake.connector.connect(connection_name="embedded", password="wrong")
    assert time.monotonic() - start < 5


def test_a_login_cannot_name_another_directory_of_databases():
    with pytest.raises(DatabaseError, match="unsupported on the embedded server: FAKESNOW_DB_PATH"):
        snowflake.connector.connect(connection_name="embedded", session_parameters={"FAKESNOW_DB_PATH": "elsewhere"})


def test_a_server_that_is_not_running_fails_within_seconds():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    settings = {"account": "embedded", "user": "u", "password": "p", "host": "127.0.0.1", "protocol": "http"}
    start = time.monotonic()
    with pytest.raises((OperationalError, DatabaseError)):
        snowflake.connector.connect(**settings, port=port, login_timeout=10)
    assert time.monotonic() - start < 20


def test_comments_are_shown_with_tables_and_columns(sql):
    sql("CREATE OR REPLACE TABLE NOTED (ID INT PRIMARY KEY COMMENT 'the key', NAME VARCHAR(10)) COMMENT = 'a table'")
    sql("COMMENT ON COLUMN NOTED.NAME IS 'it''s a name'")
    described = {row[0]: row for row in sql("DESCRIBE TABLE NOTED")}
    assert (described["ID"][1], described["ID"][3], described["ID"][5], described["ID"][9]) == (
        "NUMBER(38,0)",
        "N",
        "Y",
        "the key",
    )
    assert (described["NAME"][1], described["NAME"][9]) == ("VARCHAR(10)", "it's a name")
    assert sql("SHOW TABLES LIKE 'noted' IN SCHEMA HOL_DB.HOL_SCHEMA")[0][5] == "a table"
    sql("CREATE OR REPLACE VIEW NOTED_VIEW COMMENT = 'a view' AS SELECT ID FROM NOTED")
    sql("COMMENT ON VIEW NOTED_VIEW IS 'another'")
    assert sql("SHOW VIEWS LIKE 'NOTED_V%'")[0][6] == "another"
    assert sql("SELECT COMMENT FROM INFORMATION_SCHEMA.COLUMNS WHERE TABLE_NAME = 'NOTED' ORDER BY 1") == [
        ("it's a name",),
        ("the key",),
    ]


def test_a_primary_key_is_declared_and_not_enforced_as_on_snowflake(sql):
    sql("CREATE OR REPLACE TABLE KEYED (ID INT PRIMARY KEY, T VARCHAR UNIQUE)")
    sql("INSERT INTO KEYED VALUES (1, 'a'), (1, 'a')")
    assert sql("SELECT COUNT(*) FROM KEYED") == [(2,)]
    assert [row[4] for row in sql("SHOW PRIMARY KEYS IN TABLE KEYED")] == ["ID"]


def test_a_null_timestamp_stays_null(sql):
    found = sql("SELECT * FROM VALUES (1, '2024-01-02 03:04:05.678'::TIMESTAMP_NTZ), (2, NULL) AS T(A, B) ORDER BY A")
    assert found == [(1, datetime.datetime(2024, 1, 2, 3, 4, 5, 678000)), (2, None)]


def test_columns_without_an_alias_are_named_as_on_snowflake(session):
    assert columns(session, "SELECT COUNT(*), UPPER('a'), 1 AS X") == ["COUNT(*)", "UPPER('A')", "X"]


def test_functions_that_the_project_needs(sql):
    assert sql("SELECT WIDTH_BUCKET(5, 0, 10, 5), WIDTH_BUCKET(-1, 0, 10, 5), WIDTH_BUCKET(10, 0, 10, 5)") == [
        (3, 0, 6)
    ]
    assert sql("SELECT SHA2('a', 256)")[0][0].startswith("ca978112ca1b")
    assert sql("SELECT MD5('a')")[0][0].startswith("0cc175b9c0f1")
    assert sql("SELECT TRY_CAST('x' AS INT), PARSE_JSON('{\"a\": [1, {\"b\": 2}]}'):a[1].b::INT") == [(None, 2)]
    assert sql("SELECT ARRAY_AGG(X) WITHIN GROUP (ORDER BY X) FROM VALUES ('b'), ('a') AS T(X)") == [('["a","b"]',)]
    assert sql("SELECT OBJECT_CONSTRUCT('k', 1)") == [('{"k":1}',)]
    assert sql("SELECT DATEADD(DAY, -1, '2024-03-01'::DATE)") == [(datetime.date(2024, 2, 29),)]
    assert sql("SELECT $1 AS A, $2 AS B FROM VALUES (1, 'x')") == [(1, "x")]


def test_a_tables_fingerprint_changes_with_any_row_and_not_with_their_order(sql):
    sql("CREATE OR REPLACE TABLE PRINT1 AS SELECT * FROM VALUES (1, 'a'), (2, NULL), (2, NULL) AS T(A, B)")
    sql("CREATE OR REPLACE TABLE PRINT2 AS SELECT * FROM PRINT1 ORDER BY A DESC")
    first = sql("SELECT HASH_AGG(*) FROM PRINT1")
    assert first == sql("SELECT HASH_AGG(*) FROM PRINT2") == sql("SELECT HASH_AGG(A, B) FROM PRINT1")
    sql("DELETE FROM PRINT2 WHERE A = 2")
    sql("INSERT INTO PRINT2 VALUES (2, NULL)")
    assert sql("SELECT HASH_AGG(*) FROM PRINT2") != first
    sql("TRUNCATE TABLE PRINT2")
    assert sql("SELECT HASH_AGG(*) FROM PRINT2") == [(0,)]


def test_an_earlier_result_can_be_queried(session, sql):
    sql("SELECT * FROM VALUES (1), (2), (3) AS T(N)")
    assert sql("SELECT SUM(N) FROM TABLE(RESULT_SCAN(LAST_QUERY_ID()))") == [(6,)]
    with pytest.raises(ProgrammingError):
        sql("SELECT * FROM TABLE(RESULT_SCAN('5b1fbb8c-0000-0000-0000-000000000000'))")


def test_a_dropped_database_is_gone_with_its_stages(embedded):
    with embedded.connect() as connection:
        run = connection.cursor().execute
        run("CREATE DATABASE SHORT_LIVED")
        run("CREATE STAGE SHORT_LIVED.PUBLIC.S")
        run("CREATE TABLE SHORT_LIVED.PUBLIC.KEYED (A INT PRIMARY KEY)")
        run("DROP DATABASE SHORT_LIVED")
        assert run("SHOW STAGES LIKE 'S' IN ACCOUNT").fetchall() == []
        assert run("SHOW DATABASES LIKE 'SHORT_LIVED'").fetchall() == []
        assert not [row for row in run("SHOW PRIMARY KEYS").fetchall() if "SHORT_LIVED" in row]
    assert not list((embedded.home / "data").rglob("SHORT_LIVED*"))


FRAME = pd.DataFrame(
    {
        "ID": [1, 2],
        "TEXT": ["a", None],
        "AT": pd.to_datetime(["2024-01-01 10:00:00.123456", None]),
        "SCORE": [1.5, None],
        "DAY": [datetime.date(2024, 1, 1), None],
    }
)
ROWS = [
    (1, "a", datetime.datetime(2024, 1, 1, 10, 0, 0, 123456), 1.5, datetime.date(2024, 1, 1)),
    (2, None, None, None, None),
]


def test_pandas_goes_in_by_write_pandas_and_comes_back_the_same(session):
    session.write_pandas(FRAME, "WRITTEN", auto_create_table=True, overwrite=True)
    assert [tuple(row) for row in session.table("WRITTEN").sort("ID").collect()] == ROWS
    session.write_pandas(FRAME, "WRITTEN", use_logical_type=True)
    assert session.table("WRITTEN").count() == 4
    back = session.table("WRITTEN").sort("ID").to_pandas()
    assert back["AT"].isna().sum() == 2
    assert str(back["AT"].dtype) == "datetime64[ns]"
    assert sum(len(batch) for batch in session.table("WRITTEN").to_pandas_batches()) == 4


def test_data_frames_are_created_saved_and_merged(session):
    from snowflake.snowpark.functions import when_matched, when_not_matched

    session.create_dataframe(FRAME).write.mode("overwrite").save_as_table("SAVED")
    assert [tuple(row) for row in session.table("SAVED").sort("ID").collect()] == ROWS
    source = session.create_dataframe([[2, "new"], [3, "more"]], schema=["ID", "TEXT"])
    target = session.table("SAVED")
    result = target.merge(
        source,
        target["ID"] == source["ID"],
        [when_matched().update({"TEXT": source["TEXT"]}), when_not_matched().insert({"ID": source["ID"]})],
    )
    assert (result.rows_inserted, result.rows_updated) == (1, 1)
    session.create_dataframe([(1, "x")], schema=["A", "B"]).write.save_as_table(
        "ONLY_MINE", table_type="temp", mode="overwrite"
    )
    assert session.table("HOL_DB.HOL_SCHEMA.ONLY_MINE").collect()[0].as_dict() == {"A": 1, "B": "x"}


def test_a_temporary_table_is_not_seen_by_others(embedded, sql):
    sql("CREATE SCOPED TEMPORARY TABLE HOL_DB.HOL_SCHEMA.PRIVATE (A INT)")
    assert sql("DESCRIBE TABLE PRIVATE")
    with embedded.connect() as other, pytest.raises(ProgrammingError, match="does not exist"):
        other.cursor().execute("SELECT * FROM HOL_DB.HOL_SCHEMA.PRIVATE")


def test_a_statement_can_run_in_the_background(session):
    assert session.sql("SELECT 1 AS A").collect_nowait().result()[0]["A"] == 1
    failing = session.sql("SELECT NO_SUCH_COLUMN FROM VALUES (1) AS T(A)").collect_nowait()
    with pytest.raises(DatabaseError, match="NO_SUCH_COLUMN"):
        failing.result()


def test_many_rows_are_inserted_all_or_none(embedded):
    with embedded.connect() as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE OR REPLACE TABLE BATCH (A INT NOT NULL)")
        insert = "INSERT INTO BATCH SELECT COLUMN1 FROM VALUES (?)"
        connection._paramstyle = "qmark"
        cursor.executemany(insert, [(number,) for number in range(50)])
        with pytest.raises(IntegrityError, match="100072"):
            cursor.executemany(insert, [(1,), (None,)])
        assert cursor.execute("SELECT COUNT(*) FROM BATCH").fetchone() == (50,)


def test_merge_with_several_clauses_is_one_statement(sql):
    sql("CREATE OR REPLACE TABLE TARGET AS SELECT * FROM VALUES (1, 'one'), (2, 'two'), (3, 'three') AS T(ID, NAME)")
    counts = sql(
        """MERGE INTO TARGET T
           USING (SELECT * FROM VALUES (1, 'x'), (2, 'gone'), (9, 'new') AS V(ID, NAME)) S ON T.ID = S.ID
           WHEN MATCHED AND S.NAME = 'gone' THEN DELETE
           WHEN MATCHED THEN UPDATE SET T.NAME = UPPER(S.NAME) || T.NAME
           WHEN NOT MATCHED THEN INSERT (ID, NAME) VALUES (S.ID, COALESCE(S.NAME, ''))"""
    )
    assert counts == [(1, 1, 1)]
    assert sql("SELECT * FROM TARGET ORDER BY ID") == [(1, "Xone"), (3, "three"), (9, "new")]
    with pytest.raises(ProgrammingError, match="Duplicate row"):
        sql(
            "MERGE INTO TARGET T USING (SELECT 9 AS ID UNION ALL SELECT 9) S ON T.ID = S.ID "
            "WHEN MATCHED THEN UPDATE SET NAME = 'q'"
        )


def test_a_merge_that_fails_halfway_changes_nothing(sql):
    sql("CREATE OR REPLACE TABLE STRICT (ID INT, NAME VARCHAR NOT NULL)")
    sql("INSERT INTO STRICT VALUES (1, 'a')")
    with pytest.raises(IntegrityError, match="non-nullable"):
        sql(
            """MERGE INTO STRICT T USING (SELECT * FROM VALUES (1, 'b'), (2, NULL) AS V(ID, NAME)) S ON T.ID = S.ID
               WHEN MATCHED THEN UPDATE SET NAME = S.NAME WHEN NOT MATCHED THEN INSERT VALUES (S.ID, S.NAME)"""
        )
    assert sql("SELECT * FROM STRICT") == [(1, "a")]


def test_merges_at_once_lose_no_update_and_make_no_duplicate(embedded, sql):
    sql("CREATE OR REPLACE TABLE COUNTED (ID INT, N INT)")

    def work() -> None:
        with embedded.connect() as connection:
            for _ in range(10):
                connection.cursor().execute(
                    """MERGE INTO COUNTED T USING (SELECT COLUMN1 AS ID FROM VALUES (1), (2), (3)) S ON T.ID = S.ID
                       WHEN MATCHED THEN UPDATE SET N = T.N + 1 WHEN NOT MATCHED THEN INSERT VALUES (S.ID, 1)"""
                )

    at_once(*[work] * 4)
    assert sql("SELECT * FROM COUNTED ORDER BY ID") == [(1, 40), (2, 40), (3, 40)]


def test_writers_of_every_kind_at_once_all_succeed(embedded, sql):
    sql("CREATE OR REPLACE TABLE BUSY (ID INT, N INT)")
    sql("INSERT INTO BUSY VALUES (0, 0)")

    def insert() -> None:
        with embedded.connect() as connection:
            for number in range(10):
                connection.cursor().execute(f"INSERT INTO BUSY VALUES ({number}, 0)")

    def update() -> None:
        with embedded.connect() as connection:
            for _ in range(10):
                connection.cursor().execute("UPDATE BUSY SET N = N + 1 WHERE ID = 0 AND N >= 0")

    def create() -> None:
        with embedded.connect() as connection:
            for number in range(5):
                connection.cursor().execute(f"CREATE OR REPLACE TABLE BUSY_{number} (A VARCHAR(10)) COMMENT = 'x'")

    at_once(insert, insert, update, update, create, create)
    assert sql("SELECT COUNT(*), MAX(N) FROM BUSY") == [(21, 20)]


def test_a_transaction_is_seen_when_committed_and_gone_when_rolled_back(embedded, sql):
    sql("CREATE OR REPLACE TABLE LEDGER (A INT)")
    with embedded.connect() as connection:
        run = connection.cursor().execute
        run("BEGIN")
        run("INSERT INTO LEDGER VALUES (1)")
        assert sql("SELECT COUNT(*) FROM LEDGER") == [(0,)]
        run("COMMIT")
        assert sql("SELECT COUNT(*) FROM LEDGER") == [(1,)]
        connection.autocommit(False)
        run("DELETE FROM LEDGER")
        connection.rollback()
    assert sql("SELECT COUNT(*) FROM LEDGER") == [(1,)]


def test_a_transaction_left_open_by_a_closed_session_holds_nobody_up(embedded, sql):
    sql("CREATE OR REPLACE TABLE HELD (A INT)")
    sql("INSERT INTO HELD VALUES (1)")
    with embedded.connect() as connection:
        connection.cursor().execute("BEGIN")
        connection.cursor().execute("UPDATE HELD SET A = 2")
    start = time.monotonic()
    sql("UPDATE HELD SET A = 3")
    assert time.monotonic() - start < 10
    assert sql("SELECT * FROM HELD") == [(3,)]


def test_a_writer_waits_for_the_transaction_before_it_and_loses_nothing(embedded, sql):
    sql("CREATE OR REPLACE TABLE WAITED (N INT)")
    sql("INSERT INTO WAITED VALUES (0)")
    with embedded.connect() as connection:
        connection.cursor().execute("BEGIN")
        connection.cursor().execute("UPDATE WAITED SET N = N + 1")
        second = threading.Thread(target=sql, args=("UPDATE WAITED SET N = N + 10",))
        second.start()
        second.join(timeout=1.5)
        assert second.is_alive()
        connection.cursor().execute("COMMIT")
        second.join(timeout=20)
    assert sql("SELECT N FROM WAITED") == [(11,)]


def test_of_two_transactions_that_wait_for_each_other_one_fails_at_once(embedded, sql):
    for table in ("CROSSED_A", "CROSSED_B"):
        sql(f"CREATE OR REPLACE TABLE {table} (N INT)")
        sql(f"INSERT INTO {table} VALUES (0)")
    with embedded.connect() as first, embedded.connect() as second:
        for connection, table in ((first, "CROSSED_A"), (second, "CROSSED_B")):
            connection.cursor().execute("BEGIN")
            connection.cursor().execute(f"UPDATE {table} SET N = N + 1")
        waiting = threading.Thread(target=first.cursor().execute, args=("UPDATE CROSSED_B SET N = N + 1",))
        waiting.start()
        time.sleep(1)
        with pytest.raises(ProgrammingError, match="Deadlock"):
            second.cursor().execute("UPDATE CROSSED_A SET N = N + 1")
        second.cursor().execute("ROLLBACK")
        waiting.join(timeout=20)
        first.cursor().execute("COMMIT")
    assert sql("SELECT * FROM CROSSED_A UNION ALL SELECT * FROM CROSSED_B") == [(1,), (1,)]


def test_the_results_of_a_busy_server_stay_bounded_while_an_old_statement_runs():
    results = Results()
    results.begin("slow")
    for number in range(REMEMBERED_RESULTS + 100):
        results.end(str(number), Result.of(pa.table({"A": [number]})))
    assert results.get("slow") is None
    assert isinstance(results.get(str(REMEMBERED_RESULTS + 99)), Result)
    with pytest.raises(KeyError):
        results.get("0")


def test_a_writer_that_gives_up_waiting_has_changed_nothing(embedded, sql):
    sql("CREATE OR REPLACE TABLE LEFT_ALONE (N INT)")
    sql("INSERT INTO LEFT_ALONE VALUES (0)")
    with embedded.connect() as first, embedded.connect() as second:
        first.cursor().execute("BEGIN")
        first.cursor().execute("UPDATE LEFT_ALONE SET N = 1")
        with pytest.raises(ProgrammingError):
            second.cursor().execute("UPDATE LEFT_ALONE SET N = 2", timeout=2)
        first.cursor().execute("COMMIT")
        time.sleep(1)
        assert second.cursor().execute("SELECT N FROM LEFT_ALONE").fetchall() == [(1,)]


def test_a_slow_statement_does_not_hold_up_other_sessions_and_can_be_cancelled(embedded, sql):
    outcome: list[str] = []

    def run() -> None:
        with embedded.connect() as connection:
            try:
                # Far too slow to finish: the client gives up and has the server interrupt it.
                connection.cursor().execute("SELECT COUNT(*) FROM RANGE(1000000000000) T(A) WHERE A % 7 = 8", timeout=5)
            except ProgrammingError as error:
                outcome.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(2)
    start = time.monotonic()
    assert sql("SELECT 1") == [(1,)]
    assert time.monotonic() - start < 3
    assert not outcome
    thread.join(timeout=30)
    assert len(outcome) == 1


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("CREATE STREAM S ON TABLE T", "CREATE STREAM"),
        ("CREATE TASK T WAREHOUSE = W AS SELECT 1", "CREATE TASK"),
        ("CREATE DYNAMIC TABLE D TARGET_LAG = '1 minute' WAREHOUSE = W AS SELECT 1 AS A", "CREATE DYNAMIC TABLE"),
        ("CREATE FUNCTION F(A INT) RETURNS INT AS 'A + 1'", "CREATE FUNCTION"),
        ("SHOW TASKS", "SHOW TASKS"),
        ("CREATE STAGE S COPY_OPTIONS = (ON_ERROR = CONTINUE)", "CREATE STAGE ... COPY_OPTIONS"),
        ('CREATE DATABASE "../x"', "the database name"),
        ('CREATE DATABASE "x\' AS y; --"', "the database name"),
        ("UNDROP TABLE T", "UNDROP TABLE"),
        ("CALL NO_SUCH_PROCEDURE(1)", "CALL NO_SUCH_PROCEDURE"),
        ("SELECT SYSTEM$NO_SUCH('x')", r"function SYSTEM\$NO_SUCH"),
        ("SELECT NO_SUCH_FUNCTION(1)", "function NO_SUCH_FUNCTION"),
        ("SELECT * FROM TABLE(NO_SUCH_FUNCTION(1))", "table function NO_SUCH_FUNCTION"),
    ],
)
def test_what_is_not_served_is_refused_by_name_and_at_once(sql, statement, what):
    start = time.monotonic()
    with pytest.raises(ProgrammingError, match=f"unsupported on the embedded server: {what}"):
        sql(statement)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("statement", "errno"),
    [
        ("SELECT * FROM NO_SUCH_TABLE", 2003),
        ("SELECT NO_SUCH_COLUMN FROM VALUES (1) AS T(A)", 904),
        ("SELEC 1", 1003),
        ("SELECT 1; SELECT 2", 8),
        ("CREATE TABLE HOL_DB.NO_SUCH_SCHEMA.T (A INT)", 2003),
        ("DROP DATABASE NO_SUCH_DATABASE", 2003),
        ("USE SCHEMA NO_SUCH_SCHEMA", 2043),
        ("SELECT 'x'::INT", 100038),
    ],
)
def test_errors_have_snowflakes_numbers(sql, statement, errno):
    with pytest.raises(ProgrammingError) as error:
        sql(statement)
    assert error.value.errno == errno


def test_no_request_is_answered_by_an_http_error_that_the_connector_would_repeat(embedded):
    port = tomlkit.parse((embedded.home / "connections.toml").read_text())["embedded"].unwrap()["port"]
    for path in ("session/v1/login-request", "queries/v1/query-request", "session?delete=true"):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", data=b"no JSON", method="POST")
        with urllib.request.urlopen(request) as response:
            assert response.status == 200
            assert json.loads(response.read())["success"] is False


def post(embedded: Embedded, path: str, body: dict | None = None, token: str | None = None) -> dict:
    """The server's answer to a request of a client that holds this session token."""
    port = tomlkit.parse((embedded.home / "connections.toml").read_text())["embedded"].unwrap()["port"]
    headers = {"Authorization": f'Snowflake Token="{token}"'} if token else {}
    url, data = f"http://127.0.0.1:{port}/{path}", json.dumps(body or {}).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data=data, headers=headers, method="POST")) as response:
        return json.loads(response.read())


def test_no_route_answers_without_a_sessions_token(embedded):
    with embedded.connect() as connection:
        query_id = connection.cursor().execute("SELECT 1").sfqid
        paths = (
            *("session", "session/heartbeat", "queries/v1/query-request", "queries/v1/abort-request"),
            *(f"queries/{query_id}/result", f"monitoring/queries/{query_id}"),
        )
        for path in paths:
            assert post(embedded, path)["success"] is False, path
            assert post(embedded, path, {"sqlText": "SELECT 1"}, connection.rest.token)["success"] is True, path


def test_a_statement_is_cancelled_by_its_own_session_only(embedded):
    answers: list[dict] = []
    with embedded.connect() as mine, embedded.connect() as other:
        slow = {"sqlText": "SELECT COUNT(*) FROM RANGE(1000000000000) T(A) WHERE A % 7 = 8"}
        path = "queries/v1/query-request?requestId=slow"
        thread = threading.Thread(target=lambda: answers.append(post(embedded, path, slow, mine.rest.token)))
        thread.start()
        time.sleep(1)
        post(embedded, "queries/v1/abort-request", {"requestId": "slow"}, other.rest.token)
        thread.join(timeout=2)
        assert thread.is_alive()
        post(embedded, "queries/v1/abort-request", {"requestId": "slow"}, mine.rest.token)
        thread.join(timeout=20)
        assert answers[0]["code"] == "000604"


def connect(server: Embedded):
    # The connector reads one connections file a process, and that is the other server's.
    settings = tomlkit.parse((server.home / "connections.toml").read_text())["embedded"].unwrap()
    server.opened.append(snowflake.connector.connect(**settings))
    return server.opened[-1]


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_everything_lasts_across_a_restart(tmp_path: Path, kill: bool):
    home = tmp_path / ".snowflake"
    home.mkdir()
    server = start_embedded(home)
    run = connect(server).cursor().execute
    run("CREATE DATABASE KEPT")
    run("CREATE SCHEMA KEPT.S")
    run("USE SCHEMA KEPT.S")
    run("CREATE TABLE T (A INT COMMENT 'a column', B VARCHAR(7)) COMMENT = 'a table'")
    run("INSERT INTO T VALUES (1, 'x')")
    run("CREATE VIEW V AS SELECT A + 1 AS A1 FROM T")
    run("CREATE WAREHOUSE KEPT_WAREHOUSE")
    run("CREATE FILE FORMAT FF TYPE = JSON")
    run("CREATE STAGE ST")
    run("PUT file:///n/f.txt @ST AUTO_COMPRESS=FALSE", file_stream=io.BytesIO(b"kept"))
    before = run("LIST @ST").fetchall()
    if kill:
        server.process.kill()
        server.process.wait()
        server.opened.clear()
    else:
        stop_embedded(server)
    server = start_embedded(home)
    try:
        run = connect(server).cursor().execute
        run("USE SCHEMA KEPT.S")
        assert run("SELECT * FROM T").fetchall() == [(1, "x")]
        assert run("SELECT * FROM V").fetchall() == [(2,)]
        assert run("SHOW TABLES").fetchone()[5] == "a table"
        assert [(row[1], row[9]) for row in run("DESCRIBE TABLE T")] == [
            ("NUMBER(38,0)", "a column"),
            ("VARCHAR(7)", None),
        ]
        assert len(run("SHOW WAREHOUSES LIKE 'KEPT_WAREHOUSE'").fetchall()) == 1
        assert run("LIST @ST").fetchall() == before
        run("CREATE FILE FORMAT IF NOT EXISTS FF TYPE = CSV")
        assert [row[1] for row in run("SHOW FILE FORMATS LIKE 'FF'")] == ["FF"]
    finally:
        stop_embedded(server)

"""The embedded server's history of statements, as Snowflake's clients read it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import snowflake.connector
from conftest import Embedded, start_embedded, stop_embedded

TAG = '{"app": "it\'s mine"}'


def history(cursor, tag: str, columns: str = "*", function: str = "QUERY_HISTORY", arguments: str = "") -> list:
    given = arguments or "END_TIME_RANGE_START => DATEADD('hour', -1, CURRENT_TIMESTAMP()), RESULT_LIMIT => 10000"
    return cursor.execute(
        f"SELECT {columns} FROM TABLE(HOL_DB.INFORMATION_SCHEMA.{function}({given})) WHERE QUERY_TAG = %s "
        "ORDER BY START_TIME",
        (tag,),
    ).fetchall()


def test_a_statement_is_found_by_its_sessions_tag_with_its_time_and_warehouse(embedded: Embedded):
    session = embedded.session()
    session.query_tag = TAG
    session.sql("CREATE OR REPLACE TEMPORARY TABLE COUNTED AS SELECT 1 AS A UNION ALL SELECT 2").collect()
    session.sql("SELECT * FROM COUNTED").collect()
    session.sql("SHOW WAREHOUSES").collect()
    with pytest.raises(Exception, match="NO_SUCH_TABLE"):
        session.sql("SELECT * FROM NO_SUCH_TABLE").collect()
    session.query_tag = None
    session.sql("SELECT 'untagged' FROM COUNTED").collect()

    columns = "QUERY_TYPE, WAREHOUSE_NAME, WAREHOUSE_SIZE, EXECUTION_STATUS, ROWS_PRODUCED, ERROR_CODE"
    found = history(embedded.connect().cursor(), TAG, columns)
    assert found[0][:4] == ("CREATE_TABLE_AS_SELECT", "HOL_WAREHOUSE", "X-Small", "SUCCESS")
    assert found[1][:5] == ("SELECT", "HOL_WAREHOUSE", "X-Small", "SUCCESS", 2)
    # What needs no warehouse has no size.
    assert found[2][:4] == ("SHOW", "HOL_WAREHOUSE", None, "SUCCESS")
    assert found[3][3:] == ("FAILED_WITH_ERROR", None, 2003)
    times = history(embedded.connect().cursor(), TAG, "START_TIME, END_TIME, TOTAL_ELAPSED_TIME")
    assert all((end - start).total_seconds() == pytest.approx(ms / 1000, abs=0.001) for start, end, ms in times)
    assert all(ms > 0 for *_, ms in times[:2])


def test_a_tag_may_come_with_the_login_or_with_one_statement(embedded: Embedded):
    with snowflake.connector.connect(
        connection_name="embedded", session_parameters={"QUERY_TAG": "of the login"}
    ) as tagged:
        tagged.cursor().execute("SELECT 1")
        tagged.cursor().execute("SELECT 2", _statement_params={"QUERY_TAG": "of the statement"})
    cursor = embedded.connect().cursor()
    assert [row[0] for row in history(cursor, "of the login", "QUERY_TEXT")] == ["SELECT 1"]
    assert [row[0] for row in history(cursor, "of the statement", "QUERY_TEXT")] == ["SELECT 2"]


def test_the_limit_comes_before_the_condition_and_the_range_is_a_week(embedded: Embedded):
    session = embedded.session()
    session.query_tag = "long ago"
    session.sql("SELECT 1").collect()
    session.query_tag = "since then"
    for _ in range(3):
        session.sql("SELECT 1").collect()
    cursor = embedded.connect().cursor()
    assert len(history(cursor, "since then", arguments="RESULT_LIMIT => 3")) < 3
    assert not history(cursor, "long ago", arguments="RESULT_LIMIT => 3")
    assert history(cursor, "long ago", function="QUERY_HISTORY_BY_WAREHOUSE", arguments="RESULT_LIMIT => 1000")
    for arguments, message in (
        ("END_TIME_RANGE_START => DATEADD('day', -8, CURRENT_TIMESTAMP())", "not within the last 7 days"),
        ("RESULT_LIMIT => 10001", "RESULT_LIMIT from 1 to 10000"),
        ("SINCE => 1", "unknown argument 'SINCE'"),
    ):
        with pytest.raises(snowflake.connector.errors.ProgrammingError, match=message):
            history(cursor, "", arguments=arguments)


def test_a_password_in_a_statement_is_not_in_the_history(embedded: Embedded):
    connection = embedded.connect()
    connection.cursor().execute("ALTER SESSION SET QUERY_TAG = 'secretive'")
    with pytest.raises(snowflake.connector.errors.ProgrammingError, match="PASSWORD of a user"):
        connection.cursor().execute("CREATE USER RECORDED PASSWORD = 'Correct1Horse' DEFAULT_ROLE = PUBLIC")
    texts = [row[0] for row in history(connection.cursor(), "secretive", "QUERY_TEXT")]
    assert texts[0] == "CREATE USER RECORDED PASSWORD = '****' DEFAULT_ROLE = PUBLIC"


def test_the_history_survives_a_restart(tmp_path: Path):
    home = tmp_path / ".snowflake"
    home.mkdir()
    for round_, expected in ((1, 0), (2, 1)):
        server = start_embedded(home)
        # The fixture's clients read the connection of their own home.
        options = snowflake_options(home)
        with snowflake.connector.connect(**options, session_parameters={"QUERY_TAG": "kept"}) as connection:
            text = "SELECT QUERY_TEXT FROM TABLE(INFORMATION_SCHEMA.QUERY_HISTORY()) WHERE QUERY_TAG = 'kept'"
            cursor = connection.cursor()
            before = [row for row in cursor.execute(text).fetchall() if row[0].startswith("SELECT 'round")]
            assert len(before) == expected
            cursor.execute(f"SELECT 'round {round_}'")
        stop_embedded(server)


def snowflake_options(home: Path) -> dict:
    return tomllib.loads((home / "connections.toml").read_text())["embedded"]

"""The named connection as assets use it, and as dagster-snowflake's own resource."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT, Embedded

from resources.errors import SnowflakeConnectionError
from resources.snowflake import SnowflakeConnection


def test_dagster_snowflakes_resource_runs_sql_on_the_same_connection(embedded: Embedded):
    resource = SnowflakeConnection(connection_name="embedded", schema_name="HOL_SCHEMA").snowflake_resource()
    with resource.get_connection() as connection:
        row = connection.cursor().execute("SELECT 6 * 7, CURRENT_SCHEMA()").fetchone()
    assert row == (42, "HOL_SCHEMA")


def test_a_value_is_bound_and_never_becomes_sql(embedded: Embedded):
    hostile = "x'; DROP DATABASE HOL_DB; --"
    assert SnowflakeConnection(connection_name="embedded").query("SELECT ? AS V", [hostile]) == [{"V": hostile}]


def test_a_connection_that_is_not_there_is_named(embedded: Embedded):
    for ask in (lambda c: c.query("SELECT 1"), lambda c: c.snowflake_resource()):
        with pytest.raises(SnowflakeConnectionError, match="'nowhere'"):
            ask(SnowflakeConnection(connection_name="nowhere"))


def test_a_second_server_on_the_same_data_is_refused_and_leaves_the_connection_alone(embedded: Embedded):
    before = (embedded.home / "connections.toml").read_text()
    second = subprocess.run(
        [sys.executable, "-m", "embedded_snowflake", "--data-dir", str(embedded.home / "data"), "--port", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode == 1
    assert "is in use by another embedded Snowflake" in second.stderr
    assert (embedded.home / "connections.toml").read_text() == before

"""Compute pools of the embedded server as Snowflake's own connector sees them. Jobs are in test_embedded_jobs."""

from __future__ import annotations

import pytest

from embedded_snowflake.compute_pools import FAMILIES, Pool, cores, now
from embedded_snowflake.ray_host import infeasible


@pytest.fixture(scope="module")
def cursor(embedded):
    from snowflake.connector import DictCursor

    return embedded.connect().cursor(DictCursor)


@pytest.fixture
def pool(cursor):
    """The name of a pool with 1 to 3 small nodes."""
    cursor.execute(
        "CREATE COMPUTE POOL POOLS_TEST MIN_NODES = 1 MAX_NODES = 3 INSTANCE_FAMILY = CPU_X64_S "
        "AUTO_SUSPEND_SECS = 120 AUTO_RESUME = FALSE COMMENT = 'it''s small'"
    )
    yield "POOLS_TEST"
    cursor.execute("DROP COMPUTE POOL IF EXISTS POOLS_TEST")


def described(cursor, name: str) -> dict:
    (row,) = cursor.execute(f"DESCRIBE COMPUTE POOL {name}").fetchall()
    return row


def refusal(cursor, sql: str):
    from snowflake.connector.errors import ProgrammingError

    with pytest.raises(ProgrammingError) as raised:
        cursor.execute(sql)
    return raised.value


def test_a_pool_shows_what_it_was_created_with(cursor, pool):
    row = described(cursor, pool)
    assert (row["min_nodes"], row["max_nodes"], row["instance_family"]) == (1, 3, "CPU_X64_S")
    assert (row["auto_suspend_secs"], row["auto_resume"], row["comment"]) == (120, "false", "it's small")
    assert (row["state"], row["num_jobs"], row["active_nodes"], row["idle_nodes"]) == ("IDLE", 0, 0, 0)


def test_pools_are_found_by_pattern_literal_or_bound(cursor, embedded, pool):
    import snowflake.connector
    from snowflake.snowpark import Session

    assert [row["name"] for row in cursor.execute("SHOW COMPUTE POOLS LIKE 'pools\\\\_t%'").fetchall()] == [pool]
    assert cursor.execute("SHOW COMPUTE POOLS LIKE 'nothing%'").fetchall() == []
    connection = snowflake.connector.connect(connection_name="embedded", paramstyle="qmark")
    session = Session.builder.config("connection", connection).create()
    (row,) = session.sql("SHOW COMPUTE POOLS LIKE ?", params=[pool]).collect()
    assert row["name"] == pool
    session.close()


def test_a_pool_is_suspended_resumed_and_altered(cursor, pool):
    cursor.execute(f"ALTER COMPUTE POOL {pool} SUSPEND")
    assert described(cursor, pool)["state"] == "SUSPENDED"
    cursor.execute(f"ALTER COMPUTE POOL {pool} RESUME")
    assert described(cursor, pool)["state"] == "IDLE"
    cursor.execute(f"ALTER COMPUTE POOL {pool} SET MAX_NODES = 5 AUTO_RESUME = TRUE COMMENT = 'larger'")
    row = described(cursor, pool)
    assert (row["max_nodes"], row["auto_resume"], row["comment"]) == (5, "true", "larger")


def test_creating_a_pool_twice_is_an_error_unless_if_not_exists(cursor, pool):
    again = f"COMPUTE POOL {{}} {pool} MIN_NODES = 1 MAX_NODES = 1 INSTANCE_FAMILY = CPU_X64_XS"
    assert refusal(cursor, "CREATE " + again.format("")).errno == 2002
    cursor.execute("CREATE " + again.format("IF NOT EXISTS"))
    assert described(cursor, pool)["max_nodes"] == 3


def test_a_pool_that_does_not_exist_is_named(cursor):
    error = refusal(cursor, "DESCRIBE COMPUTE POOL NO_SUCH_POOL")
    assert error.errno == 2003
    assert "Compute pool 'NO_SUCH_POOL' does not exist" in str(error)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("MIN_NODES = 1 MAX_NODES = 1 INSTANCE_FAMILY = CPU_X64_HUGE", "CPU_X64_XS, CPU_X64_S"),
        ("MIN_NODES = 2 MAX_NODES = 1 INSTANCE_FAMILY = CPU_X64_S", "MIN_NODES = 2, MAX_NODES = 1"),
        ("MIN_NODES = 0 MAX_NODES = 1 INSTANCE_FAMILY = CPU_X64_S", "1 <= MIN_NODES"),
        ("MIN_NODES = 1 MAX_NODES = 1", "missing INSTANCE_FAMILY"),
        ("MIN_NODES = 1 MAX_NODES = 1 INSTANCE_FAMILY = CPU_X64_S COLOUR = 'red'", "COLOUR"),
        ("MIN_NODES = 1 MAX_NODES = 1 INSTANCE_FAMILY = CPU_X64_S AUTO_RESUME = 'maybe'", "expected TRUE or FALSE"),
    ],
)
def test_a_pool_that_makes_no_sense_is_refused_with_the_reason(cursor, options, said):
    assert said in str(refusal(cursor, f"CREATE COMPUTE POOL POOLS_TEST_BAD {options}"))
    assert cursor.execute("SHOW COMPUTE POOLS LIKE 'POOLS_TEST_BAD'").fetchall() == []


@pytest.mark.parametrize("max_nodes", [1, 2, 100])
def test_a_node_has_its_share_of_the_machine_and_at_least_one_cpu(max_nodes):
    moment = now()
    pool = Pool("P", "CPU_X64_M", 1, max_nodes, True, 60, "", False, moment, None, moment)
    shape = pool.shape(1, 256 * 2**20)
    assert shape.cpus == max(1, min(FAMILIES["CPU_X64_M"][0], cores() // max_nodes))
    assert shape.object_store_memory < shape.memory


@pytest.mark.parametrize(
    ("tasks", "groups", "expected"),
    [
        ([{"CPU": 1.0}, {"CPU": 0.5}], [], []),
        ([{"CPU": 24.0}], [], [{"CPU": 24.0}]),
        ([{"GPU": 1.0}], [], [{"GPU": 1.0}]),
        ([], [("SPREAD", [{"CPU": 1.0}, {"CPU": 1.0}])], []),
        ([], [("SPREAD", [{"CPU": 1.0}] * 3)], [{"CPU": 3.0}]),
        ([], [("STRICT_PACK", [{"CPU": 1.0}] * 2)], [{"CPU": 2.0}]),
    ],
)
def test_only_what_two_nodes_of_one_cpu_can_never_give_is_infeasible(tasks, groups, expected):
    assert infeasible([{"CPU": 1.0}, {"CPU": 1.0}], tasks, groups) == expected

"""Publishing: how the Parquet that workers wrote under a run's prefix becomes rows of a table, all or none, once.

The pattern, which every writing job follows:

1. Workers write Parquet files with names that a retry repeats, so that a retried task replaces its own files.
2. The driver copies the prefix into temporary staging tables, which only its session sees (``staged``).
3. One transaction (``transaction``) takes the table's lock and merges by the table's key. A run that is killed before
   its commit has changed nothing; one that is repeated finds its rows there and updates them to the same values.

The lock is a row of PUBLISH_LOCKS that each transaction updates first. Snowflake keeps no unique keys, and a statement
reads what was committed when it began: of two runs that insert at the same time neither sees the other's rows. With
the row, the second waits for the first (on Snowflake) or fails and is tried again (on an engine with optimistic
transactions), and then sees them.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from customer_insights import query
from customer_insights.errors import RetryableError
from customer_insights.identifiers import validated, validated_location
from customer_insights.stage_files import list_files
from customer_insights.tables import PUBLISH_LOCKS, Table

if TYPE_CHECKING:
    import pandas as pd
    from snowflake.snowpark import Session

Result = TypeVar("Result")

# Snowflake: 625, a lock was waited for too long or by too many; 684, a deadlock's victim; a transaction that was idle
# for five minutes while others waited for its lock is aborted. DuckDB says "Conflict".
_CONFLICT = re.compile(r"\b000?(625|684)\b|conflict|deadlock|lock timeout|transaction was aborted", re.IGNORECASE)
CONFLICT_ATTEMPTS = 30
LONGEST_PAUSE_SECONDS = 10
# Files of this size make enough of them for a cluster to share, and each fits a worker.
UNLOAD_FILE_BYTES = 4 << 20


@dataclass(frozen=True)
class Published:
    """Rows that a publication inserted and updated."""

    inserted: int
    updated: int


def merge(session: Session, table: Table, prefix: str) -> Published:
    """Merge the Parquet files under ``prefix`` into ``table`` at once; a row whose key is there is replaced.

    The files have the table's columns by name. Rows with one key in several files become one.
    """
    with staged(session, table, prefix) as staging:
        return transaction(session, table, lambda: merge_staged(session, table, staging))


def merge_frame(session: Session, table: Table, frame: pd.DataFrame) -> Published:
    """Merge the rows of a frame that has the table's columns, each key once; for results that fit in memory."""
    staging = f"FRAME_{secrets.token_hex(8).upper()}"
    query.rows(session, table.create_ddl(staging, temporary=True))
    try:
        rows = frame[list(table.column_names)]
        session.write_pandas(rows, staging, table_type="temporary", use_logical_type=True)
        return transaction(session, table, lambda: merge_staged(session, table, staging))
    finally:
        query.rows(session, f"DROP TABLE IF EXISTS {staging}")


def merge_staged(session: Session, table: Table, staging: str) -> Published:
    """The MERGE of a staging table that has the columns of ``table``; to be run inside ``transaction``."""
    match = " AND ".join(f"t.{name} = s.{name}" for name in table.key)
    changed = [name for name in table.column_names if name not in table.key]
    update = (
        f"WHEN MATCHED THEN UPDATE SET {', '.join(f't.{name} = s.{name}' for name in changed)}\n" if changed else ""
    )
    names = ", ".join(table.column_names)
    values = ", ".join(f"s.{name}" for name in table.column_names)
    counts = query.row(
        session,
        f"MERGE INTO {validated(table.name)} AS t USING {validated(staging)} AS s ON {match}\n{update}"
        f"WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({values})",
    )
    inserted, updated = (*counts.values(), 0)[:2]
    return Published(int(inserted), int(updated))


@contextmanager
def staged(session: Session, table: Table, prefix: str, unique: bool = True) -> Iterator[str]:
    """Yield the name of a temporary table that has the columns of ``table`` and the rows of the files under ``prefix``.

    Args:
        unique: keep one row of each key, chosen by the values of the other columns and so the same one every time.
    """
    loaded = f"STAGED_{secrets.token_hex(8).upper()}"
    query.rows(session, table.create_ddl(loaded, temporary=True))
    try:
        copy(session, loaded, prefix)
        if not unique:
            yield loaded
            return
        rest = [name for name in table.column_names if name not in table.key] or list(table.key)
        one_each = (
            f"SELECT * FROM {loaded}\n"
            f"QUALIFY ROW_NUMBER() OVER (PARTITION BY {', '.join(table.key)} ORDER BY {', '.join(rest)}) = 1"
        )
        with temporary(session, one_each) as kept:
            yield kept
    finally:
        query.rows(session, f"DROP TABLE IF EXISTS {loaded}")


@contextmanager
def temporary(session: Session, select: str, binds: Sequence[object] = (), tag: str | None = None) -> Iterator[str]:
    """A temporary table made from a query; yields its name. ``tag``: query tag of the statement."""
    name = f"TEMPORARY_{secrets.token_hex(8).upper()}"
    query.rows(session, f"CREATE TEMPORARY TABLE {name} AS {select}", binds, tag)
    try:
        yield name
    finally:
        query.rows(session, f"DROP TABLE IF EXISTS {name}")


def copy(session: Session, table_name: str, prefix: str) -> None:
    """COPY the Parquet files under ``prefix`` into a table, columns by name."""
    # Listed first: COPY from a folder without files is an answer in one engine and an error in another.
    if not list_files(session, prefix):
        return
    query.rows(
        session,
        f"COPY INTO {validated(table_name)} FROM {validated_location(prefix)}/\n"
        "FILE_FORMAT = (TYPE = PARQUET USE_LOGICAL_TYPE = TRUE) MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE FORCE = TRUE",
    )


def unload(session: Session, select: str, prefix: str, binds: Sequence[object] = ()) -> None:
    """Write the rows of a query under ``prefix`` as Parquet files of a few MB.

    ``prefix`` must be a new folder: files of an earlier unload that this one does not name again would stay.
    """
    query.rows(
        session,
        f"COPY INTO {validated_location(prefix)}/ FROM (\n{select}\n)\n"
        f"FILE_FORMAT = (TYPE = PARQUET) HEADER = TRUE OVERWRITE = TRUE MAX_FILE_SIZE = {UNLOAD_FILE_BYTES}",
        binds,
    )


def transaction(session: Session, table: Table, work: Callable[[], Result]) -> Result:
    """Run ``work`` in one transaction that holds the lock of ``table``, and commit; nothing is changed when it raises.

    ``work`` is run again when another publication was in the way, so it must not change anything but tables. It must
    not run DDL either: that would commit.

    Raises:
        RetryableError: others held the lock through every attempt.
    """
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

    _make_lock(session, table)
    retrying = Retrying(
        retry=retry_if_exception(is_conflict),
        stop=stop_after_attempt(CONFLICT_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.1, max=LONGEST_PAUSE_SECONDS),
        reraise=True,
    )
    try:
        return retrying(_attempt, session, table, work)
    except Exception as error:
        if is_conflict(error):
            raise RetryableError(
                f"{table.name} was being published by others through {CONFLICT_ATTEMPTS} attempts; nothing was written"
            ) from error
        raise


def is_conflict(error: BaseException) -> bool:
    """Whether a statement failed because of another transaction."""
    from snowflake.snowpark.exceptions import SnowparkSQLException

    return isinstance(error, SnowparkSQLException) and bool(_CONFLICT.search(str(error)))


def _attempt(session: Session, table: Table, work: Callable[[], Result]) -> Result:
    query.rows(session, "BEGIN")
    try:
        query.rows(
            session,
            f"UPDATE {PUBLISH_LOCKS.name} SET PUBLICATIONS = PUBLICATIONS + 1 WHERE TABLE_NAME = ?",
            [table.name],
        )
        result = work()
        query.rows(session, "COMMIT")
        return result
    except BaseException:
        query.rows(session, "ROLLBACK")
        raise


def _make_lock(session: Session, table: Table) -> None:
    # Two at once may insert two rows: whoever updates later updates, and so waits for, both.
    query.rows(session, PUBLISH_LOCKS.create_ddl())
    query.rows(
        session,
        f"INSERT INTO {PUBLISH_LOCKS.name} (TABLE_NAME, PUBLICATIONS)\n"
        f"SELECT ?, 0 WHERE NOT EXISTS (SELECT 1 FROM {PUBLISH_LOCKS.name} WHERE TABLE_NAME = ?)",
        [table.name, table.name],
    )

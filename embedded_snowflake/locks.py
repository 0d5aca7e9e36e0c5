"""Table locks: one transaction at a time changes a table's rows, as in Snowflake; the next one waits.

DuckDB does not wait: it lets the later of two transactions that change the same rows fail. INSERTs need no lock in
either.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import duckdb

from embedded_snowflake.errors import ProgrammingError
from embedded_snowflake.sessions import Session, at_end

if TYPE_CHECKING:
    from embedded_snowflake.server import EmbeddedSnowflake

# Snowflake ends a transaction that has been idle for five minutes and keeps another one waiting.
IDLE_SECONDS = 300.0
WAIT_SECONDS = 3600.0
LOOK_SECONDS = 0.5


@dataclass
class TableLocks:
    """Who holds which table. A session holds its locks until its transaction ends."""

    _changed: threading.Condition = field(default_factory=threading.Condition)
    _holders: dict[str, Session] = field(default_factory=dict)
    _waiting: dict[Session, str] = field(default_factory=dict)

    def acquire(self, session: Session, table: str) -> None:
        """Wait until the session may change the table. Raises Snowflake's 625 after an hour, or for a deadlock."""
        with self._changed:
            self._waiting[session] = table
            try:
                self._wait(session, table)
            finally:
                del self._waiting[session]
            self._holders[table] = session

    def _wait(self, session: Session, table: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        if self._is_deadlock(session, table):
            raise ProgrammingError(
                msg=f"Deadlock on table '{table}': the transaction that holds it waits for one of this transaction's.",
                errno=625,
                sqlstate="57014",
            )
        while (holder := self._holders.get(table)) and holder is not session:
            idle = time.monotonic() - holder.last_active
            if idle > IDLE_SECONDS and holder.abort_transaction(f"another waited for {table}, idle {idle:.0f} s"):
                self._release(holder)
                break
            if session.cancelled:
                raise ProgrammingError(msg="SQL execution canceled", errno=604, sqlstate="57014")
            if time.monotonic() > deadline:
                raise ProgrammingError(
                    msg=f"Statement has waited {WAIT_SECONDS:.0f} s for the lock on table '{table}', "
                    "which another transaction holds, and was aborted.",
                    errno=625,
                    sqlstate="57014",
                )
            self._changed.wait(LOOK_SECONDS)

    def _is_deadlock(self, session: Session, table: str) -> bool:
        """Whether who holds the table waits, directly or through others, for a table that the session holds."""
        holder = self._holders.get(table)
        seen: set[Session] = set()
        while holder and holder is not session and holder not in seen:
            seen.add(holder)
            awaited = self._waiting.get(holder)
            holder = self._holders.get(awaited) if awaited else None
        return holder is session and bool(seen)

    def release(self, session: Session) -> None:
        """Give back all that the session holds."""
        with self._changed:
            self._release(session)

    def _release(self, session: Session) -> None:
        for table in [table for table, holder in self._holders.items() if holder is session]:
            del self._holders[table]
        self._changed.notify_all()


@at_end
def release_all(server: EmbeddedSnowflake, session: Session) -> None:
    """A session that ends takes its open transaction back and holds nothing any more."""
    connection = session.connection()
    if connection:
        connection._duck_conn.interrupt()
        with session.lock, contextlib.suppress(duckdb.TransactionException):
            connection._duck_conn.rollback()
    server.table_locks.release(session)

"""What this server remembers about its own objects (stages, pools, jobs, models, datasets), in one DuckDB file under
the data directory.

A concern declares its tables here by ``declare``; its handlers read and write them by SQL. Rows of users' tables are
not here: fakesnow keeps those in one file per database.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

_DDL: list[str] = []


def declare(ddl: str) -> None:
    """Add a ``CREATE TABLE IF NOT EXISTS`` that every catalogue runs when it is opened."""
    _DDL.append(ddl)


class Catalog:
    """The catalogue file. Safe to use from many threads: one statement at a time."""

    def __init__(self, path: Path) -> None:
        self._connection = duckdb.connect(str(path))
        self._lock = threading.RLock()
        for ddl in _DDL:
            self._connection.execute(ddl)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The rows of a query, as dictionaries."""
        with self._lock:
            cursor = self._connection.execute(sql, list(parameters))
            names = [column[0] for column in cursor.description or []]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """Run one statement and make it last."""
        with self._lock:
            self._connection.execute(sql, list(parameters))

    def append(self, table: str, rows: pa.Table) -> None:
        """Add rows that have the table's columns by name; a statement for each would take 100 times as long."""
        with self._lock:
            self._connection.register("appended", rows)
            try:
                self._connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM appended")
            finally:
                self._connection.unregister("appended")

    def close(self) -> None:
        with self._lock:
            self._connection.close()

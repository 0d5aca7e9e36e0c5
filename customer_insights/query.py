"""Running a query: its rows as plain dictionaries, or its one value. What is asked is in the module of its concept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snowflake.snowpark import Session


def rows(session: Session, sql: str, binds: Sequence[object] = (), tag: str | None = None) -> list[dict[str, Any]]:
    """The rows of a statement, column name to value; ``binds`` are the values of its ``?`` placeholders, ``tag`` its
    query tag instead of the session's."""
    parameters = {"QUERY_TAG": tag} if tag else None
    return [row.as_dict() for row in session.sql(sql, params=list(binds) or None).collect(statement_params=parameters)]


def row(session: Session, sql: str, binds: Sequence[object] = ()) -> dict[str, Any]:
    """The one row of a statement."""
    return rows(session, sql, binds)[0]


def value(session: Session, sql: str, binds: Sequence[object] = ()) -> Any:
    """The one value of a statement: first row, first column."""
    return next(iter(row(session, sql, binds).values()))

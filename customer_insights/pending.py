"""What is not done yet: a window of days, the query of the reviews that lack a score, and its count.

The statement is the same for every score: a review is done when its very text was scored by that revision of that
model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from customer_insights.query import value
from customer_insights.tables import Table

if TYPE_CHECKING:
    from snowflake.snowpark import Session


@dataclass(frozen=True)
class Window:
    """Days of arrival (UTC, ISO dates), both included."""

    start: str
    end: str


@dataclass(frozen=True)
class Query:
    """A statement and the values of its ``?`` placeholders."""

    sql: str
    binds: tuple[object, ...]


def pending(
    table: Table,
    window: Window,
    model: str,
    revision: str,
    condition: Query | None = None,
    done: Query | None = None,
) -> Query:
    """Reviews of the window that have no row in ``table`` for their text by this revision of the model.

    Args:
        condition: which reviews are asked for, of ``RAW_REVIEWS AS r``.
        done: what a row must also be for its review to be done, of the table ``AS s``.
    """
    extra = f" AND {condition.sql}" if condition else ""
    also = f" AND {done.sql}" if done else ""
    return Query(
        "SELECT r.UUID, r.TEXT_HASH, r.REVIEW_TEXT, r.LANGUAGE, r.ARRIVAL_DATE\n"
        "FROM RAW_REVIEWS AS r\n"
        f"LEFT JOIN {table.name} AS s\n"
        "  ON s.UUID = r.UUID AND s.TEXT_HASH = r.TEXT_HASH AND s.MODEL = ? AND s.REVISION = ?"
        f"{also}\nWHERE r.ARRIVAL_DATE BETWEEN ?::DATE AND ?::DATE AND s.UUID IS NULL{extra}",
        (
            *(model, revision, *(done.binds if done else ())),
            *(window.start, window.end, *(condition.binds if condition else ())),
        ),
    )


def scored_by_others(table: Table, versions: Sequence[tuple[Query, str, str]]) -> Query:
    """Days of the rows of ``table`` that were scored by none of ``versions``.

    Args:
        versions: which rows it is to score (a condition on the table), its model and its revision.
    """
    present = " OR ".join(f"({condition.sql} AND MODEL = ? AND REVISION = ?)" for condition, _, _ in versions)
    binds = [value for condition, *version in versions for value in (*condition.binds, *version)]
    return Query(f"SELECT ARRIVAL_DATE FROM {table.name} WHERE NOT ({present})", tuple(binds))


def count(session: Session, query: Query) -> int:
    """Number of rows of a query."""
    return int(value(session, f"SELECT COUNT(*) FROM ({query.sql}) AS q", query.binds))

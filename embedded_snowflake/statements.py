"""The table of statement -> handler: what is served besides fakesnow's SQL, and how an answer is given.

A module that serves statements marks its functions with ``@statement(pattern)``; the patterns together are the list of
what is served. What a statement does belongs in the module of its concern (stages, compute_pools, jobs, models,
ai_functions), not here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from sqlglot import exp

from embedded_snowflake import names
from embedded_snowflake.errors import invalid
from embedded_snowflake.names import without_comments

if TYPE_CHECKING:
    from fakesnow.fakes import FakeSnowflakeConnection

    from embedded_snowflake.server import EmbeddedSnowflake


@dataclass(frozen=True)
class Statement:
    """One statement as a client sent it. ``binds`` are the values of its ``?`` placeholders."""

    server: EmbeddedSnowflake
    connection: FakeSnowflakeConnection
    sql: str
    binds: Sequence[Any] | dict[str, Any] | None
    match: re.Match[str]
    query_id: str = ""

    def group(self, name: str) -> str | None:
        return self.match.group(name)


@dataclass(frozen=True)
class Sql:
    """Answer with this SQL (Snowflake dialect) instead. The binds of the statement go with it when kept."""

    sql: str
    keep_binds: bool = False


@dataclass(frozen=True)
class Transfer:
    """Answer with the file-transfer document that the connector's PUT and GET expect."""

    data: dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """Answer with this table as it is; no SQL runs."""

    table: pa.Table


Answer = Sql | Transfer | Rows
Handler = Callable[[Statement], Answer]


@dataclass(frozen=True)
class Served:
    """One line of the table of what is served."""

    pattern: re.Pattern[str]
    handler: Handler
    summary: str


SERVED: list[Served] = []


def statement(pattern: str) -> Callable[[Handler], Handler]:
    """Serve the statements that ``pattern`` matches in full, ignoring case; blanks in it stand for any white space."""
    flexible = pattern.strip().replace(" ", r"\s+")

    def register(handler: Handler) -> Handler:
        summary = (handler.__doc__ or handler.__name__).strip().splitlines()[0]
        SERVED.append(Served(re.compile(rf"\s*{flexible}\s*;?\s*\Z", re.IGNORECASE | re.DOTALL), handler, summary))
        return handler

    return register


def find(sql: str) -> tuple[Served, re.Match[str]] | None:
    """The handler that serves ``sql``, or None where fakesnow shall answer it."""
    bare = without_comments(sql)
    for served in SERVED:
        if match := served.pattern.match(bare):
            return served, match
    return None


def is_question(sql: str) -> bool:
    """Whether a statement only reads, so that running it to describe its columns does nothing else."""
    return bool(
        re.match(r"\s*(?:SELECT|WITH|SHOW|DESC|DESCRIBE|LIST|LS|EXPLAIN)\b", without_comments(sql), re.IGNORECASE)
    )


@dataclass(frozen=True)
class Query:
    """SQL on its way to fakesnow, whatever statement it is part of."""

    server: EmbeddedSnowflake
    connection: FakeSnowflakeConnection
    sql: str


@dataclass(frozen=True)
class Rewriter:
    """Snowflake syntax that fakesnow does not read, put in words that it does."""

    marker: re.Pattern[str]
    rewrite: Callable[[Query], str]


REWRITERS: list[Rewriter] = []


def rewriter(marker: str) -> Callable[[Callable[[Query], str]], Callable[[Query], str]]:
    """Pass SQL in which ``marker`` is found anywhere (ignoring case) through this function before fakesnow sees it."""

    def register(rewrite: Callable[[Query], str]) -> Callable[[Query], str]:
        REWRITERS.append(Rewriter(re.compile(marker, re.IGNORECASE), rewrite))
        return rewrite

    return register


def rewrite(server: EmbeddedSnowflake, connection: FakeSnowflakeConnection, sql: str) -> str:
    """``sql`` after every rewriter whose marker is in it. A marker may be in a literal: rewriters look at tokens."""
    for known in REWRITERS:
        if known.marker.search(sql):
            sql = known.rewrite(Query(server, connection, sql))
    return sql


STARTERS: list[Callable[[EmbeddedSnowflake], None]] = []


def at_start(starter: Callable[[EmbeddedSnowflake], None]) -> Callable[[EmbeddedSnowflake], None]:
    """Call this once for a new server, when its databases and its catalogue are open."""
    STARTERS.append(starter)
    return starter


def literal(value: object) -> str:
    """An SQL literal in Snowflake's dialect."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, (int, float)):
        return str(value)
    return exp.Literal.string(str(value)).sql(dialect="snowflake")


def rows(columns: Sequence[str], values: Sequence[Sequence[object]]) -> Rows:
    """Answer with these rows. A column is a number, a boolean or a timestamp where all its values are, else text."""
    by_column = list(zip(*values, strict=True)) if values else [() for _ in columns]
    arrays = [_column(column) for column in by_column]
    return Rows(pa.Table.from_arrays(arrays, names=list(columns)))


def _column(values: Sequence[object]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds == {int}:
        return pa.array(values, pa.int64())
    if kinds and kinds <= {int, float}:
        return pa.array(values, pa.float64())
    if kinds == {datetime}:
        return pa.array(values, pa.timestamp("us", tz="UTC"))
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def status(message: str) -> Rows:
    """Answer with the one-cell ``status`` row of Snowflake's DDL."""
    return rows(["status"], [[message]])


_NESTED = r"\((?:[^()']|'(?:[^'\\]|\\.|'')*'|\((?:[^()']|'(?:[^'\\]|\\.|'')*')*\))*\)"
_PAIR = re.compile(rf"(\w+)\s*=\s*('(?:[^'\\]|\\.|'')*'|{_NESTED}|[^\s,()]+)")


@dataclass
class Options:
    """``KEY = value`` pairs as DDL has them, keys in upper case, quotes and escapes undone."""

    values: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None) -> Options:
        """The pairs of ``[WITH] KEY = value ...``, in brackets or not. Raises for what is no pair."""
        rest = _PAIR.sub(" ", text or "")
        if unread := re.sub(r"\A\s*WITH\b|[\s,()]+", " ", rest, flags=re.IGNORECASE).strip():
            raise invalid(f"SQL compilation error:\nunexpected '{unread}': expected options as KEY = value")
        return cls({key.upper(): names.text(value) for key, value in _PAIR.findall(text or "")})

    def get(self, key: str, default: str = "") -> str:
        return self.values.get(key, default)

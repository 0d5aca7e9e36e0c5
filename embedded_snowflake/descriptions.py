"""What tables and views say of themselves: DESCRIBE, SHOW TABLES / VIEWS / PRIMARY KEYS, comments, when they were made.

Comments are DuckDB's own and last with the database's file. A key is recorded and shown and, as on Snowflake, not
enforced.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlglot import Expr, exp

from embedded_snowflake import names, sessions
from embedded_snowflake.catalog import declare
from embedded_snowflake.errors import does_not_exist, unsupported
from embedded_snowflake.names import NAME, SHOW_TAIL, Name, Shown
from embedded_snowflake.statements import Answer, Sql, Statement, rows, statement, status

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from fakesnow.fakes import FakeSnowflakeConnection

    from embedded_snowflake.server import EmbeddedSnowflake

declare(
    """CREATE TABLE IF NOT EXISTS created_tables (
        database_name VARCHAR, schema_name VARCHAR, name VARCHAR, created_on TIMESTAMPTZ,
        primary_key VARCHAR[], unique_keys VARCHAR[],
        PRIMARY KEY (database_name, schema_name, name))"""
)

_HIDDEN_SCHEMAS = "('main', '_fs_information_schema', 'information_schema', 'pg_catalog')"
_KEYS = (exp.PrimaryKeyColumnConstraint, exp.UniqueColumnConstraint, exp.Reference)
_TABLE_KEYS = (exp.PrimaryKey, exp.UniqueColumnConstraint, exp.ForeignKey)
_TYPES = {
    "VARCHAR": "VARCHAR",
    "DOUBLE": "FLOAT",
    "FLOAT": "FLOAT",
    "JSON": "VARIANT",
    "TIMESTAMP": "TIMESTAMP_NTZ(9)",
    "TIMESTAMP_NS": "TIMESTAMP_NTZ(9)",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMP_TZ(9)",
    "TIME": "TIME(9)",
    "BLOB": "BINARY(8388608)",
    "HUGEINT": "NUMBER(38,0)",
    "BIGINT": "NUMBER(38,0)",
    "INTEGER": "NUMBER(38,0)",
}
MAX_TEXT = 16777216


@dataclass
class Described:
    """What a CREATE says of a table besides what DuckDB reads."""

    comment: str | None = None
    column_comments: dict[str, str] = field(default_factory=dict)
    primary_key: list[str] = field(default_factory=list)
    unique_keys: list[str] = field(default_factory=list)


def take_out(expression: exp.Create) -> Described:
    """Take comments and keys out of a CREATE TABLE or VIEW. DuckDB would enforce the keys."""
    described = Described()
    for found in list(expression.find_all(exp.SchemaCommentProperty)):
        described.comment = found.this.name
        found.pop()
    schema = expression.this
    if not isinstance(schema, exp.Schema):
        return described
    for column in schema.expressions:
        if isinstance(column, exp.ColumnDef):
            _take_out_of_column(column, described)
    for constraint in list(schema.expressions):
        parts = constraint.expressions if isinstance(constraint, exp.Constraint) else [constraint]
        keys = [part for part in parts if isinstance(part, _TABLE_KEYS)]
        for key in keys:
            columns = [_stored(identifier) for identifier in key.find_all(exp.Identifier)]
            if isinstance(key, exp.PrimaryKey):
                described.primary_key += columns
            elif isinstance(key, exp.UniqueColumnConstraint):
                described.unique_keys += columns
        if keys:
            constraint.pop()
    return described


def _take_out_of_column(column: exp.ColumnDef, described: Described) -> None:
    name = _stored(column.this)
    for constraint in list(column.args.get("constraints") or []):
        kind = constraint.args.get("kind")
        if isinstance(kind, exp.CommentColumnConstraint):
            described.column_comments[name] = kind.this.name
        elif isinstance(kind, exp.PrimaryKeyColumnConstraint):
            described.primary_key.append(name)
            # A primary key's columns hold no NULL, on Snowflake too.
            column.append("constraints", exp.ColumnConstraint(kind=exp.NotNullColumnConstraint()))
        elif isinstance(kind, exp.UniqueColumnConstraint):
            described.unique_keys.append(name)
        elif not isinstance(kind, _KEYS):
            continue
        constraint.pop()


def _stored(identifier: Expr) -> str:
    quoted = isinstance(identifier, exp.Identifier) and identifier.quoted
    return identifier.name if quoted else identifier.name.upper()


def remember(
    server: EmbeddedSnowflake,
    connection: DuckDBPyConnection,
    name: Name,
    described: Described,
    temporary: bool,
    is_view: bool,
) -> None:
    """Keep what was taken out of the CREATE that has just succeeded."""
    spelled = names.quoted(name.name) if temporary else _full(name)
    if described.comment is not None:
        _comment(server, connection, spelled, name, described.comment, is_view)
    for column, text in described.column_comments.items():
        connection.execute(f"COMMENT ON COLUMN {spelled}.{names.quoted(column)} IS {names.quoted_text(text)}")
    if not temporary:
        server.catalog.execute(
            "INSERT OR REPLACE INTO created_tables VALUES (?, ?, ?, now(), ?, ?)",
            [name.database, name.schema, name.name, described.primary_key, described.unique_keys],
        )


def forget(server: EmbeddedSnowflake, name: Name) -> None:
    """A table is dropped."""
    server.catalog.execute(
        "DELETE FROM created_tables WHERE database_name = ? AND schema_name = ? AND name = ?",
        [name.database, name.schema, name.name],
    )


def forget_all_in(server: EmbeddedSnowflake, database: str, schema: str | None = None) -> None:
    """A database, or one schema of it, is dropped."""
    server.catalog.execute(
        "DELETE FROM created_tables WHERE database_name = ? AND schema_name = coalesce(?, schema_name)",
        [database, schema],
    )


def rename(server: EmbeddedSnowflake, name: Name, new: Name) -> None:
    """A table has another name."""
    server.catalog.execute(
        "UPDATE created_tables SET schema_name = ?, name = ? WHERE database_name = ? AND schema_name = ? AND name = ?",
        [new.schema, new.name, name.database, name.schema, name.name],
    )


def _comment(
    server: EmbeddedSnowflake, connection: DuckDBPyConnection, spelled: str, name: Name, text: str, is_view: bool
) -> None:
    kind = "VIEW" if is_view else "TABLE"
    connection.execute(f"COMMENT ON {kind} {spelled} IS {names.quoted_text(text)}")
    # INFORMATION_SCHEMA.TABLES reads it here.
    with server.lock, server.fakesnow.duck_conn.cursor() as cursor:
        cursor.execute(
            "INSERT OR REPLACE INTO _fs_global._fs_information_schema._fs_tables_ext VALUES (?, ?, ?, ?)",
            [name.database, name.schema, name.name, text],
        )


_TEXT = r"(?P<text>'(?:[^'\\]|\\.|'')*'|\$\$.*?\$\$)"


@statement(rf"COMMENT(?P<exists> IF EXISTS)? ON (?P<kind>TABLE|VIEW) (?P<name>{NAME}) IS {_TEXT}")
def comment_on_table(request: Statement) -> Answer:
    """COMMENT ON TABLE | VIEW name IS 'text'"""
    name = names.qualified(request.connection, names.spelled(request.group("name") or "", request.binds))
    found = _find(request.connection, name)
    if not found:
        if request.group("exists"):
            return status("Statement executed successfully.")
        raise does_not_exist((request.group("kind") or "").capitalize(), str(name))
    with sessions.of(request.connection).lock:
        _comment(
            request.server, request.connection._duck_conn, found.spelled, name, _said(request), found.kind == "VIEW"
        )
    return status("Statement executed successfully.")


@statement(rf"COMMENT(?: IF EXISTS)? ON COLUMN (?P<name>{NAME}\s*\.\s*(?:\"(?:[^\"]|\"\")+\"|[\w$]+)) IS {_TEXT}")
def comment_on_column(request: Statement) -> Answer:
    """COMMENT ON COLUMN [[db.]schema.]table.column IS 'text'"""
    *table, column = names.parts(request.group("name") or "")
    name = names.qualified(request.connection, ".".join(names.quoted(part) for part in table))
    found = _find(request.connection, name)
    if not found:
        raise does_not_exist("Table", str(name))
    with sessions.of(request.connection).lock:
        request.connection._duck_conn.execute(
            f"COMMENT ON COLUMN {found.spelled}.{names.quoted(column)} IS {names.quoted_text(_said(request))}"
        )
    return status("Statement executed successfully.")


@statement(r"COMMENT(?: IF EXISTS)? ON (?!MODEL\b)(?P<kind>\w+).*")
def comment_on_other(request: Statement) -> Answer:
    """COMMENT ON anything else is refused"""
    raise unsupported(f"COMMENT ON {(request.group('kind') or '').upper()}")


def _said(request: Statement) -> str:
    text = request.group("text") or ""
    return text[2:-2] if text.startswith("$$") else names.text(text)


@dataclass(frozen=True)
class Found:
    """Where DuckDB has a table or view."""

    database: str
    schema: str
    name: str
    kind: str

    @property
    def spelled(self) -> str:
        return f"{names.quoted(self.database)}.{names.quoted(self.schema)}.{names.quoted(self.name)}"


def _find(connection: FakeSnowflakeConnection, name: Name) -> Found | None:
    temporary = name in sessions.of(connection).temporary_tables
    place = ("temp", "main") if temporary else (name.database, name.schema)
    with sessions.of(connection).lock:
        found = connection._duck_conn.execute(
            """SELECT database_name, schema_name, table_name, 'TABLE' FROM duckdb_tables()
               WHERE database_name = $1 AND schema_name = $2 AND upper(table_name) = upper($3)
               UNION ALL SELECT database_name, schema_name, view_name, 'VIEW' FROM duckdb_views()
               WHERE database_name = $1 AND schema_name = $2 AND upper(view_name) = upper($3)""",
            [*place, name.name],
        ).fetchone()
    return Found(*found) if found else None


@statement(rf"DESC(?:RIBE)? (?P<kind>TABLE|VIEW) (?P<name>{NAME})(?: TYPE\s*=\s*COLUMNS)?")
def describe_table(request: Statement) -> Answer:
    """DESCRIBE TABLE | VIEW name"""
    name = names.qualified(request.connection, names.spelled(request.group("name") or "", request.binds))
    if name.schema == "INFORMATION_SCHEMA":
        return Sql(request.sql, keep_binds=True)
    found = _find(request.connection, name)
    if not found:
        raise does_not_exist((request.group("kind") or "").capitalize(), str(name))
    with sessions.of(request.connection).lock:
        described = request.connection._duck_conn.execute(
            """SELECT column_name, data_type, is_nullable, column_default, comment, ext_character_maximum_length
               FROM duckdb_columns() LEFT JOIN _fs_global._fs_information_schema._fs_columns_ext
               ON ext_table_catalog = $4 AND ext_table_schema = $5 AND ext_table_name = table_name
               AND ext_column_name = column_name
               WHERE database_name = $1 AND schema_name = $2 AND table_name = $3 ORDER BY column_index""",
            [found.database, found.schema, found.name, name.database, name.schema],
        ).fetchall()
    primary, unique = _keys(request.server, name)
    columns = (
        *("name", "type", "kind", "null?", "default", "primary key", "unique key", "check", "expression", "comment"),
        *("policy name", "privacy domain"),
    )
    answer = [
        (
            *(column, snowflake_type(kind, length), "COLUMN", "Y" if nullable else "N", default),
            *("Y" if column in primary else "N", "Y" if column in unique else "N", None, None, comment, None, None),
        )
        for column, kind, nullable, default, comment, length in described
    ]
    return rows(columns, answer)


def snowflake_type(duckdb_type: str, length: int | None = None) -> str:
    """The type as Snowflake spells it."""
    if duckdb_type == "VARCHAR":
        return f"VARCHAR({length or MAX_TEXT})"
    decimal = re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", duckdb_type)
    return f"NUMBER({decimal[1]},{decimal[2]})" if decimal else _TYPES.get(duckdb_type, duckdb_type)


def _keys(server: EmbeddedSnowflake, name: Name) -> tuple[list[str], list[str]]:
    known = server.catalog.query(
        "SELECT * FROM created_tables WHERE database_name = ? AND schema_name = ? AND name = ?",
        [name.database, name.schema, name.name],
    )
    return (known[0]["primary_key"] or [], known[0]["unique_keys"] or []) if known else ([], [])


@statement(rf"SHOW(?P<terse> TERSE)? (?P<what>TABLES|VIEWS){SHOW_TAIL}")
def show_tables(request: Statement) -> Answer:
    """SHOW [TERSE] TABLES | VIEWS [LIKE pattern] [IN scope]"""
    shown = Shown.of(request.match, request.connection, request.binds)
    is_view = (request.group("what") or "").upper() == "VIEWS"
    created = _creations(request.server)
    answer: list[tuple[Any, ...]] = []
    for database, schema, name, comment, text in _all(request.connection, is_view):
        if not shown.has(name, database, schema):
            continue
        at = created.get((database, schema, name))
        if request.group("terse"):
            answer.append((at, name, "VIEW" if is_view else "TABLE", database, schema))
        elif is_view:
            answer.append((at, name, "", database, schema, sessions.OWNER, comment or "", text, "false", "false"))
        else:
            count = _count(request.connection, database, schema, name)
            answer.append((at, name, database, schema, "TABLE", comment or "", "", count, None, sessions.OWNER, "1"))
    columns = ["created_on", "name", "kind", "database_name", "schema_name"]
    if not request.group("terse"):
        columns = ["created_on", "name", "database_name", "schema_name", "kind", "comment", "cluster_by", "rows"]
        columns += ["bytes", "owner", "retention_time"]
    if is_view and not request.group("terse"):
        columns = ["created_on", "name", "reserved", "database_name", "schema_name", "owner", "comment", "text"]
        columns += ["is_secure", "is_materialized"]
    return rows(columns, answer[: shown.limit])


def _all(connection: FakeSnowflakeConnection, is_view: bool) -> list[tuple[str, str, str, str | None, str]]:
    source, column = ("duckdb_views()", "view_name") if is_view else ("duckdb_tables()", "table_name")
    with sessions.of(connection).lock:
        return connection._duck_conn.execute(
            f"""SELECT database_name, schema_name, {column}, comment, sql FROM {source}
                WHERE NOT internal AND NOT temporary AND database_name NOT IN ('memory', 'system', '_fs_global')
                AND (schema_name NOT IN {_HIDDEN_SCHEMAS}) ORDER BY 1, 2, 3"""
        ).fetchall()


def _count(connection: FakeSnowflakeConnection, database: str, schema: str, name: str) -> int:
    with sessions.of(connection).lock:
        (count,) = connection._duck_conn.execute(
            f"SELECT count(*) FROM {_full(Name(database, schema, name))}"
        ).fetchall()[0]
    return count


def _creations(server: EmbeddedSnowflake) -> dict[tuple[str, str, str], datetime]:
    known = server.catalog.query("SELECT database_name, schema_name, name, created_on FROM created_tables")
    return {(row["database_name"], row["schema_name"], row["name"]): row["created_on"] for row in known}


@statement(rf"SHOW (?P<kind>PRIMARY|UNIQUE|IMPORTED|EXPORTED) KEYS(?: IN(?: TABLE)? (?P<name>{NAME}))?(?: IN .*)?")
def show_keys(request: Statement) -> Answer:
    """SHOW PRIMARY | UNIQUE KEYS [IN TABLE name]: as declared; foreign keys are not kept"""
    kind, wanted = (request.group("kind") or "").upper(), request.group("name")
    if kind not in ("PRIMARY", "UNIQUE"):
        raise unsupported(f"SHOW {kind} KEYS")
    name = names.qualified(request.connection, names.spelled(wanted, request.binds)) if wanted else None
    answer = []
    for row in request.server.catalog.query("SELECT * FROM created_tables ORDER BY ALL"):
        table = Name(row["database_name"], row["schema_name"], row["name"])
        if name in (None, table):
            for number, column in enumerate(row["primary_key" if kind == "PRIMARY" else "unique_keys"] or [], start=1):
                answer.append((row["created_on"], table.database, table.schema, table.name, column, number))
    return rows(["created_on", "database_name", "schema_name", "table_name", "column_name", "key_sequence"], answer)


def _full(name: Name) -> str:
    return ".".join(names.quoted(part) for part in (name.database, name.schema, name.name))

"""Names as SQL spells them: quoted and unquoted identifiers, ``IDENTIFIER(?)``, the scope of a SHOW; comments.

What an object of some kind is belongs in the module of its concern.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedded_snowflake.errors import ProgrammingError, invalid

if TYPE_CHECKING:
    from fakesnow.fakes import FakeSnowflakeConnection

_PART = r'(?:"(?:[^"]|"")+"|[A-Za-z_][\w$]*)'
# A name of up to three parts, as itself or by IDENTIFIER(?) or IDENTIFIER('...'). For use in the pattern of a handler.
NAME = rf"(?:IDENTIFIER\s*\(\s*(?:\?|'(?:[^']|'')*')\s*\)|{_PART}(?:\s*\.\s*{_PART}){{0,2}})"
# What may follow SHOW <objects>. For use in the pattern of a handler, to be read by ``Shown.of``.
SHOW_TAIL = (
    r"(?: LIKE (?P<like>'(?:[^']|'')*'|\?))?"
    rf"(?: IN (?P<scope>ACCOUNT|DATABASE(?: {NAME})?|SCHEMA(?: {NAME})?|{NAME}))?"
    r"(?: STARTS WITH (?P<starts_with>'(?:[^']|'')*'))?(?: LIMIT (?P<limit>\d+)(?: FROM '(?:[^']|'')*')?)?"
)
# Tokens in which a comment's mark means nothing come first, so that they are kept whole.
_COMMENT = re.compile(r"""('(?:[^'\\]|\\.|'')*'|"(?:[^"]|"")*"|\$\$.*?\$\$)|/\*.*?\*/|--[^\n]*|//[^\n]*""", re.DOTALL)

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0"}


@dataclass(frozen=True)
class Name:
    """A schema object's full name, as it is stored: unquoted identifiers are in upper case."""

    database: str
    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.database}.{self.schema}.{self.name}"


def without_comments(sql: str) -> str:
    """``sql`` with every comment replaced by a blank; ``//`` inside file://, snow:// and @stage//path is no comment."""

    def keep(match: re.Match[str]) -> str:
        if match.group(1):
            return match.group(1)
        before = sql[match.start() - 1 : match.start()]
        return match.group(0) if match.group(0).startswith("//") and before and not before.isspace() else " "

    return _COMMENT.sub(keep, sql)


def text(token: str) -> str:
    """The text of a quoted literal, escapes undone; anything else as it is."""
    token = token.strip()
    if len(token) < 2 or token[0] != "'" or token[-1] != "'":
        return token
    return re.sub(
        r"''|\\(.)",
        lambda match: _ESCAPES.get(match.group(1), match.group(1)) if match.group(1) else "'",
        token[1:-1],
        flags=re.DOTALL,
    )


def quoted(name: str) -> str:
    """The identifier of this name, as SQL spells it."""
    return '"' + name.replace('"', '""') + '"'


def quoted_text(text: str) -> str:
    """DuckDB's literal of this text."""
    return "'" + text.replace("'", "''") + "'"


def parts(spelled: str) -> list[str]:
    """The parts of a dotted name, quotes taken off, unquoted ones in upper case."""
    found = re.findall(_PART, spelled)
    if not found or re.sub(rf"{_PART}|[\s.]", "", spelled):
        raise invalid(f"SQL compilation error:\ninvalid identifier '{spelled}'")
    return [part[1:-1].replace('""', '"') if part.startswith('"') else part.upper() for part in found]


def spelled(token: str, binds: Sequence[Any] | dict[str, Any] | None) -> str:
    """The name behind ``token``, which may be ``IDENTIFIER(?)`` (the first bind) or ``IDENTIFIER('...')``."""
    match = re.fullmatch(r"IDENTIFIER\s*\(\s*(.+?)\s*\)", token.strip(), re.IGNORECASE | re.DOTALL)
    if not match:
        return token
    return first_bind(binds) if match.group(1) == "?" else text(match.group(1))


def first_bind(binds: Sequence[Any] | dict[str, Any] | None) -> str:
    """The value of the only ``?`` of a statement."""
    if isinstance(binds, dict) or not binds:
        raise invalid("SQL compilation error:\nBind variable ? not set.", 2049, "42601")
    return str(binds[0])


def qualified(connection: FakeSnowflakeConnection, spelled_name: str) -> Name:
    """The full name, the session's database and schema filled in. Raises Snowflake's 90105 or 90106 without one."""
    found = parts(spelled_name)
    if len(found) > 3:
        raise invalid(f"SQL compilation error:\ntoo many parts in the name '{spelled_name}'")
    database = found[-3] if len(found) == 3 else connection.database
    schema = found[-2] if len(found) >= 2 else connection.schema
    if not database:
        raise ProgrammingError(
            msg="This session does not have a current database. Call 'USE DATABASE', or use a qualified name.",
            errno=90105,
            sqlstate="22000",
        )
    if not schema:
        raise ProgrammingError(
            msg="This session does not have a current schema. Call 'USE SCHEMA', or use a qualified name.",
            errno=90106,
            sqlstate="22000",
        )
    return Name(database, schema, found[-1])


@dataclass(frozen=True)
class Shown:
    """Which objects a SHOW asks for; None stands for all."""

    database: str | None
    schema: str | None
    like: re.Pattern[str] | None
    starts_with: str
    limit: int | None

    @classmethod
    def of(
        cls, match: re.Match[str], connection: FakeSnowflakeConnection, binds: Sequence[Any] | dict[str, Any] | None
    ) -> Shown:
        """Read what ``SHOW_TAIL`` matched. Without IN it is the session's schema, or its database, or the account."""
        like, scope = match.group("like"), (match.group("scope") or "").strip()
        pattern = like_pattern(first_bind(binds) if like == "?" else text(like)) if like else None
        database, schema = _scope(scope, connection, binds)
        limit = int(match.group("limit")) if match.group("limit") else None
        return cls(database, schema, pattern, text(match.group("starts_with") or ""), limit)

    def has(self, name: str, database: str | None = None, schema: str | None = None) -> bool:
        """Whether an object of this name is asked for."""
        if self.database and database is not None and database != self.database:
            return False
        if self.schema and schema is not None and schema != self.schema:
            return False
        return name.startswith(self.starts_with) and (not self.like or bool(self.like.fullmatch(name)))


def _scope(
    scope: str, connection: FakeSnowflakeConnection, binds: Sequence[Any] | dict[str, Any] | None
) -> tuple[str | None, str | None]:
    kind, _, rest = scope.partition(" ")
    if not scope:
        return connection.database, connection.schema
    if kind.upper() == "ACCOUNT":
        return None, None
    if kind.upper() == "DATABASE":
        return (parts(spelled(rest, binds))[-1] if rest.strip() else connection.database), None
    if kind.upper() == "SCHEMA" and not rest.strip():
        return connection.database, connection.schema
    found = parts(spelled(rest if kind.upper() == "SCHEMA" else scope, binds))
    return (found[-2] if len(found) > 1 else connection.database), found[-1]


def like_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression of a LIKE pattern, which ignores case as SHOW does."""
    translated = re.sub(
        r"\\(.)|([%_])|(.)",
        lambda match: (
            {"%": ".*", "_": "."}[match.group(2)] if match.group(2) else re.escape(match.group(1) or match.group(3))
        ),
        pattern,
        flags=re.DOTALL,
    )
    return re.compile(translated, re.IGNORECASE | re.DOTALL)

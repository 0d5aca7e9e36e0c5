"""Errors in Snowflake's shape: a number, an SQL state and a message, as the connector shows them to its caller."""

from __future__ import annotations

import re

import duckdb
import snowflake.connector.errors as connector_errors

ProgrammingError = connector_errors.ProgrammingError


def unsupported(what: str, hint: str = "") -> ProgrammingError:
    """The answer to a statement that this server does not serve; 2 is Snowflake's number of an unsupported feature."""
    message = f"unsupported on the embedded server: {what}"
    return ProgrammingError(msg=f"{message} ({hint})" if hint else message, errno=2, sqlstate="0A000")


def does_not_exist(kind: str, name: str) -> ProgrammingError:
    """Snowflake's 2003: the object is missing, or this role may not see it."""
    return ProgrammingError(
        msg=f"SQL compilation error:\n{kind} '{name}' does not exist or not authorized.", errno=2003, sqlstate="02000"
    )


def already_exists(kind: str, name: str) -> ProgrammingError:
    """Snowflake's 2002."""
    return ProgrammingError(
        msg=f"SQL compilation error:\n{kind} '{name}' already exists.", errno=2002, sqlstate="42710"
    )


def insufficient_privileges(why: str) -> ProgrammingError:
    """Snowflake's 3001."""
    return ProgrammingError(
        msg=f"SQL access control error:\nInsufficient privileges: {why}.", errno=3001, sqlstate="42501"
    )


def invalid(message: str, errno: int = 1003, sqlstate: str = "42000") -> ProgrammingError:
    """A statement that is understood and refused; the message says what was expected and what was found."""
    return ProgrammingError(msg=message, errno=errno, sqlstate=sqlstate)


# DuckDB's messages -> Snowflake's number, state and words; the first that matches wins.
_ENGINE_ERRORS: tuple[tuple[str, int, str, str], ...] = (
    (
        r"(?:Scalar|Table|Aggregate)? ?Function with name \"?([\w$.]+)\"? does not exist",
        2140,
        "42601",
        "SQL compilation error:\nUnknown function {0}: unsupported on the embedded server: function {0}",
    ),
    (
        r"(?:Table|View|Schema|Catalog|Sequence) with name \"?(.+?)\"? does not exist",
        2003,
        "42S02",
        "SQL compilation error:\nObject '{0}' does not exist or not authorized.",
    ),
    (
        r"(?:Table|View|Schema|Database|Sequence) with name \"?(.+?)\"? already exists",
        2002,
        "42710",
        "SQL compilation error:\nObject '{0}' already exists.",
    ),
    (
        r"Referenced (?:column|table) \"(.+?)\" not found",
        904,
        "42000",
        "SQL compilation error:\ninvalid identifier '{0}'",
    ),
    (
        r"cannot affect the same target row more than once",
        100090,
        "42P18",
        "Duplicate row detected during DML action: a target row matched more than one source row",
    ),
    (r"NOT NULL constraint failed: (\S+)", 100072, "22000", "NULL result in a non-nullable column: {0}"),
    (
        r"Could not convert string '(.*?)' to (?:INT|UINT|HUGEINT|DOUBLE|FLOAT|DECIMAL)",
        100038,
        "22018",
        "Numeric value '{0}' is not recognized",
    ),
    (
        r"No catalog \+ schema named \"(.+?)\" found",
        2043,
        "02000",
        "SQL compilation error:\nObject does not exist, or operation cannot be performed: {0}",
    ),
    (
        r"Cannot access (?:file|directory)",
        3001,
        "42501",
        "SQL access control error:\nInsufficient privileges: SQL reaches the files of stages and no others",
    ),
    (r"Interrupted", 604, "57014", "SQL execution canceled"),
)


def from_engine(error: BaseException | None, known: ProgrammingError | None = None) -> ProgrammingError:
    """An error of DuckDB in Snowflake's words; ``known`` is what fakesnow made of it, if it did."""
    message = str(error if isinstance(error, duckdb.Error) else known.raw_msg or known.msg if known else error)
    _, in_python, reason = message.partition("Python exception occurred while executing the UDF: ")
    if in_python:
        return ProgrammingError(msg=f"Python Interpreter Error:\n{reason}", errno=100357, sqlstate="P0000")
    if isinstance(error, duckdb.Error) or known is None:
        for pattern, errno, sqlstate, words in _ENGINE_ERRORS:
            if match := re.search(pattern, message):
                names = [name if errno == 100038 else name.upper() for name in match.groups()]
                return ProgrammingError(msg=words.format(*names), errno=errno, sqlstate=sqlstate)
        if isinstance(error, duckdb.TransactionException) and "Current transaction is aborted" not in message:
            # What waiting for another transaction's lock ends in on Snowflake.
            return ProgrammingError(msg=f"Aborted by another transaction: {message}", errno=625, sqlstate="57014")
    if known is not None:
        return known
    return ProgrammingError(msg=message, errno=603, sqlstate="XX000")

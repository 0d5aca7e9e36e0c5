"""Errors in Snowflake's shape: a number, an SQL state and a message, as the connector shows them to its caller."""

from __future__ import annotations

import snowflake.connector.errors as connector_errors

ProgrammingError = connector_errors.ProgrammingError


def unsupported(what: str, hint: str = "") -> ProgrammingError:
    """The answer to a statement that this server does not serve; Snowflake's own number for it is 2 (unsupported feature)."""
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


def invalid(message: str, errno: int = 1003, sqlstate: str = "42000") -> ProgrammingError:
    """A statement that is understood and refused; the message says what was expected and what was found."""
    return ProgrammingError(msg=message, errno=errno, sqlstate=sqlstate)

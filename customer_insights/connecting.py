"""Errors of opening a connection to Snowflake, said so that a person knows what to do.

Who connects, and how, is in ``resources.snowflake`` (Dagster) and ``dashboard.connection``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from customer_insights.errors import PermanentError, RetryableError
from customer_insights.transient import causes, error_number, is_transient

_LOGIN_REFUSED = range(390100, 390200)
_KEY_REFUSED = (
    "Its user, its account or its private key is not the one that Snowflake knows, or this machine's clock is wrong: "
    "compare the key's fingerprint with RSA_PUBLIC_KEY_FP of DESCRIBE USER; an administrator is told the reason by "
    "SYSTEM$GET_LOGIN_FAILURE_DETAILS('<the id in brackets>')"
)
# What to do, by Snowflake's number of the refusal. The numbers of keys are those in the connector's network.py.
_REMEDIES = {
    390100: "Check its user and password in connections.toml",
    390101: "An administrator lets the user in again: ALTER USER ... SET DISABLED = FALSE",
    390144: _KEY_REFUSED,
    **dict.fromkeys(range(394300, 394307), _KEY_REFUSED),
    390186: "Name a role in connections.toml that the user has and that its token is not barred from",
    390303: "The OAuth token was not made for this account, or its issuer, audience or signing key is not that of the "
    "security integration: get a new one and put it in the connection's token_file_path",
    390309: "The OAuth token is another user's: give the connection that user, or the token of its own",
    390317: "The OAuth token lists no such role: name one in connections.toml that its scope has (session:role:<role>)",
    390318: "Rotate it: get a new OAuth token and put it in the connection's token_file_path",
    394400: "The token is expired, disabled, removed or another user's, or the user has no network policy. Rotate it: "
    "ALTER USER ... ROTATE PROGRAMMATIC ACCESS TOKEN ..., and put the new secret, without a line end, in the "
    "connection's token_file_path",
}


class SnowflakeUnreachableError(RetryableError):
    """Snowflake did not answer, or the session was lost and could not be opened again in time."""


class SnowflakeConnectionError(PermanentError):
    """The connection does not exist, or Snowflake refused its user, password or key."""


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn the connector's errors while connecting by the connection ``name`` into ours, which say what to do."""
    from snowflake.connector.errors import Error

    try:
        yield
    except Error as error:
        said = str(error.raw_msg or error.msg).rstrip(".")
        numbers = [number for cause in causes(error) if (number := error_number(cause))]
        if any(number in _REMEDIES or number in _LOGIN_REFUSED for number in numbers):
            remedy = next((_REMEDIES[number] for number in numbers if number in _REMEDIES), _REMEDIES[390100])
            raise SnowflakeConnectionError(
                f"Snowflake refused the login of connection {name!r}: {said}. {remedy}"
            ) from error
        if is_transient(error):
            hint = ": start it with `make embedded`" if name == "embedded" else ": check account, host and network"
            raise SnowflakeUnreachableError(f"cannot reach Snowflake connection {name!r} ({said}){hint}") from error
        raise SnowflakeConnectionError(
            f"cannot open Snowflake connection {name!r}: {said}. "
            "Connections are in connections.toml of SNOWFLAKE_HOME; `make embedded` writes the one named 'embedded'"
        ) from error
    except (OSError, TypeError, ValueError) as error:
        # What reading a key or token file raises; the connector wraps none of it.
        if is_transient(error):
            raise SnowflakeUnreachableError(f"cannot reach Snowflake connection {name!r}: {error}") from error
        raise SnowflakeConnectionError(
            f"cannot read the key or token of connection {name!r}: {error}. Check private_key_file, "
            "private_key_file_pwd (a key without a passphrase wants none) or token_file_path in connections.toml"
        ) from error

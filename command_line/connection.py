"""A session for a command that only looks: it gives up soon, and needs no Dagster. Work goes through
``resources.snowflake``.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from customer_insights.connecting import SnowflakeConnectionError, SnowflakeUnreachableError, explained
from customer_insights.settings import settings

if TYPE_CHECKING:
    from snowflake.snowpark import Session

CONNECT_SECONDS = 5.0


def name() -> str:
    """The chosen connection's name, by Snowflake's rule where the settings have none."""
    if chosen := settings().connection:
        return chosen
    from snowflake.connector.config_manager import CONFIG_MANAGER

    return str(CONFIG_MANAGER["default_connection_name"])


def parameters() -> dict[str, Any]:
    """The connection's parameters as connections.toml has them; secrets are among them.

    Raises:
        SnowflakeConnectionError: there is no such connection.
    """
    from snowflake.connector.config_manager import CONFIG_MANAGER
    from snowflake.connector.errors import Error

    try:
        known: Any = CONFIG_MANAGER["connections"]
    except Error as error:
        raise SnowflakeConnectionError(f"cannot read connections.toml of {home()}: {error}") from error
    if name() not in known:
        raise SnowflakeConnectionError(
            f"no connection {name()!r} in connections.toml of {home()}: add it (docs/connections.md), or start the "
            "embedded one with `make embedded`"
        )
    return dict(known[name()])


def home() -> str:
    """Where connections.toml is."""
    return os.environ.get("SNOWFLAKE_HOME", "~/.snowflake")


def reach() -> str:
    """Open and close a connection to the host, and return its address. The login's own attempts would go on for a
    minute.

    Raises:
        SnowflakeConnectionError: there is no such connection.
        SnowflakeUnreachableError: nobody answers there.
    """
    given = parameters()
    host = str(given.get("host") or f"{given.get('account')}.snowflakecomputing.com")
    port = int(given.get("port") or (80 if given.get("protocol") == "http" else 443))
    if given.get("proxy_host") or os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return f"{host}:{port} by a proxy"
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise SnowflakeUnreachableError(
            f"nobody answers at {host}:{port} ({error}): is the server started, are host and network right?"
        ) from error
    return f"{host}:{port}"


def open_session(seconds: float) -> Session:
    """A Snowpark session in the project's schema that gives up what takes longer.

    Raises:
        SnowflakeUnreachableError: nobody answers.
        SnowflakeConnectionError: no such connection, or the login was refused.
    """
    from snowflake.snowpark import Session

    limits = {"login_timeout": round(seconds), "network_timeout": round(seconds)}
    place = {"database": settings().database, "schema": settings().schema_name, "warehouse": settings().warehouse}
    with explained(name()):
        return Session.builder.configs({"connection_name": name(), **place, **limits}).create()

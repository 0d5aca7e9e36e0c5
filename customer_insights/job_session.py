"""The Snowpark session inside a job: the driver has the one that Snowflake's launcher opened, a Ray worker its own.

How Dagster or a person reaches Snowflake is not here: that is the connection of ``connections.toml``.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from customer_insights.errors import PermanentError

if TYPE_CHECKING:
    from snowflake.snowpark import Session

# Where Snowpark Container Services keep the container's token; it is replaced every few minutes, so it is read at each
# login.
DEFAULT_TOKEN_FILE = "/snowflake/session/token"  # noqa: S105 - its name


@cache
def job_session() -> Session:
    """This process's session, opened once.

    Raises:
        PermanentError: there is no active session, and the environment does not say how to open one.
    """
    from snowflake.snowpark import Session
    from snowflake.snowpark.context import get_active_session
    from snowflake.snowpark.exceptions import SnowparkSessionException

    try:
        return get_active_session()
    except SnowparkSessionException:
        return Session.builder.configs(_options_from_environment()).create()


def _options_from_environment() -> dict[str, str | int]:
    """The login that Snowflake's ``mljob_launcher`` uses: the container's token, else user and password."""
    account = os.environ.get("SNOWFLAKE_ACCOUNT")
    if not account:
        raise PermanentError(
            "no Snowflake session in this process and no SNOWFLAKE_ACCOUNT in its environment: it is outside of a job"
        )
    names = ("HOST", "PORT", "PROTOCOL", "DATABASE", "SCHEMA", "WAREHOUSE", "ROLE")
    found = {name.lower(): os.environ.get(f"SNOWFLAKE_{name}") for name in names}
    options: dict[str, str | int] = {"account": account, "client_session_keep_alive": True}
    options |= {name: value for name, value in found.items() if value}
    token_file = Path(os.environ.get("SNOWFLAKE_TOKEN_FILE") or DEFAULT_TOKEN_FILE)
    if token_file.is_file():
        return {**options, "authenticator": "oauth", "token": token_file.read_text().strip()}
    credentials = {name.lower(): os.environ.get(f"SNOWFLAKE_{name}") for name in ("USER", "PASSWORD")}
    missing = [f"SNOWFLAKE_{name.upper()}" for name, value in credentials.items() if not value]
    if missing:
        raise PermanentError(f"no login for a worker: {token_file} is no file and {', '.join(missing)} not set")
    return {**options, **{name: value for name, value in credentials.items() if value}}

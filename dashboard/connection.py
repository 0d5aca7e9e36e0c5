"""How the dashboard reaches Snowflake: the viewer's session in Snowflake, a connection by name on a laptop; and reading
through it, with answers kept for a while. What is asked is in ``queries``.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st

from customer_insights.connecting import SnowflakeUnreachableError, explained
from customer_insights.errors import CustomerInsightsError, PermanentError, RetryableError
from customer_insights.transient import causes, error_number, is_transient

if TYPE_CHECKING:
    import pandas as pd
    from snowflake.snowpark import Session

logger = logging.getLogger(__name__)

# Answers are shown again for as long without asking; people press "Read again" for newer ones.
KEPT_SECONDS = 600
KEPT_ANSWERS = 500
# A page that took longer is not waited for.
STATEMENT_SECONDS = 60
# Warehouse seconds are attributed by it.
QUERY_TAG = "customer_insights/dashboard"
LOGIN_SECONDS = 10
NO_SUCH_OBJECT = 2003
CANCELLED = frozenset({604, 630})


_opened: list[Session] = []


class MissingTableError(PermanentError):
    """A table or view that is asked for does not exist, or the role may not see it."""


class SlowQueryError(RetryableError):
    """Snowflake did not answer within ``STATEMENT_SECONDS``."""


class QueryError(PermanentError):
    """Snowflake refused a query."""


def read(sql: str, binds: Sequence[object] = ()) -> pd.DataFrame:
    """The rows of a query, as they were at most ``KEPT_SECONDS`` ago; ``binds`` are the values of its ``?``.

    Raises:
        CustomerInsightsError: in one sentence, what failed and what to do.
    """
    return _kept(place(), sql, tuple(binds))


def read_again() -> None:
    """Forget every kept answer."""
    _kept.clear()


def in_snowflake() -> bool:
    """Whether this runs in Snowflake's own Python, the only one with this module."""
    return importlib.util.find_spec("_snowflake") is not None


def place() -> str:
    """Where the tables are, as people call it: the connection and the schema; the schema alone in Snowflake."""
    if in_snowflake():
        return "this schema"
    from customer_insights.settings import settings

    return f"{_connection_name()}: {settings().qualified_schema}"


@st.cache_data(ttl=KEPT_SECONDS, max_entries=KEPT_ANSWERS, show_spinner=False)
def _kept(place: str, sql: str, binds: tuple[object, ...]) -> pd.DataFrame:
    # ``place`` is part of the key only: two schemas give two answers to one question.
    try:
        return _ask(sql, binds)
    except CustomerInsightsError:
        raise
    except Exception as error:
        if not is_transient(error):
            raise _said(error) from error
    # The session may have ended, or the server was started anew: once more with a new one.
    _laptop_session.clear()
    try:
        return _ask(sql, binds)
    except CustomerInsightsError:
        raise
    except Exception as error:
        raise _said(error) from error


def _ask(sql: str, binds: tuple[object, ...]) -> pd.DataFrame:
    return _session().sql(sql, params=list(binds) or None).to_pandas()


def _said(error: Exception) -> CustomerInsightsError:
    """An error of Snowflake as one of ours."""
    numbers = {number for cause in causes(error) if (number := error_number(cause))}
    first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if NO_SUCH_OBJECT in numbers:
        return MissingTableError(f"a table is missing, or the role may not read it: {_last_line(error)}")
    if numbers & CANCELLED:
        return SlowQueryError(
            f"Snowflake took longer than {STATEMENT_SECONDS} s: choose fewer days, or a larger warehouse, and try again"
        )
    if is_transient(error):
        return SnowflakeUnreachableError(
            f"Snowflake ({place()}) does not answer: check that it runs (`make embedded` on a laptop) and the "
            "network, then press Read again"
        )
    return QueryError(f"Snowflake refused the query: {first_line}. Tell whoever runs the pipeline")


def _last_line(error: Exception) -> str:
    return next(reversed(str(error).strip().splitlines()), "")


def _session() -> Session:
    if in_snowflake():
        from snowflake.snowpark.context import get_active_session

        return get_active_session()
    return _laptop_session(place())


def _connection_name() -> str:
    from snowflake.connector.config_manager import CONFIG_MANAGER

    from customer_insights.settings import settings

    return settings().connection or str(CONFIG_MANAGER["default_connection_name"])


@st.cache_resource(show_spinner=False)
def _laptop_session(place: str) -> Session:
    """One session for all visitors of this server, as long as it lives."""
    from snowflake.snowpark import Session

    with explained(_connection_name()):
        session = Session.builder.configs(options()).create()
    _opened.append(session)
    return session


def options() -> dict[str, Any]:
    """How a laptop connects."""
    from customer_insights.settings import settings

    return {
        "connection_name": _connection_name(),
        "database": settings().database,
        "schema": settings().schema_name,
        "client_session_keep_alive": True,
        # Without it the connector asks a server that is gone again and again, without end.
        "network_timeout": STATEMENT_SECONDS,
        "login_timeout": LOGIN_SECONDS,
        "session_parameters": {"QUERY_TAG": QUERY_TAG, "STATEMENT_TIMEOUT_IN_SECONDS": STATEMENT_SECONDS},
    }


def close() -> None:
    """End every session that was opened; the next question opens a new one."""
    _laptop_session.clear()
    while _opened:
        try:
            _opened.pop().close()
        except Exception as error:
            # Closing asks the server, which may have forgotten the session.
            logger.info("a Snowflake session could not be closed: %s", error)

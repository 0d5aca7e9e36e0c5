"""Connections to Snowflake by name: what assets and the job client use to run SQL and to open Snowpark sessions.

Account, user, role and what the user shows (a password, a key file, an access or OAuth token) are in Snowflake's own
``connections.toml``; nothing of them is repeated here. How each is set up is in ``docs/connections.md``. What is run
through a connection belongs to assets and to ``customer_insights``.

dagster-snowflake's ``SnowflakeResource`` was considered: importing it costs 3.5 s (measured, 2 cores) at every start
of the code location, it wants user and password a second time beside the connection's, and its ``get_connection``
leaves the session open when the body raises. Who wants it, for its I/O managers say, gets it from here
(``SnowflakeConnection.snowflake_resource``).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import dagster as dg
from pydantic import Field

from customer_insights.connecting import SnowflakeConnectionError, SnowflakeUnreachableError, explained
from customer_insights.transient import is_transient
from resources import steps

if TYPE_CHECKING:
    from dagster_snowflake import SnowflakeResource
    from snowflake.connector import SnowflakeConnection as ConnectorConnection
    from snowflake.snowpark import Session

T = TypeVar("T")
logger = logging.getLogger(__name__)

POLLING_TIMEOUT_SECONDS = 60


class SnowflakeConnection(dg.ConfigurableResource):
    """A named connection of Snowflake's ``connections.toml``."""

    connection_name: str | None = Field(
        default=None,
        description="name in connections.toml; by default Snowflake's own rule: SNOWFLAKE_DEFAULT_CONNECTION_NAME, "
        "then default_connection_name of config.toml, then 'default'",
    )
    database: str | None = Field(default=None, description="instead of the connection's")
    schema_name: str | None = Field(default=None, description="instead of the connection's")
    warehouse: str | None = Field(default=None, description="instead of the connection's")

    @property
    def name(self) -> str:
        """The connection's name, by Snowflake's rule where none was given."""
        if self.connection_name:
            return self.connection_name
        from snowflake.connector.config_manager import CONFIG_MANAGER

        return str(CONFIG_MANAGER["default_connection_name"])

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A new Snowpark session, closed when the body ends, also by an error.

        Raises:
            SnowflakeUnreachableError: nothing answers at the connection's address.
            SnowflakeConnectionError: no such connection, or Snowflake refused the login.
        """
        session = self.open_session()
        try:
            yield session
        finally:
            _close(session)

    def open_session(self) -> Session:
        """As ``session``, for a caller that closes it itself.

        It is kept alive: a step waits for its job for longer than Snowflake keeps an idle session.
        """
        return self._open({**self._options(), "client_session_keep_alive": True})

    def open_polling_session(self) -> Session:
        """A session for short statements only, which gives up a request after ``POLLING_TIMEOUT_SECONDS``.

        By default the connector repeats an unanswered request without end. Its ``network_timeout`` is no default for
        other work: it also cancels every statement that runs for longer.
        """
        return self._open({**self._options(), "network_timeout": POLLING_TIMEOUT_SECONDS})

    def _open(self, options: dict[str, Any]) -> Session:
        from snowflake.snowpark import Session

        with explained(self.name):
            return Session.builder.configs(options).create()

    @contextmanager
    def connect(self) -> Iterator[ConnectorConnection]:
        """A new connection of snowflake-connector-python with ``?`` placeholders, closed when the body ends."""
        import snowflake.connector

        with explained(self.name):
            connection = snowflake.connector.connect(**self._options(), paramstyle="qmark")
        try:
            yield connection
        finally:
            connection.close()

    def query(self, sql: str, binds: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The rows of one statement, column name to value; ``binds`` are the values of its ``?`` placeholders."""
        from snowflake.connector import DictCursor

        with self.connect() as connection:
            cursor = connection.cursor(DictCursor)
            cursor.execute(sql, tuple(binds) or None)
            return [dict(row) for row in cursor.fetchall()]

    def snowflake_resource(self) -> SnowflakeResource:
        """The same connection as dagster-snowflake's ``SnowflakeResource``, for what expects one.

        That resource insists on a user and a way to log in, which are read from ``connections.toml``. No secret is: the
        connector reads it when it connects, and Dagster never has it.

        Raises:
            SnowflakeConnectionError: no such connection.
        """
        from dagster_snowflake import SnowflakeResource
        from snowflake.connector.config_manager import CONFIG_MANAGER

        known: Any = CONFIG_MANAGER["connections"]
        if self.name not in known:
            raise SnowflakeConnectionError(f"no connection {self.name!r} in connections.toml of SNOWFLAKE_HOME")
        connection = known[self.name]
        default = "SNOWFLAKE_JWT" if connection.get("private_key_file") else "SNOWFLAKE"
        return SnowflakeResource(
            # A connection by token may leave the user to the token.
            user=str(connection.get("user", "")),
            authenticator=str(connection.get("authenticator", default)),
            additional_snowflake_connection_args=self._options(),
        )

    def _options(self) -> dict[str, Any]:
        chosen = {"database": self.database, "schema": self.schema_name, "warehouse": self.warehouse}
        tag = steps.query_tag()
        return {
            "connection_name": self.name,
            # What Snowflake's history tells a step's statements by; see customer_insights.costs.
            **({"session_parameters": {"QUERY_TAG": tag}} if tag else {}),
            **{name: value for name, value in chosen.items() if value},
        }


class ReconnectingSession:
    """A Snowpark session that is opened anew when Snowflake was out of reach or forgot it.

    Everything asked of it must be safe to repeat, because an answer may be lost after the statement has run.
    """

    def __init__(self, open_session: Callable[[], Session], patience_seconds: float) -> None:
        """Open the first session at once and without patience: a server that is not there at all is told at once."""
        self._open_session = open_session
        self._patience_seconds = patience_seconds
        self._session: Session | None = open_session()

    def call(self, ask: Callable[[Session], T]) -> T:
        """``ask(session)``, repeated with back-off and a new session while the error is transient and patience lasts.

        Raises:
            SnowflakeUnreachableError: Snowflake stayed out of reach for ``patience_seconds``.
        """
        from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential_jitter

        retrying = Retrying(
            retry=retry_if_exception(is_transient),
            wait=wait_exponential_jitter(initial=0.3, max=10),
            stop=stop_after_delay(self._patience_seconds),
            before_sleep=lambda state: self._lost(state.outcome),
            reraise=True,
        )
        try:
            return retrying(lambda: ask(self._current()))
        except Exception as error:
            if not is_transient(error) or isinstance(error, SnowflakeUnreachableError):
                raise
            raise SnowflakeUnreachableError(
                f"Snowflake stayed out of reach for {self._patience_seconds:.0f} s: {error}"
            ) from error

    def renew(self) -> None:
        """Forget the session, which may be in the middle of a request; the next call opens a new one."""
        session, self._session = self._session, None
        if session is not None:
            # Closing asks the server, and the connector repeats that for a while when nobody answers.
            threading.Thread(target=_close, args=(session,), daemon=True).start()

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            _close(session)

    def _current(self) -> Session:
        if self._session is None:
            self._session = self._open_session()
        return self._session

    def _lost(self, outcome: Any) -> None:
        logger.warning("Snowflake is out of reach, trying again: %s", outcome.exception() if outcome else "")
        self.renew()


def _close(session: Session) -> None:
    # Closing asks the server, and raises where the server cannot answer: that must not hide the error of the body.
    try:
        session.close()
    except Exception as error:
        logger.info("a Snowflake session could not be closed: %s", error)

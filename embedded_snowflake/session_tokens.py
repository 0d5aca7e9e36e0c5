"""Tokens that have run out, and the master tokens by which a client gets new ones for the same session.

The tokens that are good are fakesnow's table ``sessions``. A renewed token keeps the session with its temporary tables
and its open transaction; a session whose master token has run out as well is over.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import fakesnow.server as fakesnow_server

from embedded_snowflake import sessions

if TYPE_CHECKING:
    from fakesnow.fakes import FakeSnowflakeConnection

    from embedded_snowflake.server import EmbeddedSnowflake

REMEMBERED_LOST = 1000


class SessionTokens:
    """Which token of which session has run out, and what renews it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._masters: dict[str, str] = {}
        self._expired: dict[str, FakeSnowflakeConnection] = {}
        # Those of sessions that are over. The oldest go first.
        self._lost: OrderedDict[str, None] = OrderedDict()

    def master_of(self, token: str) -> str:
        """A master token for a session that was just opened or renewed."""
        master = secrets.token_urlsafe(32)
        with self._lock:
            self._masters[master] = token
        return master

    def expire(self, token: str) -> bool:
        """The token is good no more, its master token is. False where it was none."""
        with self._lock:
            connection = fakesnow_server.sessions.pop(token, None)
            if connection is not None:
                self._expired[token] = connection
            return connection is not None

    def lose(self, server: EmbeddedSnowflake, token: str) -> bool:
        """Neither the token nor its master token is good any more, and the session is over."""
        connection = self.close(token)
        if connection is None:
            return False
        with self._lock:
            self._lost[token] = None
            while len(self._lost) > REMEMBERED_LOST:
                self._lost.popitem(last=False)
        sessions.end(server, connection)
        return True

    def has_expired(self, token: str) -> bool:
        """Whether the token was good once; a client answers that by asking for a new one."""
        with self._lock:
            return token in self._expired or token in self._lost

    def renew(self, master: str) -> tuple[str, str] | None:
        """The old and the new token of the session that the master token is of; None where it renews nothing."""
        with self._lock:
            old = self._masters.pop(master, None)
            connection = old and (self._expired.pop(old, None) or fakesnow_server.sessions.pop(old, None))
            if not old or not connection:
                return None
            new = secrets.token_urlsafe(32)
            fakesnow_server.sessions[new] = connection
            return old, new

    def close(self, token: str) -> FakeSnowflakeConnection | None:
        """Forget a token, good or expired, with its master token; the connection that it opened."""
        with self._lock:
            for master in [master for master, of in self._masters.items() if of == token]:
                del self._masters[master]
            return fakesnow_server.sessions.pop(token, None) or self._expired.pop(token, None)

    def open(self) -> list[tuple[str, FakeSnowflakeConnection]]:
        """Every session that is not over, by its latest token."""
        with self._lock:
            return [*fakesnow_server.sessions.items(), *self._expired.items()]

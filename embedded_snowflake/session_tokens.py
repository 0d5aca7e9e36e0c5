"""Tokens that have run out, and the master tokens by which a client gets new ones for the same session.

The tokens that are good are fakesnow's table ``sessions``. A renewed token keeps the session with its temporary tables
and its open transaction; a session whose master token has run out as well is over.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import fakesnow.server as fakesnow_server

from embedded_snowflake import sessions

if TYPE_CHECKING:
    from fakesnow.fakes import FakeSnowflakeConnection

    from embedded_snowflake.server import EmbeddedSnowflake

REMEMBERED_LOST = 1000


@dataclass(frozen=True)
class Renewed:
    """A session with the tokens that its client goes on with."""

    connection: FakeSnowflakeConnection
    token: str
    master: str


class SessionTokens:
    """Which token of which session has run out, and what renews it. A session may have several tokens."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._masters: dict[str, FakeSnowflakeConnection] = {}
        self._expired: dict[str, FakeSnowflakeConnection] = {}
        # Those of sessions that are over. The oldest go first.
        self._lost: OrderedDict[str, None] = OrderedDict()

    def master_of(self, token: str) -> str:
        """A master token for a session that was just opened."""
        with self._lock:
            return self._new_master(fakesnow_server.sessions[token])

    def _new_master(self, connection: FakeSnowflakeConnection) -> str:
        master = secrets.token_urlsafe(32)
        self._masters[master] = connection
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

    def renew(self, master: str) -> Renewed | None:
        """New tokens of the session that the master token is of; None where it renews nothing.

        The old master token stays good: of two threads that share a session, the second renews by the same one.
        """
        with self._lock:
            connection = self._masters.get(master)
            if connection is None:
                return None
            token = secrets.token_urlsafe(32)
            fakesnow_server.sessions[token] = connection
            return Renewed(connection, token, self._new_master(connection))

    def close(self, token: str) -> FakeSnowflakeConnection | None:
        """Forget the session of a token, good or expired, with all its tokens; the connection that it opened."""
        with self._lock:
            connection = fakesnow_server.sessions.get(token) or self._expired.get(token)
            for known in (fakesnow_server.sessions, self._expired, self._masters):
                for own in [own for own, of in list(known.items()) if of is connection]:
                    known.pop(own, None)
            return connection

    def open(self) -> list[tuple[str, FakeSnowflakeConnection]]:
        """Every session that is not over, each by one of its tokens."""
        with self._lock:
            by_session = {of: token for token, of in [*fakesnow_server.sessions.items(), *self._expired.items()]}
        return [(token, connection) for connection, token in by_session.items()]

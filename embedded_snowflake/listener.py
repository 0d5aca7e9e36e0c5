"""The server's port on the loopback address, which uvicorn serves, and which a fault may close for a while."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import uvicorn
from starlette.types import ASGIApp

logger = logging.getLogger(__name__)

# Requests beyond these are answered with 503, which Snowflake's clients repeat after a pause.
MOST_REQUESTS = 2000
REOPEN_ATTEMPTS = 100


def bound(port: int) -> socket.socket:
    """A socket that has the port and does not listen yet: whoever connects is refused. Raises OSError."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError:
        listener.close()
        raise
    return listener


class Listener:
    """uvicorn on one port. ``run`` it once."""

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        self._port = listener.getsockname()[1]
        self._listener = listener
        # Clients keep their connections open; without a limit a stop would wait for the last of them.
        self._config = uvicorn.Config(
            app, log_level="warning", lifespan="on", timeout_graceful_shutdown=3, limit_concurrency=MOST_REQUESTS
        )
        self._server = uvicorn.Server(self._config)
        self._refusing = False

    def run(self) -> None:
        """Serve until a signal ends it."""
        self._server.run(sockets=[self._listener])

    async def refuse(self, seconds: float) -> None:
        """Cut every connection and take no other for so long, then listen on the same port again."""
        if self._refusing:
            return
        self._refusing = True
        try:
            for server in self._server.servers:
                server.close()
            self._listener.close()
            for connection in list(self._server.server_state.connections):
                cycle = getattr(connection, "cycle", None)
                transport = getattr(connection, "transport", None)
                if transport and (cycle is None or cycle.response_complete):
                    # What is written, such as the answer to who asked for this, is still sent.
                    transport.close()
                elif transport:
                    transport.abort()
            # Taken at once, so that no other process gets the port meanwhile.
            self._listener = await self._bound_again()
            logger.warning("connections are refused for %g s", seconds)
            await asyncio.sleep(seconds)
            loop = asyncio.get_running_loop()
            server = await loop.create_server(self._protocol, sock=self._listener, backlog=self._config.backlog)
            self._server.servers = [server]
            logger.warning("connections are accepted again")
        finally:
            self._refusing = False

    async def _bound_again(self) -> socket.socket:
        for _ in range(REOPEN_ATTEMPTS):
            try:
                return bound(self._port)
            except OSError:
                # The event loop closes a socket in its next round.
                await asyncio.sleep(0.01)
        return bound(self._port)

    def _protocol(self) -> asyncio.Protocol:
        """What uvicorn's own start-up makes for each connection."""
        protocol: Any = self._config.http_protocol_class
        return protocol(
            config=self._config, server_state=self._server.server_state, app_state=self._server.lifespan.state
        )

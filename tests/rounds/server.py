"""``python -m rounds.server``: the embedded server, unchanged, with a window into it for the rounds.

The options are those of ``embedded_snowflake``. Besides its own routes it answers what a round must know (the
statements that were run, the locks, transactions and temporary tables that are open) and does what its job service
does before and after a job: give it a password, and end the sessions that were opened with it.
"""

from __future__ import annotations

import base64
import sys
import time
from collections import deque
from typing import Any

import fakesnow.server as fakesnow_server
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from embedded_snowflake import __main__, locks, sessions
from embedded_snowflake.server import EmbeddedSnowflake

TRACED_STATEMENTS = 4000
TRACED_CHARACTERS = 300
# Snowflake's five minutes, shorter: for so long the transaction of a killed job keeps others waiting.
IDLE_SECONDS = 3.0


class ObservedServer(EmbeddedSnowflake):
    """The embedded server and what it was asked."""

    def __init__(self, *args: Any, **named: Any) -> None:
        self.trace: deque[dict[str, Any]] = deque(maxlen=TRACED_STATEMENTS)
        self.traced = 0
        super().__init__(*args, **named)

    def _answer(self, connection: Any, body: dict[str, Any], query_id: str) -> dict[str, Any]:
        self.traced += 1
        entry: dict[str, Any] = {
            "number": self.traced,
            "time": round(time.time(), 3),
            "session": sessions.of(connection).number,
            "job": sessions.of(connection).job,
            "sql": str(body.get("sqlText"))[:TRACED_CHARACTERS],
            "outcome": "not answered",
        }
        self.trace.append(entry)
        try:
            document = super()._answer(connection, body, query_id)
            entry["outcome"] = "ok"
            return document
        except BaseException as error:
            entry["outcome"] = f"{type(error).__name__}: {error}"[:TRACED_CHARACTERS]
            raise

    def app(self) -> Any:
        """The server's application with the rounds' routes beside it."""
        observed = Starlette(
            routes=[
                Route("/rounds/password", self._password, methods=["POST"]),
                Route("/rounds/end", self._end, methods=["POST"]),
                Route("/rounds/state", self._state),
                Route("/rounds/trace", self._trace),
            ]
        )
        inner = super().app()

        async def joined(scope: Any, receive: Any, send: Any) -> None:
            of_rounds = scope["type"] == "http" and scope["path"].startswith("/rounds/")
            await (observed if of_rounds else inner)(scope, receive, send)

        return joined

    def _refusal(self, request: Request) -> Response | None:
        known = f"{self.configuration.user}:{self.configuration.password}"
        expected = f"Basic {base64.b64encode(known.encode()).decode()}"
        return None if request.headers.get("Authorization") == expected else JSONResponse({}, 401)

    async def _password(self, request: Request) -> Response:
        """A password for the job that the body names."""
        job = (await request.json())["job"]
        return self._refusal(request) or JSONResponse({"password": self.job_credentials.issue(job)})

    async def _end(self, request: Request) -> Response:
        """End the sessions of a job, or with ``keep`` all sessions of the user but those numbers."""
        document = await request.json()
        if refusal := self._refusal(request):
            return refusal
        if "password" in document:
            tokens = self.job_credentials.revoke(document["password"])
        else:
            known = list(fakesnow_server.sessions.items())
            tokens = [token for token, opened in known if sessions.of(opened).number not in document["keep"]]
        await run_in_threadpool(self._end_sessions, tokens)
        return JSONResponse({"ended": len(tokens)})

    def _end_sessions(self, tokens: list[str]) -> None:
        for token in tokens:
            if connection := self.session_tokens.close(token):
                connection._duck_conn.interrupt()
                sessions.end(self, connection)

    async def _state(self, request: Request) -> Response:
        """What is open: locks, transactions, temporary tables and stages; not those of the session ``except``."""
        if refusal := self._refusal(request):
            return refusal
        everything = [sessions.of(connection) for connection in list(fakesnow_server.sessions.values())]
        excepted = int(request.query_params.get("except", "0"))
        opened = [session for session in everything if session.number != excepted]
        ids = {session.id for session in everything if session.number == excepted}
        stages = self.catalog.query("SELECT name, session FROM stages WHERE session <> ''")
        return JSONResponse(
            {
                "locks": sorted(self.table_locks._holders),
                "transactions": [session.number for session in opened if session.in_transaction],
                "temporary tables": sorted(str(name) for session in opened for name in session.temporary_tables),
                "temporary stages": sorted(row["name"] for row in stages if row["session"] not in ids),
            }
        )

    async def _trace(self, request: Request) -> Response:
        """The statements after number ``since``."""
        since = int(request.query_params.get("since", "0"))
        entries = [entry for entry in list(self.trace) if entry["number"] > since]
        return self._refusal(request) or JSONResponse({"last": self.traced, "statements": entries})


if __name__ == "__main__":
    locks.IDLE_SECONDS = IDLE_SECONDS
    __main__.EmbeddedSnowflake = ObservedServer  # type: ignore[misc]
    raise SystemExit(__main__.main(sys.argv[1:]))

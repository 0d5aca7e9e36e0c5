"""The HTTP server: Snowflake's login, session and query routes on the loopback address.

Routing, authentication and the error shape belong here; what a statement does belongs in the module of its concern.
"""

from __future__ import annotations

import contextlib
import gzip
import hmac
import importlib
import json
import logging
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import fakesnow.server as fakesnow_server
from fakesnow import info_schema, macros
from fakesnow.converter import from_binding
from fakesnow.cursor import FakeSnowflakeCursor
from fakesnow.instance import FakeSnow
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from embedded_snowflake import statements
from embedded_snowflake.catalog import Catalog
from embedded_snowflake.errors import ProgrammingError

if TYPE_CHECKING:
    from fakesnow.fakes import FakeSnowflakeConnection

logger = logging.getLogger(__name__)

# The modules whose import fills the table of served statements; the first pattern that matches wins.
CONCERNS = ("sessions", "stages", "compute_pools", "jobs", "models", "model_inference", "ai_functions")


@dataclass(frozen=True)
class Configuration:
    """Where the server keeps its data and who may log in."""

    data_dir: Path
    port: int
    user: str
    password: str
    # "module:callable" that returns an object with score(texts) -> scores in -1..1; AI_SENTIMENT is answered by it.
    sentiment_model: str | None = None


class EmbeddedSnowflake:
    """One server's state: the databases, the catalogue and what its concerns keep in memory."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        for concern in CONCERNS:
            importlib.import_module(f"embedded_snowflake.{concern}")
        self.data_dir = configuration.data_dir
        self.databases_dir = self.data_dir / "databases"
        self.databases_dir.mkdir(parents=True, exist_ok=True)
        self.catalog = Catalog(self.data_dir / "catalog.duckdb")
        self.fakesnow = FakeSnow(
            create_database_on_connect=False, create_schema_on_connect=False, db_path=self.databases_dir
        )
        self._attach_databases()
        self.shutdown_callbacks: list[Any] = []
        self.lock = threading.RLock()
        # fakesnow's routes reach their instance by this module attribute.
        fakesnow_server.shared_fs = self.fakesnow
        for starter in statements.STARTERS:
            starter(self)

    def _attach_databases(self) -> None:
        for file in sorted(self.databases_dir.glob("*.db")):
            self.fakesnow.duck_conn.execute(f"ATTACH DATABASE '{file}' AS \"{file.stem}\"")
            self.fakesnow.duck_conn.execute(info_schema.per_db_creation_sql(file.stem))
            self.fakesnow.duck_conn.execute(macros.creation_sql(file.stem))

    def close(self) -> None:
        """Stop what runs and write everything to disk."""
        for callback in self.shutdown_callbacks:
            callback()
        self.catalog.close()
        self.fakesnow.duck_conn.close()

    # -- routes ------------------------------------------------------------------------------------------------

    def app(self) -> Starlette:
        """The ASGI application: fakesnow's routes, with login and query answered here first."""

        @contextlib.asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            yield
            await run_in_threadpool(self.close)

        own = {"/session/v1/login-request": self.login, "/queries/v1/query-request": self.query}
        routes = [Route(path, endpoint, methods=["POST"]) for path, endpoint in own.items()]
        # fakesnow's upload route asks for no password; stages are served by embedded_snowflake.stages instead.
        left_out = {*own, "/fs_bucket/{path:path}"}
        routes += [route for route in fakesnow_server.routes if route.path not in left_out]
        return Starlette(routes=routes, lifespan=lifespan)

    async def login(self, request: Request) -> Response:
        """Check user and password, then let fakesnow open the session."""
        data = _json(await request.body(), request).get("data", {})
        user, password = str(data.get("LOGIN_NAME", "")), str(data.get("PASSWORD", ""))
        expected = self.configuration
        known = hmac.compare_digest(user.upper().encode(), expected.user.upper().encode())
        if not (known and hmac.compare_digest(password.encode(), expected.password.encode())):
            return _failure(390100, "08001", "Incorrect username or password was specified.")
        return await fakesnow_server.login_request(request)

    async def query(self, request: Request) -> Response:
        """Answer a statement by the table of handlers, and by fakesnow where none serves it."""
        body = _json(await request.body(), request)
        sql = str(body.get("sqlText", ""))
        try:
            connection = fakesnow_server.to_conn(fakesnow_server.to_token(request))
        except fakesnow_server.ServerError as error:
            return JSONResponse(
                {"data": None, "code": error.code, "message": error.message, "success": False}, error.status_code
            )
        try:
            answer = await run_in_threadpool(self._answer, connection, sql, _binds(body))
        except ProgrammingError as error:
            return _failure(error.errno or 0, error.sqlstate or "", str(error.raw_msg or error.msg))
        except Exception as error:
            logger.exception("a handler failed: %s", sql[:500])
            return _failure(603, "XX000", f"embedded server: {type(error).__name__}: {error}")
        if isinstance(answer, statements.Transfer):
            return JSONResponse({"data": answer.data, "success": True})
        if answer.sql != sql or not answer.keep_binds:
            body["sqlText"] = answer.sql
            if not answer.keep_binds:
                body.pop("bindings", None)
            _replace_body(request, body)
        response = await fakesnow_server.query_request(request)
        if response.status_code >= 500:
            # The connector repeats a statement for minutes on an HTTP 500 before it shows anything.
            message = json.loads(bytes(response.body)).get("message", "")
            return _failure(603, "XX000", f"embedded server: {message}; see its log")
        return response

    def _answer(
        self, connection: FakeSnowflakeConnection, sql: str, binds: Sequence[Any] | dict[str, Any] | None
    ) -> statements.Answer:
        found = statements.find(sql)
        answer: statements.Answer = statements.Sql(sql, keep_binds=True)
        if found:
            served, match = found
            answer = served.handler(statements.Statement(self, connection, sql, binds, match))
        if isinstance(answer, statements.Transfer):
            return answer
        return replace(answer, sql=statements.rewrite(self, connection, answer.sql))


@contextlib.contextmanager
def _engine_errors() -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        # fakesnow reports an engine's error that it does not know without its text.
        message = str(error)
        _, in_python, reason = message.partition("Python exception occurred while executing the UDF: ")
        if in_python:
            raise ProgrammingError(
                msg=f"Python Interpreter Error:\n{reason}", errno=100357, sqlstate="P0000"
            ) from error
        if isinstance(error, duckdb.TransactionException):
            # DuckDB refuses at once where Snowflake waits for the other transaction's lock; this is what its waiting ends in.
            raise ProgrammingError(
                msg=f"Statement has been aborted by a lock of another transaction: {message}", errno=625, sqlstate="57014"
            ) from error
        raise ProgrammingError(msg=message, errno=603, sqlstate="XX000") from error


# Every statement that fakesnow runs or describes passes here; a decorator is less to keep up with than a copy of its route.
FakeSnowflakeCursor._execute = _engine_errors()(FakeSnowflakeCursor._execute)


def _json(raw: bytes, request: Request) -> dict[str, Any]:
    return json.loads(gzip.decompress(raw) if request.headers.get("Content-Encoding") == "gzip" else raw)


def _replace_body(request: Request, body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    request._body = gzip.compress(raw) if request.headers.get("Content-Encoding") == "gzip" else raw


def _binds(body: dict[str, Any]) -> Sequence[Any] | dict[str, Any] | None:
    bindings = body.get("bindings")
    if not bindings:
        return None
    if all(key.isdigit() for key in bindings):
        if any(isinstance(binding["value"], list) for binding in bindings.values()):
            return None
        return [from_binding(bindings[str(position)]) for position in range(1, len(bindings) + 1)]
    return {name: from_binding(binding) for name, binding in bindings.items()}


def _failure(errno: int, sqlstate: str, message: str) -> JSONResponse:
    code = f"{errno:06d}"
    return JSONResponse(
        {"data": {"errorCode": code, "sqlState": sqlstate}, "code": code, "message": message, "success": False}
    )

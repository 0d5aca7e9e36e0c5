"""The HTTP server: Snowflake's login, session and query routes on the loopback address.

Routing, authentication and the error shape belong here; what a statement does belongs in the module of its concern.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hmac
import importlib
import json
import logging
import secrets
import threading
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import fakesnow.server as fakesnow_server
import snowflake.connector.errors as connector_errors
from fakesnow import info_schema, macros
from fakesnow.converter import from_binding
from fakesnow.instance import GLOBAL_DATABASE_NAME, FakeSnow
from fakesnow.transforms import show
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from embedded_snowflake import execution, results, sessions, stages, statements
from embedded_snowflake.catalog import Catalog
from embedded_snowflake.errors import ProgrammingError
from embedded_snowflake.job_credentials import JobCredentials
from embedded_snowflake.locks import TableLocks
from embedded_snowflake.results import Result, Results

if TYPE_CHECKING:
    from fakesnow.fakes import FakeSnowflakeConnection

    from embedded_snowflake.scheduler import Scheduler

logger = logging.getLogger(__name__)

# The modules whose import fills the table of served statements; the first pattern that matches wins.
CONCERNS = (
    "dialect",
    "sessions",
    "stages",
    "stage_queries",
    "descriptions",
    "compute_pools",
    "jobs",
    "models",
    "model_inference",
    "ai_functions",
)

THREADS = 400


class Forgetful(dict[str, tuple]):
    """Takes fakesnow's results and keeps none: its cache has no bound, ``Results`` has."""

    def __setitem__(self, key: str, value: tuple) -> None:
        """Nothing is kept."""


@dataclass(frozen=True)
class Configuration:
    """Where the server keeps its data and who may log in."""

    data_dir: Path
    port: int
    user: str
    password: str
    # "module:callable" that returns an object with predict(texts) -> .scores in -1..1 and .labels, or score(texts);
    # AI_SENTIMENT is answered by it.
    sentiment_model: str | None = None
    # The connection's warehouse, which exists from the start.
    warehouse: str = "HOL_WAREHOUSE"
    # Bytes that a Ray node keeps objects in before it writes them to disk.
    object_store_memory: int = 256 * 2**20


class EmbeddedSnowflake:
    """One server's state: the databases, the catalogue and what its concerns keep in memory."""

    # Started by embedded_snowflake.jobs.
    scheduler: Scheduler

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.job_credentials = JobCredentials()
        for concern in CONCERNS:
            importlib.import_module(f"embedded_snowflake.{concern}")
        self.data_dir = configuration.data_dir
        self.databases_dir = self.data_dir / "databases"
        self.databases_dir.mkdir(parents=True, exist_ok=True)
        self.catalog = Catalog(self.data_dir / "catalog.duckdb")
        self.fakesnow = FakeSnow(
            create_database_on_connect=False, create_schema_on_connect=False, db_path=self.databases_dir
        )
        self.fakesnow.results_cache = Forgetful()
        self._keep_descriptions()
        self._attach_databases()
        self.results = Results()
        self.table_locks = TableLocks()
        # By the request's id, for as long as it takes.
        self.running: dict[str, FakeSnowflakeConnection] = {}
        self.shutdown_callbacks: list[Any] = []
        self.lock = threading.RLock()
        # fakesnow's routes reach their instance by this module attribute.
        fakesnow_server.shared_fs = self.fakesnow
        sessions.add_warehouse(self, configuration.warehouse)
        for starter in statements.STARTERS:
            starter(self)

    def _keep_descriptions(self) -> None:
        """Have fakesnow keep in a file what it knows of tables beyond DuckDB: comments, text lengths, file formats."""
        file = self.data_dir / "descriptions.duckdb"
        self.fakesnow.duck_conn.execute(f"DETACH {GLOBAL_DATABASE_NAME}")
        self.fakesnow.duck_conn.execute(f"ATTACH '{file}' AS {GLOBAL_DATABASE_NAME}")
        self.fakesnow.duck_conn.execute(info_schema.fs_global_creation_sql())
        self.fakesnow.duck_conn.execute(show.fs_global_creation_sql())

    def _attach_databases(self) -> None:
        for file in sorted(self.databases_dir.glob("*.db")):
            self.fakesnow.duck_conn.execute(f"ATTACH DATABASE '{file}' AS \"{file.stem}\"")
            self.fakesnow.duck_conn.execute(info_schema.per_db_creation_sql(file.stem))
            self.fakesnow.duck_conn.execute(macros.creation_sql(file.stem))

    def close(self) -> None:
        """Stop what runs and write everything to disk."""
        with contextlib.ExitStack() as rest:
            # Runs them last first, and the others also when one raises.
            for callback in (self.fakesnow.duck_conn.close, self.catalog.close, *reversed(self.shutdown_callbacks)):
                rest.callback(callback)

    def app(self) -> Starlette:
        """The ASGI application. None of fakesnow's own routes is served: its uploads ask for no password."""

        @contextlib.asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            # A wait for a job holds its thread; with the default of 40 a few dozen waits would stop everybody else.
            anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
            yield
            await run_in_threadpool(self.close)

        own = {
            "/session/v1/login-request": self.login,
            "/session": self.session,
            "/session/heartbeat": self.session,
            "/queries/v1/query-request": self.query,
            "/queries/v1/abort-request": self.abort,
            "/queries/{query_id}/result": self.result,
            "/monitoring/queries/{query_id}": self.monitor,
        }
        routes = [Route(path, endpoint, methods=["GET", "POST"]) for path, endpoint in own.items()]
        routes += stages.routes(self)
        return Starlette(routes=routes, lifespan=lifespan, exception_handlers={Exception: _unexpected})

    async def login(self, request: Request) -> Response:
        """Check user and password, then let fakesnow open the session."""
        data = _json(await request.body(), request).get("data", {})
        if (data.get("SESSION_PARAMETERS") or {}).get("FAKESNOW_DB_PATH"):
            # fakesnow would open databases in any directory.
            return JSONResponse(_failure(2, "0A000", "unsupported on the embedded server: FAKESNOW_DB_PATH"))
        user, password = str(data.get("LOGIN_NAME", "")), str(data.get("PASSWORD", ""))
        expected = self.configuration
        known = hmac.compare_digest(user.upper().encode(), expected.user.upper().encode())
        of_job = self.job_credentials.accepts(password)
        if not (known and (of_job or hmac.compare_digest(password.encode(), expected.password.encode()))):
            return JSONResponse(_failure(390100, "08001", "Incorrect username or password was specified."))
        document = json.loads(bytes((await fakesnow_server.login_request(request)).body))
        token = document["data"]["token"]
        if of_job and not self.job_credentials.opened(password, token):
            # The job has ended meanwhile, and with it what its password may open.
            await run_in_threadpool(sessions.end, self, fakesnow_server.sessions.pop(token))
            return JSONResponse(_failure(390100, "08001", "Incorrect username or password was specified."))
        return JSONResponse(await run_in_threadpool(self._opened, document, request))

    def _opened(self, document: dict[str, Any], request: Request) -> dict[str, Any]:
        """fakesnow's answer to a login, with the warehouse and role of the session."""
        session = sessions.of(fakesnow_server.sessions[document["data"]["token"]])
        warehouse = request.query_params.get("warehouse", "")
        role = request.query_params.get("roleName", "")
        session.warehouse = sessions.known_warehouse(self, warehouse)
        session.role = role.upper() or session.role
        document["data"] |= {
            "sessionId": session.number,
            # Without one the connector does not tell the server that it closes. Sessions here are not renewed by it.
            "masterToken": secrets.token_urlsafe(32),
            "masterValidityInSeconds": int(sessions.IDLE_SECONDS),
            "validityInSeconds": int(sessions.IDLE_SECONDS),
        }
        document["data"]["sessionInfo"] |= {"warehouseName": session.warehouse, "roleName": session.role}
        sessions.end_idle(self)
        return document

    async def query(self, request: Request) -> Response:
        """Answer a statement: by the table of handlers, or as SQL. Whatever goes wrong is an error document.

        The connector repeats an HTTP 5xx for minutes before it shows anything, so there is none.
        """
        connection = _connection(request)
        if connection is None:
            return _refused()
        body = _json(await request.body(), request)
        query_id = str(uuid.uuid4())
        request_id = request.query_params.get("requestId") or query_id
        work = functools.partial(self._answer_or_failure, connection, body, query_id, request_id)
        if body.get("asyncExec"):
            self.results.begin(query_id)
            threading.Thread(target=work, name=f"query {query_id}", daemon=True).start()
            document = {"queryId": query_id, "getResultUrl": f"/queries/{query_id}/result"}
            return JSONResponse({"data": document, "code": "333334", "message": None, "success": True})
        return JSONResponse(await run_in_threadpool(work))

    def _answer_or_failure(
        self, connection: FakeSnowflakeConnection, body: dict[str, Any], query_id: str, request_id: str
    ) -> dict[str, Any]:
        session = sessions.of(connection)
        session.last_active = time.monotonic()
        self.running[request_id] = connection
        try:
            return self._answer(connection, body, query_id)
        except connector_errors.Error as error:
            self.results.end(query_id, error)
            return _failure(error.errno or 0, error.sqlstate or "", str(error.raw_msg or error.msg), query_id)
        except Exception as error:
            logger.exception("a statement failed: %s", str(body.get("sqlText"))[:500])
            failure = ProgrammingError(
                msg=f"embedded server: {type(error).__name__}: {error}", errno=603, sqlstate="XX000"
            )
            self.results.end(query_id, failure)
            return _failure(603, "XX000", str(failure.raw_msg), query_id)
        finally:
            self.running.pop(request_id, None)
            session.last_active = time.monotonic()

    def _answer(self, connection: FakeSnowflakeConnection, body: dict[str, Any], query_id: str) -> dict[str, Any]:
        sql, bindings = str(body.get("sqlText", "")), body.get("bindings") or {}
        binds, describes = _binds(body), bool(body.get("describeOnly"))
        found = statements.find(sql)
        answer: statements.Answer = statements.Sql(sql, keep_binds=True)
        if found and describes and not statements.is_question(sql):
            # To be told a command's columns is not to run it.
            answer = statements.rows(["status"], [])
        elif found:
            served, match = found
            answer = served.handler(statements.Statement(self, connection, sql, binds, match))
        if isinstance(answer, statements.Transfer):
            sessions.of(connection).query_ids.append(query_id)
            return {"data": {**answer.data, "queryId": query_id}, "success": True}
        if isinstance(answer, statements.Rows):
            result = replace(Result.of(answer.table), query_id=query_id)
        else:
            rewritten = statements.rewrite(self, connection, answer.sql)
            used = binds if answer.keep_binds else None
            batch = _batch(bindings) if answer.keep_binds else None
            described = execution.describe(self, connection, rewritten, query_id) if describes else None
            if described:
                return results.document(described, connection, describe_only=True)
            if batch is not None:
                result = execution.execute_many(self, connection, rewritten, batch, query_id)
            else:
                result = execution.execute(self, connection, rewritten, used, query_id)
        self.results.end(query_id, result)
        sessions.of(connection).query_ids.append(query_id)
        return results.document(result, connection, describe_only=describes)

    async def result(self, request: Request) -> Response:
        """The result of an earlier statement; 333334 while it runs."""
        return JSONResponse(await run_in_threadpool(self._result, request))

    def _result(self, request: Request) -> dict[str, Any]:
        query_id = request.path_params["query_id"]
        connection = _connection(request)
        if connection is None:
            return _no_session()
        try:
            outcome = self.results.get(query_id)
        except KeyError:
            return _failure(709, "02000", f"Statement {query_id} not found")
        if isinstance(outcome, Result):
            return results.document(outcome, connection)
        if isinstance(outcome, connector_errors.Error):
            return _failure(outcome.errno or 0, outcome.sqlstate or "", str(outcome.raw_msg or outcome.msg), query_id)
        document = {"queryId": query_id, "getResultUrl": f"/queries/{query_id}/result"}
        return {"data": document, "code": "333334", "message": None, "success": True}

    async def monitor(self, request: Request) -> Response:
        """Whether a statement runs, has succeeded or has failed."""
        if _connection(request) is None:
            return _refused()
        query_id = request.path_params["query_id"]
        try:
            outcome = self.results.get(query_id)
        except KeyError:
            return JSONResponse({"data": {"queries": []}, "success": True})
        state: dict[str, Any] = {"id": query_id, "status": "RUNNING" if outcome is None else "SUCCESS"}
        if isinstance(outcome, connector_errors.Error):
            message = str(outcome.raw_msg or outcome.msg)
            state |= {"status": "FAILED_WITH_ERROR", "errorCode": str(outcome.errno), "errorMessage": message}
        return JSONResponse({"data": {"queries": [state]}, "success": True})

    async def abort(self, request: Request) -> Response:
        """Interrupt the statement of a request, which must be the session's own."""
        connection = _connection(request)
        if connection is None:
            return _refused()
        body = _json(await request.body(), request)
        if self.running.get(str(body.get("requestId"))) is connection:
            sessions.cancel(connection)
        return JSONResponse({"data": None, "success": True})

    async def session(self, request: Request) -> Response:
        """A heartbeat, or the end of a session."""
        connection = _connection(request)
        if connection is None:
            return _refused()
        if request.query_params.get("delete"):
            fakesnow_server.sessions.pop(fakesnow_server.to_token(request), None)
            await run_in_threadpool(sessions.end, self, connection)
        return JSONResponse({"data": None, "code": None, "message": None, "success": True})

    def forget_database(self, name: str) -> None:
        """Remove the file of a database that was dropped, so that it is gone after a restart too."""
        for file in self.databases_dir.glob("*.db*"):
            if file.name.split(".")[0] == name:
                file.unlink(missing_ok=True)


def _connection(request: Request) -> FakeSnowflakeConnection | None:
    """The session that the request's token is of; None for a token that is none, or none any more."""
    try:
        return fakesnow_server.to_conn(fakesnow_server.to_token(request))
    except fakesnow_server.ServerError:
        return None


def _json(raw: bytes, request: Request) -> dict[str, Any]:
    return json.loads(gzip.decompress(raw) if request.headers.get("Content-Encoding") == "gzip" else raw)


def _binds(body: dict[str, Any]) -> Sequence[Any] | dict[str, Any] | None:
    bindings = body.get("bindings")
    if not bindings:
        return None
    if all(key.isdigit() for key in bindings):
        if any(isinstance(binding["value"], list) for binding in bindings.values()):
            return None
        return [from_binding(bindings[str(position)]) for position in range(1, len(bindings) + 1)]
    return {name: from_binding(binding) for name, binding in bindings.items()}


def _batch(bindings: dict[str, Any]) -> list[tuple[Any, ...]] | None:
    """The rows of an array binding: a list of values for each placeholder."""
    if not any(isinstance(binding["value"], list) for binding in bindings.values()):
        return None
    columns = [
        [None if value is None else from_binding({**binding, "value": value}) for value in binding["value"]]
        for binding in (bindings[str(position)] for position in range(1, len(bindings) + 1))
    ]
    return list(zip(*columns, strict=True))


def _failure(errno: int, sqlstate: str, message: str, query_id: str | None = None) -> dict[str, Any]:
    code = f"{errno:06d}"
    data = {"errorCode": code, "sqlState": sqlstate, "queryId": query_id}
    return {"data": data, "code": code, "message": message, "success": False}


async def _unexpected(_: Request, error: Exception) -> Response:
    """The answer where a route itself failed, which an HTTP 500 would have the connector repeat."""
    return JSONResponse(_failure(603, "XX000", f"embedded server: {type(error).__name__}: {error}"))


def _refused() -> JSONResponse:
    """The answer to a token that is not, or no longer, that of a session. An HTTP 401 would be repeated."""
    return JSONResponse(_no_session())


def _no_session() -> dict[str, Any]:
    return _failure(390111, "08001", "Session no longer exists. New login required to access the service.")

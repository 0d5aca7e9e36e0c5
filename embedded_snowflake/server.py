"""The HTTP server: Snowflake's login, session and query routes on the loopback address.

Routing, authentication and the error shape belong here; what a statement does belongs in the module of its concern.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import hmac
import importlib
import json
import logging
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
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
from starlette.types import ASGIApp, Message

from embedded_snowflake import (
    execution,
    logins,
    repeated_requests,
    request_bodies,
    results,
    sessions,
    stages,
    statements,
)
from embedded_snowflake.catalog import Catalog
from embedded_snowflake.errors import ProgrammingError
from embedded_snowflake.fault_injection import FaultInjection
from embedded_snowflake.job_credentials import JobCredentials
from embedded_snowflake.locks import TableLocks
from embedded_snowflake.logins import LoginFailures, LoginRefusedError
from embedded_snowflake.names import quoted_text
from embedded_snowflake.repeated_requests import Answers
from embedded_snowflake.request_bodies import LARGEST_LOGIN, BodyError
from embedded_snowflake.results import Result, Results
from embedded_snowflake.session_tokens import SessionTokens

if TYPE_CHECKING:
    from fakesnow.fakes import FakeSnowflakeConnection

    from embedded_snowflake.query_history import QueryHistory
    from embedded_snowflake.scheduler import Scheduler

logger = logging.getLogger(__name__)

# The modules whose import fills the table of served statements; the first pattern that matches wins.
CONCERNS = (
    "dialect",
    "sessions",
    "access_tokens",
    "users",
    "security_integrations",
    "logins",
    "stages",
    "stage_queries",
    "descriptions",
    "compute_pools",
    "jobs",
    "models",
    "model_inference",
    "datasets",
    "dataset_versions",
    "ai_functions",
    "query_history",
)

THREADS = 400
ASYNC_THREADS = 100
MOST_ASYNC = 1000


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
    # Started by embedded_snowflake.query_history.
    query_history: QueryHistory
    # Made where the event loop is.
    _async_threads: anyio.CapacityLimiter

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.job_credentials = JobCredentials()
        self.session_tokens = SessionTokens()
        self.login_failures = LoginFailures()
        self.faults = FaultInjection(self)
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
        self._confine()
        self.results = Results()
        self._answers = Answers()
        self._async_tasks: set[asyncio.Task[None]] = set()
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

    def _confine(self) -> None:
        """Keep SQL inside: read_text('/etc/passwd') is a query too. For the engine's life, no setting undoes it."""
        inside = ("databases", "stages", "temporary_stages", "datasets", "incoming")
        allowed = ", ".join(quoted_text(str(self.data_dir / name)) for name in inside)
        self.fakesnow.duck_conn.execute(f"SET allowed_directories = [{allowed}]")
        self.fakesnow.duck_conn.execute("SET enable_external_access = false")

    def close(self) -> None:
        """Stop what runs and write everything to disk."""
        with contextlib.ExitStack() as rest:
            # Runs them last first, and the others also when one raises.
            for callback in (self.fakesnow.duck_conn.close, self.catalog.close, *reversed(self.shutdown_callbacks)):
                rest.callback(callback)

    def app(self) -> ASGIApp:
        """The ASGI application. None of fakesnow's own routes is served: its uploads ask for no password."""

        @contextlib.asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            # A wait for a job holds its thread; with the default of 40 a few dozen waits would stop everybody else.
            anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
            self._async_threads = anyio.CapacityLimiter(ASYNC_THREADS)
            yield
            await run_in_threadpool(self.close)

        own = {
            "/session/v1/login-request": self.login,
            "/session/authenticator-request": self.authenticator,
            "/session": self.session,
            "/session/heartbeat": self.session,
            "/session/token-request": self.renew,
            "/queries/v1/query-request": self.query,
            "/queries/v1/abort-request": self.abort,
            "/queries/{query_id}/result": self.result,
            "/monitoring/queries/{query_id}": self.monitor,
        }
        routes = [Route(path, endpoint, methods=["GET", "POST"]) for path, endpoint in own.items()]
        routes += [*stages.routes(self), *self.faults.routes()]
        handlers: Any = {BodyError: _unreadable, Exception: _unexpected}
        return self.faults.around(Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers))

    def is_user(self, user: str, password: str) -> bool:
        """Whether these are the user and the password of the connection; both are always compared."""
        known = hmac.compare_digest(user.upper().encode(), self.configuration.user.upper().encode())
        return hmac.compare_digest(password.encode(), self.configuration.password.encode()) and known

    async def login(self, request: Request) -> Response:
        """Check who it is, then let fakesnow open the session."""
        body = await request_bodies.document(request, LARGEST_LOGIN)
        data = body.get("data") or {}
        if (data.get("SESSION_PARAMETERS") or {}).get("FAKESNOW_DB_PATH"):
            # fakesnow would open databases in any directory.
            return JSONResponse(_failure(2, "0A000", "unsupported on the embedded server: FAKESNOW_DB_PATH"))
        try:
            login = await run_in_threadpool(logins.check, self, data, request.query_params.get("roleName", ""))
        except LoginRefusedError as refusal:
            return JSONResponse(_failure(refusal.errno, "08001", refusal.message))
        # Off the event loop: it opens a connection to the engine.
        response = await run_in_threadpool(asyncio.run, fakesnow_server.login_request(_unpacked(request, body)))
        document = json.loads(bytes(response.body))
        token = document["data"]["token"]
        shown = str(data.get("PASSWORD") or data.get("TOKEN"))
        if login.job is not None and not self.job_credentials.opened(shown, token):
            # The job has ended meanwhile, and with it what its password may open.
            await run_in_threadpool(sessions.end, self, fakesnow_server.sessions.pop(token))
            return JSONResponse(_failure(390100, "08001", "Incorrect username or password was specified."))
        session = sessions.of(fakesnow_server.sessions[token])
        session.login, session.job = login, login.job
        chosen = data.get("SESSION_PARAMETERS") or {}
        session.parameters |= {key.upper(): str(value) for key, value in chosen.items() if value is not None}
        return JSONResponse(await run_in_threadpool(self._opened, document, request))

    def _opened(self, document: dict[str, Any], request: Request) -> dict[str, Any]:
        """fakesnow's answer to a login, with the warehouse and role of the session."""
        session = sessions.of(fakesnow_server.sessions[document["data"]["token"]])
        warehouse = request.query_params.get("warehouse", "")
        role = request.query_params.get("roleName", "")
        session.warehouse = sessions.known_warehouse(self, warehouse)
        session.role = role.upper() or session.login.role or session.login.default_role
        document["data"] |= {
            "sessionId": session.number,
            # Without one the connector does not tell the server that it closes.
            "masterToken": self.session_tokens.master_of(document["data"]["token"]),
            "masterValidityInSeconds": int(sessions.IDLE_SECONDS),
            "validityInSeconds": int(sessions.IDLE_SECONDS),
        }
        document["data"]["sessionInfo"] |= {"warehouseName": session.warehouse, "roleName": session.role}
        sessions.end_idle(self)
        return document

    async def authenticator(self, request: Request) -> Response:
        """Where a browser or an identity provider would be asked: neither is served, and a 404 says too little."""
        data = (await request_bodies.document(request, LARGEST_LOGIN)).get("data") or {}
        refusal = logins.unsupported_authenticator(str(data.get("AUTHENTICATOR") or "EXTERNALBROWSER").upper())
        return JSONResponse(_failure(refusal.errno, "08001", refusal.message))

    async def query(self, request: Request) -> Response:
        """Answer a statement: by the table of handlers, or as SQL. Whatever goes wrong is an error document.

        The connector repeats an HTTP 5xx for minutes before it shows anything, so there is none.
        """
        connection = _connection(request)
        if connection is None:
            return self._refused(request)
        body = await request_bodies.document(request)
        query_id = str(uuid.uuid4())
        request_id = request.query_params.get("requestId") or query_id
        sql = str(body.get("sqlText", ""))
        key = (sessions.of(connection).id, request_id, hashlib.sha256(sql.encode()).digest())
        answer, first = self._answers.begin(key)
        if not first:
            logger.info("request %s came again and is not run again", request_id)
            return await _sent(await asyncio.wrap_future(answer))
        document, has_run = _failure(603, "XX000", "embedded server: the server stopped", query_id), False
        try:
            work = functools.partial(self._answer_or_failure, connection, body, query_id, request_id)
            document = self._in_background(work, query_id) if body.get("asyncExec") else await run_in_threadpool(work)
            has_run = True
        finally:
            # A large answer to a question is not worth its memory: asked again, it changes nothing.
            worth = not statements.is_question(sql) or repeated_requests.is_small(document)
            self._answers.end(key, document, has_run and worth)
        return await _sent(document)

    def _in_background(self, work: Callable[[], dict[str, Any]], query_id: str) -> dict[str, Any]:
        """Have a statement run while its client asks for the result; a bounded number of them wait for a thread."""
        if len(self._async_tasks) >= MOST_ASYNC:
            message = f"{MOST_ASYNC} asynchronous statements are running or waiting: wait for some of them"
            return _failure(604, "57014", message, query_id)

        async def run() -> None:
            await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._async_threads)

        self.results.begin(query_id)
        task = asyncio.create_task(run(), name=f"query {query_id}")
        self._async_tasks.add(task)
        task.add_done_callback(self._async_tasks.discard)
        return _in_progress(query_id)

    def _answer_or_failure(
        self, connection: FakeSnowflakeConnection, body: dict[str, Any], query_id: str, request_id: str
    ) -> dict[str, Any]:
        session = sessions.of(connection)
        session.last_active = time.monotonic()
        self.results.own(query_id, session.owner)
        self.running[request_id] = connection
        try:
            return self._recorded_answer(connection, body, query_id)
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

    def _recorded_answer(
        self, connection: FakeSnowflakeConnection, body: dict[str, Any], query_id: str
    ) -> dict[str, Any]:
        if body.get("describeOnly"):
            return self._answer(connection, body, query_id)
        tag = (body.get("parameters") or {}).get("QUERY_TAG")
        with self.query_history.recorded(connection, str(body.get("sqlText", "")), tag, query_id) as executed:
            document = self._answer(connection, body, query_id)
            executed.rows_produced = results.rows_of(document)
            return document

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
            answer = served.handler(statements.Statement(self, connection, sql, binds, match, query_id))
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
        return await _sent(await run_in_threadpool(self._result, request))

    def _result(self, request: Request) -> dict[str, Any]:
        query_id = request.path_params["query_id"]
        connection = _connection(request)
        if connection is None:
            return self._no_session(request)
        try:
            outcome = self.results.get(query_id, sessions.of(connection).owner)
        except KeyError:
            return _failure(709, "02000", f"Statement {query_id} not found")
        if isinstance(outcome, Result):
            return results.document(outcome, connection)
        if isinstance(outcome, connector_errors.Error):
            return _failure(outcome.errno or 0, outcome.sqlstate or "", str(outcome.raw_msg or outcome.msg), query_id)
        return _in_progress(query_id)

    async def monitor(self, request: Request) -> Response:
        """Whether a statement runs, has succeeded or has failed."""
        connection = _connection(request)
        if connection is None:
            return self._refused(request)
        query_id = request.path_params["query_id"]
        try:
            outcome = self.results.get(query_id, sessions.of(connection).owner)
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
            return self._refused(request)
        body = await request_bodies.document(request)
        if self.running.get(str(body.get("requestId"))) is connection:
            sessions.cancel(connection)
        return JSONResponse({"data": None, "success": True})

    async def session(self, request: Request) -> Response:
        """A heartbeat, or the end of a session."""
        connection = _connection(request)
        if connection is None:
            return self._refused(request)
        if request.query_params.get("delete"):
            self.session_tokens.close(fakesnow_server.to_token(request))
            await run_in_threadpool(sessions.end, self, connection)
        return JSONResponse({"data": None, "code": None, "message": None, "success": True})

    async def renew(self, request: Request) -> Response:
        """A new token for a session whose token has run out, by its master token. The session keeps what it has."""
        try:
            renewed = self.session_tokens.renew(fakesnow_server.to_token(request))
        except fakesnow_server.ServerError:
            renewed = None
        if renewed is None:
            message = "Authentication token has expired.  The user must authenticate again."
            return JSONResponse(_failure(390114, "08001", message))
        seconds = int(sessions.IDLE_SECONDS)
        data = {
            "sessionToken": renewed.token,
            "validityInSecondsST": seconds,
            "masterToken": renewed.master,
            "validityInSecondsMT": seconds,
            "masterValidityInSeconds": seconds,
            "sessionId": sessions.of(renewed.connection).number,
        }
        return JSONResponse({"data": data, "code": None, "message": None, "success": True})

    def _refused(self, request: Request) -> JSONResponse:
        """The answer to a token that is not, or no longer, that of a session. An HTTP 401 would be repeated."""
        return JSONResponse(self._no_session(request))

    def _no_session(self, request: Request) -> dict[str, Any]:
        if self.session_tokens.has_expired(request.headers.get("Authorization", "")[17:-1]):
            # On this number a client asks for a new token and repeats its request.
            return _failure(390112, "08001", "Session token has expired. Renew it with the master token.")
        return _failure(390111, "08001", "Session no longer exists. New login required to access the service.")

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


def _unpacked(request: Request, body: dict[str, Any]) -> Request:
    """The request with a body that has been read, for fakesnow, which unpacks one without a limit."""
    headers = [(name, value) for name, value in request.scope["headers"] if name != b"content-encoding"]

    async def receive() -> Message:
        return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

    return Request({**request.scope, "headers": headers}, receive)


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


async def _unreadable(_: Request, error: Exception) -> Response:
    """The answer to a body that cannot be read: the error document of a statement that is none."""
    return JSONResponse(_failure(390102, "22000", f"embedded server: {error}"))


async def _sent(document: dict[str, Any]) -> Response:
    """The answer to a query. Many rows are written as JSON off the event loop, where others would wait for it."""
    if repeated_requests.is_small(document):
        return JSONResponse(document)
    return await run_in_threadpool(JSONResponse, document)


def _in_progress(query_id: str) -> dict[str, Any]:
    document = {"queryId": query_id, "getResultUrl": f"/queries/{query_id}/result"}
    return {"data": document, "code": "333334", "message": None, "success": True}

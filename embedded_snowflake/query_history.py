"""The history of statements: who ran what, when, how long, in which warehouse and under which query tag.

Written as each statement ends and kept for Snowflake's seven days, at most ``MOST_STATEMENTS``, also over a restart;
read by ``TABLE(INFORMATION_SCHEMA.QUERY_HISTORY(...))``. What running a statement means is not here.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import snowflake.connector.errors as connector_errors

from embedded_snowflake import computed_tables, sessions
from embedded_snowflake.catalog import declare
from embedded_snowflake.errors import invalid
from embedded_snowflake.names import without_comments
from embedded_snowflake.statements import Query, at_start, rewriter
from embedded_snowflake.tokens import Edit, Tokens

if TYPE_CHECKING:
    from fakesnow.fakes import FakeSnowflakeConnection

    from embedded_snowflake.server import EmbeddedSnowflake

MOST_STATEMENTS = 100_000
KEPT = timedelta(days=7)
# Statements are written to the catalogue so many at once, or when the first of them is so old.
BATCH = 200
BATCH_SECONDS = 2.0
LONGEST_TEXT = 1000
STILL_RUNNING = datetime(1970, 1, 1, tzinfo=UTC)

# First words -> Snowflake's query type, and whether a warehouse does the work: the others are its cloud services'.
_TYPES = (
    (r"(?:SELECT|WITH)\b.*\bFROM\b", "SELECT", True),
    (r"SELECT\b", "SELECT", False),
    (r"INSERT\b", "INSERT", True),
    (r"MERGE\b", "MERGE", True),
    (r"UPDATE\b", "UPDATE", True),
    (r"DELETE\b", "DELETE", True),
    (r"COPY\s+INTO\s+'?@", "UNLOAD", True),
    (r"COPY\b", "COPY", True),
    (r"CREATE\b[^(]*\bTABLE\b.*?\bAS\s+\(*(?:SELECT|WITH)\b", "CREATE_TABLE_AS_SELECT", True),
    (r"CREATE\b(?:\s+OR\s+REPLACE)?(?:\s+(?:SCOPED\s+)?TEMP(?:ORARY)?)?\s+TABLE\b", "CREATE_TABLE", False),
    (r"ALTER\s+SESSION\b", "ALTER_SESSION", False),
    (r"PUT\b", "PUT_FILES", False),
    (r"GET\b", "GET_FILES", False),
    (r"(?:LIST|LS)\b", "LIST_FILES", False),
    (r"BEGIN\b|START\s+TRANSACTION\b", "BEGIN_TRANSACTION", False),
    (r"DESC(?:RIBE)?\b", "DESCRIBE", False),
    (r"(SHOW|CALL|COMMIT|ROLLBACK|USE|CREATE|ALTER|DROP|GRANT|REVOKE)\b", "", False),
)
_KINDS = tuple((re.compile(pattern, re.IGNORECASE | re.DOTALL), name, works) for pattern, name, works in _TYPES)
# Snowflake does not show them either.
_SECRET = re.compile(r"(\b\w*(?:PASSWORD|SECRET|TOKEN|KEY)\w*\s*=\s*)'(?:[^'\\]|\\.|'')*'", re.IGNORECASE)


@dataclass
class Executed:
    """One statement, by the columns of QUERY_HISTORY; ``owner`` is whose it is (``Session.owner``)."""

    query_id: str
    owner: str
    query_text: str
    database_name: str | None
    schema_name: str | None
    query_type: str
    session_id: int
    user_name: str
    user_type: str | None
    role_name: str
    warehouse_name: str | None
    warehouse_size: str | None
    warehouse_type: str | None
    query_tag: str
    execution_status: str
    error_code: int | None
    error_message: str | None
    start_time: datetime
    end_time: datetime
    total_elapsed_time: int
    rows_produced: int | None


_DUCKDB_TYPES = {
    **dict.fromkeys((field.name for field in fields(Executed)), "VARCHAR"),
    **dict.fromkeys(("session_id", "error_code", "total_elapsed_time", "rows_produced"), "BIGINT"),
    **dict.fromkeys(("start_time", "end_time"), "TIMESTAMP WITH TIME ZONE"),
}
_SCHEMA = pa.schema(
    [
        (name, {"VARCHAR": pa.string(), "BIGINT": pa.int64()}.get(kind, pa.timestamp("us", tz="UTC")))
        for name, kind in _DUCKDB_TYPES.items()
    ]
)
declare(f"CREATE TABLE IF NOT EXISTS query_history ({', '.join(f'{n} {k}' for n, k in _DUCKDB_TYPES.items())})")


class QueryHistory:
    """The statements of one server; safe to use from many threads."""

    def __init__(self, server: EmbeddedSnowflake) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._running: dict[str, Executed] = {}
        self._ended: list[Executed] = []
        self._oldest = 0.0

    @contextmanager
    def recorded(
        self, connection: FakeSnowflakeConnection, sql: str, tag: str | None, query_id: str
    ) -> Iterator[Executed]:
        """Record what the body runs. ``tag`` is the statement's own; by default it is the session's."""
        executed = self._begun(connection, sql, tag, query_id)
        begun = time.monotonic()
        with self._lock:
            self._running[query_id] = executed
        try:
            yield executed
            executed.execution_status = "SUCCESS"
        except connector_errors.Error as error:
            _failed(executed, error.errno or 603, str(error.raw_msg or error.msg))
            raise
        except Exception as error:
            _failed(executed, 603, f"{type(error).__name__}: {error}")
            raise
        finally:
            seconds = time.monotonic() - begun
            executed.end_time = executed.start_time + timedelta(seconds=seconds)
            executed.total_elapsed_time = round(seconds * 1000)
            self._keep(executed)

    def _begun(self, connection: FakeSnowflakeConnection, sql: str, tag: str | None, query_id: str) -> Executed:
        session = sessions.of(connection)
        bare = without_comments(sql).strip()
        kind, works = _kind(bare)
        warehouse = sessions.warehouse(self._server, session.warehouse) if works and session.warehouse else {}
        return Executed(
            query_id=query_id,
            owner=session.owner,
            query_text=_SECRET.sub(r"\1'****'", sql)[:LONGEST_TEXT],
            database_name=connection.database,
            schema_name=connection.schema,
            query_type=kind,
            session_id=session.number,
            user_name=session.login.user.upper(),
            user_type="SNOWFLAKE_SERVICE" if session.job else None,
            role_name=session.role,
            warehouse_name=session.warehouse,
            warehouse_size=warehouse.get("size"),
            warehouse_type=warehouse.get("type"),
            query_tag=tag if tag is not None else session.parameters.get("QUERY_TAG", ""),
            execution_status="RUNNING",
            error_code=None,
            error_message=None,
            start_time=datetime.now(UTC),
            end_time=STILL_RUNNING,
            total_elapsed_time=0,
            rows_produced=None,
        )

    def _keep(self, executed: Executed) -> None:
        with self._lock:
            self._running.pop(executed.query_id, None)
            self._oldest = self._oldest if self._ended else time.monotonic()
            self._ended.append(executed)
            if len(self._ended) >= BATCH or time.monotonic() - self._oldest > BATCH_SECONDS:
                self._write()

    def flush(self) -> None:
        """Write what is waiting."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        waiting, self._ended = self._ended, []
        if not waiting:
            return
        self._server.catalog.append("query_history", pa.Table.from_pylist([asdict(one) for one in waiting], _SCHEMA))
        self._server.catalog.execute(
            "DELETE FROM query_history WHERE end_time < ? OR end_time < "
            f"(SELECT end_time FROM query_history ORDER BY end_time DESC LIMIT 1 OFFSET {MOST_STATEMENTS})",
            [datetime.now(UTC) - KEPT],
        )

    def select(self, conditions: dict[str, object], most: int, with_running: bool) -> list[Executed]:
        """The latest statements that meet ``conditions`` (SQL with one ``?`` -> its value), those that run first."""
        self.flush()
        where = " AND ".join(conditions) or "TRUE"
        found = self._server.catalog.query(
            f"SELECT * FROM query_history WHERE {where} ORDER BY end_time DESC, query_id LIMIT {most}",
            list(conditions.values()),
        )
        ended = [Executed(**row) for row in found]
        if not with_running:
            return ended
        with self._lock:
            running = list(self._running.values())
        columns = {condition.split()[0]: value for condition, value in conditions.items()}
        columns.pop("end_time", None)
        own = [one for one in running if all(getattr(one, name) == value for name, value in columns.items())]
        return [*own, *ended][:most]


def _kind(bare: str) -> tuple[str, bool]:
    for pattern, name, works in _KINDS:
        if match := pattern.match(bare):
            return name or match.group(1).upper(), works
    return "UNKNOWN", False


def _failed(executed: Executed, number: int, message: str) -> None:
    executed.execution_status = "FAILED_WITH_ERROR"
    executed.error_code, executed.error_message = number, message[:LONGEST_TEXT]


@at_start
def start(server: EmbeddedSnowflake) -> None:
    """Begin to record, until the server stops."""
    server.query_history = QueryHistory(server)
    server.shutdown_callbacks.append(server.query_history.flush)


_RANGE = ("END_TIME_RANGE_START", "END_TIME_RANGE_END")
# What each function takes besides the range, and the column that it means.
_FUNCTIONS = {
    "QUERY_HISTORY": None,
    "QUERY_HISTORY_BY_SESSION": ("SESSION_ID", "session_id"),
    "QUERY_HISTORY_BY_USER": ("USER_NAME", "user_name"),
    "QUERY_HISTORY_BY_WAREHOUSE": ("WAREHOUSE_NAME", "warehouse_name"),
}


@rewriter(r"information_schema\W+query_history")
def table_functions(query: Query) -> str:
    """TABLE(INFORMATION_SCHEMA.QUERY_HISTORY[_BY_SESSION | _BY_USER | _BY_WAREHOUSE](...)) as the rows it returns."""
    tokens = Tokens(query.sql)
    edits = []
    for call in tokens.calls():
        if [part.upper() for part in call.path] != ["TABLE"] or len(call.arguments) != 1:
            continue
        inner = next(Tokens(call.arguments[0]).calls(), None)
        path = [part.upper() for part in inner.path] if inner else []
        if path[-2:-1] == ["INFORMATION_SCHEMA"] and path[-1] in _FUNCTIONS:
            edits.append(Edit(call.start, call.end, _history(query, path[-1], call.arguments[0])))
    return tokens.edited(edits)


def _history(query: Query, function: str, call: str) -> str:
    by = _FUNCTIONS[function]
    known = (*_RANGE, "RESULT_LIMIT", "INCLUDE_CLIENT_GENERATED_STATEMENT", *((by[0],) if by else ()))
    given = computed_tables.named_arguments(call, known)
    conditions: dict[str, object] = {}
    session = sessions.of(query.connection)
    if session.job:
        # A job's user has no privilege on the warehouse.
        conditions["owner = ?"] = session.owner
    if by:
        own = {"user_name": session.login.user.upper(), "warehouse_name": session.warehouse}
        current = own.get(by[1], session.number)
        conditions[f"{by[1]} = ?"] = _spelled(given[by[0]], current) if by[0] in given else current
    for name, comparison in zip(_RANGE, (">=", "<"), strict=True):
        if name in given:
            conditions[f"end_time {comparison} ?"] = at = computed_tables.moment(query, given[name])
            if at < datetime.now(UTC) - KEPT:
                raise invalid(f"SQL compilation error:\n{name} is not within the last 7 days: {at.isoformat()}")
    most = computed_tables.limit(given.get("RESULT_LIMIT", "100"))
    found = query.server.query_history.select(conditions, most, with_running=_RANGE[1] not in given)
    types = {name.upper(): kind for name, kind in _DUCKDB_TYPES.items() if name != "owner"}
    rows = [tuple(getattr(one, name.lower()) for name in types) for one in found]
    return computed_tables.source(query.server, types, rows)


def _spelled(expression: str, current: object) -> object:
    """The value of SESSION_ID, USER_NAME or WAREHOUSE_NAME."""
    if expression.strip().upper().startswith("CURRENT_"):
        return current
    plain = expression.strip().strip("'")
    if isinstance(current, int):
        return int(plain)
    return plain.strip('"') if plain.startswith('"') else plain.upper()

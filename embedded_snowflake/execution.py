"""Running SQL: one statement of one session through fakesnow, with those semantics of Snowflake that DuckDB lacks.

Those are: statements that are all or nothing, writers that wait for each other, DDL that commits, RESULT_SCAN. How
Snowflake's syntax is put in DuckDB's is fakesnow's work, and where fakesnow lacks it that of ``sql_functions``; stages
are in ``stage_queries`` and ``copying``.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import random
import re
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
from fakesnow import transforms
from fakesnow.cursor import FakeSnowflakeCursor
from fakesnow.dialect import parse
from fakesnow.statement_type import SELECT, statement_type_id
from sqlglot import Expr, exp
from sqlglot.errors import SqlglotError

from embedded_snowflake import (
    copying,
    datasets,
    descriptions,
    disk_space,
    models,
    names,
    sessions,
    sql_functions,
    stage_queries,
    stages,
)
from embedded_snowflake.descriptions import Described
from embedded_snowflake.errors import ProgrammingError, does_not_exist, from_engine, unsupported
from embedded_snowflake.names import Name
from embedded_snowflake.results import Result
from embedded_snowflake.sessions import Session

if TYPE_CHECKING:
    from fakesnow.fakes import FakeSnowflakeConnection

    from embedded_snowflake.server import EmbeddedSnowflake

# fakesnow logs every statement that sqlglot reads as a bare command; those are answered or refused by name here.
logging.getLogger("sqlglot").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message="Arrow output on a DB-API result")

CONFLICT_ATTEMPTS = 50
Binds = Sequence[Any] | dict[str, Any] | None
_DML = (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Copy)
_DDL = (exp.Create, exp.Drop, exp.Alter, exp.Comment, exp.TruncateTable)
# Kinds of object that CREATE, DROP and ALTER are served for by fakesnow.
_KINDS = {
    "TABLE",
    "VIEW",
    "SCHEMA",
    "DATABASE",
    "SEQUENCE",
    "FILE FORMAT",
    "TAG",
    "SESSION",
    "COLUMN",
}
_UNSERVED_TABLES = (exp.DynamicProperty, exp.ExternalProperty, exp.IcebergProperty, exp.MaterializedProperty)
_SHOWN = (
    *("COLUMNS", "DATABASES", "FILE FORMATS", "FUNCTIONS", "OBJECTS", "PROCEDURES"),
    *("SCHEMAS", "SEQUENCES", "TABLES", "VIEWS"),
)
_SERVED = (
    *(exp.Query, *_DML, *_DDL, exp.Show, exp.Describe, exp.Use, exp.Set, exp.Command),
    # fakesnow reads UNSET name as an alias.
    *(exp.Transaction, exp.Commit, exp.Rollback, exp.Alias),
)
_TABLE_FUNCTIONS = {"RESULT_SCAN", "INFER_SCHEMA", "GENERATOR", "FLATTEN", "SPLIT_TO_TABLE"}
_COMMANDS = {"SET", "UNSET", "EXPLAIN"}


class Cursor(FakeSnowflakeCursor):
    """fakesnow's cursor, given statements that are parsed already."""

    def __init__(self, connection: FakeSnowflakeConnection) -> None:
        super().__init__(connection, connection._duck_conn)

    def translated(self, expression: Expr, binds: list[Any] | None) -> Expr:
        """The statement in DuckDB's words; ``binds`` loses those that named objects."""
        transformed = self._transform(expression, binds)
        for identifier in transformed.find_all(exp.Identifier):
            if not identifier.quoted and identifier.name.upper() in _reserved_words():
                identifier.set("quoted", True)
        return transformed

    def run(self, expression: Expr, binds: list[Any] | None) -> None:
        """Run a statement; its rows are this cursor's table."""
        self.check_db_and_schema(expression)
        for part in self._transform_explode(expression):
            transformed = self.translated(part, binds)
            self._execute(transformed, binds if transformed.find(exp.Placeholder) else None)

    def result(self, type_id: int) -> Result:
        """What ``run`` left."""
        table = self._arrow_table if self._arrow_table is not None else pa.table({})
        types = [str(column[1]) for column in self._duck_conn.description or []]
        return Result.of(table, types, type_id, self._rowcount)


@dataclass(frozen=True)
class Run:
    """One statement on its way. ``described`` is what a CREATE says that DuckDB is not told."""

    server: EmbeddedSnowflake
    connection: FakeSnowflakeConnection
    session: Session
    expression: Expr
    binds: list[Any] | None
    query_id: str
    described: Described = field(default_factory=Described)
    # Whether who runs it has made it all or nothing.
    enclosed: bool = False

    @property
    def duckdb(self) -> duckdb.DuckDBPyConnection:
        return self.connection._duck_conn

    @property
    def in_transaction(self) -> bool:
        return self.session.in_transaction or self.connection._in_transaction


def execute(
    server: EmbeddedSnowflake, connection: FakeSnowflakeConnection, sql: str, binds: Binds, query_id: str
) -> Result:
    """Run one statement and return its result. Raises ProgrammingError for whatever goes wrong."""
    session = sessions.of(connection)
    with _in_turn(session):
        expression = _parsed(sql, connection)
        run = _prepared(Run(server, connection, session, expression, _list(binds), query_id))
        with _stages_bound(run):
            return replace(_with_retries(run), query_id=query_id)


def execute_many(
    server: EmbeddedSnowflake,
    connection: FakeSnowflakeConnection,
    sql: str,
    rows: Sequence[Sequence[Any]],
    query_id: str,
) -> Result:
    """Run a statement for each row of values, all or nothing; the result has the rows affected in total."""
    session = sessions.of(connection)
    with _in_turn(session):
        expression = _parsed(sql, connection)
        type_id = statement_type_id(expression)
        if not isinstance(expression, exp.Insert):
            raise unsupported("array binding of anything but INSERT", "send the statement once for each row")
        first = Run(server, connection, session, expression, None, query_id)
        affected = 0
        with _engine_errors(), _atomic(first):
            for row in rows:
                run = _prepared(replace(first, expression=expression.copy(), binds=list(row), enclosed=True))
                affected += _run(run).affected or 0
        table = pa.table({"number of rows inserted": [affected]})
        return Result(table, ("BIGINT",), type_id, affected, query_id)


def describe(server: EmbeddedSnowflake, connection: FakeSnowflakeConnection, sql: str, query_id: str) -> Result | None:
    """The columns of a query without running it; None for a statement that is described by running it."""
    session = sessions.of(connection)
    with _in_turn(session):
        expression = _parsed(sql, connection)
        type_id = statement_type_id(expression)
        if isinstance(expression, _DML):
            return Result(pa.table({"number of rows": pa.array([], pa.int64())}), ("BIGINT",), type_id, None, query_id)
        if not isinstance(expression, exp.Query):
            return None
        # A request to describe carries no values; what they are does not change the columns.
        expression = expression.transform(lambda node: exp.Null() if isinstance(node, exp.Placeholder) else node)
        run = _prepared(Run(server, connection, session, expression, None, query_id))
        with _stages_bound(run), _engine_errors():
            cursor = Cursor(connection)
            cursor.check_db_and_schema(run.expression)
            translated = cursor.translated(run.expression, None).sql(dialect="duckdb")
            table = run.duckdb.execute(f"SELECT * FROM ({translated}) LIMIT 0").to_arrow_table()
            types = [str(column[1]) for column in run.duckdb.description or []]
            return replace(Result.of(table, types, SELECT), query_id=query_id)


@contextlib.contextmanager
def _in_turn(session: Session) -> Iterator[None]:
    with session.lock:
        if reason := session.aborted:
            session.aborted = None
            raise ProgrammingError(msg=f"The transaction was aborted: {reason}.", errno=90232, sqlstate="40001")
        session.cancelled = False
        yield


def _list(binds: Binds) -> Any:
    return list(binds) if binds is not None and not isinstance(binds, dict) else binds


def _parsed(sql: str, connection: FakeSnowflakeConnection) -> Expr:
    sql = _with_variables(sql, connection)
    # sqlglot reads SCOPED as something that it does not know.
    sql = re.sub(
        r"\A(\s*CREATE\s+(?:OR\s+REPLACE\s+)?)SCOPED\s+TEMP(?:ORARY)?\b", r"\1TEMPORARY", sql, flags=re.IGNORECASE
    )
    statements = [parsed for parsed in parse(sql) if parsed and not isinstance(parsed, exp.Semicolon)]
    if len(statements) != 1:
        raise ProgrammingError(
            msg=f"Actual statement count {len(statements)} did not match the desired statement count 1.",
            errno=8,
            sqlstate="0A000",
        )
    _refuse(statements[0], sql)
    return statements[0]


def _with_variables(sql: str, connection: FakeSnowflakeConnection) -> str:
    """The session's variables put in; a $ inside of a literal is none."""
    pieces = re.split(r"""('(?:[^'\\]|\\.|'')*'|"(?:[^"]|"")*"|\$\$.*?\$\$)""", sql, flags=re.DOTALL)
    return "".join(
        piece if position % 2 else connection.variables.inline_variables(piece) for position, piece in enumerate(pieces)
    )


def _refuse(expression: Expr, sql: str) -> None:
    """Raise for what neither this server nor fakesnow serves, which DuckDB might take for something else."""
    if isinstance(expression, exp.Command):
        verb = str(expression.this).upper()
        if verb not in _COMMANDS and not re.search(r"\b(?:RESUME|SUSPEND)\s+RECLUSTER\b", sql, re.IGNORECASE):
            raise unsupported(_words(sql))
        if verb == "EXPLAIN" and not re.match(r"\s*(?:USING\s+\w+\s+)?(?:SELECT|WITH)\b", _explained(expression), re.I):
            # The engine would run what stands behind ANALYZE: COPY writes files.
            raise unsupported("EXPLAIN of anything but a query")
    if isinstance(expression, (exp.Create, exp.Drop, exp.Alter)):
        kind = str(expression.args.get("kind") or "").upper()
        if kind not in _KINDS:
            raise unsupported(_words(sql))
        if kind == "DATABASE" and not re.fullmatch(r"\w[\w$]*", _first_name(expression)):
            # fakesnow puts the name into SQL and into the path of a file as it is.
            raise unsupported(f"the database name '{_first_name(expression)}'", "letters, digits, _ and $ are served")
        properties = expression.args.get("properties")
        if properties and (unserved := properties.find(*_UNSERVED_TABLES)):
            raise unsupported(f"CREATE {type(unserved).__name__.removesuffix('Property').upper()} {kind}")
    if isinstance(expression, exp.Show) and expression.name.upper() not in _SHOWN:
        raise unsupported(_words(sql))
    if not isinstance(expression, _SERVED):
        raise unsupported(_words(sql))
    for source in expression.find_all(exp.TableFromRows):
        name = source.this.name.upper() if isinstance(source.this, exp.Anonymous) else ""
        if name and name not in _TABLE_FUNCTIONS:
            raise unsupported(f"table function {name}")


def _explained(expression: exp.Command) -> str:
    argument = expression.expression
    return argument.name if isinstance(argument, Expr) else str(argument or "")


def _words(sql: str) -> str:
    """What kind of statement it is: its first words up to a name."""
    words = re.findall(r"[A-Za-z_$][\w$!.]*", re.sub(r"'[^']*'", " ", sql))[:6]
    verb = words[0].upper() if words else sql[:40]
    rest = [
        word.upper() for word in words[1:] if word.upper() not in ("OR", "REPLACE", "IF", "NOT", "EXISTS", "TEMPORARY")
    ]
    two = {
        "FILE",
        "COMPUTE",
        "ROW",
        "MASKING",
        "EXTERNAL",
        "NETWORK",
        "RESOURCE",
        "IMAGE",
        "SECURITY",
        "API",
        "NOTIFICATION",
    }
    count = 2 if rest and rest[0] in two else 1
    return " ".join([verb, *rest[:count]])


def _prepared(run: Run) -> Run:
    """The statement with names resolved and Snowflake's own functions translated."""
    binds = run.binds
    expression = run.expression.transform(lambda node: _identified(node, binds))
    _scan_results(run, expression)
    expression = sql_functions.translate(expression, sql_functions.Context(run.server, run.connection))
    for table in list(expression.find_all(exp.Table)):
        _resolve_temporary(run, table)
    described = run.described
    if isinstance(expression, exp.Create) and str(expression.kind).upper() in ("TABLE", "VIEW"):
        described = descriptions.take_out(expression)
    return replace(run, expression=expression, described=described)


def _identified(node: Expr, binds: Any) -> Expr:
    """IDENTIFIER(...) as the object it names."""
    found = transforms.identifier(node, binds)
    if found is node or '"."' not in found.name:
        return found
    # fakesnow takes a name whose parts are all quoted for one part.
    parts = [exp.to_identifier(part, quoted=True) for part in found.name.split('"."')]
    return exp.Table(**dict(zip(("this", "db", "catalog"), reversed(parts), strict=False)))


@functools.cache
def _reserved_words() -> frozenset[str]:
    """Words that are no names in DuckDB unless quoted; some of them, such as AT, are in Snowflake."""
    with duckdb.connect() as scratch:
        found = scratch.execute(
            "SELECT upper(keyword_name) FROM duckdb_keywords() WHERE keyword_category <> 'unreserved'"
        ).fetchall()
    return frozenset(word for (word,) in found)


def _name(run: Run, table: exp.Table) -> Name | None:
    """The full name of a table, None where the session has no database or schema to complete it."""
    if not isinstance(table.this, exp.Identifier):
        return None

    def stored(part: Expr | None, default: str | None) -> str | None:
        if not isinstance(part, exp.Identifier):
            return default
        return part.name if part.quoted else part.name.upper()

    database = stored(table.args.get("catalog"), run.connection.database)
    schema = stored(table.args.get("db"), run.connection.schema)
    name = stored(table.this, None)
    return Name(database, schema, name) if database and schema and name else None


def _resolve_temporary(run: Run, table: exp.Table) -> None:
    """DuckDB keeps temporary tables apart from every schema, so they go by their bare name."""
    name = _name(run, table)
    if name is None:
        return
    created = table.find_ancestor(exp.Create)
    is_new = created is not None and created.find(exp.Table) is table and created.kind in ("TABLE", "VIEW")
    temporary = is_new and created is not None and created.find(exp.TemporaryProperty) is not None
    if temporary or (name in run.session.temporary_tables and not is_new):
        table.set("db", None)
        table.set("catalog", None)
        table.set("this", exp.to_identifier(name.name, quoted=True))


@contextlib.contextmanager
def _stages_bound(run: Run) -> Iterator[None]:
    bound = stage_queries.bind(run.server, run.connection, run.expression, run.binds)
    try:
        yield
    finally:
        bound.release()
        for name in _scanned(run):
            run.duckdb.unregister(name)


def _scan_results(run: Run, expression: Expr) -> None:
    """Put the rows of an earlier statement in the place of TABLE(RESULT_SCAN(id))."""
    for source in list(expression.find_all(exp.TableFromRows)):
        function = source.this
        if not (isinstance(function, exp.Anonymous) and function.name.upper() == "RESULT_SCAN"):
            continue
        argument = function.expressions[0]
        if isinstance(argument, exp.Anonymous):
            query_id = sql_functions.last_query_id(argument, run.session)
        elif isinstance(argument, exp.Placeholder) and run.binds:
            query_id = str(run.binds.pop(0))
        else:
            query_id = argument.name
        result = _remembered(run, query_id)
        name = _scan_name(query_id or "")
        run.duckdb.register(name, result.table)
        view = exp.Table(this=exp.to_identifier(name, quoted=True), db="main", catalog="temp")
        if alias := source.args.get("alias"):
            view.set("alias", alias)
        source.replace(view)


def _scan_name(query_id: str) -> str:
    return f"_RESULT_{query_id}"


def _scanned(run: Run) -> list[str]:
    return [table.name for table in run.expression.find_all(exp.Table) if table.name.startswith("_RESULT_")]


def _remembered(run: Run, query_id: str | None) -> Result:
    try:
        outcome = run.server.results.get(query_id or "", run.session.owner)
    except KeyError:
        raise ProgrammingError(msg=f"Statement {query_id} not found", errno=709, sqlstate="02000") from None
    if isinstance(outcome, Result):
        return outcome
    if outcome is None:
        raise ProgrammingError(msg=f"Statement {query_id} has not finished", errno=709, sqlstate="02000")
    raise outcome


@contextlib.contextmanager
def _engine_errors() -> Iterator[None]:
    try:
        yield
    except ProgrammingError as error:
        raise from_engine(error.__cause__, error) from error
    except duckdb.Error as error:
        raise from_engine(error) from error
    except NotImplementedError as error:
        raise unsupported(str(error)) from error
    except SqlglotError as error:
        raise ProgrammingError(msg=f"SQL compilation error:\n{error}", errno=1003, sqlstate="42000") from error


def _with_retries(run: Run) -> Result:
    """Run again what DuckDB lets fail because another transaction changed the same thing; not inside a transaction."""
    for attempt in range(CONFLICT_ATTEMPTS):
        try:
            with _engine_errors():
                return _run(replace(run, expression=run.expression.copy(), binds=_list(run.binds)))
        except ProgrammingError as error:
            conflict = error.errno == 625 and not run.in_transaction
            if not conflict or attempt == CONFLICT_ATTEMPTS - 1:
                raise
            time.sleep(random.uniform(0.005, 0.02) * min(attempt + 1, 20))  # noqa: S311 - to part two that wait
    raise AssertionError("unreachable")


def _run(run: Run) -> Result:
    expression, type_id = run.expression, statement_type_id(run.expression)
    if isinstance(expression, (exp.Transaction, exp.Commit, exp.Rollback)):
        return _transaction_control(run, expression)
    if isinstance(expression, _DDL) and run.in_transaction and not _is_temporary(run, expression):
        # Snowflake's DDL is a transaction of its own.
        _transaction_control(run, exp.Commit())
    if _writes(expression) and (run.in_transaction or not run.connection._autocommit):
        # Before it has had an effect: this cannot be taken back without the rest of the transaction.
        disk_space.require("the table")
    try:
        for table in _locked_tables(run):
            run.server.table_locks.acquire(run.session, table)
        if isinstance(expression, exp.Merge):
            return _merge(run, type_id)
        if isinstance(expression, exp.Copy):
            return _copy(run, expression, type_id)
        if isinstance(expression, exp.Drop) and str(expression.kind).upper() == "DATABASE":
            return _drop_database(run, expression)
        cursor = Cursor(run.connection)
        # What is recorded of tables is in a database of its own: two CREATEs at once would meet there.
        is_brief = isinstance(expression, _DDL) and not expression.find(exp.Query)
        with run.server.lock if is_brief else contextlib.nullcontext():
            at_stake = _is_several(cursor, run) or (disk_space.may_run_out() and _writes(expression))
            with _atomic(run) if at_stake else contextlib.nullcontext():
                cursor.run(expression, run.binds)
                result = _filtered(expression, cursor.result(type_id))
            _after(run)
        return result
    finally:
        if not run.in_transaction:
            run.server.table_locks.release(run.session)


def _writes(expression: Expr) -> bool:
    """Whether rows are written to a table."""
    if isinstance(expression, exp.Create):
        return str(expression.kind).upper() == "TABLE" and expression.expression is not None
    return isinstance(expression, _DML) and not (isinstance(expression, exp.Copy) and copying.is_unload(expression))


def _is_several(cursor: Cursor, run: Run) -> bool:
    return isinstance(run.expression, _DML) and len(cursor._transform_explode(run.expression.copy())) > 1


def _is_temporary(run: Run, expression: Expr) -> bool:
    return isinstance(expression, exp.Create) and str(expression.kind).upper() == "FILE FORMAT"


def _filtered(expression: Expr, result: Result) -> Result:
    """A SHOW's rows by its LIKE, which fakesnow heeds for some kinds only."""
    like = expression.args.get("like") if isinstance(expression, exp.Show) else None
    column = "column_name" if expression.name.upper() == "COLUMNS" else "name"
    if not isinstance(like, exp.Literal) or column not in result.table.column_names:
        return result
    pattern = names.like_pattern(like.name)
    keep = [bool(pattern.fullmatch(name)) for name in result.table.column(column).to_pylist()]
    return replace(result, table=result.table.filter(pa.array(keep, pa.bool_())))


@contextlib.contextmanager
def _atomic(run: Run) -> Iterator[None]:
    """All that happens in here or nothing. In an open transaction that is the transaction's own business."""
    if run.in_transaction or run.enclosed:
        yield
        return
    run.duckdb.begin()
    if not run.connection._autocommit:
        run.connection._in_transaction = True
        yield
        return
    try:
        yield
        disk_space.require("the table")
    except BaseException:
        with contextlib.suppress(duckdb.TransactionException):
            run.duckdb.rollback()
        raise
    run.duckdb.commit()


def _transaction_control(run: Run, expression: Expr) -> Result:
    answer = Result.of(pa.table({"status": ["Statement executed successfully."]}))
    if isinstance(expression, exp.Transaction):
        if not run.in_transaction:
            run.duckdb.begin()
            run.session.in_transaction = True
        return answer
    if not run.in_transaction:
        return answer
    try:
        if isinstance(expression, exp.Commit):
            run.duckdb.commit()
        else:
            run.duckdb.rollback()
    finally:
        run.session.in_transaction = run.connection._in_transaction = False
        run.server.table_locks.release(run.session)
    return answer


def _locked_tables(run: Run) -> list[str]:
    """The tables whose rows or definition the statement changes; a plain INSERT only adds."""
    expression = run.expression
    overwrites = isinstance(expression, exp.Insert) and bool(expression.args.get("overwrite"))
    if overwrites or isinstance(expression, (exp.Update, exp.Delete, exp.Merge)):
        tables = [expression.this]
    elif isinstance(expression, exp.TruncateTable):
        tables = expression.expressions
    elif isinstance(expression, exp.Copy) and not copying.is_unload(expression):
        tables = [copying.target_table(expression)]
    elif isinstance(expression, (exp.Create, exp.Drop, exp.Alter)):
        tables = [expression.this] if str(expression.args.get("kind")).upper() in ("TABLE", "VIEW") else []
    else:
        tables = []
    bare = [table.this if isinstance(table, exp.Schema) else table for table in tables]
    names = [_name(run, table) for table in bare if isinstance(table, exp.Table)]
    # Always in one order, so that two statements cannot wait for each other.
    return sorted(str(name) for name in names if name)


def _merge(run: Run, type_id: int) -> Result:
    """MERGE as DuckDB's own: like Snowflake's it is one statement and refuses a row that is matched twice."""
    cursor = Cursor(run.connection)
    cursor.check_db_and_schema(run.expression)
    merged = cursor.translated(run.expression, run.binds)
    kinds: list[str] = []
    for when in merged.args["whens"].expressions:
        then = when.args.get("then")
        if isinstance(then, exp.Update):
            kinds.append("updated")
            for assignment in then.expressions:
                if isinstance(assignment, exp.EQ) and isinstance(assignment.this, exp.Column):
                    assignment.set("this", exp.column(assignment.this.this))
        else:
            kinds.append("inserted" if isinstance(then, exp.Insert) else "deleted")
    counts: Counter[str] = Counter()
    with _atomic(run):
        run.duckdb.execute(f"{merged.sql(dialect='duckdb')} RETURNING merge_action", run.binds or None)
        actions: Any = run.duckdb.to_arrow_reader(100_000)
        for batch in actions:
            for pair in batch.column(0).value_counts().to_pylist():
                counts[pair["values"]] += pair["counts"]
    named = {"inserted": "INSERT", "updated": "UPDATE", "deleted": "DELETE"}
    table = pa.table({f"number of rows {kind}": [counts[action]] for kind, action in named.items() if kind in kinds})
    return Result.of(table, type_id=type_id, affected=sum(counts.values()))


def _copy(run: Run, expression: exp.Copy, type_id: int) -> Result:
    def translate(expression: Expr, binds: list[Any] | None) -> str:
        cursor = Cursor(run.connection)
        cursor.check_db_and_schema(expression)
        return cursor.translated(expression, binds).sql(dialect="duckdb")

    copy = copying.Copy(run.server, run.connection, expression, list(run.binds or []), translate)
    if copying.is_unload(expression):
        return Result.of(copying.unload(copy, run.query_id), type_id=type_id)
    _upper_case(copying.target_table(expression))
    if isinstance(expression.this, exp.Schema):
        for column in expression.this.expressions:
            _upper_case(column)
    with _atomic(run):
        table = copying.load(copy)
    return Result.of(table, type_id=type_id)


def _upper_case(expression: Expr) -> None:
    for identifier in expression.find_all(exp.Identifier):
        if not identifier.quoted:
            identifier.set("this", identifier.name.upper())
            identifier.set("quoted", True)


def _after(run: Run) -> None:
    """What else a statement that succeeded means: temporary tables, stages of a dropped schema, a database's file."""
    expression = run.expression
    kind = str(expression.args.get("kind") or "").upper()
    if isinstance(expression, exp.Create) and expression.find(exp.TemporaryProperty):
        if (table := expression.find(exp.Table)) and (name := _name(run, table)):
            known = run.session.temporary_formats if kind == "FILE FORMAT" else run.session.temporary_tables
            known.add(name)
            if kind in ("TABLE", "VIEW"):
                descriptions.remember(run.server, run.duckdb, name, run.described, True, kind == "VIEW")
    elif isinstance(expression, exp.Create) and kind in ("TABLE", "VIEW"):
        if (table := expression.find(exp.Table)) and (name := _name(run, table)):
            descriptions.remember(run.server, run.duckdb, name, run.described, False, kind == "VIEW")
    elif isinstance(expression, exp.Create) and kind == "DATABASE":
        _enter_database(run, expression)
    elif isinstance(expression, exp.Drop) and kind in ("TABLE", "VIEW"):
        if (table := expression.find(exp.Table)) and (name := _name(run, table)):
            if name not in run.session.temporary_tables:
                descriptions.forget(run.server, name)
            run.session.temporary_tables.discard(name)
    elif isinstance(expression, exp.Drop) and kind == "SCHEMA":
        database, schema = _schema_name(run, expression)
        stages.drop_all_in(run.server, database, schema)
        models.drop_all_in(run.server, database, schema)
        datasets.drop_all_in(run.server, database, schema)
        descriptions.forget_all_in(run.server, database, schema)
    elif isinstance(expression, exp.Alter) and (renamed := expression.find(exp.AlterRename)):
        old, new = _name(run, expression.this), _name(run, renamed.this)
        if old and new:
            descriptions.rename(run.server, old, new)
    elif isinstance(expression, exp.TruncateTable):
        for table in expression.expressions:
            if name := _name(run, table):
                copying.remove_history(run.duckdb, name.database, name.schema, name.name)


def _schema_name(run: Run, expression: Expr) -> tuple[str, str]:
    table = expression.find(exp.Table)
    parts = [_stored(part) for part in table.parts if isinstance(part, exp.Identifier)] if table else []
    database = parts[-2] if len(parts) > 1 else str(run.connection.database)
    return database, parts[-1] if parts else ""


def _stored(identifier: exp.Identifier) -> str:
    return identifier.name if identifier.quoted else identifier.name.upper()


def _first_name(expression: Expr) -> str:
    identifier = expression.find(exp.Identifier)
    return _stored(identifier) if identifier else ""


def _enter_database(run: Run, expression: exp.Create) -> None:
    """A database has a schema PUBLIC from the start, and the session that creates it is in it."""
    database = _first_name(expression)
    run.duckdb.execute(f'CREATE SCHEMA IF NOT EXISTS "{database}"."PUBLIC"')
    Cursor(run.connection).run(exp.maybe_parse(f'USE SCHEMA "{database}"."PUBLIC"', dialect="snowflake"), None)


def _drop_database(run: Run, expression: exp.Drop) -> Result:
    database = _first_name(expression)
    attached = run.duckdb.execute("SELECT 1 FROM duckdb_databases() WHERE database_name = ?", [database]).fetchone()
    if not attached and not expression.args.get("exists"):
        raise does_not_exist("Database", database)
    if attached:
        if run.connection.database == database:
            # DuckDB does not detach what a connection is in.
            run.duckdb.execute("USE memory")
            run.connection.database = run.connection._schema = None
            run.connection.database_set = run.connection.schema_set = False
        run.duckdb.execute(f'DETACH "{database}"')
        stages.drop_all_in(run.server, database)
        models.drop_all_in(run.server, database)
        datasets.drop_all_in(run.server, database)
        descriptions.forget_all_in(run.server, database)
        run.server.forget_database(database)
    message = f"{database} successfully dropped." if attached else "Drop statement executed successfully."
    return Result.of(pa.table({"status": [message]}), type_id=statement_type_id(expression))

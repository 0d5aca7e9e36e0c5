"""Queries on the files of a stage: ``SELECT $1, METADATA$FILENAME FROM @stage``, INFER_SCHEMA, and how a file is read.

A stage in a FROM clause becomes a temporary view of the session's DuckDB connection for as long as the statement runs.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
from fakesnow.transforms.file_format import lookup_file_format
from fakesnow.transforms.options import parse_options
from sqlglot import Expr, exp

from embedded_snowflake import names, sessions, stages
from embedded_snowflake.errors import ProgrammingError, does_not_exist, invalid, unsupported
from embedded_snowflake.names import NAME, Name
from embedded_snowflake.stages import StagedFile, StageLocation
from embedded_snowflake.statements import Answer, Options, Query, Statement, rewriter, statement, status

if TYPE_CHECKING:
    from fakesnow.fakes import FakeSnowflakeConnection

    from embedded_snowflake.server import EmbeddedSnowflake

FILENAME, ROW_NUMBER, MODIFIED = "METADATA$FILENAME", "METADATA$FILE_ROW_NUMBER", "METADATA$FILE_LAST_MODIFIED"
SCAN_TIME, CONTENT_KEY = "METADATA$START_SCAN_TIME", "METADATA$FILE_CONTENT_KEY"
MAX_FIELD_BYTES = 16 * 2**20


@dataclass(frozen=True)
class FileFormat:
    """How files are read and written: Snowflake's FILE_FORMAT options, their type among them."""

    type: str
    options: dict[str, Any]

    @classmethod
    def of(cls, options: dict[str, Any]) -> FileFormat:
        """Read options. Raises for a type that is not served."""
        rest = {key.upper(): value for key, value in options.items()}
        kind = str(rest.pop("TYPE", "CSV")).upper()
        if kind not in ("CSV", "JSON", "PARQUET"):
            raise unsupported(f"FILE_FORMAT TYPE = {kind}", "CSV, JSON and PARQUET are read")
        return cls(kind, rest)

    def text(self, key: str, default: str = "") -> str:
        """An option's text; NONE, as SQL spells it, is the empty text."""
        value = self.options.get(key, default)
        written = str(value if value is not None else "")
        return "" if written.upper() == "NONE" else written

    def flag(self, key: str, default: bool = False) -> bool:
        """Whether an option is TRUE."""
        return str(self.options.get(key, default)).upper() == "TRUE"


@dataclass(frozen=True)
class Reader:
    """A query in DuckDB's words that reads files: their columns and the METADATA$ columns."""

    sql: str
    columns: tuple[str, ...]
    registered: dict[str, pa.Table]


def named_format(connection: FakeSnowflakeConnection, name: str) -> FileFormat:
    """The file format of this name. Raises 2003 when it is missing."""
    return FileFormat.of(
        lookup_file_format(connection._duck_conn.cursor(), name, connection.database, connection.schema)
    )


def format_from(
    connection: FakeSnowflakeConnection, location: StageLocation, written: Sequence[Expr] | None
) -> FileFormat:
    """The format that ``FILE_FORMAT = (...)`` gives; without one, the stage's own."""
    options = parse_options(written) if written else {}
    if not written:
        own = Options.parse(location.stage.options.get("FILE_FORMAT", "")).values
        options = {key: _listed(value) for key, value in own.items()}
    name = options.pop("FORMAT_NAME", None)
    base = named_format(connection, str(name)) if name else None
    if base:
        return FileFormat(base.type, {**base.options, **{key.upper(): value for key, value in options.items()}})
    return FileFormat.of(options)


def _listed(value: str) -> str | list[str]:
    """An option's value; of ``('a', 'b')``, as NULL_IF has it, the list."""
    if not value.startswith("("):
        return value
    return [names.text(part) for part in re.findall(r"'(?:[^'\\]|\\.|'')*'", value)]


@statement(rf"DROP FILE FORMAT(?P<exists> IF EXISTS)? (?P<name>{NAME})")
def drop_file_format(request: Statement) -> Answer:
    """DROP FILE FORMAT [IF EXISTS] name"""
    name = names.qualified(request.connection, names.spelled(request.group("name") or "", request.binds))
    dropped = forget_format(request.server, name)
    if not dropped and not request.group("exists"):
        raise does_not_exist("File format", str(name))
    return status(f"{name.name} successfully dropped." if dropped else "Drop statement executed successfully.")


def forget_format(server: EmbeddedSnowflake, name: Name) -> bool:
    """Drop a file format. False when there is none of that name."""
    with server.fakesnow.duck_conn.cursor() as cursor:
        dropped = cursor.execute(
            "DELETE FROM _fs_global._fs_information_schema._fs_file_formats "
            "WHERE database_name = ? AND schema_name = ? AND name = ? RETURNING name",
            [name.database, name.schema, name.name],
        ).fetchall()
    return bool(dropped)


@sessions.at_end
def drop_temporary_formats(server: EmbeddedSnowflake, session: sessions.Session) -> None:
    """A temporary file format goes with its session."""
    for name in session.temporary_formats:
        forget_format(server, name)


# What is a literal, a name or a comment is passed over; a location may have quoted names in it.
_BARE_URL = re.compile(
    r"""('(?:[^'\\]|\\.|'')*'|"(?:[^"]|"")*"|\$\$.*?\$\$|/\*.*?\*/|--[^\n]*)|(snow://(?:"(?:[^"]|"")*"|[^\s"'();,])+)""",
    re.IGNORECASE | re.DOTALL,
)


@rewriter("snow://")
def quote_urls(query: Query) -> str:
    """``FROM snow://...``, as Snowpark writes it, with the location in quotes: without them ``//`` is a comment."""
    return _BARE_URL.sub(lambda match: match.group(1) or f"'{match.group(2)}'", query.sql)


@dataclass
class Bound:
    """The views made for one statement; ``release`` drops them."""

    connection: duckdb.DuckDBPyConnection
    views: list[str]
    tables: list[str]

    def release(self) -> None:
        for view in self.views:
            self.connection.execute(f"DROP VIEW IF EXISTS {view}")
        for table in self.tables:
            self.connection.unregister(table)


def bind(
    server: EmbeddedSnowflake,
    connection: FakeSnowflakeConnection,
    expression: Expr,
    binds: list[Any] | dict[str, Any] | None = None,
) -> Bound:
    """Put a view in the place of every stage that ``expression`` reads from; ``binds`` loses those that named one."""
    bound = Bound(connection._duck_conn, [], [])
    try:
        for table in list(expression.find_all(exp.Table)):
            spelled = _stage_of(table)
            if spelled and not _is_copied(table):
                _bind_one(server, connection, table, spelled, bound)
        for source in list(expression.find_all(exp.TableFromRows)):
            _bind_function(server, connection, source, bound, binds)
    except BaseException:
        bound.release()
        raise
    return bound


def _is_copied(table: exp.Table) -> bool:
    """Whether the stage is the target or the source of a COPY, which reads and writes stages by itself."""
    copy = table.find_ancestor(exp.Copy)
    if copy is None:
        return False
    unloads = isinstance(copy.this, exp.Table) and _stage_of(copy.this) is not None
    return table is copy.this or not unloads


def _stage_of(table: exp.Table) -> str | None:
    this = table.this
    if isinstance(this, (exp.Var, exp.Literal)) and str(this.this).startswith(("@", "snow://")):
        return str(this.this)
    return None


def _bind_one(
    server: EmbeddedSnowflake, connection: FakeSnowflakeConnection, table: exp.Table, spelled: str, bound: Bound
) -> None:
    select = table.find_ancestor(exp.Select)
    if select is None or _is_in_a_view(table):
        raise unsupported("a stage in this place of a statement", "SELECT ... FROM @stage is served")
    location = stages.readable(server, connection, spelled)
    written, pattern = table.args.get("format"), table.args.get("pattern")
    if isinstance(written, Expr):
        file_format = named_format(connection, written.name or written.sql(dialect="snowflake"))
    else:
        file_format = format_from(connection, location, None)
    found = stages.files(location, pattern.name if pattern else None)
    read = reader(location, found, file_format)
    view = register(connection, read, bound)
    rewrite_columns(select, read, file_format)
    alias = table.args.get("alias")
    table.replace(exp.Table(this=exp.to_identifier(view, quoted=True), db="main", catalog="temp", alias=alias))


def _is_in_a_view(node: Expr) -> bool:
    """Whether the node is inside the definition of a view, which would outlive what it reads."""
    created = node.find_ancestor(exp.Create)
    return bool(created and created.kind == "VIEW")


def register(connection: FakeSnowflakeConnection, read: Reader, bound: Bound) -> str:
    """Make the view of a reader and return its name."""
    for name, table in read.registered.items():
        connection._duck_conn.register(name, table)
        bound.tables.append(name)
    view = f"_STAGE_FILES_{id(read)}"
    connection._duck_conn.execute(f'CREATE OR REPLACE TEMP VIEW "{view}" AS {read.sql}')
    bound.views.append(f'temp.main."{view}"')
    return view


def rewrite_columns(select: exp.Select, read: Reader, file_format: FileFormat) -> None:
    """Put the view's columns in the place of $1, $1:path and METADATA$FILENAME."""
    for parameter in list(select.find_all(exp.Parameter)):
        if not (isinstance(parameter.this, exp.Literal) and parameter.this.name.isdigit()):
            continue
        node: Expr = parameter
        if isinstance(parameter.parent, exp.Column):
            node = parameter.parent
        parent = node.parent
        if file_format.type == "PARQUET" and isinstance(parent, exp.JSONExtract) and parent.this is node:
            column = _parquet_column(parent, read)
            if column is not None:
                parent.replace(column)
                continue
        node.replace(exp.column(exp.to_identifier(f"${parameter.this.name}", quoted=True)))
    for column in select.find_all(exp.Column):
        if column.name.upper().startswith("METADATA$"):
            column.set("this", exp.to_identifier(column.name.upper(), quoted=True))
            column.set("table", None)


def _parquet_column(extract: exp.JSONExtract, read: Reader) -> Expr | None:
    """The file's column behind ``$1:name``; NULL where there is none; None for a path into a column."""
    keys = list(extract.expression.find_all(exp.JSONPathKey))
    if len(keys) != 1 or len(extract.expression.expressions) != 2:
        return None
    name = str(keys[0].this)
    return exp.column(exp.to_identifier(name, quoted=True)) if name in read.columns else exp.null()


def _bind_function(
    server: EmbeddedSnowflake,
    connection: FakeSnowflakeConnection,
    source: exp.TableFromRows,
    bound: Bound,
    binds: list[Any] | dict[str, Any] | None,
) -> None:
    function = source.this
    if not (isinstance(function, exp.Anonymous) and function.name.upper() == "INFER_SCHEMA"):
        return
    arguments = {
        argument.this.name.upper(): argument.expression
        for argument in function.expressions
        if isinstance(argument, exp.Kwarg)
    }
    # In the order of the statement, which is that of its binds.
    given = {
        key: str(binds.pop(0))
        if isinstance(value, exp.Placeholder) and isinstance(binds, list) and binds
        else value.name
        for key, value in arguments.items()
    }
    location = stages.readable(server, connection, given["LOCATION"])
    file_format = named_format(connection, given["FILE_FORMAT"])
    table = _inferred(location, file_format)
    name = f"_INFERRED_{id(table)}"
    connection._duck_conn.register(name, table)
    bound.tables.append(name)
    # A registered table is found by its bare name only; a view of it has a full one.
    connection._duck_conn.execute(f'CREATE OR REPLACE TEMP VIEW "V{name}" AS FROM "{name}"')
    bound.views.append(f'temp.main."V{name}"')
    view = exp.Table(this=exp.to_identifier(f"V{name}", quoted=True), db="main", catalog="temp")
    view.set("alias", source.args.get("alias"))
    source.replace(view)


_SNOWFLAKE_TYPES = {
    "BOOLEAN": "BOOLEAN",
    "VARCHAR": "TEXT",
    "DOUBLE": "REAL",
    "FLOAT": "REAL",
    "DATE": "DATE",
    "TIME": "TIME",
    "BLOB": "BINARY",
    "TIMESTAMP": "TIMESTAMP_NTZ",
    "TIMESTAMP_NS": "TIMESTAMP_NTZ",
    "TIMESTAMP_MS": "TIMESTAMP_NTZ",
    "TIMESTAMP_S": "TIMESTAMP_NTZ",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMP_TZ",
}


def _inferred(location: StageLocation, file_format: FileFormat) -> pa.Table:
    if file_format.type != "PARQUET":
        raise unsupported(f"INFER_SCHEMA of {file_format.type} files", "of PARQUET files it is served")
    found = stages.files(location)
    columns, types = [], []
    for name, kind in _parquet_schema(found):
        decimal = re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", kind)
        if decimal:
            known = f"NUMBER({decimal[1]}, {decimal[2]})"
        elif "INT" in kind and "[" not in kind and "STRUCT" not in kind:
            known = "NUMBER(38, 0)"
        else:
            known = _SNOWFLAKE_TYPES.get(kind, "VARIANT")
        columns.append(name)
        types.append(known)
    where = ",".join(location.stage.prefix + file.path for file in found)
    return pa.table(
        {
            "COLUMN_NAME": pa.array(columns, pa.string()),
            "TYPE": pa.array(types, pa.string()),
            "NULLABLE": pa.array([True] * len(columns), pa.bool_()),
            "EXPRESSION": pa.array(
                [f"$1:{name}::{kind}" for name, kind in zip(columns, types, strict=True)], pa.string()
            ),
            "FILENAMES": pa.array([where] * len(columns), pa.string()),
            "ORDER_ID": pa.array(range(len(columns)), pa.int64()),
        }
    )


def reader(location: StageLocation, found: list[StagedFile], file_format: FileFormat) -> Reader:
    """A query that reads the files."""
    if file_format.type == "PARQUET":
        return _parquet_reader(location, found)
    rows = json_rows(found, file_format) if file_format.type == "JSON" else csv_rows(found, file_format)
    return _text_reader(location, rows, is_json=file_format.type == "JSON")


def _file_list(found: list[StagedFile]) -> str:
    # DuckDB reads '*', '?' and '[' in a path as a pattern.
    escaped = (re.sub(r"([*?\[])", r"[\1]", str(file.local)) for file in found)
    return "[" + ", ".join(names.quoted_text(path) for path in escaped) + "]"


def _parquet_schema(found: list[StagedFile]) -> list[tuple[str, str]]:
    if not found:
        return []
    with duckdb.connect() as scratch:
        described = scratch.execute(
            f"DESCRIBE FROM read_parquet({_file_list(found)}, union_by_name = true, hive_partitioning = false)"
        ).fetchall()
    return [(row[0], row[1]) for row in described]


def _parquet_reader(location: StageLocation, found: list[StagedFile]) -> Reader:
    root = f"{location.stage.directory}/"
    if not found:
        return Reader(f'SELECT NULL::JSON AS "$1", {_metadata("NULL", "NULL", "NULL")} WHERE false', (), {})
    columns = tuple(name for name, _ in _parquet_schema(found))
    struct = ", ".join(f"{names.quoted(name)} := f.{names.quoted(name)}" for name in columns)
    relative = f"{names.quoted_text(location.stage.prefix)} || substr(f.filename, {len(root) + 1})"
    metadata = _metadata(relative, "f.file_row_number + 1", "NULL::TIMESTAMP")
    # The object that $1 stands for is only made where a query asks for it.
    sql = (
        f'SELECT f.* EXCLUDE (filename, file_row_number), to_json(struct_pack({struct})) AS "$1", {metadata} '
        f"FROM read_parquet({_file_list(found)}, union_by_name = true, filename = true, "
        "file_row_number = true, hive_partitioning = false) AS f"
    )
    return Reader(sql, columns, {})


def _metadata(filename: str, row: str, modified: str) -> str:
    return f'{filename} AS "{FILENAME}", {row} AS "{ROW_NUMBER}", {modified} AS "{MODIFIED}", now() AS "{SCAN_TIME}"'


@dataclass(frozen=True)
class Row:
    """One record of a text file. ``number`` counts from 1."""

    file: StagedFile
    number: int
    fields: list[str | None]


def _text_reader(location: StageLocation, rows: Iterator[Row], is_json: bool) -> Reader:
    prefix = location.stage.prefix
    records = list(rows)
    width = max((len(row.fields) for row in records), default=1)
    arrays: list[pa.Array] = [
        pa.array([row.fields[index] if index < len(row.fields) else None for row in records], pa.string())
        for index in range(width)
    ]
    titles = [f"${index + 1}" for index in range(width)]
    # Columns that a query asks for beyond those of any file are NULL.
    arrays += [pa.nulls(len(records), pa.string())] * max(0, 64 - width)
    titles += [f"${index + 1}" for index in range(width, 64)]
    arrays += [
        pa.array([prefix + row.file.path for row in records], pa.string()),
        pa.array([row.number for row in records], pa.int64()),
        pa.array([stages.timestamp(row.file).replace(tzinfo=None) for row in records], pa.timestamp("us")),
    ]
    table = pa.Table.from_arrays(arrays, names=[*titles, FILENAME, ROW_NUMBER, MODIFIED])
    name = f"_STAGE_RECORDS_{id(table)}"
    first = '"$1"::JSON AS "$1", * EXCLUDE ("$1")' if is_json else "*"
    return Reader(f'SELECT {first}, now() AS "{SCAN_TIME}" FROM "{name}"', tuple(titles), {name: table})


def _open(file: StagedFile, file_format: FileFormat) -> IO[bytes]:
    compression = file_format.text("COMPRESSION", "AUTO").upper()
    with file.local.open("rb") as stream:
        first = stream.read(4)
    if compression == "GZIP" or (compression in ("AUTO", "AUTO_DETECT") and first[:2] == b"\x1f\x8b"):
        return gzip.open(file.local, "rb")  # type: ignore[return-value]
    if compression == "BZ2" or (compression in ("AUTO", "AUTO_DETECT") and first[:3] == b"BZh"):
        return bz2.open(file.local, "rb")
    if compression not in ("AUTO", "AUTO_DETECT", ""):
        raise unsupported(f"COMPRESSION = {compression}")
    return file.local.open("rb")


def _decoded(file: StagedFile, file_format: FileFormat) -> io.TextIOWrapper:
    encoding = file_format.text("ENCODING", "UTF8").upper()
    codec = "utf-8-sig" if encoding in ("UTF8", "UTF-8") else encoding
    errors = "replace" if file_format.flag("REPLACE_INVALID_CHARACTERS") else "strict"
    return io.TextIOWrapper(_open(file, file_format), encoding=codec, errors=errors, newline="")  # type: ignore[arg-type]


def csv_rows(found: list[StagedFile], file_format: FileFormat) -> Iterator[Row]:
    """The records of delimited files. FIELD_DELIMITER = NONE makes each line one field."""
    csv.field_size_limit(MAX_FIELD_BYTES)
    skip = int(file_format.options.get("SKIP_HEADER", 0) or 0)
    for file in found:
        with _decoded(file, file_format) as stream:
            try:
                for number, fields in enumerate(_records(stream, file_format), start=1):
                    if number > skip and not (fields == [] and file_format.flag("SKIP_BLANK_LINES")):
                        yield Row(file, number - skip, [_null_if(value, file_format) for value in fields or [""]])
            except UnicodeDecodeError as error:
                raise ProgrammingError(
                    msg=f"Invalid UTF8 detected in file '{file.path}': {error}", errno=100144, sqlstate="22000"
                ) from error
            except csv.Error as error:
                raise ProgrammingError(msg=f"File '{file.path}': {error}", errno=100071, sqlstate="22000") from error


def _records(stream: io.TextIOWrapper, file_format: FileFormat) -> Iterator[list[str]]:
    delimiter = _unescaped(file_format.text("FIELD_DELIMITER", ","))
    if not delimiter:
        for line in stream:
            yield [line.rstrip("\r\n")]
        return
    if len(delimiter) > 1:
        raise unsupported(f"FIELD_DELIMITER of {len(delimiter)} characters")
    enclosing = _unescaped(file_format.text("FIELD_OPTIONALLY_ENCLOSED_BY"))
    escape = _unescaped(
        file_format.text("ESCAPE" if enclosing else "ESCAPE_UNENCLOSED_FIELD", "" if enclosing else "\\\\")
    )
    quoting = csv.QUOTE_MINIMAL if enclosing else csv.QUOTE_NONE
    records = csv.reader(
        stream,
        delimiter=delimiter,
        quotechar=enclosing or None,
        quoting=quoting,
        escapechar=escape or None,
        doublequote=True,
        strict=bool(enclosing),
    )
    trims = file_format.flag("TRIM_SPACE")
    for record in records:
        yield [value.strip() for value in record] if trims else record


def _unescaped(text: str) -> str:
    return {"\\t": "\t", "\\n": "\n", "\\\\": "\\", "\\'": "'"}.get(text, text)


def _null_if(value: str, file_format: FileFormat) -> str | None:
    written = file_format.options.get("NULL_IF", ["\\N"])
    nulls = written if isinstance(written, list) else [written]
    if value == "" and file_format.flag("EMPTY_FIELD_AS_NULL", True):
        return None
    return None if value in nulls else value


def json_rows(found: list[StagedFile], file_format: FileFormat) -> Iterator[Row]:
    """The documents of JSON files, however they are laid out; STRIP_OUTER_ARRAY takes an array apart."""
    decoder = json.JSONDecoder()
    for file in found:
        with _decoded(file, file_format) as stream:
            text = stream.read()
        position, number = 0, 0
        while (position := _after_blanks(text, position)) < len(text):
            try:
                document, end = decoder.raw_decode(text, position)
            except json.JSONDecodeError as error:
                raise ProgrammingError(
                    msg=f"Error parsing JSON: {error}; file '{file.path}'", errno=100069, sqlstate="22P02"
                ) from error
            parts = document if isinstance(document, list) and file_format.flag("STRIP_OUTER_ARRAY") else [document]
            for part in parts:
                number += 1
                yield Row(file, number, [json.dumps(part, ensure_ascii=False)])
            position = end


def _after_blanks(text: str, position: int) -> int:
    match = re.compile(r"[\s,]*").match(text, position)
    return match.end() if match else position


def header(found: list[StagedFile], file_format: FileFormat) -> list[str]:
    """The names in the first line of the first file, which PARSE_HEADER reads."""
    if not found:
        raise invalid("PARSE_HEADER: there is no file to read a header from")
    with _decoded(found[0], file_format) as stream:
        return next(_records(stream, file_format), [])

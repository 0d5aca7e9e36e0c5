"""COPY INTO: loading a stage's files into a table, and unloading a query's rows onto a stage.

A load is one INSERT in one transaction, together with the table's load history: all of the files or none, and a file
is not loaded twice into a table unless it has changed or FORCE is TRUE. How files are read is in ``stage_queries``.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from fakesnow.transforms.options import parse_options
from sqlglot import Expr, exp

from embedded_snowflake import stage_queries, stages
from embedded_snowflake.errors import ProgrammingError, invalid, unsupported
from embedded_snowflake.names import quoted, quoted_text
from embedded_snowflake.stage_queries import FILENAME, ROW_NUMBER, Bound, FileFormat
from embedded_snowflake.stages import StagedFile, StageLocation

if TYPE_CHECKING:
    from fakesnow.fakes import FakeSnowflakeConnection

    from embedded_snowflake.server import EmbeddedSnowflake

# Rows per unloaded file: several files, so that several workers can read them, of a size worth opening.
UNLOADED_ROWS = 50_000
UNLOADED_BYTES = 16 * 2**20
MAX_PARTITIONS = 1000
# They would change what is shown, or are for files of unknown age, which there are none of.
_IGNORED = {"RETURN_FAILED_ONLY", "LOAD_UNCERTAIN_FILES", "DETAILED_OUTPUT"}
_LOAD_COLUMNS = (
    *("file", "status", "rows_parsed", "rows_loaded", "error_limit", "errors_seen"),
    *("first_error", "first_error_line", "first_error_character", "first_error_column_name"),
)

# Puts Snowflake's SQL, and the values of its placeholders, in DuckDB's.
Translate = Callable[[Expr, list[Any] | None], str]


@dataclass(frozen=True)
class Copy:
    """A COPY INTO statement and who runs it."""

    server: EmbeddedSnowflake
    connection: FakeSnowflakeConnection
    expression: exp.Copy
    binds: list[Any]
    translate: Translate

    @property
    def duckdb(self) -> duckdb.DuckDBPyConnection:
        return self.connection._duck_conn

    @property
    def options(self) -> dict[str, Any]:
        """The copy options. FILE_FORMAT and PARTITION BY are expressions, the others are Python values."""
        found: dict[str, Any] = {}
        for parameter in self.expression.args.get("params") or []:
            key, value = parameter.this.name.upper(), parameter.args.get("expression")
            if key in ("FILE_FORMAT", "PARTITION BY"):
                found[key] = parameter.expressions or value
            elif isinstance(value, exp.Placeholder):
                found[key] = self.binds.pop(0)
            elif key == "FILES":
                found[key] = [literal.name for literal in parameter.find_all(exp.Literal)]
            else:
                found.update(parse_options([exp.Property(this=parameter.this, value=value)]))
        return found


def is_unload(expression: exp.Copy) -> bool:
    """Whether the target of the COPY is a stage."""
    this = expression.this
    return isinstance(this, exp.Table) and _spelled(this) is not None


def target_table(expression: exp.Copy) -> exp.Table:
    """The table that a load fills."""
    this = expression.this
    return this.this if isinstance(this, exp.Schema) else this


def _spelled(table: Expr) -> str | None:
    this = table.this
    spelled = str(this.this) if isinstance(this, (exp.Var, exp.Literal)) else ""
    return spelled if spelled.startswith(("@", "snow://")) else None


def _flag(options: dict[str, Any], key: str) -> bool:
    return str(options.pop(key, False)).upper() == "TRUE"


@dataclass
class Loaded:
    """One line of the answer to a load."""

    file: str
    status: str
    parsed: int = 0
    loaded: int = 0
    errors: int = 0
    first_error: str | None = None
    first_line: int | None = None
    first_column: str | None = None

    def row(self) -> tuple[object, ...]:
        return (
            *(self.file, self.status, self.parsed, self.loaded, 1, self.errors, self.first_error, self.first_line),
            *(None, self.first_column),
        )


@dataclass(frozen=True)
class Filled:
    """A column of the table and the expression over the files that fills it, in DuckDB's words."""

    name: str
    type: str
    expression: str

    @property
    def does_not_fit(self) -> str:
        """The condition that a value is there and is none of the column's type."""
        return f"({self.expression} IS NOT NULL AND TRY_CAST({self.expression} AS {self.type}) IS NULL)"


@dataclass(frozen=True)
class Source:
    """What a load inserts: a query in DuckDB's words, and the table's columns that it fills."""

    sql: str
    columns: list[str]
    binds: list[Any] | None = None


def load(copy: Copy) -> pa.Table:
    """COPY INTO table FROM @stage. To be run in a transaction. Returns Snowflake's one row per file."""
    options = copy.options
    table = target_table(copy.expression)
    given = copy.expression.args["files"][0]
    location, pattern = _load_location(copy, given)
    file_format = stage_queries.format_from(copy.connection, location, options.pop("FILE_FORMAT", None))
    on_error = str(options.pop("ON_ERROR", "ABORT_STATEMENT")).upper()
    match = str(options.pop("MATCH_BY_COLUMN_NAME", "NONE")).upper()
    force, purge = _flag(options, "FORCE"), _flag(options, "PURGE")
    found = stages.files(location, str(options.pop("PATTERN", "") or "") or pattern)
    named = options.pop("FILES", None)
    if named:
        found = _named(location, found, named)
    if unknown := [key for key in options if key not in _IGNORED]:
        raise unsupported(f"COPY option {unknown[0]}")
    done = set() if force else _already_loaded(copy, table, location, found)
    fresh = [file for file in found if file.path not in done]
    answer = {file.path: Loaded(_shown(location, file), "LOAD_SKIPPED", errors=1) for file in found}
    for path in done:
        answer[path].first_error = "File was loaded before."
    if fresh:
        for line in _insert(copy, table, given, location, fresh, file_format, match, on_error):
            answer[line.file.partition("/")[2]] = line
        _remember(copy, table, [line for line in answer.values() if line.status in ("LOADED", "PARTIALLY_LOADED")])
    if purge:
        for file in fresh:
            if answer[file.path].status == "LOADED":
                file.local.unlink(missing_ok=True)
    if not found:
        return pa.table({"status": ["Copy executed with 0 files processed."]})
    return _load_answer(list(answer.values()))


def _load_location(copy: Copy, given: Expr) -> tuple[StageLocation, str | None]:
    source = given
    if isinstance(given, exp.Subquery):
        source = given.this.args["from_"].this
    spelled = _spelled(source)
    if spelled is None:
        raise unsupported("COPY INTO a table from anything but a stage")
    pattern = source.args.get("pattern")
    return stages.resolve(copy.server, copy.connection, spelled), pattern.name if pattern else None


def _named(location: StageLocation, found: list[StagedFile], wanted: list[str]) -> list[StagedFile]:
    base = location.path if location.path.endswith("/") or not location.path else f"{location.path}/"
    by_path = {file.path: file for file in found}
    missing = [name for name in wanted if base + name not in by_path]
    if missing:
        raise invalid(f"Remote file '{missing[0]}' was not found", 91016, "22000")
    return [by_path[base + name] for name in wanted]


def _shown(location: StageLocation, file: StagedFile) -> str:
    return location.stage.prefix + file.path


def _history(copy: Copy, table: exp.Table) -> tuple[str, str, str]:
    database = table.catalog or copy.connection.database
    schema = table.db or copy.connection.schema
    return f'"{database}"._fs_information_schema._fs_load_history', str(schema), table.name


def _already_loaded(copy: Copy, table: exp.Table, location: StageLocation, found: list[StagedFile]) -> set[str]:
    """The files that the table has had, and that have not changed since."""
    history, schema, name = _history(copy, table)
    rows = copy.duckdb.execute(
        f"SELECT FILE_NAME, max(LAST_LOAD_TIME) FROM {history} WHERE SCHEMA_NAME = ? AND TABLE_NAME = ? GROUP BY 1",
        [schema, name],
    ).fetchall()
    loaded = dict(rows)
    full = str(location.stage.name)
    return {
        file.path
        for file in found
        if (at := loaded.get(f"{full}/{file.path}")) is not None and file.modified <= at.timestamp()
    }


def _remember(copy: Copy, table: exp.Table, lines: list[Loaded]) -> None:
    given = copy.expression.args["files"][0]
    location, _ = _load_location(copy, given)
    history, schema, name = _history(copy, table)
    now = datetime.now(UTC)
    full = str(location.stage.name)
    for line in lines:
        copy.duckdb.execute(
            f"INSERT INTO {history} (SCHEMA_NAME, FILE_NAME, TABLE_NAME, LAST_LOAD_TIME, STATUS, ROW_COUNT, ROW_PARSED)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            [schema, f"{full}/{line.file.partition('/')[2]}", name, now, line.status, line.loaded, line.parsed],
        )


def _load_answer(lines: list[Loaded]) -> pa.Table:
    columns = list(zip(*(line.row() for line in lines), strict=True))
    numbers = {"rows_parsed", "rows_loaded", "error_limit", "errors_seen", "first_error_line", "first_error_character"}
    arrays = [
        pa.array(values, pa.int64() if name in numbers else pa.string())
        for name, values in zip(_LOAD_COLUMNS, columns, strict=True)
    ]
    return pa.Table.from_arrays(arrays, names=_LOAD_COLUMNS)


def _insert(
    copy: Copy,
    table: exp.Table,
    given: Expr,
    location: StageLocation,
    files: list[StagedFile],
    file_format: FileFormat,
    match: str,
    on_error: str,
) -> list[Loaded]:
    reader = stage_queries.reader(location, files, file_format)
    bound = Bound(copy.duckdb, [], [])
    try:
        view = f'temp.main."{stage_queries.register(copy.connection, reader, bound)}"'
        counts = dict(copy.duckdb.execute(f'SELECT "{FILENAME}", count(*) FROM {view} GROUP BY 1').fetchall())
        shown = [_shown(location, file) for file in files]
        lines = {name: Loaded(name, "LOADED", counts.get(name, 0)) for name in shown}
        if isinstance(given, exp.Subquery):
            if on_error != "ABORT_STATEMENT":
                raise unsupported(f"ON_ERROR = {on_error} of a COPY with a query")
            source = _from_query(copy, given, view, reader, file_format)
        else:
            filled = _filled(copy, table, view, reader, files, file_format, match)
            where = _without_bad_rows(copy, view, filled, lines, on_error)
            casts = ", ".join(f"CAST({column.expression} AS {column.type})" for column in filled)
            source = Source(f"SELECT {casts} FROM {view}{where}", [column.name for column in filled])
        into = ", ".join(quoted(column) for column in source.columns)
        target = table.sql(dialect="duckdb", identify=True)
        copy.duckdb.execute(f"INSERT INTO {target} {f'({into})' if into else ''} {source.sql}", source.binds)
        for line in lines.values():
            line.loaded = 0 if line.status == "LOAD_FAILED" else line.parsed - line.errors
        return list(lines.values())
    finally:
        bound.release()


def _target_columns(copy: Copy, table: exp.Table) -> list[tuple[str, str]]:
    described = copy.duckdb.execute(f"DESCRIBE {table.sql(dialect='duckdb', identify=True)}").fetchall()
    known = {row[0].upper(): (row[0], row[1]) for row in described}
    if not isinstance(copy.expression.this, exp.Schema):
        return list(known.values())
    wanted = [identifier.name for identifier in copy.expression.this.expressions]
    missing = [name for name in wanted if name.upper() not in known]
    if missing:
        raise invalid(f"SQL compilation error:\ninvalid identifier '{missing[0]}'", 904)
    return [known[name.upper()] for name in wanted]


def _from_query(
    copy: Copy, given: exp.Subquery, view: str, reader: stage_queries.Reader, file_format: FileFormat
) -> Source:
    select = given.this.copy()
    table = select.args["from_"].this
    stage_queries.rewrite_columns(select, reader, file_format)
    replaced = exp.maybe_parse(view, into=exp.Table, dialect="duckdb")
    replaced.set("alias", table.args.get("alias"))
    table.replace(replaced)
    binds = copy.binds or None
    schema = copy.expression.this
    columns = [identifier.name for identifier in schema.expressions] if isinstance(schema, exp.Schema) else []
    return Source(copy.translate(select, binds), columns, binds)


def _filled(
    copy: Copy,
    table: exp.Table,
    view: str,
    reader: stage_queries.Reader,
    files: list[StagedFile],
    file_format: FileFormat,
    match: str,
) -> list[Filled]:
    targets = _target_columns(copy, table)
    if match not in ("NONE", "CASE_INSENSITIVE", "CASE_SENSITIVE"):
        raise invalid(f"SQL compilation error:\nInvalid value '{match}' for parameter MATCH_BY_COLUMN_NAME", 1008)
    if match != "NONE":
        expressions = _by_name(copy, view, reader, files, file_format, match == "CASE_SENSITIVE")
    elif file_format.type == "CSV":
        expressions = _by_position(reader, targets, file_format)
    elif len(targets) == 1 and targets[0][1] in ("JSON", "VARIANT"):
        expressions = {targets[0][0].upper(): '"$1"'}
    else:
        raise invalid(
            f"SQL compilation error:\n{file_format.type} file format can produce one and only one column of type "
            "variant, object, or array. Load data into separate columns using the MATCH_BY_COLUMN_NAME copy option or "
            "copy with transformation.",
            2019,
            "0A000",
        )
    filled = [Filled(name, kind, expressions[name.upper()]) for name, kind in targets if name.upper() in expressions]
    if not filled:
        raise invalid(f"no column of {table.name} is in the files: expected some of {', '.join(n for n, _ in targets)}")
    return filled


def _by_position(
    reader: stage_queries.Reader, targets: list[tuple[str, str]], file_format: FileFormat
) -> dict[str, str]:
    (records,) = reader.registered.values()
    width = sum(1 for name in reader.columns if re.fullmatch(r"\$\d+", name))
    used = sum(1 for index in range(width) if records.column(f"${index + 1}").null_count < records.num_rows)
    if records.num_rows and used > len(targets) and file_format.flag("ERROR_ON_COLUMN_COUNT_MISMATCH", True):
        raise ProgrammingError(
            msg=f"Number of columns in file ({used}) does not match that of the corresponding table ({len(targets)}), "
            "use file format option error_on_column_count_mismatch=false to ignore this error",
            errno=100080,
            sqlstate="22000",
        )
    return {name.upper(): f'"${index + 1}"' for index, (name, _) in enumerate(targets)}


def _by_name(
    copy: Copy,
    view: str,
    reader: stage_queries.Reader,
    files: list[StagedFile],
    file_format: FileFormat,
    case_sensitive: bool,
) -> dict[str, str]:
    """The expression for each column of the files, by its name as the table spells it."""
    if file_format.type == "PARQUET":
        found = {name: quoted(name) for name in reader.columns}
    elif file_format.type == "JSON":
        keys = copy.duckdb.execute(f'SELECT DISTINCT unnest(json_keys("$1")) FROM {view}').fetchall()
        found = {key: f'"$1" ->> {quoted_text("$." + json.dumps(key))}' for (key,) in keys}
    elif file_format.flag("PARSE_HEADER"):
        names = stage_queries.header(files, file_format)
        found = {name: f'"${index + 1}"' for index, name in enumerate(names)}
    else:
        raise invalid("MATCH_BY_COLUMN_NAME with CSV files needs PARSE_HEADER = TRUE")
    return {name if case_sensitive else name.upper(): expression for name, expression in found.items()}


def _without_bad_rows(copy: Copy, view: str, filled: list[Filled], lines: dict[str, Loaded], on_error: str) -> str:
    """The WHERE that leaves out the rows (CONTINUE) or files (SKIP_FILE) in which a value does not fit its column."""
    if on_error == "ABORT_STATEMENT":
        return ""
    if on_error not in ("CONTINUE", "SKIP_FILE"):
        raise unsupported(f"ON_ERROR = {on_error}", "ABORT_STATEMENT, CONTINUE and SKIP_FILE are served")
    bad = " OR ".join(column.does_not_fit for column in filled)
    first = " ".join(f"WHEN {column.does_not_fit} THEN {quoted_text(column.name)}" for column in filled)
    found = copy.duckdb.execute(
        f'SELECT "{FILENAME}", count(*), min("{ROW_NUMBER}"), arg_min(CASE {first} END, "{ROW_NUMBER}") '
        f"FROM {view} WHERE {bad} GROUP BY 1"
    ).fetchall()
    for file, count, line, column in found:
        known = lines[file]
        known.errors, known.first_line, known.first_column = count, line, column
        known.first_error = f"a value of column {column} does not fit its type"
        known.status = "PARTIALLY_LOADED" if on_error == "CONTINUE" and count < known.parsed else "LOAD_FAILED"
    if on_error == "CONTINUE":
        return f" WHERE NOT ({bad})"
    failed = ", ".join(quoted_text(file) for file, *_ in found)
    return f' WHERE "{FILENAME}" NOT IN ({failed})' if failed else ""


@dataclass
class Unload:
    """The settings of an unload and what it has written."""

    copy: Copy
    location: StageLocation
    file_format: FileFormat
    header: bool
    overwrite: bool
    single: bool
    max_bytes: int
    query_id: str
    rows: int = 0
    bytes: int = 0


def unload(copy: Copy, query_id: str) -> pa.Table:
    """COPY INTO @stage FROM a table or a query. Returns the row and byte counts."""
    options = copy.options
    location = stages.resolve(copy.server, copy.connection, _spelled(copy.expression.this) or "")
    file_format = stage_queries.format_from(copy.connection, location, options.pop("FILE_FORMAT", None))
    partition = options.pop("PARTITION BY", None)
    work = Unload(
        copy,
        location,
        file_format,
        header=_flag(options, "HEADER"),
        overwrite=_flag(options, "OVERWRITE"),
        single=_flag(options, "SINGLE"),
        max_bytes=int(options.pop("MAX_FILE_SIZE", UNLOADED_BYTES)),
        query_id=query_id if _flag(options, "INCLUDE_QUERY_ID") else "",
    )
    if unknown := [key for key in options if key not in _IGNORED]:
        raise unsupported(f"COPY option {unknown[0]}")
    given = copy.expression.args["files"][0]
    select = given.this.copy() if isinstance(given, exp.Subquery) else exp.select("*").from_(given.copy())
    if partition is not None:
        by = partition[0] if isinstance(partition, list) else partition
        select = exp.select("*", exp.alias_(by.copy(), "_PARTITION", quoted=True)).from_(select.subquery("_Q"))
    binds = copy.binds or None
    copy.duckdb.execute(copy.translate(select, binds), binds)
    # As many rows more as the files may be larger.
    batches: Any = copy.duckdb.to_arrow_reader(UNLOADED_ROWS * max(1, work.max_bytes // UNLOADED_BYTES))
    # DuckDB runs nothing else on a connection whose result is open.
    with contextlib.closing(batches):
        _write_batches(work, batches, partition is not None)
    return pa.table({"rows_unloaded": [work.rows], "input_bytes": [work.bytes], "output_bytes": [work.bytes]})


def _write_batches(work: Unload, batches: pa.RecordBatchReader, partitioned: bool) -> None:
    if work.file_format.type == "JSON" and len(batches.schema) - partitioned != 1:
        raise invalid("SQL compilation error:\nJSON files unload one column of type variant, object, or array", 2019)
    if partitioned:
        _write_partitions(work, batches)
    else:
        _write_all(work, batches, "")


def _write_partitions(work: Unload, batches: pa.RecordBatchReader) -> None:
    """One directory per value of the partition expression; one file for each batch in which a value's rows arrive."""
    counts: dict[str, int] = {}
    for batch in batches:
        table = pa.Table.from_batches([batch])
        values = table.column("_PARTITION").cast(pa.string())
        rest = table.drop_columns(["_PARTITION"])
        for value in values.unique().to_pylist():
            number = counts.get(value or "", 0)
            counts[value or ""] = number + 1
            if len(counts) > MAX_PARTITIONS:
                raise invalid(f"PARTITION BY gave more than {MAX_PARTITIONS} partitions")
            rows = rest.filter(pa.array([found == value for found in values.to_pylist()], pa.bool_()))
            directory = "/".join(quote(part, safe="= -_.") for part in (value or "__NULL__").split("/"))
            _write(work, rows, directory, number)


def _write_all(work: Unload, batches: pa.RecordBatchReader, directory: str) -> None:
    if work.single:
        _write(work, batches.read_all(), directory, 0)
        return
    number = 0
    for batch in batches:
        table = pa.Table.from_batches([batch])
        per_file = max(1, min(table.num_rows, int(table.num_rows * work.max_bytes / max(1, table.nbytes))))
        for start in range(0, table.num_rows, per_file):
            _write(work, table.slice(start, per_file), directory, number)
            number += 1


def _write(work: Unload, table: pa.Table, directory: str, number: int) -> None:
    extension, content = _encoded(table, work.file_format, work.header)
    path = work.location.path
    if not work.single:
        prefix = path + "data" if not path or path.endswith("/") else path
        if directory:
            prefix = f"{path.rstrip('/')}/{directory}/data".lstrip("/")
        identity = f"_{work.query_id}" if work.query_id else ""
        path = f"{prefix}{identity}_0_{number}_0{extension}"
    target = stages.within(work.location.stage.directory, path)
    with stages.arriving(work.copy.server) as partial:
        partial.write_bytes(content)
    if not stages.publish(partial, target, work.overwrite):
        raise invalid(
            f"Files already existing at the unload destination: {path}. Use overwrite option to force unloading.", 1011
        )
    work.rows += table.num_rows
    work.bytes += len(content)


def _encoded(table: pa.Table, file_format: FileFormat, header: bool) -> tuple[str, bytes]:
    """The extension and the bytes of one file."""
    if file_format.type == "PARQUET":
        names = table.column_names if header else [f"_COL_{index}" for index in range(table.num_columns)]
        codec = {"AUTO": "snappy", "": "none"}.get(
            compression := file_format.text("COMPRESSION", "AUTO").upper(), compression.lower()
        )
        sink = io.BytesIO()
        pq.write_table(table.rename_columns(names), sink, compression=codec)
        return (".parquet" if codec == "none" else f".{codec}.parquet"), sink.getvalue()
    text = io.StringIO()
    if file_format.type == "JSON":
        for value in table.column(0).to_pylist():
            text.write(f"{value}\n")
    else:
        _write_csv(text, table, file_format, header)
    content = text.getvalue().encode()
    extension = f".{file_format.type.lower()}"
    if file_format.text("COMPRESSION", "AUTO").upper() in ("AUTO", "GZIP"):
        return f"{extension}.gz", gzip.compress(content)
    return extension, content


def _write_csv(text: io.StringIO, table: pa.Table, file_format: FileFormat, header: bool) -> None:
    enclosing = file_format.text("FIELD_OPTIONALLY_ENCLOSED_BY")
    writer = csv.writer(
        text,
        delimiter=file_format.text("FIELD_DELIMITER", ",").replace("\\t", "\t"),
        quotechar=enclosing or None,
        quoting=csv.QUOTE_MINIMAL if enclosing else csv.QUOTE_NONE,
        escapechar="\\",
        lineterminator="\n",
    )
    if header:
        writer.writerow(table.column_names)
    for row in _rows(table):
        writer.writerow(["\\N" if value is None else str(value) for value in row] if not enclosing else row)


def _rows(table: pa.Table) -> Iterator[tuple[object, ...]]:
    return zip(*(column.to_pylist() for column in table.columns), strict=True)


def remove_history(connection: duckdb.DuckDBPyConnection, database: str, schema: str, table: str) -> None:
    """A truncated table forgets which files it has had."""
    connection.execute(
        f'DELETE FROM "{database}"._fs_information_schema._fs_load_history WHERE SCHEMA_NAME = ? AND TABLE_NAME = ?',
        [schema, table],
    )

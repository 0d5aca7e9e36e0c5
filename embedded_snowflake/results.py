"""What a statement answered: the rows, their Snowflake types, and the document that tells a client.

The latest results are remembered, since clients and RESULT_SCAN ask for them again.
"""

from __future__ import annotations

import json
import threading
import uuid
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from fakesnow.arrow import to_ipc, to_sf
from fakesnow.rowtype import ColumnInfo, describe_as_rowtype, duckdb_to_sf_type
from fakesnow.statement_type import DML_TYPE_IDS, SELECT

from embedded_snowflake import sessions

if TYPE_CHECKING:
    from fakesnow.fakes import FakeSnowflakeConnection

REMEMBERED_RESULTS = 500
REMEMBERED_BYTES = 256 * 2**20

# DuckDB types that fakesnow does not know, as one of those that it does.
_SAME_TYPE = {
    "FLOAT": "DOUBLE",
    "TINYINT": "BIGINT",
    "SMALLINT": "BIGINT",
    "UTINYINT": "BIGINT",
    "USMALLINT": "BIGINT",
    "UINTEGER": "BIGINT",
    "UHUGEINT": "HUGEINT",
    "UUID": "VARCHAR",
    "INTERVAL": "VARCHAR",
    "TIMESTAMP_S": "TIMESTAMP",
    "TIMESTAMP_MS": "TIMESTAMP",
    "BIT": "VARCHAR",
}


@dataclass(frozen=True)
class Result:
    """The answer to one statement. ``duckdb_types`` has one type name per column of ``table``."""

    table: pa.Table
    duckdb_types: tuple[str, ...]
    type_id: int = SELECT
    # A DML statement's count; None where the rows themselves are the answer.
    affected: int | None = None
    query_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @classmethod
    def of(
        cls, table: pa.Table, types: Sequence[str] = (), type_id: int = SELECT, affected: int | None = None
    ) -> Result:
        """A result whose columns all have types that Snowflake's clients can read; lists and structs become JSON."""
        names = tuple(types) or tuple(_duckdb_type(column.type) for column in table.schema)
        columns, known = [], []
        for column, name in zip(table.columns, names, strict=True):
            read, known_name = _readable(column, name)
            columns.append(read)
            known.append(known_name)
        # fromarrays keeps two columns of one name, which a dictionary would not.
        return cls(pa.Table.from_arrays(columns, names=table.column_names), tuple(known), type_id, affected)

    @property
    def rowtype(self) -> list[ColumnInfo]:
        """The columns as Snowflake describes them."""
        described = [
            (name, kind, "", "", "", "") for name, kind in zip(self.table.column_names, self.duckdb_types, strict=True)
        ]
        return describe_as_rowtype(described)


def _duckdb_type(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "BOOLEAN"
    if pa.types.is_integer(kind):
        return "BIGINT"
    if pa.types.is_floating(kind):
        return "DOUBLE"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP WITH TIME ZONE" if kind.tz else "TIMESTAMP"
    return "VARCHAR"


def _readable(column: pa.ChunkedArray, name: str) -> tuple[pa.ChunkedArray | pa.Array, str]:
    if name.startswith("DECIMAL") or name in duckdb_to_sf_type:
        return (column.cast(pa.timestamp("us")), "TIMESTAMP") if name == "TIMESTAMP_NS" else (column, name)
    if name.startswith("ENUM"):
        return column.cast(pa.string()), "VARCHAR"
    same = _SAME_TYPE.get(name)
    if same == "VARCHAR":
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string()), same
    if same:
        target = {"DOUBLE": pa.float64(), "BIGINT": pa.int64(), "TIMESTAMP": pa.timestamp("us")}.get(same)
        return (column.cast(target) if target else column), same
    written = [None if value is None else json.dumps(value, default=str) for value in column.to_pylist()]
    return pa.array(written, pa.string()), "JSON"


@dataclass
class Results:
    """The latest results by query id: what RESULT_SCAN and a client's second request read. The oldest go first."""

    _known: OrderedDict[str, Result | Exception | None] = field(default_factory=OrderedDict)
    # Whose each is, by query id; one without an owner is anybody's who knows its id.
    _owners: OrderedDict[str, str] = field(default_factory=OrderedDict)
    _bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def own(self, query_id: str, owner: str) -> None:
        """Say whose a statement is, before it runs."""
        with self._lock:
            self._owners[query_id] = owner
            # More than there can be results: statements that transfer files leave none.
            while len(self._owners) > 10 * REMEMBERED_RESULTS:
                forgotten, _ = self._owners.popitem(last=False)
                if forgotten in self._known:
                    self._bytes -= _size(self._known.pop(forgotten))

    def begin(self, query_id: str) -> None:
        """Say that a statement is running."""
        with self._lock:
            self._known[query_id] = None

    def end(self, query_id: str, outcome: Result | Exception) -> None:
        """Keep how a statement ended."""
        with self._lock:
            self._bytes += _size(outcome) - _size(self._known.get(query_id))
            self._known[query_id] = outcome
            self._known.move_to_end(query_id)
            # One that still runs keeps its place; those behind it do not stay for that.
            ended = [known for known, kept in self._known.items() if kept is not None and known != query_id]
            for oldest in ended:
                if len(self._known) <= REMEMBERED_RESULTS and self._bytes <= REMEMBERED_BYTES:
                    break
                self._bytes -= _size(self._known.pop(oldest))

    def get(self, query_id: str, owner: str | None = None) -> Result | Exception | None:
        """How the statement ended, None while it runs. Raises KeyError for one unknown, or not this owner's."""
        with self._lock:
            if owner is not None and self._owners.get(query_id, owner) != owner:
                raise KeyError(query_id)
            return self._known[query_id]


def _size(outcome: Result | Exception | None) -> int:
    return outcome.table.nbytes if isinstance(outcome, Result) else 0


def document(result: Result, connection: FakeSnowflakeConnection, describe_only: bool = False) -> dict[str, Any]:
    """The answer to a query request, as the connector reads it."""
    session = sessions.of(connection)
    rowtype = result.rowtype
    data: dict[str, Any] = {
        "parameters": [{"name": "TIMEZONE", "value": "Etc/UTC"}],
        "rowtype": rowtype,
        "total": 0 if describe_only else result.table.num_rows,
        "returned": 0 if describe_only else result.table.num_rows,
        "queryId": result.query_id,
        "statementTypeId": result.type_id,
        "finalDatabaseName": connection.database,
        "finalSchemaName": connection.schema,
        "finalWarehouseName": session.warehouse,
        "finalRoleName": session.role,
    }
    if describe_only:
        data |= {"queryResultFormat": "arrow", "rowsetBase64": ""}
    elif result.type_id in DML_TYPE_IDS:
        # Clients read a DML statement's counts from a JSON row set.
        written = [
            [None if value is None else str(value) for value in column.to_pylist()] for column in result.table.columns
        ]
        data |= {"queryResultFormat": "json", "rowset": [list(row) for row in zip(*written, strict=True)]}
    else:
        encoded = b64encode(to_ipc(_for_clients(result.table, rowtype))).decode() if result.table.num_rows else ""
        data |= {"queryResultFormat": "arrow", "rowsetBase64": encoded}
    return {"data": data, "success": True}


def rows_of(document: dict[str, Any]) -> int | None:
    """Rows that an answered statement returned or, of DML, changed; None for what has none."""
    data = document["data"]
    if data.get("queryResultFormat") == "json":
        return sum(int(value) for row in data["rowset"] for value in row if str(value).isdigit())
    return data.get("total")


def _for_clients(table: pa.Table, rowtype: list[ColumnInfo]) -> pa.Table:
    """The rows in Snowflake's Arrow layout. fakesnow makes 1970-01-01 of a NULL timestamp; here it stays NULL."""
    written = to_sf(table, rowtype)
    for position, column in enumerate(table.columns):
        if not (pa.types.is_timestamp(column.type) and column.null_count):
            continue
        struct = written.column(position).combine_chunks()
        parts = [pc.fill_null(struct.field(index), 0) for index in range(struct.type.num_fields)]
        missing = column.combine_chunks().is_null()
        masked = pa.StructArray.from_arrays(parts, fields=list(struct.type), mask=missing)
        written = written.set_column(position, written.schema.field(position), masked)
    return written

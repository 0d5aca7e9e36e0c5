"""Table functions whose rows this server computes: their named arguments, and the rows as a source for FROM.

Which function returns what is in the module of its concern.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from embedded_snowflake.errors import invalid
from embedded_snowflake.results import Result
from embedded_snowflake.statements import Query, literal
from embedded_snowflake.tokens import Tokens

if TYPE_CHECKING:
    from embedded_snowflake.server import EmbeddedSnowflake

# By DuckDB's type of a column.
_ARROW = {
    "VARCHAR": pa.string(),
    "JSON": pa.string(),
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", tz="UTC"),
}


def source(server: EmbeddedSnowflake, types: Mapping[str, str], found: Sequence[Sequence[object]]) -> str:
    """Rows as the result of a statement that was never sent. As SQL literals, 1000 rows took 17 s to parse."""
    columns = list(zip(*found, strict=True)) if found else [()] * len(types)
    arrays = [pa.array(column, _ARROW[kind]) for column, kind in zip(columns, types.values(), strict=True)]
    result = Result.of(pa.Table.from_arrays(arrays, names=list(types)), list(types.values()))
    server.results.end(result.query_id, result)
    return f"TABLE(RESULT_SCAN({literal(result.query_id)}))"


def named_arguments(call: str, known: Sequence[str]) -> dict[str, str]:
    """``NAME => expression`` of a call's text, by name in upper case; a number may also be given by ``=``."""
    arguments = next(iter(Tokens(call).calls())).arguments
    found = {}
    for argument in arguments:
        match = re.fullmatch(r"\s*(\w+)\s*(?:=>|=)\s*(.+)", argument, re.DOTALL)
        name = match.group(1).upper() if match else argument.strip()
        if not match or name not in known:
            raise invalid(f"SQL compilation error:\nunknown argument '{name}': expected {', '.join(known)}")
        found[name] = match.group(2)
    return found


def moment(query: Query, expression: str) -> datetime:
    """The time (UTC) that a constant expression says."""
    from embedded_snowflake import execution

    result = execution.execute(
        query.server, query.connection, f"SELECT ({expression})::TIMESTAMP_LTZ", None, str(uuid.uuid4())
    )
    value = result.table.column(0)[0].as_py()
    if not isinstance(value, datetime):
        raise invalid(f"SQL compilation error:\nexpected a constant time, found '{expression}'")
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def limit(text: str, most: int = 10_000) -> int:
    """The value of RESULT_LIMIT."""
    if not text.strip().isdigit() or not 1 <= int(text) <= most:
        raise invalid(f"SQL compilation error:\nexpected a RESULT_LIMIT from 1 to {most}, found '{text}'")
    return int(text)

"""Methods of registered models in SQL: ``MODEL(name, version)!METHOD(...)`` anywhere SQL has an expression or a table.

A call is rewritten, before fakesnow sees it, to a function of the engine that sends a vector of rows at a time to the
process in which models run. Which model and version it means is settled then, once for the whole statement.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from sqlglot.tokens import TokenType  # pyright: ignore[reportPrivateImportUsage]

from embedded_snowflake import models, names
from embedded_snowflake.errors import does_not_exist, invalid, unsupported
from embedded_snowflake.inference_process import InferenceError, InferenceProcess
from embedded_snowflake.model_packages import WAREHOUSE, platforms
from embedded_snowflake.models import Version
from embedded_snowflake.statements import Query, at_start, literal, rewriter
from embedded_snowflake.tokens import Edit, Tokens

if TYPE_CHECKING:
    from embedded_snowflake.server import EmbeddedSnowflake

# The engine's function: (version id, method, arguments...) -> one JSON text per row.
CALL = "EMBEDDED_MODEL_CALL"
_RESULT = "EMBEDDED_MODEL_RESULT"
_STRUCTURED = ("ARRAY", "OBJECT", "VARIANT", "MAP", "VECTOR")
# A type is spliced into SQL and comes from an uploaded package.
_TYPE = re.compile(r"[A-Z_]+(?:\s*\(\s*\d+\s*(?:,\s*\d+\s*)?\))?", re.IGNORECASE)


class Models:
    """The processes in which this server's models run."""

    def __init__(self, server: EmbeddedSnowflake) -> None:
        self._server = server
        self._processes: dict[str, InferenceProcess] = {}
        # Not the server's lock: a statement may hold that while the engine calls from a thread of its own.
        self._lock = threading.Lock()

    def call(self, version_id: str, method_name: str, arguments: list[pa.Array]) -> list[str]:
        """One JSON text per row, in the order of the rows."""
        version = models.find_version(self._server, version_id)
        if version is None:
            raise InferenceError("the model version was dropped while the statement ran")
        method = _method(version, method_name)
        header = {
            "task": "score",
            "directory": str(version.files(self._server)),
            "checksum": version.checksum,
            "handler": method["handler"],
            "structured": [number for number, one in enumerate(_inputs(method)) if _is_structured(one["type"])],
        }
        table = pa.table(arguments, names=[f"a{number}" for number in range(len(arguments))])
        return self._process(version).request(header, table).column("result").to_pylist()

    def stop(self) -> None:
        for process in self._processes.values():
            process.stop()

    def _process(self, version: Version) -> InferenceProcess:
        # Two versions that bring modules of their own would import each other's in one process.
        with self._lock:
            return self._processes.setdefault(version.id if version.has_code else "", InferenceProcess())


@at_start
def start(server: EmbeddedSnowflake) -> None:
    """Make the function known to the engine; a process is started at its first call."""
    running = Models(server)
    server.shutdown_callbacks.append(running.stop)

    def call(version_id: pa.ChunkedArray, method: pa.ChunkedArray, *arguments: pa.ChunkedArray) -> pa.Array:
        columns = [_storage(argument) for argument in arguments]
        texts = running.call(version_id[0].as_py(), method[0].as_py(), columns)
        return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))

    options: dict[str, Any] = {"type": "arrow", "null_handling": "special"}
    server.fakesnow.duck_conn.create_function(CALL, call, None, "JSON", **options)


def _storage(argument: pa.ChunkedArray) -> pa.Array:
    column = argument.combine_chunks() if isinstance(argument, pa.ChunkedArray) else argument
    return column.storage if isinstance(column, pa.ExtensionArray) else column


# -- the rewriting --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _MethodCall:
    """``MODEL(name, version)!METHOD(...)`` in a statement: the positions of its first and its last token."""

    first: int
    last: int
    version: Version
    method: dict[str, Any]
    arguments: tuple[str, ...]


@rewriter(r"!\s*[\w\"]")
def model_methods(query: Query) -> str:
    """MODEL(name[, version])!METHOD(...), name!METHOD(...), WITH alias AS MODEL name ... alias!METHOD(...)"""
    found = Tokens(query.sql)
    if found.is_word(0, "CALL") or not any(token.token_type == TokenType.EXCLAMATION for token in found.all):
        return query.sql
    found, aliases = _without_model_aliases(query, found)
    # The last one first: it is the innermost of nested calls.
    while marks := [number for number, token in enumerate(found.all) if token.token_type == TokenType.EXCLAMATION]:
        if found.is_word(0, "CREATE") and any(found.is_word(number, "VIEW") for number in range(1, 6)):
            raise unsupported("a method of a model in a view", "its version could not follow the alias")
        call = _method_call(query, found, marks[-1], aliases)
        found = Tokens(found.edited([_replacement(found, call)]))
    return found.sql


def _method_call(query: Query, found: Tokens, mark: int, aliases: dict[str, Version]) -> _MethodCall:
    if not (found.is_name(mark + 1) and found.is_type(mark + 2, TokenType.L_PAREN)):
        raise invalid("SQL compilation error:\nsyntax error: expected METHOD(...) after '!'.")
    closing = found.closing(mark + 2)
    if found.is_type(mark - 1, TokenType.R_PAREN):
        opening = found.opening(mark - 1)
        first = opening - 1
        if not found.is_word(first, "MODEL"):
            raise invalid("SQL compilation error:\nsyntax error: expected MODEL(name, version) before '!'.")
        version = _version(query, *found.arguments(opening, mark - 1))
    else:
        first = found.path_before(mark - 1)
        spelled = found.text(first, mark - 1)
        version = aliases.get(names.parts(spelled)[0] if first == mark - 1 else "") or _version(query, spelled)
    method = _method(version, names.parts(found.text(mark + 1, mark + 1))[0])
    return _MethodCall(first, closing, version, method, found.arguments(mark + 2, closing))


def _version(query: Query, spelled_name: str, spelled_version: str = "DEFAULT", *others: str) -> Version:
    if others:
        raise invalid("SQL compilation error:\nMODEL() takes a name and a version.")
    name = names.qualified(query.connection, names.text(spelled_name))
    version = models.find(query.server, name).version(names.parts(names.text(spelled_version))[0])
    if WAREHOUSE not in platforms(version.manifest):
        raise invalid(
            f"SQL compilation error:\nModel '{name}' version '{version.name}' is not to be run in a warehouse."
        )
    return version


def _method(version: Version, name: str) -> dict[str, Any]:
    for method in version.methods:
        if method["name"] == name:
            return method
    raise does_not_exist("Function", f"{name} of model version {version.name}")


def _without_model_aliases(query: Query, found: Tokens) -> tuple[Tokens, dict[str, Version]]:
    """The statement less its ``alias AS MODEL name [VERSION version]``, and what the aliases stand for."""
    aliases: dict[str, Version] = {}
    for number in range(1, len(found.all)):
        starts = found.is_word(number - 1, "WITH") or found.is_type(number - 1, TokenType.COMMA)
        if not (starts and found.is_word(number + 1, "AS") and found.is_word(number + 2, "MODEL")):
            continue
        if not found.is_name(number + 3):
            continue
        last = number + 3
        while found.is_type(last + 1, TokenType.DOT):
            last += 2
        spelled = [found.text(number + 3, last)]
        if found.is_word(last + 1, "VERSION"):
            spelled.append(found.text(last + 2, last + 2))
            last += 2
        aliases[names.parts(found.text(number, number))[0]] = _version(query, *spelled)
        start, end = number, last
        if found.is_type(last + 1, TokenType.COMMA):
            end = last + 1
        else:
            start = number - 1
        rest = found.edited([Edit(found.all[start].start, found.all[end].end + 1, "")])
        others, more = _without_model_aliases(query, Tokens(rest))
        return others, {**aliases, **more}
    return found, aliases


def _replacement(found: Tokens, call: _MethodCall) -> Edit:
    is_table = found.is_type(call.first - 1, TokenType.L_PAREN) and found.is_word(call.first - 2, "TABLE")
    if is_table != (call.method["type"] == "TABLE_FUNCTION"):
        expected = "TABLE(...)" if not is_table else "an expression"
        raise invalid(f"SQL compilation error:\nThe method {call.method['name']} is to be called as {expected}.")
    if not is_table:
        return Edit(found.all[call.first].start, found.all[call.last].end + 1, _engine_call(call))
    opening = call.first - 1
    _refuse_partitions(call)
    outputs = ", ".join(
        f"{_RESULT}[{number}]::{_checked_type(one['type'])} AS {names.quoted(one['name'])}"
        for number, one in enumerate(call.method["outputs"])
    )
    table = f"LATERAL (SELECT {outputs} FROM (SELECT {_engine_call(call)} AS {_RESULT}))"
    return Edit(found.all[opening - 1].start, found.all[found.closing(opening)].end + 1, table)


def _refuse_partitions(call: _MethodCall) -> None:
    import yaml

    properties = (yaml.safe_load(call.version.specification) or {}).get("function_properties") or {}
    by_name = {name.upper(): value for name, value in properties.items()}
    # A method that scores row by row answers the same in any partition; one that sees a whole partition does not.
    if (by_name.get(call.method["name"].upper()) or {}).get("PARTITIONED", True):
        raise unsupported(f"the partitioned method {call.method['name']} of a model")


def _engine_call(call: _MethodCall) -> str:
    inputs = _inputs(call.method)
    required, given = len(call.method["inputs"]), len(call.arguments)
    if not required <= given <= len(inputs):
        expected = required if required == len(inputs) else f"{required} to {len(inputs)}"
        raise invalid(
            f"SQL compilation error:\nInvalid number of arguments for function '{call.method['name']}': "
            f"expected {expected}, got {given}",
            1044,
            "42P13",
        )
    arguments = [*call.arguments, *["NULL"] * (len(inputs) - given)]
    cast = [_cast(argument, one["type"]) for argument, one in zip(arguments, inputs, strict=True)]
    return f"{CALL}({', '.join([literal(call.version.id), literal(call.method['name']), *cast])})"


def _inputs(method: dict[str, Any]) -> list[dict[str, Any]]:
    return [*method["inputs"], *method.get("params", [])]


def _cast(argument: str, type_name: str) -> str:
    return f"TO_JSON({argument})" if _is_structured(type_name) else f"CAST({argument} AS {_checked_type(type_name)})"


def _is_structured(type_name: str) -> bool:
    return type_name.upper().startswith(_STRUCTURED)


def _checked_type(type_name: str) -> str:
    if not _TYPE.fullmatch(type_name):
        raise invalid(f"SQL compilation error:\nthe model's package names a type that is none: {type_name!r}")
    return type_name

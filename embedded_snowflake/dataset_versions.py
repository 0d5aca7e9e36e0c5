"""ALTER DATASET ... ADD VERSION: the rows of a query, frozen as Parquet files.

The query runs as an unload onto a scratch stage; what it leaves there becomes the version in one step, so that a
version is whole or not there. What a Dataset is besides is in ``datasets``.
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlglot.dialects.snowflake import Snowflake
from sqlglot.errors import TokenError
from sqlglot.tokenizer_core import Token, TokenType

from embedded_snowflake import datasets, execution, names, sessions, stages, statements
from embedded_snowflake.errors import invalid, unsupported
from embedded_snowflake.names import NAME, Name
from embedded_snowflake.statements import Answer, Statement, statement, status

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST_NAME = 200
# Before compression; the client takes about a second to open a file, so they are large.
FILE_BYTES = 64 * 2**20
_LITERAL = rf"(?:\$\$.*?\$\$|{datasets.TEXT})"
_AFTER_QUERY = re.compile(
    r"(?:\s*PARTITION\s+BY\s+(?P<partition>.+?))?"
    rf"(?:\s*COMMENT\s*=\s*(?P<comment>{_LITERAL}))?(?:\s*METADATA\s*=\s*(?P<metadata>{_LITERAL}))?\s*;?\s*",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class NewVersion:
    """What ADD VERSION says of the version."""

    name: str
    query: str
    partition_by: str | None
    comment: str | None
    metadata: str


@statement(rf"ALTER DATASET(?: IF EXISTS)? (?P<name>{NAME}) ADD VERSION (?P<version>{datasets.TEXT}) FROM (?P<rest>.*)")
def add_version(request: Statement) -> Answer:
    """ALTER DATASET name ADD VERSION 'version' FROM (query) [PARTITION BY expr] [COMMENT = ''] [METADATA = '']"""
    server, connection = request.server, request.connection
    new = _new_version(request)
    datasets.find(server, datasets.name_of(request)).require_new(new.name)
    session = sessions.of(connection)
    if session.in_transaction or connection._in_transaction:
        # Snowflake's DDL is a transaction of its own: what is frozen is what others see too.
        execution.execute(server, connection, "COMMIT", None, str(uuid.uuid4()))
    name = datasets.name_of(request)
    scratch = Name(name.database, name.schema, f"DATASET_VERSION_{uuid.uuid4().hex.upper()}")
    with stages.scratch(server, connection, scratch) as stage:
        _unload(request, new, scratch)
        with server.lock:
            # The Dataset may have gone while the query ran, and another session may have been faster.
            dataset = datasets.find(server, name)
            dataset.require_new(new.name)
            files = dataset.files(server, new.name)
            files.parent.mkdir(parents=True, exist_ok=True)
            # Of a statement that failed between the next two lines.
            shutil.rmtree(files, ignore_errors=True)
            stage.directory.replace(files)
            server.catalog.execute(
                "INSERT INTO dataset_versions VALUES (?, ?, now(), ?, ?)",
                [dataset.id, new.name, new.comment, new.metadata],
            )
    return status(f"Dataset {name.name} successfully altered.")


def _unload(request: Statement, new: NewVersion, scratch: Name) -> None:
    stage = ".".join(names.quoted(part) for part in (scratch.database, scratch.schema, scratch.name))
    partition = f" PARTITION BY ({new.partition_by})" if new.partition_by else ""
    options = f"FILE_FORMAT = (TYPE = PARQUET) HEADER = TRUE MAX_FILE_SIZE = {FILE_BYTES}"
    sql = f"COPY INTO @{stage}/ FROM ({new.query}){partition} {options}"
    rewritten = statements.rewrite(request.server, request.connection, sql)
    execution.execute(request.server, request.connection, rewritten, request.binds, str(uuid.uuid4()))


def _new_version(request: Statement) -> NewVersion:
    name = names.text(request.group("version") or "")
    if not re.fullmatch(r"""[^./\\'"\x00-\x1f][^/\\'"\x00-\x1f]*""", name) or len(name.encode()) > LONGEST_NAME:
        raise invalid(
            f"invalid version name {name!r}: expected at most {LONGEST_NAME} bytes without quotes, slashes, control "
            "characters, and not a dot at its beginning"
        )
    query, rest = _query(request.group("rest") or "")
    match = _AFTER_QUERY.fullmatch(rest)
    if not match:
        raise invalid(f"SQL compilation error:\nunexpected '{rest.strip()[:100]}' after the query of ADD VERSION")
    comment, metadata = match.group("comment"), _literal(match.group("metadata") or "'{}'")
    _require_object(metadata)
    return NewVersion(name, query, match.group("partition"), _literal(comment) if comment else None, metadata)


def _query(text: str) -> tuple[str, str]:
    """The query in brackets at the beginning of ``text``, without them, and what comes behind."""
    try:
        tokens = Snowflake().tokenize(text)
    except TokenError as error:
        raise invalid(f"SQL compilation error:\n{error}") from error
    if not tokens or tokens[0].token_type is not TokenType.L_PAREN:
        raise unsupported("ALTER DATASET ... ADD VERSION FROM anything but a query in brackets")
    end = _closing(tokens)
    return text[tokens[0].end + 1 : end], text[end + 1 :]


def _closing(tokens: Iterable[Token]) -> int:
    depth = 0
    for token in tokens:
        depth += {TokenType.L_PAREN: 1, TokenType.R_PAREN: -1}.get(token.token_type, 0)
        if depth == 0:
            return token.start
    raise invalid("SQL compilation error:\nthe bracket before the query of ADD VERSION is not closed")


def _literal(token: str) -> str:
    return token[2:-2] if token.startswith("$$") else names.text(token)


def _require_object(metadata: str) -> None:
    try:
        found = json.loads(metadata, strict=False)
    except json.JSONDecodeError as error:
        raise invalid(f"METADATA of a Dataset version: expected a JSON object, found {error}") from error
    if not isinstance(found, dict):
        raise invalid(f"METADATA of a Dataset version: expected a JSON object, found {metadata[:100]}")


@statement(r"(?P<words>(?:CREATE|ALTER|UNDROP|DESC(?:RIBE)?) DATASET)\b(?P<rest>.*)")
def refuse_dataset_statement(request: Statement) -> Answer:
    """Any other statement on Datasets is refused by name"""
    words = re.sub(r"\s+", " ", (request.group("words") or "").upper())
    what = re.search(r"\b(RENAME TO|SET TAG|UNSET TAG|SET|UNSET|MODIFY VERSION)\b", request.group("rest") or "", re.I)
    raise unsupported(f"{words} ... {what.group(1).upper()}" if what else words)

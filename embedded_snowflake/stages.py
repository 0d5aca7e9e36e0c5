"""Stages: internal stages whose files are plain files under the data directory, and what moves files in and out.

A stage DB.SCHEMA.NAME is the directory ``stages/DB/SCHEMA/NAME``; a temporary one is under
``temporary_stages/<session>`` and goes with its session. Queries on a stage's files are in ``stage_queries``, loading
and unloading in ``copying``, what a ``snow://`` location is in the module of its object. External stages, ``@~`` (the
user's stage) and ``@%table`` (a table's stage) are refused.
"""

from __future__ import annotations

import base64
import contextlib
import glob
import gzip
import hashlib
import hmac
import json
import mimetypes
import os
import re
import secrets
import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from embedded_snowflake import disk_space, names, sessions
from embedded_snowflake.catalog import declare
from embedded_snowflake.errors import ProgrammingError, already_exists, does_not_exist, invalid, unsupported
from embedded_snowflake.names import NAME, SHOW_TAIL, Name, Shown
from embedded_snowflake.statements import Answer, Options, Statement, Transfer, at_start, rows, statement, status

if TYPE_CHECKING:
    from fakesnow.fakes import FakeSnowflakeConnection

    from embedded_snowflake.server import EmbeddedSnowflake

declare(
    """CREATE TABLE IF NOT EXISTS stages (
        database_name VARCHAR, schema_name VARCHAR, name VARCHAR,
        session VARCHAR,  -- of a temporary stage; '' for one that lasts
        created_on TIMESTAMPTZ, options JSON, comment VARCHAR,
        PRIMARY KEY (database_name, schema_name, name, session))"""
)
# A digest is read from the file once per (size, time of change).
declare(
    """CREATE TABLE IF NOT EXISTS stage_file_digests (
        path VARCHAR PRIMARY KEY, size BIGINT, changed_ns BIGINT, md5 VARCHAR)"""
)

# A location: '@name/path' in quotes, or @name/path up to the next blank outside of double quotes.
LOCATION = r"""(?:'@(?:[^'\\]|\\.|'')*'|@(?:"(?:[^"]|"")*"|[^\s"';,()])+)"""
FILE_URL = r"(?:'file://(?:[^'\\]|\\.|'')*'|file://[^\s;]+)"
# Of these, ENCRYPTION is shown by nothing and changes nothing: files are kept as they are.
_STAGE_OPTIONS = {"FILE_FORMAT", "DIRECTORY", "ENCRYPTION", "COMMENT"}
UPLOAD_SECONDS = 3600
REMEMBERED_UPLOADS = 10_000
# Snowflake's own limit: a week.
LONGEST_URL_SECONDS = 604_800
FILES_PATH = "/stage-files/"
_SIGNING_KEY = secrets.token_bytes(32)


@dataclass(frozen=True)
class Stage:
    """A stage and the directory that holds its files."""

    name: Name
    directory: Path
    options: dict[str, str]
    temporary: bool
    # What LIST and METADATA$FILENAME show before the path of a file.
    prefix: str


@dataclass(frozen=True)
class StageLocation:
    """A stage and the rest of a location after its name: a path, or the beginning of one."""

    stage: Stage
    path: str

    @property
    def local(self) -> Path:
        """The file or directory on this machine that the path names."""
        return within(self.stage.directory, self.path)


@dataclass(frozen=True)
class StagedFile:
    """A file on a stage. ``path`` is relative to the stage."""

    path: str
    local: Path
    size: int
    modified: float


def resolve(server: EmbeddedSnowflake, connection: FakeSnowflakeConnection, location: str) -> StageLocation:
    """The stage and path behind ``@stage/path``, quoted or not. Raises 2003 for a stage that is missing."""
    spelled = names.text(location)
    if spelled.startswith("snow://"):
        raise unsupported("a snow:// location in this statement", "what lies there is read and never written")
    match = re.fullmatch(rf"@({NAME})(?:/+(.*))?", spelled, re.DOTALL)
    if not match:
        if spelled.startswith(("@~", "@%")) or re.match(r'@(?:[^/]*\.)?"?%', spelled):
            raise unsupported("user stages (@~) and table stages (@%table)", "create a named stage")
        raise invalid(f"SQL compilation error:\ninvalid stage location {spelled!r}: expected @stage or @stage/path")
    stage = find(server, connection, names.qualified(connection, match.group(1)))
    path = match.group(2) or ""
    within(stage.directory, path)
    return StageLocation(stage, re.sub(r"/+", "/", path))


SnowUrl = Callable[["EmbeddedSnowflake", "FakeSnowflakeConnection", str], StageLocation]
_SNOW_URLS: dict[str, SnowUrl] = {}


def snow_url(domain: str) -> Callable[[SnowUrl], SnowUrl]:
    """Let this function say what lies behind ``snow://<domain>/...``."""

    def register(function: SnowUrl) -> SnowUrl:
        _SNOW_URLS[domain] = function
        return function

    return register


def readable(server: EmbeddedSnowflake, connection: FakeSnowflakeConnection, location: str) -> StageLocation:
    """``resolve`` for what only reads: of ``snow://`` locations too."""
    spelled = names.text(location)
    domain = re.match(r"snow://(\w+)/", spelled)
    if domain and (found := _SNOW_URLS.get(domain.group(1).lower())):
        return found(server, connection, spelled)
    return resolve(server, connection, location)


def find(server: EmbeddedSnowflake, connection: FakeSnowflakeConnection, name: Name) -> Stage:
    """The stage of this name: the session's temporary one before one that lasts. Raises 2003 when there is none."""
    session = sessions.of(connection).id
    known = server.catalog.query(
        """SELECT session, options FROM stages WHERE database_name = ? AND schema_name = ? AND name = ?
           AND session IN ('', ?) ORDER BY session DESC LIMIT 1""",
        [name.database, name.schema, name.name, session],
    )
    if not known:
        raise does_not_exist("Stage", str(name))
    owner = known[0]["session"]
    options, prefix = json.loads(known[0]["options"]), f"{name.name.lower()}/"
    return Stage(name, _directory(server, name, owner), options, bool(owner), prefix)


@contextlib.contextmanager
def scratch(server: EmbeddedSnowflake, connection: FakeSnowflakeConnection, name: Name) -> Iterator[Stage]:
    """A temporary stage of the session that goes, with what is left on it, at the end of this block."""
    key = [name.database, name.schema, name.name, sessions.of(connection).id]
    directory = _directory(server, name, key[-1])
    directory.mkdir(parents=True)
    server.catalog.execute("INSERT INTO stages VALUES (?, ?, ?, ?, now(), '{}', '')", key)
    try:
        yield find(server, connection, name)
    finally:
        server.catalog.execute(
            "DELETE FROM stages WHERE database_name = ? AND schema_name = ? AND name = ? AND session = ?", key
        )
        shutil.rmtree(directory, ignore_errors=True)


def within(directory: Path, path: str) -> Path:
    """``directory / path``. Raises when that is outside of ``directory``, be it by ``..`` or by a symbolic link."""
    local = directory / path.lstrip("/")
    if ".." in Path(path).parts or "\0" in path or not local.resolve().is_relative_to(directory.resolve()):
        raise invalid(f"invalid stage path {path!r}: it leaves the stage", 253003, "42601")
    return local


def files(location: StageLocation, pattern: str | None = None) -> list[StagedFile]:
    """The files whose path begins with the location's path, by name.

    ``pattern`` must match a file's whole path, with or without the stage's name in front as LIST shows it.
    """
    root = location.stage.directory
    base, _, beginning = location.path.rpartition("/")
    wanted = _regular_expression(pattern) if pattern else None
    found = sorted(_walk(within(root, base), root, beginning), key=lambda file: file.path)
    prefix = location.stage.prefix
    return [file for file in found if not wanted or wanted.fullmatch(file.path) or wanted.fullmatch(prefix + file.path)]


def _walk(directory: Path, root: Path, beginning: str = "") -> Iterator[StagedFile]:
    try:
        entries = list(os.scandir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if not entry.name.startswith(beginning):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), root)
        elif entry.is_file(follow_symlinks=False):
            try:
                stat = entry.stat()
            except FileNotFoundError:
                continue
            local = Path(entry.path)
            yield StagedFile(local.relative_to(root).as_posix(), local, stat.st_size, stat.st_mtime)


def _regular_expression(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise invalid(f"Invalid regular expression: '{pattern}', {error}", 100048, "2201B") from error


def _directory(server: EmbeddedSnowflake, name: Name, session: str) -> Path:
    root = server.data_dir / "temporary_stages" / session if session else server.data_dir / "stages"
    return root.joinpath(*(_file_name(part) for part in (name.database, name.schema, name.name)))


def _file_name(identifier: str) -> str:
    """A file name for any identifier; '.' and '/' cannot stay as they are."""
    return quote(identifier, safe=" ").replace(".", "%2E")


@at_start
def answer_presigned_urls(server: EmbeddedSnowflake) -> None:
    """GET_PRESIGNED_URL, which ``sql_functions`` translates to this."""

    def presigned(directory: str, path: str, seconds: float) -> str:
        return signed_url(server, "read", within(Path(directory), path), seconds)

    server.fakesnow.duck_conn.create_function(
        "_PRESIGNED_URL", presigned, ["VARCHAR", "VARCHAR", "DOUBLE"], "VARCHAR", side_effects=True
    )


@at_start
def forget_temporary_stages(server: EmbeddedSnowflake) -> None:
    """No session outlives the server: what their temporary stages left behind goes."""
    server.catalog.execute("DELETE FROM stages WHERE session <> ''")
    shutil.rmtree(server.data_dir / "temporary_stages", ignore_errors=True)
    shutil.rmtree(server.data_dir / "incoming", ignore_errors=True)


@sessions.at_end
def drop_temporary_stages(server: EmbeddedSnowflake, session: sessions.Session) -> None:
    """A temporary stage goes with its session."""
    server.catalog.execute("DELETE FROM stages WHERE session = ?", [session.id])
    shutil.rmtree(server.data_dir / "temporary_stages" / session.id, ignore_errors=True)


def drop_all_in(server: EmbeddedSnowflake, database: str, schema: str | None = None) -> None:
    """Drop the stages of a database, or of one schema of it, when that is dropped."""
    where, values = "database_name = ?", [database]
    if schema is not None:
        where, values = where + " AND schema_name = ?", [database, schema]
    for row in server.catalog.query(f"SELECT * FROM stages WHERE {where}", values):
        name = Name(row["database_name"], row["schema_name"], row["name"])
        shutil.rmtree(_directory(server, name, row["session"]), ignore_errors=True)
    server.catalog.execute(f"DELETE FROM stages WHERE {where}", values)
    shutil.rmtree(server.data_dir.joinpath("stages", *map(_file_name, values)), ignore_errors=True)


@statement(
    r"CREATE(?P<replace> OR REPLACE)?(?P<temporary> (?:SCOPED )?TEMP(?:ORARY)?)? STAGE(?P<exists> IF NOT EXISTS)?"
    rf" (?P<name>{NAME})(?P<options>.*)"
)
def create_stage(request: Statement) -> Answer:
    """CREATE [OR REPLACE] [TEMPORARY] STAGE [IF NOT EXISTS] name [options]"""
    server, connection = request.server, request.connection
    name = names.qualified(connection, names.spelled(request.group("name") or "", request.binds))
    options = Options.parse(request.group("options")).values
    if options.get("URL"):
        raise unsupported("external stages (CREATE STAGE ... URL =)")
    if unknown := sorted(options.keys() - _STAGE_OPTIONS):
        raise unsupported(f"CREATE STAGE ... {unknown[0]} =")
    require_schema(connection, name)
    session = sessions.of(connection).id if request.group("temporary") else ""
    directory = _directory(server, name, session)
    key = [name.database, name.schema, name.name, session]
    with server.lock:
        exists = server.catalog.query(
            "SELECT 1 FROM stages WHERE database_name = ? AND schema_name = ? AND name = ? AND session = ?", key
        )
        if exists and request.group("exists"):
            return status(f"{name.name} already exists, statement succeeded.")
        if exists and not request.group("replace"):
            raise already_exists("Object", str(name))
        if exists:
            shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True, exist_ok=True)
        server.catalog.execute(
            "INSERT OR REPLACE INTO stages VALUES (?, ?, ?, ?, now(), ?, ?)",
            [*key, json.dumps(options), options.get("COMMENT", "")],
        )
    return status(f"Stage area {name.name} successfully created.")


def require_schema(connection: FakeSnowflakeConnection, name: Name) -> None:
    """Raise 2003 when the schema that the name is in does not exist."""
    found = (
        connection._duck_conn.cursor()
        .execute(
            "SELECT 1 FROM information_schema.schemata WHERE catalog_name = ? AND schema_name = ?",
            [name.database, name.schema],
        )
        .fetchone()
    )
    if not found:
        raise does_not_exist("Schema", f"{name.database}.{name.schema}")


@statement(rf"DROP STAGE(?P<exists> IF EXISTS)? (?P<name>{NAME})")
def drop_stage(request: Statement) -> Answer:
    """DROP STAGE [IF EXISTS] name"""
    name = names.qualified(request.connection, names.spelled(request.group("name") or "", request.binds))
    try:
        stage = find(request.server, request.connection, name)
    except ProgrammingError:
        if request.group("exists"):
            return status("Drop statement executed successfully.")
        raise
    session = sessions.of(request.connection).id if stage.temporary else ""
    request.server.catalog.execute(
        "DELETE FROM stages WHERE database_name = ? AND schema_name = ? AND name = ? AND session = ?",
        [name.database, name.schema, name.name, session],
    )
    shutil.rmtree(stage.directory, ignore_errors=True)
    return status(f"{name.name} successfully dropped.")


@statement(rf"ALTER STAGE(?: IF EXISTS)? (?P<name>{NAME}) REFRESH(?: SUBPATH = .*)?")
def refresh_stage(request: Statement) -> Answer:
    """ALTER STAGE name REFRESH: the directory table is read from the files themselves, so it is always fresh"""
    find(request.server, request.connection, names.qualified(request.connection, request.group("name") or ""))
    return rows(["file", "status", "description"], [])


@statement(rf"DESC(?:RIBE)? STAGE (?P<name>{NAME})")
def describe_stage(request: Statement) -> Answer:
    """DESCRIBE STAGE name"""
    name = names.qualified(request.connection, names.spelled(request.group("name") or "", request.binds))
    stage = find(request.server, request.connection, name)
    file_format = Options.parse(stage.options.get("FILE_FORMAT", "")).values
    directory = Options.parse(stage.options.get("DIRECTORY", "")).get("ENABLE", "FALSE")
    described = [("STAGE_FILE_FORMAT", "TYPE", "String", file_format.pop("TYPE", "CSV"), "CSV")]
    described += [("STAGE_FILE_FORMAT", key, "String", value, "") for key, value in file_format.items()]
    described += [
        ("STAGE_LOCATION", "URL", "String", "", ""),
        ("STAGE_INTEGRATION", "STORAGE_INTEGRATION", "String", "", ""),
        ("DIRECTORY", "ENABLE", "Boolean", directory.lower(), "false"),
    ]
    columns = ["parent_property", "property", "property_type", "property_value", "property_default"]
    return rows(columns, described)


@statement(rf"SHOW STAGES{SHOW_TAIL}")
def show_stages(request: Statement) -> Answer:
    """SHOW STAGES [LIKE pattern] [IN scope]"""
    shown = Shown.of(request.match, request.connection, request.binds)
    session = sessions.of(request.connection).id
    known = request.server.catalog.query(
        "SELECT * FROM stages WHERE session IN ('', ?) ORDER BY database_name, schema_name, name", [session]
    )
    wanted = [row for row in known if shown.has(row["name"], row["database_name"], row["schema_name"])]
    columns = (
        *("created_on", "name", "database_name", "schema_name", "url", "has_credentials", "has_encryption_key"),
        *("owner", "comment", "region", "type", "cloud", "notification_channel", "storage_integration", "endpoint"),
        *("owner_role_type", "directory_enabled"),
    )
    answer = []
    for row in wanted[: shown.limit]:
        enabled = "TRUE" in Options.parse(json.loads(row["options"]).get("DIRECTORY", "")).get("ENABLE").upper()
        kind = "INTERNAL TEMPORARY" if row["session"] else "INTERNAL"
        place = (row["created_on"], row["name"], row["database_name"], row["schema_name"])
        more = ("", "N", "N", sessions.OWNER, row["comment"], None, kind, None, None, None, None, "ROLE")
        answer.append((*place, *more, "Y" if enabled else "N"))
    return rows(columns, answer)


@statement(rf"(?:LIST|LS) (?P<location>{LOCATION}|\?)(?: PATTERN\s*=\s*(?P<pattern>'(?:[^'\\]|\\.|'')*'))?")
def list_files(request: Statement) -> Answer:
    """LIST @stage[/path] [PATTERN = 'regex']"""
    return listing(request.server, _location(request), _pattern(request))


def listing(server: EmbeddedSnowflake, location: StageLocation, pattern: str | None) -> Answer:
    """The answer to LIST."""
    found = files(location, pattern)
    digests = md5_digests(server, found)
    listed = [
        (location.stage.prefix + file.path, file.size, digests[file.path], formatdate(file.modified, usegmt=True))
        for file in found
    ]
    return rows(["name", "size", "md5", "last_modified"], listed)


@statement(rf"(?:REMOVE|RM) (?P<location>{LOCATION}|\?)(?: PATTERN\s*=\s*(?P<pattern>'(?:[^'\\]|\\.|'')*'))?")
def remove_files(request: Statement) -> Answer:
    """REMOVE @stage[/path] [PATTERN = 'regex']"""
    location = _location(request)
    found = files(location, _pattern(request))
    for file in found:
        file.local.unlink(missing_ok=True)
    _remove_empty_directories(location.stage.directory)
    return rows(["name", "result"], [(location.stage.prefix + file.path, "removed") for file in found])


def _location(request: Statement) -> StageLocation:
    spelled = request.group("location") or ""
    location = names.first_bind(request.binds) if spelled == "?" else spelled
    return resolve(request.server, request.connection, location)


def _pattern(request: Statement) -> str | None:
    pattern = request.group("pattern")
    return names.text(pattern) if pattern else None


def _remove_empty_directories(root: Path) -> None:
    for directory, _, _ in os.walk(root, topdown=False):
        if Path(directory) != root:
            # Refused where files are left or have just come; another REMOVE may have been faster.
            with contextlib.suppress(OSError):
                os.rmdir(directory)


def md5_digests(server: EmbeddedSnowflake, found: list[StagedFile]) -> dict[str, str]:
    """The MD5 of each file by its path in the stage; a file is read only when it is new or has changed."""
    if not found:
        return {}
    keys = [str(file.local) for file in found]
    known = {
        row["path"]: row
        for row in server.catalog.query(
            "SELECT * FROM stage_file_digests WHERE path IN (SELECT unnest(?::VARCHAR[]))", [keys]
        )
    }
    digests: dict[str, str] = {}
    fresh: list[tuple[str, int, int, str]] = []
    for file, key in zip(found, keys, strict=True):
        try:
            stat = file.local.stat()
            row = known.get(key)
            if row and (row["size"], row["changed_ns"]) == (stat.st_size, stat.st_mtime_ns):
                digests[file.path] = row["md5"]
                continue
            with file.local.open("rb") as stream:
                digest = hashlib.file_digest(stream, "md5").hexdigest()
        except FileNotFoundError:
            digests[file.path] = ""
            continue
        digests[file.path] = digest
        fresh.append((key, stat.st_size, stat.st_mtime_ns, digest))
    if fresh:
        paths, sizes, changed, md5 = (list(column) for column in zip(*fresh, strict=True))
        server.catalog.execute(
            """INSERT OR REPLACE INTO stage_file_digests
               SELECT unnest(?::VARCHAR[]), unnest(?::BIGINT[]), unnest(?::BIGINT[]), unnest(?::VARCHAR[])""",
            [paths, sizes, changed, md5],
        )
    return digests


@statement(rf"PUT (?P<source>{FILE_URL}) (?P<location>{LOCATION}|\?)(?P<options>.*)")
def put(request: Statement) -> Answer:
    """PUT file://path @stage[/path] [AUTO_COMPRESS = ] [OVERWRITE = ] [SOURCE_COMPRESSION = ] [PARALLEL = ]

    The client sends each file to an upload address of ours, which makes it appear on the stage as a whole. The client
    of a stage given as ``?`` cannot ask for one address per file: it writes into the stage's directory itself.
    """
    location = _location(request)
    directory = StageLocation(location.stage, location.path and location.path.rstrip("/") + "/")
    options = Options.parse(request.group("options"))
    compress = options.get("AUTO_COMPRESS", "TRUE").upper() == "TRUE"
    overwrite = options.get("OVERWRITE", "FALSE").upper() == "TRUE"
    source = names.text(request.group("source") or "").removeprefix("file://")
    if not overwrite and (skipped := _put_without_overwriting(directory, source, compress, request)):
        return skipped
    if request.group("location") == "?":
        directory.local.mkdir(parents=True, exist_ok=True)
        stage_info: dict[str, Any] = {"locationType": "LOCAL_FS", "location": f"{directory.local}/", "creds": {}}
    else:
        target = within(location.stage.directory, directory.path + os.path.basename(source))
        stage_info = {
            # The one kind of storage that the connector sends to by plain HTTP.
            "locationType": "GCS",
            "location": f"{location.stage.name}/",
            "creds": {},
            "presignedUrl": signed_url(
                request.server,
                "upload",
                target,
                UPLOAD_SECONDS,
                overwrite=overwrite,
                job=sessions.of(request.connection).job,
            ),
        }
    return Transfer(
        {
            "command": "UPLOAD",
            "src_locations": [source],
            "parallel": int(options.get("PARALLEL", "4")),
            "autoCompress": compress,
            "sourceCompression": options.get("SOURCE_COMPRESSION", "auto_detect").lower(),
            "overwrite": overwrite,
            "stageInfo": stage_info,
        }
    )


def _put_without_overwriting(
    directory: StageLocation, source: str, compress: bool, request: Statement
) -> Answer | None:
    """The finished PUT where a target exists already, else None.

    The connector reports SKIPPED only for storage that this server cannot be; so the server, which is on the client's
    machine, copies what is new and reports the rest as skipped. A source without a directory is the connector asking
    for the address of one file of a PUT that it has begun.
    """
    if "/" not in source:
        return None
    local = [Path(path) for path in sorted(glob.glob(source))] if os.path.isabs(source) else []
    sources = local or [Path(source)]
    targets = {path: within(directory.stage.directory, directory.path + _target(path, compress)) for path in sources}
    if not any(target.exists() for target in targets.values()):
        return None
    if request.group("location") == "?":
        there = ", ".join(sorted(path.name for path, target in targets.items() if target.exists()))
        raise invalid(f"{there} exists on {directory.stage.name}: PUT with OVERWRITE = TRUE replaces it", 253003)
    result = []
    for path, target in targets.items():
        packed = target.name != path.name
        uploaded = not target.exists() and _copy(request.server, path, target, packed)
        size = path.stat().st_size if path.exists() else target.stat().st_size
        kind = "GZIP" if packed else (_encoding(path) or "none").upper()
        before = "NONE" if packed else kind
        result.append(
            (
                *(path.name, target.name, size, target.stat().st_size if uploaded else 0, before, kind),
                *("UPLOADED" if uploaded else "SKIPPED", ""),
            )
        )
    columns = (
        *("source", "target", "source_size", "target_size"),
        *("source_compression", "target_compression", "status", "message"),
    )
    return rows(columns, result)


def _target(source: Path, compress: bool) -> str:
    return f"{source.name}.gz" if compress and not _encoding(source) else source.name


def _encoding(source: Path) -> str | None:
    """The compression that the connector sees in a file: by its name, or by its first bytes."""
    encoding = mimetypes.guess_type(source.name)[1] or ("br" if source.suffix == ".br" else None)
    if encoding or not source.is_file():
        return encoding
    with source.open("rb") as stream:
        first = stream.read(4)
    known = {b"PAR1": "parquet", b"\x28\xb5\x2f\xfd": "zstd"}
    return "orc" if first[:3] == b"ORC" else known.get(first)


def _copy(server: EmbeddedSnowflake, source: Path, target: Path, packed: bool = False) -> bool:
    """Copy a file onto a stage in one step, packed by gzip or as it is. False when the target has come into being."""
    with (
        arriving(server) as partial,
        source.open("rb") as read,
        gzip.open(partial, "wb") if packed else partial.open("wb") as written,
    ):
        shutil.copyfileobj(read, written)
    return publish(partial, target, overwrite=False)


def publish(partial: Path, target: Path, overwrite: bool) -> bool:
    """Make a finished file appear on a stage in one step. False when it is there already and must stay."""
    for attempt in range(3):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if overwrite:
                partial.replace(target)
            else:
                os.link(partial, target)
                partial.unlink()
            return True
        except FileExistsError:
            partial.unlink()
            return False
        except FileNotFoundError:
            # A REMOVE beside this took the empty directory away.
            if attempt == 2:
                raise
    return False


def incoming(server: EmbeddedSnowflake) -> Path:
    """A path for a file that is not yet on its stage, on the same file system."""
    directory = server.data_dir / "incoming"
    directory.mkdir(exist_ok=True)
    return directory / uuid.uuid4().hex


@contextlib.contextmanager
def arriving(server: EmbeddedSnowflake) -> Iterator[Path]:
    """``incoming`` for a file that is written in this block; what is written of it goes if that fails."""
    partial = incoming(server)
    try:
        yield partial
        disk_space.require("a file of a stage")
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@statement(rf"GET (?P<location>{LOCATION}|\?) (?P<target>{FILE_URL})(?P<options>.*)")
def get(request: Statement) -> Answer:
    """GET @stage[/path] file://directory [PATTERN = 'regex'] [PARALLEL = ]

    The client copies from the stage's directory itself.
    """
    options = Options.parse(request.group("options"))
    return download(_location(request), names.text(request.group("target") or ""), options)


def download(location: StageLocation, target: str, options: Options) -> Answer:
    """The answer to GET."""
    found = files(location, options.get("PATTERN") or None)
    if location.local.is_file() and location.path:
        # A path that is one file's is that file; others may only begin like it.
        found = [file for file in found if file.path == location.path]
    directory = f"{location.stage.directory}/"
    return Transfer(
        {
            "command": "DOWNLOAD",
            "src_locations": [file.path for file in found],
            "localLocation": target.removeprefix("file://"),
            "parallel": int(options.get("PARALLEL", "10")),
            "autoCompress": False,
            "overwrite": True,
            "sourceCompression": "none",
            "encryptionMaterial": [],
            "presignedUrls": None,
            "stageInfo": {"locationType": "LOCAL_FS", "location": directory, "creds": {}},
        }
    )


@statement(
    rf"COPY FILES INTO (?P<target>{LOCATION}) FROM (?P<location>{LOCATION})"
    r"(?: FILES\s*=\s*\((?P<files>[^)]*)\))?(?: PATTERN\s*=\s*(?P<pattern>'(?:[^'\\]|\\.|'')*'))?"
    r"(?: DETAILED_OUTPUT\s*=\s*\w+)?"
)
def copy_files(request: Statement) -> Answer:
    """COPY FILES INTO @stage[/path/] FROM @stage[/path/] [FILES = (...)] [PATTERN = 'regex']"""
    source, target = _location(request), resolve(request.server, request.connection, request.group("target") or "")
    named = re.findall(r"'((?:[^']|'')*)'", request.group("files") or "")
    base = source.path if source.path.endswith("/") or not source.path else source.path.rpartition("/")[0] + "/"
    if source.path and not source.local.is_file() and not source.path.endswith("/"):
        base = source.path + "/"
    copied = []
    for file in files(source, _pattern(request)):
        relative = file.path.removeprefix(base if base != "/" else "")
        if named and relative not in named:
            continue
        into = target.path + ("" if target.path.endswith("/") or not target.path else "/") + relative
        with arriving(request.server) as partial:
            shutil.copyfile(file.local, partial)
        publish(partial, within(target.stage.directory, into), overwrite=True)
        copied.append((target.stage.prefix + into,))
    return rows(["file"], copied)


@dataclass(frozen=True)
class Address:
    """What a signed address is for. ``relative`` is the file below the data directory, ``job`` who asked for it."""

    action: str
    relative: str
    expires: float
    overwrite: bool
    job: str | None


def signed_url(
    server: EmbeddedSnowflake,
    action: str,
    file: Path,
    seconds: float,
    overwrite: bool = True,
    job: str | None = None,
) -> str:
    """An address on this server by which anyone may read or write this one file until it expires."""
    if not seconds <= LONGEST_URL_SECONDS:
        raise invalid(f"expected an expiration of at most {LONGEST_URL_SECONDS} seconds, found {seconds:.0f}")
    # What lies behind a .. or a symbolic link counts, not how the path is spelled.
    relative = file.resolve().relative_to(server.data_dir.resolve()).as_posix()
    if not relative.startswith(("stages/", "temporary_stages/", "datasets/")):
        # SQL can call the engine's function behind GET_PRESIGNED_URL with any directory.
        raise invalid(f"{file.name} is not on a stage")
    claims = json.dumps([action, relative, time.time() + seconds, overwrite, job]).encode()
    token = base64.urlsafe_b64encode(_signature(claims) + claims).decode()
    return f"http://127.0.0.1:{server.configuration.port}{FILES_PATH}{token}/{quote(file.name)}"


def _signature(claims: bytes) -> bytes:
    return hmac.digest(_SIGNING_KEY, claims, "sha256")


def address(path: str) -> Address | None:
    """What the path of a request says if this server has signed it, expired or not."""
    try:
        return _read_token(path.removeprefix(FILES_PATH).partition("/")[0])
    except (PermissionError, ValueError):
        return None


def _read_token(token: str) -> Address:
    raw = base64.urlsafe_b64decode(token)
    signature, claims = raw[:32], raw[32:]
    if not hmac.compare_digest(signature, _signature(claims)):
        raise PermissionError("the address is not signed by this server")
    return Address(*json.loads(claims))


def _claims(server: EmbeddedSnowflake, token: str, action: str) -> tuple[Path, bool]:
    found = _read_token(token)
    if found.action != action:
        raise PermissionError(f"the address is not for {action}")
    if time.time() > found.expires:
        raise PermissionError("the address has expired")
    return server.data_dir / found.relative, found.overwrite


def routes(server: EmbeddedSnowflake) -> list[Route]:
    """The HTTP routes of signed addresses."""

    async def read(request: Request) -> Response:
        try:
            file, _ = _claims(server, request.path_params["token"], "read")
        except (PermissionError, ValueError) as error:
            return PlainTextResponse(str(error), 403)
        if not await run_in_threadpool(file.is_file):
            return PlainTextResponse("no such file on the stage", 404)
        return FileResponse(file, filename=None, media_type="application/octet-stream")

    # Addresses that were written to, since a client that saw no answer sends its file again. The oldest go first.
    written_to: deque[str] = deque(maxlen=REMEMBERED_UPLOADS)

    async def write(request: Request) -> Response:
        token = request.path_params["token"]
        try:
            file, overwrite = _claims(server, token, "upload")
        except (PermissionError, ValueError) as error:
            return PlainTextResponse(str(error), 403)
        partial = incoming(server)
        try:
            await _receive(request, partial)
        except OSError as error:
            partial.unlink(missing_ok=True)
            async for _ in request.stream():
                # A client that is still sending would not read the answer.
                continue
            # A status that clients do not repeat for minutes; a 200 would mean that the file is there.
            return PlainTextResponse(f"{file.name} was not written: {error.strerror}", 507)
        except BaseException:
            # The client has gone away in the middle.
            partial.unlink(missing_ok=True)
            raise
        if not await run_in_threadpool(publish, partial, file, overwrite) and token not in written_to:
            return PlainTextResponse("the file exists on the stage and OVERWRITE is FALSE", 412)
        written_to.append(token)
        return Response()

    path = f"{FILES_PATH}{{token}}/{{name:path}}"
    return [Route(path, read, methods=["GET", "HEAD"]), Route(path, write, methods=["PUT"])]


async def _receive(request: Request, partial: Path) -> None:
    room_needed = True
    with partial.open("wb") as written:
        async for chunk in request.stream():
            await run_in_threadpool(written.write, chunk)
            if chunk and room_needed:
                await run_in_threadpool(disk_space.require, "a file of a stage")
                room_needed = False


def timestamp(file: StagedFile) -> datetime:
    """When the file last changed, in UTC."""
    return datetime.fromtimestamp(file.modified, UTC)

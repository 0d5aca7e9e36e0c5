"""Datasets: frozen query results as schema objects, each version a folder of Parquet files behind ``snow://dataset/``.

How a version comes into being is in ``dataset_versions``; reading the files is the work of ``stages`` and
``stage_queries``, for which a Dataset is one more place where files are. Nothing changes or adds a file of a version.
"""

from __future__ import annotations

import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedded_snowflake import names, stages
from embedded_snowflake.catalog import declare
from embedded_snowflake.errors import already_exists, does_not_exist, invalid, unsupported
from embedded_snowflake.names import NAME, SHOW_TAIL, Name, Shown
from embedded_snowflake.sessions import OWNER
from embedded_snowflake.stages import Stage, StageLocation
from embedded_snowflake.statements import Answer, Options, Statement, at_start, rows, statement, status

if TYPE_CHECKING:
    from fakesnow.fakes import FakeSnowflakeConnection

    from embedded_snowflake.server import EmbeddedSnowflake

declare(
    """CREATE TABLE IF NOT EXISTS datasets (
        id VARCHAR PRIMARY KEY, database_name VARCHAR, schema_name VARCHAR, name VARCHAR, created_on TIMESTAMPTZ)"""
)
declare(
    """CREATE TABLE IF NOT EXISTS dataset_versions (
        dataset VARCHAR, name VARCHAR, created_on TIMESTAMPTZ, comment VARCHAR, metadata VARCHAR,
        PRIMARY KEY (dataset, name))"""
)

DATASET_COLUMNS = ("created_on", "name", "database_name", "schema_name", "owner", "comment", "versions")
VERSION_COLUMNS = ("created_on", "version", "comment", "metadata")
TEXT = r"'(?:[^'\\]|\\.|'')*'"
_URL_TEXT = rf"snow://dataset/(?P<name>{NAME})/(?P<path>versions(?:/(?P<version>[^/]*)(?:/+(?P<rest>.*))?)?)"
_URL = r"(?P<location>'snow://dataset/(?:[^'\\]|\\.|'')*'|snow://dataset/(?:\"(?:[^\"]|\"\")*\"|[^\s\"';])+)"
# Snowflake's numbers by which its client tells these errors apart.
_DATASET_MISSING, _VERSION_MISSING, _VERSION_EXISTS, _OBJECT_MISSING = 399019, 399012, 399020, 2043


@dataclass(frozen=True)
class Version:
    """A version of a Dataset. ``metadata`` is a JSON object that the client writes and reads."""

    name: str
    created_on: Any
    comment: str | None
    metadata: str


@dataclass(frozen=True)
class Dataset:
    """A Dataset with its versions, oldest first."""

    id: str
    name: Name
    created_on: Any
    versions: tuple[Version, ...]

    def directory(self, server: EmbeddedSnowflake) -> Path:
        """What ``snow://dataset/<name>/`` stands for."""
        return datasets_directory(server) / self.id

    def files(self, server: EmbeddedSnowflake, version: str) -> Path:
        """The directory of a version's files."""
        return self.directory(server) / "versions" / version

    def has(self, version: str) -> bool:
        """Whether there is a version of exactly this name."""
        return any(known.name == version for known in self.versions)

    def require(self, version: str) -> None:
        """Raise 399012 when there is no such version."""
        if not self.has(version):
            known = ", ".join(known.name for known in self.versions) or "none"
            raise invalid(
                f"Dataset version '{version}' of '{self.name}' does not exist: there is {known}.",
                _VERSION_MISSING,
                "02000",
            )

    def require_new(self, version: str) -> None:
        """Raise 399020 when the version is there: what is frozen stays as it is."""
        if self.has(version):
            raise invalid(f"Dataset version '{version}' of '{self.name}' already exists.", _VERSION_EXISTS, "42710")


def datasets_directory(server: EmbeddedSnowflake) -> Path:
    return server.data_dir / "datasets"


def find(server: EmbeddedSnowflake, name: Name, errno: int = _DATASET_MISSING) -> Dataset:
    """The Dataset of this name. Raises ``errno`` when there is none."""
    known = _datasets(
        server, "database_name = ? AND schema_name = ? AND name = ?", [name.database, name.schema, name.name]
    )
    if not known:
        raise invalid(f"SQL compilation error:\nDataset '{name}' does not exist or not authorized.", errno, "02000")
    return known[0]


def _datasets(server: EmbeddedSnowflake, where: str = "TRUE", values: list[Any] | None = None) -> list[Dataset]:
    with server.lock:
        found = server.catalog.query(
            f"SELECT * FROM datasets WHERE {where} ORDER BY database_name, schema_name, name", values or []
        )
        return [_dataset(server, row) for row in found]


def _dataset(server: EmbeddedSnowflake, row: dict[str, Any]) -> Dataset:
    versions = server.catalog.query(
        "SELECT name, created_on, comment, metadata FROM dataset_versions WHERE dataset = ? ORDER BY created_on, name",
        [row["id"]],
    )
    name = Name(row["database_name"], row["schema_name"], row["name"])
    return Dataset(row["id"], name, row["created_on"], tuple(Version(**version) for version in versions))


def name_of(request: Statement) -> Name:
    """The Dataset's full name in a statement."""
    return names.qualified(request.connection, names.spelled(request.group("name") or "", request.binds))


@at_start
def remove_unfinished(server: EmbeddedSnowflake) -> None:
    """What a server that was killed had moved to its place, or not yet removed, without the catalogue knowing."""
    directory = datasets_directory(server)
    directory.mkdir(exist_ok=True)
    known = {dataset.id: dataset for dataset in _datasets(server)}
    for path in directory.glob("*"):
        if path.name not in known:
            shutil.rmtree(path)
    for dataset in known.values():
        for path in dataset.files(server, "").glob("*"):
            if not dataset.has(path.name):
                shutil.rmtree(path)


# -- Datasets come and go -------------------------------------------------------------------------------------------


@statement(rf"CREATE(?P<replace> OR REPLACE)? DATASET(?P<exists> IF NOT EXISTS)? (?P<name>{NAME})")
def create_dataset(request: Statement) -> Answer:
    """CREATE [OR REPLACE] DATASET [IF NOT EXISTS] name"""
    server, name = request.server, name_of(request)
    stages.require_schema(request.connection, name)
    with server.lock:
        known = [dataset for dataset in _datasets(server) if dataset.name == name]
        if known and request.group("exists"):
            return status(f"{name.name} already exists, statement succeeded.")
        if known and not request.group("replace"):
            raise already_exists("Object", str(name))
        for dataset in known:
            _forget(server, dataset)
        server.catalog.execute(
            "INSERT INTO datasets VALUES (?, ?, ?, ?, now())",
            [uuid.uuid4().hex, name.database, name.schema, name.name],
        )
    return status(f"Dataset {name.name} successfully created.")


@statement(rf"DROP DATASET(?P<exists> IF EXISTS)? (?P<name>{NAME})")
def drop_dataset(request: Statement) -> Answer:
    """DROP DATASET [IF EXISTS] name"""
    server, name = request.server, name_of(request)
    with server.lock:
        known = [dataset for dataset in _datasets(server) if dataset.name == name]
        if not known and not request.group("exists"):
            raise does_not_exist("Dataset", str(name))
        for dataset in known:
            _forget(server, dataset)
    return status(f"{name.name} successfully dropped." if known else "Drop statement executed successfully.")


def drop_all_in(server: EmbeddedSnowflake, database: str, schema: str | None = None) -> None:
    """Drop the Datasets of a database, or of one schema of it, when that is dropped."""
    with server.lock:
        for dataset in _datasets(
            server, "database_name = ? AND schema_name = coalesce(?, schema_name)", [database, schema]
        ):
            _forget(server, dataset)


def _forget(server: EmbeddedSnowflake, dataset: Dataset) -> None:
    server.catalog.execute("DELETE FROM dataset_versions WHERE dataset = ?", [dataset.id])
    server.catalog.execute("DELETE FROM datasets WHERE id = ?", [dataset.id])
    shutil.rmtree(dataset.directory(server), ignore_errors=True)


@statement(rf"ALTER DATASET(?: IF EXISTS)? (?P<name>{NAME}) DROP VERSION (?P<version>{TEXT})")
def drop_version(request: Statement) -> Answer:
    """ALTER DATASET name DROP VERSION 'version'"""
    server, version = request.server, names.text(request.group("version") or "")
    with server.lock:
        dataset = find(server, name_of(request))
        dataset.require(version)
        server.catalog.execute("DELETE FROM dataset_versions WHERE dataset = ? AND name = ?", [dataset.id, version])
        shutil.rmtree(dataset.files(server, version), ignore_errors=True)
    return status(f"Dataset {dataset.name.name} successfully altered.")


# -- SHOW -----------------------------------------------------------------------------------------------------------


@statement(rf"SHOW DATASETS{SHOW_TAIL}")
def show_datasets(request: Statement) -> Answer:
    """SHOW DATASETS [LIKE pattern] [IN scope] [STARTS WITH 'text']"""
    shown = Shown.of(request.match, request.connection, request.binds)
    found = [
        (dataset.created_on, name.name, name.database, name.schema, OWNER, None, len(dataset.versions))
        for dataset in _datasets(request.server)
        if shown.has((name := dataset.name).name, name.database, name.schema)
    ]
    return rows(DATASET_COLUMNS, found[: shown.limit])


@statement(rf"SHOW VERSIONS(?: LIKE (?P<like>{TEXT}))? IN DATASET (?P<name>{NAME})")
def show_versions(request: Statement) -> Answer:
    """SHOW VERSIONS [LIKE pattern] IN DATASET name"""
    dataset = find(request.server, name_of(request), _OBJECT_MISSING)
    like = names.like_pattern(names.text(request.group("like") or "'%'"))
    found = [
        (version.created_on, version.name, version.comment, version.metadata)
        for version in dataset.versions
        if like.fullmatch(version.name)
    ]
    return rows(VERSION_COLUMNS, found)


# -- the files of the versions --------------------------------------------------------------------------------------


@stages.snow_url("dataset")
def location(server: EmbeddedSnowflake, connection: FakeSnowflakeConnection, url: str) -> StageLocation:
    """The files behind ``snow://dataset/<name>/versions/<version>/<path>``. Raises 2003 for what is missing."""
    match = re.fullmatch(_URL_TEXT, url, re.DOTALL)
    if not match:
        raise invalid(f"invalid location {url!r}: expected snow://dataset/<name>/versions/<version>/<path>")
    name, version = names.qualified(connection, match.group("name")), match.group("version")
    dataset = find(server, name, 2003)
    path = f"versions/{version or ''}/{match.group('rest') or ''}" if version else "versions/"
    if version and not dataset.has(version):
        raise does_not_exist("Dataset version", f"{name}/versions/{version}")
    directory = dataset.directory(server)
    stages.within(directory, path)
    return StageLocation(Stage(name, directory, {"FILE_FORMAT": "(TYPE = PARQUET)"}, False, ""), path)


@statement(rf"(?:LIST|LS) {_URL}(?: PATTERN\s*=\s*(?P<pattern>{TEXT}))?")
def list_files(request: Statement) -> Answer:
    """LIST snow://dataset/name/versions/version/path [PATTERN = 'regex']"""
    pattern = request.group("pattern")
    return stages.listing(request.server, _location(request), names.text(pattern) if pattern else None)


@statement(rf"GET {_URL} (?P<target>{stages.FILE_URL})(?P<options>.*)")
def get_files(request: Statement) -> Answer:
    """GET snow://dataset/name/versions/version/path file://directory"""
    target, options = names.text(request.group("target") or ""), Options.parse(request.group("options"))
    return stages.download(_location(request), target, options)


def _location(request: Statement) -> StageLocation:
    return location(request.server, request.connection, names.text(request.group("location") or ""))


# -- what is refused ------------------------------------------------------------------------------------------------


@statement(rf"(?P<verb>PUT|REMOVE|RM|COPY FILES INTO)\b[^@]*?{_URL}.*")
def refuse_change(request: Statement) -> Answer:
    """PUT, REMOVE and COPY FILES onto a Dataset: a version's files stay as they are"""
    raise invalid(
        f"{(request.group('verb') or '').upper()} is not for a Dataset: its versions are immutable. "
        "ALTER DATASET ... ADD VERSION makes a new one, DROP VERSION removes one."
    )


@statement(rf"COPY FILES INTO @.*? FROM {_URL}.*")
def refuse_copy(_: Statement) -> Answer:
    """COPY FILES from a Dataset is refused"""
    raise unsupported("COPY FILES FROM snow://dataset/...", "GET downloads them")

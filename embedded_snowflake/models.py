"""The Model Registry: models, their versions and aliases as schema objects.

What lies in a version's package belongs in ``model_packages``, running its methods in ``model_inference``. Live
versions, tags and services on a model are refused.
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from embedded_snowflake import names, stages
from embedded_snowflake.catalog import declare
from embedded_snowflake.errors import ProgrammingError, already_exists, does_not_exist, invalid, unsupported
from embedded_snowflake.model_packages import Package, install, packages_directory, platforms
from embedded_snowflake.names import NAME, SHOW_TAIL, Name, Shown
from embedded_snowflake.sessions import OWNER
from embedded_snowflake.statements import Answer, Statement, Transfer, rows, statement, status

if TYPE_CHECKING:
    from fakesnow.fakes import FakeSnowflakeConnection

    from embedded_snowflake.server import EmbeddedSnowflake

declare(
    """CREATE TABLE IF NOT EXISTS models (
        id VARCHAR PRIMARY KEY, database_name VARCHAR, schema_name VARCHAR, name VARCHAR,
        created_on TIMESTAMPTZ, comment VARCHAR, default_version VARCHAR)"""
)
declare("CREATE SEQUENCE IF NOT EXISTS model_version_numbers")
declare(
    """CREATE TABLE IF NOT EXISTS model_versions (
        id VARCHAR PRIMARY KEY, model VARCHAR, name VARCHAR, number BIGINT,
        created_on TIMESTAMPTZ, comment VARCHAR, metadata VARCHAR,
        directory VARCHAR, checksum VARCHAR, size BIGINT, manifest VARCHAR, specification VARCHAR, has_code BOOLEAN)"""
)
declare(
    """CREATE TABLE IF NOT EXISTS model_aliases (
        model VARCHAR, alias VARCHAR, version VARCHAR, PRIMARY KEY (model, alias))"""
)

MODEL_COLUMNS = (
    "created_on",
    "name",
    "model_type",
    "database_name",
    "schema_name",
    "comment",
    "owner",
    "default_version_name",
    "versions",
    "aliases",
)
VERSION_COLUMNS = (
    "created_on",
    "name",
    "aliases",
    "comment",
    "database_name",
    "schema_name",
    "model_name",
    "is_default_version",
    "functions",
    "metadata",
    "user_data",
    "model_attributes",
    "size",
    "environment",
    "runnable_in",
    "inference_services",
    "model_spec",
)
FUNCTION_COLUMNS = (
    "created_on",
    "name",
    "min_num_arguments",
    "max_num_arguments",
    "arguments",
    "return_type",
    "description",
    "language",
)
SYSTEM_ALIASES = ("DEFAULT", "FIRST", "LAST")
_IDENTIFIER = r'(?:"(?:[^"]|"")+"|[A-Za-z_][\w$]*)'
_TEXT = r"(?:\$\$.*?\$\$|'(?:[^'\\]|\\.|'')*')"
_SOURCE = rf"(?:MODEL (?P<source>{NAME})(?: VERSION (?P<source_version>{_IDENTIFIER}))?|(?P<stage>{stages.LOCATION}))"
_FILES = rf"'snow://model/(?P<name>{NAME})/versions/(?P<version>[^/']+)/?(?P<path>(?:[^'\\]|\\.|'')*)'"


@dataclass(frozen=True)
class Version:
    """A version of a model, as the catalogue has it."""

    id: str
    name: str
    comment: str
    metadata: str
    created_on: Any
    directory: str
    checksum: str
    size: int
    manifest: dict[str, Any]
    specification: str
    has_code: bool

    def files(self, server: EmbeddedSnowflake) -> Path:
        return packages_directory(server) / self.directory

    @property
    def methods(self) -> list[dict[str, Any]]:
        """The methods that a warehouse runs, as the package's manifest describes them."""
        return self.manifest["methods"] if "WAREHOUSE" in platforms(self.manifest) else []


@dataclass(frozen=True)
class Model:
    """A model with its versions, oldest first, and its aliases; ``default`` is a version's id."""

    id: str
    name: Name
    created_on: Any
    comment: str
    default: str
    versions: tuple[Version, ...]
    aliases: dict[str, str]

    def all_aliases(self) -> dict[str, str]:
        """Version ids by alias, the system's included."""
        system = (self.default, self.versions[0].id, self.versions[-1].id)
        return {**dict(zip(SYSTEM_ALIASES, system, strict=True)), **self.aliases}

    def by_id(self, version_id: str) -> Version:
        return next(version for version in self.versions if version.id == version_id)

    def version(self, name_or_alias: str) -> Version:
        """The version of this name, or else of this alias. Raises 2003."""
        for version in self.versions:
            if version.name == name_or_alias:
                return version
        if version_id := self.all_aliases().get(name_or_alias):
            return self.by_id(version_id)
        raise does_not_exist("Version", f"{name_or_alias} of model {self.name}")


# -- the catalogue --------------------------------------------------------------------------------------------------


def find(server: EmbeddedSnowflake, name: Name) -> Model:
    """The model of this name. Raises 2003."""
    known = _models(
        server, "database_name = ? AND schema_name = ? AND name = ?", [name.database, name.schema, name.name]
    )
    if not known:
        raise does_not_exist("Model", str(name))
    return known[0]


def _models(server: EmbeddedSnowflake, where: str = "TRUE", values: list[Any] | None = None) -> list[Model]:
    with server.lock:
        found = server.catalog.query(
            f"SELECT * FROM models WHERE {where} ORDER BY database_name, schema_name, name", values or []
        )
        return [_model(server, row) for row in found]


def _model(server: EmbeddedSnowflake, row: dict[str, Any]) -> Model:
    versions = server.catalog.query("SELECT * FROM model_versions WHERE model = ? ORDER BY number", [row["id"]])
    aliases = server.catalog.query("SELECT * FROM model_aliases WHERE model = ? ORDER BY alias", [row["id"]])
    return Model(
        row["id"],
        Name(row["database_name"], row["schema_name"], row["name"]),
        row["created_on"],
        row["comment"],
        row["default_version"],
        tuple(_version(version) for version in versions),
        {alias["alias"]: alias["version"] for alias in aliases},
    )


def _version(row: dict[str, Any]) -> Version:
    left_out = {"model", "number", "manifest"}
    return Version(manifest=json.loads(row["manifest"]), **{key: row[key] for key in row.keys() - left_out})


def find_version(server: EmbeddedSnowflake, version_id: str) -> Version | None:
    """The version of this id, or None once it was dropped."""
    found = server.catalog.query("SELECT * FROM model_versions WHERE id = ?", [version_id])
    return _version(found[0]) if found else None


def _name(request: Statement, group: str = "name") -> Name:
    return names.qualified(request.connection, names.spelled(request.group(group) or "", request.binds))


def _identifier(request: Statement, group: str = "version") -> str:
    return names.parts(request.group(group) or "")[0]


def _text(spelled: str | None) -> str:
    spelled = spelled or ""
    return spelled[2:-2] if spelled.startswith("$$") else names.text(spelled)


# -- models and versions come and go --------------------------------------------------------------------------------


@statement(
    rf"CREATE(?P<replace> OR REPLACE)? MODEL(?P<exists> IF NOT EXISTS)? (?P<name>{NAME})(?: WITH)?"
    rf" VERSION (?P<version>{_IDENTIFIER}) FROM {_SOURCE}"
)
def create_model(request: Statement) -> Answer:
    """CREATE [OR REPLACE] MODEL [IF NOT EXISTS] name WITH VERSION version FROM {@stage | MODEL name [VERSION v]}"""
    server, name = request.server, _name(request)
    if not _schema_exists(request.connection, name.database, name.schema):
        raise does_not_exist("Schema", f"{name.database}.{name.schema}")
    if _exists(server, name) and request.group("exists"):
        return status(f"{name.name} already exists, statement succeeded.")
    if _exists(server, name) and not request.group("replace"):
        raise already_exists("Object", str(name))
    package = _package(request)
    with server.lock:
        # Another session may have been faster while the files were copied.
        if _exists(server, name):
            if not request.group("replace"):
                shutil.rmtree(package.directory)
                raise already_exists("Object", str(name))
            _forget(server, find(server, name))
        model_id = uuid.uuid4().hex
        version_id = _add(server, model_id, _identifier(request), package)
        server.catalog.execute(
            "INSERT INTO models VALUES (?, ?, ?, ?, now(), '', ?)",
            [model_id, name.database, name.schema, name.name, version_id],
        )
    return status(f"Model {name.name} successfully created.")


@statement(rf"ALTER MODEL(?: IF EXISTS)? (?P<name>{NAME}) ADD VERSION (?P<version>{_IDENTIFIER}) FROM {_SOURCE}")
def add_version(request: Statement) -> Answer:
    """ALTER MODEL name ADD VERSION version FROM {@stage/path | MODEL name [VERSION version]}"""
    server, wanted = request.server, _identifier(request)
    _require_new_version(find(server, _name(request)), wanted)
    package = _package(request)
    with server.lock:
        try:
            model = find(server, _name(request))
            _require_new_version(model, wanted)
        except ProgrammingError:
            shutil.rmtree(package.directory)
            raise
        _add(server, model.id, wanted, package)
    return status(f"Model {model.name.name} successfully altered.")


def _require_new_version(model: Model, name: str) -> None:
    if any(version.name == name for version in model.versions):
        raise already_exists("Version", f"{name} of model {model.name}")
    if name in model.all_aliases():
        raise already_exists("Alias", f"{name} of model {model.name}")


def _package(request: Statement) -> Package:
    if location := request.group("stage"):
        return install(request.server, stages.resolve(request.server, request.connection, location).local)
    source = find(request.server, _name(request, "source"))
    wanted = _identifier(request, "source_version") if request.group("source_version") else "DEFAULT"
    return install(request.server, source.version(wanted).files(request.server))


def _add(server: EmbeddedSnowflake, model_id: str, name: str, package: Package) -> str:
    version_id = uuid.uuid4().hex
    server.catalog.execute(
        """INSERT INTO model_versions
           VALUES (?, ?, ?, nextval('model_version_numbers'), now(), '', '{}', ?, ?, ?, ?, ?, ?)""",
        [
            *(version_id, model_id, name),
            *(package.directory.name, package.checksum, package.size),
            *(json.dumps(package.manifest), package.specification, package.has_code),
        ],
    )
    return version_id


@statement(
    rf"ALTER MODEL(?: IF EXISTS)? (?P<name>{NAME}) DROP VERSION(?P<exists> IF EXISTS)? (?P<version>{_IDENTIFIER})"
)
def drop_version(request: Statement) -> Answer:
    """ALTER MODEL name DROP VERSION version: of any but the default version"""
    server = request.server
    with server.lock:
        model = find(server, _name(request))
        version = model.version(_identifier(request))
        if version.id == model.default:
            raise invalid(
                f"SQL compilation error:\nThe default version '{version.name}' of model '{model.name}' cannot be "
                "dropped: set another default version first, or drop the model."
            )
        server.catalog.execute("DELETE FROM model_aliases WHERE version = ?", [version.id])
        server.catalog.execute("DELETE FROM model_versions WHERE id = ?", [version.id])
    shutil.rmtree(version.files(server), ignore_errors=True)
    return status(f"Model {model.name.name} successfully altered.")


@statement(rf"DROP MODEL(?P<exists> IF EXISTS)? (?P<name>{NAME})")
def drop_model(request: Statement) -> Answer:
    """DROP MODEL [IF EXISTS] name"""
    name = _name(request)
    if request.group("exists") and not _exists(request.server, name):
        return status("Drop statement executed successfully.")
    with request.server.lock:
        _forget(request.server, find(request.server, name))
    return status(f"{name.name} successfully dropped.")


def drop_all_in(server: EmbeddedSnowflake, database: str, schema: str | None = None) -> None:
    """Drop the models of a database, or of one schema of it, when that is dropped."""
    with server.lock:
        for model in _models(
            server, "database_name = ? AND schema_name = coalesce(?, schema_name)", [database, schema]
        ):
            _forget(server, model)


def _forget(server: EmbeddedSnowflake, model: Model) -> None:
    for table in ("model_aliases", "model_versions"):
        server.catalog.execute(f"DELETE FROM {table} WHERE model = ?", [model.id])
    server.catalog.execute("DELETE FROM models WHERE id = ?", [model.id])
    for version in model.versions:
        shutil.rmtree(version.files(server), ignore_errors=True)


def _exists(server: EmbeddedSnowflake, name: Name) -> bool:
    return bool(
        server.catalog.query(
            "SELECT 1 FROM models WHERE database_name = ? AND schema_name = ? AND name = ?",
            [name.database, name.schema, name.name],
        )
    )


def _schema_exists(connection: FakeSnowflakeConnection, database: str, schema: str) -> bool:
    return bool(
        connection._duck_conn.cursor()
        .execute("SELECT 1 FROM duckdb_schemas() WHERE database_name = ? AND schema_name = ?", [database, schema])
        .fetchone()
    )


# -- what can be changed about them ---------------------------------------------------------------------------------


@statement(rf"ALTER MODEL(?: IF EXISTS)? (?P<name>{NAME}) RENAME TO (?P<target>{NAME})")
def rename_model(request: Statement) -> Answer:
    """ALTER MODEL name RENAME TO name"""
    target = _name(request, "target")
    if not _schema_exists(request.connection, target.database, target.schema):
        raise does_not_exist("Schema", f"{target.database}.{target.schema}")
    with request.server.lock:
        model = find(request.server, _name(request))
        if _exists(request.server, target):
            raise already_exists("Object", str(target))
        request.server.catalog.execute(
            "UPDATE models SET database_name = ?, schema_name = ?, name = ? WHERE id = ?",
            [target.database, target.schema, target.name, model.id],
        )
    return status(f"Model {model.name.name} successfully altered.")


@statement(rf"ALTER MODEL(?: IF EXISTS)? (?P<name>{NAME}) SET DEFAULT_VERSION\s*=\s*(?P<version>{_IDENTIFIER}|'[^']*')")
def set_default_version(request: Statement) -> Answer:
    """ALTER MODEL name SET DEFAULT_VERSION = {version | alias}"""
    with request.server.lock:
        model = find(request.server, _name(request))
        version = model.version(names.parts(names.text(request.group("version") or ""))[0])
        request.server.catalog.execute("UPDATE models SET default_version = ? WHERE id = ?", [version.id, model.id])
    return status(f"Model {model.name.name} successfully altered.")


@statement(
    rf"(?:ALTER MODEL(?: IF EXISTS)? (?P<name>{NAME}) SET COMMENT\s*=\s*(?P<text>{_TEXT})"
    rf"|COMMENT(?: IF EXISTS)? ON MODEL (?P<commented>{NAME}) IS (?P<comment>{_TEXT}))"
)
def set_model_comment(request: Statement) -> Answer:
    """ALTER MODEL name SET COMMENT = 'text', COMMENT ON MODEL name IS 'text'"""
    group, comment = ("name", "text") if request.group("name") else ("commented", "comment")
    with request.server.lock:
        model = find(request.server, _name(request, group))
        request.server.catalog.execute(
            "UPDATE models SET comment = ? WHERE id = ?", [_text(request.group(comment)), model.id]
        )
    return status("Statement executed successfully.")


@statement(
    rf"ALTER MODEL(?: IF EXISTS)? (?P<name>{NAME}) MODIFY VERSION (?P<version>{_IDENTIFIER})"
    rf" SET (?P<what>COMMENT|METADATA)\s*=\s*(?P<text>{_TEXT})"
)
def modify_version(request: Statement) -> Answer:
    """ALTER MODEL name MODIFY VERSION version SET {COMMENT | METADATA} = 'text'"""
    what, text = (request.group("what") or "").lower(), _text(request.group("text"))
    if what == "metadata":
        _require_object(text)
    with request.server.lock:
        model = find(request.server, _name(request))
        version = model.version(_identifier(request))
        request.server.catalog.execute(f"UPDATE model_versions SET {what} = ? WHERE id = ?", [text, version.id])
    return status(f"Model {model.name.name} successfully altered.")


def _require_object(text: str) -> None:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise invalid(f"The metadata is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise invalid(f"The metadata is to be a JSON object, but is {text[:100]}")


@statement(
    rf"ALTER MODEL(?: IF EXISTS)? (?P<name>{NAME}) VERSION (?P<version>{_IDENTIFIER})"
    rf" SET ALIAS\s*=\s*(?P<alias>{_IDENTIFIER})"
)
def set_alias(request: Statement) -> Answer:
    """ALTER MODEL name VERSION version SET ALIAS = alias: one that no other version of the model has"""
    alias = _identifier(request, "alias")
    with request.server.lock:
        model = find(request.server, _name(request))
        version = model.version(_identifier(request))
        if alias in SYSTEM_ALIASES:
            raise invalid(f"SQL compilation error:\nThe alias '{alias}' is the system's: it cannot be set.")
        held = model.aliases.get(alias)
        if any(other.name == alias for other in model.versions) or held not in (None, version.id):
            raise already_exists("Alias", f"{alias} of model {model.name}")
        if held is None:
            request.server.catalog.execute("INSERT INTO model_aliases VALUES (?, ?, ?)", [model.id, alias, version.id])
    return status(f"Model {model.name.name} successfully altered.")


@statement(rf"ALTER MODEL(?: IF EXISTS)? (?P<name>{NAME}) VERSION (?P<version>{_IDENTIFIER}) UNSET ALIAS")
def unset_alias(request: Statement) -> Answer:
    """ALTER MODEL name VERSION {version | alias} UNSET ALIAS: that alias, or all of that version"""
    with request.server.lock:
        model = find(request.server, _name(request))
        given = _identifier(request)
        version = model.version(given)
        gone = [given] if given in model.aliases else [a for a, held in model.aliases.items() if held == version.id]
        for alias in gone:
            request.server.catalog.execute("DELETE FROM model_aliases WHERE model = ? AND alias = ?", [model.id, alias])
    return status(f"Model {model.name.name} successfully altered.")


# -- SHOW -----------------------------------------------------------------------------------------------------------


@statement(rf"SHOW MODELS{SHOW_TAIL}")
def show_models(request: Statement) -> Answer:
    """SHOW MODELS [LIKE pattern] [IN scope]"""
    shown = Shown.of(request.match, request.connection, request.binds)
    wanted = [
        model for model in _models(request.server) if shown.has(model.name.name, model.name.database, model.name.schema)
    ]
    return _answer(MODEL_COLUMNS, [_shown_model(model) for model in wanted[: shown.limit]])


def _shown_model(model: Model) -> dict[str, Any]:
    aliases = {alias: model.by_id(version).name for alias, version in model.all_aliases().items()}
    return {
        "created_on": model.created_on,
        "name": model.name.name,
        "model_type": "USER_MODEL",
        "database_name": model.name.database,
        "schema_name": model.name.schema,
        "comment": model.comment,
        "owner": OWNER,
        "default_version_name": model.by_id(model.default).name,
        "versions": json.dumps([version.name for version in model.versions]),
        "aliases": json.dumps(aliases),
    }


def _answer(columns: Sequence[str], found: Sequence[dict[str, Any]]) -> Answer:
    return rows(columns, [[row[column] for column in columns] for row in found])


@statement(rf"SHOW VERSIONS(?: LIKE (?P<like>'(?:[^']|'')*'))? IN MODEL (?P<name>{NAME})")
def show_versions(request: Statement) -> Answer:
    """SHOW VERSIONS [LIKE pattern] IN MODEL name"""
    model = find(request.server, _name(request))
    like = names.like_pattern(names.text(request.group("like") or "'%'"))
    found = [_shown_version(model, version) for version in model.versions if like.fullmatch(version.name)]
    return _answer(VERSION_COLUMNS, found)


def _shown_version(model: Model, version: Version) -> dict[str, Any]:
    specification = yaml.safe_load(version.specification or "{}") or {}
    environment = specification.get("env") or {}
    attributes = {
        "framework": specification.get("model_type"),
        "task": specification.get("task") or "UNKNOWN",
        "client": f"snowflake-ml-python {environment.get('snowpark_ml_version')}",
    }
    return {
        "created_on": version.created_on,
        "name": version.name,
        "aliases": json.dumps([alias for alias, held in model.all_aliases().items() if held == version.id]),
        "comment": version.comment,
        "database_name": model.name.database,
        "schema_name": model.name.schema,
        "model_name": model.name.name,
        "is_default_version": str(version.id == model.default).lower(),
        "functions": json.dumps([method["name"] for method in version.methods]),
        "metadata": version.metadata,
        "user_data": json.dumps(version.manifest.get("user_data") or {}),
        "model_attributes": json.dumps(attributes),
        "size": version.size,
        "environment": json.dumps(environment),
        "runnable_in": json.dumps(platforms(version.manifest)),
        "inference_services": "[]",
        "model_spec": version.specification,
    }


@statement(rf"SHOW FUNCTIONS IN MODEL (?P<name>{NAME})(?: VERSION (?P<version>{_IDENTIFIER}))?")
def show_functions(request: Statement) -> Answer:
    """SHOW FUNCTIONS IN MODEL name [VERSION version]"""
    model = find(request.server, _name(request))
    version = model.version(_identifier(request) if request.group("version") else "DEFAULT")
    return _answer(FUNCTION_COLUMNS, [_shown_function(version, method) for method in version.methods])


def _shown_function(version: Version, method: dict[str, Any]) -> dict[str, Any]:
    inputs = [*method["inputs"], *method.get("params", [])]
    returned = returned_type(method)
    return {
        "created_on": version.created_on,
        "name": method["name"],
        "min_num_arguments": len(method["inputs"]),
        "max_num_arguments": len(inputs),
        "arguments": f"{method['name']}({', '.join(one['type'] for one in inputs)}) RETURN {returned}",
        "return_type": returned,
        "description": "method of a model version",
        "language": "PYTHON",
    }


def returned_type(method: dict[str, Any]) -> str:
    """A method's type as SHOW FUNCTIONS has it: of its one value, or TABLE (...)."""
    if method["type"] == "TABLE_FUNCTION":
        return f"TABLE ({', '.join(one['name'] + ' ' + one['type'] for one in method['outputs'])})"
    return method["outputs"][0]["type"]


# -- the files of a version -----------------------------------------------------------------------------------------


@statement(rf"(?:LIST|LS) {_FILES}")
def list_files(request: Statement) -> Answer:
    """LIST 'snow://model/name/versions/version/path'"""
    version, root, found = _files(request)
    listed = []
    for path in found:
        name = f"versions/{version}/{path.relative_to(root).as_posix()}"
        stat = path.stat()
        listed.append((name, stat.st_size, None, formatdate(stat.st_mtime, usegmt=True)))
    return rows(["name", "size", "md5", "last_modified"], listed)


@statement(rf"GET {_FILES} (?P<target>{stages.FILE_URL}).*")
def get_files(request: Statement) -> Answer:
    """GET 'snow://model/name/versions/version/path' file://directory"""
    _, root, found = _files(request)
    return Transfer(
        {
            "command": "DOWNLOAD",
            "src_locations": [path.relative_to(root).as_posix() for path in found],
            "localLocation": names.text(request.group("target") or "").removeprefix("file://"),
            "parallel": 10,
            "autoCompress": False,
            "overwrite": True,
            "sourceCompression": "none",
            "encryptionMaterial": [],
            "presignedUrls": None,
            "stageInfo": {"locationType": "LOCAL_FS", "location": f"{root}/", "creds": {}},
        }
    )


def _files(request: Statement) -> tuple[str, Path, list[Path]]:
    """The version's name, its directory, and the files at the path or below it."""
    version = find(request.server, _name(request)).version(request.group("version") or "")
    root = version.files(request.server)
    path = stages.within(root, names.text(f"'{request.group('path') or ''}'"))
    found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return version.name, root, found


# -- what the client asks about the server, and what is refused -----------------------------------------------------


@statement(r"SELECT SYSTEM\$ML_PLATFORM_CAPABILITIES\(\)(?: AS (?P<alias>\w+))?")
def platform_capabilities(request: Statement) -> Answer:
    """SELECT SYSTEM$ML_PLATFORM_CAPABILITIES(): none of the features that are off by default"""
    return rows([(request.group("alias") or "SYSTEM$ML_PLATFORM_CAPABILITIES()").upper()], [["{}"]])


@statement(r"(?P<words>(?:CREATE(?: OR REPLACE)?|ALTER|DROP|UNDROP|DESC(?:RIBE)?) MODEL(?: MONITOR)?)\b(?P<rest>.*)")
def refuse_model_statement(request: Statement) -> Answer:
    """Any other statement on models is refused by name"""
    words = re.sub(r"\s+", " ", (request.group("words") or "").upper())
    rest = request.group("rest") or ""
    what = re.search(r"\b(SET TAG|UNSET TAG|(?:ADD |WITH )LIVE VERSION|COMMIT VERSION)\b", rest, re.IGNORECASE)
    raise unsupported(f"{words} ... {what.group(1).upper()}" if what else words)


@statement(r"SELECT .*\b(?P<what>SYSTEM\$GET_TAG|INFORMATION_SCHEMA\.TAG_REFERENCES)\b\s*\(.*")
def refuse_tags(request: Statement) -> Answer:
    """Tags are refused by name"""
    raise unsupported((request.group("what") or "").upper())

"""The files of model versions, and the Python packages that they may ask for.

A version's package is what the registry's client uploaded, copied to a directory of its own under ``models`` in the
data directory; it is read only where its checksum is the recorded one. The Python packages on offer are those installed
where this server runs: ``INFORMATION_SCHEMA.PACKAGES`` says so. Models and versions as objects belong in ``models``.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from embedded_snowflake import tokens
from embedded_snowflake.errors import invalid
from embedded_snowflake.inference_worker import checksum
from embedded_snowflake.statements import Answer, Query, Statement, at_start, literal, rewriter, rows, statement

if TYPE_CHECKING:
    from embedded_snowflake.server import EmbeddedSnowflake

WAREHOUSE = "WAREHOUSE"
PLATFORMS = (WAREHOUSE, "SNOWPARK_CONTAINER_SERVICES")
# What the registry's client writes at the top of a package.
_MANIFEST = "MANIFEST.yml"
_SPECIFICATION = "model/model.yaml"
_CODE = "model/code"
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
# Packages whose name in conda is not their name on PyPI.
_CONDA_NAMES = {"pytorch": "torch", "py-xgboost": "xgboost"}


@dataclass(frozen=True)
class Package:
    """An installed package: where it is, what it was when it was installed, and its two descriptions."""

    directory: Path
    checksum: str
    size: int
    manifest: dict[str, Any]
    specification: str
    has_code: bool


def packages_directory(server: EmbeddedSnowflake) -> Path:
    return server.data_dir / "models"


def install(server: EmbeddedSnowflake, source: Path) -> Package:
    """Copy a package out of ``source``. Raises when it is none or asks for Python packages that are not here."""
    if not (source / _MANIFEST).is_file():
        raise invalid(f"Unable to read file {_MANIFEST}: the location holds no model package.", 398501, "22023")
    target = packages_directory(server) / uuid.uuid4().hex
    partial = target.with_suffix(".partial")
    shutil.copytree(source, partial)
    try:
        manifest = yaml.safe_load((partial / _MANIFEST).read_text())
        specification = (partial / _SPECIFICATION).read_text() if (partial / _SPECIFICATION).is_file() else ""
        if WAREHOUSE in platforms(manifest):
            _require_packages(partial, manifest)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    has_code = any(path.is_file() for path in (target / _CODE).rglob("*"))
    return Package(target, checksum(target), size, manifest, specification, has_code)


def platforms(manifest: dict[str, Any]) -> list[str]:
    """Where the model may run; a package that names no platform may run on all."""
    return list(manifest.get("target_platforms") or PLATFORMS)


def _require_packages(package: Path, manifest: dict[str, Any]) -> None:
    missing = []
    for runtime in (manifest.get("runtimes") or {}).values():
        if str(runtime.get("version", _PYTHON)) != _PYTHON:
            missing.append(f"python {runtime['version']} (here: {_PYTHON})")
        for requirement in _requirements(package, runtime.get("dependencies") or {}):
            installed = installed_packages().get(canonicalize_name(requirement.name))
            if installed is None or not requirement.specifier.contains(installed, prereleases=True):
                missing.append(f"{requirement} (here: {installed or 'not installed'})")
    if missing:
        raise invalid(
            "SQL compilation error:\nCannot create a Python function with the specified packages. "
            f"Please check your packages specification and try again: {'; '.join(missing)}.",
            391546,
            "22023",
        )


def _requirements(package: Path, dependencies: dict[str, Any]) -> Iterator[Requirement]:
    lines: list[str] = []
    if pip := dependencies.get("pip"):
        lines += (package / pip).read_text().splitlines()
    if conda := dependencies.get("conda"):
        for line in yaml.safe_load((package / conda).read_text()).get("dependencies") or []:
            lines += line.get("pip", []) if isinstance(line, dict) else [_of_conda(line)]
    for line in lines:
        bare = line.partition("#")[0].strip()
        if not bare or bare.startswith("-") or re.match(r"python\b", bare):
            continue
        try:
            yield Requirement(bare)
        except InvalidRequirement as error:
            raise invalid(f"SQL compilation error:\ninvalid package requirement '{bare}': {error}") from error


def _of_conda(line: str) -> str:
    spec = line.rpartition("::")[2]
    name = re.split(r"[\s=<>!~,]", spec, maxsplit=1)[0]
    return _CONDA_NAMES.get(name, name) + spec[len(name) :]


@functools.cache
def installed_packages() -> dict[str, str]:
    """Version by normalized name of what is installed beside this server."""
    found = importlib.metadata.distributions()
    return {canonicalize_name(one.metadata["Name"]): one.version for one in found if one.metadata["Name"]}


@at_start
def forget_unfinished_packages(server: EmbeddedSnowflake) -> None:
    """Remove directories that belong to no version: a server was stopped while it copied one."""
    directory = packages_directory(server)
    directory.mkdir(exist_ok=True)
    kept = {row["directory"] for row in server.catalog.query("SELECT directory FROM model_versions")}
    for path in directory.iterdir():
        if path.name not in kept:
            shutil.rmtree(path)


@rewriter(r"\bINFORMATION_SCHEMA\s*\.\s*PACKAGES\b")
def packages(query: Query) -> str:
    """INFORMATION_SCHEMA.PACKAGES: the packages installed where this server runs, as the packages of its warehouses."""
    found = tokens.Tokens(query.sql)
    edits = []
    for position in range(len(found.all) - 2):
        if found.is_word(position, "INFORMATION_SCHEMA") and found.is_word(position + 2, "PACKAGES"):
            start = found.all[found.path_before(position)].start
            edits.append(tokens.Edit(start, found.all[position + 2].end + 1, f"({_packages_query()})"))
    return found.edited(edits)


@functools.cache
def _packages_query() -> str:
    columns = "PACKAGE_NAME, VERSION, LANGUAGE, RUNTIME_VERSION"
    values = ", ".join(
        f"({literal(name)}, {literal(version)}, 'python', '{_PYTHON}')"
        for name, version in installed_packages().items()
    )
    numbered = ", ".join(f"column{number} AS {name}" for number, name in enumerate(columns.split(", "), 1))
    return f"SELECT {numbered} FROM VALUES {values}"


@statement(r"DESC(?:RIBE)? ARTIFACT REPOSITORY SNOWFLAKE\.SNOWPARK\.PYPI_SHARED_REPOSITORY")
def describe_artifact_repository(request: Statement) -> Answer:
    """DESCRIBE ARTIFACT REPOSITORY SNOWFLAKE.SNOWPARK.PYPI_SHARED_REPOSITORY: pip packages, of those installed here"""
    return rows(
        ["name", "database_name", "schema_name", "type", "properties"],
        [("PYPI_SHARED_REPOSITORY", "SNOWFLAKE", "SNOWPARK", "PIP", json.dumps({"python": _PYTHON}))],
    )

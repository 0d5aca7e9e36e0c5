"""What a job runs: files of this machine, uploaded to a stage once per content.

Which files they are is the caller's business. How a job is submitted with them is in ``snowflake_jobs.py``.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import tempfile
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from customer_insights.jobs.pipes_stage_writer import get_bytes, put_bytes
from resources.errors import JobRejectedError
from resources.pipes_stage import list_files

if TYPE_CHECKING:
    from snowflake.snowpark import Session

logger = logging.getLogger(__name__)

MARKER = "upload_complete.json"
# One upload of one payload at a time in this process; uploads by two processes write the same bytes to the same names.
_UPLOADING: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


@dataclass(frozen=True)
class Payload:
    """Files that a job finds below its working directory, which is on ``sys.path`` of the job and of its Ray workers.

    Attributes:
        root: Directory that paths are relative to; ``root/pkg/mod.py`` is imported as ``pkg.mod``.
        include: Globs relative to ``root`` of the files to take.
        exclude: Globs relative to ``root`` of files to leave out. Byte code is always left out.
        requirements: What pip installs in the container before the job starts, as lines of a requirements file.
        packages: Installed pure-Python packages whose source goes along, so that the container need not install them.
    """

    root: Path
    include: tuple[str, ...] = ("**/*.py",)
    exclude: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    packages: tuple[str, ...] = field(default=("dagster_pipes",))

    def files(self) -> dict[str, Path]:
        """Path in the payload -> file, sorted; read again at every call, because code changes while Dagster runs."""
        left_out = {path for pattern in self.exclude for path in self.root.glob(pattern)}
        taken = {path for pattern in self.include for path in self.root.glob(pattern)} - left_out
        found = {path.relative_to(self.root).as_posix(): path for path in taken}
        for package in self.packages:
            folder = _package_folder(package)
            found |= {f"{package}/{path.relative_to(folder).as_posix()}": path for path in folder.glob("**/*")}
        return {
            name: path
            for name, path in sorted(found.items())
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
        }

    def snapshot(self) -> PayloadSnapshot:
        """The files as they are now, under the hash of their names and contents.

        Raises:
            JobRejectedError: no file matches.
        """
        files = {name: path.read_bytes() for name, path in self.files().items()}
        if not any((self.root / name).is_file() for name in files):
            raise JobRejectedError(f"the payload is empty: no file of {self.root} matches {list(self.include)}")
        return PayloadSnapshot(files, tuple(self.requirements))


@dataclass(frozen=True)
class PayloadSnapshot:
    """The bytes of a payload at one moment, so that what is hashed is what is uploaded."""

    files: dict[str, bytes]
    requirements: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """12 hexadecimal digits of SHA-256 over names, contents, requirements and the version of the launcher."""
        client = importlib.metadata.version("snowflake-ml-python")
        digest = hashlib.sha256(json.dumps([client, *self.requirements]).encode())
        for name, content in sorted(self.files.items()):
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()[:12]

    def entrypoint(self, wanted: str) -> str:
        """Path in the payload of an entry point given as a path or as a dotted module name.

        Raises:
            JobRejectedError: the payload has no such file.
        """
        path = wanted if wanted.endswith(".py") else wanted.replace(".", "/") + ".py"
        path = PurePosixPath(path).as_posix()
        if path not in self.files:
            raise JobRejectedError(f"entry point {wanted!r} is not in the payload (no file {path!r} among its files)")
        return path

    def write(self, folder: Path) -> None:
        """Write the files below ``folder``."""
        for name, content in self.files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


@dataclass(frozen=True)
class UploadedPayload:
    """A payload on the stage and how the client's launcher starts something in it.

    It stands in for the payload object of ``MLJobDefinition``, which calls ``upload`` whenever a definition is
    registered and would send every file again (2.6.0); the attributes are those of what that call returns.
    """

    stage_path: PurePosixPath
    entrypoint: list[str]
    env_vars: dict[str, str]

    def upload(self, session: Session, stage_path: Any, overwrite: bool = False) -> UploadedPayload:
        """Nothing is left to send."""
        return self


def upload_once(
    session: Session, payload: PayloadSnapshot, entrypoint: str, *, stage: str, prefix: str, compute_pool: str
) -> UploadedPayload:
    """The payload at ``<stage>/<prefix>_<hash>``, uploaded by Snowflake's client where it is not there in full.

    A marker written last tells a finished upload from half of one. ``delete_job`` of Snowflake's client removes a
    job's payload, marker included; the next job then uploads it again.
    """
    name = f"{prefix}_{payload.digest}"
    location = f"{stage}/{name}"
    with _UPLOADING[location]:
        launch = _read_marker(session, location) or _upload(session, payload, entrypoint, stage, name, compute_pool)
    app = PurePosixPath(launch["env_vars"]["MLRS_STAGE_MOUNT_PATH"], launch["env_vars"]["MLRS_PAYLOAD_DIR"])
    return UploadedPayload(
        stage_path=PurePosixPath(location),
        entrypoint=[*launch["command"], str(app / entrypoint)],
        env_vars=dict(launch["env_vars"]),
    )


def _upload(
    session: Session, payload: PayloadSnapshot, entrypoint: str, stage: str, name: str, compute_pool: str
) -> dict[str, Any]:
    from snowflake.ml.jobs import MLJobDefinition

    with tempfile.TemporaryDirectory(prefix="payload_") as folder:
        payload.write(Path(folder))
        definition = MLJobDefinition.register(
            folder,
            compute_pool,
            stage,
            session,
            entrypoint=entrypoint,
            name=name,
            pip_requirements=list(payload.requirements) or None,
            overwrite=True,
        )
    # Everything but the entry point, so that other entry points of the same payload are started without another upload.
    launch = {
        "command": [str(part) for part in definition.entrypoint_args[:-1]],
        "env_vars": {
            key: value
            for key, value in definition.spec_options.env_vars.items()  # pyright: ignore[reportOptionalMemberAccess]
            if key in ("MLRS_STAGE_MOUNT_PATH", "MLRS_PAYLOAD_DIR")
        },
        "files": len(payload.files),
    }
    put_bytes(session.connection, json.dumps(launch).encode(), f"{stage}/{name}", MARKER)
    logger.info("uploaded %d files of payload %s to %s", len(payload.files), name, stage)
    return launch


def _read_marker(session: Session, location: str) -> dict[str, Any] | None:
    from snowflake.connector.errors import ProgrammingError

    try:
        if MARKER not in list_files(session.connection, f"{location}/{MARKER}"):
            return None
        return json.loads(get_bytes(session.connection, location, MARKER))
    except ProgrammingError as error:
        # 2003: the stage does not exist yet; the upload creates it.
        if error.errno != 2003:
            raise
        return None


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.origin or not spec.submodule_search_locations:
        raise JobRejectedError(
            f"package {package!r} of the payload is not installed here, or is not a pure Python package"
        )
    return Path(spec.origin).parent

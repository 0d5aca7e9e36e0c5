"""What is remembered of each job: one row of the catalogue, and its directory with the logs.

Reading and writing them belongs here; running a job in ``job_runs``, SQL about jobs in ``jobs``.
"""

from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedded_snowflake.catalog import declare
from embedded_snowflake.compute_pools import now
from embedded_snowflake.names import Name

if TYPE_CHECKING:
    from embedded_snowflake.server import EmbeddedSnowflake

declare(
    """CREATE TABLE IF NOT EXISTS ml_jobs (
        key VARCHAR PRIMARY KEY, database_name VARCHAR, schema_name VARCHAR, name VARCHAR, compute_pool VARCHAR,
        status VARCHAR, message VARCHAR, exit_code INTEGER, stage VARCHAR, directory VARCHAR, spec VARCHAR,
        options VARCHAR, comment VARCHAR, target_instances INTEGER, min_instances INTEGER,
        created_on TIMESTAMP, started_on TIMESTAMP, completed_on TIMESTAMP, updated_on TIMESTAMP,
        deleted_on TIMESTAMP)"""
)
# In catalogues of an earlier version, too.
declare("ALTER TABLE ml_jobs ADD COLUMN IF NOT EXISTS query_id VARCHAR")

PENDING, RUNNING, CANCELLING = "PENDING", "RUNNING", "CANCELLING"
DONE, FAILED, CANCELLED, INTERNAL_ERROR = "DONE", "FAILED", "CANCELLED", "INTERNAL_ERROR"
TERMINAL = (DONE, FAILED, CANCELLED, INTERNAL_ERROR)


@dataclass(frozen=True)
class Job:
    """One submitted job. ``stage`` is where its payload is, ``@db.schema.stage/path``; ``directory`` that on disk."""

    key: str
    name: Name
    compute_pool: str
    status: str
    message: str
    exit_code: int | None
    stage: str
    directory: Path
    spec: dict[str, Any]
    options: dict[str, Any]
    comment: str | None
    target_instances: int
    min_instances: int
    created_on: datetime
    started_on: datetime | None
    completed_on: datetime | None
    updated_on: datetime
    deleted_on: datetime | None
    query_id: str | None

    @property
    def result_stage(self) -> str:
        """Where the job's result goes: apart from those of other jobs of the same definition."""
        return f"{self.stage}/{self.name.name}"

    @property
    def result_directory(self) -> Path:
        return self.directory / self.name.name

    @property
    def over(self) -> bool:
        return self.status in TERMINAL


def _job(row: dict[str, Any]) -> Job:
    name = Name(row.pop("database_name"), row.pop("schema_name"), row.pop("name"))
    row["spec"], row["options"] = json.loads(row["spec"]), json.loads(row["options"])
    row["directory"] = Path(row["directory"])
    return Job(name=name, **row)


def add(
    server: EmbeddedSnowflake,
    *,
    name: Name,
    compute_pool: str,
    stage: str,
    directory: Path,
    spec: dict[str, Any],
    options: dict[str, Any],
    target_instances: int,
    min_instances: int,
    query_id: str,
) -> Job:
    """Record a new job, PENDING."""
    moment = now()
    row = {
        "key": uuid.uuid4().hex,
        "database_name": name.database,
        "schema_name": name.schema,
        "name": name.name,
        "compute_pool": compute_pool,
        "status": PENDING,
        "message": "Waiting for nodes of the compute pool.",
        "exit_code": None,
        "stage": stage,
        "directory": str(directory),
        "spec": json.dumps(spec),
        "options": json.dumps(options),
        "comment": options.get("COMMENT"),
        "target_instances": target_instances,
        "min_instances": min_instances,
        "created_on": moment,
        "started_on": None,
        "completed_on": None,
        "updated_on": moment,
        "deleted_on": None,
        "query_id": query_id,
    }
    server.catalog.execute(
        f"INSERT INTO ml_jobs ({', '.join(row)}) VALUES ({', '.join('?' for _ in row)})", list(row.values())
    )
    return _job(row)


def select(server: EmbeddedSnowflake, condition: str = "TRUE", parameters: tuple[Any, ...] = ()) -> list[Job]:
    """The jobs that meet an SQL condition on their columns, oldest first."""
    return [
        _job(row)
        for row in server.catalog.query(f"SELECT * FROM ml_jobs WHERE {condition} ORDER BY created_on, key", parameters)
    ]


def named(server: EmbeddedSnowflake, name: Name) -> Job | None:
    """The job of this name that is not deleted."""
    condition = "(database_name, schema_name, name) = (?, ?, ?) AND deleted_on IS NULL"
    found = select(server, condition, (name.database, name.schema, name.name))
    return found[-1] if found else None


def status_of(server: EmbeddedSnowflake, key: str) -> str:
    """The status alone: what a wait asks for again and again."""
    return server.catalog.query("SELECT status FROM ml_jobs WHERE key = ?", [key])[0]["status"]


def change(server: EmbeddedSnowflake, key: str, **columns: Any) -> None:
    """Change columns of a job's row; a terminal status also sets the time it ended."""
    columns["updated_on"] = now()
    if columns.get("status") in TERMINAL:
        columns["completed_on"] = columns["updated_on"]
    assignments = ", ".join(f"{column} = ?" for column in columns)
    server.catalog.execute(f"UPDATE ml_jobs SET {assignments} WHERE key = ?", [*columns.values(), key])


def own_directory(server: EmbeddedSnowflake, key: str) -> Path:
    """The job's own directory, for its logs and its home."""
    return server.data_dir / "jobs" / key


def delete(server: EmbeddedSnowflake, key: str) -> None:
    """Forget a job's logs and mark its row; the history still has the row."""
    change(server, key, deleted_on=now())
    shutil.rmtree(own_directory(server, key), ignore_errors=True)

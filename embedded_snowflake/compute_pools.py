"""Compute pools: their DDL and what SHOW and DESCRIBE tell of them.

A pool here is a share of this machine: an instance of it is a Ray node with min(the family's vCPUs, cores // MAX_NODES)
CPUs, at least one. Which job gets which nodes, and when, belongs in ``scheduler``; starting nodes in ``ray_nodes``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from embedded_snowflake import names, sessions
from embedded_snowflake.catalog import declare
from embedded_snowflake.errors import (
    ProgrammingError,
    already_exists,
    does_not_exist,
    insufficient_privileges,
    invalid,
)
from embedded_snowflake.names import NAME, SHOW_TAIL, Shown
from embedded_snowflake.ray_nodes import Shape
from embedded_snowflake.sessions import OWNER
from embedded_snowflake.statements import Answer, Options, Statement, rows, statement, status

if TYPE_CHECKING:
    from embedded_snowflake.scheduler import Nodes
    from embedded_snowflake.server import EmbeddedSnowflake

declare(
    """CREATE TABLE IF NOT EXISTS compute_pools (
        name VARCHAR PRIMARY KEY, instance_family VARCHAR, min_nodes INTEGER, max_nodes INTEGER, auto_resume BOOLEAN,
        auto_suspend_secs INTEGER, comment VARCHAR, suspended BOOLEAN,
        created_on TIMESTAMP, resumed_on TIMESTAMP, updated_on TIMESTAMP)"""
)

KIND = "COMPUTE POOL"
GIB = 2**30
MIB = 2**20
# vCPUs and GiB that a container can use, https://docs.snowflake.com/en/sql-reference/sql/create-compute-pool; where the
# clouds differ it is the smallest. A GPU family's GPUs are not there: a job that asks Ray for one fails and is told so.
FAMILIES = {
    "CPU_X64_XS": (1, 6),
    "CPU_X64_S": (3, 13),
    "CPU_X64_M": (6, 28),
    "CPU_X64_SL": (14, 54),
    "CPU_X64_L": (28, 116),
    "HIGHMEM_X64_S": (6, 58),
    "HIGHMEM_X64_M": (28, 240),
    "HIGHMEM_X64_SL": (92, 654),
    "HIGHMEM_X64_L": (92, 654),
    "GPU_NV_XS": (3, 26),
    "GPU_NV_S": (6, 27),
    "GPU_NV_SM": (32, 424),
    "GPU_NV_M": (44, 178),
    "GPU_NV_2M": (68, 858),
    "GPU_NV_3M": (44, 424),
    "GPU_NV_SL": (92, 858),
    "GPU_NV_L": (92, 1112),
    "GPU_GCP_NV_L4_1_24G": (6, 28),
    "GPU_GCP_NV_L4_4_24G": (44, 178),
    "GPU_GCP_NV_A100_8_40G": (92, 654),
}
DEFAULT_AUTO_SUSPEND_SECONDS = 3600
# Ray refuses to start with less than about 75 MB.
SMALLEST_OBJECT_STORE = 80 * MIB
_KEYS = {
    "MIN_NODES": "min_nodes",
    "MAX_NODES": "max_nodes",
    "INSTANCE_FAMILY": "instance_family",
    "AUTO_RESUME": "auto_resume",
    "AUTO_SUSPEND_SECS": "auto_suspend_secs",
    "COMMENT": "comment",
}


@dataclass(frozen=True)
class Pool:
    """One row of the catalogue."""

    name: str
    instance_family: str
    min_nodes: int
    max_nodes: int
    auto_resume: bool
    auto_suspend_secs: int
    comment: str
    suspended: bool
    created_on: datetime
    resumed_on: datetime | None
    updated_on: datetime

    def shape(self, nodes: int, object_store_memory: int) -> Shape:
        """What a cluster of so many of this pool's nodes looks like on this machine."""
        cpus, memory = FAMILIES[self.instance_family]
        share = psutil.virtual_memory().total // self.max_nodes
        store = min(object_store_memory, max(SMALLEST_OBJECT_STORE, _free_shared_memory() // (2 * self.max_nodes)))
        return Shape(
            nodes, min(cpus, max(1, cores() // self.max_nodes)), max(min(memory * GIB, share), store * 2), store
        )


def cores() -> int:
    """The CPU cores that this process may use, a container's quota included."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return available
    return available if quota == "max" else max(1, min(available, int(quota) // int(period)))


def _free_shared_memory() -> int:
    try:
        return psutil.disk_usage("/dev/shm").free  # noqa: S108 - where Ray keeps its objects
    except OSError:
        return psutil.virtual_memory().available


def find(server: EmbeddedSnowflake, name: str) -> Pool:
    """The pool of this name, as it is stored. Raises 2003 when there is none."""
    known = server.catalog.query("SELECT * FROM compute_pools WHERE name = ?", [name])
    if not known:
        raise does_not_exist("Compute pool", name)
    return Pool(**known[0])


def usable(request: Statement, name: str) -> Pool:
    """The pool of this name, for a job of this session. Raises 2003 where its role sees none, 3001 without USAGE."""
    pool = visible(request, name)
    if not sessions.may(request.connection, request.server, KIND, name, "USAGE"):
        raise insufficient_privileges(f"expected USAGE on compute pool '{name}'")
    return pool


def visible(request: Statement, name: str) -> Pool:
    """The pool of this name, for a session whose role has any privilege on it. Raises 2003."""
    if not sessions.may(request.connection, request.server, KIND, name):
        raise does_not_exist("Compute pool", name)
    return find(request.server, name)


def every(server: EmbeddedSnowflake) -> list[Pool]:
    """All pools, by name."""
    return [Pool(**row) for row in server.catalog.query("SELECT * FROM compute_pools ORDER BY name")]


def change(server: EmbeddedSnowflake, name: str, **settings: Any) -> None:
    """Change columns of a pool's row."""
    settings["updated_on"] = now()
    assignments = ", ".join(f"{column} = ?" for column in settings)
    server.catalog.execute(f"UPDATE compute_pools SET {assignments} WHERE name = ?", [*settings.values(), name])


def now() -> datetime:
    """The time as the catalogue keeps it: UTC without saying so."""
    return datetime.now(UTC).replace(tzinfo=None)


# -- statements -----------------------------------------------------------------------------------------------------


@statement(rf"CREATE COMPUTE POOL(?P<exists> IF NOT EXISTS)? (?P<name>{NAME})(?P<options>.*)")
def create_compute_pool(request: Statement) -> Answer:
    """CREATE COMPUTE POOL [IF NOT EXISTS] name MIN_NODES = n MAX_NODES = n INSTANCE_FAMILY = f [options]"""
    name = _single(request)
    if request.server.catalog.query("SELECT name FROM compute_pools WHERE name = ?", [name]):
        if request.group("exists"):
            return status(f"{name} already exists, statement succeeded.")
        raise already_exists("Object", name)
    options = Options.parse(request.group("options"))
    suspended = _boolean("INITIALLY_SUSPENDED", options.values.pop("INITIALLY_SUSPENDED", "FALSE"))
    if missing := [key for key in ("MIN_NODES", "MAX_NODES", "INSTANCE_FAMILY") if key not in options.values]:
        raise invalid(f"SQL compilation error:\nmissing {', '.join(missing)} for compute pool '{name}'", 1003)
    settings = {
        "auto_resume": True,
        "auto_suspend_secs": DEFAULT_AUTO_SUSPEND_SECONDS,
        "comment": "",
        **_settings(options),
    }
    _check_nodes(settings["min_nodes"], settings["max_nodes"])
    moment = now()
    row = Pool(
        name=name, suspended=suspended, created_on=moment, updated_on=moment,
        resumed_on=None if suspended else moment, **settings,
    )  # fmt: skip
    columns = list(row.__dict__)
    request.server.catalog.execute(
        f"INSERT INTO compute_pools ({', '.join(columns)}) VALUES ({', '.join('?' for _ in columns)})",
        [row.__dict__[column] for column in columns],
    )
    return status(f"Compute pool {name} successfully created.")


@statement(
    rf"ALTER COMPUTE POOL(?P<exists> IF EXISTS)? (?P<name>{NAME})"
    r" (?P<action>SUSPEND|RESUME|STOP ALL|SET|UNSET)(?P<options> .*)?"
)
def alter_compute_pool(request: Statement) -> Answer:
    """ALTER COMPUTE POOL name SUSPEND | RESUME | STOP ALL | SET options | UNSET option, ..."""
    server = request.server
    try:
        pool = find(server, _single(request))
    except ProgrammingError:
        if request.group("exists"):
            return status("Statement executed successfully.")
        raise
    action = " ".join((request.group("action") or "").upper().split())
    if action == "SUSPEND":
        change(server, pool.name, suspended=True)
    elif action == "RESUME":
        change(server, pool.name, suspended=False, resumed_on=now())
    elif action == "STOP ALL":
        for job in server.scheduler.unfinished(pool.name):
            server.scheduler.cancel(job.key, f"compute pool {pool.name} was told to STOP ALL")
    elif action == "SET":
        settings = _settings(Options.parse(request.group("options")))
        if "instance_family" in settings:
            raise invalid("SQL compilation error:\nINSTANCE_FAMILY of a compute pool cannot be changed")
        _check_nodes(settings.get("min_nodes", pool.min_nodes), settings.get("max_nodes", pool.max_nodes))
        change(server, pool.name, **settings)
    else:
        defaults = {"AUTO_SUSPEND_SECS": DEFAULT_AUTO_SUSPEND_SECONDS, "AUTO_RESUME": True, "COMMENT": ""}
        keys = [key.strip().upper() for key in (request.group("options") or "").split(",")]
        if unknown := [key for key in keys if key not in defaults]:
            raise invalid(f"SQL compilation error:\ncannot UNSET {', '.join(unknown)} of a compute pool")
        change(server, pool.name, **{_KEYS[key]: defaults[key] for key in keys})
    server.scheduler.wake()
    return status("Statement executed successfully.")


@statement(rf"DROP COMPUTE POOL(?P<exists> IF EXISTS)? (?P<name>{NAME})")
def drop_compute_pool(request: Statement) -> Answer:
    """DROP COMPUTE POOL [IF EXISTS] name"""
    server = request.server
    try:
        pool = find(server, _single(request))
    except ProgrammingError:
        if request.group("exists"):
            return status("Drop statement executed successfully.")
        raise
    if unfinished := server.scheduler.unfinished(pool.name):
        raise invalid(
            f"Compute pool '{pool.name}' has {len(unfinished)} jobs that have not ended: "
            f"ALTER COMPUTE POOL {pool.name} STOP ALL before dropping it",
            2207,
        )
    server.catalog.execute("DELETE FROM compute_pools WHERE name = ?", [pool.name])
    server.scheduler.wake()
    return status(f"{pool.name} successfully dropped.")


@statement(rf"SHOW COMPUTE POOLS{SHOW_TAIL}")
def show_compute_pools(request: Statement) -> Answer:
    """SHOW COMPUTE POOLS [LIKE pattern] [STARTS WITH prefix] [LIMIT n]"""
    shown = Shown.of(request.match, request.connection, request.binds)
    found = [
        _shown(request.server, pool)
        for pool in every(request.server)
        if shown.has(pool.name) and sessions.may(request.connection, request.server, KIND, pool.name)
    ]
    return rows(_COLUMNS, found[: shown.limit])


@statement(rf"DESC(?:RIBE)? COMPUTE POOL (?P<name>{NAME})")
def describe_compute_pool(request: Statement) -> Answer:
    """DESCRIBE COMPUTE POOL name"""
    return rows(_COLUMNS, [_shown(request.server, visible(request, _single(request)))])


# fmt: off
_COLUMNS = (
    "name", "state", "min_nodes", "max_nodes", "instance_family", "num_services", "num_jobs", "auto_suspend_secs",
    "auto_resume", "active_nodes", "idle_nodes", "target_nodes", "created_on", "resumed_on", "updated_on", "owner",
    "comment", "is_exclusive", "application", "error_code", "status_message",
)
# fmt: on


def _shown(server: EmbeddedSnowflake, pool: Pool) -> tuple[object, ...]:
    nodes = server.scheduler.nodes(pool.name)
    jobs = len(server.scheduler.unfinished(pool.name))
    settings = (pool.auto_suspend_secs, str(pool.auto_resume).lower())
    counts = (nodes.active, nodes.idle, nodes.active + nodes.idle + nodes.starting)
    times = (pool.created_on, pool.resumed_on, pool.updated_on)
    size = (pool.min_nodes, pool.max_nodes, pool.instance_family)
    rest = (OWNER, pool.comment, "false", None, "", "")
    return (pool.name, state(pool, nodes), *size, jobs, jobs, *settings, *counts, *times, *rest)


def state(pool: Pool, nodes: Nodes) -> str:
    """Snowflake's word for what the pool is doing. Nodes start when a job wants them; until then it is IDLE."""
    if pool.suspended:
        return "STOPPING" if nodes.active or nodes.starting else "SUSPENDED"
    if nodes.active:
        return "ACTIVE"
    return "STARTING" if nodes.starting else "IDLE"


def _settings(options: Options) -> dict[str, Any]:
    """Column -> value for the options of CREATE and SET."""
    settings: dict[str, Any] = {}
    for key, value in options.values.items():
        if key not in _KEYS:
            raise invalid(f"SQL compilation error:\ninvalid property '{key}' for 'COMPUTE POOL'", 1423)
        if key in ("MIN_NODES", "MAX_NODES", "AUTO_SUSPEND_SECS"):
            settings[_KEYS[key]] = _number(key, value)
        elif key == "AUTO_RESUME":
            settings[_KEYS[key]] = _boolean(key, value)
        elif key == "INSTANCE_FAMILY":
            settings[_KEYS[key]] = _family(value)
        else:
            settings[_KEYS[key]] = value
    return settings


def _family(value: str) -> str:
    if value.upper() not in FAMILIES:
        raise invalid(
            f"SQL compilation error:\nInvalid instance family '{value}'. Known families: {', '.join(FAMILIES)}", 1008
        )
    return value.upper()


def _check_nodes(min_nodes: int, max_nodes: int) -> None:
    if not 1 <= min_nodes <= max_nodes:
        raise invalid(
            "SQL compilation error:\ninvalid value for MIN_NODES and MAX_NODES: expected "
            f"1 <= MIN_NODES <= MAX_NODES, found MIN_NODES = {min_nodes}, MAX_NODES = {max_nodes}",
            1008,
        )


def _number(key: str, value: str) -> int:
    if not value.isdigit():
        raise invalid(f"SQL compilation error:\ninvalid value '{value}' for {key}: expected a number", 1008)
    return int(value)


def _boolean(key: str, value: str) -> bool:
    if value.upper() not in ("TRUE", "FALSE"):
        raise invalid(f"SQL compilation error:\ninvalid value '{value}' for {key}: expected TRUE or FALSE", 1008)
    return value.upper() == "TRUE"


def _single(request: Statement) -> str:
    found = names.parts(names.spelled(request.group("name") or "", request.binds))
    if len(found) != 1:
        raise invalid(f"SQL compilation error:\na compute pool's name has no dots, found '{request.group('name')}'")
    return found[0]

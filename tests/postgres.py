"""A Postgres server of the tests' own: Debian's binaries, a folder of its own, a free port on 127.0.0.1, a password.

What Dagster does on it is in ``test_team_deployment`` and ``test_ui_team``.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster_ui import free_port

USER = DATABASE = "dagster"
START_TIMEOUT_SECONDS = 60


def _binaries() -> Path | None:
    """The folder of ``initdb`` and ``pg_ctl``: on the path, or where Debian keeps each version's."""
    if found := shutil.which("pg_ctl"):
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[4]))
    return versions[-1].parent if versions else None


BINARIES = _binaries()
MISSING = "Postgres is missing: `make postgres` installs it"


def _unprivileged() -> dict[str, Any]:
    """Postgres refuses to run as root."""
    return {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}


@contextmanager
def postgres_server() -> Iterator[dict[str, str]]:
    """A running server with an empty database; gives the environment that ``deploy/dagster/dagster.yaml`` reads."""
    assert BINARIES, MISSING
    # Not pytest's folder: that one is closed to other users, also to the one that the server runs as.
    folder = Path(tempfile.mkdtemp(prefix="customer_insights_postgres_"))
    as_user = _unprivileged()
    password, port = secrets.token_urlsafe(12), free_port()
    (folder / "password").write_text(password)
    if as_user:
        shutil.chown(folder, as_user["user"], as_user["group"])
        shutil.chown(folder / "password", as_user["user"], as_user["group"])

    def run(program: str, *arguments: str) -> None:
        # Its log goes to a file: the server would keep a pipe open for as long as it lives.
        with (folder / f"{program}.log").open("a") as log:
            subprocess.run(
                [str(BINARIES / program), *arguments],
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=True,
                timeout=START_TIMEOUT_SECONDS,
                **as_user,
            )

    login = ("-U", USER, "-A", "scram-sha-256", "--pwfile", str(folder / "password"))
    run("initdb", "-D", str(folder / "data"), "-E", "UTF8", "--no-sync", *login)
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
    run("pg_ctl", "start", "-w", "-D", str(folder / "data"), "-l", str(folder / "server.log"), "-o", options)
    environment = {
        "DAGSTER_POSTGRES_HOST": "127.0.0.1",
        "DAGSTER_POSTGRES_PORT": str(port),
        "DAGSTER_POSTGRES_DB": DATABASE,
        "DAGSTER_POSTGRES_USER": USER,
        "DAGSTER_POSTGRES_PASSWORD": password,
    }
    try:
        statement(environment, f"CREATE DATABASE {DATABASE}", database="postgres")
        yield environment
    finally:
        run("pg_ctl", "stop", "-m", "immediate", "-D", str(folder / "data"))
        shutil.rmtree(folder)


def statement(environment: dict[str, str], sql: str, database: str = DATABASE) -> list[tuple[Any, ...]]:
    """The rows of one statement."""
    import psycopg2

    connection = psycopg2.connect(
        host=environment["DAGSTER_POSTGRES_HOST"],
        port=environment["DAGSTER_POSTGRES_PORT"],
        user=environment["DAGSTER_POSTGRES_USER"],
        password=environment["DAGSTER_POSTGRES_PASSWORD"],
        dbname=database,
    )
    # CREATE DATABASE cannot run in a transaction.
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()

"""Fixtures that every test may ask for: a running embedded server and connections to it."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

# Snowflake's clients read SNOWFLAKE_HOME once, when they are imported: set it before any test module imports them.
HOME = Path(tempfile.mkdtemp(prefix="customer_insights_tests_")) / ".snowflake"
HOME.mkdir()
os.environ["SNOWFLAKE_HOME"] = str(HOME)

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Embedded:
    """A running embedded server: its Snowflake home, and Snowflake's own clients connected to it."""

    home: Path
    process: subprocess.Popen[str]
    # A client that is still open when the server stops retries for a minute and a half as Python exits.
    opened: list = field(default_factory=list)

    def connect(self):
        """A new connection of snowflake-connector-python."""
        import snowflake.connector

        self.opened.append(snowflake.connector.connect(connection_name="embedded"))
        return self.opened[-1]

    def session(self):
        """A new Snowpark session."""
        from snowflake.snowpark import Session

        self.opened.append(Session.builder.config("connection_name", "embedded").create())
        return self.opened[-1]


def start_embedded(home: Path, *options: str) -> Embedded:
    """Start the server on a free port and wait until it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "embedded_snowflake", "--data-dir", str(home / "data"), "--port", "0", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "SNOWFLAKE_HOME": str(home)},
    )
    assert process.stdout
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        readable, _, _ = select.select([process.stdout], [], [], 1)
        if readable:
            line = process.stdout.readline()
            if "listens on" in line:
                return Embedded(home, process)
            if not line:
                raise RuntimeError(f"the embedded server ended with {process.wait()}")
    process.kill()
    raise TimeoutError(f"the embedded server did not listen within {START_TIMEOUT_SECONDS} s")


def stop_embedded(server: Embedded) -> None:
    """Ask the server to stop as Ctrl-C does, and wait until it has."""
    for client in server.opened:
        client.close()
    server.process.terminate()
    server.process.wait(timeout=60)


@pytest.fixture(scope="session")
def embedded() -> Iterator[Embedded]:
    """One embedded server for the whole test run, with HOL_DB.HOL_SCHEMA in it."""
    server = start_embedded(HOME)
    with server.connect() as connection:
        connection.cursor().execute("CREATE DATABASE IF NOT EXISTS HOL_DB")
        connection.cursor().execute("CREATE SCHEMA IF NOT EXISTS HOL_DB.HOL_SCHEMA")
    yield server
    stop_embedded(server)
    shutil.rmtree(HOME.parent, ignore_errors=True)

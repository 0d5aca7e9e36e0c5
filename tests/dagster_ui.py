"""Dagster as ``make ui`` runs it, on an instance of a test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from conftest import ROOT

START_TIMEOUT_SECONDS = 120


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def dagster_ui(dagster_home: Path, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Webserver, daemon and code server on the instance of ``dagster_home``; gives the address."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "dagster"), "dev", "-w", "workspace.yaml", "-h", "127.0.0.1"]
    with (dagster_home / "ui.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "-p", str(port)],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "DAGSTER_HOME": str(dagster_home), **(environment or {})},
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{address}/server_info", timeout=2).close()
            break
        except OSError:
            assert process.poll() is None, (dagster_home / "ui.log").read_text()[-2000:]
            time.sleep(0.5)
    try:
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)

"""Dagster on an instance of a test: as ``make ui`` runs it on one machine, and as a team does by its compose file."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml
from conftest import ROOT

START_TIMEOUT_SECONDS = 120
SECONDS_TO_END = 8
BINARIES = Path(sys.executable).parent
TEAM = ROOT / "deploy" / "dagster"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def dagster_ui(dagster_home: Path, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Webserver, daemon and code server on the instance of ``dagster_home``; gives the address."""
    port = free_port()
    command = ["dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
    address = f"http://127.0.0.1:{port}"
    with started(command, dagster_home, "ui", environment or {}, lambda: answers(address)):
        yield address


@contextmanager
def team_ui(dagster_home: Path, postgres: Mapping[str, str]) -> Iterator[str]:
    """The services of ``deploy/dagster/compose.yaml``, by the commands it has, on ``postgres``; gives the address."""
    port, code_port = free_port(), free_port()
    environment = team_environment(dagster_home, postgres, code_port)
    here = {"0.0.0.0": "127.0.0.1", "3000": str(port), "4000": str(code_port)}  # noqa: S104 - what is replaced

    def service(name: str, ready: Callable[[], bool] = lambda: True):
        command = [here.get(word, word) for word in team_command(name)]
        return started(command, dagster_home, name, environment, ready)

    address = f"http://127.0.0.1:{port}"
    health = [here.get(word, word) for word in team_services()["code_server"]["healthcheck"]["test"][1:]]
    migrate(dagster_home, environment)
    with ExitStack() as services:
        running = [
            services.enter_context(service("code_server", lambda: listens(code_port))),
            services.enter_context(service("daemon")),
            services.enter_context(service("webserver", lambda: answers(address))),
        ]
        # All at once: each takes some seconds to end.
        services.callback(lambda: [os.killpg(process.pid, signal.SIGTERM) for process in running])
        subprocess.run(by_path(health), cwd=ROOT, check=True, timeout=START_TIMEOUT_SECONDS, capture_output=True)
        yield address


def team_services() -> dict[str, dict]:
    """The services of the compose file."""
    return yaml.safe_load((TEAM / "compose.yaml").read_text())["services"]


def team_command(service: str) -> list[str]:
    return team_services()[service]["command"]


def team_environment(dagster_home: Path, postgres: Mapping[str, str], code_port: int) -> dict[str, str]:
    """The environment that the compose file gives to Dagster's services, with this machine's places."""
    here = {
        "DAGSTER_CODE_SERVER_HOST": "127.0.0.1",
        "DAGSTER_CODE_SERVER_PORT": str(code_port),
        "DAGSTER_COMPUTE_LOGS": str(dagster_home / "compute_logs"),
        **postgres,
    }
    return {name: here[name] for name in team_services()["daemon"]["environment"]}


def team_home(folder: Path) -> Path:
    """A DAGSTER_HOME as the team's image has it."""
    shutil.copy(TEAM / "dagster.yaml", folder)
    return folder


def migrate(dagster_home: Path, environment: Mapping[str, str]) -> None:
    """The service that creates the tables."""
    with started(team_command("migration"), dagster_home, "migration", environment, lambda: True) as migration:
        assert migration.wait(START_TIMEOUT_SECONDS) == 0, (dagster_home / "migration.log").read_text()[-2000:]


@contextmanager
def started(
    command: Sequence[str], dagster_home: Path, name: str, environment: Mapping[str, str], ready: Callable[[], bool]
) -> Iterator[subprocess.Popen[bytes]]:
    """A command of Dagster's with what it starts, from when it is ready; its output goes to ``<name>.log``."""
    with (dagster_home / f"{name}.log").open("a") as log:
        process = subprocess.Popen(
            by_path(command),
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "DAGSTER_HOME": str(dagster_home), **environment},
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not ready():
            said = (dagster_home / f"{name}.log").read_text()[-2000:]
            assert process.poll() is None, said
            assert time.monotonic() < deadline, f"{name} was not ready within {START_TIMEOUT_SECONDS} s:\n{said}"
            time.sleep(0.5)
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process with all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def by_path(command: Sequence[str]) -> list[str]:
    """The command, its program taken from the environment that runs the tests."""
    return [str(BINARIES / command[0]), *command[1:]]


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/server_info", timeout=2).close()
    except OSError:
        return False
    return True


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True

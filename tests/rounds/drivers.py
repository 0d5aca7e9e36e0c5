"""The processes that run jobs: a Ray cluster each, and forks of a process that has imported what a job imports.

A job's own process takes eight seconds to import ray, snowpark, scikit-learn and xgboost; a fork of one that has done
so, and has opened nothing, takes none.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from rounds.ray_host import SOCKET

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHON_PATH = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
OBJECT_STORE_BYTES = 100 << 20
NODE_BYTES = 2 << 30
START_TIMEOUT_SECONDS = 120.0
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# Ray's own processes and the idle workers; the others run a task or hold an actor.
_NO_WORK = ("ray::IDLE", "ray::_", "ray::DashboardAgent", "ray::RuntimeEnvAgent")


class _Host:
    """A process of ours that is talked to by a pipe and ends when that closes."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self.pipe, far_end = multiprocessing.Pipe()
        with far_end, log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *(part.replace("FD", str(far_end.fileno())) for part in arguments)],
                pass_fds=[far_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
            )

    def receive(self, timeout: float) -> Any:
        if not self.pipe.poll(timeout):
            raise TimeoutError(f"process {self.process.pid} said nothing for {timeout:.0f} s")
        return json.loads(self.pipe.recv_bytes())

    def stop(self) -> None:
        self.pipe.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Cluster(_Host):
    """A Ray cluster on the loopback address, whose workers have ``variables`` in their environment."""

    def __init__(self, nodes: int, directory: Path, variables: dict[str, str]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        shape = {
            "nodes": nodes,
            "cpus": 1,
            "memory": NODE_BYTES,
            "object_store_memory": OBJECT_STORE_BYTES,
            "timeout_seconds": START_TIMEOUT_SECONDS,
        }
        # Threads would not outlive a fork. A worker has one CPU anyway.
        own = {"RAY_TMPDIR": str(directory), "PYTHONPATH": PYTHON_PATH, SOCKET: str(directory / "forks"), **ONE_THREAD}
        environment = {**os.environ, **variables, **own}
        super().__init__(["-m", "rounds.ray_host", "FD", json.dumps(shape)], environment, directory / "host.log")
        self.address = str(self.receive(START_TIMEOUT_SECONDS)["address"])

    def working(self) -> list[psutil.Process]:
        """The worker processes that run a task or hold an actor now."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                title = (process.cmdline() or [""])[0]
            except psutil.Error:
                continue
            if title.startswith("ray::") and not title.startswith(_NO_WORK):
                found.append(process)
        return found


@dataclass
class Driver:
    """One attempt of a job: its process, and how it ended."""

    pid: int
    run_id: str
    password: str
    folder: Path
    began: float = field(default_factory=time.monotonic)
    status: int | None = None
    killed: bool = False

    @property
    def ended(self) -> bool:
        return self.status is not None

    @property
    def outcome(self) -> dict[str, Any]:
        """``{"ok": true}``, or the error that the job ended with; empty where it was killed before it ended."""
        file = self.folder / "outcome.json"
        return json.loads(file.read_text()) if file.exists() else {}

    @property
    def succeeded(self) -> bool:
        return self.status == 0 and bool(self.outcome.get("ok"))

    def kill(self) -> None:
        """SIGKILL to the driver and its process group."""
        self.killed = True
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            # It ended at that very moment, which its status tells.
            return


class Zygote(_Host):
    """Forks drivers."""

    def __init__(self, folder: Path) -> None:
        # Read when ray is imported: without it Ray looks for a loopback head at the machine's outward address.
        loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        environment = {**os.environ, **ONE_THREAD, **loopback, "PYTHONPATH": PYTHON_PATH, "MPLBACKEND": "Agg"}
        super().__init__(["-m", "rounds.zygote", "FD"], environment, folder / "zygote.log")
        self._running: dict[int, Driver] = {}
        self.receive(START_TIMEOUT_SECONDS)

    def start(self, entrypoint: str, run_id: str, password: str, folder: Path, variables: dict[str, str]) -> Driver:
        """Start a job's process; ``variables`` are its environment."""
        folder.mkdir(parents=True)
        order = {"entrypoint": entrypoint, "folder": str(folder), "variables": variables}
        self.pipe.send_bytes(json.dumps(order).encode())
        while "pid" not in (message := self.receive(30)):
            self._note(message)
        driver = Driver(message["pid"], run_id, password, folder)
        self._running[driver.pid] = driver
        return driver

    def look(self, seconds: float = 0.0) -> None:
        """Note which drivers have ended; wait so long for one to end."""
        while self.pipe.poll(seconds):
            self._note(json.loads(self.pipe.recv_bytes()))
            seconds = 0.0

    def _note(self, message: dict[str, Any]) -> None:
        self._running.pop(message["ended"]).status = message["status"]


def listen(descriptor: int) -> Connection:
    """The zygote's end of the pipe."""
    return Connection(descriptor)

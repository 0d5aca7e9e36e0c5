"""Ray clusters as the server sees them: started, asked what they do, ended, with nothing left behind.

What happens in the process that holds the nodes belongs in ``ray_host``; which job gets which nodes in ``scheduler``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

logger = logging.getLogger(__name__)

START_TIMEOUT_SECONDS = 120.0
REQUEST_TIMEOUT_SECONDS = 15.0
STOP_TIMEOUT_SECONDS = 5.0
# Every process that a server starts for its jobs carries the server's data directory under the first name, and a job's
# processes the job's key under the second: so they are found when their parents are gone.
SERVER_MARK = "EMBEDDED_SNOWFLAKE_DATA_DIR"
JOB_MARK = "EMBEDDED_SNOWFLAKE_JOB"
# What a container would have of its own; the rest of the server's environment is none of a job's business.
_KEPT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "VIRTUAL_ENV",
    "SSL_CERT_FILE",
    "CUDA_VISIBLE_DEVICES",
)


class RayStartError(Exception):
    """The nodes did not start; the message has Ray's own words."""


@dataclass(frozen=True)
class Shape:
    """What a job's cluster looks like; memory in bytes, both per node."""

    nodes: int
    cpus: int
    memory: int
    object_store_memory: int


@dataclass(frozen=True)
class Observed:
    """A cluster at one moment. ``infeasible``: requests that no node can ever meet, as Ray's resource -> amount."""

    nodes: int
    infeasible: list[dict[str, float]]
    left_over: int


class RayCluster:
    """The nodes of one job, or of none while they wait warm for the next."""

    def __init__(self, shape: Shape, data_dir: Path) -> None:
        self.shape = shape
        self.address = ""
        self.jobs_run = 0
        # Ray's ports are open to every user of this machine, and who may submit to them may run code as this one.
        self.authentication = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._waiting = threading.Lock()
        # Ray's sockets lie under here, and a Unix socket's path has at most 107 characters.
        self.directory = Path(tempfile.mkdtemp(prefix=f"{_prefix(data_dir)}-", dir=_short_temporary_directory()))
        self._log = (self.directory / "host.log").open("wb")
        self._pipe, far_end = multiprocessing.Pipe()
        settings = {**asdict(shape), "timeout_seconds": START_TIMEOUT_SECONDS}
        environment = {
            **container_environment(),
            SERVER_MARK: str(data_dir),
            "HOME": str(self.directory),
            "RAY_TMPDIR": str(self.directory),
            "RAY_USAGE_STATS_ENABLED": "0",
            **self.authentication,
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        with far_end:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, by this interpreter
                [
                    sys.executable,
                    "-P",
                    str(Path(__file__).with_name("ray_host.py")),
                    str(far_end.fileno()),
                    json.dumps(settings),
                ],
                pass_fds=[far_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                cwd=self.directory,
                env=environment,
                start_new_session=True,
            )

    def wait_until_ready(self, given_up: threading.Event) -> None:
        """Return when every node has joined. Raises RayStartError, also when ``given_up`` is set meanwhile."""
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        with self._waiting:
            while not self.address:
                if given_up.is_set():
                    raise RayStartError("nobody waits for the nodes any more")
                if time.monotonic() > deadline:
                    raise RayStartError(
                        f"Ray's nodes did not start within {START_TIMEOUT_SECONDS:.0f} s:\n{self._log_tail()}"
                    )
                try:
                    if self._pipe.poll(0.2):
                        self.address = json.loads(self._pipe.recv_bytes())["address"]
                except (EOFError, OSError) as error:
                    raise RayStartError(f"Ray's nodes did not start:\n{self._log_tail()}") from error

    def observe(self) -> Observed:
        """What the cluster is doing. Raises OSError or EOFError where it is gone."""
        self._pipe.send_bytes(b"observe")
        if not self._pipe.poll(REQUEST_TIMEOUT_SECONDS):
            raise OSError(f"Ray's head node did not answer within {REQUEST_TIMEOUT_SECONDS:.0f} s")
        return Observed(**json.loads(self._pipe.recv_bytes()))

    def is_clean(self, timeout_seconds: float = 3.0) -> bool:
        """Whether nothing of an ended job is left and every node lives. Ray clears up after the driver has left."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            try:
                seen = self.observe()
            except (OSError, EOFError):
                return False
            if seen.nodes == self.shape.nodes and not seen.left_over:
                return True
            time.sleep(0.1)
        return False

    def lose_node(self, head: bool) -> Literal["head", "worker"] | None:
        """Kill a node, a worker where there is one unless the head is asked for; what was lost, None for nothing."""
        raylets = self._processes("raylet")
        workers = [process for process in raylets if "--head" not in process.cmdline()]
        heads = [process for process in raylets if process not in workers]
        if workers and not head:
            workers[-1].kill()
            return "worker"
        # What all nodes talk to runs on the head.
        for process in [*heads, *self._processes("gcs_server")]:
            process.kill()
        return "head" if heads else None

    def _processes(self, program: str) -> list[psutil.Process]:
        """The cluster's living processes of this program."""
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                command = process.cmdline()
                if command and Path(command[0]).name == program:
                    found.append(process)
        return found

    def kill(self) -> None:
        """End every process of the cluster at once, with the job in it. ``stop`` is still to be called."""
        kill_group(self._process.pid)

    def stop(self) -> None:
        """End every process of the cluster and remove its files."""
        self._pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_SECONDS)
        kill_group(self._process.pid)
        self._process.wait()
        self._log.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _log_tail(self) -> str:
        return (self.directory / "host.log").read_text(errors="replace")[-2000:]


def container_environment() -> dict[str, str]:
    """The part of this process's environment that a container would have, with this Python's commands first in PATH."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "PATH": os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])}


def kill_group(pid: int) -> None:
    """Kill a process that leads its group, and the group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def end_marked(name: str, value: str) -> int:
    """Kill every process of this user that has ``name=value`` in its environment; return how many there were."""
    ended = list(_marked(name, value))
    for process in ended:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(ended, timeout=STOP_TIMEOUT_SECONDS)
    return len(ended)


def end_leftovers(data_dir: Path) -> int:
    """End what a killed server on this data directory left running; return how many processes there were."""
    ended = end_marked(SERVER_MARK, str(data_dir))
    for directory in Path(_short_temporary_directory()).glob(f"{_prefix(data_dir)}-*"):
        shutil.rmtree(directory, ignore_errors=True)
    return ended


def _marked(name: str, value: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error):
            if process.environ().get(name) == value:
                yield process


def _prefix(data_dir: Path) -> str:
    return f"esf-{hashlib.sha256(str(data_dir).encode()).hexdigest()[:8]}"


def _short_temporary_directory() -> str:
    # A private directory is made in it.
    return "/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()  # noqa: S108 - mkdtemp makes the directory in it


def as_words(demand: dict[str, Any]) -> str:
    """``{"CPU": 24.0}`` as ``24 CPUs``."""
    return " and ".join(
        f"{amount:g} {name}{'s' if name in ('CPU', 'GPU') and amount != 1 else ''}" for name, amount in demand.items()
    )

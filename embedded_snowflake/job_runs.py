"""One job on its nodes: the client's own launcher as a process, with the environment that its container would have.

The launcher (``system/mljob_launcher.py`` on the job's stage) runs unchanged. The wait for nodes is in ``scheduler``.
"""

from __future__ import annotations

import json
import logging
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from embedded_snowflake import compute_pools, job_history, job_logs, job_requirements, sessions
from embedded_snowflake.job_history import CANCELLING, DONE, FAILED, INTERNAL_ERROR, RUNNING, Job
from embedded_snowflake.job_logs import JobLog
from embedded_snowflake.ray_nodes import (
    JOB_MARK,
    SERVER_MARK,
    RayCluster,
    RayStartError,
    as_words,
    container_environment,
    end_marked,
    kill_group,
)

if TYPE_CHECKING:
    from embedded_snowflake.server import EmbeddedSnowflake

logger = logging.getLogger(__name__)

MOUNT = "/mnt/job_stage"
LAUNCHER = "system/mljob_launcher.py"
RESULT_FILE = "mljob_result"
HOME = "home"
TOKEN_FILE = "session_token"  # noqa: S105 - its name
# A job that is told to end may tidy up this long before it is killed.
GRACE_SECONDS = 2.0
LOOK_SECONDS = 0.25
OBSERVE_SECONDS = 2.0
# Ray reports a demand as infeasible for a moment when a node has just joined.
INFEASIBLE_SECONDS = 8.0


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    status: str
    message: str
    exit_code: int | None = None


@dataclass
class JobRun:
    """A job that has its nodes. ``run`` it once, in a thread of its own."""

    server: EmbeddedSnowflake
    job: Job
    cluster: RayCluster
    _asked: threading.Event = field(default_factory=threading.Event)
    _wanted: Outcome | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _began: bool = False
    _process: subprocess.Popen[bytes] | None = None

    def lose_node(self, head: bool) -> bool:
        """Kill a node as a machine dies; on the head runs the job's own process. False where none is left."""
        lost = self.cluster.lose_node(head)
        if lost == "head" and self._process:
            kill_group(self._process.pid)
        return lost is not None

    def ask_to_end(self, status: str, reason: str) -> None:
        """Have the job end, soon, with this status. The first to ask is heard."""
        with self._lock:
            if self._wanted:
                return
            self._wanted = Outcome(status, reason)
            if status == job_history.CANCELLED:
                job_history.change(self.server, self.job.key, status=CANCELLING, message=reason)
            self._asked.set()

    def run(self) -> bool:
        """Carry the job out and record how it ended. True where it succeeded, so that its nodes may serve another."""
        directory = job_history.own_directory(self.server, self.job.key)
        log = JobLog(job_logs.path(directory, 0))
        try:
            outcome = self._outcome(log, directory)
        except Exception as error:
            logger.exception("job %s", self.job.name)
            outcome = Outcome(INTERNAL_ERROR, f"the embedded server failed: {type(error).__name__}: {error}")
        if not self._began and self._wanted and self._wanted.status == INTERNAL_ERROR:
            # The server stops and the job has not begun: it waits for the next server.
            log.close()
            return False
        if outcome.status != DONE:
            log.note(f"{outcome.status}: {outcome.message}")
            self.cluster.kill()
        log.close()
        end_marked(JOB_MARK, self.job.key)
        shutil.rmtree(directory / HOME, ignore_errors=True)
        job_history.change(
            self.server, self.job.key, status=outcome.status, message=outcome.message, exit_code=outcome.exit_code
        )
        return outcome.status == DONE

    def _outcome(self, log: JobLog, directory: Path) -> Outcome:
        if problems := job_requirements.unmet(self.job.directory):
            return Outcome(
                FAILED,
                "requirements are not met in the embedded server's environment, and it installs nothing: "
                + "; ".join(problems),
            )
        if not (self.job.directory / LAUNCHER).is_file():
            return Outcome(FAILED, f"{self.job.stage}/{LAUNCHER} is missing on the stage")
        try:
            self.cluster.wait_until_ready(self._asked)
        except RayStartError as error:
            return self._wanted or Outcome(INTERNAL_ERROR, str(error))
        with self._lock:
            if self._wanted:
                return self._wanted
            self._began = True
            started = compute_pools.now()
            job_history.change(self.server, self.job.key, status=RUNNING, message="Running", started_on=started)
        self._note_instances(log, directory)
        password = self.server.job_credentials.issue(self.job.key)
        process = self._process = self._start(directory, password)
        try:
            return self._supervise(process, log)
        finally:
            kill_group(process.pid)
            process.wait()
            self._end_sessions(password)

    def _note_instances(self, log: JobLog, directory: Path) -> None:
        shape = self.cluster.shape
        log.note(f"Ray {self.cluster.address}: {shape.nodes} nodes with {shape.cpus} CPUs each")
        if runtime := self.job.spec.get("RUNTIME"):
            log.note(f"Runtime {runtime}: Python {sys.version.split()[0]} of the embedded server, no container")
        for instance in range(1, shape.nodes):
            worker = JobLog(job_logs.path(directory, instance))
            worker.note(
                f"Ray worker node {instance} joined {self.cluster.address}. Its tasks print to the log of instance 0."
            )
            worker.close()

    def _start(self, directory: Path, password: str) -> subprocess.Popen[bytes]:
        home, payload = directory / HOME, self.job.directory / "app"
        for needed in (home, payload):
            needed.mkdir(parents=True, exist_ok=True)
        variables = job_variables(self.server, self.job, home)
        write_token(Path(variables["SNOWFLAKE_TOKEN_FILE"]), password)
        arguments = [mounted(str(argument), self.job.directory) for argument in self.job.spec["ARGS"][2:]]
        return subprocess.Popen(  # noqa: S603 - the job's own code is what a job is
            [sys.executable, str(self.job.directory / LAUNCHER), *arguments],
            cwd=payload,
            env={
                **container_environment(),
                **variables,
                "SNOWFLAKE_PASSWORD": password,
                **ray_variables(self.cluster, variables),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _supervise(self, process: subprocess.Popen[bytes], log: JobLog) -> Outcome:
        demands = _Demands(self.cluster, self.job.compute_pool)
        with cast(IO[bytes], process.stdout) as output, selectors.DefaultSelector() as ready:
            os.set_blocking(output.fileno(), False)
            ready.register(output, selectors.EVENT_READ)
            while process.poll() is None:
                if ready.select(LOOK_SECONDS):
                    chunk = output.read()
                    if chunk:
                        log.write(chunk)
                    elif chunk == b"":
                        # Its output is closed, it is not: without this the loop would spin.
                        time.sleep(LOOK_SECONDS)
                if self._asked.is_set() or demands.hopeless():
                    _terminate(process)
            log.write(output.read() or b"")
        if self._wanted:
            return self._wanted
        if demands.reason:
            return Outcome(FAILED, demands.reason, process.returncode)
        if process.returncode:
            return Outcome(FAILED, f"the job's process ended with {_exit(process.returncode)}", process.returncode)
        return Outcome(DONE, "Completed successfully", 0)

    def _end_sessions(self, password: str) -> None:
        for token in self.server.job_credentials.revoke(password):
            connection = self.server.session_tokens.close(token)
            if connection:
                connection._duck_conn.interrupt()
                sessions.end(self.server, connection)


class _Demands:
    """What a job asks of Ray, looked at now and then; hopeless when no node can ever meet it."""

    def __init__(self, cluster: RayCluster, pool: str) -> None:
        self._cluster, self._pool = cluster, pool
        self._looked = time.monotonic()
        self._since: float | None = None
        self.reason = ""

    def hopeless(self) -> bool:
        if self.reason:
            return True
        if time.monotonic() - self._looked < OBSERVE_SECONDS:
            return False
        self._looked = time.monotonic()
        try:
            infeasible = self._cluster.observe().infeasible
        except (OSError, EOFError):
            # The head is gone; the launcher notices by itself and says so in the log.
            return False
        if not infeasible:
            self._since = None
            return False
        self._since = self._since or self._looked
        if self._looked - self._since < INFEASIBLE_SECONDS:
            return False
        shape = self._cluster.shape
        asked = ", ".join(sorted({as_words(demand) for demand in infeasible}))
        has = as_words({"CPU": float(shape.cpus)})
        self.reason = (
            f"the job asks Ray for {asked}, which can never be met: a node of compute pool {self._pool} "
            f"has {has} here, and the job has {shape.nodes} of them"
        )
        return True


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """Ask the process and its group to end, then kill them."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(GRACE_SECONDS)
    except ProcessLookupError:
        process.wait()
    except subprocess.TimeoutExpired:
        kill_group(process.pid)
        process.wait()


def _exit(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"


def mounted(value: str, directory: Path) -> str:
    """``value`` with the container's path of the stage replaced by the stage's directory."""
    return re.sub(rf"{re.escape(MOUNT)}(?=/|$|:)", lambda _: str(directory), value)


def write_token(file: Path, password: str) -> None:
    """Write the job's password where clients look for a container's token. It goes with the job's home."""
    with open(file, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as token:
        token.write(password)


def job_variables(server: EmbeddedSnowflake, job: Job, home: Path) -> dict[str, str]:
    """The environment that is the job's own, in the launcher and in every Ray worker.

    No secret: Ray hands it to each worker as an argument, and every user of the machine can read arguments.
    """
    configuration = server.configuration
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    spec = {name: mounted(str(value), job.directory) for name, value in (job.spec.get("ENV_VARS") or {}).items()}
    return {
        "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONUNBUFFERED": "1",
        # The payload's directory is a stage: byte code does not belong there.
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": cache,
        # Snowflake's client would take another account's settings from the user's own home.
        "HOME": str(home),
        "SNOWFLAKE_HOME": str(home / ".snowflake"),
        **spec,
        **published_variables(job),
        "MLRS_STAGE_MOUNT_PATH": str(job.directory),
        "MLRS_STAGE_RESULT_PATH": str(job.result_directory),
        "SNOWFLAKE_ACCOUNT": configuration.user,
        "SNOWFLAKE_HOST": "127.0.0.1",
        "SNOWFLAKE_PORT": str(configuration.port),
        "SNOWFLAKE_PROTOCOL": "http",
        "SNOWFLAKE_DATABASE": job.name.database,
        "SNOWFLAKE_SCHEMA": job.name.schema,
        "SNOWFLAKE_WAREHOUSE": str(job.options.get("QUERY_WAREHOUSE") or ""),
        "SNOWFLAKE_USER": configuration.user,
        "SNOWFLAKE_TOKEN_FILE": str(home / TOKEN_FILE),
        "SNOWFLAKE_SERVICE_NAME": job.name.name,
        "SNOWFLAKE_JOB_INDEX": "0",
        SERVER_MARK: str(server.data_dir),
        JOB_MARK: job.key,
    }


def published_variables(job: Job) -> dict[str, str]:
    """Those variables that the client reads back from the job's specification."""
    return {
        "MLRS_PAYLOAD_DIR": "app",
        "MLRS_RESULT_PATH": RESULT_FILE,
        "MLRS_MIN_INSTANCES": str(job.min_instances),
        "SNOWFLAKE_JOBS_COUNT": str(job.target_instances),
    }


def ray_variables(cluster: RayCluster, variables: dict[str, str]) -> dict[str, str]:
    """What makes ``ray.init(address="auto")`` find the job's own cluster, and its workers have the job's variables."""
    job_config: dict[str, Any] = {"runtime_env": {"env_vars": variables}, "metadata": {}}
    return {
        "RAY_ADDRESS": cluster.address,
        # Ray takes 127.0.0.1 for a mistake and looks for the head at the machine's outward address, but not with this.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # As Ray's own job submission does it: joined with the runtime environment that the launcher gives.
        "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(job_config),
        "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",
        "RAY_TMPDIR": str(cluster.directory),
        "RAY_USAGE_STATS_ENABLED": "0",
        **cluster.authentication,
    }

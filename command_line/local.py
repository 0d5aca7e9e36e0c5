"""What runs on this machine: where its files are, and starting and stopping the embedded Snowflake.

This is the one place that knows of it; everything else knows a connection name.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagster import DagsterInstance

ROOT = Path(__file__).resolve().parent.parent
EMBEDDED = "embedded"
START_TIMEOUT_SECONDS = 120
STOP_TIMEOUT_SECONDS = 60


def set_defaults() -> None:
    """The environment of the embedded default, where the caller's own does not say otherwise; as the Makefile has
    it."""
    defaults = {
        "SNOWFLAKE_HOME": str(ROOT / ".snowflake"),
        "SNOWFLAKE_DEFAULT_CONNECTION_NAME": EMBEDDED,
        "DAGSTER_HOME": str(ROOT / ".dagster"),
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def home() -> Path:
    """Snowflake's home: connections.toml, and the embedded server's data."""
    return Path(os.environ["SNOWFLAKE_HOME"])


def uses_embedded() -> bool:
    """Whether the chosen connection is the embedded server's."""
    from customer_insights.settings import settings

    return (settings().connection or os.environ["SNOWFLAKE_DEFAULT_CONNECTION_NAME"]) == EMBEDDED


def _pid_file() -> Path:
    return home() / "embedded.pid"


def running() -> int | None:
    """Process id of the embedded server that ``start`` started, while it lives."""
    try:
        pid = int(_pid_file().read_text())
        command = Path(f"/proc/{pid}/cmdline")
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    # A process id is used again after a restart of the machine.
    if command.exists() and b"embedded_snowflake" not in command.read_bytes():
        return None
    return pid


def start() -> float:
    """Start the embedded server in the background, unless it runs; returns the seconds that took.

    Raises:
        RuntimeError: it ended or did not listen in time; the message holds the end of its log.
    """
    if running():
        return 0.0
    begun = time.monotonic()
    home().mkdir(parents=True, exist_ok=True)
    log = home() / "embedded.log"
    with log.open("w") as output:
        process = subprocess.Popen(  # noqa: S603 - our own module, by this interpreter
            [sys.executable, "-m", "embedded_snowflake", "--data-dir", str(home() / "data"), *_port()],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _pid_file().write_text(str(process.pid))
    while time.monotonic() - begun < START_TIMEOUT_SECONDS:
        if "listens on" in log.read_text(errors="replace"):
            return time.monotonic() - begun
        if process.poll() is not None:
            break
        time.sleep(0.1)
    _pid_file().unlink(missing_ok=True)
    process.kill()
    raise RuntimeError(f"the embedded Snowflake did not start; the end of {log}:\n{log.read_text()[-2000:]}")


def _port() -> list[str]:
    # 0 lets the system choose a free port: two checkouts on one machine do not meet.
    return ["--port", os.environ.get("EMBEDDED_SNOWFLAKE_PORT", "0")]


def end_dead_runs(instance: DagsterInstance) -> list[str]:
    """Mark runs as failed whose process on this machine is gone, and give back their slots; their ids.

    Dagster's code server does it while it lives. After a restart of the machine, or when server and worker were killed
    together, nobody else does: the run would stay in progress, and others would wait for it.
    """
    import dagster as dg

    ended = []
    in_progress = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=in_progress)):
        process = _process_of(instance, run.run_id)
        if process and not _lives(*process):
            instance.report_run_failed(run, f"its process {process[0]} is gone, and nobody had noticed")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            ended.append(run.run_id)
    return ended


def _process_of(instance: DagsterInstance, run_id: str) -> tuple[int, float] | None:
    """Process id of a run's worker, and when it was noted, by the executor's own event."""
    for entry in instance.all_logs(run_id):
        event = entry.dagster_event
        if event and event.is_engine_event and (pid := event.engine_event_data.metadata.get("pid")):
            return int(str(pid.value)), entry.timestamp
    return None


def _lives(pid: int, noted: float) -> bool:
    import psutil

    try:
        # A process id is used again.
        return psutil.Process(pid).create_time() <= noted
    except psutil.NoSuchProcess:
        return False


def stop() -> bool:
    """Stop the server that ``start`` started, with its jobs and Ray nodes; False when none runs."""
    pid = running()
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
    while running() and time.monotonic() < deadline:
        time.sleep(0.1)
    _pid_file().unlink(missing_ok=True)
    return True

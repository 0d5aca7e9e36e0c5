"""``python -m command_line.run_job JOB TAGS``: run a job, with tags as JSON, in this process and its children.

The demo starts it beside itself, so that it can show the run's events while they happen.
"""

from __future__ import annotations

import json
import sys

import dagster as dg


def everything() -> dg.JobDefinition:
    """The job of the whole graph; a function, so that the steps' processes can build it again."""
    return _job("everything")


def costs() -> dg.JobDefinition:
    """The job that counts what all of it has cost."""
    return _job("costs")


def _job(name: str) -> dg.JobDefinition:
    from definitions import defs

    return defs.resolve_job_def(name)


JOBS = {"everything": everything, "costs": costs}


def main() -> int:
    """Exit code 0 when the run succeeded."""
    job, tags = JOBS[sys.argv[1]], json.loads(sys.argv[2])
    with dg.DagsterInstance.get() as instance:
        result = dg.execute_job(dg.reconstructable(job), instance=instance, tags=tags, raise_on_error=False)
    return 0 if result.success else 1


if __name__ == "__main__":
    sys.exit(main())

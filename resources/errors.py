"""What the resources raise, in the project's two branches: what a retry may mend, and what only a person can."""

from __future__ import annotations

from collections.abc import Sequence

# Raised outside of Dagster, too; who uses the resources finds them here.
from customer_insights.connecting import SnowflakeConnectionError as SnowflakeConnectionError
from customer_insights.connecting import SnowflakeUnreachableError as SnowflakeUnreachableError
from customer_insights.errors import PermanentError, RetryableError


class SnowflakeJobError(Exception):
    """Base of everything that concerns one job. ``job_id`` is None when no job was created."""

    def __init__(self, message: str, job_id: str | None = None) -> None:
        super().__init__(message)
        self.job_id = job_id


class JobRejectedError(SnowflakeJobError, PermanentError):
    """Nothing was submitted, or Snowflake refused the submission: no such pool, no privilege, no such entry point."""


class JobFailedError(SnowflakeJobError, PermanentError):
    """The job ended, and not well: its status is not DONE, it reported an exception, or it reported too little."""

    def __init__(self, message: str, job_id: str, status: str, log_tail: Sequence[str] = ()) -> None:
        tail = "\n".join(f"    {line}" for line in log_tail)
        super().__init__(f"{message}\n  last {len(log_tail)} log lines:\n{tail}" if log_tail else message, job_id)
        self.status = status
        self.log_tail = tuple(log_tail)


class JobInterruptedError(JobFailedError, RetryableError):
    """The job failed for a reason that lies outside of its work: a node or a connection was lost, or it says so."""


class JobLostError(JobInterruptedError):
    """Snowflake lost the job (INTERNAL_ERROR) or somebody deleted it: the same work may succeed in another one."""


class JobQueueTimeoutError(SnowflakeJobError, RetryableError):
    """The job waited too long for the pool, and was cancelled, or for another job of the same partition."""


class JobRunTimeoutError(SnowflakeJobError, PermanentError):
    """The job ran too long and was cancelled; another one would run as long, and cost as much."""


class JobOvertakenError(SnowflakeJobError, RetryableError):
    """Two jobs for the same partition were submitted at the same moment; this one, the later, was cancelled."""


class JobUnreachableError(SnowflakeJobError, SnowflakeUnreachableError):
    """Snowflake stayed out of reach for too long; the job, if there is one, was left as it is."""

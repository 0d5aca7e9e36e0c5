"""One job from its submission to its end: status, log, messages, limits, and its fate when its step is interrupted.

How a job is asked for is in ``job_submission.py``; what Dagster gets in the end is in ``snowflake_jobs.py``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster import DagsterRunStatus

from customer_insights.transient import causes, error_number, is_transient
from resources.errors import (
    JobFailedError,
    JobInterruptedError,
    JobLostError,
    JobOvertakenError,
    JobQueueTimeoutError,
    JobRejectedError,
    JobRunTimeoutError,
    JobUnreachableError,
    SnowflakeUnreachableError,
)
from resources.job_logs import LogFollower
from resources.job_lookup import TERMINAL, KnownJob, is_read_by_another, jobs_in, run_is_over, run_tag, standing
from resources.job_submission import StepContext, Submission, find_job, schema_of, submit
from resources.pipes_stage import StageMessageReader, remove_files
from resources.snowflake import ReconnectingSession

if TYPE_CHECKING:
    from dagster import PipesSession
    from snowflake.ml.jobs import MLJob
    from snowflake.snowpark import Session

LOST = frozenset({"INTERNAL_ERROR", "DELETED"})
NOT_SUBMITTED = "NOT SUBMITTED"
_ALREADY_EXISTS = 2002
# Between two looks at whether the run that this step belongs to still goes on.
RUN_LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class Polling:
    """Seconds between two looks at a job: the first, the longest, and the factor from one to the next."""

    first: float = 0.3
    longest: float = 5.0
    factor: float = 1.1

    def intervals(self) -> Iterator[float]:
        interval = self.first
        while True:
            yield interval
            interval = min(interval * self.factor, self.longest)


class WatchedJob:
    """One job from its submission to its end, watched by one step."""

    def __init__(
        self,
        context: StepContext,
        snowflake: ReconnectingSession,
        reader: StageMessageReader,
        *,
        polling: Polling,
        queue_timeout: float,
        run_timeout: float,
        cancel_timeout: float,
        known: KnownJob | None = None,
    ) -> None:
        """``known``: the job of an earlier attempt, instead of one that is to be submitted."""
        self._context = context
        self._snowflake = snowflake
        self._reader = reader
        self._polling = polling
        self._queue_timeout = queue_timeout
        self._run_timeout = run_timeout
        self._cancel_timeout = cancel_timeout
        self._log = LogFollower()
        self._log_complaint = ""
        self._submitted = self._started = self._ended = self._run_seen = 0.0
        self._known = known
        self.job_id = known.id if known else None
        self.status = "PENDING" if known else NOT_SUBMITTED
        self.is_settled = False
        """Whether nobody will ask for the job's context and messages any more."""

    # -- what others ask -----------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The job's id; asked for once there is a job."""
        if self.job_id is None:
            raise JobRejectedError("there is no job yet")
        return self.job_id

    @property
    def submitted_by(self) -> str | None:
        """The run that submitted the job, where it was an earlier attempt."""
        return self._known.run_id if self._known else None

    @property
    def queue_seconds(self) -> float | None:
        """None for a job that was reattached to: how long it waited was not seen."""
        return None if self._known else (self._started or self._ended) - self._submitted

    @property
    def run_seconds(self) -> float | None:
        """None for a job that was reattached to: when it started was not seen."""
        return None if self._known else self._ended - (self._started or self._ended)

    def reattach(self) -> None:
        """Watch the job of an earlier attempt to its end. Its limits begin anew.

        Raises:
            JobOvertakenError: another run that goes on reads it, and came first.
        """
        known = self._known
        if known is None:
            raise JobRejectedError("there is no job yet")
        # The tag first: from then on the sweep of orphaned jobs knows that somebody reads this one.
        tags = {run_tag("reattached", known.step): known.id, run_tag("job", known.step): known.id}
        self._context.instance.add_run_tags(self._context.run_id, tags)
        if is_read_by_another(self._context, known):
            raise JobOvertakenError(
                f"another run reattached to {known.described} at the same moment and came first: try again when it "
                "has ended",
                known.id,
            )
        self._submitted = time.monotonic()
        self._context.log.info(
            f"reattached to {known.described}, submitted {known.age_seconds:.0f} s ago: its messages and its log are "
            "read from the beginning"
        )
        self._guarded(None, self._watch)

    def run(self, submission: Submission) -> None:
        """Submit a job and watch it to its end. Whatever happens in between, no job is left behind unless that is
        meant."""

        def work() -> None:
            self._submit(submission)
            self._yield_to_earlier(submission)
            self._watch()

        self._guarded(submission, work)

    def _guarded(self, submission: Submission | None, work: Callable[[], None]) -> None:
        try:
            work()
        except SnowflakeUnreachableError as error:
            raise JobUnreachableError(f"{error}; {self._described()} was left as it is", self.job_id) from error
        except Exception as error:
            reason = str(error) if isinstance(error, JobOvertakenError) else "this step failed"
            self._cancel_unless_over(submission, reason)
            raise
        except BaseException:
            # The run was cancelled, or this process is asked to stop. The session may be in the middle of a request.
            self._snowflake.renew()
            if self._run_is_cancelled():
                self._cancel_unless_over(submission, "the run was cancelled")
            else:
                self._context.log.warning(f"this process stops; {self._described()} is left running")
            raise

    def require_success(self, pipes_session: PipesSession, require_materializations: bool) -> None:
        """Raise unless the job ended well and said what it did."""
        if self.status == "DONE":
            self._reader.drain()
        else:
            self._reader.poll()
        # What follows is the same for every reader of these messages.
        self.is_settled = True
        handler = pipes_session.message_handler
        if self.status in LOST:
            raise JobLostError(*self._failure(f"Snowflake lost {self._described()}"))
        if self._reader.exception:
            stack = "".join(self._reader.exception.get("stack") or ())
            message = (self._reader.exception.get("message") or "").strip()
            failed = JobInterruptedError if self._reader.may_be_retried else JobFailedError
            raise failed(*self._failure(f"{self._described()} failed: {message}\n{stack}"))
        if self.status == "FAILED":
            # Not by its work, which would have reported an exception. A defect on the way to it looks the same as a
            # package index that did not answer, and costs a few short jobs.
            when = (
                "in the middle, as when its node or process is killed"
                if handler.received_opened_message
                else "before its work began: it could not be started, install its requirements or open its session"
            )
            raise JobInterruptedError(*self._failure(f"{self._described()} ended {when}"))
        if self.status != "DONE":
            raise JobFailedError(*self._failure(f"{self._described()} did not end well"))
        if not handler.received_opened_message:
            raise JobFailedError(*self._failure(f"{self._described()} reported nothing: it must use open_job_pipes()"))
        if not handler.received_closed_message:
            raise JobFailedError(*self._failure(f"{self._described()} ended without closing its Pipes session"))
        if require_materializations and self._context.has_assets_def:
            self._require_materializations(pipes_session)

    def remove_files(self, location: str) -> None:
        """Remove the job's context and messages; a job that ended well is not failed for want of that.

        They stay where the run is over already, and this step's process was only not told: another attempt reads them.
        """
        try:
            if run_is_over(self._context):
                return
            self._snowflake.call(lambda session: remove_files(session.connection, location))
        except Exception as error:
            self._context.log.warning(f"files of {self._described()} remain in {location}: {error}")

    # -- submit --------------------------------------------------------------------------------------------------

    def _submit(self, submission: Submission) -> None:
        # From here on a job may exist although no answer came: it is looked for by its name.
        self.status = "PENDING"
        self._submitted = time.monotonic()
        asked_before = False

        def ask(session: Session) -> str:
            nonlocal asked_before
            if asked_before and (found := find_job(session, submission)):
                return found
            asked_before = True
            return submit(session, submission)

        try:
            self.job_id = self._snowflake.call(ask)
        except SnowflakeUnreachableError:
            raise
        except Exception as error:
            if any(error_number(cause) == _ALREADY_EXISTS for cause in causes(error)):
                self.job_id = self._snowflake.call(lambda session: find_job(session, submission))
            if self.job_id is None:
                self.status, self.is_settled = NOT_SUBMITTED, True
                raise JobRejectedError(
                    f"Snowflake refused job {submission.identity.job_name} for pool {submission.compute_pool}: {error}"
                ) from error
        self._context.instance.add_run_tags(self._context.run_id, {submission.identity.tag: self.id})
        self._context.log.info(
            f"submitted {self.job_id} to {submission.compute_pool}, {submission.target_instances} node(s), "
            f"payload {submission.payload_digest}"
        )

    def _yield_to_earlier(self, submission: Submission) -> None:
        """Of two jobs for one partition that were submitted at the same moment, after both had looked for others, the
        later gives way."""
        identity = submission.identity
        known = self._snowflake.call(
            lambda session: jobs_in(session, schema_of(submission.stage), identity.name_begins)
        )
        own = next((job for job in known if job.id == self.job_id), None)
        if own is None:
            return
        earlier = [job for job in known if (job.created_on, job.name) < (own.created_on, own.name)]
        found = standing(self._context, identity, submission.work, earlier)
        if others := (*found.wait_for, *((found.reattach,) if found.reattach else ())):
            raise JobOvertakenError(
                f"{others[0].described} was submitted at the same moment and came first: try again when it has ended",
                self.job_id,
            )

    # -- watch ---------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        intervals = self._polling.intervals()
        while True:
            status = self._ask_status()
            if status != self.status:
                self._context.log.info(f"{self.job_id} is {status}")
                self.status = status
                intervals = self._polling.intervals()
            now = time.monotonic()
            if status != "PENDING" and not self._started:
                self._started = now
            self._read_log()
            self._reader.poll()
            if status in TERMINAL:
                self._ended = now
                self._end_log()
                return
            self._check_limits(now)
            self._require_run(now)
            time.sleep(next(intervals))

    def _require_run(self, now: float) -> None:
        """Stop watching where the run is over: its worker died, this process was left over, and another attempt is to
        read the messages."""
        if now - self._run_seen < RUN_LOOK_SECONDS:
            return
        self._run_seen = now
        if run_is_over(self._context):
            raise dg.DagsterExecutionInterruptedError

    def _check_limits(self, now: float) -> None:
        if not self._started and now - self._submitted > self._queue_timeout:
            raise JobQueueTimeoutError(
                f"{self._described()} waited more than {self._queue_timeout:g} s (queue_timeout) for its compute pool "
                "and was cancelled: look at the pool's nodes with SHOW COMPUTE POOLS, or raise the limit",
                self.job_id,
            )
        if self._started and now - self._started > self._run_timeout:
            raise JobRunTimeoutError(
                f"{self._described()} ran more than {self._run_timeout:g} s (run_timeout) and was cancelled. "
                f"Its last log lines:\n" + "\n".join(f"    {line}" for line in self._log.tail),
                self.job_id,
            )

    def _ask_status(self) -> str:
        return self._snowflake.call(lambda session: str(self._job(session).status))

    def _job(self, session: Session) -> MLJob[Any]:
        from snowflake.ml.jobs import MLJob

        return MLJob(self.id, session=session)

    def _read_log(self) -> None:
        if self.status == "PENDING":
            return
        try:
            snapshot = self._snowflake.call(lambda session: self._job(session).get_logs(verbose=True))
        except SnowflakeUnreachableError:
            raise
        except Exception as error:
            # A container that is only just starting, or a log that Snowflake has dropped: the job does not fail for
            # that.
            if str(error) != self._log_complaint:
                self._log_complaint = str(error)
                self._context.log.debug(f"the log of {self.job_id} cannot be read: {error}")
            return
        self._show(self._log.feed(snapshot))

    def _end_log(self) -> None:
        self._show(self._log.end())

    def _show(self, lines: list[str]) -> None:
        if lines:
            # Dagster keeps a step's standard output as its compute log.
            sys.stdout.write("".join(f"{line}\n" for line in lines))
            sys.stdout.flush()

    # -- cancel --------------------------------------------------------------------------------------------------

    def _run_is_cancelled(self) -> bool:
        run = self._context.instance.get_run_by_id(self._context.run_id)
        return run is not None and run.status in (DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED)

    def _cancel_unless_over(self, submission: Submission | None, reason: str) -> None:
        if self.status == NOT_SUBMITTED or self.status in TERMINAL:
            return
        if self.job_id is None and submission:
            self.job_id = self._snowflake.call(lambda session: find_job(session, submission))
        if self.job_id is None:
            self.status, self.is_settled = NOT_SUBMITTED, True
            return
        self._context.log.info(f"cancelling {self.job_id}: {reason}")
        self._snowflake.call(lambda session: cancel(session, self.id))
        deadline = time.monotonic() + self._cancel_timeout
        intervals = self._polling.intervals()
        while (status := self._ask_status()) not in TERMINAL:
            if time.monotonic() > deadline:
                self._context.log.error(f"{self.job_id} is still {status} {self._cancel_timeout:g} s after its cancel")
                return
            time.sleep(next(intervals))
        self.status, self.is_settled = status, True
        self._context.log.info(f"{self.job_id} is {status}")

    # -- errors --------------------------------------------------------------------------------------------------

    def _require_materializations(self, pipes_session: PipesSession) -> None:
        reported = {
            result.asset_key
            for result in pipes_session.get_reported_results()
            if isinstance(result, dg.MaterializeResult)
        }
        missing = sorted(key.to_user_string() for key in self._context.selected_asset_keys if key not in reported)
        if missing:
            raise JobFailedError(
                *self._failure(f"{self._described()} ended without reporting a materialization of {', '.join(missing)}")
            )

    def _described(self) -> str:
        return f"job {self.job_id} (status {self.status})" if self.job_id else "the job, if it was submitted at all,"

    def _failure(self, message: str) -> tuple[str, str, str, list[str]]:
        return message, self.job_id or "", self.status, list(self._log.tail)


def cancel(session: Session, job_id: str) -> None:
    """Ask Snowflake to cancel a job; one that has ended meanwhile is left alone."""
    from snowflake.ml.jobs import MLJob

    job = MLJob(job_id, session=session)
    try:
        job.cancel()
    except RuntimeError as error:
        if is_transient(error) or str(job.status) not in TERMINAL:
            raise

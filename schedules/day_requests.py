"""Which days of arrival are to be run: what is on the stage, what has been read, and what became of the runs.

Nothing here reads a clock or asks for a run; the sensor is in ``sensors``, the schedules are in ``timetable``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta

import dagster as dg
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from assets import reviews
from customer_insights.settings import Settings

# What is made of a day.
OF_REVIEWS = tuple(asset.key for asset in (reviews.raw_reviews, reviews.review_sentiment, reviews.review_quality))
# A file's day is that of its last change: what is older than this rarely gets another version. One hash stands for all
# of it that is read, so that the cursor stays as long as it is.
RECENT_DAYS = 35
VERSION_LETTERS = 16
ATTEMPT = "customer_insights/attempt"
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@dataclass(frozen=True)
class Asked:
    """The newest request for a day: for which version of its files, the how manieth, and when (Unix seconds)."""

    version: str
    attempt: int
    at: float


@dataclass(frozen=True)
class Cursor:
    """What the sensor remembers: which files it knows to be read, and the days it asked for that are not done.

    ``versions``: of the days from ``since`` on, by day. ``older``: one hash of the versions of all days before, but for
    those in ``unread``: a history that begins earlier than before takes many ticks to be asked for.
    """

    since: str = ""
    older: str = ""
    unread: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[str, Asked] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str | None) -> Cursor:
        values = json.loads(text or "{}")
        if "unread" not in values:
            # None, or that of an earlier version of this project: the ledger says what has been read.
            return cls()
        asked = {day: Asked(**entry) for day, entry in values["asked"].items()}
        return cls(values["since"], values["older"], values["unread"], values["versions"], asked)

    def __str__(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    def changed(self, found: Mapping[str, str]) -> set[str]:
        """Days of ``found`` that are not known to be read in the version they have now."""
        recent = {day for day, version in found.items() if day >= self.since and self.versions.get(day) != version}
        before = {day: version for day, version in found.items() if day < self.since and day not in self.unread}
        return recent | (found.keys() & set(self.unread)) | (set(before) if digest(before) != self.older else set())

    @classmethod
    def after(
        cls, found: Mapping[str, str], unread: Collection[str], asked: Mapping[str, Asked], today: date
    ) -> Cursor:
        """The next one: what is not ``unread`` is known to be read."""
        since = (today - timedelta(days=RECENT_DAYS)).isoformat()
        read = {day: version for day, version in found.items() if day not in unread}
        return cls(
            since,
            digest({day: version for day, version in read.items() if day < since}),
            sorted(day for day in unread if day < since),
            {day: version for day, version in read.items() if day >= since},
            asked,
        )


def digest(versions: Mapping[str, str]) -> str:
    """One short hash of the versions of some days."""
    return hashlib.sha256(json.dumps(versions, sort_keys=True).encode()).hexdigest()[:VERSION_LETTERS]


@dataclass(frozen=True)
class DayRun:
    """The run in which a day was last begun and not materialized: it goes on, or ended without the day."""

    run_id: str
    status: DagsterRunStatus
    ended: float | None

    @property
    def goes_on(self) -> bool:
        return self.ended is None


def unfinished(instance: DagsterInstance) -> dict[str, DayRun]:
    """Day -> the newest run that was to read or score it and has not, whoever started the run.

    Days whose newest run materialized all that is made of them are not among them. Of several runs one that goes on
    counts before one that ended.
    """
    newest: dict[str, tuple[int, str]] = {}
    ids: dict[str, set[str]] = {}
    for asset in OF_REVIEWS:
        # The storage's, as the instance's own `get_status_by_partition` does not say which run it was.
        attempts = (
            instance.event_log_storage.get_latest_asset_partition_materialization_attempts_without_materializations(
                asset
            )
        )
        for day, (run_id, event_id) in attempts.items():
            ids.setdefault(day, set()).add(run_id)
            newest[day] = max(newest.get(day, (0, "")), (event_id, run_id))
    runs = _runs(instance, {run_id for of_day in ids.values() for run_id in of_day})
    found: dict[str, DayRun] = {}
    for day, of_day in ids.items():
        going = [runs[run_id] for run_id in sorted(of_day) if run_id in runs and runs[run_id].goes_on]
        last = runs.get(newest[day][1])
        if going or last:
            found[day] = going[0] if going else last  # pyright: ignore[reportArgumentType]
    return found


def _runs(instance: DagsterInstance, run_ids: set[str]) -> dict[str, DayRun]:
    """The runs that the instance knows; a run that somebody has deleted is not among them."""
    wanted, found = sorted(run_ids), {}
    for begin in range(0, len(wanted), 100):
        for record in instance.get_run_records(dg.RunsFilter(run_ids=wanted[begin : begin + 100])):
            run = record.dagster_run
            ended = (record.end_time or record.update_timestamp.timestamp()) if run.is_finished else None
            found[run.run_id] = DayRun(run.run_id, run.status, ended)
    return found


def running(instance: DagsterInstance, job_name: str) -> DagsterRun | None:
    """A run of a job that waits or goes on, if there is one."""
    going = [status for status in DagsterRunStatus if status not in _ENDED]
    return next(iter(instance.get_runs(dg.RunsFilter(job_name=job_name, statuses=going), limit=1)), None)


_ENDED = (DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)


@dataclass
class Plan:
    """What to do about some days, and why nothing is done about the others."""

    first: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        reasons: dict[str, list[str]] = {}
        for day, reason in sorted(self.waiting.items()):
            reasons.setdefault(reason, []).append(day)
        return "; ".join(f"{_listed(days)}: {reason}" for reason, days in reasons.items())


def _listed(days: Sequence[str]) -> str:
    return ", ".join(days) if len(days) < 4 else f"{len(days)} days from {days[0]} to {days[-1]}"


def plan(
    days: Iterable[str],
    versions: Mapping[str, str],
    newest: Mapping[str, float],
    asked: Mapping[str, Asked],
    runs: Mapping[str, DayRun],
    now: float,
    settings: Settings,
) -> Plan:
    """Sort days that are not done: those to ask for the first time, those to ask for again, and those to leave alone.

    ``newest``: when each day's newest file arrived (Unix seconds).

    A failed day is asked for again after a wait that doubles, and up to the setting's number of times in all. A day
    whose run somebody cancelled is left to that person, until a new file comes.
    """
    found = Plan()
    for day in sorted(days):
        before, run = asked.get(day), runs.get(day)
        if before:
            is_new = before.version != versions.get(day, "")
        else:
            # Somebody else asked for the run: for which version, nobody wrote down.
            is_new = bool(run and run.ended and newest.get(day, 0.0) > run.ended)
        attempt = before.attempt if before and not is_new else 0
        if run and run.goes_on:
            found.waiting[day] = f"is being worked on by run {run.run_id[:8]}"
        elif is_new or not (run or attempt):
            found.first.append(day)
        elif run and run.status == DagsterRunStatus.CANCELED:
            found.waiting[day] = f"run {run.run_id[:8]} was cancelled: materialize the day when it is wanted"
        elif attempt >= settings.day_attempts:
            last = f", the last in run {run.run_id[:8]}" if run else ""
            found.waiting[day] = f"given up after {attempt} attempts{last}: look at its error, then materialize the day"
        else:
            since = max(before.at if before else 0.0, (run.ended or 0.0) if run else 0.0)
            due = since + settings.day_retry_minutes * 60 * 2 ** max(attempt - 1, 0)
            if now >= due:
                found.again.append(day)
            else:
                minutes = max(1, round((due - now) / 60))
                failed = f"failed in run {run.run_id[:8]}" if run else f"is not done by attempt {attempt}"
                found.waiting[day] = f"{failed}, asked for again in {minutes} min"
    return found


def ranges(days: Sequence[str], longest: int) -> list[tuple[str, str]]:
    """The days as ranges without gaps, first and last of each, none longer than ``longest`` days."""
    found: list[tuple[str, str]] = []
    for day in sorted(days):
        if found:
            first, last = found[-1]
            follows = date.fromisoformat(day) - date.fromisoformat(last) == timedelta(days=1)
            if follows and (date.fromisoformat(day) - date.fromisoformat(first)).days < longest:
                found[-1] = (first, day)
                continue
        found.append((day, day))
    return found


def days_between(first: str, last: str) -> list[str]:
    """Both included."""
    start, end = date.fromisoformat(first), date.fromisoformat(last)
    return [(start + timedelta(days=number)).isoformat() for number in range((end - start).days + 1)]


def request(first: str, last: str, run_key: str, tags: Mapping[str, str]) -> dg.RunRequest:
    """One run for a day, or for a range of days."""
    if first == last:
        return dg.RunRequest(run_key=run_key, partition_key=first, tags=tags)
    # A history waits for the days of today in the queue, and dagster.yaml limits how many runs with these tags go on.
    return dg.RunRequest(run_key=run_key, tags={**tags, RANGE_START: first, RANGE_END: last, "dagster/priority": "-1"})


def requests(
    planned: Plan,
    versions: Mapping[str, str],
    asked: Mapping[str, Asked],
    runs: Mapping[str, DayRun],
    now: float,
    settings: Settings,
) -> tuple[list[dg.RunRequest], dict[str, Asked]]:
    """At most the setting's number of runs, and what has then been asked for.

    Days that failed go one by one, so that a day that cannot be done does not hold up those that failed with it.
    """
    wanted = [*((day, day) for day in planned.again), *ranges(planned.first, settings.days_per_run)]
    made, entries = [], dict(asked)
    for first, last in wanted[: settings.runs_per_tick]:
        of_days = {day: versions.get(day, "") for day in days_between(first, last)}
        before = asked.get(first)
        attempt = before.attempt + 1 if first in planned.again and before else 1
        entries |= {day: Asked(version, attempt, now) for day, version in of_days.items()}
        name = first if first == last else f"{first}..{last}"
        after = f"-after-{runs[first].run_id[:8]}" if first in runs else ""
        # The same until the tick is over, should it be cut off; never that of an earlier attempt.
        key = f"{name}-{digest(of_days)}-{attempt}{after}"
        made.append(request(first, last, key, {ATTEMPT: str(attempt)}))
    return made, entries

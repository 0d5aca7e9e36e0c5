"""docs/simulated-month.md: what happened day by day, and what was compared, as the month itself says it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta

from month.audit import Comparison, step_of, stop_of
from month.operation import COSTS, LOOK, SCHEDULES, SENSORS, Ran
from month.plan import HISTORY_WEEKS, ZONE
from month.play import Record

_HEAD = """# A simulated month

Written by `make month`; not edited by hand. Thirty days of operation in {minutes:.0f} minutes: the clock of every
process stops where something is due and jumps in between; all else is real. Files are put on the stage of the embedded
server. The schedules and sensors of `definitions.py` are asked at each stop, and the runs that they want are run, with
their jobs on Ray. Alerts go to a web server that keeps them. `tests/test_month.py` plays a week of six days in which
the same goes wrong.

On: {on}.

Off: `automation`, and the hourly observation that it waits for: the morning's schedule makes the same. The time zone is
Europe/Berlin, where clocks change on the 29th. {weeks} weeks of reviews were there before, read by one run. All other
settings are the defaults, but for a retry's wait of 0.2 s.

What had to come out was written down before, from the files alone (`tests/month/plan.py`).

## Day by day

Days are those of the calendar in Berlin. A job is named by its step, with what became of it when that is not DONE.

| day | arrived | what ran | jobs | people were told | model | credits |
|---|---|---|---|---|---|---|
"""
_MESSAGES = "## What people were told, message by message\n\n| when | message |\n|---|---|\n"


def written(record: Record, compared: Sequence[Comparison]) -> str:
    """The page."""
    head = _HEAD.format(
        minutes=record.seconds / 60,
        on=", ".join(f"`{name}`" for name in (*SCHEDULES, LOOK, COSTS, *SENSORS)),
        weeks=HISTORY_WEEKS,
    )
    days = [*record.plan.calendar.dates, record.plan.calendar.dates[-1] + timedelta(days=1)]
    parts = (
        head + "\n".join(_row(record, day) for day in days),
        _totals(record),
        "## What was compared",
        "\n".join(f"- {'holds' if one.holds else '**does not hold**'}: {one.what}" for one in compared),
        _MESSAGES + "\n".join(f"| {_local(one.at):%a %d %b %H:%M} | {one.headline} |" for one in record.messages),
    )
    return "\n\n".join(parts) + "\n"


def _local(at: datetime) -> datetime:
    return at.astimezone(ZONE)


def _row(record: Record, day: date) -> str:
    columns = (_title, _arrived, _ran, _jobs, _told, _model, _credits)
    return f"| {' | '.join(column(record, day) for column in columns)} |"


def _title(record: Record, day: date) -> str:
    calendar = record.plan.calendar
    said = [event for event in calendar.events.get(day, ()) if event != "slow pages"]
    said += ["pages slower from here on"] if day == calendar.slow_from else []
    return f"{day:%a %d %b}" + (f": **{', '.join(said)}**" if said else "")


def _arrived(record: Record, day: date) -> str:
    files = record.plan.arriving(day)
    rejected = sum(len(file.rejected) for file in files)
    lines = f", {rejected} lines rejected" if rejected else ""
    return f"{len(files)} files, {sum(len(file.reviews) for file in files)} reviews{lines}" if files else "-"


def _ran_on(record: Record, day: date) -> list[Ran]:
    return [run for run in record.operation.ran if _local(stop_of(record, run.at)).date() == day]


def _counted(words: Iterable[str]) -> str:
    return ", ".join(f"{f'{count} ' if count > 1 else ''}{word}" for word, count in Counter(words).items()) or "-"


def _ran(record: Record, day: date) -> str:
    return _counted(f"{run.job}{'' if run.succeeded else ' **failed**'}" for run in _ran_on(record, day))


def _jobs(record: Record, day: date) -> str:
    found = [job for job in record.jobs.values() if _local(job["CREATED_TIME"]).date() == day]
    return _counted(
        step_of(job).lower() + ("" if job["STATUS"] == "DONE" else f" **{job['STATUS']}**") for job in found
    )


def _told(record: Record, day: date) -> str:
    said = [message for message in record.messages if _local(message.at).date() == day]
    return "<br>".join(f"{_local(message.at):%H:%M} {message.headline}" for message in said) or "-"


def _model(record: Record, day: date) -> str:
    promoted = {row["RUN_ID"] for row in record.rows("SELECT RUN_ID FROM CHAMPION_HISTORY")}
    made = record.rows("SELECT DISTINCT RUN_ID, MODEL_VERSION FROM MODEL_REFERENCE")
    versions = {row["RUN_ID"]: row["MODEL_VERSION"] for row in made}
    said = [
        f"`{versions.get(run.run_id, 'no version')}`{' on drift' if run.by == 'retraining_on_drift' else ''}, "
        f"{'promoted' if run.run_id in promoted else 'refused'}"
        for run in _ran_on(record, day)
        if run.job == "retraining"
    ]
    return "<br>".join(said) or "-"


def _credits(record: Record, day: date) -> str:
    rows = record.rows("SELECT STARTED_AT, ESTIMATED_CREDITS FROM PIPELINE_COSTS")
    spent = [row for row in rows if _local(row["STARTED_AT"].replace(tzinfo=UTC)).date() == day]
    return f"{sum(float(row['ESTIMATED_CREDITS'] or 0) for row in spent):.4f}"


def _totals(record: Record) -> str:
    rows = record.rows("SELECT RESOURCE, SUM(ESTIMATED_CREDITS) AS C FROM PIPELINE_COSTS GROUP BY RESOURCE ORDER BY 1")
    spent = ", ".join(f"{row['RESOURCE']} {float(row['C'] or 0):.4f}" for row in rows)
    runs = ", ".join(
        f"{count} {job}" for job, count in sorted(Counter(run.job for run in record.operation.ran).items())
    )
    return (
        f"In all: {len(record.operation.ran)} runs ({runs}), {len(record.jobs)} jobs, {len(record.messages)} messages, "
        f"{record.operation.ticks} ticks of schedules and sensors. Credits: {spent}. Seconds are those of the machine "
        "that played it: that sums agree is shown, not what an account pays."
    )

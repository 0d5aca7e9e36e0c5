"""What the month must have left behind, compared with what it has: one comparison for each thing that people rely on.

What is expected comes from the plan alone. What is found comes from the tables, stages and the registry, from
Snowflake's history of jobs, from Dagster's log and from the mailbox.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg

from assets.freshness import NEWEST_DAY
from customer_insights import stage_files
from customer_insights.costs import CREDITS_PER_NODE_HOUR
from customer_insights.settings import settings
from month.operation import BACKFILL
from month.plan import (
    MAINTENANCE,
    MORNING,
    SECOND_LOOK,
    SUNDAY,
    ZONE,
    Moment,
    is_workday,
    local,
    moments,
)
from month.play import Record

MONDAY = 0
TERMINAL = {"DONE", "FAILED", "CANCELLED", "INTERNAL_ERROR"}


@dataclass(frozen=True)
class Comparison:
    """One thing that must be so."""

    name: str
    what: str
    expected: Any
    found: Any

    @property
    def holds(self) -> bool:
        return self.expected == self.found

    def as_document(self) -> dict[str, Any]:
        # Keys and sets as JSON has them.
        return {"name": self.name, "what": self.what, "holds": self.holds, "difference": self.difference()}

    def difference(self) -> str:
        """What is missing and what is too much, as far as one can read it."""
        if self.holds:
            return ""
        if isinstance(self.expected, dict) and isinstance(self.found, dict):
            keys = [key for key in {**self.expected, **self.found} if self.expected.get(key) != self.found.get(key)]
            return "\n".join(
                f"  {key}: expected {_short(self.expected.get(key))}, found {_short(self.found.get(key))}"
                for key in keys[:20]
            )
        if isinstance(self.expected, list) and isinstance(self.found, list):
            missing, extra = Counter(map(str, self.expected)), Counter(map(str, self.found))
            lines = [f"  missing: {text}" for text in (missing - extra).elements()]
            return (
                "\n".join([*lines, *(f"  not expected: {text}" for text in (extra - missing).elements())][:40])
                or "  another order"
            )
        return f"  expected {_short(self.expected)}, found {_short(self.found)}"


def _short(value: object) -> str:
    text = str(sorted(value, key=str) if isinstance(value, set) else value)
    return text if len(text) <= 300 else f"{text[:300]}…"


def compare(record: Record) -> list[Comparison]:
    """Every comparison; none is left out when an earlier one fails."""
    return [one(record) for one in COMPARISONS]


COMPARISONS: list[Callable[[Record], Comparison]] = []


def comparison(what: str) -> Callable[[Callable[[Record], tuple[Any, Any]]], Callable[[Record], Comparison]]:
    """Registers a function that returns what is expected and what is found."""

    def register(function: Callable[[Record], tuple[Any, Any]]) -> Callable[[Record], Comparison]:
        def run(record: Record) -> Comparison:
            return Comparison(function.__name__, what, *function(record))

        COMPARISONS.append(run)
        return run

    return register


# -- tables -----------------------------------------------------------------------------------------------------------


@comparison("RAW_REVIEWS has every review that arrived, once, on its day and with its text")
def reviews_by_day(record: Record) -> tuple[Any, Any]:
    found: dict[str, list[tuple[str, str]]] = {}
    for row in record.rows("SELECT UUID, REVIEW_TEXT, ARRIVAL_DATE FROM RAW_REVIEWS"):
        found.setdefault(str(row["ARRIVAL_DATE"]), []).append((row["UUID"], row["REVIEW_TEXT"]))
    return (
        {day: sorted(texts.items()) for day, texts in record.plan.texts.items()},
        {day: sorted(rows) for day, rows in found.items()},
    )


@comparison("sentiment, quality, the view, features, predictions and visits have one row for each review, on its day")
def rows_of_every_table(record: Record) -> tuple[Any, Any]:
    expected, found = {}, {}
    names = {day: sorted(texts) for day, texts in record.plan.texts.items()}
    for table in ("REVIEW_SENTIMENT", "REVIEW_QUALITY", "REVIEWS", "PURCHASE_FEATURES"):
        expected[table], by_day = names, {}
        for row in record.rows(f"SELECT UUID, ARRIVAL_DATE FROM {table}"):
            by_day.setdefault(str(row["ARRIVAL_DATE"]), []).append(row["UUID"])
        found[table] = {day: sorted(uuids) for day, uuids in by_day.items()}
    everything = sorted(name for of_day in names.values() for name in of_day)
    for table in ("TABULAR_DATA", "PURCHASE_PROPENSITY"):
        expected[table] = everything
        found[table] = sorted(row["UUID"] for row in record.rows(f"SELECT UUID FROM {table}"))
    return expected, found


@comparison("the ledger has every file, once, with its rows and when it arrived")
def ledger(record: Record) -> tuple[Any, Any]:
    expected = sorted(
        (file.name, len(file.reviews), len(file.rejected), file.day, file.arrives.replace(tzinfo=None))
        for file in record.plan.all_files
    )
    rows = record.rows("SELECT * FROM INGESTED_FILES")
    columns = ("SOURCE_FILE", "ROWS_ACCEPTED", "ROWS_REJECTED", "ARRIVAL_DATE", "FILE_ARRIVED_AT")
    return expected, sorted(tuple(row[name] for name in columns) for row in rows)


@comparison("REJECTED_REVIEWS has every line that is no review, with its file, its line and the reason")
def rejected_lines(record: Record) -> tuple[Any, Any]:
    expected = {(file.name, line): reason for file in record.plan.files for line, reason in file.rejected}
    rows = record.rows("SELECT SOURCE_FILE, SOURCE_LINE, REASON FROM REJECTED_REVIEWS")
    found = {}
    for row in rows:
        place = (row["SOURCE_FILE"], row["SOURCE_LINE"])
        wanted = expected.get(place, "nothing")
        found[place] = wanted if wanted in row["REASON"] else row["REASON"]
    return {**expected, "rows": len(expected)}, {**found, "rows": len(rows)}


@comparison("a report was written for every day from the first champion on")
def reports(record: Record) -> tuple[Any, Any]:
    names = stage_files.list_names(record.session, f"@{settings().report_stage}")
    days = [*record.plan.calendar.dates, record.plan.calendar.dates[-1] + timedelta(days=1)]
    found = sorted(match.group() for name in names if (match := re.search(r"\d{4}-\d\d-\d\d", name)))
    return sorted(day.isoformat() for day in days), sorted(set(found))


@comparison("nothing is left on the work stage, and no job goes on")
def nothing_left(record: Record) -> tuple[Any, Any]:
    left = stage_files.list_names(record.session, f"@{settings().work_stage}")
    return [], [*left, *(name for name, job in record.jobs.items() if job["STATUS"] not in TERMINAL)]


# -- runs and jobs ----------------------------------------------------------------------------------------------------


def _at(at: datetime) -> str:
    return f"{at.astimezone(ZONE):%Y-%m-%d %H:%M}"


def _mornings(record: Record) -> list[date]:
    return [*record.plan.calendar.dates, record.plan.calendar.dates[-1] + timedelta(days=1)]


def stop_of(record: Record, at: datetime) -> datetime:
    """The stop of the clock at which something happened."""
    return max((moment.at for moment in moments(record.plan) if moment.at <= at), default=record.evening)


def _batches(record: Record) -> list[Moment]:
    return [moment for moment in moments(record.plan) if moment.arrives]


def drift_training(record: Record) -> list[datetime]:
    """When drift started a training."""
    return [stop_of(record, run.at) for run in record.operation.ran if run.by == "retraining_on_drift"]


@comparison("every run that should have been was, once, by whom it should; only the one with the broken job failed")
def runs(record: Record) -> tuple[Any, Any]:
    history = record.plan.history
    expected = [(_at(record.evening), BACKFILL, f"{history[0].day}...{history[-1].day}", True)]
    for day in _mornings(record):
        night, training, morning = (_at(local(day, at)) for at in MORNING)
        expected.append((night, "daily_reviews_schedule", (day - timedelta(days=1)).isoformat(), True))
        if day.weekday() == MONDAY:
            expected.append((training, "weekly_retraining_schedule", "", True))
        expected.append((morning, "daily_predictions_schedule", "", True))
    for moment in moments(record.plan):
        at, day = _at(moment.at), moment.at.date().isoformat()
        if moment.looks:
            expected.append((at, "newest_days_schedule", "", True))
        if moment.counts:
            expected.append((at, "costs_schedule", "", True))
        if moment.arrives:
            expected.append((at, "new_review_files", day, not moment.breaks))
        if moment.mends:
            expected.append((at, "new_review_files", day, True))
        if day_of_rest(moment):
            expected.append((at, "weekly_maintenance_schedule", "", True))
    # When drift is noticed is a matter of chance; that it starts one training is compared below.
    found = [
        (_at(stop_of(record, run.at)), run.by, run.day, run.succeeded)
        for run in record.operation.ran
        if run.by != "retraining_on_drift"
    ]
    return sorted(expected), sorted(found)


def day_of_rest(moment: Moment) -> bool:
    """Whether it is the hour of the weekly maintenance."""
    at = moment.at.astimezone(ZONE)
    return at.weekday() == SUNDAY and at.time() == MAINTENANCE


@comparison("schedules and sensors never failed")
def ticks(record: Record) -> tuple[Any, Any]:
    return [], record.operation.errors


@comparison("a job was submitted for each day's files and each training of new visits, and none on days without")
def jobs_by_day(record: Record) -> tuple[Any, Any]:
    before = record.evening.date().isoformat()
    expected = Counter((before, step, "DONE") for step in ("RAW_REVIEWS", "REVIEW_QUALITY"))
    for moment in _batches(record):
        day = moment.at.date().isoformat()
        expected[day, "RAW_REVIEWS", "DONE"] += 1
        expected[day, "REVIEW_QUALITY", "DONE"] += 1
        if moment.breaks:
            expected[day, "REVIEW_QUALITY", "FAILED"] += 1
        if record.plan.calendar.has(moment.at.date(), "other languages"):
            expected[day, "REVIEW_SENTIMENT", "DONE"] += 1
    mondays = [local(day, MORNING[1]).astimezone(UTC) for day in _mornings(record) if day.weekday() == MONDAY]
    for at in _with_new_visits(record, [*mondays, *drift_training(record)]):
        expected[at.date().isoformat(), "CONVERSION_MODEL", "DONE"] += 1
    found = Counter(
        (job["CREATED_TIME"].astimezone(UTC).date().isoformat(), step_of(job), str(job["STATUS"]))
        for job in record.jobs.values()
    )
    return dict(expected), dict(found)


def step_of(job: dict[str, Any]) -> str:
    """The step that a job's name begins with."""
    name = str(job["NAME"])
    known = ("RAW_REVIEWS", "REVIEW_QUALITY", "REVIEW_SENTIMENT", "CONVERSION_MODEL")
    return next((step for step in known if name.startswith(step)), name)


# -- drift and model versions -----------------------------------------------------------------------------------------


@comparison("drift is reported from the day on which pages became slower, not before, and starts one training")
def drift(record: Record) -> tuple[Any, Any]:
    slow = record.plan.calendar.slow_from
    rows = record.rows("SELECT WINDOW_END, MEASURED FROM DRIFT_REPORT WHERE DRIFTED = 1 AND KIND = 'numeric'")
    early = sorted({(str(row["WINDOW_END"]), row["MEASURED"]) for row in rows if row["WINDOW_END"] < slow})
    late = {row["MEASURED"] for row in rows if row["WINDOW_END"] >= slow}
    started = drift_training(record)
    return (
        {"before": [], "page load time": True, "trainings": 1, "after the drift": True},
        {
            "before": early,
            "page load time": "PAGE_LOAD_TIME" in late,
            "trainings": len(started),
            "after the drift": all(at.date() > slow for at in started),
        },
    )


@comparison("each training of new visits made one version, of all until then; one serves, and its history says why")
def versions(record: Record) -> tuple[Any, Any]:
    shown = record.rows(f"SHOW VERSIONS IN MODEL {settings().model_name}")
    trained = {
        row["RUN_ID"]: (row["MODEL_VERSION"], row["N"])
        for row in record.rows("SELECT RUN_ID, MODEL_VERSION, COUNT(*) AS N FROM MODEL_REFERENCE GROUP BY 1, 2")
    }
    history = record.rows("SELECT * FROM CHAMPION_HISTORY ORDER BY CHANGED_AT")
    served = [row["MODEL_VERSION"] for row in history]
    predicted = record.rows("SELECT DISTINCT MODEL_VERSION FROM PURCHASE_PROPENSITY")
    trainings = [run for run in record.operation.ran if run.job == "retraining"]
    news = _with_new_visits(record, [run.at for run in trainings])
    return (
        {
            "visits trained on": {run.run_id: _arrived_before(record, run.at) for run in trainings if run.at in news},
            "versions": sorted(version for version, _ in trained.values()),
            "default": served[-1:],
            "champion": served[-1:],
            "predictions by": served[-1:],
            "each follows the one before": [None, *served[:-1]],
            "promoted at most once": sorted(set(served)),
            "first promoted by": trainings[0].run_id,
        },
        {
            "visits trained on": {run_id: visits for run_id, (_, visits) in trained.items()},
            "versions": sorted(str(row["name"]) for row in shown),
            "default": [row["name"] for row in shown if str(row["is_default_version"]).lower() == "true"],
            "champion": [row["name"] for row in shown if "CHAMPION" in str(row["aliases"])],
            "predictions by": [row["MODEL_VERSION"] for row in predicted],
            "each follows the one before": [row["PREVIOUS_VERSION"] for row in history],
            "promoted at most once": sorted(served),
            "first promoted by": history[0]["RUN_ID"] if history else None,
        },
    )


def _with_new_visits(record: Record, trainings: Iterable[datetime]) -> list[datetime]:
    """Those that found other visits than the one before: the others train nothing. On a Monday after a training of the
    weekend, for one."""
    ordered = sorted(trainings)
    visits = [_arrived_before(record, at) for at in ordered]
    return [at for at, now, before in zip(ordered, visits, [0, *visits[:-1]], strict=True) if now != before]


def _arrived_before(record: Record, at: datetime) -> int:
    return sum(len(file.reviews) for file in record.plan.all_files if file.arrives < at)


# -- freshness and alerts ---------------------------------------------------------------------------------------------


def missing_days(record: Record) -> list[date]:
    """Workdays on which nothing arrived."""
    arrived = {file.day for file in record.plan.files}
    return [day for day in record.plan.calendar.dates if is_workday(day) and day not in arrived]


def overdue(record: Record) -> dict[datetime, str]:
    """Look -> what the check on raw_reviews must find; nothing where it must pass."""
    looks = [moment.at for moment in moments(record.plan) if moment.looks]
    arrived = sorted({file.day for file in record.plan.files})
    found: dict[datetime, str] = {}
    for day in missing_days(record):
        deadline = local(day + timedelta(days=1), settings().reviews_deadline)
        came = next((other for other in arrived if other > day), None)
        for at in looks:
            if at < local(day, SECOND_LOOK):
                continue
            if came and at.date() > came:
                # A later day is over and has files: this one is not waited for any more.
                break
            there = came and any(file.arrives <= at for file in record.plan.files if file.day == came)
            found[at] = "WARN" if at < deadline or there else "ERROR"
    return found


@comparison(
    "the check on the newest day warns when files are late, fails past the deadline, and passes on days of rest"
)
def freshness(record: Record) -> tuple[Any, Any]:
    wrong = overdue(record)
    expected = {_at(moment.at): wrong.get(moment.at, "passed") for moment in moments(record.plan) if moment.looks}
    found: dict[str, str] = {}
    others: list[str] = []
    for at, one in evaluations(record):
        if one.check_name != NEWEST_DAY:
            continue
        how = "passed" if one.passed else one.severity.value
        if one.asset_key == dg.AssetKey("raw_reviews"):
            found[_at(stop_of(record, at))] = how
        elif not one.passed:
            others.append(f"{_at(at)} {one.asset_key.to_user_string()} {how}: {one.description}")
    return (expected, []), (found, others)


def evaluations(record: Record) -> list[tuple[datetime, dg.AssetCheckEvaluation]]:
    """Every result of a check, in the order in which they came."""
    records = record.operation.instance.get_event_records(
        dg.EventRecordsFilter(event_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION), ascending=True
    )
    found = [(datetime.fromtimestamp(one.timestamp, UTC), one.event_log_entry.dagster_event) for one in records]
    return [(at, event.asset_check_evaluation_data) for at, event in found if event]


# Checks whose result is a matter of measured numbers: when they warn is compared with their own results.
def is_measured(asset: str) -> bool:
    return asset in ("conversion_model", "champion", "drift_report", "pipeline_costs")


@comparison("people were told once when files were late, a file was bad or a job failed, and once when it was over")
def alerts(record: Record) -> tuple[Any, Any]:
    expected: list[tuple[str, str]] = []
    stops = [moment.at for moment in moments(record.plan)]
    looks = [moment.at for moment in moments(record.plan) if moment.looks]
    wrong = overdue(record)
    for before, at in zip([None, *looks], looks, strict=False):
        was, now = before in wrong, at in wrong
        if now and not was:
            expected.append((_at(at), "raw_reviews is late"))
        if was and not now:
            expected.append((_at(at), "Resolved: raw_reviews is late"))
    for moment in moments(record.plan):
        if any(file.rejected for file in moment.arrives):
            # Nobody replaces the file, so the day stays bad, and no other day ends it.
            expected.append((_at(moment.at), f"raw_reviews for {moment.at.date()}: the check rejected_share warns"))
        if moment.breaks:
            title = f"review_quality for {moment.at.date()}: run of daily_reviews failed"
            mended = stops[stops.index(moment.at) + 1]
            expected += [(_at(moment.at), title), (_at(mended), f"Resolved: {title}")]
    found = [
        (_at(stop_of(record, message.at)), re.sub(r"run [0-9a-f]{8} of", "run of", message.headline))
        for message in record.messages
        if not is_measured(re.split(r"[: ]", message.headline.removeprefix("Resolved: "))[0])
    ]
    return sorted(expected), sorted(found)


@comparison("of what is measured (drift, models, durations) people were told at each change, and not again meanwhile")
def measured_alerts(record: Record) -> tuple[Any, Any]:
    expected: list[tuple[str, str]] = []
    standing: dict[str, bool] = {}
    by_stop: dict[datetime, dict[str, dg.AssetCheckEvaluation]] = {}
    for at, one in evaluations(record):
        asset = one.asset_key.to_user_string()
        if is_measured(asset) and one.check_name != NEWEST_DAY:
            by_stop.setdefault(stop_of(record, at), {})[f"{asset}: the check {one.check_name}"] = one
    for at, results in sorted(by_stop.items()):
        for name, one in results.items():
            was = standing.get(name, True)
            if one.passed != was:
                expected.append((_at(at), f"Resolved: {name}" if one.passed else name))
            standing[name] = one.passed
    found = [
        (_at(stop_of(record, message.at)), re.sub(r" (warns|failed)\b.*", "", message.headline))
        for message in record.messages
        if is_measured(re.split(r"[: ]", message.headline.removeprefix("Resolved: "))[0])
    ]
    return sorted(expected), sorted(found)


@comparison("every message says why, since when, what to do, and links to Dagster's page")
def messages_are_whole(record: Record) -> tuple[Any, Any]:
    def lacks(text: str) -> list[str]:
        return [word for word in ("*Reason*", "*Since*", "*What to do*", "|Open in Dagster>") if word not in text]

    return [], [(message.headline, lacks(message.text)) for message in record.messages if lacks(message.text)]


# -- costs ------------------------------------------------------------------------------------------------------------


@comparison("PIPELINE_COSTS has each job, the failed one too, with its seconds, idle ones and credits, once")
def costs_of_jobs(record: Record) -> tuple[Any, Any]:
    rate = CREDITS_PER_NODE_HOUR[settings().compute_pool_family]
    (pool,) = record.rows(f"SHOW COMPUTE POOLS LIKE '{settings().compute_pool}'")
    expected: dict[str, Any] = {"rows": len(record.jobs)}
    ordered = sorted((_began(job), name, job) for name, job in record.jobs.items())
    for (began, name, job), following in zip(ordered, [*(start for start, _, _ in ordered[1:]), None], strict=True):
        ended = job["COMPLETED_TIME"]
        # One job after the other: after each, the pool stays up until the next begins or it is suspended.
        most = float(pool["auto_suspend_secs"])
        idle = min(most, (following - ended).total_seconds()) if following else most
        spent = ((ended - began).total_seconds() + idle) / 3600 * rate
        expected[name] = (job["STATUS"], round((ended - began).total_seconds(), 1), round(idle, 1), round(spent, 5))
    rows = record.rows("SELECT * FROM PIPELINE_COSTS WHERE RESOURCE = 'compute_pool'")
    found: dict[str, Any] = {"rows": len(rows)}
    for row in rows:
        seconds, idle, spent = (float(row[name]) for name in ("NODE_SECONDS", "IDLE_SECONDS", "ESTIMATED_CREDITS"))
        name = str(row["JOB_ID"]).rsplit(".", 1)[-1].strip('"')
        found[name] = (row["STATUS"], round(seconds, 1), round(idle, 1), round(spent, 5))
    return expected, found


def _began(job: dict[str, Any]) -> datetime:
    """When the job's first container started."""
    instances = json.loads(job["INSTANCE_STATUSES"])["instances"]
    return datetime.fromisoformat(instances[0]["containers"][0]["startTime"].replace("Z", "+00:00"))


@comparison("PIPELINE_COSTS has the warehouse's and Cortex's share of every run that used them")
def costs_of_runs(record: Record) -> tuple[Any, Any]:
    last = max(run.at for run in record.operation.ran if run.job == "costs")
    # What ran after the costs were last collected comes with the next time.
    working = {
        run.run_id
        for run in record.operation.ran
        if run.at < last and run.job in ("daily_reviews", "predictions", "retraining")
    }
    rows = record.rows("SELECT RUN_ID, RESOURCE, CORTEX_ROWS FROM PIPELINE_COSTS")
    warehouse = {row["RUN_ID"] for row in rows if row["RESOURCE"] == "warehouse"}
    texts = sum(row["CORTEX_ROWS"] or 0 for row in rows if row["RESOURCE"] == "cortex")
    arrived = sum(len(file.reviews) for file in record.plan.all_files)
    others = sum(6 for day in record.plan.calendar.dates if record.plan.calendar.has(day, "other languages"))
    return (set(), arrived - others), (working - warehouse, texts)

"""Which day of arrival each table has reached, which one it should have reached, and when files usually come.

The usual time is learnt from the ledger's times of arrival; the deadlines are settings. ``expected`` is pure, and so is
``judged``; ``look`` asks the warehouse. What Dagster shows of it is in ``assets.freshness``.

A day is the UTC day on which a file arrived, as everywhere. Times of day are learnt and said in the settings' time
zone, so that an hour of summer time makes nobody late.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from customer_insights import features, ingest, query
from customer_insights.settings import Settings
from customer_insights.tables import (
    ASPECT_INSIGHTS,
    DRIFT_REPORT,
    INGESTED_FILES,
    PRODUCT_INSIGHTS,
    PURCHASE_FEATURES,
    PURCHASE_PROPENSITY,
    PURCHASE_RATES,
    RAW_REVIEWS,
    REVIEW_QUALITY,
    REVIEW_SENTIMENT,
    TARGETING,
    Table,
)

if TYPE_CHECKING:
    from snowflake.snowpark import Session

# What the usual time is learnt from.
HISTORY_DAYS = 56
# Of one weekday; with fewer, the times of every weekday are taken together, and there must be so many.
ENOUGH_OF_A_WEEKDAY = 4
ENOUGH_OF_ALL = 10
# A weekday is not expected when it came round so often and fewer than half of them brought files.
ENOUGH_TO_REST = 3
# Late is what is later than the median by three standard deviations (estimated from the median absolute deviation,
# which up to half of the days may spoil), and by half an hour at least.
LATE_DEVIATIONS = 3 * 1.4826
LEAST_LATE = timedelta(minutes=30)
# How far back files that were not read and rows that are missing are looked for.
RECENT_DAYS = 31

# A table counts as the day's when it was made within so long before its deadline.
WINDOW = timedelta(hours=7)

# Made whole by one statement, with the time of it: they have a day when they were made after it was scored.
COMPUTED = (PRODUCT_INSIGHTS, ASPECT_INSIGHTS, PURCHASE_RATES, TARGETING, DRIFT_REPORT)
# Tables of which it is asked which day they have reached.
TABLES = (RAW_REVIEWS, REVIEW_SENTIMENT, REVIEW_QUALITY, PURCHASE_FEATURES, PURCHASE_PROPENSITY, *COMPUTED)


@dataclass(frozen=True)
class Arrival:
    """A day on which files arrived, and when the first did (aware; None where the ledger does not know)."""

    day: date
    first: datetime | None


@dataclass(frozen=True)
class Expectation:
    """The day that is waited for: the first one without files, of those that usually have some, since the newest day
    that is over and has."""

    day: date
    deadline: datetime
    # None: too little is known.
    usual: datetime | None
    late: datetime | None


def expected(history: Sequence[Arrival], now: datetime, deadline: time, zone: ZoneInfo) -> Expectation:
    """What is waited for at ``now``, by what arrived before it."""
    today = now.astimezone(UTC).date()
    known = sorted(
        (one for one in history if one.day <= today and (one.first is None or one.first <= now)), key=lambda o: o.day
    )
    complete = max((one.day for one in known if one.day < today), default=None)
    arrived = {one.day for one in known}
    # What is not arriving now must not become what is usual: only days up to the newest that has files are learnt from.
    recent = [one for one in known if one.day > known[-1].day - timedelta(days=HISTORY_DAYS)]
    resting = _resting_weekdays([one.day for one in recent])
    day = today if complete is None else complete + timedelta(days=1)
    while day in arrived or day.weekday() in resting:
        day += timedelta(days=1)
    usual = _usual([one for one in recent if one.day < today], day, zone)
    return Expectation(
        day=day,
        deadline=deadline_of(day, deadline, zone),
        usual=_at(day, usual[0], zone) if usual else None,
        late=_at(day, usual[1], zone) if usual else None,
    )


def deadline_of(day: date, deadline: time, zone: ZoneInfo) -> datetime:
    """The first time that the clock shows ``deadline`` after a day is over in UTC."""
    return next_deadline(datetime.combine(day + timedelta(days=1), time(), UTC), deadline, zone)


def next_deadline(after: datetime, deadline: time, zone: ZoneInfo) -> datetime:
    """The first time that the clock shows ``deadline``, at ``after`` or later."""
    on = after.astimezone(zone).date()
    at = datetime.combine(on, deadline, zone)
    return (at if at >= after else datetime.combine(on + timedelta(days=1), deadline, zone)).astimezone(UTC)


def _resting_weekdays(days: Sequence[date]) -> set[int]:
    """Weekdays (Monday is 0) on which nothing is expected; none where files follow no week."""
    if not days:
        return set()
    span = [days[0] + timedelta(days=number) for number in range((days[-1] - days[0]).days + 1)]
    passed = {weekday: sum(day.weekday() == weekday for day in span) for weekday in range(7)}
    with_files = {weekday: sum(day.weekday() == weekday for day in days) for weekday in range(7)}
    working = {weekday for weekday in range(7) if passed[weekday] and with_files[weekday] >= passed[weekday] / 2}
    known = {weekday for weekday in range(7) if passed[weekday] >= ENOUGH_TO_REST}
    return known - working if working else set()


def _usual(history: Iterable[Arrival], day: date, zone: ZoneInfo) -> tuple[timedelta, timedelta] | None:
    """When the first file of such a day usually is there and from when on it is late, since the day's midnight."""
    offsets = [
        (one.day.weekday(), one.first.astimezone(zone).replace(tzinfo=None) - datetime.combine(one.day, time()))
        for one in history
        if one.first
    ]
    of_weekday = [offset for weekday, offset in offsets if weekday == day.weekday()]
    of_all = [offset for _, offset in offsets]
    if len(of_weekday) >= ENOUGH_OF_A_WEEKDAY:
        found = of_weekday
    elif len(of_all) >= ENOUGH_OF_ALL:
        found = of_all
    else:
        return None
    seconds = [offset.total_seconds() for offset in found]
    median = statistics.median(seconds)
    deviation = statistics.median(abs(value - median) for value in seconds)
    late = median + max(LATE_DEVIATIONS * deviation, LEAST_LATE.total_seconds())
    return timedelta(seconds=median), timedelta(seconds=late)


def _at(day: date, offset: timedelta, zone: ZoneInfo) -> datetime:
    return (datetime.combine(day, time()) + offset).replace(tzinfo=zone).astimezone(UTC)


# -- what is there ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Waiting:
    """What is not done of a day, files that were not read or reviews that a table lacks, and since when it could be.

    ``is_newer``: it came at a time that nobody knows, after the table was last made, which is then ``since``.
    """

    day: date
    since: datetime
    count: int
    is_newer: bool = False


@dataclass(frozen=True)
class Found:
    """The days with files, what was not read, what each table lacks, and the newest day that each has whole.

    A table that is not in ``waiting`` has no row yet, and nobody waits for it: predictions need a champion first.
    """

    arrivals: tuple[Arrival, ...]
    waiting: Mapping[str, tuple[Waiting, ...]]
    newest: Mapping[str, date | None]


# Each table and, in the order in which they are made, what it lacks of a day.
_LACKS = {
    REVIEW_SENTIMENT.name: "NO_SENTIMENT",
    REVIEW_QUALITY.name: "NO_QUALITY",
    PURCHASE_FEATURES.name: "NO_FEATURES",
    PURCHASE_PROPENSITY.name: "NO_PREDICTION",
}
_STATE = f"""
WITH files AS (
  SELECT ARRIVAL_DATE AS DAY, MIN(FILE_ARRIVED_AT) AS FIRST_AT, MAX(INGESTED_AT) AS READ_AT
  FROM {INGESTED_FILES.name}
  WHERE ARRIVAL_DATE > DATEADD(DAY, -{HISTORY_DAYS + RECENT_DAYS}, ?::DATE) AND ARRIVAL_DATE <= ?::DATE
  GROUP BY ARRIVAL_DATE
), built AS (
  SELECT b.UUID FROM ({features.BUILD}) AS b WHERE b.ARRIVAL_DATE > DATEADD(DAY, -{RECENT_DAYS}, ?::DATE)
), done AS (
  SELECT r.ARRIVAL_DATE AS DAY, COUNT(*) AS REVIEWS, MAX(GREATEST(s.SCORED_AT, q.SCORED_AT)) AS SCORED_AT,
    COUNT_IF(s.UUID IS NULL) AS NO_SENTIMENT, COUNT_IF(q.UUID IS NULL) AS NO_QUALITY,
    COUNT_IF(b.UUID IS NOT NULL AND p.UUID IS NULL) AS NO_FEATURES,
    COUNT_IF(p.UUID IS NOT NULL AND o.UUID IS NULL) AS NO_PREDICTION
  FROM {RAW_REVIEWS.name} AS r
  LEFT JOIN {REVIEW_SENTIMENT.name} AS s ON s.UUID = r.UUID AND s.TEXT_HASH = r.TEXT_HASH
  LEFT JOIN {REVIEW_QUALITY.name} AS q ON q.UUID = r.UUID AND q.TEXT_HASH = r.TEXT_HASH
  LEFT JOIN built AS b ON b.UUID = r.UUID
  LEFT JOIN {PURCHASE_FEATURES.name} AS p ON p.UUID = r.UUID
  LEFT JOIN {PURCHASE_PROPENSITY.name} AS o ON o.UUID = r.UUID
  WHERE r.ARRIVAL_DATE > DATEADD(DAY, -{RECENT_DAYS}, ?::DATE) AND r.ARRIVAL_DATE <= ?::DATE
  GROUP BY r.ARRIVAL_DATE
)
SELECT f.DAY, f.FIRST_AT, f.READ_AT, d.REVIEWS, d.SCORED_AT, {", ".join(f"d.{name}" for name in _LACKS.values())},
  (SELECT MAX(SCORED_AT) FROM {PURCHASE_PROPENSITY.name}) AS PREDICTED_AT,
  {", ".join(f"(SELECT MAX(COMPUTED_AT) FROM {table.name}) AS {table.name}" for table in COMPUTED)}
FROM files AS f LEFT JOIN done AS d ON d.DAY = f.DAY
ORDER BY f.DAY
"""


def look(session: Session, settings: Settings, now: datetime) -> Found:
    """What the stage and the tables hold of what arrived by ``now``; one listing of the stage and two statements."""
    today = now.astimezone(UTC).date()
    since = max(today - timedelta(days=RECENT_DAYS - 1), date.fromisoformat(settings.partition_start))
    unread: dict[date, list[datetime]] = {}
    if since <= today:
        for file in ingest.pending_files(session, settings, since.isoformat(), today.isoformat()):
            if (arrived := file.modified.replace(tzinfo=UTC)) <= now:
                unread.setdefault(file.arrival_date, []).append(arrived)
    last = settings.training_as_of.isoformat() if settings.training_as_of else features.EVERYTHING
    day = today.isoformat()
    return _found(query.rows(session, _STATE, [day, day, last, day, day, day]), unread, now)


def _found(rows: Sequence[Mapping[str, Any]], unread: Mapping[date, Sequence[datetime]], now: datetime) -> Found:
    first = {row["DAY"]: _utc(row["FIRST_AT"]) for row in rows}
    for day, arrived in unread.items():
        # A file that was not read has arrived all the same.
        read = first.get(day)
        first[day] = min([*arrived, read] if read else arrived)
    waiting: dict[str, list[Waiting]] = {RAW_REVIEWS.name: [], **{name: [] for name in _LACKS}}
    waiting |= {table.name: [] for table in COMPUTED if any(row[table.name] for row in rows)}
    newest: dict[str, date | None] = dict.fromkeys((table.name for table in TABLES), None)
    waiting[RAW_REVIEWS.name] = [Waiting(day, min(arrived), len(arrived)) for day, arrived in sorted(unread.items())]
    newest[RAW_REVIEWS.name] = max((row["DAY"] for row in rows if row["DAY"] not in unread), default=None)
    for row in rows:
        if not row["REVIEWS"]:
            continue
        read, scored = (_until(now, row[name]) for name in ("READ_AT", "SCORED_AT"))
        whole = True
        for name, lacks in _LACKS.items():
            count, of_scores = int(row[lacks]), name in (REVIEW_SENTIMENT.name, REVIEW_QUALITY.name)
            if count:
                since = (read if of_scores else scored or read) or _end(row["DAY"])
                built = _built(name, row, now) if scored and not of_scores else None
                is_newer = built is not None and built > since
                waiting[name].append(Waiting(row["DAY"], max(since, built or since), count, is_newer))
            # What is made of scores has a day when both scores do.
            if (count == 0) if of_scores else (whole := whole and count == 0 and not _unscored(row)):
                newest[name] = row["DAY"]
        for table in COMPUTED:
            made = row[table.name]
            if made and row["SCORED_AT"] and made < row["SCORED_AT"]:
                waiting[table.name].append(Waiting(row["DAY"], scored or _end(row["DAY"]), int(row["REVIEWS"])))
            elif made and not _unscored(row):
                newest[table.name] = row["DAY"]
    if not any(row["PREDICTED_AT"] for row in rows):
        del waiting[PURCHASE_PROPENSITY.name]
        newest[PURCHASE_PROPENSITY.name] = None
    return Found(
        arrivals=tuple(Arrival(day, at) for day, at in sorted(first.items())),
        waiting={name: tuple(found) for name, found in waiting.items()},
        newest=newest,
    )


def _built(name: str, row: Mapping[str, Any], now: datetime) -> datetime | None:
    """When the features, or the predictions, were last made. What lacks a review that was scored before lacks it for
    its visit, or for its features, which came later: visits have no time of arrival."""
    if name == PURCHASE_PROPENSITY.name:
        return _until(now, row["PREDICTED_AT"])
    # The features have no time of their own; these are made of them, right after them, in every run.
    made = [at for table in (ASPECT_INSIGHTS, PURCHASE_RATES) if (at := _until(now, row[table.name]))]
    return max(made, default=None)


def _unscored(row: Mapping[str, Any]) -> bool:
    return bool(row["NO_SENTIMENT"] or row["NO_QUALITY"])


def _utc(value: datetime | None) -> datetime | None:
    return value.replace(tzinfo=UTC) if value else None


def _until(now: datetime, value: datetime | None) -> datetime | None:
    """A time of the tables, unless it is later than ``now``: a past day that is looked at today was worked on today."""
    at = _utc(value)
    return at if at and at <= now else None


def _end(day: date) -> datetime:
    return datetime.combine(day + timedelta(days=1), time(), UTC)


# -- what is to be said of it ----------------------------------------------------------------------------------------


class Level(IntEnum):
    PASSED = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True)
class Judgement:
    """How a table stands: why, what to do, since when it is past its deadline, and what it has and waits for."""

    level: Level
    reason: str
    newest: date | None
    waiting: int
    overdue: timedelta | None


@dataclass(frozen=True)
class _Finding:
    level: Level
    reason: str
    deadline: datetime


def judged(found: Found, awaited: Expectation, now: datetime, settings: Settings) -> dict[str, Judgement]:
    """Table -> how it stands at ``now``. What lacks only because something before it does is not held against it."""
    zone = ZoneInfo(settings.timezone)
    return {table.name: _judged_table(table, found, awaited, now, settings, zone) for table in TABLES}


def _judged_table(
    table: Table, found: Found, awaited: Expectation, now: datetime, settings: Settings, zone: ZoneInfo
) -> Judgement:
    newest = found.newest[table.name]
    if not found.arrivals or table.name not in found.waiting:
        reason = "nothing has arrived yet" if not found.arrivals else "has no rows yet: it waits for a champion"
        return Judgement(Level.PASSED, reason, newest, 0, None)
    scores = table in (RAW_REVIEWS, REVIEW_SENTIMENT, REVIEW_QUALITY)
    deadline = settings.reviews_deadline if scores else settings.features_deadline
    findings = [] if table is not RAW_REVIEWS else [*_late(found, awaited, now, zone)]
    waiting = found.waiting[table.name]
    findings += [
        finding
        for one in waiting
        if (finding := _undone(table, one, next_deadline(_chance(one), deadline, zone), now, settings))
    ]
    count = sum(one.count for one in waiting)
    if not findings:
        return Judgement(Level.PASSED, f"has what arrived up to {newest}", newest, count, None)
    worst = max(findings, key=lambda one: (one.level, -one.deadline.timestamp()))
    overdue = now - worst.deadline if worst.level is Level.ERROR else None
    return Judgement(worst.level, "; ".join(one.reason for one in findings), newest, count, overdue)


def _chance(one: Waiting) -> datetime:
    """From when on a deadline counts. What came after the day's table was made has the next day's to be in."""
    return max(one.since + WINDOW if one.is_newer else one.since, _end(one.day))


def _late(found: Found, awaited: Expectation, now: datetime, zone: ZoneInfo) -> Iterable[_Finding]:
    """What has not arrived and should have."""
    since = [one.day for one in found.arrivals if one.day > awaited.day]
    by = f"{awaited.deadline.astimezone(zone):%Y-%m-%d %H:%M}"
    usually = f"usually they are there by {awaited.usual.astimezone(zone):%H:%M}" if awaited.usual else ""
    if now >= awaited.deadline:
        if since:
            text = f"no files arrived on {awaited.day}, where some were expected; others came on {since[0]}"
            yield _Finding(Level.WARN, text, awaited.deadline)
        else:
            text = f"no files arrived on {awaited.day}; their reviews were to be there by {by} ({zone.key})"
            yield _Finding(Level.ERROR, text, awaited.deadline)
    elif awaited.late and now >= awaited.late:
        text = f"no files of {awaited.day} so far: {usually}. Overdue from {by} ({zone.key})"
        yield _Finding(Level.WARN, text, awaited.deadline)


def _undone(table: Table, one: Waiting, deadline: datetime, now: datetime, settings: Settings) -> _Finding | None:
    what = "files that arrived on" if table is RAW_REVIEWS else "reviews of"
    lack = "are not read" if table is RAW_REVIEWS else f"are not in {table.name}"
    since = f"{one.since:%Y-%m-%d %H:%M} UTC"
    why = f"what they need came after it was made at {since}" if one.is_newer else f"though they could be since {since}"
    text = f"{one.count} {what} {one.day} {lack}, {why}"
    if now >= deadline:
        return _Finding(Level.ERROR, text, deadline)
    if not one.is_newer and now - one.since >= timedelta(hours=settings.waiting_hours):
        return _Finding(Level.WARN, text, deadline)
    return None

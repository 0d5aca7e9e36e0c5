"""What shall happen: the days, the files that arrive with their reviews and visits, and what must be true in the end.

Everything here is decided before anything runs, from sample reviews and a seed, and never read from the system that
is tested. How it is played is in ``operation``.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from customer_insights import language, sample_data
from customer_insights.settings import Settings
from customer_insights.synthetic_purchases import SENTIMENT_VALUE, purchases, random_product_type, true_probability

ZONE = ZoneInfo("Europe/Berlin")
FIRST_DAY = date(2026, 3, 2)
FULL_DAYS, SHORT_DAYS = 30, 6
HISTORY_WEEKS = 4
HISTORY_FROM = FIRST_DAY - timedelta(weeks=HISTORY_WEEKS)
REVIEWS_A_DAY = 30
USUAL_TIME = time(15, 0)
LATE_TIME = time(9, 0)
# Reviews that Cortex does not read, so that the job on the compute pool has some.
OTHER_LANGUAGES = ("ja", "zh", "ko")
SHORTEST_TEXT = 40

Event = Literal["late", "empty", "bad file", "failed job", "other languages", "slow pages"]

# A line of a bad file -> what its rejection must say.
GARBAGE = (
    ('{"uuid": "garbage-1", "review_text": "the line ends', "JSON"),
    ('{"uuid": "garbage-2"}', "REVIEW_TEXT"),
    ('["garbage-3", "no object"]', "object"),
    ('{"uuid": "", "review_text": "a review without a name"}', "uuid"),
    ("\x00\x01\x02 what a broken disk leaves", "JSON"),
)


@dataclass(frozen=True)
class Calendar:
    """Which event is on which day, and how the days differ."""

    days: int
    events: dict[date, tuple[Event, ...]]
    slower: float

    @property
    def dates(self) -> list[date]:
        return [FIRST_DAY + timedelta(days=number) for number in range(self.days)]

    def has(self, day: date, event: Event) -> bool:
        return event in self.events.get(day, ())

    @cached_property
    def slow_from(self) -> date:
        return min(day for day, events in self.events.items() if "slow pages" in events)


def _march(days: dict[int, tuple[Event, ...]], slow_from: int, last: int) -> dict[date, tuple[Event, ...]]:
    slow = dict.fromkeys(range(slow_from, last + 1), ("slow pages",))
    return {date(2026, 3, n): (*days.get(n, ()), *slow.get(n, ())) for n in sorted({*days, *slow})}


# Thirty days from Monday 2 March to Tuesday 31 March; clocks change on the 29th.
MONTH = Calendar(
    FULL_DAYS,
    _march(
        {
            5: ("late",),
            10: ("other languages",),
            11: ("empty",),
            13: ("bad file",),
            17: ("failed job",),
            19: ("late",),
        },
        slow_from=23,
        last=31,
    ),
    slower=1.5,
)
# The same in six days, from Monday to Saturday; pages are slower by more, to be noticed in so few.
WEEK = Calendar(
    SHORT_DAYS,
    _march({3: ("late",), 4: ("bad file",), 5: ("failed job",), 6: ("empty",)}, slow_from=4, last=7),
    slower=2.0,
)


def calendar(days: int) -> Calendar:
    """The calendar of a month, or of a short week in which the same goes wrong."""
    for known in (MONTH, WEEK):
        if days == known.days:
            return known
    raise ValueError(f"{FULL_DAYS} days (the month) or {SHORT_DAYS} (a short week) can be simulated, found {days}")


@dataclass(frozen=True)
class File:
    """A file for the stage: when it comes, what is in it, what of it can be read and what must be refused."""

    name: str
    arrives: datetime
    content: bytes
    reviews: pd.DataFrame = field(repr=False)
    # Line -> a word of the reason.
    rejected: tuple[tuple[int, str], ...] = ()

    @property
    def day(self) -> date:
        """Day of arrival, in UTC: the partition."""
        return self.arrives.date()


@dataclass(frozen=True)
class Plan:
    """A calendar with its files; ``history``: those that were there before the first day."""

    calendar: Calendar
    history: tuple[File, ...]
    files: tuple[File, ...]
    visits: pd.DataFrame = field(repr=False)

    @property
    def all_files(self) -> tuple[File, ...]:
        return (*self.history, *self.files)

    def arriving(self, day: date) -> list[File]:
        """What arrives on a day, in the order of its times."""
        return sorted((file for file in self.files if file.day == day), key=lambda file: file.arrives)

    @cached_property
    def texts(self) -> dict[str, dict[str, str]]:
        """Day of arrival -> name -> text of every review that must be in the tables."""
        found: dict[str, dict[str, str]] = {}
        for file in self.all_files:
            found.setdefault(file.day.isoformat(), {}).update(
                zip(file.reviews["uuid"], file.reviews["review_text"], strict=True)
            )
        return found

    def visits_of(self, reviews: Iterable[str]) -> pd.DataFrame:
        return self.visits[self.visits["UUID"].isin(list(reviews))]


def local(day: date, at: time) -> datetime:
    """A time of day on the wall, in UTC."""
    return datetime.combine(day, at, ZONE).astimezone(UTC)


def is_workday(day: date) -> bool:
    return day.weekday() < 5


def make(days: int, seed: int = 1) -> Plan:
    """The plan for a month or a short week; the same for the same seed."""
    chosen, rng = calendar(days), np.random.default_rng(seed)
    usual, other = _supply(rng)
    history = _history(rng, usual)
    files: list[File] = []
    for day in filter(is_workday, chosen.dates):
        if chosen.has(day, "empty"):
            continue
        rows = _take(usual, REVIEWS_A_DAY)
        if chosen.has(day, "other languages"):
            rows = pd.concat([rows, _take(other, 6)], ignore_index=True)
        arrives = _about(day, rng)
        if chosen.has(day, "late"):
            # Its files come in the morning after, and so belong to that day.
            arrives = local(day + timedelta(days=1), LATE_TIME)
        files += _files(day, arrives, rows, bad=chosen.has(day, "bad file"))
    reviews = pd.concat([file.reviews.assign(day=file.day) for file in (*history, *files)], ignore_index=True)
    return Plan(chosen, history, tuple(files), _visits(reviews, chosen, rng))


def _supply(rng: np.random.Generator) -> tuple[Iterator[pd.DataFrame], Iterator[pd.DataFrame]]:
    """Reviews in the languages that Cortex reads, and in others, each once and in a random order."""
    frame = pd.concat([sample_data.load_written(), sample_data.load_training_reviews()], ignore_index=True)
    frame = frame[frame["review_text"].str.len() >= SHORTEST_TEXT].drop_duplicates("review_text")
    frame = frame.iloc[rng.permutation(len(frame))]
    unknown = frame["product_type"].isna()
    frame.loc[unknown, "product_type"] = [random_product_type(name) for name in frame.loc[unknown, "uuid"]]
    known = Settings().sentiment_cortex_languages
    usual = frame[frame["language"].isin(known)].head(1800)
    # A Portuguese review may be taken for Galician, and would then be scored elsewhere.
    detected = [found for found, _ in language.detect(list(usual["review_text"]))]
    other = frame[frame["language"].isin(OTHER_LANGUAGES)]
    return _one_by_one(usual[[found in known for found in detected]]), _one_by_one(other)


def _one_by_one(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    for position in range(len(frame)):
        yield frame.iloc[position : position + 1]


def _take(supply: Iterator[pd.DataFrame], rows: int) -> pd.DataFrame:
    return pd.concat([next(supply) for _ in range(rows)], ignore_index=True)


def _history(rng: np.random.Generator, usual: Iterator[pd.DataFrame]) -> tuple[File, ...]:
    """Four weeks before the first day: a file on every workday, at about the usual time."""
    found = []
    for day in filter(is_workday, (HISTORY_FROM + timedelta(days=number) for number in range(7 * HISTORY_WEEKS))):
        rows = _take(usual, REVIEWS_A_DAY * 2 // 3)
        found.append(File(f"{day}-shop.csv", _about(day, rng), _csv(rows), rows))
    return tuple(found)


def _about(day: date, rng: np.random.Generator) -> datetime:
    """The usual time, give or take ten minutes."""
    return local(day, USUAL_TIME) + timedelta(minutes=int(rng.integers(-10, 11)))


def _files(day: date, arrives: datetime, rows: pd.DataFrame, bad: bool) -> list[File]:
    """The day's reviews in two files of different formats; the bad one has lines that are no reviews."""
    half = len(rows) // 2
    first, second = rows.iloc[:half], rows.iloc[half:]
    lines = [
        json.dumps({"uuid": row.uuid, "review_text": row.review_text}, ensure_ascii=False)
        for row in second.itertuples()
    ]
    rejected: list[tuple[int, str]] = []
    if bad:
        for number, (line, reason) in enumerate(GARBAGE):
            position = 2 + 3 * number
            lines.insert(position, line)
            rejected.append((position + 1, reason))
    return [
        File(f"{day}-shop.csv", arrives, _csv(first), first),
        File(f"{day}-app.jsonl", arrives + timedelta(minutes=2), "".join(f"{line}\n" for line in lines).encode(),
             second, tuple(rejected)),
    ]  # fmt: skip


def _csv(rows: pd.DataFrame) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(("uuid", "review_text"))
    writer.writerows(rows[["uuid", "review_text"]].itertuples(index=False))
    return buffer.getvalue().encode()


def _visits(reviews: pd.DataFrame, chosen: Calendar, rng: np.random.Generator) -> pd.DataFrame:
    """A visit for every review, slower from a day on, whose purchase was drawn from the documented model."""
    made = purchases(reviews).drop(columns=["TRUE_PROBABILITY", "PURCHASE_DECISION"])
    slow = (reviews["day"] >= chosen.slow_from).to_numpy()
    load_time = np.round(made["PAGE_LOAD_TIME"].to_numpy() * np.where(slow, chosen.slower, 1.0), 2)
    probability = true_probability(
        reviews["sentiment"].map(SENTIMENT_VALUE).to_numpy(dtype=float),
        made["PRODUCT_RATING"].to_numpy(),
        load_time,
        reviews["quality"].to_numpy(),
        made["PRODUCT_TYPE"].to_numpy(),
        made["PRODUCT_LAYOUT"].to_numpy(),
    )
    decision = (rng.random(len(made)) < probability).astype(np.int64)
    return made.assign(PAGE_LOAD_TIME=load_time, PURCHASE_DECISION=decision)


# -- when something is done -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """A time at which the clock stops: what arrives just before, and whether freshness and costs are looked at."""

    at: datetime
    arrives: tuple[File, ...] = ()
    looks: bool = False
    counts: bool = False
    breaks: bool = False
    mends: bool = False


# After the schedules of the night and the morning, with the deadlines of both over; and after the usual time of files.
MORNING = (time(5, 0), time(6, 0), time(7, 0))
FIRST_LOOK, SECOND_LOOK = time(8, 30), time(16, 30)
FIRST_RUN, SECOND_RUN = time(9, 10), time(15, 30)
# The stage sensor waits for a quarter of an hour before it asks for a failed day again.
RETRY = time(16, 10)
SUNDAY = 6
MAINTENANCE = time(3, 0)


def moments(plan: Plan) -> list[Moment]:
    """Every stop of the clock, up to the morning after the last day."""
    found: list[Moment] = []
    for day in plan.calendar.dates:
        found += _morning(day)
        files, broken = plan.arriving(day), plan.calendar.has(day, "failed job")
        late = tuple(file for file in files if file.arrives < local(day, FIRST_RUN))
        if late:
            found.append(Moment(local(day, FIRST_RUN), late))
        usual = tuple(file for file in files if file not in late)
        if usual:
            found.append(Moment(local(day, SECOND_RUN), usual, breaks=broken))
        if broken:
            found.append(Moment(local(day, RETRY), mends=True))
        found.append(Moment(local(day, SECOND_LOOK), looks=True))
    return [*found, *_morning(plan.calendar.dates[-1] + timedelta(days=1))]


def _morning(day: date) -> Sequence[Moment]:
    early = [Moment(local(day, MAINTENANCE))] if day.weekday() == SUNDAY else []
    return [
        *early,
        *(Moment(local(day, at)) for at in MORNING),
        Moment(local(day, FIRST_LOOK), looks=True, counts=True),
    ]

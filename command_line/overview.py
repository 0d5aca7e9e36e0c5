"""What ``customer-insights status`` tells, as data: the lines of its screen and of its JSON. Where it comes from is in
``dagster_overview`` and ``snowflake_overview``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Literal

# Of an asset: in time, soon overdue, overdue; never made; nothing is asked of it.
Freshness = Literal["fresh", "late", "overdue", "never", "none"]


@dataclass(frozen=True)
class FailedCheck:
    """A check whose last evaluation failed. ``blocking``: it is an error, not a warning."""

    asset: str
    check: str
    blocking: bool
    said: str
    at: datetime


@dataclass(frozen=True)
class Asset:
    """One asset and its last materialization. ``rows``: of the day that was made, where it has days. ``said``: why it
    is late or overdue, where its rows tell."""

    name: str
    made_at: datetime | None
    partition: str | None
    rows: int | None
    freshness: Freshness
    failed_checks: tuple[FailedCheck, ...] = ()
    passed_checks: int = 0
    said: str = ""


@dataclass(frozen=True)
class Run:
    """One run. ``seconds``: so far, where it goes on."""

    id: str
    job: str
    partition: str | None
    status: str
    started_at: datetime | None
    seconds: float | None


@dataclass(frozen=True)
class Automation:
    """A schedule or a sensor, and whether it is switched on."""

    name: str
    kind: Literal["schedule", "sensor"]
    on: bool


@dataclass(frozen=True)
class Dagster:
    """What Dagster's instance knows. ``alive``: a daemon has lately said that it is there."""

    alive: bool
    assets: tuple[Asset, ...]
    runs: tuple[Run, ...]
    failed_runs: tuple[Run, ...]
    automation: tuple[Automation, ...]


@dataclass(frozen=True)
class Version:
    """A version of the purchase model. ``since``: when it came into service, or was made."""

    name: str
    roc_auc: float | None
    since: datetime | None = None


@dataclass(frozen=True)
class Day:
    """The newest day of arrival that a table has whole, and how late that is: what a backfill of an old day cannot
    hide."""

    newest: date | None
    freshness: Freshness
    said: str


@dataclass(frozen=True)
class Snowflake:
    """What the tables and the registry tell. ``days``: by asset. ``awaited``: the next day with files, and by when its
    reviews must be there."""

    connection: str
    error: str = ""
    reviews: int | None = None
    rejected: int | None = None
    rejected_newest_day: int | None = None
    newest_day: date | None = None
    days: dict[str, Day] = field(default_factory=dict)
    awaited: tuple[date, datetime] | None = None
    champion: Version | None = None
    challenger: Version | None = None
    credits_day: float | None = None
    credits_month: float | None = None


@dataclass(frozen=True)
class Overview:
    """Everything, and what is wrong: the reason for exit code 1."""

    at: datetime
    schema: str
    snowflake: Snowflake
    dagster: Dagster
    problems: tuple[str, ...]

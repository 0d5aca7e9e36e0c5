"""What was spent and how long it took, from the rows of PIPELINE_COSTS: by day and asset, budgets, what is unusual.

Nothing here asks Snowflake or the clock: frames are what ``costs.read`` returns, ``as_of`` is given, days are UTC's as
in Snowflake's bill.
"""

from __future__ import annotations

import calendar
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, Literal

from customer_insights.costs import RESOURCES
from customer_insights.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

Level = Literal["ok", "warn", "error"]
WARN_SHARE = 0.8
# Days of a month on which the month before is judged too: its last use is collected after its end.
MONTH_CLOSED_DAYS = 3
# The trend is that of so many days before today; with fewer than the second number it is their mean.
TREND_DAYS, LEAST_TREND_DAYS = 28, 14
# A duration is unusual beyond the median by so many standard deviations (of a normal distribution, by its median
# absolute deviation), and by half of it, and by half a minute; of at least five runs of half to twice its rows.
DEVIATIONS = 5
MAD_TO_DEVIATION = 1.4826
LEAST_EXCESS_SHARE, LEAST_EXCESS_SECONDS = 0.5, 30.0
LEAST_RUNS, MOST_RUNS = 5, 20


def by_day(frame: pd.DataFrame, first: date, last: date) -> dict[date, dict[str, float]]:
    """Credits by day and resource; a use is its first day's, days without any are there with 0."""
    days: dict[date, dict[str, float]] = {}
    for n in range((last - first).days + 1):
        days[first + timedelta(days=n)] = dict.fromkeys(RESOURCES, 0.0)
    sums = frame.groupby([frame["STARTED_AT"].dt.date, "RESOURCE"])["ESTIMATED_CREDITS"].sum() if len(frame) else {}
    for (day, resource), credits in dict(sums).items():
        if day in days:
            days[day][resource] = float(credits)
    return days


def by_asset(frame: pd.DataFrame) -> pd.DataFrame:
    """One row an asset, the dearest first: its runs, credits and what it used."""
    return _summed(frame, ["ASSET"]).sort_values("ESTIMATED_CREDITS", ascending=False)


def by_run(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a run, the dearest first."""
    return _summed(frame, ["RUN_ID"]).sort_values("ESTIMATED_CREDITS", ascending=False)


def _summed(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    return frame.groupby(keys, as_index=False).agg(
        RUNS=("RUN_ID", "nunique"),
        ASSETS=("ASSET", "nunique"),
        STARTED_AT=("STARTED_AT", "min"),
        ESTIMATED_CREDITS=("ESTIMATED_CREDITS", "sum"),
        NODE_SECONDS=("NODE_SECONDS", "sum"),
        WAREHOUSE_SECONDS=("WAREHOUSE_SECONDS", "sum"),
        IDLE_SECONDS=("IDLE_SECONDS", "sum"),
        CORTEX_ROWS=("CORTEX_ROWS", "sum"),
        CORTEX_TOKENS=("CORTEX_TOKENS", "sum"),
    )


# -- budgets --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spending:
    """Estimated credits up to a moment.

    Attributes:
        yesterday: of the whole day before.
        projected: of the whole month.
        last_month: of the whole month before, in the first days of one; None later.
        uncounted: uses of unknown rate.
    """

    as_of: datetime
    today: float
    yesterday: float
    month: float
    projected: float
    last_month: float | None = None
    uncounted: int = 0


def spent(frame: pd.DataFrame, as_of: datetime) -> Spending:
    """What was spent, and the month's end by the trend of the last days.

    ``frame`` must reach back as far as ``window`` says. A month is projected by the line of least squares through the
    credits of the days before today, never below 0.
    """
    today = as_of.date()
    daily = {day: sum(parts.values()) for day, parts in by_day(frame, _first_day(today, TREND_DAYS), today).items()}
    month = sum(credits for day, credits in daily.items() if day >= today.replace(day=1))
    month_end = today.replace(day=calendar.monthrange(today.year, today.month)[1])
    rest = (month_end - today).days
    before = [credits for day, credits in daily.items() if day < today][-TREND_DAYS:]
    # Days before the first use say nothing of what a day costs.
    while before and not before[0]:
        before.pop(0)
    expected = _expected(before or [daily[today]], rest + 1)
    projected = month + max(0.0, expected[0] - daily[today]) + sum(expected[1:])
    counted = frame[frame["STARTED_AT"] <= as_of.replace(tzinfo=None)] if len(frame) else frame
    return Spending(
        as_of,
        daily[today],
        daily[today - timedelta(days=1)],
        month,
        projected,
        _last_month(daily, today),
        int(counted["ESTIMATED_CREDITS"].isna().sum()),
    )


def _last_month(daily: dict[date, float], today: date) -> float | None:
    if today.day > MONTH_CLOSED_DAYS:
        return None
    last = today.replace(day=1) - timedelta(days=1)
    return sum(credits for day, credits in daily.items() if last.replace(day=1) <= day <= last)


def _first_day(today: date, days: int) -> date:
    """So many days before today, or the first of the earliest month that is judged if that is earlier."""
    of_month = (today - timedelta(days=MONTH_CLOSED_DAYS)).replace(day=1)
    return min(of_month, today - timedelta(days=days))


def _expected(before: Sequence[float], days: int) -> list[float]:
    """Credits of the next ``days`` days, today's first."""
    import numpy as np

    if len(before) < LEAST_TREND_DAYS:
        return [float(np.mean(before))] * days
    slope, start = np.polyfit(range(len(before)), before, 1)
    return [max(0.0, float(start + slope * (len(before) + ahead))) for ahead in range(days)]


@dataclass(frozen=True)
class Verdict:
    """Whether the budgets hold, and what to say."""

    level: Level
    text: str


def judge(spending: Spending, settings: Settings) -> Verdict:
    """The worst of the budgets: an error above, a warning from 80 % on or if the month will not hold by its trend.

    What is spent after the last look at a day or a month is seen only when it is over: the day before, and in the first
    days of a month the month before, are judged too. They can be above their budget, but no more come near to it.
    """
    found: list[tuple[Level, str]] = []
    daily, monthly = settings.daily_credit_budget, settings.monthly_credit_budget
    yesterday = spending.as_of.date() - timedelta(days=1)
    last_month = spending.as_of.date().replace(day=1) - timedelta(days=1)
    for name, used, budget, is_over in (
        ("today", spending.today, daily, False),
        (f"on {yesterday}", spending.yesterday, daily, True),
        ("this month", spending.month, monthly, False),
        (f"in {last_month:%Y-%m}", spending.last_month, monthly, True),
    ):
        if budget is not None and used is not None:
            near = not is_over and used >= WARN_SHARE * budget
            level: Level = "error" if used > budget else "warn" if near else "ok"
            found.append((level, f"{used:.3g} of {budget:g} credits {name} ({used / budget:.0%})"))
    if monthly is not None:
        expected = f"{spending.projected:.3g} expected by the end of the month"
        found.append(("warn" if spending.projected > monthly else "ok", expected))
    if not found:
        return Verdict(
            "ok",
            f"{spending.today:.3g} credits today, {spending.month:.3g} this month. No budget is set: "
            "CUSTOMER_INSIGHTS_DAILY_CREDIT_BUDGET, CUSTOMER_INSIGHTS_MONTHLY_CREDIT_BUDGET",
        )
    order: tuple[Level, ...] = ("ok", "warn", "error")
    worst = max(order.index(level) for level, _ in found)
    text = "; ".join(text for _, text in found)
    if spending.uncounted:
        text += f"; without {spending.uncounted} uses of unknown rate"
    advice = "" if not worst else ". See by asset and top runs in the materialization for what is dear"
    return Verdict(order[worst], text + advice)


# -- durations ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unusual:
    """A step that took far longer than the usual of its size; seconds without waiting for nodes."""

    asset: str
    run_id: str
    partition: str | None
    seconds: float
    usual: float
    compared: int


def durations(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a step (RUN_ID, ASSET), the earliest first: SECONDS from its first use to its last, without those that
    jobs waited for nodes; ROWS_WRITTEN; PARTITION_KEY."""
    steps = frame.groupby(["RUN_ID", "ASSET"], as_index=False).agg(
        STARTED_AT=("STARTED_AT", "min"),
        ENDED_AT=("ENDED_AT", "max"),
        QUEUED=("QUEUE_SECONDS", "sum"),
        ROWS_WRITTEN=("ROWS_WRITTEN", "max"),
        PARTITION_KEY=("PARTITION_KEY", "first"),
    )
    whole = (steps["ENDED_AT"] - steps["STARTED_AT"]).dt.total_seconds()
    steps["SECONDS"] = (whole - steps["QUEUED"]).clip(lower=0)
    return steps.sort_values("ENDED_AT", kind="stable").reset_index(drop=True)


def unusual(frame: pd.DataFrame, since: datetime) -> list[Unusual]:
    """Steps that ended since then and took far longer than earlier ones of about as many rows."""
    # A step whose table has no run's id in it is compared with all of its asset.
    steps = durations(frame).fillna({"ROWS_WRITTEN": 0.0})
    found = []
    for position, step in enumerate(records(steps)):
        if step["ENDED_AT"] < since.replace(tzinfo=None):
            continue
        usual = _like(steps.iloc[:position], step)["SECONDS"].tail(MOST_RUNS)
        if len(usual) < LEAST_RUNS:
            continue
        median = float(usual.median())
        deviation = MAD_TO_DEVIATION * float((usual - median).abs().median())
        excess = max(DEVIATIONS * deviation, LEAST_EXCESS_SHARE * median, LEAST_EXCESS_SECONDS)
        if step["SECONDS"] > median + excess:
            partition = step["PARTITION_KEY"] if isinstance(step["PARTITION_KEY"], str) else None
            found.append(Unusual(step["ASSET"], step["RUN_ID"], partition, step["SECONDS"], median, len(usual)))
    return found


def _like(earlier: pd.DataFrame, step: dict[str, Any]) -> pd.DataFrame:
    """Those of the same asset and of half to twice as many rows; a few rows more or less are no other size."""
    rows, written = step["ROWS_WRITTEN"] + 50, earlier["ROWS_WRITTEN"] + 50
    return earlier[(earlier["ASSET"] == step["ASSET"]) & (written >= rows / 2) & (written <= rows * 2)]


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows, column name to value."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def window(as_of: datetime, days: int = 30) -> tuple[datetime, datetime]:
    """What a report reads: whole days, of the months that are judged and as many as the trend and the plots show."""
    first = _first_day(as_of.date(), max(days, TREND_DAYS))
    return datetime.combine(first, time.min, as_of.tzinfo), as_of

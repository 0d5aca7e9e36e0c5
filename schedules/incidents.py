"""What is wrong, by Dagster's own instance, and what of it people have been told: the state behind the sensor
``alerts``.

An incident begins when a run failed for good, a check failed, a policy is broken, a schedule or sensor fails, or a
daemon is still, and ends when that is over. It is said once when it begins and once when it ends. How a message is
sent is in ``resources.notifications``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import quote
from zoneinfo import ZoneInfo

import dagster as dg
from dagster._core.definitions.freshness import FreshnessState
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.events import JobFailureData
from dagster._core.execution.plan.objects import StepFailureData
from dagster._core.scheduler.instigation import InstigatorStatus, TickStatus
from dagster._core.storage.asset_check_execution_record import (
    COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES as _COMPLETED,
)
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
    WILL_RETRY_TAG,
)
from dagster_shared.error import SerializableErrorInfo
from pydantic import BaseModel, Field, ValidationError

from assets import catalogue
from assets.checks import PRESENT_VERSION
from assets.freshness import NEWEST_DAY
from customer_insights.settings import settings
from resources.notifications import MOST_LISTED, MOST_SINGLE, Channel, DeliveryError, Notice

logger = logging.getLogger(__name__)

DAY_SECONDS = 86400
# Before the first tick.
LOOK_BACK_SECONDS = DAY_SECONDS
# The policy of a model that is trained every week warns for the minutes until the training ends.
WARNED_FOR_SECONDS = 3600
# A check that ran within so long knows more than the asset's policy.
CHECK_COUNTS_SECONDS = 3 * 3600
# What these checks find of an asset with days is of all its days, whichever of them the run made.
OF_ALL_DAYS = frozenset({NEWEST_DAY, PRESENT_VERSION})
# One failed tick of a sensor is followed by the next one.
FAILED_TICKS = 3
# A weekly schedule's last tick; what was switched off long ago does not fail any more.
TICKS_COUNT_SECONDS = 8 * DAY_SECONDS
STILL_SECONDS = 1800
# What the cursor holds at most.
MOST_OPEN = 300
MOST_KEPT = 200
EVALUATIONS_AT_A_TIME = 50
RUNS_AT_A_TIME = 200
# A run's record is written again shortly after it ended.
OVERLAP_SECONDS = 120
DELIVERY_SECONDS = 30
REASON_CHARACTERS = 400

Kind = Literal["run", "check", "freshness", "tick", "daemon"]


class Incident(BaseModel):
    """What is wrong; ``told`` is when it was last said. A failed run's assets and days say when it is over, and so do a
    check's days: of those it still has to pass."""

    kind: Kind
    title: str
    reason: str
    todo: str
    link: str
    since: float
    told: float = 0
    by_policy: bool = False
    assets: tuple[str, ...] = ()
    days: tuple[str, ...] = ()
    by_day: tuple[str, ...] = ()
    job: str = ""


class Kept(BaseModel):
    """A message that a channel has not taken yet."""

    kind: Literal["new", "reminder", "resolved", "test"]
    title: str
    reason: str
    since: str
    todo: str
    link: str


class State(BaseModel):
    """What the sensor's cursor holds."""

    checked: dict[str, float] = Field(default_factory=dict)
    runs: float | None = None
    newest_days: dict[str, float] = Field(default_factory=dict)
    open: dict[str, Incident] = Field(default_factory=dict)
    outbox: dict[str, list[Kept]] = Field(default_factory=dict)

    @classmethod
    def read(cls, cursor: str | None) -> State:
        """The state of a cursor; of one that cannot be read, a new one, which looks back for a day."""
        try:
            return cls.model_validate_json(cursor) if cursor else cls()
        except ValidationError as error:
            logger.warning("the cursor of the sensor `alerts` cannot be read, and is begun anew: %s", error)
            return cls()


@dataclass(frozen=True)
class Watched:
    """What is looked at: the assets that runs make (a source is only observed), those with days and those with a
    policy; their checks; the sensor that looks."""

    made: frozenset[str]
    by_day: frozenset[str]
    policies: frozenset[str]
    checks: frozenset[tuple[str, str]]
    myself: str


def update(instance: dg.DagsterInstance, watched: Watched, state: State, now: float) -> list[Notice]:
    """Bring ``state`` up to ``now``; returns what is to be said."""
    found = _Found(state, now)
    _checks(instance, watched, state, found, now)
    _runs(instance, watched, state, found, now)
    _policies(instance, watched, state, found, now)
    _ticks(instance, watched, state, found, now)
    _daemons(instance, state, found, now)
    return found.notices


class _Found:
    """Opens and closes incidents in the state, and collects what is to be said."""

    def __init__(self, state: State, now: float) -> None:
        self._state, self._now = state, now
        self.notices: list[Notice] = []

    def begins(self, key: str, incident: Incident) -> None:
        """One that is open already is not said again, but all its days have it again."""
        if key in self._state.open:
            self._state.open[key].days = incident.days
            return
        incident.told = self._now
        self._state.open[key] = incident
        self.notices.append(notice("new", incident))
        # The oldest were told; of what comes after them more is to be learnt.
        while len(self._state.open) > MOST_OPEN:
            del self._state.open[next(iter(self._state.open))]

    def ends(self, key: str) -> None:
        """Of one that is not open nothing is said."""
        if incident := self._state.open.pop(key, None):
            self.notices.append(notice("resolved", incident, self._now))


def notice(kind: Literal["new", "reminder", "resolved"], incident: Incident, now: float | None = None) -> Notice:
    """What is said of an incident."""
    since = _time(incident.since)
    return Notice(
        kind=kind,
        title=incident.title,
        reason=incident.reason,
        since=f"{since}, until {_time(now)}" if kind == "resolved" and now else since,
        todo="Nothing." if kind == "resolved" else incident.todo,
        link=incident.link,
    )


def reminders(state: State, now: float, days: float) -> list[Notice]:
    """What has lasted for so many days since it was last said; nothing when ``days`` is 0."""
    due = [one for one in state.open.values() if days and now - one.told >= days * DAY_SECONDS]
    for one in due:
        one.told = now
    return [notice("reminder", one) for one in due]


def _time(timestamp: float) -> str:
    at = datetime.fromtimestamp(timestamp, ZoneInfo(settings().timezone))
    return f"{at:%Y-%m-%d %H:%M} {settings().timezone}"


def _page(*path: str, query: str = "") -> str:
    return "/".join([settings().dagster_url, *(quote(part, safe="") for part in path)]) + query


def _cut(text: str) -> str:
    return text if len(text) <= REASON_CHARACTERS else text[: REASON_CHARACTERS - 1] + "…"


# -- checks ------------------------------------------------------------------------------------------------------------

_NEWEST_DAY_REMEDY = (
    "Files that did not arrive: ask whoever exports them; what arrives is read without you. Files or reviews that "
    "wait: look whether a run failed and whether schedules and sensors are on, then materialize the asset for that day."
)
_CHECK_REMEDY = (
    "Open the check: it says which rows, and docs/alerts.md what to do. It is asked again with the next run, and of a "
    "day with the next run of that day."
)


def _checks(instance: dg.DagsterInstance, watched: Watched, state: State, found: _Found, now: float) -> None:
    """Every evaluation since the last tick, in order, so that none between two ticks is missed."""
    storage = instance.event_log_storage
    keys = {f"{asset}:{name}": dg.AssetCheckKey(dg.AssetKey(asset), name) for asset, name in sorted(watched.checks)}
    latest = storage.get_latest_asset_check_execution_by_key(list(keys.values()))
    for name, key in keys.items():
        last = latest.get(key)
        seen = state.checked.get(name, now - LOOK_BACK_SECONDS)
        if last is None or (last.status in _COMPLETED and last.event and last.event.timestamp <= seen):
            continue
        history = storage.get_asset_check_execution_history(key, limit=EVALUATIONS_AT_A_TIME, status=_COMPLETED)
        for event in sorted((one.event for one in history if one.event), key=lambda event: event.timestamp):
            if event.timestamp > seen and event.dagster_event:
                state.checked[name] = event.timestamp
                one = event.dagster_event.asset_check_evaluation_data
                days = _checked_days(instance, watched, one, event.run_id)
                _evaluated(one, days, event.timestamp, state, found)
    # A check that is no more will never pass.
    state.checked = {name: at for name, at in state.checked.items() if name in keys}
    for key in [key for key, one in state.open.items() if one.kind == "check"]:
        if not any(_is_of(key, name) for name in keys):
            del state.open[key]


def _is_of(key: str, check: str) -> bool:
    """Whether an incident is of a check, of whatever days."""
    return key == f"check:{check}" or key.startswith(f"check:{check}:")


def _checked_days(
    instance: dg.DagsterInstance, watched: Watched, one: dg.AssetCheckEvaluation, run_id: str
) -> tuple[str, ...]:
    """The days that a result is of; none where it is of the whole asset, or its run was deleted."""
    if one.asset_key.to_user_string() not in watched.by_day or one.check_name in OF_ALL_DAYS:
        return ()
    run = instance.get_run_by_id(run_id)
    return _days(run) if run else ()


def _evaluated(one: dg.AssetCheckEvaluation, days: tuple[str, ...], at: float, state: State, found: _Found) -> None:
    asset = one.asset_key.to_user_string()
    newest = one.check_name == NEWEST_DAY
    if newest:
        state.newest_days[asset] = at
    check = f"{asset}:{one.check_name}"
    # What is late is one incident, whether the check or the policy says so.
    key = f"freshness:{asset}" if newest else f"check:{check}" + (f":{_span(days)}" if days else "")
    if one.passed:
        for name in [name for name in state.open if name == key or _is_of(name, check)]:
            state.open[name].days = tuple(day for day in state.open[name].days if day not in days)
            if not state.open[name].days:
                found.ends(name)
        return
    grave = "is overdue" if one.severity is dg.AssetCheckSeverity.ERROR else "is late"
    found.begins(
        key,
        Incident(
            kind="freshness" if newest else "check",
            title=f"{asset} {grave}" if newest else f"{asset}{_when(days)}: the check {one.check_name} {_failed(one)}",
            reason=_cut(one.description or "the check gave no reason"),
            todo=_NEWEST_DAY_REMEDY if newest else _CHECK_REMEDY,
            link=_page("assets", *one.asset_key.path, query=f"?view=checks&checkDetail={quote(one.check_name)}"),
            since=at,
            days=days,
        ),
    )


def _failed(one: dg.AssetCheckEvaluation) -> str:
    if one.severity is dg.AssetCheckSeverity.WARN:
        return "warns"
    return "failed; what depends on it was not made" if one.blocking else "failed"


# -- runs --------------------------------------------------------------------------------------------------------------


def _runs(instance: dg.DagsterInstance, watched: Watched, state: State, found: _Found, now: float) -> None:
    """Runs that failed and are not tried again; one incident for the same assets and days, however often they fail."""
    after = state.runs - OVERLAP_SECONDS if state.runs else now - LOOK_BACK_SECONDS
    records = instance.get_run_records(
        dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=datetime.fromtimestamp(after, UTC)),
        limit=RUNS_AT_A_TIME,
        order_by="update_timestamp",
        ascending=True,
    )
    state.runs = max([state.runs or now - LOOK_BACK_SECONDS, *(one.update_timestamp.timestamp() for one in records)])
    for record in records:
        run = record.dagster_run
        if run.tags.get(WILL_RETRY_TAG) != "true":
            key, incident = _failed_run(instance, watched, run, record.end_time or record.update_timestamp.timestamp())
            if key not in state.open and not _mended(instance, incident):
                found.begins(key, incident)
    for key, incident in list(state.open.items()):
        if incident.kind == "run" and _mended(instance, incident):
            found.ends(key)


def _failed_run(instance: dg.DagsterInstance, watched: Watched, run: dg.DagsterRun, at: float) -> tuple[str, Incident]:
    records = instance.get_records_for_run(
        run.run_id,
        of_type={
            dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
            dg.DagsterEventType.STEP_SUCCESS,
            dg.DagsterEventType.STEP_FAILURE,
            dg.DagsterEventType.RUN_FAILURE,
        },
    ).records
    logged = [event for record in records if (event := record.event_log_entry.dagster_event)]
    steps = [event for event in logged if event.event_type is dg.DagsterEventType.STEP_FAILURE]
    # A step has its asset's name; one that has none is a check's or an op's.
    names = sorted({event.step_key for event in steps if event.step_key}) or _not_made(run, logged)
    days = _days(run)
    events = [event for event in logged if event.is_failure]
    errors = [
        event.event_specific_data.error
        for event in (*steps, *events)
        if isinstance(event.event_specific_data, StepFailureData | JobFailureData)
    ]
    said = [*map(_first_sentence, errors), *(event.message or "" for event in events)]
    what = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "") or run.job_name
    # The name of Dagster's own job of whatever somebody chose says nothing.
    of_job = "" if run.job_name.startswith("__") else f" of {run.job_name}"
    return f"run:{run.job_name}:{what}:{_span(days)}", Incident(
        kind="run",
        title=f"{what}{_when(days)}: run {run.run_id[:8]}{of_job} failed",
        reason=_cut(next((text for text in said if text), "the run ended without saying why")),
        todo=(
            "Open the run and read the failed step's error: it says what to do. Then choose Re-execute from failure; "
            "what is done already is not done again."
        ),
        link=_page("runs", run.run_id),
        since=at,
        assets=tuple(name for name in names if name in watched.made),
        days=days,
        by_day=tuple(name for name in names if name in watched.by_day),
        job=run.job_name,
    )


def _not_made(run: dg.DagsterRun, events: Sequence[dg.DagsterEvent]) -> list[str]:
    """What a run that died between its steps had still to make: Re-execute from failure makes only that."""
    planned = {
        event.asset_key
        for event in events
        if event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED and event.asset_key
    }
    made = {event.step_key for event in events if event.event_type is dg.DagsterEventType.STEP_SUCCESS}
    wanted = {key.to_user_string() for key in run.asset_selection or planned}
    return sorted(wanted - made)


def _days(run: dg.DagsterRun) -> tuple[str, ...]:
    """The partitions of a run."""
    if day := run.tags.get(PARTITION_NAME_TAG):
        return (day,)
    start, end = (run.tags.get(tag) for tag in (ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG))
    if not start or not end:
        return ()
    return tuple(catalogue.DAILY.get_partition_keys_in_range(dg.PartitionKeyRange(start, end)))


def _span(days: Sequence[str]) -> str:
    return "..".join([*days[:1], *days[-1:]])


def _when(days: Sequence[str]) -> str:
    return f" for {days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "") if days else ""


def _first_sentence(error: SerializableErrorInfo | None) -> str:
    """The first line of what was raised first: Dagster wraps it."""
    if not error:
        return ""
    while error.cause:
        error = error.cause
    return next((line.strip() for line in error.message.splitlines() if line.strip()), "")


def _mended(instance: dg.DagsterInstance, incident: Incident) -> bool:
    """Whether everything that failed has been made since, or the job that makes no asset went well since, for
    the same days."""
    if incident.assets:
        return all(_made(instance, asset, incident) for asset in incident.assets)
    days = incident.days
    tags = {PARTITION_NAME_TAG: days[0]} if len(days) == 1 else {}
    if len(days) > 1:
        tags = {ASSET_PARTITION_RANGE_START_TAG: days[0], ASSET_PARTITION_RANGE_END_TAG: days[-1]}
    later = instance.get_run_records(
        dg.RunsFilter(
            job_name=incident.job,
            statuses=[dg.DagsterRunStatus.SUCCESS],
            updated_after=datetime.fromtimestamp(incident.since, UTC),
            tags=tags,
        ),
        limit=1,
    )
    return bool(later)


def _made(instance: dg.DagsterInstance, asset: str, incident: Incident) -> bool:
    # Only the partitions of an asset that has some are asked for: others are made in the same run without one.
    days = incident.days if asset in incident.by_day else ()
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(
            asset_key=dg.AssetKey(asset), asset_partitions=list(days) or None, after_timestamp=incident.since
        ),
        limit=max(1, 4 * len(days)),
    ).records
    return {record.partition_key for record in records} >= set(days) if days else bool(records)


# -- policies, ticks, daemons ------------------------------------------------------------------------------------------


def _policies(instance: dg.DagsterInstance, watched: Watched, state: State, found: _Found, now: float) -> None:
    """Freshness policies of assets of which no check has lately told more."""
    asked = {asset for asset, at in state.newest_days.items() if now - at < CHECK_COUNTS_SECONDS}
    keys = [dg.AssetKey(asset) for asset in sorted(watched.policies)]
    for key, record in instance.get_freshness_state_records(keys).items():
        asset, name = key.to_user_string(), f"freshness:{key.to_user_string()}"
        if record.freshness_state not in (FreshnessState.WARN, FreshnessState.FAIL):
            # A check that is not asked any more cannot end what it began.
            passes = record.freshness_state is FreshnessState.PASS and asset not in asked
            if name in state.open and (state.open[name].by_policy or passes):
                found.ends(name)
            continue
        at = record.updated_at.timestamp()
        warned = record.freshness_state is FreshnessState.WARN
        if asset in asked or (warned and now - at < WARNED_FOR_SECONDS):
            continue
        found.begins(
            name,
            Incident(
                kind="freshness",
                title=f"{asset} {'is soon overdue' if warned else 'is overdue'}",
                reason="By its freshness policy it should have been materialized, and it was not.",
                todo="Look whether a run failed and whether its schedule is on, then materialize it.",
                link=_page("assets", *key.path),
                since=at,
                by_policy=True,
            ),
        )


def _ticks(instance: dg.DagsterInstance, watched: Watched, state: State, found: _Found, now: float) -> None:
    """Schedules whose last tick failed, and sensors whose last ticks did: nothing is started, and no run fails."""
    running = {InstigatorStatus.RUNNING, InstigatorStatus.DECLARED_IN_CODE}
    failing: set[str] = set()
    for one in instance.all_instigator_state(instigator_statuses=running):
        if one.instigator_name == watched.myself:
            continue
        wanted = 1 if one.instigator_type is InstigatorType.SCHEDULE else FAILED_TICKS
        ticks = instance.get_ticks(
            one.instigator_origin_id,
            one.selector_id,
            after=now - TICKS_COUNT_SECONDS,
            limit=wanted,
            statuses=[TickStatus.FAILURE, TickStatus.SKIPPED, TickStatus.SUCCESS],
        )
        if len(ticks) < wanted or any(tick.status is not TickStatus.FAILURE for tick in ticks):
            continue
        key = f"tick:{one.instigator_name}"
        failing.add(key)
        found.begins(
            key,
            Incident(
                kind="tick",
                title=f"{one.instigator_type.value.lower()} {one.instigator_name} fails",
                reason=_cut(_first_sentence(ticks[0].error) or "its ticks fail without saying why"),
                todo="Open the automation page and read the tick's error. Until it is mended it starts nothing.",
                link=_page("automation"),
                since=ticks[-1].timestamp,
            ),
        )
    _end_others(state, found, "tick", failing)


def _daemons(instance: dg.DagsterInstance, state: State, found: _Found, now: float) -> None:
    """Parts of Dagster's daemon that report errors or nothing."""
    wrong: set[str] = set()
    beats = instance.get_daemon_heartbeats()
    for kind in instance.get_required_daemon_types():
        beat = beats.get(kind)
        if beat is None or (now - beat.timestamp < STILL_SECONDS and not beat.errors):
            continue
        key = f"daemon:{kind}"
        wrong.add(key)
        error = _first_sentence(beat.errors[0]) if beat.errors else "it has not reported for half an hour"
        found.begins(
            key,
            Incident(
                kind="daemon",
                title=f"Dagster's {kind.replace('_', ' ').lower()} is not well",
                reason=_cut(error),
                todo="Read the daemon's log; restart it, or the code location that it cannot load.",
                link=_page("deployment", "daemons"),
                since=beat.timestamp,
            ),
        )
    _end_others(state, found, "daemon", wrong)


def _end_others(state: State, found: _Found, kind: Kind, lasting: Iterable[str]) -> None:
    for key in [key for key, one in state.open.items() if one.kind == kind and key not in lasting]:
        found.ends(key)


# -- delivery ----------------------------------------------------------------------------------------------------------


def deliver(state: State, notices: Sequence[Notice], channels: Sequence[Channel]) -> Mapping[str, str]:
    """Send what is new and what was kept; what a channel does not take is kept for it. Channel -> what went wrong."""
    started = time.monotonic()
    problems: dict[str, str] = {}
    names = {channel.name for channel in channels}
    state.outbox = {name: kept for name, kept in state.outbox.items() if name in names}
    for channel in channels:
        kept = state.outbox.setdefault(channel.name, [])
        kept += [Kept(**vars(one)) for one in notices]
        if (over := len(kept) - MOST_KEPT) > 0:
            logger.warning("%d alerts for the channel %s are dropped: it has taken none for long", over, channel.name)
            del kept[:over]
        while kept and time.monotonic() - started < DELIVERY_SECONDS:
            batch = kept[:MOST_LISTED] if len(kept) > MOST_SINGLE else kept[:1]
            try:
                channel.send([Notice(**one.model_dump()) for one in batch])
            except DeliveryError as error:
                problems[channel.name] = str(error)
                break
            del kept[: len(batch)]
    return problems

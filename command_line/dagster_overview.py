"""What Dagster's instance knows of assets, checks, runs, schedules and sensors, read from its storage: Dagster need not
run.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.definitions.freshness_evaluator import FRESHNESS_EVALUATORS_BY_POLICY_TYPE
from dagster._core.loader import LoadingContext
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from command_line.overview import Asset, Automation, Dagster, FailedCheck, Freshness, Run

if TYPE_CHECKING:
    from dagster._core.definitions.assets.graph.asset_graph import AssetGraph, AssetNode
    from dagster._core.storage.event_log.base import AssetRecord

SHOWN_RUNS = 5
# So many are named one by one.
FEW_ASSETS = 3
# Failures are looked for among so many runs, and so far back: what failed before has been seen, or is overdue.
SEARCHED_RUNS = 50
FAILURE_SECONDS = 2 * 86400
# A daemon says every 30 seconds that it is there.
HEARTBEAT_SECONDS = 120
_FRESHNESS: dict[str, Freshness] = {"PASS": "fresh", "WARN": "late", "FAIL": "overdue", "UNKNOWN": "never"}


class _Loading(LoadingContext):
    """What Dagster's evaluators of freshness read through."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance, self._loaders = instance, {}

    @property
    def instance(self) -> dg.DagsterInstance:
        return self._instance

    @property
    def loaders(self) -> dict[Any, Any]:
        return self._loaders


def read(definitions: dg.Definitions) -> Dagster:
    """What the instance of DAGSTER_HOME knows of these definitions."""
    with dg.DagsterInstance.get() as instance:
        graph = definitions.resolve_asset_graph()
        records = instance.get_run_records(limit=SEARCHED_RUNS)
        runs = [_run(record) for record in records]
        return Dagster(
            alive=_alive(instance),
            assets=tuple(_assets(instance, graph)),
            runs=tuple(runs[:SHOWN_RUNS]),
            failed_runs=tuple(_failed(records)),
            automation=tuple(_automation(instance, definitions)),
        )


def _alive(instance: dg.DagsterInstance) -> bool:
    beats = [beat.timestamp for beat in instance.get_daemon_heartbeats().values()]
    return bool(beats) and time.time() - max(beats) < HEARTBEAT_SECONDS


def _assets(instance: dg.DagsterInstance, graph: AssetGraph) -> Iterable[Asset]:
    keys = [key for key in graph.toposorted_asset_keys if graph.get(key).is_materializable]
    known = {record.asset_entry.asset_key: record for record in instance.get_asset_records(keys)}
    failed, passed = _checks(instance, graph)
    states = asyncio.run(_freshness(instance, [graph.get(key) for key in keys]))
    return [_asset(key, known.get(key), states[key], failed.get(key, []), passed[key]) for key in keys]


def _asset(
    key: dg.AssetKey, record: AssetRecord | None, state: Freshness, failed: list[FailedCheck], passed: int
) -> Asset:
    name = key.to_user_string()
    entry = record.asset_entry.last_materialization if record else None
    made = entry.asset_materialization if entry else None
    if entry is None or made is None:
        return Asset(name, None, None, None, state, tuple(failed), passed)
    rows = made.metadata.get("dagster/row_count")
    return Asset(
        name,
        _time(entry.timestamp),
        made.partition,
        int(str(rows.value)) if rows else None,
        state,
        tuple(failed),
        passed,
    )


async def _freshness(instance: dg.DagsterInstance, nodes: list[AssetNode]) -> dict[dg.AssetKey, Freshness]:
    """By Dagster's own rule, from the last materialization: the state that the instance keeps is as old as the last
    look of its daemon."""
    context, states = _Loading(instance), dict[dg.AssetKey, Freshness]()
    for node in nodes:
        policy = node.freshness_policy_or_from_metadata
        if policy is None:
            states[node.key] = "none"
            continue
        evaluator = FRESHNESS_EVALUATORS_BY_POLICY_TYPE[type(policy)]()
        states[node.key] = _FRESHNESS[(await evaluator.evaluate_freshness(context, node)).value]
    return states


def _checks(
    instance: dg.DagsterInstance, graph: AssetGraph
) -> tuple[dict[dg.AssetKey, list[FailedCheck]], Counter[dg.AssetKey]]:
    """By asset, the checks whose last evaluation failed, and how many passed."""
    found: dict[dg.AssetKey, list[FailedCheck]] = {}
    passed = Counter[dg.AssetKey]()
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(list(graph.asset_check_keys))
    for key, record in latest.items():
        evaluation = record.evaluation
        passed[key.asset_key] += record.status == AssetCheckExecutionRecordStatus.SUCCEEDED
        if record.status != AssetCheckExecutionRecordStatus.FAILED or evaluation is None:
            continue
        asset = key.asset_key.to_user_string()
        error = evaluation.severity == dg.AssetCheckSeverity.ERROR
        said = FailedCheck(asset, key.name, error, evaluation.description or "", _time(record.create_timestamp))
        found.setdefault(key.asset_key, []).append(said)
    return found, passed


def _run(record: dg.RunRecord) -> Run:
    run = record.dagster_run
    began, ended = record.start_time, record.end_time
    seconds = (ended or time.time()) - began if began else None
    return Run(run.run_id, _job(run), _partition(run), run.status.value, _time(began) if began else None, seconds)


def _job(run: dg.DagsterRun) -> str:
    """Of a few chosen assets their names, else the job's: the UI names every asset of a job that it launches whole."""
    chosen = sorted(key.to_user_string() for key in run.asset_selection or ())
    its_own = run.job_name.startswith("__")
    return ", ".join(chosen) if chosen and (its_own or len(chosen) <= FEW_ASSETS) else run.job_name


def _partition(run: dg.DagsterRun) -> str | None:
    begin, end = (run.tags.get(f"dagster/asset_partition_range_{which}") for which in ("start", "end"))
    if begin and end:
        return begin if begin == end else f"{begin}...{end}"
    return run.tags.get("dagster/partition")


def _failed(records: Iterable[dg.RunRecord]) -> list[Run]:
    """Lately failed runs, newest first, after which no run did the same or more on the same day."""
    later: list[dg.DagsterRun] = []
    failed = []
    for record in records:
        run = record.dagster_run
        lately = (record.end_time or 0) > time.time() - FAILURE_SECONDS
        if run.status == dg.DagsterRunStatus.FAILURE and lately and not any(_covers(one, run) for one in later):
            failed.append(_run(record))
        later.append(run)
    return failed


def _covers(later: dg.DagsterRun, run: dg.DagsterRun) -> bool:
    """Whether a later run is for the same day and makes all that this one makes."""
    if _partition(later) != _partition(run):
        return False
    if later.asset_selection and run.asset_selection:
        return later.asset_selection >= run.asset_selection
    return later.job_name == run.job_name and not later.asset_selection


def _automation(instance: dg.DagsterInstance, definitions: dg.Definitions) -> list[Automation]:
    """What a person has switched, else what the code says."""
    repository = definitions.get_repository_def()
    switched = {
        state.instigator_name: state.is_running
        for state in instance.all_instigator_state()
        if state.status.value != "DECLARED_IN_CODE"
    }

    def on(one: dg.ScheduleDefinition | dg.SensorDefinition) -> bool:
        return switched.get(one.name, one.default_status.value == "RUNNING")

    return [
        *(Automation(one.name, "schedule", on(one)) for one in repository.schedule_defs),
        *(Automation(one.name, "sensor", on(one)) for one in repository.sensor_defs),
    ]


def _time(timestamp: float) -> datetime:
    return datetime.fromtimestamp(timestamp, tz=UTC)

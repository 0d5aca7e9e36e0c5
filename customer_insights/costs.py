"""What the pipeline costs, by Snowflake's own history of jobs and statements.

Every session of a step carries a query tag that names run, asset and partition (``query_tag``), and every job a comment
that does, so that nothing is lost when a worker dies. Reading the history (``collect``) and estimating credits is here;
budgets, trends and what is unusual are in ``spending``. Rates and how each estimate is made: ``docs/costs.md``.
"""

from __future__ import annotations

import json
import re
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from customer_insights import publish, query
from customer_insights.identifiers import qualified, validated
from customer_insights.settings import Settings
from customer_insights.tables import PIPELINE_COSTS, TABLES

if TYPE_CHECKING:
    import pandas as pd
    from snowflake.snowpark import Session

APP = "customer_insights"
COMPUTE_POOL, WAREHOUSE, CORTEX = RESOURCES = ("compute_pool", "warehouse", "cortex")

# Credits an hour of one node, by instance family: "Snowpark Container Services" in Snowflake's Service Consumption
# Table, https://www.snowflake.com/legal-files/CreditConsumptionTable.pdf. Families that are not here (Azure's and
# Google's own) need the setting.
RATES_AS_OF = "2026-01"
CREDITS_PER_NODE_HOUR = {
    "CPU_X64_XS": 0.06,
    "CPU_X64_S": 0.11,
    "CPU_X64_M": 0.22,
    "CPU_X64_SL": 0.41,
    "CPU_X64_L": 0.83,
    "HIGHMEM_X64_S": 0.28,
    "HIGHMEM_X64_M": 1.11,
    "HIGHMEM_X64_L": 4.44,
    "GPU_NV_XS": 0.25,
    "GPU_NV_S": 0.57,
    "GPU_NV_M": 2.68,
    "GPU_NV_L": 14.12,
}
# Credits an hour of a standard warehouse of the first generation, by size as SHOW WAREHOUSES and the history spell it:
# https://docs.snowflake.com/en/user-guide/cost-understanding-compute
CREDITS_PER_WAREHOUSE_HOUR = {
    size: 2.0**doublings
    for doublings, size in enumerate(
        ("X-Small", "Small", "Medium", "Large", "X-Large", "2X-Large", "3X-Large", "4X-Large", "5X-Large", "6X-Large")
    )
}
# A warehouse is billed for a minute each time that it resumes.
SHORTEST_WAREHOUSE_SECONDS = 60.0
# Snowflake: "a token is approximately equal to four characters". Bytes, as a character of Hindi has three of them.
BYTES_PER_TOKEN = 4

# How far back Snowflake's functions look, and how many rows they return at most.
STATEMENT_DAYS, JOB_DAYS = 7, 30
MOST_ROWS = 10_000
# Read again at every collection: a step may have begun before the last one, and ended after it.
OVERLAP = timedelta(days=1)
_JOB_NAME = re.compile(r"(?P<step>.+)_(?P<run>[0-9A-F]{32})_[0-9A-F]{6}(?:_.*)?")


def query_tag(run_id: str, asset: str, partition: str | None, **counts: int) -> str:
    """What Snowflake keeps with every statement of a step; ``counts``: ``cortex_rows`` and ``cortex_tokens``."""
    known = {"app": APP, "run_id": run_id, "asset": asset, "partition": partition, **counts}
    return json.dumps({name: value for name, value in known.items() if value is not None})


def partition_label(start: str, end: str) -> str:
    """A day, or the range of days that one step works on."""
    return start if start == end else f"{start}...{end}"


# -- rates ----------------------------------------------------------------------------------------------------------


def node_rates(settings: Settings) -> float | dict[str, float]:
    """Credits an hour of a node: the setting's one rate, or those by family, the setting's before the table's."""
    chosen = settings.credits_per_node_hour
    return {**CREDITS_PER_NODE_HOUR, **(chosen or {})} if chosen is None or isinstance(chosen, dict) else chosen


@dataclass(frozen=True)
class Supply:
    """What a pool or a warehouse is, by SHOW: what it costs an hour, and when it is suspended.

    Attributes:
        credits_per_hour: of a node or of the warehouse; None where no rate is known.
        suspended_after: seconds without work; None where it never is, or where it cannot be seen.
        least_nodes: nodes that a pool keeps while it waits to be suspended.
        unknown: what to set when no rate is known.
    """

    name: str
    credits_per_hour: float | None
    suspended_after: float | None = None
    least_nodes: int = 1
    unknown: str = ""


def pool_supply(settings: Settings, name: str, shown: Mapping[str, Any] | None) -> Supply:
    """A pool by its row of SHOW COMPUTE POOLS; by the settings where it has gone or cannot be seen."""
    family = str(shown["instance_family"]) if shown else settings.compute_pool_family
    rates = node_rates(settings)
    rate = rates.get(family) if isinstance(rates, dict) else rates
    unknown = (
        f"no rate is known for nodes of family {family} (pool {name}): set "
        f"CUSTOMER_INSIGHTS_CREDITS_PER_NODE_HOUR='{{\"{family}\": <credits>}}' by Snowflake's Consumption Table"
    )
    if not shown:
        return Supply(name, rate, unknown="" if rate is not None else unknown)
    after = float(shown["auto_suspend_secs"] or 0) or None
    return Supply(name, rate, after, int(shown["min_nodes"]), "" if rate is not None else unknown)


def warehouse_supply(settings: Settings, shown: Mapping[str, Any] | None, size: str | None = None) -> Supply:
    """The settings' warehouse by its row of SHOW WAREHOUSES; ``size``: as it was when the statements ran."""
    name = settings.warehouse
    size = size or (str(shown["size"]) if shown else "X-Small")
    rate = settings.credits_per_warehouse_hour
    is_standard = not shown or str(shown.get("type") or "STANDARD").upper() == "STANDARD"
    if rate is None and is_standard:
        rate = CREDITS_PER_WAREHOUSE_HOUR.get(size)
    unknown = (
        f"no rate is known for warehouse {name} (size {size}, type {shown.get('type') if shown else 'unknown'}): set "
        "CUSTOMER_INSIGHTS_CREDITS_PER_WAREHOUSE_HOUR by Snowflake's Consumption Table"
    )
    after = float(shown["auto_suspend"] or 0) or None if shown else None
    return Supply(name, rate, after, unknown="" if rate is not None else unknown)


# -- what was used --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """Whose a use is."""

    run_id: str
    asset: str


@dataclass(frozen=True)
class Statement:
    """One statement that a warehouse ran for a step; times in UTC. Cortex's counts are those of its tag."""

    step: Step
    partition: str | None
    started: datetime
    ended: datetime
    size: str
    cortex_rows: int = 0
    cortex_tokens: int = 0


@dataclass(frozen=True)
class Job:
    """One job of a step; times in UTC. ``started`` is None where no node was given to it yet, or ever.

    ``start_is_known`` is False where Snowflake does not say when it began: then it is when it was created, and what it
    waited counts as work.
    """

    step: Step
    partition: str | None
    id: str
    pool: str
    status: str
    nodes: int
    created: datetime
    started: datetime | None
    ended: datetime
    start_is_known: bool = True


def parsed_tag(tag: str | None) -> dict[str, Any] | None:
    """The tag of one of our steps; None for any other."""
    try:
        values = json.loads(tag or "")
    except ValueError:
        return None
    is_ours = isinstance(values, dict) and values.get("app") == APP
    return values if is_ours and values.get("run_id") and values.get("asset") else None


@dataclass(frozen=True)
class Seconds:
    """Seconds of work, and those that the resource then stayed up for nothing."""

    busy: float = 0.0
    idle: float = 0.0


def shared(
    uses: Sequence[tuple[Step, datetime, datetime]], suspended_after: float | None, shortest: float, as_of: datetime
) -> dict[Step, Seconds]:
    """Part the time that a resource is up among those who use it; the sum is the time it is up.

    Time in which several work is shared equally. The time after it, until the next begins or the resource is suspended,
    is the one's who worked last; so is what is missing to ``shortest``, the least that is billed for an up-time.
    ``suspended_after`` is None where it is not known or the resource is always up: then work alone is counted.
    """
    busy, periods = _work(uses)
    idle: dict[Step, float] = defaultdict(float)
    up_since: datetime | None = None
    for (start, end, last), following in zip(periods, [*(period[0] for period in periods[1:]), None], strict=True):
        if suspended_after is None:
            break
        up_since = up_since or start
        gap = max(0.0, ((following or as_of) - end).total_seconds())
        idle[last] += min(gap, suspended_after)
        if gap > suspended_after:
            up = (end - up_since).total_seconds() + suspended_after
            idle[last] += max(0.0, shortest - up)
            up_since = None
    return {step: Seconds(seconds, idle.get(step, 0.0)) for step, seconds in busy.items()}


def _work(
    uses: Sequence[tuple[Step, datetime, datetime]],
) -> tuple[dict[Step, float], list[tuple[datetime, datetime, Step]]]:
    """Each one's share of the time in which anybody works, and the periods of it: from, to, who worked last."""
    busy: dict[Step, float] = {}
    periods: list[tuple[datetime, datetime, Step]] = []
    changes = [(start, 0, step) for step, start, _ in uses] + [(max(start, end), 1, step) for step, start, end in uses]
    active: list[Step] = []
    begun = last = datetime.min.replace(tzinfo=UTC)
    # At one moment what begins comes first: there is no gap between them.
    for moment, ends, step in sorted(changes, key=lambda change: change[:2]):
        for worker in active:
            busy[worker] = busy.get(worker, 0.0) + (moment - last).total_seconds() / len(active)
        last = moment
        if not ends:
            begun = begun if active else moment
            active.append(step)
            busy.setdefault(step, 0.0)
            continue
        active.remove(step)
        if not active:
            periods.append((begun, moment, step))
    return busy, periods


def _credits(seconds: float, supply: Supply) -> float | None:
    return None if supply.credits_per_hour is None else seconds / 3600 * supply.credits_per_hour


def warehouse_rows(
    statements: Sequence[Statement], supply_of: Callable[[str], Supply], as_of: datetime
) -> list[dict[str, Any]]:
    """One row a step: its seconds of the warehouse. ``supply_of``: by size."""
    if not statements:
        return []
    uses = [(one.step, one.started, one.ended) for one in statements]
    after = supply_of(statements[-1].size).suspended_after
    seconds = shared(uses, after, SHORTEST_WAREHOUSE_SECONDS, as_of)
    rows = []
    for step, mine in _by_step(statements).items():
        supply = supply_of(mine[-1].size)
        used = seconds[step]
        rows.append(
            {
                **_row(step, WAREHOUSE, supply.name, mine),
                "WAREHOUSE_SECONDS": used.busy,
                "STATEMENTS": len(mine),
                "IDLE_SECONDS": used.idle,
                "ESTIMATED_CREDITS": _credits(used.busy + used.idle, supply),
            }
        )
    return rows


def cortex_rows(statements: Sequence[Statement], settings: Settings) -> list[dict[str, Any]]:
    """One row a step that asked AI_SENTIMENT."""
    asking = [one for one in statements if one.cortex_rows]
    return [
        {
            **_row(step, CORTEX, "AI_SENTIMENT", mine),
            "CORTEX_ROWS": sum(one.cortex_rows for one in mine),
            "CORTEX_TOKENS": (tokens := sum(one.cortex_tokens for one in mine)),
            "ESTIMATED_CREDITS": tokens / 1e6 * settings.credits_per_million_cortex_tokens,
        }
        for step, mine in _by_step(asking).items()
    ]


def job_rows(jobs: Sequence[Job], supply_of: Callable[[str], Supply], as_of: datetime) -> list[dict[str, Any]]:
    """One row a job: its nodes' seconds, and those that the pool then stayed up. ``supply_of``: by pool."""
    idle: dict[str, float] = {}
    for pool in {job.pool for job in jobs}:
        supply = supply_of(pool)
        # A job's id in the place of the asset, so that each has its own time.
        uses = [
            (Step(job.step.run_id, job.id), job.started, job.ended) for job in jobs if job.pool == pool and job.started
        ]
        used = shared(uses, supply.suspended_after, 0.0, as_of)
        idle |= {step.asset: seconds.idle * supply.least_nodes for step, seconds in used.items()}
    rows = []
    for job in jobs:
        ran = (job.ended - job.started).total_seconds() if job.started else 0.0
        waited = ((job.started or job.ended) - job.created).total_seconds()
        supply = supply_of(job.pool)
        rows.append(
            {
                **_identity(job.step, COMPUTE_POOL, job.pool, job.partition),
                "JOB_ID": job.id,
                "STATUS": job.status,
                "STARTED_AT": job.created,
                "ENDED_AT": job.ended,
                "NODES": job.nodes,
                "NODE_SECONDS": ran * job.nodes,
                "QUEUE_SECONDS": waited if job.start_is_known else None,
                "IDLE_SECONDS": idle.get(job.id, 0.0),
                "ESTIMATED_CREDITS": _credits(ran * job.nodes + idle.get(job.id, 0.0), supply),
            }
        )
    return rows


def _by_step(statements: Iterable[Statement]) -> dict[Step, list[Statement]]:
    found: dict[Step, list[Statement]] = {}
    for one in sorted(statements, key=lambda one: one.started):
        found.setdefault(one.step, []).append(one)
    return found


def _identity(step: Step, resource: str, name: str, partition: str | None) -> dict[str, Any]:
    return {
        "RUN_ID": step.run_id,
        "ASSET": step.asset,
        "RESOURCE": resource,
        "JOB_ID": "",
        "RESOURCE_NAME": name,
        "PARTITION_KEY": partition,
    }


def _row(step: Step, resource: str, name: str, mine: Sequence[Statement]) -> dict[str, Any]:
    return {
        **_identity(step, resource, name, next((one.partition for one in mine if one.partition), None)),
        "STARTED_AT": min(one.started for one in mine),
        "ENDED_AT": max(one.ended for one in mine),
    }


# -- reading Snowflake's history ------------------------------------------------------------------------------------


def _literal(moment: datetime) -> str:
    # The functions take constants, and this is nobody's text.
    return f"'{moment.astimezone(UTC).isoformat(timespec='milliseconds')}'::TIMESTAMP_LTZ"


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def statements(session: Session, settings: Settings, since: datetime, until: datetime) -> list[Statement]:
    """What the settings' warehouse ran for our steps and ended in [since, until), from Snowflake's history.

    Of other users' statements, a job's among them, those are seen that the privilege MONITOR on the warehouse shows.
    """
    found: dict[str, Statement] = {}
    for page in _pages(session, settings, since, until):
        for row in page:
            tag = parsed_tag(row["QUERY_TAG"])
            # Another schema's pipeline may share the warehouse. Without a size it was answered without the warehouse.
            is_here = (row["DATABASE_NAME"], row["SCHEMA_NAME"]) == (settings.database, settings.schema_name)
            if tag and is_here and row["WAREHOUSE_SIZE"]:
                found[row["QUERY_ID"]] = Statement(
                    Step(str(tag["run_id"]), str(tag["asset"])),
                    tag.get("partition"),
                    _utc(row["START_TIME"]),
                    _utc(row["END_TIME"]),
                    str(row["WAREHOUSE_SIZE"]),
                    int(tag.get("cortex_rows", 0)),
                    int(tag.get("cortex_tokens", 0)),
                )
    return sorted(found.values(), key=lambda one: (one.started, one.ended))


def _pages(session: Session, settings: Settings, since: datetime, until: datetime) -> Iterator[list[dict[str, Any]]]:
    """The function returns the latest rows of a range: the next page ends where this one began."""
    function = f"{validated(settings.database)}.INFORMATION_SCHEMA.QUERY_HISTORY_BY_WAREHOUSE"
    while True:
        page = query.rows(
            session,
            "SELECT QUERY_ID, QUERY_TAG, DATABASE_NAME, SCHEMA_NAME, START_TIME, END_TIME, WAREHOUSE_SIZE\n"
            f"FROM TABLE({function}(WAREHOUSE_NAME => '{validated(settings.warehouse)}',\n"
            f"  END_TIME_RANGE_START => {_literal(since)}, END_TIME_RANGE_END => {_literal(until)},\n"
            f"  RESULT_LIMIT => {MOST_ROWS}))",
        )
        yield page
        if len(page) < MOST_ROWS:
            return
        # Those of the same millisecond come again.
        earlier = min(_utc(row["END_TIME"]) for row in page) + timedelta(milliseconds=1)
        if earlier >= until:
            return
        until = earlier


def jobs(
    session: Session, settings: Settings, since: datetime, as_of: datetime, steps: Iterable[Step] = ()
) -> list[Job]:
    """Our jobs that were created since then, also those that failed, were cancelled or are deleted.

    ``steps`` are those that are known: a deleted job's comment is gone, and its name holds the run but only the
    beginning of the step.
    """
    schema = qualified(settings.database, settings.schema_name)
    comments = {row["name"]: row["comment"] for row in query.rows(session, f"SHOW JOB SERVICES IN SCHEMA {schema}")}
    known = list(steps)
    found = query.rows(
        session,
        "SELECT NAME, STATUS, CREATED_TIME, COMPLETED_TIME, DELETED_TIME, INSTANCE_STATUSES, COMPUTE_POOL_NAME,\n"
        f"  PARAMETERS FROM TABLE(SNOWFLAKE.SPCS.GET_JOB_HISTORY(CREATED_TIME_START => {_literal(since)},\n"
        f"  RESULT_LIMIT => {MOST_ROWS})) WHERE DATABASE_NAME = ? AND SCHEMA_NAME = ? ORDER BY CREATED_TIME",
        [settings.database, settings.schema_name],
    )
    read = (_job(row, comments.get(row["NAME"]), known, schema, as_of) for row in found)
    return [job for job in read if job]


def _job(
    row: Mapping[str, Any], comment: str | None, steps: Sequence[Step], schema: str, as_of: datetime
) -> Job | None:
    owner = _owner(row["NAME"], comment, steps)
    if not owner:
        return None
    step, partition = owner
    created = _utc(row["CREATED_TIME"])
    over = row["COMPLETED_TIME"] or row["DELETED_TIME"]
    ended = _utc(over) if over else max(as_of, created)
    instances = _object(row["INSTANCE_STATUSES"]).get("instances") or []
    containers = [container for instance in instances for container in instance.get("containers") or []]
    starts = [_utc(datetime.fromisoformat(text)) for one in containers if (text := one.get("startTime"))]
    waits = row["STATUS"] == "PENDING" or not containers or all(one.get("status") == "PENDING" for one in containers)
    started = None if waits else max(created, min(starts, default=created))
    return Job(
        step,
        partition,
        f"{schema}.{row['NAME']}",
        str(row["COMPUTE_POOL_NAME"]),
        str(row["STATUS"]),
        max(1, len(instances), int(_object(row["PARAMETERS"]).get("REPLICAS") or 1)),
        created,
        started,
        max(ended, started or created),
        start_is_known=bool(starts) or waits,
    )


def _owner(name: str, comment: str | None, steps: Sequence[Step]) -> tuple[Step, str | None] | None:
    said = _object(comment)
    if said.get("dagster_run_id") and said.get("step"):
        return Step(str(said["dagster_run_id"]), str(said["step"])), said.get("partition")
    match = _JOB_NAME.fullmatch(name)
    if not match:
        return None
    run_id = str(uuid.UUID(match["run"]))
    of_run = [step for step in steps if step.run_id == run_id and _beginning(step.asset) == match["step"]]
    return (of_run[0] if of_run else Step(run_id, match["step"].lower())), None


def _beginning(asset: str) -> str:
    """How the name of a step's jobs begins."""
    return re.sub(r"\W", "_", asset).upper()[:16]


def _object(text: str | None) -> dict[str, Any]:
    try:
        values = json.loads(text or "{}")
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


# -- the table ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Collection:
    """What a collection found. ``unknown``: what to set so that every row has its credits."""

    since: datetime
    rows: int
    written: int
    unknown: tuple[str, ...]


def collect(session: Session, settings: Settings, as_of: datetime) -> Collection:
    """Bring PIPELINE_COSTS up to ``as_of``; what was collected before is not counted again.

    A step is written whole: where its beginning is too old to be read once more, its row stays as it is.
    """
    last = query.value(session, f"SELECT MAX(COLLECTED_AT) FROM {PIPELINE_COSTS.name}")
    reached = _utc(last) - OVERLAP if last else datetime.min.replace(tzinfo=UTC)
    # An hour less than a week: the server's clock goes on while we ask.
    since = max(reached, as_of - timedelta(days=STATEMENT_DAYS) + timedelta(hours=1))
    ran = statements(session, settings, since, as_of)
    jobs_since = max(reached, as_of - timedelta(days=JOB_DAYS) + timedelta(hours=1))
    found_jobs = jobs(session, settings, jobs_since, as_of, dict.fromkeys(one.step for one in ran))
    rows, unknown = estimate(session, settings, ran, _with_partitions(found_jobs, ran), as_of)
    whole = _whole(session, rows)
    _count_rows(session, whole)
    if whole:
        publish.merge_frame(session, PIPELINE_COSTS, _frame(whole, as_of))
    return Collection(min(since, jobs_since), len(rows), len(whole), unknown)


def estimate(
    session: Session, settings: Settings, ran: Sequence[Statement], found_jobs: Sequence[Job], as_of: datetime
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The rows of what was used, by the rates of today, and what to set where a rate is not known."""
    shown = {row["name"]: row for row in query.rows(session, f"SHOW WAREHOUSES LIKE '{validated(settings.warehouse)}'")}
    pools = {row["name"]: row for row in query.rows(session, "SHOW COMPUTE POOLS")}
    warehouse = shown.get(settings.warehouse)
    rows = [
        *job_rows(found_jobs, lambda name: pool_supply(settings, name, pools.get(name)), as_of),
        *warehouse_rows(ran, lambda size: warehouse_supply(settings, warehouse, size), as_of),
        *cortex_rows(ran, settings),
    ]
    supplies = [
        *(pool_supply(settings, name, pools.get(name)) for name in {job.pool for job in found_jobs}),
        *(warehouse_supply(settings, warehouse, size) for size in {one.size for one in ran}),
    ]
    return rows, tuple(sorted({supply.unknown for supply in supplies if supply.unknown}))


def _with_partitions(found: Sequence[Job], ran: Sequence[Statement]) -> list[Job]:
    """A deleted job's partition is that of its step's statements."""
    partitions = {one.step: one.partition for one in ran if one.partition}
    return [replace(job, partition=job.partition or partitions.get(job.step)) for job in found]


def _whole(session: Session, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that are not a later part of one that is there."""
    if not rows:
        return []
    there = query.rows(
        session,
        f"SELECT {', '.join(PIPELINE_COSTS.key)}, STARTED_AT FROM {PIPELINE_COSTS.name}\n"
        "WHERE ENDED_AT >= ?::TIMESTAMP_NTZ",
        [_ntz(min(row["STARTED_AT"] for row in rows))],
    )
    # Snowflake's history may be exact to other fractions of a second than the table.
    begun = {_key(row): _utc(row["STARTED_AT"]) + timedelta(milliseconds=1) for row in there}
    return [row for row in rows if _key(row) not in begun or row["STARTED_AT"] <= begun[_key(row)]]


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(row[name] for name in PIPELINE_COSTS.key)


def _ntz(moment: datetime) -> str:
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ")


def _count_rows(session: Session, rows: list[dict[str, Any]]) -> None:
    """Fill in ROWS_WRITTEN, by which runs are compared with those of their size."""
    counted = {table.name.lower(): table for table in TABLES if "RUN_ID" in table.column_names}
    for asset in {row["ASSET"] for row in rows} & counted.keys() - {PIPELINE_COSTS.name.lower()}:
        mine = [row for row in rows if row["ASSET"] == asset]
        runs = sorted({row["RUN_ID"] for row in mine})
        found = query.rows(
            session,
            f"SELECT RUN_ID, COUNT(*) AS N FROM {counted[asset].name}\n"
            f"WHERE RUN_ID IN ({', '.join('?' for _ in runs)}) GROUP BY RUN_ID",
            runs,
        )
        written = {row["RUN_ID"]: int(row["N"]) for row in found}
        for row in mine:
            row["ROWS_WRITTEN"] = written.get(row["RUN_ID"], 0)


def _frame(rows: Sequence[Mapping[str, Any]], as_of: datetime) -> pd.DataFrame:
    import pandas as pd

    types = {"INT": pd.Int64Dtype(), "FLOAT": pd.Float64Dtype()}
    frame = pd.DataFrame([{**row, "COLLECTED_AT": as_of} for row in rows], columns=list(PIPELINE_COSTS.column_names))
    for column in PIPELINE_COSTS.columns:
        if column.type == "TIMESTAMP_NTZ":
            frame[column.name] = pd.to_datetime(frame[column.name], utc=True).dt.tz_localize(None)
        elif column.type in types:
            frame[column.name] = frame[column.name].astype(types[column.type])
    return frame


def read(session: Session, since: datetime, until: datetime) -> pd.DataFrame:
    """The rows of PIPELINE_COSTS whose use began in [since, until); times in UTC, without saying so."""
    import pandas as pd

    found = query.rows(
        session,
        f"SELECT {', '.join(PIPELINE_COSTS.column_names)} FROM {PIPELINE_COSTS.name}\n"
        "WHERE STARTED_AT >= ?::TIMESTAMP_NTZ AND STARTED_AT < ?::TIMESTAMP_NTZ ORDER BY STARTED_AT, RUN_ID, ASSET",
        [_ntz(since), _ntz(until)],
    )
    frame = pd.DataFrame(found, columns=list(PIPELINE_COSTS.column_names))
    for column in PIPELINE_COSTS.columns:
        if column.type in ("INT", "FLOAT"):
            frame[column.name] = pd.to_numeric(frame[column.name]).astype("float64")
        elif column.type == "TIMESTAMP_NTZ":
            frame[column.name] = pd.to_datetime(frame[column.name])
    return frame

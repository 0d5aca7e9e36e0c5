"""What ``customer-insights doctor`` asks of Snowflake: each probe only looks, and changes nothing.

Each takes the open session and returns its findings; what it raises becomes a finding too (``doctor``).
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from command_line.findings import Finding, failed, ok, warning
from customer_insights import deployment, query, tables
from customer_insights.identifiers import qualified, validated
from customer_insights.settings import settings

if TYPE_CHECKING:
    from snowflake.snowpark import Session

DEPLOY = "customer-insights deploy"
# Snowflake runs no job for these: https://docs.snowflake.com/en/sql-reference/sql/execute-job-service
NO_JOBS = frozenset({"ACCOUNTADMIN", "SECURITYADMIN", "ORGADMIN"})
# A key pair's token counts from this clock; Snowflake allows a minute.
CLOCK_SECONDS = 30
_GRANT = re.compile(r"GRANT ([A-Z, ]+?) ON ([A-Z ]+?) ([\w.$]+) TO ROLE ([\w$]+)$")


def privileges(session: Session) -> list[Finding]:
    """The session's role has what deploy/snowflake/roles.sql gives to the pipeline's."""
    role = _unquoted(query.value(session, "SELECT CURRENT_ROLE()"))
    if role in NO_JOBS:
        return [
            failed(
                "privileges",
                f"the role is {role}, for which Snowflake runs no job",
                f'set role = "{settings().pipeline_role}" for the connection in connections.toml',
            )
        ]
    held = _held(session, role)
    missing: dict[tuple[str, str], list[str]] = {}
    for privilege, kind, name in needed():
        if not held & {(privilege, kind, name), ("ALL", kind, name), ("OWNERSHIP", kind, name)}:
            missing.setdefault((kind, name), []).append(privilege)
    if not missing:
        return [ok("privileges", f"role {role} has the {len(needed())} that the project needs")]
    return [
        failed(
            "privileges",
            f"role {role} lacks {', '.join(lacking)} on {kind.lower()} {name}",
            f"an administrator: GRANT {', '.join(lacking)} ON {kind} {name} TO ROLE {role};",
        )
        for (kind, name), lacking in missing.items()
    ]


def needed() -> list[tuple[str, str, str]]:
    """Privilege, kind and name of object: what the roles' script grants to the pipeline's role."""
    found = []
    for statement in deployment.split(deployment.roles_script(settings())):
        grant = _GRANT.match(" ".join(statement.split()))
        if not grant or grant[4] != settings().pipeline_role:
            continue
        if grant[2] == "INTEGRATION" and not settings().external_access_integrations:
            continue
        found += [(privilege.strip(), grant[2], grant[3]) for privilege in grant[1].split(",")]
    return found


def _held(session: Session, role: str) -> set[tuple[str, str, str]]:
    """The privileges of a role, of PUBLIC and of the roles that were granted to them."""
    found: set[tuple[str, str, str]] = set()
    asked, waiting = set(), [role, "PUBLIC"]
    while waiting:
        name = waiting.pop()
        if name in asked:
            continue
        asked.add(name)
        for row in query.rows(
            session, f'SHOW GRANTS TO ROLE "{name}"' if not name.isidentifier() else f"SHOW GRANTS TO ROLE {name}"
        ):
            kind = str(row["granted_on"]).replace("_", " ")
            if kind == "ROLE":
                waiting.append(str(row["name"]))
            found.add((str(row["privilege"]), kind, str(row["name"]).replace('"', "")))
    return found


def warehouse(session: Session) -> list[Finding]:
    """The warehouse is there, and a query runs in it."""
    name = settings().warehouse
    rows = _show(session, "WAREHOUSES", name)
    if not rows:
        return [failed("warehouse", f"{name} does not exist, or this role may not see it", DEPLOY)]
    row = rows[0]
    if row["state"] == "SUSPENDED" and str(row.get("auto_resume")).lower() == "false":
        return [
            failed("warehouse", f"{name} is suspended and does not resume by itself", f"ALTER WAREHOUSE {name} RESUME;")
        ]
    return [ok("warehouse", f"{name}, {row['size']}, {str(row['state']).lower()}")]


def schema(session: Session) -> list[Finding]:
    """Database and schema are there, and so is every table with its columns."""
    database, name = settings().database, settings().schema_name
    if not _show(session, "DATABASES", database):
        return [failed("schema", f"database {database} does not exist, or this role may not see it", DEPLOY)]
    if not _show(session, "SCHEMAS", name, f" IN DATABASE {validated(database)}"):
        return [failed("schema", f"schema {database}.{name} does not exist, or this role may not see it", DEPLOY)]
    shown = query.rows(
        session,
        f"SELECT TABLE_NAME, COLUMN_NAME FROM {validated(database)}.INFORMATION_SCHEMA.COLUMNS WHERE TABLE_SCHEMA = ?",
        [name],
    )
    present = {(row["TABLE_NAME"], row["COLUMN_NAME"]) for row in shown}
    findings = [*_tables(present), *_view(session)]
    return findings or [ok("schema", f"{settings().qualified_schema}: {len(tables.TABLES)} tables and the view")]


def _tables(present: set[tuple[str, str]]) -> list[Finding]:
    there = {table for table, _ in present}
    absent = [table.name for table in tables.TABLES if table.name not in there]
    lacking = {
        table.name: [column for column in table.column_names if (table.name, column) not in present]
        for table in tables.TABLES
        if table.name in there
    }
    findings = []
    if absent:
        findings.append(failed("schema", f"{len(absent)} tables are missing: {_some(absent)}", DEPLOY))
    for name, columns in lacking.items():
        if columns:
            findings.append(failed("schema", f"table {name} lacks {_some(columns)}", DEPLOY))
    return findings


def _view(session: Session) -> list[Finding]:
    name = tables.REVIEWS.name
    place = f" IN SCHEMA {qualified(settings().database, settings().schema_name)}"
    if _show(session, "TABLES", name, place):
        schema = settings().qualified_schema
        return [
            failed(
                "schema",
                f"{schema}.{name} is a table, as the quickstart makes it; the project has a view of that name",
                f"ALTER TABLE {schema}.{name} RENAME TO {schema}.{name}_QUICKSTART; then {DEPLOY}",
            )
        ]
    return [] if _show(session, "VIEWS", name, place) else [failed("schema", f"the view {name} is missing", DEPLOY)]


def stages(session: Session) -> list[Finding]:
    """The four stages are there."""
    chosen = settings()
    wanted = (chosen.review_stage, chosen.payload_stage, chosen.work_stage, chosen.report_stage)
    place = f" IN SCHEMA {qualified(chosen.database, chosen.schema_name)}"
    absent = [name for name in wanted if not _show(session, "STAGES", name, place)]
    if absent:
        said = f"{_some([f'@{name}' for name in absent])} does not exist, or this role may not see it"
        return [failed("stages", said, DEPLOY)]
    return [ok("stages", ", ".join(f"@{name}" for name in wanted))]


def compute_pool(session: Session) -> list[Finding]:
    """The pool is there, works or will when a job comes, and has the nodes that a job wants."""
    name = settings().compute_pool
    rows = _show(session, "COMPUTE POOLS", name)
    if not rows:
        return [
            failed(
                "compute pool",
                f"{name} does not exist, or this role may not see it",
                f"{DEPLOY}, or an administrator: GRANT USAGE, MONITOR ON COMPUTE POOL {name} TO ROLE <role>;",
            )
        ]
    return [*_pool_state(name, rows[0]), *_pool_size(name, rows[0])]


def _pool_state(name: str, row: dict[str, Any]) -> list[Finding]:
    state, resumes = str(row["state"]), str(row.get("auto_resume")).lower() == "true"
    if state in ("SUSPENDED", "STOPPING"):
        resume = f"ALTER COMPUTE POOL {name} RESUME;"
        if resumes:
            said = f"{name} is {state}: it resumes by itself with the next job, which waits some minutes for its nodes"
            return [warning("compute pool", said, resume)]
        return [
            failed("compute pool", f"{name} is {state} and does not resume by itself: jobs would wait for ever", resume)
        ]
    if state not in ("ACTIVE", "IDLE", "STARTING", "RESIZING"):
        said = f"{name} is {state}: {row.get('status_message') or row.get('error_code') or 'no reason given'}"
        return [failed("compute pool", said, f"DESCRIBE COMPUTE POOL {name};")]
    return [ok("compute pool", f"{name}, {row['instance_family']}, {row['max_nodes']} nodes at most, {state.lower()}")]


def _pool_size(name: str, row: dict[str, Any]) -> list[Finding]:
    findings, chosen = [], settings()
    if int(row["max_nodes"]) < chosen.target_instances:
        findings.append(
            failed(
                "compute pool",
                f"{name} has {row['max_nodes']} nodes at most, a job wants {chosen.target_instances}: it would wait "
                "for ever",
                f"ALTER COMPUTE POOL {name} SET MAX_NODES = {chosen.target_instances}; or lower "
                "CUSTOMER_INSIGHTS_TARGET_INSTANCES",
            )
        )
    if str(row["instance_family"]).upper() != chosen.compute_pool_family:
        findings.append(
            warning(
                "compute pool",
                f"{name} is of family {row['instance_family']}, the settings say {chosen.compute_pool_family}: "
                "credits would be estimated wrongly",
                f"export CUSTOMER_INSIGHTS_COMPUTE_POOL_FAMILY={row['instance_family']}",
            )
        )
    return findings


def clock(session: Session) -> list[Finding]:
    """This machine's clock and Snowflake's tell the same time."""
    told = query.value(session, "SELECT SYSDATE()")
    apart = abs((datetime.now(UTC).replace(tzinfo=None) - told.replace(tzinfo=None)).total_seconds())
    if apart > CLOCK_SECONDS:
        said = f"this machine's clock is {apart:.0f} s away from Snowflake's: logins by key pair are refused"
        return [failed("clock", said, "set it by the network: timedatectl set-ntp true")]
    return [ok("clock", f"{apart:.0f} s from Snowflake's")]


def cortex(session: Session) -> list[Finding]:
    """AI_SENTIMENT answers. Its one short text costs a fraction of a cent."""
    answer = query.value(session, "SELECT AI_SENTIMENT('The delivery was quick.')::STRING")
    entries = json.loads(answer)["categories"] if answer else []
    overall = next((entry["sentiment"] for entry in entries if entry["name"] == "overall"), None)
    if overall is None:
        return [
            failed(
                "Cortex",
                f"AI_SENTIMENT gave no answer: {answer}",
                "is the function there in the account's region? Else let the job read every language: "
                'export CUSTOMER_INSIGHTS_SENTIMENT_CORTEX_LANGUAGES=""',
            )
        ]
    return [ok("Cortex", f"AI_SENTIMENT answers ({overall})")]


def _show(session: Session, kind: str, name: str, place: str = "") -> list[dict[str, Any]]:
    """The rows of SHOW for exactly this name; its LIKE takes _ for any character."""
    rows = query.rows(session, f"SHOW {kind} LIKE '{validated(name)}'{place}")
    return [row for row in rows if row["name"] == name]


def _unquoted(name: object) -> str:
    return str(name).strip('"')


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])} and {len(names) - most} more"

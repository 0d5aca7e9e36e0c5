"""ML Jobs in SQL: what ``snowflake.ml.jobs`` sends to submit, watch, cancel and delete a job, and to read its logs.

Running a job belongs in ``job_runs``, giving it nodes in ``scheduler``, what is remembered of it in ``job_history``.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import yaml
from sqlglot.tokens import TokenType  # pyright: ignore[reportPrivateImportUsage]

from embedded_snowflake import compute_pools, computed_tables, job_history, job_logs, names, stages
from embedded_snowflake.errors import ProgrammingError, already_exists, does_not_exist, invalid, unsupported
from embedded_snowflake.job_history import CANCELLED, DONE, FAILED, INTERNAL_ERROR, PENDING, TERMINAL, Job
from embedded_snowflake.job_runs import mounted, published_variables
from embedded_snowflake.names import NAME, SHOW_TAIL, Name, Shown
from embedded_snowflake.scheduler import Scheduler
from embedded_snowflake.sessions import OWNER
from embedded_snowflake.statements import Answer, Query, Statement, at_start, rewriter, rows, statement, status
from embedded_snowflake.tokens import Edit, Tokens

if TYPE_CHECKING:
    from embedded_snowflake.server import EmbeddedSnowflake

CONTAINER = "main"
# The image's name is shown, nothing is pulled; the client wants a colon in it.
RUNTIME = f"/embedded_snowflake/runtime:python{sys.version_info.major}.{sys.version_info.minor}"
LONGEST_WAIT_SECONDS = 24 * 3600
WAIT_LOOK_SECONDS = 0.1
_SPEC_KEYS = {
    "STAGE_PATH",
    "ARGS",
    "ENV_VARS",
    "ENABLE_METRICS",
    "SPEC_OVERRIDES",
    "RUNTIME",
    "ENABLE_STAGE_MOUNT_V2",
    "ARTIFACT_REPOSITORIES",
}
_OPTION_KEYS = {
    "EXTERNAL_ACCESS_INTEGRATIONS",
    "QUERY_WAREHOUSE",
    "TARGET_INSTANCES",
    "MIN_INSTANCES",
    "GENERATE_SUFFIX",
    "COMMENT",
    "ASYNC",
}


@at_start
def start_scheduler(server: EmbeddedSnowflake) -> None:
    """Begin to serve the queues of the compute pools."""
    server.scheduler = Scheduler(server, server.configuration.object_store_memory)
    server.shutdown_callbacks.append(server.scheduler.stop)
    server.scheduler.start()


# -- submit ---------------------------------------------------------------------------------------------------------


@statement(r"(?:CALL|SELECT) SYSTEM\$GET_ML_JOB_RUNTIME\s*\((?P<arguments>.*)\)")
def get_ml_job_runtime(request: Statement) -> Answer:
    """CALL SYSTEM$GET_ML_JOB_RUNTIME(pool, runtime): there is one runtime, this Python"""
    pool, wanted, *_ = [*arguments(request), ""]
    compute_pools.usable(request, _pool_name(str(pool)))
    try:
        asked = json.loads(str(wanted)).get("pythonVersion") if wanted else None
    except (ValueError, AttributeError):
        asked = None
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if asked and asked != here:
        raise invalid(
            f"the client runs Python {asked} and the embedded server Python {here}: jobs need the same version"
        )
    return rows(["SYSTEM$GET_ML_JOB_RUNTIME"], [[RUNTIME]])


@statement(r"(?:CALL|SELECT) SYSTEM\$EXECUTE_ML_JOB\s*\((?P<arguments>.*)\)")
def execute_ml_job(request: Statement) -> Answer:
    """CALL SYSTEM$EXECUTE_ML_JOB(name, pool, spec, options): queue a job and return its id"""
    server = request.server
    given = arguments(request)
    if len(given) != 4:
        raise invalid(f"SYSTEM$EXECUTE_ML_JOB: expected 4 arguments (name, pool, spec, options), found {len(given)}")
    spec, options = _object("spec", str(given[2]), _SPEC_KEYS), _object("options", str(given[3]), _OPTION_KEYS)
    _refuse_what_is_not_served(spec)
    pool = compute_pools.usable(request, _pool_name(str(given[1])))
    target, least = _instances(options, pool)
    payload = stages.resolve(server, request.connection, str(spec["STAGE_PATH"]))
    with server.lock:
        name = _job_name(request, str(given[0]), bool(options.get("GENERATE_SUFFIX", True)))
        job = job_history.add(
            server,
            name=name,
            compute_pool=pool.name,
            stage=f"@{payload.stage.name}/{payload.path.strip('/')}".rstrip("/"),
            directory=payload.local,
            spec=spec,
            options=options,
            target_instances=target,
            min_instances=least,
            query_id=request.query_id,
        )
    server.scheduler.submitted(job)
    if not options.get("ASYNC", True):
        _wait(server, job.key, lambda reached: reached in TERMINAL, LONGEST_WAIT_SECONDS)
    return rows(["SYSTEM$EXECUTE_ML_JOB"], [[identifier(job.name)]])


def _object(what: str, text: str, known: set[str]) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise invalid(f"SYSTEM$EXECUTE_ML_JOB: the {what} are not JSON: {error}") from error
    if not isinstance(found, dict):
        raise invalid(f"SYSTEM$EXECUTE_ML_JOB: the {what} must be a JSON object")
    if unknown := sorted(set(found) - known):
        raise unsupported(
            f"SYSTEM$EXECUTE_ML_JOB with {', '.join(unknown)}", f"known {what}: {', '.join(sorted(known))}"
        )
    return found


def _refuse_what_is_not_served(spec: dict[str, Any]) -> None:
    """Integrations, artifact repositories and metrics are recorded and change nothing; these would change what runs."""
    if not isinstance(spec.get("STAGE_PATH"), str):
        raise invalid("SYSTEM$EXECUTE_ML_JOB: the spec has no STAGE_PATH")
    if spec.get("SPEC_OVERRIDES"):
        raise unsupported("ML Jobs with spec_overrides", "there is no container to override")
    if (spec.get("ENV_VARS") or {}).get("MLRS_LAUNCH_BACKEND"):
        raise unsupported("ML Jobs with parallel=True", "use Ray to reach every instance")
    started_by = [str(argument) for argument in (spec.get("ARGS") or [])[:2]]
    if started_by != ["bash", "/mnt/job_stage/system/startup.sh"] or len(spec["ARGS"]) < 3:
        raise unsupported(f"ML Jobs that start with {started_by}", "expected the client's own system/startup.sh")


def _instances(options: dict[str, Any], pool: compute_pools.Pool) -> tuple[int, int]:
    target = int(options.get("TARGET_INSTANCES") or 1)
    least = int(options.get("MIN_INSTANCES") or target)
    if not 1 <= least <= target:
        raise invalid(f"expected 1 <= MIN_INSTANCES <= TARGET_INSTANCES, found {least} and {target}")
    if target > pool.max_nodes:
        raise invalid(
            f"The job asks for {target} instances, and compute pool '{pool.name}' has MAX_NODES = {pool.max_nodes}. "
            "Ask for fewer instances or ALTER COMPUTE POOL ... SET MAX_NODES."
        )
    return target, least


def _job_name(request: Statement, spelled: str, suffixed: bool) -> Name:
    base = names.qualified(request.connection, spelled.rstrip("_") if suffixed else spelled)
    # A service's name becomes a DNS label; here it also names the folder of the job's result.
    if not re.fullmatch(r"[A-Za-z0-9_$]+", base.name):
        raise invalid(f"a job's name has letters, digits, _ and $ only, found '{base.name}'")
    name = Name(base.database, base.schema, f"{base.name}_{secrets.token_hex(4).upper()}") if suffixed else base
    if job_history.named(request.server, name):
        raise already_exists("Object", str(name))
    return name


def _pool_name(spelled: str) -> str:
    found = names.parts(spelled) if spelled else []
    if len(found) != 1:
        raise invalid(f"a compute pool's name has one part, found '{spelled}'")
    return found[0]


# -- one job --------------------------------------------------------------------------------------------------------


@statement(rf"DESC(?:RIBE)? SERVICE (?P<name>{NAME})")
def describe_service(request: Statement) -> Answer:
    """DESCRIBE SERVICE job"""
    job = _named(request)
    return rows([*_COLUMNS, "spec"], [[*_shown(job), specification(job)]])


@statement(rf"SHOW (?:JOB )?SERVICES(?P<excluded> EXCLUDE JOBS)?{SHOW_TAIL}")
def show_services(request: Statement) -> Answer:
    """SHOW [JOB] SERVICES [LIKE pattern] [IN scope] [LIMIT n]: jobs, newest first; there are no other services"""
    shown = Shown.of(request.match, request.connection, request.binds)
    known = [] if request.group("excluded") else reversed(job_history.select(request.server, "deleted_on IS NULL"))
    found = [_shown(job) for job in known if shown.has(job.name.name, job.name.database, job.name.schema)]
    return rows(_COLUMNS, found[: shown.limit])


@statement(rf"SHOW (?:JOB )?SERVICES IN COMPUTE POOL (?P<name>{NAME})")
def show_services_in_compute_pool(request: Statement) -> Answer:
    """SHOW [JOB] SERVICES IN COMPUTE POOL name"""
    pool = compute_pools.find(request.server, _pool_name(names.spelled(request.group("name") or "", request.binds)))
    found = job_history.select(request.server, "deleted_on IS NULL AND compute_pool = ?", (pool.name,))
    return rows(_COLUMNS, [_shown(job) for job in reversed(found)])


@statement(rf"SHOW SERVICE INSTANCES IN SERVICE (?P<name>{NAME})")
def show_service_instances(request: Statement) -> Answer:
    """SHOW SERVICE INSTANCES IN SERVICE job: one a Ray node, number 0 is the head"""
    job = _named(request)
    columns = (
        "database_name schema_name service_name instance_id status spec_digest creation_time start_time ip_address"
    )
    answer = [
        (*_place(job), str(instance), _instance_status(job), _digest(job), job.created_on, job.started_on, "127.0.0.1")
        for instance in range(job.target_instances)
    ]
    return rows(columns.split(), answer)


@statement(rf"SHOW SERVICE CONTAINERS IN SERVICE (?P<name>{NAME})")
def show_service_containers(request: Statement) -> Answer:
    """SHOW SERVICE CONTAINERS IN SERVICE job"""
    job = _named(request)
    columns = (
        "database_name schema_name service_name service_status instance_id instance_status container_name status "
        "message image_name image_digest restart_count start_time last_exit_code"
    )
    state, image = _instance_status(job), (RUNTIME, "", 0)
    answer = [
        (
            *_place(job),
            job.status,
            str(instance),
            state,
            CONTAINER,
            state,
            job.message,
            *image,
            job.started_on,
            job.exit_code,
        )
        for instance in range(job.target_instances)
    ]
    return rows(columns.split(), answer)


@statement(rf"SHOW ENDPOINTS IN SERVICE (?P<name>{NAME})")
def show_endpoints(request: Statement) -> Answer:
    """SHOW ENDPOINTS IN SERVICE job: there are none, Ray's dashboard is off"""
    _named(request)
    return rows(["name", "port", "port_range", "protocol", "is_public", "ingress_url"], [])


@statement(rf"DROP SERVICE(?P<exists> IF EXISTS)? (?P<name>{NAME})(?: FORCE)?")
def drop_service(request: Statement) -> Answer:
    """DROP SERVICE [IF EXISTS] job: end it where it runs, forget its logs"""
    server = request.server
    try:
        job = _named(request)
    except ProgrammingError as error:
        if request.group("exists") and error.errno == 2003:
            return status("Drop statement executed successfully.")
        raise
    server.scheduler.cancel(job.key, "dropped")
    _wait(server, job.key, lambda reached: reached in TERMINAL, 60)
    job_history.delete(server, job.key)
    return status(f"{job.name.name} successfully dropped.")


@statement(rf"CALL (?P<name>{NAME})\s*!\s*SPCS_CANCEL_JOB\s*\(\s*\)")
def spcs_cancel_job(request: Statement) -> Answer:
    """CALL job!SPCS_CANCEL_JOB()"""
    job = _named(request)
    if job.over:
        return rows(["SPCS_CANCEL_JOB"], [[f"Job {job.name} has already ended with status {job.status}."]])
    request.server.scheduler.cancel(job.key, "cancelled by SPCS_CANCEL_JOB")
    return rows(["SPCS_CANCEL_JOB"], [[f"Cancellation of job {job.name} was requested."]])


@statement(rf"CALL (?P<name>{NAME})\s*!\s*SPCS_WAIT_FOR\s*\((?P<arguments>.*)\)")
def spcs_wait_for(request: Statement) -> Answer:
    """CALL job!SPCS_WAIT_FOR(status, seconds): an error when that time passes or the status cannot come any more"""
    job = _named(request)
    given = arguments(request)
    if len(given) != 2 or not isinstance(given[1], (int, float)):
        raise invalid("SPCS_WAIT_FOR: expected a status and a number of seconds")
    wanted = str(given[0]).upper()
    reached = _wait(
        request.server,
        job.key,
        lambda reached: reached == wanted or reached in TERMINAL,
        min(given[1], LONGEST_WAIT_SECONDS),
    )
    if reached == wanted:
        return rows(["SPCS_WAIT_FOR"], [[f"Service {job.name} reached status {wanted}."]])
    why = "can never reach" if reached in TERMINAL else f"did not within {given[1]:g} seconds reach"
    raise ProgrammingError(
        msg=f"Service {job.name} {why} status {wanted}. Current status: {reached}.", errno=395092, sqlstate="P0001"
    )


def _wait(server: EmbeddedSnowflake, key: str, enough: Callable[[str], bool], seconds: float) -> str:
    """The job's status as soon as it is enough, or after so many seconds, or when the server stops."""
    deadline = time.monotonic() + seconds
    while not enough(reached := job_history.status_of(server, key)):
        if time.monotonic() > deadline or server.scheduler.stopping.wait(WAIT_LOOK_SECONDS):
            break
    return reached


def _named(request: Statement) -> Job:
    name = names.qualified(request.connection, names.spelled(request.group("name") or "", request.binds))
    return _existing(request.server, name)


def _existing(server: EmbeddedSnowflake, name: Name) -> Job:
    job = job_history.named(server, name)
    if not job:
        raise does_not_exist("Service", str(name))
    return job


# fmt: off
_COLUMNS = (
    "name", "status", "database_name", "schema_name", "owner", "compute_pool", "dns_name", "current_instances",
    "target_instances", "min_ready_instances", "min_instances", "max_instances", "auto_resume",
    "external_access_integrations", "created_on", "updated_on", "resumed_on", "suspended_on", "auto_suspend_secs",
    "comment", "owner_role_type", "query_warehouse", "is_job", "is_async_job", "spec_digest", "is_upgrading",
    "managing_object_domain", "managing_object_name",
)
# fmt: on


def _shown(job: Job) -> tuple[object, ...]:
    integrations, target = job.options.get("EXTERNAL_ACCESS_INTEGRATIONS"), job.target_instances
    running = 0 if job.over or job.status == PENDING else target
    kind = (job.name.name, job.status, job.name.database, job.name.schema, OWNER, job.compute_pool, "")
    instances = (running, target, target, job.min_instances, target, "false")
    times = (job.created_on, job.updated_on, None, None, 0)
    job_like = ("true", str(bool(job.options.get("ASYNC", True))).lower(), _digest(job), "false", None, None)
    allowed = json.dumps(integrations) if integrations else None
    return (*kind, *instances, allowed, *times, job.comment, "ROLE", job.options.get("QUERY_WAREHOUSE"), *job_like)


def _place(job: Job) -> tuple[str, str, str]:
    return job.name.database, job.name.schema, job.name.name


def _instance_status(job: Job) -> str:
    ended = {DONE: "SUCCEEDED", FAILED: "FAILED", CANCELLED: "TERMINATED", INTERNAL_ERROR: "FAILED", PENDING: "PENDING"}
    return ended.get(job.status, "READY")


def _digest(job: Job) -> str:
    return hashlib.sha256(json.dumps(job.spec, sort_keys=True).encode()).hexdigest()


def specification(job: Job) -> str:
    """The service specification as YAML. A mount's path is the directory on this machine: the job knows no other."""
    variables = {key: mounted(str(value), job.directory) for key, value in (job.spec.get("ENV_VARS") or {}).items()}
    mounts = {"stage-volume": (job.directory, job.stage), "result-volume": (job.result_directory, job.result_stage)}
    container = {
        "name": CONTAINER,
        "image": job.spec.get("RUNTIME") or RUNTIME,
        "args": job.spec["ARGS"],
        "env": {**variables, **published_variables(job)},
        "volumeMounts": [{"name": name, "mountPath": str(path)} for name, (path, _) in mounts.items()],
    }
    volumes = [{"name": name, "source": "stage", "stageConfig": {"name": stage}} for name, (_, stage) in mounts.items()]
    return yaml.safe_dump({"spec": {"containers": [container], "volumes": volumes}}, sort_keys=False)


def identifier(name: Name) -> str:
    """The name as SQL spells it, so that it can stand before ``!SPCS_WAIT_FOR``."""
    parts = (name.database, name.schema, name.name)
    return ".".join(part if re.fullmatch(r"[A-Z_][A-Z0-9_$]*", part) else names.quoted(part) for part in parts)


# -- logs -----------------------------------------------------------------------------------------------------------


@statement(r"(?:CALL|SELECT) SYSTEM\$GET_SERVICE_LOGS\s*\((?P<arguments>.*)\)")
def get_service_logs(request: Statement) -> Answer:
    """SELECT SYSTEM$GET_SERVICE_LOGS(job, instance, container[, lines]): the last 100 KB of an instance's log"""
    given = arguments(request)
    if len(given) not in (3, 4):
        raise invalid("SYSTEM$GET_SERVICE_LOGS: expected a job, an instance, a container and perhaps a number of lines")
    job = _existing(request.server, names.qualified(request.connection, str(given[0])))
    instance = str(given[1])
    if not instance.isdigit() or int(instance) >= job.target_instances:
        raise invalid(
            f"Instance {instance} does not exist: job {job.name} has {job.target_instances}, counted from 0", 395018
        )
    if str(given[2]) != CONTAINER:
        raise invalid(f"Container '{given[2]}' does not exist: a job's container is '{CONTAINER}'", 395018)
    if job.status == PENDING:
        raise invalid(f"Unable to get logs of {job.name}. Container Status: PENDING. {job.message}", 395018)
    log = job_logs.path(job_history.own_directory(request.server, job.key), int(instance))
    lines = int(str(given[3])) if len(given) == 4 else None
    return rows(["SYSTEM$GET_SERVICE_LOGS"], [[job_logs.tail(log, lines)]])


@rewriter(r"spcs_get_logs|get_job_history")
def table_functions(query: Query) -> str:
    """TABLE(job!SPCS_GET_LOGS()) and TABLE(SNOWFLAKE.SPCS.GET_JOB_HISTORY()) as the rows that they return."""
    tokens = Tokens(query.sql)
    edits = []
    for call in tokens.calls():
        if [part.upper() for part in call.path] != ["TABLE"] or len(call.arguments) != 1:
            continue
        argument = call.arguments[0].strip()
        if re.fullmatch(r"(?:snowflake\.)?spcs\.get_job_history\s*\(.*\)", argument, re.IGNORECASE | re.DOTALL):
            edits.append(Edit(call.start, call.end, _history(query, argument)))
        elif found := re.fullmatch(rf"({NAME})\s*!\s*spcs_get_logs\s*\(.*\)", argument, re.IGNORECASE | re.DOTALL):
            job = _existing(query.server, names.qualified(query.connection, found.group(1)))
            edits.append(Edit(call.start, call.end, _logs(query.server, job)))
    return tokens.edited(edits)


# DuckDB's types of the columns of GET_JOB_HISTORY and SPCS_GET_LOGS.
_HISTORY = {
    "QUERY_ID": "VARCHAR",
    "ID": "BIGINT",
    **dict.fromkeys(("NAME", "DATABASE_NAME", "SCHEMA_NAME"), "VARCHAR"),
    **dict.fromkeys(("CREATED_TIME", "COMPLETED_TIME", "DELETED_TIME"), "TIMESTAMP WITH TIME ZONE"),
    **dict.fromkeys(("STATUS", "MESSAGE"), "VARCHAR"),
    "INSTANCE_STATUSES": "JSON",
    **dict.fromkeys(("COMPUTE_POOL_NAME", "OWNER", "OWNER_ROLE_TYPE"), "VARCHAR"),
    **dict.fromkeys(("PARAMETERS", "MANAGING_OBJECT"), "JSON"),
}
_HISTORY_ARGUMENTS = ("CREATED_TIME_START", "CREATED_TIME_END", "RESULT_LIMIT")
HISTORY_DAYS = 30
_LOGS = {
    "TIMESTAMP": "TIMESTAMP WITH TIME ZONE",
    "INSTANCE_ID": "BIGINT",
    "CONTAINER_NAME": "VARCHAR",
    "LOG": "VARCHAR",
}


def _history(query: Query, call: str) -> str:
    """The jobs, deleted ones too, newest first, as a source for FROM."""
    given = computed_tables.named_arguments(call, _HISTORY_ARGUMENTS)
    first, last = (
        computed_tables.moment(query, given[name]).replace(tzinfo=None) if name in given else default
        for name, default in (
            ("CREATED_TIME_START", compute_pools.now() - timedelta(days=HISTORY_DAYS)),
            ("CREATED_TIME_END", compute_pools.now()),
        )
    )
    most = computed_tables.limit(given.get("RESULT_LIMIT", "100"))
    jobs = job_history.select(query.server, "created_on >= ? AND created_on <= ?", (first, last))
    found = [
        (
            *(job.query_id, int(job.key[:15], 16), job.name.name, job.name.database, job.name.schema),
            *(_utc(time) for time in (job.created_on, job.completed_on, job.deleted_on)),
            *(job.status, job.message, json.dumps(_instance_statuses(job))),
            *(job.compute_pool, OWNER, "ROLE"),
            json.dumps({"ASYNC": bool(job.options.get("ASYNC", True)), "REPLICAS": job.target_instances}),
            None,
        )
        for job in reversed(jobs[-most:])
    ]
    return computed_tables.source(query.server, _HISTORY, found)


def _instance_statuses(job: Job) -> dict[str, object]:
    """The instances that were made, one a Ray node: none before the job has its nodes."""
    instances = range(job.target_instances) if job.started_on else ()
    container = {
        "containerName": CONTAINER,
        "lastExitCode": job.exit_code,
        "message": job.message,
        "restartCount": 0,
        "startTime": f"{job.started_on.isoformat(timespec='milliseconds')}Z" if job.started_on else "",
        "status": job.status,
    }
    state = "running" if not job.over else "succeeded" if job.status == DONE else "failed"
    counts = {f"{name}Instances": len(instances) if name == state else 0 for name in ("failed", "running", "succeeded")}
    pending = 0 if job.started_on or job.over else job.target_instances
    return {
        **counts,
        "pendingInstances": pending,
        "totalInstances": len(instances) + pending,
        "instances": [{"instanceId": str(instance), "containers": [container]} for instance in instances],
    }


def _utc(time: datetime | None) -> datetime | None:
    return time.replace(tzinfo=UTC) if time else None


def _logs(server: EmbeddedSnowflake, job: Job) -> str:
    """The lines of a job's instances as a source for FROM."""
    directory = job_history.own_directory(server, job.key)
    found = [
        # The file has no times; what ORDER BY TIMESTAMP needs is the order.
        (job.created_on + timedelta(microseconds=number), instance, CONTAINER, line)
        for instance in range(job.target_instances)
        for number, line in enumerate(job_logs.read(job_logs.path(directory, instance)).splitlines())
    ]
    return computed_tables.source(server, _LOGS, found)


# -- arguments ------------------------------------------------------------------------------------------------------


def arguments(request: Statement) -> list[object]:
    """The values of a call's arguments: literals, NULL and the statement's binds in their order."""
    binds = iter(request.binds if isinstance(request.binds, (list, tuple)) else [])
    values: list[object] = []
    sign = 1
    for token in Tokens(request.group("arguments") or "").all:
        if token.token_type == TokenType.COMMA:
            continue
        if token.token_type == TokenType.DASH:
            sign = -1
        elif token.token_type == TokenType.PLACEHOLDER:
            values.append(next(binds, None))
        elif token.token_type == TokenType.STRING:
            values.append(token.text)
        elif token.token_type == TokenType.NUMBER:
            values.append(sign * (float(token.text) if "." in token.text else int(token.text)))
            sign = 1
        elif token.token_type == TokenType.NULL:
            values.append(None)
        else:
            raise invalid(f"expected literals and binds as arguments, found {token.text!r}")
    return values

"""Sessions and what they use: warehouse, role, parameters, query ids, open transactions; warehouses, roles and grants.

A warehouse is a row that is started and suspended and does no work. A role or a GRANT is recorded and shown, and
restrains nobody but on compute pools: there a role that was made by CREATE ROLE needs its grant (``may``).
Everything is owned by SYSADMIN. Compute pools, which do work, are in ``compute_pools``; who may log in is in ``users``
and ``logins``.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from embedded_snowflake import names
from embedded_snowflake.catalog import declare
from embedded_snowflake.errors import ProgrammingError, already_exists, insufficient_privileges, invalid
from embedded_snowflake.names import NAME, SHOW_TAIL, Name, Shown
from embedded_snowflake.statements import Answer, Options, Sql, Statement, rows, statement, status

if TYPE_CHECKING:
    from fakesnow.fakes import FakeSnowflakeConnection

    from embedded_snowflake.server import EmbeddedSnowflake

declare(
    """CREATE TABLE IF NOT EXISTS warehouses (
        name VARCHAR PRIMARY KEY, size VARCHAR, type VARCHAR, state VARCHAR, auto_suspend BIGINT, auto_resume BOOLEAN,
        comment VARCHAR, created_on TIMESTAMPTZ)"""
)
declare("CREATE TABLE IF NOT EXISTS roles (name VARCHAR PRIMARY KEY, comment VARCHAR, created_on TIMESTAMPTZ)")
declare(
    """CREATE TABLE IF NOT EXISTS grants (
        created_on TIMESTAMPTZ, privilege VARCHAR, granted_on VARCHAR, name VARCHAR, granted_to VARCHAR,
        grantee_name VARCHAR, PRIMARY KEY (privilege, granted_on, name, granted_to, grantee_name))"""
)

OWNER = "SYSADMIN"
SYSTEM_ROLES = ("ACCOUNTADMIN", "ORGADMIN", "PUBLIC", "SECURITYADMIN", "SYSADMIN", "USERADMIN")
REMEMBERED_QUERIES = 200
STARTING_PARAMETERS = {"AUTOCOMMIT": "true", "QUERY_TAG": "", "TIMEZONE": "Etc/UTC"}
IDLE_SECONDS = 4 * 3600.0


@dataclass(frozen=True)
class Login:
    """Who opened a session, by what, and the one role that it may have where its token is for one role only."""

    user: str
    authenticator: str
    role: str | None = None
    default_role: str = OWNER
    # The key of the job whose password it was.
    job: str | None = None


@dataclass(eq=False)
class Session:
    """What one login has set and left open."""

    connection: weakref.ref[FakeSnowflakeConnection]
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    number: int = field(default_factory=lambda: uuid.uuid4().int % 10**15)
    # A DuckDB connection runs one statement at a time.
    lock: threading.RLock = field(default_factory=threading.RLock)
    warehouse: str | None = None
    role: str = OWNER
    parameters: dict[str, str] = field(default_factory=dict)
    query_ids: deque[str] = field(default_factory=lambda: deque(maxlen=REMEMBERED_QUERIES))
    temporary_tables: set[Name] = field(default_factory=set)
    temporary_formats: set[Name] = field(default_factory=set)
    in_transaction: bool = False
    login: Login = Login("", "")
    # The key of the job that opened it, None for anybody else.
    job: str | None = None
    # Whether the running statement shall give up: its client has, or has gone.
    cancelled: bool = False
    # Why the open transaction was ended from outside, to be said at the session's next statement.
    aborted: str | None = None
    last_active: float = field(default_factory=time.monotonic)

    @property
    def owner(self) -> str:
        """Whose results its statements leave: its user's or its job's."""
        return f"job {self.job}" if self.job else f"user {self.login.user}"

    def abort_transaction(self, reason: str) -> bool:
        """Roll the open transaction back from outside. False when the session is running a statement."""
        if not self.lock.acquire(blocking=False):
            return False
        try:
            connection = self.connection()
            if connection:
                connection._duck_conn.rollback()
                connection._in_transaction = False
            self.in_transaction, self.aborted = False, reason
        finally:
            self.lock.release()
        return True


_SESSIONS: weakref.WeakKeyDictionary[FakeSnowflakeConnection, Session] = weakref.WeakKeyDictionary()
_ENDERS: list[Callable[[EmbeddedSnowflake, Session], None]] = []
_CREATION = threading.Lock()


def of(connection: FakeSnowflakeConnection) -> Session:
    """The session of a connection."""
    with _CREATION:
        if connection not in _SESSIONS:
            _SESSIONS[connection] = Session(weakref.ref(connection))
        return _SESSIONS[connection]


def require_no_job(connection: FakeSnowflakeConnection, deed: str) -> None:
    """Raise for a session that a job opened: what runs in a job must not be able to raise its own rights."""
    if of(connection).job:
        raise insufficient_privileges(f"a session that a job opened may not {deed}")


def at_end(ender: Callable[[EmbeddedSnowflake, Session], None]) -> Callable[[EmbeddedSnowflake, Session], None]:
    """Call this when a session ends."""
    _ENDERS.append(ender)
    return ender


def end(server: EmbeddedSnowflake, connection: FakeSnowflakeConnection) -> None:
    """Undo what the session left open, drop what was its own and close it."""
    session = of(connection)
    session.cancelled = True
    for ender in _ENDERS:
        ender(server, session)
    with session.lock:
        connection.close()


def cancel(connection: FakeSnowflakeConnection) -> None:
    """Have the session's running statement give up."""
    of(connection).cancelled = True
    connection._duck_conn.interrupt()


def end_idle(server: EmbeddedSnowflake) -> None:
    """End the sessions that nobody has used for Snowflake's four hours: their client is gone."""
    latest = time.monotonic() - IDLE_SECONDS
    busy = list(server.running.values())
    for token, connection in server.session_tokens.open():
        if of(connection).last_active < latest and connection not in busy:
            server.session_tokens.close(token)
            end(server, connection)


def known_warehouse(server: EmbeddedSnowflake, name: str) -> str | None:
    """The warehouse of a login, None where there is none of that name: a login does not fail for that."""
    return name.upper() if name.upper() in _warehouses(server) else None


@statement(rf"USE WAREHOUSE (?P<name>{NAME})")
def use_warehouse(request: Statement) -> Answer:
    """USE WAREHOUSE name"""
    name = _single(request)
    _require_warehouse(request.server, name)
    of(request.connection).warehouse = name
    return status("Statement executed successfully.")


@statement(rf"USE ROLE (?P<name>{NAME})")
def use_role(request: Statement) -> Answer:
    """USE ROLE name: the role is the session's current one; it restrains who uses a compute pool"""
    name = _single(request)
    if name not in _roles(request.server):
        raise _no_object(name)
    session = of(request.connection)
    if session.login.role not in (None, name):
        raise insufficient_privileges(f"this session's token is restricted to role '{session.login.role}'")
    session.role = name
    return status("Statement executed successfully.")


@statement(r"USE SECONDARY ROLES (?P<which>ALL|NONE)")
def use_secondary_roles(request: Statement) -> Answer:
    """USE SECONDARY ROLES ALL | NONE: no effect, every role may do everything"""
    return status("Statement executed successfully.")


@statement(r"(?:SELECT|CALL) SYSTEM\$CANCEL_ALL_QUERIES\s*\(.*\)")
def cancel_all_queries(request: Statement) -> Answer:
    """SELECT SYSTEM$CANCEL_ALL_QUERIES(session): Snowpark's farewell; a session has no other statement to cancel"""
    return rows(["SYSTEM$CANCEL_ALL_QUERIES"], [["no queries to cancel"]])


@statement(r"ALTER SESSION SET (?P<settings>.+)")
def set_parameters(request: Statement) -> Answer:
    """ALTER SESSION SET key = value ...: remembered and shown; only AUTOCOMMIT and QUERY_TAG (in the history of
    statements) have an effect, dates stay in UTC"""
    for key, value in Options.parse(request.group("settings")).values.items():
        of(request.connection).parameters[key] = value
        if key == "AUTOCOMMIT":
            request.connection.autocommit(value.upper() == "TRUE")
    return status("Statement executed successfully.")


@statement(r"ALTER SESSION UNSET (?P<keys>[\w\s,]+)")
def unset_parameters(request: Statement) -> Answer:
    """ALTER SESSION UNSET key, ..."""
    for key in re.split(r"[\s,]+", (request.group("keys") or "").strip()):
        of(request.connection).parameters.pop(key.upper(), None)
    return status("Statement executed successfully.")


@statement(rf"SHOW PARAMETERS{SHOW_TAIL}")
def show_parameters(request: Statement) -> Answer:
    """SHOW PARAMETERS [LIKE pattern]: what this session has set, and the few that it has from the start"""
    tail = request.match
    like = tail.group("like")
    wanted = names.like_pattern(names.first_bind(request.binds) if like == "?" else names.text(like)) if like else None
    own = of(request.connection).parameters
    known = {**STARTING_PARAMETERS, **own}
    answer = [
        (key, value, STARTING_PARAMETERS.get(key, ""), "SESSION" if key in own else "", "", "STRING")
        for key, value in sorted(known.items())
        if not wanted or wanted.fullmatch(key)
    ]
    return rows(["key", "value", "default", "level", "description", "type"], answer)


_WAREHOUSE_OPTIONS = {
    *("WAREHOUSE_SIZE", "WAREHOUSE_TYPE", "INITIALLY_SUSPENDED", "AUTO_SUSPEND", "AUTO_RESUME", "COMMENT"),
    "WAIT_FOR_COMPLETION",
}
_SIZES = {"XSMALL": "X-Small", "SMALL": "Small", "MEDIUM": "Medium", "LARGE": "Large", "XLARGE": "X-Large"}


def add_warehouse(server: EmbeddedSnowflake, name: str, options: Options | None = None) -> None:
    """Record a warehouse; one that exists stays as it is."""
    options = options or Options()
    for key in options.values.keys() - _WAREHOUSE_OPTIONS:
        raise invalid(f"SQL compilation error:\ninvalid property '{key}' for 'WAREHOUSE'", 1423)
    server.catalog.execute(
        "INSERT OR IGNORE INTO warehouses VALUES (?, ?, ?, ?, ?, ?, ?, now())",
        [
            name,
            _size(options.get("WAREHOUSE_SIZE", "XSMALL")),
            options.get("WAREHOUSE_TYPE", "STANDARD").upper(),
            "SUSPENDED" if options.get("INITIALLY_SUSPENDED").upper() == "TRUE" else "STARTED",
            _seconds(options.get("AUTO_SUSPEND", "600")),
            options.get("AUTO_RESUME", "TRUE").upper() == "TRUE",
            options.get("COMMENT"),
        ],
    )


def _size(spelled: str) -> str:
    key = spelled.upper().replace("-", "")
    return _SIZES.get(key, spelled.upper())


def _seconds(spelled: str) -> int:
    return int(spelled) if spelled.isdigit() else 0


@statement(rf"CREATE(?P<replace> OR REPLACE)? WAREHOUSE(?P<exists> IF NOT EXISTS)? (?P<name>{NAME})(?P<options>.*)")
def create_warehouse(request: Statement) -> Answer:
    """CREATE [OR REPLACE] WAREHOUSE [IF NOT EXISTS] name [WITH] [options]"""
    name = _single(request)
    if name in _warehouses(request.server):
        if request.group("exists"):
            return status(f"{name} already exists, statement succeeded.")
        if not request.group("replace"):
            raise already_exists("Object", name)
        request.server.catalog.execute("DELETE FROM warehouses WHERE name = ?", [name])
    add_warehouse(request.server, name, Options.parse(request.group("options")))
    of(request.connection).warehouse = name
    return status(f"Warehouse {name} successfully created.")


@statement(
    rf"ALTER WAREHOUSE(?P<exists> IF EXISTS)? (?P<name>{NAME})"
    r" (?P<action>SUSPEND|RESUME|SET|ABORT ALL QUERIES)(?: IF SUSPENDED)?(?P<options>.*)"
)
def alter_warehouse(request: Statement) -> Answer:
    """ALTER WAREHOUSE name SUSPEND | RESUME | SET options | ABORT ALL QUERIES"""
    name, action = _single(request), " ".join((request.group("action") or "").upper().split())
    if name not in _warehouses(request.server):
        if request.group("exists"):
            return status("Statement executed successfully.")
        raise _no_object(name)
    settings: dict[str, object] = {}
    if action == "ABORT ALL QUERIES":
        for connection in list(request.server.running.values()):
            if of(connection).warehouse == name and connection is not request.connection:
                cancel(connection)
    if action in ("SUSPEND", "RESUME"):
        settings["state"] = "SUSPENDED" if action == "SUSPEND" else "STARTED"
    for key, value in Options.parse(request.group("options")).values.items():
        if key == "WAREHOUSE_SIZE":
            settings["size"] = _size(value)
        elif key == "AUTO_SUSPEND":
            settings["auto_suspend"] = _seconds(value)
        elif key == "AUTO_RESUME":
            settings["auto_resume"] = value.upper() == "TRUE"
        elif key == "COMMENT":
            settings["comment"] = value
        elif key != "WAIT_FOR_COMPLETION":
            raise invalid(f"SQL compilation error:\ninvalid property '{key}' for 'WAREHOUSE'", 1423)
    if settings:
        assignments = ", ".join(f"{column} = ?" for column in settings)
        request.server.catalog.execute(
            f"UPDATE warehouses SET {assignments} WHERE name = ?", [*settings.values(), name]
        )
    return status("Statement executed successfully.")


@statement(rf"DROP WAREHOUSE(?P<exists> IF EXISTS)? (?P<name>{NAME})")
def drop_warehouse(request: Statement) -> Answer:
    """DROP WAREHOUSE [IF EXISTS] name"""
    name = _single(request)
    if name not in _warehouses(request.server):
        if request.group("exists"):
            return status("Drop statement executed successfully.")
        raise _no_object(name)
    request.server.catalog.execute("DELETE FROM warehouses WHERE name = ?", [name])
    return status(f"{name} successfully dropped.")


@statement(rf"SHOW WAREHOUSES{SHOW_TAIL}")
def show_warehouses(request: Statement) -> Answer:
    """SHOW WAREHOUSES [LIKE pattern]"""
    shown = Shown.of(request.match, request.connection, request.binds)
    current = of(request.connection).warehouse
    columns = (
        *("name", "state", "type", "size", "running", "queued", "is_default", "is_current"),
        *("auto_suspend", "auto_resume", "created_on", "owner", "comment"),
    )
    known = request.server.catalog.query("SELECT * FROM warehouses ORDER BY name")
    answer = [
        (
            *(row["name"], row["state"], row["type"], row["size"], 0, 0, "N", "Y" if row["name"] == current else "N"),
            *(row["auto_suspend"], str(row["auto_resume"]).lower(), row["created_on"], OWNER, row["comment"]),
        )
        for row in known
        if shown.has(row["name"])
    ]
    return rows(columns, answer[: shown.limit])


def warehouse(server: EmbeddedSnowflake, name: str) -> dict[str, Any]:
    """The row of a warehouse; empty where it has been dropped."""
    return next(iter(server.catalog.query("SELECT * FROM warehouses WHERE name = ?", [name])), {})


def _warehouses(server: EmbeddedSnowflake) -> list[str]:
    return [row["name"] for row in server.catalog.query("SELECT name FROM warehouses")]


def _require_warehouse(server: EmbeddedSnowflake, name: str) -> None:
    if name not in _warehouses(server):
        raise _no_object(name)


@statement(rf"CREATE(?P<replace> OR REPLACE)? ROLE(?P<exists> IF NOT EXISTS)? (?P<name>{NAME})(?P<options>.*)")
def create_role(request: Statement) -> Answer:
    """CREATE ROLE name: recorded"""
    require_no_job(request.connection, "create roles")
    name = _single(request)
    if name in _roles(request.server):
        if request.group("exists"):
            return status(f"{name} already exists, statement succeeded.")
        if not request.group("replace") or name in SYSTEM_ROLES:
            raise already_exists("Object", name)
    comment = Options.parse(request.group("options")).get("COMMENT")
    request.server.catalog.execute("INSERT OR REPLACE INTO roles VALUES (?, ?, now())", [name, comment])
    return status(f"Role {name} successfully created.")


@statement(rf"DROP ROLE(?P<exists> IF EXISTS)? (?P<name>{NAME})")
def drop_role(request: Statement) -> Answer:
    """DROP ROLE name"""
    require_no_job(request.connection, "drop roles")
    name = _single(request)
    if name not in _roles(request.server) or name in SYSTEM_ROLES:
        if request.group("exists"):
            return status("Drop statement executed successfully.")
        raise _no_object(name)
    request.server.catalog.execute("DELETE FROM roles WHERE name = ?", [name])
    request.server.catalog.execute("DELETE FROM grants WHERE granted_to = 'ROLE' AND grantee_name = ?", [name])
    return status(f"{name} successfully dropped.")


@statement(rf"SHOW ROLES{SHOW_TAIL}")
def show_roles(request: Statement) -> Answer:
    """SHOW ROLES [LIKE pattern]"""
    shown, current = Shown.of(request.match, request.connection, request.binds), of(request.connection).role
    answer = [
        (name, "N", "Y" if name == current else "N", "Y", comment)
        for name, comment in sorted(_roles(request.server).items())
        if shown.has(name)
    ]
    return rows(["name", "is_default", "is_current", "is_inherited", "comment"], answer[: shown.limit])


_GRANT = (
    r"(?P<privileges>[\w\s,.$]+?)(?: ON (?P<kind>(?:ALL |FUTURE )?[A-Z]+(?: [A-Z]+)??(?: IN [A-Z]+)?) (?P<object>{0}))?"
    r" {1} (?:(?P<to>ROLE|USER|DATABASE ROLE) )?(?P<grantee>{0})(?: WITH GRANT OPTION)?(?: (?:CASCADE|RESTRICT))?"
    r"(?: (?:COPY|REVOKE) CURRENT GRANTS)?"
)


@statement("GRANT " + _GRANT.format(NAME, "TO"))
def grant(request: Statement) -> Answer:
    """GRANT privileges ON object TO ROLE name: recorded and shown; needed for compute pools only"""
    require_no_job(request.connection, "grant privileges")
    request.server.catalog.execute("INSERT OR REPLACE INTO grants VALUES (now(), ?, ?, ?, ?, ?)", _granted(request))
    return status("Statement executed successfully.")


@statement("REVOKE " + _GRANT.format(NAME, "FROM"))
def revoke(request: Statement) -> Answer:
    """REVOKE privileges ON object FROM ROLE name: the record goes"""
    require_no_job(request.connection, "revoke privileges")
    request.server.catalog.execute(
        "DELETE FROM grants WHERE (privilege, granted_on, name, granted_to, grantee_name) = (?, ?, ?, ?, ?)",
        _granted(request),
    )
    return status("Statement executed successfully.")


@statement(r"(?P<create>CREATE .*SCHEMA .+?) WITH MANAGED ACCESS")
def create_managed_schema(request: Statement) -> Answer:
    """CREATE SCHEMA name WITH MANAGED ACCESS: a schema; who may grant makes no difference where grants make none"""
    return Sql(request.group("create") or "")


def _granted(request: Statement) -> list[str]:
    def upper(group: str) -> str:
        return re.sub(r"\s+", " ", request.group(group) or "").strip().upper()

    return [upper("privileges"), upper("kind"), upper("object"), upper("to") or "ROLE", upper("grantee")]


@statement(r"SHOW GRANTS(?P<scope>.*)")
def show_grants(request: Statement) -> Answer:
    """SHOW GRANTS [ON kind name | TO ROLE name | OF ROLE name]: what was recorded, and what SYSADMIN owns"""
    scope = re.sub(r"\s+", " ", request.group("scope") or "").strip().upper()
    known = grants(request.server)
    kind, _, rest = scope.partition(" ")
    name = rest.rpartition(" ")[2]
    if kind == "TO":
        known = [grant for grant in known if grant.grantee_name == name]
    elif kind == "ON":
        known = [grant for grant in known if grant.name == name]
    elif kind == "OF":
        known = [grant for grant in known if grant.granted_on == "ROLE" and grant.name == name]
    columns = ["created_on", "privilege", "granted_on", "name", "granted_to", "grantee_name"]
    answer = [(*(getattr(grant, column) for column in columns), "false", OWNER) for grant in known]
    return rows([*columns, "grant_option", "granted_by"], answer)


@dataclass(frozen=True)
class Granted:
    """One privilege of one role, as SHOW GRANTS has it."""

    created_on: datetime | None
    privilege: str
    granted_on: str
    name: str
    granted_to: str
    grantee_name: str


def grants(server: EmbeddedSnowflake) -> list[Granted]:
    """Every privilege that was granted, and OWNERSHIP of what is there, which is SYSADMIN's."""
    found = []
    for row in server.catalog.query("SELECT * FROM grants ORDER BY created_on"):
        to = (row["granted_to"], row["grantee_name"])
        for privilege in re.split(r"\s*,\s*", row["privilege"]):
            kind, _, name = privilege.rpartition(" ")
            # GRANT ROLE a TO ROLE b gives b the use of a.
            on = (row["granted_on"], row["name"]) if row["granted_on"] else (kind, name)
            found.append(Granted(row["created_on"], privilege if row["granted_on"] else "USAGE", *on, *to))
    return [*found, *(Granted(made, "OWNERSHIP", kind, name, "ROLE", OWNER) for made, kind, name in _owned(server))]


def _owned(server: EmbeddedSnowflake) -> list[tuple[datetime | None, str, str]]:
    catalog = server.catalog
    owned = [
        (row["created_on"], kind, row["name"])
        for kind, table in (("WAREHOUSE", "warehouses"), ("COMPUTE POOL", "compute_pools"))
        for row in catalog.query(f"SELECT created_on, name FROM {table} ORDER BY name")
    ]
    with server.lock, server.fakesnow.duck_conn.cursor() as cursor:
        schemas = cursor.execute(
            "SELECT DISTINCT database_name, schema_name FROM duckdb_schemas() "
            "WHERE database_name NOT IN ('memory', 'system', 'temp', '_fs_global') "
            "AND schema_name = upper(schema_name) AND schema_name <> 'INFORMATION_SCHEMA' ORDER BY ALL"
        ).fetchall()
    databases = dict.fromkeys(database for database, _ in schemas)
    owned += [(None, "DATABASE", database) for database in databases]
    owned += [(None, "SCHEMA", f"{database}.{schema}") for database, schema in schemas]
    stages = catalog.query("SELECT * FROM stages WHERE session = '' ORDER BY ALL")
    owned += [
        (row["created_on"], "STAGE", f"{row['database_name']}.{row['schema_name']}.{row['name']}") for row in stages
    ]
    return owned


def may(connection: FakeSnowflakeConnection, server: EmbeddedSnowflake, kind: str, name: str, *privileges: str) -> bool:
    """Whether the session's role has one of these privileges, or any when none is named: by a grant to it, to PUBLIC or
    to a role that was granted to it. The roles that are there from the start have all."""
    role = of(connection).role
    if role in SYSTEM_ROLES:
        return True
    known, roles, added = grants(server), {role, "PUBLIC"}, True
    while added:
        inherited = {row.name for row in known if row.granted_on == "ROLE" and row.grantee_name in roles}
        added = not inherited <= roles
        roles |= inherited
    wanted = {*privileges, "OWNERSHIP", "ALL", "ALL PRIVILEGES"}
    return any(
        row.granted_on == kind
        and row.name == name
        and row.grantee_name in roles
        and (not privileges or row.privilege in wanted)
        for row in known
    )


def _roles(server: EmbeddedSnowflake) -> dict[str, str]:
    created = {row["name"]: row["comment"] for row in server.catalog.query("SELECT * FROM roles")}
    return {**dict.fromkeys(SYSTEM_ROLES, ""), **created}


def _single(request: Statement) -> str:
    """The account-level name that the statement's ``name`` spells."""
    found = names.parts(names.spelled(request.group("name") or "", request.binds))
    if len(found) != 1:
        raise invalid(f"SQL compilation error:\nexpected a name without dots, found '{request.group('name')}'")
    return found[0]


def _no_object(name: str) -> ProgrammingError:
    return ProgrammingError(
        msg=f"SQL compilation error:\nObject '{name}' does not exist, or operation cannot be performed.",
        errno=2043,
        sqlstate="02000",
    )

"""deploy/snowflake/roles.sql: no role has more than it needs, each has what the project asks of it, and it runs."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import snowflake.connector
import sqlglot
from conftest import Embedded
from sqlglot.tokens import TokenType

from customer_insights import deployment
from customer_insights.errors import PermanentError
from customer_insights.settings import Settings, settings
from embedded_snowflake import sessions, statements

SCRIPT = deployment.roles_script(settings())
PIPELINE, READER, OPERATOR = "HOL_ROLE", "HOL_READER", "HOL_OPERATOR"
ADMINISTRATORS = {"ACCOUNTADMIN", "ORGADMIN", "SECURITYADMIN", "SYSADMIN", "USERADMIN"}
# What each of the project's roles may be granted at all, by the kind of object.
ALLOWED = {
    PIPELINE: {
        "DATABASE": {"USAGE"},
        "SCHEMA": {
            *("USAGE", "CREATE TABLE", "CREATE VIEW", "CREATE STAGE", "CREATE MODEL", "CREATE DATASET"),
            "CREATE SERVICE",
        },
        "WAREHOUSE": {"USAGE", "MONITOR"},
        "COMPUTE POOL": {"USAGE", "MONITOR"},
        "INTEGRATION": {"USAGE"},
    },
    READER: {
        "DATABASE": {"USAGE"},
        "SCHEMA": {"USAGE"},
        "WAREHOUSE": {"USAGE"},
        **{f"{which} {kind} IN SCHEMA": {"SELECT"} for which in ("ALL", "FUTURE") for kind in ("TABLES", "VIEWS")},
    },
    OPERATOR: {
        "WAREHOUSE": {"OPERATE", "MONITOR"},
        "COMPUTE POOL": {"OPERATE", "MONITOR"},
        "FUTURE SERVICES IN SCHEMA": {"OPERATE", "MONITOR"},
    },
}
# The embedded server has no network but the loopback, and says so.
NO_NETWORK = ("CREATE NETWORK", "CREATE EXTERNAL ACCESS", "ALTER USER CUSTOMER_INSIGHTS SET NETWORK_POLICY")


@dataclass(frozen=True)
class Grant:
    privileges: frozenset[str]
    kind: str
    to: str
    grantee: str
    sql: str


def split(sql: str) -> list[str]:
    """The statements of a script, comments left out; a semicolon in a text ends none."""
    found, start = [], 0
    tokens = sqlglot.tokenize(sql, read="snowflake")
    for position, token in enumerate(tokens):
        if token.token_type == TokenType.SEMICOLON:
            found.append(sql[tokens[start].start : tokens[position - 1].end + 1])
            start = position + 1
    return [statements.without_comments(statement).strip() for statement in found]


def grants(sql: str) -> list[Grant]:
    """Every GRANT, as the embedded server reads it."""
    found = []
    for statement in split(sql):
        if not re.match(r"GRANT\b", statement, re.IGNORECASE):
            continue
        served = statements.find(statement)
        assert served, statement
        assert served[0].handler is sessions.grant, statement
        read = {name: " ".join((text or "").upper().split()) for name, text in served[1].groupdict().items()}
        privileges = frozenset(privilege.strip() for privilege in read["privileges"].split(","))
        found.append(Grant(privileges, read["kind"], read["to"], read["grantee"], statement))
    return found


def too_much(sql: str) -> list[str]:
    """What the script grants or opens beyond need."""
    found = []
    for grant in grants(sql):
        if re.search(r"WITH\s+GRANT\s+OPTION", grant.sql, re.IGNORECASE):
            found.append(f"may be passed on: {grant.sql}")
        if not grant.kind:
            (granted,) = grant.privileges
            role = granted.removeprefix("DATABASE ").removeprefix("ROLE ")
            if role in ADMINISTRATORS or (grant.grantee not in ADMINISTRATORS and _is_foreign(role, grant)):
                found.append(f"a role that is not the project's: {grant.sql}")
        elif grant.grantee in ADMINISTRATORS:
            if grant.privileges - {"USAGE"} and not (grant.grantee == "SYSADMIN" and grant.privileges == {"OWNERSHIP"}):
                found.append(f"an administrator's: {grant.sql}")
        elif grant.privileges - ALLOWED.get(grant.grantee, {}).get(grant.kind, set()):
            found.append(f"not needed: {grant.sql}")
    for statement in split(sql):
        if re.search(r"0\.0\.0\.0|::/0|'[^']*\*[^']*'", statement):
            found.append(f"open to everywhere: {statement}")
        if re.match(r"CREATE\s+(?:OR\s+REPLACE\s+)?USER", statement, re.I) and not re.search(
            r"TYPE\s*=\s*SERVICE", statement, re.I
        ):
            found.append(f"not a service user: {statement}")
    return found


def _is_foreign(role: str, grant: Grant) -> bool:
    if role == "SNOWFLAKE.CORTEX_USER":
        return grant.grantee != PIPELINE
    return (role, grant.grantee) not in {(READER, OPERATOR), (PIPELINE, "CUSTOMER_INSIGHTS")}


def test_no_role_has_more_than_it_needs():
    assert too_much(SCRIPT) == []


@pytest.mark.parametrize(
    "added",
    [
        "GRANT ALL PRIVILEGES ON SCHEMA HOL_DB.HOL_SCHEMA TO ROLE HOL_ROLE",
        "GRANT ALL ON DATABASE HOL_DB TO ROLE HOL_ROLE",
        "GRANT OWNERSHIP ON SCHEMA HOL_DB.HOL_SCHEMA TO ROLE HOL_ROLE",
        "GRANT OWNERSHIP ON COMPUTE POOL HOL_COMPUTE_POOL TO ROLE ACCOUNTADMIN",
        "GRANT MODIFY ON COMPUTE POOL HOL_COMPUTE_POOL TO ROLE HOL_OPERATOR",
        "GRANT INSERT ON ALL TABLES IN SCHEMA HOL_DB.HOL_SCHEMA TO ROLE HOL_READER",
        "GRANT SELECT ON FUTURE TABLES IN DATABASE HOL_DB TO ROLE HOL_READER",
        "GRANT USAGE ON SCHEMA HOL_DB.HOL_SCHEMA TO ROLE PUBLIC",
        "GRANT USAGE ON DATABASE HOL_DB TO ROLE HOL_ROLE WITH GRANT OPTION",
        "GRANT ROLE ACCOUNTADMIN TO USER CUSTOMER_INSIGHTS",
        "GRANT ROLE HOL_ROLE TO ROLE PUBLIC",
        "GRANT ROLE HOL_ROLE TO ROLE HOL_READER",
        "CREATE NETWORK RULE X MODE = EGRESS TYPE = HOST_PORT VALUE_LIST = ('0.0.0.0:443')",
        "CREATE NETWORK RULE X MODE = INGRESS TYPE = IPV4 VALUE_LIST = ('0.0.0.0/0')",
        "CREATE USER SOMEBODY TYPE = PERSON",
    ],
)
def test_whatever_is_too_much_is_found(added: str):
    assert too_much(f"{SCRIPT}\n{added};")


def test_the_pipeline_may_create_whatever_deploy_creates():
    mine = {privilege for grant in grants(SCRIPT) if grant.grantee == PIPELINE for privilege in grant.privileges}
    created = {
        found.group(1).upper()
        for statement in deployment._owned(settings())
        if (found := re.match(r"CREATE\s+(?:OR\s+REPLACE\s+)?(?:TEMPORARY\s+)?(\w+)", statement, re.IGNORECASE))
    }
    assert created == {"STAGE", "TABLE", "VIEW"}
    assert {f"CREATE {kind}" for kind in (*created, "MODEL", "SERVICE")} <= mine
    assert {"ROLE SNOWFLAKE.CORTEX_USER", "DATABASE ROLE SNOWFLAKE.CORTEX_USER"} & mine


def test_the_script_runs_and_may_be_run_again(embedded: Embedded):
    cursor = embedded.connect().cursor()
    for statement in split(SCRIPT) * 2:
        if not statement.startswith(NO_NETWORK):
            cursor.execute(statement)
            continue
        with pytest.raises(snowflake.connector.errors.ProgrammingError, match="unsupported on the embedded server"):
            cursor.execute(statement)
    shown = {row[0]: row[1] for row in cursor.execute("DESCRIBE USER CUSTOMER_INSIGHTS").fetchall()}
    assert (shown["TYPE"], shown["DEFAULT_ROLE"]) == ("SERVICE", PIPELINE)
    # Nobody logs in as it before it is given a key.
    assert (shown["PASSWORD"], shown["RSA_PUBLIC_KEY"], shown["HAS_PAT"]) == (None, None, "false")


def test_the_script_has_the_names_of_the_settings_and_the_addresses():
    chosen = Settings(database="SHOP", schema_name="ML", pipeline_role="SHOP_ML", compute_pool="SHOP_POOL")
    script = deployment.roles_script(chosen, ["198.51.100.0/24", "192.0.2.7/32"])
    assert "GRANT USAGE, MONITOR ON COMPUTE POOL SHOP_POOL TO ROLE SHOP_ML;" in script
    assert "VALUE_LIST = ('198.51.100.0/24', '192.0.2.7/32')" in script
    assert not [
        word for word in ("HOL_DB", "HOL_SCHEMA", "HOL_ROLE", "HOL_COMPUTE_POOL", "203.0.113") if word in script
    ]
    with pytest.raises(PermanentError, match=r"expected a network such as .*found '10.0.0.1/8'"):
        deployment.roles_script(chosen, ["10.0.0.1/8"])

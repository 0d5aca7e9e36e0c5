"""Security integrations: whose OAuth tokens are taken, and how they name a user and a role.

Of Snowflake's kinds only External OAuth with a public key is served: the server asks nobody for keys.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedded_snowflake import names
from embedded_snowflake.catalog import declare
from embedded_snowflake.errors import already_exists, does_not_exist, invalid, unsupported
from embedded_snowflake.names import NAME, SHOW_TAIL, Shown
from embedded_snowflake.statements import Answer, Options, Statement, rows, statement, status
from embedded_snowflake.users import Key, account_name, public_key, require_administrator

if TYPE_CHECKING:
    from embedded_snowflake.server import EmbeddedSnowflake

declare(
    """CREATE TABLE IF NOT EXISTS security_integrations (
        name VARCHAR PRIMARY KEY, enabled BOOLEAN, issuer VARCHAR, rsa_public_key VARCHAR, rsa_public_key_2 VARCHAR,
        audiences VARCHAR[], user_claims VARCHAR[], user_attribute VARCHAR, blocked_roles VARCHAR[], any_role VARCHAR,
        scope_claim VARCHAR, scope_delimiter VARCHAR, comment VARCHAR, created_on TIMESTAMPTZ)"""
)


@dataclass(frozen=True)
class Integration:
    """Whose OAuth tokens are taken, and how they are read."""

    issuer: str
    keys: tuple[Key, ...]
    audiences: tuple[str, ...]
    user_claims: tuple[str, ...]
    user_attribute: str
    blocked_roles: tuple[str, ...]
    any_role: bool
    scope_claim: str
    scope_delimiter: str


def of_issuer(server: EmbeddedSnowflake, issuer: str) -> Integration | None:
    """The enabled integration that takes this issuer's tokens."""
    found = server.catalog.query("SELECT * FROM security_integrations WHERE enabled AND issuer = ?", [issuer])
    if not found:
        return None
    row = found[0]
    return Integration(
        row["issuer"],
        tuple(public_key(row[column]) for column in ("rsa_public_key", "rsa_public_key_2") if row[column]),
        tuple(row["audiences"]),
        tuple(row["user_claims"]),
        row["user_attribute"],
        tuple(row["blocked_roles"]),
        row["any_role"] != "DISABLE",
        row["scope_claim"],
        row["scope_delimiter"],
    )


_PREFIX = "EXTERNAL_OAUTH_"
_LISTS = {
    "AUDIENCE_LIST": "audiences",
    "TOKEN_USER_MAPPING_CLAIM": "user_claims",
    "BLOCKED_ROLES_LIST": "blocked_roles",
}
_REQUIRED = ("issuer", "rsa_public_key", "user_claims", "user_attribute")


@statement(
    rf"CREATE(?P<replace> OR REPLACE)? SECURITY INTEGRATION(?P<exists> IF NOT EXISTS)? (?P<name>{NAME})(?P<options>.*)"
)
def create_security_integration(request: Statement) -> Answer:
    """CREATE SECURITY INTEGRATION name TYPE = EXTERNAL_OAUTH EXTERNAL_OAUTH_TYPE = CUSTOM ENABLED = TRUE ..."""
    require_administrator(request)
    name = account_name(request, "name")
    if _integration_exists(request.server, name):
        if request.group("exists"):
            return status(f"{name} already exists, statement succeeded.")
        if not request.group("replace"):
            raise already_exists("Integration", name)
    options = Options.parse(request.group("options"))
    kind, provider = options.values.pop("TYPE", ""), options.values.pop(f"{_PREFIX}TYPE", "")
    if kind.upper() != "EXTERNAL_OAUTH" or provider.upper() != "CUSTOM":
        raise unsupported(
            f"security integration TYPE = {kind.upper()} {_PREFIX}TYPE = {provider.upper()}",
            f"expected TYPE = EXTERNAL_OAUTH and {_PREFIX}TYPE = CUSTOM",
        )
    if "ENABLED" not in options.values:
        raise invalid("expected ENABLED = TRUE or FALSE")
    columns = {
        "audiences": [],
        "blocked_roles": [],
        "any_role": "DISABLE",
        "scope_claim": "scp",
        "scope_delimiter": ",",
        **_integration_columns(options),
    }
    for column in _REQUIRED:
        if not columns.get(column):
            raise invalid(f"expected a property for the integration's {column.replace('_', ' ')}")
    request.server.catalog.execute("DELETE FROM security_integrations WHERE name = ?", [name])
    request.server.catalog.execute(
        f"INSERT INTO security_integrations (name, created_on, {', '.join(columns)}) "
        f"VALUES (?, now(){', ?' * len(columns)})",
        [name, *columns.values()],
    )
    return status(f"Integration {name} successfully created.")


@statement(rf"ALTER(?: SECURITY)? INTEGRATION(?P<exists> IF EXISTS)? (?P<name>{NAME}) SET (?P<options>.+)")
def alter_security_integration(request: Statement) -> Answer:
    """ALTER SECURITY INTEGRATION name SET ENABLED = FALSE | EXTERNAL_OAUTH_RSA_PUBLIC_KEY_2 = '...' | ..."""
    require_administrator(request)
    name = account_name(request, "name")
    if not _integration_exists(request.server, name):
        if request.group("exists"):
            return status("Statement executed successfully.")
        raise does_not_exist("Integration", name)
    columns = _integration_columns(Options.parse(request.group("options")))
    assignments = ", ".join(f"{column} = ?" for column in columns)
    request.server.catalog.execute(
        f"UPDATE security_integrations SET {assignments} WHERE name = ?", [*columns.values(), name]
    )
    return status("Statement executed successfully.")


@statement(rf"DROP(?: SECURITY)? INTEGRATION(?P<exists> IF EXISTS)? (?P<name>{NAME})")
def drop_security_integration(request: Statement) -> Answer:
    """DROP SECURITY INTEGRATION [IF EXISTS] name"""
    require_administrator(request)
    name = account_name(request, "name")
    if not _integration_exists(request.server, name):
        if request.group("exists"):
            return status("Drop statement executed successfully.")
        raise does_not_exist("Integration", name)
    request.server.catalog.execute("DELETE FROM security_integrations WHERE name = ?", [name])
    return status(f"{name} successfully dropped.")


@statement(rf"SHOW(?: SECURITY)? INTEGRATIONS{SHOW_TAIL}")
def show_security_integrations(request: Statement) -> Answer:
    """SHOW SECURITY INTEGRATIONS [LIKE pattern]"""
    shown = Shown.of(request.match, request.connection, request.binds)
    found = request.server.catalog.query("SELECT * FROM security_integrations ORDER BY name")
    answer = [
        (
            row["name"],
            "EXTERNAL_OAUTH - CUSTOM",
            "SECURITY",
            str(row["enabled"]).lower(),
            row["comment"],
            row["created_on"],
        )
        for row in found
        if shown.has(row["name"])
    ]
    return rows(["name", "type", "category", "enabled", "comment", "created_on"], answer[: shown.limit])


def _integration_columns(options: Options) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for key, value in options.values.items():
        own = key.removeprefix(_PREFIX)
        if key == "ENABLED":
            columns["enabled"] = value.upper() == "TRUE"
        elif key == "COMMENT":
            columns["comment"] = value
        elif own in _LISTS:
            listed = _listed(value)
            columns[_LISTS[own]] = [role.upper() for role in listed] if own == "BLOCKED_ROLES_LIST" else listed
        elif own == "ISSUER":
            columns["issuer"] = value
        elif own in ("RSA_PUBLIC_KEY", "RSA_PUBLIC_KEY_2"):
            columns[own.lower()] = public_key(value).spelled
        elif own == "SNOWFLAKE_USER_MAPPING_ATTRIBUTE":
            columns["user_attribute"] = _one_of(key, value, ("LOGIN_NAME", "EMAIL_ADDRESS"))
        elif own == "ANY_ROLE_MODE":
            columns["any_role"] = _one_of(key, value, ("DISABLE", "ENABLE"))
        elif own == "SCOPE_MAPPING_ATTRIBUTE":
            columns["scope_claim"] = value
        elif own == "SCOPE_DELIMITER":
            columns["scope_delimiter"] = value
        else:
            raise unsupported(f"property {key} of a security integration")
    return columns


def _one_of(key: str, value: str, allowed: Sequence[str]) -> str:
    if value.upper() not in allowed:
        raise invalid(f"expected {key} = {' or '.join(allowed)}, found '{value}'")
    return value.upper()


def _listed(value: str) -> list[str]:
    """The texts of ('a', 'b'), or the one text."""
    if not value.startswith("("):
        return [value]
    return [names.text(found) for found in re.findall(r"'(?:[^'\\]|\\.|'')*'", value)]


def _integration_exists(server: EmbeddedSnowflake, name: str) -> bool:
    return bool(server.catalog.query("SELECT 1 FROM security_integrations WHERE name = ?", [name]))

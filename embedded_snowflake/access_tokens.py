"""Programmatic access tokens: secrets that stand for a user in one role until they expire.

What is kept of a secret is its hash; it is shown once. A user may change the tokens of his own, but in no session that
such a token or a job opened.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from embedded_snowflake import names, sessions
from embedded_snowflake.catalog import declare
from embedded_snowflake.errors import already_exists, does_not_exist, insufficient_privileges, invalid, unsupported
from embedded_snowflake.names import NAME
from embedded_snowflake.sessions import require_no_job
from embedded_snowflake.statements import Answer, Options, Statement, rows, statement, status
from embedded_snowflake.users import account_name, find, require_administrator

if TYPE_CHECKING:
    from embedded_snowflake.server import EmbeddedSnowflake

DEFAULT_DAYS, MOST_DAYS = 15, 365
DEFAULT_ROTATED_HOURS = 24

declare(
    """CREATE TABLE IF NOT EXISTS access_tokens (
        user_name VARCHAR, name VARCHAR, secret_sha256 VARCHAR, role_restriction VARCHAR, days BIGINT,
        expires_at TIMESTAMPTZ, disabled BOOLEAN, comment VARCHAR, created_by VARCHAR, rotated_to VARCHAR,
        created_on TIMESTAMPTZ, PRIMARY KEY (user_name, name))"""
)


@dataclass(frozen=True)
class AccessToken:
    """A programmatic access token that was presented. ``role`` is the one it is restricted to."""

    user: str
    role: str | None
    expires_at: datetime
    disabled: bool


def find_secret(server: EmbeddedSnowflake, secret: str) -> AccessToken | None:
    """The token with this secret, expired and disabled ones too."""
    found = server.catalog.query("SELECT * FROM access_tokens WHERE secret_sha256 = ?", [_hashed(secret)])
    if not found:
        return None
    row = found[0]
    return AccessToken(row["user_name"], row["role_restriction"], row["expires_at"], row["disabled"])


def _hashed(secret: str) -> str:
    # The secret is 256 random bits: there is nothing to guess that salt and a slow hash would protect.
    return hashlib.sha256(secret.encode()).hexdigest()


@statement(
    rf"ALTER USER(?P<exists> IF EXISTS)?(?: (?P<name>{NAME}))? (?P<action>ADD|ROTATE|MODIFY|REMOVE)"
    rf" (?:PROGRAMMATIC ACCESS TOKEN|PAT) (?P<token>{NAME})(?P<options>.*)"
)
def alter_access_token(request: Statement) -> Answer:
    """ALTER USER [name] ADD | ROTATE | MODIFY | REMOVE PROGRAMMATIC ACCESS TOKEN token [options]"""
    own = sessions.of(request.connection).login
    user = account_name(request, "name") if request.group("name") else own.user
    require_no_job(request.connection, "change access tokens")
    if user != own.user:
        require_administrator(request)
    if own.authenticator == "PROGRAMMATIC_ACCESS_TOKEN":
        raise insufficient_privileges(
            "a session that a programmatic access token opened may not change such tokens: log in by another way"
        )
    if find(request.server, user) is None:
        if request.group("exists"):
            return status("Statement executed successfully.")
        raise does_not_exist("User", user)
    token = account_name(request, "token")
    action = (request.group("action") or "").upper()
    known = request.server.catalog.query("SELECT * FROM access_tokens WHERE user_name = ? AND name = ?", [user, token])
    if action != "ADD" and not known:
        raise does_not_exist("Programmatic access token", token)
    if action == "ADD":
        if known:
            raise already_exists("Programmatic access token", token)
        return _add_token(request, user, token)
    if action == "ROTATE":
        return _rotate_token(request, known[0])
    if action == "MODIFY":
        return _modify_token(request, known[0])
    _read_options(request.group("options"), set())
    request.server.catalog.execute("DELETE FROM access_tokens WHERE user_name = ? AND name = ?", [user, token])
    return status("Statement executed successfully.")


def _add_token(request: Statement, user: str, token: str) -> Answer:
    options = _read_options(request.group("options"), {"ROLE_RESTRICTION", "DAYS_TO_EXPIRY", "COMMENT"})
    role = options.get("ROLE_RESTRICTION").upper() or None
    kind = request.server.catalog.query("SELECT type FROM users WHERE name = ?", [user])[0]["type"]
    if kind == "SERVICE" and role is None:
        raise invalid("ROLE_RESTRICTION is required for a programmatic access token of a service user.")
    days = _whole(options, "DAYS_TO_EXPIRY", DEFAULT_DAYS, range(1, MOST_DAYS + 1))
    secret = secrets.token_urlsafe(32)
    created_by = sessions.of(request.connection).login.user
    request.server.catalog.execute(
        "INSERT INTO access_tokens VALUES (?, ?, ?, ?, ?, ?, FALSE, ?, ?, NULL, now())",
        [user, token, _hashed(secret), role, days, _in(days=days), options.get("COMMENT"), created_by],
    )
    return rows(["token_name", "token_secret"], [(token, secret)])


def _rotate_token(request: Statement, known: dict[str, Any]) -> Answer:
    """A new secret by the token's name; the old one lives on for a while by another."""
    options = _read_options(request.group("options"), {"EXPIRE_ROTATED_TOKEN_AFTER_HOURS"})
    hours = _whole(options, "EXPIRE_ROTATED_TOKEN_AFTER_HOURS", DEFAULT_ROTATED_HOURS, range(24 * MOST_DAYS + 1))
    now = datetime.now(UTC)
    rotated = f"{known['name']}_ROTATED_{now:%Y%m%d%H%M%S%f}"
    secret = secrets.token_urlsafe(32)
    key = [known["user_name"], known["name"]]
    request.server.catalog.execute(
        "UPDATE access_tokens SET name = ?, rotated_to = ?, expires_at = ? WHERE user_name = ? AND name = ?",
        [rotated, known["name"], min(known["expires_at"], now + timedelta(hours=hours)), *key],
    )
    request.server.catalog.execute(
        "INSERT INTO access_tokens VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, now())",
        [
            *(*key, _hashed(secret), known["role_restriction"], known["days"], _in(days=known["days"])),
            *(known["disabled"], known["comment"], sessions.of(request.connection).login.user),
        ],
    )
    return rows(["token_name", "token_secret", "rotated_token_name"], [(known["name"], secret, rotated)])


def _modify_token(request: Statement, known: dict[str, Any]) -> Answer:
    text = (request.group("options") or "").strip()
    key = [known["user_name"], known["name"]]
    if renamed := re.fullmatch(rf"RENAME\s+TO\s+({NAME})", text, re.IGNORECASE):
        name = names.parts(renamed.group(1))[-1]
        if request.server.catalog.query(
            "SELECT 1 FROM access_tokens WHERE user_name = ? AND name = ?", [known["user_name"], name]
        ):
            raise already_exists("Programmatic access token", name)
        request.server.catalog.execute(
            "UPDATE access_tokens SET name = ? WHERE user_name = ? AND name = ?", [name, *key]
        )
        return status("Statement executed successfully.")
    if not re.match(r"SET\s", text, re.IGNORECASE):
        raise invalid(f"expected MODIFY PROGRAMMATIC ACCESS TOKEN ... SET | RENAME TO, found '{text}'")
    options = _read_options(text[3:], {"DISABLED", "COMMENT"})
    columns: dict[str, Any] = {}
    if "DISABLED" in options.values:
        columns["disabled"] = options.get("DISABLED").upper() == "TRUE"
    if "COMMENT" in options.values:
        columns["comment"] = options.get("COMMENT")
    assignments = ", ".join(f"{column} = ?" for column in columns)
    request.server.catalog.execute(
        f"UPDATE access_tokens SET {assignments} WHERE user_name = ? AND name = ?", [*columns.values(), *key]
    )
    return status("Statement executed successfully.")


@statement(rf"SHOW USER (?:PROGRAMMATIC ACCESS TOKENS|PATS)(?: FOR USER (?P<name>{NAME}))?")
def show_access_tokens(request: Statement) -> Answer:
    """SHOW USER PROGRAMMATIC ACCESS TOKENS [FOR USER name]: without their secrets, which nobody knows any more"""
    own = sessions.of(request.connection).login.user
    user = account_name(request, "name") if request.group("name") else own
    if user != own:
        require_administrator(request)
    now = datetime.now(UTC)
    found = request.server.catalog.query("SELECT * FROM access_tokens WHERE user_name = ? ORDER BY name", [user])
    answer = [
        (
            *(row["name"], user, row["role_restriction"], row["expires_at"]),
            "DISABLED" if row["disabled"] else "ACTIVE" if row["expires_at"] > now else "EXPIRED",
            *(row["comment"], row["created_on"], row["created_by"], row["rotated_to"]),
        )
        for row in found
    ]
    columns = ("name", "user_name", "role_restriction", "expires_at", "status")
    return rows([*columns, "comment", "created_on", "created_by", "rotated_to"], answer)


def _read_options(text: str | None, served: set[str]) -> Options:
    options = Options.parse(text)
    for key in options.values.keys() - served:
        raise unsupported(f"property {key} of a programmatic access token")
    return options


def _whole(options: Options, key: str, default: int, allowed: range) -> int:
    spelled = options.get(key, str(default))
    if not spelled.isdigit() or int(spelled) not in allowed:
        raise invalid(f"expected {key} = {allowed.start} to {allowed.stop - 1}, found '{spelled}'")
    return int(spelled)


def _in(days: int) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)

"""Users, their public keys and programmatic access tokens, and the integrations whose OAuth tokens are taken.

What is kept of a token is its hash. Whether what a client sends to log in is any good is decided in ``logins``. The
user of the server's own connection is the administrator; what others may change is their own tokens. A session that a
job opened may change nothing here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import fakesnow.server as fakesnow_server
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from embedded_snowflake import names, sessions
from embedded_snowflake.catalog import declare
from embedded_snowflake.errors import (
    already_exists,
    does_not_exist,
    insufficient_privileges,
    invalid,
    unsupported,
)
from embedded_snowflake.names import NAME, SHOW_TAIL, Shown
from embedded_snowflake.sessions import OWNER, require_no_job
from embedded_snowflake.statements import Answer, Options, Statement, at_start, rows, statement, status

if TYPE_CHECKING:
    from embedded_snowflake.server import EmbeddedSnowflake

PublicKey = RSAPublicKey | EllipticCurvePublicKey
SMALLEST_RSA_BITS = 2048
DEFAULT_DAYS, MOST_DAYS = 15, 365
DEFAULT_ROTATED_HOURS = 24
SHOWN_SECRET = "********"  # noqa: S105 - what DESCRIBE shows in its place

declare(
    """CREATE TABLE IF NOT EXISTS users (
        name VARCHAR PRIMARY KEY, login_name VARCHAR UNIQUE, display_name VARCHAR, email VARCHAR, type VARCHAR,
        disabled VARCHAR, default_role VARCHAR, default_warehouse VARCHAR, default_namespace VARCHAR, comment VARCHAR,
        rsa_public_key VARCHAR, rsa_public_key_fp VARCHAR, rsa_public_key_last_set_time TIMESTAMPTZ,
        rsa_public_key_2 VARCHAR, rsa_public_key_2_fp VARCHAR, rsa_public_key_2_last_set_time TIMESTAMPTZ,
        created_on TIMESTAMPTZ)"""
)
declare(
    """CREATE TABLE IF NOT EXISTS access_tokens (
        user_name VARCHAR, name VARCHAR, secret_sha256 VARCHAR, role_restriction VARCHAR, days BIGINT,
        expires_at TIMESTAMPTZ, disabled BOOLEAN, comment VARCHAR, created_by VARCHAR, rotated_to VARCHAR,
        created_on TIMESTAMPTZ, PRIMARY KEY (user_name, name))"""
)
declare(
    """CREATE TABLE IF NOT EXISTS security_integrations (
        name VARCHAR PRIMARY KEY, enabled BOOLEAN, issuer VARCHAR, rsa_public_key VARCHAR, rsa_public_key_2 VARCHAR,
        audiences VARCHAR[], user_claims VARCHAR[], user_attribute VARCHAR, blocked_roles VARCHAR[], any_role VARCHAR,
        scope_claim VARCHAR, scope_delimiter VARCHAR, comment VARCHAR, created_on TIMESTAMPTZ)"""
)


@dataclass(frozen=True)
class Key:
    """A public key and its fingerprint as Snowflake writes it: SHA256:<base64 of the hash of its DER form>."""

    key: PublicKey
    fingerprint: str
    # Base64 of the DER form, without the lines that mark a PEM file.
    spelled: str


@dataclass(frozen=True)
class User:
    """One user, as a login needs it."""

    name: str
    login_name: str
    disabled: bool
    default_role: str
    keys: tuple[Key, ...]


@dataclass(frozen=True)
class AccessToken:
    """A programmatic access token that was presented. ``role`` is the one it is restricted to."""

    user: str
    role: str | None
    expires_at: datetime
    disabled: bool


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


# -- what a login looks up --------------------------------------------------------------------------------------------


def find(server: EmbeddedSnowflake, name: str) -> User | None:
    """The user of this name."""
    return _user(server, "name = ?", name)


def by_login_name(server: EmbeddedSnowflake, login_name: str) -> User | None:
    """The user who logs in by this name, in whatever case."""
    return _user(server, "login_name = upper(?)", login_name)


def by_email(server: EmbeddedSnowflake, email: str) -> User | None:
    """The one user with this e-mail address."""
    return _user(server, "lower(email) = lower(?)", email)


def _user(server: EmbeddedSnowflake, condition: str, value: str) -> User | None:
    found = server.catalog.query(f"SELECT * FROM users WHERE {condition}", [value])
    if len(found) != 1:
        return None
    row = found[0]
    keys = tuple(public_key(row[column]) for column in ("rsa_public_key", "rsa_public_key_2") if row[column])
    return User(row["name"], row["login_name"], row["disabled"] == "true", row["default_role"] or OWNER, keys)


def access_token(server: EmbeddedSnowflake, secret: str) -> AccessToken | None:
    """The token with this secret, expired and disabled ones too."""
    found = server.catalog.query("SELECT * FROM access_tokens WHERE secret_sha256 = ?", [_hashed(secret)])
    if not found:
        return None
    row = found[0]
    return AccessToken(row["user_name"], row["role_restriction"], row["expires_at"], row["disabled"])


def integration_of_issuer(server: EmbeddedSnowflake, issuer: str) -> Integration | None:
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


def public_key(spelled: str) -> Key:
    """The key of the base64 text between a PEM file's first and last line. Raises ProgrammingError."""
    refused = "New public key rejected by current policy. Reason: "
    try:
        key = load_der_public_key(base64.b64decode("".join(spelled.split()), validate=True))
    except (binascii.Error, ValueError, UnsupportedAlgorithm) as error:
        raise invalid(
            f"{refused}'Invalid public key'. Expected what openssl rsa -pubout writes, in PEM form "
            "without its first and its last line"
        ) from error
    if isinstance(key, RSAPublicKey) and key.key_size < SMALLEST_RSA_BITS:
        raise invalid(f"{refused}'the RSA key has {key.key_size} bits, expected at least {SMALLEST_RSA_BITS}'")
    if not isinstance(key, (RSAPublicKey, EllipticCurvePublicKey)):
        raise invalid(f"{refused}'expected an RSA or an EC key, found {type(key).__name__}'")
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    fingerprint = "SHA256:" + base64.b64encode(hashlib.sha256(der).digest()).decode()
    return Key(key, fingerprint, base64.b64encode(der).decode())


def _hashed(secret: str) -> str:
    # The secret is 256 random bits: there is nothing to guess that salt and a slow hash would protect.
    return hashlib.sha256(secret.encode()).hexdigest()


# -- users ------------------------------------------------------------------------------------------------------------

_TYPES = ("PERSON", "SERVICE")
_TEXTS = ("DISPLAY_NAME", "EMAIL", "COMMENT")
_NAMES = ("LOGIN_NAME", "DEFAULT_ROLE", "DEFAULT_WAREHOUSE", "DEFAULT_NAMESPACE")
_KEYS = ("RSA_PUBLIC_KEY", "RSA_PUBLIC_KEY_2")


@at_start
def add_administrator(server: EmbeddedSnowflake) -> None:
    """The user of the server's own connection, who is there from the start."""
    name = server.configuration.user.upper()
    server.catalog.execute(
        "INSERT OR IGNORE INTO users (name, login_name, display_name, type, disabled, default_role, created_on) "
        "VALUES (?, ?, ?, 'PERSON', 'false', ?, now())",
        [name, name, name, OWNER],
    )


@statement(rf"CREATE(?P<replace> OR REPLACE)? USER(?P<exists> IF NOT EXISTS)? (?P<name>{NAME})(?P<options>.*)")
def create_user(request: Statement) -> Answer:
    """CREATE [OR REPLACE] USER [IF NOT EXISTS] name [TYPE = SERVICE | PERSON] [RSA_PUBLIC_KEY = '...'] [options]"""
    _require_administrator(request)
    name = _name(request, "name")
    if find(request.server, name):
        if request.group("exists"):
            return status(f"{name} already exists, statement succeeded.")
        if not request.group("replace"):
            raise already_exists("Object", name)
    columns = {
        "login_name": name,
        "display_name": name,
        "type": "PERSON",
        "disabled": "false",
        "default_role": "PUBLIC",
        **_user_columns(request, Options.parse(request.group("options")), name),
    }
    if request.group("replace"):
        _remove_user(request, name)
    request.server.catalog.execute(
        f"INSERT INTO users (name, created_on, {', '.join(columns)}) VALUES (?, now(){', ?' * len(columns)})",
        [name, *columns.values()],
    )
    return status(f"User {name} successfully created.")


@statement(
    rf"ALTER USER(?P<exists> IF EXISTS)?(?: (?P<name>{NAME}))? (?P<action>ADD|ROTATE|MODIFY|REMOVE)"
    rf" (?:PROGRAMMATIC ACCESS TOKEN|PAT) (?P<token>{NAME})(?P<options>.*)"
)
def alter_access_token(request: Statement) -> Answer:
    """ALTER USER [name] ADD | ROTATE | MODIFY | REMOVE PROGRAMMATIC ACCESS TOKEN token [options]"""
    own = sessions.of(request.connection).login
    user = _name(request, "name") if request.group("name") else own.user
    require_no_job(request.connection, "change access tokens")
    if user != own.user:
        _require_administrator(request)
    if own.authenticator == "PROGRAMMATIC_ACCESS_TOKEN":
        raise insufficient_privileges(
            "a session that a programmatic access token opened may not change such tokens: log in by another way"
        )
    if find(request.server, user) is None:
        if request.group("exists"):
            return status("Statement executed successfully.")
        raise does_not_exist("User", user)
    token = _name(request, "token")
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


@statement(rf"ALTER USER(?P<exists> IF EXISTS)? (?P<name>{NAME}) SET (?P<options>.+)")
def set_user(request: Statement) -> Answer:
    """ALTER USER [IF EXISTS] name SET RSA_PUBLIC_KEY = '...' | RSA_PUBLIC_KEY_2 = '...' | DISABLED = ... | options"""
    _require_administrator(request)
    name = _name(request, "name")
    if find(request.server, name) is None:
        if request.group("exists"):
            return status("Statement executed successfully.")
        raise does_not_exist("User", name)
    _update_user(request, name, _user_columns(request, Options.parse(request.group("options")), name))
    return status("Statement executed successfully.")


@statement(rf"ALTER USER(?P<exists> IF EXISTS)? (?P<name>{NAME}) UNSET (?P<keys>[\w\s,]+)")
def unset_user(request: Statement) -> Answer:
    """ALTER USER [IF EXISTS] name UNSET RSA_PUBLIC_KEY | RSA_PUBLIC_KEY_2 | COMMENT | ..."""
    _require_administrator(request)
    name = _name(request, "name")
    if find(request.server, name) is None:
        if request.group("exists"):
            return status("Statement executed successfully.")
        raise does_not_exist("User", name)
    columns: dict[str, Any] = {}
    for key in re.split(r"[\s,]+", (request.group("keys") or "").strip().upper()):
        if key in _KEYS:
            columns |= {key.lower(): None, f"{key.lower()}_fp": None, f"{key.lower()}_last_set_time": None}
        elif key in (*_TEXTS, *_NAMES) and key != "LOGIN_NAME":
            columns[key.lower()] = None
        else:
            raise unsupported(f"ALTER USER ... UNSET {key}")
    _update_user(request, name, columns)
    return status("Statement executed successfully.")


@statement(r"(?P<verb>CREATE|ALTER)(?: OR REPLACE)? USER .*")
def other_user_statements(request: Statement) -> Answer:
    """ALTER USER ... RENAME, RESET PASSWORD and so on: refused"""
    raise unsupported(f"this form of {(request.group('verb') or '').upper()} USER")


@statement(rf"DROP USER(?P<exists> IF EXISTS)? (?P<name>{NAME})")
def drop_user(request: Statement) -> Answer:
    """DROP USER [IF EXISTS] name: its tokens go with it, its sessions end"""
    _require_administrator(request)
    name = _name(request, "name")
    if find(request.server, name) is None:
        if request.group("exists"):
            return status("Drop statement executed successfully.")
        raise does_not_exist("User", name)
    _remove_user(request, name)
    return status(f"{name} successfully dropped.")


@statement(rf"(?:DESC|DESCRIBE) USER (?P<name>{NAME})")
def describe_user(request: Statement) -> Answer:
    """DESCRIBE USER name: its properties, the fingerprints of its keys among them"""
    name = _name(request, "name")
    found = request.server.catalog.query("SELECT * FROM users WHERE name = ?", [name])
    if not found:
        raise does_not_exist("User", name)
    tokens = request.server.catalog.query("SELECT 1 FROM access_tokens WHERE user_name = ?", [name])
    shown = {**found[0], "password": SHOWN_SECRET if name == _administrator(request.server) else None}
    shown["has_pat"] = str(bool(tokens)).lower()
    order = ("name", "comment", "display_name", "type", "login_name", "email", "password", "disabled", *_SHOWN_LAST)
    return rows(
        ["property", "value", "default", "description"],
        [(key.upper(), None if shown[key] is None else str(shown[key]), None, "") for key in order],
    )


_SHOWN_LAST = (
    *("default_warehouse", "default_namespace", "default_role"),
    *("rsa_public_key", "rsa_public_key_fp", "rsa_public_key_last_set_time"),
    *("rsa_public_key_2", "rsa_public_key_2_fp", "rsa_public_key_2_last_set_time", "has_pat"),
)


@statement(rf"SHOW USERS{SHOW_TAIL}")
def show_users(request: Statement) -> Answer:
    """SHOW USERS [LIKE pattern]"""
    shown = Shown.of(request.match, request.connection, request.binds)
    found = request.server.catalog.query(
        "SELECT u.*, EXISTS (SELECT 1 FROM access_tokens t WHERE t.user_name = u.name) AS has_pat FROM users u "
        "ORDER BY name"
    )
    columns = (
        *("name", "created_on", "login_name", "display_name", "email", "comment", "disabled", "default_warehouse"),
        *("default_namespace", "default_role", "type"),
    )
    answer = [
        (
            *(row[column] for column in columns),
            *(OWNER, str(row["rsa_public_key"] is not None or row["rsa_public_key_2"] is not None).lower()),
            *(str(row["name"] == _administrator(request.server)).lower(), str(row["has_pat"]).lower()),
        )
        for row in found
        if shown.has(row["name"])
    ]
    return rows([*columns, "owner", "has_rsa_public_key", "has_password", "has_pat"], answer[: shown.limit])


def _user_columns(request: Statement, options: Options, name: str) -> dict[str, Any]:
    """The columns of ``users`` that these options set. Raises for what is not served or is no key."""
    columns: dict[str, Any] = {}
    for key, value in options.values.items():
        if key in _KEYS:
            known = public_key(value)
            columns |= {
                key.lower(): known.spelled,
                f"{key.lower()}_fp": known.fingerprint,
                f"{key.lower()}_last_set_time": datetime.now(UTC),
            }
        elif key in _NAMES:
            columns[key.lower()] = value.upper()
        elif key in _TEXTS:
            columns[key.lower()] = value
        elif key == "TYPE":
            if value.upper() not in _TYPES:
                raise unsupported(f"user TYPE = {value.upper()}", f"expected {' or '.join(_TYPES)}")
            columns["type"] = value.upper()
        elif key == "DISABLED":
            if name == _administrator(request.server):
                raise invalid(f"expected another user than {name}, whose connection is that of the server itself")
            columns["disabled"] = str(value.upper() == "TRUE").lower()
        elif key == "PASSWORD":
            raise unsupported("PASSWORD of a user", "the one password is in connections.toml; give the user a key")
        else:
            raise unsupported(f"property {key} of a user")
    login_name = columns.get("login_name")
    other = by_login_name(request.server, login_name) if login_name else None
    if other and other.name != name:
        raise already_exists("Login name", str(login_name))
    return columns


def _update_user(request: Statement, name: str, columns: dict[str, Any]) -> None:
    assignments = ", ".join(f"{column} = ?" for column in columns)
    request.server.catalog.execute(f"UPDATE users SET {assignments} WHERE name = ?", [*columns.values(), name])
    if columns.get("disabled") == "true":
        _end_sessions(request.server, name)


def _remove_user(request: Statement, name: str) -> None:
    if name == _administrator(request.server):
        raise invalid(f"expected another user than {name}, whose connection is that of the server itself")
    request.server.catalog.execute("DELETE FROM access_tokens WHERE user_name = ?", [name])
    request.server.catalog.execute("DELETE FROM users WHERE name = ?", [name])
    _end_sessions(request.server, name)


def _end_sessions(server: EmbeddedSnowflake, user: str) -> None:
    for token, connection in list(fakesnow_server.sessions.items()):
        if sessions.of(connection).login.user == user:
            fakesnow_server.sessions.pop(token, None)
            sessions.cancel(connection)
            sessions.end(server, connection)


# -- programmatic access tokens ---------------------------------------------------------------------------------------


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
    user = _name(request, "name") if request.group("name") else own
    if user != own:
        _require_administrator(request)
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


# -- security integrations --------------------------------------------------------------------------------------------

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
    _require_administrator(request)
    name = _name(request, "name")
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
    _require_administrator(request)
    name = _name(request, "name")
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
    _require_administrator(request)
    name = _name(request, "name")
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


# -- rights -----------------------------------------------------------------------------------------------------------


def _administrator(server: EmbeddedSnowflake) -> str:
    return server.configuration.user.upper()


def _require_administrator(request: Statement) -> None:
    require_no_job(request.connection, "manage users")
    administrator = _administrator(request.server)
    if (user := sessions.of(request.connection).login.user) != administrator:
        raise insufficient_privileges(f"only user {administrator} manages users here, this session is {user}'s")


def _name(request: Statement, group: str) -> str:
    spelled = request.group(group) or ""
    found = names.parts(names.spelled(spelled, request.binds))
    if len(found) != 1:
        raise invalid(f"SQL compilation error:\nexpected a name without dots, found '{spelled}'")
    return found[0]

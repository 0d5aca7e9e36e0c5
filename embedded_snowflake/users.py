"""Users and their public keys.

Their tokens are in ``access_tokens``; whether what a client sends to log in is any good is decided in ``logins``. The
user of the server's own connection is the administrator: nobody else, and no session that a job opened, changes users.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

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
SHOWN_SECRET = "********"  # noqa: S105 - what DESCRIBE shows in its place

declare(
    """CREATE TABLE IF NOT EXISTS users (
        name VARCHAR PRIMARY KEY, login_name VARCHAR UNIQUE, display_name VARCHAR, email VARCHAR, type VARCHAR,
        disabled VARCHAR, default_role VARCHAR, default_warehouse VARCHAR, default_namespace VARCHAR, comment VARCHAR,
        rsa_public_key VARCHAR, rsa_public_key_fp VARCHAR, rsa_public_key_last_set_time TIMESTAMPTZ,
        rsa_public_key_2 VARCHAR, rsa_public_key_2_fp VARCHAR, rsa_public_key_2_last_set_time TIMESTAMPTZ,
        created_on TIMESTAMPTZ)"""
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
    require_administrator(request)
    name = account_name(request, "name")
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


@statement(rf"ALTER USER(?P<exists> IF EXISTS)? (?P<name>{NAME}) SET (?P<options>.+)")
def set_user(request: Statement) -> Answer:
    """ALTER USER [IF EXISTS] name SET RSA_PUBLIC_KEY = '...' | RSA_PUBLIC_KEY_2 = '...' | DISABLED = ... | options"""
    require_administrator(request)
    name = account_name(request, "name")
    if find(request.server, name) is None:
        if request.group("exists"):
            return status("Statement executed successfully.")
        raise does_not_exist("User", name)
    _update_user(request, name, _user_columns(request, Options.parse(request.group("options")), name))
    return status("Statement executed successfully.")


@statement(rf"ALTER USER(?P<exists> IF EXISTS)? (?P<name>{NAME}) UNSET (?P<keys>[\w\s,]+)")
def unset_user(request: Statement) -> Answer:
    """ALTER USER [IF EXISTS] name UNSET RSA_PUBLIC_KEY | RSA_PUBLIC_KEY_2 | COMMENT | ..."""
    require_administrator(request)
    name = account_name(request, "name")
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


# Those of ``access_tokens`` are tried after this one.
@statement(r"(?P<verb>CREATE|ALTER)(?: OR REPLACE)? USER (?!.*\b(?:ADD|ROTATE|MODIFY|REMOVE) (?:PROGRAMMATIC|PAT)\b).*")
def other_user_statements(request: Statement) -> Answer:
    """ALTER USER ... RENAME, RESET PASSWORD and so on: refused"""
    raise unsupported(f"this form of {(request.group('verb') or '').upper()} USER")


@statement(rf"DROP USER(?P<exists> IF EXISTS)? (?P<name>{NAME})")
def drop_user(request: Statement) -> Answer:
    """DROP USER [IF EXISTS] name: its tokens go with it, its sessions end"""
    require_administrator(request)
    name = account_name(request, "name")
    if find(request.server, name) is None:
        if request.group("exists"):
            return status("Drop statement executed successfully.")
        raise does_not_exist("User", name)
    _remove_user(request, name)
    return status(f"{name} successfully dropped.")


@statement(rf"(?:DESC|DESCRIBE) USER (?P<name>{NAME})")
def describe_user(request: Statement) -> Answer:
    """DESCRIBE USER name: its properties, the fingerprints of its keys among them"""
    name = account_name(request, "name")
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
    for token, connection in server.session_tokens.open():
        if sessions.of(connection).login.user == user:
            server.session_tokens.close(token)
            sessions.cancel(connection)
            sessions.end(server, connection)


# -- rights -----------------------------------------------------------------------------------------------------------


def _administrator(server: EmbeddedSnowflake) -> str:
    return server.configuration.user.upper()


def require_administrator(request: Statement) -> None:
    """Raise for a session that may not manage users."""
    require_no_job(request.connection, "manage users")
    administrator = _administrator(request.server)
    if (user := sessions.of(request.connection).login.user) != administrator:
        raise insufficient_privileges(f"only user {administrator} manages users here, this session is {user}'s")


def account_name(request: Statement, group: str) -> str:
    """The account-level name that the statement spells in this group."""
    spelled = request.group(group) or ""
    found = names.parts(names.spelled(spelled, request.binds))
    if len(found) != 1:
        raise invalid(f"SQL compilation error:\nexpected a name without dots, found '{spelled}'")
    return found[0]

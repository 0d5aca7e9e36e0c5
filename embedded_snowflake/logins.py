"""Who may log in, and as what: by password, by a key pair, by a programmatic access token, by an OAuth token.

What a client sends is checked here against ``users``, ``access_tokens`` and ``security_integrations``. How a session
then works belongs in ``sessions``.

The claims of a key pair's token: https://docs.snowflake.com/en/developer-guide/sql-api/authenticating. The numbers of
the refusals are Snowflake's own, as its connector lists them. As there, a client is told that its token is invalid, and
an administrator asks SYSTEM$GET_LOGIN_FAILURE_DETAILS for the reason:
https://docs.snowflake.com/en/user-guide/key-pair-auth-troubleshooting.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from embedded_snowflake import access_tokens, security_integrations, users
from embedded_snowflake.errors import invalid
from embedded_snowflake.names import text
from embedded_snowflake.security_integrations import Integration
from embedded_snowflake.sessions import Login, require_no_job
from embedded_snowflake.sql_functions import ACCOUNT
from embedded_snowflake.statements import Query, literal, rewriter
from embedded_snowflake.tokens import Edit, Tokens
from embedded_snowflake.users import User

if TYPE_CHECKING:
    from embedded_snowflake.server import EmbeddedSnowflake

INCORRECT = (390100, "Incorrect username or password was specified.")
DISABLED = (390101, "User access disabled. Contact your local system administrator.")
JWT_INVALID = 390144
ROLE_NOT_GRANTED = 390186
OAUTH_INVALID = 390303
OAUTH_OTHER_USER = 390309
OAUTH_ROLE = 390317
OAUTH_EXPIRED = 390318
ACCESS_TOKEN_INVALID = (394400, "Programmatic access token is invalid.")

REMEMBERED_FAILURES = 200
# What two machines' clocks may differ by.
LEEWAY = timedelta(seconds=60)
# However late its own expiry, a key pair's token is good for this long.
LONGEST_JWT = timedelta(hours=1)
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
ANY_ROLE = "ROLE-ANY"
# No OAuth token makes a session of these.
_BLOCKED_ROLES = {"ACCOUNTADMIN", "ORGADMIN", "GLOBALORGADMIN", "SECURITYADMIN"}


class LoginRefusedError(Exception):
    """The login is refused with Snowflake's number and message."""

    def __init__(self, errno: int, message: str) -> None:
        super().__init__(message)
        self.errno, self.message = errno, message


@dataclass(frozen=True)
class Attempt:
    """What a client sent to log in."""

    user: str
    account: str
    role: str
    password: str
    token: str
    client: str


class LoginFailures:
    """The reasons of refused logins by the id in their message, for an administrator. The oldest go first."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, dict[str, str]] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, attempt: Attempt, reason: str) -> str:
        """The new failure's id."""
        failure = str(uuid.uuid4())
        details = {
            "clientIP": "127.0.0.1",
            "clientType": attempt.client,
            "username": attempt.user.upper(),
            "errorCode": reason,
            "timestamp": datetime.now(UTC).isoformat(),
        }
        with self._lock:
            self._known[failure] = details
            while len(self._known) > REMEMBERED_FAILURES:
                self._known.popitem(last=False)
        return failure

    def details(self, failure: str) -> dict[str, str] | None:
        with self._lock:
            return self._known.get(failure)


def check(server: EmbeddedSnowflake, data: Mapping[str, Any], role: str) -> Login:
    """Who logs in by this document of a login request. Raises LoginRefusedError."""
    authenticator = str(data.get("AUTHENTICATOR") or "SNOWFLAKE").upper()
    attempt = Attempt(
        user=str(data.get("LOGIN_NAME") or ""),
        account=str(data.get("ACCOUNT_NAME") or ""),
        role=role.upper(),
        password=str(data.get("PASSWORD") or ""),
        token=str(data.get("TOKEN") or ""),
        client=str(data.get("CLIENT_APP_ID") or ""),
    )
    by = _AUTHENTICATORS.get(authenticator)
    if by is None:
        raise unsupported_authenticator(authenticator)
    if data.get("PASSCODE") or data.get("EXT_AUTHN_DUO_METHOD") or _asks_for_mfa_token(data):
        raise unsupported_authenticator("USERNAME_PASSWORD_MFA")
    login = by(server, attempt)
    if login.role and attempt.role not in ("", login.role):
        raise LoginRefusedError(
            ROLE_NOT_GRANTED,
            f"Role '{attempt.role}' specified in the connect string is not granted to this user: "
            f"its token is restricted to role '{login.role}'.",
        )
    return login


def _asks_for_mfa_token(data: Mapping[str, Any]) -> bool:
    # The connector names no authenticator for a password with a second factor; this is what tells it from a password.
    return (data.get("SESSION_PARAMETERS") or {}).get("CLIENT_REQUEST_MFA_TOKEN") is True


def unsupported_authenticator(authenticator: str) -> LoginRefusedError:
    """The refusal of a way to log in that this server does not have."""
    return LoginRefusedError(
        2,
        f"unsupported on the embedded server: authenticator {authenticator} "
        f"(expected a password or {', '.join(name for name in _AUTHENTICATORS if name != 'SNOWFLAKE')})",
    )


def _by_password(server: EmbeddedSnowflake, attempt: Attempt) -> Login:
    expected = server.configuration
    if attempt.user.upper() == expected.user.upper():
        if job := server.job_credentials.job_of(attempt.password):
            return Login(expected.user.upper(), "PASSWORD", job=job)
        if server.is_user(attempt.user, attempt.password):
            return Login(expected.user.upper(), "PASSWORD")
    # Snowflake takes a programmatic access token where a client has a place for a password only.
    if attempt.password and access_tokens.find_secret(server, attempt.password):
        return _by_access_token(server, replace(attempt, token=attempt.password))
    raise LoginRefusedError(*INCORRECT)


def _by_access_token(server: EmbeddedSnowflake, attempt: Attempt) -> Login:
    found = access_tokens.find_secret(server, attempt.token) if attempt.token else None
    if found is None or found.disabled or found.expires_at <= datetime.now(UTC):
        raise LoginRefusedError(*ACCESS_TOKEN_INVALID)
    user = users.find(server, found.user)
    if user is None or (attempt.user and attempt.user.upper() != user.login_name):
        raise LoginRefusedError(*ACCESS_TOKEN_INVALID)
    return _login(user, "PROGRAMMATIC_ACCESS_TOKEN", found.role)


def _by_key_pair(server: EmbeddedSnowflake, attempt: Attempt) -> Login:
    def refuse(reason: str) -> LoginRefusedError:
        failure = server.login_failures.note(attempt, reason)
        return LoginRefusedError(JWT_INVALID, f"JWT token is invalid. [{failure}]")

    try:
        claimed = jwt.decode(attempt.token, options={"verify_signature": False})
    except jwt.PyJWTError as error:
        raise refuse("JWT_TOKEN_INVALID_FORMAT") from error
    subject, issuer = str(claimed.get("sub")), str(claimed.get("iss"))
    account, _, login_name = subject.partition(".")
    if account != ACCOUNT:
        raise refuse("JWT_TOKEN_INVALID_ACCOUNT_IN_SUBJECT")
    user = users.by_login_name(server, login_name)
    if user is None or login_name != attempt.user.upper():
        raise refuse("JWT_TOKEN_INVALID_USER_IN_SUBJECT")
    issued_by, _, fingerprint = issuer.rpartition(".")
    if issued_by != subject:
        raise refuse("JWT_TOKEN_INVALID_USER_IN_ISSUER")
    key = next((known for known in user.keys if known.fingerprint == fingerprint), None)
    if key is None:
        raise refuse("JWT_TOKEN_INVALID_PUBLIC_KEY_FINGERPRINT_MISMATCH")
    try:
        verified = jwt.decode(
            attempt.token,
            key.key,
            algorithms=[algorithm_of(key.key)],
            leeway=LEEWAY,
            options={"require": ["iss", "sub", "iat", "exp"], "verify_aud": False},
        )
    except jwt.ExpiredSignatureError as error:
        raise refuse("JWT_TOKEN_EXPIRED") from error
    except jwt.ImmatureSignatureError as error:
        raise refuse("JWT_TOKEN_NOT_YET_VALID") from error
    except jwt.InvalidAlgorithmError as error:
        raise refuse("JWT_TOKEN_INVALID_ALGORITHM") from error
    except jwt.InvalidSignatureError as error:
        raise refuse("JWT_TOKEN_INVALID_SIGNATURE") from error
    except jwt.PyJWTError as error:
        raise refuse("JWT_TOKEN_INVALID_FORMAT") from error
    if datetime.fromtimestamp(verified["iat"], UTC) + LONGEST_JWT + LEEWAY < datetime.now(UTC):
        raise refuse("JWT_TOKEN_EXPIRED")
    return _login(user, "SNOWFLAKE_JWT")


def algorithm_of(key: users.PublicKey) -> str:
    """The one algorithm that a key signs with; a token does not choose its own."""
    if isinstance(key, RSAPublicKey):
        return "RS256"
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    raise invalid(f"expected an RSA key or an EC key of {', '.join(_CURVES)}")


def _by_oauth(server: EmbeddedSnowflake, attempt: Attempt) -> Login:
    if job := server.job_credentials.job_of(attempt.token):
        # As a container's own token, which clients show as an OAuth token.
        return Login(server.configuration.user.upper(), "OAUTH", job=job)

    def refuse(errno: int, message: str, reason: str) -> LoginRefusedError:
        return LoginRefusedError(errno, f"{message} [{server.login_failures.note(attempt, reason)}]")

    def invalid_token(reason: str) -> LoginRefusedError:
        return refuse(OAUTH_INVALID, "Invalid OAuth access token.", reason)

    try:
        issuer = str(jwt.decode(attempt.token, options={"verify_signature": False}).get("iss"))
    except jwt.PyJWTError as error:
        raise invalid_token("OAUTH_ACCESS_TOKEN_INVALID_FORMAT") from error
    integration = security_integrations.of_issuer(server, issuer)
    if integration is None:
        raise invalid_token("EXTERNAL_OAUTH_INVALID_ISSUER")
    try:
        claims = _verified(integration, attempt.token)
    except jwt.ExpiredSignatureError as error:
        raise refuse(OAUTH_EXPIRED, "OAuth access token expired.", "OAUTH_ACCESS_TOKEN_EXPIRED") from error
    except jwt.InvalidAudienceError as error:
        raise invalid_token("EXTERNAL_OAUTH_INVALID_AUDIENCE") from error
    except jwt.InvalidSignatureError as error:
        raise invalid_token("EXTERNAL_OAUTH_INVALID_SIGNATURE") from error
    except jwt.PyJWTError as error:
        raise invalid_token(f"EXTERNAL_OAUTH_INVALID_TOKEN: {error}") from error
    user = _mapped_user(server, integration, claims)
    if user is None:
        raise invalid_token("EXTERNAL_OAUTH_USER_NOT_FOUND")
    if attempt.user and attempt.user.upper() != user.login_name:
        raise refuse(
            OAUTH_OTHER_USER,
            "The user you were trying to authenticate as differs from the user tied to the access token.",
            "OAUTH_USERNAME_MISMATCH",
        )
    role, scopes = attempt.role or user.default_role, _scopes(integration, claims)
    if role in _BLOCKED_ROLES or role in integration.blocked_roles or scopes.isdisjoint((f"ROLE:{role}", ANY_ROLE)):
        raise refuse(
            OAUTH_ROLE,
            "The role requested in the connection, or the default role if none was requested in the connection "
            f"('{role}'), is not listed in the Access Token or was filtered.",
            "OAUTH_ROLE_NOT_IN_SCOPE",
        )
    return _login(user, "OAUTH", None if ANY_ROLE in scopes else role)


def _verified(integration: Integration, token: str) -> dict[str, Any]:
    """The token's claims. Raises PyJWTError, of the last key that was tried."""
    failure: jwt.PyJWTError = jwt.InvalidSignatureError("the integration has no key")
    for key in integration.keys:
        try:
            return jwt.decode(
                token,
                key.key,
                algorithms=[algorithm_of(key.key)],
                audience=[f"https://{ACCOUNT.lower()}.snowflakecomputing.com", *integration.audiences],
                issuer=integration.issuer,
                leeway=LEEWAY,
                options={"require": ["iss", "aud", "exp"]},
            )
        except jwt.InvalidSignatureError as error:
            failure = error
    raise failure


def _mapped_user(server: EmbeddedSnowflake, integration: Integration, claims: Mapping[str, Any]) -> User | None:
    value = next((str(claims[name]) for name in integration.user_claims if claims.get(name)), None)
    if value is None:
        return None
    if integration.user_attribute == "EMAIL_ADDRESS":
        return users.by_email(server, value)
    return users.by_login_name(server, value)


def _scopes(integration: Integration, claims: Mapping[str, Any]) -> set[str]:
    """What of ``session:...`` the token lists: ROLE:<name>, or ROLE-ANY where the integration allows that."""
    scopes = claims.get(integration.scope_claim) or []
    listed = scopes.split(integration.scope_delimiter) if isinstance(scopes, str) else [str(scope) for scope in scopes]
    found = {scope.strip().upper().removeprefix("SESSION:") for scope in listed}
    return found if integration.any_role else found - {ANY_ROLE}


def _login(user: User, authenticator: str, role: str | None = None) -> Login:
    if user.disabled:
        raise LoginRefusedError(*DISABLED)
    return Login(user.name, authenticator, role=role, default_role=user.default_role)


_AUTHENTICATORS: dict[str, Callable[[EmbeddedSnowflake, Attempt], Login]] = {
    "SNOWFLAKE": _by_password,
    "SNOWFLAKE_JWT": _by_key_pair,
    "PROGRAMMATIC_ACCESS_TOKEN": _by_access_token,
    "OAUTH": _by_oauth,
}


@rewriter(r"SYSTEM\$GET_LOGIN_FAILURE_DETAILS")
def login_failure_details(query: Query) -> str:
    """SYSTEM$GET_LOGIN_FAILURE_DETAILS('<id in the refusal's message>')"""
    tokens, edits = Tokens(query.sql), []
    for call in tokens.calls():
        if [part.upper() for part in call.path] != ["SYSTEM$GET_LOGIN_FAILURE_DETAILS"]:
            continue
        require_no_job(query.connection, "read login failures")
        details = query.server.login_failures.details(text(call.arguments[0])) if call.arguments else None
        if details is None:
            raise invalid("expected the id in the message of one of the latest refused logins", 100035, "22023")
        edits.append(Edit(call.start, call.end, literal(json.dumps(details))))
    return tokens.edited(edits)

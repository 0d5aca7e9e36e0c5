"""Logins by key pair, programmatic access token and OAuth: Snowflake's own clients against the embedded server."""

from __future__ import annotations

import json
import shutil
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import jwt
import pytest
import snowflake.connector
import tomlkit
from conftest import ROOT, Embedded, start_embedded, stop_embedded
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from snowflake.connector.auth import AuthByKeyPair
from snowflake.connector.config_manager import CONFIG_MANAGER

from resources.errors import SnowflakeConnectionError
from resources.job_payload import Payload
from resources.snowflake import SnowflakeConnection
from resources.snowflake_jobs import PipesSnowflakeJobClient, Polling

ROLE = "PIPELINE_ROLE"
ISSUER, AUDIENCE = "https://idp.example/oauth", "https://snowflake.example"
PASSPHRASE = "correct horse"
Run = Callable[[str], list[dict[str, Any]]]


def spelled(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    """The public key as ALTER USER wants it: PEM without its first and last line."""
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return "".join(pem.splitlines()[1:-1])


def write_key(key: rsa.RSAPrivateKey, file: Path, passphrase: str | None = None) -> Path:
    encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return file


def settings(server: Embedded) -> dict[str, Any]:
    return tomllib.loads((server.home / "connections.toml").read_text())["embedded"]


def connect(server: Embedded, **login: Any):
    """A connection of snowflake-connector-python that says all of how it logs in."""
    where = {name: settings(server)[name] for name in ("account", "host", "port", "protocol", "login_timeout")}
    server.opened.append(snowflake.connector.connect(**{**where, **login}))
    return server.opened[-1]


def refusal(server: Embedded, **login: Any) -> snowflake.connector.errors.Error:
    """The error of a login that is refused, at once."""
    began = time.monotonic()
    with pytest.raises(snowflake.connector.errors.Error) as refused:
        connect(server, **login)
    assert time.monotonic() - began < 5
    return refused.value


def who(connection) -> tuple[str, str]:
    return connection.cursor().execute("SELECT CURRENT_USER(), CURRENT_ROLE()").fetchone()


def post_login(server: Embedded, **data: Any) -> dict[str, Any]:
    """The answer to a login request that no client of Snowflake's would send."""
    url = f"http://127.0.0.1:{settings(server)['port']}/session/v1/login-request"
    document = {"data": {"ACCOUNT_NAME": "embedded", "SESSION_PARAMETERS": {}, **data}}
    request = urllib.request.Request(url, json.dumps(document).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())


@dataclass(frozen=True)
class Pipeline:
    """The service user PIPELINE with its key, and the key that signs OAuth tokens."""

    server: Embedded
    run: Run
    key: rsa.RSAPrivateKey
    issuer_key: rsa.RSAPrivateKey
    directory: Path

    def oauth_token(self, key: rsa.RSAPrivateKey | None = None, **claims: Any) -> str:
        known = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "upn": "pipeline",
            "scp": f"session:role:{ROLE}",
            "exp": datetime.now(UTC) + timedelta(minutes=10),
        }
        return jwt.encode({**known, **claims}, key or self.issuer_key, "RS256")

    def access_token(self, name: str) -> str:
        self.run(f"ALTER USER PIPELINE REMOVE PAT {name}") if name in self.access_tokens() else None
        (row,) = self.run(f"ALTER USER PIPELINE ADD PROGRAMMATIC ACCESS TOKEN {name} ROLE_RESTRICTION = '{ROLE}'")
        return row["token_secret"]

    def access_tokens(self) -> dict[str, str]:
        shown = self.run("SHOW USER PROGRAMMATIC ACCESS TOKENS FOR USER PIPELINE")
        return {row["name"]: row["status"] for row in shown}

    def named(self, name: str, **login: Any) -> SnowflakeConnection:
        """A connection of connections.toml that logs in this way."""
        file = self.server.home / "connections.toml"
        document = tomlkit.parse(file.read_text())
        kept = ("account", "host", "port", "protocol", "database", "schema", "warehouse", "login_timeout")
        document[name] = {**{key: settings(self.server)[key] for key in kept}, **login}
        file.write_text(tomlkit.dumps(document))
        CONFIG_MANAGER.read_config()
        return SnowflakeConnection(connection_name=name)


@pytest.fixture(scope="module")
def pipeline(embedded: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    from snowflake.connector import DictCursor

    cursor = embedded.connect().cursor(DictCursor)

    def run(sql: str) -> list[dict[str, Any]]:
        return [dict(row) for row in cursor.execute(sql).fetchall()]

    key, issuer_key = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    run(f"CREATE ROLE IF NOT EXISTS {ROLE}")
    run(f"CREATE OR REPLACE USER PIPELINE TYPE = SERVICE DEFAULT_ROLE = {ROLE} RSA_PUBLIC_KEY = '{spelled(key)}'")
    run(
        "CREATE OR REPLACE SECURITY INTEGRATION IDP TYPE = EXTERNAL_OAUTH ENABLED = TRUE EXTERNAL_OAUTH_TYPE = CUSTOM "
        f"EXTERNAL_OAUTH_ISSUER = '{ISSUER}' EXTERNAL_OAUTH_AUDIENCE_LIST = ('{AUDIENCE}') "
        f"EXTERNAL_OAUTH_RSA_PUBLIC_KEY = '{spelled(issuer_key)}' EXTERNAL_OAUTH_TOKEN_USER_MAPPING_CLAIM = ('upn') "
        "EXTERNAL_OAUTH_SNOWFLAKE_USER_MAPPING_ATTRIBUTE = 'LOGIN_NAME'"
    )
    yield Pipeline(embedded, run, key, issuer_key, tmp_path_factory.mktemp("keys"))
    run("DROP SECURITY INTEGRATION IDP")
    run("DROP USER PIPELINE")


# -- the project over each way to log in ------------------------------------------------------------------------------


def by_key(pipeline: Pipeline) -> dict[str, Any]:
    file = write_key(pipeline.key, pipeline.directory / "key.p8")
    return {"user": "pipeline", "authenticator": "SNOWFLAKE_JWT", "private_key_file": str(file)}


def by_encrypted_key(pipeline: Pipeline) -> dict[str, Any]:
    file = write_key(pipeline.key, pipeline.directory / "encrypted.p8", PASSPHRASE)
    login = {"user": "pipeline", "authenticator": "SNOWFLAKE_JWT", "private_key_file": str(file)}
    return {**login, "private_key_file_pwd": PASSPHRASE}


def by_access_token(pipeline: Pipeline) -> dict[str, Any]:
    return {"user": "pipeline", "authenticator": "PROGRAMMATIC_ACCESS_TOKEN", "token": pipeline.access_token("NAMED")}


def by_access_token_file(pipeline: Pipeline) -> dict[str, Any]:
    file = pipeline.directory / "token"
    file.write_text(pipeline.access_token("FILED"))
    return {"authenticator": "PROGRAMMATIC_ACCESS_TOKEN", "token_file_path": str(file)}


def by_oauth(pipeline: Pipeline) -> dict[str, Any]:
    return {"user": "pipeline", "authenticator": "OAUTH", "token": pipeline.oauth_token()}


@pytest.mark.parametrize("login", [by_key, by_encrypted_key, by_access_token, by_access_token_file, by_oauth])
def test_the_project_runs_over_every_way_to_log_in(pipeline: Pipeline, login: Callable[[Pipeline], dict[str, Any]]):
    connection = pipeline.named(login.__name__, **login(pipeline))
    asked = "SELECT CURRENT_USER() AS U, CURRENT_ROLE() AS R"
    with connection.session() as session:
        assert session.sql(asked).collect()[0].as_dict() == {"U": "PIPELINE", "R": ROLE}
    assert connection.query(asked) == [{"U": "PIPELINE", "R": ROLE}]
    with connection.snowflake_resource().get_connection() as dagsters:
        assert who(dagsters) == ("PIPELINE", ROLE)


def test_no_secret_of_the_connection_is_in_the_resource_that_dagster_is_given(pipeline: Pipeline):
    login = {**by_encrypted_key(pipeline), "token": "a-token", "password": "a-password"}
    shown = repr(pipeline.named("secretive", **login).snowflake_resource())
    assert "SNOWFLAKE_JWT" in shown
    assert not [secret for secret in (PASSPHRASE, "a-token", "a-password") if secret in shown]


# -- key pairs --------------------------------------------------------------------------------------------------------


def described(pipeline: Pipeline, name: str = "PIPELINE") -> dict[str, str]:
    return {row["property"]: row["value"] for row in pipeline.run(f"DESCRIBE USER {name}")}


def test_describe_user_shows_the_fingerprint_that_the_client_signs_with(pipeline: Pipeline):
    shown = described(pipeline)
    assert shown["RSA_PUBLIC_KEY_FP"] == AuthByKeyPair.calculate_public_key_fingerprint(pipeline.key)
    assert (shown["TYPE"], shown["PASSWORD"], shown["RSA_PUBLIC_KEY_2_FP"]) == ("SERVICE", None, None)


def test_a_key_is_rotated_without_a_moment_when_none_is_good(pipeline: Pipeline):
    old, new = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    pipeline.run(f"CREATE OR REPLACE USER ROTATING TYPE = SERVICE RSA_PUBLIC_KEY = '{spelled(old)}'")
    pipeline.run(f"ALTER USER ROTATING SET RSA_PUBLIC_KEY_2 = '{spelled(new)}'")
    for key in (old, new):
        assert who(connect(pipeline.server, user="rotating", private_key=key))[0] == "ROTATING"
    pipeline.run("ALTER USER ROTATING UNSET RSA_PUBLIC_KEY")
    assert who(connect(pipeline.server, user="rotating", private_key=new))[0] == "ROTATING"
    assert refusal(pipeline.server, user="rotating", private_key=old).errno == 390144
    pipeline.run("DROP USER ROTATING")
    assert refusal(pipeline.server, user="rotating", private_key=new).errno == 390144


def test_an_elliptic_curve_key_opens_sessions_too(pipeline: Pipeline):
    key = ec.generate_private_key(ec.SECP256R1())
    pipeline.run(f"ALTER USER PIPELINE SET RSA_PUBLIC_KEY_2 = '{spelled(key)}'")
    assert who(connect(pipeline.server, user="pipeline", private_key=key)) == ("PIPELINE", ROLE)
    pipeline.run("ALTER USER PIPELINE UNSET RSA_PUBLIC_KEY_2")


def test_what_is_no_key_or_too_short_a_one_is_refused(pipeline: Pipeline):
    short = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is what is refused
    for key in ("nonsense", "-----BEGIN PUBLIC KEY-----", spelled(short)):
        with pytest.raises(snowflake.connector.errors.ProgrammingError, match="New public key rejected"):
            pipeline.run(f"ALTER USER PIPELINE SET RSA_PUBLIC_KEY_2 = '{key}'")


def forgeries(pipeline: Pipeline) -> dict[str, str]:
    """Tokens that are almost good, by the reason for which they are not."""
    now = datetime.now(UTC)
    fingerprint = AuthByKeyPair.calculate_public_key_fingerprint(pipeline.key)
    other = rsa.generate_private_key(65537, 2048)
    subject = "EMBEDDED.PIPELINE"
    good = {"iss": f"{subject}.{fingerprint}", "sub": subject, "iat": now, "exp": now + timedelta(seconds=60)}

    def signed(key: Any = pipeline.key, algorithm: str = "RS256", **claims: Any) -> str:
        return jwt.encode({**good, **claims}, key, algorithm)

    assert post_login(pipeline.server, LOGIN_NAME="pipeline", AUTHENTICATOR="SNOWFLAKE_JWT", TOKEN=signed())["success"]
    long_ago = now - timedelta(hours=3)
    return {
        "JWT_TOKEN_INVALID_SIGNATURE": signed(other),
        "JWT_TOKEN_INVALID_PUBLIC_KEY_FINGERPRINT_MISMATCH": signed(
            other, iss=f"{subject}.{AuthByKeyPair.calculate_public_key_fingerprint(other)}"
        ),
        "JWT_TOKEN_INVALID_ALGORITHM": signed("", "none"),
        "JWT_TOKEN_INVALID_ALGORITHM ": signed("x" * 32, "HS256"),
        "JWT_TOKEN_INVALID_ALGORITHM  ": signed(algorithm="RS512"),
        "JWT_TOKEN_EXPIRED": signed(iat=long_ago, exp=long_ago + timedelta(seconds=60)),
        "JWT_TOKEN_EXPIRED ": signed(iat=long_ago),
        "JWT_TOKEN_NOT_YET_VALID": signed(iat=now + timedelta(hours=1), exp=now + timedelta(hours=2)),
        "JWT_TOKEN_INVALID_ACCOUNT_IN_SUBJECT": signed(sub="ELSEWHERE.PIPELINE"),
        "JWT_TOKEN_INVALID_USER_IN_SUBJECT": signed(sub="EMBEDDED.EMBEDDED"),
        "JWT_TOKEN_INVALID_USER_IN_ISSUER": signed(iss=f"EMBEDDED.EMBEDDED.{fingerprint}"),
        "JWT_TOKEN_INVALID_FORMAT": "a.b.c",
        "JWT_TOKEN_INVALID_FORMAT ": "",
    }


def test_a_forged_token_is_refused_and_only_an_administrator_is_told_why(pipeline: Pipeline):
    for reason, token in forgeries(pipeline).items():
        answer = post_login(pipeline.server, LOGIN_NAME="pipeline", AUTHENTICATOR="SNOWFLAKE_JWT", TOKEN=token)
        assert (answer["success"], answer["code"]) == (False, "390144"), reason
        assert answer["message"].startswith("JWT token is invalid. [")
        failure = answer["message"].partition("[")[2].rstrip("]")
        details = pipeline.run(
            f"SELECT JSON_EXTRACT_PATH_TEXT(SYSTEM$GET_LOGIN_FAILURE_DETAILS('{failure}'), 'errorCode') AS REASON"
        )
        assert details == [{"REASON": reason.strip()}]


# -- programmatic access tokens ---------------------------------------------------------------------------------------


def test_an_access_token_is_shown_once_and_kept_nowhere(pipeline: Pipeline):
    secret = pipeline.access_token("ONCE")
    assert who(connect(pipeline.server, user="pipeline", authenticator="PROGRAMMATIC_ACCESS_TOKEN", token=secret))
    assert secret not in str(pipeline.run("SHOW USER PROGRAMMATIC ACCESS TOKENS FOR USER PIPELINE"))
    files = [file for file in pipeline.server.home.rglob("*") if file.is_file()]
    assert any(b"ONCE" in file.read_bytes() for file in files)
    assert not [file for file in files if secret.encode() in file.read_bytes()]


def test_a_rotated_token_lives_on_for_the_hours_it_was_given_and_no_longer(pipeline: Pipeline):
    def try_token(secret: str) -> bool:
        login = {"LOGIN_NAME": "pipeline", "AUTHENTICATOR": "PROGRAMMATIC_ACCESS_TOKEN", "TOKEN": secret}
        answer = post_login(pipeline.server, **login)
        assert answer["success"] or answer["code"] == "394400"
        return answer["success"]

    first = pipeline.access_token("ROTATED")
    second = pipeline.run("ALTER USER PIPELINE ROTATE PROGRAMMATIC ACCESS TOKEN ROTATED")[0]["token_secret"]
    assert (try_token(first), try_token(second)) == (True, True)
    third = pipeline.run(
        "ALTER USER PIPELINE ROTATE PROGRAMMATIC ACCESS TOKEN ROTATED EXPIRE_ROTATED_TOKEN_AFTER_HOURS = 0"
    )[0]["token_secret"]
    assert (try_token(first), try_token(second), try_token(third)) == (True, False, True)
    pipeline.run("ALTER USER PIPELINE MODIFY PROGRAMMATIC ACCESS TOKEN ROTATED SET DISABLED = TRUE")
    assert not try_token(third)
    pipeline.run("ALTER USER PIPELINE MODIFY PROGRAMMATIC ACCESS TOKEN ROTATED SET DISABLED = FALSE")
    assert try_token(third)
    pipeline.run("ALTER USER PIPELINE REMOVE PROGRAMMATIC ACCESS TOKEN ROTATED")
    assert not try_token(third)


def test_an_access_token_opens_its_own_user_and_its_own_role_only(pipeline: Pipeline):
    secret = pipeline.access_token("NARROW")
    login: dict[str, Any] = {"authenticator": "PROGRAMMATIC_ACCESS_TOKEN", "token": secret}
    assert refusal(pipeline.server, **login, user="embedded").errno == 394400
    assert refusal(pipeline.server, **login, user="pipeline", role="SYSADMIN").errno == 390186
    cursor = connect(pipeline.server, **login, user="pipeline").cursor()
    for statement in (
        "USE ROLE SYSADMIN",
        "ALTER USER PIPELINE ADD PAT ANOTHER ROLE_RESTRICTION = 'SYSADMIN'",
        "ALTER USER EMBEDDED ADD PAT ANOTHER",
        "ALTER USER PIPELINE SET RSA_PUBLIC_KEY_2 = 'x'",
    ):
        with pytest.raises(snowflake.connector.errors.ProgrammingError, match="Insufficient privileges"):
            cursor.execute(statement)


def test_an_access_token_stands_in_for_a_password(pipeline: Pipeline):
    secret = pipeline.access_token("PASSWORDLESS")
    assert who(connect(pipeline.server, user="pipeline", password=secret)) == ("PIPELINE", ROLE)


def test_a_service_users_token_names_its_role(pipeline: Pipeline):
    with pytest.raises(snowflake.connector.errors.ProgrammingError, match="ROLE_RESTRICTION is required"):
        pipeline.run("ALTER USER PIPELINE ADD PROGRAMMATIC ACCESS TOKEN WIDE")
    with pytest.raises(snowflake.connector.errors.ProgrammingError, match="DAYS_TO_EXPIRY = 1 to 365, found '366'"):
        pipeline.run(f"ALTER USER PIPELINE ADD PAT LONG ROLE_RESTRICTION = '{ROLE}' DAYS_TO_EXPIRY = 366")


# -- OAuth ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "number"),
    [
        ({"iss": "https://elsewhere.example"}, 390303),
        ({"aud": "https://elsewhere.example"}, 390303),
        ({"upn": "nobody"}, 390303),
        ({"exp": 1}, 390318),
        ({"upn": "embedded"}, 390309),
        ({"scp": "session:role:SYSADMIN"}, 390317),
        ({"scp": "session:role-any"}, 390317),
    ],
)
def test_an_oauth_token_that_is_not_for_this_login_is_refused(pipeline: Pipeline, claims: dict[str, Any], number: int):
    token = pipeline.oauth_token(**claims)
    assert refusal(pipeline.server, user="pipeline", authenticator="OAUTH", token=token).errno == number


def test_an_oauth_token_of_another_key_or_of_a_disabled_integration_is_refused(pipeline: Pipeline):
    login: dict[str, Any] = {"user": "pipeline", "authenticator": "OAUTH"}
    assert refusal(pipeline.server, **login, token=pipeline.oauth_token(pipeline.key)).errno == 390303
    pipeline.run("ALTER SECURITY INTEGRATION IDP SET ENABLED = FALSE")
    assert refusal(pipeline.server, **login, token=pipeline.oauth_token()).errno == 390303
    pipeline.run("ALTER SECURITY INTEGRATION IDP SET ENABLED = TRUE")
    assert who(connect(pipeline.server, **login, token=pipeline.oauth_token())) == ("PIPELINE", ROLE)


def test_no_oauth_token_makes_an_account_administrator(pipeline: Pipeline):
    token = pipeline.oauth_token(scp="session:role:ACCOUNTADMIN")
    assert refusal(pipeline.server, authenticator="OAUTH", token=token, role="ACCOUNTADMIN").errno == 390317


# -- what the user is told --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("login", "told"),
    [
        ({"user": "embedded", "password": "wrong"}, "Check its user and password"),
        ({"authenticator": "PROGRAMMATIC_ACCESS_TOKEN", "token": "wrong"}, "Rotate it: ALTER USER"),
        ({"authenticator": "OAUTH", "token": "wrong"}, "token_file_path"),
        ({"authenticator": "EXTERNALBROWSER", "user": "pipeline"}, "unsupported on the embedded server: authenticator"),
        (
            {"authenticator": "USERNAME_PASSWORD_MFA", "user": "embedded", "password": "x", "passcode": "123456"},
            "unsupported on the embedded server: authenticator USERNAME_PASSWORD_MFA",
        ),
        ({"authenticator": "OAUTH", "token_file_path": "/nowhere/token"}, "/nowhere/token.*Check private_key_file"),
        ({"user": "pipeline", "private_key_file": "/nowhere/key.p8"}, "/nowhere/key.p8.*Check private_key_file"),
    ],
)
def test_a_refused_login_says_at_once_what_to_do(pipeline: Pipeline, login: dict[str, Any], told: str):
    began = time.monotonic()
    with pytest.raises(SnowflakeConnectionError, match=told) as refused:
        pipeline.named("refused", **login).query("SELECT 1")
    assert time.monotonic() - began < 5
    assert "'refused'" in str(refused.value)


def test_a_key_that_snowflake_does_not_know_and_an_expired_token_are_told_apart(pipeline: Pipeline):
    other = write_key(rsa.generate_private_key(65537, 2048), pipeline.directory / "other.p8")
    for login, told in (
        ({"user": "pipeline", "private_key_file": str(other)}, "RSA_PUBLIC_KEY_FP of DESCRIBE USER"),
        ({"authenticator": "OAUTH", "token": pipeline.oauth_token(exp=1)}, "Rotate it: get a new OAuth token"),
        ({"authenticator": "OAUTH", "token": pipeline.oauth_token(scp="")}, "name one in connections.toml"),
        ({**by_encrypted_key(pipeline), "private_key_file_pwd": "wrong"}, "private_key_file_pwd"),
        ({**by_key(pipeline), "private_key_file_pwd": "needless"}, "a key without a passphrase wants none"),
    ):
        with pytest.raises(SnowflakeConnectionError, match=told), pipeline.named("refused", **login).session():
            pass


def test_a_disabled_user_is_out_at_once_and_cannot_come_back(pipeline: Pipeline):
    key = rsa.generate_private_key(65537, 2048)
    pipeline.run(f"CREATE OR REPLACE USER LEAVING RSA_PUBLIC_KEY = '{spelled(key)}'")
    connection = connect(pipeline.server, user="leaving", private_key=key)
    assert who(connection)[0] == "LEAVING"
    pipeline.run("ALTER USER LEAVING SET DISABLED = TRUE")
    with pytest.raises(snowflake.connector.errors.Error):
        who(connection)
    assert refusal(pipeline.server, user="leaving", private_key=key).errno == 390101
    pipeline.run("DROP USER LEAVING")


def test_users_keys_and_tokens_outlive_the_server(tmp_path: Path, pipeline: Pipeline):
    first = start_embedded(tmp_path)
    where = settings(first)
    with snowflake.connector.connect(**where) as connection:
        cursor = connection.cursor()
        cursor.execute(f"CREATE USER LASTING TYPE = SERVICE RSA_PUBLIC_KEY = '{spelled(pipeline.key)}'")
        cursor.execute("ALTER USER LASTING ADD PAT T ROLE_RESTRICTION = 'PUBLIC'")
        secret = cursor.fetchall()[0][1]
    stop_embedded(first)
    second = start_embedded(tmp_path)
    for login in (
        {"private_key": pipeline.key},
        {"authenticator": "PROGRAMMATIC_ACCESS_TOKEN", "token": secret},
    ):
        assert who(connect(second, user="lasting", **login))[0] == "LASTING"
    stop_embedded(second)


# -- jobs -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_job_over_a_key_pair_does_its_work_and_cannot_raise_its_rights(pipeline: Pipeline, tmp_path: Path):
    pipeline.run(
        "CREATE COMPUTE POOL IF NOT EXISTS LOGINS_POOL MIN_NODES = 1 MAX_NODES = 1 INSTANCE_FAMILY = CPU_X64_XS"
    )
    pipeline.run(f"GRANT USAGE, MONITOR ON COMPUTE POOL LOGINS_POOL TO ROLE {ROLE}")
    (tmp_path / "customer_insights/jobs").mkdir(parents=True)
    for name in ("customer_insights/__init__.py", "customer_insights/jobs/__init__.py"):
        (tmp_path / name).touch()
    shutil.copy(ROOT / "customer_insights/jobs/pipes_stage_writer.py", tmp_path / "customer_insights/jobs")
    shutil.copy(ROOT / "tests/pipes_jobs/raise_rights.py", tmp_path)
    connection = pipeline.named("by_key", **by_key(pipeline))
    client = PipesSnowflakeJobClient(
        connection_name=connection.name,
        compute_pool="LOGINS_POOL",
        payload=Payload(tmp_path),
        payload_stage="HOL_DB.HOL_SCHEMA.LOGINS_TESTS",
        polling=Polling(longest=1),
    )
    users_before = pipeline.run("SHOW USERS")
    pipeline.run("SELECT 'not for jobs' AS V")
    mine = pipeline.run("SELECT LAST_QUERY_ID() AS ID")[0]["ID"]

    @dg.asset
    def ambitious(context):
        return client.run(context=context, entrypoint="raise_rights.py", args=[mine]).get_materialize_result()

    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize([ambitious], instance=instance, raise_on_error=False)
        assert done.success
        (event,) = done.get_asset_materialization_events()
        found = {name: value.value for name, value in event.step_materialization_data.materialization.metadata.items()}
    assert found["worked"] == 42
    refused = json.loads(str(found["refused"]))
    assert not {statement: said for statement, said in refused.items() if "Insufficient privileges" not in said}
    assert len(refused) >= 10
    assert "not found" in str(found["result_of_another"])
    assert pipeline.run("SHOW USERS") == users_before
    # The job's password died with it.
    assert refusal(pipeline.server, user="embedded", password=found["password"]).errno == 390100

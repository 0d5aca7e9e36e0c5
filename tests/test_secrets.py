"""No secret leaves its place: real runs over connections whose secrets are known, then a search of all that they left.

The search is for each secret as it is, percent-encoded, in hexadecimal and in Base64 at any offset. Where a secret may
be is in ``ALLOWED``, with the reason.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import jwt
import psutil
import pytest
import snowflake.connector
import tomlkit
import yaml
from conftest import ROOT, today
from cryptography.hazmat.primitives.asymmetric import rsa
from snowflake.connector import DictCursor
from test_logins import AUDIENCE, ISSUER, ROLE, spelled, write_key

pytestmark = pytest.mark.slow

COMMAND = str(Path(sys.executable).with_name("customer-insights"))
DAGSTER = str(Path(sys.executable).with_name("dagster"))
# Files that hold a secret because that is what they are for; each is its owner's alone.
ALLOWED = {
    "connections.toml": "Snowflake's own file for it",
    "access.token": "token_file_path of a connection",
    "oauth.token": "token_file_path of a connection",
}
JOB_MARK, SERVER_MARK = "EMBEDDED_SNOWFLAKE_JOB", "EMBEDDED_SNOWFLAKE_DATA_DIR"
LOOK_SECONDS = 0.03
# What goes into Dagster's event log, a row a line; everything else at DEBUG goes into its compute logs.
MANAGED_LOGGERS = ["snowflake.connector.auth", "snowflake.connector.telemetry", "resources", "botocore.credentials"]


def canary() -> str:
    """A secret that nothing else contains, with characters that each encoding spells in its own way."""
    return f"{secrets.token_hex(12)}/+&{secrets.token_hex(4)}"


def spellings(secret: str) -> set[bytes]:
    """How a secret may be written in a file."""
    raw = secret.encode()
    found = {raw, raw.hex().encode(), raw.hex().upper().encode(), quote(secret, safe="").encode()}
    found.add(json.dumps(secret)[1:-1].replace("/", r"\/").encode())
    for before in range(3):
        # The characters that depend on nothing but the secret, wherever in the encoded text it begins.
        encoded = base64.b64encode(b"\0" * before + raw).rstrip(b"=")
        sure = encoded[-(-before * 8 // 6) : None if (before + len(raw)) % 3 == 0 else -1]
        found |= {sure, sure.replace(b"+", b"-").replace(b"/", b"_")}
    return found


def found_in(content: bytes, known: Mapping[str, str]) -> set[str]:
    """Names of the secrets that the content has."""
    return {name for name, secret in known.items() if any(spelling in content for spelling in spellings(secret))}


def files_with(root: Path, known: Mapping[str, str]) -> dict[str, set[str]]:
    """Files below ``root`` that have a secret, without those that may; with the secrets' names."""
    listed = [file for file in root.rglob("*") if file.is_file() and file.name not in ALLOWED]
    assert listed, root
    return {str(file.relative_to(root)): names for file in listed if (names := found_in(file.read_bytes(), known))}


class Watch:
    """Looks at every process of the machine, as another user could (arguments) and as only its owner can (jobs)."""

    def __init__(self, data: Path) -> None:
        self._data = str(data)
        self.arguments: set[bytes] = set()
        self.job_environments: dict[int, dict[str, str]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    arguments = (process / "cmdline").read_bytes()
                    if arguments in self.arguments and int(process.name) in self.job_environments:
                        continue
                    self.arguments.add(arguments)
                    self._note(process)
                except (OSError, psutil.Error):
                    continue

    def _note(self, process: Path) -> None:
        environment = psutil.Process(int(process.name)).environ()
        if JOB_MARK in environment and environment.get(SERVER_MARK) == self._data:
            self.job_environments[int(process.name)] = environment

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join()

    def job_secrets(self) -> dict[str, str]:
        """The passwords that jobs were given, and the tokens of their Ray clusters."""
        found = {}
        for environment in self.job_environments.values():
            for name in ("SNOWFLAKE_PASSWORD", "RAY_AUTH_TOKEN"):
                if name in environment:
                    found[f"{name} of {environment[JOB_MARK]}"] = environment[name]
        return found


@dataclass(frozen=True)
class Run:
    """What was run, while its server still lives."""

    home: Path
    dagster_home: Path
    secrets: dict[str, str]
    environment: dict[str, str]
    watch: Watch
    terminal: str
    steps: dict[str, str]

    def cursor(self):
        settings = tomllib.loads((self.home / "connections.toml").read_text())["embedded"]
        return closing(snowflake.connector.connect(**settings))


def command(arguments: list[str], environment: Mapping[str, str], expected: int) -> str:
    done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == expected, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def connect_in_every_way(home: Path, known: dict[str, str]) -> None:
    """Let the user PIPELINE log in by key, access token and OAuth, with a connection for each, and for each failure."""
    file = home / "connections.toml"
    document = tomlkit.parse(file.read_text())
    own = document["embedded"].unwrap()
    key, issuer_key = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    with snowflake.connector.connect(**own) as connection:
        cursor = connection.cursor(DictCursor)
        cursor.execute(f"CREATE ROLE {ROLE}")
        cursor.execute(f"GRANT USAGE, MONITOR ON COMPUTE POOL HOL_COMPUTE_POOL TO ROLE {ROLE}")
        cursor.execute(f"CREATE USER PIPELINE TYPE = SERVICE DEFAULT_ROLE = {ROLE} RSA_PUBLIC_KEY = '{spelled(key)}'")
        cursor.execute(f"ALTER USER PIPELINE ADD PROGRAMMATIC ACCESS TOKEN T ROLE_RESTRICTION = '{ROLE}'")
        known["access token"] = cursor.fetchall()[0]["token_secret"]
        cursor.execute(
            "CREATE SECURITY INTEGRATION IDP TYPE = EXTERNAL_OAUTH ENABLED = TRUE EXTERNAL_OAUTH_TYPE = CUSTOM "
            f"EXTERNAL_OAUTH_ISSUER = '{ISSUER}' EXTERNAL_OAUTH_AUDIENCE_LIST = ('{AUDIENCE}') "
            f"EXTERNAL_OAUTH_RSA_PUBLIC_KEY = '{spelled(issuer_key)}' "
            "EXTERNAL_OAUTH_TOKEN_USER_MAPPING_CLAIM = ('upn') "
            "EXTERNAL_OAUTH_SNOWFLAKE_USER_MAPPING_ATTRIBUTE = 'LOGIN_NAME'"
        )
    claims = {"iss": ISSUER, "aud": AUDIENCE, "upn": "pipeline", "scp": f"session:role:{ROLE}"}
    known["OAuth token"] = jwt.encode(
        {**claims, "exp": datetime.now(UTC) + timedelta(hours=1), "jti": canary()}, issuer_key, "RS256"
    )
    write_key(key, home / "key.p8", known["passphrase"]).chmod(0o600)
    for name in ("access token", "OAuth token"):
        token = home / f"{name.split()[0].lower()}.token"
        token.write_text(known[name])
        token.chmod(0o600)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = free.getsockname()[1]
    where = {name: value for name, value in own.items() if name not in ("user", "password")}
    by_key = {**where, "user": "pipeline", "authenticator": "SNOWFLAKE_JWT", "private_key_file": str(home / "key.p8")}
    by_token = {**where, "user": "pipeline", "authenticator": "PROGRAMMATIC_ACCESS_TOKEN"}
    document |= {
        "by_key": {**by_key, "private_key_file_pwd": known["passphrase"]},
        "by_access_token": {**by_token, "token_file_path": str(home / "access.token")},
        "by_oauth": {
            **where,
            "user": "pipeline",
            "authenticator": "OAUTH",
            "token_file_path": str(home / "oauth.token"),
        },
        "wrong_password": {**own, "password": known["wrong password"]},
        "wrong_passphrase": {**by_key, "private_key_file_pwd": known["wrong passphrase"]},
        "wrong_token": {**by_token, "token": known["wrong token"]},
        "unreachable": {**own, "port": closed, "login_timeout": 2},
    }
    file.write_text(tomlkit.dumps(document))


def steps_of(dagster_home: Path) -> dict[str, str]:
    """Status of each step of the one run, with the error's text."""
    import dagster as dg

    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        (run,) = instance.get_runs()
        stats = {stat.step_key: stat.status.value for stat in instance.get_run_step_stats(run.run_id) if stat.status}
        failures = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
        said = {entry.step_key: str(entry.dagster_event.step_failure_data.error) for entry in failures}
    return {step: f"{status}: {said.get(step, '')}" for step, status in stats.items()}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A server of its own, loaded and connected to by the project's commands; then one run of every kind of work."""
    home, dagster_home = tmp_path_factory.mktemp("snowflake"), tmp_path_factory.mktemp("dagster")
    names = ("password", "passphrase", "wrong password", "wrong passphrase", "wrong token", "environment")
    known = {name: canary() for name in names}
    file = home / "connections.toml"
    file.write_text(tomlkit.dumps({"embedded": {"password": known["password"]}}))
    file.chmod(0o600)
    (home / "reviews").mkdir()
    (home / "reviews" / "first.csv").write_text('"a-1","good chair"\n"a-2"\n')
    instance = yaml.safe_load((ROOT / ".dagster" / "dagster.yaml").read_text())
    instance["python_logs"] = {"python_log_level": "DEBUG", "managed_python_loggers": MANAGED_LOGGERS}
    (dagster_home / "dagster.yaml").write_text(yaml.safe_dump(instance))
    environment = {
        **os.environ,
        "SNOWFLAKE_HOME": str(home),
        "DAGSTER_HOME": str(dagster_home),
        "AWS_SECRET_ACCESS_KEY": known["environment"],
    }
    watch = Watch(home / "data")
    try:
        with watch.watching():
            terminal = command([COMMAND, "load", str(home / "reviews")], environment, 0)
            connect_in_every_way(home, known)
            wrong = {**environment, "CUSTOMER_INSIGHTS_CONNECTION": "wrong_password"}
            terminal += command([COMMAND, "load", str(home / "reviews")], wrong, 1)
            location = ["-f", "tests/secrets_run/location.py", "-d", str(ROOT)]
            terminal += command(
                [DAGSTER, "asset", "materialize", *location, "--select", "*", "--partition", today()], environment, 1
            )
        yield Run(home, dagster_home, known, environment, watch, terminal, steps_of(dagster_home))
    finally:
        command([COMMAND, "stop"], environment, 0)
        shutil.rmtree(home)


def test_everything_ran_and_failed_as_it_should(ran: Run):
    done = {step: said.split(":")[0] for step, said in ran.steps.items()}
    assert done == {
        **dict.fromkeys(("raw_reviews", "by_oauth"), "SUCCESS"),
        **dict.fromkeys(("job_that_fails", "statement_that_fails", "wrong_password"), "FAILURE"),
        **dict.fromkeys(("wrong_passphrase", "wrong_token", "unreachable"), "FAILURE"),
    }, ran.steps
    assert "no such shelf" in ran.steps["job_that_fails"]
    assert "Incorrect username or password" in ran.steps["wrong_password"]
    # It was logged as loudly as one can, and the search finds what is there.
    logs = b"".join(file.read_bytes() for file in ran.dagster_home.rglob("*") if file.is_file())
    assert b"snowflake.connector" in logs
    assert b"DEBUG:snowflake.connector" in logs
    assert found_in((ran.home / "connections.toml").read_bytes(), ran.secrets) >= {"password", "passphrase"}


def test_no_secret_is_in_dagsters_instance_or_on_the_terminal(ran: Run):
    known = {**ran.secrets, **ran.watch.job_secrets()}
    assert files_with(ran.dagster_home, known) == {}
    assert found_in(ran.terminal.encode(), known) == set()


def test_no_secret_is_in_the_embedded_servers_log_stages_or_job_logs(ran: Run):
    assert files_with(ran.home, {**ran.secrets, **ran.watch.job_secrets()}) == {}


def test_only_the_owner_reads_the_files_that_hold_secrets(ran: Run):
    for name in (*ALLOWED, "key.p8"):
        assert stat.S_IMODE((ran.home / name).stat().st_mode) == 0o600, name
    for name in ("data", "embedded.log"):
        assert stat.S_IMODE((ran.home / name).stat().st_mode) & 0o077 == 0, name


def test_no_secret_is_in_what_sql_shows_of_jobs_users_and_queries(ran: Run):
    with ran.cursor() as connection:
        cursor = connection.cursor()
        jobs = cursor.execute(
            "SELECT NAME FROM TABLE(SNOWFLAKE.SPCS.GET_JOB_HISTORY(RESULT_LIMIT => 10000))"
        ).fetchall()
        assert len(jobs) == 2
        shown = ""
        for (name,) in jobs:
            service = f"HOL_DB.HOL_SCHEMA.{name}"
            shown += str(cursor.execute(f"DESCRIBE SERVICE {service}").fetchall())
            shown += str(cursor.execute(f"SELECT SYSTEM$GET_SERVICE_LOGS('{service}', 0, 'main')").fetchall())
        for statement in (
            "SHOW JOB SERVICES",
            "SHOW USERS",
            "DESCRIBE USER PIPELINE",
            "SHOW USER PROGRAMMATIC ACCESS TOKENS FOR USER PIPELINE",
            "SHOW INTEGRATIONS",
            "SELECT * FROM TABLE(SNOWFLAKE.SPCS.GET_JOB_HISTORY(RESULT_LIMIT => 10000))",
        ):
            shown += str(cursor.execute(statement).fetchall())
    assert "no such shelf" in shown
    assert "dagster_run_id" in shown
    assert found_in(shown.encode(), {**ran.secrets, **ran.watch.job_secrets()}) == set()


def test_no_secret_is_in_an_argument_list_which_every_user_of_the_machine_reads(ran: Run):
    seen = b"\n".join(ran.watch.arguments)
    assert b"mljob_launcher" in seen
    assert b"default_worker.py" in seen
    assert found_in(seen, {**ran.secrets, **ran.watch.job_secrets()}) == set()
    # Ray hands a runtime environment to its workers as an argument, for a moment that a look may miss.
    passwords = {name: secret for name, secret in ran.watch.job_secrets().items() if "PASSWORD" in name}
    assert len(passwords) == 2
    configurations = [
        environment.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "") for environment in ran.watch.job_environments.values()
    ]
    assert any("runtime_env" in configuration for configuration in configurations)
    assert found_in("".join(configurations).encode(), {**ran.secrets, **passwords}) == set()


def test_a_job_is_given_its_own_password_and_none_of_the_users_environment(ran: Run):
    for environment in ran.watch.job_environments.values():
        assert found_in(json.dumps(environment).encode(), ran.secrets) == set()
        assert "AWS_SECRET_ACCESS_KEY" not in environment


def test_no_secret_is_in_the_embedded_servers_tables_when_they_are_read(ran: Run):
    # The engine compresses what it stores: a look at the files' bytes may miss it.
    command([COMMAND, "stop"], ran.environment, 0)
    shown = ""
    for file in (ran.home / "data").rglob("*"):
        if file.is_file() and re.search(r"\.(duckdb|db)$", file.name):
            with duckdb.connect(str(file), read_only=True) as database:
                for catalog, schema, table in database.execute(
                    "SELECT database_name, schema_name, table_name FROM duckdb_tables()"
                ).fetchall():
                    rows: list[Any] = database.execute(f'SELECT * FROM "{catalog}"."{schema}"."{table}"').fetchall()
                    shown += str(rows)
    assert "PIPELINE" in shown
    assert "dagster_run_id" in shown
    assert found_in(shown.encode(), {**ran.secrets, **ran.watch.job_secrets()}) == set()

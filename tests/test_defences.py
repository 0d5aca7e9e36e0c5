"""The embedded server's own defences: what it answers to who has no password, and what SQL must not reach."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import snowflake.connector
from conftest import Embedded

from embedded_snowflake import stages

STAGE = "DEFENCES"


@pytest.fixture(scope="module")
def cursor(embedded: Embedded):
    cursor = embedded.connect().cursor()
    cursor.execute("USE SCHEMA HOL_DB.HOL_SCHEMA")
    cursor.execute(f"CREATE STAGE IF NOT EXISTS {STAGE}")
    return cursor


@pytest.fixture(scope="module")
def base(embedded: Embedded) -> str:
    connection = embedded.connect()
    return f"http://127.0.0.1:{connection.port}"


def ask(url: str, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
    request = urllib.request.Request(url, method=method, data=body)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


# -- without a password -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["", "None", "x" * 43])
def test_no_route_answers_without_a_sessions_token(base: str, token: str):
    for path in (
        "/session",
        "/session?delete=true",
        "/session/heartbeat",
        "/session/token-request",
        "/queries/v1/query-request",
        "/queries/v1/abort-request",
        "/queries/00000000-0000-0000-0000-000000000000/result",
        "/monitoring/queries/00000000-0000-0000-0000-000000000000",
    ):
        for method in ("GET", "POST"):
            request = urllib.request.Request(base + path, method=method, data=b'{"sqlText": "SELECT 1"}')
            request.add_header("Authorization", f'Snowflake Token="{token}"')
            with urllib.request.urlopen(request, timeout=10) as answer:
                document = json.loads(answer.read())
            assert (document["success"], document["code"][:3]) == (False, "390"), path


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/fs_bucket/x", "/queries", "/stage-files", "/data/x"])
def test_there_are_no_other_routes(base: str, path: str):
    assert ask(base + path)[0] == 404
    assert ask(base + path, "PUT", b"x")[0] == 404


def test_a_session_token_in_the_url_or_a_cookie_is_none(embedded: Embedded, base: str):
    token = embedded.connect().rest.token
    request = urllib.request.Request(
        f"{base}/queries/v1/query-request?token={token}", data=b'{"sqlText": "SELECT 1"}', headers={"Cookie": token}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert json.loads(answer.read())["code"] == "390111"


# -- signed addresses -------------------------------------------------------------------------------------------------


def parts(url: str) -> tuple[str, bytes, bytes, str]:
    """The address taken apart: what is before the token, signature, claims, file name."""
    head, _, rest = url.partition("/stage-files/")
    token, _, name = rest.partition("/")
    raw = base64.urlsafe_b64decode(token)
    return head, raw[:32], raw[32:], name


def joined(head: str, signature: bytes, claims: bytes, name: str) -> str:
    return f"{head}/stage-files/{base64.urlsafe_b64encode(signature + claims).decode()}/{name}"


@pytest.fixture
def url(cursor, tmp_path: Path) -> str:
    file = tmp_path / "open.txt"
    file.write_text("hello")
    cursor.execute(f"PUT 'file://{file}' @{STAGE} AUTO_COMPRESS = FALSE OVERWRITE = TRUE")
    return cursor.execute(f"SELECT GET_PRESIGNED_URL(@{STAGE}, 'open.txt', 60)").fetchone()[0]


def test_an_address_reads_its_one_file_and_nothing_that_was_made_of_it(url: str):
    assert ask(url) == (200, b"hello")
    head, signature, claims, name = parts(url)
    action, relative, expires, *rest = json.loads(claims)
    for changed in (
        [action, relative.replace("open.txt", "other.txt"), expires, *rest],
        [action, "catalog.duckdb", expires, *rest],
        [action, "../connections.toml", expires, *rest],
        [action, relative, expires + 1, *rest],
        ["upload", relative, expires, *rest],
    ):
        assert ask(joined(head, signature, json.dumps(changed).encode(), name))[0] == 403
    for guessed in (b"\0" * 32, bytes(reversed(signature))):
        assert ask(joined(head, guessed, claims, name))[0] == 403
    # It is for reading; the name at its end decides nothing.
    assert ask(url, "PUT", b"replaced")[0] == 403
    assert ask(joined(head, signature, claims, "../../catalog.duckdb"))[0] in (200, 404)
    assert ask(url) == (200, b"hello")


def test_an_address_expires(cursor, url: str):
    expired = cursor.execute(f"SELECT GET_PRESIGNED_URL(@{STAGE}, 'open.txt', -1)").fetchone()[0]
    assert ask(expired) == (403, b"the address has expired")


@pytest.mark.parametrize("seconds", ["604801", "1e12", "'inf'::FLOAT", "'nan'::FLOAT"])
def test_no_address_lasts_longer_than_on_snowflake(cursor, seconds: str):
    with pytest.raises(snowflake.connector.errors.ProgrammingError):
        cursor.execute(f"SELECT GET_PRESIGNED_URL(@{STAGE}, 'open.txt', {seconds})")


@pytest.mark.parametrize(
    "path", ["../open.txt", "../../catalog.duckdb", "a/../../../x", "/etc/passwd", "..\\x/../../y"]
)
def test_no_address_leaves_its_stage(embedded: Embedded, cursor, path: str):
    try:
        (found,) = cursor.execute(f"SELECT GET_PRESIGNED_URL(@{STAGE}, ?)".replace("?", f"'{path}'")).fetchone()
    except snowflake.connector.errors.ProgrammingError:
        return
    claimed = json.loads(parts(found)[2])[1]
    directory = (embedded.home / "data" / "stages/HOL_DB/HOL_SCHEMA" / STAGE).resolve()
    assert (embedded.home / "data" / claimed).resolve().is_relative_to(directory)


def test_the_engines_own_function_signs_nothing_but_files_of_stages(embedded: Embedded, cursor):
    data = embedded.home / "data"
    for directory, path in ((f"{data}/stages/..", "catalog.duckdb"), (f"{data}/stages/../..", "connections.toml")):
        with pytest.raises(snowflake.connector.errors.ProgrammingError):
            cursor.execute(f"SELECT _PRESIGNED_URL('{directory}', '{path}', 60)")


def test_a_link_on_a_stage_leads_nowhere(embedded: Embedded, cursor, url: str):
    link = embedded.home / "data" / json.loads(parts(url)[2])[1]
    link = link.with_name("link.txt")
    link.symlink_to(embedded.home / "connections.toml")
    with pytest.raises(snowflake.connector.errors.ProgrammingError, match="leaves the stage"):
        cursor.execute(f"SELECT GET_PRESIGNED_URL(@{STAGE}, 'link.txt')")
    link.unlink()


def test_the_signing_key_is_of_this_process_and_long_enough():
    assert len(stages._SIGNING_KEY) >= 32


# -- with a password --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('{home}/connections.toml')",
        "SELECT * FROM read_blob('{home}/connections.toml')",
        "SELECT * FROM read_csv('{home}/connections.toml', sep = '@', header = false)",
        "SELECT * FROM '{home}/connections.toml'",
        'SELECT * FROM "{home}/secrets.csv"',
        "SELECT * FROM query('SELECT * FROM read_text(''{home}/connections.toml'')')",
        "CREATE TABLE STOLEN AS SELECT * FROM read_text('{home}/connections.toml')",
        "INSERT INTO LOOT SELECT content FROM read_text('{home}/connections.toml')",
        "EXPLAIN ANALYZE SELECT * FROM read_text('{home}/connections.toml')",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{home}/written.csv'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{home}/data/databases/written.csv'",
        "COPY (SELECT 1) TO '{home}/written.csv'",
        "COPY INTO 'file://{home}/written.csv' FROM (SELECT 1)",
        "ATTACH '{home}/data/catalog.duckdb'",
        "EXPORT DATABASE '{home}/written'",
        "INSTALL httpfs",
        "LOAD '{home}/x.duckdb_extension'",
        "SELECT * FROM read_text('/proc/self/environ')",
    ],
)
def test_sql_reads_and_writes_no_file_outside_of_the_data(embedded: Embedded, cursor, sql: str):
    cursor.execute("CREATE TABLE IF NOT EXISTS LOOT (CONTENT STRING)")
    (embedded.home / "secrets.csv").write_text("a\n1\n")
    with pytest.raises(snowflake.connector.errors.Error):
        cursor.execute(sql.format(home=embedded.home))
    assert not list(embedded.home.rglob("written*"))
    assert cursor.execute("SELECT COUNT(*) FROM LOOT").fetchone() == (0,)


def test_no_setting_opens_the_files_again(embedded: Embedded, cursor):
    for setting in ("enable_external_access = true", "allowed_directories = ['/']"):
        try:
            cursor.execute(f"SET {setting}")
        except snowflake.connector.errors.ProgrammingError:
            continue
    with pytest.raises(snowflake.connector.errors.ProgrammingError, match="SQL reaches the files of stages"):
        cursor.execute(f"SELECT * FROM read_text('{embedded.home}/connections.toml')")


def test_a_users_result_is_not_anothers(embedded: Embedded, cursor):
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = rsa.generate_private_key(65537, 2048)
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    cursor.execute(f"CREATE OR REPLACE USER NOSY RSA_PUBLIC_KEY = '{''.join(pem.splitlines()[1:-1])}'")
    cursor.execute("SELECT 'mine' AS V")
    query_id = cursor.sfqid
    own = embedded.connect()
    where = {"account": "embedded", "host": own.host, "port": own.port, "protocol": "http"}
    other = snowflake.connector.connect(**where, user="nosy", private_key=key)
    embedded.opened.append(other)
    scan = f"SELECT * FROM TABLE(RESULT_SCAN('{query_id}'))"
    assert own.cursor().execute(scan).fetchall() == [("mine",)]
    with pytest.raises(snowflake.connector.errors.ProgrammingError, match="not found"):
        other.cursor().execute(scan)
    headers = {"Authorization": f'Snowflake Token="{other.rest.token}"'}
    url = f"http://127.0.0.1:{own.port}/queries/{query_id}/result"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
        assert json.loads(answer.read())["code"] == "000709"
    cursor.execute("DROP USER NOSY")

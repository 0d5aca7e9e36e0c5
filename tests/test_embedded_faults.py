"""What Snowflake's own clients see while a fault strikes, and that nothing is lost or doubled by it."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import snowflake.connector
from conftest import ROOT, start_embedded, stop_embedded

from embedded_snowflake.faults import FaultError, Faults
from embedded_snowflake.repeated_requests import REMEMBERED, REMEMBERED_BYTES, Answers

NOWHERE = "FAULTS_NOWHERE"
POOL = "FAULTS_POOL"


@pytest.fixture
def faults(embedded):
    """The faults of the server; none is left when the test ends."""
    known = Faults.of_connection(home=embedded.home)
    yield known
    known.clear()


@pytest.fixture(scope="module")
def connection(embedded):
    connection = embedded.connect()
    connection.cursor().execute("CREATE SCHEMA IF NOT EXISTS HOL_DB.FAULTS")
    connection.cursor().execute("USE SCHEMA HOL_DB.FAULTS")
    return connection


@pytest.fixture
def cursor(connection):
    """A cursor in a schema with a table T that has no row."""
    cursor = connection.cursor()
    cursor.execute("CREATE OR REPLACE TABLE T (N INT)")
    yield cursor
    cursor.execute("ROLLBACK")


def another(embedded):
    connection = embedded.connect()
    connection.cursor().execute("USE SCHEMA HOL_DB.FAULTS")
    return connection


def numbers(cursor) -> list[int]:
    return sorted(row[0] for row in cursor.execute("SELECT N FROM HOL_DB.FAULTS.T").fetchall())


def struck(faults: Faults) -> list[int]:
    return [fault["injected"] for fault in faults.list()]


def wait_until(true, seconds: float = 20.0):
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)
    return found


# -- nothing runs twice, nothing is lost ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["drop_after", "drop_before", "unavailable"])
def test_an_insert_without_an_answer_is_sent_again_and_inserts_once(cursor, faults, kind):
    faults.add({"kind": kind, "match": "^insert"})
    assert cursor.execute("INSERT INTO T VALUES (1), (2)").fetchone() == (2,)
    assert struck(faults) == [1]
    assert numbers(cursor) == [1, 2]


def test_a_fault_counts_only_where_it_has_struck(cursor, faults):
    faults.add(
        {"kind": "drop_after", "match": "^insert", "times": 0},
        {"kind": "unavailable", "match": "^insert"},
        {"kind": "drop_before", "match": "^insert"},
    )
    with ThreadPoolExecutor(1) as threads:
        inserting = threads.submit(cursor.execute, "INSERT INTO T VALUES (1)")
        # Refused, cut off before, then cut off after until that is removed.
        counts = wait_until(lambda: (seen := struck(faults))[0] and seen)
        faults.clear()
        inserting.result(30)
    assert counts == [1, 1, 1]
    assert numbers(cursor) == [1]


def test_a_repeated_request_waits_for_the_first_that_still_runs(embedded, cursor, faults):
    cursor.execute("INSERT INTO T VALUES (0)")
    cursor.execute("BEGIN")
    cursor.execute("UPDATE T SET N = N + 1")
    other = another(embedded).cursor()
    # It changes nothing, and counts how often the statement is sent.
    faults.add({"kind": "delay", "match": "^update", "seconds": 0.001, "times": 0})
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(other.execute, "UPDATE T SET N = N + 10", timeout=30)
        wait_until(lambda: struck(faults) == [1])
        time.sleep(0.3)
        assert not waiting.done(), "the row is not locked"
        faults.add({"kind": "refuse", "seconds": 0.2})
        time.sleep(1)
        wait_until(lambda: struck(faults) == [2, 1])
        time.sleep(0.3)
        cursor.execute("COMMIT")
        assert waiting.result(30).fetchone()[0] == 1
    assert numbers(cursor) == [11]


def test_an_asynchronous_insert_without_an_answer_inserts_once(cursor, faults):
    faults.add({"kind": "drop_after", "match": "^insert"})
    cursor.execute_async("INSERT INTO T VALUES (1)")
    cursor.get_results_from_sfqid(cursor.sfqid)
    assert cursor.fetchone() == (1,)
    assert struck(faults) == [1]
    assert numbers(cursor) == [1]


def test_a_question_with_many_rows_and_no_answer_is_asked_again(cursor, faults):
    faults.add({"kind": "drop_after", "match": "generator"})
    cursor.execute("SELECT SEQ4() FROM TABLE(GENERATOR(ROWCOUNT => 100000))")
    assert struck(faults) == [1]
    assert len(cursor.fetchall()) == 100_000


def test_answers_are_forgotten_oldest_first_and_never_while_somebody_waits():
    answers = Answers()
    running, _ = answers.begin("running")
    for number in range(REMEMBERED + 100):
        answers.begin(number)
        answers.end(number, {"data": {"number": number}}, keep=True)
    assert answers.begin("running") == (running, False)
    assert [answers.begin(number)[1] for number in (0, 99, REMEMBERED + 99)] == [True, True, False]
    for number in range(3):
        answers.begin(f"large {number}")
        answers.end(f"large {number}", {"data": {"rowsetBase64": "x" * (REMEMBERED_BYTES // 2)}}, keep=True)
    assert [answers.begin(f"large {number}")[1] for number in range(3)] == [True, True, False]


def test_a_job_whose_submission_has_no_answer_is_submitted_once(embedded, faults, tmp_path):
    from snowflake.ml import jobs

    session = embedded.session()
    session.use_schema("HOL_DB.HOL_SCHEMA")
    session.sql(
        f"CREATE COMPUTE POOL IF NOT EXISTS {NOWHERE} MIN_NODES = 1 MAX_NODES = 1 INSTANCE_FAMILY = CPU_X64_S "
        "INITIALLY_SUSPENDED = TRUE AUTO_RESUME = FALSE"
    ).collect()
    file = tmp_path / "work.py"
    file.write_text("print(1)")
    faults.add({"kind": "drop_after", "match": "EXECUTE_ML_JOB"})
    job = jobs.submit_file(str(file), NOWHERE, stage_name="FAULTS_JOBS", session=session)
    assert struck(faults) == [1]
    found = session.sql(f"SHOW JOB SERVICES IN COMPUTE POOL {NOWHERE}").collect()
    assert [row["name"] for row in found] == [job.name]
    job.cancel()


def test_an_upload_without_an_answer_is_sent_again_and_is_not_taken_for_another_file(cursor, faults):
    cursor.execute("CREATE OR REPLACE STAGE FAULTS_UPLOADS")
    faults.add({"kind": "drop_after", "match": "FAULTS_UPLOADS/once.txt"})
    put(cursor, "once.txt", b"first")
    assert struck(faults) == [1]
    assert staged(cursor) == {"faults_uploads/once.txt": 5}


def put(cursor, name: str, content: bytes) -> None:
    sql = f"PUT 'file:///tmp/{name}' @FAULTS_UPLOADS AUTO_COMPRESS = FALSE OVERWRITE = TRUE"
    if name == "once.txt":
        sql = sql.replace("TRUE", "FALSE")
    cursor.execute(sql, file_stream=io.BytesIO(content))
    assert [row[6] for row in cursor.fetchall()] == ["UPLOADED"]


def staged(cursor) -> dict[str, int]:
    return {row[0]: row[1] for row in cursor.execute("LIST @FAULTS_UPLOADS").fetchall()}


# -- the connection ---------------------------------------------------------------------------------------------------


def test_a_refused_connection_is_refused_by_the_socket_and_then_there_again(cursor, faults):
    faults.add({"kind": "refuse", "seconds": 2})
    with pytest.raises(ConnectionRefusedError):
        wait_until(lambda: not socket.create_connection((faults.host, faults.port), 1).close() and False)
    started = time.monotonic()
    assert cursor.execute("SELECT 1").fetchone() == (1,)
    assert time.monotonic() - started > 1
    assert struck(faults) == [1]


def test_a_delayed_statement_goes_on_when_the_fault_is_removed(embedded, cursor, faults):
    first, second = faults.add(
        {"kind": "delay", "match": "^insert", "seconds": 60},
        {"kind": "delay", "match": "^insert", "seconds": 60, "when": "after"},
    )
    with ThreadPoolExecutor(1) as threads:
        inserted = threads.submit(cursor.execute, "INSERT INTO T VALUES (1)")
        look = another(embedded).cursor()
        wait_until(lambda: [fault["waiting"] for fault in faults.list()] == [1, 0])
        assert numbers(look) == []
        faults.remove(first)
        wait_until(lambda: [fault["waiting"] for fault in faults.list()] == [1])
        assert numbers(look) == [1]
        assert not inserted.done()
        faults.remove(second)
        inserted.result(5)
    assert faults.list() == []


def test_a_fault_skips_strikes_so_often_and_by_chance_the_same_with_the_same_seed(cursor, faults):
    brief = {"kind": "delay", "seconds": 0.001, "match": "^select"}
    chance = {**brief, "times": 0, "probability": 0.5}
    faults.add(
        {**brief, "skip": 3, "times": 2},
        {**chance, "seed": 1},
        {**chance, "seed": 1},
        {**chance, "seed": 2},
        {**brief, "of": "job"},
    )
    counts = []
    for _ in range(24):
        cursor.execute("SELECT 1")
        counts.append(struck(faults))
    assert [count[0] for count in counts[:6]] == [0, 0, 0, 1, 2, 2]
    assert [count[1] for count in counts] == [count[2] for count in counts] != [count[3] for count in counts]
    assert 4 < counts[-1][1] < 20
    assert counts[-1][4] == 0


# -- the session ------------------------------------------------------------------------------------------------------


def test_a_session_that_is_renewed_keeps_its_temporary_table_and_its_transaction(embedded, cursor, faults):
    own = another(embedded).cursor()
    own.execute("CREATE TEMPORARY TABLE MINE (N INT)")
    own.execute("INSERT INTO MINE VALUES (7)")
    own.execute("BEGIN")
    own.execute("INSERT INTO T VALUES (1)")
    faults.add({"kind": "expire_session", "match": "from mine"})
    assert own.execute("SELECT N FROM MINE").fetchall() == [(7,)]
    assert struck(faults) == [1]
    assert numbers(cursor) == []
    own.execute("COMMIT")
    assert numbers(cursor) == [1]


def test_a_session_that_cannot_be_renewed_is_over_and_its_transaction_is_rolled_back(embedded, cursor, faults):
    cursor.execute("INSERT INTO T VALUES (0)")
    connection = another(embedded)
    own = connection.cursor()
    own.execute("BEGIN")
    own.execute("UPDATE T SET N = 1")
    faults.add({"kind": "expire_session", "renewable": False, "match": "values \\(2\\)"})
    with pytest.raises(snowflake.connector.errors.ProgrammingError, match="390114"):
        own.execute("INSERT INTO T VALUES (2)")
    assert connection.expired
    # Its lock on the table is gone, too.
    cursor.execute("UPDATE T SET N = N + 10", timeout=10)
    assert numbers(cursor) == [10]
    assert another(embedded).cursor().execute("SELECT 1").fetchone() == (1,)


def test_threads_that_share_a_session_which_expires_all_go_on(embedded, cursor, faults):
    shared = another(embedded)
    shared.cursor().execute("CREATE TEMPORARY TABLE MINE AS SELECT 7 AS N")
    # All six are on their way when the token expires under them.
    delayed, _ = faults.add(
        {"kind": "delay", "match": "from mine", "seconds": 30, "times": 6},
        {"kind": "expire_session", "match": "from mine", "skip": 1, "times": 3},
    )
    with ThreadPoolExecutor(6) as threads:
        found = [threads.submit(shared.cursor().execute, "SELECT N FROM MINE") for _ in range(6)]
        wait_until(lambda: faults.list()[0]["waiting"] == 6)
        faults.remove(delayed)
        assert [each.result(30).fetchall() for each in found] == [[(7,)]] * 6
    assert struck(faults)[0] >= 1


# -- the disk ---------------------------------------------------------------------------------------------------------


def test_a_file_for_which_the_disk_has_no_room_is_refused_and_the_old_one_stays(embedded, cursor, faults):
    cursor.execute("CREATE OR REPLACE STAGE FAULTS_UPLOADS")
    put(cursor, "kept.txt", b"old")
    faults.add({"kind": "disk_full", "match": "FAULTS_UPLOADS/", "times": 2})
    for name in ("kept.txt", "new.txt"):
        with pytest.raises(snowflake.connector.errors.Error, match="507"):
            put(cursor, name, b"x" * 3_000_000)
    assert struck(faults) == [2]
    assert staged(cursor) == {"faults_uploads/kept.txt": 3}
    assert list((embedded.home / "data" / "incoming").iterdir()) == []
    put(cursor, "new.txt", b"enough room again")
    assert staged(cursor) == {"faults_uploads/kept.txt": 3, "faults_uploads/new.txt": 17}


def test_a_write_to_a_table_for_which_the_disk_has_no_room_leaves_nothing_half(embedded, cursor, faults):
    cursor.execute("INSERT INTO T VALUES (0)")
    cursor.execute("CREATE OR REPLACE STAGE FAULTS_UPLOADS")
    faults.add({"kind": "disk_full", "match": "full", "times": 0})
    for sql in (
        "INSERT INTO T /* full */ SELECT SEQ4() FROM TABLE(GENERATOR(ROWCOUNT => 100))",
        "DELETE FROM T /* full */",
        "MERGE INTO T /* full */ USING (SELECT 0 AS N) AS S ON S.N = T.N WHEN MATCHED THEN UPDATE SET N = 5",
        "CREATE OR REPLACE TABLE T /* full */ AS SELECT 9 AS N",
        "COPY INTO @FAULTS_UPLOADS/full FROM (SELECT N FROM T)",
    ):
        with pytest.raises(snowflake.connector.errors.ProgrammingError, match="No space left on device"):
            cursor.execute(sql)
        assert numbers(cursor) == [0], sql
    # Sends an array of values with one statement.
    binding = snowflake.connector.connect(connection_name="embedded", schema="FAULTS", paramstyle="qmark")
    embedded.opened.append(binding)
    with pytest.raises(snowflake.connector.errors.ProgrammingError, match="No space left on device"):
        binding.cursor().executemany("INSERT INTO T /* full */ VALUES (?)", [(1,), (2,)])
    assert numbers(cursor) == [0]
    assert struck(faults) == [6]
    assert staged(cursor) == {}
    assert list((embedded.home / "data" / "incoming").iterdir()) == []
    cursor.execute("BEGIN")
    cursor.execute("INSERT INTO T VALUES (1)")
    with pytest.raises(snowflake.connector.errors.ProgrammingError, match="No space left on device"):
        cursor.execute("INSERT INTO T /* full */ VALUES (2)")
    cursor.execute("COMMIT")
    assert numbers(cursor) == [0, 1]


# -- a job's nodes ----------------------------------------------------------------------------------------------------

LOSING = """
import base64, os, time, urllib.error, urllib.request
import ray
from snowflake.snowpark.context import get_active_session

session = get_active_session()

def nodes():
    return sum(node["Alive"] for node in ray.nodes())

def report(what, value):
    session.sql("INSERT INTO HOL_DB.FAULTS.SEEN VALUES (?, ?)", params=[what, str(value)]).collect()

@ray.remote(num_cpus=1, max_retries=3)
def work(number):
    time.sleep(1)
    return number

user, password = os.environ["SNOWFLAKE_USER"], os.environ["SNOWFLAKE_PASSWORD"]
request = urllib.request.Request(f"http://127.0.0.1:{os.environ['SNOWFLAKE_PORT']}/embedded/faults")
request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
try:
    urllib.request.urlopen(request)
    report("control", "open")
except urllib.error.HTTPError as error:
    report("control", error.code)

report("before", nodes())
running = [work.remote(number) for number in range(12)]
session.sql("SELECT 'lose a worker'").collect()
report("sum", sum(ray.get(running)))
deadline = time.monotonic() + 60
while nodes() > 1 and time.monotonic() < deadline:
    time.sleep(0.2)
report("after", nodes())
session.sql("SELECT 'lose the head'").collect()
ray.get([work.remote(number) for number in range(12)])
report("finished", "without a head")
"""


@pytest.mark.slow
def test_a_job_that_loses_a_worker_finishes_its_tasks_and_one_that_loses_its_head_fails(
    embedded, connection, faults, tmp_path
):
    from snowflake.ml import jobs

    session = embedded.session()
    session.use_schema("HOL_DB.FAULTS")
    for sql in (
        f"CREATE COMPUTE POOL IF NOT EXISTS {POOL} MIN_NODES = 1 MAX_NODES = 2 INSTANCE_FAMILY = CPU_X64_XS",
        "CREATE OR REPLACE TABLE HOL_DB.FAULTS.SEEN (WHAT STRING, VALUE STRING)",
    ):
        session.sql(sql).collect()
    with pytest.raises(FaultError, match="no job has nodes to lose now"):
        faults.add({"kind": "lose_node"})
    faults.add(
        {"kind": "lose_node", "match": "lose a worker"},
        {"kind": "lose_node", "match": "lose the head", "node": "head"},
        {"kind": "unavailable", "match": "'lose|seen", "of": "client", "times": 0},
    )
    file = tmp_path / "losing.py"
    file.write_text(LOSING)
    job = jobs.submit_file(str(file), POOL, stage_name="FAULTS_JOBS", session=session, target_instances=2)
    try:
        assert job.wait(150) == "FAILED"
        assert struck(faults)[:2] == [1, 1]
        faults.clear()
        seen = dict(session.table("SEEN").collect())
        assert seen == {"control": "401", "before": "2", "sum": "66", "after": "1"}, job.get_logs(verbose=True)
    finally:
        faults.clear()
        session.sql(f"ALTER COMPUTE POOL {POOL} STOP ALL").collect()
        session.sql(f"DROP COMPUTE POOL {POOL}").collect()


# -- who may, and how -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"kind": "rain"}, "kind: Input should be 'refuse', 'unavailable', 'delay'"),
        ({"knd": "delay"}, "knd: Extra inputs are not permitted"),
        ({"kind": "delay"}, "delay needs seconds greater than 0"),
        ({"kind": "drop_after", "node": "head"}, "node is for lose_node only"),
        ({"kind": "drop_after", "match": "("}, "expected a regular expression"),
    ],
)
def test_a_wrong_fault_is_refused_with_what_there_is(faults, fault, said):
    with pytest.raises(FaultError) as refused:
        faults.add({"kind": "drop_before", "match": "never"}, fault)
    assert said in str(refused.value)
    assert "with the field kind (refuse, unavailable" in str(refused.value)
    assert "optionally match, of, skip, times, probability, seed" in str(refused.value)
    assert faults.list() == []


def test_faults_need_the_password(faults):
    with pytest.raises(FaultError, match="user and the password of the connection"):
        Faults(faults.host, faults.port, faults.user, "guess").list()
    assert post(faults, "/embedded/faults", b"[]", {}) == 401


def post(faults: Faults, path: str, body: bytes, headers: dict[str, str]) -> int | dict:
    connection = http.client.HTTPConnection(faults.host, faults.port, timeout=30)
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    return json.loads(answer) if response.status == 200 else response.status


def test_faults_are_rehearsed_on_the_command_line(embedded, faults, tmp_path):
    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "embedded_snowflake.faults", *arguments]
        environment = {"SNOWFLAKE_HOME": str(embedded.home), "PATH": "/usr/bin"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    file = tmp_path / "faults.json"
    file.write_text('[{"kind": "drop_after", "match": "never"}, {"kind": "unavailable", "match": "never"}]')
    first, second = run("add", str(file)).split()
    listed = [json.loads(line) for line in run("list").splitlines()]
    assert [(fault["id"], fault["kind"], fault["injected"]) for fault in listed] == [
        (first, "drop_after", 0),
        (second, "unavailable", 0),
    ]
    assert run("clear", first) == ""
    assert [fault["id"] for fault in faults.list()] == [second]
    assert run("clear") == ""
    assert faults.list() == []
    assert "this is no fault: kind" in run("add", '{"kind": "rain"}')


def test_a_server_has_faults_from_its_start(tmp_path):
    given = '{"kind": "unavailable", "match": "login"}'
    server = start_embedded(tmp_path, "--faults", given)
    try:
        known = Faults.of_connection(home=tmp_path)
        (fault,) = known.list()
        assert (fault["kind"], fault["injected"]) == ("unavailable", 0)
        assert post(known, "/session/v1/login-request", b"{}", {}) == 503
        assert post(known, "/session/v1/login-request", b"{}", {})["code"] == "390100"
    finally:
        stop_embedded(server)


# -- a server that is asked too much ----------------------------------------------------------------------------------


def test_a_login_that_unpacks_to_gigabytes_is_refused(embedded, faults):
    bomb = gzip.compress(bytes(200 * 2**20))
    assert len(bomb) < 2**20
    process = Path(f"/proc/{embedded.process.pid}")
    # The highest memory use counts from now.
    (process / "clear_refs").write_text("5")
    before = peak_mb(process)
    answer = post(faults, "/session/v1/login-request", bomb, {"Content-Encoding": "gzip"})
    assert "unpacks to more than" in answer["message"]
    answer = post(faults, "/session/v1/login-request", bytes(2**20 + 1), {})
    assert "has more than" in answer["message"]
    answer = post(faults, "/session/v1/login-request", b"\x1f\x8b nonsense", {"Content-Encoding": "gzip"})
    assert "expected a JSON object" in answer["message"]
    assert peak_mb(process) - before < 50


def peak_mb(process: Path) -> int:
    (line,) = [line for line in (process / "status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


def test_asynchronous_statements_wait_for_a_thread_and_all_run(embedded, cursor):
    cursor.execute("INSERT INTO T VALUES (0)")
    cursor.execute("BEGIN")
    cursor.execute("UPDATE T SET N = N + 1")
    other = another(embedded)
    process = psutil.Process(embedded.process.pid)
    before = process.num_threads()
    cursors = [other.cursor() for _ in range(130)]
    for each in cursors:
        each.execute_async("UPDATE T SET N = N + 1")
    assert process.num_threads() - before <= 110
    cursor.execute("COMMIT")
    wait_until(lambda: numbers(cursor) == [131], 40)

"""The Pipes client for Snowflake ML Jobs: real jobs on the embedded server, and what Dagster recorded of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from conftest import start_embedded, stop_embedded
from dagster_pipes import PipesMessage
from hypothesis import given
from hypothesis import strategies as st
from snowflake.connector.errors import OperationalError

from customer_insights.jobs.pipes_stage_writer import StageMessageChannel, get_bytes, put_bytes
from resources.errors import (
    JobFailedError,
    JobQueueTimeoutError,
    JobRejectedError,
    JobRunTimeoutError,
    SnowflakeConnectionError,
    SnowflakeUnreachableError,
)
from resources.job_logs import SKIPPED, LogFollower
from resources.job_payload import MARKER, Payload, upload_once
from resources.job_submission import submit
from resources.pipes_stage import list_files
from resources.snowflake import ReconnectingSession, SnowflakeConnection
from resources.snowflake_jobs import PipesSnowflakeJobClient, Polling

ROOT = Path(__file__).resolve().parent.parent
POOL = "PIPES_TESTS_POOL"
STAGE = "HOL_DB.HOL_SCHEMA.PIPES_TESTS"
DAY = "2026-03-01"
DAYS = dg.DailyPartitionsDefinition(start_date=DAY)


# -- a project of its own, with its payload, pool and client ------------------------------------------------------


@pytest.fixture(scope="module")
def pool(embedded) -> str:
    session = embedded.session()
    session.sql(
        f"CREATE COMPUTE POOL IF NOT EXISTS {POOL} MIN_NODES = 1 MAX_NODES = 1 INSTANCE_FAMILY = CPU_X64_XS"
    ).collect()
    return POOL


@pytest.fixture(scope="module")
def client(pool: str, payload_root: Path) -> PipesSnowflakeJobClient:
    return PipesSnowflakeJobClient(
        connection_name="embedded",
        compute_pool=pool,
        payload=Payload(payload_root),
        payload_stage=STAGE,
        polling=Polling(longest=1),
        credits_per_node_hour={"CPU_X64_XS": 3600.0},
    )


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


Run = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def run(client: PipesSnowflakeJobClient, instance: dg.DagsterInstance) -> Run:
    """Materialize the asset ``shelf``, whose job behaves as told."""

    def materialize(behaviour: str, **options: Any) -> dg.ExecuteInProcessResult:
        @dg.asset(partitions_def=DAYS, check_specs=[dg.AssetCheckSpec("looks_right", asset="shelf")])
        def shelf(context):
            return client.run(
                context=context, entrypoint="behave.py", args=[behaviour], **options
            ).get_materialize_result()

        return dg.materialize([shelf], instance=instance, partition_key=DAY, raise_on_error=False)

    return materialize


def step_error(result: dg.ExecuteInProcessResult) -> str:
    """What Dagster shows of the exception that the step's function raised."""
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    error = failure.step_failure_data.error
    assert error
    return str((error.cause or error).message)


def job_tag(instance: dg.DagsterInstance, run_id: str, step: str = "shelf") -> str | None:
    run = instance.get_run_by_id(run_id)
    return run.tags.get(f"snowflake_job/{step}") if run else None


def job_status(embedded, job_id: str) -> str:
    from snowflake.ml.jobs import MLJob

    return MLJob(job_id, session=embedded.session()).status


def message_files(embedded) -> set[str]:
    connection = embedded.session().connection
    return list_files(connection, f"@{STAGE}/pipes/")


# -- jobs ---------------------------------------------------------------------------------------------------------


def test_a_job_that_ends_well_is_a_materialization_with_its_metadata_check_and_log(embedded, run, instance, capfd):
    result = run("report", extras={"lines": 3, "large": "x" * 300_000}, extra_metadata=lambda job: {"seen": job.nodes})
    output = capfd.readouterr().out
    assert result.success, output
    (materialization,) = result.asset_materializations_for_node("shelf")
    metadata = {key: value.value for key, value in materialization.metadata.items()}
    job_id = job_tag(instance, result.run_id)
    assert job_id
    assert job_status(embedded, job_id) == "DONE"
    assert result.run_id.replace("-", "").upper() in job_id
    expected = {"database": "HOL_DB", "dagster/row_count": 7, "seen": 1, "snowflake/job_id": job_id}
    assert expected.items() <= metadata.items()
    assert metadata["snowflake/compute_pool"] == POOL
    assert metadata["snowflake/run_seconds"] > 0 <= metadata["snowflake/queue_seconds"]
    assert metadata["snowflake/estimated_credits"] == pytest.approx(metadata["snowflake/run_seconds"], abs=0.01)
    assert materialization.partition == DAY
    (check,) = result.get_asset_check_evaluations()
    assert check.passed
    assert output.count(f"line 2 of {DAY}\n") == 1
    logged = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert logged.count("half way") == 1
    assert message_files(embedded) == set()


def test_a_job_is_found_by_its_comment(embedded, run):
    result = run("silent")
    rows = embedded.session().sql("SHOW JOB SERVICES IN SCHEMA HOL_DB.HOL_SCHEMA").collect()
    (comment,) = [json.loads(row["comment"]) for row in rows if result.run_id in (row["comment"] or "")]
    assert comment["step"] == "shelf"
    assert comment["partition"] == DAY
    error = step_error(result)
    assert "reported nothing" in error
    assert "this job does not know Dagster" in error


def test_an_exception_in_a_job_fails_the_step_with_traceback_and_log(embedded, run, instance):
    result = run("fail")
    message = step_error(result)
    assert "JobFailedError" in message
    assert "LookupError: no such shelf" in message
    assert "behave.py" in message
    assert "last 30 log lines" in message or "log lines" in message
    assert result.asset_materializations_for_node("shelf") == []
    assert message_files(embedded) == set()


def test_an_exception_that_a_job_swallows_fails_the_step(run):
    result = run("swallow")
    assert "LookupError: swallowed" in step_error(result)
    assert result.asset_materializations_for_node("shelf") == []


def test_a_job_that_reports_no_materialization_fails_the_step(run):
    result = run("nothing")
    assert "without reporting a materialization of shelf" in step_error(result)


def test_a_job_that_runs_too_long_is_cancelled(embedded, run, instance):
    result = run("sleep", run_timeout=1)
    assert "run_timeout" in step_error(result)
    job_id = job_tag(instance, result.run_id)
    assert job_id
    assert job_status(embedded, job_id) == "CANCELLED"


def jobs_of(embedded, run_id: str) -> list[str]:
    rows = embedded.session().sql("SHOW JOB SERVICES IN SCHEMA HOL_DB.HOL_SCHEMA").collect()
    return [f"HOL_DB.HOL_SCHEMA.{row['name']}" for row in rows if run_id in (row["comment"] or "")]


def after_submitting(monkeypatch: pytest.MonkeyPatch, then: Callable[[], None]) -> None:
    """Let ``then`` happen after a job was submitted and before its answer is known."""

    def submit_and_lose_the_answer(session, submission):
        submit(session, submission)
        then()

    monkeypatch.setattr("resources.job_watch.submit", submit_and_lose_the_answer)


def test_a_lost_answer_to_a_submission_submits_nothing_twice(embedded, run, instance, monkeypatch):
    def lose() -> None:
        raise OperationalError(msg="no answer", errno=250003)

    after_submitting(monkeypatch, lose)
    result = run("sleep", run_timeout=0.1)
    assert "run_timeout" in step_error(result)
    assert jobs_of(embedded, result.run_id) == [job_tag(instance, result.run_id)]


def test_a_cancel_while_submitting_leaves_no_job_behind(embedded, run, instance, monkeypatch):
    def interrupt() -> None:
        (record,) = instance.get_run_records()
        instance.report_run_canceling(record.dagster_run)
        raise dg.DagsterExecutionInterruptedError

    after_submitting(monkeypatch, interrupt)
    result = run("sleep")
    (job_id,) = jobs_of(embedded, result.run_id)
    assert job_status(embedded, job_id) == "CANCELLED"
    assert not result.success


@pytest.fixture
def worker(
    embedded, pool, payload_root, tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[str], dg.DagsterInstance, str, str]]:
    """A run worker whose job sleeps: the process, its instance, its run and its job."""
    home = tmp_path / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    process = subprocess.Popen(
        [sys.executable, ROOT / "tests/pipes_jobs/run_worker.py", payload_root, pool, STAGE, "-", "sleep"],
        env={**os.environ, "DAGSTER_HOME": str(home), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with dg.DagsterInstance.from_config(str(home)) as instance:
        deadline = time.monotonic() + 60
        run_id = job_id = None
        while not job_id and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.2)
            runs = instance.get_run_records()
            run_id = runs[0].dagster_run.run_id if runs else None
            job_id = job_tag(instance, run_id, "interrupted") if run_id else None
        if not (run_id and job_id):
            process.kill()
            pytest.fail(f"no job was submitted: {process.communicate()[0]}")
        yield process, instance, run_id, job_id
    process.kill()


def wait_for_status(embedded, job_id: str, *wanted: str) -> str:
    deadline = time.monotonic() + 60
    while (status := job_status(embedded, job_id)) not in wanted and time.monotonic() < deadline:
        time.sleep(0.2)
    return status


def test_a_cancelled_run_cancels_its_job(embedded, client, worker, pool):
    process, instance, run_id, job_id = worker
    assert wait_for_status(embedded, job_id, "RUNNING") == "RUNNING"

    # The pool's one node is taken, so another job waits.
    @dg.asset
    def waiting(context):
        return client.run(
            context=context, entrypoint="behave.py", args=["nothing"], queue_timeout=1
        ).get_materialize_result()

    with dg.DagsterInstance.ephemeral() as other:
        waited = dg.materialize([waiting], instance=other, raise_on_error=False)
        assert "queue_timeout" in step_error(waited)
        queued = job_tag(other, waited.run_id, "waiting")
        assert queued
        assert job_status(embedded, queued) == "CANCELLED"

    instance.report_run_canceling(instance.get_run_by_id(run_id))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert job_status(embedded, job_id) == "CANCELLED", output
    assert instance.get_run_by_id(run_id).status == dg.DagsterRunStatus.CANCELED


def test_a_worker_that_is_shut_down_leaves_its_job_running(embedded, worker):
    process, _, _, job_id = worker
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert "is left running" in output
    assert job_status(embedded, job_id) in ("PENDING", "RUNNING")
    embedded.session().sql(f"CALL {job_id}!spcs_cancel_job()").collect()
    assert wait_for_status(embedded, job_id, "CANCELLED") == "CANCELLED"


# -- refused before anything is submitted -------------------------------------------------------------------------


def test_a_pool_that_does_not_exist_is_named(run, instance):
    result = run("nothing", compute_pool="NO_SUCH_POOL")
    assert "NO_SUCH_POOL" in step_error(result)
    assert job_tag(instance, result.run_id) is None


def test_an_entry_point_outside_of_the_payload_is_refused(payload_root):
    snapshot = Payload(payload_root).snapshot()
    assert snapshot.entrypoint("customer_insights.jobs.pipes_stage_writer").endswith("/pipes_stage_writer.py")
    with pytest.raises(JobRejectedError, match=r"elsewhere\.py"):
        snapshot.entrypoint("elsewhere.py")


def test_an_empty_payload_is_refused(tmp_path: Path):
    with pytest.raises(JobRejectedError, match="empty"):
        Payload(tmp_path).snapshot()


# -- payload ------------------------------------------------------------------------------------------------------


def uploads(embedded, location: str) -> dict[str, str]:
    """Path -> time of the last upload, of the files at a stage location."""
    rows = embedded.session().connection.cursor().execute(f"LIST {location}").fetchall()
    return {row[0]: row[3] for row in rows}


def test_a_payload_is_uploaded_once_and_changed_code_is_another_one(embedded, pool, payload_root):
    session, stage = embedded.session(), f"@{STAGE}"

    def upload():
        snapshot = Payload(payload_root).snapshot()
        return upload_once(session, snapshot, "behave.py", stage=stage, prefix="once", compute_pool=pool)

    first = upload()
    before = uploads(embedded, f"{stage}/once_")
    assert any(name.endswith("app/dagster_pipes/__init__.py") for name in before)
    time.sleep(1.1)
    assert upload() == first
    assert uploads(embedded, f"{stage}/once_") == before

    (payload_root / "more.py").write_text("print('more')\n")
    try:
        changed = upload()
    finally:
        (payload_root / "more.py").unlink()
    assert changed.stage_path != first.stage_path
    assert any(name.endswith("app/more.py") for name in uploads(embedded, f"{changed.stage_path}/"))


def test_half_an_upload_is_repeated(embedded, pool, payload_root):
    session, stage = embedded.session(), f"@{STAGE}"
    snapshot = Payload(payload_root).snapshot()

    def upload():
        return upload_once(session, snapshot, "behave.py", stage=stage, prefix="half", compute_pool=pool)

    location = upload().stage_path
    session.sql(f"REMOVE {location}/{MARKER}").collect()
    session.sql(f"REMOVE {location}/app/behave.py").collect()
    upload()
    assert any(name.endswith("app/behave.py") for name in uploads(embedded, f"{location}/"))


# -- messages -----------------------------------------------------------------------------------------------------


def message(number: int) -> PipesMessage:
    return {"__dagster_pipes_version": "0.1", "method": "log", "params": {"message": str(number), "level": "INFO"}}


def test_a_failed_upload_of_messages_is_repeated_under_its_number():
    uploaded: dict[str, list] = {}
    failures = iter([ConnectionError("gone"), ConnectionError("gone")])

    def upload(name: str, data: bytes) -> None:
        if error := next(failures, None):
            raise error
        assert name not in uploaded
        uploaded[name] = json.loads(data)

    with StageMessageChannel(upload, interval=0.05).open() as channel:
        for number in range(50):
            channel.write_message(message(number))
            time.sleep(0.005)
    sent = [entry["params"]["message"] for name in sorted(uploaded) for entry in uploaded[name]]
    assert sent == [str(number) for number in range(50)]
    assert sorted(uploaded) == [f"messages-{index:08d}.json" for index in range(1, len(uploaded) + 1)]


def test_messages_that_cannot_be_delivered_fail_the_job(monkeypatch):
    monkeypatch.setattr("customer_insights.jobs.pipes_stage_writer.UPLOAD_ATTEMPTS", 2)

    def upload(name: str, data: bytes) -> None:
        raise ConnectionError("gone for good")

    with pytest.raises(ConnectionError, match="for good"), StageMessageChannel(upload, interval=60).open() as channel:
        channel.write_message(message(1))


def test_a_file_on_a_stage_is_replaced_and_read_back(embedded):
    connection = embedded.session().connection
    connection.cursor().execute(f"CREATE STAGE IF NOT EXISTS {STAGE}")
    for data in (b"first", b"", "Grüße 'quoted'\n".encode()):
        put_bytes(connection, data, f"@{STAGE}/replaced", "file.json")
        assert get_bytes(connection, f"@{STAGE}/replaced", "file.json") == data
    assert list_files(connection, f"@{STAGE}/replaced/") == {"file.json"}


# -- log ----------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=12), max_size=40),
    st.integers(30, 400),
    st.lists(st.integers(1, 60), min_size=1, max_size=20),
)
def test_a_log_is_followed_without_a_line_lost_or_repeated(texts, window, steps):
    lines = [f"{number}: {text}" for number, text in enumerate(texts)]
    log = "".join(f"{line}\n" for line in lines)
    follower, position = LogFollower(), 20
    shown = follower.feed(log[:position])
    while position < len(log):
        for step in steps:
            position += step
            end = min(position, len(log))
            shown += follower.feed(log[max(0, end - window) : end])
    shown += follower.end()
    if SKIPPED not in shown:
        assert shown == lines
    else:
        # Where the window was too short lines are missing, and it is said; nothing is shown twice or out of order.
        numbers = [int(line.split(":")[0]) for line in shown if line.split(":")[0].isdigit() and line in lines]
        assert numbers == sorted(set(numbers))


# -- connections --------------------------------------------------------------------------------------------------


def test_a_connection_is_opened_by_name_and_binds_values(embedded):
    connection = SnowflakeConnection(connection_name="embedded")
    assert connection.query("SELECT ? AS ANSWER, ? AS NAME", [42, "it's"]) == [{"ANSWER": 42, "NAME": "it's"}]
    with connection.session() as session:
        assert session.sql("SELECT 1 AS ONE").collect()[0]["ONE"] == 1


def test_an_unreachable_server_says_how_to_start_it(embedded, monkeypatch):
    monkeypatch.setattr(
        SnowflakeConnection, "_options", lambda _: {"connection_name": "embedded", "port": 1, "login_timeout": 1}
    )
    with pytest.raises(SnowflakeUnreachableError, match=r"'embedded'.*make embedded"):
        SnowflakeConnection(connection_name="embedded").query("SELECT 1")


def test_a_wrong_password_is_told_from_an_unreachable_server_and_is_not_repeated_in_the_error(embedded, monkeypatch):
    monkeypatch.setattr(
        SnowflakeConnection, "_options", lambda _: {"connection_name": "embedded", "password": "canary-password"}
    )
    with pytest.raises(SnowflakeConnectionError, match="refused the login") as raised:
        SnowflakeConnection(connection_name="embedded").query("SELECT 1")
    assert "canary" not in str(raised.value)


def test_an_unknown_connection_is_named(embedded):
    with pytest.raises(SnowflakeConnectionError, match="'nowhere'"):
        SnowflakeConnection(connection_name="nowhere").query("SELECT 1")


def test_a_server_that_restarts_is_waited_for(tmp_path: Path):
    from snowflake.snowpark import Session

    home = tmp_path / ".snowflake"
    home.mkdir()
    server = start_embedded(home)
    options = tomllib.loads((home / "connections.toml").read_text())["embedded"]
    snowflake = ReconnectingSession(
        lambda: Session.builder.configs({**options, "network_timeout": 5}).create(), patience_seconds=60
    )

    def five() -> Any:
        return snowflake.call(lambda session: session.sql("SELECT 5 AS N").collect()[0]["N"])

    assert five() == 5
    stop_embedded(server)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(five)
        time.sleep(1)
        server = start_embedded(home, "--port", str(options["port"]))
        assert answer.result(timeout=60) == 5
    snowflake.close()
    stop_embedded(server)


def test_the_client_loads_without_snowflake():
    heavy = "snowflake.connector", "snowflake.snowpark", "pandas", "ray"
    code = f"import sys, resources.snowflake_jobs; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"


def test_permanent_and_retryable_errors_are_told_apart():
    from customer_insights.errors import PermanentError, RetryableError

    assert issubclass(JobQueueTimeoutError, RetryableError)
    assert issubclass(JobRunTimeoutError, PermanentError)
    assert issubclass(JobFailedError, PermanentError)
    assert issubclass(SnowflakeUnreachableError, RetryableError)

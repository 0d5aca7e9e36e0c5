"""What becomes of a job when its step is killed, retried, repeated or forgotten: one job, one result, nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from conftest import ROOT
from dagster._core.test_utils import create_run_for_test

from command_line.local import end_dead_runs
from customer_insights.errors import PermanentError, RetryableError
from customer_insights.jobs.pipes_stage_writer import put_bytes
from resources.errors import JobFailedError
from resources.job_lookup import is_read_by_another, jobs_in, run_tag
from resources.job_payload import Payload
from resources.job_sweep import sweep
from resources.pipes_stage import has_context, list_files
from resources.retries import RETRIES, retried
from resources.snowflake_jobs import PipesSnowflakeJobClient, Polling

SCHEMA = "HOL_DB.HOL_SCHEMA"
STAGE = f"{SCHEMA}.RECOVERY_TESTS"
POOL = "RECOVERY_TESTS_POOL"


@pytest.fixture(scope="module")
def client(embedded, payload_root: Path) -> PipesSnowflakeJobClient:
    embedded.session().sql(
        f"CREATE COMPUTE POOL IF NOT EXISTS {POOL} MIN_NODES = 1 MAX_NODES = 2 INSTANCE_FAMILY = CPU_X64_XS"
    ).collect()
    return PipesSnowflakeJobClient(
        connection_name="embedded",
        compute_pool=POOL,
        payload=Payload(payload_root),
        payload_stage=STAGE,
        polling=Polling(longest=0.5),
    )


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance in files, which a worker in another process shares."""
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def materialize(
    client: PipesSnowflakeJobClient,
    instance: dg.DagsterInstance,
    *args: object,
    needed: Callable[[], bool] | None = None,
) -> dg.ExecuteInProcessResult:
    """Materialize the asset ``interrupted`` (the one of run_worker.py), whose job behaves as told."""

    @dg.asset
    @retried
    def interrupted(context):
        if needed is None:
            return client.run(context=context, entrypoint="behave.py", args=args).get_materialize_result()
        invocation = client.run_if(needed, context=context, entrypoint="behave.py", args=args)
        return invocation.get_materialize_result() if invocation else dg.MaterializeResult(metadata={"job": "none"})

    return dg.materialize([interrupted], instance=instance, raise_on_error=False)


def jobs(embedded) -> list[str]:
    return [job.id for job in jobs_in(embedded.session(), SCHEMA, "INTERRUPTED_")]


def live(embedded, run_id: str) -> list[str]:
    found = jobs_in(embedded.session(), SCHEMA, "INTERRUPTED_")
    return [job.id for job in found if job.is_live and job.run_id == run_id]


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node("interrupted")
    return {name: value.value for name, value in event.metadata.items()}


def failure(result: dg.ExecuteInProcessResult) -> str:
    (event,) = [event for event in result.all_events if event.is_step_failure]
    error = event.step_failure_data.error
    assert error
    return str((error.cause or error).message)


def start_worker(
    instance: dg.DagsterInstance, payload_root: Path, *args: object, day: str = "-"
) -> subprocess.Popen[bytes]:
    """A run worker: a process that runs the asset ``interrupted``, whose job behaves as told."""
    return subprocess.Popen(
        [sys.executable, ROOT / "tests/pipes_jobs/run_worker.py", payload_root, POOL, STAGE, day, *map(str, args)],
        env={**os.environ, "DAGSTER_HOME": instance.root_directory, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill_a_worker(instance: dg.DagsterInstance, payload_root: Path, *args: object) -> tuple[str, str]:
    """Start a run in a worker of its own, kill -9 it once its job is there, and have Dagster notice; run and job id."""
    process = start_worker(instance, payload_root, *args)
    deadline = time.monotonic() + 60
    run, job_id = None, None
    while not job_id and time.monotonic() < deadline:
        time.sleep(0.1)
        run = next(iter(instance.get_runs()), None)
        job_id = run.tags.get("snowflake_job/interrupted") if run else None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run
    assert job_id
    # As `make ui` does when it starts; a code server that lives does the same.
    assert end_dead_runs(instance) == [run.run_id]
    return run.run_id, job_id


def test_a_run_whose_worker_was_killed_is_read_on_by_the_next_and_not_repeated(
    embedded, client, instance, payload_root, capfd
):
    killed_run, job_id = kill_a_worker(instance, payload_root, "two_halves", 6)
    before = len(jobs(embedded))
    result = materialize(client, instance, "two_halves", 6)
    assert result.success, failure(result)
    assert len(jobs(embedded)) == before
    found = metadata(result)
    assert (found["halves"], found["snowflake/job_id"], found["snowflake/submitted_by_run"]) == (2, job_id, killed_run)
    logged = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert logged.count("first half of the messages") == logged.count("second half of the messages") == 1
    output = capfd.readouterr().out
    assert output.count("first half of the log\n") == output.count("second half of the log\n") == 1
    assert not has_context(embedded.session().connection, f"@{STAGE}/pipes/{job_id.rsplit('.', 1)[1]}")


def test_a_job_that_ended_while_nobody_watched_is_read_and_nothing_is_submitted(
    embedded, client, instance, payload_root
):
    _, job_id = kill_a_worker(instance, payload_root, "two_halves", 0)
    while live(embedded, instance.get_runs()[0].run_id):
        time.sleep(0.2)
    before = len(jobs(embedded))
    result = materialize(client, instance, "two_halves", 0, needed=lambda: False)
    assert metadata(result)["snowflake/job_id"] == job_id
    # Read once: the next attempt has nothing to read and nothing to do.
    assert metadata(materialize(client, instance, "two_halves", 0, needed=lambda: False)) == {"job": "none"}
    assert len(jobs(embedded)) == before


def test_a_job_of_a_dead_run_that_does_other_work_is_cancelled_and_replaced(embedded, client, instance, payload_root):
    killed_run, job_id = kill_a_worker(instance, payload_root, "sleep")
    result = materialize(client, instance, "two_halves", 0)
    assert metadata(result)["snowflake/job_id"] != job_id
    assert live(embedded, killed_run) == []


def test_more_work_that_came_after_the_dead_runs_job_gets_a_job_of_its_own(embedded, client, instance, payload_root):
    _, job_id = kill_a_worker(instance, payload_root, "two_halves", 2)
    result = materialize(client, instance, "two_halves", 2, needed=lambda: True)
    assert metadata(result)["snowflake/job_id"] != job_id
    assert "snowflake/submitted_by_run" not in metadata(result)


def test_two_runs_of_one_day_have_jobs_one_after_the_other_and_two_days_side_by_side(
    embedded, client, instance, payload_root
):
    session = embedded.session()
    days = ("2026-03-01", "2026-03-01", "2026-03-02")
    workers = [start_worker(instance, payload_root, "two_halves", 4, day=day) for day in days]
    days_at_once = 0
    while any(worker.poll() is None for worker in workers):
        running = {job.partition for job in jobs_in(session, SCHEMA, "INTERRUPTED_") if job.status == "RUNNING"}
        days_at_once = max(days_at_once, len(running))
        time.sleep(0.2)
    runs = instance.get_run_records()
    assert [record.dagster_run.status for record in runs] == [dg.DagsterRunStatus.SUCCESS] * 3
    read = {record.dagster_run.tags["snowflake_job/interrupted"] for record in runs}
    assert len(read) == 3
    assert days_at_once == 2
    history = session.sql(
        "SELECT NAME, STATUS, CREATED_TIME, COMPLETED_TIME "
        "FROM TABLE(SNOWFLAKE.SPCS.GET_JOB_HISTORY(RESULT_LIMIT => 10000))"
    ).collect()
    of_day = {
        job.name for job in jobs_in(session, SCHEMA, "INTERRUPTED_") if job.id in read and job.partition == days[0]
    }
    first, second = sorted((row["CREATED_TIME"], row["COMPLETED_TIME"]) for row in history if row["NAME"] in of_day)
    assert first[1] <= second[0]


@pytest.mark.parametrize(("behaviour", "told"), [("interrupted", "the warehouse went away"), ("killed", "killed")])
def test_a_job_that_was_interrupted_is_tried_again(embedded, client, instance, behaviour, told, monkeypatch):
    monkeypatch.setattr("resources.retries.RETRIES", 1)
    before = len(jobs(embedded))
    result = materialize(client, instance, behaviour)
    assert told in failure(result)
    assert len(jobs(embedded)) - before == 2


def test_only_what_another_attempt_may_mend_is_tried_again(instance):
    attempts: dict[str, int] = {}

    def asset(name: str, error: Exception) -> dg.AssetsDefinition:
        @dg.asset(name=name)
        @retried
        def failing() -> None:
            attempts[name] = attempts.get(name, 0) + 1
            raise error

        return failing

    assets = [
        asset("retryable", RetryableError("busy")),
        asset("permanent", PermanentError("wrong")),
        asset("failed_job", JobFailedError("no", "JOB", "FAILED")),
        asset("defect", KeyError("oops")),
    ]
    dg.materialize(assets, instance=instance, raise_on_error=False)
    assert attempts == {"retryable": RETRIES + 1, "permanent": 1, "failed_job": 1, "defect": 1}


def test_a_job_whose_reattaching_fails_keeps_its_files_for_the_next_attempt(
    embedded, client, instance, payload_root, monkeypatch
):
    _, job_id = kill_a_worker(instance, payload_root, "two_halves", 8)
    add_run_tags = type(instance).add_run_tags
    failures = iter([ConnectionResetError("the run storage went away")])

    def fail_once(self, run_id: str, tags: dict[str, str]) -> None:
        if any(name.startswith("snowflake_reattached/") for name in tags) and (error := next(failures, None)):
            raise error
        add_run_tags(self, run_id, tags)

    monkeypatch.setattr(type(instance), "add_run_tags", fail_once)
    result = materialize(client, instance, "two_halves", 8)
    assert next(failures, None) is None
    assert metadata(result)["snowflake/job_id"] == job_id


def test_of_two_runs_that_reattach_at_the_same_moment_the_older_reads_on(embedded, instance, payload_root):
    _, job_id = kill_a_worker(instance, payload_root, "two_halves", 0)
    (job,) = [job for job in jobs_in(embedded.session(), SCHEMA, "INTERRUPTED_") if job.id == job_id]
    tags = {run_tag("reattached", job.step): job.id}
    older, younger = (
        create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED, tags=tags).run_id for _ in range(2)
    )
    assert not is_read_by_another(SimpleNamespace(instance=instance, run_id=older), job)
    assert is_read_by_another(SimpleNamespace(instance=instance, run_id=younger), job)
    instance.report_run_failed(instance.get_run_by_id(older))
    assert not is_read_by_another(SimpleNamespace(instance=instance, run_id=younger), job)


def test_the_sweep_cancels_jobs_of_runs_that_are_over_and_no_others(embedded, client, instance, payload_root):
    run_id, job_id = kill_a_worker(instance, payload_root, "sleep")
    session = embedded.session()
    session.sql("CREATE STAGE IF NOT EXISTS HOL_DB.HOL_SCHEMA.RECOVERY_WORK").collect()
    session.connection.cursor().execute(
        f"PUT 'file://{ROOT}/LICENSE' '@{SCHEMA}.RECOVERY_WORK/{run_id}/scores' AUTO_COMPRESS = FALSE"
    )

    # A worker may die between writing a job's context and submitting it.
    never_submitted = f"INTERRUPTED_{run_id.replace('-', '').upper()}_ABCDEF"
    put_bytes(session.connection, b"{}", f"@{STAGE}/pipes/{never_submitted}", "context.json")

    def run_sweep(of: dg.DagsterInstance, grace_seconds: float):
        return sweep(
            session, of, payload_stage=f"@{STAGE}", work_stage=f"@{SCHEMA}.RECOVERY_WORK", grace_seconds=grace_seconds
        )

    with dg.DagsterInstance.ephemeral() as stranger:
        assert run_sweep(stranger, 0).cancelled == []
    assert run_sweep(instance, 3600).cancelled == []
    # A retry that is about to start will reattach.
    with instance_with_a_queued_retry(instance, run_id):
        assert run_sweep(instance, 0).cancelled == []
    assert live(embedded, run_id) == [job_id]
    swept = run_sweep(instance, 0)
    assert swept.cancelled == [job_id]
    # The folder of the run's work stays as long as its job runs.
    assert f"@{SCHEMA}.RECOVERY_WORK/{run_id}" not in swept.removed
    while live(embedded, run_id):
        time.sleep(0.1)
    swept = run_sweep(instance, 0)
    assert swept.cancelled == []
    name = job_id.rsplit(".", 1)[1]
    assert set(swept.removed) == {f"@{STAGE}/pipes/{name}", f"@{SCHEMA}.RECOVERY_WORK/{run_id}"}
    assert name not in list_files(session.connection, f"@{STAGE}/pipes/")
    assert str(run_sweep(instance, 0)) == "no orphaned job, no left-over file"


def test_the_sweep_cancels_the_job_of_a_run_that_somebody_deleted(embedded, client, instance, payload_root):
    run_id, job_id = kill_a_worker(instance, payload_root, "sleep")
    instance.delete_run(run_id)
    session = embedded.session()
    swept = sweep(session, instance, payload_stage=f"@{STAGE}", work_stage=f"@{STAGE}", grace_seconds=3600)
    assert swept.cancelled == [job_id]
    while live(embedded, run_id):
        time.sleep(0.1)


@contextmanager
def instance_with_a_queued_retry(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """While the body runs, a re-execution of the run is about to start."""
    tags = {"dagster/parent_run_id": run_id, "dagster/root_run_id": run_id}
    retry = create_run_for_test(
        instance, status=dg.DagsterRunStatus.NOT_STARTED, tags=tags, root_run_id=run_id, parent_run_id=run_id
    )
    yield
    instance.delete_run(retry.run_id)

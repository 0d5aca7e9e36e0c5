"""The job client while requests fail at random: however answers are lost, a run has one job and one result.

``pytest tests/test_job_under_faults.py --fault-rounds 60 --fault-seed 7 -s`` runs more rounds and prints the table.
"""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from embedded_snowflake.faults import Faults
from resources.job_lookup import jobs_in
from resources.job_payload import Payload
from resources.retries import retried
from resources.snowflake_jobs import PipesSnowflakeJobClient, Polling

SCHEMA = "HOL_DB.HOL_SCHEMA"
POOL = "FAULTS_TESTS_POOL"
KINDS: list[dict[str, object]] = [
    {"kind": "drop_after"},
    {"kind": "drop_before"},
    {"kind": "unavailable", "times": 2},
    {"kind": "expire_session"},
    {"kind": "expire_session", "renewable": False},
    {"kind": "delay", "seconds": 2},
    {"kind": "refuse", "seconds": 3},
]
# Any statement of the client, and those by which a job could be doubled or a message lost.
STATEMENTS = [
    ".",
    "EXECUTE_ML_JOB",
    "PUT ",
    "GET ",
    "LIST",
    "DESCRIBE SERVICE",
    "GET_SERVICE_LOGS",
    "SHOW JOB",
    "REMOVE",
]


@pytest.fixture(scope="module")
def client(embedded, payload_root: Path) -> PipesSnowflakeJobClient:
    embedded.session().sql(
        f"CREATE COMPUTE POOL IF NOT EXISTS {POOL} MIN_NODES = 1 MAX_NODES = 1 INSTANCE_FAMILY = CPU_X64_XS"
    ).collect()
    return PipesSnowflakeJobClient(
        connection_name="embedded",
        compute_pool=POOL,
        payload=Payload(payload_root),
        payload_stage=f"{SCHEMA}.FAULTS_TESTS",
        polling=Polling(longest=0.5),
        connection_patience=60,
    )


def shelf_of_round(client: PipesSnowflakeJobClient, number: int, attempts: list[int]) -> dg.AssetsDefinition:
    @dg.asset
    @retried
    def shelf(context):
        attempts.append(number)
        return client.run(
            context=context, entrypoint="behave.py", args=["two_halves", 1], extras={"round": number}
        ).get_materialize_result()

    return shelf


def struck_by(control: Faults) -> list[dict[str, Any]]:
    """The faults and how often each has struck, once the server can be reached; none is left."""
    for attempt in Retrying(retry=retry_if_exception_type(OSError), stop=stop_after_delay(30), wait=wait_fixed(0.5)):
        with attempt:
            struck = control.list()
            control.clear()
    return struck


def faults_of_round(draw: random.Random) -> list[dict[str, object]]:
    """One to three faults, each at a statement of the client drawn at random."""
    drawn = []
    for _ in range(draw.randint(1, 3)):
        match = draw.choice(STATEMENTS)
        skip = draw.randint(0, 60) if match == "." else draw.choice([0, 0, 0, 1, 2])
        drawn.append({**draw.choice(KINDS), "match": match, "skip": skip, "of": "client"})
    return drawn


def test_a_run_has_one_job_and_one_result_however_requests_fail(embedded, client, request, capsys):
    rounds, seed = request.config.getoption("--fault-rounds"), request.config.getoption("--fault-seed")
    control = Faults.of_connection(home=embedded.home)
    injected: dict[str, int] = defaultdict(int)
    runs: dict[str, int] = defaultdict(int)
    attempts: list[int] = []
    wrong: list[str] = []
    for number in range(rounds):
        draw = random.Random(f"{seed} {number}")
        chosen = faults_of_round(draw)
        with dg.DagsterInstance.ephemeral() as instance:
            shelf = shelf_of_round(client, number, attempts)
            control.add(*chosen)
            try:
                result = dg.materialize([shelf], instance=instance, raise_on_error=False)
            finally:
                struck = struck_by(control)
            logged = [entry.user_message for entry in instance.all_logs(result.run_id)]
        for fault in struck:
            injected[str(fault["kind"])] += int(fault["injected"])
            runs[str(fault["kind"])] += bool(fault["injected"])
        known = [job for job in jobs_in(embedded.session(), SCHEMA, "SHELF_") if job.run_id == result.run_id]
        # A port that is closed while a job opens its session fails that job, and the step is tried again.
        failed = sum(job.status == "FAILED" for job in known)
        refused = any(fault["kind"] == "refuse" and fault["injected"] for fault in struck)
        found = {
            "succeeded": result.success,
            "jobs": len(known) - (failed if refused else 0),
            "left running": sum(job.is_live for job in known),
            "results": len(result.asset_materializations_for_node("shelf")),
            "messages": logged.count("second half of the messages"),
        }
        if found != {"succeeded": True, "jobs": 1, "left running": 0, "results": 1, "messages": 1}:
            wrong.append(f"round {number} of seed {seed}: {found} under {chosen}")
    with capsys.disabled():
        print(f"\nseed {seed}: {rounds} runs, {len(attempts)} attempts of the step")
        for kind in sorted(injected):
            print(f"  {kind}: struck {injected[kind]} times in {runs[kind]} runs")
    assert not wrong, "\n".join(wrong)
    assert sum(injected.values()) >= rounds / 2


@pytest.mark.parametrize("fault", [{"kind": "refuse", "seconds": 8}, {"kind": "unavailable", "times": 0}], ids=str)
def test_a_job_goes_on_while_snowflake_is_out_of_reach_for_longer_than_the_step_waits(
    embedded, client, monkeypatch, fault
):
    monkeypatch.setattr(client, "_connection_patience", 1)
    # The connector itself repeats an unanswered request for so long.
    monkeypatch.setattr("resources.snowflake.POLLING_TIMEOUT_SECONDS", 2)
    monkeypatch.setattr("resources.retries.wait_seconds", lambda retry: 8)
    control = Faults.of_connection(home=embedded.home)
    attempts = []

    @dg.asset
    @retried
    def patient(context):
        attempts.append(context.retry_number)
        if not context.retry_number:
            # Once the job has opened its session and said so; while it works it needs nothing of Snowflake.
            # 503 goes on until the step is tried again.
            control.add({**fault, "match": "GET .*messages-0+1", "of": "client"})
        else:
            control.clear()
        return client.run(context=context, entrypoint="behave.py", args=["two_halves", 15]).get_materialize_result()

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([patient], instance=instance, raise_on_error=False)
        logged = " ".join(entry.user_message for entry in instance.all_logs(result.run_id))
    assert result.success
    assert attempts == [0, 1]
    assert "reattached to job" in logged
    known = [job for job in jobs_in(embedded.session(), SCHEMA, "PATIENT_") if job.run_id == result.run_id]
    assert [job.status for job in known] == ["DONE"]

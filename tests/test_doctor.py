"""``customer-insights doctor`` on a healthy project, and on each thing that may be wrong: what it finds, that what it
says to run mends it, and that no failure hides another."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import tomlkit
from conftest import HOME, ROOT, Embedded
from typer.testing import CliRunner

from command_line import local, machine_probes, main, snowflake_probes
from command_line.findings import Finding
from customer_insights import deployment, sentiment_models, zero_shot
from customer_insights.settings import settings
from embedded_snowflake.faults import Faults
from resources.compute_pool import set_slots

LOOKER = "DOCTOR_LOOKS"
OF_SNOWFLAKE = {"privileges", "warehouse", "schema", "stages", "compute pool", "clock", "Cortex"}
OF_MACHINE = {"packages", "model weights", "Dagster", "disk", "alerts"}


@pytest.fixture(scope="module")
def deployed(embedded: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A database, schema and pool of the doctor's own, complete, and a Dagster instance set up as README says."""
    home = tmp_path_factory.mktemp("doctor")
    shutil.copy(ROOT / ".dagster" / "dagster.yaml", home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(home))
        patch.setenv("CUSTOMER_INSIGHTS_DATABASE", "DOCTOR")
        patch.setenv("CUSTOMER_INSIGHTS_COMPUTE_POOL", "DOCTOR_POOL")
        settings.cache_clear()
        deployment.deploy(embedded.session(), settings())
        with dg.DagsterInstance.get() as instance:
            set_slots(instance)
        yield home
    settings.cache_clear()


@pytest.fixture
def run(deployed: Path, embedded: Embedded, monkeypatch: pytest.MonkeyPatch):
    """Run one statement as the administrator."""
    settings.cache_clear()
    session = embedded.session()
    session.use_schema(settings().qualified_schema)
    yield lambda sql: session.sql(sql.rstrip(";")).collect()
    monkeypatch.undo()
    settings.cache_clear()


def doctor(*options: str) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """Exit code, and the findings by probe."""
    settings.cache_clear()
    result = CliRunner().invoke(main.app, ["doctor", "--json", *(options or ("--no-cortex",))])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    told = json.loads(result.stdout)
    assert told["well"] == (result.exit_code == 0)
    found: dict[str, list[dict[str, str]]] = {}
    for finding in told["findings"]:
        found.setdefault(finding["probe"], []).append(finding)
    assert set(found) - {"connection"} == OF_SNOWFLAKE | OF_MACHINE
    return result.exit_code, found


def failures(found: dict[str, list[dict[str, str]]]) -> dict[str, str]:
    """Probe -> what failed, and what to run."""
    return {
        probe: " | ".join(f"{one['found']} -> {one['remedy']}" for one in findings if one["level"] == "failed")
        for probe, findings in found.items()
        if any(one["level"] == "failed" for one in findings)
    }


def connect_as(monkeypatch: pytest.MonkeyPatch, **parameters: object) -> None:
    """The connection of the embedded server with other parameters."""
    known = tomlkit.parse((HOME / "connections.toml").read_text()).unwrap()
    monkeypatch.setenv("SNOWFLAKE_CONNECTIONS", tomlkit.dumps({"embedded": {**known["embedded"], **parameters}}))


def test_all_is_well(run):
    code, found = doctor("--cortex")
    assert (code, failures(found)) == (0, {})
    assert found["Cortex"][0]["found"] == "AI_SENTIMENT answers (positive)"
    shown = CliRunner().invoke(main.app, ["doctor", "--no-cortex"], env={"COLUMNS": "80"})
    assert shown.exit_code == 0
    assert "✓ connection" in shown.stdout
    assert "not asked (--no-cortex)" in shown.stdout
    assert "everything that the project needs is there" in shown.stdout
    assert max(len(line) for line in shown.stdout.splitlines()) <= 80


def test_a_wrong_password_is_found_and_what_needs_no_connection_is_still_looked_at(run, monkeypatch):
    connect_as(monkeypatch, password="of somebody else")
    code, found = doctor()
    assert (code, list(failures(found))) == (1, ["connection"])
    assert "Snowflake refused the login of connection 'embedded'" in failures(found)["connection"]
    assert "Check its user and password in connections.toml" in failures(found)["connection"]
    assert {findings[0]["level"] for probe, findings in found.items() if probe in OF_SNOWFLAKE} == {"skipped"}
    assert {findings[0]["level"] for probe, findings in found.items() if probe in OF_MACHINE} <= {"ok", "warning"}
    assert "somebody else" not in json.dumps(found)


def test_a_server_that_is_not_there_is_told_at_once(run, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        connect_as(monkeypatch, port=taken.getsockname()[1])
        begun = time.monotonic()
        code, found = doctor()
        assert time.monotonic() - begun < 15
    assert code == 1
    assert "nobody answers at" in failures(found)["connection"]
    assert "make embedded" in failures(found)["connection"]


def test_a_role_without_rights_is_told_the_grants_and_they_mend_it(run, monkeypatch):
    run(f"CREATE OR REPLACE ROLE {LOOKER}")
    connect_as(monkeypatch, role=LOOKER)
    code, found = doctor()
    assert code == 1
    assert set(failures(found)) == {"privileges", "compute pool"}
    assert "DOCTOR_POOL does not exist, or this role may not see it" in failures(found)["compute pool"]
    assert "lacks USAGE, MONITOR on compute pool DOCTOR_POOL" in failures(found)["privileges"]
    for finding in found["privileges"]:
        run(finding["remedy"].removeprefix("an administrator: "))
    code, found = doctor()
    assert (code, failures(found)) == (0, {})


def test_a_right_that_comes_by_another_role_counts(run, monkeypatch):
    for sql in (f"CREATE OR REPLACE ROLE {LOOKER}_TOO", f"CREATE OR REPLACE ROLE {LOOKER}_FIRST"):
        run(sql)
    for privilege, kind, name in snowflake_probes.needed():
        run(f"GRANT {privilege} ON {kind} {name} TO ROLE {LOOKER}_FIRST")
    run(f"GRANT ROLE {LOOKER}_FIRST TO ROLE {LOOKER}_TOO")
    connect_as(monkeypatch, role=f"{LOOKER}_TOO")
    assert failures(doctor()[1]) == {}


def test_a_suspended_pool_is_told_and_one_that_stays_so_must_be_resumed(run):
    run("ALTER COMPUTE POOL DOCTOR_POOL SUSPEND")
    code, found = doctor()
    assert (code, found["compute pool"][0]["level"]) == (0, "warning")
    assert "resumes by itself with the next job" in found["compute pool"][0]["found"]
    run("ALTER COMPUTE POOL DOCTOR_POOL SET AUTO_RESUME = FALSE")
    code, found = doctor()
    assert (code, list(failures(found))) == (1, ["compute pool"])
    run(found["compute pool"][0]["remedy"])
    assert failures(doctor()[1]) == {}
    run("ALTER COMPUTE POOL DOCTOR_POOL SET AUTO_RESUME = TRUE")


def test_a_job_of_more_nodes_than_the_pool_has_is_told(run, monkeypatch):
    monkeypatch.setenv("CUSTOMER_INSIGHTS_TARGET_INSTANCES", "3")
    _, found = doctor()
    assert "has 2 nodes at most, a job wants 3" in failures(found)["compute pool"]


def test_a_missing_stage_and_a_missing_column_are_mended_by_deploying(run, monkeypatch):
    run("DROP STAGE WORK_STAGE")
    run("ALTER TABLE DRIFT_REPORT DROP COLUMN P_VALUE")
    code, found = doctor()
    assert (code, set(failures(found))) == (1, {"stages", "schema"})
    assert "@WORK_STAGE does not exist" in failures(found)["stages"]
    assert "table DRIFT_REPORT lacks P_VALUE" in failures(found)["schema"]
    remedies = {found[probe][0]["remedy"] for probe in ("stages", "schema")}
    assert remedies == {"customer-insights deploy"}
    # The test's own server runs already.
    monkeypatch.setattr(local, "start", lambda: 0.0)
    assert CliRunner().invoke(main.app, ["deploy"]).exit_code == 0
    assert failures(doctor()[1]) == {}


def test_missing_and_broken_weights_are_told(run, monkeypatch, tmp_path):
    copy = tmp_path / "quality_nli"
    shutil.copytree(zero_shot.EMBEDDED, copy)
    (copy / "model.safetensors").unlink()
    monkeypatch.setenv("CUSTOMER_INSIGHTS_QUALITY_MODEL", str(copy))
    heads = tmp_path / "weights"
    shutil.copytree(sentiment_models.WEIGHTS / "sentiment_use", heads / "sentiment_use")
    head = heads / "sentiment_use" / "head.npz"
    content = bytearray(head.read_bytes())
    content[len(content) // 2] ^= 0xFF
    head.write_bytes(content)
    monkeypatch.setattr(sentiment_models, "WEIGHTS", heads)
    code, found = doctor()
    assert (code, list(failures(found))) == (1, ["model weights"])
    assert f"no *.safetensors in {copy}" in failures(found)["model weights"]
    assert "sentiment_use is missing or broken" in failures(found)["model weights"]


def said_of(findings: list[Finding]) -> str:
    """What failed, and what to run."""
    return " | ".join(f"{one.found} -> {one.remedy}" for one in findings if one.level == "failed")


def test_a_model_of_the_hub_must_be_pinned_and_here(run, monkeypatch):
    monkeypatch.setenv("CUSTOMER_INSIGHTS_QUALITY_MODEL", "somebody/some-nli")
    settings.cache_clear()
    assert "export CUSTOMER_INSIGHTS_QUALITY_REVISION=" in said_of(machine_probes.model_weights())
    monkeypatch.setenv("CUSTOMER_INSIGHTS_QUALITY_REVISION", "0123456789abcdef")
    settings.cache_clear()
    assert "hf download somebody/some-nli --revision 0123456789abcdef" in said_of(machine_probes.model_weights())


def test_an_instance_that_was_not_set_up_is_told(run, monkeypatch, tmp_path):
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\nrun_retries:\n  enabled: true\n")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    said = said_of(machine_probes.dagster_instance())
    assert "no run_monitoring.enabled" in said
    assert "run_retries" not in said
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "nowhere"))
    assert "no folder" in said_of(machine_probes.dagster_instance())


def test_alerts_that_do_not_get_through_are_told(monkeypatch):
    assert [one.level for one in machine_probes.alerts()] == ["warning"]
    monkeypatch.setenv("CUSTOMER_INSIGHTS_ALERT_WEBHOOK_URL", "http://127.0.0.1:9/secret")
    assert [one.level for one in machine_probes.alerts()] == ["ok"]
    (tried,) = machine_probes.alerts(send=True)
    assert tried.level == "failed"
    assert "secret" not in tried.found


def test_a_probe_without_an_answer_is_given_up_and_the_others_go_on(run, embedded):
    faults = Faults.of_connection()
    faults.add({"kind": "delay", "match": "SHOW WAREHOUSES", "seconds": 60})
    try:
        code, found = doctor("--no-cortex", "--seconds", "6")
    finally:
        faults.clear()
    assert code == 1
    assert list(failures(found)) == ["warehouse"]
    assert found["stages"][0]["level"] == "ok"

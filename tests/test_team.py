"""Dagster for a team, without a browser: its files in ``deploy/dagster`` hold what they promise, on a real Postgres.

Its processes and its page are in ``test_ui_team``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from conftest import ROOT
from dagster_ui import TEAM, team_environment, team_home, team_services
from postgres import statement

# Where the team's instance is to differ from that of one machine.
OF_THE_TEAM = {"storage", "run_launcher", "compute_logs"}
DAGSTER_SERVICES = ("migration", "code_server", "webserver", "daemon")


@pytest.fixture
def instance(postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """The team's instance, on a database that has nothing in it yet."""
    for name, value in team_environment(tmp_path, postgres, 4000).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_POSTGRES_DB", f"of_{tmp_path.name}")
    statement(postgres, f'CREATE DATABASE "of_{tmp_path.name}"')
    with dg.DagsterInstance.from_config(str(team_home(tmp_path))) as opened:
        yield opened


def test_runs_events_and_schedules_of_a_team_are_in_postgres(instance: dg.DagsterInstance, postgres, tmp_path: Path):
    @dg.asset
    def table() -> None: ...

    run = dg.materialize([table], instance=instance)
    stored = {
        name: statement(postgres, f"SELECT COUNT(*) FROM {name}", database=f"of_{tmp_path.name}")[0][0]
        for name in ("runs", "event_logs", "asset_keys", "jobs")
    }
    assert stored["runs"] == stored["asset_keys"] == 1
    assert stored["event_logs"] == len(instance.all_logs(run.run_id))
    assert stored["jobs"] == 0
    assert not list(tmp_path.rglob("*.db"))


def test_a_second_process_that_starts_on_an_empty_database_finds_the_tables(instance, tmp_path: Path):
    with dg.DagsterInstance.from_config(str(tmp_path)) as second:
        assert second.get_runs() == instance.get_runs() == []


def test_a_password_that_is_not_set_is_named(instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DAGSTER_POSTGRES_PASSWORD")
    with pytest.raises(Exception, match="DAGSTER_POSTGRES_PASSWORD"):
        dg.DagsterInstance.from_config(str(tmp_path))


def test_the_limits_of_a_team_are_those_of_one_machine():
    team, machine = (
        {name: value for name, value in yaml.safe_load(path.read_text()).items() if name not in OF_THE_TEAM}
        for path in (TEAM / "dagster.yaml", ROOT / ".dagster" / "dagster.yaml")
    )
    assert team == machine


def test_every_service_is_given_what_the_instance_and_the_workspace_read():
    read = set(re.findall(r"env: (\w+)", (TEAM / "dagster.yaml").read_text() + (TEAM / "workspace.yaml").read_text()))
    for name in DAGSTER_SERVICES:
        assert read <= set(team_services()[name]["environment"]), name


def test_only_the_code_server_reaches_snowflake_and_no_page_is_open_to_the_network():
    services = team_services()
    with_secret = {name for name, service in services.items() if "SNOWFLAKE_HOME" in str(service)}
    assert with_secret == {"code_server"}
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert published == ["127.0.0.1:3000:3000"]


def test_what_the_image_copies_is_there_and_nothing_that_is_loaded_is_left_out():
    copied = {
        source
        for line in (TEAM / "Containerfile").read_text().splitlines()
        if line.startswith("COPY ")
        for source in line.split()[1:-1]
    }
    assert [source for source in sorted(copied) if not (ROOT / source).exists()] == []
    packages = {
        path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name not in ("tests", "training")
    }
    assert {*packages, "definitions.py", "constraints.txt"} - copied <= {"benchmarks", "dashboard"}

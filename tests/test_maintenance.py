"""The job ``maintenance``: what nobody needs goes, what a run or the champion needs stays, and a dry run only tells."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from conftest import Graph
from test_champion import register

from customer_insights import model_versions, promotion, stage_files, training_set
from customer_insights.settings import settings
from definitions import definitions
from resources import maintenance
from resources.job_payload import Payload
from resources.snowflake import SnowflakeConnection
from resources.snowflake_jobs import PipesSnowflakeJobClient, Polling

pytestmark = pytest.mark.slow
FORGOTTEN = "11111111-2222-3333-4444-555555555555"
IN_20_DAYS = (datetime.now(UTC) + timedelta(days=20)).isoformat()


def maintain(graph: Graph, as_of: str | None = IN_20_DAYS, dry_run: bool = False, raise_on_error: bool = True) -> Any:
    """Run the job on the graph's instance as if it were another day; gives each op's metadata."""
    config = {"ops": {name: {"config": {"dry_run": dry_run, "as_of": as_of}} for name in OPS}}
    with graph.instance as instance:
        job = definitions().resolve_job_def("maintenance")
        result = job.execute_in_process(instance=instance, run_config=config, raise_on_error=raise_on_error)
    assert result.success or not raise_on_error
    return {
        event.step_key: {
            # As text, without Markdown's escapes.
            name: value.value.replace("\\", "") if isinstance(value.value, str) else value.value
            for name, value in event.step_output_data.metadata.items()
        }
        for event in result.all_node_events
        if event.is_successful_output
    }


OPS = ("ended_jobs", "stage_folders", "staging_tables", "model_versions")


def put(graph: Graph, location: str) -> None:
    with io.BytesIO(b"rows") as content:
        graph.session().file.put_stream(content, f"@{location}", auto_compress=False, overwrite=True)


def folders(graph: Graph, stage: str) -> set[str]:
    return {file.name.rpartition("/")[0] for file in stage_files.list_files(graph.session(), f"@{stage}")}


def jobs(graph: Graph) -> list[str]:
    schema = f"{graph.database}.HOL_SCHEMA"
    return [row["name"] for row in graph.session().sql(f"SHOW JOB SERVICES IN SCHEMA {schema}").collect()]


@pytest.fixture
def job_run(empty_graph: Graph, payload_root: Path) -> Iterator[dg.DagsterRun]:
    """A run whose job has ended well."""
    snowflake = SnowflakeConnection(database=empty_graph.database, schema_name="HOL_SCHEMA")
    client = PipesSnowflakeJobClient(
        session_factory=snowflake.open_polling_session,
        compute_pool="HOL_COMPUTE_POOL",
        payload=Payload(payload_root),
        payload_stage=f"{empty_graph.database}.HOL_SCHEMA.PAYLOAD_STAGE",
        polling=Polling(longest=0.5),
    )

    @dg.asset
    def computed(context):
        return client.run(context=context, entrypoint="behave.py", args=["two_halves", 0]).get_materialize_result()

    with empty_graph.instance as instance:
        yield dg.materialize([computed], instance=instance).dagster_run


def test_ended_jobs_old_payloads_and_files_of_runs_go_and_what_a_run_needs_stays(
    empty_graph: Graph, job_run: dg.DagsterRun
):
    with empty_graph.instance as instance:
        going = dg.DagsterRun(job_name="retraining", status=dg.DagsterRunStatus.STARTED)
        instance.add_run(going)
    for run_id in (FORGOTTEN, going.run_id):
        put(empty_graph, f"WORK_STAGE/{run_id}/reviews/part.parquet")
    empty_graph.put("unread.txt", b"a review")
    put(empty_graph, "WORK_STAGE/notes/mine.txt")
    session = empty_graph.session()
    session.sql("CREATE TABLE STAGED_0123456789ABCDEF (A INT)").collect()
    session.sql("CREATE TABLE STAGED_BY_ME (A INT)").collect()
    (job,) = jobs(empty_graph)
    (payload,) = {name.split("/")[0] for name in folders(empty_graph, "PAYLOAD_STAGE") if name.startswith("payload_")}

    # Of the last days nothing goes.
    assert all(metadata["removed"] == 0 for metadata in maintain(empty_graph, as_of=None).values())

    # A dry run says what would go, and how large it is.
    told = maintain(empty_graph, dry_run=True)
    assert told["ended_jobs"]["to be removed"] == told["staging_tables"]["to be removed"] == 1
    assert job in told["ended_jobs"]["found"]
    assert FORGOTTEN in told["stage_folders"]["found"]
    assert going.run_id not in told["stage_folders"]["found"]
    # The job that is still there was started from the payload.
    assert payload not in told["stage_folders"]["found"]
    assert jobs(empty_graph) == [job]
    assert {f"{FORGOTTEN}/reviews", f"{going.run_id}/reviews"} <= folders(empty_graph, "WORK_STAGE")

    # A job whose run has not ended stays, and its payload.
    with empty_graph.instance as instance:
        instance.run_storage.delete_run(job_run.run_id)
        instance.run_storage.add_run(job_run.with_status(dg.DagsterRunStatus.STARTED))
    assert maintain(empty_graph, dry_run=True)["ended_jobs"]["to be removed"] == 0
    with empty_graph.instance as instance:
        instance.run_storage.delete_run(job_run.run_id)
        instance.run_storage.add_run(job_run.with_status(dg.DagsterRunStatus.SUCCESS))

    done = maintain(empty_graph)
    assert done["stage_folders"]["bytes"] > 1000
    assert jobs(empty_graph) == []
    assert not [name for name in folders(empty_graph, "PAYLOAD_STAGE") if name.startswith(payload)]
    assert folders(empty_graph, "WORK_STAGE") == {f"{going.run_id}/reviews", "notes"}
    assert empty_graph.value("SELECT COUNT(*) FROM STAGED_BY_ME") == 0
    assert not session.sql("SHOW TABLES LIKE 'STAGED_0123456789ABCDEF'").collect()
    assert len(stage_files.list_files(session, "@REVIEWS")) == 1
    assert all(metadata["removed"] == 0 for metadata in maintain(empty_graph).values())


def copy(session, version: str, name: str) -> None:
    """Another version of the model, with a training set and rows of its own."""
    session.sql(
        f"ALTER MODEL CONVERSION_MODEL ADD VERSION {name} FROM MODEL CONVERSION_MODEL VERSION {version}"
    ).collect()
    metadata = json.dumps({"metrics": {"training_set": name}})
    session.sql(f"ALTER MODEL CONVERSION_MODEL MODIFY VERSION {name} SET METADATA = '{metadata}'").collect()
    training_set.freeze(session, settings(), model_versions.training_set_name(name))
    for table in ("MODEL_REFERENCE", "MODEL_EVALUATIONS"):
        rows = f"SELECT * REPLACE ('{name}' AS MODEL_VERSION) FROM {table} WHERE MODEL_VERSION = '{version}' LIMIT 5"
        session.sql(f"INSERT INTO {table} {rows}").collect()


def test_old_versions_go_with_their_training_sets_and_rows_and_the_champions_stay(
    empty_graph: Graph, monkeypatch: pytest.MonkeyPatch
):
    served = register(empty_graph, 900)
    session = empty_graph.session()
    promotion.promote(session, settings(), served, "the first", "a run")
    for version in ("REFUSED", "NEWEST"):
        copy(session, served, version)
    session.sql("ALTER MODEL CONVERSION_MODEL SET DEFAULT_VERSION = NEWEST").collect()
    monkeypatch.setenv("CUSTOMER_INSIGHTS_KEPT_MODEL_VERSIONS", "1")
    settings.cache_clear()
    # Rows of a version that is being trained.
    session.sql(
        "INSERT INTO MODEL_REFERENCE SELECT * REPLACE ('TRAINED_NOW' AS MODEL_VERSION, "
        "CURRENT_TIMESTAMP::TIMESTAMP_NTZ + INTERVAL '30 days' AS LOGGED_AT) FROM MODEL_REFERENCE LIMIT 1"
    ).collect()
    told = maintain(empty_graph, dry_run=True)["model_versions"]
    assert [kind for kind in ("model version", "training set", "rows") if kind in told["found"]] == [
        "model version", "training set", "rows"
    ]  # fmt: skip
    assert maintain(empty_graph)["model_versions"]["removed"] == told["to be removed"] == 4
    assert [version.name for version in promotion.versions(session, settings())] == [served, "NEWEST"]
    assert len(training_set.versions(session, settings())) == 2
    for table in ("MODEL_REFERENCE", "MODEL_EVALUATIONS"):
        kept = {row["V"] for row in session.sql(f"SELECT DISTINCT MODEL_VERSION AS V FROM {table}").collect()}
        assert kept - {"TRAINED_NOW"} == {served, "NEWEST"}
    assert empty_graph.value("SELECT COUNT(*) FROM MODEL_REFERENCE WHERE MODEL_VERSION = 'TRAINED_NOW'") == 1


def test_a_step_that_fails_says_what_and_leaves_the_others_to_their_work(empty_graph: Graph):
    session = empty_graph.session()
    session.sql("CREATE TABLE STAGED_0123456789ABCDEF (A INT)").collect()
    put(empty_graph, f"WORK_STAGE/{FORGOTTEN}/part.parquet")
    session.sql("DROP TABLE CHAMPION_HISTORY").collect()
    done = maintain(empty_graph, raise_on_error=False)
    assert "model_versions" not in done
    assert done["staging_tables"]["removed"] == done["stage_folders"]["removed"] == 1


def test_what_the_server_refuses_is_told_and_everything_else_is_removed(empty_graph: Graph):
    session = empty_graph.session()
    session.sql("CREATE TABLE STAGED_0123456789ABCDEF (A INT)").collect()
    place = maintenance.Place(settings(), datetime.fromisoformat(IN_20_DAYS))
    (table,) = maintenance.staging_tables(session, place)
    refused = replace(table, name="OF_ANOTHER", remove=lambda session: session.sql("DROP STREAM OF_ANOTHER").collect())
    done = maintenance.clear(session, [refused, table])
    assert list(done.refused) == ["OF_ANOTHER"]
    assert "DROP STREAM" in done.refused["OF_ANOTHER"]
    assert not maintenance.staging_tables(session, place)

"""Dagster Pipes over a stage: what a job reports is what Dagster records, each thing once and in order.

The job's side runs in the test's own process, on a connection of its own. Real jobs are in ``test_pipes_client.py``;
the community's suite over the same channel is described in ``docs/pipes-protocol.md``.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import numpy as np
import pytest
from dagster_pipes import PipesContext, PipesMappingParamsLoader, PipesMessage

from customer_insights.jobs.pipes_stage_writer import (
    CONTEXT_FILE,
    StageContextLoader,
    StageMessageChannel,
    StageMessageWriter,
    get_bytes,
    message_file,
    put_bytes,
)
from resources.pipes_stage import StageContextInjector, StageMessageReader, list_files
from resources.snowflake import ReconnectingSession

STAGE = "HOL_DB.HOL_SCHEMA.PIPES_PROTOCOL"
Job = Callable[[PipesContext], None]


@dataclass
class Channel:
    """One job's location on the stage, and both sides' sessions."""

    snowflake: ReconnectingSession
    connection: Any
    location: str = field(default_factory=lambda: f"@{STAGE}/{uuid.uuid4().hex}")

    def reader(self) -> StageMessageReader:
        return StageMessageReader(self.snowflake, self.location)

    def dagsters_side(
        self, context: Any, reader: StageMessageReader, **options: Any
    ) -> AbstractContextManager[dg.PipesSession]:
        injector = StageContextInjector(self.snowflake, self.location)
        return dg.open_pipes_session(context, injector, reader, **options)

    def jobs_side(self, session: dg.PipesSession, interval: float = 0.05) -> PipesContext:
        return PipesContext(
            PipesMappingParamsLoader(session.get_bootstrap_env_vars()),
            StageContextLoader(self.connection),
            StageMessageWriter(self.connection, interval),
        )

    def files(self) -> list[list[PipesMessage]]:
        """What is in each file of messages, in the order of their numbers."""
        names = sorted(list_files(self.connection, f"{self.location}/") - {CONTEXT_FILE})
        assert names == [message_file(number) for number in range(1, len(names) + 1)]
        return [json.loads(get_bytes(self.connection, self.location, name)) for name in names]


@pytest.fixture(scope="module")
def sessions(embedded) -> Iterator[tuple[ReconnectingSession, Any]]:
    connection = embedded.connect()
    connection.cursor().execute(f"CREATE STAGE IF NOT EXISTS {STAGE}")
    snowflake = ReconnectingSession(embedded.session, 30)
    yield snowflake, connection
    snowflake.close()


@pytest.fixture
def channel(sessions) -> Channel:
    return Channel(*sessions)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


Run = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def run(channel: Channel, instance: dg.DagsterInstance) -> Run:
    """Materialize assets by a job; ``shelf`` with its checks where none are named."""

    def materialize(job: Job, *, keys: tuple[str, ...] = ("shelf",), checks: tuple[str, ...] = (), **options: Any):
        @dg.multi_asset(
            specs=[dg.AssetSpec(dg.AssetKey.from_user_string(key)) for key in keys],
            check_specs=[dg.AssetCheckSpec(name, asset=dg.AssetKey.from_user_string(keys[0])) for name in checks],
        )
        def assets(context):
            with (
                channel.dagsters_side(context, channel.reader(), **options) as session,
                channel.jobs_side(session) as pipes,
            ):
                job(pipes)
            yield from session.get_results(implicit_materializations=False)

        return dg.materialize([assets], instance=instance, raise_on_error=False)

    return materialize


def logged(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> list[tuple[int, str]]:
    """Level and text of what was logged by hand, not by Dagster itself."""
    entries = instance.all_logs(result.run_id)
    return [(entry.level, entry.user_message) for entry in entries if entry.dagster_event is None]


# -- materializations and checks ----------------------------------------------------------------------------------

COLUMN = {"name": "UUID", "type": "VARCHAR", "description": "key", "tags": {"pii": "no"}, "constraints": None}
UPSTREAM = {"asset_key": dg.AssetKey("raw"), "column_name": "ID"}
SCHEMA = dg.TableSchema(columns=[dg.TableColumn("UUID", "VARCHAR", "key", tags={"pii": "no"})])
RUN_ID = "db892d7f-0031-4747-973d-22e8b9095d9d"
METADATA: dict[str, tuple[Any, Any]] = {
    "text": ("Grüße, 你好 \x00 \"'", dg.MetadataValue.text("Grüße, 你好 \x00 \"'")),
    "url": ("https://example.com/?a=1&b=ü", dg.MetadataValue.url("https://example.com/?a=1&b=ü")),
    "path": ("/dev/null", dg.MetadataValue.path("/dev/null")),
    "notebook": ("shelf.ipynb", dg.MetadataValue.notebook("shelf.ipynb")),
    "json": ({"a": [1, None, {"b": {}}]}, dg.MetadataValue.json({"a": [1, None, {"b": {}}]})),
    "md": ("| a |\n|---|\n| 1 |", dg.MetadataValue.md("| a |\n|---|\n| 1 |")),
    "float": (0.1, dg.MetadataValue.float(0.1)),
    "int": (2**60 + 1, dg.MetadataValue.int(2**60 + 1)),
    "bool": (False, dg.MetadataValue.bool(False)),
    "dagster_run": (RUN_ID, dg.MetadataValue.dagster_run(RUN_ID)),
    "asset": ("shop/shelf", dg.MetadataValue.asset(dg.AssetKey(["shop", "shelf"]))),
    "null": (None, dg.MetadataValue.null()),
    "table": (
        {"records": [{"UUID": "a"}], "schema": [COLUMN]},
        dg.MetadataValue.table([dg.TableRecord({"UUID": "a"})], SCHEMA),
    ),
    "table_schema": ({"columns": [COLUMN]}, dg.MetadataValue.table_schema(SCHEMA)),
    "table_column_lineage": (
        {"deps_by_column": {"UUID": [{"asset_key": "raw", "column_name": "ID"}]}},
        dg.MetadataValue.column_lineage(dg.TableColumnLineage({"UUID": [dg.TableColumnDep(**UPSTREAM)]})),
    ),
    "timestamp": (1_700_000_000.25, dg.MetadataValue.timestamp(1_700_000_000.25)),
}
INFERRED = {"guessed_text": "a", "guessed_int": 1, "guessed_float": 1.5, "guessed_null": None, "guessed_list": [1, "b"]}


def test_metadata_of_every_type_arrives_with_materializations_and_checks(run):
    reported = {name: {"type": name, "raw_value": raw} for name, (raw, _) in METADATA.items()} | INFERRED

    def job(pipes: PipesContext) -> None:
        pipes.report_asset_materialization(metadata=reported)
        pipes.report_asset_check("looks_right", passed=True, metadata=reported)

    result = run(job, checks=("looks_right",))
    assert result.success
    (materialization,) = result.asset_materializations_for_node("assets")
    (check,) = result.get_asset_check_evaluations()
    for arrived in (materialization.metadata, check.metadata):
        assert {name: arrived[name] for name in METADATA} == {name: value for name, (_, value) in METADATA.items()}
        assert {name: arrived[name].value for name in INFERRED} == INFERRED


@pytest.mark.parametrize("data_version", [None, "v1", "über/1 'x'"])
def test_a_data_version_arrives(run, data_version: str | None):
    result = run(lambda pipes: pipes.report_asset_materialization(data_version=data_version))
    (materialization,) = result.asset_materializations_for_node("assets")
    assert materialization.tags
    if data_version is None:
        assert "dagster/data_version_is_user_provided" not in materialization.tags
    else:
        assert materialization.tags["dagster/data_version"] == data_version


def test_each_asset_of_several_gets_its_own_materialization(run):
    keys = ("shelf", "shop/till", "shop/door")

    def job(pipes: PipesContext) -> None:
        assert sorted(pipes.asset_keys) == sorted(keys)
        for number, key in enumerate(keys):
            pipes.report_asset_materialization({"number": number}, data_version=f"v{number}", asset_key=key)

    result = run(job, keys=keys)
    assert result.success
    arrived = {
        event.asset_key.to_user_string(): (event.metadata["number"].value, event.tags["dagster/data_version"])
        for event in result.asset_materializations_for_node("assets")
    }
    assert arrived == {key: (number, f"v{number}") for number, key in enumerate(keys)}


def test_a_check_keeps_its_verdict_and_its_severity(run):
    cases = [(passed, severity) for passed in (True, False) for severity in ("WARN", "ERROR")]
    names = {f"{severity.lower()}_{passed}".lower(): (passed, severity) for passed, severity in cases}

    def job(pipes: PipesContext) -> None:
        pipes.report_asset_materialization()
        for name, (passed, severity) in names.items():
            pipes.report_asset_check(name, passed, severity, {"rows": 3}, asset_key="shelf")

    result = run(job, checks=tuple(names))
    assert result.success
    evaluations = result.get_asset_check_evaluations()
    assert {check.check_name: (check.passed, check.severity.value) for check in evaluations} == names
    assert {check.metadata["rows"].value for check in evaluations} == {3}


# -- logs, exceptions, anything else ------------------------------------------------------------------------------


def test_every_log_level_arrives_once_and_in_order(run, instance):
    levels = [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL]

    def job(pipes: PipesContext) -> None:
        for level in levels:
            pipes.log.log(level, f"übergröße at {level}")
        pipes.report_asset_materialization()

    result = run(job)
    arrived = [entry for entry in logged(instance, result) if "übergröße" in entry[1]]
    assert arrived == [(level, f"übergröße at {level}") for level in levels]


def test_output_of_the_process_arrives_as_output(run, capsys):
    def job(pipes: PipesContext) -> None:
        pipes.log_external_stream("stdout", "to the one\n")
        pipes.log_external_stream("stderr", "to the other\n")
        pipes.report_asset_materialization()

    assert run(job).success
    output = capsys.readouterr()
    assert output.out.count("to the one\n") == 1
    assert output.err.count("to the other\n") == 1


def test_an_exception_arrives_with_its_cause_after_what_was_reported_before_it(channel, instance):
    reader = channel.reader()
    written: list[str] = []

    def job(session: dg.PipesSession) -> None:
        with channel.jobs_side(session) as pipes:
            pipes.log.info("before")
            try:
                raise LookupError("no such böok")
            except LookupError as error:
                raise RuntimeError("the shelf is empty") from error

    @dg.asset
    def shelf(context):
        with channel.dagsters_side(context, reader) as session:
            with pytest.raises(RuntimeError, match="empty"):
                job(session)
            reader.drain()
            written.extend(message["method"] for file in channel.files() for message in file)
        return dg.MaterializeResult()

    result = dg.materialize([shelf], instance=instance)
    exception = reader.exception
    assert exception
    assert exception["name"] == "RuntimeError"
    assert "the shelf is empty" in exception["message"]
    assert any("test_pipes_protocol.py" in line for line in exception["stack"])
    assert exception["cause"]
    assert "no such böok" in exception["cause"]["message"]
    assert written == ["opened", "log", "closed"]
    assert (logging.INFO, "before") in logged(instance, result)
    events = [entry.dagster_event for entry in instance.all_logs(result.run_id) if entry.dagster_event]
    (event,) = [event for event in events if "closed with exception" in (event.message or "")]
    error = event.engine_event_data.error
    assert error
    assert "the shelf is empty" in error.message
    assert error.cause
    assert "no such böok" in error.cause.message


HOSTILE: dict[str, Any] = {
    "null": None,
    "nested": {"a": [{"b": [[], {}, [None, False]]}]},
    "numbers": [0, -1, 2**70, 1e-300, 1.5],
    "scripts": "Grüße 你好 שלום 👩‍👩‍👧 e\u0301 \u2028 \x00 \x1b",
    "half a surrogate pair": "\ud800",
    "quotes": "'; DROP STAGE \"X\"; -- \\ \\' $$ {0} %s <script>\n\r\t",
    "": "an empty key",
    "ключ 'x' \"y\"": [],
    "large": "läßt " * 600_000,
}


def test_extras_reach_the_job_unchanged_and_custom_messages_come_back_unchanged(channel, instance):
    payloads = [HOSTILE, *HOSTILE.values()]
    came_back: list[Any] = []

    @dg.asset
    def shelf(context):
        with channel.dagsters_side(context, channel.reader(), extras=HOSTILE) as session:
            # What is in the extras does not travel in the environment, which has a limit and is for all to see.
            assert sum(map(len, session.get_bootstrap_env_vars().values())) < 1000
            with channel.jobs_side(session) as pipes:
                assert pipes.extras == HOSTILE
                assert pipes.run_id == context.run_id
                for payload in payloads:
                    pipes.report_custom_message(payload)
        came_back.extend(session.get_custom_messages())
        return dg.MaterializeResult()

    assert dg.materialize([shelf], instance=instance).success
    assert came_back == payloads


# -- each once and in order ---------------------------------------------------------------------------------------


def test_many_messages_over_many_files_arrive_once_and_in_order(run, channel, instance):
    def job(pipes: PipesContext) -> None:
        for number in range(200):
            pipes.log.info(f"message {number}")
            time.sleep(0.005)
        pipes.report_asset_materialization()

    result = run(job)
    arrived = [text for _, text in logged(instance, result) if text.startswith("message ")]
    assert arrived == [f"message {number}" for number in range(200)]
    files = channel.files()
    assert len(files) > 5
    methods = [message["method"] for file in files for message in file]
    assert methods == ["opened", *["log"] * 200, "report_asset_materialization", "closed"]


def test_what_was_written_while_nobody_read_is_read_from_the_first_by_a_new_reader(channel, instance):
    sessions: list[PipesContext] = []

    def waited_for(reader: StageMessageReader, count: int) -> None:
        deadline = time.monotonic() + 20
        seen = 0
        while (seen := seen + reader.poll()) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        assert seen == count

    @dg.asset
    def worker_that_dies(context):
        reader = channel.reader()
        with channel.dagsters_side(context, reader) as session:
            pipes = channel.jobs_side(session)
            sessions.append(pipes)
            pipes.log.info("first")
            waited_for(reader, 2)
            raise KeyError("this worker is gone")

    first = dg.materialize([worker_that_dies], instance=instance, raise_on_error=False)
    assert not first.success
    assert [text for _, text in logged(instance, first)].count("first") == 1

    (pipes,) = sessions
    for number in range(3):
        pipes.log.info(f"unread {number}")
        time.sleep(0.15)
    pipes.report_asset_materialization({"rows": 5})

    @dg.asset
    def worker_that_dies_again(context):
        reader = channel.reader()
        with channel.dagsters_side(context, reader) as session:
            reader.poll()
            pipes.close()
        (reported,) = session.get_reported_results()
        assert session.message_handler.received_closed_message
        return dg.MaterializeResult(metadata=reported.metadata)

    second = dg.materialize([worker_that_dies_again], instance=instance)
    texts = [text for _, text in logged(instance, second)]
    assert [text for text in texts if text in ("first", "unread 0", "unread 1", "unread 2")] == [
        "first",
        "unread 0",
        "unread 1",
        "unread 2",
    ]
    (materialization,) = second.asset_materializations_for_node("worker_that_dies_again")
    assert materialization.metadata["rows"].value == 5


def message(text: str) -> PipesMessage:
    return {"__dagster_pipes_version": "0.1", "method": "log", "params": {"message": text, "level": "INFO"}}


def test_an_upload_whose_answer_is_lost_loses_no_message_behind_it(channel, instance):
    attempts: list[str] = []
    reader = channel.reader()

    @dg.asset
    def shelf(context):
        with channel.dagsters_side(context, reader):

            def upload(name: str, data: bytes) -> None:
                put_bytes(channel.connection, data, channel.location, name)
                attempts.append(name)
                if len(attempts) == 1:
                    # Read while the job believes that its upload failed; the job goes on to report.
                    assert reader.poll() == 1
                    stage_channel.write_message(message("reported meanwhile"))
                    raise ConnectionError("the answer is lost")

            stage_channel = StageMessageChannel(upload, interval=0.05)
            with stage_channel.open():
                stage_channel.write_message(message("first"))
                deadline = time.monotonic() + 20
                while len(attempts) < 2 and time.monotonic() < deadline:
                    time.sleep(0.02)
        return dg.MaterializeResult()

    result = dg.materialize([shelf], instance=instance)
    assert attempts[:2] == [message_file(1)] * 2
    texts = [text for _, text in logged(instance, result)]
    assert texts.count("first") == 1
    assert texts.count("reported meanwhile") == 1


def test_a_message_that_json_cannot_hold_is_refused_where_it_is_reported_and_holds_up_nothing(run, instance):
    def job(pipes: PipesContext) -> None:
        with pytest.raises(TypeError, match="int64"):
            pipes.report_custom_message({"rows": np.int64(7)})
        pipes.log.info("reported all the same")
        pipes.report_asset_materialization()

    result = run(job)
    assert result.success
    assert (logging.INFO, "reported all the same") in logged(instance, result)
    assert len(result.asset_materializations_for_node("assets")) == 1


def test_a_file_of_messages_that_is_missing_fails_the_step_and_is_named(run, channel, instance):
    def job(pipes: PipesContext) -> None:
        put_bytes(channel.connection, b"[]", channel.location, message_file(9))
        pipes.report_asset_materialization()

    result = run(job)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    error = failure.step_failure_data.error
    assert "damaged or missing" in (error.cause or error).message
    assert message_file(9) in (error.cause or error).message

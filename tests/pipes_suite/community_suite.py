"""Runs the community's ``dagster-pipes-tests`` over the channel on a Snowflake stage: ``docs/pipes-protocol.md``.

Not collected by ``make test``, because the suite is on no package index. What is ours in here only puts the stage
between the suite's assets and its executable; the cases are the suite's. What it covers is tested for ``make test`` in
``test_pipes_protocol.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import dagster_pipes_tests.suite
import pytest
from dagster import PipesClientCompletedInvocation
from dagster._core.pipes.utils import PipesEnvContextInjector, PipesTempFileContextInjector, PipesTempFileMessageReader
from dagster_pipes_tests.constants import METADATA_PATH
from dagster_pipes_tests.suite import PipesTestSuite
from dagster_pipes_tests.utils.message_reader import PipesTestingFileMessageReader

from resources.job_payload import Payload
from resources.pipes_stage import StageContextInjector, StageMessageReader
from resources.snowflake import ReconnectingSession, SnowflakeConnection
from resources.snowflake_jobs import PipesSnowflakeJobClient, Polling

ROOT = Path(__file__).resolve().parents[2]
EXECUTABLE = Path(__file__).with_name("executable.py")
STAGE = "HOL_DB.HOL_SCHEMA.PIPES_SUITE"
POOL = "PIPES_SUITE_POOL"
AS_JOBS = os.environ.get("PIPES_SUITE_AS_JOBS") == "1"
"""Submit every case as a job to a compute pool, by the client that assets use, instead of starting a process."""


class PatientReader(StageMessageReader):
    """Reads what is left also when the process failed, which the job client does by itself."""

    @contextmanager
    def read_messages(self, handler: Any) -> Iterator[Mapping[str, Any]]:
        with super().read_messages(handler) as params:
            try:
                yield params
            finally:
                self.drain()


class StageClient(dg.PipesSubprocessClient):
    """Takes the place of the suite's client; runs its command with context and messages on the stage."""

    keeps_what_is_given = False
    jobs: PipesSnowflakeJobClient | None = None
    copy: Path | None = None
    """Where the suite looks for the messages; set by the one test that does."""

    def __init__(self, context_injector: Any = None, message_reader: Any = None) -> None:
        super().__init__()
        kept = self.keeps_what_is_given
        self._injector = context_injector if kept else None
        self._reader = message_reader if kept else None
        copied = isinstance(message_reader, PipesTestingFileMessageReader)
        StageClient.copy = Path(message_reader._path) if copied else None

    def run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, *, context: Any, command: Sequence[Any], extras: Any = None
    ) -> PipesClientCompletedInvocation:
        if self.jobs and not (self._injector or self._reader):
            done = self.jobs.run(
                context=context,
                entrypoint=EXECUTABLE.name,
                args=command[2:],
                extras=extras,
                require_materializations=False,
            )
            return PipesClientCompletedInvocation(done._session)
        snowflake = ReconnectingSession(SnowflakeConnection(connection_name="embedded").open_polling_session, 30)
        location = f"@{STAGE}/{uuid.uuid4().hex}"
        self.context_injector = self._injector or StageContextInjector(snowflake, location)
        self.message_reader = self._reader or PatientReader(snowflake, location)
        loader, writer = ("default" if given else "stage" for given in (self._injector, self._reader))
        try:
            return super().run(
                context=context,
                command=[*map(str, command), "--context-loader", loader, "--message-writer", writer],
                env={"PYTHONPATH": str(ROOT)},
                extras=extras,
            )
        finally:
            snowflake.close()


handle = StageMessageReader._handle


def copied_and_handled(reader: StageMessageReader, message: Any) -> None:
    if StageClient.copy:
        with StageClient.copy.open("a") as file:
            file.write(json.dumps(message) + "\n")
    handle(reader, message)


@pytest.fixture(scope="module")
def jobs(embedded: Any, tmp_path_factory: pytest.TempPathFactory) -> PipesSnowflakeJobClient | None:
    embedded.connect().cursor().execute(f"CREATE STAGE IF NOT EXISTS {STAGE}")
    if not AS_JOBS:
        return None
    embedded.session().sql(
        f"CREATE COMPUTE POOL IF NOT EXISTS {POOL} MIN_NODES = 1 MAX_NODES = 1 INSTANCE_FAMILY = CPU_X64_XS"
    ).collect()
    payload = tmp_path_factory.mktemp("payload")
    shutil.copy(EXECUTABLE, payload)
    (payload / "customer_insights/jobs").mkdir(parents=True)
    for name in ("customer_insights/__init__.py", "customer_insights/jobs/__init__.py"):
        (payload / name).touch()
    shutil.copy(ROOT / "customer_insights/jobs/pipes_stage_writer.py", payload / "customer_insights/jobs")
    return PipesSnowflakeJobClient(
        connection_name="embedded",
        compute_pool=POOL,
        payload=Payload(payload),
        payload_stage=STAGE,
        polling=Polling(longest=1),
    )


@pytest.fixture(autouse=True)
def stage_in_between(jobs: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dagster_pipes_tests.suite, "PipesSubprocessClient", StageClient)
    monkeypatch.setattr(StageMessageReader, "_handle", copied_and_handled)
    monkeypatch.setattr(StageClient, "jobs", jobs)
    # Only this test takes its injector and reader from fixtures, which are ours; the others name Dagster's own.
    monkeypatch.setattr(StageClient, "keeps_what_is_given", request.node.originalname == "test_components")


@pytest.fixture(params=[None] if AS_JOBS else [None, PipesEnvContextInjector, PipesTempFileContextInjector])
def context_injector(request: pytest.FixtureRequest) -> Any:
    return request.param and request.param()


@pytest.fixture(params=[None] if AS_JOBS else [None, PipesTempFileMessageReader])
def message_reader(request: pytest.FixtureRequest) -> Any:
    return request.param and request.param()


class TestStageChannel(PipesTestSuite):
    BASE_ARGS = [sys.executable, str(EXECUTABLE), "--metadata", str(METADATA_PATH)]  # noqa: RUF012

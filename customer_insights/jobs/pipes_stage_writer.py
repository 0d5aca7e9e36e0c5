"""The job's side of Dagster Pipes over a Snowflake stage: reads its context from the stage, writes messages to it.

``open_job_pipes`` is all that a job calls. This module travels with the payload, so it needs nothing but
``dagster-pipes`` and Snowpark, and nothing here knows what a job computes. The other side is
``resources/pipes_stage.py``; what both must agree on (the parameters' key, the names of files) is defined here.
"""

from __future__ import annotations

import io
import json
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dagster_pipes import (
    PipesContext,
    PipesContextData,
    PipesContextLoader,
    PipesMessage,
    PipesMessageWriter,
    PipesMessageWriterChannel,
    open_dagster_pipes,
)

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection
    from snowflake.snowpark import Session

logger = logging.getLogger(__name__)

LOCATION_KEY = "stage_location"
"""Key of the Pipes parameters that holds the stage location (``@DB.SCHEMA.STAGE/prefix``) of one job's files."""

RETRYABLE_KEY = "snowflake_job/retryable"
"""Key of the custom message by which a job that fails says that the same work may succeed in another one."""

CONTEXT_FILE = "context.json"
UPLOAD_ATTEMPTS = 5


def message_file(index: int) -> str:
    """Name of the ``index``-th chunk of messages, counted from 1."""
    return f"messages-{index:08d}.json"


def quoted(text: str) -> str:
    """``text`` as an SQL string literal; PUT and GET take no bound values."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def put_bytes(connection: SnowflakeConnection, data: bytes, location: str, name: str) -> None:
    """Write one file to a stage, replacing what is there.

    Not by Snowpark's ``put_stream``: that uses the session's one cursor, which another thread may be using.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"PUT {quoted('file:///tmp/' + name)} {quoted(location)} AUTO_COMPRESS = FALSE OVERWRITE = TRUE",
            file_stream=io.BytesIO(data),
        )


def get_bytes(connection: SnowflakeConnection, location: str, name: str) -> bytes:
    """The content of one file of a stage.

    Not by Snowpark's ``get_stream``: that downloads to a name in the machine's temporary folder that two readers
    would share.
    """
    with tempfile.TemporaryDirectory() as folder, connection.cursor() as cursor:
        cursor.execute(f"GET {quoted(f'{location}/{name}')} {quoted(f'file://{folder}/')}")
        return (Path(folder) / name).read_bytes()


class StageContextLoader(PipesContextLoader):
    """Loads what Dagster says about the run from ``context.json`` at the stage location."""

    def __init__(self, connection: SnowflakeConnection) -> None:
        self._connection = connection

    @contextmanager
    def load_context(self, params: Mapping[str, Any]) -> Iterator[PipesContextData]:
        yield json.loads(get_bytes(self._connection, params[LOCATION_KEY], CONTEXT_FILE))


class StageMessageChannel(PipesMessageWriterChannel):
    """Collects messages and uploads them from a thread, one numbered file per interval.

    dagster-pipes has a base class for this (``PipesBlobStoreMessageWriterChannel``); its thread dies with the first
    failed upload, nobody is told, and the job ends well with its messages lost. Here a failed upload is repeated, and
    an upload that fails to the end is raised when the channel closes, so that the job fails.
    """

    def __init__(self, upload: Callable[[str, bytes], None], interval: float) -> None:
        self._upload = upload
        self._interval = interval
        self._waiting: list[str] = []
        self._lock = threading.Lock()
        self._file = b""
        self._number = 1
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="pipes-messages", daemon=True)

    def write_message(self, message: PipesMessage) -> None:
        # Encoded here: what JSON cannot hold is refused where it is reported, instead of holding up, until the job
        # ends, every message behind it.
        encoded = json.dumps(message)
        with self._lock:
            self._waiting.append(encoded)

    @contextmanager
    def open(self) -> Iterator[StageMessageChannel]:
        """Upload while the body runs, and everything that is left when it ends."""
        self._thread.start()
        try:
            yield self
        finally:
            self._closing.set()
            self._thread.join()
            while self._flush(attempts=UPLOAD_ATTEMPTS):
                pass

    def _loop(self) -> None:
        # The first message says that the job is there: it is not kept waiting for the interval.
        wait = 0.1
        while not self._closing.wait(wait):
            try:
                uploaded = self._flush(attempts=1)
            except Exception:
                logger.warning("messages to Dagster could not be uploaded; tried again", exc_info=True)
                uploaded = True
            wait = self._interval if uploaded or wait >= self._interval else min(wait * 2, self._interval)

    def _flush(self, attempts: int) -> bool:
        """Upload one file; returns whether there was anything to upload."""
        # A file keeps its content until it is known to be there. An upload whose answer was lost may have been read
        # already, and nobody would read what is added to it by the next attempt.
        self._file = self._file or self._take_waiting()
        if not self._file:
            return False
        for attempt in range(1, attempts + 1):
            try:
                self._upload(message_file(self._number), self._file)
                break
            except Exception:
                if attempt == attempts:
                    raise
                time.sleep(2**attempt * 0.25)
        self._file = b""
        self._number += 1
        return True

    def _take_waiting(self) -> bytes:
        with self._lock:
            taken, self._waiting = self._waiting, []
        return f"[{', '.join(taken)}]".encode() if taken else b""


class StageMessageWriter(PipesMessageWriter[StageMessageChannel]):
    """Writes messages as numbered files, each a JSON list, to the stage location."""

    def __init__(self, connection: SnowflakeConnection, interval: float = 1.0) -> None:
        self._connection = connection
        self._interval = interval

    @contextmanager
    def open(self, params: Mapping[str, Any]) -> Iterator[StageMessageChannel]:
        location = params[LOCATION_KEY]

        def upload(name: str, data: bytes) -> None:
            put_bytes(self._connection, data, location, name)

        with StageMessageChannel(upload, self._interval).open() as channel:
            yield channel


class JobPipes(NamedTuple):
    """What a job works with: the Pipes context to report to, and the Snowpark session that the launcher opened."""

    pipes: PipesContext
    session: Session


@contextmanager
def open_job_pipes(
    *, interval: float = 1.0, may_be_retried: Callable[[Exception], bool] = lambda _: False
) -> Iterator[JobPipes]:
    """Join a job to the Dagster run that submitted it; an exception in the body is reported and goes on.

    ``with open_job_pipes() as (pipes, session): ...``. ``interval`` is the time in seconds between two uploads of
    messages; ``may_be_retried`` tells which exceptions another job may not meet. Without Dagster (a job started by
    hand) ``pipes`` accepts everything and does nothing, as dagster-pipes has it.
    """
    from snowflake.snowpark.context import get_active_session

    session = get_active_session()
    connection = session.connection
    with open_dagster_pipes(
        context_loader=StageContextLoader(connection),
        message_writer=StageMessageWriter(connection, interval),
    ) as pipes:
        try:
            yield JobPipes(pipes, session)
        except Exception as error:
            if may_be_retried(error):
                pipes.report_custom_message({RETRYABLE_KEY: True})
            raise

"""Dagster's side of Pipes over a Snowflake stage: gives a job its context, reads the messages that it writes.

The job's side, and the names of the files, are in ``customer_insights/jobs/pipes_stage_writer.py``. How a job is
started and watched is not here but in ``snowflake_jobs.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster_pipes import DagsterPipesError, PipesContextData, PipesException, PipesParams

from customer_insights.jobs.pipes_stage_writer import (
    CONTEXT_FILE,
    LOCATION_KEY,
    RETRYABLE_KEY,
    get_bytes,
    message_file,
    put_bytes,
    quoted,
)
from resources.snowflake import ReconnectingSession

if TYPE_CHECKING:
    from dagster import PipesMessageHandler
    from snowflake.connector import SnowflakeConnection


def list_files(connection: SnowflakeConnection, location: str) -> set[str]:
    """Names, without folders, of the files at or under a stage location."""
    with connection.cursor() as cursor:
        cursor.execute(f"LIST {quoted(location)}")
        return {str(row[0]).rsplit("/", 1)[-1] for row in cursor.fetchall()}


def has_context(connection: SnowflakeConnection, location: str) -> bool:
    """Whether the files of a job are still there: nobody has read its messages to the end."""
    return CONTEXT_FILE in list_files(connection, f"{location}/")


def remove_files(connection: SnowflakeConnection, location: str) -> None:
    """Remove every file under a stage location."""
    with connection.cursor() as cursor:
        cursor.execute(f"REMOVE {quoted(location + '/')}")


class StageContextInjector(dg.PipesContextInjector):
    """Writes the context to a file on the stage, so that neither its size nor its content ends up in the job's spec."""

    def __init__(self, snowflake: ReconnectingSession, location: str) -> None:
        self._snowflake = snowflake
        self._location = location

    @contextmanager
    def inject_context(self, context_data: PipesContextData) -> Iterator[PipesParams]:
        data = json.dumps(context_data).encode()
        self._snowflake.call(lambda session: put_bytes(session.connection, data, self._location, CONTEXT_FILE))
        yield {LOCATION_KEY: self._location}

    def no_messages_debug_text(self) -> str:
        return f"The context is in {self._location}/{CONTEXT_FILE}; the job reads it with open_job_pipes()."


class GivenContextInjector(dg.PipesContextInjector):
    """For a job that has its context already, because another attempt submitted it."""

    def __init__(self, location: str) -> None:
        self._location = location

    @contextmanager
    def inject_context(self, context_data: PipesContextData) -> Iterator[PipesParams]:
        yield {LOCATION_KEY: self._location}

    def no_messages_debug_text(self) -> str:
        return f"The job was submitted by an earlier attempt; its context is in {self._location}/{CONTEXT_FILE}."


class StageMessageReader(dg.PipesMessageReader):
    """Reads numbered message files from a stage location, in order. Keeps its position: one reader for one job.

    There is no thread: whoever watches the job calls ``poll``, and what is left is read when the Pipes session ends
    well.
    """

    def __init__(self, snowflake: ReconnectingSession, location: str) -> None:
        self._snowflake = snowflake
        self._location = location
        self._handler: PipesMessageHandler | None = None
        self._next = 1
        self._drained = False
        self.exception: PipesException | None = None
        """The exception with which the job closed its Pipes session, if it did."""
        self.may_be_retried = False
        """Whether the job said that the same work may succeed in another one."""

    @property
    def expected_writer_count(self) -> int:
        """One, the entry point on the first node. Dagster's own property warns at every use that it may change."""
        return 1

    @contextmanager
    def read_messages(self, handler: PipesMessageHandler) -> Iterator[PipesParams]:
        self._handler = handler
        yield {LOCATION_KEY: self._location}
        self.drain()

    def poll(self) -> int:
        """Pass on the messages of files that are new since the last call; returns how many messages there were."""
        known = self._snowflake.call(lambda session: list_files(session.connection, self._location + "/"))
        count = 0
        while (name := message_file(self._next)) in known:
            try:
                messages = json.loads(self._read(name))
            except ValueError:
                # A file that is still being written; half a JSON list never parses.
                break
            for message in messages:
                self._handle(message)
            self._next += 1
            count += len(messages)
        return count

    def drain(self) -> None:
        """Read everything that is there; called once the job is over.

        Raises:
            DagsterPipesError: a file is missing between others, or cannot be read.
        """
        if self._drained:
            return
        self.poll()
        known = self._snowflake.call(lambda session: list_files(session.connection, self._location + "/"))
        left = sorted(name for name in known if name != CONTEXT_FILE and name >= message_file(self._next))
        if left:
            raise DagsterPipesError(
                f"messages of the job are damaged or missing: {message_file(self._next)} in {self._location} cannot be "
                f"read, but {left} are there"
            )
        self._drained = True

    def _read(self, name: str) -> bytes:
        return self._snowflake.call(lambda session: get_bytes(session.connection, self._location, name))

    def _handle(self, message: Any) -> None:
        if self._handler is None:
            raise DagsterPipesError("messages are read inside the Pipes session only")
        if message["method"] == "closed":
            self.exception = (message.get("params") or {}).get("exception")
        if message["method"] == "report_custom_message":
            payload = (message.get("params") or {}).get("payload")
            self.may_be_retried |= isinstance(payload, dict) and bool(payload.get(RETRYABLE_KEY))
        self._handler.handle_message(message)

    def no_messages_debug_text(self) -> str:
        return f"Messages were looked for in {self._location}/; the job writes them with open_job_pipes()."

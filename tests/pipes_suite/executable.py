"""What the community's Pipes suite executes: a job that checks and reports what its arguments tell it.

It runs as a process of its own, which opens a session by the connection's name, or as a job on a compute pool, where
the launcher has opened one. The suite is not part of this project: ``docs/pipes-protocol.md``.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster_pipes import PipesContext, PipesDefaultContextLoader, PipesDefaultMessageWriter, open_dagster_pipes

from customer_insights.jobs.pipes_stage_writer import StageContextLoader, StageMessageWriter, open_job_pipes

LEVELS = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--test-name", required=True)
    parser.add_argument("--job-name")
    parser.add_argument("--context-loader", choices=["stage", "default"], default="stage")
    parser.add_argument("--message-writer", choices=["stage", "default"], default="stage")
    files = "--extras", "--custom-payload", "--report-asset-materialization", "--report-asset-check", "--metadata"
    for name in files:
        parser.add_argument(name, type=lambda path: json.loads(Path(path).read_text()))
    return parser.parse_args()


@contextmanager
def opened(chosen: argparse.Namespace) -> Iterator[PipesContext]:
    """The Pipes context over the stage, or partly over dagster-pipes' own files where the suite asks for a mixture."""
    from snowflake.snowpark import Session
    from snowflake.snowpark.context import get_active_session
    from snowflake.snowpark.exceptions import SnowparkSessionException

    try:
        session = get_active_session()
    except SnowparkSessionException:
        session = Session.builder.config("connection_name", "embedded").create()
    loads, writes = chosen.context_loader == "stage", chosen.message_writer == "stage"
    if loads and writes:
        with open_job_pipes() as (pipes, _):
            yield pipes
    else:
        with open_dagster_pipes(
            context_loader=StageContextLoader(session.connection) if loads else PipesDefaultContextLoader(),
            message_writer=StageMessageWriter(session.connection) if writes else PipesDefaultMessageWriter(),
        ) as pipes:
            yield pipes
    session.close()


def report(pipes: PipesContext, chosen: argparse.Namespace) -> None:
    if chosen.job_name:
        assert pipes.job_name == chosen.job_name, pipes.job_name
    if chosen.extras is not None:
        assert pipes.extras == chosen.extras, pipes.extras
    if chosen.custom_payload is not None:
        pipes.report_custom_message(chosen.custom_payload["payload"])
    if (told := chosen.report_asset_materialization) is not None:
        pipes.report_asset_materialization(chosen.metadata, told.get("dataVersion"), told.get("assetKey"))
    if (told := chosen.report_asset_check) is not None:
        pipes.report_asset_check(
            told["checkName"], told["passed"], told["severity"], chosen.metadata, told.get("assetKey")
        )
    if chosen.test_name == "test_components":
        pipes.report_custom_message("Hello from external process!")
    if chosen.test_name == "test_message_log":
        for level in LEVELS:
            pipes.log.log(level, f"{logging.getLevelName(level).capitalize()} message")
    if chosen.test_name == "test_error_reporting":
        fail(pipes)


def fail(pipes: PipesContext) -> Any:
    # An exception that leaves the body is worded "RuntimeError: ..." by dagster-pipes for Python, whatever the
    # channel; the suite wants the bare message, as the other languages' libraries have it.
    error = RuntimeError("Very bad error has happened!")
    exception = {"name": "RuntimeError", "message": str(error), "stack": ["fail"], "cause": None, "context": None}
    pipes.close(exception)  # pyright: ignore[reportArgumentType]
    raise error


chosen = arguments()
with opened(chosen) as pipes:
    report(pipes, chosen)

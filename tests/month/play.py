"""The month itself: a server, an instance and a mailbox of its own, and the plan played stop by stop.

It runs in a process that lives by the simulated clock (``__main__`` starts it).
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from datetime import time as datetime_time
from pathlib import Path
from typing import Any, Literal

import dagster as dg

from customer_insights import deployment, query, stage_files, visits
from customer_insights.settings import settings
from embedded_snowflake.faults import Faults
from month.clock import Clock
from month.mailbox import Mailbox, Message
from month.operation import Operation
from month.plan import File, Moment, Plan, local, moments

ROOT = Path(__file__).resolve().parent.parent.parent
EVENING = datetime_time(20, 0)
# The job that scores the day finds no room for what it publishes; no retry mends that.
NO_ROOM = {"kind": "disk_full", "match": "^MERGE INTO REVIEW_QUALITY ", "of": "job", "times": 1}

# What can be broken on purpose, to see the month fail.
Sabotage = Literal["lost file", "no retry", "alerts twice", "costs without the failed job"]


@dataclass
class Record:
    """What is left when the month is over: what was done, what was said, and a session to look at the rest."""

    plan: Plan
    operation: Operation
    messages: list[Message]
    session: Any
    # Name -> the job's row of Snowflake's history.
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def evening(self) -> datetime:
        """Of the day before the first one: when it begins."""
        return local(self.plan.calendar.dates[0] - timedelta(days=1), EVENING)

    def rows(self, sql: str) -> list[dict[str, Any]]:
        return query.rows(self.session, sql)


@contextmanager
def played(plan: Plan, folder: Path, say: Callable[[str], None], sabotage: Sabotage | None) -> Iterator[Record]:
    """Play the plan; the record is good while the server runs."""
    from snowflake.snowpark import Session

    began, clock, mailbox = time.monotonic(), Clock(), Mailbox()
    clock.set(local(plan.calendar.dates[0] - timedelta(days=1), EVENING))
    os.environ["CUSTOMER_INSIGHTS_ALERT_WEBHOOK_URL"] = mailbox.url
    server = _server(folder)
    try:
        session = Session.builder.config("connection_name", "embedded").create()
        try:
            deployment.deploy(session, settings())
            with _instance(folder) as instance:
                # After the settings of the month are in the environment.
                from definitions import definitions

                operation = Operation(definitions(), instance, clock.now())
                record = Record(plan, operation, mailbox.messages, session)
                stage = folder / ".snowflake" / "data" / "stages"
                _read_history(record, clock, stage)
                for moment in moments(plan):
                    _play(record, moment, clock, stage, sabotage)
                    say(_line(record, moment))
                if sabotage == "costs without the failed job":
                    record.rows("DELETE FROM PIPELINE_COSTS WHERE STATUS = 'FAILED'")
                record.seconds = time.monotonic() - began
                yield record
        finally:
            session.close()
    finally:
        server.terminate()
        server.wait(60)
        mailbox.close()


def _server(folder: Path) -> subprocess.Popen[str]:
    data = folder / ".snowflake" / "data"
    command = [sys.executable, "-m", "month.server", "--data-dir", str(data), "--port", "0"]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=(folder / "server.log").open("w"), text=True, cwd=ROOT
    )
    assert server.stdout
    line = server.stdout.readline()
    if "listens on" not in line:
        raise RuntimeError(f"the embedded server ended with {server.wait()}: see {folder / 'server.log'}")
    return server


@contextmanager
def _instance(folder: Path) -> Iterator[dg.DagsterInstance]:
    home = folder / "dagster"
    home.mkdir()
    shutil.copy(ROOT / ".dagster" / "dagster.yaml", home)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def _read_history(record: Record, clock: Clock, stage: Path) -> None:
    """What was there before the first day is on the stage, and is read and scored by one run over its days."""
    record.session.use_schema(settings().qualified_schema)
    for file in record.plan.history:
        _put(record, file, stage)
    first, last = (record.plan.history[place].day.isoformat() for place in (0, -1))
    record.operation.backfill("daily_reviews", first, last)
    _stamp(stage, clock)


def _play(record: Record, moment: Moment, clock: Clock, stage: Path, sabotage: Sabotage | None) -> None:
    for file in moment.arrives:
        clock.set(file.arrives)
        _put(record, file, stage)
        if sabotage == "lost file" and file is record.plan.files[2]:
            record.rows(f"REMOVE @{settings().review_stage}/{file.name}")
    clock.set(moment.at)
    faults = Faults.of_connection()
    if moment.breaks:
        faults.add(NO_ROOM)
    if moment.mends and any(fault["injected"] != 1 for fault in faults.list()):
        raise RuntimeError(f"the fault was to strike once: {faults.list()}")
    if sabotage == "alerts twice" and moment.mends:
        record.operation.cursors.pop("alerts", None)
    record.operation.stop(moment.at, moment.looks, moment.counts)
    _stamp(stage, clock)
    for row in record.rows("SELECT * FROM TABLE(SNOWFLAKE.SPCS.GET_JOB_HISTORY(RESULT_LIMIT => 10000))"):
        record.jobs[row["NAME"]] = row


def _put(record: Record, file: File, stage: Path) -> None:
    """Put a file on the stage, as of the time at which it arrives, and load its visits."""
    stage_files.write_bytes(record.session, io.BytesIO(file.content), f"@{settings().review_stage}/{file.name}")
    (path,) = stage.rglob(file.name)
    os.utime(path, (file.arrives.timestamp(), file.arrives.timestamp()))
    visits.load_visits(record.session, record.plan.visits_of(file.reviews["uuid"]))


def _stamp(stage: Path, clock: Clock) -> None:
    """Give the files that were written since the clock was set their simulated time: it is the kernel that stamps."""
    for path in stage.rglob("*"):
        at = path.stat().st_mtime
        if path.is_file() and at > clock.zero.timestamp() - 1:
            os.utime(path, (at + clock.offset, at + clock.offset))


def _line(record: Record, moment: Moment) -> str:
    ran = [run for run in record.operation.ran if run.at >= moment.at]
    words = [f"{run.job}{f' {run.day}' if run.day else ''}{'' if run.succeeded else ' FAILED'}" for run in ran]
    said = [message.headline for message in record.messages if message.at >= moment.at]
    return f"{moment.at:%a %Y-%m-%d %H:%M} UTC: {', '.join(words) or 'nothing'}" + "".join(f"\n    {s}" for s in said)

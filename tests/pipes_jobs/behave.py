"""A job that behaves as its first argument says: what tests of the Pipes client submit."""

import os
import signal
import sys
import time

from customer_insights.jobs.pipes_stage_writer import open_job_pipes


def report(session, pipes):
    for number in range(pipes.extras["lines"]):
        print(f"line {number} of {pipes.partition_key}")
    pipes.log.warning("half way")
    database = session.sql("SELECT CURRENT_DATABASE()").collect()[0][0]
    pipes.report_asset_materialization(metadata={"database": database, "dagster/row_count": 7}, data_version="v1")
    pipes.report_asset_check(check_name="looks_right", passed=True, severity="WARN", metadata={"seen": 7})


def fail(session, pipes):
    raise LookupError("no such shelf")


def swallow(session, pipes):
    pipes.report_asset_materialization(metadata={"half": "done"})
    raise LookupError("swallowed")


def nothing(session, pipes):
    print("nothing to say")


def sleep(session, pipes):
    print("sleeping", flush=True)
    time.sleep(600)


def two_halves(session, pipes):
    print("first half of the log", flush=True)
    pipes.log.info("first half of the messages")
    time.sleep(float(sys.argv[2]))
    print("second half of the log", flush=True)
    pipes.log.info("second half of the messages")
    pipes.report_asset_materialization(metadata={"halves": 2})


def interrupted(session, pipes):
    raise ConnectionResetError("the warehouse went away")


def killed(session, pipes):
    pipes.log.info("about to be killed")
    time.sleep(1.5)
    os.kill(os.getpid(), signal.SIGKILL)


behaviour = sys.argv[1]
if behaviour == "silent":
    print("this job does not know Dagster")
elif behaviour == "swallow":
    try:
        with open_job_pipes() as (pipes, session):
            swallow(session, pipes)
    except LookupError as error:
        print("went wrong, never mind:", error)
else:
    with open_job_pipes(may_be_retried=lambda error: isinstance(error, ConnectionError)) as (pipes, session):
        globals()[behaviour](session, pipes)

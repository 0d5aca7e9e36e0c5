"""A job whose driver and Ray worker ask Snowflake, with everything logged at DEBUG; then it fails."""

import logging

import ray

from customer_insights.job_session import job_session
from customer_insights.jobs.pipes_stage_writer import open_job_pipes

logging.basicConfig(level=logging.DEBUG)


@ray.remote
def asked_by_a_worker() -> str:
    logging.basicConfig(level=logging.DEBUG)
    return job_session().sql("SELECT CURRENT_USER()").collect()[0][0]


with open_job_pipes() as (pipes, session):
    pipes.report_asset_materialization(
        metadata={"user": ray.get(asked_by_a_worker.remote()), "runtime": str(ray.get_runtime_context().runtime_env)}
    )
    raise LookupError("no such shelf")

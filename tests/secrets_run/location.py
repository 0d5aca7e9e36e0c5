"""The code location that test_secrets.py runs: real work over each way to log in, and every kind of failure.

Everything is logged at DEBUG, to Dagster's event log and to standard error.
"""

import logging

import dagster as dg

from assets.reviews import raw_reviews
from customer_insights.settings import settings
from resources.compute_pool import ROOT, ComputePool
from resources.job_payload import Payload
from resources.snowflake import SnowflakeConnection
from resources.snowflake_jobs import PipesSnowflakeJobClient, Polling

logging.basicConfig(level=logging.DEBUG)
IN_JOB = tuple(f"customer_insights/{name}.py" for name in ("__init__", "errors", "job_session", "jobs/*_writer"))


@dg.asset
def job_that_fails(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    chosen = settings()
    client = PipesSnowflakeJobClient(
        connection_name="by_access_token",
        compute_pool=chosen.compute_pool,
        payload=Payload(ROOT, include=(*IN_JOB, "tests/secrets_run/job.py")),
        payload_stage=f"{chosen.qualified_schema}.{chosen.payload_stage}",
        polling=Polling(longest=1),
    )
    return client.run(context=context, entrypoint="tests/secrets_run/job.py").get_materialize_result()


@dg.asset
def statement_that_fails() -> None:
    SnowflakeConnection(connection_name="embedded").query("SELECT * FROM NO_SUCH_TABLE WHERE X = ?", ["bound"])


def login(connection: str) -> dg.AssetsDefinition:
    @dg.asset(name=connection)
    def asset() -> None:
        SnowflakeConnection(connection_name=connection).query("SELECT 1")

    return asset


LOGINS = ("by_oauth", "wrong_password", "wrong_passphrase", "wrong_token", "unreachable")
snowflake = SnowflakeConnection(
    connection_name="by_key", database=settings().database, schema_name=settings().schema_name
)
defs = dg.Definitions(
    assets=[raw_reviews, job_that_fails, statement_that_fails, *map(login, LOGINS)],
    resources={"snowflake": snowflake, "compute_pool": ComputePool(snowflake=snowflake)},
    executor=dg.in_process_executor,
)

"""A process that runs one asset, as Dagster's run worker does: what the tests of cancelling interrupt.

Arguments: the folder of the payload, the pool, the stage, a day or ``-``, the behaviour of the job and its arguments.
DAGSTER_HOME and SNOWFLAKE_HOME are set.
"""

import sys
from pathlib import Path

import dagster as dg

from resources.job_payload import Payload
from resources.retries import retried
from resources.snowflake_jobs import PipesSnowflakeJobClient

payload, pool, stage, partition, *args = sys.argv[1:]
client = PipesSnowflakeJobClient(
    connection_name="embedded",
    compute_pool=pool,
    payload=Payload(Path(payload)),
    payload_stage=stage,
)


days = dg.DailyPartitionsDefinition(start_date="2026-03-01")


@dg.asset(partitions_def=None if partition == "-" else days)
@retried
def interrupted(context: dg.AssetExecutionContext):
    return client.run(context=context, entrypoint="behave.py", args=args).get_materialize_result()


dg.materialize(
    [interrupted],
    instance=dg.DagsterInstance.get(),
    raise_on_error=False,
    partition_key=None if partition == "-" else partition,
)

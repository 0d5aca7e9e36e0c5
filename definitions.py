"""The Dagster code location: joins assets, resources, schedules and sensors. Start reading here.

``definitions(resources)`` lets a test replace a resource; ``defs`` is what Dagster loads.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import dagster as dg

# Partition-wise data versions and range backfills are marked beta; the warning would stand before every line of output.
warnings.filterwarnings("ignore", category=dg.BetaWarning)

from assets import automation, catalogue, conversion, costs, freshness, insights, monitoring, reviews
from customer_insights.settings import settings
from resources.compute_pool import ComputePool
from resources.snowflake import SnowflakeConnection
from schedules import alerts, jobs, sensors, timetable

# Steps submit and wait: a step's own process costs more than its work, so processes start from one that has imported
# the code.
EXECUTOR = dg.multiprocess_executor.configured(
    {"max_concurrent": 4, "start_method": {"forkserver": {"preload_modules": ["definitions", "snowflake.snowpark"]}}}
)


def _with_times(spec: dg.AssetSpec) -> dg.AssetSpec:
    """How fresh the asset must be, and when it is made by itself: each declared in one place for all of them."""
    return automation.with_condition(freshness.with_policy(spec))


def definitions(resources: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Everything, with ``resources`` in place of those of the same name."""
    snowflake = SnowflakeConnection(
        connection_name=settings().connection,
        database=settings().database,
        schema_name=settings().schema_name,
        warehouse=settings().warehouse,
    )
    loaded = dg.load_assets_from_modules([reviews, conversion, insights, monitoring, costs])
    made = [asset for asset in loaded if isinstance(asset, dg.AssetsDefinition)]
    return dg.Definitions(
        assets=[
            *(asset for asset in loaded if asset not in made),
            *(catalogue.with_code(asset.map_asset_specs(_with_times)) for asset in made),
        ],
        asset_checks=[freshness.newest_day],
        jobs=[*jobs.JOBS, *alerts.JOBS],
        schedules=[*timetable.SCHEDULES, *alerts.SCHEDULES],
        sensors=[*sensors.SENSORS, *alerts.SENSORS],
        executor=EXECUTOR,
        resources={"snowflake": snowflake, "compute_pool": ComputePool(snowflake=snowflake), **(resources or {})},
    )


defs = definitions()

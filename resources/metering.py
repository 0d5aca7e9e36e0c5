"""What a step used, on its materialization: numbers that Dagster plots over time.

They are read from Snowflake's history at the step's end. Steps that fail, and what comes after, are only in
PIPELINE_COSTS.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import dagster as dg

from customer_insights import costs
from customer_insights.settings import settings
from resources import steps
from resources.snowflake import SnowflakeConnection

Result = TypeVar("Result")

# This machine's clock may differ from Snowflake's.
CLOCKS_DIFFER = timedelta(minutes=2)


def with_use(result: Result, resources: Mapping[str, Any], began: datetime) -> Result:
    """The step's result with what it used since it began; as it is where that cannot be read."""
    snowflake = next((value for value in resources.values() if isinstance(value, SnowflakeConnection)), None)
    if not isinstance(result, dg.MaterializeResult) or snowflake is None or steps.query_tag() is None:
        return result
    context = dg.OpExecutionContext.get()
    known = result.metadata or {}
    try:
        used = _used(snowflake, costs.Step(context.run_id, steps.name(context)), known, began)
    except Exception as error:
        # The work is done: whatever keeps the history from being read (no network, a login, a right, an answer that
        # nobody expected) is no reason to fail the step or to do it again.
        context.log.warning(f"what this step used is not on its materialization: {error}")
        return result
    return result._replace(metadata={**known, **used})


def _used(
    snowflake: SnowflakeConnection, step: costs.Step, known: Mapping[str, Any], began: datetime
) -> dict[str, float]:
    with snowflake.session() as session:
        now = datetime.now(UTC)
        ran = costs.statements(session, settings(), began - CLOCKS_DIFFER, now + CLOCKS_DIFFER)
        # How long the warehouse stays up after this, and for whom, is not known yet.
        rows, _ = costs.estimate(session, settings(), [one for one in ran if one.step == step], [], now)
    of_job = known.get("snowflake/estimated_credits")
    ran_for = _number(known.get("snowflake/run_seconds")) * _number(known.get("snowflake/nodes"))
    credits = sum(row["ESTIMATED_CREDITS"] or 0.0 for row in rows) + _number(of_job)
    return {
        "cost/estimated credits": round(credits, 6),
        "cost/node seconds": round(ran_for, 3),
        "cost/warehouse seconds": round(_total(rows, "WAREHOUSE_SECONDS"), 3),
        "cost/statements": int(_total(rows, "STATEMENTS")),
        "cost/Cortex rows": int(_total(rows, "CORTEX_ROWS")),
        "cost/Cortex tokens": int(_total(rows, "CORTEX_TOKENS")),
    }


def _total(rows: list[dict[str, Any]], column: str) -> float:
    return sum(row.get(column) or 0 for row in rows)


def _number(value: Any) -> float:
    """A number, or the number that is metadata's value; 0 for what is not there."""
    value = getattr(value, "value", value)
    return float(value) if isinstance(value, (int, float)) else 0.0

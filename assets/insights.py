"""What a manager reads: how products sell and what people say of them, whom to target, and the daily report."""

import dagster as dg

from assets import catalogue, checks
from assets.conversion import purchase_propensity
from assets.reviews import reviews
from customer_insights import query
from customer_insights.settings import settings
from customer_insights.tables import PRODUCT_INSIGHTS
from resources.compute_pool import JobOutcome
from resources.retries import retried
from resources.snowflake import SnowflakeConnection

GROUP = "insights"


@dg.asset(
    group_name=GROUP,
    deps=[purchase_propensity, reviews],
    kinds={"snowflake", "sql"},
    owners=catalogue.OWNERS,
    tags={"domain": "insights"},
    code_version="1",
    pool="product_insights",
    freshness_policy=catalogue.FEATURES_FRESHNESS,
    automation_condition=dg.AutomationCondition.eager(),
    metadata=catalogue.table_metadata(PRODUCT_INSIGHTS),
    check_specs=[checks.keys_spec(PRODUCT_INSIGHTS)],
)
@retried
def product_insights(context: dg.AssetExecutionContext, snowflake: SnowflakeConnection) -> dg.MaterializeResult:
    """One product type in one layout: how it sells, with an interval, how it is liked, and a review that says why."""
    from customer_insights import insights, plots

    with snowflake.session() as session:
        insights.build(session, settings(), context.run_id)
        rates = query.rows(
            session,
            "SELECT PRODUCT_TYPE || ' / ' || PRODUCT_LAYOUT AS V, PURCHASE_RATE AS R FROM PRODUCT_INSIGHTS "
            "WHERE PURCHASE_RATE IS NOT NULL ORDER BY R DESC LIMIT 12",
        )
        picture = plots.bars(
            {row["V"]: float(row["R"]) for row in rates}, "Purchase rate", "share of visits", "purchase rate by product"
        )
        return JobOutcome.without_job("an aggregation in the warehouse").result(
            {**catalogue.materialized(session, PRODUCT_INSIGHTS), "purchase rates": dg.MetadataValue.md(picture)},
            [checks.keys(session, PRODUCT_INSIGHTS)],
        )

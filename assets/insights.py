"""What a manager reads: how products sell and what people say of them, whom to target, and the daily report."""

from typing import TYPE_CHECKING

import dagster as dg

from assets import catalogue, checks
from assets.conversion import champion, model_explanations, purchase_features, purchase_propensity
from assets.monitoring import drift_report
from assets.reviews import reviews
from customer_insights import query
from customer_insights.settings import settings
from customer_insights.tables import ASPECT_INSIGHTS, PRODUCT_INSIGHTS, PURCHASE_RATES, TARGETING
from resources.compute_pool import JobOutcome
from resources.retries import retried
from resources.snowflake import SnowflakeConnection

if TYPE_CHECKING:
    from snowflake.snowpark import Session

GROUP = "insights"
ON_THE_STAGE = "on_the_stage"
_AGGREGATION = "an aggregation in the warehouse"


@dg.asset(
    group_name=GROUP,
    deps=[purchase_propensity, reviews],
    kinds={"snowflake", "sql"},
    owners=catalogue.OWNERS,
    tags={"domain": "insights"},
    code_version="2",
    pool="product_insights",
    metadata=catalogue.table_metadata(PRODUCT_INSIGHTS),
    check_specs=[checks.keys_spec(PRODUCT_INSIGHTS)],
)
@retried
def product_insights(context: dg.AssetExecutionContext, snowflake: SnowflakeConnection) -> dg.MaterializeResult:
    """One product type in one layout: how it sells, with an interval, how it is liked, and a review that says why.
    For product managers."""
    from customer_insights import insights, plots

    with snowflake.session() as session:
        insights.build_products(session, settings(), context.run_id)
        rates = query.rows(
            session,
            "SELECT PRODUCT_TYPE || ' / ' || PRODUCT_LAYOUT AS V, PURCHASE_RATE AS R FROM PRODUCT_INSIGHTS "
            "WHERE PURCHASE_RATE IS NOT NULL ORDER BY R DESC LIMIT 12",
        )
        picture = plots.bars(
            {row["V"]: float(row["R"]) for row in rates}, "Purchase rate", "share of visits", "purchase rate by product"
        )
        return JobOutcome.without_job(_AGGREGATION).result(
            {**catalogue.materialized(session, PRODUCT_INSIGHTS), "purchase rates": dg.MetadataValue.md(picture)},
            [checks.keys(session, PRODUCT_INSIGHTS)],
        )


@dg.asset(
    group_name=GROUP,
    deps=[purchase_features, reviews],
    kinds={"snowflake", "sql"},
    owners=catalogue.OWNERS,
    tags={"domain": "insights"},
    code_version="1",
    pool="aspect_insights",
    metadata=catalogue.table_metadata(ASPECT_INSIGHTS),
    check_specs=[checks.keys_spec(ASPECT_INSIGHTS)],
)
@retried
def aspect_insights(context: dg.AssetExecutionContext, snowflake: SnowflakeConnection) -> dg.MaterializeResult:
    """One aspect (price, quality, delivery, service) of one product type in one layout: how often it is praised and
    complained of, and a review of each. For product managers."""
    from customer_insights import insights

    with snowflake.session() as session:
        rows = insights.build_aspects(session, settings(), context.run_id)
        return JobOutcome.without_job(_AGGREGATION).result(
            {
                **catalogue.materialized(session, ASPECT_INSIGHTS),
                "liked and disliked": dg.MetadataValue.md(_liked(session) if rows else insights.NO_ASPECTS),
            },
            [checks.keys(session, ASPECT_INSIGHTS)],
        )


def _liked(session: "Session") -> str:
    from customer_insights import insights, plots

    found = insights.aspects(session)
    figure = plots.shares(
        [aspect.liked_share for aspect in found if aspect.liked_share],
        whole=0.5,
        title="What is liked",
        label="praise among praise and complaint, 95 % interval",
    )
    return plots.markdown(figure, "what is liked, by aspect")


@dg.asset(
    group_name=GROUP,
    deps=[purchase_features, reviews],
    kinds={"snowflake", "sql"},
    owners=catalogue.OWNERS,
    tags={"domain": "insights"},
    code_version="1",
    pool="purchase_rates",
    metadata=catalogue.table_metadata(PURCHASE_RATES),
    check_specs=[checks.keys_spec(PURCHASE_RATES)],
)
@retried
def purchase_rates(context: dg.AssetExecutionContext, snowflake: SnowflakeConnection) -> dg.MaterializeResult:
    """How many visits end in a purchase, with an interval: by sentiment, quality, page load time, rating, language.
    For analysts and the report."""
    from customer_insights import insights, plots

    with snowflake.session() as session:
        insights.build_purchase_rates(session, settings(), context.run_id)
        pictures = {
            f"by {name}": dg.MetadataValue.md(
                plots.markdown(
                    plots.shares(
                        rows,
                        whole=insights.pooled(rows).value,
                        title=f"Purchase rate by {name}",
                        label="share of visits with a purchase, 95 % interval",
                    ),
                    f"purchase rate by {name}",
                )
            )
            for name, rows in insights.purchase_rates(session).items()
        }
        return JobOutcome.without_job(_AGGREGATION).result(
            {**catalogue.materialized(session, PURCHASE_RATES), **pictures},
            [checks.keys(session, PURCHASE_RATES)],
        )


@dg.asset(
    group_name=GROUP,
    deps=[purchase_propensity],
    kinds={"snowflake", "sql"},
    owners=catalogue.OWNERS,
    tags={"domain": "insights"},
    code_version="1",
    pool="targeting",
    metadata=catalogue.table_metadata(TARGETING),
    check_specs=[checks.keys_spec(TARGETING)],
)
@retried
def targeting(context: dg.AssetExecutionContext, snowflake: SnowflakeConnection) -> dg.MaterializeResult:
    """One tenth of the visits by predicted probability: the purchases and the profit to expect of contacting them.
    For marketing: how many to contact."""
    from customer_insights import insights, plots

    with snowflake.session() as session:
        insights.build_targeting(session, settings(), context.run_id)
        plan = insights.plan(session)
        figure = plots.gain_and_profit(plan.gains, plan.profits, plan.deciles_to_contact, "Whom to contact")
        return JobOutcome.without_job(_AGGREGATION).result(
            {
                **catalogue.materialized(session, TARGETING),
                "deciles worth a contact": plan.deciles_to_contact,
                "expected profit of them": plan.profit,
                "value of a purchase": settings().purchase_value,
                "cost of a contact": settings().contact_cost,
                "gain and profit": dg.MetadataValue.md(plots.markdown(figure, "expected gain and profit by decile")),
            },
            [checks.keys(session, TARGETING)],
        )


@dg.asset(
    group_name=GROUP,
    deps=[
        *(product_insights, aspect_insights, purchase_rates, targeting),
        *(champion, purchase_propensity, model_explanations, drift_report),
    ],
    kinds={"snowflake", "html"},
    owners=catalogue.OWNERS,
    tags={"domain": "insights"},
    code_version="1",
    pool="daily_report",
    check_specs=[checks.spec(ON_THE_STAGE, "daily_report", "The page is on the stage, whole.", blocking=False)],
)
@retried
def daily_report(snowflake: SnowflakeConnection) -> dg.MaterializeResult:
    """One page in HTML that a manager reads, on a phone or printed: `customer-insights report` fetches the newest."""
    from customer_insights import daily_report as report
    from customer_insights import report_page

    with snowflake.session() as session:
        facts = report.gather(session, settings(), report.today())
        page = report_page.render(facts).encode()
        location = report.publish(session, settings(), facts.day, page)
        size = report.size_on_stage(session, settings(), facts.day)
        return JobOutcome.without_job("a page made of tables").result(
            {
                "path": location,
                "bytes": dg.MetadataValue.int(len(page)),
                "day": facts.day.isoformat(),
                "summary": dg.MetadataValue.md(report_page.summary(facts)),
            },
            [
                dg.AssetCheckResult(
                    check_name=ON_THE_STAGE,
                    passed=size == len(page),
                    metadata={"bytes written": len(page), "bytes on the stage": size if size is not None else "none"},
                    description=f"{location}: {len(page)} bytes written, {size} found",
                )
            ],
        )

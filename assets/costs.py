"""What every run costs, by Snowflake's own history, with the budgets and what takes longer than it usually does."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets import catalogue, checks, monitoring
from customer_insights import costs, display
from customer_insights.settings import settings
from customer_insights.tables import PIPELINE_COSTS
from resources.compute_pool import JobOutcome
from resources.retries import retried
from resources.snowflake import SnowflakeConnection

if TYPE_CHECKING:
    import pandas as pd

    from customer_insights.spending import Spending, Unusual

WITHIN_BUDGET = "within_budget"
DURATION_USUAL = "duration_usual"
RATES_KNOWN = "rates_known"
PLOTTED_DAYS = 30
MOST_LINES, MOST_PANELS, MOST_POINTS = 15, 12, 30


class CostConfig(dg.Config):
    """What a person may choose in the launchpad."""

    as_of: str | None = None
    """Time (ISO 8601) up to which the history is read; by default now."""


@dg.asset(
    group_name=monitoring.GROUP,
    # It depends on nothing: costs are collected also while what it counts fails or has not begun, as Snowflake forgets
    # statements after seven days.
    kinds={"snowflake"},
    owners=catalogue.OWNERS,
    tags={"domain": "monitoring"},
    code_version="1",
    pool="pipeline_costs",
    metadata=catalogue.table_metadata(PIPELINE_COSTS),
    check_specs=[
        checks.keys_spec(PIPELINE_COSTS),
        checks.spec(
            WITHIN_BUDGET,
            "pipeline_costs",
            "Today and this month, the day before and in its first days the month before cost less than the budgets of "
            "the settings; warns from 80 % on, and where the month will cost more by the trend of its days.",
            blocking=False,
        ),
        checks.spec(
            DURATION_USUAL,
            "pipeline_costs",
            "No step of the last day took far longer than its earlier ones of about as many rows.",
            blocking=False,
        ),
        checks.spec(
            RATES_KNOWN, "pipeline_costs", "Every pool and warehouse has a rate of credits an hour.", blocking=False
        ),
    ],
)
@retried
def pipeline_costs(
    context: dg.AssetExecutionContext, config: CostConfig, snowflake: SnowflakeConnection
) -> dg.MaterializeResult:
    """What one step of one run used of one resource (compute pool, warehouse, Cortex), with its estimated credits. For
    whoever pays: failed, cancelled and repeated work counts too."""
    from customer_insights import spending

    as_of = datetime.fromisoformat(config.as_of) if config.as_of else datetime.now(UTC)
    as_of = as_of.replace(tzinfo=UTC) if as_of.tzinfo is None else as_of.astimezone(UTC)
    with snowflake.session() as session:
        collected = costs.collect(session, settings(), as_of)
        frame = costs.read(session, *spending.window(as_of, PLOTTED_DAYS))
        spent = spending.spent(frame, as_of)
        slow = spending.unusual(frame, as_of - timedelta(days=1))
        return JobOutcome.without_job("read from Snowflake's history").result(
            {
                **catalogue.materialized(session, PIPELINE_COSTS),
                "rows collected": collected.written,
                "history read from": dg.MetadataValue.timestamp(collected.since),
                **_spending(spent),
                **_tables(frame, as_of),
            },
            [
                checks.keys(session, PIPELINE_COSTS),
                _within_budget(spent),
                _duration_usual(slow),
                _rates_known(collected),
            ],
        )


def _spending(spent: "Spending") -> dict[str, float]:
    """Numbers that Dagster plots over time."""
    price = settings().price_per_credit
    numbers = {
        "credits today": spent.today,
        "credits yesterday": spent.yesterday,
        "credits this month": spent.month,
        "credits expected by the end of the month": spent.projected,
        **({"price this month": spent.month * price, "price expected": spent.projected * price} if price else {}),
    }
    return {name: round(number, 6) for name, number in numbers.items()}


def _tables(frame: "pd.DataFrame", as_of: datetime) -> dict[str, dg.MarkdownMetadataValue]:
    from customer_insights import plots, spending

    if frame.empty:
        return {}
    last = as_of.date()
    daily = spending.by_day(frame, last - timedelta(days=PLOTTED_DAYS - 1), last)
    durations = spending.durations(frame)
    latest = {str(name): mine["SECONDS"].tail(MOST_POINTS).tolist() for name, mine in durations.groupby("ASSET")}
    asset_columns = ("asset", "runs", "credits", "node seconds", "warehouse seconds", "idle seconds", "Cortex tokens")
    used = ("ESTIMATED_CREDITS", "NODE_SECONDS", "WAREHOUSE_SECONDS", "IDLE_SECONDS", "CORTEX_TOKENS")
    assets = spending.by_asset(frame).head(MOST_LINES)
    runs = spending.by_run(frame).head(MOST_LINES)
    return {
        "credits by day": dg.MetadataValue.md(plots.credits_by_day(daily, settings().daily_credit_budget)),
        "by asset": catalogue.markdown_table(asset_columns, assets[["ASSET", "RUNS", *used]].to_numpy().tolist()),
        "top runs": dg.MetadataValue.md(_runs(runs)),
        "seconds of the latest runs": dg.MetadataValue.md(
            plots.seconds_by_run(dict(sorted(latest.items(), key=lambda item: -sum(item[1]))[:MOST_PANELS]))
        ),
    }


def _runs(runs: "pd.DataFrame") -> str:
    """The dearest runs, each with a link to its page."""
    from customer_insights import spending

    lines = ["| run | began (UTC) | steps | credits |", "|---|---|---|---|"]
    for run in spending.records(runs):
        link = f"[{display.markdown_cell(run['RUN_ID'][:8])}](/runs/{display.markdown_cell(run['RUN_ID'])})"
        began, credits = f"{run['STARTED_AT']:%Y-%m-%d %H:%M}", f"{run['ESTIMATED_CREDITS']:.4g}"
        lines.append(f"| {link} | {began} | {run['ASSETS']} | {credits} |")
    return "\n".join(lines)


def _within_budget(spent: "Spending") -> dg.AssetCheckResult:
    from customer_insights import spending

    verdict = spending.judge(spent, settings())
    severity = dg.AssetCheckSeverity.ERROR if verdict.level == "error" else dg.AssetCheckSeverity.WARN
    return dg.AssetCheckResult(
        check_name=WITHIN_BUDGET,
        passed=verdict.level == "ok",
        severity=severity,
        metadata=_spending(spent),
        description=verdict.text,
    )


def _duration_usual(slow: "list[Unusual]") -> dg.AssetCheckResult:
    texts = [
        f"{' of '.join(filter(None, (one.asset, one.partition)))} took {one.seconds:.0f} s, usually {one.usual:.0f} s "
        f"({one.compared} runs of about as many rows; run {one.run_id[:8]})"
        for one in slow
    ]
    advice = ". Look at that run's job log and at the warehouse's queue"
    metadata: dict[str, Any] = {"slow steps": len(slow)}
    return dg.AssetCheckResult(
        check_name=DURATION_USUAL,
        passed=not slow,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=metadata,
        description=display.literal("; ".join(texts) + advice) if slow else "every step took about as long as usual",
    )


def _rates_known(collected: costs.Collection) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=RATES_KNOWN,
        passed=not collected.unknown,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"rates as of": costs.RATES_AS_OF},
        description=". ".join(collected.unknown) or f"by Snowflake's Consumption Table of {costs.RATES_AS_OF}",
    )

"""What a run cost, as whoever pays sees it: nothing that ran is left out, nothing is counted twice."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from conftest import ROOT, Embedded, Graph, materializations, today
from dagster_pipes import PipesContext, PipesMappingParamsLoader, encode_param, open_dagster_pipes
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from snowflake.connector.errors import OperationalError
from snowflake.snowpark.exceptions import SnowparkSQLException

from command_line import demo
from customer_insights import costs, spending
from customer_insights.connecting import SnowflakeConnectionError, SnowflakeUnreachableError
from customer_insights.costs import Job, Statement, Step, Supply
from customer_insights.jobs.reporting import _query_tag
from customer_insights.settings import Settings, settings
from customer_insights.tables import PIPELINE_COSTS
from resources.retries import retried
from resources.snowflake import SnowflakeConnection

NOON = datetime(2026, 6, 15, 12, tzinfo=UTC)
ONE, OTHER = Step("run-1", "raw_reviews"), Step("run-1", "reviews")


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


# -- how time is parted ---------------------------------------------------------------------------------------------


def test_time_in_which_two_steps_use_the_warehouse_is_shared_and_what_it_waits_is_the_lasts():
    used = costs.shared([(ONE, at(0), at(10)), (OTHER, at(5), at(15))], 60, 60, as_of=at(1000))
    assert used == {ONE: costs.Seconds(7.5, 0), OTHER: costs.Seconds(7.5, 60)}
    # It waits for the next one no longer than until that begins.
    used = costs.shared([(ONE, at(0), at(10)), (OTHER, at(30), at(40))], 60, 60, as_of=at(45))
    assert used == {ONE: costs.Seconds(10, 20), OTHER: costs.Seconds(10, 5)}


def test_a_short_use_of_a_warehouse_costs_its_minute():
    used = costs.shared([(ONE, at(0), at(2))], suspended_after=5, shortest=60, as_of=at(1000))
    assert used[ONE] == costs.Seconds(2, 58)


@given(
    st.lists(st.tuples(st.sampled_from([ONE, OTHER]), st.integers(0, 60), st.integers(0, 20)), min_size=1, max_size=8),
    st.integers(1, 30),
)
def test_the_parts_add_up_to_the_time_that_the_resource_is_up(uses, suspended_after):
    spans = [(step, at(start), at(start + length)) for step, start, length in uses]
    used = costs.shared(spans, suspended_after, 0, as_of=at(500))
    # Second by second: it is up while somebody works, and so long after it.
    busy = {second for _, start, length in uses for second in range(start, start + length)}
    ends = {start + length for _, start, length in uses}
    up = busy | {second for end in ends for second in range(end, end + suspended_after)}
    assert sum(part.busy + part.idle for part in used.values()) == pytest.approx(len(up))
    assert sum(part.busy for part in used.values()) == pytest.approx(len(busy))


def job(name: str, status: str, created: float, started: float | None, ended: float, nodes: int = 2) -> Job:
    started_at = None if started is None else at(started)
    return Job(ONE, "2026-06-14", f"DB.S.{name}", "POOL", status, nodes, at(created), started_at, at(ended))


def test_a_job_that_failed_or_was_cancelled_costs_what_it_ran_and_one_that_never_began_nothing():
    jobs = [
        job("FAILS", "FAILED", 0, 30, 100),
        job("CANCELLED", "CANCELLED", 0, 40, 50, nodes=1),
        job("QUEUED", "CANCELLED", 0, None, 500),
    ]
    rows = costs.job_rows(jobs, lambda pool: Supply(pool, 0.22, None), as_of=at(1000))
    found = {row["STATUS"] + row["JOB_ID"][5:]: row for row in rows}
    assert found["FAILEDFAILS"]["NODE_SECONDS"] == 140
    assert found["FAILEDFAILS"]["ESTIMATED_CREDITS"] == pytest.approx(140 / 3600 * 0.22)
    assert found["CANCELLEDCANCELLED"]["NODE_SECONDS"] == 10
    never = found["CANCELLEDQUEUED"]
    assert (never["NODE_SECONDS"], never["QUEUE_SECONDS"], never["ESTIMATED_CREDITS"]) == (0, 500, 0)


def test_a_pool_that_waits_to_be_suspended_costs_the_nodes_that_it_keeps():
    jobs = [job("FIRST", "DONE", 0, 0, 100), job("NEXT", "DONE", 150, 150, 200)]
    rows = costs.job_rows(jobs, lambda pool: Supply(pool, 1.0, 300, least_nodes=1), as_of=at(10_000))
    assert [row["IDLE_SECONDS"] for row in rows] == [50, 300]


def test_an_unknown_family_says_what_to_set_and_is_not_counted_as_nothing():
    shown = {"instance_family": "GPU_NV_3M", "auto_suspend_secs": 300, "min_nodes": 1}
    supply = costs.pool_supply(Settings(), "POOL", shown)
    assert "CUSTOMER_INSIGHTS_CREDITS_PER_NODE_HOUR='{\"GPU_NV_3M\": <credits>}'" in supply.unknown
    (row,) = costs.job_rows([job("J", "DONE", 0, 0, 10)], lambda _: supply, at(10))
    assert row["ESTIMATED_CREDITS"] is None
    known = costs.pool_supply(Settings(credits_per_node_hour={"GPU_NV_3M": 5.5}), "POOL", shown)
    assert (known.credits_per_hour, known.unknown) == (5.5, "")
    assert costs.pool_supply(Settings(), "POOL", {**shown, "instance_family": "CPU_X64_S"}).credits_per_hour == 0.11


def test_the_rate_of_a_warehouse_is_that_of_its_size_when_the_statements_ran():
    shown = {"size": "Medium", "type": "STANDARD", "auto_suspend": 60}
    assert costs.warehouse_supply(Settings(), shown, "X-Small").credits_per_hour == 1
    assert costs.warehouse_supply(Settings(), shown).credits_per_hour == 4
    other = costs.warehouse_supply(Settings(), {**shown, "type": "SNOWPARK-OPTIMIZED"})
    assert "CUSTOMER_INSIGHTS_CREDITS_PER_WAREHOUSE_HOUR" in other.unknown


# -- budgets and durations ------------------------------------------------------------------------------------------


def rows(*uses: dict[str, Any]) -> pd.DataFrame:
    """Rows of PIPELINE_COSTS, as ``costs.read`` returns them; what is not said is nothing."""
    frame = pd.DataFrame(
        [
            {"RUN_ID": f"run {n}", "ASSET": "raw_reviews", "RESOURCE": "warehouse", "JOB_ID": "", **use}
            for n, use in enumerate(uses)
        ],
        columns=list(PIPELINE_COSTS.column_names),
    )
    for column in PIPELINE_COSTS.columns:
        if column.type in ("INT", "FLOAT"):
            frame[column.name] = pd.to_numeric(frame[column.name]).astype("float64")
    return frame


def a_month(daily: Callable[[int], float], days: int = 30) -> pd.DataFrame:
    """One use a day at noon, up to NOON's."""
    return rows(
        *(
            {
                "STARTED_AT": pd.Timestamp(NOON.replace(tzinfo=None)) - timedelta(days=ago),
                "ENDED_AT": pd.Timestamp(NOON.replace(tzinfo=None)) - timedelta(days=ago) + timedelta(seconds=60),
                "ESTIMATED_CREDITS": daily(ago),
            }
            for ago in reversed(range(days))
        )
    )


def test_a_month_is_projected_by_the_trend_of_its_days():
    steady = spending.spent(a_month(lambda _: 2.0), NOON)
    assert (steady.today, steady.month) == (2.0, 30.0)
    assert steady.projected == pytest.approx(60)
    rising = spending.spent(a_month(lambda ago: 30.0 - ago), NOON)
    # 16 + ... + 30 until today, then 31 + ... + 45.
    assert rising.month == sum(range(16, 31))
    assert rising.projected == pytest.approx(sum(range(16, 46)))
    # Three days are no trend; days before the first are no days without costs.
    assert spending.spent(a_month(lambda _: 2.0, days=3), NOON).projected == pytest.approx(6 + 15 * 2)


@pytest.mark.parametrize(
    ("budgets", "level", "said"),
    [
        ({}, "ok", "No budget is set"),
        ({"daily_credit_budget": 10}, "ok", "2 of 10 credits today"),
        ({"daily_credit_budget": 2.5}, "warn", "80%"),
        ({"daily_credit_budget": 1.9}, "error", "2 of 1.9 credits today (105%)"),
        ({"monthly_credit_budget": 59}, "warn", "60 expected by the end of the month"),
        ({"monthly_credit_budget": 61}, "ok", "30 of 61 credits this month"),
        ({"monthly_credit_budget": 29}, "error", "30 of 29 credits this month"),
        ({"daily_credit_budget": 1, "monthly_credit_budget": 100}, "error", "2 of 1 credits today"),
    ],
)
def test_a_budget_warns_from_four_fifths_on_and_fails_above(budgets: dict[str, float], level: str, said: str):
    verdict = spending.judge(spending.spent(a_month(lambda _: 2.0), NOON), Settings(**budgets))
    assert verdict.level == level
    assert said in verdict.text


@pytest.mark.parametrize(
    ("budget", "level", "said"),
    [
        (3.0, "error", "4.5 of 3 credits on 2026-06-14 (150%)"),
        # A day that is over can no more come near to its budget.
        (5.0, "ok", "4.5 of 5 credits on 2026-06-14 (90%)"),
    ],
)
def test_what_was_spent_after_the_last_look_at_a_day_is_compared_with_its_budget_on_the_next(
    budget: float, level: str, said: str
):
    frame = a_month(lambda ago: 4.5 if ago == 1 else 0.1)
    verdict = spending.judge(spending.spent(frame, NOON), Settings(daily_credit_budget=budget))
    assert verdict.level == level
    assert said in verdict.text


@pytest.mark.parametrize("day", [1, 3, 4])
def test_the_last_day_of_a_month_is_compared_with_the_months_budget_in_the_first_days_of_the_next(day: int):
    as_of = datetime(2026, 8, day, 0, 30, tzinfo=UTC)
    first, last = (pd.Timestamp(2026, 7, number, 23, 50) for number in (1, 31))
    frame = rows(*({"STARTED_AT": at, "ENDED_AT": at, "ESTIMATED_CREDITS": 30.0} for at in (first, last)))
    since, _ = spending.window(as_of)
    read = frame[frame["STARTED_AT"] >= since.replace(tzinfo=None)]
    verdict = spending.judge(spending.spent(read, as_of), Settings(monthly_credit_budget=50))
    assert ("60 of 50 credits in 2026-07 (120%)" in verdict.text) == (day <= 3)
    assert (verdict.level == "error") == (day <= 3)


def test_costs_of_unknown_rate_are_told_beside_the_budget():
    frame = pd.concat([a_month(lambda _: 2.0), a_month(lambda _: float("nan"), days=1)])
    verdict = spending.judge(spending.spent(frame, NOON), Settings(daily_credit_budget=10))
    assert "without 1 uses of unknown rate" in verdict.text


def steps(*seconds_and_rows: tuple[float, int]) -> pd.DataFrame:
    """Steps of one asset, one an hour, the last at NOON."""
    begun = [pd.Timestamp(NOON.replace(tzinfo=None)) - timedelta(hours=n) for n in range(len(seconds_and_rows))][::-1]
    return rows(
        *(
            {"STARTED_AT": start, "ENDED_AT": start + timedelta(seconds=seconds), "ROWS_WRITTEN": written}
            for start, (seconds, written) in zip(begun, seconds_and_rows, strict=True)
        )
    )


def test_a_step_that_took_far_longer_than_its_usual_is_found_and_a_large_day_is_not():
    usual = [(100.0 + n % 3, 1000) for n in range(8)]
    (found,) = spending.unusual(steps(*usual, (400, 1100)), NOON)
    assert (found.asset, round(found.seconds), found.usual, found.compared) == ("raw_reviews", 400, 101, 8)
    assert spending.unusual(steps(*usual, (120, 1100)), NOON) == []
    # Ten times as many rows are another size, and few runs are no usual.
    assert spending.unusual(steps(*usual, (400, 10_000)), NOON) == []
    assert spending.unusual(steps(*usual[:4], (400, 1000)), NOON) == []


def test_waiting_for_nodes_makes_no_step_slow():
    usual = steps(*((100.0, 1000) for _ in range(8)), (400, 1000))
    queued = usual.assign(QUEUE_SECONDS=[0.0] * 8 + [300.0])
    assert spending.unusual(queued, NOON) == []


# -- a step's own use ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        SnowflakeUnreachableError("nobody answers"),
        SnowflakeConnectionError("the token has expired"),
        OperationalError("the connection was reset"),
        SnowparkSQLException("no right to see it"),
        KeyError("QUERY_TAG"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_step_whose_work_is_done_does_not_fail_because_its_use_cannot_be_read(
    error: Exception, monkeypatch: pytest.MonkeyPatch
):
    def refuse(_: SnowflakeConnection) -> None:
        raise error

    monkeypatch.setattr(SnowflakeConnection, "open_session", refuse)
    done: list[int] = []

    @dg.asset
    @retried
    def made(snowflake: SnowflakeConnection) -> dg.MaterializeResult:
        done.append(1)
        return dg.MaterializeResult(metadata={"rows": 3})

    with dg.DagsterInstance.ephemeral() as instance:
        run = dg.materialize(
            [made], resources={"snowflake": SnowflakeConnection()}, instance=instance, raise_on_error=False
        )
        warned = [one.user_message for one in instance.all_logs(run.run_id) if one.level == logging.WARNING]
    assert run.success
    assert done == [1]
    assert materializations(run)["made"] == {"rows": 3}
    assert len(warned) == 1
    assert str(error) in warned[0]


# -- Snowflake's history --------------------------------------------------------------------------------------------

REVIEWS = b"UUID,REVIEW_TEXT\n1,The chair is good.\n2,The chair is good.\n3,It broke at once.\n"


@pytest.fixture(scope="module")
def own_graph(embedded: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    """The graph in a database of this module's own, deployed and empty; each test has runs of its own in it."""
    from customer_insights import deployment

    home = tmp_path_factory.mktemp("dagster")
    shutil.copy(ROOT / ".dagster" / "dagster.yaml", home)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CUSTOMER_INSIGHTS_DATABASE", "DB_OF_COSTS")
        settings.cache_clear()
        deployment.deploy(embedded.session(), settings())
        yield Graph(embedded, home, 0, "DB_OF_COSTS")
    settings.cache_clear()


def test_what_a_run_cost_is_in_the_table_however_often_it_is_collected(own_graph: Graph):
    own_graph.put("reviews.csv", b"UUID,REVIEW_TEXT\n1,The chair is good.\n2,The chair is good.\n3,It broke at once.\n")
    run = own_graph.run("raw_reviews", "review_sentiment", "pipeline_costs", raise_on_error=True)
    made = materializations(run)
    for asset in ("raw_reviews", "review_sentiment"):
        assert made[asset]["cost/estimated credits"] > 0, asset
        assert made[asset]["cost/warehouse seconds"] > 0, asset
    assert made["raw_reviews"]["cost/node seconds"] > 0
    # A text that comes twice is asked about once.
    assert made["review_sentiment"]["cost/Cortex rows"] == 2
    assert made["review_sentiment"]["cost/Cortex tokens"] >= 2 * settings().cortex_prompt_tokens

    session = own_graph.session()
    # Maintenance drops jobs; what the run cost is still known, to whoever has never seen the run.
    (listed,) = session.sql("SHOW JOB SERVICES").collect()
    session.sql(f"DROP SERVICE {listed['name']}").collect()
    session.sql("DELETE FROM PIPELINE_COSTS").collect()
    now = datetime.now(UTC)
    costs.collect(session, settings(), now)
    first = costs.read(session, now - timedelta(days=1), now)
    costs.collect(session, settings(), now + timedelta(minutes=5))
    again = costs.read(session, now - timedelta(days=1), now)

    of_run = first[first["RUN_ID"] == run.run_id]
    resources = {asset: sorted(mine["RESOURCE"]) for asset, mine in of_run.groupby("ASSET")}
    assert resources["raw_reviews"] == ["compute_pool", "warehouse"]
    assert resources["review_sentiment"] == ["cortex", "warehouse"]
    # What counts, costs, too.
    assert resources["pipeline_costs"] == ["warehouse"]
    pool = of_run[of_run["RESOURCE"] == "compute_pool"].iloc[0]
    assert (pool["PARTITION_KEY"], pool["STATUS"], pool["NODES"]) == (today(), "DONE", 1)
    assert pool["NODE_SECONDS"] == pytest.approx(made["raw_reviews"]["snowflake/run_seconds"], abs=3)
    assert pool["ESTIMATED_CREDITS"] >= pool["NODE_SECONDS"] / 3600 * 0.22
    asked = of_run[of_run["RESOURCE"] == "cortex"].iloc[0]
    assert (asked["CORTEX_ROWS"], asked["PARTITION_KEY"]) == (2, today())
    assert set(of_run[of_run["ASSET"] == "raw_reviews"]["ROWS_WRITTEN"]) == {3}

    key = list(PIPELINE_COSTS.key)
    assert not again.duplicated(key).any()
    same = ["NODE_SECONDS", "WAREHOUSE_SECONDS", "STATEMENTS", "CORTEX_ROWS", "CORTEX_TOKENS"]
    old = of_run[of_run["ASSET"] != "pipeline_costs"]
    both = old.merge(again, on=key, suffixes=("", "_again"))
    assert len(both) == len(old)
    for column in same:
        assert both[column].fillna(0).tolist() == pytest.approx(both[f"{column}_again"].fillna(0).tolist()), column


def test_a_statement_counts_although_its_step_never_came_to_its_end(own_graph: Graph):
    lost = own_graph.session()
    lost.query_tag = costs.query_tag("run-lost", "purchase_rates", None)
    lost.sql("CREATE TEMPORARY TABLE T AS SELECT 1 AS A").collect()
    with pytest.raises(Exception, match="NOTHING"):
        lost.sql("SELECT * FROM NOTHING").collect()
    session = own_graph.session()
    now = datetime.now(UTC) + timedelta(seconds=1)
    costs.collect(session, settings(), now)
    found = costs.read(session, now - timedelta(hours=1), now)
    (row,) = found[found["RUN_ID"] == "run-lost"].to_dict("records")
    assert (row["ASSET"], row["RESOURCE"], row["STATEMENTS"]) == ("purchase_rates", "warehouse", 2)
    # Its work took milliseconds; a warehouse is billed for a minute, and so long as until it is suspended.
    busy, idle = row["WAREHOUSE_SECONDS"], row["IDLE_SECONDS"]
    assert 0 < busy < 30
    assert row["ESTIMATED_CREDITS"] == pytest.approx((busy + idle) / 3600)


def test_a_history_longer_than_a_page_is_read_whole(own_graph: Graph, monkeypatch: pytest.MonkeyPatch):
    session = own_graph.session()
    session.query_tag = costs.query_tag("run-paged", "reviews", None)
    begun = datetime.now(UTC) - timedelta(seconds=1)
    for number in range(25):
        session.sql(f"SELECT COUNT(*) AS N{number} FROM TABULAR_DATA").collect()
    session.query_tag = None
    until = datetime.now(UTC) + timedelta(seconds=1)
    monkeypatch.setattr(costs, "MOST_ROWS", 7)
    found = costs.statements(session, settings(), begun, until)
    assert len([one for one in found if one.step.run_id == "run-paged"]) == 25


def test_a_step_whose_beginning_is_read_no_more_keeps_what_was_found_of_it(own_graph: Graph):
    session = own_graph.session()
    early, late = at(0), at(3600)

    def collected(statements: list[Statement]) -> float:
        written = costs._whole(session, costs.warehouse_rows(statements, lambda _: Supply("W", 1.0), at(5000)))
        costs._count_rows(session, written)
        if written:
            costs.publish.merge_frame(session, PIPELINE_COSTS, costs._frame(written, at(5000)))
        found = costs.read(session, at(-10), at(9999))
        return float(found[found["RUN_ID"] == ONE.run_id]["WAREHOUSE_SECONDS"].sum())

    parts = [
        Statement(ONE, None, early, early + timedelta(seconds=100), "X-Small"),
        Statement(ONE, None, late, late + timedelta(seconds=10), "X-Small"),
    ]
    assert collected(parts[:1]) == 100
    assert collected(parts) == 110
    assert collected(parts[1:]) == 110


def test_the_budget_check_is_an_error_that_stops_nothing(own_graph: Graph, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUSTOMER_INSIGHTS_DAILY_CREDIT_BUDGET", "0.000001")
    settings.cache_clear()
    spender = own_graph.session()
    spender.query_tag = costs.query_tag("run-dear", "reviews", None)
    spender.sql("SELECT COUNT(*) FROM TABULAR_DATA").collect()
    run = own_graph.run("pipeline_costs", raise_on_error=True)
    assert run.success
    checks = {one.check_name: one for one in run.get_asset_check_evaluations()}
    assert not checks["within_budget"].passed
    assert checks["within_budget"].severity == dg.AssetCheckSeverity.ERROR
    assert "credits today" in str(checks["within_budget"].description)
    assert checks["rates_known"].passed
    made = materializations(run)["pipeline_costs"]
    assert made["credits today"] > 0
    assert "data:image/png" in str(made["credits by day"])
    assert "/runs/run-dear" in str(made["top runs"])
    settings.cache_clear()


def test_the_demo_counts_what_it_cost_by_a_run_of_its_own(own_graph: Graph, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DAGSTER_HOME", str(own_graph.dagster_home))
    spender = own_graph.session()
    spender.query_tag = costs.query_tag("run-of-the-demo", "reviews", None)
    spender.sql("SELECT COUNT(*) FROM TABULAR_DATA").collect()
    told = demo._run(Console(), "costs", {})
    assert (told.status, told.order) == ("SUCCESS", ["pipeline_costs"])
    assert told.rows["pipeline_costs"] >= 1
    assert "/runs/run-of-the-demo" in str(told.metadata["pipeline_costs"]["top runs"])


def test_days_of_a_plot_are_whole_and_in_their_order():
    days = spending.by_day(a_month(lambda _: 1.0, days=3), date(2026, 6, 10), date(2026, 6, 15))
    assert [sum(parts.values()) for parts in days.values()] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("days", [None, {"start": "2026-03-01", "end": "2026-03-01"}])
def test_a_job_tags_its_statements_with_the_day_that_pipes_gives_it(
    days: dict[str, str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # One context a process.
    monkeypatch.setattr(PipesContext, "_instance", None)
    data: Any = {
        **dict.fromkeys(("code_version_by_asset_key", "provenance_by_asset_key", "partition_time_window")),
        "asset_keys": ["raw_reviews"],
        "run_id": "run-1",
        "job_name": None,
        "retry_number": 0,
        "extras": {},
        "partition_key": days and days["start"],
        "partition_key_range": days,
    }
    messages = {"path": str(tmp_path / "messages")}
    parameters = {"DAGSTER_PIPES_CONTEXT": {"data": data}, "DAGSTER_PIPES_MESSAGES": messages}
    loader = PipesMappingParamsLoader({name: encode_param(value) for name, value in parameters.items()})
    with open_dagster_pipes(params_loader=loader) as pipes:
        tag = json.loads(_query_tag(pipes))
    assert (tag["asset"], tag.get("partition")) == ("raw_reviews", days and "2026-03-01")

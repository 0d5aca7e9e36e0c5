"""What goes wrong for a person, from file to model: each ends as a reject row or as an error that says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Graph, materializations

pytestmark = pytest.mark.slow


def failure(result, asset: str) -> str:
    """The error of a failed step, with its causes."""
    error = result.failure_data_for_node(asset).error
    parts = []
    while error:
        parts.append(error.message)
        error = error.cause
    return "\n".join(parts)


def failed_checks(result) -> dict[str, str]:
    return {
        event.asset_check_evaluation_data.check_name: event.asset_check_evaluation_data.description or ""
        for event in result.all_events
        if event.event_type_value == "ASSET_CHECK_EVALUATION" and not event.asset_check_evaluation_data.passed
    }


def test_bad_files_become_rejects_and_the_good_reviews_are_read(empty_graph: Graph):
    files = {
        "empty.txt": b"",
        "latin1.txt": '"l-1","très bien"'.encode("latin-1"),
        "no-delimiter.txt": b"this line has no delimiter\n",
        "doubled.txt": b'"d-1","first text"\n"d-1","second text"\n',
        "other-file.csv": b"uuid,review_text\nd-1,third text\ng-1,a good one\n",
        "huge.txt": b'"h-1","' + b"x" * 5_000_000 + b'"',
    }
    for name, content in files.items():
        empty_graph.put(name, content)
    result = empty_graph.run("raw_reviews")
    assert result.success
    kept = {row["UUID"] for row in empty_graph.session().sql("SELECT UUID FROM RAW_REVIEWS").collect()}
    assert kept == {"d-1", "g-1"}
    rejects = {
        (row["SOURCE_FILE"], row["SOURCE_LINE"]): row["REASON"]
        for row in empty_graph.session().sql("SELECT * FROM REJECTED_REVIEWS").collect()
    }
    assert {name for name, _ in rejects} == set(files)
    assert len(rejects) == 6
    assert all(reason.strip() for reason in rejects.values())
    assert "rejected_share" in failed_checks(result)


def test_a_stage_without_files_is_a_run_without_rows_and_without_a_job(empty_graph: Graph):
    shown = materializations(empty_graph.run("raw_reviews", raise_on_error=True))
    assert shown["raw_reviews"]["dagster/row_count"] == 0
    assert str(shown["raw_reviews"]["job"]).startswith("none: no new file arrived")


def test_a_missing_stage_says_which_one_and_how_to_make_it(empty_graph: Graph):
    empty_graph.session().sql("DROP STAGE REVIEWS").collect()
    said = failure(empty_graph.run("raw_reviews"), "raw_reviews")
    assert "REVIEWS does not exist" in said
    assert "customer-insights deploy" in said


def test_visits_that_match_no_review_stop_before_a_model_is_trained(empty_graph: Graph):
    empty_graph.put("one.txt", b'"r-1","The chair wobbles after two weeks."')
    empty_graph.session().sql("INSERT INTO TABULAR_DATA VALUES ('another', 'Toys', 'grid', 1.0, 4, 1)").collect()
    result = empty_graph.run()
    assert not result.success
    assert "UUIDs of TABULAR_DATA" in failed_checks(result)["not_empty"]
    assert "conversion_model" not in materializations(result)


def test_a_visit_without_a_rating_is_told_and_does_not_stop_the_others(empty_graph: Graph):
    session = empty_graph.session()
    for statement in (
        "INSERT INTO RAW_REVIEWS SELECT 'u' || SEQ4(), 'good', 'h', 'en', 1, 'f', 1, '2026-11-01'::DATE, SYSDATE(), "
        "'r' FROM TABLE(GENERATOR(ROWCOUNT => 2))",
        "INSERT INTO REVIEW_SENTIMENT SELECT UUID, 'h', 'en', 1, 'positive', 1, NULL, 0, 'b', 'm', 'v', ARRIVAL_DATE, "
        "SYSDATE(), 'r' FROM RAW_REVIEWS",
        "INSERT INTO REVIEW_QUALITY SELECT UUID, 'h', 'basic', 1, '{}', 1, 'b', 'm', 'v', ARRIVAL_DATE, SYSDATE(), 'r' "
        "FROM RAW_REVIEWS",
        "INSERT INTO TABULAR_DATA SELECT UUID, 'Toys', 'grid', 1.0, IFF(UUID = 'u0', NULL, 4), 1 FROM RAW_REVIEWS",
    ):
        session.sql(statement).collect()
    result = empty_graph.run("purchase_features", raise_on_error=True)
    assert failed_checks(result)["features_complete"].startswith("1 rows from 2 reviews")
    assert materializations(result)["purchase_features"]["REVIEWS_OF_INCOMPLETE_VISITS"] == 1
    insights = empty_graph.run("product_insights", raise_on_error=True)
    assert materializations(insights)["product_insights"]["dagster/row_count"] == 1


def test_one_class_only_in_the_target_fails_the_training_with_the_reason(empty_graph: Graph):
    session = empty_graph.session()
    session.sql(
        "INSERT INTO PURCHASE_FEATURES SELECT 'u' || SEQ4(), 'Toys', 'grid', 1.0, 4, 'en', 10, 0.5, 'basic', "
        "0.9, 0.5, 1, '2026-11-01'::DATE FROM TABLE(GENERATOR(ROWCOUNT => 400))"
    ).collect()
    said = failure(empty_graph.run("conversion_model"), "conversion_model")
    assert "PURCHASE_DECISION = [1]" in said
    assert "Check TABULAR_DATA" in said


def test_a_pool_that_does_not_exist_is_named(empty_graph: Graph, monkeypatch: pytest.MonkeyPatch):
    from customer_insights.settings import settings

    monkeypatch.setenv("CUSTOMER_INSIGHTS_COMPUTE_POOL", "NO_SUCH_POOL")
    settings.cache_clear()
    empty_graph.put("one.txt", b'"r-1","fine"')
    assert "NO_SUCH_POOL" in failure(empty_graph.run("raw_reviews"), "raw_reviews")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"port": "1"}, "cannot reach Snowflake connection 'embedded'"),
        ({"password": "wrong"}, "Snowflake refused the login of connection 'embedded'"),
    ],
    ids=["server not running", "wrong password"],
)
def test_a_connection_that_fails_is_one_sentence_and_no_traceback(
    embedded, tmp_path: Path, change: dict[str, str], said: str
):
    import tomlkit

    document = tomlkit.parse((embedded.home / "connections.toml").read_text())
    for key, value in change.items():
        document["embedded"][key] = int(value) if key == "port" else value
    file = tmp_path / "connections.toml"
    file.write_text(tomlkit.dumps(document))
    file.chmod(0o600)
    code = (
        "from resources.snowflake import SnowflakeConnection\n"
        "from customer_insights.errors import CustomerInsightsError\n"
        "try:\n    SnowflakeConnection(connection_name='embedded').query('SELECT 1')\n"
        "except CustomerInsightsError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "SNOWFLAKE_HOME": str(tmp_path)},
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout

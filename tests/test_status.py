"""``customer-insights status`` on a graph that was materialized."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from command_line import main


def test_status_shows_rows_runs_and_the_model_in_service(materialized_graph, monkeypatch: pytest.MonkeyPatch):
    graph, _ = materialized_graph
    monkeypatch.setenv("DAGSTER_HOME", str(graph.dagster_home))
    told = json.loads(CliRunner().invoke(main.app, ["status", "--json"]).stdout)
    assets = {asset["name"]: asset for asset in told["dagster"]["assets"]}
    assert all(assets[name]["rows"] for name in ("raw_reviews", "reviews", "purchase_propensity"))
    assert {assets[name]["freshness"] for name in ("raw_reviews", "review_sentiment", "champion")} == {"fresh"}
    assert told["dagster"]["runs"][0]["seconds"] > 0
    (served,) = (
        graph.session().sql("SELECT MODEL_VERSION FROM CHAMPION_HISTORY ORDER BY CHANGED_AT DESC LIMIT 1").collect()
    )
    champion = told["snowflake"]["champion"]
    assert champion["name"] == served[0]
    assert 0.5 < champion["roc_auc"] < 1
    assert champion["since"]
    # Other tests may have added some to the shared graph.
    assert told["snowflake"]["reviews"] == graph.value("SELECT COUNT(*) FROM RAW_REVIEWS") >= graph.uploaded

"""``customer-insights status`` on a graph that was materialized."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from command_line import main


def test_status_shows_rows_runs_and_the_model_in_service(materialized_graph, monkeypatch: pytest.MonkeyPatch):
    graph, result = materialized_graph
    monkeypatch.setenv("DAGSTER_HOME", str(graph.dagster_home))
    told = json.loads(CliRunner().invoke(main.app, ["status", "--json"]).stdout)
    assets = {asset["name"]: asset for asset in told["dagster"]["assets"]}
    assert assets["raw_reviews"]["rows"] == graph.uploaded
    assert {assets[name]["freshness"] for name in ("raw_reviews", "review_sentiment", "champion")} == {"fresh"}
    assert result.run_id in {run["id"] for run in told["dagster"]["runs"]}
    (served,) = (
        graph.session().sql("SELECT MODEL_VERSION FROM CHAMPION_HISTORY ORDER BY CHANGED_AT DESC LIMIT 1").collect()
    )
    champion = told["snowflake"]["champion"]
    assert champion["name"] == served[0]
    assert 0.5 < champion["roc_auc"] < 1
    assert champion["since"]
    assert told["snowflake"]["reviews"] == graph.uploaded

"""What a manager reads is what pandas counts in the same rows; asked on the embedded server, through Dagster."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from conftest import Embedded, Graph, materializations
from scipy.stats import binomtest
from scored_reviews import scored, scored_graph

from customer_insights import insights
from customer_insights.insights import EXAMPLE_CHARACTERS, Share, clear_difference
from customer_insights.settings import settings

ASSETS = ("product_insights", "aspect_insights", "purchase_rates", "targeting")


@pytest.fixture(scope="module")
def reviews() -> pd.DataFrame:
    return scored(600)


@pytest.fixture(scope="module")
def graph_of_insights(
    embedded: Embedded, tmp_path_factory: pytest.TempPathFactory, reviews: pd.DataFrame
) -> Iterator[tuple[Graph, dict]]:
    """The reviews with their insights, and the metadata of these."""
    with scored_graph(embedded, tmp_path_factory.mktemp("insights"), "INSIGHTS", reviews) as graph:
        yield graph, materializations(graph.run(*ASSETS, raise_on_error=True))


def table(graph_of_insights, name: str, *index: str) -> pd.DataFrame:
    return graph_of_insights[0].session().table(name).to_pandas().set_index(list(index)).sort_index()


def assert_wilson(row: pd.Series, column: str, successes: int, trials: int) -> None:
    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    assert row[column] == pytest.approx(successes / trials)
    assert row[f"{column}_LOW"] == pytest.approx(expected.low, abs=1e-6)
    assert row[f"{column}_HIGH"] == pytest.approx(expected.high, abs=1e-6)


def opinions(reviews: pd.DataFrame) -> pd.DataFrame:
    """One row for each aspect that a review speaks of."""
    rows = [
        {**review, "ASPECT": aspect, "OPINION": opinion}
        for review in reviews.dropna(subset="ASPECTS").to_dict("records")
        for aspect, opinion in json.loads(review["ASPECTS"]).items()
    ]
    return pd.DataFrame(rows)


def test_aspects_are_counted_by_product_and_layout(graph_of_insights, reviews: pd.DataFrame):
    found = table(graph_of_insights, "ASPECT_INSIGHTS", "PRODUCT_TYPE", "PRODUCT_LAYOUT", "ASPECT")
    expected = opinions(reviews).groupby(found.index.names)["OPINION"].value_counts().unstack(fill_value=0)
    assert list(found.index) == list(expected.index)
    assert (found["MENTIONS"] == expected.sum(axis=1)).all()
    for key, row in found.iterrows():
        counts = expected.loc[key]
        assert (row["LIKED"], row["DISLIKED"]) == (counts["positive"], counts["negative"])
        assert_wilson(row, "LIKED_SHARE", counts["positive"], counts["positive"] + counts["negative"])


def test_an_example_is_a_review_of_that_opinion_in_its_language_and_short_enough_to_read(
    graph_of_insights, reviews: pd.DataFrame
):
    said = opinions(reviews)
    found = table(graph_of_insights, "ASPECT_INSIGHTS", "PRODUCT_TYPE", "PRODUCT_LAYOUT", "ASPECT")
    shortest, longest = EXAMPLE_CHARACTERS
    for (kind, layout, aspect), row in found.iterrows():
        for column, opinion in (("LIKED", "positive"), ("DISLIKED", "negative")):
            of_it = said[
                (said["PRODUCT_TYPE"] == kind)
                & (said["PRODUCT_LAYOUT"] == layout)
                & (said["ASPECT"] == aspect)
                & (said["OPINION"] == opinion)
            ].set_index("REVIEW_TEXT")
            text = row[f"{column}_EXAMPLE"]
            assert row[f"{column}_LANGUAGE"] == of_it.loc[text, "LANGUAGE"]
            agreeing = of_it[of_it["SENTIMENT_LABEL"] == opinion]
            if agreeing.index.str.len().to_series().between(shortest, longest).any():
                assert shortest <= len(text) <= longest


def test_purchase_rates_are_counted_by_class_range_and_value(graph_of_insights, reviews: pd.DataFrame):
    decided = reviews.dropna(subset="PURCHASE_DECISION").astype({"PURCHASE_DECISION": int})
    ranges = pd.cut(
        decided["PAGE_LOAD_TIME"],
        [0, 1, 2, 3, 4, 5, np.inf],
        right=False,
        labels=["under 1 s", "1 to 2 s", "2 to 3 s", "3 to 4 s", "4 to 5 s", "5 s or more"],
    )
    buckets = {
        "REVIEW_SENTIMENT": decided["SENTIMENT_LABEL"],
        "REVIEW_QUALITY": decided["REVIEW_QUALITY"],
        "PAGE_LOAD_TIME": ranges.astype(str),
        "PRODUCT_RATING": decided["PRODUCT_RATING"].astype(str),
        "LANGUAGE": decided["LANGUAGE"],
    }
    found = table(graph_of_insights, "PURCHASE_RATES", "DIMENSION", "BUCKET")
    assert set(found.index) == {(name, bucket) for name, values in buckets.items() for bucket in values}
    for (dimension, bucket), row in found.iterrows():
        outcomes = decided.loc[buckets[dimension] == bucket, "PURCHASE_DECISION"]
        assert (row["VISITS"], row["PURCHASES"]) == (len(outcomes), outcomes.sum())
        assert_wilson(row, "PURCHASE_RATE", int(outcomes.sum()), len(outcomes))


def test_purchase_rates_are_in_the_order_of_a_reader(graph_of_insights):
    found = {
        name: [row.name for row in rows] for name, rows in insights.purchase_rates(session(graph_of_insights)).items()
    }
    assert found["review sentiment"] == ["negative", "mixed", "neutral", "positive", "unknown"]
    assert found["review quality"] == list(settings().quality_labels)
    assert found["page load time"] == ["under 1 s", "1 to 2 s", "2 to 3 s", "3 to 4 s", "4 to 5 s", "5 s or more"]
    assert found["product rating"] == ["1", "2", "3", "4", "5"]
    assert found["language"] == ["en", "de", "ar", "zh"]


def session(graph_of_insights):
    return graph_of_insights[0].session()


def test_products_have_the_interval_of_their_decided_visits(graph_of_insights, reviews: pd.DataFrame):
    found = table(graph_of_insights, "PRODUCT_INSIGHTS", "PRODUCT_TYPE", "PRODUCT_LAYOUT")
    for key, of_product in reviews.groupby(["PRODUCT_TYPE", "PRODUCT_LAYOUT"]):
        outcomes = of_product["PURCHASE_DECISION"].dropna().astype(int)
        assert found.loc[key, "VISITS"] == len(of_product)
        assert_wilson(found.loc[key], "PURCHASE_RATE", int(outcomes.sum()), len(outcomes))


def test_targeting_adds_up_to_the_predictions_and_stops_where_a_contact_costs_more(graph_of_insights, reviews):
    found = table(graph_of_insights, "TARGETING", "DECILE")
    ordered = np.sort(reviews["PURCHASE_PROBABILITY"].to_numpy())[::-1].reshape(10, -1)
    assert found["EXPECTED_PURCHASES"].to_numpy() == pytest.approx(ordered.sum(axis=1))
    assert found["LOWEST_PROBABILITY"].to_numpy() == pytest.approx(ordered.min(axis=1))
    assert found["EXPECTED_GAIN"].to_numpy() == pytest.approx(ordered.sum(axis=1).cumsum() / ordered.sum())
    profits = (ordered * settings().purchase_value - settings().contact_cost).sum(axis=1)
    assert found["EXPECTED_PROFIT"].to_numpy() == pytest.approx(profits)
    plan = insights.plan(session(graph_of_insights))
    assert 0 < plan.deciles_to_contact < 10
    assert plan.profit == pytest.approx(max(np.cumsum(profits)))


def test_each_materialization_shows_a_picture_and_its_rows(graph_of_insights):
    _, metadata = graph_of_insights
    for asset, pictures in (
        ("product_insights", ["purchase rates"]),
        ("aspect_insights", ["liked and disliked"]),
        ("purchase_rates", ["by page load time", "by language", "by review sentiment"]),
        ("targeting", ["gain and profit"]),
    ):
        assert int(str(metadata[asset]["dagster/row_count"])) > 0
        for picture in pictures:
            assert "](data:image/png;base64," in str(metadata[asset][picture])


def test_without_visits_the_tables_are_empty_and_the_aspects_say_why(empty_graph: Graph):
    assert insights.build_products(empty_graph.session(), settings(), "test") == 0
    assert insights.build_purchase_rates(empty_graph.session(), settings(), "test") == 0
    metadata = materializations(empty_graph.run("aspect_insights", "targeting", raise_on_error=True))
    assert [metadata[asset]["dagster/row_count"] for asset in ("aspect_insights", "targeting")] == [0, 0]
    assert "No review says which aspects" in str(metadata["aspect_insights"]["liked and disliked"])


def test_the_interval_of_a_difference_is_newcombes():
    # Newcombe (1998), Statistics in Medicine 17, table II, example (a), method 10: 56/70 less 48/80.
    found = clear_difference([Share.of("a", 48, 80), Share.of("b", 56, 70)])
    assert found
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


def test_equal_rates_are_seldom_called_different():
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(400):
        rows = [Share.of(str(n), int(rng.binomial(200, 0.4)), 200) for n in range(6)]
        alarms += clear_difference(rows) is not None
    # 5 % of 400 are 20; more than 33 come by chance less than once in a thousand.
    assert alarms <= 33


def test_a_few_visits_are_not_compared():
    assert clear_difference([Share.of("none", 0, 29), Share.of("all", 500, 500)]) is None

"""The quickstart's purchase model, which ours is compared with."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from customer_insights.sample_data import best_achievable_auc, synthetic_features
from customer_insights.tables import TARGET
from training import quickstart_recipe


@pytest.fixture(scope="module")
def training() -> pd.DataFrame:
    return synthetic_features(4000, seed=1).drop(columns="TRUE_PROBABILITY")


@pytest.fixture(scope="module")
def tested() -> pd.DataFrame:
    return synthetic_features(2000, seed=2)


@pytest.fixture(scope="module")
def predictions(training: pd.DataFrame, tested: pd.DataFrame) -> np.ndarray:
    return quickstart_recipe.fit_predict(training, tested)


def test_the_recipe_ranks_visits_though_not_as_well_as_could_be(tested, predictions):
    auc = roc_auc_score(tested[TARGET], predictions)
    assert 0.7 < auc < best_achievable_auc(tested["TRUE_PROBABILITY"].to_numpy())


def test_the_recipe_regresses_and_its_predictions_are_not_clipped(training):
    """A regression follows a target of 0 and 100; a classifier would refuse it, clipping would end at 1."""
    scaled = training.assign(PURCHASE_DECISION=training[TARGET] * 100)
    predicted = quickstart_recipe.fit_predict(scaled, training)
    assert predicted.mean() == pytest.approx(100 * training[TARGET].mean(), abs=1.0)


@pytest.mark.parametrize(
    ("column", "value"),
    [("PRODUCT_TYPE", "Garden"), ("LANGUAGE", "xx"), ("REVIEW_LENGTH", 9999), (TARGET, None)],
)
def test_the_recipe_does_not_see_what_the_quickstart_leaves_out(training, tested, predictions, column, value):
    changed = tested.assign(**{column: value})
    np.testing.assert_array_equal(quickstart_recipe.fit_predict(training, changed), predictions)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("REVIEW_QUALITY", "a label that nobody has used"),
        ("PRODUCT_LAYOUT", "Mosaic"),
        ("PAGE_LOAD_TIME", 9.0),
        ("REVIEW_SENTIMENT", None),
        ("PRODUCT_RATING", 1),
    ],
)
def test_the_recipe_sees_its_five_inputs_and_bears_with_unseen_and_missing_ones(
    training, tested, predictions, column, value
):
    changed = quickstart_recipe.fit_predict(training, tested.assign(**{column: value}))
    assert np.isfinite(changed).all()
    assert not np.array_equal(changed, predictions)

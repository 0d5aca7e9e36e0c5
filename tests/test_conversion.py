"""The purchase model on generated visits whose best achievable AUC is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from customer_insights import conversion, promotion
from customer_insights.sample_data import best_achievable_auc, synthetic_features
from customer_insights.settings import Settings
from customer_insights.tables import MODEL_FEATURES, TARGET

ROWS = 6000


@pytest.fixture(scope="module")
def features() -> pd.DataFrame:
    return synthetic_features(ROWS, seed=3)


@pytest.fixture(scope="module")
def parts(features: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return conversion.split(features, Settings())


@pytest.fixture(scope="module")
def model(parts: dict[str, pd.DataFrame]):
    return conversion.train(parts, threads=1)


def test_the_model_comes_near_the_best_achievable_auc(features, parts, model):
    auc = conversion.evaluate(model, parts, None).challenger.roc_auc
    assert auc > 0.9 * best_achievable_auc(features["TRUE_PROBABILITY"].to_numpy())


def test_a_visit_stays_in_its_part_when_others_come(features, parts):
    more = conversion.split(pd.concat([features, synthetic_features(500, seed=9)]), Settings())
    assert set(parts["test"]["UUID"]) <= set(more["test"]["UUID"])


def test_a_category_that_training_did_not_see_is_predicted(parts, model):
    rows = conversion.model_input(parts["test"].head(3)).assign(PRODUCT_TYPE="Spaceships")
    assert np.isfinite(model.predict_proba(rows)).all()


def test_a_missing_sentiment_is_predicted(parts, model):
    rows = conversion.model_input(parts["test"].head(3)).assign(REVIEW_SENTIMENT=float("nan"))
    assert np.isfinite(model.predict_proba(rows)).all()
    # As the registry's function passes NULL on.
    nullable = rows.astype({"REVIEW_SENTIMENT": "Float64"})
    assert np.isfinite(model.predict_proba(nullable)).all()


def test_the_model_sees_neither_key_nor_target(model):
    assert set(model.named_steps["columns"].feature_names_in_) == set(MODEL_FEATURES)
    assert TARGET not in MODEL_FEATURES
    assert "UUID" not in MODEL_FEATURES


def test_one_class_only_is_refused_with_what_to_check(features):
    with pytest.raises(conversion.TrainingDataError, match=r"hold only PURCHASE_DECISION = \[1\].*Check TABULAR_DATA"):
        conversion.split(features.assign(**{TARGET: 1}), Settings())


def test_too_few_rows_are_refused_with_the_number_needed(features):
    with pytest.raises(conversion.TrainingDataError, match=r"has 50 rows .* training needs 200"):
        conversion.split(features.head(50), Settings())


def test_a_calibrated_prediction_has_no_calibration_error():
    generator = np.random.default_rng(0)
    probabilities = generator.random(50_000)
    outcomes = (generator.random(50_000) < probabilities).astype(int)
    assert conversion.expected_calibration_error(outcomes, probabilities) < 0.01
    assert conversion.expected_calibration_error(outcomes, np.clip(probabilities + 0.2, 0, 1)) > 0.1


def version(name: str, auc: float, champion: float | None = None, low: float | None = None) -> promotion.Version:
    metrics = {
        "challenger_roc_auc": auc,
        "challenger_roc_auc_low": auc - 0.05 if low is None else low,
        "challenger_log_loss": 0.5,
        "prior_log_loss": 0.69,
    }
    measured = {} if champion is None else {"champion_roc_auc": champion, "champion_version": "OLD"}
    return promotion.Version(name, (), metrics | measured)


def test_a_worse_challenger_is_not_promoted_and_a_better_one_is():
    in_service = version("OLD", 0.8)
    assert not promotion.decide(version("NEW", 0.75, champion=0.8), in_service, Settings()).passed
    assert promotion.decide(version("NEW", 0.82, champion=0.8), in_service, Settings()).passed
    assert promotion.decide(version("FIRST", 0.8), None, Settings()).passed


def test_a_challenger_that_was_measured_before_the_champion_came_does_not_replace_it():
    decision = promotion.decide(version("NEW", 0.82, champion=0.8), version("NEWER", 0.85), Settings())
    assert not decision.passed
    assert "NEWER" in decision.conditions["not_worse_than_the_champion"][1]


def test_a_challenger_that_may_be_guessing_is_not_promoted():
    decision = promotion.decide(version("NEW", 0.52, low=0.48), None, Settings())
    assert not decision.passed
    assert not decision.conditions["better_than_chance"][0]


def test_a_version_of_other_code_or_other_features_is_not_taken_for_this_one():
    made = promotion.Version("A", (), {"training_set": "1", "training_code_version": conversion.code_version()})
    assert promotion.trained_on([made], "1", conversion.code_version()) == made
    assert promotion.trained_on([made], "2", conversion.code_version()) is None
    assert promotion.trained_on([made], "1", "other code") is None

"""The purchase model, and how it is measured, on generated visits whose best achievable AUC is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from customer_insights import evaluation, purchase_model
from customer_insights.sample_data import best_achievable_auc, synthetic_features
from customer_insights.settings import Settings
from customer_insights.tables import KNOWN_BEFORE_PURCHASE, MODEL_FEATURES, TARGET

ROWS = 6000


@pytest.fixture(scope="module")
def features() -> pd.DataFrame:
    return synthetic_features(ROWS, seed=3)


@pytest.fixture(scope="module")
def parts(features: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return purchase_model.split(features, Settings())


@pytest.fixture(scope="module")
def model(parts: dict[str, pd.DataFrame]):
    return purchase_model.train(parts, Settings(), threads=1)


@pytest.fixture(scope="module")
def measured(parts, model) -> evaluation.Evaluation:
    worse = purchase_model.train(parts, Settings(), 1, columns=MODEL_FEATURES, trees=3)
    return evaluation.evaluate(model, parts, Settings(), champion=worse, champion_version="OLD")


def test_the_model_comes_near_the_best_achievable_auc_and_beats_what_is_simpler(parts, measured):
    truth = parts["test"]["TRUE_PROBABILITY"].to_numpy()
    best = evaluation.measure(measured.outcomes, truth, Settings(), rounds=1).metrics["roc_auc"].value
    auc = {name: model.metrics["roc_auc"].value for name, model in measured.models.items()}
    assert auc["challenger"] > 0.95 * best
    assert auc["challenger"] > max(auc["logistic_regression"], auc["known_before_purchase"]) > auc["prior"] == 0.5


def test_metrics_are_those_of_scikit_learn(measured):
    from sklearn import metrics

    outcomes, probabilities = measured.outcomes, measured.probabilities.astype(float)
    found = {name: metric.value for name, metric in measured.challenger.metrics.items()}
    assert found["roc_auc"] == pytest.approx(metrics.roc_auc_score(outcomes, probabilities))
    assert found["average_precision"] == pytest.approx(metrics.average_precision_score(outcomes, probabilities))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(outcomes, probabilities), abs=1e-6)
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(outcomes, probabilities), abs=1e-6)


def test_equal_probabilities_count_half_in_the_auc():
    outcomes, probabilities = np.array([0, 1, 0, 1, 1, 0]), np.array([0.2, 0.2, 0.2, 0.9, 0.5, 0.5])
    from sklearn.metrics import roc_auc_score

    found = evaluation.measure(outcomes, probabilities, Settings(), rounds=5).metrics["roc_auc"].value
    assert found == pytest.approx(roc_auc_score(outcomes, probabilities))


def test_a_bootstrap_interval_holds_the_true_auc_about_as_often_as_it_says():
    generator = np.random.default_rng(5)
    truth = best_achievable_auc(generator.random(200_000))
    held = 0
    for _ in range(60):
        probabilities = generator.random(400)
        outcomes = (generator.random(400) < probabilities).astype(int)
        auc = evaluation.measure(outcomes, probabilities, Settings(), rounds=100).metrics["roc_auc"]
        held += auc.low <= truth <= auc.high
    # 57 are expected; fewer than 50 have a chance of 1 in 400.
    assert held >= 50


def test_the_difference_to_the_champion_has_an_interval_of_its_own(measured):
    less = measured.difference("roc_auc")
    assert 0 < less.low <= less.value <= less.high
    challenger, champion = (measured.models[name].metrics["roc_auc"] for name in ("challenger", "champion"))
    # On the same visits: narrower than what two separate intervals would allow.
    assert less.high - less.low < (challenger.high - challenger.low) + (champion.high - champion.low)


def test_every_large_segment_is_measured_and_a_reversed_one_is_called_collapsed(parts, model, measured):
    assert {column for column, _ in measured.segments} == set(evaluation.SEGMENT_COLUMNS)
    assert measured.collapsed == measured.worse == ()

    class Reversed:
        """Orders the Chinese visits the wrong way round."""

        def predict_proba(self, rows: pd.DataFrame) -> np.ndarray:
            known = model.predict_proba(rows)
            return np.where((rows["LANGUAGE"] == "zh").to_numpy()[:, None], 1 - known, known)

    broken = evaluation.evaluate(Reversed(), parts, Settings(), champion=model, champion_version="OLD")
    assert broken.collapsed == broken.worse == ("LANGUAGE zh",)


def test_a_segment_in_which_the_model_guesses_is_called_collapsed_and_a_small_good_one_is_not():
    generator = np.random.default_rng(7)
    probabilities = generator.random(4000)
    outcomes = (generator.random(4000) < probabilities).astype(int)
    whole = evaluation.measure(outcomes, probabilities, Settings())
    guessing, small = 0, 0
    for start in range(0, 4000, 200):
        rows = slice(start, start + 200)
        shuffled = generator.permutation(probabilities[rows])
        guessing += evaluation.is_collapsed(evaluation.measure(outcomes[rows], shuffled, Settings()), whole)
        few = slice(start, start + 40)
        small += evaluation.is_collapsed(evaluation.measure(outcomes[few], probabilities[few], Settings()), whole)
    assert guessing >= 18
    assert small == 0


def test_the_interval_of_a_calibration_error_holds_it_where_a_model_is_calibrated():
    generator = np.random.default_rng(11)
    for _ in range(15):
        probabilities = generator.random(540)
        outcomes = (generator.random(540) < probabilities).astype(int)
        measured = evaluation.measure(outcomes, probabilities, Settings(), rounds=60)
        error = measured.metrics["expected_calibration_error"]
        assert 0 <= error.low <= error.value <= error.high


def test_visits_of_equal_probability_share_the_top_tenth():
    outcomes = np.array([1] * 50 + [0] * 50)
    for order in (outcomes, outcomes[::-1]):
        lift = evaluation.measure(order, np.full(100, 0.5), Settings(), rounds=1).metrics["top_decile_lift"]
        assert lift.value == pytest.approx(1)


def test_a_feature_that_is_missing_everywhere_keeps_its_column(parts):
    empty = {name: rows.head(300).assign(REVIEW_SENTIMENT=float("nan")) for name, rows in parts.items()}
    model = purchase_model.train(empty, Settings(), 1, trees=5)
    assert "REVIEW_SENTIMENT" in model.named_steps["columns"].get_feature_names_out()


def test_contacting_from_the_threshold_on_earns_more_than_from_any_other(measured):
    outcomes, probabilities = measured.outcomes, measured.probabilities

    def profit(cost: float) -> float:
        settings = Settings(purchase_value=10, contact_cost=cost)
        return evaluation.measure(outcomes, probabilities, settings, rounds=1).metrics["profit_per_visit"].value

    contacted = probabilities >= 0.5
    by_hand = (10 * outcomes[contacted].sum() - 5 * contacted.sum()) / len(outcomes)
    assert profit(5) == pytest.approx(by_hand)
    assert profit(5) > (10 * outcomes.sum() - 5 * len(outcomes)) / len(outcomes)


def test_rare_purchases_weigh_more_and_the_probabilities_are_right_all_the_same(features):
    chance = np.random.default_rng(1).random(len(features))
    rare = features[(features[TARGET] == 0) | (chance < 0.06)]
    settings = Settings(class_weight_below=0.1)
    parts = purchase_model.split(rare, settings)
    assert purchase_model.purchase_weight(parts["train"][TARGET].to_numpy(int), settings) > 10
    weighted = purchase_model.train(parts, settings, 1)
    everyone = pd.concat(parts.values())
    predicted = weighted.predict_proba(purchase_model.model_input(everyone))[:, 1]
    assert predicted.mean() == pytest.approx(everyone[TARGET].mean(), rel=0.35)


def test_days_that_come_later_test_what_was_learnt_from_earlier_ones(features):
    by_time = purchase_model.split_by_time(features)
    assert by_time["train"]["ARRIVAL_DATE"].max() < by_time["validation"]["ARRIVAL_DATE"].min()
    assert by_time["validation"]["ARRIVAL_DATE"].max() < by_time["test"]["ARRIVAL_DATE"].min()
    assert sum(map(len, by_time.values())) == len(features)
    assert purchase_model.split_by_time(features.assign(ARRIVAL_DATE=features["ARRIVAL_DATE"].iloc[0])) is None


def test_what_is_known_before_a_purchase_holds_nothing_of_the_review():
    assert set(KNOWN_BEFORE_PURCHASE) == {"PRODUCT_TYPE", "PRODUCT_LAYOUT", "PAGE_LOAD_TIME", "PRODUCT_RATING"}


def test_each_encoded_column_is_known_by_its_raw_one(model):
    encoded = model.named_steps["columns"].get_feature_names_out()
    assert {purchase_model.raw_feature(name) for name in encoded} == set(MODEL_FEATURES)


@pytest.fixture(scope="module")
def ray_cluster():
    import ray

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.slow
def test_trees_grown_on_two_nodes_predict_as_well_as_those_of_one(ray_cluster, parts, model):
    spread = purchase_model.train_distributed(parts, Settings(), workers=2, threads=1, parameters={})
    outcomes = parts["test"][TARGET].to_numpy(dtype=int)
    one, two = (
        evaluation.measure(outcomes, each.predict_proba(purchase_model.model_input(parts["test"]))[:, 1], Settings())
        for each in (model, spread)
    )
    less = evaluation.difference(one, two, "roc_auc")
    assert abs(less.value) < 0.01
    assert abs(one.metrics["log_loss"].value - two.metrics["log_loss"].value) < 0.01


@pytest.mark.slow
def test_a_search_never_chooses_what_is_worse_than_no_search(ray_cluster, parts, model):
    chosen = purchase_model.search(parts, Settings(search_trials=2), threads=1)
    found = purchase_model.train(parts, Settings(), 1, parameters=chosen)
    best = found.named_steps["classifier"].best_score
    assert best <= model.named_steps["classifier"].best_score + 1e-6


def test_a_visit_stays_in_its_part_when_others_come(features, parts):
    more = purchase_model.split(pd.concat([features, synthetic_features(500, seed=9)]), Settings())
    assert set(parts["test"]["UUID"]) <= set(more["test"]["UUID"])


def test_a_category_that_training_did_not_see_is_predicted(parts, model):
    rows = purchase_model.model_input(parts["test"].head(3)).assign(PRODUCT_TYPE="Spaceships")
    assert np.isfinite(model.predict_proba(rows)).all()


def test_a_missing_sentiment_is_predicted(parts, model):
    rows = purchase_model.model_input(parts["test"].head(3)).assign(REVIEW_SENTIMENT=float("nan"))
    assert np.isfinite(model.predict_proba(rows)).all()
    # As the registry's function passes NULL on.
    nullable = rows.astype({"REVIEW_SENTIMENT": "Float64"})
    assert np.isfinite(model.predict_proba(nullable)).all()


def test_the_model_sees_neither_key_nor_target(model):
    assert set(model.named_steps["columns"].feature_names_in_) == set(MODEL_FEATURES)
    assert TARGET not in MODEL_FEATURES
    assert "UUID" not in MODEL_FEATURES


def test_one_class_only_is_refused_with_what_to_check(features):
    with pytest.raises(
        purchase_model.TrainingDataError, match=r"hold only PURCHASE_DECISION = \[1\].*Check TABULAR_DATA"
    ):
        purchase_model.split(features.assign(**{TARGET: 1}), Settings())


def test_too_few_rows_are_refused_with_the_number_needed(features):
    with pytest.raises(purchase_model.TrainingDataError, match=r"has 50 rows .* training needs 200"):
        purchase_model.split(features.head(50), Settings())


def test_a_calibrated_prediction_has_no_calibration_error():
    generator = np.random.default_rng(0)
    probabilities = generator.random(50_000)
    outcomes = (generator.random(50_000) < probabilities).astype(int)
    assert evaluation.expected_calibration_error(outcomes, probabilities) < 0.01
    assert evaluation.expected_calibration_error(outcomes, np.clip(probabilities + 0.2, 0, 1)) > 0.1

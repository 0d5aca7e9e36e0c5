"""The gate: which challenger goes into service, and what its metrics must be."""

from __future__ import annotations

from customer_insights import promotion
from customer_insights.settings import Settings


def version(name: str, auc: float = 0.8, **metrics: object) -> promotion.Version:
    measured = {
        "challenger_roc_auc": auc,
        "challenger_roc_auc_low": auc - 0.05,
        "challenger_log_loss": 0.5,
        "prior_log_loss": 0.69,
        "challenger_expected_calibration_error": 0.02,
        "calibration_by_chance": 0.03,
        "segments_collapsed": "",
        "segments_worse_than_champion": "",
        "features": promotion.FEATURES,
        "segments_measured": 4,
        "test_rows": 500,
    }
    return promotion.Version(name, (), measured | metrics)


def compared(auc: float, less: float, low: float, high: float) -> promotion.Version:
    against = {"roc_auc_less_champion": less, "roc_auc_less_champion_low": low, "roc_auc_less_champion_high": high}
    return version("NEW", auc, champion_version="OLD", **against)


def failed(decision: promotion.Decision) -> list[str]:
    return [name for name, (passed, _) in decision.conditions.items() if not passed]


def test_a_worse_challenger_is_not_promoted_and_a_better_one_is():
    in_service = version("OLD")
    worse = promotion.decide(compared(0.75, -0.05, -0.08, -0.02), in_service, Settings())
    assert failed(worse) == ["not_worse_than_the_champion"]
    assert "-0.0500 against OLD" in worse.conditions["not_worse_than_the_champion"][1]
    assert promotion.decide(compared(0.82, 0.02, 0.01, 0.03), in_service, Settings()).passed
    assert promotion.decide(version("FIRST"), None, Settings()).passed


def test_a_challenger_that_is_surely_worse_by_a_little_is_refused_as_is_one_that_may_be_much_worse():
    in_service = version("OLD")
    assert failed(promotion.decide(compared(0.796, -0.004, -0.006, -0.002), in_service, Settings()))
    assert failed(promotion.decide(compared(0.77, -0.03, -0.07, 0.01), in_service, Settings()))
    assert promotion.decide(compared(0.796, -0.004, -0.012, 0.004), in_service, Settings()).passed


def test_a_challenger_that_was_measured_before_the_champion_came_does_not_replace_it():
    decision = promotion.decide(compared(0.82, 0.02, 0.01, 0.03), version("NEWER", 0.85), Settings())
    assert failed(decision) == ["not_worse_than_the_champion", "no_segment_worse_than_the_champion"]
    assert "NEWER" in decision.conditions["not_worse_than_the_champion"][1]


def test_a_challenger_is_measured_again_when_another_champion_came_and_only_then():
    measured = compared(0.82, 0.02, 0.01, 0.03)
    assert not promotion.is_to_be_measured_again(measured, version("OLD"))
    assert promotion.is_to_be_measured_again(measured, version("NEWER"))
    assert not promotion.is_to_be_measured_again(measured, measured)
    assert not promotion.is_to_be_measured_again(measured, None)
    assert not promotion.is_to_be_measured_again(measured, version("NEWER", features="PRODUCT_TYPE"))


def test_a_champion_that_cannot_read_the_present_features_is_replaced_by_a_fit_challenger():
    decision = promotion.decide(version("NEW"), version("OLD", features="PRODUCT_TYPE"), Settings())
    assert decision.passed
    assert "other features" in decision.conditions["not_worse_than_the_champion"][1]


def test_a_challenger_that_may_be_guessing_is_not_promoted():
    assert failed(promotion.decide(version("NEW", 0.52), None, Settings())) == ["better_than_chance"]


def test_a_challenger_whose_probabilities_are_wrong_is_not_promoted():
    wrong = version("NEW", challenger_expected_calibration_error=0.08)
    assert failed(promotion.decide(wrong, None, Settings())) == ["calibrated"]
    # On few visits chance alone makes a true model err as much.
    few = version("NEW", challenger_expected_calibration_error=0.08, calibration_by_chance=0.07)
    assert promotion.decide(few, None, Settings()).passed


def test_a_challenger_that_is_lost_in_a_language_is_not_promoted_and_the_language_is_named():
    decision = promotion.decide(version("NEW", segments_collapsed="LANGUAGE ja"), None, Settings())
    assert failed(decision) == ["no_segment_collapsed"]
    assert "LANGUAGE ja" in decision.conditions["no_segment_collapsed"][1]


def test_a_challenger_that_is_better_in_all_but_surely_worse_in_one_language_is_not_promoted():
    better = compared(0.82, 0.02, 0.01, 0.03)
    better.metrics["segments_worse_than_champion"] = "LANGUAGE ja"
    decision = promotion.decide(better, version("OLD"), Settings())
    assert failed(decision) == ["no_segment_worse_than_the_champion"]


def test_a_version_that_the_registry_gives_back_differently_is_not_promoted():
    decision = promotion.decide(version("NEW"), None, Settings(), reproduced=(False, "differ by 0.1"))
    assert failed(decision) == ["reproduced_by_the_registry"]


def test_a_version_that_somebody_rolled_back_from_is_not_promoted_again():
    better = compared(0.82, 0.02, 0.01, 0.03)
    decision = promotion.decide(better, version("OLD"), Settings(), withdrawn={"NEW": "wrong prices"})
    assert failed(decision) == ["not_withdrawn"]
    assert "wrong prices" in decision.conditions["not_withdrawn"][1]


def test_a_version_of_other_code_or_other_features_is_not_taken_for_this_one():
    made = promotion.Version("A", (), {"training_set": "1", "training_code_version": "abc"})
    assert promotion.trained_on([made], "1", "abc") == made
    assert promotion.trained_on([made], "2", "abc") is None
    assert promotion.trained_on([made], "1", "other code") is None

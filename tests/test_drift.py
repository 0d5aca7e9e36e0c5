"""Drift as an operator sees it: what moved is found, chance raises no alarm, and the report says what to do."""

from __future__ import annotations

import io
from datetime import date

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from conftest import Graph, materializations
from scipy import stats

from customer_insights import drift, model_monitor, publish
from customer_insights.errors import PermanentError
from customer_insights.purchase_model import part
from customer_insights.settings import Settings, settings
from customer_insights.tables import MODEL_FEATURES, MODEL_REFERENCE, PURCHASE_FEATURES, PURCHASE_PROPENSITY, TARGET
from training import drift_false_alarms
from training.drift_false_alarms import INJECTIONS, Injection, alarms, resampled, slower_pages

SEEDS = 100
WINDOW = 1000
VERSION = "TRAINED_FOR_DRIFT"


@pytest.fixture(scope="module")
def visits() -> pd.DataFrame:
    return drift_false_alarms.population(seed=1, rows=30_000)


@pytest.mark.parametrize("injection", INJECTIONS, ids=lambda injection: injection.name)
def test_what_was_injected_is_found_and_only_what_depends_on_it_alarms_too(visits, injection: Injection):
    reference, current = resampled(visits, 5000, seed=1)
    found = alarms(reference, injection.change(current, np.random.default_rng(1)), Settings())
    assert injection.moved in found
    assert found <= {injection.moved} | injection.depending


def test_resamples_of_the_same_visits_raise_no_more_alarms_than_the_settings_promise(visits):
    chosen = Settings()
    measured = [drift.measure(*resampled(visits, WINDOW, seed), chosen) for seed in range(SEEDS)]
    # What 99.9 % of true rates at the promised one stay below.
    most = stats.binom.ppf(0.999, SEEDS, chosen.drift_significance)
    assert sum(any(one.drifted for one in found) for found in measured) <= most
    # Also where any size counts: it is not the limits alone that keep quiet.
    assert sum(any(drift_false_alarms.unlikely(one, chosen) for one in found) for found in measured) <= most
    # The p-values are not merely too large: of one continuous feature they are spread evenly, apart from their bound.
    lengths = [one.p_value for found in measured for one in found if one.measured == "REVIEW_LENGTH"]
    assert 0.02 * SEEDS <= sum(p < 0.2 for p in lengths if p is not None) <= 0.35 * SEEDS


def test_a_large_difference_that_few_visits_give_by_chance_is_no_alarm(visits):
    measured = [drift.measure(*resampled(visits, 120, seed), Settings()) for seed in range(20)]
    large = [one for found in measured for one in found if one.excess and one.excess > 1]
    assert len(large) >= 10
    assert not any(one.drifted for one in large)


def test_a_small_change_of_many_visits_is_no_alarm_although_it_is_not_by_chance(visits):
    reference, current = resampled(visits, 20_000, seed=2)
    longer = current.assign(PAGE_LOAD_TIME=current["PAGE_LOAD_TIME"] * 1.05)
    found = next(one for one in drift.measure(reference, longer, Settings()) if one.measured == "PAGE_LOAD_TIME")
    assert found.p_value is not None
    assert found.p_value < 1e-4
    assert not found.drifted


def test_a_large_change_of_few_visits_is_not_judged(visits):
    reference, current = resampled(visits, drift.MINIMUM_VISITS - 1, seed=3)
    found = drift.measure(reference, current.assign(PAGE_LOAD_TIME=50.0), Settings())
    assert not any(one.is_judged or one.drifted for one in found)
    assert "too few visits to judge: 6000 then, 99 now, 100 are needed" in {one.change for one in found}


def test_a_threefold_rate_of_rare_purchases_is_an_alarm(visits):
    reference, current = resampled(visits, 5000, seed=4)
    rng = np.random.default_rng(4)
    rare = reference.assign(**{TARGET: (rng.random(len(reference)) < 0.02).astype(int)})
    found = alarms(rare, current.assign(**{TARGET: (rng.random(len(current)) < 0.06).astype(int)}), Settings())
    assert found == {(TARGET, "label")}


def test_a_twentieth_of_missing_values_is_an_alarm_where_there_were_none(visits):
    reference, current = resampled(visits, 5000, seed=8)
    missing = current.assign(REVIEW_SENTIMENT=current["REVIEW_SENTIMENT"].mask(np.arange(5000) % 20 == 0))
    # The index alone says so: the distance is half of its limit.
    assert alarms(reference, missing, Settings()) == {("REVIEW_SENTIMENT", "nulls")}


def test_a_value_that_training_never_saw_is_an_alarm_and_is_named(visits):
    reference, current = resampled(visits, WINDOW, seed=5)
    half = np.arange(WINDOW) % 2 == 0
    found = drift.measure(reference, current.assign(LANGUAGE=current["LANGUAGE"].mask(half, "sv")), Settings())
    assert [(one.measured, one.change) for one in found if one.drifted] == [("LANGUAGE", "sv 0.0% then, 50.0% now")]


def test_the_score_is_compared_on_visits_that_training_has_not_seen(visits):
    reference, current = resampled(visits, 2 * WINDOW, seed=6)
    seen = np.arange(2 * WINDOW) % 2 == 0
    # As an overfitted model scores what trained it.
    scores = current[drift.SCORE].mask(seen, current[TARGET].astype(float))
    overfitted = current.assign(**{drift.SCORE: scores})
    assert alarms(reference, overfitted.assign(SEEN=seen), Settings()) == set()
    assert (drift.SCORE, "score") in alarms(reference, overfitted.assign(SEEN=False), Settings())


def test_the_index_is_the_published_one_and_its_bins_are_the_reference_s_deciles():
    then, now = np.array([5000, 3000, 2000]), np.array([4000, 3000, 3000])
    expected = -0.1 * np.log(0.8) + 0.1 * np.log(1.5)
    assert drift.population_stability(then, now) == pytest.approx(expected, rel=1e-3)
    assert drift.total_variation(then, now) == pytest.approx(0.1)
    values = np.arange(1000.0)
    assert drift.quantile_counts(values, values[500:])[0].tolist() == [100] * 10
    assert drift.quantile_counts(values, values[500:])[1].tolist() == [0] * 5 + [100] * 5


def test_the_table_of_false_alarms_has_a_row_for_each_size():
    lines = drift_false_alarms.counts(seeds=2, sizes=(300, 1000)).splitlines()
    assert len(lines) == 2 + 2
    assert lines[3].startswith("| 1,000 | 0 of 2 |")


# -- through the asset, on the embedded server ------------------------------------------------------------------------


def fill(graph: Graph, changed: bool) -> pd.DataFrame:
    """A champion, what it was trained on, and visits that have all been predicted; those of the last days changed when
    asked for."""
    session = graph.session()
    visits = drift_false_alarms.population(seed=7, rows=6000)
    visits["ARRIVAL_DATE"] = [date(2026, 3, 1)] * 3000 + [date(2026, 3, 30)] * 3000
    now = pd.Timestamp("2026-03-15")
    written = {"MODEL_VERSION": VERSION, "RUN_ID": "r"}
    then = visits[visits["ARRIVAL_DATE"] == date(2026, 3, 1)].reset_index(drop=True)
    publish.merge_frame(session, MODEL_REFERENCE, then.assign(PART=then["UUID"].map(part), LOGGED_AT=now, **written))
    latest = visits["ARRIVAL_DATE"] == date(2026, 3, 30)
    if changed:
        visits = pd.concat([visits[~latest], slower_pages(visits[latest], np.random.default_rng(7))], ignore_index=True)
    publish.merge_frame(session, PURCHASE_FEATURES, visits)
    publish.merge_frame(session, PURCHASE_PROPENSITY, visits.assign(DECILE=1, SCORED_AT=now, **written))
    return visits


def serve(graph: Graph) -> None:
    """Put a version of the model into service: a package without functions, as nothing is predicted here."""
    session = graph.session()
    with io.BytesIO(b"manifest_version: '1.0'\nruntimes: {}\nmethods: []\n") as manifest:
        session.file.put_stream(manifest, "@WORK_STAGE/model/MANIFEST.yml", auto_compress=False)
    session.sql(f"CREATE MODEL CONVERSION_MODEL WITH VERSION {VERSION} FROM @WORK_STAGE/model").collect()
    session.sql(f"ALTER MODEL CONVERSION_MODEL VERSION {VERSION} SET ALIAS = CHAMPION").collect()


def checks_of(result) -> dict[str, tuple[bool, str]]:
    return {
        event.asset_check_evaluation_data.check_name: (
            event.asset_check_evaluation_data.passed,
            event.asset_check_evaluation_data.description or "",
        )
        for event in result.all_events
        if event.event_type_value == "ASSET_CHECK_EVALUATION"
    }


@pytest.mark.slow
def test_the_report_warns_of_what_moved_with_pictures_and_a_second_run_doubles_nothing(
    empty_graph: Graph, monkeypatch: pytest.MonkeyPatch
):
    fill(empty_graph, changed=True)
    serve(empty_graph)
    result = empty_graph.run("drift_report", raise_on_error=True)
    found = checks_of(result)
    passed, text = found["no_feature_drift"]
    assert not passed
    assert text.startswith("PAGE_LOAD_TIME: mean 2.")
    assert "run the job `retraining`" in text
    assert {name for name, (passed, _) in found.items() if passed} >= {"nulls_stable", "keys_unique_and_complete"}
    shown = materializations(result)["drift_report"]
    assert shown["visits"] == shown["visits compared"] == 3000
    # They arrived after the training.
    assert shown["of these seen in training"] == 0
    assert shown["window"] == "2026-03-24 to 2026-03-30"
    for picture in ("population stability", "distribution of PAGE_LOAD_TIME"):
        assert str(shown[picture]).split("](")[1].startswith("data:image/png;base64,")
    first = str(shown["found"]).splitlines()[2]
    assert first.startswith("| PAGE\\_LOAD\\_TIME | numeric | yes |")
    drifted = "SELECT COUNT(*) FROM DRIFT_REPORT WHERE DRIFTED = 1 AND MEASURED = 'PAGE_LOAD_TIME'"
    assert empty_graph.value(drifted) == 1

    session = empty_graph.session()
    drift.report(session, settings(), VERSION, "the same day once more")
    assert empty_graph.value("SELECT COUNT(*) FROM DRIFT_REPORT") == len(drift.COMPARISONS)
    # The next day's report stands beside this one's.
    session.sql("UPDATE PURCHASE_FEATURES SET ARRIVAL_DATE = ARRIVAL_DATE + 1").collect()
    drift.report(session, settings(), VERSION, "the next day")
    assert empty_graph.value("SELECT COUNT(*) FROM DRIFT_REPORT") == 2 * len(drift.COMPARISONS)
    assert empty_graph.value("SELECT COUNT(DISTINCT RUN_ID) FROM DRIFT_REPORT") == 2

    # Snowflake's own monitor: asked for, and refused by name where there is none.
    monkeypatch.setenv("CUSTOMER_INSIGHTS_MODEL_MONITOR", "true")
    settings.cache_clear()
    refused = "unsupported on the embedded server: CREATE MODEL MONITOR"
    result = empty_graph.run("drift_report", raise_on_error=True)
    assert refused in str(materializations(result)["drift_report"]["model monitor"])
    monitored = session.sql(f"SELECT * FROM MONITORED_{VERSION}")
    assert set(MODEL_FEATURES) <= set(monitored.columns)
    assert monitored.count() == 6000


@pytest.mark.slow
def test_a_report_without_champion_visits_or_reference_says_what_to_do(empty_graph: Graph):
    result = empty_graph.run("drift_report")
    assert not result.success
    failed = next(event for event in result.all_events if event.event_type == dg.DagsterEventType.STEP_FAILURE)
    assert "is CHAMPION: materialize conversion_model and champion" in str(failed.step_failure_data.error)
    session = empty_graph.session()
    with pytest.raises(PermanentError, match=r"holds no visits of OTHER.*Run the job `retraining`"):
        drift.report(session, settings(), "OTHER", "r")
    fill(empty_graph, changed=False)
    session.sql("DELETE FROM PURCHASE_FEATURES").collect()
    with pytest.raises(PermanentError, match="PURCHASE_FEATURES is empty: materialize purchase_features"):
        drift.report(session, settings(), VERSION, "r")


@pytest.mark.slow
def test_visits_that_training_may_have_seen_and_predictions_of_another_version_are_told_apart(empty_graph: Graph):
    visits = fill(empty_graph, changed=False)
    session = empty_graph.session()
    arrived = date(2026, 3, 30)
    rows = drift.read_current(session, VERSION, arrived, arrived, trained_on=arrived)
    assert dict(zip(rows["UUID"], rows["SEEN"], strict=True)) == {
        uuid: part(uuid) != "test" for uuid in visits.loc[visits["ARRIVAL_DATE"] == arrived, "UUID"]
    }
    others = drift.read_current(session, "OTHER", arrived, arrived, trained_on=date(2026, 3, 29))
    assert others[drift.SCORE].isna().all()
    assert not others["SEEN"].any()


def test_the_monitor_s_statement_is_the_documented_one():
    view, baseline, monitor = model_monitor.statements(Settings(), VERSION)
    assert "IF NOT EXISTS" in view
    assert f"p.MODEL_VERSION = '{VERSION}'" in view
    assert f"WHERE f.MODEL_VERSION = '{VERSION}' AND f.PART = 'test'" in baseline
    assert (
        monitor.split()
        == (
            f"""CREATE MODEL MONITOR IF NOT EXISTS HOL_DB.HOL_SCHEMA.MONITOR_{VERSION} WITH
        MODEL = HOL_DB.HOL_SCHEMA.CONVERSION_MODEL VERSION = '{VERSION}' FUNCTION = 'predict_proba'
        SOURCE = HOL_DB.HOL_SCHEMA.MONITORED_{VERSION}
        BASELINE = HOL_DB.HOL_SCHEMA.MONITOR_BASELINE_{VERSION}
        WAREHOUSE = HOL_WAREHOUSE REFRESH_INTERVAL = '1 day' AGGREGATION_WINDOW = '1 day'
        TIMESTAMP_COLUMN = ARRIVED_AT ID_COLUMNS = ('UUID')
        PREDICTION_SCORE_COLUMNS = ('PURCHASE_PROBABILITY') ACTUAL_CLASS_COLUMNS = ('PURCHASE_DECISION')"""
        ).split()
    )

"""When drift starts a retraining: on a real instance with the results of drift_report's checks of several days."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import freeze_time

from schedules import jobs, retraining
from schedules.sensors import retraining_on_drift

FIRST = datetime(2026, 3, 2, 7, tzinfo=UTC)
QUIET = dict.fromkeys((*retraining.AT_ONCE, *retraining.WHEN_IT_LASTS, "nulls_stable"), True)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


def report(instance: dg.DagsterInstance, day: float, **checks: bool) -> None:
    """A drift report on the day-th morning, whose checks pass unless told otherwise."""

    @dg.asset(
        name="drift_report",
        check_specs=[dg.AssetCheckSpec(name, asset="drift_report") for name in QUIET],
    )
    def drift_report() -> dg.MaterializeResult:
        results = [
            dg.AssetCheckResult(check_name=name, passed=passed, severity=dg.AssetCheckSeverity.WARN)
            for name, passed in {**QUIET, **checks}.items()
        ]
        return dg.MaterializeResult(check_results=results)

    with freeze_time(FIRST + timedelta(days=day)):
        dg.materialize([drift_report], instance=instance)


def trained(instance: dg.DagsterInstance, day: float, fails: bool = False) -> None:
    """A run of the job ``retraining``."""

    @dg.op
    def train() -> None:
        if fails:
            raise dg.Failure("made to fail", allow_retries=False)

    @dg.job(name=jobs.retraining.name)
    def job() -> None:
        train()

    with freeze_time(FIRST + timedelta(days=day)):
        job.execute_in_process(instance=instance, raise_on_error=False)


def tick(instance: dg.DagsterInstance, day: float) -> Any:
    """The reason of the run that is asked for, as ``(reason, run key)``, or the text of the skipped tick."""
    with freeze_time(FIRST + timedelta(days=day)):
        found = retraining_on_drift(dg.build_sensor_context(instance=instance))
    if isinstance(found, dg.SkipReason):
        return found.skip_message
    assert isinstance(found, dg.SensorResult)
    (request,) = found.run_requests or []
    return request.tags[retraining.REASON], request.run_key


def test_a_feature_that_stays_drifted_retrains_once_and_again_only_after_the_cool_down(instance):
    assert tick(instance, 0) == "no drift report yet"
    report(instance, 0)
    report(instance, 1, no_feature_drift=False)
    # Twice on one day is one day.
    report(instance, 1.1, no_feature_drift=False)
    report(instance, 2, no_feature_drift=False)
    assert "no_feature_drift failed on 2" in tick(instance, 2.1)
    assert "drift of a feature must last for 3 days" in tick(instance, 2.1)
    report(instance, 3, no_feature_drift=False)
    reason, key = tick(instance, 3.01)
    assert reason == "no_feature_drift failed on 3 days in a row, 2026-03-03 to 2026-03-05"
    assert tick(instance, 3.02) == (reason, key)
    trained(instance, 3.1)
    for day in (4, 5, 6):
        report(instance, day, no_feature_drift=False)
        if day < 6:
            assert "drift starts no other training before 2026-03-08" in tick(instance, day + 0.01)
    again, other = tick(instance, 6.2)
    assert again.startswith("no_feature_drift failed on 3 days in a row, 2026-03-06 to 2026-03-08")
    assert other != key


@pytest.mark.parametrize("check", retraining.AT_ONCE)
def test_purchases_and_scores_that_drift_retrain_at_once(instance, check: str):
    report(instance, 0)
    report(instance, 1, **{check: False})
    assert tick(instance, 1.01)[0] == f"{check} failed on 2026-03-03"


def test_drift_that_went_away_and_values_that_are_missing_are_no_reason(instance):
    report(instance, 0, no_feature_drift=False, nulls_stable=False)
    report(instance, 1, no_feature_drift=False, nulls_stable=False)
    report(instance, 2, nulls_stable=False)
    assert tick(instance, 2.1).startswith("no reason to train")


def test_what_was_measured_before_a_training_is_no_reason_after_it_and_a_failed_training_is_none(instance):
    for day in range(3):
        report(instance, day, no_feature_drift=False)
    trained(instance, 2.2, fails=True)
    assert tick(instance, 2.3)[0].startswith("no_feature_drift failed on 3 days")
    trained(instance, 2.4)
    assert tick(instance, 20) == "no drift report since the training of 2026-03-04"


def test_nothing_is_asked_for_while_a_training_goes_on(instance):
    report(instance, 0, label_rate_stable=False)
    going = dg.DagsterRun(job_name=jobs.retraining.name, status=dg.DagsterRunStatus.STARTED)
    instance.add_run(going)
    assert tick(instance, 0.1) == f"retraining goes on in run {going.run_id[:8]}"

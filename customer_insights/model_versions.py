"""Versions of the purchase model in Snowflake's Model Registry: logged once, loaded, made again from the rows that
trained them, and what is kept of them in tables.

What the model is, is in ``purchase_model``; how good it is, in ``evaluation``; which version serves, in ``promotion``.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from customer_insights import promotion, publish, purchase_model
from customer_insights.errors import PermanentError, RetryableError
from customer_insights.evaluation import WHOLE, Evaluation
from customer_insights.purchase_model import PARTS, model_input
from customer_insights.settings import Settings
from customer_insights.tables import MODEL_EVALUATIONS, MODEL_FEATURES, MODEL_REFERENCE, TARGET

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.pipeline import Pipeline
    from snowflake.snowpark import Session

# Where a version's trees were grown, in its metrics.
ONE_NODE = "one node"
# Visits of each part that are kept with a version: enough for the shape of a distribution.
REFERENCE_ROWS_A_PART = 2000


def version_name(training_set: str, training_code_version: str) -> str:
    """The registry version of this training set by this code: one, whoever trains it and however often.

    Not the run's name: two runs at once, or one that takes the place of a killed one, would register it twice.
    """
    return f"TRAINED_{hashlib.sha256(f'{training_set} {training_code_version}'.encode()).hexdigest()[:12].upper()}"


def training_set_name(training_set: str) -> str:
    """The version of the Dataset that keeps a training set, by its fingerprint."""
    return f"ROWS_{hashlib.sha256(training_set.encode()).hexdigest()[:12].upper()}"


def registry(session: Session, settings: Settings) -> Any:
    """The Model Registry of the project's schema."""
    from snowflake.ml.registry import Registry

    return Registry(session, database_name=settings.database, schema_name=settings.schema_name)


def load_champion(session: Session, settings: Settings) -> tuple[str, Any] | None:
    """Name and model of the version in service; None when none has been promoted yet, or when it was trained on other
    features and cannot predict these visits."""
    champion = promotion.find_in_service(session, promotion.versions(session, settings))
    if champion is None or not promotion.reads_present_features(champion):
        return None
    return champion.name, load(session, settings, champion.name)


def load(session: Session, settings: Settings, version: str) -> Any:
    """The pipeline of a version, as it was trained."""
    return registry(session, settings).get_model(settings.model_name).version(version).load(force=True)


def find(session: Session, settings: Settings, version: str) -> promotion.Version | None:
    """A version that is in the registry, or None."""
    return next((known for known in promotion.versions(session, settings) if known.name == version), None)


def register(
    session: Session,
    settings: Settings,
    model: Pipeline,
    measured: Evaluation,
    sample: pd.DataFrame,
    facts: dict[str, Any],
) -> str:
    """Log the model as CHALLENGER with its metrics, where it is not logged yet; returns the version's name.

    ``facts``: what else must be known of a version to make it again (run, code version, training set); kept with the
    metrics. ``model`` is that of the version where there is one already (``load``).

    Raises:
        RetryableError: another run was logging the version, or the model's first one, at the same time.
    """
    version = version_name(facts["training_set"], facts["training_code_version"])
    logged = find(session, settings, version)
    if logged is None:
        _log_once(session, settings, model, measured, sample, facts, version)
    elif not _is_described(logged) or logged.metrics.get("champion_version") != measured.champion_version:
        # An attempt was killed after the version was made and before its metrics were stored; or another version came
        # into service since it was measured.
        _describe(session, settings, version, measured, facts)
    found = find(session, settings, version)
    if found is None or not _is_described(found):
        raise RetryableError(
            f"version {version} of {settings.model_name} is not in the registry with its metrics: another run is "
            "logging it, or has removed it; train again"
        )
    promotion.challenge(session, settings, found)
    return version


def _is_described(version: promotion.Version) -> bool:
    return "training_set" in version.metrics


def _described(measured: Evaluation, facts: dict[str, Any]) -> dict[str, Any]:
    # The training set last: where metrics are set one by one, it says that the others are there.
    rest = {name: value for name, value in facts.items() if name != "training_set"}
    return {**flat(measured), "features": promotion.FEATURES, **rest, "training_set": facts["training_set"]}


def _describe(session: Session, settings: Settings, version: str, measured: Evaluation, facts: dict[str, Any]) -> None:
    made = registry(session, settings).get_model(settings.model_name).version(version)
    made.comment = _comment(facts)
    for name, value in _described(measured, facts).items():
        made.set_metric(name, value)


def _comment(facts: dict[str, Any]) -> str:
    return f"Predicts purchases from reviews; Dagster run {facts['run_id']}"


def _log_once(
    session: Session,
    settings: Settings,
    model: Pipeline,
    measured: Evaluation,
    sample: pd.DataFrame,
    facts: dict[str, Any],
    version: str,
) -> None:
    """Log the version, unless another run is faster; what that has stored is for the caller to see."""
    from snowflake.snowpark.exceptions import SnowparkSQLException

    try:
        _log(session, settings, model, measured, sample, facts, version)
    except (ValueError, SnowparkSQLException) as error:
        # The registry looks whether there is one when it begins and makes one when it ends.
        if find(session, settings, version) is None:
            if promotion.exists_already(error):
                raise RetryableError(
                    f"another run made {settings.model_name} while this one was logging {version}: train again"
                ) from error
            raise


def _log(
    session: Session,
    settings: Settings,
    model: Pipeline,
    measured: Evaluation,
    sample: pd.DataFrame,
    facts: dict[str, Any],
    version: str,
) -> None:
    registry(session, settings).log_model(
        model,
        model_name=settings.model_name,
        version_name=version,
        comment=_comment(facts),
        sample_input_data=model_input(sample).head(100),
        conda_dependencies=["scikit-learn", "xgboost"],
        target_platforms=["WAREHOUSE"],
        options={"enable_explainability": True},
        metrics=_described(measured, facts),
    )


def flat(measured: Evaluation) -> dict[str, float | int | str]:
    """What the gate and people read, in one level, as the registry keeps it: ``challenger_roc_auc``,
    ``challenger_roc_auc_low``, ``prior_log_loss``, ..."""
    result: dict[str, float | int | str] = {
        "test_rows": measured.challenger.rows,
        "test_purchases": measured.challenger.positives,
        "contact_threshold": measured.threshold,
        "calibration_by_chance": measured.calibration_by_chance,
        "segments_measured": len(measured.segments),
        "segments_collapsed": ", ".join(measured.collapsed),
        "segments_worse_than_champion": ", ".join(measured.worse),
    }
    for name, model in measured.models.items():
        for metric, found in model.metrics.items():
            result[f"{name}_{metric}"] = found.value
            if name == "challenger":
                result[f"{name}_{metric}_low"], result[f"{name}_{metric}_high"] = found.low, found.high
    less = measured.difference()
    if less and measured.champion_version:
        result["champion_version"] = measured.champion_version
        result["roc_auc_less_champion"] = less.value
        result["roc_auc_less_champion_low"], result["roc_auc_less_champion_high"] = less.low, less.high
    return result


# -- what is kept of a version in tables ------------------------------------------------------------------------------


def keep_reference(
    session: Session, version: str, model: Pipeline, parts: dict[str, pd.DataFrame], run_id: str
) -> None:
    """Write a sample of the visits of each part, with the model's predictions, to MODEL_REFERENCE; once more changes
    nothing."""
    import pandas as pd

    now = pd.Timestamp.now(tz="UTC").tz_localize(None)
    samples = []
    for name in PARTS:
        # By a hash of the key: the same visits whoever writes.
        order = parts[name]["UUID"].map(lambda uuid: hashlib.sha256(str(uuid).encode()).hexdigest())
        rows = parts[name].loc[order.sort_values().index[:REFERENCE_ROWS_A_PART]]
        samples.append(
            rows[["UUID", *MODEL_FEATURES, TARGET]].assign(
                PART=name, PURCHASE_PROBABILITY=model.predict_proba(model_input(rows))[:, 1].astype(float)
            )
        )
    frame = pd.concat(samples, ignore_index=True).assign(MODEL_VERSION=version, LOGGED_AT=now, RUN_ID=run_id)
    publish.merge_frame(session, MODEL_REFERENCE, frame)


def keep_evaluation(session: Session, version: str, measured: Evaluation, run_id: str) -> None:
    """Write every metric of every model, on all test visits and on each segment, to MODEL_EVALUATIONS."""
    import pandas as pd

    rows = [
        (name, by, segment, metric, found.value, found.low, found.high, model.rows, model.positives)
        for (by, segment), models in {(WHOLE, WHOLE): measured.models, **measured.segments}.items()
        for name, model in models.items()
        for metric, found in model.metrics.items()
    ]
    columns = ["MODEL", "SEGMENT_BY", "SEGMENT", "METRIC", "VALUE", "LOW", "HIGH", "VISITS", "PURCHASES"]
    now = pd.Timestamp.now(tz="UTC").tz_localize(None)
    frame = pd.DataFrame(rows, columns=columns).assign(MODEL_VERSION=version, MEASURED_AT=now, RUN_ID=run_id)
    publish.merge_frame(session, MODEL_EVALUATIONS, frame)


def rebuild(session: Session, settings: Settings, version: str, threads: int = 1) -> Pipeline:
    """Train a registered version again from its frozen training set; what comes out predicts the same where the
    libraries are the same (``xgboost_version``, ``scikit_learn_version`` in its metrics).

    Raises:
        PermanentError: there is no such version, other code or settings trained it, or Ray Train grew it on several
            nodes, which share the rows out anew each time.
    """
    from customer_insights import training_set

    found = find(session, settings, version)
    if found is None:
        raise PermanentError(f"{settings.model_name} has no version {version}")
    code, present = str(found.metrics.get("training_code_version")), purchase_model.code_version(settings)
    if code != present:
        raise PermanentError(
            f"version {version} was trained by code {code}, this is {present}: check out the commit, and set the "
            "settings, that its run had (run_id in its metrics)"
        )
    if str(found.metrics.get("trained_on")) != ONE_NODE:
        raise PermanentError(f"version {version} was trained on {found.metrics.get('trained_on')}: see its run")
    rows = training_set.read(session, settings, training_set_name(str(found.metrics["training_set"])))
    return purchase_model.train(
        purchase_model.split(rows, settings), settings, threads, parameters=promotion.chosen_parameters(found)
    )

"""The purchase model: split, training, evaluation and registration.

Works on data frames and on Snowflake's Model Registry; what starts it is in ``jobs`` and what decides on promotion is
``promotion``.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from customer_insights import promotion
from customer_insights.errors import PermanentError, RetryableError
from customer_insights.settings import Settings
from customer_insights.tables import MODEL_FEATURES, NOMINAL_FEATURES, NUMERIC_FEATURES, TARGET

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from sklearn.pipeline import Pipeline
    from snowflake.snowpark import Session

SEED = 20260101
# Split by a hash of the key, so that a visit never moves between the parts: a champion trained last week has not seen
# this week's test rows.
TRAIN_SHARE, VALIDATION_SHARE = 0.6, 0.2
BOOTSTRAP_ROUNDS = 200
CALIBRATION_BINS = 10


class TrainingDataError(PermanentError):
    """The feature table cannot train a model; the message says what it lacks."""


@dataclass(frozen=True)
class Metrics:
    """Quality of probabilities against outcomes on the test rows. Interval: 95 % bootstrap."""

    rows: int
    positives: int
    roc_auc: float
    roc_auc_low: float
    roc_auc_high: float
    average_precision: float
    log_loss: float
    brier: float
    expected_calibration_error: float
    top_decile_lift: float


@dataclass(frozen=True)
class Evaluation:
    """The challenger beside the prior, a logistic regression and the champion, on the same test rows."""

    challenger: Metrics
    prior: Metrics
    logistic_regression: Metrics
    champion: Metrics | None
    champion_version: str | None
    outcomes: np.ndarray
    probabilities: np.ndarray


def code_version() -> str:
    """A hash of this module: when it changes, a model is trained again on features that did not."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]


def part(uuid: str) -> str:
    """``train``, ``validation`` or ``test``: fixed for a key, whatever the other rows are."""
    share = int.from_bytes(hashlib.sha256(uuid.encode()).digest()[:4], "big") / 2**32
    if share < TRAIN_SHARE:
        return "train"
    return "validation" if share < TRAIN_SHARE + VALIDATION_SHARE else "test"


def split(features: pd.DataFrame, settings: Settings) -> dict[str, pd.DataFrame]:
    """The labelled rows by part.

    Raises:
        TrainingDataError: too few rows, or one class only, in any part.
    """
    labelled = features[features[TARGET].notna()]
    if len(labelled) < settings.minimum_training_rows:
        raise TrainingDataError(
            f"PURCHASE_FEATURES has {len(labelled)} rows with {TARGET}; training needs "
            f"{settings.minimum_training_rows} (CUSTOMER_INSIGHTS_MINIMUM_TRAINING_ROWS). "
            "Load more reviews whose UUID is in TABULAR_DATA."
        )
    parts = {name: labelled[labelled["UUID"].map(part) == name] for name in ("train", "validation", "test")}
    for name, rows in parts.items():
        classes = sorted(rows[TARGET].astype(int).unique().tolist())
        if classes != [0, 1]:
            raise TrainingDataError(
                f"the {name} rows hold only {TARGET} = {classes}: a model of purchases needs visits with and without "
                "one. Check TABULAR_DATA.PURCHASE_DECISION."
            )
    return parts


def train(parts: dict[str, pd.DataFrame], threads: int) -> Pipeline:
    """One pipeline of encoders and XGBoost, stopped early on the validation rows; it takes the raw columns.

    The encoders travel with the model; a category that training did not see is encoded as -1, a number that is missing
    as the mean: neither fails.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OrdinalEncoder
    from xgboost import XGBClassifier

    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = ColumnTransformer(
        # Not "passthrough": the registry's function gets NULL as pandas.NA, which only an imputer turns into a number.
        [("nominal", encoder, list(NOMINAL_FEATURES)), ("numeric", SimpleImputer(), list(NUMERIC_FEATURES))],
        # Explanations are named after the columns: without a prefix they are the raw columns' own names.
        verbose_feature_names_out=False,
    )
    classifier = XGBClassifier(
        objective="binary:logistic",
        n_estimators=600,
        learning_rate=0.04,
        max_depth=3,
        min_child_weight=8,
        subsample=0.8,
        colsample_bytree=0.8,
        reg_lambda=2.0,
        tree_method="hist",
        eval_metric="logloss",
        early_stopping_rounds=40,
        nthread=threads,
        random_state=SEED,
    )
    encoded = columns.fit_transform(model_input(parts["train"]))
    validation = columns.transform(model_input(parts["validation"]))
    classifier.fit(encoded, parts["train"][TARGET], eval_set=[(validation, parts["validation"][TARGET])], verbose=False)
    return Pipeline([("columns", columns), ("classifier", classifier)])


def model_input(features: pd.DataFrame) -> pd.DataFrame:
    """The model's columns in its order: text as text, numbers as float64 (NULL as NaN)."""
    frame = features.loc[:, list(MODEL_FEATURES)].copy()
    for name in NOMINAL_FEATURES:
        frame[name] = frame[name].astype(str)
    for name in NUMERIC_FEATURES:
        frame[name] = frame[name].astype("float64")
    return frame


def evaluate(model: Pipeline, parts: dict[str, pd.DataFrame], champion: Champion | None) -> Evaluation:
    """Measure the model and what it must beat on the test rows."""
    import numpy as np

    test = parts["test"]
    outcomes = test[TARGET].to_numpy(dtype=int)
    probabilities = model.predict_proba(model_input(test))[:, 1]
    prior = np.full(len(test), parts["train"][TARGET].mean())
    logistic = _logistic_regression(parts["train"]).predict_proba(model_input(test))[:, 1]
    return Evaluation(
        challenger=measure(outcomes, probabilities),
        prior=measure(outcomes, prior),
        logistic_regression=measure(outcomes, logistic),
        champion=measure(outcomes, champion.predict(model_input(test))) if champion else None,
        champion_version=champion.version if champion else None,
        outcomes=outcomes,
        probabilities=probabilities,
    )


def _logistic_regression(train_rows: pd.DataFrame) -> Pipeline:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline, make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    columns = ColumnTransformer(
        [
            ("nominal", OneHotEncoder(handle_unknown="ignore"), list(NOMINAL_FEATURES)),
            ("numeric", make_pipeline(SimpleImputer(), StandardScaler()), list(NUMERIC_FEATURES)),
        ]
    )
    model = Pipeline([("columns", columns), ("classifier", LogisticRegression(max_iter=1000))])
    return model.fit(model_input(train_rows), train_rows[TARGET])


def measure(outcomes: np.ndarray, probabilities: np.ndarray) -> Metrics:
    """Metrics of ``probabilities: (n,)`` against ``outcomes: (n,)`` of 0 and 1; both classes must occur."""
    import numpy as np
    from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

    generator = np.random.default_rng(SEED)
    rounds = []
    for _ in range(BOOTSTRAP_ROUNDS):
        chosen = generator.integers(0, len(outcomes), len(outcomes))
        if 0 < outcomes[chosen].sum() < len(chosen):
            rounds.append(roc_auc_score(outcomes[chosen], probabilities[chosen]))
    low, high = np.percentile(rounds, [2.5, 97.5])
    return Metrics(
        rows=len(outcomes),
        positives=int(outcomes.sum()),
        roc_auc=float(roc_auc_score(outcomes, probabilities)),
        roc_auc_low=float(low),
        roc_auc_high=float(high),
        average_precision=float(average_precision_score(outcomes, probabilities)),
        log_loss=float(log_loss(outcomes, probabilities, labels=[0, 1])),
        brier=float(brier_score_loss(outcomes, probabilities)),
        expected_calibration_error=expected_calibration_error(outcomes, probabilities),
        top_decile_lift=top_decile_lift(outcomes, probabilities),
    )


def expected_calibration_error(outcomes: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean distance of predicted and observed rate over bins with equal counts, weighted by count (Naeini et al.
    2015)."""
    import numpy as np

    order = np.argsort(probabilities, kind="stable")
    bins = np.array_split(order, min(CALIBRATION_BINS, len(order)))
    return float(sum(len(b) * abs(probabilities[b].mean() - outcomes[b].mean()) for b in bins) / len(order))


def top_decile_lift(outcomes: np.ndarray, probabilities: np.ndarray) -> float:
    """Purchase rate of the tenth with the highest probability over the rate of all."""
    import numpy as np

    count = max(1, len(outcomes) // 10)
    top = np.argsort(-probabilities, kind="stable")[:count]
    return float(outcomes[top].mean() / outcomes.mean())


# -- the registry ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Champion:
    """The version in service, loaded from the registry."""

    version: str
    model: Any

    def predict(self, rows: pd.DataFrame) -> np.ndarray:
        """Probability of a purchase, shape (n,)."""
        return self.model.predict_proba(rows)[:, 1]


def version_name(training_set: str, training_code_version: str) -> str:
    """The registry version of this training set by this code: one, whoever trains it and however often.

    Not the run's name: two runs at once, or one that takes the place of a killed one, would register it twice.
    """
    return f"TRAINED_{hashlib.sha256(f'{training_set} {training_code_version}'.encode()).hexdigest()[:12].upper()}"


def registry(session: Session, settings: Settings) -> Any:
    """The Model Registry of the project's schema."""
    from snowflake.ml.registry import Registry

    return Registry(session, database_name=settings.database, schema_name=settings.schema_name)


def load_champion(session: Session, settings: Settings) -> Champion | None:
    """The version with the alias CHAMPION, or None when none has been promoted yet."""
    champion = promotion.with_alias(promotion.versions(session, settings), "CHAMPION")
    if champion is None:
        return None
    model = registry(session, settings).get_model(settings.model_name).version(champion.name)
    return Champion(champion.name, model.load(force=True))


def logged_model(session: Session, settings: Settings, version: str) -> Any:
    """The model of a version that is in the registry already, or None: then it is still to be trained."""
    if _find(session, settings, version) is None:
        return None
    return registry(session, settings).get_model(settings.model_name).version(version).load(force=True)


def register(
    session: Session,
    settings: Settings,
    model: Pipeline,
    evaluation: Evaluation,
    sample: pd.DataFrame,
    facts: dict[str, Any],
) -> str:
    """Log the model as CHALLENGER with its metrics, where it is not logged yet; returns the version's name.

    ``facts``: what else must be known of a version to make it again (run, code version, training set); kept with the
    metrics. ``model`` is that of the version where there is one (``logged_model``).

    Raises:
        RetryableError: another run was logging the version, or the model's first one, at the same time.
    """
    version = version_name(facts["training_set"], facts["training_code_version"])
    logged = _find(session, settings, version)
    if logged is None:
        _log_once(session, settings, model, evaluation, sample, facts, version)
    elif not _is_described(logged):
        # An attempt was killed after the version was made and before its metrics were stored.
        _describe(session, settings, version, evaluation, facts)
    found = _find(session, settings, version)
    if found is None or not _is_described(found):
        raise RetryableError(
            f"version {version} of {settings.model_name} is not in the registry with its metrics: another run is "
            "logging it, or has removed it; train again"
        )
    promotion.challenge(session, settings, found)
    return version


def _find(session: Session, settings: Settings, version: str) -> promotion.Version | None:
    return next((known for known in promotion.versions(session, settings) if known.name == version), None)


def _is_described(version: promotion.Version) -> bool:
    return "training_set" in version.metrics


def _described(evaluation: Evaluation, facts: dict[str, Any]) -> dict[str, Any]:
    # The training set last: where metrics are set one by one, it says that the others are there.
    rest = {name: value for name, value in facts.items() if name != "training_set"}
    return {**flat(evaluation), **rest, "training_set": facts["training_set"]}


def _describe(
    session: Session, settings: Settings, version: str, evaluation: Evaluation, facts: dict[str, Any]
) -> None:
    made = registry(session, settings).get_model(settings.model_name).version(version)
    made.comment = _comment(facts)
    for name, value in _described(evaluation, facts).items():
        made.set_metric(name, value)


def _comment(facts: dict[str, Any]) -> str:
    return f"Predicts purchases from reviews; Dagster run {facts['run_id']}"


def _log_once(
    session: Session,
    settings: Settings,
    model: Pipeline,
    evaluation: Evaluation,
    sample: pd.DataFrame,
    facts: dict[str, Any],
    version: str,
) -> None:
    """Log the version, unless another run is faster; what that has stored is for the caller to see."""
    from snowflake.snowpark.exceptions import SnowparkSQLException

    try:
        _log(session, settings, model, evaluation, sample, facts, version)
    except (ValueError, SnowparkSQLException) as error:
        # The registry looks whether there is one when it begins and makes one when it ends.
        if _find(session, settings, version) is None:
            if promotion.exists_already(error):
                raise RetryableError(
                    f"another run made {settings.model_name} while this one was logging {version}: train again"
                ) from error
            raise


def _log(
    session: Session,
    settings: Settings,
    model: Pipeline,
    evaluation: Evaluation,
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
        metrics=_described(evaluation, facts),
    )


def flat(evaluation: Evaluation) -> dict[str, float | int | str]:
    """All metrics in one level, as the registry keeps them: ``challenger_roc_auc``, ``prior_log_loss``, ..."""
    result: dict[str, float | int | str] = {}
    for name in ("challenger", "prior", "logistic_regression", "champion"):
        metrics = getattr(evaluation, name)
        if metrics:
            result.update({f"{name}_{key}": value for key, value in asdict(metrics).items()})
    if evaluation.champion_version:
        result["champion_version"] = evaluation.champion_version
    return result

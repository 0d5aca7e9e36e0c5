"""The purchase model itself: how visits are split, what the model is made of, how it is trained on one node or many.

Works on data frames. How good a model is, is measured in ``evaluation``; versions in the registry are in
``model_versions``.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from customer_insights.errors import PermanentError
from customer_insights.settings import Settings
from customer_insights.tables import MODEL_FEATURES, NOMINAL_FEATURES, NUMERIC_FEATURES, TARGET

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from sklearn.pipeline import Pipeline

SEED = 20260101
PARTS = ("train", "validation", "test")
# Split by a hash of the key, so that a visit never moves between the parts: a champion trained last week has not seen
# this week's test rows. Shares of purchases in the parts therefore differ by chance; they are reported.
TRAIN_SHARE, VALIDATION_SHARE = 0.6, 0.2
FOLDS = 5
# Days of arrival from which a split by time says something.
DAYS_FOR_TIME_SPLIT = 5

# The objective is the probability of a purchase, not a number near 0 or 1. Trees are few levels deep: rows are
# thousands, not millions, and early stopping chooses how many.
PARAMETERS: dict[str, Any] = {
    "objective": "binary:logistic",
    "eval_metric": "logloss",
    "tree_method": "hist",
    "learning_rate": 0.06,
    "max_depth": 3,
    "min_child_weight": 8,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "reg_lambda": 2.0,
}
MOST_TREES = 2000
EARLY_STOPPING_ROUNDS = 40


class TrainingDataError(PermanentError):
    """The feature table cannot train a model; the message says what it lacks."""


def code_version(settings: Settings) -> str:
    """A hash of what makes the model besides its rows: when it changes, a model is trained again on features that did
    not."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for module in ("purchase_model.py", "evaluation.py"):
        digest.update((folder / module).read_bytes())
    options = [
        *(settings.class_weight_below, settings.search_trials, settings.distributed_training_rows),
        *(settings.purchase_value, settings.contact_cost),
    ]
    digest.update(json.dumps(options).encode())
    return digest.hexdigest()[:12]


# -- rows -------------------------------------------------------------------------------------------------------------


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
    parts = {name: labelled[labelled["UUID"].map(part) == name] for name in PARTS}
    for name, rows in parts.items():
        _require_both_classes(name, rows)
    return parts


def split_by_time(features: pd.DataFrame) -> dict[str, pd.DataFrame] | None:
    """The labelled rows with the latest days of arrival, about a fifth, as ``test``; None where there are too few days
    or one class only: then time says nothing."""
    labelled = features[features[TARGET].notna()]
    days = sorted(labelled["ARRIVAL_DATE"].unique())
    if len(days) < DAYS_FOR_TIME_SPLIT:
        return None
    first_of = {
        name: days[min(len(days) - 1, round(len(days) * share))]
        for name, share in (("validation", TRAIN_SHARE), ("test", TRAIN_SHARE + VALIDATION_SHARE))
    }
    arrived = labelled["ARRIVAL_DATE"]
    parts = {
        "train": labelled[arrived < first_of["validation"]],
        "validation": labelled[(arrived >= first_of["validation"]) & (arrived < first_of["test"])],
        "test": labelled[arrived >= first_of["test"]],
    }
    return parts if all(rows[TARGET].nunique() == 2 for rows in parts.values()) else None


def _require_both_classes(name: str, rows: pd.DataFrame) -> None:
    classes = sorted(rows[TARGET].astype(int).unique().tolist())
    if classes != [0, 1]:
        raise TrainingDataError(
            f"the {name} rows hold only {TARGET} = {classes}: a model of purchases needs visits with and without "
            "one. Check TABULAR_DATA.PURCHASE_DECISION."
        )


def model_input(features: pd.DataFrame, columns: Sequence[str] = MODEL_FEATURES) -> pd.DataFrame:
    """The model's columns in its order: text as text, numbers as float64 (NULL as NaN)."""
    frame = features.loc[:, list(columns)].copy()
    for name in columns:
        frame[name] = frame[name].astype("float64" if name in NUMERIC_FEATURES else str)
    return frame


def encoders(columns: Sequence[str] = MODEL_FEATURES) -> Any:
    """The transformer of raw columns: a column of 0 and 1 for each category, numbers as they are.

    It travels with the model. A category that training did not see is none of them, a number that is missing is the
    mean: neither fails.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

    # The ordinal step gives the columns names without the categories' own text, which SQL could not quote:
    # PRODUCT_TYPE_3. Against ordinal codes alone, 0 and 1 win 1 % of AUC at 50,000 visits (0.828 against 0.818).
    whole: Any = int
    nominal = make_pipeline(
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, dtype=whole),
        OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    )
    return ColumnTransformer(
        # Not "passthrough": the registry's function gets NULL as pandas.NA, which only an imputer turns into a number.
        [
            ("nominal", nominal, [name for name in columns if name in NOMINAL_FEATURES]),
            (
                "numeric",
                SimpleImputer(keep_empty_features=True),
                [name for name in columns if name in NUMERIC_FEATURES],
            ),
        ],
        # Explanations are named after the columns: without a prefix they begin with the raw columns' own names.
        verbose_feature_names_out=False,
    )


def raw_feature(encoded: str) -> str:
    """The raw column that an encoded one, as explanations name it, comes from."""
    return encoded if encoded in MODEL_FEATURES else encoded.rsplit("_", 1)[0]


# -- training ---------------------------------------------------------------------------------------------------------


def train(
    parts: dict[str, pd.DataFrame],
    settings: Settings,
    threads: int,
    *,
    columns: Sequence[str] = MODEL_FEATURES,
    parameters: dict[str, Any] | None = None,
    trees: int | None = None,
) -> Pipeline:
    """One pipeline of encoders and XGBoost; it takes the raw columns.

    Args:
        parameters: what differs from ``PARAMETERS``.
        trees: their number; None: as many as make the validation rows' log loss smallest.
    """
    from sklearn.pipeline import Pipeline
    from xgboost import XGBClassifier

    transformer = encoders(columns)
    encoded = transformer.fit_transform(model_input(parts["train"], columns))
    outcomes = parts["train"][TARGET].astype(int)
    weight = purchase_weight(outcomes.to_numpy(), settings)
    classifier = XGBClassifier(
        **{**PARAMETERS, **(parameters or {})},
        n_estimators=trees or MOST_TREES,
        early_stopping_rounds=None if trees else EARLY_STOPPING_ROUNDS,
        nthread=threads,
        random_state=SEED,
    )
    if trees:
        classifier.fit(encoded, outcomes, sample_weight=_weights(outcomes, weight))
    else:
        validated = parts["validation"][TARGET].astype(int)
        classifier.fit(
            encoded,
            outcomes,
            sample_weight=_weights(outcomes, weight),
            eval_set=[(transformer.transform(model_input(parts["validation"], columns)), validated)],
            # The same weights: trees would be added until training had undone what it was asked to overweigh.
            sample_weight_eval_set=[_weights(validated, weight)],
            verbose=False,
        )
    undo_weight(classifier.get_booster(), weight)
    return Pipeline([("columns", transformer), ("classifier", classifier)])


def number_of_trees(model: Pipeline) -> int:
    """The trees that its predictions use."""
    classifier = model.named_steps["classifier"]
    best = classifier.get_booster().attr("best_iteration")
    return int(best) + 1 if best is not None else int(classifier.get_booster().num_boosted_rounds())


def purchase_weight(outcomes: np.ndarray, settings: Settings) -> float:
    """What a purchase weighs in training: 1, or as much as all other visits together where purchases are rare."""
    share = float(outcomes.mean())
    return (1 - share) / share if 0 < share < settings.class_weight_below else 1.0


def _weights(outcomes: pd.Series, weight: float) -> np.ndarray:
    return 1.0 + (weight - 1.0) * outcomes.to_numpy(dtype=float)


def undo_weight(booster: Any, weight: float) -> None:
    """Take the weight out of the predictions: a purchase that weighed w has odds w times too high (King and Zeng
    2001)."""
    if weight == 1:
        return
    # The saved model, not its configuration: load_config does not change a base score (XGBoost 3.2).
    saved = json.loads(booster.save_raw("json"))
    parameters = saved["learner"]["learner_model_param"]
    # XGBoost 3 writes a list with one number for each output.
    base = json.loads(parameters["base_score"])
    score = float(base[0] if isinstance(base, list) else base)
    corrected = 1 / (1 + weight * (1 - score) / score)
    parameters["base_score"] = json.dumps([corrected]) if isinstance(base, list) else str(corrected)
    booster.load_model(bytearray(json.dumps(saved).encode()))


def cross_validated_auc(
    rows: pd.DataFrame, settings: Settings, trees: int, fold: int, parameters: dict[str, Any] | None = None
) -> float:
    """ROC-AUC on one of five stratified folds of the rows, trained on the other four.

    A little too good: the number of trees was chosen on some of these rows.
    """
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    fitted, tested = list(folds.split(rows, rows[TARGET].astype(int)))[fold]
    model = train({"train": rows.iloc[fitted]}, settings, 1, parameters=parameters, trees=trees)
    left = rows.iloc[tested]
    return float(roc_auc_score(left[TARGET].astype(int), model.predict_proba(model_input(left))[:, 1]))


def train_distributed(
    parts: dict[str, pd.DataFrame], settings: Settings, *, workers: int, threads: int, parameters: dict[str, Any]
) -> Pipeline:
    """The same pipeline, with the trees grown by Ray Train on ``workers`` nodes at once.

    The encoders are fitted, and the rows encoded, in this process; what the workers share is the histograms of their
    parts of the rows. The booster comes back through an actor: a checkpoint would need storage that all nodes write to.
    """
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.xgboost import XGBoostTrainer
    from sklearn.pipeline import Pipeline
    from xgboost import XGBClassifier

    transformer = encoders()
    transformer.fit(model_input(parts["train"]))
    datasets = {name: _encoded_dataset(transformer, parts[name], workers) for name in ("train", "validation")}
    weight = purchase_weight(parts["train"][TARGET].to_numpy(dtype=int), settings)
    options = {**PARAMETERS, **parameters, "nthread": threads, "seed": SEED}
    grown = ray.remote(num_cpus=0)(_Grown).remote()
    with tempfile.TemporaryDirectory() as storage:
        trainer = XGBoostTrainer(
            _grow,
            train_loop_config={"options": options, "weight": weight, "grown": grown},
            scaling_config=ScalingConfig(
                num_workers=workers, resources_per_worker={"CPU": threads}, placement_strategy="SPREAD"
            ),
            run_config=RunConfig(name="conversion_model", storage_path=storage),
            datasets=datasets,
        )
        trainer.fit()
    classifier = XGBClassifier(**PARAMETERS, n_estimators=MOST_TREES, nthread=threads, random_state=SEED)
    classifier.load_model(bytearray(ray.get(grown.take.remote())))
    undo_weight(classifier.get_booster(), weight)
    return Pipeline([("columns", transformer), ("classifier", classifier)])


def _encoded_dataset(transformer: Any, rows: pd.DataFrame, blocks: int) -> Any:
    import pandas as pd
    import ray

    encoded = pd.DataFrame(transformer.transform(model_input(rows)), columns=transformer.get_feature_names_out())
    return ray.data.from_pandas(encoded.assign(**{TARGET: rows[TARGET].to_numpy(dtype=int)})).repartition(blocks)


class _Grown:
    """Keeps the booster that the first worker grew, as bytes."""

    def __init__(self) -> None:
        self._booster = b""

    def put(self, booster: bytes) -> None:
        self._booster = booster

    def take(self) -> bytes:
        return self._booster


def _grow(configuration: dict[str, Any]) -> None:
    """What each worker runs: its shard of the rows, the same trees as all others."""
    import ray
    import xgboost
    from ray import train as ray_train

    shards: dict[str, Any] = {name: ray_train.get_dataset_shard(name) for name in ("train", "validation")}
    shards = {name: shard.materialize().to_pandas() for name, shard in shards.items()}
    matrices = {
        name: xgboost.DMatrix(
            rows.drop(columns=TARGET), rows[TARGET], weight=_weights(rows[TARGET], configuration["weight"])
        )
        for name, rows in shards.items()
    }
    booster = xgboost.train(
        configuration["options"],
        matrices["train"],
        MOST_TREES,
        evals=[(matrices["validation"], "validation")],
        early_stopping_rounds=EARLY_STOPPING_ROUNDS,
        verbose_eval=False,
    )
    if ray_train.get_context().get_world_rank() == 0:
        ray.get(configuration["grown"].put.remote(bytes(booster.save_raw())))
    # Once: every report costs seconds, whatever is in it.
    ray_train.report({"best_iteration": booster.best_iteration})


def search(parts: dict[str, pd.DataFrame], settings: Settings, threads: int) -> dict[str, Any]:
    """The parameters of the trial with the smallest log loss on the validation rows, of at most ``search_trials``.

    The first trial is ``PARAMETERS`` as they are, so a search never ends with something worse. No trial begins after
    ``search_seconds``.
    """
    import ray
    from ray import tune
    from ray.tune.search.basic_variant import BasicVariantGenerator

    shared = ray.put(parts)

    def trial(parameters: dict[str, Any]) -> None:
        model = train(ray.get(shared), settings, threads, parameters=parameters)
        tune.report({"log_loss": float(model.named_steps["classifier"].best_score)})

    space = {
        "learning_rate": tune.loguniform(0.02, 0.2),
        "max_depth": tune.randint(2, 7),
        "min_child_weight": tune.loguniform(1, 50),
        "subsample": tune.uniform(0.5, 1.0),
        "colsample_bytree": tune.uniform(0.4, 1.0),
        "reg_lambda": tune.loguniform(0.3, 20),
    }
    as_they_are = {name: PARAMETERS[name] for name in space}
    with tempfile.TemporaryDirectory() as storage:
        tuner = tune.Tuner(
            tune.with_resources(trial, {"cpu": threads}),
            param_space=space,
            tune_config=tune.TuneConfig(
                metric="log_loss",
                mode="min",
                num_samples=settings.search_trials,
                time_budget_s=settings.search_seconds,
                search_alg=BasicVariantGenerator(points_to_evaluate=[as_they_are], random_state=SEED),
            ),
            run_config=tune.RunConfig(verbose=0, storage_path=storage),
        )
        best = tuner.fit().get_best_result().config
    return dict(best or as_they_are)

"""Ray batch job: train, measure and register the purchase model.

Below several million rows one process of the cluster trains: that is faster than a distributed fit (measured: 0.6 to 5
s against 17 to 24 s with Ray Train at 100,000 to 1,000,000 rows). Folds and trials of a search run side by side.
"""

from __future__ import annotations

from importlib.metadata import version as version_of
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from customer_insights import evaluation, model_versions, plots, promotion, purchase_model, training_set
from customer_insights.errors import RetryableError
from customer_insights.features import fingerprint
from customer_insights.jobs.reporting import job
from customer_insights.settings import Settings
from customer_insights.tables import PURCHASE_FEATURES

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.pipeline import Pipeline
    from snowflake.snowpark import Session


# Visits that the five folds share out.
FOLD_ROWS = 200_000


def main() -> None:
    """Train on PURCHASE_FEATURES as it is now, frozen as a version of the Dataset, and log the model as CHALLENGER."""
    with job() as run:
        session, settings = run.session, run.settings
        fingerprinted, code = str(run.extras["training_set"]), purchase_model.code_version(settings)
        frozen = model_versions.training_set_name(fingerprinted)
        features = _frozen(session, settings, frozen, fingerprinted)
        parts = purchase_model.split(features, settings)
        # What an attempt that was killed has logged is measured, not trained again.
        version = model_versions.version_name(fingerprinted, code)
        known = model_versions.find(session, settings, version)
        if known:
            model, parameters = model_versions.load(session, settings, version), promotion.chosen_parameters(known)
        else:
            model, parameters = _train(parts, settings)
        champion = model_versions.load_champion(session, settings)
        measured = evaluation.evaluate(
            model,
            parts,
            settings,
            champion=champion[1] if champion else None,
            champion_version=champion[0] if champion else None,
            threads=_threads(),
        )
        spread = _spread(features, parts, settings, purchase_model.number_of_trees(model), parameters)
        # Before the version is there: whoever finds it finds these too.
        model_versions.keep_reference(session, version, model, parts, run.run_id)
        model_versions.keep_evaluation(session, version, measured, run.run_id)
        model_versions.register(
            session,
            settings,
            model,
            measured,
            parts["train"],
            {
                "run_id": run.run_id,
                "training_set": fingerprinted,
                "training_set_version": frozen,
                "training_code_version": code,
                "training_rows": len(parts["train"]),
                "trees": purchase_model.number_of_trees(model),
                "trained_on": _trained_on(parts, settings),
                "xgboost_version": version_of("xgboost"),
                "scikit_learn_version": version_of("scikit-learn"),
                **spread,
                **{f"{promotion.PARAMETER}{name}": value for name, value in parameters.items()},
            },
        )
        pictures = plots.of_evaluation(measured)
        run.report(
            {
                "version": version,
                "rows by part": ", ".join(
                    f"{name} {len(rows)} ({rows['PURCHASE_DECISION'].mean():.1%} purchases)"
                    for name, rows in parts.items()
                ),
                **pictures,
            },
            markdown=tuple(pictures),
        )


def _frozen(session: Session, settings: Settings, name: str, fingerprinted: str) -> pd.DataFrame:
    """The rows of PURCHASE_FEATURES as a version of the Dataset, and nothing else under that name.

    A version that an attempt left which was killed, or that was frozen while the table was made anew, holds other rows
    than its name says: it is discarded.

    Raises:
        RetryableError: the table is not, or not any more, what this job is to be trained on.
    """
    made_anew = RetryableError(
        "PURCHASE_FEATURES was made anew while this job was on its way: materialize the model again"
    )
    if fingerprint(session) != fingerprinted:
        raise made_anew
    training_set.freeze(session, settings, name)
    rows = training_set.read(session, settings, name)
    present = session.table(PURCHASE_FEATURES.name).select(*rows.columns).sort("UUID").to_pandas()
    if _digest(rows) != _digest(present):
        training_set.discard(session, settings, name)
        raise made_anew
    return rows


def _digest(rows: pd.DataFrame) -> int:
    import pandas as pd

    return int(pd.util.hash_pandas_object(rows.astype(str), index=False).sum())


def _threads() -> int:
    """The CPUs of the largest node: more threads than CPUs spin and wait for each other."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    return max(1, int(max(node["Resources"].get("CPU", 1) for node in nodes)))


def _train(parts: dict[str, pd.DataFrame], settings: Settings) -> tuple[Pipeline, dict[str, Any]]:
    """The model, and the parameters that a search chose for it."""
    import ray

    threads = _threads()
    parameters = purchase_model.search(parts, settings, threads) if settings.search_trials else {}
    if _is_distributed(parts, settings):
        workers = _nodes()
        # Ray Train's own tasks, which feed the rows, need a CPU besides.
        model = purchase_model.train_distributed(
            parts, settings, workers=workers, threads=max(1, threads - 1), parameters=parameters
        )
        return model, parameters
    fit: Any = ray.remote(num_cpus=threads)(purchase_model.train)
    return ray.get(fit.remote(parts, settings, threads, parameters=parameters)), parameters


def _is_distributed(parts: dict[str, pd.DataFrame], settings: Settings) -> bool:
    return len(parts["train"]) >= settings.distributed_training_rows


def _nodes() -> int:
    import ray

    return sum(1 for node in ray.nodes() if node["Alive"])


def _trained_on(parts: dict[str, pd.DataFrame], settings: Settings) -> str:
    return f"{_nodes()} nodes by Ray Train" if _is_distributed(parts, settings) else model_versions.ONE_NODE


def _spread(
    features: pd.DataFrame,
    parts: dict[str, pd.DataFrame],
    settings: Settings,
    trees: int,
    parameters: dict[str, Any],
) -> dict[str, Any]:
    """ROC-AUC on five folds of the rows that are not test rows, and on the latest days when trained on earlier ones."""
    import pandas as pd
    import ray

    seen = pd.concat([parts["train"], parts["validation"]], ignore_index=True)
    # Folds are worked on side by side, each with a copy.
    rows = ray.put(seen if len(seen) <= FOLD_ROWS else seen.sample(FOLD_ROWS, random_state=purchase_model.SEED))
    fold: Any = ray.remote(num_cpus=1)(purchase_model.cross_validated_auc)
    aucs = ray.get([fold.remote(rows, settings, trees, number, parameters) for number in range(purchase_model.FOLDS)])
    found: dict[str, Any] = {"folds_roc_auc": mean(aucs), "folds_roc_auc_deviation": stdev(aucs)}
    by_time = purchase_model.split_by_time(features)
    if by_time:
        model = purchase_model.train(by_time, settings, 1, parameters=parameters)
        outcomes = by_time["test"]["PURCHASE_DECISION"].to_numpy(dtype=int)
        probabilities = model.predict_proba(purchase_model.model_input(by_time["test"]))[:, 1]
        latest = evaluation.measure(outcomes, probabilities, settings).metrics["roc_auc"]
        found |= {
            "latest_days_roc_auc": latest.value,
            "latest_days_roc_auc_low": latest.low,
            "latest_days_roc_auc_high": latest.high,
        }
    return found


if __name__ == "__main__":
    main()

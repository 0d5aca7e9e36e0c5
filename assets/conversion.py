"""The purchase model: features, the trained challenger, the gate to champion and the way back, predictions and
explanations."""

from typing import TYPE_CHECKING, Any, Literal

import dagster as dg

from assets import catalogue, checks
from assets.reviews import reviews, tabular_data
from customer_insights import query
from customer_insights.settings import settings
from customer_insights.tables import (
    CHAMPION_HISTORY,
    MODEL_EXPLANATIONS,
    MODEL_FEATURES,
    MODEL_REFERENCE,
    PURCHASE_FEATURES,
    PURCHASE_PROPENSITY,
)
from resources.compute_pool import ComputePool, JobOutcome
from resources.retries import retried
from resources.snowflake import SnowflakeConnection

if TYPE_CHECKING:
    from snowflake.snowpark import Session

GROUP = "conversion"
EXPLAINED_VISITS = 100
# Dagster's tag of a run that takes the place of another: the first of them.
FIRST_RUN = "dagster/root_run_id"


@dg.asset(
    group_name=GROUP,
    deps=[reviews, tabular_data.key],
    kinds={"snowflake", "sql"},
    owners=catalogue.OWNERS,
    tags={"domain": "conversion"},
    code_version="1",
    pool="purchase_features",
    metadata=catalogue.table_metadata(PURCHASE_FEATURES),
    check_specs=[
        checks.keys_spec(PURCHASE_FEATURES),
        checks.spec(checks.NOT_EMPTY, "purchase_features", "There is a row."),
        checks.spec(checks.FEATURES, "purchase_features", "Each review with a visit is a row.", blocking=False),
        checks.spec(checks.VALUES, "purchase_features", "Every feature is within its range."),
    ],
)
@retried
def purchase_features(snowflake: SnowflakeConnection) -> dg.MaterializeResult:
    """One visit with its review: what the purchase model is trained on and predicts from."""
    from customer_insights import features

    with snowflake.session() as session:
        as_of = settings().training_as_of
        rows = features.build(session, as_of)
        losses = features.losses(session, as_of)
        expected = losses["REVIEWS"] - losses["REVIEWS_WITHOUT_VISIT"]
        complete = dg.AssetCheckResult(
            check_name=checks.FEATURES,
            passed=rows == expected,
            # Reviews that are being scored meanwhile, and visits without a rating, are for another day: they do not
            # keep the others from being predicted.
            severity=dg.AssetCheckSeverity.WARN,
            metadata={**losses, "rows": rows},
            description=f"{rows} rows from {expected} reviews with a visit",
        )
        not_empty = dg.AssetCheckResult(
            check_name=checks.NOT_EMPTY,
            passed=rows > 0,
            metadata={"rows": rows},
            description=f"{rows} rows" + ("" if rows else ". Are the UUIDs of TABULAR_DATA those of the reviews?"),
        )
        return JobOutcome.without_job("a join in the warehouse").result(
            {
                **catalogue.materialized(session, PURCHASE_FEATURES),
                **losses,
                "as of": as_of.isoformat() if as_of else "all that has arrived",
            },
            [
                checks.keys(session, PURCHASE_FEATURES),
                not_empty,
                complete,
                checks.violations(
                    session,
                    checks.VALUES,
                    PURCHASE_FEATURES,
                    {
                        "PAGE_LOAD_TIME is not negative": "PAGE_LOAD_TIME >= 0",
                        "PRODUCT_RATING from 1 to 5": "PRODUCT_RATING BETWEEN 1 AND 5",
                        "PURCHASE_DECISION is 0, 1 or NULL": "PURCHASE_DECISION IS NULL OR PURCHASE_DECISION IN (0, 1)",
                    },
                ),
            ],
            data_version=features.fingerprint(session),
        )


_FITNESS = {
    "better_than_chance": "ROC-AUC exceeds 0.5 beyond its interval.",
    "better_than_the_prior": "Log loss is below that of the purchase rate alone.",
    "calibrated": "The expected calibration error is small, beyond what chance explains on so many visits.",
    "no_segment_collapsed": "In each language and product type with enough visits it may be better than chance.",
    "reproduced_by_the_registry": "The registry's function gives the predictions that the model gave at training.",
}
_COMPARISON = {
    "not_worse_than_the_champion": "ROC-AUC is not below the champion's on the same visits, within the interval.",
    "no_segment_worse_than_the_champion": "In no language or product type is it surely worse than the champion.",
    "not_withdrawn": "Nobody has rolled back from the version.",
}


@dg.asset(
    group_name=GROUP,
    deps=[purchase_features],
    kinds={"snowflake", "ray", "xgboost"},
    owners=catalogue.OWNERS,
    tags={"domain": "conversion"},
    code_version="2",
    pool="conversion_model",
    # What the model was trained on and what it said of it.
    metadata={"dagster/column_schema": catalogue.column_schema(MODEL_REFERENCE)},
    check_specs=[checks.spec(name, "conversion_model", text) for name, text in _FITNESS.items()],
)
@retried
def conversion_model(
    context: dg.AssetExecutionContext, snowflake: SnowflakeConnection, compute_pool: ComputePool
) -> dg.MaterializeResult:
    """The newest version of the purchase model, trained on a Ray job and logged to the Model Registry as CHALLENGER.
    Nothing is trained when neither features nor code have changed since a version. A version that fails a check does
    not pass the gate. For data scientists; `champion` takes it into service."""
    from customer_insights import features, promotion, purchase_model

    with snowflake.session() as session:
        fingerprint, code = features.fingerprint(session), purchase_model.code_version(settings())

        def trained() -> promotion.Version | None:
            return promotion.trained_on(promotion.versions(session, settings()), fingerprint, code)

        def served() -> promotion.Version | None:
            return promotion.find_in_service(session, promotion.versions(session, settings()))

        def is_job_needed() -> bool:
            version = trained()
            return version is None or promotion.is_to_be_measured_again(version, served())

        outcome = compute_pool.run_when(
            is_job_needed,
            context,
            entrypoint="train_conversion",
            extras={"training_set": fingerprint},
            otherwise="a version was trained on these very features, and measured beside the champion",
        )
        version = trained()
        if version is None:
            raise dg.Failure(f"the job ended, but no version of {settings().model_name} was trained on {fingerprint}")
        # Also a version that an earlier run logged and could not name, or that newer features have been taken back to.
        promotion.challenge(session, settings(), version)
        found = {
            **promotion.fitness(version, settings()),
            "reproduced_by_the_registry": promotion.reproduction(session, settings(), version),
        }
        # Predictions go on with the version that serves; without one there is nothing to go on with.
        severity = dg.AssetCheckSeverity.WARN if served() else dg.AssetCheckSeverity.ERROR
        return outcome.result(
            {
                "model": f"{settings().qualified_schema}.{settings().model_name}",
                "version": version.name,
                "aliases": ", ".join(version.aliases) or "none",
                "dagster/column_lineage": catalogue.column_lineage(MODEL_REFERENCE),
                **catalogue.link(session, "model", settings().model_name),
                **{name: value for name, value in version.metrics.items() if isinstance(value, (int, float, str))},
            },
            [
                dg.AssetCheckResult(check_name=name, passed=passed, description=text, severity=severity)
                for name, (passed, text) in found.items()
            ],
            data_version=version.name,
        )


class ServiceChange(dg.Config):
    """What to do with the version in service."""

    action: Literal["promote", "rollback"] = "promote"
    to_version: str = ""
    reason: str = "rolled back from Dagster's UI"


@dg.asset(
    group_name=GROUP,
    deps=[conversion_model],
    kinds={"snowflake"},
    owners=catalogue.OWNERS,
    tags={"domain": "conversion"},
    code_version="2",
    pool="champion",
    metadata=catalogue.table_metadata(CHAMPION_HISTORY),
    # No errors: a challenger that is refused leaves a champion that serves on.
    check_specs=[checks.spec(name, "champion", text, blocking=False) for name, text in _COMPARISON.items()],
    description=(
        "The version in service: the alias CHAMPION and the default version of the model in the registry. They move "
        "to the challenger only when it is fit and not worse than the champion on the same visits. The job `rollback` "
        "puts back the version that served before."
    ),
)
@retried
def champion(
    context: dg.AssetExecutionContext, config: ServiceChange, snowflake: SnowflakeConnection
) -> dg.MaterializeResult:
    """Move the alias, or keep the champion and say why; or roll back."""
    if config.to_version and config.action != "rollback":
        raise dg.Failure(
            f"to_version is {config.to_version} and action is {config.action}: to put a version back into service, set "
            "action to rollback too. Nothing was changed",
            allow_retries=False,
        )
    with snowflake.session() as session:
        if config.action == "rollback":
            # A run whose worker died is started again under another id, and must not go back once more.
            return _roll_back(session, config, context.run.tags.get(FIRST_RUN, context.run_id))
        return _promote(session, context)


def _roll_back(session: "Session", config: ServiceChange, run_id: str) -> dg.MaterializeResult:
    from customer_insights import promotion

    served, withdrawn = promotion.roll_back(session, settings(), config.to_version or None, config.reason, run_id)
    text = f"rolled back from {withdrawn} to {served}: {config.reason}"
    return dg.MaterializeResult(
        metadata={"champion": served, "withdrawn": withdrawn, "promoted": False, "decision": text, **_history(session)},
        check_results=[dg.AssetCheckResult(check_name=name, passed=True, description=text) for name in _COMPARISON],
        data_version=dg.DataVersion(served),
    )


def _promote(session: "Session", context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    from customer_insights import promotion

    found = promotion.versions(session, settings())
    in_service = promotion.find_in_service(session, found)
    # Without a challenger the champion stays, for instance where its own alias has taken the place of CHALLENGER.
    challenger = promotion.with_alias(found, "CHALLENGER") or in_service
    if challenger is None:
        raise dg.Failure(
            f"no version of {settings().model_name} has the alias CHALLENGER: materialize conversion_model first"
        )
    decision = promotion.decide(
        challenger,
        in_service,
        settings(),
        reproduced=promotion.reproduction(session, settings(), challenger),
        withdrawn=promotion.withdrawn(session),
    )
    reasons = "; ".join(text for passed, text in decision.conditions.values() if not passed)
    is_new = in_service is None or in_service.name != challenger.name
    if decision.passed:
        text = "; ".join(text for _, text in decision.conditions.values())
        promotion.promote(session, settings(), challenger.name, text, context.run_id)
        served = challenger.name
    elif in_service:
        served = in_service.name
        context.log.warning(f"{challenger.name} was not promoted; {served} stays in service: {reasons}")
    else:
        raise dg.Failure(f"no champion yet, and the challenger may not become one: {reasons}")
    conditions = [(name, "passed" if ok else "failed", text) for name, (ok, text) in decision.conditions.items()]
    return dg.MaterializeResult(
        metadata={
            "champion": served,
            "challenger": challenger.name,
            "promoted": decision.passed and is_new,
            "decision": "promoted" if decision.passed and is_new else reasons or "the challenger is the champion",
            "conditions": catalogue.markdown_table(("condition", "result", "found"), conditions),
            **_history(session),
        },
        check_results=[
            _comparison(name, *decision.conditions.get(name, (True, "nothing to compare: no other champion")))
            for name in _COMPARISON
        ],
        data_version=dg.DataVersion(served),
    )


def _comparison(name: str, passed: bool, text: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(check_name=name, passed=passed, description=text, severity=dg.AssetCheckSeverity.WARN)


def _history(session: "Session") -> dict[str, Any]:
    columns = ("CHANGED_AT", "MODEL_VERSION", "PREVIOUS_VERSION", "ACTION", "REASON")
    rows = query.rows(
        session, f"SELECT {', '.join(columns)} FROM {CHAMPION_HISTORY.name} ORDER BY CHANGED_AT DESC LIMIT 10"
    )
    return {
        "history": catalogue.markdown_table(columns, [tuple(row.values()) for row in rows]),
        "dagster/column_lineage": catalogue.column_lineage(CHAMPION_HISTORY),
    }


@dg.asset(
    group_name=GROUP,
    deps=[purchase_features, champion],
    kinds={"snowflake", "xgboost"},
    owners=catalogue.OWNERS,
    tags={"domain": "conversion"},
    code_version="1",
    pool="purchase_propensity",
    metadata=catalogue.table_metadata(PURCHASE_PROPENSITY),
    check_specs=[
        checks.keys_spec(PURCHASE_PROPENSITY),
        checks.spec(
            checks.VALUES, "purchase_propensity", "Every probability is from 0 to 1, every decile from 1 to 10."
        ),
        checks.spec(checks.NO_ROW_LOST, "purchase_propensity", "Every visit with features has a prediction."),
    ],
)
@retried
def purchase_propensity(context: dg.AssetExecutionContext, snowflake: SnowflakeConnection) -> dg.MaterializeResult:
    """One visit with the champion's probability of a purchase and its decile. For marketing: whom to target
    first."""
    from customer_insights import plots, promotion, propensity

    with snowflake.session() as session:
        served = promotion.in_service(session, settings())
        rows = propensity.score(session, settings(), served, context.run_id)
        visits = session.table(PURCHASE_FEATURES.name).count()
        values = query.rows(session, "SELECT PURCHASE_PROBABILITY AS P FROM PURCHASE_PROPENSITY SAMPLE (10000 ROWS)")
        picture = plots.histogram(
            [float(row["P"]) for row in values], "Predicted probabilities", "probability of a purchase", "histogram"
        )
        return JobOutcome.without_job("the registry's function in the warehouse").result(
            {
                **catalogue.materialized(session, PURCHASE_PROPENSITY),
                "model version": served.name,
                "distribution": dg.MetadataValue.md(picture),
            },
            [
                checks.keys(session, PURCHASE_PROPENSITY),
                checks.violations(
                    session,
                    checks.VALUES,
                    PURCHASE_PROPENSITY,
                    {
                        "PURCHASE_PROBABILITY from 0 to 1": "PURCHASE_PROBABILITY BETWEEN 0 AND 1",
                        "DECILE from 1 to 10": "DECILE BETWEEN 1 AND 10",
                    },
                ),
                dg.AssetCheckResult(
                    check_name=checks.NO_ROW_LOST,
                    passed=rows == visits,
                    metadata={"visits": visits, "predictions": rows},
                    description=f"{rows} predictions for {visits} visits",
                ),
            ],
        )


@dg.asset(
    group_name=GROUP,
    deps=[purchase_propensity],
    kinds={"snowflake", "xgboost"},
    owners=catalogue.OWNERS,
    tags={"domain": "conversion"},
    code_version="1",
    pool="model_explanations",
    metadata=catalogue.table_metadata(MODEL_EXPLANATIONS),
    check_specs=[checks.keys_spec(MODEL_EXPLANATIONS)],
)
@retried
def model_explanations(context: dg.AssetExecutionContext, snowflake: SnowflakeConnection) -> dg.MaterializeResult:
    """One feature's SHAP contribution to one prediction, for the most likely visits and a sample of the others. For
    whoever asks why a customer was scored so."""
    from customer_insights import plots, promotion, propensity

    with snowflake.session() as session:
        served = promotion.in_service(session, settings())
        explained = propensity.explain(session, settings(), served.name, context.run_id, EXPLAINED_VISITS)
        importance = explained.groupby("FEATURE")["CONTRIBUTION"].apply(lambda values: float(values.abs().mean()))
        ordered = {str(name): float(value) for name, value in importance.sort_values(ascending=False).items()}
        picture = plots.bars(ordered, "What moves the prediction", "mean |SHAP value|, log-odds", "feature importance")
        effects = propensity.effects(explained)
        return JobOutcome.without_job("the registry's function in the warehouse").result(
            {
                **catalogue.materialized(session, MODEL_EXPLANATIONS),
                "model version": served.name,
                "visits explained": int(explained["UUID"].nunique()),
                "features": len(MODEL_FEATURES),
                "importance": dg.MetadataValue.md(picture),
                "effects": dg.MetadataValue.md(plots.effects({name: effects[name] for name in ordered})),
            },
            [checks.keys(session, MODEL_EXPLANATIONS)],
        )

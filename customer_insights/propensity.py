"""Predictions of the champion for every visit, and the explanations of a sample of them, by the registry's own
functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from customer_insights.errors import PermanentError
from customer_insights.identifiers import validated
from customer_insights.promotion import PURCHASE_OUTPUT, Version, reads_present_features
from customer_insights.settings import Settings
from customer_insights.tables import MODEL_EXPLANATIONS, MODEL_FEATURES, NUMERIC_FEATURES, PURCHASE_PROPENSITY

if TYPE_CHECKING:
    import pandas as pd
    from snowflake.snowpark import Session


def score(session: Session, settings: Settings, served: Version, run_id: str) -> int:
    """Predict every row of PURCHASE_FEATURES in the warehouse and replace PURCHASE_PROPENSITY whole; returns its rows.

    Raises:
        PermanentError: the version was trained on other features.
    """
    if not reads_present_features(served):
        raise PermanentError(
            f"{served.name}, which serves, was trained on other features than PURCHASE_FEATURES has now: materialize "
            "conversion_model and champion, which will replace it"
        )
    arguments = ", ".join(f"{name}::FLOAT" if name in NUMERIC_FEATURES else name for name in MODEL_FEATURES)
    model = f"{settings.qualified_schema}.{validated(settings.model_name)}"
    session.sql(
        f"CREATE OR REPLACE TEMPORARY TABLE PROPENSITY_SCORED AS\n"
        f"WITH m AS MODEL {model} VERSION {validated(served.name)}\n"
        f"SELECT UUID, m!PREDICT_PROBA({arguments}) AS ANSWER FROM PURCHASE_FEATURES"
    ).collect()
    columns = ", ".join(PURCHASE_PROPENSITY.column_names)
    session.sql(
        f"INSERT OVERWRITE INTO {PURCHASE_PROPENSITY.name} ({columns})\n"
        f"SELECT UUID, ANSWER:{PURCHASE_OUTPUT}::FLOAT AS PURCHASE_PROBABILITY,\n"
        f"  NTILE(10) OVER (ORDER BY ANSWER:{PURCHASE_OUTPUT}::FLOAT DESC, UUID) AS DECILE, ?, SYSDATE(), ?\n"
        "FROM PROPENSITY_SCORED",
        params=[served.name, run_id],
    ).collect()
    session.sql("DROP TABLE PROPENSITY_SCORED").collect()
    return int(session.table(PURCHASE_PROPENSITY.name).count())


def explain(session: Session, settings: Settings, version: str, run_id: str, rows: int) -> pd.DataFrame:
    """SHAP values of the ``rows`` most likely visits and as many others, written to MODEL_EXPLANATIONS.

    Returns one row a visit and feature, with the columns of the table.
    """
    import pandas as pd

    from customer_insights.model_versions import registry
    from customer_insights.purchase_model import model_input, raw_feature

    chosen = session.sql(
        "SELECT f.* FROM PURCHASE_FEATURES AS f JOIN (\n"
        "  (SELECT UUID FROM PURCHASE_PROPENSITY ORDER BY PURCHASE_PROBABILITY DESC, UUID LIMIT ?)\n"
        "  UNION\n"
        "  (SELECT UUID FROM PURCHASE_PROPENSITY ORDER BY MD5(UUID) LIMIT ?)\n"
        ") AS c ON c.UUID = f.UUID ORDER BY f.UUID",
        params=[rows, rows],
    ).to_pandas()
    inputs = model_input(chosen)
    model = registry(session, settings).get_model(settings.model_name).version(version)
    encoded = model.run(inputs, function_name="explain")
    # One column for each encoded feature; those of one raw feature add up to its contribution.
    names = [raw_feature(str(name).removesuffix("_explanation")) for name in encoded.columns]
    contributions = encoded.astype(float).T.groupby(names).sum().T
    now = pd.Timestamp.now(tz="UTC").tz_localize(None)
    parts = [
        pd.DataFrame(
            {
                "UUID": chosen["UUID"],
                "FEATURE": name,
                "FEATURE_VALUE": inputs[name].astype(str),
                "CONTRIBUTION": contributions[name].to_numpy(),
                "MODEL_VERSION": version,
                "EXPLAINED_AT": now,
                "RUN_ID": run_id,
            }
        )
        for name in MODEL_FEATURES
    ]
    result = pd.concat(parts, ignore_index=True)[list(MODEL_EXPLANATIONS.column_names)]
    session.sql("CREATE OR REPLACE TEMPORARY TABLE EXPLANATIONS_NEW LIKE MODEL_EXPLANATIONS").collect()
    session.write_pandas(result, "EXPLANATIONS_NEW", table_type="temporary", use_logical_type=True)
    session.sql("INSERT OVERWRITE INTO MODEL_EXPLANATIONS SELECT * FROM EXPLANATIONS_NEW").collect()
    session.sql("DROP TABLE EXPLANATIONS_NEW").collect()
    return result


def effects(explained: pd.DataFrame, most: int = 8) -> dict[str, list[tuple[str, float]]]:
    """Mean contribution by value of each feature (of the ``most`` common ones), or by range of equal counts for
    numbers: feature -> (value or range, log-odds)."""
    import pandas as pd

    result = {}
    for name, rows in explained.groupby("FEATURE"):
        if name in NUMERIC_FEATURES:
            known = rows[pd.to_numeric(rows["FEATURE_VALUE"], errors="coerce").notna()]
            if known.empty:
                result[str(name)] = [("missing", float(rows["CONTRIBUTION"].mean()))]
                continue
            rows, values = known, pd.to_numeric(known["FEATURE_VALUE"])
            kept = pd.qcut(values, min(6, max(1, values.nunique())), duplicates="drop")
            means = rows["CONTRIBUTION"].groupby(kept, observed=True).mean()
            spans = pd.IntervalIndex(means.index.to_list())
            labels = [f"{low:.3g} to {high:.3g}" for low, high in zip(spans.left, spans.right, strict=True)]
            result[str(name)] = list(zip(labels, map(float, means), strict=True))
        else:
            common = rows["FEATURE_VALUE"].value_counts().index[:most]
            means = rows["CONTRIBUTION"].groupby(rows["FEATURE_VALUE"]).mean()
            result[str(name)] = [(str(value), float(means[value])) for value in common]
    return result

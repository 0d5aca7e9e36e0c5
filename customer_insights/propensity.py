"""Predictions of the champion for every visit, and the explanations of a sample of them, by the registry's own
functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from customer_insights.conversion import registry
from customer_insights.identifiers import validated
from customer_insights.settings import Settings
from customer_insights.tables import MODEL_EXPLANATIONS, MODEL_FEATURES, NUMERIC_FEATURES, PURCHASE_PROPENSITY

if TYPE_CHECKING:
    import pandas as pd
    from snowflake.snowpark import Session

# scikit-learn's predict_proba has no names for its columns; the registry calls them so, in the order of the classes 0
# and 1.
PURCHASE_OUTPUT = "output_feature_1"


def score(session: Session, settings: Settings, version: str, run_id: str) -> int:
    """Predict every row of PURCHASE_FEATURES in the warehouse and replace PURCHASE_PROPENSITY whole; returns its
    rows."""
    arguments = ", ".join(f"{name}::FLOAT" if name in NUMERIC_FEATURES else name for name in MODEL_FEATURES)
    model = f"{settings.qualified_schema}.{validated(settings.model_name)}"
    session.sql(
        f"CREATE OR REPLACE TEMPORARY TABLE PROPENSITY_SCORED AS\n"
        f"WITH m AS MODEL {model} VERSION {validated(version)}\n"
        f"SELECT UUID, m!PREDICT_PROBA({arguments}) AS ANSWER FROM PURCHASE_FEATURES"
    ).collect()
    columns = ", ".join(PURCHASE_PROPENSITY.column_names)
    session.sql(
        f"INSERT OVERWRITE INTO {PURCHASE_PROPENSITY.name} ({columns})\n"
        f"SELECT UUID, ANSWER:{PURCHASE_OUTPUT}::FLOAT AS PURCHASE_PROBABILITY,\n"
        f"  NTILE(10) OVER (ORDER BY ANSWER:{PURCHASE_OUTPUT}::FLOAT DESC, UUID) AS DECILE, ?, SYSDATE(), ?\n"
        "FROM PROPENSITY_SCORED",
        params=[version, run_id],
    ).collect()
    session.sql("DROP TABLE PROPENSITY_SCORED").collect()
    return int(session.table(PURCHASE_PROPENSITY.name).count())


def explain(session: Session, settings: Settings, version: str, run_id: str, rows: int) -> pd.DataFrame:
    """SHAP values of the ``rows`` most likely visits and as many others, written to MODEL_EXPLANATIONS.

    Returns one row a visit and feature, with the columns of the table.
    """
    import pandas as pd

    chosen = session.sql(
        "SELECT f.* FROM PURCHASE_FEATURES AS f JOIN (\n"
        "  (SELECT UUID FROM PURCHASE_PROPENSITY ORDER BY PURCHASE_PROBABILITY DESC, UUID LIMIT ?)\n"
        "  UNION\n"
        "  (SELECT UUID FROM PURCHASE_PROPENSITY ORDER BY MD5(UUID) LIMIT ?)\n"
        ") AS c ON c.UUID = f.UUID ORDER BY f.UUID",
        params=[rows, rows],
    ).to_pandas()
    from customer_insights.conversion import model_input

    inputs = model_input(chosen)
    model = registry(session, settings).get_model(settings.model_name).version(version)
    contributions = model.run(inputs, function_name="explain")
    now = pd.Timestamp.now(tz="UTC").tz_localize(None)
    parts = [
        pd.DataFrame(
            {
                "UUID": chosen["UUID"],
                "FEATURE": name,
                "FEATURE_VALUE": inputs[name].astype(str),
                "CONTRIBUTION": contributions[f"{name}_explanation"].astype(float).to_numpy(),
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

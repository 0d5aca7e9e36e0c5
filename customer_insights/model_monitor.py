"""Snowflake's own monitor of a model version (``CREATE MODEL MONITOR``): the view it reads, the rows it compares with,
and its statement. What this project measures itself is in ``drift``.

From Snowflake's documentation, not tried on an account: a monitor watches one version, in the schema of its model; its
source has an id, a TIMESTAMP_NTZ, the prediction and, for a binary classifier, the actual class; its baseline is copied
into it when it is created. The role needs CREATE MODEL MONITOR on the schema.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from customer_insights import query
from customer_insights.drift import SCORE
from customer_insights.identifiers import qualified, validated
from customer_insights.settings import Settings
from customer_insights.tables import MODEL_FEATURES, MODEL_REFERENCE, PURCHASE_FEATURES, PURCHASE_PROPENSITY, TARGET

if TYPE_CHECKING:
    from snowflake.snowpark import Session

FUNCTION = "predict_proba"
# Visits arrive and are predicted once a day; a day is also the smallest window.
REFRESH_INTERVAL = AGGREGATION_WINDOW = "1 day"


def statements(settings: Settings, version: str) -> list[str]:
    """What makes the monitor of a version, in order; each may be run again without harm.

    The view and the baseline are the version's own, and are not replaced: the monitor's refresh would begin anew.
    """
    name = validated(version)

    def owned(prefix: str) -> str:
        return qualified(settings.database, settings.schema_name, f"{prefix}_{name}")

    features = ", ".join(f"f.{feature}" for feature in MODEL_FEATURES)
    return [
        f"CREATE VIEW IF NOT EXISTS {owned('MONITORED')} AS\n"
        f"SELECT f.UUID, f.ARRIVAL_DATE::TIMESTAMP_NTZ AS ARRIVED_AT, {features}, p.{SCORE}, f.{TARGET}\n"
        f"FROM {PURCHASE_FEATURES.name} AS f JOIN {PURCHASE_PROPENSITY.name} AS p\n"
        f"  ON p.UUID = f.UUID AND p.MODEL_VERSION = '{name}'",
        # Held-out visits: those that trained the model are predicted too well.
        f"CREATE TABLE IF NOT EXISTS {owned('MONITOR_BASELINE')} AS\n"
        f"SELECT f.UUID, f.LOGGED_AT AS ARRIVED_AT, {features}, f.{SCORE}, f.{TARGET}\n"
        f"FROM {MODEL_REFERENCE.name} AS f WHERE f.MODEL_VERSION = '{name}' AND f.PART = 'test'",
        f"CREATE MODEL MONITOR IF NOT EXISTS {owned('MONITOR')} WITH\n"
        f"  MODEL = {qualified(settings.database, settings.schema_name, settings.model_name)}\n"
        f"  VERSION = '{name}'\n"
        f"  FUNCTION = '{FUNCTION}'\n"
        f"  SOURCE = {owned('MONITORED')}\n"
        f"  BASELINE = {owned('MONITOR_BASELINE')}\n"
        f"  WAREHOUSE = {validated(settings.warehouse)}\n"
        f"  REFRESH_INTERVAL = '{REFRESH_INTERVAL}'\n"
        f"  AGGREGATION_WINDOW = '{AGGREGATION_WINDOW}'\n"
        "  TIMESTAMP_COLUMN = ARRIVED_AT\n"
        "  ID_COLUMNS = ('UUID')\n"
        f"  PREDICTION_SCORE_COLUMNS = ('{SCORE}')\n"
        f"  ACTUAL_CLASS_COLUMNS = ('{TARGET}')",
    ]


def create(session: Session, settings: Settings, version: str) -> str:
    """Let Snowflake monitor the version, unless it does already; returns the monitor's name."""
    for statement in statements(settings, version):
        query.rows(session, statement)
    return qualified(settings.database, settings.schema_name, f"MONITOR_{version}")

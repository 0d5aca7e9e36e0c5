"""What the pipeline costs, by Snowflake's own history of jobs and statements.

Every session of a step carries a query tag that names run, asset and partition (``query_tag``), and every job a comment
that does, so that nothing is lost when a worker dies. Rates and how each estimate is made are explained in
``docs/costs.md``.
"""

from __future__ import annotations

from customer_insights.settings import Settings

# Credits an hour of one node, by instance family: "Snowpark Container Services" in Snowflake's Service Consumption
# Table, https://www.snowflake.com/legal-files/CreditConsumptionTable.pdf. Families that are not here (Azure's and
# Google's own) need the setting.
RATES_AS_OF = "2026-01"
CREDITS_PER_NODE_HOUR = {
    "CPU_X64_XS": 0.06,
    "CPU_X64_S": 0.11,
    "CPU_X64_M": 0.22,
    "CPU_X64_SL": 0.41,
    "CPU_X64_L": 0.83,
    "HIGHMEM_X64_S": 0.28,
    "HIGHMEM_X64_M": 1.11,
    "HIGHMEM_X64_L": 4.44,
    "GPU_NV_XS": 0.25,
    "GPU_NV_S": 0.57,
    "GPU_NV_M": 2.68,
    "GPU_NV_L": 14.12,
}


def node_rates(settings: Settings) -> float | dict[str, float]:
    """Credits an hour of a node: the setting's one rate, or those by family, the setting's before the table's."""
    chosen = settings.credits_per_node_hour
    return chosen if isinstance(chosen, float) else {**CREDITS_PER_NODE_HOUR, **(chosen or {})}

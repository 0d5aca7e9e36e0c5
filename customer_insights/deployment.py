"""The Snowflake objects that the project needs: database, schema, warehouse, compute pool, stages, tables and the view.
Idempotent.

The statements are made here from settings and ``tables``, so that names and columns are spelt once. Roles and grants of
an account are in ``deploy/snowflake/``: they are the account administrator's, not this project's user's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from customer_insights import tables
from customer_insights.identifiers import qualified, validated
from customer_insights.settings import Settings

if TYPE_CHECKING:
    from snowflake.snowpark import Session


def statements(settings: Settings) -> list[str]:
    """Every DDL statement, in order; each may be run again without harm."""
    schema = qualified(settings.database, settings.schema_name)
    stages = (settings.review_stage, settings.payload_stage, settings.work_stage, settings.model_stage)
    return [
        f"CREATE WAREHOUSE IF NOT EXISTS {validated(settings.warehouse)} WAREHOUSE_SIZE = XSMALL AUTO_SUSPEND = 60",
        f"CREATE DATABASE IF NOT EXISTS {validated(settings.database)}",
        f"CREATE SCHEMA IF NOT EXISTS {schema}",
        f"USE SCHEMA {schema}",
        f"CREATE COMPUTE POOL IF NOT EXISTS {validated(settings.compute_pool)} MIN_NODES = 1 "
        f"MAX_NODES = {settings.compute_pool_max_nodes} INSTANCE_FAMILY = {validated(settings.compute_pool_family)} "
        "AUTO_SUSPEND_SECS = 300",
        # Presigned URLs, by which jobs read, open the files of stages that Snowflake encrypts, not the client.
        *(
            f"CREATE STAGE IF NOT EXISTS {validated(stage)} DIRECTORY = (ENABLE = TRUE) "
            "ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')"
            for stage in stages
        ),
        *(table.create_ddl() for table in tables.TABLES),
        reviews_view(),
    ]


def reviews_view() -> str:
    """The quickstart's REVIEWS as a view over what is kept apart by what computes it."""
    return (
        "CREATE OR REPLACE VIEW REVIEWS AS\n"
        "SELECT r.UUID, r.REVIEW_TEXT, q.REVIEW_QUALITY, s.REVIEW_SENTIMENT, s.SENTIMENT_LABEL, r.LANGUAGE, "
        "r.ARRIVAL_DATE\n"
        "FROM RAW_REVIEWS AS r\n"
        "LEFT JOIN REVIEW_QUALITY AS q ON q.UUID = r.UUID AND q.TEXT_HASH = r.TEXT_HASH\n"
        "LEFT JOIN REVIEW_SENTIMENT AS s ON s.UUID = r.UUID AND s.TEXT_HASH = r.TEXT_HASH"
    )


def deploy(session: Session, settings: Settings) -> None:
    """Create what is missing; what exists is left as it is."""
    for statement in statements(settings):
        session.sql(statement).collect()

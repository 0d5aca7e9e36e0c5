"""The Snowflake objects that the project needs: database, schema, warehouse, compute pool, stages, tables and the view.
Idempotent.

The statements are made here from settings and ``tables``, so that names and columns are spelt once. Roles and grants of
an account are in ``deploy/snowflake/``: they are the account administrator's, not this project's user's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from customer_insights import query, tables
from customer_insights.identifiers import qualified, validated
from customer_insights.settings import Settings

if TYPE_CHECKING:
    from snowflake.snowpark import Session


# What is known of the rows of an earlier version of this project, in columns that they did not have.
OF_EARLIER_ROWS = {("REVIEW_SENTIMENT", "UNANSWERED"): "0"}


def statements(settings: Settings) -> list[str]:
    """Every DDL statement, in order; each may be run again without harm."""
    return [*(create for _, _, create in _administered(settings)), *_owned(settings)]


def _administered(settings: Settings) -> list[tuple[str, str, str]]:
    """What an account's administrator may have made already: its name, the statement that shows it, and the DDL."""
    schema = qualified(settings.database, settings.schema_name)
    warehouse, database, pool = (
        validated(name) for name in (settings.warehouse, settings.database, settings.compute_pool)
    )
    return [
        (
            warehouse,
            f"SHOW WAREHOUSES LIKE '{warehouse}'",
            f"CREATE WAREHOUSE IF NOT EXISTS {warehouse} WAREHOUSE_SIZE = XSMALL AUTO_SUSPEND = 60",
        ),
        (database, f"SHOW DATABASES LIKE '{database}'", f"CREATE DATABASE IF NOT EXISTS {database}"),
        (
            validated(settings.schema_name),
            f"SHOW SCHEMAS LIKE '{validated(settings.schema_name)}' IN DATABASE {database}",
            f"CREATE SCHEMA IF NOT EXISTS {schema}",
        ),
        (
            pool,
            f"SHOW COMPUTE POOLS LIKE '{pool}'",
            f"CREATE COMPUTE POOL IF NOT EXISTS {pool} MIN_NODES = 1 "
            f"MAX_NODES = {settings.compute_pool_max_nodes} "
            f"INSTANCE_FAMILY = {validated(settings.compute_pool_family)} AUTO_SUSPEND_SECS = 300",
        ),
    ]


def _owned(settings: Settings) -> list[str]:
    """What belongs to the project's own role, in its schema."""
    stages = (settings.review_stage, settings.payload_stage, settings.work_stage, settings.report_stage)
    return [
        f"USE SCHEMA {qualified(settings.database, settings.schema_name)}",
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
    """The quickstart's REVIEWS as a view over what is kept apart by what computes it.

    It is made anew with every materialization; without COPY GRANTS whoever reads it would lose the right each time.
    """
    return (
        "CREATE OR REPLACE VIEW REVIEWS COPY GRANTS AS\n"
        "SELECT r.UUID, r.REVIEW_TEXT, q.REVIEW_QUALITY, s.REVIEW_SENTIMENT, s.SENTIMENT_LABEL, s.ASPECTS,\n"
        "  q.QUALITY_PROBABILITY, q.QUALITY_SCORE, r.LANGUAGE, r.ARRIVAL_DATE\n"
        "FROM RAW_REVIEWS AS r\n"
        "LEFT JOIN REVIEW_QUALITY AS q ON q.UUID = r.UUID AND q.TEXT_HASH = r.TEXT_HASH\n"
        "LEFT JOIN REVIEW_SENTIMENT AS s ON s.UUID = r.UUID AND s.TEXT_HASH = r.TEXT_HASH"
    )


def deploy(session: Session, settings: Settings) -> None:
    """Create what is missing, also columns that a table of an earlier version of this project lacks; what exists is
    left as it is."""
    # Snowflake asks for the privilege to create also where IF NOT EXISTS finds the object, and the project's role has
    # none on the account (dbt-external-tables issue 214).
    for name, show, create in _administered(settings):
        if name not in {row["name"] for row in query.rows(session, show)}:
            query.rows(session, create)
    use_schema, *objects = _owned(settings)
    query.rows(session, use_schema)
    for statement in (*_missing_columns(session, settings), *objects):
        query.rows(session, statement)


def _missing_columns(session: Session, settings: Settings) -> list[str]:
    """``ALTER TABLE ... ADD COLUMN``. Rows that are there get NULL in it: also where the column is otherwise never
    NULL, until they are computed anew."""
    shown = query.rows(
        session,
        f"SELECT TABLE_NAME, COLUMN_NAME FROM {validated(settings.database)}.INFORMATION_SCHEMA.COLUMNS "
        "WHERE TABLE_SCHEMA = ?",
        [validated(settings.schema_name)],
    )
    present = {(row["TABLE_NAME"], row["COLUMN_NAME"]) for row in shown}
    there = {table for table, _ in present}
    missing = [
        (table.name, column)
        for table in tables.TABLES
        for column in table.columns
        if table.name in there and (table.name, column.name) not in present
    ]
    added = [
        f"ALTER TABLE {validated(table)} ADD COLUMN {replace(column, nullable=True).ddl}" for table, column in missing
    ]
    filled = [
        f"UPDATE {validated(table)} SET {column.name} = {OF_EARLIER_ROWS[table, column.name]}"
        for table, column in missing
        if (table, column.name) in OF_EARLIER_ROWS
    ]
    return [*added, *filled]

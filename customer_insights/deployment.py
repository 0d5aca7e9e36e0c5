"""The Snowflake objects that the project needs: database, schema, warehouse, compute pool, stages, tables and the view.
Idempotent.

The statements are the templates in ``deploy/snowflake/`` with the names of the settings, and the DDL of ``tables``, so
that names and columns are spelt once. Roles and grants of an account (``roles_script``) are the account
administrator's, not this project's user's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from customer_insights import query, tables
from customer_insights.errors import PermanentError
from customer_insights.identifiers import qualified, validated
from customer_insights.settings import Settings

if TYPE_CHECKING:
    from snowflake.snowpark import Session

TEMPLATES = Path(__file__).resolve().parent.parent / "deploy" / "snowflake"
# What an account's administrator may have made already, and what belongs to the project's own role.
ADMINISTERED = ("warehouse.sql", "schema.sql", "compute_pool.sql")
OWNED = "stages.sql"
DEFAULT_INTEGRATION = "CUSTOMER_INSIGHTS_ACCESS"
# What is known of the rows of an earlier version of this project, in columns that they did not have.
OF_EARLIER_ROWS = {("REVIEW_SENTIMENT", "UNANSWERED"): "0"}
_CREATE = re.compile(
    r"CREATE (?:OR REPLACE )?(WAREHOUSE|DATABASE|SCHEMA|COMPUTE POOL|STAGE|TABLE|VIEW) (?:IF NOT EXISTS )?([\w$.]+)"
)


@dataclass(frozen=True)
class Change:
    """What deployment found or did: an object, and whether it was there."""

    kind: str
    name: str
    outcome: Literal["existed", "created", "replaced", "columns added"]


def rendered(template: str, settings: Settings, **more: object) -> str:
    """A file of ``deploy/snowflake/`` with the names of the settings."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # SQL, not HTML: names are checked identifiers, and a name that the template does not know is an error.
    environment = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True)  # noqa: S701
    return environment.get_template(template).render({**_names(settings), **more})


def _names(settings: Settings) -> dict[str, object]:
    return {
        "warehouse": settings.warehouse,
        "database": settings.database,
        "schema": settings.schema_name,
        "managed_access": False,
        "compute_pool": settings.compute_pool,
        "compute_pool_family": settings.compute_pool_family,
        "compute_pool_max_nodes": settings.compute_pool_max_nodes,
        "stages": (settings.review_stage, settings.payload_stage, settings.work_stage, settings.report_stage),
        "pipeline_role": settings.pipeline_role,
        "reader_role": settings.reader_role,
        "operator_role": settings.operator_role,
        "service_user": settings.service_user,
        "integrations": [validated(name) for name in settings.external_access_integrations] or [DEFAULT_INTEGRATION],
    }


def roles_script(settings: Settings, addresses: Sequence[str] = ()) -> str:
    """What an account's administrator runs once: roles, grants, the service user.

    ``addresses``: networks (CIDR) from which that user may log in.

    Raises:
        PermanentError: one of them is no network of IPv4.
    """
    for address in addresses:
        try:
            ipaddress.IPv4Network(address)
        except ValueError as error:
            raise PermanentError(f"expected a network such as 203.0.113.0/24, found {address!r}: {error}") from None
    return rendered("roles.sql", settings, managed_access=True, addresses=list(addresses))


def statements(settings: Settings) -> list[str]:
    """Every DDL statement, in order; each may be run again without harm."""
    return [*_administered(settings), _use_schema(settings), *_owned(settings)]


def _administered(settings: Settings) -> list[str]:
    return [statement for template in ADMINISTERED for statement in split(rendered(template, settings))]


def _owned(settings: Settings) -> list[str]:
    """What belongs to the project's own role, in its schema."""
    return [*split(rendered(OWNED, settings)), *(table.create_ddl() for table in tables.TABLES), reviews_view()]


def _use_schema(settings: Settings) -> str:
    return f"USE SCHEMA {qualified(settings.database, settings.schema_name)}"


def split(script: str) -> list[str]:
    """The statements of one of our own scripts, without comments; no text in it holds a semicolon or two dashes."""
    bare = re.sub(r"--[^\n]*", "", script)
    return [statement.strip() for statement in bare.split(";") if statement.strip()]


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


def deploy(
    session: Session, settings: Settings, on_change: Callable[[Change], None] = lambda change: None
) -> list[Change]:
    """Create what is missing, also columns that a table of an earlier version of this project lacks; what exists is
    left as it is. Returns what was found and done, and tells it to ``on_change`` as it happens.

    Raises:
        PermanentError: a table has the name of the project's view; nothing was changed in the schema.
    """
    changes: list[Change] = []

    def note(kind: str, name: str, outcome: Literal["existed", "created", "replaced", "columns added"]) -> None:
        changes.append(Change(kind, name, outcome))
        on_change(changes[-1])

    # Snowflake asks for the privilege to create also where IF NOT EXISTS finds the object, and the project's role has
    # none on the account (dbt-external-tables issue 214).
    for statement in _administered(settings):
        kind, name = _object(statement)
        exists = name.rpartition(".")[2] in _shown(session, settings, kind, name)
        if not exists:
            query.rows(session, statement)
        note(kind, name, "existed" if exists else "created")
    query.rows(session, _use_schema(settings))
    _refuse_table_of_the_view(session, settings)
    missing = _missing_columns(session, settings)
    for statement in missing:
        query.rows(session, statement)
    extended = {statement.split()[2] for statement in missing if statement.startswith("ALTER TABLE")}
    present = {kind: _present(session, settings, kind) for kind in ("STAGE", "TABLE", "VIEW")}
    for statement in _owned(settings):
        kind, name = _object(statement)
        exists = name in present[kind]
        # The view is made anew: it may be that of an earlier version.
        if not exists or kind == "VIEW":
            query.rows(session, statement)
        note(
            kind,
            name,
            "created"
            if not exists
            else "replaced"
            if kind == "VIEW"
            else "columns added"
            if name in extended
            else "existed",
        )
    return changes


def _object(statement: str) -> tuple[str, str]:
    """Kind and name of the object that a CREATE makes."""
    found = _CREATE.match(" ".join(statement.split()))
    if not found:
        raise ValueError(f"expected CREATE ... IF NOT EXISTS name, found {statement[:80]!r}")
    return found[1], found[2]


def _shown(session: Session, settings: Settings, kind: str, name: str) -> set[str]:
    """The names that SHOW tells of objects of this kind which are called so, or much like it."""
    scope = f" IN DATABASE {validated(settings.database)}" if kind == "SCHEMA" else ""
    rows = query.rows(session, f"SHOW {kind}S LIKE '{name.rpartition('.')[2]}'{scope}")
    return {str(row["name"]) for row in rows}


def _present(session: Session, settings: Settings, kind: str) -> set[str]:
    rows = query.rows(session, f"SHOW {kind}S IN SCHEMA {qualified(settings.database, settings.schema_name)}")
    return {str(row["name"]) for row in rows}


def _refuse_table_of_the_view(session: Session, settings: Settings) -> None:
    name = tables.REVIEWS.name
    if name not in _present(session, settings, "TABLE"):
        return
    schema = qualified(settings.database, settings.schema_name)
    raise PermanentError(
        f"{schema} has a table {name}, as Snowflake's quickstart makes it; this project has a view of that name, so "
        f"nothing was changed there. Keep the table under another name, with all its rows, and deploy again: "
        f"ALTER TABLE {schema}.{name} RENAME TO {schema}.{name}_QUICKSTART"
    )


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
